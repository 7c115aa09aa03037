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


def mean_feature(features: chex.Array, mask: chex.Array) -> chex.Array:
    """The mean feature over a sequence's real tokens: [B, T, U], [B, T] -> [B, U]."""
    chex.assert_equal_shape_prefix([features, mask], 2)
    total = jnp.einsum("btu,bt->bu", features, mask)
    return total / jnp.maximum(mask.sum(-1, keepdims=True), 1.0)


def feature_distance(features: chex.Array, real: chex.Array, weights: chex.Array) -> chex.Array:
    """(1 / U) sum_u (f_u - mean_u)^2 / var_u, with the mean and variance over real sequences.

    Feature matching (Salimans et al., 2016, arXiv:1606.03498, section 3.1) compares the means of
    both sides; as a reward each generated sequence needs a distance of its own. Dividing by the
    variance frees the weight from the features' scale.

    Args:
      features: of generated sequences, [B, U].
      real: of real ones, [N, U].
      weights: of the real ones, [N].

    Returns:
      [B].
    """
    chex.assert_rank([features, real, weights], [2, 2, 1])
    share = weights / jnp.maximum(weights.sum(), 1e-8)
    mean = share @ real
    variance = share @ jnp.square(real - mean)
    return jnp.mean(jnp.square(features - mean) / (variance + 1e-6), axis=-1)


def group_baseline(values: chex.Array, mask: chex.Array, otherwise: chex.Array) -> chex.Array:
    """The mean value at the same position of the other sequences sampled for the same source.

    Leaving the sequence itself out keeps the baseline independent of its tokens, so that it
    changes no expectation of the gradient (Kool et al., 2019, "Buy 4 REINFORCE samples, get a
    baseline for free!"); GRPO (Shao et al., 2024, arXiv:2402.03300) has the mean of all of them.

    Args:
      values: action values, [B, G, T].
      mask: [B, G, T].
      otherwise: what a position has that no other sequence of the group reaches, [T].

    Returns:
      [B, G, T].
    """
    chex.assert_rank([values, mask, otherwise], [3, 3, 1])
    known = values * mask
    others = mask.sum(1, keepdims=True) - mask
    mean = (known.sum(1, keepdims=True) - known) / jnp.maximum(others, 1.0)
    return jnp.where(others > 0, mean, otherwise)


def standardised(advantages: chex.Array, mask: chex.Array) -> chex.Array:
    """Advantages less their mean over the batch's real tokens, over their standard deviation.

    Args:
      advantages: [B, T].
      mask: [B, T].

    Returns:
      [B, T], of mean 0 and variance 1 over real tokens; 0 where the mask is 0.
    """
    chex.assert_equal_shape([advantages, mask])
    count = jnp.maximum(mask.sum(), 1.0)
    centred = (advantages - (advantages * mask).sum() / count) * mask
    return centred / jnp.sqrt(jnp.square(centred).sum() / count + 1e-8)


def ranked(advantages: chex.Array, mask: chex.Array) -> chex.Array:
    """The rank of each advantage among the n real tokens of the batch, spread over [-1/2, 1/2].

    (rank - (n - 1) / 2) / n with ranks 0 .. n - 1, equal advantages sharing the mean of theirs:
    only the order of rewards counts, not their size (as where Guo et al., 2018, arXiv:1709.08624,
    rescale rewards by rank).

    Args:
      advantages: [B, T].
      mask: [B, T].

    Returns:
      [B, T]; 0 where the mask is 0.
    """
    chex.assert_equal_shape([advantages, mask])
    order = jnp.sort(jnp.where(mask > 0, advantages, jnp.inf).ravel())
    below, up_to = (
        jnp.searchsorted(order, advantages.ravel(), side=side) for side in ("left", "right")
    )
    count = jnp.maximum((mask > 0).sum(), 1)
    rank = ((below + up_to - 1) / 2).reshape(advantages.shape)
    return (rank - (count - 1) / 2) / count * (mask > 0)


NORMALISATIONS = {
    "none": lambda advantages, mask: advantages,
    "batch": standardised,
    "rank": ranked,
}


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
