"""Translation: what the programs need to know of pairs of texts in two languages."""

import codecs
import functools
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax.codecs.text import EOS, PAD, UNK, TextCodec
from seqgan_jax.data import parallel, phrases, pipeline
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import translation as metrics
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.files import replace_file
from seqgan_jax.reporting import alignments
from seqgan_jax.tasks import Portable, Splits, Tokens

# Pairs that the vocabulary and the buckets of unlimited data are made for.
_FIT = 5000
# The first example's id of each split: equal ids would have equal noise.
_FIRST_ID = {"train": 0, "validation": 2**30, "test": 2**30 + 2**29}


class _Encoded:
    """One split of pairs, as the pipeline's examples of tokens."""

    def __init__(
        self, pairs: parallel.Pairs, task: "Translation", first_id: int, marked: bool = False
    ):
        self.pairs = pairs
        self.unlimited = pairs.unlimited
        self._task = task
        self._first_id = first_id
        self._marked = marked  # whether its examples say that they are pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> dict:
        pair = self.pairs[i]
        source, mask = self._task.encode_source(pair.source)
        return {
            "source": source,
            "source_mask": mask,
            "captions": (self._task.codec.encode(pair.target),),
            "example_id": self._first_id + i,
        } | ({"paired": pair.paired} if self._marked else {})


def _some(pairs: parallel.Pairs) -> Iterator[parallel.Pair]:
    """Pairs from all over a split: a file may be sorted by length."""
    if pairs.unlimited:
        return (pairs[i] for i in range(_FIT))
    return (pairs[int(i)] for i in np.linspace(0, len(pairs) - 1, min(_FIT, len(pairs))))


