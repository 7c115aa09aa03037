"""Holes: their kinds and sizes, the order in which they are filled, and the pixels they are of."""

import numpy as np
import pytest

from seqgan_jax.data import holes
from seqgan_jax.errors import UserError

GRID = (4, 6, 5)


def uniform(seed):
    return np.random.default_rng(seed).uniform


def drawn(kind, seed, **how):
    return holes.draw(kind, GRID, 0.5, 0.5, uniform(seed), **how)


def corners(hole):
    """Of each slot with a hole its first row and column and their numbers; it must be a box."""
    found = {}
    for slot in np.flatnonzero(hole.any((1, 2))):
        rows, columns = np.flatnonzero(hole[slot].any(1)), np.flatnonzero(hole[slot].any(0))
        assert hole[slot][np.ix_(rows, columns)].all()
        assert hole[slot].sum() == len(rows) * len(columns)
        found[int(slot)] = (rows[0], columns[0], len(rows), len(columns))
    return found


def test_largest_boxes_move_in_the_middle():
    starts = set()
    for seed in range(200):
        found = corners(drawn("box", seed, largest=True))
        assert list(found) == [1, 2]
        (y0, x0, *size0), (y1, x1, *size1) = found.values()
        assert size0 == size1 == [3, 2]
        assert 1 <= abs(y1 - y0) + abs(x1 - x0) <= 2
        assert max(abs(y1 - y0), abs(x1 - x0)) == 1
        starts.add((y0, x0))
    assert len(starts) == 4 * 4


def test_boxes_to_learn_from_are_of_all_sizes_anywhere_in_time():
    found = [corners(drawn("box", seed, largest=False)) for seed in range(1500)]
    assert {(len(c), min(c)) for c in found} == {(n, s) for n in (1, 2) for s in range(5 - n)}
    sizes = {next(iter(c.values()))[2:] for c in found}
    assert sizes == {(h, w) for h in (1, 2, 3) for w in (1, 2)}
    whole = np.mean([len(c) == 2 and next(iter(c.values()))[2:] == (3, 2) for c in found])
    # Half of them, and a twelfth of the other half by chance; 4 standard errors, so that a correct
    # program fails one time in 16,000.
    expected = 0.5 + 0.5 / 12
    assert abs(whole - expected) < 4 * (expected * (1 - expected) / 1500) ** 0.5


def test_frames_are_whole_and_patches_scattered():
    for seed in range(50):
        hole = drawn("frames", seed, largest=True)
        np.testing.assert_array_equal(hole.all((1, 2)), [False, True, True, False])
        assert hole.sum() == holes.largest("frames", GRID, 0.5, 0.5) == 60
        hole = drawn("patches", seed, largest=True)
        assert hole.sum() == holes.largest("patches", GRID, 0.5, 0.5) == 12
        assert drawn("patches", seed, largest=False).sum() <= 12
    everywhere = sum(drawn("patches", seed, largest=True) for seed in range(300))
    assert everywhere.min() > 0


@pytest.mark.parametrize("kind", holes.KINDS)
def test_no_hole_is_larger_than_the_largest(kind):
    most = holes.largest(kind, GRID, 0.5, 0.5)
    counts = [int(drawn(kind, seed, largest=False).sum()) for seed in range(300)]
    assert max(counts) == most
    assert min(counts) >= 1
    np.testing.assert_array_equal(drawn(kind, 7, largest=False), drawn(kind, 7, largest=False))


def test_places_are_the_missing_patches_and_then_visible_ones():
    hole = drawn("box", 3, largest=True)
    found = holes.places(hole, 20)
    assert found.dtype == np.int32
    count = int(hole.sum())
    assert found[:count].tolist() == np.flatnonzero(hole).tolist()
    assert len(set(found.tolist())) == 20
    assert not hole.ravel()[found[count:]].any()


def test_pixels_and_patches_agree():
    patch = (2, 4, 3)
    rng = np.random.default_rng(0)
    hole = rng.uniform(size=GRID) < 0.3
    pixels = holes.to_pixels(hole, patch)
    assert pixels.shape == (8, 24, 15)
    for t, y, x in rng.integers(0, pixels.shape, (100, 3)):
        assert pixels[t, y, x] == hole[t // 2, y // 4, x // 3]
    np.testing.assert_array_equal(holes.of_pixels(pixels, patch), hole)
    one = np.zeros_like(pixels)
    one[5, 11, 14] = True
    assert np.argwhere(holes.of_pixels(one, patch)).tolist() == [[2, 2, 4]]


@pytest.mark.parametrize(
    ("kind", "side", "time", "message"),
    [
        ("circle", 0.5, 0.5, "config.hole.kinds: no hole 'circle'"),
        ("box", 0.01, 0.5, "config.hole.side, time: 0.01 and 0.5 make a hole of 0"),
        ("frames", 0.5, 1.0, "make a hole of 120 of the 120 patches"),
        ("box", 0.25, 1.5, "config.hole.side, time: 0.25 and 1.5 make a hole"),
        ("box", -0.5, 0.5, "config.hole.side, time: -0.5 and 0.5 make a hole"),
        ("box", 1.2, 0.5, "config.hole.side, time: 1.2 and 0.5 make a hole"),
    ],
)
def test_what_is_no_hole_is_refused(kind, side, time, message):
    with pytest.raises(UserError, match=message):
        holes.largest(kind, GRID, side, time)
