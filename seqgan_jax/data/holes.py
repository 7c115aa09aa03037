"""Holes in clips, made of whole patches: where they are, and in which order they are filled.

A clip is a grid of patches, [slots, rows, columns]: a slot is the frames that a patch lasts. A hole
is a boolean array of the grid's shape, true where a patch is missing. Holes of these kinds exist:

- box: a box that moves by at most one patch a slot, for some slots;
- frames: whole slots;
- patches: patches here and there.
"""

from collections.abc import Callable, Sequence

import numpy as np

from seqgan_jax.errors import UserError

KINDS = ("box", "frames", "patches")


def largest(kind: str, grid: Sequence[int], side: float, time: float) -> int:
    """How many patches the largest hole of a kind has.

    Args:
      kind: one of `KINDS`.
      grid: (slots, rows, columns).
      side: share of the picture's height and of its width that a box has.
      time: share of the slots that a hole lasts.

    Raises:
      UserError: for an unknown kind, or shares that leave no hole, or nothing else.
    """
    if kind not in KINDS:
        raise UserError(f"config.hole.kinds: no hole '{kind}'; choose from {', '.join(KINDS)}")
    slots, rows, columns = _extent(grid, side, time)
    count = slots * grid[1] * grid[2] if kind == "frames" else slots * rows * columns
    if not (0 < count < np.prod(grid) and 0 < side <= 1 and 0 < time <= 1):
        raise UserError(
            f"config.hole.side, time: {side} and {time} make a hole of {count} of the "
            f"{np.prod(grid)} patches of a clip; set shares between 0 and 1 that leave some"
        )
    return count


def draw(
    kind: str,
    grid: Sequence[int],
    side: float,
    time: float,
    uniform: Callable[[], float],
    *,
    largest: bool,
) -> np.ndarray:
    """A random hole, bool [slots, rows, columns].

    Args:
      kind, grid, side, time: see `largest`.
      uniform: draws a number from [0, 1).
      largest: always of the largest size, in the middle of the clip, boxes moving; otherwise every
        other one is smaller, anywhere in time, and may stand still.
    """
    between = lambda low, high: low + int((high - low + 1) * uniform())
    slots, rows, columns = _extent(grid, side, time)
    if not largest and uniform() < 0.5:
        slots, rows, columns = (between(1, n) for n in (slots, rows, columns))
    start = (grid[0] - slots) // 2 if largest else between(0, grid[0] - slots)
    hole = np.zeros(grid, bool)
    if kind == "frames":
        hole[start : start + slots] = True
    elif kind == "patches":
        keys = np.array([uniform() for _ in range(hole.size)])
        hole.flat[np.argsort(keys)[: slots * rows * columns]] = True
    else:
        room = np.array([grid[1] - rows, grid[2] - columns])
        corner = np.array([between(0, room[0]), between(0, room[1])])
        step = np.array([between(-1, 1), between(-1, 1)])
        if largest and not step.any():
            step[1] = 1
        for slot in range(start, start + slots):
            y, x = corner
            hole[slot, y : y + rows, x : x + columns] = True
            # A box that would leave the picture turns back.
            step = np.where((corner + step < 0) | (corner + step > room), -step, step)
            corner = np.clip(corner + step, 0, room)
    return hole


def _extent(grid: Sequence[int], side: float, time: float) -> tuple[int, int, int]:
    """Slots, rows and columns of the largest box."""
    return round(time * grid[0]), round(side * grid[1]), round(side * grid[2])


def places(hole: np.ndarray, length: int) -> np.ndarray:
    """The patches that a target of T patches consists of, in their order.

    First the missing ones, then as many visible ones as there is room for: a target has one
    length, and what a visible patch holds can be seen. Both run through time, rows and columns.

    Args:
      hole: [slots, rows, columns].
      length: T, at least the number of missing patches.

    Returns:
      Indices in the flattened grid, int32 [T].
    """
    flat = hole.ravel()
    return np.concatenate([np.flatnonzero(flat), np.flatnonzero(~flat)])[:length].astype(np.int32)


def of_pixels(mask: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """The hole of all patches in which a pixel is masked.

    Args:
      mask: bool [F, H, W].
      patch: (frames, height, width) of one patch.
    """
    t, h, w = patch
    frames, height, width = mask.shape
    blocks = mask.reshape(frames // t, t, height // h, h, width // w, w)
    return blocks.any(axis=(1, 3, 5))


def to_pixels(hole: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """A hole's pixels, bool [F, H, W]."""
    for axis, size in enumerate(patch):
        hole = hole.repeat(size, axis)
    return hole
