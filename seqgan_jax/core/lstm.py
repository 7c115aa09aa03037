"""Stacked long short-term memory layers (Hochreiter and Schmidhuber, 1997).

With the forget gate of Gers et al. (2000) and no peepholes:

    i, f, g, o = split(x W_x + h W_h + b, 4)
    c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h' = sigmoid(o) * tanh(c')
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Weights(NamedTuple):
    """One layer's weights; the four gates stand side by side in the order i, f, g, o.

    Attributes:
      input: [I, 4H].
      recurrent: [H, 4H].
      bias: [4H].
    """

    input: chex.Array
    recurrent: chex.Array
    bias: chex.Array


class State(NamedTuple):
    """One layer's state: output and cell, each [B, H] (or [B, T, H] for every step)."""

    hidden: chex.Array
    cell: chex.Array


def zero_state(batch: int, size: int, dtype=jnp.float32) -> State:
    """The all-zero state of `batch` sequences for a layer of `size` units."""
    return State(jnp.zeros((batch, size), dtype), jnp.zeros((batch, size), dtype))


def _cell(recurrent: chex.Array, state: State, projected: chex.Array) -> State:
    """One step from the projected input `x W_x + b`, [B, 4H]."""
    # sigmoid(x) = (1 + tanh(x / 2)) / 2: one tanh over all gates is faster than four functions.
    size = state.hidden.shape[-1]
    scale = jnp.where(jnp.arange(4 * size) // size == 2, 1.0, 0.5).astype(projected.dtype)
    gates = jnp.tanh((projected + state.hidden @ recurrent) * scale) * scale + (1 - scale)
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    cell = f * state.cell + i * g
    return State(o * jnp.tanh(cell), cell)


def step(weights: Weights, state: State, inputs: chex.Array) -> State:
    """Advances one layer by one step. inputs: [B, I]; returns the new state, [B, H]."""
    chex.assert_rank([inputs, state.hidden, state.cell], 2)
    return _cell(weights.recurrent, state, inputs @ weights.input + weights.bias)


def unroll(weights: Weights, state: State, inputs: chex.Array) -> State:
    """Runs one layer over whole sequences.

    The input projections of all steps are one matrix product before the scan, which then carries
    only the recurrent product.

    Args:
      weights: the layer's weights.
      state: the initial state, [B, H].
      inputs: [B, T, I].

    Returns:
      The states after every step, [B, T, H].
    """
    chex.assert_rank(inputs, 3)
    chex.assert_rank([state.hidden, state.cell], 2)
    projected = jnp.swapaxes(inputs, 0, 1) @ weights.input + weights.bias

    def body(carry, projected_t):
        carry = _cell(weights.recurrent, carry, projected_t)
        return carry, carry

    _, states = jax.lax.scan(body, state, projected)
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), states)


Between = Callable[[int, chex.Array], chex.Array]


def stack_step(
    layers: Sequence[Weights],
    states: Sequence[State],
    inputs: chex.Array,
    between: Between = lambda layer, x: x,
) -> tuple[State, ...]:
    """Advances stacked layers by one step; layer l reads the output of layer l - 1.

    Args:
      layers: weights from the lowest layer to the highest.
      states: their states, [B, H].
      inputs: [B, I].
      between: what happens to the input of layer l: (l, [B, H]).
    """
    chex.assert_equal(len(layers), len(states))
    new = []
    for i, (weights, state) in enumerate(zip(layers, states, strict=True)):
        new.append(step(weights, state, between(i, inputs)))
        inputs = new[-1].hidden
    return tuple(new)


def stack_unroll(
    layers: Sequence[Weights],
    states: Sequence[State],
    inputs: chex.Array,
    between: Between = lambda layer, x: x,
    *,
    remat: bool = False,
) -> tuple[State, ...]:
    """Runs stacked layers over whole sequences, one layer after the other.

    Args:
      layers: weights from the lowest layer to the highest.
      states: their initial states, [B, H].
      inputs: [B, T, I].
      between: what happens to the input of layer l (dropout in training): (l, [B, T, H]).
      remat: whether a layer is computed again for its gradient, from its inputs.

    Returns:
      Every layer's states after every step, [B, T, H].
    """
    chex.assert_equal(len(layers), len(states))
    unrolled, read = [], jax.checkpoint(unroll) if remat else unroll
    for i, (weights, state) in enumerate(zip(layers, states, strict=True)):
        unrolled.append(read(weights, state, between(i, inputs)))
        inputs = unrolled[-1].hidden
    return tuple(unrolled)
