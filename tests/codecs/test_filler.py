"""What learns the mean of missing pixels: against the mean that is known."""

import json

import jax
import numpy as np
import pytest

from seqgan_jax.codecs.filler import Filler, UNet
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
