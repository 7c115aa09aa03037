"""Features in place of images: computed by any encoder beforehand, or by ours once."""

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax.data.cache import cache_folder, cached_array
from seqgan_jax.data.captions import (
    Progress,
    data_folder,
    keep_out,
    no_progress,
    read_captions,
)
from seqgan_jax.data.images import ImageRecord, ImageSource, file_key, readable_sources
from seqgan_jax.errors import UserError

COMPUTE_BATCH = 32  # images encoded at once


class FeatureSource:
    """A `CaptionSource` whose "source" is float32 [S, F] features instead of another's images.

    Attributes:
      skipped: what the other source left out.
    """

    unlimited = False

    def __init__(self, images: ImageSource, features: np.ndarray, rows: Sequence[int]):
        """Example i is `images[i]` with the features `features[rows[i]]`, [S, F], as "source"."""
        self._images = images
        self._features = features
        self._rows = rows
        self.skipped = images.skipped

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> dict:
        return {**self._images[i], "source": self._features[self._rows[i]].astype(np.float32)}

    def image(self, i: int) -> np.ndarray:
        """The picture, uint8 [H, W, 3]; a grey one where there is none."""
        try:
            return self._images.image(i)
        except UserError:
            return np.full((64, 64, 3), 128, np.uint8)

    def name(self, i: int) -> str:
        """The image's name."""
        return self._images.name(i)


def cached_features(
    images: ImageSource,
    compute: Callable[[np.ndarray], np.ndarray],
    cache_key: str,
    progress: Progress = no_progress,
    *,
    dtype=np.float16,
) -> FeatureSource:
    """Computes the features of all images once and keeps them in the cache.

    Args:
      images: what to compute them of.
      compute: uint8 [B, H, W, 3] -> float32 [B, S, F], with B always 32 and row b depending on
        image b alone.
      cache_key: a name for all that `compute` depends on, its weights too.
      progress: wraps the batches as they are computed, to show how far it is.
      dtype: that of the cache, float16 or float32; the features returned are float32.

    Raises:
      UserError: for features that are not finite in `dtype`; names the image.
    """
    dtype = np.dtype(dtype)
    text = f"{cache_key}\n{images.identity}\n{dtype}"
    path = cache_folder() / f"features-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npy"

    def fill(new):
        features = None
        starts = range(0, len(images), COMPUTE_BATCH)
        for start in progress(starts, len(starts), "computing features"):
            # The last image fills the last batch up: another shape would compile once more.
            rows = [min(start + b, len(images) - 1) for b in range(COMPUTE_BATCH)]
            block = np.asarray(compute(np.stack([images[i]["source"] for i in rows])))
            if features is None:
                features = new((len(images), *block.shape[1:]), dtype)
            for i, feature in zip(rows, block, strict=True):
                features[i] = _checked(feature, features[i].shape, dtype, images.name(i))

    return FeatureSource(images, cached_array(path, fill), range(len(images)))


