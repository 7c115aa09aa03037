"""n-gram metrics against NLTK, sets of tuples and delete-one loops."""

from collections import Counter

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import sentence_bleu as nltk_bleu

from seqgan_jax.evaluation import ngrams


def random_sentences(seed, count, vocabulary=12, longest=11):
    """Sentences of 0 to `longest` tokens; so few words that n-grams repeat in a sentence."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, longest + 1, count)
    return [[f"w{int(t)}" for t in rng.zipf(1.5, size) % vocabulary] for size in sizes]


def grams(sentence, n):
    return [tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1)]


def slow_bleu(references, hypothesis, max_n=5):
    method = SmoothingFunction().method1
    weights = [(1 / n,) * n for n in range(1, max_n + 1)]
    return nltk_bleu(references, hypothesis, weights, smoothing_function=method)


# No overlap at all, one word, empty, shorter than n, one n-gram over and over.
AWKWARD = [
    ["never", "seen", "before"],
    ["w1"],
    [],
    ["w1", "w2"],
    ["w1"] * 7,
    ["w1", "w2"] * 4,
]


def test_counts_equal_a_counter():
    """The numbering is free, so n-grams are compared by their counts in all sentences."""
    sentences = random_sentences(0, 40) + AWKWARD
    for n, counts in enumerate(ngrams.count_ngrams(sentences, 5), start=1):
        expected = [Counter(grams(s, n)) for s in sentences]
        profiles = [tuple(c[g] for c in expected) for g in {g for c in expected for g in c}]
        got = np.zeros((counts.size, len(sentences)), int)
        got[counts.gram, counts.sentence] = counts.count
        assert sorted(map(tuple, got)) == sorted(profiles)
        assert (np.diff(counts.sentence) >= 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bleu_equals_nltk(seed):
    hypotheses = random_sentences(seed, 60) + AWKWARD
    references = random_sentences(seed + 100, 25)
    expected = [slow_bleu(references, h) for h in hypotheses]
    np.testing.assert_allclose(ngrams.sentence_bleu(hypotheses, references), expected, atol=1e-9)


@pytest.mark.parametrize("references", [[["w1", "w2", "w3", "w4"]], [[], ["w1"] * 30]])
def test_bleu_equals_nltk_with_few_references(references):
    """One reference; then lengths far above and below, where the nearer one isn't obvious."""
    hypotheses = random_sentences(3, 40, longest=30) + AWKWARD
    expected = [slow_bleu(references, h) for h in hypotheses]
    np.testing.assert_allclose(ngrams.sentence_bleu(hypotheses, references), expected, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_self_bleu_equals_nltk_on_the_others(seed):
    sentences = random_sentences(seed, 50) + AWKWARD
    sentences += sentences[:5]  # a twin is a perfect reference
    expected = [slow_bleu(sentences[:i] + sentences[i + 1 :], s) for i, s in enumerate(sentences)]
    np.testing.assert_allclose(ngrams.sentence_self_bleu(sentences), expected, atol=1e-9)


def test_self_bleu_stays_within_a_group():
    sentences = random_sentences(5, 60)
    groups = np.random.default_rng(5).permutation(np.arange(60) % 17)
    expected = [
        slow_bleu([o for j, o in enumerate(sentences) if groups[j] == groups[i] and j != i], s)
        for i, s in enumerate(sentences)
    ]
    got = ngrams.sentence_self_bleu(sentences, groups=groups)
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_token_ids_and_words_give_the_same():
    words = random_sentences(6, 30)
    ids = [[int(w[1:]) for w in s] for s in words]
    np.testing.assert_array_equal(ngrams.sentence_self_bleu(words), ngrams.sentence_self_bleu(ids))


def test_bleu_by_hand():
    """4 of 4 words, 2 of 3 pairs; the only reference has 5 words: exp(1 - 5/4) sqrt(2/3)."""
    got = ngrams.sentence_bleu([list("abcd")], [list("abxcd")], max_n=2)
    np.testing.assert_allclose(got, [[np.exp(-0.25), np.exp(-0.25) * np.sqrt(2 / 3)]], rtol=1e-12)


def test_mean_over_sentences_and_its_error():
    hypotheses, references = random_sentences(7, 30), random_sentences(8, 20)
    scores = np.array([slow_bleu(references, h) for h in hypotheses])
    metrics = ngrams.bleu(hypotheses, references)
    assert list(metrics) == ["bleu_2", "bleu_3", "bleu_4", "bleu_5"]
    metric = metrics["bleu_4"]
    assert metric.n == 30
    assert metric.value == pytest.approx(scores[:, 3].mean(), abs=1e-9)
    assert metric.stderr == pytest.approx(np.sqrt(scores[:, 3].var(ddof=1) / 30), abs=1e-9)

    others = [slow_bleu(hypotheses[:i] + hypotheses[i + 1 :], h) for i, h in enumerate(hypotheses)]
    metrics = ngrams.self_bleu(hypotheses)
    assert list(metrics) == ["self_bleu_2", "self_bleu_3", "self_bleu_4", "self_bleu_5"]
    assert metrics["self_bleu_3"].value == pytest.approx(np.mean(others, axis=0)[2], abs=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        lambda: ngrams.bleu([["a"]], []),
        lambda: ngrams.self_bleu([["a"]]),
        lambda: ngrams.sentence_self_bleu([["a"], ["a"], ["a"]], groups=[0, 0, 1]),
    ],
)
def test_nothing_to_compare_with_is_refused(call):
    with pytest.raises(ValueError, match="at least one reference"):
        call()


