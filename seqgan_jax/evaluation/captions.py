"""Metrics of image captions against several references each, and of the variety of captions.

Every text, generated or real, passes through `normalise` first, so that no metric depends on how a
data set spells punctuation and capitals.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer
from sacrebleu.metrics import BLEU, CHRF

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.ngrams import (
    count_ngrams,
    distinct,
    novel_sentences,
    sentence_self_bleu,
)
from seqgan_jax.evaluation.report import Metric

# Kana and Chinese characters stand for themselves, as nothing separates words there.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['’-][^\W{_CJK}]+)*")

_CIDER_ORDERS = 4
_CIDER_SIGMA = 6.0
_BOOTSTRAPS = 200


def normalise(caption: str) -> list[str]:
    """The caption's words: Unicode NFC, lower case, punctuation split off and dropped.

    Apostrophes and hyphens inside a word stay ("dog's", "t-shirt"); a Chinese character or a kana
    is a word of its own.
    """
    return _WORD.findall(unicodedata.normalize("NFC", caption).lower())


def caption_metrics(
    samples: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, Metric]:
    """`bleu_4`, `chrf`, `rouge_l` and `cider_d` of one caption per image.

    Each in the scale of the library that computes it, stated in its unit; higher is better in all.

    - `bleu_4`: BLEU of the corpus by sacrebleu (Papineni et al., 2002; Post, 2018,
      arXiv:1804.08771), 0 to 100. Precision of 1- to 4-grams with a penalty for short captions;
      rises with the number of references. Blind to meaning: swapping "left" and "right" costs
      little, and a true caption in other words scores low.
    - `chrf`: character 1- to 6-gram F2 of the corpus against each image's best reference, by
      sacrebleu (Popović, 2015), 0 to 100. Kind to inflections; blind to word order and meaning.
    - `rouge_l`: F1 of the longest common subsequence of words (Lin, 2004) by rouge_score, the
      largest over an image's references, since a caption that agrees with any one of them is right.
      0 to 1. (COCO's own code differs: largest precision and largest recall, even of different
      references, joined with beta = 1.2.) Blind to rare words' importance.
    - `cider_d`: mean over images of the tf-idf-weighted n-gram similarity to the references
      (Vedantam et al., 2015, arXiv:1411.5726) by pycocoevalcap, 0 to 10 (papers often print it
      times 100). Document frequencies come from the references given here, so it depends on the
      whole set, and is 0 for a single image. Blind to errors in common words: "is", "two", "left".

    Standard errors: over images for the two means (document frequencies taken as fixed); for the
    two corpus metrics from sacrebleu's bootstrap over images, 200 resamples and a fixed seed, as
    half the width of the 95 % interval / 1.96. sacrebleu's signature is kept in the unit.

    Args:
      samples: one caption per image.
      references: the true captions of each image, one or more.

    Raises:
      UserError: an image has no reference that contains a word.
      ValueError: the two lengths differ, or there is no image.
    """
    hypotheses = [" ".join(normalise(sample)) for sample in samples]
    truths = _normalised_references(references)
    if len(hypotheses) != len(truths) or not hypotheses:
        raise ValueError(f"{len(hypotheses)} captions for {len(truths)} images")
    # sacrebleu takes the first references of all images, then the second ones, ...
    width = max(map(len, truths))
    streams = [[t[i] if i < len(t) else None for t in truths] for i in range(width)]

    from rouge_score.rouge_scorer import RougeScorer  # imports NLTK, which takes over a second

    rouge = RougeScorer(["rougeL"], tokenizer=_Spaces())
    return {
        "bleu_4": _corpus(BLEU(tokenize="none", force=True), hypotheses, streams),
        "chrf": _corpus(_Chrf(), hypotheses, streams),
        "rouge_l": Metric.mean(
            (
                rouge.score_multi(t, h)["rougeL"].fmeasure
                for h, t in zip(hypotheses, truths, strict=True)
            ),
            "0-1",
        ),
        "cider_d": _cider_d(hypotheses, truths),
    }


class _Chrf(CHRF):
    """sacrebleu's, with Python numbers alone: its bootstrap can't average 0.0 and float32."""

    def _compute_score_from_stats(self, stats):
        score = super()._compute_score_from_stats(stats)
        score.score = float(score.score)
        return score


class _Spaces:
    """rouge_score's tokeniser interface for text that `normalise` has already split."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def _normalised_references(references: Sequence[Sequence[str]]) -> list[list[str]]:
    truths = [[t for t in (" ".join(normalise(r)) for r in refs) if t] for refs in references]
    for i, (truth, raw) in enumerate(zip(truths, references, strict=True)):
        if not truth:
            raise UserError(
                f"image {i} of the evaluated split has no caption with a word in it "
                f"({list(raw)!r}); give it one or leave it out"
            )
    return truths


