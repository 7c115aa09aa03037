"""Patches of clips <-> tokens.

Shapes: F frames, H height, W width, in pixels; a patch lasts t frames and is h by w pixels, so
that D = 3 t h w numbers describe it; Q residual levels of V codes each.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from seqgan_jax.codecs import quantisers
from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

FILE = "codec.json"
BOS = 0


def split(clip: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """A clip's patches: [F, H, W, C] -> [F / t, H / h, W / w, t h w C]."""
    t, h, w = patch
    frames, height, width, channels = clip.shape
    blocks = clip.reshape(frames // t, t, height // h, h, width // w, w, channels)
    return blocks.transpose(0, 2, 4, 1, 3, 5, 6).reshape(*_grid(clip.shape, patch), -1)


def join(patches: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """The clip of which `split` made these patches."""
    t, h, w = patch
    slots, rows, columns, numbers = patches.shape
    blocks = patches.reshape(slots, rows, columns, t, h, w, numbers // (t * h * w))
    return blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(slots * t, rows * h, columns * w, -1)


def _grid(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    return tuple(n // size for n, size in zip(shape, patch, strict=False))


class PatchCodec:
    """Video's tokens: q V + c for code c of level q, level by level for each patch.

    Nothing but codes is ever written: targets have one length, so that there is no end and no
    padding, and they start from token 0, which is data too.

    Attributes:
      patch: (t, h, w).
      quantiser: of patches, D = 3 t h w.
      vocabulary: what the networks need to know.
      bits_per_patch: Q log2 V.
    """

    def __init__(self, patch: Sequence[int], quantiser: quantisers.Quantiser):
        self.patch = tuple(patch)
        self.quantiser = quantiser
        self.vocabulary = Vocabulary(size=quantiser.levels * quantiser.size, bos=BOS)
        self.bits_per_patch = quantiser.levels * float(np.log2(quantiser.size))

    @classmethod
    def fit(
        cls,
        vectors: np.ndarray,
        seed: int,
        *,
        patch: Sequence[int],
        quantiser: str,
        minimise: Callable,
        **settings,
    ) -> "PatchCodec":
        """Fits a quantiser to patches.

        Each different patch counts once: plain background would otherwise take most of the codes'
        training, and needs few of them.

        Args:
          vectors: float32 [N, D], 0 to 1 (differences: -1 to 1).
          seed: of the fit.
          patch: (t, h, w).
          quantiser: 'kmeans' or 'vqvae'.
          minimise: see `quantisers.fit`.
          **settings: of the quantiser: `size`, `levels`, ...
        """
        different = np.unique(vectors, axis=0)
        return cls(patch, quantisers.fit(quantiser, different, seed, minimise=minimise, **settings))

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Patches, float32 [N, D] -> tokens, int32 [N Q]."""
        levels = np.arange(self.quantiser.levels) * self.quantiser.size
        return (levels + self.quantiser.encode(vectors)).ravel().astype(np.int32)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [N Q] -> patches, float32 [N, D].

        A code of the wrong level, which a model may have written, is read as one of the right one;
        an incomplete last patch is left out.
        """
        levels = self.quantiser.levels
        tokens = np.asarray(tokens, np.int32)
        codes = tokens[: len(tokens) // levels * levels] % self.quantiser.size
        return self.quantiser.decode(codes.reshape(-1, levels))

    def save(self, directory: str | Path) -> None:
        """Writes codec.json and the quantiser's files in a directory."""
        self.quantiser.save(directory)
        with replace_file(Path(directory) / FILE) as file:
            file.write(json.dumps({"kind": "patches", "patch": self.patch}).encode())

    @classmethod
    def load(cls, directory: str | Path) -> "PatchCodec":
        """Reads what `save` wrote.

        Raises:
          UserError: if a file is missing or is not as it was written.
        """
        path = Path(directory) / FILE
        quantiser = None
        try:
            settings = json.loads(path.read_bytes())
            t, h, w = map(int, settings["patch"])
            if settings["kind"] != "patches":
                raise ValueError("kind")
            quantiser = quantisers.load(directory)
            if quantiser.features != 3 * t * h * w:
                raise ValueError("features")
        except OSError as error:
            raise UserError(f"{path}: can't read the codec: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: the codec file is damaged; restore it from a copy") from error
        return cls((t, h, w), quantiser)


def quality(codec: PatchCodec, vectors: np.ndarray) -> dict[str, float]:
    """What coding costs, and how the codes are used.

    Args:
      codec: the codec.
      vectors: patches, float32 [N, D], 0 to 1 (or differences between such).

    Returns:
      "psnr": 10 log10(1 / mean squared error), dB; and `quantisers.code_use`.
    """
    codes = codec.quantiser.encode(vectors)
    error = np.mean((codec.quantiser.decode(codes) - vectors) ** 2, dtype=np.float64)
    psnr = float(-10 * np.log10(np.maximum(error, 1e-12)))
    return {"psnr": psnr, **quantisers.code_use(codes, codec.quantiser.size)}
