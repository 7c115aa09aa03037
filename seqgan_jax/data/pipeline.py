"""Batches of captioned examples: shuffled, sharded, and resumable at any one of them.

A batch is a dictionary of NumPy arrays, B rows each:
  source: [B, ...] what the network sees (an array, or a pytree of arrays, or None);
  source_mask: None, since every source of a data set has the same length here;
  target: [B, T] int32, tokens, the end token, padding; a longer text is cut at T without end;
  mask: [B, T] float32, 1 for tokens and the end token;
  example_id: [B] int32, the image's number;
  weight: [B] float32, 0 for a row that only fills the last batch up.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence

import grain
import jax
import numpy as np

from seqgan_jax.data.captions import CaptionSource
from seqgan_jax.errors import UserError

# Read ahead in threads: sources release the interpreter or are cheap, and worker processes would
# each hold a copy of what the source holds.
READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


def caption_counts(source: CaptionSource) -> np.ndarray:
    """The number of captions of each image, [len(source)] int64; their sum counts the pairs."""
    return np.array([len(source[i]["captions"]) for i in range(len(source))], np.int64)


def training_batches(
    source: CaptionSource,
    codec,
    *,
    length: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """Endless batches, from number `start` on; batch k is a pure function of (seed, k).

    Examples of a finite source are its pairs of an image and one of its captions, in a new order
    every epoch; batches run across the border of epochs. Example n of an unlimited source is
    image n with its first caption, so nothing repeats.

    Args:
      source: the images and their captions.
      codec: what encodes a caption (`encode(text) -> ids`, `vocabulary`).
      length: target length T.
      batch_size: rows of a batch over all processes.
      seed: of the order, any non-negative integer.
      start: number of the first batch; to resume, the number of batches already used.
      process_index: this process, which gets a contiguous block of each batch's rows.
      process_count: number of processes.

    Raises:
      UserError: for an empty data set, fewer examples than a batch, or a batch that the processes
        can't share equally.
    """
    if batch_size % process_count:
        raise UserError(
            f"config.batch_size: {batch_size} rows can't be shared equally by {process_count} "
            "processes; set a multiple of that"
        )
    rows = batch_size // process_count
    if source.unlimited:
        examples = _FirstCaptions(source)
    else:
        examples = _Pairs(source, seed)
    if not len(examples):
        raise UserError("config.data: the training set is empty")
    if len(examples) < batch_size:
        raise UserError(
            f"config.batch_size: {batch_size} is more than the {len(examples)} captions of the "
            "training set; set it lower"
        )
    batches = _Batches(
        examples,
        codec,
        length=length,
        rows=rows,
        stride=batch_size,
        offset=start * batch_size + process_index * rows,
    )
    return iter(grain.MapDataset.source(batches).to_iter_dataset(READ))


def evaluation_batches(
    source: CaptionSource,
    codec,
    *,
    length: int,
    batch_size: int,
    limit: int | None = None,
) -> Iterator[dict]:
    """All pairs of the first `limit` images in order; rows of weight 0 fill the last batch up."""
    pairs = (
        (example, caption) for example in _first(source, limit) for caption in example["captions"]
    )
    for chunk, weight in _chunks(pairs, batch_size):
        yield _batch(chunk, codec, length, weight)


def source_batches(
    source: CaptionSource, *, batch_size: int, limit: int | None = None
) -> Iterator[dict]:
    """The first `limit` images in order, without targets: image i is row i of all rows.

    Rows of weight 0 fill the last batch up.
    """
    for chunk, weight in _chunks(_first(source, limit), batch_size):
        yield _sources(chunk, weight)


def _first(source: CaptionSource, limit: int | None) -> Iterator[dict]:
    count = len(source) if limit is None else min(limit, len(source))
    if not count:
        raise UserError("config.data: there are no images in this split")
    return (source[i] for i in range(count))


def _chunks(rows: Iterable, size: int) -> Iterator[tuple[list, np.ndarray]]:
    chunk = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk, np.ones(size, np.float32)
            chunk = []
    if chunk:
        weight = (np.arange(size) < len(chunk)).astype(np.float32)
        # A copy of a real row, since a row of zeros may well give infinities.
        yield chunk + chunk[-1:] * (size - len(chunk)), weight


class _FirstCaptions:
    """Example n is image n with its first caption."""

    def __init__(self, source: CaptionSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, n: int) -> tuple[dict, str]:
        example = self._source[n % len(self._source)]
        return example, example["captions"][0]


class _Pairs:
    """Example n is the pair at place n of an endless sequence of shuffled epochs."""

    def __init__(self, source: CaptionSource, seed: int):
        self._source = source
        self._ends = np.cumsum(caption_counts(source))
        self._order = None
        if len(self):
            # grain adds the epoch to its seed: unhashed, run 1 would be run 0 an epoch later.
            hashed = int(np.random.SeedSequence(seed).generate_state(1)[0])
            self._order = grain.MapDataset.range(len(self)).shuffle(seed=hashed)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, n: int) -> tuple[dict, str]:
        pair = self._order[n]
        image = int(np.searchsorted(self._ends, pair, side="right"))
        example = self._source[image]
        return example, example["captions"][pair - self._ends[image]]


class _Batches:
    """Batch k holds `rows` examples from number `offset + k * stride` on."""

    def __init__(self, examples, codec, *, length: int, rows: int, stride: int, offset: int):
        self._examples = examples
        self._codec = codec
        self._length = length
        self._rows = rows
        self._stride = stride
        self._offset = offset

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, k: int) -> dict:
        first = self._offset + k * self._stride
        pairs = [self._examples[n] for n in range(first, first + self._rows)]
        return _batch(pairs, self._codec, self._length, np.ones(self._rows, np.float32))


def _batch(pairs: Sequence[tuple[dict, str]], codec, length: int, weight: np.ndarray) -> dict:
    target = np.full((len(pairs), length), codec.vocabulary.pad, np.int32)
    mask = np.zeros((len(pairs), length), np.float32)
    for row, (_, caption) in enumerate(pairs):
        tokens = codec.encode(caption)[:length]
        target[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    batch = _sources([example for example, _ in pairs], weight)
    return {**batch, "target": target, "mask": mask}


def _sources(examples: Sequence[dict], weight: np.ndarray) -> dict:
    sources = [example["source"] for example in examples]
    return {
        "source": jax.tree.map(lambda *leaves: np.stack(leaves), *sources),
        "source_mask": None,
        "example_id": np.array([example["example_id"] for example in examples], np.int32),
        "weight": weight,
    }
