"""The Fréchet distance against SciPy's matrix root and closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from seqgan_jax.evaluation.frechet import Halves, frechet, gaussian_distance, halves
from seqgan_jax.evaluation.statistics import BLOCKS


def slow(a, b):
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sqrtm(ca @ cb).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root)


def rows(seed, count=60, size=5, shift=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size)) @ rng.normal(size=(size, size)) + shift


def test_distance_equals_scipy():
    a, b = rows(0), rows(1, shift=1.0)
    moments = [x for rows in (a, b) for x in (rows.mean(0), np.cov(rows.T))]
    assert gaussian_distance(*moments) == pytest.approx(slow(a, b), rel=1e-9)
    assert gaussian_distance(*moments[:2], *moments[:2]) == pytest.approx(0, abs=1e-9)


def test_distance_of_singular_covariances():
    """On a line, N(0, s^2) and N(m, t^2) are m^2 + (s - t)^2 apart."""
    flat = lambda s: np.diag([s**2, 0.0, 0.0])
    zero, mean = np.zeros(3), np.array([0.0, 3.0, 0.0])
    assert gaussian_distance(zero, flat(2.0), mean, flat(5.0)) == pytest.approx(9 + 9)


def test_halves_are_disjoint_and_of_one_size():
    samples, references = np.arange(9.0)[:, None], np.arange(100.0, 130.0)[:, None]
    parts = halves(samples, references, seed=0)
    for own, pair in zip((samples, references), parts, strict=True):
        both = np.concatenate(pair).ravel().tolist()
        assert len(set(both)) == len(both) == 8
        assert set(both) <= set(own.ravel())
    assert not np.array_equal(halves(samples, references, 1).samples[0], parts.samples[0])


def test_figures_and_their_jackknife():
    parts = Halves((rows(0), rows(1)), (rows(2, shift=0.5), rows(3)))
    found = frechet(parts, "mine")
    (s1, s2), (a, b) = parts
    assert found["frechet"].value == pytest.approx((slow(s1, a) + slow(s2, b)) / 2, rel=1e-8)
    assert found["frechet_references"].value == pytest.approx(slow(a, b), rel=1e-8)
    assert found["frechet"].n == 120
    assert found["frechet"].unit == "mine"
    left = [slow(*(np.delete(x, np.s_[k::BLOCKS], 0) for x in (a, b))) for k in range(BLOCKS)]
    error = np.sqrt((BLOCKS - 1) * np.var(left))
    assert found["frechet_references"].stderr == pytest.approx(error, rel=1e-6)


def test_too_few_are_undefined():
    one = np.zeros((1, 2))
    assert frechet(Halves((one, one), (one, one)), "")["frechet"].value is None
