"""Monte-Carlo search for sequences: the action value of every token of a sampled sequence.

Yu et al. (2017), arXiv:1609.05473, eq. 4: the value of token y_t after the prefix y_1 .. y_{t-1}
is the mean score that a judge gives to N completions of y_1 .. y_t, each drawn from a rollout
policy; the value of the last token is the score of the sequence itself.

Two networks are known only by functions and by states whose leaves lead with the lane:

- the rollout policy, `policy(state, token) -> (state, logits)`;
- the judge, `judge(state, token) -> (state, feature [lanes, U])`, which reads the sequence token
  by token, and `readout(features [lanes, T, U], mask [lanes, T]) -> scores [lanes]`.

Both have already read the sampled sequence once, and their states after every prefix are given:
no prefix is read again, and all rollouts of a prefix start from the one saved state.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from seqgan_jax.core import sampling


def action_values(
    policy: Callable[[Any, chex.Array], tuple[Any, chex.Array]],
    judge: Callable[[Any, chex.Array], tuple[Any, chex.Array]],
    readout: Callable[[chex.Array, chex.Array], chex.Array],
    *,
    tokens: chex.Array,
    mask: chex.Array,
    policy_states: Callable[[chex.Array], Any],
    judge_states: Any,
    features: chex.Array,
    key: chex.PRNGKey,
    example_id: chex.Array,
    num_rollouts: int,
    chunk: int,
    every: int = 1,
    keep: Callable[[chex.Array, chex.Array], Any] | None = None,
    shares: bool = False,
    eos: int | None = None,
    pad: int | None = None,
) -> chex.Array | tuple[chex.Array, Any]:
    """Estimates the action value of every token by Monte-Carlo rollouts.

    Lanes are source-major: the R lanes of source b are b R .. b R + R - 1. A chunk of consecutive
    prefixes completes as one batch, which stops as soon as each of its lanes has ended.

    Args:
      policy: one step of the rollout policy over lanes.
      judge: one step of the judge over lanes.
      readout: the judge's score of whole sequences, the reward.
      tokens: the sampled sequences, [B, T].
      mask: [B, T], 1 up to the end token, which it includes.
      policy_states: gives, for i = 1 .. T in an array [C], the policy's states after i inputs: the
        start token and the first i - 1 tokens; leaves [C, B, ...]. A function, so that states that
        share something of a sequence (a cache of keys and values) exist for C prefixes alone.
      judge_states: the judge's state after the first i + 1 tokens; leaves [T, B, ...].
      features: the judge's feature at every token, [B, T, U].
      key: key of the uniforms; row (example, prefix, rollout) has its own.
      example_id: [B], integers.
      num_rollouts: N, completions for each prefix.
      chunk: how many prefixes complete together; bounds memory.
      every: n, completes the prefixes of lengths 1, 1 + n, 1 + 2 n, ... alone, which costs a
        share of 1 / n; between them, and between the last of them and the whole sequence, values
        are linear in the length.
      keep: what else to return of completed sequences, from their features and masks as `readout`
        gets them; leaves that lead with the lane.
      shares: whether `readout` also takes `shared` and `lanes`, both static: how many first steps
        are alike in the `lanes` completions of a source. It is compiled for each chunk then.
      eos: the end token, or None where all sequences have length T.
      pad: the token written after the end; required with `eos`.

    Returns:
      Action values, [B, T]; 0 where the mask is 0. With `keep` also what it gave, [B, A, N, ...],
      for each of the A prefixes that are completed.
    """
    chex.assert_equal_shape([tokens, mask])
    chex.assert_equal_shape_prefix([tokens, features], 2)
    batch, length = tokens.shape
    rolled_out = -(-(length - 1) // every)
    chunk = max(1, min(chunk, rolled_out))
    lanes_per_source = chunk * num_rollouts
    chunks = -(-rolled_out // chunk)
    prefix_lengths = 1 + every * jnp.arange(chunks * chunk).reshape(chunks, chunk)

    def repeat(leaf):
        """[chunk, B, ...] -> [B * chunk * N, ...]."""
        leaf = jnp.repeat(jnp.swapaxes(leaf, 0, 1), num_rollouts, axis=1)
        return leaf.reshape(batch * lanes_per_source, *leaf.shape[2:])

    def complete(prefixes):
        last = jnp.minimum(prefixes, length) - 1
        judge_state = jax.tree.map(lambda x: x[last], judge_states)
        states = jax.tree.map(repeat, (policy_states(last + 1), judge_state))
        token = repeat(tokens.T[last])
        prefix = jnp.tile(jnp.repeat(prefixes, num_rollouts), batch)
        draws = sampling.uniforms(
            key,
            jnp.repeat(example_id, lanes_per_source),
            prefix * num_rollouts + jnp.tile(jnp.arange(num_rollouts), chunk * batch),
            length,
        )
        ended = repeat(mask.T[last]) == 0
        if eos is not None:
            ended |= token == eos
        return states, token, prefix, draws, ended

    def body(carry):
        s, (policy_state, judge_state), token, ended, written, lengths, draws, prefix = carry
        policy_state, logits = policy(policy_state, token)
        drawn = sampling.inverse_cdf(logits, jax.lax.dynamic_index_in_dim(draws, s, 1, False))
        token = drawn if pad is None else jnp.where(ended, pad, drawn)
        judge_state, feature = judge(judge_state, token)
        written = jax.lax.dynamic_update_index_in_dim(written, feature, s, 0)
        lengths = jnp.where(ended, lengths, prefix + s + 1)
        if eos is not None:
            ended |= token == eos
        return s + 1, (policy_state, judge_state), token, ended, written, lengths, draws, prefix

    def unfinished(carry):
        s, _, _, ended, _, _, _, prefix = carry
        return (s < length - 1) & jnp.any(~ended & (prefix + s < length))

    def judged(index, whole, whole_mask):
        if not shares:
            return readout(whole, whole_mask)
        branches = [
            functools.partial(readout, shared=1 + i * chunk * every, lanes=lanes_per_source)
            for i in range(chunks)
        ]
        return jax.lax.switch(index, branches, whole, whole_mask)

    def values_of(inputs):
        index, prefixes = inputs
        states, token, prefix, draws, ended = complete(prefixes)
        lanes = batch * lanes_per_source
        written = jnp.zeros((max(1, length - 1), lanes, features.shape[-1]), features.dtype)
        lengths = jnp.minimum(prefix, length)
        carry = (0, states, token, ended, written, lengths, draws, prefix)
        _, _, _, _, written, lengths, _, _ = jax.lax.while_loop(unfinished, body, carry)

        # Step i of a completed sequence is the prefix's own feature or the (i - prefix)-th written.
        steps = jnp.arange(length)
        written = jnp.swapaxes(written, 0, 1)
        source = jnp.clip(steps[None] - prefix[:, None], 0, length - 2)
        written = jnp.take_along_axis(written, source[:, :, None], axis=1)
        own = jnp.repeat(features, lanes_per_source, axis=0)
        whole = jnp.where((steps[None] < prefix[:, None])[:, :, None], own, written)
        whole_mask = (steps[None] < lengths[:, None]).astype(mask.dtype)
        scores = judged(index, whole, whole_mask)
        kept = jax.tree.map(
            lambda x: x.reshape(batch, chunk, num_rollouts, *x.shape[1:]),
            keep(whole, whole_mask) if keep else None,
        )
        return scores.reshape(batch, chunk, num_rollouts).mean(-1), kept

    # [chunks, B, chunk, ...] -> [B, A, ...]
    values, kept = jax.tree.map(
        lambda x: jnp.swapaxes(x, 0, 1).reshape(batch, -1, *x.shape[3:])[:, :rolled_out],
        jax.lax.map(values_of, (jnp.arange(chunks), prefix_lengths)),
    )
    final = readout(features, mask)
    if every > 1:
        values = _between(values, final, mask, every)
    else:
        values = jnp.pad(values, ((0, 0), (0, 1)))
    is_last = jnp.arange(length) == mask.sum(-1, keepdims=True) - 1
    values = jnp.where(is_last, final[:, None], values) * mask
    return (values, kept) if keep else values


def _between(values, final, mask, every):
    """Values of the prefixes 1, 1 + n, ... [B, A] and of whole sequences [B] -> [B, T]."""
    prefix = 1 + jnp.arange(mask.shape[1])
    whole = mask.sum(-1, keepdims=True)
    before = (prefix - 1) // every
    reached = jnp.minimum(1 + every * (before + 1), whole)
    known = jnp.pad(values, ((0, 0), (0, 2)))  # of prefixes that no sequence goes on from
    after = jnp.where(reached < whole, known[:, before + 1], final[:, None])
    steps = reached - (1 + every * before)
    share = (prefix - 1 - every * before) / jnp.maximum(steps, 1)
    return known[:, before] + share * (after - known[:, before])
