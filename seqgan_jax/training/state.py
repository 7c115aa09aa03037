"""Everything that a resumed run needs, as one pytree."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax
import jax
import jax.numpy as jnp

from seqgan_jax.core.rejection import Calibration


@flax.struct.dataclass
class Network:
    """A network's parameters and its optimiser's state."""

    params: Any
    optimizer: Any


@flax.struct.dataclass
class Safety:
    """What the guards remember of the current phase; see `phases.Guard`.

    Attributes:
      skipped: updates skipped because their loss or gradient was not finite, in the whole run.
      in_a_row: of these, the newest ones of each network without another of it between them, [2]
        in the order of `phases.NETWORKS`.
      rollbacks: how often the phase went back to a checkpoint.
      scale: factor of the learning rates.
      entropy: of samples, in nats per token, [2]: at the phase's first policy gradient, and a
        moving average; NaN before there is one.
    """

    skipped: chex.Array
    in_a_row: chex.Array
    rollbacks: chex.Array
    scale: chex.Array
    entropy: chex.Array


@flax.struct.dataclass
class Stopping:
    """What the end of the current phase depends on; see `phases.Stop`.

    Attributes:
      best: of each of the phase's metrics for stopping, higher is better, [K].
      start: the same at the phase's start, where it has to regain them, [K].
      waited: evaluations since one of them improved.
      stopped: whether the phase has ended, though not all of its steps are done.
    """

    best: chex.Array
    start: chex.Array
    waited: chex.Array
    stopped: chex.Array


@flax.struct.dataclass
class Ratio:
    """Whether the discriminator takes its turns, where its accuracy is held in a band.

    Attributes:
      accuracy: the newest on held-out data.
      trains: whether its turns are taken.
    """

    accuracy: chex.Array
    trains: chex.Array


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
      reverse: the generator of sources from targets; None in a run without one.
      rollout: parameters of the rollout policy, a slowly updated copy of the generator's.
      baseline: the expected action value at every position, [T].
      pool: generated sequences that the discriminator learns from for a while, [P, T] int32, or
        None where every update has new ones.
      reference: the generator's parameters at the start of the last phase with a `kl` loss, or None
        in a run without one.
      safety: of the guards.
      stopping: of early stopping.
      ratio: of the adaptive ratio of updates.
      calibration: of the discriminator, for rejection sampling; as it is before a phase that
        updates neither network has found it.
    """

    step: chex.Array
    phase: chex.Array
    phase_step: chex.Array
    key: chex.Array
    generator: Network
    discriminator: Network
    reverse: Network | None
    rollout: Any
    baseline: chex.Array
    pool: chex.Array | None
    reference: Any
    safety: Safety
    stopping: Stopping
    ratio: Ratio
    calibration: Calibration


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


def silence(params: dict[str, Any], layers: Sequence[str], noise_size: int) -> dict[str, Any]:
    """The parameters with zeros where these layers read noise, the last `noise_size` inputs."""
    silent = dict(params)
    for name in layers if noise_size else ():
        if name in params:
            kernel = params[name]["kernel"]
            kernel = kernel.at[len(kernel) - noise_size :].set(0.0)
            silent[name] = params[name] | {"kernel": kernel}
    return silent


def _fits(ours, to) -> bool:
    return not jnp.ndim(to) or (ours.shape[1:] == to.shape[1:] and len(ours) >= len(to))


def path(keys: tuple) -> str:
    """A parameter's path in its network as text, 'encoder/conv_0/kernel' for example."""
    return "/".join(str(key.key) for key in keys)


def only(tree: Any, chosen: Any) -> Any:
    """The tree with None in place of the leaves that aren't chosen (booleans, one a leaf)."""
    return jax.tree.map(lambda leaf, ours: leaf if ours else None, tree, chosen)


def merge(some: Any, whole: Any) -> Any:
    """`whole` with the leaves that `some`, which has None in place of others, has."""
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, some, whole, is_leaf=lambda leaf: leaf is None)


def per_parameter(function: Callable[..., Any], *optimizers: Any) -> Any:
    """Applies a function to those parts of optimisers' states that are trees like the parameters.

    What else there is, such as the number of updates, is that of the first.
    """
    is_tree = lambda x: isinstance(x, dict)
    return jax.tree.map(
        lambda *x: function(*x) if is_tree(x[0]) else x[0], *optimizers, is_leaf=is_tree
    )
