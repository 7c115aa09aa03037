import itertools

import numpy as np
import pytest
from nltk.metrics.distance import edit_distance

from seqgan_jax.codecs.mel import mel_filters
from seqgan_jax.evaluation import speech
from seqgan_jax.evaluation.speech import (
    cepstral_distances,
    codec_quality,
    distances,
    log_bands,
    log_spectral_distance,
    mel_cepstra,
    mel_cepstral_distortion,
    warping_path,
)

RATE = 8000


def vowels(*pairs, rate=RATE):
    """(seconds, formant in Hz) one after the other, voiced at 100 Hz."""
    pieces = []
    for seconds, formant in pairs:
        t = np.arange(int(seconds * rate)) / rate
        k = np.arange(1, 38)
        gain = 1 / (1 + ((100 * k - formant) / 150) ** 2)
        pieces.append((gain * np.sin(2 * np.pi * 100 * k * t[:, None])).sum(axis=1))
    wave = np.concatenate(pieces)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="module")
def word():
    return vowels((0.2, 500), (0.3, 1500))


def test_every_analysis_has_a_frequency_in_every_band():
    for rate in (8000, 16000, 22050, 48000):
        settings = speech.analysis(rate)
        assert (mel_filters(settings).sum(axis=0) > 0).all()
        assert settings.fmax < rate / 2


def test_bands_are_cut_60_db_below_the_loudest(word):
    audio = np.concatenate([word, np.zeros(2000, np.float32)])
    frames = log_bands(audio, RATE) * 20 / np.log(10)
    assert frames.max() - frames.min() == pytest.approx(60, abs=1e-3)
    louder = log_bands(0.5 * audio, RATE) * 20 / np.log(10)
    np.testing.assert_allclose(frames - louder, 20 * np.log10(2), atol=1e-3)


def test_all_cepstra_give_the_spectrum_back():
    frames = np.random.default_rng(0).normal(size=(3, 10))
    c = mel_cepstra(frames, 9)
    m, d = np.arange(10), np.arange(1, 10)
    cosines = np.cos(np.pi * d[:, None] * (m + 0.5) / 10)
    np.testing.assert_allclose(frames.mean(axis=1, keepdims=True) + c @ cosines, frames)


def test_distortion_is_the_rms_difference_of_spectra_in_decibels():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(2, 4, 10))
    got = cepstral_distances(mel_cepstra(ours, 9), mel_cepstra(theirs, 9))
    for i, j in itertools.product(range(4), range(4)):
        difference = 20 / np.log(10) * (ours[i] - theirs[j])
        assert got[i, j] == pytest.approx(difference.std())


def paths(rows, columns):
    """All paths from the first to the last cell."""
    if (rows, columns) == (1, 1):
        return [[(0, 0)]]
    return [
        [*path, (rows - 1, columns - 1)]
        for dr, dc in ((1, 0), (0, 1), (1, 1))
        if rows > dr and columns > dc
        for path in paths(rows - dr, columns - dc)
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (5, 1), (4, 5), (5, 3)])
def test_the_path_is_the_best_of_all(shape):
    for seed in range(5):
        costs = np.random.default_rng(seed).random(shape)
        path = warping_path(costs)
        everything = paths(*shape)
        assert [tuple(cell) for cell in path.tolist()] in everything
        least = min(sum(costs[cell] for cell in each) for each in everything)
        assert costs[path[:, 0], path[:, 1]].sum() == pytest.approx(least)


def test_warping_forgives_tempo_but_not_another_sound(word):
    slow = vowels((0.35, 500), (0.45, 1500))
    other = vowels((0.2, 900), (0.3, 600))
    assert mel_cepstral_distortion(word, word, RATE) == 0
    forgiven = mel_cepstral_distortion(slow, word, RATE)
    assert forgiven < 1.0
    assert mel_cepstral_distortion(other, word, RATE) > 5 * forgiven
    assert mel_cepstral_distortion(0.3 * word, word, RATE) < 1e-2
    # Without warping tempo counts.
    assert codec_quality([slow], [word], RATE)["mel_cepstral_distortion"].value > 5 * forgiven


