"""Exact sampling of tokens and of whole sequences from a step function.

A network is known here by one function, `step(state, token) -> (state, logits, extra)`, and by a
state whose leaves lead with the lane.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

StepFn = Callable[[Any, chex.Array], tuple[Any, chex.Array, Any]]


class Truncation(NamedTuple):
    """What is done to the distribution before a token is drawn from it.

    Attributes:
      temperature: the logits are divided by it; must be above 0.
      top_k: only the k most probable tokens stay (and those that tie with the k-th); 0 keeps all.
      top_p: only the smallest set of most probable tokens whose mass reaches p stays (Holtzman et
        al., 2020, nucleus sampling); 1 keeps all.
      banned: tokens that are never drawn.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    banned: tuple[int, ...] = ()


def truncate(logits: chex.Array, truncation: Truncation) -> chex.Array:
    """Applies a `Truncation`, ban first, to logits [B, V]; excluded tokens get -inf."""
    chex.assert_rank(logits, 2)
    if truncation.banned:
        logits = logits.at[:, jnp.array(truncation.banned)].set(-jnp.inf)
    if truncation.temperature != 1.0:
        logits = logits / truncation.temperature
    if 0 < truncation.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, truncation.top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if truncation.top_p < 1.0:
        descending = -jnp.sort(-logits, axis=-1)
        probabilities = jax.nn.softmax(descending, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = before < truncation.top_p
        least = jnp.min(jnp.where(kept, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    return logits


def inverse_cdf(logits: chex.Array, uniforms: chex.Array) -> chex.Array:
    """Draws token i of each row with probability softmax(logits)_i, exactly, from one uniform.

    The token is the first whose cumulative probability exceeds the uniform. The cumulative sum has
    two levels, over blocks of about sqrt(V) tokens and then within the block that is hit, so that
    only O(sqrt(V)) sequential additions are made. A token of probability zero is never drawn.

    Args:
      logits: [B, V]; -inf excludes a token.
      uniforms: [B], in [0, 1).

    Returns:
      Tokens, [B] int32.
    """
    return _draw(logits, uniforms)[0]


def _draw(logits: chex.Array, uniforms: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Tokens as in `inverse_cdf`, and their log-probabilities from the same exponentials, [B]."""
    chex.assert_rank([logits, uniforms], [2, 1])
    batch, size = logits.shape
    root = max(1, round(size**0.5))
    # A width that divides V spares a copy of all logits; without one near sqrt(V) they are padded.
    width = next((w for w in range(root, 2 * root) if size % w == 0), root)
    blocks = -(-size // width)
    if size % width:
        padding = ((0, 0), (0, blocks * width - size))
        logits = jnp.pad(logits, padding, constant_values=-jnp.inf)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    weights = weights.reshape(batch, blocks, width)

    sums = weights.sum(-1)
    cumulative = _cumulative_sum(sums)
    total = cumulative[:, -1:]
    threshold = uniforms[:, None] * total
    block = _first_above(cumulative, threshold, sums)
    before = jnp.take_along_axis(cumulative - sums, block, axis=-1)
    inside = jnp.take_along_axis(weights, block[:, :, None], axis=1)[:, 0]
    token = _first_above(_cumulative_sum(inside), threshold - before, inside)
    log_probs = jnp.log(jnp.take_along_axis(inside, token, axis=-1) / total)
    return (block * width + token)[:, 0].astype(jnp.int32), log_probs[:, 0]


def _cumulative_sum(weights: chex.Array) -> chex.Array:
    """Cumulative sums along the last axis, as a product with a triangle of ones.

    For some hundred terms that is faster than `jnp.cumsum`; the precision is stated because
    accelerators may round a product's factors.
    """
    triangle = jnp.triu(jnp.ones((weights.shape[-1],) * 2, weights.dtype))
    return jnp.matmul(weights, triangle, precision=jax.lax.Precision.HIGHEST)


def _first_above(cumulative: chex.Array, threshold: chex.Array, weights: chex.Array) -> chex.Array:
    """The first entry above the threshold; the last of positive weight if rounding leaves none."""
    above = (cumulative > threshold) & (weights > 0)
    last = weights.shape[-1] - 1 - jnp.argmax((weights > 0)[:, ::-1], axis=-1, keepdims=True)
    return jnp.where(above.any(-1, keepdims=True), jnp.argmax(above, -1, keepdims=True), last)


def uniforms(
    key: chex.PRNGKey, example_id: chex.Array, sample_index: chex.Array, length: int
) -> chex.Array:
    """Uniforms in [0, 1) that depend on the example and the sample, not on the batch's layout.

    Args:
      key: one key for the whole draw.
      example_id: [B], integers.
      sample_index: [B], integers: which of an example's samples this is.
      length: how many uniforms a row.

    Returns:
      [B, length].
    """
    chex.assert_rank([example_id, sample_index], 1)

    def row(example, sample):
        return jax.random.uniform(
            jax.random.fold_in(jax.random.fold_in(key, example), sample), (length,)
        )

    return jax.vmap(row)(example_id, sample_index)


class Samples(NamedTuple):
    """Sampled sequences.

    Attributes:
      tokens: [B, T] int32, padded after the end.
      mask: [B, T] float32, 1 up to the end token, which it includes.
      log_probs: [B, T], each token's log-probability under the untruncated distribution at
        temperature 1, 0 after the end.
      extras: what the step function gave beside the logits, stacked [T, B, ...].
    """

    tokens: chex.Array
    mask: chex.Array
    log_probs: chex.Array
    extras: Any


def sample(
    step: StepFn,
    state: Any,
    draws: chex.Array,
    *,
    bos: int,
    eos: int | None = None,
    pad: int | None = None,
    truncation: Truncation = Truncation(),  # noqa: B008 (a NamedTuple is immutable)
    forced: Sequence[int] = (),
    observe: Callable[[Any, chex.Array], tuple[Any, Any]] | None = None,
    observer: Any = None,
) -> Samples:
    """Samples whole sequences, one token after another.

    Args:
      step: reads a token and gives the next one's logits, [B, V].
      state: its state before the first token.
      draws: the uniforms, [B, T].
      bos: the token read first.
      eos: the token that ends a sequence, or None.
      pad: the token written after the end; required with `eos`.
      truncation: what is done to the distribution.
      forced: the first tokens, given instead of drawn (a prefix).
      observe: a second network that reads each token as it is drawn, (its state, token) ->
        (its state, what to keep); its results join the extras.
      observer: that network's state.
    """
    chex.assert_rank(draws, 2)
    batch, length = draws.shape
    given = jnp.full((length,), -1, jnp.int32).at[: len(forced)].set(jnp.array(forced, jnp.int32))

    def body(carry, inputs):
        state, observer, token, done = carry
        uniform, force = inputs
        state, logits, extra = step(state, token)
        token, log_probs = _draw(truncate(logits, truncation), uniform)
        if forced or truncation != Truncation():
            token = jnp.where(force >= 0, force, token)
            picked = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
            log_probs = picked - jax.nn.logsumexp(logits, axis=-1)
        alive = ~done
        if eos is not None:
            token = jnp.where(done, pad, token)
            done = done | (token == eos)
        seen = None
        if observe is not None:
            observer, seen = observe(observer, token)
        kept = (token, alive, jnp.where(alive, log_probs, 0.0), (extra, seen))
        return (state, observer, token, done), kept

    start = (state, observer, jnp.full((batch,), bos, jnp.int32), jnp.zeros((batch,), bool))
    _, (tokens, alive, log_probs, extras) = jax.lax.scan(body, start, (draws.T, given))
    return Samples(tokens.T, alive.T.astype(jnp.float32), log_probs.T, extras)