class Translation(Splits):
    """The task, bound to its pairs and its codecs; see `tasks.Task`.

    Args:
      config: the run's configuration.
      workdir: the run's directory; the codecs are read from it, or fitted and saved to it.
      progress: shows one-off work, see `reporting.progress.Progress`.

    Attributes:
      source_codec: the source's tokens; `codec` itself where the languages share a vocabulary.
      source_vocabulary: how many source tokens there are.
      source_length: S, tokens of a source at most.

    Raises:
      UserError: for files or languages that there are no pairs in, or lengths that make no sense.
    """

    name = "translation"
    items = "translations"
    banned = (UNK,)
    options = ("text", "input")
    num_samples = 1
    shown = ("exact_match", "bleu", "chrf")

    def __init__(self, config, workdir: Path, progress):
        self._config = config
        self._progress = progress
        for option in ("max_length", "max_source_length"):
            if config.codec[option] < 2:
                raise UserError(
                    f"config.codec.{option}: {config.codec[option]} leaves no room for a token and "
                    "the end; set 2 or more"
                )
        for option, usual in (("aligned", 1.0), ("source_texts", None), ("target_texts", None)):
            if self._embedded and config.data.get(option, usual) != usual:
                raise UserError(
                    f"config.data.{option}: is for texts of your own, and generated phrases are "
                    "all aligned; set config.data.path too, or leave it out"
                )
        self.length = config.codec.max_length
        self.source_length = config.codec.max_source_length
        self.codec, self.source_codec = self._codecs(workdir)
        self.source_vocabulary = self.source_codec.vocabulary.size
        self.reverse = self.source_codec.vocabulary, self.source_length
        self.beam = ("bleu", "chrf")
        if self._embedded:
            kinds = self._all["train"].kinds
            self.beam += ("exact_match", *(f"exact_match_{kind}" for kind in kinds))
            self.message = (
                f"data: phrases ({', '.join(kinds)}), {config.data.source_language} to "
                f"{config.data.target_language}; the model will know nothing else "
                "(docs/translation.md says how to train on your own texts)"
            )

    @property
    def _embedded(self) -> bool:
        return self._config.data.source == "phrases" and self._config.data.path is None

    def _codecs(self, workdir: Path) -> tuple[TextCodec, TextCodec]:
        """The target's and the source's codec."""
        shared = self._config.codec.shared
        folders = [workdir / "codec"] + ([] if shared else [workdir / "codec" / "source"])
        # Without a configuration this is no run yet, and the codec is what a failed start left.
        if (workdir / "config.json").exists():
            codecs = [TextCodec.load(folder) for folder in folders]
        else:
            texts = [self._texts("target"), self._texts("source")]
            codecs = list(map(self._fit, [itertools.chain(*texts)] if shared else texts))
            for codec, folder in zip(codecs, folders, strict=True):
                codec.save(folder)
        return codecs[0], codecs[-1]

    def _texts(self, side: str) -> Iterator[str]:
        train = self._all["train"]
        count = _FIT if train.unlimited else len(train)
        paired = (getattr(train[i], side) for i in range(count))
        return itertools.chain(paired, self._texts_alone(side))

    def _texts_alone(self, side: str) -> Iterator[str]:
        """The texts of `config.data.source_texts` or `target_texts`."""
        path = self._config.data.get(f"{side}_texts")
        return filter(None, parallel.read_lines(Path(path).expanduser())) if path else iter(())

    def _fit(self, texts: Iterator[str]) -> TextCodec:
        options = self._config.codec
        return TextCodec.fit(
            texts,
            kind=options.kind,
            max_size=options.max_size,
            min_count=options.min_count,
            seed=self._config.seed,
            lowercase=options.lowercase,
        )

    # Data.

    @functools.cached_property
    def _all(self) -> dict[str, parallel.Pairs]:
        """All pairs by split; read when first asked for, since generation needs none."""
        load = phrases.load if self._embedded else parallel.load
        return load(self._config.data, report=self._progress.message)

    @functools.cached_property
    def splits(self) -> dict[str, _Encoded]:
        """The pairs that are used, by split: of the training pairs those of fitting lengths."""
        used = self._all if self._embedded else self._all | {"train": self._aligned[0]}
        self._tell_cut()
        return {name: _Encoded(pairs, self, _FIRST_ID[name]) for name, pairs in used.items()}

    def _tell_cut(self) -> None:
        """Says how many held-out pairs are longer than the model reads and writes."""
        held_out = [*self._all["validation"], *self._all["test"]]
        limits = self.source_length, self.length
        source, target = (np.array(list(map(self._lengths, held_out))) > limits).sum(0)
        if source or target:
            self._progress.message(
                f"data: of {len(held_out):,} held-out pairs {source:,} sources have more than "
                f"{self.source_length} tokens and are cut, and {target:,} targets more than "
                f"{self.length}, which no translation has (config.codec.max_source_length, "
                "config.codec.max_length)"
            )

    @functools.cached_property
    def _aligned(self) -> tuple[parallel.Corpus, list[parallel.Pair]]:
        """The training pairs that are used as such, and those whose texts are used apart."""
        data = self._config.data
        pairs, others = parallel.split_apart(self._fitting(), data.get("aligned", 1.0), data.seed)
        if others:
            self._progress.message(
                f"data: {len(pairs):,} of these pairs are aligned (config.data.aligned)"
            )
        return parallel.Corpus(pairs), others

    @functools.cached_property
    def apart(self) -> _Encoded:
        """Aligned pairs and, as often, a source and a target that are no pair.

        Raises:
          UserError: where there are no texts without a translation.
        """
        if self._embedded:
            raise UserError(
                "config.data.path: generated phrases are all aligned; name pairs of your own, or "
                "leave the phases with consistency out of config.phases.order"
            )
        pairs, others = self._aligned
        sides = [
            [getattr(pair, side) for pair in others] + list(self._alone_fitting(side))
            for side in ("source", "target")
        ]
        if not any(sides):
            raise UserError(
                "config.data.aligned: all pairs are aligned, and there is no text without a "
                "translation; name some with config.data.source_texts or config.data.target_texts, "
                "or set config.data.aligned below 1"
            )
        self._progress.message(
            f"data: {len(sides[0]):,} sources and {len(sides[1]):,} targets without a translation"
        )
        return _Encoded(parallel.Apart(pairs, *sides), self, _FIRST_ID["train"], marked=True)

    def _alone_fitting(self, side: str) -> Iterator[str]:
        codec, most = {
            "source": (self.source_codec, self.source_length),
            "target": (self.codec, self.length),
        }[side]
        return (text for text in self._texts_alone(side) if len(codec.encode(text)) <= most)

    def _fitting(self) -> list[parallel.Pair]:
        train = self._all["train"]
        kept, dropped = parallel.filtered(
            self._progress.track(train, len(train), "reading pairs"),
            self._lengths,
            limits=(self.source_length, self.length),
            max_ratio=self._config.data.max_ratio,
        )
        if not kept:
            raise UserError(
                f"{self._config.data.path}: no training pair is within config.codec.max_length, "
                "config.codec.max_source_length and config.data.max_ratio; set them higher"
            )
        self._progress.message(
            f"data: {len(kept):,} of {dropped.pairs:,} training pairs; left out are "
            f"{dropped.long:,} of more than {self.source_length} source or {self.length} target "
            f"tokens and {dropped.uneven:,} with one side more than "
            f"{self._config.data.max_ratio:g} times as long as the other"
        )
        return kept

    def _lengths(self, pair: parallel.Pair) -> tuple[int, int]:
        return len(self.source_codec.encode(pair.source)), len(self.codec.encode(pair.target))

    @functools.cached_property
    def buckets(self) -> tuple[int, ...]:
        lengths = (max(self._lengths(pair)) for pair in _some(self.splits["train"].pairs))
        return pipeline.bucket_sizes(lengths, self._config.data.num_buckets)

    def encode_source(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [S] int32 and their mask [S] float32; a longer text is cut and keeps its end."""
        ids = self.source_codec.encode(text)
        if len(ids) > self.source_length:
            ids = [*ids[: self.source_length - 1], EOS]
        tokens = np.full(self.source_length, PAD, np.int32)
        tokens[: len(ids)] = ids
        return tokens, (np.arange(self.source_length) < len(ids)).astype(np.float32)

    @property
    def tokenizer(self) -> str:
        return metrics.tokenizer(self._config.data.target_language)

    def training_texts(self, example_id: np.ndarray) -> tuple[list[list[str]], list]:
        """Sources are texts."""
        pairs = [self.splits["train"].pairs[int(i)] for i in example_id]
        targets = [self.codec.normalise(pair.target) for pair in pairs]
        return [[target] for target in targets], [pair.source for pair in pairs]

    def template(self) -> dict:
        return {
            "source": np.zeros((1, self.source_length), np.int32),
            "source_mask": np.ones((1, self.source_length), np.float32),
            "target": np.zeros((1, self.length), np.int32),
            "mask": np.ones((1, self.length), np.float32),
        }

    @property
    def encoder(self) -> Tokens:
        return Tokens(self.codec.vocabulary)

    def request(self, options: Mapping[str, Any]) -> tuple[list[str], dict]:
        """A user's own texts, each given with --text or a line of --input.

        Raises:
          UserError: for no text, an empty one, one that is too long, or a file that can't be read.
        """
        texts = [("--text", text) for text in options["text"] or ()]
        if options["input"]:
            texts += _read_input(options["input"])
        if not texts:
            raise UserError(
                "--text: none given; name a text, or a file of one on each line: --input"
            )
        for where, text in texts:
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"{where}: is not UTF-8; convert it") from error
            count = len(self.source_codec.encode(text))
            if count < 2:
                raise UserError(f"{where}: is empty; leave it out")
            if count > self.source_length:
                raise UserError(
                    f"{where}: has {count} tokens, and this model reads {self.source_length} at "
                    f"most; split the text: {text[:40]}"
                )
        tokens, masks = zip(*(self.encode_source(text) for _, text in texts), strict=True)
        batch = {
            "source": np.stack(tokens),
            "source_mask": np.stack(masks),
            "example_id": np.arange(len(texts), dtype=np.int32),
            "weight": np.ones(len(texts), np.float32),
        }
        return [text for _, text in texts], batch

    def portable(self) -> Portable:
        return super().portable()._replace(source_codec=self.source_codec)

    # What was written.

    def row(self, name: str, sample: Sample) -> dict:
        return {
            "source": name,
            "translations": [
                {
                    "translation": self.decode(tokens),
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
                f"  {row['translation']}  (log-probability {row['log_prob']:.2f}, "
                f"discriminator {row['score']:.2f})"
                for row in self.row(name, sample)["translations"]
            ),
        ]

    # Figures.

    def evaluate(
        self, split: str, samples: Sequence[Sample], log_probs: np.ndarray, *, thorough: bool
    ) -> dict[str, Metric]:
        """BLEU, chrF and, of phrases, exact matches of the first translation of each source.

        `quality_diversity` is the share of exact matches, or BLEU where the data are files: a
        source has one translation here, so that variety is no aim.
        """
        del log_probs, thorough
        return self.judge(split, [self.decode(sample.tokens[0]) for sample in samples])

    def judge(self, split: str, texts: Sequence[str]) -> dict[str, Metric]:
        """The same of given translations of the first sources of a split."""
        pairs = self._first(split, len(texts))
        references = [self.codec.normalise(pair.target) for pair in pairs]
        figures = metrics.translation_metrics(texts, references, self._config.data.target_language)
        if self._embedded:
            figures |= metrics.exact_matches(texts, references, [pair.kind for pair in pairs])
        best = figures.get("exact_match", figures["bleu"])
        return figures | {"quality_diversity": best}

    def _first(self, split: str, count: int) -> list[parallel.Pair]:
        pairs = self.split(split).pairs
        return [pairs[i] for i in range(count)]

    def comparisons(
        self, split: str, count: int, num_samples: int
    ) -> tuple[dict[str, dict[str, Metric]], list[str]]:
        """The sources themselves as translations; and sacrebleu's signatures."""
        del num_samples
        texts = [self.codec.normalise(pair.source) for pair in self._first(split, count)]
        figures = self.judge(split, texts)
        signatures = {name: figures[name].unit.partition(" [")[2][:-1] for name in ("bleu", "chrf")}
        lines = [f"{name}: sacrebleu {signature}" for name, signature in signatures.items()]
        return {"source copied": figures}, lines

    # Pictures.

    def illustrate(
        self, folder: Path, split: str, samples: Sequence[Sample], attention: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Writes `translations.json`, and draws the first one's attention in `attention.png`."""
        pairs = self._first(split, len(samples))
        rows = [
            {
                "source": pair.source,
                "translation": self.decode(sample.tokens[0]),
                "reference": pair.target,
                "score": round(float(sample.scores[0]), 6),
            }
            for pair, sample in zip(pairs, samples, strict=True)
        ]
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / "translations.json") as file:
            file.write(json.dumps(rows, indent=1, ensure_ascii=False).encode())
        if attention is None:
            return {}
        written = samples[0].tokens[0][samples[0].mask[0] > 0]
        path = folder / "attention.png"
        return {"attention": self.draw_attention(pairs[0].source, written, attention, path)}

    def draw_attention(
        self, name: str, tokens: np.ndarray, attention: np.ndarray, path: Path
    ) -> np.ndarray:
        ids, mask = self.encode_source(name)
        source = [self.source_codec.tokens[i] for i in ids[mask > 0]]
        target = [self.codec.tokens[i] for i in tokens]
        return alignments.heat_map(source, target, attention[: len(target), : len(source)], path)


def _read_input(name: str) -> list[tuple[str, str]]:
    """The lines of a file, or of standard input for '-', each with what to call it."""
    if name == "-":
        # As bytes: a terminal's encoding is not always UTF-8, nor always strict.
        content = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8)
        try:
            lines = content.decode().split("\n")
        except UnicodeDecodeError as error:
            number = content[: error.start].count(b"\n") + 1
            raise UserError(
                f"--input=-: what was read is not UTF-8, in line {number}; convert it"
            ) from error
        lines = [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]
    else:
        lines = list(parallel.read_lines(Path(name)))
    return [(f"--input={name}: line {number}", line) for number, line in enumerate(lines, start=1)]
