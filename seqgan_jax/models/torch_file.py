"""Reads a PyTorch weight file of the format from before zip archives, without PyTorch.

Such a file is a sequence of pickles: a magic number, the format's version, the writing machine's
byte order, the object, and the list of its storages' keys. Then comes each storage in the list's
order: an int64 count of elements and the elements. The object holds no numbers, only strided views
of storages, which it names by pickle's persistent identifiers.
"""

import collections
import io
import math
import pathlib
import pickle
from typing import NamedTuple

import numpy as np

from seqgan_jax.errors import UserError

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001

# What the file calls a storage, and its elements. The values are strings since a pickle may try
# to call or to change what it names: a string allows neither.
STORAGES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


class _Storage(NamedTuple):
    key: str
    dtype: str
    count: int


class _View(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class _Unpickler(pickle.Unpickler):
    """Admits ordered dictionaries and tensors of float32 or int64, and no other global.

    A pickle is a program that may call whatever `find_class` hands it, so this table is all that
    stands between a downloaded file and the machine.
    """

    def __init__(self, file: io.BytesIO, path: pathlib.Path):
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._view
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise UserError(
            f"{self.path}: refused, since it asks for {module}.{name} and a weight file may hold "
            "only tensors of float32 or int64; get the file from a source you trust"
        )

    def persistent_load(self, identifier) -> _Storage:
        kind, dtype, key, _device, count, view = identifier
        if kind != "storage" or dtype not in STORAGES.values() or view is not None:
            raise ValueError(f"unknown storage {identifier!r:.80}")
        return _Storage(str(key), dtype, int(count))

    def _view(self, storage, offset, shape, strides, *_requires_grad_and_hooks) -> _View:
        return _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def load(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a dictionary of tensors, as `torch.save(module.state_dict(), path)` wrote it.

    Returns:
      Each tensor by its name, as a contiguous array of float32 or int64 that owns its memory.

    Raises:
      UserError: the file is missing, damaged, cut short, of another format, or asks for anything
        but tensors of these two types.
    """
    path = pathlib.Path(path)
    try:
        file = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check the path and permissions"
        ) from error
    try:
        return _read(file, path)
    except UserError:
        raise
    except Exception as error:  # Damaged pickles raise nearly anything.
        raise UserError(
            f"{path}: not a whole PyTorch weight file of the format before zip archives "
            f"({type(error).__name__}: {error}); download or install it again"
        ) from error


def _read(file: io.BytesIO, path: pathlib.Path) -> dict[str, np.ndarray]:
    def unpickle():
        return _Unpickler(file, path).load()

    if unpickle() != MAGIC or unpickle() != VERSION or not unpickle()["little_endian"]:
        raise ValueError("unknown magic number, version or byte order")
    views, keys = unpickle(), unpickle()
    if not isinstance(views, dict) or not all(isinstance(v, _View) for v in views.values()):
        raise ValueError("it holds something else than a dictionary of tensors")
    storages = {view.storage.key: view.storage for view in views.values()}
    if sorted(keys) != sorted(storages):
        raise ValueError("the list of storages does not match the tensors")
    elements = {}
    for key in keys:
        dtype = np.dtype(storages[key].dtype)
        count = int.from_bytes(file.read(8), "little")
        data = file.read(count * dtype.itemsize)
        if count != storages[key].count or len(data) != count * dtype.itemsize:
            raise ValueError(f"storage {key} is cut short")
        elements[key] = np.frombuffer(data, dtype)
    return {str(name): _tensor(elements[view.storage.key], view) for name, view in views.items()}


def _tensor(elements: np.ndarray, view: _View) -> np.ndarray:
    lengths = (*view.shape, *view.strides, view.offset)
    last = view.offset + sum(
        (size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True)
    )
    # Unchecked, a stride could read the process's memory beyond the storage, and a stride of zero
    # could make a small file fill all of it.
    if min(lengths) < 0 or math.prod(view.shape) > len(elements) or last >= len(elements):
        raise ValueError("a tensor lies outside its storage")
    strides = [stride * elements.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(elements[view.offset :], view.shape, strides).copy("C")
