"""All figures of generated text, a few seconds' worth or all of them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from seqgan_jax.evaluation import embedders, judges, language_model, ngrams, statistics
from seqgan_jax.evaluation.densities import average
from seqgan_jax.evaluation.frechet import frechet, halves
from seqgan_jax.evaluation.held_out import likelihood
from seqgan_jax.evaluation.mauve import mauve
from seqgan_jax.evaluation.report import Metric

Tokens = tuple[str, ...]

# Quality and diversity, less is better of both: what a curve over temperatures shows.
AXES = ("lm_score", "reverse_lm_score")
# What a curve over one model's temperatures shows: how alike its sentences are, and how unlike
# real ones.
SWEPT = ("self_bleu_4", "frechet", *AXES)

# What a judge reads of a sentence, and the words that it has an embedding for, at most.
_JUDGED_TOKENS = 128
_JUDGED_WORDS = 10_000


def figures(
    samples: Sequence[Tokens],
    references: Sequence[Tokens],
    training: Sequence[Tokens] | None,
    *,
    seed: int,
    thorough: bool,
    embedder: str | None = None,
    separator: str = " ",
    progress: Callable[[range], Iterable[int]] = iter,
) -> dict[str, Metric]:
    """What can be said of samples, given real sentences that the generator has never seen.

    Seconds for thousands of sentences: `lm_score`, `reverse_lm_score`, `quality_diversity` (see
    `language_model_scores`); `bleu_2` to `_5`, `self_bleu_2` to `_5`, `distinct_1` to `_3`, novel
    n-grams and sentences (`ngrams`); `frechet` and `frechet_references` (`frechet`); lengths and
    Zipf statistics (`statistics`). If `thorough`, also `mauve` and `mauve_references` (`mauve`),
    `judge_accuracy` and `judge_auc` (`judges`). docs/metrics.md has the table of them.

    Most depend on how many sentences there are on either side: compare at equal numbers only.

    Args:
      samples: what was generated, two at least.
      references: held-out real text, two at least.
      training: what the generator learned from; None leaves novelty out.
      seed: of splits, clusters and the judge.
      thorough: also what takes longer: 10 to 60 seconds.
      embedder: see `embedders.load`; None for the default one.
      separator: what joins tokens to text.
      progress: wraps the judge's steps, see `training.fit`.

    Raises:
      ValueError: fewer than two sentences on a side.
    """
    if min(len(samples), len(references)) < 2:
        raise ValueError(f"{len(samples)} samples and {len(references)} references are too few")
    found = language_model_scores(samples, references)
    found |= ngrams.bleu(samples, references) | ngrams.self_bleu(samples)
    for n in (1, 2, 3):
        found[f"distinct_{n}"] = ngrams.distinct(samples, n)
    if training is not None:
        for n in (2, 3, 4):
            found[f"novel_{n}grams"] = ngrams.novel_ngrams(samples, training, n)
        found["novel_sentences"] = ngrams.novel_sentences(samples, training)

    embedder = embedder or embedders.default()
    corpus = references if training is None else training
    embed = embedders.load(embedder, corpus, separator=separator, seed=seed)
    parts = halves(embed(samples), embed(references), seed)
    found |= frechet(parts, embedder)
    if thorough:
        found |= mauve(parts, seed, embedder)
    found |= statistics.lengths(samples, references) | statistics.zipf(samples, references)
    if thorough:
        found |= _judged(samples, references, seed, progress)
    return found


def language_model_scores(
    samples: Sequence[Tokens], references: Sequence[Tokens]
) -> dict[str, Metric]:
    """`lm_score`, `reverse_lm_score` and `quality_diversity`, in nats per token.

    - `lm_score`: cross-entropy of the samples under a trigram model of the references; exp of it is
      their perplexity. Lower is better, down to the references' own; below that it means dull
      text: the most probable sentence, repeated for ever, is best. Blind to diversity.
    - `reverse_lm_score`: cross-entropy of the references under a trigram model of the samples
      (Zhao et al., 2018, arXiv:1706.04223; Semeniuta et al., 2018, arXiv:1806.04936). Lower is
      better. Rises with what the samples leave out, and falls with their number.
    - `quality_diversity`: less the mean of the two; higher is better. What a lower temperature
      gains in the first it pays in the second. It contains the samples' own entropy, so it forgives
      a generator that is a little too sure more easily than one that is too unsure.

    The models are interpolated Kneser-Ney's, see `language_model`. All three are blind to what
    lies more than two tokens back, and to copying. Standard errors are over the judged sentences,
    the model fixed.
    """
    forward = likelihood(*language_model.log_probs(samples, references))
    reverse = likelihood(*language_model.log_probs(references, samples))
    both = average(forward, reverse, "nats/token")
    return {
        "lm_score": forward,
        "reverse_lm_score": reverse,
        "quality_diversity": both._replace(value=-both.value),
    }


def _judged(samples, references, seed, progress) -> dict[str, Metric]:
    if min(len(samples), len(references)) < 10:
        nothing = Metric(None, None, 0, "0-1")
        return {"judge_accuracy": nothing, "judge_auc": nothing}
    counts = Counter(token for text in (*samples, *references) for token in text)
    # 0 pads; 1 is every word that occurs once, of which nothing can be learnt.
    common = [t for t, count in counts.most_common(_JUDGED_WORDS) if count > 1]
    number = {token: i for i, token in enumerate(common, start=2)}
    real, real_mask = _array(references, number)
    generated, generated_mask = _array(samples, number)
    verdict = judges.real_or_generated(
        real,
        generated,
        vocabulary_size=len(number) + 2,
        seed=seed,
        real_mask=real_mask,
        generated_mask=generated_mask,
        progress=progress,
    )
    return {"judge_accuracy": verdict.accuracy, "judge_auc": verdict.auc}


def _array(texts, number) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as padded numbers and their mask, [N, T] each."""
    lengths = np.minimum(np.fromiter(map(len, texts), int), _JUDGED_TOKENS)
    mask = np.arange(max(lengths.max(), 1)) < lengths[:, None]
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = [number.get(t, 1) for text in texts for t in text[:_JUDGED_TOKENS]]
    return tokens, mask
