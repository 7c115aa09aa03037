"""Several seeds in one run: replicas that differ in nothing else, trained together by `vmap`.

A replicated state is a `TrainState` whose leaves lead with the replica, but for the place in the
schedule, which all replicas share. R is the number of replicas.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.evaluation.report import Metric
from seqgan_jax.training.state import TrainState

_OWN = (
    "key",
    "generator",
    "discriminator",
    "reverse",
    "rollout",
    "baseline",
    "pool",
    "reference",
    "safety",
    "ratio",
    "calibration",
)
# Where each part of a state has the replica's axis, for `vmap`.
AXES = TrainState(step=None, phase=None, phase_step=None, stopping=None, **dict.fromkeys(_OWN, 0))


def stack(states: Sequence[TrainState]) -> TrainState:
    """States of R runs at one place of the schedule as one; a single one stays as it is."""
    if len(states) == 1:
        return states[0]
    stacked = lambda name: jax.tree.map(
        lambda *x: jnp.stack(x), *(getattr(state, name) for state in states)
    )
    return states[0].replace(**{name: stacked(name) for name in _OWN})


def one(state: TrainState, replica: int) -> TrainState:
    """The state that a replica would have as a run of its own."""
    own = lambda name: jax.tree.map(lambda x: x[replica], getattr(state, name))
    return state.replace(**{name: own(name) for name in _OWN})


def together(function: Callable, *others: int | None, gives: Any = AXES) -> Callable:
    """A function of a state, of all replicas at once.

    Args:
      function: of a state, of arrays, and of keywords that are the same for all.
      *others: whether its other arguments lead with the replica (0) or are shared (None).
      gives: the axes of what it gives.
    """

    def mapped(state, *args, **kwargs):
        axes = (AXES, *others[: len(args)])
        return jax.vmap(lambda *args: function(*args, **kwargs), axes, gives)(state, *args)

    return mapped


def batches(streams: Sequence[Iterator[dict]]) -> Iterator[dict]:
    """Batches of every replica, [R, B, ...]; those of a single one stay as they are."""
    if len(streams) == 1:
        return streams[0]
    return (jax.tree.map(lambda *x: np.stack(x), *each) for each in zip(*streams, strict=True))


def scalars(found: Mapping[str, Any]) -> dict[str, float]:
    """Scalars of a step: their means over replicas, and as 'spread/NAME' standard deviations.

    Of the guards' the one that is worst.
    """
    told = {}
    for name, value in found.items():
        value = np.asarray(value, float)
        if name.startswith("guard/"):
            told[name] = float(value.min() if name.endswith("entropy") else value.max())
        else:
            told[name] = _mean(value)
            if value.ndim:
                told[f"spread/{name}"] = float(value.std(ddof=1))
    return told


def figures(found: Sequence[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Figures of R replicas as means over them, with the standard error of that; n is R."""
    if len(found) == 1:
        return dict(found[0])
    return {
        name: Metric.mean([_number(each[name].value) for each in found], found[0][name].unit)
        for name in found[0]
        if all(name in each for each in found)
    }


def spreads(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Standard deviations over replicas, from what `figures` found of several."""
    return {
        name: metric.stderr * math.sqrt(metric.n)
        for name, metric in metrics.items()
        if metric.stderr is not None
    }


def _mean(values: np.ndarray) -> float:
    """Over the replicas that have a value; NaN if none has."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value
