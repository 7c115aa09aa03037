"""What a source of captioned examples is, and what the sources that read files share."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from seqgan_jax.errors import UserError

Progress = Callable[[Iterable, int, str], Iterable]


def no_progress(items: Iterable, total: int, description: str) -> Iterable:
    """Goes through the items and shows nothing."""
    return items


class CaptionSource(Protocol):
    """One split of a data set of images, or other sources, with their captions.

    Attributes:
      unlimited: whether each index is a fresh independent example, so that shuffling and epochs
        make no sense and the first caption is a random draw.
    """

    unlimited: bool

    def __len__(self) -> int:
        """The number of images."""
        ...

    def __getitem__(self, i: int) -> dict:
        """What the networks learn from.

        Returns:
          "source": uint8 [H, W, 3] or float32 [S, F], what the networks see; "captions": a tuple
          of strings; "example_id": an int below 2**31, the same in every run and unique in the
          data set.
        """
        ...

    def image(self, i: int) -> np.ndarray:
        """A picture to show to a person, uint8 [H, W, 3]."""
        ...

    def name(self, i: int) -> str:
        """What to call the example: a file name or "scene 17"."""
        ...


def data_folder(config, contents: str) -> Path:
    """The existing folder `config.path`.

    Args:
      config: the data configuration.
      contents: what the folder must hold, for the message.

    Raises:
      UserError: if it isn't set or isn't a folder.
    """
    if not config.path:
        raise UserError(
            f"config.data.path is not set: say --config.data.path=FOLDER, a folder with {contents}"
        )
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{folder}: there is no such folder; set --config.data.path to one with {contents}"
        )
    return folder


def read_text(path: Path) -> str:
    """A UTF-8 file's text.

    Raises:
      UserError: if it can't be read, or is not UTF-8: names the first bad line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: can't be read ({error.strerror}); see config.data.path"
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line} is not UTF-8 (byte {data[error.start]:#04x}); convert the file"
        ) from error


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads a CSV file with the columns `image` and `caption`, one caption a line.

    A caption with commas needs quotation marks only where `caption` isn't the last column.

    Returns:
      each image's captions by its name, in alphabetical order of the names.

    Raises:
      UserError: for a file that is missing, malformed or without captions; names the line.
    """
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    captions = {}
    try:
        header = [column.strip() for column in next(rows, [])]
        for column in ("image", "caption"):
            if column not in header:
                raise UserError(
                    f"{path}: no column '{column}' in its first line; it must be image,caption"
                )
        image_column, caption_column = header.index("image"), header.index("caption")
        for row in rows:
            if not row:
                continue
            if len(row) < len(header):
                raise UserError(
                    f"{path}: line {rows.line_num} has {len(row)} of {len(header)} columns; "
                    "complete or remove it"
                )
            if caption_column == len(header) - 1:
                row[caption_column:] = [",".join(row[caption_column:])]
            if any("\n" in field for field in row):
                raise UserError(
                    f"{path}: a quotation mark before line {rows.line_num} is never closed; "
                    "close it, or double it to mean the mark itself"
                )
            caption = " ".join(row[caption_column].split())
            if caption:
                captions.setdefault(row[image_column].strip(), []).append(caption)
    except csv.Error as error:
        raise UserError(f"{path}: line {rows.line_num}: {error}; mend that line") from error
    if not captions:
        raise UserError(f"{path}: no captions in this file; put one image,caption on each line")
    return {name: tuple(captions[name]) for name in sorted(captions)}


def keep_out(names: Iterable[str], config, *, rest: bool = True) -> dict[str, list[str]]:
    """Splits names by a stable hash, which neither other names' captions nor their order change.

    The `config.test_size` names with the smallest hashes are 'test', the next
    `config.validation_size` are 'validation', the others 'train'. Each split is in alphabetical
    order.

    Raises:
      UserError: if nothing is to be kept out, or there are too few names, one being needed for
        'train' where `rest` is set.
    """
    for option in ("validation_size", "test_size"):
        if config[option] < 1:
            raise UserError(
                f"config.data.{option}: {config[option]} leaves none to judge by; set 1 or more"
            )
    names = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    kept_out = config.test_size + config.validation_size
    if kept_out + rest > len(names):
        raise UserError(
            f"config.data.validation_size + config.data.test_size = {kept_out} of {len(names)} "
            f"images leave {'nothing to train on' if rest else 'too few'}; set them lower"
        )
    return {
        "train": sorted(names[kept_out:]),
        "validation": sorted(names[config.test_size : kept_out]),
        "test": sorted(names[: config.test_size]),
    }
