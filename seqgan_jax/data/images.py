"""Image files with captions, decoded once and kept in the cache."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from seqgan_jax.data.cache import cache_folder, cached_array, replace_file
from seqgan_jax.data.captions import Progress, no_progress
from seqgan_jax.errors import UserError

DISPLAY_SIZE = 320  # longer side of a picture shown to a person, in pixels
# Part of the cache's key: raise it when read_image changes what it returns.
VERSION = 1


def read_image(path: str | Path, size: int | None = None) -> np.ndarray:
    """Reads a picture, turned upright and in colour; what is transparent becomes white.

    Args:
      path: a file in any format that Pillow reads.
      size: side of the largest centred square, resized; None keeps the whole picture, shrunk to
        at most 320 pixels.

    Returns:
      uint8 [size, size, 3], or [H, W, 3].

    Raises:
      UserError: if the file is missing, truncated or not an image.
    """
    try:
        return _decode(path, size)
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise UserError(
            f"{path}: this image can't be read ({_reason(error)}); give another file"
        ) from error


def _decode(path: str | Path, size: int | None) -> np.ndarray:
    with Image.open(path) as image:
        # Lets JPEG decode at a fraction of the size, but never below twice what is needed.
        side = 2 * (size or DISPLAY_SIZE)
        image.draft("RGB", (side, side))
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        if size:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        else:
            image.thumbnail((DISPLAY_SIZE, DISPLAY_SIZE))
        return np.asarray(image)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


class ImageRecord(NamedTuple):
    """One image file.

    Attributes:
      name: what to call it.
      path: the file.
      captions: its captions.
      example_id: its number in the data set.
    """

    name: str
    path: Path
    captions: tuple[str, ...]
    example_id: int


class ImageSource:
    """A `CaptionSource` of image files, small and square in the cache.

    Attributes:
      skipped: "name (reason)" of each of the data set's images, in any split, that can't be read.
    """

    unlimited = False

    def __init__(
        self,
        records: list[ImageRecord],
        images: np.ndarray,
        rows: list[int],
        skipped: tuple[str, ...] = (),
    ):
        """Record i's image is `images[rows[i]]`, uint8 [size, size, 3]."""
        self._records = records
        self._images = images
        self._rows = rows
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict:
        record = self._records[i]
        return {
            "source": self._images[self._rows[i]],
            "captions": record.captions,
            "example_id": record.example_id,
        }

    def image(self, i: int) -> np.ndarray:
        """The picture at up to 320 pixels, uint8 [H, W, 3]."""
        return read_image(self._records[i].path)

    def name(self, i: int) -> str:
        """The image's file name."""
        return self._records[i].name


def image_sources(
    splits: dict[str, list[ImageRecord]],
    config,
    *,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, ImageSource]:
    """Prepares all splits' images, once for each data set and size, and leaves out the bad ones.

    Args:
      splits: the image files of each split.
      config: `image_size` in pixels, and `max_unreadable_share`, the share of all images that may
        be missing or unreadable.
      progress: wraps the images as they are prepared, to show how far it is.
      report: is told, in one line, which images were left out, if any.

    Raises:
      UserError: if more images can't be read, or nothing is left to train on.
    """
    records = [record for split in splits.values() for record in split]
    images, problems = _prepare(records, config, progress)
    skipped = tuple(f"{records[row].name} ({problems[row]})" for row in sorted(problems))
    if skipped:
        report(f"left out {len(skipped)} of {len(records)} images: {', '.join(skipped)}")
    sources, first = {}, 0
    for name, split in splits.items():
        good = [i for i in range(len(split)) if first + i not in problems]
        rows = [first + i for i in good]
        sources[name] = ImageSource([split[i] for i in good], images, rows, skipped)
        first += len(split)
    if not len(sources["train"]):
        raise UserError(f"{config.path}: no image to train on; see config.data.path")
    return sources


def _prepare(
    records: list[ImageRecord], config, progress: Progress
) -> tuple[np.ndarray, dict[int, str]]:
    """All images, uint8 [N, size, size, 3], and by number why some can't be read."""
    size = config.image_size
    key = hashlib.sha256(f"{VERSION} {size}\n".encode())
    for record in records:
        try:
            stat = record.path.stat()
            identity = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            identity = "missing"
        key.update(f"{record.path.absolute()}\t{identity}\n".encode(errors="surrogateescape"))
    path = cache_folder() / f"images-{size}-{key.hexdigest()[:24]}.npy"
    notes = path.with_suffix(".json")

    def fill(images):
        problems = {}

        def decode(row):
            try:
                images[row] = _decode(records[row].path, size)
            except Exception as error:
                problems[row] = _reason(error)

        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            rows = pool.map(decode, range(len(records)))
            for _ in progress(rows, len(records), "preparing images"):
                _check_share(problems, records, config)
        finally:
            pool.shutdown(cancel_futures=True)
        # Before the images: these are complete once the array has its name.
        with replace_file(notes) as file:
            file.write(json.dumps(problems).encode())

    images = cached_array(path, (len(records), size, size, 3), np.uint8, fill)
    try:
        problems = {int(row): reason for row, reason in json.loads(notes.read_bytes()).items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{notes}: damaged; delete it and {path.name} to make them anew") from error
    _check_share(problems, records, config)
    return images, problems


def _check_share(problems: dict[int, str], records: list[ImageRecord], config) -> None:
    if len(problems) <= config.max_unreadable_share * len(records):
        return
    first = [f"{records[row].path} ({problems[row]})" for row in sorted(problems)[:3]]
    raise UserError(
        f"{len(problems)} or more of {len(records)} images can't be read, first {', '.join(first)}; "
        "mend them or raise config.data.max_unreadable_share "
        f"(now {config.max_unreadable_share:g})"
    )