def load(
    config,
    *,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, FeatureSource]:
    """Loads features of any encoder, and captions.

    `config.path` is a folder with `captions.txt` (CSV: image,caption), optionally `Images/` for
    display, and one of
      - `features.npz` with the arrays `ids` [N] and `features` [N, S, F] or [N, F], or with one
        array [S, F] or [F] for each image, named by it;
      - `features/` with a file `<id>.npy` for each image.
    An id is the image's name in `captions.txt`, with or without its ending. [F] means S = 1.
    Images without features are left out. Which ones are for validation and test follows from
    their names alone.

    Args:
      config: path, validation_size, test_size, max_unreadable_share.
      progress: shows how far the reading of the features is.
      report: is told which images were left out.

    Returns:
      the splits 'train', 'validation' and 'test'.

    Raises:
      UserError: for anything wrong with the folder, its captions or its features.
    """
    folder = data_folder(config, "features.npz or features/, and captions.txt")
    captions = read_captions(folder / "captions.txt")
    ids, read, files = _open(folder)
    records = [
        ImageRecord(name, folder / "Images" / name, captions[name], number)
        for number, name in enumerate(captions)
    ]
    by_name = {record.name: record for record in records}
    splits = {
        split: [by_name[name] for name in names]
        for split, names in keep_out(captions, config).items()
    }
    found = {}
    for row, record in enumerate(records):
        if record.name in ids:
            found[row] = record.name
        elif Path(record.name).stem in ids:
            found[row] = Path(record.name).stem
    if not found:
        raise UserError(
            f"{folder}: none of the features' ids is an image of captions.txt; "
            f"name them like '{records[0].name}'"
        )
    missing = {row: "no features" for row in range(len(records)) if row not in found}

    def fill(new):
        features = None
        for row, name in progress(found.items(), len(found), "reading features"):
            feature = read(name)
            feature = feature[None] if feature.ndim == 1 else feature
            shape = feature.shape if features is None else features.shape[1:]
            dtype = np.float16 if feature.dtype == np.float16 else np.float32
            feature = _checked(feature, shape, dtype, name)
            if features is None:
                features = new((len(records), *shape), dtype)
            features[row] = feature

    key = file_key([record.name for record in records], files)
    features = cached_array(cache_folder() / f"features-{key}.npy", fill)
    sources = readable_sources(splits, records, features, missing, config, key=key, report=report)
    return {
        split: FeatureSource(source, features, source.rows) for split, source in sources.items()
    }


def _open(
    folder: Path,
) -> tuple[set[str], Callable[[str], np.ndarray], list[tuple[str, Path]]]:
    """The ids that there are features of, what reads those of one id, and the files."""
    archive, directory = folder / "features.npz", folder / "features"
    if archive.exists():
        arrays = _read(archive, lambda: np.load(archive))
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise UserError(f"{archive}: not an .npz archive; write it with numpy.savez")
        files = [(archive.name, archive)]
        if not {"ids", "features"} <= set(arrays.files):
            return set(arrays.files), lambda name: _read(archive, lambda: arrays[name]), files
        ids = _read(archive, lambda: arrays["ids"].astype(str).ravel().tolist())
        rows = {name: row for row, name in enumerate(ids)}
        if len(rows) < len(ids):
            raise UserError(f"{archive}: the same id occurs twice in 'ids'; remove one")

        @functools.cache
        def features():
            values = _read(archive, lambda: arrays["features"])
            if values.ndim == 0 or len(values) != len(ids):
                raise UserError(
                    f"{archive}: 'features' has the shape {values.shape}, but there are "
                    f"{len(ids)} ids; it must be [{len(ids)}, S, F]"
                )
            return values

        return set(ids), lambda name: features()[rows[name]], files
    if directory.is_dir():
        paths = {path.stem: path for path in sorted(directory.glob("*.npy"))}
        return (
            set(paths),
            lambda name: _read(paths[name], lambda: np.load(paths[name])),
            list(paths.items()),
        )
    raise UserError(f"{folder}: neither features.npz nor features/ is there; see config.data.path")


def _read(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: can't be read as NumPy arrays ({type(error).__name__}: {error}); "
            "write it again"
        ) from error


def _checked(feature: np.ndarray, shape: tuple[int, ...], dtype, name: str) -> np.ndarray:
    """The features [S, F] of one image as `dtype`, if they are like the others' and finite."""
    if feature.ndim != 2 or not feature.size or feature.shape != shape:
        raise UserError(
            f"features of '{name}': the shape is {list(feature.shape)}, but must be [S, F] "
            "and the same for all images"
        )
    if feature.dtype.kind not in "fiu":
        raise UserError(f"features of '{name}': {feature.dtype} values; they must be numbers")
    with np.errstate(over="ignore"):
        feature = feature.astype(dtype)
    if not np.isfinite(feature).all():
        raise UserError(
            f"features of '{name}': not all are finite as {np.dtype(dtype)}; compute them again"
        )
    return feature
