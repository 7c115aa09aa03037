"""Discriminator rejection sampling: better samples from networks that stay as they are.

Azadi et al. (2019), arXiv:1810.06758. A generator q and a discriminator with the logit s(y) are
given. On real and generated sequences in equal parts a calibrated logit is log p(y) - log q(y), the
logarithm of what rejection sampling needs. A drawn sequence is accepted with probability

    a(y) = sigmoid(F(y)),  F = u - log(1 - exp(u - eps)) - gamma,  u = min(c - maximum, 0),

c = scale s + shift the calibrated logit and `maximum` the largest one known (theirs, eq. 8). With
gamma = 0 and eps = 0 this is a = exp(u), exact rejection sampling, which may accept next to
nothing. A negative gamma accepts more: a = w / (w + e^gamma (1 - w)) with w = exp(u) is in
proportion to w where that is small, and close to 1 where it is not.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

# What keeps the logarithm finite at the maximum itself.
EPSILON = 1e-6


class Calibration(NamedTuple):
    """What rejection sampling knows of a pair of networks; every field is a scalar.

    Attributes:
      scale: of the discriminator's logit.
      shift: added to the scaled logit.
      maximum: of the calibrated logit; infinite before calibration, and nothing is accepted.
      gamma: the higher, the less is accepted.
    """

    scale: chex.Array
    shift: chex.Array
    maximum: chex.Array
    gamma: chex.Array


def uncalibrated() -> Calibration:
    """The logit as it is, and nothing known of its maximum."""
    return Calibration(*map(jnp.float32, (1.0, 0.0, jnp.inf, 0.0)))


def acceptance_logit(logits: chex.Array, calibration: Calibration) -> chex.Array:
    """F of the module's docstring, from the discriminator's logits, of any shape."""
    calibrated = calibration.scale * logits + calibration.shift
    u = jnp.minimum(calibrated - calibration.maximum, 0.0)
    return u - jnp.log(-jnp.expm1(u - EPSILON)) - calibration.gamma


def log_acceptance(logits: chex.Array, calibration: Calibration) -> chex.Array:
    """log a, the logarithm of the probability to be accepted, of any shape."""
    return jax.nn.log_sigmoid(acceptance_logit(logits, calibration))


def log_density(log_q: chex.Array, log_a: chex.Array, mean: chex.Array, tries: int) -> chex.Array:
    """The log-density of what is kept of at most K draws, of any shape, in nats.

    The first of K draws y ~ q that is accepted is kept, and the last one whatever it is. With
    Z = E_q[a] the K - 1 draws before it are all rejected with probability m = (1 - Z)^(K - 1), so

        q_K(y) = q(y) (a(y) (1 - m) / Z + m),

    which is known as exactly as Z is. For K to infinity it is q a / Z.

    Args:
      log_q: log q(y).
      log_a: log a(y), from `log_acceptance`.
      mean: Z, in (0, 1).
      tries: K, at least 1.
    """
    chex.assert_equal_shape([log_q, log_a])
    missed = (tries - 1) * jnp.log1p(-mean)
    accepted = log_a + jnp.log(-jnp.expm1(missed)) - jnp.log(mean)
    return log_q + jnp.logaddexp(accepted, missed)
