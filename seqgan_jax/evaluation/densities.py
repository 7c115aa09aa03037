"""Figures of a generator q against data of a known density p, and curves of them.

All are exact up to sampling: both log-densities of a whole sequence are known, of sequences that
the generator wrote and of held-out ones that the data's own model wrote. Curves are how Caccia et
al. (2020), arXiv:1811.02549, compare generators: by what each reaches at every temperature.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqgan_jax.evaluation.report import Metric

_UNIT = "nats/token"


def divergences(
    written_q: np.ndarray,
    written_p: np.ndarray,
    data_q: np.ndarray,
    data_p: np.ndarray,
    length: int,
) -> dict[str, Metric]:
    """Likelihoods and divergences from log-densities of whole sequences, in nats.

    Per token, with x ~ q written by the generator and y ~ p held-out data, all of length T:

      nll_oracle = -E_q log p(x) / T        what is written, as the data's model finds it
      nll_test = -E_p log q(y) / T          held-out data, as the generator finds it
      entropy = -E_q log q(x) / T           the generator's
      oracle_entropy = -E_p log p(y) / T    the least that nll_test can be
      reverse_kl = E_q[log q(x) - log p(x)] / T
      forward_kl = E_p[log p(y) - log q(y)] / T

    And per sequence, in nats, from 0 to log 2, with m = (p + q) / 2 the mixture:

      js = E_p[log p - log m] / 2 + E_q[log q - log m] / 2

    The Jensen-Shannon divergence of whole sequences says how well a perfect judge could tell them
    apart, and with many tokens it is close to log 2 long before the generator is bad: divergences
    of 1 nat per token are 20 nats per sequence of 20, and js counts only those sequences for which
    p and q are of about one size. Standard errors are over sequences, which are independent.

    Args:
      written_q: log q of what the generator wrote, [N].
      written_p: log p of the same, [N].
      data_q: log q of held-out data, [M].
      data_p: log p of the same, [M].
      length: T.
    """
    written_q, written_p, data_q, data_p = (
        np.asarray(x, np.float64) for x in (written_q, written_p, data_q, data_p)
    )
    mean = lambda values: Metric.mean(values / length, _UNIT)
    from_mixture = lambda own, other: own - (np.logaddexp(own, other) - math.log(2))
    halves = (
        Metric.mean(from_mixture(data_p, data_q), ""),
        Metric.mean(from_mixture(written_q, written_p), ""),
    )
    return {
        "nll_oracle": mean(-written_p),
        "nll_test": mean(-data_q),
        "entropy": mean(-written_q),
        "oracle_entropy": mean(-data_p),
        "reverse_kl": mean(written_q - written_p),
        "forward_kl": mean(data_p - data_q),
        "js": average(*halves, "nats/sequence"),
    }


def average(a: Metric, b: Metric, unit: str) -> Metric:
    """The mean of two figures from independent items."""
    known = a.stderr is not None and b.stderr is not None
    error = math.hypot(a.stderr, b.stderr) / 2 if known else None
    return Metric((a.value + b.value) / 2, error, a.n + b.n, unit)


# Points (forward KL, reverse KL) in the order of their temperatures, with straight lines between.
Curve = Sequence[tuple[float, float]]


def frontier(curve: Curve, forward: float) -> float:
    """The lowest reverse KL that the curve reaches at no higher forward KL; infinite if none.

    A curve over temperatures turns back where both divergences rise, so that it may pass one
    forward KL twice or reach less reverse KL at less forward KL; only the best of it counts.
    """
    reached = [reverse for own, reverse in curve if own <= forward]
    for (f0, r0), (f1, r1) in itertools.pairwise(curve):
        if min(f0, f1) <= forward < max(f0, f1):
            reached.append(r0 + (r1 - r0) * (forward - f0) / (f1 - f0))
    return min(reached, default=math.inf)


def gap(curve: Curve, point: tuple[float, float]) -> float:
    """How far a point (forward KL, reverse KL) lies below the curve's frontier, in reverse KL.

    Positive where the curve doesn't reach the point; infinite where it has no forward KL as low.
    """
    forward, reverse = point
    return frontier(curve, forward) - reverse


def least_at(curve: Curve, forward: float) -> float | None:
    """The least reverse KL where a curve, linear between its points, has a forward KL, or None.

    A curve may have it twice: forward KL can fall with the temperature and rise again.
    """
    found = []
    for (f0, r0), (f1, r1) in itertools.pairwise(curve):
        if min(f0, f1) <= forward <= max(f0, f1):
            found.append(min(r0, r1) if f0 == f1 else r0 + (r1 - r0) * (forward - f0) / (f1 - f0))
    return min(found, default=None)


class Area(NamedTuple):
    """What lies between two curves.

    Attributes:
      area: in the product of the axes' units; None where they share no forward KL.
      low: the least forward KL that both have.
      high: the greatest.
    """

    area: float | None
    low: float
    high: float


def area(baseline: Curve, curve: Curve, *, steps: int = 10_000) -> Area:
    """The area by which a curve lies below the baseline, over the forward KL that both have.

    The integral of `least_at` of the baseline less that of the curve, by the midpoint rule; parts
    where the baseline is the lower one count negatively.
    """
    low = max(min(forward for forward, _ in c) for c in (baseline, curve))
    high = min(max(forward for forward, _ in c) for c in (baseline, curve))
    if not low < high:
        return Area(None, low, high)
    places = low + (high - low) * (np.arange(steps) + 0.5) / steps
    below = [least_at(baseline, place) - least_at(curve, place) for place in places]
    return Area(float(np.mean(below) * (high - low)), low, high)
