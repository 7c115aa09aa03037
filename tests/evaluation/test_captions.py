"""Caption metrics against NLTK, pycocoevalcap, slow loops and captions scored by hand."""

import subprocess
import sys

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from pycocoevalcap.cider.cider import Cider

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import captions

SUBJECTS = ["a dog", "two dogs", "a man", "a woman in a red hat", "the children"]
VERBS = ["runs", "is sitting", "jumps over a log", "plays"]
PLACES = ["on the beach", "in a park", "near a very very small lake", ""]


def random_captions(seed, count):
    rng = np.random.default_rng(seed)
    return [
        " ".join(rng.choice(p) for p in (SUBJECTS, VERBS, PLACES)).strip() for _ in range(count)
    ]


def images(seed, count):
    """References of `count` images, one to five each."""
    sizes = np.random.default_rng(seed).integers(1, 6, count)
    return [random_captions(1000 * seed + i, size) for i, size in enumerate(sizes)]


def coco_cider(samples, references):
    keys = range(len(samples))
    return Cider().compute_score(
        dict(zip(keys, references, strict=True)), {k: [samples[k]] for k in keys}
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog, running .", ["a", "dog", "running"]),
        ("The dog's t-shirt: 'red' - no!", ["the", "dog's", "t-shirt", "red", "no"]),
        ("Cafe\u0301 42", ["café", "42"]),
        ("一只狗，two dogs", ["一", "只", "狗", "two", "dogs"]),
        (" ... ", []),
    ],
)
def test_normalise(text, words):
    assert captions.normalise(text) == words


def test_perfect_captions():
    """A set of captions that are references: BLEU, chrF and ROUGE-L are full; CIDEr-D is 10 where
    the caption is the only reference and every order of n-gram is there."""
    truths = [["A dog runs in a park."], ["Two men sit on a bench"], ["the red car is very fast"]]
    metrics = captions.caption_metrics([t[0].upper() for t in truths], truths)
    assert metrics["bleu_4"].value == pytest.approx(100)
    assert metrics["chrf"].value == pytest.approx(100)
    assert metrics["rouge_l"].value == pytest.approx(1)
    assert metrics["cider_d"].value == pytest.approx(10)
    assert all(m.n == 3 for m in metrics.values())


def test_worthless_captions():
    metrics = captions.caption_metrics(["xx yy", "zz"], [["a dog runs"], ["two men sit"]])
    assert {name: round(m.value, 3) for name, m in metrics.items()} == {
        "bleu_4": 0,
        "chrf": 0,
        "rouge_l": 0,
        "cider_d": 0,
    }


def test_corpus_bleu_equals_nltk():
    # Where a caption is shorter than n words, NLTK counts one n-gram too many.
    samples = [s for s in random_captions(0, 120) if len(s.split()) >= 4][:60]
    references = images(1, 60)
    expected = corpus_bleu(
        [[r.split() for r in refs] for refs in references], [s.split() for s in samples]
    )
    metric = captions.caption_metrics(samples, references)["bleu_4"]
    assert metric.value == pytest.approx(100 * expected)
    assert "nrefs:var" in metric.unit
    assert "tok:none" in metric.unit


def slow_chrf(samples, references, order=6, beta=2):
    """Sums hypothesis, reference and matching n-grams over images, each with its best reference."""

    def statistics(h, r):
        h, r = h.replace(" ", ""), r.replace(" ", "")
        rows = []
        for n in range(1, order + 1):
            a, b = ([s[i : i + n] for i in range(len(s) - n + 1)] for s in (h, r))
            rows.append((len(a), len(b), sum(min(a.count(g), b.count(g)) for g in set(a))))
        return np.array(rows)

    def f_score(rows):
        rows = rows[(rows[:, 0] > 0) & (rows[:, 1] > 0)]
        precision, recall = (rows[:, 2] / rows[:, 0]).mean(), (rows[:, 2] / rows[:, 1]).mean()
        return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)

    best = [
        max((statistics(s, r) for r in refs), key=f_score)
        for s, refs in zip(samples, references, strict=True)
    ]
    return f_score(sum(best))


def test_chrf_equals_a_slow_loop():
    samples, references = random_captions(2, 15), images(3, 15)
    metric = captions.caption_metrics(samples, references)["chrf"]
    assert metric.value == pytest.approx(100 * slow_chrf(samples, references))


def test_rouge_by_hand():
    """For "a b c d", reference "a x c" shares "a c": P = 2/4, R = 2/3, F1 = 4/7; reference "d":
    P = 1/4, R = 1, F1 = 2/5. The largest F1 counts; COCO would join P = 2/4 and R = 1."""
    metric = captions.caption_metrics(["a b c d", "q"], [["a x c", "d"], ["q"]])["rouge_l"]
    assert metric.value == pytest.approx((4 / 7 + 1) / 2)
    assert metric.stderr == pytest.approx(np.std([4 / 7, 1], ddof=1) / np.sqrt(2))


