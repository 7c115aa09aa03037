"""Lengths and Zipf statistics against SciPy and slow loops."""

from collections import Counter

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import wasserstein_distance

from seqgan_jax.evaluation import statistics


def texts(seed, count, exponent=1.5):
    rng = np.random.default_rng(seed)
    return [[f"w{t}" for t in rng.zipf(exponent, rng.integers(1, 9)) % 50] for _ in range(count)]


def ranked(sentences):
    return np.array(sorted(Counter(t for s in sentences for t in s).values(), reverse=True))


def blocks_left_out(items):
    return [[x for i, x in enumerate(items) if i % 10 != k] for k in range(10)]


def jackknife(values):
    return np.sqrt(9 * np.var(values))


def test_jackknife_of_a_mean_is_its_standard_error():
    """Of ten blocks of one item each it is the textbook's."""
    x = np.random.default_rng(0).normal(size=10)
    left = [np.delete(x, k).mean() for k in range(10)]
    assert statistics.block_jackknife(left) == pytest.approx(x.std(ddof=1) / np.sqrt(10))


def test_lengths():
    ours, theirs = texts(0, 30), texts(1, 40)
    sizes = lambda sentences: list(map(len, sentences))
    found = statistics.lengths(ours, theirs)
    assert found["length"].value == pytest.approx(np.mean(sizes(ours)))
    distance = found["length_distance"]
    assert distance.value == pytest.approx(wasserstein_distance(sizes(ours), sizes(theirs)))
    left = [
        wasserstein_distance(sizes(a), sizes(b))
        for a, b in zip(blocks_left_out(ours), blocks_left_out(theirs), strict=True)
    ]
    assert distance.stderr == pytest.approx(jackknife(left))
    # Two more tokens each are a distance of two.
    longer = [[*s, "x", "y"] for s in ours]
    assert statistics.lengths(longer, ours)["length_distance"].value == pytest.approx(2)


@pytest.mark.parametrize("exponent", [1.2, 2.5])
def test_exponent_is_the_most_likely(exponent):
    counts = ranked(texts(2, 100, exponent))
    log_rank = np.log(np.arange(1, len(counts) + 1))
    cost = lambda s: s * counts @ log_rank + counts.sum() * np.log(np.exp(-s * log_rank).sum())
    best = minimize_scalar(cost, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}).x
    assert statistics.zipf_exponent(counts) == pytest.approx(best, abs=1e-5)


def test_exponent_of_an_exact_law():
    assert statistics.zipf_exponent(1e6 / np.arange(1.0, 30) ** 1.3) == pytest.approx(1.3)
    assert statistics.zipf_exponent(np.full(9, 4)) == pytest.approx(0, abs=1e-9)
    assert statistics.zipf_exponent(np.array([7])) is None


def test_zipf_figures_and_their_jackknife():
    ours, theirs = texts(3, 40), texts(4, 50, 3.0)

    def slow(a, b):
        f, g = ranked(a) / ranked(a).sum(), ranked(b) / ranked(b).sum()
        at = lambda x, r: x[r] if r < len(x) else 0.0
        return sum(abs(at(f, r) - at(g, r)) for r in range(max(len(f), len(g)))) / 2

    found = statistics.zipf(ours, theirs)
    assert found["zipf_distance"].value == pytest.approx(slow(ours, theirs))
    pairs = zip(blocks_left_out(ours), blocks_left_out(theirs), strict=True)
    assert found["zipf_distance"].stderr == pytest.approx(jackknife([slow(*p) for p in pairs]))
    left = [statistics.zipf_exponent(ranked(a)) for a in blocks_left_out(ours)]
    assert found["zipf_exponent"].stderr == pytest.approx(jackknife(left))
    # Blind to which words: another vocabulary changes nothing.
    other = [[f"other {t}" for t in s] for s in ours]
    assert statistics.zipf(other, ours)["zipf_distance"].value == 0


def test_zipf_figures_of_collapsed_samples():
    theirs = [["a", "b", "c"]] * 50
    assert statistics.zipf([[]] * 100, theirs)["zipf_distance"].value == 1
    assert statistics.zipf([["a"]] * 100, theirs)["zipf_distance"].value == pytest.approx(2 / 3)
    # Where one sentence in a hundred has the second word, leaving its block out leaves one word.
    found = statistics.zipf([["a"]] * 99 + [["b"]], theirs)["zipf_exponent"]
    assert found.value > 1
    assert found.stderr is None
