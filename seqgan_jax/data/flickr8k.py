"""Flickr8k (Hodosh, Young and Hockenmaier 2013), or any folder in its public archive's layout."""

from collections.abc import Callable

from seqgan_jax.data.captions import Progress, data_folder, keep_out, no_progress, read_captions
from seqgan_jax.data.images import ImageRecord, ImageSource, image_sources
from seqgan_jax.errors import UserError


def load(
    config,
    *,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, ImageSource]:
    """Loads `config.path`, which holds `Images/` and `captions.txt` (CSV: image,caption).

    Which images are for validation and test follows from their names alone.

    Args:
      config: path, image_size, validation_size, test_size, max_unreadable_share.
      progress: shows how far the preparation of the images is.
      report: is told which images were left out.

    Returns:
      the splits 'train', 'validation' and 'test'.

    Raises:
      UserError: for anything wrong with the folder, its captions or its images.
    """
    folder = data_folder(config, "Images/ and captions.txt")
    captions = read_captions(folder / "captions.txt")
    if not (folder / "Images").is_dir():
        raise UserError(f"{folder / 'Images'}: there is no such folder; see config.data.path")
    numbers = {name: number for number, name in enumerate(captions)}
    splits = {
        split: [
            ImageRecord(name, folder / "Images" / name, captions[name], numbers[name])
            for name in names
        ]
        for split, names in keep_out(captions, config).items()
    }
    return image_sources(splits, config, progress=progress, report=report)