def test_cider_is_pycocoevalcap_after_normalising():
    samples, references = random_captions(4, 40), images(5, 40)
    value, each = coco_cider(samples, references)
    noisy = [s.capitalize() + " ." for s in samples]
    metric = captions.caption_metrics(noisy, references)["cider_d"]
    assert metric.value == pytest.approx(value)
    assert metric.stderr == pytest.approx(each.std(ddof=1) / np.sqrt(40))


def test_bootstrap_error_is_that_of_resampled_nltk():
    """Both estimate one standard deviation: from 200 resamples, by two estimators, each within
    about 10 % of it (one standard error). A factor of 1.5 is over three standard errors."""
    samples, references = random_captions(6, 80), images(7, 80)
    metric = captions.caption_metrics(samples, references)["bleu_4"]
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(100):
        rows = rng.integers(0, 80, 80)
        refs = [[r.split() for r in references[i]] for i in rows]
        resampled.append(100 * corpus_bleu(refs, [samples[i].split() for i in rows]))
    assert 1 / 1.5 < metric.stderr / np.std(resampled) < 1.5
    assert metric == captions.caption_metrics(samples, references)["bleu_4"]


def test_a_reference_without_words_is_left_out():
    with_dots = captions.caption_metrics(["a dog", "a cat"], [["a dog runs", "..."], ["a cat"]])
    without = captions.caption_metrics(["a dog", "a cat"], [["a dog runs"], ["a cat"]])
    assert {k: m.value for k, m in with_dots.items()} == {k: m.value for k, m in without.items()}


def test_an_image_without_words_is_named():
    with pytest.raises(UserError, match=r"image 1 .*\['\.', '!'\]"):
        captions.caption_metrics(["a", "b"], [["a dog"], [".", "!"]])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        captions.caption_metrics(["a"], [["a"], ["b"]])


def test_single_captions_equal_pycocoevalcap():
    references = images(8, 30)
    candidates = [
        *random_captions(9, 12),
        "",
        "dog",
        "never seen words here",
        "very very very small very small",  # repeated n-grams, clipped differently by reference
        "a a a a a a a a a a a a a a a a a",  # the length penalty
        "a dog never seen",
    ]
    expected = [coco_cider([c] * 30, references)[0] for c in candidates]
    got = captions.single_caption_cider(candidates, references)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert max(expected) > 0.1

    caption, metric = captions.best_single_caption([c + "." for c in candidates], references)
    assert caption == candidates[int(np.argmax(expected))]
    assert metric.value == pytest.approx(max(expected))


def test_a_single_image_has_no_document_frequencies():
    assert captions.single_caption_cider(["a dog"], [["a dog"]]) == [0]


def test_no_candidates():
    with pytest.raises(ValueError, match="no candidate"):
        captions.best_single_caption([], [["a"]])


def test_diversity_equals_slow_loops():
    per_image = [random_captions(20 + i, n) for i, n in enumerate([5, 1, 3, 5, 2])]
    per_image[3] = ["A dog.", "a dog", "a cat", "a dog !", "a bird"]  # 3 of 5
    words = [[captions.normalise(c) for c in cs] for cs in per_image]
    metrics = captions.diversity(per_image)

    shares = [len(set(map(tuple, w))) / len(w) for w in words]
    assert shares[3] == 0.6
    assert metrics["distinct_captions"].value == pytest.approx(np.mean(shares))
    assert metrics["distinct_captions"].stderr == pytest.approx(np.std(shares, ddof=1) / np.sqrt(5))

    method = SmoothingFunction().method1
    within = [
        np.mean(
            [
                sentence_bleu(w[:i] + w[i + 1 :], w[i], smoothing_function=method)
                for i in range(len(w))
            ]
        )
        for w in words
        if len(w) > 1
    ]
    assert metrics["self_bleu_4"].value == pytest.approx(np.mean(within))
    assert metrics["self_bleu_4"].n == 4

    flat = [w for ws in words for w in ws]
    for n in (1, 2, 3):
        grams = [tuple(w[i : i + n]) for w in flat for i in range(len(w) - n + 1)]
        assert metrics[f"distinct_{n}"].value == pytest.approx(len(set(grams)) / len(grams))


def test_diversity_of_one_caption_per_image():
    metrics = captions.diversity([["a dog"], ["a cat"], []])
    assert metrics["self_bleu_4"].value is None
    assert metrics["distinct_captions"].value == 1


def test_novel_captions():
    metric = captions.novel_captions(["A dog.", "a red dog", "a cat"], {"a dog", "A cat!"})
    assert metric.value == pytest.approx(1 / 3)


def test_importing_needs_no_java(tmp_path):
    """With an empty PATH there is no java to run; the parts that need it aren't even imported."""
    code = (
        "import sys; from seqgan_jax.evaluation import captions; "
        "captions.caption_metrics(['a b', 'c'], [['a b'], ['c']]); "
        "print([m for m in sys.modules if m.startswith('pycocoevalcap')])"
    )
    path = [p for p in sys.path if p]
    script = f"import sys; sys.path[:0] = {path!r}; {code}"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == (
        "['pycocoevalcap', 'pycocoevalcap.cider', 'pycocoevalcap.cider.cider_scorer']"
    )
