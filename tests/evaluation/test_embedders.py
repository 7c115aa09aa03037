"""Embedders against their own packages and NumPy."""

import itertools
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import embedders

TEXTS = [
    ("a", "dog", "runs", "."),
    ("a", "cat", "sits", "on", "a", "mat"),
    ("two", "dogs", "run"),
    ("the", "cat", "and", "the", "dog"),
    ("a", "dog", "sits"),
]


def test_wordllama_equals_its_package():
    import wordllama

    # Its loader finds its own files when it takes its folder for the cache.
    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    expected = model.embed([" ".join(t) for t in TEXTS], norm=True)
    embed = embedders.load("wordllama", [])
    np.testing.assert_allclose(embed(TEXTS), expected, atol=1e-4)
    np.testing.assert_array_equal(embed([()]), np.zeros((1, 256)))
    # Characters become words again.
    letters = embedders.load("wordllama", [], separator="")
    np.testing.assert_allclose(letters([tuple(" ".join(TEXTS[0]))]), expected[:1], atol=1e-4)
    assert embedders.default() == "wordllama"


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(embedders, "_wordllama_folder", lambda: None)
    assert embedders.default() == "lsa"
    with pytest.raises(UserError, match=r"^--embedder=wordllama: .*pretrained"):
        embedders.load("wordllama", TEXTS)


def test_lsa_is_the_singular_value_decomposition():
    """With as many dimensions as sentences nothing is lost: all inner products stay."""
    grams = [Counter([*((t,) for t in s), *itertools.pairwise(s)]) for s in TEXTS]
    names = sorted({g for c in grams for g in c})
    share = {g: sum(g in c for c in grams) for g in names}
    weights = np.array(
        [
            [(1 + np.log(c[g])) * (1 + np.log(6 / (1 + share[g]))) if c[g] else 0.0 for g in names]
            for c in grams
        ]
    )
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    embed = embedders.load("lsa", TEXTS)
    found = embed(TEXTS)
    np.testing.assert_allclose(found @ found.T, weights @ weights.T, atol=1e-9)
    np.testing.assert_allclose(embed([("never", "seen"), ()]), 0)


def test_anybodys_function(monkeypatch):
    module = type(sys)("mine")
    module.sizes = lambda texts: [[len(text), text.count("a")] for text in texts]
    module.wrong = lambda texts: np.full(len(texts), np.nan)
    monkeypatch.setitem(sys.modules, "mine", module)
    found = embedders.load("mine:sizes", [])(TEXTS[:2])
    np.testing.assert_array_equal(found, [[12, 1], [19, 4]])
    with pytest.raises(UserError, match=r"mine:wrong: must give a finite array .* not .*\[5\]"):
        embedders.load("mine:wrong", [])(TEXTS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("glove", "choose lsa, wordllama or package"),
        ("missing_module:f", "can't be imported"),
        ("json:missing", "can't be imported"),
    ],
)
def test_what_there_is_not(name, words):
    with pytest.raises(UserError, match=rf"^--embedder={name}: .*{words}"):
        embedders.load(name, TEXTS)


def test_lsa_needs_words():
    with pytest.raises(UserError, match="no word"):
        embedders.load("lsa", [(), ()])
