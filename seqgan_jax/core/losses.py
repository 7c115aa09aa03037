"""Losses, each written for one sequence; callers `vmap` over the batch.

Every function returns a sum or mean over the real tokens of that one sequence. `weighted_mean`
averages over a batch. Two functions of [N, H] rows take the output layer inside, so that logits
over a large vocabulary never exist all at once.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

# How many logits exist at once where the output layer is part of the loss. 5 MiB of them stay in a
# processor's cache.
_TILE = 5 * 2**18


def weighted_mean(values: chex.Array, weights: chex.Array) -> chex.Array:
    """sum_b w_b v_b / sum_b w_b over all entries; 0 where all weights are 0."""
    chex.assert_equal_shape([values, weights])
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1e-8)


def token_log_probs(logits: chex.Array, tokens: chex.Array) -> chex.Array:
    """log softmax(logits_t)[y_t]: logits [T, V], tokens [T] -> [T]."""
    chex.assert_rank([logits, tokens], [2, 1])
    picked = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)


class Projected(NamedTuple):
    """What `projected_log_likelihood` gives.

    Attributes:
      value: the weighted sum, a scalar; the only part that has a gradient.
      log_probs: of the tokens, in nats, [N]; 0 where the mask is 0.
      entropy: of the rows' distributions, in nats, [N]; 0 where the mask is 0.
    """

    value: chex.Array
    log_probs: chex.Array
    entropy: chex.Array


def projected_log_likelihood(
    hidden: chex.Array,
    kernel: chex.Array,
    bias: chex.Array,
    tokens: chex.Array,
    weights: chex.Array,
    entropy_weights: chex.Array | None = None,
    mask: chex.Array | None = None,
) -> Projected:
    """sum_n w_n log p_n[y_n] + e_n H(p_n) with p_n = softmax(h_n K + b), output layer included.

    With w = mask / tokens that is less the mean cross-entropy, with w = mask x advantage less the
    policy gradient's surrogate. Since the weights are known, the gradient by the logits,
    w (onehot(y) - p) - e p (log p + H), is formed in the forward pass from the same exponentials:
    three products in all, and no tile of logits is made twice.

    Args:
      hidden: [N, H].
      kernel: [H, V].
      bias: [V]; -inf excludes a token.
      tokens: [N], integers.
      weights: w, [N]; no gradient flows through it. Rows of weight 0 may have excluded tokens.
      entropy_weights: e, [N], likewise; None is 0 and cheaper.
      mask: 0 where both weights are 0 and nothing is asked of the row, [N]. Such rows, as padding
        is, cost next to nothing. None where all rows count.
    """
    chex.assert_rank([hidden, kernel, bias, tokens, weights], [2, 2, 1, 1, 1])
    weights, entropy_weights = jax.lax.stop_gradient((weights, entropy_weights))
    return _log_likelihood(hidden, _with_bias(kernel, bias), tokens, weights, entropy_weights, mask)


@jax.custom_vjp
def _log_likelihood(hidden, kernel, tokens, weights, entropy_weights, mask):
    return _log_likelihood_forward(hidden, kernel, tokens, weights, entropy_weights, mask)[0]


def _log_likelihood_forward(hidden, kernel, tokens, weights, entropy_weights, mask):
    def tile(kernel_gradient, rows):
        hidden, tokens, weights, entropy_weights = rows
        hidden = _with_one(hidden)
        logits = hidden @ kernel
        top = logits.max(-1, keepdims=True)
        exponentials = jnp.exp(logits - top)
        total = exponentials.sum(-1, keepdims=True)
        normaliser = top + jnp.log(total)
        log_probs = jnp.take_along_axis(logits, tokens[:, None], axis=-1) - normaliser
        finite = jnp.maximum(logits, -1e30)  # 0 x -inf is no number.
        entropy = normaliser - (exponentials * finite).sum(-1, keepdims=True) / total
        slope = weights[:, None]
        if entropy_weights is not None:
            slope = slope + entropy_weights[:, None] * (finite - normaliser + entropy)
        gradient = _at(tokens, logits, weights) - exponentials * (slope / total)
        kernel_gradient = kernel_gradient + hidden.T @ gradient
        return kernel_gradient, (gradient @ kernel[:-1].T, log_probs[:, 0], entropy[:, 0])

    rows = hidden, tokens, weights, entropy_weights
    kernel_gradient, found = _by_tiles(tile, jnp.zeros_like(kernel), kernel, rows, mask)
    hidden_gradient, log_probs, entropy = found
    value = jnp.where(weights == 0, 0.0, weights * log_probs).sum()  # padding may be excluded
    if entropy_weights is not None:
        value = value + jnp.vdot(entropy_weights, entropy)
    return Projected(value, log_probs, entropy), (hidden_gradient, kernel_gradient)


def _log_likelihood_backward(gradients, cotangents):
    hidden, kernel = gradients
    return hidden * cotangents.value, kernel * cotangents.value, None, None, None, None


_log_likelihood.defvjp(_log_likelihood_forward, _log_likelihood_backward)


def projected_log_probs(
    hidden: chex.Array,
    kernel: chex.Array,
    bias: chex.Array,
    tokens: chex.Array,
    mask: chex.Array | None = None,
) -> chex.Array:
    """log softmax(h_n K + b)[y_n], output layer included, for any loss of the log-probabilities.

    The logits are made tile by tile, and again for the gradient. A loss that is linear in the
    log-probabilities is faster with `projected_log_likelihood`.

    Args:
      hidden: [N, H].
      kernel: [H, V].
      bias: [V]; -inf excludes a token.
      tokens: [N], integers.
      mask: as of `projected_log_likelihood`.

    Returns:
      Log-probabilities, [N]; 0 where the mask is 0.
    """
    chex.assert_rank([hidden, kernel, bias, tokens], [2, 2, 1, 1])
    return _log_probs(hidden, _with_bias(kernel, bias), tokens, mask)


@jax.custom_vjp
def _log_probs(hidden, kernel, tokens, mask):
    return _log_probs_forward(hidden, kernel, tokens, mask)[0]


def _log_probs_forward(hidden, kernel, tokens, mask):
    def tile(nothing, rows):
        hidden, tokens = rows
        logits = _with_one(hidden) @ kernel
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        return nothing, (picked - normaliser, normaliser)

    _, (log_probs, normaliser) = _by_tiles(tile, (), kernel, (hidden, tokens), mask)
    return log_probs, (hidden, kernel, tokens, mask, normaliser)


def _log_probs_backward(saved, weights):
    hidden, kernel, tokens, mask, normaliser = saved

    def tile(kernel_gradient, rows):
        hidden, tokens, normaliser, weights = rows
        hidden = _with_one(hidden)
        logits = hidden @ kernel
        probabilities = jnp.exp(logits - normaliser[:, None])
        gradient = _at(tokens, logits, weights) - weights[:, None] * probabilities
        return kernel_gradient + hidden.T @ gradient, gradient @ kernel[:-1].T

    if mask is not None:
        weights = jnp.where(mask != 0, weights, 0.0)
    rows = hidden, tokens, normaliser, weights
    kernel_gradient, found = _by_tiles(tile, jnp.zeros_like(kernel), kernel, rows, mask)
    return found, kernel_gradient, None, None


_log_probs.defvjp(_log_probs_forward, _log_probs_backward)


def projected_divergence(
    hidden: chex.Array,
    kernel: chex.Array,
    bias: chex.Array,
    reference: tuple[chex.Array, chex.Array, chex.Array],
) -> chex.Array:
    """KL(p_n || q_n), p_n = softmax(h_n K + b), q_n likewise; output layers included, in nats.

    Both rows of logits are made tile by tile, and again for the gradient.

    Args:
      hidden: [N, H].
      kernel: [H, V].
      bias: [V]; -inf excludes a token, of q as well.
      reference: the same three of q; no gradient flows through them.

    Returns:
      [N].
    """
    chex.assert_rank([hidden, kernel, bias, *reference], [2, 2, 1, 2, 2, 1])
    other, other_kernel, other_bias = jax.lax.stop_gradient(reference)
    kernel, other_kernel = _with_bias(kernel, bias), _with_bias(other_kernel, other_bias)

    @jax.checkpoint
    def tile(rows):
        p, q = (
            jax.nn.log_softmax(jnp.maximum(_with_one(x) @ k, -1e30))
            for x, k in zip(rows, (kernel, other_kernel), strict=True)
        )
        return jnp.sum(jnp.exp(p) * jnp.where(p > -1e29, p - q, 0.0), axis=-1)

    return _untile(jax.lax.map(tile, _tiles(kernel, (hidden, other))), len(hidden))


def _with_bias(kernel, bias):
    """[H + 1, V]: as one more row of the product, the bias costs no pass over the logits."""
    return jnp.concatenate([kernel, bias[None]])


def _with_one(hidden):
    return jnp.pad(hidden, ((0, 0), (0, 1)), constant_values=1)


def _at(tokens, logits, values):
    """[N, V]: the rows' values at their tokens, 0 elsewhere; made in passing, unlike a scatter."""
    return jnp.where(jnp.arange(logits.shape[-1]) == tokens[:, None], values[:, None], 0)


