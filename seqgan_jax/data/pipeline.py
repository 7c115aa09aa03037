"""Batches of examples, captioned images for one: shuffled, sharded, resumable at any one of them.

A batch is a dictionary of NumPy arrays, B rows each:
  source: [B, ...] what the network sees (an array, or a pytree of arrays, or None where there is
    nothing but targets);
  source_mask: [B, S] float32, 1 for a source's own positions, where an example has such a mask;
    otherwise None, since all sources have one length;
  target: [B, T] int32, tokens, the end token, padding; a longer text is cut at T without end;
  mask: [B, T] float32, 1 for tokens and the end token;
  example_id: [B] int32, the image's number;
  weight: [B] float32, 0 for a row that only fills the last batch up;
  paired: [B] float32, only of data where some rows hold a source and a target that are no pair: 0
    for those.

Training batches may hold R targets for each source, which is then encoded once for all of them:
target and mask are [B R, T], source-major.

Batches of examples of nearly equal lengths hold little padding. Buckets are the lengths that such
batches may have: a compiled step serves one of them each, so there are only a few.
"""

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from seqgan_jax.data.captions import CaptionSource
from seqgan_jax.errors import UserError

# Read ahead in threads: sources release the interpreter or are cheap, and worker processes would
# each hold a copy of what the source holds.
READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
# Batches among whose examples those of equal length are found. More leave less padding, and read
# farther ahead.
WINDOW = 64


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
    targets: int = 1,
    buckets: Sequence[int] = (),
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """Endless batches, from number `start` on; batch k is a pure function of (seed, k).

    An example is an image with R of its captions. Each epoch of a finite source deals the captions
    of every image out to its examples (those that are left over wait for another epoch; an image
    with fewer than R repeats them) and takes the examples in a new order; batches run across the
    border of epochs. Example n of an unlimited source is image n with its first R captions, so
    nothing repeats.

    Args:
      source: the images and their captions.
      codec: what encodes a caption (`encode(text) -> ids`, `vocabulary`).
      length: target length T.
      batch_size: rows of a batch over all processes.
      seed: of the order, any non-negative integer.
      start: number of the first batch; to resume, the number of batches already used.
      targets: R, captions for each image.
      buckets: lengths in ascending order. Within windows of 64 batches, examples are then grouped
        by their longer side (the source, if it has a mask, or a target), and a batch is cut to the
        smallest bucket that holds it; if there is none, it stays as it is. The batches of a
        window come in random order.
      process_index: this process, which gets a contiguous block of each batch's rows.
      process_count: number of processes.

    Raises:
      UserError: for an empty data set, fewer examples than a batch, or a batch that the processes
        can't share equally.
    """
    if batch_size % process_count:
        raise UserError(
            f"config.phases.*.batch_size: {batch_size} rows can't be shared equally by "
            f"{process_count} processes; set a multiple of that"
        )
    rows = batch_size // process_count
    if source.unlimited:
        examples = _Unlimited(source)
    elif getattr(source, "single", False):
        examples = _Singles(source, seed, targets)
    else:
        examples = _Epochs(source, seed, targets)
    if not len(examples):
        raise UserError("config.data: the training set is empty")
    if len(examples) < batch_size:
        raise UserError(
            f"config.phases.*.batch_size: {batch_size} is more than the {len(examples)} "
            "examples of the training set; set it lower"
        )
    if buckets:
        examples = _Grouped(
            examples,
            codec,
            length=length,
            batch_size=batch_size,
            targets=targets,
            seed=seed,
            buckets=buckets,
        )
    batches = _Batches(
        examples,
        codec,
        length=length,
        targets=targets,
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
        examples, captions = zip(*chunk, strict=True)
        yield {**_sources(examples, weight), **_targets(captions, codec, length)}


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


def _remembered(function: Callable[[int], Any], count: int) -> Callable[[int], Any]:
    """The function with its last `count` results; threads that want one at once find it once."""
    known, finding = functools.lru_cache(maxsize=count)(function), threading.Lock()

    def result(number: int) -> Any:
        with finding:
            return known(number)

    return result


class _Unlimited:
    """Example n is image n with its captions."""

    def __init__(self, source: CaptionSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, n: int) -> tuple[dict, Sequence[str]]:
        example = self._source[n % len(self._source)]
        return example, example["captions"]


class _Epochs:
    """Example n is at place n of an endless sequence of shuffled epochs."""

    def __init__(self, source: CaptionSource, seed: int, targets: int):
        self._source = source
        self._targets = targets
        counts = caption_counts(source)
        self._ends = np.cumsum(np.where(counts > 0, np.maximum(counts // targets, 1), 0))
        self._seed = seed
        # Batches being read ahead touch few epochs at once.
        self._order = _remembered(self._shuffle, 4)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, n: int) -> tuple[dict, Sequence[str]]:
        epoch, place = divmod(n, len(self))
        number = self._order(epoch)[place]
        image = int(np.searchsorted(self._ends, number, side="right"))
        example = self._source[image]
        captions = example["captions"]
        # Counted from the image's last example, and turned round by one every epoch.
        first = epoch + (self._ends[image] - 1 - number) * self._targets
        return example, [captions[(first + r) % len(captions)] for r in range(self._targets)]

    def _shuffle(self, epoch: int) -> np.ndarray:
        # Raw bits, since NumPy promises their stability but not that of `permutation`. Not grain's
        # shuffle: it needs milliseconds an example for a hundred examples.
        bits = np.random.PCG64(np.random.SeedSequence([self._seed, epoch]))
        return np.argsort(bits.random_raw(len(self)), kind="stable")


class _Singles:
    """As `_Epochs`, of a source all of whose examples have one caption each, in constant memory.

    A source says so by a true `single`. Nothing is counted, and no order is held.
    """

    def __init__(self, source: CaptionSource, seed: int, targets: int):
        self._source = source
        self._seed = seed
        self._targets = targets

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, n: int) -> tuple[dict, Sequence[str]]:
        epoch, place = divmod(n, len(self))
        example = self._source[permuted(place, len(self), _mixed(_mixed(self._seed) + epoch))]
        return example, example["captions"] * self._targets


def permuted(place: int, count: int, key: int) -> int:
    """What stands at a place of a permutation of 0 .. count - 1 that `key`, of 64 bits, chooses.

    A Feistel network on the smallest even number of bits that hold `count`, walked along until it
    falls below `count` again (Black and Rogaway, 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = divmod(place, 1 << half)
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right ^ key ^ turn << 56) & low)
        place = left << half | right
        if place < count:
            return place


_ROUNDS = 6


def _mixed(x: int) -> int:
    """64 bits of which each depends on all bits of x (the finaliser of SplitMix64)."""
    most = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & most
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & most
    x = (x ^ x >> 27) * 0x94D049BB133111EB & most
    return x ^ x >> 31


class _Grouped:
    """Examples reordered within windows, so that those of a batch are of nearly equal lengths."""

    def __init__(self, examples, codec, *, length, batch_size, targets, seed, buckets):
        self._examples = examples
        self._codec = codec
        self._length = length
        self._batch_size = batch_size
        self._targets = targets
        self._seed = seed
        self._buckets = buckets
        self._window = _remembered(self._read, 2)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, n: int) -> tuple[dict, Sequence[str]]:
        window, place = divmod(n, WINDOW * self._batch_size)
        return self._window(window)[0][place]

    def bucket(self, k: int) -> int | None:
        """The length to cut batch k to, or None where none will do."""
        window, place = divmod(k, WINDOW)
        longest = self._window(window)[1][place]
        return next((size for size in self._buckets if size >= longest), None)

    def _read(self, window: int) -> tuple[list, np.ndarray]:
        """The examples of a window in their order, and the longest of each of its batches."""
        size = WINDOW * self._batch_size
        examples = [self._examples[n] for n in range(window * size, (window + 1) * size)]
        lengths = np.array([self._longer_side(*example) for example in examples])
        order = np.argsort(lengths, kind="stable").reshape(WINDOW, self._batch_size)
        bits = np.random.PCG64(np.random.SeedSequence([self._seed, window, 1]))
        order = order[np.argsort(bits.random_raw(WINDOW), kind="stable")]
        return [examples[i] for i in order.flat], lengths[order].max(1)

    def _longer_side(self, example: dict, captions: Sequence[str]) -> int:
        written = (len(self._codec.encode(text)) for text in captions[: self._targets])
        target = min(max(written), self._length)
        mask = example.get("source_mask")
        return target if mask is None else max(target, int(mask.sum()))


def bucket_sizes(lengths: Iterable[int], count: int) -> tuple[int, ...]:
    """The `count` buckets, or fewer, that hold examples of these lengths with least padding.

    Found exactly by dynamic programming over the different lengths: with the longest example of
    bucket j of length b_j, it minimises the sum over examples of the b of their bucket.

    Args:
      lengths: of a sample of examples, [n].
      count: most buckets.
    """
    sizes, counts = np.unique(np.fromiter(lengths, np.int64), return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[i]: least positions for the i shortest lengths; chosen[j][i]: where the last bucket of
    # j + 1 begins then.
    cost = np.where(below == 0, 0.0, np.inf)
    chosen = []
    for _ in range(min(count, len(sizes))):
        options = np.full((len(sizes) + 1, len(sizes) + 1), np.inf)
        for i in range(1, len(sizes) + 1):
            options[i, :i] = cost[:i] + (below[i] - below[:i]) * sizes[i - 1]
        options[0, 0] = 0.0
        chosen.append(options.argmin(1))
        cost = options.min(1)
    edges, i = [], len(sizes)
    for begins in reversed(chosen):
        if i:
            edges.append(int(sizes[i - 1]))
            i = begins[i]
    return tuple(reversed(edges))


class _Batches:
    """Batch k holds `rows` examples from number `offset + k * stride` on."""

    def __init__(
        self, examples, codec, *, length: int, targets: int, rows: int, stride: int, offset: int
    ):
        self._examples = examples
        self._codec = codec
        self._length = length
        self._targets = targets
        self._rows = rows
        self._stride = stride
        self._offset = offset

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, k: int) -> dict:
        first = self._offset + k * self._stride
        examples = [self._examples[n] for n in range(first, first + self._rows)]
        captions = [caption for _, captions in examples for caption in captions[: self._targets]]
        batch = {
            **_sources([example for example, _ in examples], np.ones(self._rows, np.float32)),
            **_targets(captions, self._codec, self._length),
        }
        if isinstance(self._examples, _Grouped):
            return _cut(batch, self._examples.bucket(first // self._stride))
        return batch


def _targets(captions: Sequence[str], codec, length: int) -> dict:
    # Without padding all targets have this one length.
    target = np.full((len(captions), length), codec.vocabulary.pad or 0, np.int32)
    mask = np.zeros((len(captions), length), np.float32)
    for row, caption in enumerate(captions):
        tokens = codec.encode(caption)[:length]
        target[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"target": target, "mask": mask}


def _cut(batch: dict, length: int | None) -> dict:
    """A batch without the positions from `length` on, all of which are padding."""
    names = ("target", "mask")
    if batch["source_mask"] is not None:
        names += ("source", "source_mask")
    return batch | {name: batch[name][:, :length] for name in names}


def _sources(examples: Sequence[dict], weight: np.ndarray) -> dict:
    sources = [example["source"] for example in examples]
    masks = [example.get("source_mask") for example in examples]
    paired = [example["paired"] for example in examples if "paired" in example]
    return ({"paired": np.array(paired, np.float32)} if paired else {}) | {
        "source": jax.tree.map(lambda *leaves: np.stack(leaves), *sources),
        "source_mask": None if masks[0] is None else np.stack(masks),
        "example_id": np.array([example["example_id"] for example in examples], np.int32),
        "weight": weight,
    }
