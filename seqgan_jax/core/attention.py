"""Additive attention over a source, and causal multi-head attention over a target."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


def _masked_softmax(scores: chex.Array, mask: chex.Array | None) -> chex.Array:
    """Softmax over the last axis; zeros where the mask admits nothing."""
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    scores = jnp.where(mask, scores, -jnp.inf)
    top = jnp.max(scores, axis=-1, keepdims=True)
    exponentials = jnp.exp(scores - jnp.where(jnp.isfinite(top), top, 0.0))
    return exponentials / jnp.maximum(exponentials.sum(-1, keepdims=True), 1e-30)


class Additive(NamedTuple):
    """Weights of additive attention: query [H, A], key [F, A], score [A]."""

    query: chex.Array
    key: chex.Array
    score: chex.Array


def additive_keys(weights: Additive, memory: chex.Array) -> chex.Array:
    """Projects the source once for all later queries: [B, S, F] -> [B, S, A]."""
    chex.assert_rank(memory, 3)
    return memory @ weights.key


def additive(
    weights: Additive,
    query: chex.Array,
    keys: chex.Array,
    values: chex.Array,
    mask: chex.Array | None = None,
) -> tuple[chex.Array, chex.Array]:
    """Additive attention, `softmax_s(v . tanh(W_q q + W_k m_s))` (Bahdanau et al., 2015, eq. 6).

    Queries may be R lanes for each source, source-major: lanes b R .. b R + R - 1 read source b,
    so the source is never copied R times.

    Args:
      weights: see `Additive`.
      query: [B R, H].
      keys: [B, S, A], from `additive_keys`.
      values: [B, S, F], what is averaged.
      mask: [B, S], nonzero where a source position exists; a source without any gives zeros.

    Returns:
      The context, [B R, F], and the attention weights, [B R, S].
    """
    chex.assert_rank([query, keys, values], [2, 3, 3])
    batch = keys.shape[0]
    projected = (query @ weights.query).reshape(batch, -1, keys.shape[-1])
    scores = _scores(projected, keys, weights.score)
    attention = _masked_softmax(scores, None if mask is None else (mask > 0)[:, None])
    context = attention @ values
    return context.reshape(-1, values.shape[-1]), attention.reshape(-1, keys.shape[1])


@jax.custom_vjp
def _scores(query: chex.Array, keys: chex.Array, score: chex.Array) -> chex.Array:
    """v . tanh(q_l + k_s) for all lanes l of a source: [B, R, A], [B, S, A], [A] -> [B, R, S].

    [B, R, S, A] is the largest array of additive attention. It is made for a few sources at a time,
    so that it stays in a processor's cache, and again for the gradient instead of being kept.
    """
    return jax.lax.map(
        lambda rows: _tanh(*rows) @ score, (query, keys), batch_size=_group(query, keys)
    )


# How many of the entries of [B, R, S, A] exist at once: 1 MiB stays in a processor's cache.
_TILE = 2**18


def _group(query, keys):
    """How many sources at a time."""
    return max(1, _TILE // (query.shape[1] * keys[0].size))


def _tanh(query, keys):
    return jnp.tanh(query[:, None] + keys[None])


def _scores_forward(query, keys, score):
    return _scores(query, keys, score), (query, keys, score)


def _scores_backward(saved, cotangent):
    query, keys, score = saved

    def gradients(rows):
        query, keys, cotangent = rows
        tanh = _tanh(query, keys)
        inner = cotangent[:, :, None] * (1 - tanh * tanh)
        along = cotangent.reshape(-1) @ tanh.reshape(-1, tanh.shape[-1])
        return inner.sum(1) * score, inner.sum(0) * score, along

    query, keys, score = jax.lax.map(
        gradients, (query, keys, cotangent), batch_size=_group(query, keys)
    )
    return query, keys, score.sum(0)


_scores.defvjp(_scores_forward, _scores_backward)


class MultiHead(NamedTuple):
    """Weights of multi-head attention with K heads of size D: query, key, value, each [U, K, D]."""

    query: chex.Array
    key: chex.Array
    value: chex.Array


class Cache(NamedTuple):
    """Keys and values of the steps seen so far, each [B, T, K, D]."""

    key: chex.Array
    value: chex.Array


def empty_cache(weights: MultiHead, batch: int, length: int) -> Cache:
    """A cache for `batch` sequences of at most `length` steps."""
    shape = (batch, length, *weights.key.shape[1:])
    return Cache(jnp.zeros(shape, weights.key.dtype), jnp.zeros(shape, weights.value.dtype))


def multi_head(
    weights: MultiHead, query: chex.Array, memory: chex.Array, mask: chex.Array
) -> chex.Array:
    """Scaled dot-product attention with K heads (Vaswani et al., 2017, eq. 1).

    Args:
      weights: see `MultiHead`.
      query: [B, Q, U].
      memory: [B, T, U], what is attended to.
      mask: broadcastable to [B, Q, T]; nonzero where query q may see step t.

    Returns:
      Every head's read-out, [B, Q, K, D]; zeros for a query that may see nothing.
    """
    chex.assert_rank([query, memory, mask], 3)
    cache = Cache(
        jnp.einsum("btu,ukd->btkd", memory, weights.key),
        jnp.einsum("btu,ukd->btkd", memory, weights.value),
    )
    return _read(weights, query, cache, mask)


def _read(weights: MultiHead, query: chex.Array, cache: Cache, mask: chex.Array) -> chex.Array:
    queries = jnp.einsum("bqu,ukd->bqkd", query, weights.query) * weights.query.shape[-1] ** -0.5
    scores = jnp.einsum("bqkd,btkd->bkqt", queries, cache.key)
    attention = _masked_softmax(scores, (mask > 0)[:, None])
    return jnp.einsum("bkqt,btkd->bqkd", attention, cache.value)


def causal_multi_head(weights: MultiHead, inputs: chex.Array, mask: chex.Array) -> chex.Array:
    """Multi-head self-attention in which step i sees the real steps 1 .. i.

    Args:
      weights: see `MultiHead`.
      inputs: [B, T, U].
      mask: [B, T], nonzero for real steps.

    Returns:
      [B, T, K, D].
    """
    chex.assert_equal_shape_prefix([inputs, mask], 2)
    steps = jnp.arange(inputs.shape[1])
    visible = (steps[:, None] >= steps[None, :]) & (mask > 0)[:, None, :]
    return multi_head(weights, inputs, inputs, visible)


def causal_multi_head_step(
    weights: MultiHead, cache: Cache, inputs: chex.Array, position: chex.Array
) -> tuple[Cache, chex.Array]:
    """Advances causal multi-head attention by one step.

    Args:
      weights: see `MultiHead`.
      cache: keys and values of steps 0 .. position - 1.
      inputs: the new step, [B, U].
      position: its index, a scalar.

    Returns:
      The cache with the new step, and every head's read-out at it, [B, K, D].
    """
    chex.assert_rank(inputs, 2)
    new = Cache(
        jnp.einsum("bu,ukd->bkd", inputs, weights.key),
        jnp.einsum("bu,ukd->bkd", inputs, weights.value),
    )
    cache = jax.tree.map(
        lambda old, x: jax.lax.dynamic_update_index_in_dim(old, x, position, axis=1), cache, new
    )
    visible = (jnp.arange(cache.key.shape[1]) <= position)[None, None, :]
    return cache, _read(weights, inputs[:, None], cache, visible)[:, 0]
