"""Beam search over any step function (Sutskever et al., 2014, section 3.2)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp


class Beams(NamedTuple):
    """The W best sequences of every source, best first.

    Attributes:
      tokens: [B, W, T] int32, padded after the end.
      mask: [B, W, T], 1 up to the end token, which it includes.
      log_probs: [B, W], in nats for the whole sequence.
    """

    tokens: chex.Array
    mask: chex.Array
    log_probs: chex.Array


def search(
    step: Callable[[Any, chex.Array], tuple[Any, chex.Array]],
    state: Any,
    *,
    batch: int,
    width: int,
    length: int,
    bos: int,
    eos: int | None = None,
    pad: int | None = None,
    banned: Sequence[int] = (),
    forced: Sequence[int] = (),
) -> Beams:
    """Keeps the W most probable prefixes of every source at every step.

    Ended sequences stay in the beam with their log-probability, so that the result is the W most
    probable of all that were reached. Scores are sums, without length normalisation.

    Args:
      step: reads a token in every lane, (state, tokens [B W]) -> (state, logits [B W, V]).
      state: the state before the first token; leaves [B W, ...], source-major.
      batch: B.
      width: W.
      length: T.
      bos: the token read first.
      eos: the token that ends a sequence, or None.
      pad: the token written after the end; required with `eos`.
      banned: tokens that are never written.
      forced: the first tokens, given instead of searched.
    """
    given = jnp.full((length,), -1, jnp.int32).at[: len(forced)].set(jnp.array(forced, jnp.int32))
    rows = jnp.arange(batch)[:, None]

    def body(carry, inputs):
        t, force = inputs
        state, token, scores, ended, tokens = carry
        state, logits = step(state, token.reshape(-1))
        log_probs = jax.nn.log_softmax(logits, axis=-1).reshape(batch, width, -1)
        size = log_probs.shape[-1]
        allowed = jnp.ones((size,), bool)
        if banned:
            allowed = allowed.at[jnp.array(banned)].set(False)
        allowed = jnp.where(force >= 0, jnp.arange(size) == force, allowed)
        log_probs = jnp.where(allowed, log_probs, -jnp.inf)
        if eos is not None:
            stay = jnp.where(jnp.arange(size) == pad, 0.0, -jnp.inf)
            log_probs = jnp.where(ended[:, :, None], stay, log_probs)
        scores, flat = jax.lax.top_k((scores[:, :, None] + log_probs).reshape(batch, -1), width)
        parent, token = flat // size, (flat % size).astype(jnp.int32)
        lanes = (rows * width + parent).reshape(-1)
        state = jax.tree.map(lambda x: x[lanes], state)
        tokens = tokens[rows, parent].at[:, :, t].set(token)
        ended = ended[rows, parent]
        if eos is not None:
            ended = ended | (token == eos)
        return (state, token, scores, ended, tokens), None

    # All lanes of a source are the same at first: only one of them may be extended.
    scores = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))
    tokens = jnp.zeros((batch, width, length), jnp.int32)
    start = (
        state,
        jnp.full((batch, width), bos, jnp.int32),
        scores,
        jnp.zeros((batch, width), bool),
        tokens,
    )
    (_, _, scores, _, tokens), _ = jax.lax.scan(body, start, (jnp.arange(length), given))
    mask = jnp.ones(tokens.shape, jnp.float32)
    if eos is not None:
        ends = jnp.cumsum(tokens == eos, axis=-1)
        mask = ((ends == 0) | ((ends == 1) & (tokens == eos))).astype(jnp.float32)
    return Beams(tokens, mask, scores)
