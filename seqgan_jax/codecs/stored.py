"""A part of a codec in two files of a run's directory: settings and arrays, with a checksum."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file


def save(directory: str | Path, name: str, settings: Mapping, arrays: Mapping) -> None:
    """Writes NAME.npz and NAME.json in a directory, which is made."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    checksum = hashlib.sha256(buffer.getvalue()).hexdigest()
    with replace_file(directory / f"{name}.npz") as file:
        file.write(buffer.getvalue())
    with replace_file(directory / f"{name}.json") as file:
        file.write(json.dumps({"checksum": checksum, **settings}).encode())


def load(directory: str | Path, name: str, restore: Callable[[dict, dict], Any]) -> Any:
    """What `restore` makes of the settings and the arrays that `save` wrote.

    Raises:
      UserError: if a file is missing or is not as it was written.
    """
    path = Path(directory) / f"{name}.json"
    try:
        settings = json.loads(path.read_bytes())
        path = Path(directory) / f"{name}.npz"
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != settings["checksum"]:
            raise ValueError("checksum")
        with np.load(io.BytesIO(data)) as archive:
            arrays = dict(archive)
        return restore(settings, arrays)
    except OSError as error:
        raise UserError(f"{path}: can't read the {name}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: the {name} is damaged; restore it from a copy") from error
