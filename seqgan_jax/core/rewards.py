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


def discounted(rewards: chex.Array, mask: chex.Array, discount: float) -> chex.Array:
    """Action values of tokens that have rewards of their own: sum_{s >= t} gamma^{s-t} m_s r_s.

    Args:
      rewards: r, [B, T].
      mask: [B, T].
      discount: gamma in [0, 1]; 0 leaves a token its own reward alone.

    Returns:
      [B, T]; 0 where the mask is 0.
    """
    chex.assert_equal_shape([rewards, mask])

    def step(later, reward):
        value = reward + discount * later
        return value, value

    start = jnp.zeros_like(rewards[:, 0])
    _, values = jax.lax.scan(step, start, (rewards * mask).T, reverse=True)
    return values.T * mask


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
