import os
from pathlib import Path

import numpy as np
import pytest

from seqgan_jax.data.cache import cache_folder, cached_array, replace_file
from seqgan_jax.errors import UserError


def test_the_variables_name_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEQGAN_JAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "seqgan_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "seqgan_jax"
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "own" / "deep"))
    assert cache_folder() == tmp_path / "own" / "deep"
    assert cache_folder().is_dir()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"file/cache.*SEQGAN_JAX_CACHE"):
        cache_folder()


def test_an_array_is_made_once(tmp_path):
    expected = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    calls = []

    def fill(new):
        calls.append(1)
        array = new(expected.shape, np.float32)
        assert not array.any()
        array[:] = expected

    path = tmp_path / "a.npy"
    for _ in range(2):
        array = cached_array(path, fill)
        np.testing.assert_array_equal(array, expected)
        assert not array.flags.writeable
    assert len(calls) == 1
    np.testing.assert_array_equal(np.load(path), expected)


def test_nothing_is_left_of_a_failure_or_a_kill(tmp_path):
    path = tmp_path / "a.npy"
    killed = tmp_path / f".{path.name}.99999.tmp"
    killed.write_bytes(b"half")

    def fail(new):
        new((3,), np.uint8)[0] = 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_array(path, fail)
    assert {file.name for file in tmp_path.iterdir()} == {"a.npy.lock"}


def test_a_damaged_file_and_a_full_disk_are_named(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY damaged")
    with pytest.raises(UserError, match=r"a\.npy.*delete it"):
        cached_array(path, None)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no room for 4\.0 GB.*No space left"):
        cached_array(tmp_path / "b.npy", lambda new: new((10**9,), np.float32))
    assert not (tmp_path / "b.npy").exists()


def test_replacing_a_file_is_all_or_nothing(tmp_path):
    path = Path(tmp_path / "a.txt")
    path.write_text("old")

    def write_half():
        with replace_file(path) as file:
            file.write(b"ne")
            assert path.read_text() == "old"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    with replace_file(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
