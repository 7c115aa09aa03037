"""How far speech is from other speech: spectra, cepstra under time warping, durations, words.

All figures are computed from waveforms by an analysis of their own, so that codecs of any
resolution compare. Loudness counts in the log-spectral distance alone.
"""

from collections.abc import Sequence

import numpy as np
import scipy.fft

from seqgan_jax.codecs.mel import Analysis, frames_of
from seqgan_jax.evaluation.report import Metric

BANDS = 40
CEPSTRA = 13
FLOOR_DB = -60.0  # below the loudest band of a recording
_DB = 20 / np.log(10)  # a natural logarithm of an amplitude in decibels


def analysis(sample_rate: int) -> Analysis:
    """Frames of 40 ms every 10 ms, 40 bands up to 7.6 kHz or nearly half the sample rate."""
    hop = sample_rate // 100
    return Analysis(
        sample_rate=sample_rate,
        hop=hop,
        window=4 * hop,
        bands=BANDS,
        fmin=60.0,
        fmax=min(7600.0, 0.475 * sample_rate),
        floor_db=-120.0,
    )


def log_bands(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Log-mel frames of `analysis`, raised to 60 dB below their greatest value, [T, 40]."""
    frames = frames_of(audio, analysis(sample_rate))
    return np.maximum(frames, frames.max(initial=-np.inf) + FLOOR_DB / _DB)


def mel_cepstra(frames: np.ndarray, count: int = CEPSTRA) -> np.ndarray:
    """Mel cepstra without the one that stands for loudness.

    c_d = 2/M sum_m L_m cos(pi d (m + 1/2) / M), d = 1 .. count, for L_m log amplitudes of M bands;
    so L_m = mean + sum_d c_d cos(...) with all M - 1 of them.

    Args:
      frames: [T, M].

    Returns:
      [T, count].
    """
    return scipy.fft.dct(frames, axis=-1)[:, 1 : count + 1] / frames.shape[-1]


def cepstral_distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Mel-cepstral distortion of every frame against every other, dB.

    10 / ln 10 sqrt(2 sum_d (c_d - c'_d)^2) (Kubichek 1993): the root mean square over frequency of
    the difference between two smoothed spectra.

    Args:
      ours: [T, D] mel cepstra.
      theirs: [T', D].

    Returns:
      [T, T'].
    """
    squares = np.sum((ours[:, None] - theirs[None]) ** 2, axis=-1)
    return 10 / np.log(10) * np.sqrt(2 * squares)


def warping_path(costs: np.ndarray) -> np.ndarray:
    """The path of least total cost from the first to the last cell, [P, 2] (dynamic time warping).

    A step raises one index or both by 1 (Sakoe and Chiba 1978, symmetric, weights 1).

    Args:
      costs: [T, T'], none negative.
    """
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    # Diagonal by diagonal: a diagonal's cells depend on the two before it alone.
    for d in range(rows + columns - 1):
        i = np.arange(max(0, d - columns + 1), min(rows, d + 1))
        j = d - i
        before = np.minimum(np.minimum(total[i, j + 1], total[i + 1, j]), total[i, j])
        total[i + 1, j + 1] = costs[i, j] + before
    path = [(rows - 1, columns - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        options = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        path.append(min(options, key=lambda cell: total[cell[0] + 1, cell[1] + 1]))
    return np.array(path[::-1])


def mel_cepstral_distortion(ours: np.ndarray, theirs: np.ndarray, sample_rate: int) -> float:
    """Mean distortion along the path of least total distortion, dB; see `cepstral_distances`.

    Args:
      ours, theirs: waveforms, float32 [samples], with at least one sample each.
    """
    costs = cepstral_distances(
        mel_cepstra(log_bands(ours, sample_rate)), mel_cepstra(log_bands(theirs, sample_rate))
    )
    path = warping_path(costs)
    return float(costs[path[:, 0], path[:, 1]].mean())


def log_spectral_distance(ours: np.ndarray, theirs: np.ndarray, sample_rate: int) -> float:
    """Root mean square over bands of the difference in dB, the mean over frames.

    Mel bands, not single frequencies, whose fine structure is the phase's and the pitch's affair.

    Args:
      ours, theirs: waveforms in step with one another; the shorter is padded with silence.
    """
    size = max(len(ours), len(theirs))
    pad = lambda audio: np.pad(audio, (0, size - len(audio)))
    difference = log_bands(pad(ours), sample_rate) - log_bands(pad(theirs), sample_rate)
    return float(np.sqrt(np.mean((_DB * difference) ** 2, axis=1)).mean())


def distances(
    samples: Sequence[np.ndarray], references: Sequence[np.ndarray], sample_rate: int
) -> dict[str, Metric]:
    """Generated against real recordings of the same phrases, means over phrases.

    - `mel_cepstral_distortion`, dB, under dynamic time warping; blind to loudness, pitch and
      tempo. A sample of no length has none and is left out.
    - `duration_error`: |log(ours / theirs)| durations; 0.1 is 10 % too long or too short. A sample
      of no length counts as one of 10 ms.

    Args:
      samples, references: waveforms, float32 [samples] each.

    Raises:
      ValueError: the two lengths differ, or there is none.
    """
    if len(samples) != len(references) or not len(samples):
        raise ValueError(f"{len(samples)} samples for {len(references)} references")
    pairs = list(zip(samples, references, strict=True))
    least = sample_rate / 100
    return {
        "mel_cepstral_distortion": Metric.mean(
            (mel_cepstral_distortion(a, b, sample_rate) for a, b in pairs if len(a)), "dB"
        ),
        "duration_error": Metric.mean(
            (abs(np.log(max(len(a), least) / max(len(b), least))) for a, b in pairs),
            "log ratio",
        ),
    }


def codec_quality(
    decoded: Sequence[np.ndarray], originals: Sequence[np.ndarray], sample_rate: int
) -> dict[str, Metric]:
    """Coded against original recordings: means over recordings, dB.

    - `mel_cepstral_distortion`: frame by frame; blind to loudness and pitch.
    - `log_spectral_distance`.

    Args:
      decoded, originals: waveforms in step with one another, float32 [samples] each.
    """

    def in_step(ours, theirs):
        cepstra = [mel_cepstra(log_bands(audio, sample_rate)) for audio in (ours, theirs)]
        count = min(map(len, cepstra))
        ours, theirs = (c[:count] for c in cepstra)
        return (10 / np.log(10) * np.sqrt(2 * np.sum((ours - theirs) ** 2, axis=1))).mean()

    pairs = list(zip(decoded, originals, strict=True))
    return {
        "mel_cepstral_distortion": Metric.mean((in_step(a, b) for a, b in pairs), "dB"),
        "log_spectral_distance": Metric.mean(
            (log_spectral_distance(a, b, sample_rate) for a, b in pairs), "dB"
        ),
    }


def word_errors(heard: Sequence[str], said: Sequence[str]) -> int:
    """The fewest insertions, deletions and replacements of words that make one the other."""
    row = list(range(len(said) + 1))
    for i, word in enumerate(heard, start=1):
        corner, row[0] = row[0], i
        for j, wanted in enumerate(said, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (word != wanted))
    return row[-1]


def recognition(heard: Sequence[Sequence[str]], said: Sequence[Sequence[str]]) -> dict[str, Metric]:
    """What a recogniser hears in recordings, against what they should say.

    - `phrases_recognised`: share of phrases of which every word is heard, and no other.
    - `words_recognised`: 1 - errors / words over all phrases, the errors being the fewest
      insertions, deletions and replacements; below 0 where there are more of them than words.

    Args:
      heard, said: the words of each phrase; what is said is never empty.

    Raises:
      ValueError: the two lengths differ, or there is none.
    """
    if len(heard) != len(said) or not len(said):
        raise ValueError(f"{len(heard)} phrases heard for {len(said)} said")
    errors = np.array([word_errors(*pair) for pair in zip(heard, said, strict=True)], float)
    words = np.array([len(phrase) for phrase in said], float)
    share = errors.sum() / words.sum()
    # Delta method for a ratio of means over independent phrases.
    deviation = (errors - share * words) / words.mean()
    stderr = float(deviation.std(ddof=1) / np.sqrt(len(words))) if len(words) > 1 else None
    return {
        "phrases_recognised": Metric.mean(errors == 0, "share"),
        "words_recognised": Metric(float(1 - share), stderr, len(words), "share"),
    }


def diversity(samples: Sequence[Sequence[np.ndarray]], sample_rate: int) -> dict[str, Metric]:
    """How different two recordings of one phrase are: means over phrases.

    - `sample_distance`: their mel-cepstral distortion under dynamic time warping, dB; 0 for equal
      ones. What a recogniser doesn't understand can be very diverse.
    - `sample_duration_ratio`: |log| of the ratio of their durations.

    Args:
      samples: the first two of each phrase are compared; phrases of which one has no length are
        left out.
    """
    pairs = [(a, b) for a, b, *_ in samples if len(a) and len(b)]
    return {
        "sample_distance": Metric.mean(
            (mel_cepstral_distortion(a, b, sample_rate) for a, b in pairs), "dB"
        ),
        "sample_duration_ratio": Metric.mean(
            (abs(np.log(len(a) / len(b))) for a, b in pairs), "log ratio"
        ),
    }
