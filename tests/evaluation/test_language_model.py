"""The n-gram model against NLTK's, and as a distribution."""

import itertools

import numpy as np
import pytest
from nltk.lm.models import InterpolatedLanguageModel
from nltk.lm.smoothing import KneserNey
from nltk.lm.vocabulary import Vocabulary

from seqgan_jax.evaluation import language_model

WORDS = "abcde"


def random_sentences(seed, count):
    rng = np.random.default_rng(seed)
    return [list(rng.choice(list(WORDS), rng.integers(0, 7))) for _ in range(count)]


def ngrams_of(sentence, order):
    """All n-grams that end at a token or the end, whose histories may lie in the padding."""
    padded = ["<s>"] * (order - 1) + list(sentence) + ["</s>"]
    for end in range(order, len(padded) + 1):
        yield from (tuple(padded[end - n : end]) for n in range(1, order + 1))


def nltk_model(training, order, size):
    class OverUniform(KneserNey):
        """NLTK's has no level below the single words, and gives unseen ones no probability."""

        def unigram_score(self, word):
            own, total = self._continuation_counts(word) if order > 1 else self.raw(word)
            kinds = len(self.counts.unigrams)
            return (max(own - self.discount, 0) + self.discount * kinds / size) / total

        def raw(self, word):
            return self.counts.unigrams[word], self.counts.unigrams.N()

    model = InterpolatedLanguageModel(
        OverUniform,
        order,
        vocabulary=Vocabulary([*WORDS, "z", "<s>", "</s>"]),
        params={"order": order, "discount": language_model.DISCOUNT},
    )
    model.fit([list(ngrams_of(s, order)) for s in training])
    return model


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_log_probs_equal_nltk(order):
    training = random_sentences(0, 30)
    asked = [*random_sentences(1, 15), [], ["z", "a", "z"]]
    size = len(WORDS) + 2  # with z, that only one side has, and the end
    model = nltk_model(training, order, size)
    expected = [
        sum(np.log(model.score(g[-1], g[:-1])) for g in ngrams_of(s, order) if len(g) == order)
        for s in asked
    ]
    got, counts = language_model.log_probs(asked, training, order)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert counts.tolist() == [len(s) + 1 for s in asked]


def test_it_is_a_distribution():
    """All sentences of up to two tokens, and all beginnings of two with any token third."""
    training = [["a", "b"], ["b", "b", "a"], [], ["a"]]
    mass = lambda sentences: np.exp(language_model.log_probs(sentences, training)[0]).sum()
    short = [list(s) for n in range(3) for s in itertools.product("ab", repeat=n)]
    longer = [list(s) for n in range(3, 10) for s in itertools.product("ab", repeat=n)]
    assert mass(short) < mass(short + longer) < 1
    # What is left falls geometrically: each further token leaves only a part to the longer ones.
    shares = [mass([list(s) for s in itertools.product("ab", repeat=n)]) for n in range(1, 12)]
    left = shares[-1] ** 2 / (shares[-2] - shares[-1])
    assert mass([[]]) + sum(shares) + left == pytest.approx(1, abs=1e-3)


def test_no_training_text_is_refused():
    with pytest.raises(ValueError, match="no text"):
        language_model.log_probs([["a"]], [])
