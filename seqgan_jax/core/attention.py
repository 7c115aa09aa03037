"""Additive and multiplicative attention over a source, and multi-head attention with rotary
positions and a cache of past steps."""

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
    """Weights of additive attention, whose scores are v . tanh(W_q q + W_k m_s) (Bahdanau et al.,
    2015, eq. 6): query [H, A], key [F, A], score [A].
    """

    query: chex.Array
    key: chex.Array
    score: chex.Array


class Multiplicative(NamedTuple):
    """Weights of multiplicative attention, whose scores are (W_q q) . (W_k m_s) / sqrt(A) (Luong et
    al., 2015, eq. 8, 'general', its matrix in two factors): query [H, A], key [F, A].
    """

    query: chex.Array
    key: chex.Array


def source_keys(weights: Additive | Multiplicative, memory: chex.Array) -> chex.Array:
    """Projects the source once for all later queries: [B, S, F] -> [B, S, A]."""
    chex.assert_rank(memory, 3)
    return memory @ weights.key


def read_source(
    weights: Additive | Multiplicative,
    query: chex.Array,
    keys: chex.Array,
    values: chex.Array,
    mask: chex.Array | None = None,
) -> tuple[chex.Array, chex.Array]:
    """The mean of the source's positions by the softmax of their scores, for every query.

    Queries may be R lanes for each source, source-major: lanes b R .. b R + R - 1 read source b,
    so the source is never copied R times.

    Args:
      weights: which say how positions are scored.
      query: [B R, H].
      keys: [B, S, A], from `source_keys`.
      values: [B, S, F], what is averaged.
      mask: [B, S], nonzero where a source position exists; a source without any gives zeros.

    Returns:
      The context, [B R, F], and the attention weights, [B R, S].
    """
    chex.assert_rank([query, keys, values], [2, 3, 3])
    batch, _, size = keys.shape
    projected = (query @ weights.query).reshape(batch, -1, size)
    if isinstance(weights, Additive):
        scores = _scores(projected, keys, weights.score)
    else:
        scores = (projected * size**-0.5) @ keys.swapaxes(1, 2)
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
    """Keys and values of T steps, each [B, K, T, D].

    A head's steps stand side by side, so that no step of a search copies the cache to multiply it.
    """

    key: chex.Array
    value: chex.Array


def empty_cache(weights: MultiHead, batch: int, length: int) -> Cache:
    """A cache for `batch` sequences of at most `length` steps."""

    def empty(weight):
        _, heads, size = weight.shape
        return jnp.zeros((batch, heads, length, size), weight.dtype)

    return Cache(empty(weights.key), empty(weights.value))


def append(cache: Cache, new: Cache, position: chex.Array) -> Cache:
    """Writes one step's keys and values, [B, K, 1, D], to each lane's own position, [B].

    Positions that the cache doesn't have are written nowhere.
    """
    chex.assert_rank(position, 1)
    lanes = jnp.arange(len(position))
    return jax.tree.map(
        lambda old, x: old.at[lanes, :, position].set(x[:, :, 0], mode="drop"), cache, new
    )


def rotate(x: chex.Array, positions: chex.Array) -> chex.Array:
    """Rotary positions (Su et al., 2021, arXiv:2104.09864, eq. 34).

    Components i and i + D/2 of a query or key at position p turn by the angle p 10000^(-2i/D), so
    that a query's product with a key depends on how far apart they are.

    Args:
      x: [..., T, D], D even.
      positions: [T], or broadcastable to [..., T].
    """
    half = x.shape[-1] // 2
    angles = positions[..., None] * 10_000.0 ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def queries(weights: MultiHead, inputs: chex.Array) -> chex.Array:
    """What the heads look for: [B, Q, U] -> [B, K, Q, D]."""
    return jnp.einsum("bqu,ukd->bkqd", inputs, weights.query)


def keys_values(weights: MultiHead, memory: chex.Array) -> Cache:
    """What the heads find at every step: [B, T, U] -> keys and values, [B, K, T, D]."""
    project = lambda weight: jnp.einsum("btu,ukd->bktd", memory, weight)
    return Cache(project(weights.key), project(weights.value))


def read(
    query: chex.Array, cache: Cache, mask: chex.Array | None = None
) -> tuple[chex.Array, chex.Array]:
    """Scaled dot-product attention of projected queries (Vaswani et al., 2017, eq. 1).

    Queries may be R lanes for each row of the cache, source-major, so that the keys and values of a
    source are never copied R times.

    Args:
      query: [B R, K, Q, D], from `queries`.
      cache: [B, K, T, D], from `keys_values`.
      mask: nonzero where a query may see step t; broadcastable to [B, Q, T], and to [B, R Q, T]
        for several lanes. A query that may see nothing reads zeros.

    Returns:
      Every head's read-out, [B R, Q, K, D], and the attention weights, [B, K, R Q, T].
    """
    chex.assert_rank([query, cache.key, cache.value], 4)
    lanes, heads, steps, size = query.shape
    sources = len(cache.key)
    if lanes != sources:
        query = query.reshape(sources, -1, heads, steps, size).swapaxes(1, 2)
        query = query.reshape(sources, heads, -1, size)
    scores = jnp.einsum("bkqd,bktd->bkqt", query * size**-0.5, cache.key)
    attention = _masked_softmax(scores, None if mask is None else (mask > 0)[:, None])
    found = jnp.einsum("bkqt,bktd->bqkd", attention, cache.value)
    return found.reshape(lanes, steps, heads, -1), attention


def multi_head(
    weights: MultiHead, query: chex.Array, memory: chex.Array, mask: chex.Array
) -> chex.Array:
    """Multi-head attention (Vaswani et al., 2017, section 3.2.2), without its output layer.

    Args:
      weights: see `MultiHead`.
      query: [B, Q, U].
      memory: [B, T, U], what is attended to.
      mask: broadcastable to [B, Q, T]; nonzero where query q may see step t.

    Returns:
      Every head's read-out, [B, Q, K, D]; zeros for a query that may see nothing.
    """
    chex.assert_rank([query, memory, mask], 3)
    return read(queries(weights, query), keys_values(weights, memory), mask)[0]


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
