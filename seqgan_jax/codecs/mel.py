"""Speech <-> tokens: log-mel frames, quantised a few at a time, and back to a waveform.

Shapes: B recordings, T frames, F = window / 2 + 1 frequencies, M mel bands, G frames for each
code, Q residual levels of a quantiser, V codes on each level.
"""

import functools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.codecs import quantisers
from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

PAD, BOS, EOS = range(3)
SPECIAL = 3
FILE = "codec.json"
# Recordings are padded to a multiple of this many frames, so that few lengths are compiled.
_FRAMES = 64
Vocoder = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Analysis:
    """How a waveform becomes log-mel frames.

    Attributes:
      sample_rate: Hz.
      hop: samples from one frame to the next.
      window: samples of a frame, a multiple of `hop`, at least two of them.
      bands: M.
      fmin, fmax: Hz, the outer edges of the lowest and the highest band.
      floor_db: amplitudes below this, relative to a sine wave of amplitude 1, are raised to it:
        what lies below can't be heard and would only occupy the quantiser.
    """

    sample_rate: int = 16000
    hop: int = 256
    window: int = 1024
    bands: int = 64
    fmin: float = 50.0
    fmax: float = 7600.0
    floor_db: float = -80.0

    def __post_init__(self):
        if self.hop < 1 or self.window % self.hop or self.window < 2 * self.hop:
            raise UserError(
                f"config.codec.window: {self.window} must be twice config.codec.hop = {self.hop}, "
                "or a higher multiple of it"
            )
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise UserError(
                f"config.codec.fmin, fmax: ({self.fmin}, {self.fmax}) Hz must lie within 0 to half "
                f"of the sample rate, {self.sample_rate / 2}"
            )
        empty = int((mel_filters(self).sum(axis=0) == 0).sum())
        if empty:
            raise UserError(
                f"config.codec.bands: {empty} of {self.bands} bands are so narrow that they hold "
                "no frequency; set fewer bands or a longer window"
            )

    @property
    def frames_per_second(self) -> float:
        return self.sample_rate / self.hop

    @property
    def floor(self) -> float:
        """The least natural logarithm of a band's amplitude."""
        return self.floor_db * math.log(10) / 20


@functools.cache
def mel_filters(analysis: Analysis) -> np.ndarray:
    """Triangles of height 1, evenly spaced on the mel scale 2595 log10(1 + f / 700), [F, M].

    Band m rises from the centre of band m - 1 to its own and falls to that of band m + 1
    (O'Shaughnessy 1987; the variant of HTK).
    """
    to_mel = lambda f: 2595 * np.log10(1 + np.asarray(f) / 700)
    mels = np.linspace(to_mel(analysis.fmin), to_mel(analysis.fmax), analysis.bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.fft.rfftfreq(analysis.window, 1 / analysis.sample_rate)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(np.minimum(rising, falling), 0).astype(np.float32)


def _hann(window: int) -> np.ndarray:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)


def stft(audio: jax.Array, *, hop: int, window: int) -> jax.Array:
    """Short-time Fourier transform with a Hann window.

    Frame t is centred on the samples t hop .. (t + 1) hop - 1; zeros surround the audio. A sine
    wave of amplitude 1 has the magnitude 1 at its frequency.

    Args:
      audio: [B, T hop].
      hop, window: see `Analysis`.

    Returns:
      complex64 [B, T, F].
    """
    edge = (window - hop) // 2
    padded = jnp.pad(audio, ((0, 0), (edge, window - hop - edge)))
    blocks = padded.reshape(len(audio), -1, hop)
    overlap = window // hop
    count = blocks.shape[1] - overlap + 1
    frames = jnp.concatenate([blocks[:, i : i + count] for i in range(overlap)], axis=-1)
    return jnp.fft.rfft(frames * (_hann(window) * (4 / window)))


def inverse_stft(spectrum: jax.Array, *, hop: int, window: int) -> jax.Array:
    """The audio whose `stft` is nearest to the spectrum in least squares.

    Griffin and Lim 1984, equation 6: sum_t w(n - t hop) x_t(n) / sum_t w(n - t hop)^2.

    Args:
      spectrum: [B, T, F].

    Returns:
      float32 [B, T hop].
    """
    weights = _hann(window)
    frames = jnp.fft.irfft(spectrum, window) * (weights * (window / 4))
    edge = (window - hop) // 2
    total = _overlap_add(frames, hop)
    norm = _overlap_add(np.tile(weights**2, (1, spectrum.shape[1], 1)), hop)
    samples = slice(edge, edge + spectrum.shape[1] * hop)
    return total[:, samples] / norm[:, samples]


def _overlap_add(frames, hop: int) -> jax.Array:
    """[B, T, window] -> [B, (T - 1) hop + window]."""
    batch, count, window = frames.shape
    overlap = window // hop
    blocks = frames.reshape(batch, count, overlap, hop)
    total = sum(
        jnp.pad(blocks[:, :, i], ((0, 0), (i, overlap - 1 - i), (0, 0))) for i in range(overlap)
    )
    return total.reshape(batch, -1)


