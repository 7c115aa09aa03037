"""Losses, each written for one sequence; callers `vmap` over the batch.

Every function returns a sum or mean over the real tokens of that one sequence. `weighted_mean`
averages over a batch.
"""

import chex
import jax
import jax.numpy as jnp


def weighted_mean(values: chex.Array, weights: chex.Array) -> chex.Array:
    """sum_b w_b v_b / sum_b w_b over all entries; 0 where all weights are 0."""
    chex.assert_equal_shape([values, weights])
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-8)


def token_log_probs(logits: chex.Array, tokens: chex.Array) -> chex.Array:
    """log softmax(logits_t)[y_t]: logits [T, V], tokens [T] -> [T]."""
    chex.assert_rank([logits, tokens], [2, 1])
    picked = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)


def negative_log_likelihood(logits: chex.Array, tokens: chex.Array, mask: chex.Array) -> chex.Array:
    """Maximum likelihood: -sum_t m_t log G(y_t | y_1 .. y_{t-1}), in nats for the sequence.

    Divide by the number of real tokens for the mean cross-entropy per token.

    Args:
      logits: [T, V].
      tokens: [T].
      mask: [T].
    """
    chex.assert_equal_shape([tokens, mask])
    return -jnp.sum(token_log_probs(logits, tokens) * mask)


def policy_gradient(log_probs: chex.Array, advantages: chex.Array, mask: chex.Array) -> chex.Array:
    """REINFORCE: -sum_t m_t log G(y_t | prefix) A_t (Williams, 1992; Yu et al., 2017, eq. 7).

    No gradient flows through the advantages (the action values less a baseline): that the reward
    depends on the parameters is what the log-probability's gradient accounts for.

    Args:
      log_probs: log-probabilities of the sampled tokens, [T].
      advantages: Q_t less the baseline, [T].
      mask: [T].
    """
    chex.assert_rank([log_probs, advantages, mask], 1)
    return -jnp.sum(log_probs * jax.lax.stop_gradient(advantages) * mask)


def entropy(logits: chex.Array, mask: chex.Array) -> chex.Array:
    """sum_t m_t H(G(. | prefix_t)), in nats for the sequence: logits [T, V], mask [T]."""
    chex.assert_rank([logits, mask], [2, 1])
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.sum(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1) * mask)


def binary_cross_entropy(logits: chex.Array, labels: chex.Array) -> chex.Array:
    """-y log D - (1 - y) log(1 - D) with D = sigmoid(logit), element by element.

    Uses log(1 - sigmoid(x)) = log_sigmoid(-x), so that no large logit gives infinity. A label of
    0.9 for real sequences is one-sided label smoothing (Salimans et al., 2016, section 3.4).

    Args:
      logits: any shape.
      labels: broadcastable to it, in [0, 1].
    """
    return -labels * jax.nn.log_sigmoid(logits) - (1 - labels) * jax.nn.log_sigmoid(-logits)
