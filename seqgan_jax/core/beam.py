"""Beam search over any step function (Sutskever et al., 2014, section 3.2).

Sequences are compared by log p(y) / lp(y), with the length penalty of Wu et al. (2016),
arXiv:1609.08144, eq. 14,

    lp(y) = ((5 + |y|) / (5 + 1))^alpha,

where |y| counts the end token. With alpha = 0 the most probable sequence is the best one.
"""

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
      log_probs: [B, W], in nats for the whole sequence; -inf where fewer than W were found.
      scores: [B, W], the log-probabilities over the length penalties.
    """

    tokens: chex.Array
    mask: chex.Array
    log_probs: chex.Array
    scores: chex.Array


class _Found(NamedTuple):
    """Sequences that have ended: tokens [B, W, T], log-probabilities and scores [B, W]."""

    tokens: chex.Array
    log_probs: chex.Array
    scores: chex.Array

    def merge(self, other: "_Found") -> "_Found":
        """The best W of both."""
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), self, other)
        scores, kept = jax.lax.top_k(both.scores, self.scores.shape[1])
        rows = jnp.arange(len(kept))[:, None]
        return _Found(both.tokens[rows, kept], both.log_probs[rows, kept], scores)


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
    length_penalty: float = 0.0,
) -> Beams:
    """Keeps the W most probable open prefixes of every source at every step, and the W best ends.

    A sequence that ends is kept if it is among the W most probable of that step. The search is over
    when no open prefix of any source can still reach its W best, whatever follows.

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
      length_penalty: alpha >= 0; larger is longer. It matters only where sequences end.
    """
    given = jnp.full((length,), -1, jnp.int32).at[: len(forced)].set(jnp.array(forced, jnp.int32))
    rows = jnp.arange(batch)[:, None]
    penalty = lambda tokens: ((5.0 + tokens) / 6.0) ** length_penalty

    def unfinished(carry):
        t, _, _, log_probs, found = carry
        # A log-probability only falls, and no sequence is divided by more than the longest.
        reachable = log_probs.max(-1) / penalty(length)
        return (t < length) & jnp.any(reachable > found.scores[:, -1])

    def body(carry):
        t, state, tokens, log_probs, found = carry
        last = jnp.where(t > 0, tokens[:, :, t - 1], bos)
        state, logits = step(state, last.reshape(-1))
        steps = jax.nn.log_softmax(logits, axis=-1).reshape(batch, width, -1)
        size = steps.shape[-1]
        allowed = jnp.ones((size,), bool)
        if banned:
            allowed = allowed.at[jnp.array(banned)].set(False)
        allowed = jnp.where(given[t] >= 0, jnp.arange(size) == given[t], allowed)
        candidates = jnp.where(allowed, log_probs[:, :, None] + steps, -jnp.inf)
        candidates = candidates.reshape(batch, -1)
        # At most W of the first 2 W end, since each prefix has one end: W can always go on.
        log_probs, flat = jax.lax.top_k(candidates, width if eos is None else 2 * width)
        parent, token = flat // size, (flat % size).astype(jnp.int32)
        tokens = tokens[rows, parent].at[:, :, t].set(token)
        if eos is not None:
            # Masked instead of cut: XLA sorts all candidates where their first ones are sliced.
            ends = (token == eos) & (jnp.arange(2 * width) < width)
            ended = jnp.where(ends, log_probs, -jnp.inf)
            found = found.merge(_Found(tokens, ended, ended / penalty(t + 1.0)))
            log_probs, kept = jax.lax.top_k(jnp.where(token == eos, -jnp.inf, log_probs), width)
            parent, tokens = parent[rows, kept], tokens[rows, kept]
        lanes = (rows * width + parent).reshape(-1)
        return t + 1, jax.tree.map(lambda x: x[lanes], state), tokens, log_probs, found

    # All lanes of a source are the same at first: only one of them may be extended.
    log_probs = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))
    tokens = jnp.full((batch, width, length), 0 if pad is None else pad, jnp.int32)
    none = jnp.full((batch, width), -jnp.inf)
    start = (0, state, tokens, log_probs, _Found(tokens, none, none))
    t, _, tokens, log_probs, found = jax.lax.while_loop(unfinished, body, start)
    # Prefixes that are still open are sequences where they are cut at T, and nothing before.
    cut = jnp.where(t == length, log_probs, -jnp.inf)
    found = found.merge(_Found(tokens, cut, cut / penalty(length)))
    mask = jnp.ones(tokens.shape, jnp.float32)
    if eos is not None:
        ends = jnp.cumsum(found.tokens == eos, axis=-1)
        mask = (ends - (found.tokens == eos) == 0).astype(jnp.float32)
    return Beams(found.tokens, mask, found.log_probs, found.scores)
