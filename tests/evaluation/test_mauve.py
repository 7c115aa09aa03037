"""MAUVE's area against closed forms and numerical integration, its clusters on known mixtures."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import beta

from seqgan_jax.evaluation.frechet import Halves
from seqgan_jax.evaluation.mauve import divergence_area, mauve


def test_equal_and_disjoint_histograms():
    p = np.array([3.0, 1.0, 0.0])
    assert divergence_area(p, 7 * p) == pytest.approx(1)
    # x = (1 - w)^5 and y = w^5: the area is the integral of w^5 5 (1 - w)^4.
    area = divergence_area(np.array([1.0, 0.0]), np.array([0.0, 2.0]))
    assert area == pytest.approx(5 * beta(6, 5), rel=1e-3)


def test_area_equals_integration():
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])

    def point(w):
        r = w * p + (1 - w) * q
        return np.exp(-5 * (q @ np.log(q / r))), np.exp(-5 * (p @ np.log(p / r)))

    slope = lambda w: (point(w + 1e-6)[0] - point(w - 1e-6)[0]) / 2e-6
    expected = point(1.0)[0] + quad(lambda w: -point(w)[1] * slope(w), 0, 1)[0]
    assert divergence_area(p, q) == pytest.approx(expected, rel=1e-4)
    assert divergence_area(q, p) == pytest.approx(expected, rel=1e-4)


def test_missing_modes_lower_it():
    """Two well separated modes: samples of one only find half of what there is."""
    rng = np.random.default_rng(0)
    draw = lambda modes: 100.0 * rng.choice(modes, (30, 1)) + rng.normal(size=(30, 4))
    both, one = [(draw([0, 1]), draw([0, 1])) for _ in range(2)], (draw([0]), draw([0]))
    good, bad = mauve(Halves(*both), 0, "mine"), mauve(Halves(one, both[1]), 0, "mine")
    assert good["mauve"].value > 0.7 > 0.4 > bad["mauve"].value
    assert good["mauve_references"] == bad["mauve_references"]
    assert good["mauve"].unit == "mine"
    assert 0 < good["mauve"].stderr < 0.5
    assert mauve(Halves(*both), 0, "mine") == good


def test_too_few_are_undefined():
    few = np.zeros((19, 2))
    assert mauve(Halves((few, few), (few, few)), 0, "")["mauve"].value is None
