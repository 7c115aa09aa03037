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
    """

    step: chex.Array
    phase: chex.Array
    phase_step: chex.Array
    key: chex.Array
    generator: Network
    discriminator: Network
    rollout: Any
    baseline: chex.Array


def copy(tree: Any) -> Any:
    """A copy with buffers of its own: a donated state must not hold one buffer twice."""
    return jax.tree.map(jnp.copy, tree)