@functools.partial(jax.jit, static_argnums=1)
def log_mel(audio: jax.Array, analysis: Analysis) -> jax.Array:
    """Logarithms of mel bands' amplitudes: float32 [B, T hop] -> [B, T, M].

    log max(sum_f filter(f, m) |stft(f)|, floor).
    """
    magnitudes = jnp.abs(stft(audio, hop=analysis.hop, window=analysis.window))
    return jnp.maximum(jnp.log(magnitudes @ mel_filters(analysis) + 1e-10), analysis.floor)


# Back to a waveform


def magnitudes_from_mel(frames: jax.Array, analysis: Analysis, *, iterations: int = 16):
    """Magnitudes that are not negative and have nearly these log-mel frames.

    Least squares on amplitudes: the pseudo-inverse's answer, cut at 0, then multiplicative updates
    x <- x (A'y) / (A'Ax) (Lee and Seung 2001), which keep it so and never raise the error.

    Args:
      frames: [..., T, M].

    Returns:
      [..., T, F].
    """
    filters = mel_filters(analysis)
    inverse = np.linalg.pinv(filters.astype(np.float64)).astype(np.float32)
    mel = jnp.exp(frames)
    target = mel @ filters.T
    magnitudes = jnp.maximum(mel @ inverse, 1e-6)

    def improve(_, x):
        return x * target / (x @ filters @ filters.T + 1e-10)

    # Frequencies outside all bands stay at zero, where the pseudo-inverse has put them.
    inside = filters.any(axis=1)
    return jax.lax.fori_loop(0, iterations, improve, magnitudes) * inside


def griffin_lim(
    magnitudes: jax.Array,
    *,
    hop: int,
    window: int,
    iterations: int,
    momentum: float = 0.99,
    key: jax.Array,
) -> jax.Array:
    """Audio whose `stft` has nearly the given magnitudes (Perraudin, Balazs and Soendergaard 2013).

    With P the projection stft(inverse_stft(.)): c_n = P(s exp(i arg t_n-1)) and
    t_n = c_n + momentum (c_n - c_n-1); momentum 0 is Griffin and Lim (1984). The first phases are
    random.

    Args:
      magnitudes: s, [B, T, F].
      hop, window: see `Analysis`.
      iterations: projections.
      momentum: their alpha.
      key: of the first phases.

    Returns:
      float32 [B, T hop].
    """

    def audio(target):
        phases = target / jnp.maximum(jnp.abs(target), 1e-12)
        return inverse_stft(magnitudes * phases, hop=hop, window=window)

    def project(_, carry):
        target, last = carry
        now = stft(audio(target), hop=hop, window=window)
        return now + momentum * (now - last), now

    first = jnp.exp(2j * jnp.pi * jax.random.uniform(key, magnitudes.shape))
    start = first, jnp.zeros_like(first)
    return audio(jax.lax.fori_loop(0, iterations, project, start)[0])


def spectral_convergence(audio: jax.Array, magnitudes: jax.Array, *, hop: int, window: int):
    """| |stft(audio)| - magnitudes | / | magnitudes |, Frobenius norms; [B]."""
    norm = lambda x: jnp.sqrt(jnp.sum(x**2, axis=(1, 2)))
    return norm(jnp.abs(stft(audio, hop=hop, window=window)) - magnitudes) / norm(magnitudes)


class GriffinLim:
    """The vocoder that needs no training: log-mel frames [B, T, M] -> float32 [B, T hop]."""

    def __init__(self, analysis: Analysis, *, iterations: int = 32, momentum: float = 0.99):
        self._analysis = analysis
        self._vocode = jax.jit(functools.partial(self._audio, iterations, momentum))

    def _audio(self, iterations: int, momentum: float, frames: jax.Array) -> jax.Array:
        return griffin_lim(
            magnitudes_from_mel(frames, self._analysis),
            hop=self._analysis.hop,
            window=self._analysis.window,
            iterations=iterations,
            momentum=momentum,
            key=jax.random.key(0),  # the same frames sound the same
        )

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return np.asarray(self._vocode(frames))


# Tokens


