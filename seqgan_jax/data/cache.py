"""Files that can be made again: prepared images and features."""

import fcntl
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

VARIABLE = "SEQGAN_JAX_CACHE"
NewArray = Callable[[tuple[int, ...], Any], np.ndarray]


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


def cached_array(path: Path, fill: Callable[[NewArray], None]) -> np.ndarray:
    """The array in the .npy file `path`, read-only and memory-mapped; made first if need be.

    Args:
      path: a name in the cache folder that holds a hash of everything the content depends on.
      fill: calls the function it is given once, `new(shape, dtype)`, and writes the content into
        the array of zeros that this returns. That array lies in the file, so it may be larger
        than the memory. If `fill` raises, nothing is kept.

    Raises:
      UserError: if the disk is full, or the file is not an array.
    """
    # One process makes the file; others that want the same one wait here and find it made.
    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            for left_by_killed in path.parent.glob(f".{path.name}.*.tmp"):
                left_by_killed.unlink()
            with replace_file(path) as file:
                fill(functools.partial(_map_new, file, path))
    try:
        # A plain array over the map: indexing the memmap class itself is several times slower.
        return np.load(path, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: this cache file is damaged; delete it to make it anew") from error


def _map_new(file: BinaryIO, path: Path, shape: tuple[int, ...], dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    offset = file.tell()
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    try:
        # Reserved now: writing to a mapped file on a full disk would kill the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, offset + size)
        else:  # macOS
            file.truncate(offset + size)
    except OSError as error:
        raise UserError(
            f"{path.parent}: no room for {size / 1e9:.1f} GB in the cache folder "
            f"({error.strerror}); name another one in the environment variable {VARIABLE}"
        ) from error
    return np.memmap(file, dtype=dtype, mode="r+", offset=offset, shape=shape)
