"""Lengths and frequencies of words, and the jackknife by blocks for figures without a formula."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import wasserstein_distance

from seqgan_jax.evaluation.ngrams import Sentence
from seqgan_jax.evaluation.report import Metric

BLOCKS = 10


def block_jackknife(left: Sequence[float]) -> float:
    """Standard error from values with one of g equal blocks of the items left out each, [g].

    sqrt((g - 1) / g sum_i (v_i - mean v)^2) (Künsch, 1989), for statistics that are smooth in the
    items' weights.
    """
    left = np.asarray(left, float)
    return float(np.sqrt((len(left) - 1) / len(left) * np.sum((left - left.mean()) ** 2)))


def lengths(samples: Sequence[Sentence], references: Sequence[Sentence]) -> dict[str, Metric]:
    """`length`, the mean number of tokens, and `length_distance`, how far lengths are off.

    The distance is Wasserstein's of order 1 between the two distributions of lengths, in tokens:
    by how many a length must change on average; lower is better, and sampling noise keeps it above
    0. The references' own length is what to aim at. Both are blind to every word.
    """
    ours, theirs = (np.fromiter(map(len, texts), float) for texts in (samples, references))
    return {
        "length": Metric.mean(ours, "tokens"),
        "length_distance": _jackknifed(wasserstein_distance, ours, theirs, "tokens"),
    }


def zipf(samples: Sequence[Sentence], references: Sequence[Sentence]) -> dict[str, Metric]:
    """`zipf_exponent` and `zipf_distance`: how often the r-th most frequent word occurs.

    The exponent is the maximum-likelihood one of p(r) proportional to r^-s, r = 1 .. V, over the
    words' own ranks (Zipf, 1949; for generated text Holtzman et al., 2020, arXiv:1904.09751). The
    references' exponent is what to aim at; a higher one means fewer words used more. The distance
    is the total variation between the two lists of relative frequencies by rank, 0 to 1, lower is
    better. Both depend on the amount of text, and are blind to which words these are: a
    permutation of the vocabulary changes nothing.
    """
    ours, theirs = (_Frequencies(texts) for texts in (samples, references))
    return {
        "zipf_exponent": Metric(
            zipf_exponent(ours.ranked()),
            ours.error(lambda block: zipf_exponent(ours.ranked(block))),
            len(samples),
            "",
        ),
        "zipf_distance": Metric(
            rank_distance(ours.ranked(), theirs.ranked()),
            ours.error(lambda block: rank_distance(ours.ranked(block), theirs.ranked(block))),
            len(samples),
            "0-1",
        ),
    }


class _Frequencies:
    """Counts of words in blocks of sentences, to leave out one at a time."""

    def __init__(self, texts: Sequence[Sentence]):
        counters = [Counter(t for s in texts[k::BLOCKS] for t in s) for k in range(BLOCKS)]
        number = {token: i for i, token in enumerate(dict.fromkeys(t for c in counters for t in c))}
        self._counts = np.zeros((BLOCKS, len(number)), np.int64)
        for k, counter in enumerate(counters):
            self._counts[k, [number[token] for token in counter]] = list(counter.values())

    def ranked(self, left_out: int | None = None) -> np.ndarray:
        """Counts in falling order, of all blocks but one, or of all."""
        counts = self._counts.sum(0) - (0 if left_out is None else self._counts[left_out])
        return -np.sort(-counts[counts > 0])

    def error(self, figure: Callable[[int], float | None]) -> float | None:
        if np.any(self._counts.sum(1) == 0):
            return None
        found = [figure(block) for block in range(BLOCKS)]
        return None if None in found else block_jackknife(found)


def zipf_exponent(counts: np.ndarray) -> float | None:
    """s that maximises sum_r c_r log p(r), p(r) = r^-s / sum_q q^-s; counts in falling order, [V].

    There the model's mean of log r is the data's. None for fewer than two words or where no
    exponent from -10 to 10 is the best.
    """
    if len(counts) < 2:
        return None
    log_rank = np.log(np.arange(1, len(counts) + 1))
    target = counts @ log_rank / counts.sum()

    def excess(s):
        weights = np.exp(-s * log_rank - np.max(-s * log_rank))
        return weights @ log_rank / weights.sum() - target

    return float(brentq(excess, -10, 10)) if excess(-10) > 0 > excess(10) else None


def rank_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Half the sum over ranks of |f_r - g_r|, the counts' relative frequencies, [V] and [V'].

    1 where one of the two has no words at all.
    """
    if bool(len(ours)) != bool(len(theirs)):
        return 1.0
    size = max(len(ours), len(theirs))
    f, g = (np.pad(c / max(c.sum(), 1), (0, size - len(c))) for c in (ours, theirs))
    return float(np.abs(f - g).sum() / 2)


def _jackknifed(distance, ours, theirs, unit) -> Metric:
    value, stderr = float(distance(ours, theirs)), None
    if min(len(ours), len(theirs)) > BLOCKS:
        rest = lambda x, k: np.delete(x, np.s_[k::BLOCKS])
        stderr = block_jackknife([distance(rest(ours, k), rest(theirs, k)) for k in range(BLOCKS)])
    return Metric(value, stderr, len(ours), unit)
