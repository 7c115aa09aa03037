"""Figures of text: those of the parts, on texts whose faults are known."""

import numpy as np
import pytest

from seqgan_jax.evaluation import judges, language_model, ngrams, text
from seqgan_jax.evaluation.report import Metric


def chain(seed, count, sharpness=0.3):
    """Sentences of a Markov chain over ten words, the same chain for every seed."""
    steps = np.random.default_rng(99).dirichlet([sharpness] * 11, size=10)
    rng, sentences = np.random.default_rng(seed), []
    for _ in range(count):
        words, word = [], rng.integers(10)
        while word < 10 and len(words) < 20:
            words.append(f"w{word}")
            word = rng.choice(11, p=steps[word])
        sentences.append(tuple(words))
    return sentences


REAL, HELD_OUT, TRAINING = chain(0, 60), chain(1, 60), chain(2, 80)


def figures(samples, **options):
    options = {"seed": 0, "thorough": False, "embedder": "lsa"} | options
    return text.figures(samples, HELD_OUT, options.pop("training", TRAINING), **options)


def test_figures_are_those_of_their_parts():
    found = figures(REAL)
    log_probs, counts = language_model.log_probs(REAL, HELD_OUT)
    assert found["lm_score"].value == pytest.approx(-log_probs.sum() / counts.sum())
    log_probs, counts = language_model.log_probs(HELD_OUT, REAL)
    assert found["reverse_lm_score"].value == pytest.approx(-log_probs.sum() / counts.sum())
    both = found["lm_score"], found["reverse_lm_score"]
    assert found["quality_diversity"].value == pytest.approx(-(both[0].value + both[1].value) / 2)
    assert found["bleu_4"] == ngrams.bleu(REAL, HELD_OUT)["bleu_4"]
    assert found["novel_3grams"] == ngrams.novel_ngrams(REAL, TRAINING, 3)
    assert found["frechet"].unit == "lsa"
    assert "judge_accuracy" not in found
    assert set(text.AXES) < set(found)
    assert all(isinstance(figure, Metric) for figure in found.values())
    assert figures(REAL) == found
    without = figures(REAL, training=None)
    assert set(found) - set(without) == {
        "novel_2grams", "novel_3grams", "novel_4grams", "novel_sentences"
    }  # fmt: skip


def test_each_fault_has_its_figure():
    """Against samples of the true chain, by far more than five standard errors each."""
    good = figures(REAL)
    repeated = figures(REAL[:3] * 20)
    shuffled = [tuple(np.random.default_rng(3).permutation(s)) for s in REAL]
    garbled = figures(shuffled)

    def differs(ours, name):
        a, b = ours[name], good[name]
        return (a.value - b.value) / np.hypot(a.stderr, b.stderr)

    assert differs(repeated, "self_bleu_4") > 5
    assert differs(repeated, "distinct_2") < -5
    assert differs(repeated, "reverse_lm_score") > 5
    assert differs(garbled, "lm_score") > 5
    assert differs(garbled, "bleu_4") < -5
    for figures_of in (repeated, garbled):
        assert differs(figures_of, "quality_diversity") < -5
    copied = figures(TRAINING)
    assert copied["novel_sentences"].value == 0


def test_thorough_has_the_judge(monkeypatch):
    """What the judge reads: numbers by frequency, 1 for what occurs once, 0 for padding."""
    seen = {}

    def judge(real, generated, **options):
        seen.update(real=real, generated=generated, **options)
        nothing = Metric(0.5, 0.1, 4, "0-1")
        return judges.Verdict(nothing, nothing)

    monkeypatch.setattr(judges, "real_or_generated", judge)
    samples = [*REAL, ("never", "w0")]
    found = figures(samples, thorough=True)
    assert found["judge_accuracy"].value == 0.5
    assert {"mauve", "mauve_references", "judge_auc"} < set(found)
    assert seen["vocabulary_size"] == 12
    assert seen["generated"][-1, 0] == 1
    assert seen["generated_mask"][-1].sum() == 2
    assert seen["generated"].max() == 11
    longest = max(map(len, samples))
    assert seen["generated"].shape == (61, longest)
    assert seen["real_mask"].sum() == sum(map(len, HELD_OUT))


def test_a_few_or_empty_sentences():
    few = text.figures([(), ("a",)], [("a", "b"), ()], None, seed=0, thorough=True, embedder="lsa")
    assert few["frechet"].value is None
    assert few["judge_accuracy"].value is None
    with pytest.raises(ValueError, match="1 samples"):
        text.figures([("a",)], HELD_OUT, None, seed=0, thorough=False)
