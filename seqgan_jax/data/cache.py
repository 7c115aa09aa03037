"""Files that can be made again, and files that are never left half written."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seqgan_jax.errors import UserError

VARIABLE = "SEQGAN_JAX_CACHE"


def cache_folder() -> Path:
    """The folder for prepared images and features, made if need be.

    It is $SEQGAN_JAX_CACHE, else $XDG_CACHE_HOME/seqgan_jax, else ~/.cache/seqgan_jax.

    Raises:
      UserError: if the folder can't be made or written to.
    """
    if os.environ.get(VARIABLE):
        folder = Path(os.environ[VARIABLE]).expanduser()
    elif os.environ.get("XDG_CACHE_HOME"):
        folder = Path(os.environ["XDG_CACHE_HOME"]) / "seqgan_jax"
    else:
        folder = Path("~/.cache/seqgan_jax").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: the cache folder can't be written to ({error.strerror}); "
            f"name another one in the environment variable {VARIABLE}"
        ) from error
    return folder


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write that becomes `path` only once it is whole and on the disk.

    If the block raises, `path` stays as it was.
    """
    # Not tempfile: its files are private, and a cache or a run may be read by others.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def cached_array(
    path: Path, shape: tuple[int, ...], dtype, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """The array in the .npy file `path`, read-only and memory-mapped; made first if need be.

    Args:
      path: a name in the cache folder that holds a hash of everything the content depends on.
      shape: of the array.
      dtype: of the array.
      fill: writes the content into the array of zeros that it is given. That array lies in the
        file, so it may be larger than the memory. If it raises, nothing is kept.

    Raises:
      UserError: if the disk is full, or the file is not an array.
    """
    # One process makes the file; others that want the same one wait here and find it made.
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with replace_file(path) as file:
                array = _map_new(file, path, shape, np.dtype(dtype))
                fill(array)
                array.flush()
    try:
        # A plain array over the map: indexing the memmap class itself is several times slower.
        return np.load(path, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this cache file is damaged; delete it to make it anew") from error


def _map_new(file: BinaryIO, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    offset = file.tell()
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    try:
        # Reserved now: writing to a mapped file on a full disk would kill the process.
        os.posix_fallocate(file.fileno(), 0, offset + size)
    except OSError as error:
        raise UserError(
            f"{path.parent}: no room for {size / 1e9:.1f} GB in the cache folder "
            f"({error.strerror}); name another one in the environment variable {VARIABLE}"
        ) from error
    return np.memmap(file, dtype=dtype, mode="r+", offset=offset, shape=shape)
