"""Reads files that `seqgan_jax.export` has written, and writes with them.

    from seqgan_jax import exported

    model = exported.load("translation.zip")
    written = model(*model.encode(["one hundred"]), seed=1)
    print(model.decode(written.tokens[0, 0]))

It needs JAX and NumPy, and SentencePiece for texts: no networks, and nothing of training. A file
is a ZIP archive of

    about.json           the task, shapes, special tokens
    parameters.npz       the networks'
    write.bin            sources -> sequences: StableHLO, serialised by `jax.export`
    decode.bin           tokens -> sound or pictures, likewise, where they stand for these
    target/codec.json    the target's texts, where they are texts
    source/codec.json    the sources', likewise

Shapes: B sources, or sequences where there are no sources; R sequences for each; T tokens.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from seqgan_jax.errors import UserError

FORMAT = 1
ABOUT, PARAMETERS, WRITE, DECODE = "about.json", "parameters.npz", "write.bin", "decode.bin"
TARGET, SOURCE = "target", "source"


class Written(NamedTuple):
    """What was written.

    Attributes:
      tokens: int32 [B, R, T], padded after the end.
      mask: [B, R, T], 1 up to the end token, which it includes.
      log_probs: of each token at temperature 1, in nats, [B, R, T].
      scores: the discriminator's probability that a sequence is real, [B, R].
    """

    tokens: np.ndarray
    mask: np.ndarray
    log_probs: np.ndarray
    scores: np.ndarray


def load(file: str | os.PathLike) -> "Exported":
    """Opens an exported model.

    Raises:
      UserError: for a file that is missing, damaged or of another format.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        about = json.loads(content[ABOUT])
        if about["format"] != FORMAT:
            raise UserError(f"{file}: has format {about['format']}, not {FORMAT}; export it anew")
        return Exported(about, content)
    except OSError as error:
        raise UserError(f"{file}: can't be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: is no exported model, or is damaged; export it anew") from error


class Exported:
    """A model and its codec.

    Attributes:
      about: `task`, `checkpoint`; `batch`, how many rows are written at once; `num_samples`, R;
        `length`, T; `source`, the type and shape of one, for example 'uint8 [64, 64, 3]', or None;
        `positions`, S of texts, or None; `first`, the tokens that texts begin with, by name
        (speakers); `vocabulary`; `sample_rate` of what `decode` gives, or None if it is no sound.
    """

    def __init__(self, about: dict[str, Any], content: dict[str, bytes]):
        """See `load`."""
        self.about = about
        with np.load(io.BytesIO(content[PARAMETERS])) as arrays:
            self._parameters = [jax.device_put(arrays[name]) for name in arrays.files]
        self._write = _function(content[WRITE])
        self._decode = _function(content[DECODE]) if DECODE in content else None
        self._target, self._source = (_codec(content, side) for side in (TARGET, SOURCE))

    def __call__(
        self,
        source: Any = None,
        source_mask: np.ndarray | None = None,
        *,
        seed: int = 0,
    ) -> Written:
        """Writes sequences; equal seeds give equal ones.

        Args:
          source: sources, arrays [B, ...] as `about` has them; or B where there are none.
          source_mask: which positions of a text exist, [B, S], from `encode`.
          seed: of noise and samples, 0 to 2^32 - 1.

        Raises:
          UserError: for other sources than the model reads.
        """
        rows = self._rows(source, source_mask)
        if not 0 <= seed < 2**32:
            raise UserError(f"seed: {seed} is not among 0 to {2**32 - 1}")
        known = (None, None) if self.about["source"] is None else (source, source_mask)
        written, size = [], self.about["batch"]
        for start in range(0, rows, size):
            # The last rows are filled up with its last one.
            part = np.arange(start, start + size, dtype=np.int32)
            filled = np.minimum(part, rows - 1)
            taken = jax.tree.map(lambda x, i=filled: x[i], known)
            found = self._write(self._parameters, np.uint32(seed), part, *taken)
            written.append([np.asarray(x)[: rows - start] for x in found])
        found = Written(*map(np.concatenate, zip(*written, strict=True)))
        if self.about["source"] is None:  # each sequence was a row of its own
            found = Written(*(np.swapaxes(x, 0, 1) for x in found))
        return found

    def _rows(self, source, source_mask) -> int:
        """How many rows are to be written; refuses what the model doesn't read."""
        known, positions = self.about["source"], self.about["positions"]
        if known is None:
            if isinstance(source, int) and source > 0:
                return source
            raise UserError("source: this model has none; say how many sequences it is to write")
        counts = {len(x) if np.ndim(x) else 0 for x in jax.tree.leaves(source)}
        if jax.tree.map(kind, source) != known or len(counts) != 1 or 0 in counts:
            raise UserError(f"source: this model reads rows of {known}; give arrays of these")
        (count,) = counts
        if np.shape(source_mask) != ((count, positions) if positions else ()):
            raise UserError("source_mask: must be as `encode` gives it, beside texts alone")
        return count

    def encode(
        self, texts: Sequence[str], first: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Texts as sources and their mask, int32 and float32 [B, S].

        Args:
          texts: as the model reads them.
          first: which of `about["first"]` each begins with; None for the first of them.

        Raises:
          UserError: for a model that reads no texts, or a text that is too long for it.
        """
        if self._source is None:
            raise UserError("texts: this model reads none")
        known, length = self.about["first"], self.about["positions"]
        if first is not None and first not in known:
            raise UserError(f"first: no '{first}'; choose from {', '.join(known)}")
        begin = [known[first or next(iter(known))]] if known else []
        rows = [[*begin, *self._source.encode(text)] for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > length:
                raise UserError(
                    f"texts: {len(row)} tokens are more than this model's {length}: {text[:40]}"
                )
        mask = np.arange(length) < np.array([len(row) for row in rows])[:, None]
        source = np.full(mask.shape, self._source.vocabulary.pad, np.int32)
        source[mask] = np.concatenate(rows)
        return source, mask.astype(np.float32)

    def decode(self, tokens: np.ndarray) -> str | np.ndarray:
        """A sequence's tokens [T] as text, as sound (float32 [samples]) or as they are."""
        if self._target is not None:
            return self._target.decode(tokens)
        if self._decode is None:
            return np.asarray(tokens)
        found, count = self._decode(np.asarray(tokens, np.int32))
        return np.asarray(found)[: int(count)]


def kind(array: Any) -> str:
    """The type and shape of an array's rows."""
    shape = ", ".join(map(str, np.shape(array)[1:]))
    return f"{np.asarray(array).dtype.name} [{shape}]"


def _function(data: bytes):
    return jax.jit(jax.export.deserialize(bytearray(data)).call)


def _codec(content: dict[str, bytes], side: str):
    """The text codec of a side, or None."""
    data = content.get(f"{side}/codec.json")
    if data is None:
        return None
    from seqgan_jax.codecs.text import TextCodec  # which needs SentencePiece

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "codec.json").write_bytes(data)
        return TextCodec.load(folder)
