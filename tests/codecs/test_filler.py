"""What learns the mean of missing pixels: against the mean that is known."""

import json

import jax
import numpy as np
import pytest

from seqgan_jax.codecs.filler import Filler, UNet, _blend
from seqgan_jax.errors import UserError
from seqgan_jax.training.fit import fit

F, SIDE = 2, 8


def batches(seed, size=16):
    """Clips of one grey level; the hole is that level, or with probability 1/4 0.2 brighter."""
    rng = np.random.default_rng(seed)
    while True:
        level = rng.uniform(0.2, 0.6, (size, 1, 1, 1, 1))
        mask = np.zeros((size, F, SIDE, SIDE), bool)
        for row in mask:
            y, x = rng.integers(0, SIDE - 4, 2)
            row[:, y : y + 4, x : x + 4] = True
        brighter = 0.2 * (rng.random((size, 1, 1, 1, 1)) < 0.25)
        clip = np.broadcast_to(level, (*mask.shape, 3)) + brighter * mask[..., None]
        seen = np.where(mask[..., None], 0.5, clip)  # the first guess is of no use
        yield seen.astype(np.float32), mask, clip.astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    settings = {"channels": 8, "steps": 400, "every": 100, "minimise": fit}
    return Filler.fit(batches(0), [next(batches(1, 64))], 0, **settings)


def test_it_learns_the_mean_and_tells_how_near_it_comes(fitted):
    filler, psnr = fitted
    seen, mask, clip = next(batches(2, 32))
    far = []
    for one in zip(seen, mask, clip, strict=True):
        filled = filler(*one[:2])
        np.testing.assert_array_equal(filled[~one[1]], one[0][~one[1]])
        mean = one[0][~one[1]].mean() + 0.25 * 0.2
        far.append(np.abs(filled[one[1]] - mean).mean())
    assert np.mean(far) < 0.03  # the first guess is 0.1 away
    # No filler does better than the deviation of what can't be known, 0.2 sqrt(1/4 3/4).
    best = -20 * np.log10(0.2 * np.sqrt(3) / 4)
    assert best - 1.5 < psnr < best + 1.5


def test_what_is_saved_fills_the_same(fitted, tmp_path):
    filler, _ = fitted
    filler.save(tmp_path)
    seen, mask, _ = next(batches(3))
    again = Filler.load(tmp_path)
    np.testing.assert_array_equal(again(seen[0], mask[0]), filler(seen[0], mask[0]))
    settings = json.loads((tmp_path / "filler.json").read_text())
    (tmp_path / "filler.json").write_text(json.dumps(settings | {"checksum": "other"}))
    with pytest.raises(UserError, match=r"filler.npz: the filler is damaged; restore it from"):
        Filler.load(tmp_path)
    (tmp_path / "filler.npz").unlink()
    with pytest.raises(UserError, match=r"filler.npz: can't read the filler"):
        Filler.load(tmp_path)


def test_every_cell_knows_of_every_other():
    """A change anywhere in the picture and in time changes the whole of what is filled in."""
    network = UNet(8)
    rng = np.random.default_rng(0)
    seen = rng.random((1, F, SIDE, SIDE, 3)).astype(np.float32)
    mask = np.ones((1, F, SIDE, SIDE), bool)
    params = network.init(jax.random.key(0), seen, mask)["params"]
    other = seen.copy()
    other[0, 1, 0, 0] += 0.5
    found = [network.apply({"params": params}, x, mask) for x in (seen, other)]
    assert np.all(np.any(found[0] != found[1], axis=-1))


def moving(speed, frames=4, side=8):
    """A picture that moves by whole pixels a frame, [1, F, side, side, 3]."""
    rng = np.random.default_rng(0)
    whole = rng.random((side + frames * 2, side + frames * 2, 3)).astype(np.float32)
    down, right = speed
    start = frames
    cut = lambda t: whole[start - t * down :, start - t * right :][:side, :side]
    return np.stack([cut(t) for t in range(frames)])[None]


@pytest.mark.parametrize("speed", [(0, 1), (1, 0), (-1, 1)])
def test_pixels_are_found_where_they_moved(speed):
    clip = moving(speed)
    visible = np.ones(clip.shape[:4], np.float32)
    visible[0, 1, 2:6, 2:6] = 0
    seen = np.where(visible[..., None] > 0, clip, 0.5).astype(np.float32)
    # The cell of rows 2 to 3 and columns 4 to 5, in frame 1; 4 cells a row, 4 frames a place.
    cells = np.array([[(1 * 4 + 2) * 4 + 1]])
    speeds = np.zeros((1, 2, 1, 2, 1), np.float32)
    speeds[0, :, 0, :, 0] = speed
    weights = np.zeros((1, 5, 4, 1), np.float32)
    weights[:, -1] = -30  # nothing is painted
    painted = np.zeros((1, 4, 3, 1), np.float32)
    found = np.asarray(_blend(seen, visible, cells, speeds, weights, painted))[0, :, :, 0]
    np.testing.assert_allclose(found.reshape(2, 2, 3), clip[0, 1, 2:4, 4:6], atol=1e-5)
    # What is hidden is never found, whatever stands there.
    other = np.where(visible[..., None] > 0, clip, 9.0).astype(np.float32)
    again = np.asarray(_blend(other, visible, cells, speeds, weights, painted))[0, :, :, 0]
    np.testing.assert_array_equal(again, found)


def test_what_is_visible_nowhere_is_painted():
    clip = moving((0, 1))
    hidden = np.zeros(clip.shape[:4], np.float32)
    weights, painted = np.zeros((1, 5, 4, 1)), np.full((1, 4, 3, 1), 0.7)
    found = _blend(clip, hidden, np.array([[9]]), np.ones((1, 2, 1, 2, 1)), weights, painted)
    np.testing.assert_allclose(found, 0.7, atol=1e-5)


def test_only_as_many_cells_as_can_be_missing_are_worked_out():
    rng = np.random.default_rng(0)
    seen = rng.random((2, F, SIDE, SIDE, 3)).astype(np.float32)
    mask = np.zeros((2, F, SIDE, SIDE), bool)
    mask[0, 1, 2:6, 2:6] = True  # 4 cells
    mask[1, 0, 3:5, 0:2] = True  # 2, each of them in part
    params = UNet(8).init(jax.random.key(0), seen, mask)["params"]
    every, few = (UNet(8, most).apply({"params": params}, seen, mask) for most in (0, 4))
    np.testing.assert_allclose(few[mask], every[mask], atol=1e-6)
    assert np.abs(few[mask]).min() > 0
    assert not np.any(few[0, 0])


def test_several_clips_are_filled_as_one_by_one(fitted):
    filler, _ = fitted
    seen, mask, _ = next(batches(4, 3))
    together = filler(seen, mask)
    assert together.shape == seen.shape
    for row, one, hole in zip(together, seen, mask, strict=True):
        np.testing.assert_allclose(row, filler(one, hole), atol=1e-5)
