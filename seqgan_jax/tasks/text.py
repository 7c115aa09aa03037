"""Text, and any sequences that can be written as text: what the programs need to know of it."""

import functools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax.codecs.text import UNK, TextCodec
from seqgan_jax.data import expressions, stores
from seqgan_jax.data import text as data
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import text as metrics
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.files import replace_file
from seqgan_jax.tasks import Splits, Tokens

# Training sequences that novelty is judged by, and sentences embedded for, at most.
_TRAINING = 50_000
# What the sources look like, beside the codec: writing needs the run alone.
_SOURCE_FILE = "source.json"


class Text(Splits):
    """The task, bound to its data and its codec; see `tasks.Task`.

    Args:
      config: the run's configuration.
      workdir: the run's directory; the codec is read from it, or fitted and saved to it.
      progress: shows one-off work, see `reporting.progress.Progress`.

    Raises:
      UserError: for anything wrong with the data or with the options that concern them.
    """

    name = "text"
    items = "sequences"
    banned = (UNK,)
    num_samples = 1
    falling = metrics.AXES
    sweep = metrics.SWEPT

    def __init__(self, config, workdir: Path, progress):
        self._config = config
        self._workdir = workdir
        self._progress = progress
        self.length = config.codec.max_length
        self._grammar = config.data.source == "cfg" and not config.data.path
        self.shown = metrics.AXES + (("parsed",) if self._grammar else ("self_bleu_4",))
        folder = workdir / "codec"
        # Without a configuration this is no run yet, and the codec is what a failed start left.
        if (workdir / "config.json").exists() and (folder / "codec.json").exists():
            self.codec = TextCodec.load(folder)
        else:
            self._prepare(folder)
        source = json.loads((folder / _SOURCE_FILE).read_text())
        self._shape, self.source_vocabulary = source["shape"], source["vocabulary"]
        self.options = () if self._shape is None else ("input",)

    def _prepare(self, folder: Path) -> None:
        """Fits and saves what a new run needs, and refuses data that it can't do with."""
        config = self._config
        arrays = isinstance(self._store, stores.Arrays)
        if arrays and config.codec.kind != "word":
            raise UserError(
                f"config.codec.kind: '{config.codec.kind}' can't read {self._store.name}, whose "
                "tokens are integers; set word"
            )
        source = self._store.source
        reads = config.encoder.kind != "none"
        if reads != (source is not None):
            fault = "has no sources; set none" if reads else "has sources; set one that reads them"
            raise UserError(
                f"config.encoder.kind: '{config.encoder.kind}', but {self._store.name} {fault}"
            )
        self.codec = TextCodec.fit(
            data.training_texts(self._store, config.data, progress=self._progress.track),
            kind=config.codec.kind,
            max_size=config.codec.max_size,
            min_count=config.codec.min_count,
            seed=config.seed,
            lowercase=config.codec.lowercase,
        )
        count = len(self.splits["train"])
        phases = [config.phases[name] for name in config.phases.order]
        parts = [part for p in phases for part in (p, p.generator, p.discriminator)]
        if count < max(part.batch_size for part in parts):
            raise UserError(
                f"{self._store.name}: {count} sequences to train on are fewer than a batch; give "
                f"more, or set config.phases.*.batch_size to {count} or less"
            )
        self.codec.save(folder)
        known = {
            "shape": None if source is None else source.shape[1:],
            "vocabulary": self._store.source_vocabulary if arrays else None,
        }
        with replace_file(folder / _SOURCE_FILE) as file:
            file.write(json.dumps(known).encode())

    # Data.

    @functools.cached_property
    def _store(self) -> stores.Store:
        return stores.open_store(
            self._config.data,
            self._workdir,
            progress=self._progress.track,
            report=self._progress.message,
        )

    @functools.cached_property
    def _indexed(self) -> tuple[dict[str, data.Sequences], dict[str, int]]:
        return data.splits(
            self._store,
            self.codec,
            self._config.data,
            self.length,
            progress=self._progress.track,
        )

    @property
    def splits(self) -> dict[str, data.Sequences]:
        """The splits by name; found when first asked for, since generation needs none."""
        return self._indexed[0]

    @property
    def encoder(self) -> Tokens:
        """Nothing: `data.text.Sequences` are encoded."""
        return Tokens(self.codec.vocabulary)

    @property
    def message(self) -> str:
        known = f"vocabulary: {len(self.codec.tokens):,} tokens"
        if self.codec.dropped:
            known += f"; {self.codec.dropped:,} rarer ones are unknown"
        counts = self._indexed[1]
        return f"{data.summary(self._store.name, counts, self._config.data, self.length)}\n{known}"

    def template(self) -> dict:
        kind = np.float32 if self.source_vocabulary is None else np.int32
        source = None if self._shape is None else np.zeros((1, *self._shape), kind)
        row = (
            {"source": None, "source_mask": None}
            if source is None
            else stores.encoder_input(source)
        )
        return {
            **row,
            "target": np.zeros((1, self.length), np.int32),
            "mask": np.ones((1, self.length), np.float32),
        }

    def request(self, options: Mapping[str, Any]) -> tuple[list[str], dict]:
        """One row without a source, or the rows of a file of sources.

        Raises:
          UserError: for sources that are missing, or unlike those of the training data.
        """
        if self._shape is None:
            names, row = [""], {"source": None, "source_mask": None}
        else:
            path = options.get("input")
            if not path:
                raise UserError(
                    "--input: none given; name an .npz file with an array 'source' like the "
                    "training data's"
                )
            source = self._like_training(path, stores.read_sources(Path(path)))
            names, row = [f"source {i}" for i in range(len(source))], stores.encoder_input(source)
        rows = np.arange(len(names), dtype=np.int32)
        return names, {**row, "example_id": rows, "weight": np.ones(len(names), np.float32)}

    def _like_training(self, path: str, source: np.ndarray) -> np.ndarray:
        """Sources of the shape that the networks read; shorter ones of integers are filled up."""
        integers = self.source_vocabulary is not None
        if (source.dtype.kind in "iu") == integers and source.ndim == 1 + len(self._shape):
            if integers and source.shape[1] < self._shape[0]:
                room = self._shape[0] - source.shape[1]
                source = np.pad(source, ((0, 0), (0, room)), constant_values=-1)
            known = not integers or source.max(initial=0) < self.source_vocabulary
            if source.shape[1:] == tuple(self._shape) and known:
                return source
        what = f"integers below {self.source_vocabulary}" if integers else "floats"
        raise UserError(
            f"--input={path}: its 'source' is {source.dtype} of shape {source.shape}; it must be "
            f"{what} of shape [N, {', '.join(map(str, self._shape))}] as in training"
        )

    def prefix(self, text: str) -> tuple[int, ...]:
        """See `tasks.Splits.prefix`."""
        return super().prefix(unicodedata.normalize(self._config.data.unicode, text))

    # What was written.

    def row(self, name: str, sample: Sample) -> dict:
        """`token_log_probs` are those of the tokens and of the end, as far as there is one."""
        texts = []
        for i, (tokens, mask) in enumerate(zip(sample.tokens, sample.mask, strict=True)):
            row = {
                "text": self.decode(tokens),
                "tokens": [self.codec.tokens[t] for t in tokens[mask > 0]],
                "log_prob": float(sample.log_probs[i]),
                "score": float(sample.scores[i]),
            }
            if sample.token_log_probs is not None:
                row["token_log_probs"] = sample.token_log_probs[i][mask > 0].tolist()
            texts.append(row)
        return {**({"source": name} if name else {}), "texts": texts}

    def describe(self, name: str, sample: Sample) -> list[str]:
        """The texts alone, so that they can be read as a file of one a line."""
        texts = [self.decode(tokens) for tokens in sample.tokens]
        return [name, *(f"  {text}" for text in texts)] if name else texts

    def evaluate(
        self, split: str, samples: Sequence[Sample], log_probs: np.ndarray, *, thorough: bool
    ) -> dict[str, Metric]:
        """See `evaluation.text.figures`; for expressions also `parsed` and `depth_deviation`."""
        del log_probs
        written = [data.words(self.codec, tokens) for sample in samples for tokens in sample.tokens]
        return self._figures(split, len(samples), written, thorough)

    def _figures(
        self, split: str, count: int, texts: Sequence[tuple[str, ...]], thorough: bool
    ) -> dict[str, Metric]:
        if count < 2:
            raise UserError(
                f"--split={split}: has {count} sequences, too few to judge by; raise "
                "config.data.test_share, or give more data"
            )
        figures = metrics.figures(
            texts,
            self._words(split, count),
            self._training,
            seed=self._config.seed,
            thorough=thorough,
            separator=" " if self.codec.spaced else "",
        )
        return figures | (expression_figures(texts) if self._grammar else {})

    def _words(self, split: str, limit: int) -> list[tuple[str, ...]]:
        sequences = self.split(split)
        return [sequences.words(i) for i in range(min(limit, len(sequences)))]

    @functools.cached_property
    def _training(self) -> list[tuple[str, ...]]:
        return self._words("train", _TRAINING)

    def comparisons(
        self, split: str, count: int, num_samples: int
    ) -> tuple[dict[str, dict[str, Metric]], list[str]]:
        """Real text that is no training text either, judged as if it had been written."""
        del num_samples
        other = self._words("validation" if split == "test" else "test", count)
        if len(other) < 2:
            return {}, []
        return {"real text": self._figures(split, count, other, True)}, []

    def illustrate(
        self, folder: Path, split: str, samples: Sequence[Sample], attention: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Writes `texts.json`; there is nothing to see."""
        del split, attention
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row for sample in samples for row in self.row("", sample)["texts"][:1]]
        with replace_file(folder / "texts.json") as file:
            file.write(json.dumps(rows, indent=1, ensure_ascii=False).encode())
        return {}


def expression_figures(texts: Sequence[Sequence[str]]) -> dict[str, Metric]:
    """What a grammar says of expressions; see `data.expressions`.

    `parsed` is the share that the grammar has, higher is better. `depth_deviation` is the standard
    deviation of these ones' derivation depths; real expressions' own is the one to aim at, and a
    model that forgets open brackets has a lower one. Its standard error is the delta method's,
    sqrt(m4 - s^4) / (2 s sqrt n) with m4 the fourth central moment.
    """
    depths = [expressions.depth(tokens) for tokens in texts]
    figures = {"parsed": Metric.mean((d is not None for d in depths), "share")}
    known = np.array([d for d in depths if d is not None], float)
    value = stderr = None
    if len(known) > 1:
        value = float(known.std(ddof=1))
        fourth = np.mean((known - known.mean()) ** 4)
        if value:
            stderr = float(np.sqrt(max(fourth - value**4, 0.0) / len(known)) / (2 * value))
    return figures | {"depth_deviation": Metric(value, stderr, len(known), "levels")}
