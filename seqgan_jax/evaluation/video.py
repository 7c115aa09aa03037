"""How well holes in clips are filled, and what fills them without learning anything.

Clips are uint8 or floating-point [F, H, W, 3], 0 to 255; a mask is bool [F, H, W], true where a
pixel is missing. Nothing here but the comparisons with the truth reads a missing pixel.
"""

from collections.abc import Callable, Sequence

import numpy as np

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import Metric

PEAK = 255.0


def _skimage():
    try:
        import skimage.metrics
        import skimage.restoration
    except ImportError as error:
        raise UserError(
            "scikit-image, which judges pictures, is not installed; run "
            "pip install 'seqgan_jax[media]'"
        ) from error
    return skimage


# Fills


def _neighbours(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel the last frame up to its own, and the first from it on, in which it is seen.

    -1 and F where there is none; [F, H, W] each.
    """
    frames = len(mask)
    time = np.arange(frames)[:, None, None]
    before = np.maximum.accumulate(np.where(mask, -1, time), axis=0)
    after = np.minimum.accumulate(np.where(mask, frames, time)[::-1], axis=0)[::-1]
    return before, after


def _spread(clip: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels that no frame shows take the nearest known value of their frame, float [F, H, W, 3].

    The mean of all that is seen where a frame shows nothing.
    """
    from scipy.ndimage import distance_transform_edt

    filled = clip.astype(np.float64)
    for frame, missing in zip(filled, mask, strict=True):
        if missing.all():
            frame[:] = clip[~mask].mean(0) if (~mask).any() else PEAK / 2
        elif missing.any():
            near = distance_transform_edt(missing, return_distances=False, return_indices=True)
            frame[:] = frame[near[0], near[1]]
    return filled


def copy_last(clip: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Every missing pixel from the last frame that shows it, else from the first that does."""
    return _from_other_frames(clip, mask, linear=False)


def interpolate(clip: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Every missing pixel linear in time between the frames that show it, else as `copy_last`."""
    return _from_other_frames(clip, mask, linear=True)


def _from_other_frames(clip: np.ndarray, mask: np.ndarray, *, linear: bool) -> np.ndarray:
    frames = len(mask)
    before, after = _neighbours(mask)
    t, y, x = np.nonzero(mask)
    low, high = before[t, y, x], after[t, y, x]
    low = np.where(low >= 0, low, high)
    high = np.where(high < frames, high, low) if linear else low
    never = low >= frames
    low, high = np.where(never, 0, low), np.where(never, 0, high)
    weight = np.where(high > low, (t - low) / np.maximum(high - low, 1), 0.0)[:, None]
    found = (1 - weight) * clip[low, y, x] + weight * clip[high, y, x]
    if never.any():
        found[never] = _spread(clip, mask)[t, y, x][never]
    filled = clip.astype(np.float64)
    filled[mask] = found
    return filled


def inpaint(clip: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Each frame by itself, by the biharmonic equation (Damelin and Hoang, 2018), scikit-image's.

    A frame that shows nothing is filled as `_spread` does.
    """
    restore = _skimage().restoration.inpaint_biharmonic
    filled = _spread(clip, mask) if mask.all(axis=(1, 2)).any() else clip.astype(np.float64)
    for t in np.flatnonzero(mask.any(axis=(1, 2)) & ~mask.all(axis=(1, 2))):
        known = np.where(mask[t, ..., None], 0, clip[t]) / PEAK
        filled[t] = np.clip(restore(known, mask[t], channel_axis=-1), 0, 1) * PEAK
    return filled


FILLS: dict[str, Callable] = {
    "copy last visible": copy_last,
    "linear in time": interpolate,
    "inpainted frames": inpaint,
}


def blend(clip: np.ndarray, mask: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """The clip with its missing pixels, and no others, from `fill`; uint8."""
    whole = np.where(mask[..., None], fill, clip)
    return np.round(np.clip(whole, 0, PEAK)).astype(np.uint8)


# Figures


def figures(
    filled: Sequence[np.ndarray], truths: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> dict[str, Metric]:
    """Filled clips against the true ones, in the hole.

    - `psnr`, dB: 10 log10(255^2 / e), e the mean squared error over the missing pixels of all
      clips, of which those with a plain background have none by chance. Rises with what is
      predictable, and a blurred guess scores well.
    - `ssim`: structural similarity (Wang et al., 2004; scikit-image, windows of 7 pixels, each
      frame), the mean over the missing pixels; 1 for equal clips.
    - `temporal_error`: root mean square of the difference between both clips' changes from frame to
      frame, at missing pixels, in grey levels; 0 for equal motion.
    - `sharpness`: gradient energy in the hole over the true one's; below 1 for what is blurred,
      above for what is noisy. See `gradient_energy`.

    Args:
      filled, truths: uint8 [F, H, W, 3] each.
      masks: [F, H, W] each.

    Raises:
      ValueError: the numbers of clips differ, or there is none.
    """
    if not len(filled) == len(truths) == len(masks) or not len(filled):
        raise ValueError(f"{len(filled)} filled clips, {len(truths)} true ones, {len(masks)} masks")
    triples = list(zip(filled, truths, masks, strict=True))
    errors = np.array([np.mean((_float(a) - _float(b))[m] ** 2) for a, b, m in triples])
    changes = np.array([_change_error(a, b, m) for a, b, m in triples if len(a) > 1])
    found = {
        "psnr": _decibels(errors),
        "ssim": Metric.mean((_similarity(a, b, m) for a, b, m in triples), "-1 to 1"),
    }
    if len(changes):
        found["temporal_error"] = _root(changes, "grey levels")
    return found | {"sharpness": sharpness(filled, truths, masks)}


def _float(clip: np.ndarray) -> np.ndarray:
    return np.asarray(clip, np.float64)


def _decibels(errors: np.ndarray) -> Metric:
    """PSNR of mean squared errors, [n], with its standard error by the delta method."""
    mean = max(errors.mean(), 1e-6)
    stderr = None
    if len(errors) > 1:
        stderr = float(10 / np.log(10) * errors.std(ddof=1) / np.sqrt(len(errors)) / mean)
    return Metric(float(10 * np.log10(PEAK**2 / mean)), stderr, len(errors), "dB")


def _root(squares: np.ndarray, unit: str) -> Metric:
    """The root of a mean of squares, [n], likewise."""
    root = float(np.sqrt(squares.mean()))
    stderr = None
    if len(squares) > 1 and root:
        stderr = float(squares.std(ddof=1) / np.sqrt(len(squares)) / (2 * root))
    return Metric(root, stderr, len(squares), unit)


def _similarity(filled: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    compare = _skimage().metrics.structural_similarity
    total = 0.0
    for a, b, m in zip(filled, truth, mask, strict=True):
        if m.any():
            _, similar = compare(a, b, channel_axis=-1, data_range=PEAK, full=True)
            total += similar.mean(-1)[m].sum()
    return total / mask.sum()


def _change_error(filled: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean square of the difference of changes, where a pixel is missing now or was before."""
    difference = np.diff(_float(filled) - _float(truth), axis=0)
    return float(np.mean(difference[mask[1:] | mask[:-1]] ** 2))


def gradient_energy(clip: np.ndarray, mask: np.ndarray) -> float:
    """Sum of squared differences between neighbours in a row or column, one of them missing."""
    clip, energy = _float(clip), 0.0
    for axis in (1, 2):
        ahead = np.moveaxis(mask, axis, 0)
        pairs = np.moveaxis(ahead[1:] | ahead[:-1], 0, axis)
        energy += float(np.sum(np.diff(clip, axis=axis)[pairs] ** 2))
    return energy


def sharpness(
    filled: Sequence[np.ndarray], truths: Sequence[np.ndarray], masks: Sequence[np.ndarray]
) -> Metric:
    """Gradient energy of all filled clips over that of the true ones, a ratio of two sums."""
    ours, theirs = (
        np.array([gradient_energy(clip, mask) for clip, mask in zip(clips, masks, strict=True)])
        for clips in (filled, truths)
    )
    if not theirs.sum():
        return Metric(None, None, len(ours), "ratio")
    ratio = ours.sum() / theirs.sum()
    deviation = (ours - ratio * theirs) / theirs.mean()
    stderr = float(deviation.std(ddof=1) / np.sqrt(len(ours))) if len(ours) > 1 else None
    return Metric(float(ratio), stderr, len(ours), "ratio")


def diversity(
    samples: Sequence[tuple[np.ndarray, np.ndarray]], masks: Sequence[np.ndarray]
) -> dict[str, Metric]:
    """How different two fills of one hole are, drawn with noise and random numbers of their own.

    - `sample_distance`: their root mean square difference at missing pixels, in grey levels; 0
      where all that is missing follows from what is seen. Nonsense can be very diverse.
    """
    squares = [
        np.mean((_float(a) - _float(b))[mask] ** 2)
        for (a, b), mask in zip(samples, masks, strict=True)
    ]
    return {"sample_distance": _root(np.array(squares), "grey levels")}
