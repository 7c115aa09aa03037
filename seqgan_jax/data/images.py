"""Image files with captions, decoded once and kept in the cache."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from seqgan_jax.data.cache import cache_folder, cached_array
from seqgan_jax.data.captions import Progress, no_progress
from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

DISPLAY_SIZE = 320  # longer side of a picture shown to a person, in pixels
NAMED = 20  # skipped images that the report names
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


def image_files(path: Path) -> list[Path]:
    """The path itself, or, of a folder, the files in it that are pictures by their endings.

    Raises:
      UserError: if a folder holds none.
    """
    if not path.is_dir():
        return [path]
    endings = Image.registered_extensions()
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in endings)
    if not files:
        raise UserError(f"{path}: no pictures in this folder; name another")
    return files


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
      rows: where each image lies in the array of all the data set's images.
      identity: a hash of the images, for what is computed from them and cached.
    """

    unlimited = False

    def __init__(
        self,
        records: Sequence[ImageRecord],
        images: np.ndarray,
        rows: Sequence[int],
        skipped: tuple[str, ...],
        key: str,
    ):
        """Record i's image is `images[rows[i]]`, uint8 [size, size, 3]; `key` names `images`."""
        self._records = records
        self._images = images
        self.rows = rows
        self.skipped = skipped
        self.identity = hashlib.sha256(f"{key} {list(rows)}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict:
        record = self._records[i]
        return {
            "source": self._images[self.rows[i]],
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
    # In an order that doesn't depend on the splits, so that the cache doesn't either.
    records = sorted(chain(*splits.values()), key=lambda record: record.example_id)
    size = config.image_size
    key = file_key([VERSION, size], [(record.name, record.path) for record in records])
    path = cache_folder() / f"images-{size}-{key}.npy"
    notes = path.with_suffix(".json")

    def fill(new):
        images = new((len(records), size, size, 3), np.uint8)
        problems = {}

        def decode(row):
            try:
                images[row] = _decode(records[row].path, size)
            except Exception as error:
                problems[row] = _reason(error)

        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            decoded = pool.map(decode, range(len(records)))
            for _ in progress(decoded, len(records), "preparing images"):
                if len(problems) > config.max_unreadable_share * len(records):
                    break  # it is refused below, but need not be read to the end
            _name_problems(records, problems, config)
        finally:
            pool.shutdown(cancel_futures=True)
        # Before the images, whose final name says that both are complete.
        with replace_file(notes) as file:
            file.write(json.dumps(problems).encode())

    images = cached_array(path, fill)
    try:
        problems = {int(row): reason for row, reason in json.loads(notes.read_bytes()).items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{notes}: damaged; delete it and {path.name} to make them anew") from error
    return readable_sources(splits, records, images, problems, config, key=key, report=report)


def file_key(settings: list, files: Iterable[tuple[str, Path]]) -> str:
    """A hash of settings and of files' names, sizes and times of change."""
    identities = []
    for name, path in files:
        try:
            stat = path.stat()
            identities.append((name, stat.st_size, stat.st_mtime_ns))
        except (OSError, ValueError):  # not there, or no name of a file
            identities.append((name, None, None))
    return hashlib.sha256(json.dumps([settings, identities]).encode()).hexdigest()[:24]


def readable_sources(
    splits: dict[str, list[ImageRecord]],
    records: list[ImageRecord],
    images: np.ndarray,
    problems: dict[int, str],
    config,
    *,
    key: str,
    report: Callable[[str], None],
) -> dict[str, ImageSource]:
    """The splits without what can't be read.

    Args:
      splits: the records of each split.
      records: all splits' records; record r's image is `images[r]`.
      images: [len(records), ...].
      problems: why a record's image is missing, by its place in `records`.
      config: `max_unreadable_share`.
      key: a hash of `images`.
      report: is told, in one line, what was left out, if anything.

    Raises:
      UserError: if too much can't be read, or nothing is left to train on.
    """
    skipped = _name_problems(records, problems, config)
    if skipped:
        more = [f"{len(skipped) - NAMED} more"] if len(skipped) > NAMED else []
        names = ", ".join([*skipped[:NAMED], *more])
        report(f"left out {len(skipped)} of {len(records)} images: {names}")
    places = {record.example_id: r for r, record in enumerate(records) if r not in problems}
    sources = {}
    for split, members in splits.items():
        members = [record for record in members if record.example_id in places]
        rows = [places[record.example_id] for record in members]
        sources[split] = ImageSource(members, images, rows, skipped, key)
    if not len(sources["train"]):
        raise UserError(f"{config.path}: no image to train on; see config.data.path")
    return sources


def _name_problems(
    records: Sequence[ImageRecord], problems: dict[int, str], config
) -> tuple[str, ...]:
    """Each as "name (reason)", in order; refuses too many."""
    named = tuple(f"{records[r].name} ({problems[r]})" for r in sorted(problems.copy()))
    if len(named) > config.max_unreadable_share * len(records):
        raise UserError(
            f"{config.path}: can't read {len(named)} or more of {len(records)} images "
            f"({', '.join(named[:3])}); mend them or raise config.data.max_unreadable_share "
            f"from {config.max_unreadable_share:g}"
        )
    return named
