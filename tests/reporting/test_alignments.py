"""Heat maps of attention: dark where the weight is, and whole on the disk."""

import numpy as np
import pytest
from PIL import Image

from seqgan_jax.errors import UserError
from seqgan_jax.reporting import alignments


def test_dark_cells_are_where_the_weight_is(tmp_path):
    source, target = ["▁ein", "▁Hund", "<eos>"], ["▁a", "$dog$"]
    weights = np.array([[0.9, 0.1, 0.0], [0.0, 0.05, 0.95]])
    picture = alignments.heat_map(source, target, weights, tmp_path / "attention.png")
    with Image.open(tmp_path / "attention.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    # The table is 0.4 inches a cell at 100 dots, below and right of labels of 1.5 inches.
    cells = picture[150:230, 150:270].reshape(2, 40, 3, 40, 3).mean((1, 3, 4))
    assert cells.shape == (2, 3)
    order = np.argsort(-weights, axis=None)
    assert list(np.argsort(cells, axis=None)[:2]) == sorted(order[:2], key=lambda i: cells.flat[i])
    assert cells.flat[order[0]] < 80 < 200 < cells.flat[order[-1]]


def test_other_shapes_and_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 x 1 tokens"):
        alignments.heat_map(["a"], ["b", "c"], np.ones((1, 2)), tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png"):
        alignments.heat_map(["a"], ["b"], np.ones((1, 1)), tmp_path / "missing" / "a.png")
    assert not list(tmp_path.iterdir())
