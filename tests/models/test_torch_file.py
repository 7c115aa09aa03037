"""The files here are written with pickle alone, by the format's description."""

import collections
import io
import os
import pickle
import sys
import types

import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.models import torch_file


class Storage:
    def __init__(self, key, elements, kind="FloatStorage"):
        self.key, self.elements, self.kind = key, elements, kind


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.parts = storage, offset, shape, strides

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (*self.parts, False, collections.OrderedDict())


class Call:
    """Unpickles by calling `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        if isinstance(item, Storage):
            kind = getattr(sys.modules["torch"], item.kind)
            return "storage", kind, item.key, "cpu", len(item.elements), None
        return None


@pytest.fixture(autouse=True)
def _torch_names(monkeypatch):
    """Pickle writes a class by its module's name, so these names have to exist while it writes."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "DoubleStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    utils._rebuild_tensor_v2 = lambda *_: None
    utils._rebuild_tensor_v2.__module__ = "torch._utils"
    utils._rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def legacy(content, storages=()) -> bytes:
    file = io.BytesIO()
    byte_order = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}
    keys = [storage.key for storage in storages]
    for item in (0x1950A86A20F9469CFC6C, 1001, byte_order, content, keys):
        Pickler(file, protocol=2).dump(item)
    for storage in storages:
        file.write(len(storage.elements).to_bytes(8, "little") + storage.elements.tobytes())
    return file.getvalue()


def example() -> tuple[collections.OrderedDict, list[Storage]]:
    floats = Storage("77", np.arange(12, dtype="<f4") / 8)
    longs = Storage("3", np.array([5, -6], "<i8"), "LongStorage")
    tensors = collections.OrderedDict(
        rows=Tensor(floats, 0, (3, 4), (4, 1)),
        transposed=Tensor(floats, 0, (4, 3), (1, 4)),
        every_second=Tensor(floats, 1, (5,), (2,)),
        scalar=Tensor(longs, 1, (), ()),
    )
    return tensors, [longs, floats]  # not in the order of first use


def test_reads_strided_views_of_shared_storages(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(legacy(*example()))
    tensors = torch_file.load(path)
    floats = np.arange(12, dtype=np.float32) / 8
    expected = {
        "rows": floats.reshape(3, 4),
        "transposed": floats.reshape(3, 4).T,
        "every_second": floats[1:10:2],
        "scalar": np.array(-6),
    }
    assert list(tensors) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype
        assert tensors[name].flags.c_contiguous
        assert tensors[name].flags.writeable


def test_refuses_every_truncation(tmp_path):
    path, whole = tmp_path / "cut.pth", legacy(*example())
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth: not a whole PyTorch weight file"):
            torch_file.load(path)


@pytest.mark.parametrize("make", [lambda path: os.mkdir, lambda path: eval], ids=["mkdir", "eval"])
def test_runs_nothing_that_a_file_asks_for(tmp_path, make):
    path, made = tmp_path / "evil.pth", tmp_path / "made"
    function = make(path)
    argument = f"__import__('os').mkdir({str(made)!r})" if function is eval else str(made)
    path.write_bytes(legacy({"weight": Call(function, argument)}))
    with pytest.raises(UserError, match=rf"evil\.pth: refused.*\.{function.__name__}"):
        torch_file.load(path)
    assert not made.exists()


def test_refuses_other_element_types(tmp_path):
    path, storage = tmp_path / "double.pth", Storage("0", np.zeros(2), "DoubleStorage")
    path.write_bytes(legacy({"weight": Tensor(storage, 0, (2,), (1,))}, [storage]))
    with pytest.raises(UserError, match=r"double\.pth: refused.*torch\.DoubleStorage"):
        torch_file.load(path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (7,), (1,)), (4, (3,), (1,)), (0, (2, 2), (5, 1)), (5, (2,), (-1,)), (-1, (2,), (1,)),
     (0, (10**9,), (0,)), (0, (2, 2), (1,))],
)  # fmt: skip
def test_refuses_views_outside_their_storage(tmp_path, offset, shape, strides):
    path, storage = tmp_path / "bad.pth", Storage("0", np.zeros(6, "<f4"))
    path.write_bytes(legacy({"weight": Tensor(storage, offset, shape, strides)}, [storage]))
    with pytest.raises(UserError, match=r"bad\.pth: not a whole PyTorch weight file"):
        torch_file.load(path)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 a zip archive", b"", b"text\n", legacy([1, 2]), legacy({"a": 1})]
)
def test_refuses_other_content(tmp_path, content):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.pth"):
        torch_file.load(path)


def test_names_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.pth: cannot be read"):
        torch_file.load(tmp_path / "absent.pth")