def _by_tiles(tile, carry, kernel, rows, mask):
    """Scans `tile(carry, rows of a tile) -> (carry, found)` over all rows, leaves [N, ...].

    Rows whose mask is 0 are put behind the others, and what would be tiles of them alone is left
    out: there, what is found is 0.
    """
    number = len(rows[0])
    if mask is not None:
        order = jnp.argsort(mask == 0, stable=True)
        rows = jax.tree.map(lambda x: jnp.take(x, order, axis=0), rows)
    tiles = _tiles(kernel, rows)
    if mask is None:
        carry, found = jax.lax.scan(tile, carry, tiles)
        return carry, _untile(found, number)
    count, size = tiles[0].shape[:2]
    first = jax.tree.map(lambda x: x[0], tiles)
    found = jax.tree.map(
        lambda x: jnp.zeros((count, *x.shape), x.dtype), jax.eval_shape(tile, carry, first)[1]
    )

    def body(i, state):
        carry, found = state
        carry, new = tile(carry, jax.tree.map(lambda x: x[i], tiles))
        return carry, jax.tree.map(lambda all, one: all.at[i].set(one), found, new)

    real = jnp.sum(mask != 0)
    carry, found = jax.lax.fori_loop(0, (real + size - 1) // size, body, (carry, found))
    place, rest = jnp.argsort(order), mask == 0

    def back(x):
        return jnp.where(jnp.expand_dims(rest, range(1, x.ndim)), 0, x[place])

    return carry, jax.tree.map(back, _untile(found, number))


def _tiles(kernel, rows):
    """Leaves [N, ...] -> [tiles, rows of a tile, ...], filled up with zeros.

    A tile has at least H rows: adding its share to the kernel's gradient [H, V] then moves no more
    memory than its logits do.
    """
    number = len(rows[0])
    tiles = -(-number // max(_TILE // kernel.shape[1], kernel.shape[0]))
    size = -(-number // tiles)

    def tiled(x):
        x = jnp.pad(x, ((0, tiles * size - number),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(tiles, size, *x.shape[1:])

    return jax.tree.map(tiled, rows)


def _untile(rows, number):
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:number], rows)


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


def clipped_policy_gradient(
    log_probs: chex.Array,
    old_log_probs: chex.Array,
    advantages: chex.Array,
    mask: chex.Array,
    clip_ratio: float,
) -> chex.Array:
    """-sum_t m_t min(r_t A_t, clip(r_t, 1 - c, 1 + c) A_t), r_t = G(y_t | prefix) / G_old(y_t | .).

    Schulman et al. (2017), arXiv:1707.06347, eq. 7. Where G is the policy that sampled, r = 1 and
    the gradient is that of `policy_gradient`.

    Args:
      log_probs: log-probabilities of the sampled tokens, [T].
      old_log_probs: by the policy that sampled them, [T]; no gradient flows through it.
      advantages: A, [T], likewise.
      mask: [T].
      clip_ratio: c.
    """
    chex.assert_rank([log_probs, old_log_probs, advantages, mask], 1)
    old_log_probs, advantages = jax.lax.stop_gradient((old_log_probs, advantages))
    # Where there is no token its log-probability may be anything, and the ratio infinite.
    ratio = jnp.exp(jnp.where(mask > 0, log_probs - old_log_probs, 0.0))
    clipped = jnp.clip(ratio, 1 - clip_ratio, 1 + clip_ratio)
    return -jnp.sum(jnp.minimum(ratio * advantages, clipped * advantages) * mask)


def expected_reward(logits: chex.Array, values: chex.Array) -> tuple[chex.Array, chex.Array]:
    """sum_v p(v) r(v), whose gradient is the policy gradient summed over all actions; and H(p).

    Sutton et al. (2000), theorem 1, at given states: nothing is sampled, so no baseline is needed.

    Args:
      logits: [..., V].
      values: r, [..., V]; what is -inf in the logits counts for nothing.

    Returns:
      The expected reward and the entropy in nats, both [...].
    """
    chex.assert_equal_shape([logits, values])
    log_probs = jax.nn.log_softmax(logits)
    probs = jnp.exp(log_probs)
    possible = lambda x: jnp.where(probs > 0, probs * x, 0.0).sum(-1)
    return possible(values), -possible(jnp.where(probs > 0, log_probs, 0.0))


def guided_attention(
    weights: chex.Array, mask: chex.Array, source_mask: chex.Array, width: float = 0.2
) -> chex.Array:
    """How far attention is from going through the source at an even pace, 0 to 1, for a sequence.

    Tachibana et al. (2017), arXiv:1710.08969, eq. 5 and 6: (1 / T) sum_t sum_s A_ts W_ts with
    W_ts = 1 - exp(-(s / S - t / T)^2 / (2 g^2)), of S real positions and T real tokens. Where they
    take the mean over s too, this is the sum, since a step's weights add up to 1: so it doesn't
    depend on the source's length.

    Args:
      weights: A, [T, S], the weights of each step.
      mask: [T], 1 for the first, real tokens.
      source_mask: [S], likewise.
      width: g.
    """
    chex.assert_rank([weights, mask, source_mask], [2, 1, 1])
    chex.assert_shape(weights, (*mask.shape, *source_mask.shape))
    tokens, positions = jnp.maximum(mask.sum(), 1.0), jnp.maximum(source_mask.sum(), 1.0)
    source, target = jnp.arange(len(source_mask)) / positions, jnp.arange(len(mask)) / tokens
    away = 1 - jnp.exp(-jnp.square(source[None] - target[:, None]) / (2 * width**2))
    return jnp.sum(weights * away * mask[:, None] * source_mask[None]) / tokens


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
