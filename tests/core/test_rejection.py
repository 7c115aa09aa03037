"""Rejection sampling on distributions small enough to write down."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from seqgan_jax.core import rejection
from seqgan_jax.core.rejection import Calibration

RNG = np.random.default_rng(0)
P, Q = RNG.dirichlet(np.full(12, 4.0), 2)
RATIO = np.log(P) - np.log(Q)
HIGHEST = RATIO.max()


def known(gamma=0.0, scale=1.0, shift=0.0, maximum=HIGHEST):
    return Calibration(*map(jnp.float32, (scale, shift, maximum, gamma)))


@pytest.mark.parametrize("gamma", [-3.0, 0.0, 2.0])
def test_acceptance_equals_its_closed_form(gamma):
    """w / (w + e^gamma (1 - w)) with w = exp(a s + b - maximum), but for the epsilon of 1e-6."""
    logits = (RATIO - 0.3) / 2
    found = np.exp(rejection.log_acceptance(logits, known(gamma, 2.0, 0.3)))
    w = np.exp(RATIO - RATIO.max())
    np.testing.assert_allclose(found, w / (w + np.exp(gamma) * (1 - w)), rtol=1e-4)


def test_above_the_known_maximum_nothing_changes():
    one, other = rejection.log_acceptance(np.array([3.0, 30.0]), known(-1.0, maximum=3.0))
    assert one == other
    assert np.exp(one) > 0.99999


def test_nothing_is_accepted_before_calibration():
    found = np.asarray(rejection.log_acceptance(np.array([-5.0, 50.0]), rejection.uncalibrated()))
    assert (found == -np.inf).all()


def is_drawn_from(tokens, probabilities):
    """Pearson's chi-square test, wrong once in 10,000 times."""
    counts = np.bincount(tokens, minlength=len(probabilities))
    probabilities = np.asarray(probabilities, np.float64)
    expected = probabilities / probabilities.sum() * len(tokens)
    assert expected.min() > 5
    return scipy.stats.chisquare(counts, expected).pvalue > 1e-4


def test_with_gamma_zero_what_is_accepted_is_the_target():
    tokens = RNG.choice(12, 40_000, p=Q)
    chance = np.exp(rejection.log_acceptance(RATIO[tokens], known()))
    kept = tokens[RNG.uniform(size=len(tokens)) < chance]
    np.testing.assert_allclose(len(kept) / len(tokens), np.exp(-RATIO.max()), rtol=0.1)
    assert is_drawn_from(kept, P)
    assert not is_drawn_from(kept, Q)


@pytest.mark.parametrize(("gamma", "tries"), [(-2.0, 3), (0.0, 1), (1.0, 10)])
def test_what_bounded_tries_keep_has_the_stated_density(gamma, tries):
    log_a = np.asarray(rejection.log_acceptance(RATIO, known(gamma)))
    mean = Q @ np.exp(log_a)
    density = np.exp(rejection.log_density(np.log(Q), log_a, mean, tries))
    np.testing.assert_allclose(density.sum(), 1.0, rtol=1e-5)
    tokens = RNG.choice(12, (20_000, tries), p=Q)
    accepted = RNG.uniform(size=tokens.shape) < np.exp(log_a)[tokens]
    accepted[:, -1] = True
    kept = tokens[np.arange(len(tokens)), accepted.argmax(1)]
    assert is_drawn_from(kept, density)
    if tries == 1:
        np.testing.assert_allclose(density, Q, rtol=1e-5)
    else:
        assert not is_drawn_from(kept, Q)


def test_without_a_bound_the_density_is_the_filtered_one():
    log_a = np.asarray(rejection.log_acceptance(RATIO, known()))
    mean = Q @ np.exp(log_a)
    found = rejection.log_density(np.log(Q), log_a, mean, 100_000)
    np.testing.assert_allclose(np.exp(found), P, rtol=1e-3)
