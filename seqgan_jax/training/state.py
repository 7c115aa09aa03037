"""Everything that a resumed run needs, as one pytree."""

from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Network:
    """A network's parameters and its optimiser's state."""

    params: Any
    optimizer: Any


@flax.struct.dataclass
class TrainState:
    """The whole of a training run between two steps.

    Attributes:
      step: updates done so far, of any network, in all phases.
      phase: index of the current phase.
      phase_step: updates done in it.
      key: the run's random key data; each step folds its number in, so it never changes.
      generator: the generator.
      discriminator: the discriminator.
      rollout: parameters of the rollout policy, a slowly updated copy of the generator's.
      baseline: the expected action value at every position, [T].
      pool: generated sequences that the discriminator learns from for a while, [P, T] int32, or
        None where every update has new ones.
    """

    step: chex.Array
    phase: chex.Array
    phase_step: chex.Array
    key: chex.Array
    generator: Network
    discriminator: Network
    rollout: Any
    baseline: chex.Array
    pool: chex.Array | None


def copy(tree: Any) -> Any:
    """A copy with buffers of its own: a donated state must not hold one buffer twice."""
    return jax.tree.map(jnp.copy, tree)


def transfer(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """`theirs` with the parameters of `ours` wherever names and shapes agree.

    Where only the first axis of ours is longer, as that of a layer which also reads noise, its
    first rows.
    """
    moved = {}
    for name, to in theirs.items():
        if isinstance(to, dict):
            moved[name] = transfer(ours.get(name, {}), to)
        elif name in ours and jnp.ndim(ours[name]) == jnp.ndim(to) and _fits(ours[name], to):
            moved[name] = jnp.copy(ours[name][: len(to)] if jnp.ndim(to) else ours[name])
        else:
            moved[name] = to
    return moved


def _fits(ours, to) -> bool:
    return not jnp.ndim(to) or (ours.shape[1:] == to.shape[1:] and len(ours) >= len(to))
