"""Metrics that count n-grams: BLEU and self-BLEU, distinct n-grams, novelty, vocabulary used.

A sentence is a sequence of tokens of any hashable kind: words or token ids. All counting is exact
(n-grams are numbered, never hashed) and vectorised: 10,000 sentences against 10,000 take seconds.
"""

from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

import numpy as np

from seqgan_jax.evaluation.report import Metric

Sentence = Sequence[Hashable]


class Counts(NamedTuple):
    """The n-grams of one order in a list of sentences; one row per sentence and distinct n-gram.

    Attributes:
      sentence: int [rows], index of the sentence, ascending.
      gram: int [rows], number of the n-gram, 0 .. size - 1, the same in every sentence.
      count: int [rows], how often the n-gram occurs in the sentence.
      size: how many distinct n-grams there are.
    """

    sentence: np.ndarray
    gram: np.ndarray
    count: np.ndarray
    size: int


def count_ngrams(sentences: Sequence[Sentence], max_n: int) -> list[Counts]:
    """Counts n-grams of the orders 1 .. max_n in every sentence; element n - 1 is order n."""
    numbers: dict[Hashable, int] = {}
    tokens = np.array(
        [numbers.setdefault(token, len(numbers)) for s in sentences for token in s], np.int64
    )
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    sentence = np.repeat(np.arange(len(sentences)), lengths)
    # Tokens from each position to the end of its sentence: an n-gram starts where there are n.
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(tokens))

    start, gram, size = np.arange(len(tokens)), tokens, len(numbers)
    orders = []
    for n in range(1, max_n + 1):
        if n > 1:
            # An n-gram is an (n-1)-gram and a token. Numbering the pairs afresh at each order
            # keeps keys below (tokens in all)^2, so they never overflow and never collide.
            fits = room[start] >= n
            start, gram = start[fits], gram[fits]
            key = gram * len(numbers) + tokens[start + n - 1]
            distinct, gram = np.unique(key, return_inverse=True)
            size = len(distinct)
        key, count = np.unique(sentence[start] * size + gram, return_counts=True)
        orders.append(Counts(key // max(size, 1), key % max(size, 1), count, size))
    return orders


def sentence_bleu(
    hypotheses: Sequence[Sentence],
    references: Sequence[Sentence],
    max_n: int = 5,
) -> np.ndarray:
    """BLEU-1 .. BLEU-max_n of every hypothesis against all references.

    Equals NLTK's `sentence_bleu` with uniform weights and `SmoothingFunction().method1`: clipped
    precision with the largest count over the references, 0.1 matches where there are none, the
    reference of closest length (the shorter on a tie), 0 where no word matches.

    Returns:
      float [len(hypotheses), max_n], BLEU-n in column n - 1.

    Raises:
      ValueError: there is no reference.
    """
    n, m = len(hypotheses), len(references)
    is_hypothesis = np.arange(n + m) < n
    groups = np.zeros(n + m, np.int64)
    return _bleu([*hypotheses, *references], groups, is_hypothesis, ~is_hypothesis, max_n)


def sentence_self_bleu(
    sentences: Sequence[Sentence], max_n: int = 5, groups: Sequence[int] | None = None
) -> np.ndarray:
    """`sentence_bleu` of every sentence against all the others, float [len(sentences), max_n].

    Args:
      sentences: at least two in every group.
      max_n: the highest order.
      groups: int [len(sentences)], non-negative; a sentence is compared with the others of its
        group (the samples of one image, say). By default all sentences are one group.

    Raises:
      ValueError: a sentence is alone in its group.
    """
    if groups is None:
        groups = np.zeros(len(sentences), np.int64)
    everyone = np.ones(len(sentences), bool)
    return _bleu(sentences, np.asarray(groups, np.int64), everyone, everyone, max_n)


def _bleu(sentences, groups, is_hypothesis, is_reference, max_n) -> np.ndarray:
    """BLEU of each hypothesis against the references of its group, itself left out."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    closest = _closest_length(lengths, groups, is_hypothesis, is_reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_brevity = np.minimum(0.0, 1.0 - closest / lengths[is_hypothesis])

    log_precision = np.empty((is_hypothesis.sum(), max_n))
    for n, counts in enumerate(count_ngrams(sentences, max_n)):
        matches = _clipped_matches(counts, groups, is_hypothesis, is_reference)
        if n == 0:
            nothing_matches = matches == 0
        total = np.maximum(lengths[is_hypothesis] - n, 1)
        log_precision[:, n] = np.log(np.where(matches == 0, 0.1, matches) / total)
    mean = np.cumsum(log_precision, axis=1) / np.arange(1, max_n + 1)
    return np.where(nothing_matches[:, None], 0.0, np.exp(mean + log_brevity[:, None]))


def _clipped_matches(counts, groups, is_hypothesis, is_reference) -> np.ndarray:
    """Sum over a hypothesis's n-grams of min(its count, the largest in one of its references)."""
    # A cell is one n-gram in one group. Its largest count with the sentence that has it, and the
    # largest elsewhere, answer for all references and for all but any one.
    size = max(counts.size, 1)
    cells, cell = np.unique(groups[counts.sentence] * size + counts.gram, return_inverse=True)
    largest, second = np.zeros((2, len(cells)), np.int64)
    owner = np.full(len(cells), -1)

    from_reference = is_reference[counts.sentence]
    at, by, count = (x[from_reference] for x in (cell, counts.sentence, counts.count))
    np.maximum.at(largest, at, count)
    has_largest = count == largest[at]
    owner[at[has_largest]] = by[has_largest]  # any one of them, if several have it
    others = by != owner[at]
    np.maximum.at(second, at[others], count[others])

    of_hypothesis = is_hypothesis[counts.sentence]
    at, by, count = (x[of_hypothesis] for x in (cell, counts.sentence, counts.count))
    matches = np.minimum(count, np.where(owner[at] == by, second[at], largest[at]))
    return np.bincount(by, matches, len(is_hypothesis))[is_hypothesis]


def _closest_length(lengths, groups, is_hypothesis, is_reference) -> np.ndarray:
    """Length of the reference closest in length to each hypothesis, the shorter on a tie."""
    stride = lengths.max(initial=0) + 1
    key = groups * stride + lengths
    present, number = np.unique(key[is_reference], return_counts=True)
    padded = np.concatenate([[-1], present, [-1]])  # -1 stands for "no such reference"

    own = key[is_hypothesis]
    at = np.searchsorted(present, own)
    found = np.concatenate([present, [-1]])[at] == own
    # A hypothesis that is itself a reference, the only one of its length, must look further.
    alone = found & is_reference[is_hypothesis] & (np.append(number, 0)[at] == 1)
    neighbours = np.stack([padded[at], padded[at + 1 + alone]])  # below, and at or above
    usable = (neighbours >= 0) & (neighbours // stride == groups[is_hypothesis])
    if not usable.any(axis=0).all():
        raise ValueError("BLEU needs at least one reference (another sentence) per hypothesis")
    distance = np.where(usable, np.abs(neighbours - own), np.iinfo(np.int64).max)
    nearest = neighbours[distance.argmin(axis=0), np.arange(len(own))]
    return nearest % stride


def bleu(hypotheses: Sequence[Sentence], references: Sequence[Sentence]) -> dict[str, Metric]:
    """`bleu_2` .. `bleu_5`: mean over hypotheses of sentence BLEU against all references.

    How much of the samples is made of word sequences that real text has (Papineni et al., 2002, as
    Texygen uses it: Zhu et al., 2018, arXiv:1802.01886). Higher is better, 0 to 1. Grows with the
    number of references, so compare at equal numbers only. Blind to diversity: one good sentence
    repeated for ever scores best. The standard error is over hypotheses, the references fixed.
    """
    return _orders("bleu", sentence_bleu(hypotheses, references))


def self_bleu(sentences: Sequence[Sentence]) -> dict[str, Metric]:
    """`self_bleu_2` .. `self_bleu_5`: mean over sentences of BLEU against all the others.

    How alike the samples are (Texygen: Zhu et al., 2018, arXiv:1802.01886). Lower is more diverse,
    0 to 1, and real text's own value is the one to aim at: noise scores near 0. Grows with the
    number of sentences, so compare at equal numbers only. Blind to variety of meaning, and to
    quality. The standard error takes sentences as independent, which they are only nearly.
    """
    return _orders("self_bleu", sentence_self_bleu(sentences))


def _orders(name: str, scores: np.ndarray) -> dict[str, Metric]:
    return {f"{name}_{n}": Metric.mean(scores[:, n - 1], "0-1") for n in range(2, 6)}


def distinct(sentences: Sequence[Sentence], n: int, groups: Sequence[int] | None = None) -> Metric:
    """Distinct n-grams / all n-grams in the sentences together (Li et al., 2016, arXiv:1510.03055).

    Higher is more diverse, 0 to 1; real text's own value is the one to aim at. Falls as text is
    added, so compare equal amounts only. Blind to quality: random words score near 1. The standard
    error is the jackknife's, leaving out one sentence, or one of `groups` (int [len(sentences)],
    0 .. G - 1), at a time.
    """
    counts = count_ngrams(sentences, n)[-1]
    groups = np.arange(len(sentences)) if groups is None else np.asarray(groups, np.int64)
    size = groups.max(initial=-1) + 1
    total = np.bincount(groups[counts.sentence], counts.count, size)
    only_here = _only_in(counts.gram, groups[counts.sentence], size)
    return _jackknife(counts.size - only_here, total.sum() - total, counts.size, total.sum())


def vocabulary_used(sentences: Sequence[Sentence], vocabulary_size: int) -> Metric:
    """Share of a vocabulary's tokens that occur in the sentences at least once.

    Higher is more diverse, 0 to 1 if `vocabulary_size` counts no token that can't occur (padding,
    start, end); real text of the same amount is the yardstick. Grows as text is added. Blind to
    how often and how well a word is used. The standard error is the jackknife's over sentences.
    """
    counts = count_ngrams(sentences, 1)[0]
    only_here = _only_in(counts.gram, counts.sentence, len(sentences))
    sizes = np.full(len(sentences), vocabulary_size)
    return _jackknife(counts.size - only_here, sizes, counts.size, vocabulary_size)


def novel_ngrams(sentences: Sequence[Sentence], training: Sequence[Sentence], n: int) -> Metric:
    """Share of the sentences' n-grams, each occurrence counted, that no training sentence has.

    Neither direction is better: near 0 the model copies, near 1 it rambles; held-out real text
    gives the value to aim at. 0 to 1. Falls as training text grows. Blind to whether a new n-gram
    makes sense. The standard error is the jackknife's over sentences.
    """
    counts = count_ngrams([*sentences, *training], n)[-1]
    ours = counts.sentence < len(sentences)
    known = np.zeros(counts.size, bool)
    known[counts.gram[~ours]] = True
    by, count = counts.sentence[ours], counts.count[ours]
    total = np.bincount(by, count, len(sentences))
    novel = np.bincount(by, count * ~known[counts.gram[ours]], len(sentences))
    return _jackknife(novel.sum() - novel, total.sum() - total, novel.sum(), total.sum())


def novel_sentences(sentences: Sequence[Sentence], training: Collection[Sentence]) -> Metric:
    """Share of the sentences that are not, token for token, a training sentence.

    Higher means less copying, 0 to 1; held-out real text gives the value to aim at, since common
    sentences recur. Blind to copies with one word changed, and to quality.
    """
    known = set(map(tuple, training))
    return Metric.mean((tuple(s) not in known for s in sentences), "0-1")


def _only_in(gram: np.ndarray, group: np.ndarray, size: int) -> np.ndarray:
    """How many n-grams occur in each group and in no other, int [size]."""
    pairs = np.unique(np.stack([gram, group]), axis=1)
    _, first, groups_with = np.unique(pairs[0], return_index=True, return_counts=True)
    return np.bincount(pairs[1, first[groups_with == 1]], minlength=size)


def _jackknife(left_numerator, left_denominator, numerator, denominator) -> Metric:
    """numerator / denominator, with its error from the ratios that leave one item out [n]."""
    n = len(left_numerator)
    value = float(numerator / denominator) if denominator else None
    stderr = None
    if n > 1 and np.all(left_denominator):
        left = left_numerator / left_denominator
        stderr = float(np.sqrt((n - 1) / n * np.sum((left - left.mean()) ** 2)))
    return Metric(value, stderr, n, "0-1")