def test_log_spectral_distance_of_a_gain_is_the_gain(word):
    assert log_spectral_distance(word, word, RATE) == 0
    assert log_spectral_distance(word, 0.1 * word, RATE) == pytest.approx(20, abs=1e-2)


def test_codec_quality_of_noise_grows_with_the_noise(word):
    noise = np.random.default_rng(2).normal(size=len(word)).astype(np.float32)
    figures = [codec_quality([word + a * noise], [word], RATE) for a in (0.001, 0.01, 0.1)]
    for name in ("mel_cepstral_distortion", "log_spectral_distance"):
        values = [figure[name].value for figure in figures]
        assert values == sorted(values)
        assert values[0] < 0.5 * values[2]
    # A decoded recording is longer by the rest of its last group of frames.
    longer = codec_quality([np.pad(word, (0, 300))], [word], RATE)
    assert longer["mel_cepstral_distortion"].value < 0.5


def test_distances_are_means_over_phrases(word):
    slow = vowels((0.4, 500), (0.6, 1500))
    empty = np.zeros(0, np.float32)
    figures = distances([word, slow, empty], [word, word, word], RATE)
    distortion = figures["mel_cepstral_distortion"]
    assert (distortion.n, distortion.unit) == (2, "dB")
    assert distortion.value == pytest.approx(mel_cepstral_distortion(slow, word, RATE) / 2)
    duration = figures["duration_error"]
    assert duration.n == 3
    assert duration.value == pytest.approx((0 + np.log(2) + np.log(50)) / 3)
    with pytest.raises(ValueError, match="1 samples for 2 references"):
        distances([word], [word, word], RATE)
    with pytest.raises(ValueError, match="0 samples"):
        distances([], [], RATE)


# Words


def test_word_errors_are_the_edit_distance():
    rng = np.random.default_rng(3)
    for _ in range(100):
        ours, theirs = (list(rng.integers(0, 3, rng.integers(0, 6))) for _ in range(2))
        assert speech.word_errors(ours, theirs) == edit_distance(ours, theirs)


def test_recognition_of_phrases_and_of_words():
    said = ["one two three", "four", "five six", "seven"]
    heard = ["one two three", "", "five seven six", "seven"]
    split = lambda phrases: [phrase.split() for phrase in phrases]
    found = speech.recognition(split(heard), split(said))
    assert found["phrases_recognised"].value == 0.5
    assert found["words_recognised"].value == pytest.approx(1 - 2 / 7)
    assert found["words_recognised"].n == 4
    # Of many phrases the error is that of leaving each of them out in turn (the jackknife).
    rng = np.random.default_rng(0)
    words = [["a"] * n for n in rng.integers(1, 4, 300)]
    heard = [[w if rng.random() < 0.8 else "b" for w in phrase] for phrase in words]
    errors = np.array([sum(w == "b" for w in phrase) for phrase in heard])
    counts = np.array([len(phrase) for phrase in words])
    left = (errors.sum() - errors) / (counts.sum() - counts)
    jackknife = np.sqrt(299 / 300 * np.sum((left - left.mean()) ** 2))
    found = speech.recognition(heard, words)["words_recognised"]
    assert found.stderr == pytest.approx(jackknife, rel=0.01)
    with pytest.raises(ValueError, match="2 phrases heard for 1 said"):
        speech.recognition([[], []], [["a"]])


def test_diversity_is_of_the_first_two(word):
    longer = np.concatenate([word, word])
    found = speech.diversity([(word, word, longer), (word, longer)], RATE)
    assert found["sample_distance"].n == 2
    assert found["sample_duration_ratio"].value == pytest.approx(np.log(2) / 2)
    expected = mel_cepstral_distortion(word, longer, RATE) / 2
    assert found["sample_distance"].value == pytest.approx(expected)
    assert speech.diversity([(word, word[:0])], RATE)["sample_distance"].value is None
