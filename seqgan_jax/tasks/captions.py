"""Image captions: what the programs need to know of images and their texts."""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax.codecs.text import BOS, PAD, UNK, TextCodec
from seqgan_jax.data import coco, features, flickr8k, images, scenes
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import captions as metrics
from seqgan_jax.evaluation import ngrams
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.files import replace_file
from seqgan_jax.models import efficientnet
from seqgan_jax.reporting import pictures
from seqgan_jax.tasks import Portable, Splits

SOURCES = {"scenes": scenes, "flickr8k": flickr8k, "coco": coco, "features": features}
FEATURES = ("none", "efficientnet_lite0")
# Captions that the vocabulary of unlimited data is built from.
_FIT = 5000


class Captions(Splits):
    """The task, bound to its data and its codec; see `tasks.Task`.

    Args:
      config: the run's configuration.
      workdir: the run's directory; the codec is read from it, or fitted and saved to it.
      progress: shows one-off work, see `reporting.progress.Progress`.
    """

    name = "captions"
    items = "captions"
    banned = (UNK,)
    options = ("image",)
    num_samples = 5
    shown = ("true_captions", "cider_d", "distinct_captions")
    beam = ("true_captions", "bleu_4", "chrf", "rouge_l", "cider_d")

    def __init__(self, config, workdir: Path, progress):
        if config.data.source not in SOURCES:
            raise UserError(
                f"config.data.source: no source '{config.data.source}'; choose from "
                f"{', '.join(SOURCES)}"
            )
        if config.data.features not in FEATURES:
            raise UserError(
                f"config.data.features: no encoder '{config.data.features}'; choose from "
                f"{', '.join(FEATURES)}"
            )
        self._config = config
        self._progress = progress
        folder = workdir / "codec"
        # Without a configuration this is no run yet, and the codec is what a failed start left.
        if (workdir / "config.json").exists() and (folder / "codec.json").exists():
            self.codec = TextCodec.load(folder)
        else:
            self.codec = TextCodec.fit(
                self._training_captions(),
                kind=config.codec.kind,
                max_size=config.codec.max_size,
                min_count=config.codec.min_count,
                seed=config.seed,
                lowercase=config.codec.lowercase,
            )
            self.codec.save(folder)
        self.length = config.codec.max_length
        if self.codec.dropped:
            self.message = (
                f"vocabulary: {len(self.codec.tokens):,} tokens; {self.codec.dropped:,} rarer ones "
                "are unknown"
            )
        if config.data.source == "scenes":
            self.message = (
                "data: rendered scenes; the model will know coloured shapes only "
                "(docs/captions.md says how to train on photographs)"
            )

    @functools.cached_property
    def splits(self) -> dict:
        """The data's splits by name; read when first asked for, since generation needs none."""
        splits = SOURCES[self._config.data.source].load(
            self._config.data, progress=self._progress.track, report=self._progress.message
        )
        for name, split in splits.items():
            if not split.unlimited and not len(split):
                raise UserError(
                    f"{self._config.data.path}: no image is left in '{name}'; mend those left out"
                )
        if self._config.data.features == "none":
            return splits
        return {
            name: features.cached_features(
                split, self._features, "efficientnet_lite0-v1", self._progress.track
            )
            for name, split in splits.items()
        }

    @functools.cached_property
    def _efficientnet(self):
        return efficientnet.load_pretrained()

    def _features(self, batch: np.ndarray) -> np.ndarray:
        return np.asarray(efficientnet.grid_features(self._efficientnet, batch))

    def _training_captions(self) -> Iterator[str]:
        """All captions to learn from, or a part of them where the data has no end."""
        train = self.splits["train"]
        count = _FIT if train.unlimited else len(train)
        return (text for i in range(count) for text in train[i]["captions"])

    def template(self) -> dict:
        if self._config.data.source == "features":
            source = self.splits["train"][0]["source"]
        elif self._config.data.features == "none":
            source = np.zeros((self._config.data.image_size,) * 2 + (3,), np.uint8)
        else:
            source = np.zeros(efficientnet.GRID, np.float32)
        return {
            "source": source[None],
            "source_mask": None,
            "target": np.zeros((1, self.length), np.int32),
            "mask": np.ones((1, self.length), np.float32),
        }

    def request(self, options: Mapping[str, Any]) -> tuple[list[str], dict]:
        """A user's own images, or folders of them, as names and one batch of sources.

        Raises:
          UserError: for no image, one that is missing or unreadable, an empty folder, or a model of
            precomputed features, which can't look at an image.
        """
        paths = options["image"]
        if not paths:
            raise UserError("--image: none given; name an image or a folder of them")
        if self._config.data.source == "features":
            raise UserError(
                "--image: this model was trained on precomputed features and can't read images; "
                "evaluate.py judges its captions of the data set's own"
            )
        files = [file for path in paths for file in images.image_files(Path(path))]
        size = self._config.data.image_size
        source = np.stack([images.read_image(path, size) for path in files])
        if self._config.data.features == "efficientnet_lite0":
            source = self._features(source)
        batch = {
            "source": source,
            "source_mask": None,
            "example_id": np.arange(len(files), dtype=np.int32),
            "weight": np.ones(len(files), np.float32),
        }
        return [str(path) for path in files], batch

    def draw_attention(
        self, name: str, tokens: np.ndarray, attention: np.ndarray, path: Path
    ) -> np.ndarray | None:
        seen = images.read_image(name, images.DISPLAY_SIZE)  # the square that the networks see
        return self._draw_attention(seen, tokens, attention, path)

    def _draw_attention(self, image, tokens, attention, path: Path) -> np.ndarray | None:
        side = round(attention.shape[1] ** 0.5)
        ids = [int(i) for i in tokens if i not in (PAD, BOS)]
        if side * side != attention.shape[1] or not ids:
            return None
        words = [self.codec.tokens[i] for i in ids]
        return pictures.attention_sheet(image, words, attention[: len(ids)], (side, side), path)

    def portable(self) -> Portable:
        """Sources are uint8 images, square and of the size that the model was trained on."""
        if self._config.data.features != "efficientnet_lite0":
            return super().portable()
        side = self._config.data.image_size
        features = functools.partial(efficientnet.grid_features, self._efficientnet)
        return Portable(np.zeros((1, side, side, 3), np.uint8), features)

    # What was written.

    def row(self, name: str, sample: Sample) -> dict:
        return {
            "image": name,
            "captions": [
                {
                    "caption": self.decode(tokens),
                    "log_prob": float(log_prob),
                    "score": float(score),
                }
                for tokens, log_prob, score in zip(
                    sample.tokens, sample.log_probs, sample.scores, strict=True
                )
            ],
        }

    def describe(self, name: str, sample: Sample) -> list[str]:
        return [
            name,
            *(
                f"  {row['caption']}  (log-probability {row['log_prob']:.2f}, "
                f"discriminator {row['score']:.2f})"
                for row in self.row(name, sample)["captions"]
            ),
        ]

    # Figures.

    def references(self, split: str, count: int) -> list[tuple[str, ...]]:
        """The true captions of the first images of a split."""
        source = self.split(split)
        return [source[i]["captions"] for i in range(count)]

    def evaluate(
        self, split: str, samples: Sequence[Sample], log_probs: np.ndarray, *, thorough: bool
    ) -> dict[str, Metric]:
        del log_probs
        texts = [[self.decode(tokens) for tokens in sample.tokens] for sample in samples]
        return self.judge(split, texts, thorough=thorough)

    def judge(
        self, split: str, samples: Sequence[Sequence[str]], *, thorough: bool = True
    ) -> dict[str, Metric]:
        """Figures of captions written for the first images of a split.

        Args:
          split: which.
          samples: captions of each image, equally many.
          thorough: also the figures that take long, or need the training set.

        Returns:
          Metrics; `quality_diversity` is the task's measure by which checkpoints are chosen: the
          share of true captions (scenes) or CIDEr-D (other data), times the mean number of
          distinct captions an image in relation to the references', at most 1.
        """
        references = self.references(split, len(samples))
        count = len(samples[0])
        figures = {}
        if self._config.data.source == "scenes":
            source = self.split(split)
            truth = [
                [scenes.is_true(caption, source.scene(i)) for caption in captions]
                for i, captions in enumerate(samples)
            ]
            # Samples of one image are no independent evidence: the mean of each counts once.
            figures["true_captions"] = Metric.mean([np.mean(t) for t in truth], "share")
        if thorough or "true_captions" not in figures:
            texts = [list(texts) for texts in references]
            figures |= metrics.caption_metrics([captions[0] for captions in samples], texts)
        if count > 1:
            figures |= metrics.diversity(samples)
            figures["quality_diversity"] = self._quality_diversity(figures, references, count)
        known = [
            [i for i in self.codec.encode(text) if i > UNK] for texts in samples for text in texts
        ]
        figures["vocabulary_used"] = ngrams.vocabulary_used(known, len(self.codec.tokens) - UNK - 1)
        if thorough:
            flat = [text for captions in samples for text in captions]
            figures["novel_captions"] = metrics.novel_captions(flat, self._training_captions())
        return figures

    def _quality_diversity(self, figures, references, count) -> Metric:
        quality = figures.get("true_captions") or figures["cider_d"]
        comparable = [texts[:count] for texts in references if len(texts) >= count]
        share = 1.0
        if comparable:
            theirs = metrics.diversity(comparable)["distinct_captions"].value
            share = min(1.0, figures["distinct_captions"].value / theirs)
        error = quality.stderr and quality.stderr * share
        return Metric(quality.value * share, error, quality.n, "quality x distinct ratio")

    def reference_figures(self, split: str, limit: int, num_samples: int) -> dict[str, Metric]:
        """The same figures of the true captions: what a perfect model would reach.

        The first caption of an image is the candidate and the others are the references, so the
        figures of likeness are of one reference fewer than the model's.
        """
        references = self.references(split, limit)
        references = [texts for texts in references if len(texts) > 1]
        if not references:
            return {}
        figures = metrics.caption_metrics(
            [texts[0] for texts in references], [list(texts[1:]) for texts in references]
        )
        count = min(num_samples, min(len(texts) for texts in references))
        if count > 1:
            figures |= metrics.diversity([texts[:count] for texts in references])
        return figures

    def comparisons(
        self, split: str, count: int, num_samples: int
    ) -> tuple[dict[str, dict[str, Metric]], list[str]]:
        """The references, and the training caption that does best when given to every image."""
        references = [list(texts) for texts in self.references(split, count)]
        text, single = metrics.best_single_caption(list(self._training_captions()), references)
        columns = {
            "references": self.reference_figures(split, count, num_samples),
            "one caption for all": {"cider_d": single},
        }
        return columns, [f"one caption for all: {text}"]

    # Pictures.

    def illustrate(
        self, folder: Path, split: str, samples: Sequence[Sample], attention: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Draws the first images with their captions, and where the first one's words looked.

        Writes `captions.png`, `captions.json` and `attention.png`.
        """
        source = self.split(split)
        count = len(samples)
        captions = [self.decode(sample.tokens[0]) for sample in samples]
        scores = [float(sample.scores[0]) for sample in samples]
        shown = [source.image(i) for i in range(count)]
        references = [source[i]["captions"][0] for i in range(count)]
        verdicts = None
        if self._config.data.source == "scenes":
            verdicts = [scenes.is_true(text, source.scene(i)) for i, text in enumerate(captions)]
        folder.mkdir(parents=True, exist_ok=True)
        drawn = {
            "captions": pictures.caption_sheet(
                shown,
                captions,
                folder / "captions.png",
                references=references,
                scores=scores,
                verdicts=verdicts,
            )
        }
        looked = None
        if attention is not None:
            path = folder / "attention.png"
            looked = self._draw_attention(shown[0], samples[0].tokens[0], attention, path)
        drawn |= {} if looked is None else {"attention": looked}
        rows = [
            {"image": source.name(i), "caption": captions[i], "score": round(scores[i], 6)}
            for i in range(count)
        ]
        with replace_file(folder / "captions.json") as file:
            file.write(json.dumps(rows, indent=1, ensure_ascii=False).encode())
        return drawn
