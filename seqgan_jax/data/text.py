"""Splits of a store's texts: which sequences there are, found once, read when they are asked for.

An index is made in one pass over the store: each record's split, by a hash of its text, and what
becomes of one that is too long. It is an array of int64 in the cache, mapped into memory, and
`Sequences` read, normalise and encode a record when it is asked for. So nothing grows in memory
with the data but the operating system's own cache of files.
"""

import array
import contextlib
import hashlib
import itertools
import json
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np

from seqgan_jax.codecs.text import TextCodec, split_words
from seqgan_jax.data.cache import cache_folder, cached_array
from seqgan_jax.data.captions import Progress, no_progress
from seqgan_jax.data.images import file_key
from seqgan_jax.data.stores import Store
from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

SPLITS = ("train", "validation", "test")
TOO_LONG = ("cut", "split", "drop")
# Lines that a vocabulary is fitted to, at most.
FIT = 1_000_000
# Part of the cache's key: raise it when what is written to it changes.
VERSION = 1
# Splits have example ids of their own, and with them random streams of their own.
_FIRST_ID = {"train": 0, "validation": 2**29, "test": 2**30}
# An entry of the index is a record's position times this, plus the number of the piece.
_PIECES = 2**20
_BLOCK = 2**20


def split_of(text: str, validation_share: float, test_share: float) -> str:
    """Which split a text belongs to, by a hash of its letters alone.

    Neither other lines nor the codec change it, and texts that differ only in case, white space or
    compatible forms of a character fall to the same split.
    """
    letters = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    digest = hashlib.blake2b(letters.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


def training_texts(store: Store, config, *, progress: Progress = no_progress) -> Iterator[str]:
    """The texts that fall to training, a million of them at most, in the store's order.

    Raises:
      UserError: there is none.
    """
    shares = config.validation_share, config.test_share
    lines = found = 0
    for _, text in store.records(progress, f"vocabulary of {store.name}"):
        lines += bool(text)
        if text and split_of(text, *shares) == "train":
            found += 1
            yield text
            if found == FIT:
                return
    if not lines:
        raise UserError(f"{store.name}: is empty; put one sequence on each line")
    if not found:
        raise UserError(f"{store.name}: none of its {lines} lines falls to training; give more")


class Sequences:
    """One split, for `data.pipeline`.

    Item i is a dict of `source` and `source_mask`, `captions` (the pipeline's word for what is to
    be learnt: here one list of token ids) and `example_id`.

    Args:
      store: what holds the texts.
      entries: of the index, [n].
      codec: what encodes them.
      length: T.
      first_id: the first example's id.
    """

    unlimited = False
    single = True

    def __init__(
        self, store: Store, entries: np.ndarray, codec: TextCodec, length: int, first_id: int
    ):
        self._store = store
        self._entries = entries
        self._codec = codec
        self._length = length
        self._first_id = first_id

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, i: int) -> dict:
        (text, source), start = self._record(i)
        ids = self._codec.encode(text)[start : start + self._length]
        return {**source, "captions": (ids,), "example_id": self._first_id + i}

    def words(self, i: int) -> tuple[str, ...]:
        """The sequence as strings for counting n-grams: see `words`."""
        (text, _), start = self._record(i)
        stop = start + self._length
        if self._codec.kind == "sentencepiece":
            return words(self._codec, self._codec.encode(text)[start:stop])
        return tuple(self._codec.split(text)[start:stop])

    def _record(self, i: int) -> tuple[tuple[str, dict], int]:
        position, piece = divmod(int(self._entries[i]), _PIECES)
        return self._store[position], piece * self._length


def words(codec: TextCodec, ids: Iterable[int]) -> tuple[str, ...]:
    """Token ids as strings for counting n-grams: the tokens, or of SentencePiece the words."""
    if codec.kind == "sentencepiece":
        return tuple(split_words(codec.decode(ids)))
    ids = itertools.takewhile(lambda i: i != codec.vocabulary.eos, map(int, ids))
    return tuple(codec.tokens[i] for i in ids)