def _corpus(metric, hypotheses: list[str], streams: list[list[str | None]]) -> Metric:
    score = metric.corpus_score(hypotheses, streams, n_bootstrap=_BOOTSTRAPS)
    signature = str(metric.get_signature())
    details = json.loads(score.format(width=6, signature=signature, is_json=True))
    stderr = None
    if len(hypotheses) > 1:
        # sacrebleu leaves the interval out where every resample scores 0.
        stderr = details.get("confidence_var", 0.0) / 1.96
    return Metric(score.score, stderr, len(hypotheses), f"0-100 [{signature}]")


def _cider_d(hypotheses: list[str], truths: list[list[str]]) -> Metric:
    scorer = CiderScorer(n=_CIDER_ORDERS, sigma=_CIDER_SIGMA)
    for hypothesis, truth in zip(hypotheses, truths, strict=True):
        scorer += (hypothesis, truth)
    return Metric.mean(scorer.compute_score()[1], "0-10")


def best_single_caption(
    candidates: Iterable[str], references: Sequence[Sequence[str]]
) -> tuple[str, Metric]:
    """The candidate that, given to every image, has the highest CIDEr-D, and that CIDEr-D.

    A baseline that sees no image. It is the best one of its kind: every candidate is scored, none
    filtered out, and the choice looks at the evaluated references themselves, so a model that
    learnt only what captions look like can't be expected to pass it. The first one wins a tie. The
    returned figure is pycocoevalcap's own, computed for the winner.

    Args:
      candidates: captions to choose from, the training captions for example.
      references: the true captions of each image.

    Raises:
      UserError: an image has no reference that contains a word.
      ValueError: there is no candidate.
    """
    candidates = list(dict.fromkeys(" ".join(normalise(c)) for c in candidates))
    if not candidates:
        raise ValueError("no candidate captions")
    best = candidates[int(np.argmax(single_caption_cider(candidates, references)))]
    truths = _normalised_references(references)
    return best, _cider_d([best] * len(truths), truths)


