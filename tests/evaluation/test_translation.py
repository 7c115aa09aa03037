"""Translation metrics against NLTK, a slow loop and translations scored by hand."""

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu

from seqgan_jax.evaluation import translation

SUBJECTS = ["A dog", "Two dogs", "The man", "A woman in a red hat", "The children"]
VERBS = ["runs", "is sitting", "jumps over a log", "plays with a ball"]
PLACES = ["on the beach", "in a park", "near a very very small lake"]


def sentences(seed, count):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(x) for x in (SUBJECTS, VERBS, PLACES)) for _ in range(count)]


def test_bleu_and_chrf_equal_nltk():
    ours, theirs = sentences(0, 60), sentences(1, 60)
    figures = translation.translation_metrics(ours, theirs, "en")
    expected = corpus_bleu([[x.split()] for x in theirs], [x.split() for x in ours])
    assert figures["bleu"].value == pytest.approx(100 * expected)
    assert figures["chrf"].value == pytest.approx(100 * slow_chrf(ours, theirs))


def slow_chrf(samples, references, order=6, beta=2):
    """The F-score of the mean precision and the mean recall over orders, of the whole corpus."""
    counts = np.zeros((order, 3))
    for sample, reference in zip(samples, references, strict=True):
        a, b = sample.replace(" ", ""), reference.replace(" ", "")
        for n in range(1, order + 1):
            ours, theirs = ([x[i : i + n] for i in range(len(x) - n + 1)] for x in (a, b))
            matches = sum(min(ours.count(gram), theirs.count(gram)) for gram in set(ours))
            counts[n - 1] += len(ours), len(theirs), matches
    precision, recall = (counts[:, 2:] / counts[:, :2]).mean(0)
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def test_one_translation_has_no_error():
    figures = translation.translation_metrics(["a dog runs here"], ["a dog runs there"], "en")
    assert all(figure.stderr is None for figure in figures.values())


def test_right_and_worthless_translations():
    texts = ["Das ist ein kleines Haus.", "Er schläft, sie liest ein Buch."]
    figures = translation.translation_metrics(texts, texts, "de")
    assert [figures[name].value for name in ("bleu", "chrf")] == pytest.approx([100, 100])
    assert all(figure.n == 2 for figure in figures.values())
    figures = translation.translation_metrics(["xyz", ""], texts, "de")
    assert figures["bleu"].value < 1e-6
    # Case is part of a translation.
    figures = translation.translation_metrics([text.lower() for text in texts], texts, "de")
    assert figures["bleu"].value < 90


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("en", "13a"), ("pt_BR", "13a"), ("ja", "char"), ("zh", "zh"), ("zh-TW", "zh")],
)
def test_signatures_say_how_words_are_split(language, tokenizer):
    unit = translation.translation_metrics(["我 喜欢", "a"], ["我 喜欢", "b"], language)[
        "bleu"
    ].unit
    assert unit.startswith("0-100 [nrefs:1|")
    assert f"|tok:{tokenizer}|" in unit
    assert "|version:" in unit


def test_bootstrap_error_is_that_of_resampled_nltk():
    """Both estimate one standard deviation: from 200 and 100 resamples, by two estimators, each
    within about 10 % of it (one standard error). A factor of 1.5 is over three standard errors."""
    ours, theirs = sentences(6, 80), sentences(7, 80)
    metric = translation.translation_metrics(ours, theirs, "en")["bleu"]
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(100):
        rows = rng.integers(0, 80, 80)
        references = [[theirs[i].split()] for i in rows]
        resampled.append(100 * corpus_bleu(references, [ours[i].split() for i in rows]))
    assert 1 / 1.5 < metric.stderr / np.std(resampled) < 1.5


def test_exact_matches_by_kind():
    figures = translation.exact_matches(
        ["eins", "zwei", "drei ", "vier", "fünf"],
        ["eins", "zwei", "drei", "Vier", "fünf"],
        ["numbers", "numbers", "numbers", "times", None],
    )
    assert {name: (figure.value, figure.n) for name, figure in figures.items()} == {
        "exact_match": (3 / 5, 5),
        "exact_match_numbers": (pytest.approx(2 / 3), 3),
        "exact_match_times": (0.0, 1),
    }
    right = [1, 1, 0, 0, 1]
    assert figures["exact_match"].stderr == pytest.approx(np.std(right, ddof=1) / 5**0.5)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="1 translations for 2 references"):
        translation.translation_metrics(["a"], ["a", "b"], "en")
    with pytest.raises(ValueError, match="0 translations"):
        translation.translation_metrics([], [], "en")
