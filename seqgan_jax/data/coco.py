"""COCO Captions (Chen et al. 2015, arXiv:1504.00325) in the layout of its public archives."""

import json
from collections.abc import Callable
from pathlib import Path

from seqgan_jax.data.captions import Progress, data_folder, keep_out, no_progress, read_text
from seqgan_jax.data.images import ImageRecord, ImageSource, image_sources
from seqgan_jax.errors import UserError

YEARS = ("2017", "2014")


def load(
    config,
    *,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, ImageSource]:
    """Loads `config.path`, which holds `annotations/`, `train2017/` and `val2017/` (or 2014).

    'validation' and 'test' are cut from the published validation images by a hash of their names;
    the rest of those is not used.

    Args:
      config: path, image_size, validation_size, test_size, max_unreadable_share.
      progress: shows how far the preparation of the images is.
      report: is told which images were left out.

    Returns:
      the splits 'train', 'validation' and 'test'.

    Raises:
      UserError: for anything wrong with the folder, its annotations or its images.
    """
    folder = data_folder(config, "annotations/, train2017/ and val2017/")
    year = next((year for year in YEARS if _annotations(folder, "train", year).exists()), YEARS[0])
    train = _records(folder, "train", year)
    held_out = {record.name: record for record in _records(folder, "val", year)}
    both = {record.example_id for record in train} & {r.example_id for r in held_out.values()}
    if both:
        raise UserError(
            f"{_annotations(folder, 'val', year)}: image {min(both)} is also in the training "
            "annotations; remove it from one"
        )
    cut = keep_out(held_out, config, rest=False)
    splits = {
        "train": train,
        "validation": [held_out[name] for name in cut["validation"]],
        "test": [held_out[name] for name in cut["test"]],
    }
    return image_sources(splits, config, progress=progress, report=report)


def _annotations(folder: Path, part: str, year: str) -> Path:
    return folder / "annotations" / f"captions_{part}{year}.json"


def _records(folder: Path, part: str, year: str) -> list[ImageRecord]:
    """The images of one annotation file that have captions, by their number."""
    path = _annotations(folder, part, year)
    images = folder / f"{part}{year}"
    captions = {}
    try:
        document = json.loads(read_text(path))
        for annotation in document["annotations"]:
            caption = " ".join(annotation["caption"].split())
            if caption:
                captions.setdefault(annotation["image_id"], []).append(caption)
        names = {image["id"]: image["file_name"] for image in document["images"]}
        for number, name in names.items():
            if not isinstance(number, int) or not 0 <= number < 2**31:
                raise TypeError(f"id {number!r} is no whole number below 2^31")
            if not isinstance(name, str):
                raise TypeError(f"file_name {name!r} of image {number} is no text")
        missing = sorted(map(str, captions.keys() - names.keys()))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno} is not JSON; download it again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not COCO caption annotations ({type(error).__name__}: {error}); "
            "it must have 'images' with id and file_name, 'annotations' with image_id and caption"
        ) from error
    if missing:
        raise UserError(f"{path}: captions of image {missing[0]}, which 'images' doesn't list")
    if not captions:
        raise UserError(f"{path}: no captions in this file; download it again")
    if not images.is_dir():
        raise UserError(f"{images}: there is no such folder; see config.data.path")
    return [
        ImageRecord(names[number], images / names[number], tuple(captions[number]), number)
        for number in sorted(captions)
    ]