def delete_one(items, statistic):
    left = np.array([statistic(items[:i] + items[i + 1 :]) for i in range(len(items))])
    return np.sqrt((len(items) - 1) / len(items) * ((left - left.mean()) ** 2).sum())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_and_its_jackknife(n):
    def slow(sentences):
        occurrences = [g for s in sentences for g in grams(s, n)]
        return len(set(occurrences)) / len(occurrences)

    sentences = random_sentences(9, 40)
    metric = ngrams.distinct(sentences, n)
    assert metric.value == pytest.approx(slow(sentences))
    assert metric.stderr == pytest.approx(delete_one(sentences, slow))

    pairs = [sentences[2 * i : 2 * i + 2] for i in range(20)]
    flat = lambda groups: slow([s for group in groups for s in group])
    metric = ngrams.distinct(sentences, n, groups=np.arange(40) // 2)
    assert metric.value == pytest.approx(slow(sentences))
    assert metric.stderr == pytest.approx(delete_one(pairs, flat))
    assert metric.n == 20


def test_distinct_without_any_ngram_is_undefined():
    assert ngrams.distinct([["a"], []], 2).value is None


def test_vocabulary_used():
    sentences = random_sentences(10, 30, vocabulary=40)
    slow = lambda ss: len({t for s in ss for t in s}) / 50
    metric = ngrams.vocabulary_used(sentences, 50)
    assert metric.value == pytest.approx(slow(sentences))
    assert metric.stderr == pytest.approx(delete_one(sentences, slow))


@pytest.mark.parametrize("n", [1, 3])
def test_novel_ngrams(n):
    training = random_sentences(11, 30)
    sentences = random_sentences(12, 30, vocabulary=15)
    known = {g for s in training for g in grams(s, n)}

    def slow(ss):
        occurrences = [g for s in ss for g in grams(s, n)]
        return sum(g not in known for g in occurrences) / len(occurrences)

    metric = ngrams.novel_ngrams(sentences, training, n)
    assert metric.value == pytest.approx(slow(sentences))
    assert metric.stderr == pytest.approx(delete_one(sentences, slow))


def test_novel_sentences():
    metric = ngrams.novel_sentences([["a", "b"], ["a"], ["b", "a"], []], [["a", "b"], ["c"]])
    assert metric.value == 0.75
    assert metric.n == 4