def single_caption_cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> np.ndarray:
    """CIDEr-D that each candidate would have if it were every image's caption, float [candidates].

    Equal to pycocoevalcap's. For a caption c of I images, with tf the count of an n-gram, idf =
    log I - log(images whose references have it), h = tf idf in c and r = tf idf in a reference,

    CIDEr-D(c) = 10/I sum_images mean_refs mean_n  exp(-(l_c - l_r)^2 / (2 6^2))
                                                   sum_g min(h_g, r_g) r_g / (|h| |r|).

    The sum over references is swapped with the one over n-grams: what one n-gram adds depends on c
    only through its count in c and c's length, so it is tabulated once for each pair of these, and
    a candidate costs one look-up per n-gram instead of one pass over all references.

    Raises:
      UserError: an image has no reference that contains a word.
    """
    truths = _normalised_references(references)
    images, ours = len(truths), len(candidates)
    sentences = [normalise(c) for c in candidates] + [t.split() for ts in truths for t in ts]
    image_of = np.repeat(np.arange(images), [len(ts) for ts in truths])
    weight = 10.0 / (images * _CIDER_ORDERS * np.bincount(image_of)[image_of])  # [references]
    # pycocoevalcap's length of a caption is its number of bigrams.
    length = np.maximum([len(s) - 1 for s in sentences], 0)

    scores = np.zeros(ours)
    for sentence, gram, tf, size in count_ngrams(sentences, _CIDER_ORDERS):
        is_ours = sentence < ours
        reference, seen, tf_r = sentence[~is_ours] - ours, gram[~is_ours], tf[~is_ours]
        pairs = np.unique(image_of[reference] * size + seen)
        idf = np.log(images) - np.log(np.maximum(np.bincount(pairs % size, minlength=size), 1))
        norm = np.sqrt(np.bincount(sentence, (tf * idf[gram]) ** 2, len(sentences)))
        # A norm of 0 leaves only zeros to divide.
        norm[norm == 0] = 1.0
        idf_r = idf[seen]
        share = weight[reference] * idf_r**2 * tf_r / norm[ours + reference]

        sentence, gram, tf = sentence[is_ours], gram[is_ours], tf[is_ours]
        for own in np.unique(length[sentence]):
            penalty = np.exp(-((own - length[ours + reference]) ** 2) / (2 * _CIDER_SIGMA**2))
            of_length = length[sentence] == own
            for k in np.unique(tf[of_length]):
                gain = np.bincount(seen, share * penalty * np.minimum(tf_r, k), size)
                rows = of_length & (tf == k)
                scores += np.bincount(
                    sentence[rows], gain[gram[rows]] / norm[sentence[rows]], minlength=ours
                )
    return scores


def diversity(samples_per_image: Sequence[Sequence[str]]) -> dict[str, Metric]:
    """How varied the captions are: within an image, and all together.

    Meant for both sides: a model's figures should be near those of the references (at the same
    number of captions per image, on which all of these depend), not as diverse as can be; noise is
    more diverse than people. All are 0 to 1. All are blind to whether the captions are true.

    - `distinct_captions`: mean over images of different captions / captions of the image; higher is
      more diverse. Counts captions that differ in one word as different.
    - `self_bleu_4`: mean over images of the mean BLEU-4 of each caption against the image's others
      (Texygen's self-BLEU: Zhu et al., 2018, arXiv:1802.01886, within an image); lower is more
      diverse. Images with one caption have none and are left out. Blind to paraphrase.
    - `distinct_1`, `_2`, `_3`: see `ngrams.distinct`, over all captions together.

    Standard errors are over images.
    """
    words = [[normalise(s) for s in samples] for samples in samples_per_image if samples]
    several = [samples for samples in words if len(samples) > 1]
    self_bleu = sentence_self_bleu(_flat(several), 4, _image_of(several))[:, 3]
    sizes = list(map(len, several))
    means = np.add.reduceat(self_bleu, np.cumsum([0, *sizes[:-1]])) / sizes if sizes else []
    metrics = {
        "distinct_captions": Metric.mean(
            (len(set(map(tuple, samples))) / len(samples) for samples in words), "0-1"
        ),
        "self_bleu_4": Metric.mean(means, "0-1"),
    }
    for n in (1, 2, 3):
        metrics[f"distinct_{n}"] = distinct(_flat(words), n, _image_of(words))
    return metrics


def _flat(groups: list[list[list[str]]]) -> list[list[str]]:
    return [sentence for group in groups for sentence in group]


def _image_of(groups: list[list[list[str]]]) -> np.ndarray:
    return np.repeat(np.arange(len(groups)), list(map(len, groups)))


def novel_captions(samples: Iterable[str], training_captions: Iterable[str]) -> Metric:
    """Share of captions whose words aren't exactly those of a training caption.

    See `ngrams.novel_sentences`: higher means less copying, 0 to 1; the references' own share is
    the yardstick.
    """
    return novel_sentences(list(map(normalise, samples)), list(map(normalise, training_captions)))
