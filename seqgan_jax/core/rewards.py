"""From a discriminator's logits to rewards, and the baselines subtracted from them."""

import chex
import jax
import jax.numpy as jnp


def probability(logits: chex.Array) -> chex.Array:
    """D = sigmoid(logit), the reward of Yu et al. (2017), in [0, 1]."""
    return jax.nn.sigmoid(logits)


def log_ratio(logits: chex.Array) -> chex.Array:
    """log D - log(1 - D), which is the logit itself.

    At the optimal discriminator it is log p_data - log p_generator, so that maximising its
    expectation minimises the reverse Kullback-Leibler divergence.
    """
    return logits


REWARDS = {"probability": probability, "log_ratio": log_ratio}


def update_baseline(
    baseline: chex.Array, values: chex.Array, mask: chex.Array, decay: float
) -> chex.Array:
    """Moves a baseline per position toward the batch's mean action value at that position.

    Args:
      baseline: [T].
      values: action values, [B, T].
      mask: [B, T]; a position without a real token keeps its baseline.
      decay: how much of the old baseline stays, in [0, 1].
    """
    chex.assert_equal_shape([values, mask])
    chex.assert_equal_shape_suffix([baseline, values], 1)
    count = mask.sum(0)
    mean = (values * mask).sum(0) / jnp.maximum(count, 1.0)
    return jnp.where(count > 0, decay * baseline + (1 - decay) * mean, baseline)