def splits(
    store: Store, codec: TextCodec, config, length: int, *, progress: Progress = no_progress
) -> tuple[dict[str, Sequences], dict[str, int]]:
    """The splits 'train', 'validation' and 'test', and how many lines had what become of them.

    Args:
      store: the data.
      codec: what encodes it.
      config: the data configuration: too_long, validation_share, test_share.
      length: T, tokens of a sequence, its end included. What becomes of a longer one says
        `too_long`: 'cut', only its first T tokens are read; 'drop', it is left out; 'split', it
        becomes sequences of T tokens and a last one of what is left. What is cut has no end.
      progress: shows how far the index is.

    Returns:
      The splits, and counts by name: `lines`, `empty` ones, `long` ones.

    Raises:
      UserError: if an option makes no sense, or there are no sequences to train on or to validate
        by.
    """
    _check_options(config, length)
    settings = [VERSION, config.validation_share, config.test_share, config.too_long, length]
    settings += [*store.settings, codec.identity]
    key = file_key(settings, [(str(store.path), store.path)])
    path = cache_folder() / f"index-{key}.npy"
    notes = path.with_suffix(".json")

    def fill(new):
        counts = dict.fromkeys(("lines", "empty", "long", *SPLITS), 0)
        with contextlib.ExitStack() as stack:
            files = {
                split: stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
                for split in SPLITS
            }
            _scan(store, codec, config, length, progress, files, counts)
            whole = new((sum(counts[split] for split in SPLITS),), np.int64)
            start = 0
            for split in SPLITS:
                files[split].seek(0)
                for block in iter(lambda file=files[split]: file.read(_BLOCK), b""):
                    part = np.frombuffer(block, np.int64)
                    whole[start : start + len(part)] = part
                    start += len(part)
        # Before the index, whose final name says that both are complete.
        with replace_file(notes) as file:
            file.write(json.dumps(counts).encode())

    index = cached_array(path, fill)
    try:
        counts = json.loads(notes.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{notes}: damaged; delete it and {path.name} to make them anew") from error
    _check_counts(store.name, counts)
    found, start = {}, 0
    for split in SPLITS:
        entries = index[start : start + counts[split]]
        found[split] = Sequences(store, entries, codec, length, _FIRST_ID[split])
        start += counts[split]
    return found, counts


def _scan(store, codec, config, length, progress, files, counts) -> None:
    """Writes each split's entries to its file, and counts."""
    buffers = {split: array.array("q") for split in SPLITS}
    shares = config.validation_share, config.test_share
    for position, text in store.records(progress, f"index of {store.name}"):
        counts["lines"] += 1
        if not text:
            counts["empty"] += 1
            continue
        pieces = 1
        # No token is shorter than a character, but SentencePiece may put one before the first.
        if len(text) + 1 >= length and (count := len(codec.split(text))) >= length:
            counts["long"] += 1
            pieces = {"cut": 1, "drop": 0, "split": -(-count // length)}[config.too_long]
        split = split_of(text, *shares)
        buffer = buffers[split]
        buffer.extend(range(position * _PIECES, position * _PIECES + pieces))
        counts[split] += pieces
        if len(buffer) >= 2**16:
            buffer.tofile(files[split])
            del buffer[:]
    for split, buffer in buffers.items():
        buffer.tofile(files[split])


def _check_options(config, length: int) -> None:
    if config.too_long not in TOO_LONG:
        raise UserError(
            f"config.data.too_long: no way '{config.too_long}'; choose from {', '.join(TOO_LONG)}"
        )
    if length < 2:
        raise UserError(f"config.codec.max_length: {length} is too short; set 2 or more")
    for option in ("validation_share", "test_share"):
        if not 0 <= config[option] < 1:
            raise UserError(f"config.data.{option}: {config[option]} is no share; set 0 to 1")
    if config.validation_share + config.test_share >= 1:
        raise UserError(
            "config.data.validation_share: with config.data.test_share it leaves nothing to train "
            "on; set it lower"
        )


def _check_counts(name: str, counts: dict[str, int]) -> None:
    if counts["lines"] == counts["empty"]:
        raise UserError(f"{name}: is empty; put one sequence on each line")
    if counts["train"] >= _FIRST_ID["validation"]:
        raise UserError(f"{name}: has more than {_FIRST_ID['validation']:,} sequences; split it up")
    # Figures have standard errors, so one sequence is not enough.
    for split, least, option in (("train", 1, "max_length"), ("validation", 2, "validation_share")):
        if counts[split] < least:
            remedy = "codec." if split == "train" else "data."
            raise UserError(
                f"{name}: of its {counts['lines']} lines {counts[split]} are left for {split}; "
                f"give more lines, or raise config.{remedy}{option}"
            )


def summary(name: str, counts: dict[str, int], config, length: int) -> str:
    """What became of the data's lines, in one line for a person."""
    text = f"data: {name}, {counts['lines']:,} lines"
    if counts["empty"]:
        text += f" of which {counts['empty']:,} are empty"
    sizes = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)
    done = {"cut": "cut", "drop": "left out", "split": "split"}[config.too_long]
    return f"{text}; {sizes}; {counts['long']:,} of more than {length - 1} tokens were {done}"
