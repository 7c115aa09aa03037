"""Sentences as vectors: an encoder that a package brings along, a fitted one, or anybody's."""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.ngrams import Sentence

# From sentences to vectors, [N, D].
Embedder = Callable[[Sequence[Sentence]], np.ndarray]

_LSA_SIZE = 100


def default() -> str:
    """'wordllama' where that package is installed, otherwise 'lsa'."""
    return "wordllama" if _wordllama_folder() else "lsa"


def load(name: str, corpus: Sequence[Sentence], *, separator: str = " ", seed: int = 0) -> Embedder:
    """An embedder by its name.

    - `lsa`: latent semantic analysis (Deerwester et al., 1990) fitted to `corpus`: tf-idf of words
      and pairs of words, 1 + log of their counts, projected on the 100 leading singular vectors.
      Needs nothing and knows nothing but the corpus: words that it lacks leave no trace.
    - `wordllama`: the mean of 256-dimensional English token vectors, scaled to length 1, of the
      package of that name (its l2_supercat model, which is in the package). Blind to word order;
      of little use for what isn't English.
    - `package.module:function`: your own, from a list of strings to an array [N, D].

    Args:
      name: one of these.
      corpus: real sentences, for `lsa`.
      separator: what joins tokens to text, for the other two.
      seed: of the singular vectors' search.

    Raises:
      UserError: no such embedder, or one that can't be used.
    """
    if name == "lsa":
        return _lsa(corpus, seed)
    if name == "wordllama":
        encode = _wordllama()
    elif ":" in name:
        encode = _own(name)
    else:
        raise UserError(
            f"--embedder={name}: no such embedder; choose lsa, wordllama or package.module:function"
        )
    return lambda sentences: encode([separator.join(map(str, s)) for s in sentences])


def _lsa(corpus, seed) -> Embedder:
    vectorizer = TfidfVectorizer(analyzer=_words_and_pairs, sublinear_tf=True)
    try:
        counts = vectorizer.fit_transform(corpus)
    except ValueError as error:  # no word at all
        raise UserError("--embedder=lsa: there is no word in the references to learn from") from (
            error
        )
    size = min(_LSA_SIZE, *counts.shape)
    with threadpool_limits(1):
        projection = TruncatedSVD(size, random_state=seed).fit(counts)
    return lambda sentences: projection.transform(vectorizer.transform(sentences))


def _words_and_pairs(sentence: Sentence) -> list[tuple]:
    return [(t,) for t in sentence] + list(itertools.pairwise(sentence))


def _wordllama_folder() -> Path | None:
    found = importlib.util.find_spec("wordllama")
    return Path(found.origin).parent if found else None


def _wordllama() -> Callable[[list[str]], np.ndarray]:
    """The package's model read from its files.

    Its own loader looks for the tokeniser in a folder that isn't there and then on the network,
    and importing it sets up logging for the whole process.
    """
    folder = _wordllama_folder()
    if folder is None:
        raise UserError(
            "--embedder=wordllama: the package isn't installed; "
            "pip install 'seqgan_jax[pretrained]', or take --embedder=lsa"
        )
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(
        str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json")
    )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    weights = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"]

    def encode(texts):
        found = tokenizer.encode_batch(texts, add_special_tokens=False)
        vectors = np.zeros((len(texts), weights.shape[1]))
        for vector, text in zip(vectors, found, strict=True):
            if text.ids:
                vector[:] = weights[text.ids].astype(np.float64).mean(0)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    return encode


def _own(name) -> Callable[[list[str]], np.ndarray]:
    module, _, function = name.partition(":")
    try:
        encode = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"--embedder={name}: can't be imported ({error})") from error

    def checked(texts):
        vectors = np.asarray(encode(texts), np.float64)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise UserError(
                f"--embedder={name}: must give a finite array [N, D] of {len(texts)} sentences, "
                f"not one of {list(vectors.shape)}"
            )
        return vectors

    return checked