class MelCodec:
    """Speech's tokens.

    A recording is padded with silence to whole groups of G frames; each group has Q codes, level
    by level. Tokens are 0 padding, 1 beginning, 2 end, and 3 + q V + c for code c of level q.

    Attributes:
      analysis: how frames are made.
      group: G.
      quantiser: of groups of frames, D = G M.
      vocabulary: what the networks need to know.
      tokens_per_second: without the end token.
    """

    def __init__(
        self,
        analysis: Analysis,
        quantiser: quantisers.Quantiser,
        vocoder: Vocoder | None = None,
    ):
        """`vocoder` turns log-mel frames [B, T, M] into audio [B, T hop]; Griffin-Lim if None."""
        self.analysis = analysis
        self.quantiser = quantiser
        self.group = quantiser.features // analysis.bands
        self.vocabulary = Vocabulary(
            size=SPECIAL + quantiser.levels * quantiser.size, bos=BOS, pad=PAD, eos=EOS
        )
        self.tokens_per_second = analysis.frames_per_second / self.group * quantiser.levels
        self._vocoder = vocoder or GriffinLim(analysis)

    @property
    def bits_per_second(self) -> float:
        """Q log2 V for each group of frames."""
        return self.tokens_per_second * math.log2(self.quantiser.size)

    @classmethod
    def fit(
        cls,
        recordings: Iterable[np.ndarray],
        seed: int,
        *,
        analysis: Analysis,
        group: int,
        quantiser: str,
        minimise: Callable,
        vocoder: Vocoder | None = None,
        **settings,
    ) -> "MelCodec":
        """Fits a quantiser to recordings.

        Args:
          recordings: training audio, float32 [samples] each.
          seed: of the fit.
          analysis: how frames are made.
          group: G.
          quantiser: 'kmeans' or 'vqvae'.
          minimise: see `quantisers.fit`.
          **settings: of the quantiser: `size`, `levels`, ...
        """
        vectors = np.concatenate([_grouped(audio, analysis, group) for audio in recordings])
        fitted = quantisers.fit(quantiser, vectors, seed, minimise=minimise, **settings)
        return cls(analysis, fitted, vocoder)

    def codes(self, audio: np.ndarray) -> np.ndarray:
        """float32 [samples] -> int32 [groups, Q]."""
        return self.quantiser.encode(_grouped(audio, self.analysis, self.group))

    def frames(self, codes: np.ndarray) -> np.ndarray:
        """int32 [groups, Q] -> log-mel frames, float32 [groups G, M]."""
        return self.quantiser.decode(codes).reshape(-1, self.analysis.bands)

    def encode(self, audio: np.ndarray) -> list[int]:
        """float32 [samples] -> tokens, level by level for each group of frames, and the end."""
        levels = np.arange(self.quantiser.levels) * self.quantiser.size
        return [*(SPECIAL + levels + self.codes(audio)).ravel().tolist(), EOS]

    def decode(self, tokens: Sequence[int]) -> np.ndarray:
        """Tokens up to the first end -> float32 [groups G hop]."""
        return self.decode_batch([tokens])[0]

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """`decode` of many at once: as many as fit the memory, at the length of the longest.

        Sequences may be anything that a model has written: an incomplete last group is left out,
        and a code of the wrong level is read as one of the right level.
        """
        codes = [self._codes(tokens) for tokens in sequences]
        lengths = [len(rows) * self.group for rows in codes]
        if not any(lengths):
            return [np.zeros(0, np.float32) for _ in sequences]
        count = -(-max(lengths) // _FRAMES) * _FRAMES
        shape = len(codes), count, self.analysis.bands
        batch = np.full(shape, self.analysis.floor, np.float32)
        decoded = self.frames(np.concatenate(codes))
        ends = np.cumsum(lengths)
        for row, (end, length) in enumerate(zip(ends, lengths, strict=True)):
            batch[row, :length] = decoded[end - length : end]
        audio = self._vocoder(batch)
        hop = self.analysis.hop
        return [row[: length * hop] for row, length in zip(audio, lengths, strict=True)]

    def _codes(self, tokens: Sequence[int]) -> np.ndarray:
        tokens = np.asarray(tokens, np.int32).ravel()
        ends = np.flatnonzero(tokens == EOS)
        tokens = tokens[: ends[0]] if len(ends) else tokens
        codes = (tokens[tokens >= SPECIAL] - SPECIAL) % self.quantiser.size
        levels = self.quantiser.levels
        return codes[: len(codes) // levels * levels].reshape(-1, levels)

    def save(self, directory: str | Path) -> None:
        """Writes codec.json and the quantiser's files in a directory."""
        self.quantiser.save(directory)
        with replace_file(Path(directory) / FILE) as file:
            file.write(json.dumps({"kind": "mel", **asdict(self.analysis)}).encode())

    @classmethod
    def load(cls, directory: str | Path, vocoder: Vocoder | None = None) -> "MelCodec":
        """Reads what `save` wrote.

        Raises:
          UserError: if a file is missing or is not as it was written.
        """
        path = Path(directory) / FILE
        try:
            settings = json.loads(path.read_bytes())
            if settings.pop("kind") != "mel":
                raise ValueError("kind")
            analysis = Analysis(**settings)
        except OSError as error:
            raise UserError(f"{path}: can't read the codec: {error.strerror}") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path}: the codec file is damaged; restore it from a copy") from error
        return cls(analysis, quantisers.load(directory), vocoder)


def frames_of(audio: np.ndarray, analysis: Analysis, group: int = 1) -> np.ndarray:
    """Log-mel frames of one recording, silence added to make whole groups of frames.

    Returns:
      float32 [ceil(samples / (hop G)) G, M].
    """
    count = -(-len(audio) // (analysis.hop * group)) * group
    padded = -(-count // _FRAMES) * _FRAMES * analysis.hop
    audio = np.pad(np.asarray(audio, np.float32), (0, padded - len(audio)))
    return np.asarray(log_mel(audio[None], analysis)[0, :count])


def _grouped(audio: np.ndarray, analysis: Analysis, group: int) -> np.ndarray:
    return frames_of(audio, analysis, group).reshape(-1, group * analysis.bands)
