"""Divergences against exact sums over a small space, frontiers and areas against geometry."""

import itertools
import math

import numpy as np
import pytest

from seqgan_jax.evaluation.densities import area, average, divergences, frontier, gap
from seqgan_jax.evaluation.report import Metric

V, T = 4, 3
SPACE = list(itertools.product(range(V), repeat=T))


def model(rng, sharpness):
    """The log-density of every sequence of a model whose tokens depend on the one before."""
    start = rng.dirichlet([sharpness] * V)
    then = rng.dirichlet([sharpness] * V, size=V)
    return np.array(
        [
            math.log(start[s[0]]) + sum(math.log(then[a, b]) for a, b in itertools.pairwise(s))
            for s in SPACE
        ]
    )


def exact(p, q):
    """The same figures as sums over the whole space."""
    wp, wq = np.exp(p), np.exp(q)
    m = np.log((wp + wq) / 2)
    return {
        "nll_oracle": -(wq * p).sum() / T,
        "nll_test": -(wp * q).sum() / T,
        "entropy": -(wq * q).sum() / T,
        "oracle_entropy": -(wp * p).sum() / T,
        "reverse_kl": (wq * (q - p)).sum() / T,
        "forward_kl": (wp * (p - q)).sum() / T,
        "js": (wp * (p - m)).sum() / 2 + (wq * (q - m)).sum() / 2,
    }


def drawn(rng, p, q, count):
    written = rng.choice(len(SPACE), count, p=np.exp(q))
    data = rng.choice(len(SPACE), count // 2, p=np.exp(p))
    return divergences(q[written], p[written], q[data], p[data], T)


def test_estimates_and_their_errors_equal_exact_sums():
    rng = np.random.default_rng(0)
    p, q = model(rng, 1.0), model(rng, 1.0)
    assert np.exp(p).sum() == pytest.approx(1)
    wanted = exact(p, q)
    runs = [drawn(rng, p, q, 1000) for _ in range(400)]
    assert set(runs[0]) == set(wanted)
    for name, value in wanted.items():
        z = np.array([(run[name].value - value) / run[name].stderr for run in runs])
        # Unbiased, and the errors are right: of 14 such tests none fails by chance but once in
        # 1000 (|mean| of 400 standard normal values below 4 / 20, their deviation within 16 %).
        assert abs(z.mean()) < 0.2, name
        assert abs(z.std() - 1) < 0.16, name
    assert runs[0]["reverse_kl"].n == 1000
    assert runs[0]["forward_kl"].n == 500
    assert runs[0]["js"].n == 1500


def test_equal_and_distant_densities():
    p = model(np.random.default_rng(0), 1.0)
    same = divergences(p, p, p, p, T)
    for name in ("reverse_kl", "forward_kl", "js"):
        assert same[name].value == pytest.approx(0, abs=1e-12)
    # Sequences that the other would never write: log 2, without overflow.
    far = divergences(p, p - 1e4, p - 1e4, p, T)
    assert far["js"].value == pytest.approx(math.log(2))
    assert far["js"].unit == "nats/sequence"
    assert far["forward_kl"].value == pytest.approx(1e4 / T)
    single = divergences(p[:1], p[:1], p[:1], p[:1], T)
    assert all(figure.stderr is None for figure in single.values())


def test_average_of_independent_figures():
    found = average(Metric(1.0, 3.0, 5, ""), Metric(2.0, 4.0, 6, ""), "nats")
    assert found == Metric(1.5, 2.5, 11, "nats")
    assert average(Metric(1.0, None, 1, ""), Metric(2.0, 4.0, 6, ""), "").stderr is None


# From temperature 1.5 down to 0.5: both figures rise at either end.
CURVE = [(2.0, 3.0), (1.0, 2.0), (1.5, 1.0), (3.0, 2.0)]


@pytest.mark.parametrize(
    ("forward", "reverse"),
    [
        (0.9, math.inf),
        (1.0, 2.0),
        (1.25, 1.5),  # half way to the next point
        (1.5, 1.0),
        (2.25, 1.0),  # of the last part and what came before it, the lower
        (9.0, 1.0),
    ],
)
def test_frontier_is_the_best_at_no_higher_forward_divergence(forward, reverse):
    for curve in (CURVE, CURVE[::-1]):
        assert frontier(curve, forward) == pytest.approx(reverse)


def test_frontier_equals_a_search_over_points_of_the_lines():
    rng = np.random.default_rng(0)
    curve = [tuple(point) for point in rng.uniform(0, 1, (6, 2))]
    share = np.linspace(0, 1, 2001)[:, None]
    ends = zip(map(np.array, curve), map(np.array, curve[1:]), strict=False)
    points = np.concatenate([a + (b - a) * share for a, b in ends])
    for forward in rng.uniform(0, 1, 30):
        reached = points[points[:, 0] <= forward, 1]
        wanted = reached.min() if len(reached) else math.inf
        # A step of the search is at most 1 / 2000 along a line; its height may fall faster.
        assert frontier(curve, forward) == pytest.approx(wanted, abs=0.02)
        assert frontier(curve, forward) <= wanted + 1e-12


def test_gap_is_positive_where_the_curve_does_not_reach():
    assert gap(CURVE, (1.25, 1.2)) == pytest.approx(0.3)
    assert gap(CURVE, (1.25, 1.7)) == pytest.approx(-0.2)
    assert gap(CURVE, (2.9, 1.5)) == pytest.approx(-0.5)
    assert gap(CURVE, (0.5, 5.0)) == math.inf


def test_area_between_parallel_lines_and_crossing_ones():
    line = lambda shift, low, high: [(low, 3 - low - shift), (high, 3 - high - shift)]
    found = area(line(0.0, 0, 2), line(0.25, 0.5, 3))
    assert (found.low, found.high) == (0.5, 2)
    assert found.area == pytest.approx(0.25 * 1.5)
    assert area(line(0.25, 0.5, 3), line(0.0, 0, 2)).area == pytest.approx(-0.25 * 1.5)
    # 1 - x and 1/2: a triangle above, an equal one below.
    assert area([(0, 1), (1, 0)], [(0, 0.5), (1, 0.5)]).area == pytest.approx(0, abs=1e-6)
    assert area([(0, 1), (1, 0)], [(0, 0.5), (0.5, 0.5)]).area == pytest.approx(1 / 8, abs=1e-6)
    assert area(line(0, 0, 1), line(0, 2, 3)).area is None
    # Beyond its lowest point a curve rises: half of 1 x 1/2 below the flat line, and then above it.
    flat, rising = [(0, 1), (2, 1)], [(0, 0.5), (1, 0.5), (2, 3)]
    assert area(flat, rising).area == pytest.approx(0.5 - 0.75, abs=1e-6)
