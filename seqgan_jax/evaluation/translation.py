"""Metrics of translations against one reference each."""

import json
from collections.abc import Sequence

from sacrebleu.metrics import BLEU, CHRF

from seqgan_jax.evaluation.report import Metric

_BOOTSTRAPS = 200
# Languages without spaces between words, whose BLEU is one of characters.
_TOKENIZERS = {"zh": "zh", "ja": "char", "th": "char"}


def tokenizer(language: str) -> str:
    """What sacrebleu calls its way to split a language's words."""
    return _TOKENIZERS.get(language.partition("_")[0].partition("-")[0], "13a")


def translation_metrics(
    samples: Sequence[str], references: Sequence[str], language: str
) -> dict[str, Metric]:
    """`bleu` and `chrf` of one translation of each source, by sacrebleu.

    (Post, 2018, arXiv:1804.08771.)

    - `bleu`: precision of 1- to 4-grams of words over the whole corpus, with a penalty for short
      translations (Papineni et al., 2002), 0 to 100, higher is better; case matters. Blind to
      meaning: a wrong word costs as much as a synonym. Comparable only where signatures are equal.
    - `chrf`: F2 of character 1- to 6-grams over the whole corpus (Popović, 2015), 0 to 100, higher
      is better. Kinder to inflections; as blind to meaning.

    Standard errors are those of sacrebleu's bootstrap over sentences, 200 resamples and a fixed
    seed: half the width of the 95 % interval / 1.96. sacrebleu's signature is kept in the unit.

    Args:
      samples: the translations, as plain text: sacrebleu splits words itself.
      references: what they should be.
      language: the target language's code, which chooses how words are split.

    Raises:
      ValueError: the two lengths differ, or there is nothing to judge.
    """
    if len(samples) != len(references) or not samples:
        raise ValueError(f"{len(samples)} translations for {len(references)} references")
    return {
        "bleu": corpus_metric(BLEU(tokenize=tokenizer(language), force=True), samples, references),
        "chrf": corpus_metric(_Chrf(), samples, references),
    }


class _Chrf(CHRF):
    """sacrebleu's, with Python numbers alone: its bootstrap can't average 0.0 and float32."""

    def _compute_score_from_stats(self, stats):
        score = super()._compute_score_from_stats(stats)
        score.score = float(score.score)
        return score


def corpus_metric(metric, samples: Sequence[str], references: Sequence[str]) -> Metric:
    """One of sacrebleu's metrics of a corpus, with its bootstrap's standard error."""
    score = metric.corpus_score(list(samples), [list(references)], n_bootstrap=_BOOTSTRAPS)
    signature = str(metric.get_signature())
    details = json.loads(score.format(width=6, signature=signature, is_json=True))
    # sacrebleu leaves the interval out where every resample scores 0.
    stderr = details.get("confidence_var", 0.0) / 1.96 if len(samples) > 1 else None
    return Metric(score.score, stderr, len(samples), f"0-100 [{signature}]")


def exact_matches(
    samples: Sequence[str], references: Sequence[str], kinds: Sequence[str | None]
) -> dict[str, Metric]:
    """`exact_match`, the share of translations that are their reference, and that of each kind.

    Blind to how wrong the others are. Higher is better, 0 to 1; standard errors are over sources.

    Args:
      samples: one translation of each source, in the references' normal form.
      references: what they should be.
      kinds: what kind of text each is; `exact_match_KIND` for each of them but None.
    """
    right = [sample == wanted for sample, wanted in zip(samples, references, strict=True)]
    figures = {"exact_match": Metric.mean(right, "share")}
    for kind in sorted({kind for kind in kinds if kind is not None}):
        figures[f"exact_match_{kind}"] = Metric.mean(
            [r for r, own in zip(right, kinds, strict=True) if own == kind], "share"
        )
    return figures
