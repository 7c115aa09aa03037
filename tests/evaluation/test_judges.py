"""The fresh classifier: what it must find, what it can't, and its AUC."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from seqgan_jax.evaluation import judges
from seqgan_jax.evaluation.judges import auc, real_or_generated

V, T = 8, 6


def sequences(seed, count):
    return np.random.default_rng(seed).integers(1, V, (count, T))


def judged(real, generated, steps=60, **options):
    return real_or_generated(real, generated, vocabulary_size=V, seed=0, steps=steps, **options)


def test_equal_distributions_are_told_apart_by_chance():
    """120 held-out answers: beyond 4 standard errors of 0.5 once in 15,000 seeds."""
    verdict = judged(sequences(0, 300), sequences(1, 300), steps=25)
    assert verdict.accuracy.n == verdict.auc.n == 120
    assert abs(verdict.accuracy.value - 0.5) < 4 * 0.5 / np.sqrt(120)
    assert verdict.accuracy.stderr == pytest.approx(0.5 / np.sqrt(120), rel=0.1)
    assert abs(verdict.auc.value - 0.5) < 4 * verdict.auc.stderr


def test_order_alone_is_enough():
    """The same tokens equally often; only in real sequences do they rise."""
    real = np.sort(sequences(0, 300), axis=1)
    generated = sequences(1, 300)
    verdict = judged(real, generated, steps=100)
    assert verdict.accuracy.value > 0.9
    assert verdict.auc.value > 0.95
    again = judged(real, generated, steps=100)
    assert again == verdict


def test_what_is_masked_is_not_seen():
    """Only masked tokens differ, and the array of one kind is wider: chance again."""
    real, generated = sequences(0, 300), sequences(1, 300)
    mask = np.ones((300, T)) * (np.arange(T) < 4)
    real[:, 4:] = 7
    wide = np.pad(generated, ((0, 0), (0, 3)), constant_values=1)
    verdict = judged(
        real, wide, steps=25, real_mask=mask, generated_mask=np.pad(mask, ((0, 0), (0, 3)))
    )
    assert abs(verdict.accuracy.value - 0.5) < 4 * 0.5 / np.sqrt(120)


def test_it_learns_from_60_percent_and_as_many_of_each_kind(monkeypatch):
    seen = []
    real_fit = judges.fit

    def fit(loss, params, batches, **options):
        seen.append(next(batches))
        return real_fit(loss, params, batches, **options)

    monkeypatch.setattr(judges, "fit", fit)
    judged(sequences(0, 60), sequences(1, 30), steps=1)
    assert seen[0]["tokens"].shape == (36, T)
    assert seen[0]["label"].tolist() == [1.0] * 18 + [0.0] * 18


def test_auc_equals_scikit_learn_and_a_loop():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(2, 9, 40) / 2.0, rng.integers(0, 7, 30) / 2.0
    found = auc(positive, negative)
    labels = np.repeat([1, 0], [40, 30])
    expected = roc_auc_score(labels, np.concatenate([positive, negative]))
    assert found.value == pytest.approx(expected)
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = wins.mean(1).var(ddof=1) / 40 + wins.mean(0).var(ddof=1) / 30
    assert found.stderr == pytest.approx(np.sqrt(variance))
    assert found.n == 70


@pytest.mark.parametrize(
    ("real", "options", "words"),
    [
        (sequences(0, 9), {}, "too few"),
        (sequences(0, 20) + 5, {}, "from 0 to 7"),
        (sequences(0, 20)[0], {}, r"no \[N, T\]"),
        (sequences(0, 20), {"real_mask": np.ones((20, T + 1))}, "their mask"),
    ],
)
def test_bad_use(real, options, words):
    with pytest.raises(ValueError, match=words):
        judged(real, sequences(1, 20), **options)


# Spoken words

TONES = {"low": 300.0, "middle": 900.0, "high": 2500.0}
RATE = 8000


def spoken(phrase, rng):
    """A tone for each word, of random length and loudness, silence between them now and then."""
    pieces = []
    for word in phrase:
        t = np.arange(int(rng.uniform(0.1, 0.25) * RATE)) / RATE
        tone = np.sin(2 * np.pi * TONES[word] * rng.uniform(0.95, 1.05) * t) * np.hanning(len(t))
        pieces += [rng.uniform(0.2, 0.9) * tone, np.zeros(rng.integers(0, 600))]
    return np.concatenate(pieces).astype(np.float32)


def phrases(seed, count):
    rng = np.random.default_rng(seed)
    words = [tuple(rng.choice(list(TONES), rng.integers(1, 4))) for _ in range(count)]
    return words, [spoken(phrase, rng) for phrase in words]


def test_a_recogniser_learns_words_from_phrases():
    """Without being told where words begin; repeated ones are two."""
    words, recordings = phrases(0, 128)
    recogniser = judges.WordRecogniser.fit(recordings, words, RATE, seed=0, steps=90)
    assert recogniser.words == ("high", "low", "middle")
    wanted, unheard = phrases(1, 70)
    right = [a == b for a, b in zip(recogniser(unheard), wanted, strict=True)]
    assert np.mean(right) > 0.9
    twice = [heard for heard, said in zip(recogniser(unheard), wanted, strict=True)
             if said[:2] == ("low", "low")]  # fmt: skip
    assert any(heard[:2] == ("low", "low") for heard in twice)
    assert recogniser([np.zeros(0, np.float32)]) == [()]
    # What is heard doesn't depend on what else is there to hear.
    assert recogniser(unheard[:1]) == recogniser(unheard)[:1]
