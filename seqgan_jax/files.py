"""Files that are never left half written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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


def remove_leftovers(folder: Path) -> None:
    """Deletes what `replace_file` left anywhere in a folder when its process was killed."""
    for path in folder.rglob(".*.tmp"):
        number = path.name.split(".")[-2]
        # In a container a process may well have the number of the one that was killed before it.
        if number.isdigit() and (int(number) == os.getpid() or not _runs(int(number))):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
