"""One file per modality: what the programs need to know about it."""

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from seqgan_jax.codecs.text import UNK, TextCodec
from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.data import pipeline
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric

TASKS = {
    "captions": "Captions",
    "oracle": "Oracle",
    "translation": "Translation",
    "speech": "Speech",
    "text": "Text",
    "video": "Video",
}


class Portable(NamedTuple):
    """What a file of `seqgan_jax.export` needs to know of a task's raw data.

    Attributes:
      source: an example of a source as a user has it, [1, ...], or None where there are none.
      features: what makes of such sources what the networks read, a function that JAX can trace;
        None where that is the same.
      source_codec: of sources that are texts; else None.
      first: the source tokens that one begins with, by name; none where it begins with its text.
      decode: tokens [T] -> what they stand for, an array, and how many of its first rows are meant;
        traceable too. None where tokens are text or nothing else.
      sample_rate: of the sound that `decode` gives, in Hz; None where it gives none.
    """

    source: Any = None
    features: Callable[[Any], Any] | None = None
    source_codec: TextCodec | None = None
    first: Mapping[str, int] = {}
    decode: Callable[[Any], tuple[Any, Any]] | None = None
    sample_rate: int | None = None


class Task(Protocol):
    """A modality, bound to a run's data: all that the programs know of it.

    Attributes:
      name: as in `config.task`.
      items: what its targets are called, in the plural.
      message: what a person should know when training begins, or None.
      codec: raw data <-> tokens; has a `vocabulary`.
      length: T, tokens of a target at most.
      banned: tokens that are never written for a user.
      options: generate.py's options, by name, that say what to write for.
      endings: of the files that `save` writes; none where text is all that is written.
      num_samples: sequences that evaluate.py has written for each source, unless it is told.
      shown: its figures that are shown while training.
      falling: its figures that fall as a network improves.
      beam: its figures that beam search is judged by too; none where that makes no sense.
      sweep: its figures that a sweep of the temperature shows, the first two against each other;
        none where it has no such curve.
      tokenizer: what sacrebleu calls its way to split words, for a reward by BLEU.
      source_vocabulary: how many tokens sources are made of, or None where they are no tokens.
      reverse: the vocabulary of sources that a generator can write, and their length; else None.
    """

    name: str
    items: str
    message: str | None
    codec: Any
    length: int
    banned: tuple[int, ...]
    options: tuple[str, ...]
    endings: tuple[str, ...]
    num_samples: int
    shown: tuple[str, ...]
    falling: tuple[str, ...]
    beam: tuple[str, ...]
    sweep: tuple[str, ...]
    tokenizer: str
    source_vocabulary: int | None
    reverse: tuple[Vocabulary, int] | None

    def template(self) -> dict:
        """A batch of the right shapes, to initialise networks with."""
        ...

    def training_batches(
        self,
        *,
        batch_size: int,
        targets: int,
        seed: int,
        start: int,
        cut: bool = False,
        apart: bool = False,
    ) -> Iterator[dict]:
        """Endless batches of this process's rows, from number `start` on; see `data.pipeline`.

        With `cut` they may be shorter than `length`, each of one of a few lengths. With `apart`
        some rows hold a source and a target that are no pair: 'paired' of those is 0, [B].
        """
        ...

    def training_texts(self, example_id: np.ndarray) -> tuple[list[list[str]], list]:
        """For external rewards: the true targets of training examples as text, and their sources.

        Where there are sources; see `data.pipeline` for the ids.
        """
        ...

    def pairs(self, split: str, *, batch_size: int, limit: int | None) -> Iterator[dict]:
        """Held-out sources with their targets, in order, of the first `limit` sources."""
        ...

    def sources(self, split: str, *, batch_size: int, limit: int | None) -> Iterator[dict]:
        """The same sources, each once and without targets."""
        ...

    def request(self, options: Mapping[str, Any]) -> tuple[list[str], dict]:
        """What a user wants written for, as names and one batch of sources.

        Args:
          options: the values of `options`, None where one wasn't given.
        """
        ...

    def prefix(self, text: str) -> tuple[int, ...]:
        """How a user wants sequences to begin, as tokens."""
        ...

    def decode(self, tokens: np.ndarray) -> str:
        """Tokens [T] as one line for a person."""
        ...

    def row(self, name: str, sample: Sample) -> dict:
        """What was written for a source of a request, for JSON."""
        ...

    def describe(self, name: str, sample: Sample) -> list[str]:
        """The same as lines for a person."""
        ...

    def save(self, path: Path, samples: Sequence[Sample]) -> list[Path]:
        """What was written for a request as files of one of `endings`, numbered if several."""
        ...

    def draw_attention(
        self, name: str, tokens: np.ndarray, attention: np.ndarray, path: Path
    ) -> np.ndarray | None:
        """Draws where the generator looked in a source of a request.

        Args:
          name: the source's, from `request`.
          tokens: what was written for it, [N].
          attention: where it looked at each token, [N, S].
          path: the PNG to write.

        Returns:
          The picture, uint8 [H, W, 3], or None where there is nothing to see.
        """
        ...

    def portable(self) -> Portable:
        """What an exported file needs to know of raw data."""
        ...

    def evaluate(
        self, split: str, samples: Sequence[Sample], log_probs: np.ndarray, *, thorough: bool
    ) -> dict[str, Metric]:
        """Figures of what was written for the first sources of a split.

        Args:
          split: which.
          samples: what was written for each source.
          log_probs: the generator's log-probability of each of their targets, in nats.
          thorough: also the figures that take long, or need the training set.

        Returns:
          Metrics, `quality_diversity` among them where checkpoints can be chosen by it: higher is
          better.
        """
        ...

    def comparisons(
        self, split: str, count: int, num_samples: int
    ) -> tuple[dict[str, dict[str, Metric]], list[str]]:
        """What else to set beside a generator's figures.

        Args:
          split: which.
          count: sources that it was judged on.
          num_samples: sequences that it wrote for each.

        Returns:
          Columns of figures by title, and lines to print below the table.
        """
        ...

    def illustrate(
        self, folder: Path, split: str, samples: Sequence[Sample], attention: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Writes what was written for the first sources of a split to files, and draws it.

        Args:
          folder: where they go; it is made.
          split: whose sources.
          samples: what was written for each of the first sources.
          attention: where the first sample's first sequence looked at each token, [T, S], or None.

        Returns:
          The pictures, uint8 [H, W, 3], by the names of their PNG files.
        """
        ...


class Tokens(NamedTuple):
    """The codec of data that are tokens already."""

    vocabulary: Vocabulary

    def encode(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens


class Splits:
    """What tasks share whose data are splits of a pipeline's examples.

    A task that inherits from it has `splits`, by name, `codec` and `length`. Where its examples are
    tokens already, `encoder` is no longer the codec.
    """

    message = None
    endings = ()
    falling = ()
    beam = ()
    sweep = ()
    tokenizer = "13a"
    source_vocabulary = None
    reverse = None
    # Lengths that batches may be cut to; none for batches of one length.
    buckets: Sequence[int] = ()
    splits: Mapping[str, Any]
    codec: Any
    length: int

    @property
    def encoder(self):
        return self.codec

    def training_batches(
        self,
        *,
        batch_size: int,
        targets: int,
        seed: int,
        start: int,
        cut: bool = False,
        apart: bool = False,
    ) -> Iterator[dict]:
        return pipeline.training_batches(
            self.apart if apart else self.splits["train"],
            self.encoder,
            length=self.length,
            batch_size=batch_size,
            seed=seed,
            start=start,
            targets=targets,
            buckets=self.buckets if cut else (),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def training_texts(self, example_id: np.ndarray) -> tuple[list[list[str]], list]:
        """Sources are as the networks see them."""
        examples = [self._training_example(int(i)) for i in example_id]
        text = lambda target: target if isinstance(target, str) else self.decode(np.array(target))
        targets = [list(map(text, example["captions"])) for example in examples]
        return targets, [example["source"] for example in examples]

    def _training_example(self, example_id: int) -> dict:
        train = self.splits["train"]
        if example_id < len(train) and train[example_id]["example_id"] == example_id:
            return train[example_id]
        return train[self._places[example_id]]

    @functools.cached_property
    def _places(self) -> dict[int, int]:
        """Where training examples are whose ids number a larger data set."""
        train = self.splits["train"]
        return {train[i]["example_id"]: i for i in range(len(train))}

    def pairs(self, split: str, *, batch_size: int, limit: int | None) -> Iterator[dict]:
        return pipeline.evaluation_batches(
            self.ending(split, limit),
            self.encoder,
            length=self.length,
            batch_size=batch_size,
            limit=limit,
        )

    def sources(self, split: str, *, batch_size: int, limit: int | None) -> Iterator[dict]:
        source = self.ending(split, limit)
        return pipeline.source_batches(source, batch_size=batch_size, limit=limit)

    def split(self, name: str):
        """A split by its name.

        Raises:
          UserError: there is none of that name.
        """
        if name not in self.splits:
            raise UserError(f"--split={name}: no such split; choose from {', '.join(self.splits)}")
        return self.splits[name]

    def ending(self, name: str, limit: int | None):
        """A split of which the first `limit` examples, or all, are wanted.

        Raises:
          UserError: there is none of that name, or no end to it.
        """
        split = self.split(name)
        if limit is None and name == "train" and split.unlimited:
            raise UserError(f"--split={name}: has no end; say how much of it with --limit")
        return split

    def draw_attention(
        self, name: str, tokens: np.ndarray, attention: np.ndarray, path: Path
    ) -> np.ndarray | None:
        return None

    def portable(self) -> Portable:
        return Portable(self.template()["source"])

    def prefix(self, text: str) -> tuple[int, ...]:
        """A text's tokens without an end.

        Raises:
          UserError: for one that the model doesn't know.
        """
        tokens = tuple(self.codec.encode(text)[:-1])
        if UNK in tokens:
            raise UserError(f"--prefix={text}: has a word that the model doesn't know; change it")
        return tokens

    def decode(self, tokens: np.ndarray) -> str:
        return self.codec.decode(tokens)


def banned(task: Task, names: Sequence[str]) -> tuple[int, ...]:
    """The tokens that must not be written, a user's among them.

    Raises:
      UserError: a name is not that of one token.
    """
    found = []
    for name in names:
        try:
            tokens = task.prefix(name)
        except UserError:
            tokens = ()
        if len(tokens) != 1:
            raise UserError(
                f"--ban={name}: is no token that the model knows; name tokens, with commas between"
            )
        found += tokens
    return (*task.banned, *found)


def load(config, workdir: Path, progress) -> Task:
    """The task that `config.task` names, bound to its data.

    Raises:
      UserError: for a task that doesn't exist, or a configuration that it can't use.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task: no task '{config.task}'; choose from {', '.join(TASKS)}")
    module = importlib.import_module(f"seqgan_jax.tasks.{config.task}")
    return getattr(module, TASKS[config.task])(config, workdir, progress)
