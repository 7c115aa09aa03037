import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.signal

from seqgan_jax.codecs import mel
from seqgan_jax.codecs.mel import BOS, EOS, PAD, Analysis, GriffinLim, MelCodec
from seqgan_jax.codecs.quantisers import KMeans, Scale
from seqgan_jax.errors import UserError

SMALL = Analysis(sample_rate=8000, hop=64, window=256, bands=20, fmin=100.0, fmax=3800.0)
SHAPE = {"hop": SMALL.hop, "window": SMALL.window}


def tone(seconds=0.5, rate=8000):
    """A voice-like wave: harmonics of a gliding pitch under a moving envelope."""
    t = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * (120 * t + 40 * t**2)
    wave = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(9 * t))
    return (0.4 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="module")
def wave():
    return tone()[: 60 * SMALL.hop]


def test_stft_is_scipys(wave):
    ours = mel.stft(wave[None], **SHAPE)[0]
    edge = (SMALL.window - SMALL.hop) // 2
    _, _, theirs = scipy.signal.stft(
        np.pad(wave, edge),
        window="hann",
        nperseg=SMALL.window,
        noverlap=SMALL.window - SMALL.hop,
        boundary=None,
        padded=False,
    )
    assert ours.shape == (60, SMALL.window // 2 + 1)
    # scipy's sine wave of amplitude 1 has the magnitude 1/2.
    np.testing.assert_allclose(ours, 2 * theirs.T, atol=1e-5)


def test_a_sine_wave_of_amplitude_1_has_magnitude_1():
    bin_of = 20
    frequency = bin_of * SMALL.sample_rate / SMALL.window
    wave = np.sin(2 * np.pi * frequency * np.arange(40 * SMALL.hop) / SMALL.sample_rate)
    magnitudes = jnp.abs(mel.stft(jnp.float32(wave)[None], **SHAPE))[0, 20]
    assert magnitudes.argmax() == bin_of
    assert magnitudes[bin_of] == pytest.approx(1, abs=1e-3)


def test_mel_filters_are_their_definition():
    filters = mel.mel_filters(SMALL)
    scale = lambda f: 2595 * np.log10(1 + f / 700)
    points = np.linspace(scale(SMALL.fmin), scale(SMALL.fmax), SMALL.bands + 2)
    edges = [700 * (10 ** (m / 2595) - 1) for m in points]
    for f in range(SMALL.window // 2 + 1):
        hertz = f * SMALL.sample_rate / SMALL.window
        for m in range(SMALL.bands):
            low, centre, high = edges[m : m + 3]
            expected = 0.0
            if low < hertz <= centre:
                expected = (hertz - low) / (centre - low)
            elif centre < hertz < high:
                expected = (high - hertz) / (high - centre)
            assert filters[f, m] == pytest.approx(expected, abs=1e-5)


def test_log_mel_is_its_definition_with_a_floor(wave):
    quiet = np.concatenate([wave, np.zeros(10 * SMALL.hop, np.float32)])
    frames = mel.frames_of(quiet, SMALL)
    magnitudes = np.abs(np.asarray(mel.stft(quiet[None], **SHAPE)[0]))
    expected = np.log(np.maximum(magnitudes @ mel.mel_filters(SMALL), 10 ** (-80 / 20)))
    np.testing.assert_allclose(frames, expected, atol=1e-3)
    np.testing.assert_allclose(frames[-3:], SMALL.floor, rtol=1e-6)


def test_frames_come_in_whole_groups(wave):
    audio = wave[: 10 * SMALL.hop + 1]
    frames = mel.frames_of(audio, SMALL, group=4)
    assert frames.shape == (12, SMALL.bands)
    longer = np.pad(audio, (0, 12 * SMALL.hop - len(audio)))
    np.testing.assert_array_equal(frames, mel.frames_of(longer, SMALL))


def test_inverse_stft_undoes_stft(wave):
    spectrum = mel.stft(wave[None], **SHAPE)
    np.testing.assert_allclose(mel.inverse_stft(spectrum, **SHAPE)[0], wave, atol=1e-5)


@pytest.mark.parametrize("overlap", [2, 4])
def test_inverse_stft_of_any_spectrum_is_nearest_in_least_squares(overlap):
    shape = {"hop": 4, "window": 4 * overlap}
    count, bins = 5, 2 * overlap + 1
    rng = np.random.default_rng(0)
    spectrum = rng.normal(size=(count, bins)) + 1j * rng.normal(size=(count, bins))
    # Distance over all of a frame's frequencies, most of which stand for two.
    weight = np.ones(bins)
    weight[1:-1] = np.sqrt(2)
    spectrum[:, [0, -1]] = spectrum[:, [0, -1]].real
    rows = np.asarray(mel.stft(np.eye(4 * count, dtype=np.float32), **shape)) * weight
    flat = lambda x: np.concatenate([x.real, x.imag], axis=-1).reshape(len(x), -1)
    target = flat((spectrum * weight)[None])[0]
    nearest = np.linalg.lstsq(flat(rows).T, target, rcond=None)[0]
    ours = mel.inverse_stft(jnp.complex64(spectrum)[None], **shape)[0]
    np.testing.assert_allclose(ours, nearest, atol=1e-4)


@pytest.fixture(scope="module")
def magnitudes(wave):
    return jnp.abs(mel.stft(wave[None], **SHAPE))


@pytest.fixture(scope="module")
def vocoded(magnitudes):
    vocode = jax.jit(mel.griffin_lim, static_argnames=("hop", "window"))
    return {
        (iterations, momentum): vocode(
            magnitudes,
            iterations=iterations,
            momentum=momentum,
            key=jax.random.key(0),
            **SHAPE,
        )
        for iterations in (3, 10, 100)
        for momentum in (0.0, 0.99)
    }


@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_griffin_lim_is_the_formula(magnitudes, vocoded, momentum):
    s = np.asarray(magnitudes)
    project = lambda c: np.asarray(
        mel.stft(mel.inverse_stft(s * np.exp(1j * np.angle(c)), **SHAPE), **SHAPE)
    )
    t = np.exp(2j * np.pi * np.asarray(jax.random.uniform(jax.random.key(0), s.shape)))
    last = project(t)
    t = last
    for _ in range(2):
        now = project(t)
        t, last = now + momentum * (now - last), now
    expected = mel.inverse_stft(s * np.exp(1j * np.angle(t)), **SHAPE)
    np.testing.assert_allclose(vocoded[3, momentum], expected, atol=5e-3)


def test_griffin_lim_approaches_the_spectrogram_faster_with_momentum(magnitudes, vocoded):
    error = {
        key: float(mel.spectral_convergence(audio, magnitudes, **SHAPE)[0])
        for key, audio in vocoded.items()
    }
    for momentum in (0.0, 0.99):
        assert error[3, momentum] > error[10, momentum] > error[100, momentum]
    assert error[100, 0.99] < 0.7 * error[100, 0.0]
    assert error[100, 0.99] < 0.1


def test_spectral_convergence_of_known_audio(wave, magnitudes):
    assert mel.spectral_convergence(0.75 * wave[None], magnitudes, **SHAPE) == pytest.approx(0.25)


def test_magnitudes_from_mel_are_nearly_the_best_that_are_not_negative(wave):
    frames = mel.frames_of(wave, SMALL)[20:24]
    filters = mel.mel_filters(SMALL).astype(np.float64)
    ours = np.asarray(mel.magnitudes_from_mel(frames, SMALL, iterations=64))
    assert (ours >= 0).all()
    for frame, x in zip(np.exp(frames.astype(np.float64)), ours, strict=True):
        _, best = scipy.optimize.nnls(filters.T, frame)
        assert np.linalg.norm(x @ filters - frame) < best + 0.02 * np.linalg.norm(frame)


class Verbatim:
    """A quantiser that remembers what it has seen, in base `size` digits of the row's number."""

    features = 4 * SMALL.bands

    def __init__(self, size, levels):
        self.size, self.levels = size, levels
        self._rows = np.zeros((0, self.features), np.float32)

    def encode(self, vectors):
        start = len(self._rows)
        self._rows = np.concatenate([self._rows, vectors])
        numbers = np.arange(start, len(self._rows))
        return np.stack([numbers // self.size**q % self.size for q in range(self.levels)], -1)

    def decode(self, codes):
        return self._rows[codes @ self.size ** np.arange(self.levels)]


@pytest.fixture(scope="module")
def vocoder():
    return GriffinLim(SMALL, iterations=60)


def test_tokens_lead_back_to_the_frames_and_the_sound(wave, vocoder):
    codec = MelCodec(SMALL, Verbatim(8, 2), vocoder)
    assert codec.vocabulary == (3 + 2 * 8, BOS, PAD, EOS)
    assert codec.tokens_per_second == pytest.approx(8000 / 64 / 4 * 2)
    assert codec.bits_per_second == pytest.approx(8000 / 64 / 4 * 2 * 3)
    audio = wave[: 58 * SMALL.hop]
    tokens = codec.encode(audio)
    assert tokens[-1] == EOS
    assert len(tokens) == 15 * 2 + 1
    for i, token in enumerate(tokens[:-1]):
        level = i % 2
        assert 3 + 8 * level <= token < 3 + 8 * (level + 1)
    codes = codec._codes(tokens)
    np.testing.assert_array_equal(codec.frames(codes), mel.frames_of(audio, SMALL, 4))
    decoded = codec.decode(tokens)
    assert len(decoded) == 60 * SMALL.hop
    magnitudes = jnp.abs(mel.stft(wave[None], **SHAPE))
    silence = mel.spectral_convergence(jnp.zeros((1, len(wave))), magnitudes, **SHAPE)
    assert silence == pytest.approx(1)
    error = np.abs(mel.frames_of(decoded, SMALL) - mel.frames_of(wave, SMALL))[:56]
    assert np.median(error) < 0.15  # 1.3 dB


def test_whatever_a_model_writes_can_be_decoded(wave, vocoder):
    codec = MelCodec(SMALL, Verbatim(8, 2), vocoder)
    tokens = codec.encode(wave)
    short, long = tokens[:8], tokens[:-1]
    noisy = [BOS, *short, EOS, *long, PAD]
    halves = [*short, 3]  # an incomplete group
    wrong = [3 + (token - 3 + 8) % 16 for token in short]  # the other level's
    batch = codec.decode_batch([long, noisy, halves, wrong, [EOS], []])
    assert [len(audio) for audio in batch] == [n * SMALL.hop for n in (60, 16, 16, 16, 0, 0)]
    for audio in batch[2:4]:
        np.testing.assert_array_equal(codec._codes(halves), codec._codes(short))
        # First phases differ from row to row, so the spectra are compared.
        distance = np.abs(mel.frames_of(audio, SMALL) - mel.frames_of(batch[1], SMALL))
        assert np.median(distance) < 0.3
    assert [len(audio) for audio in codec.decode_batch([[], [EOS]])] == [0, 0]


def test_another_vocoder_gets_the_frames(wave):
    seen = []

    def vocoder(frames):
        seen.append(frames)
        return np.ones((len(frames), frames.shape[1] * SMALL.hop), np.float32)

    codec = MelCodec(SMALL, Verbatim(64, 1), vocoder)
    audio = codec.decode(codec.encode(wave))
    np.testing.assert_array_equal(audio, np.ones(60 * SMALL.hop))
    np.testing.assert_array_equal(seen[0][0, :60], mel.frames_of(wave, SMALL))
    np.testing.assert_allclose(seen[0][0, 60:], SMALL.floor)


def test_fit_save_and_load(tmp_path, wave, vocoder):
    codec = MelCodec.fit(
        [wave, wave[:1000]],
        0,
        analysis=SMALL,
        group=2,
        quantiser="kmeans",
        minimise=None,
        vocoder=vocoder,
        size=16,
    )
    assert isinstance(codec.quantiser, KMeans)
    assert codec.group == 2
    codec.save(tmp_path)
    loaded = MelCodec.load(tmp_path, vocoder)
    assert loaded.analysis == SMALL
    assert loaded.group == 2
    tokens = codec.encode(wave)
    assert loaded.encode(wave) == tokens
    np.testing.assert_array_equal(loaded.decode(tokens), codec.decode(tokens))

    settings = json.loads((tmp_path / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps({**settings, "colour": 1}))
    with pytest.raises(UserError, match=r"codec\.json: the codec file is damaged"):
        MelCodec.load(tmp_path)
    (tmp_path / "codec.json").unlink()
    with pytest.raises(UserError, match=r"codec\.json: can't read the codec"):
        MelCodec.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 100}, "config.codec.window: 100 must be twice config.codec.hop = 64"),
        ({"window": 64}, "config.codec.window: 64"),
        ({"fmax": 5000.0}, "config.codec.fmin, fmax"),
        ({"bands": 200}, "config.codec.bands: .* of 200 bands are so narrow"),
    ],
)
def test_settings_that_make_no_frames_are_named(settings, message):
    kept = {"sample_rate": 8000, "hop": 64, "window": 256, "bands": 20, "fmax": 3800.0}
    with pytest.raises(UserError, match=message):
        Analysis(**{**kept, **settings})


def test_scale_keeps_distances_up_to_a_factor():
    vectors = np.random.default_rng(0).normal(size=(50, 3)) * [1, 5, 9] + 4
    scale = Scale.fit(vectors.astype(np.float32))
    scaled = scale.apply(vectors)
    assert np.mean(scaled**2) == pytest.approx(1, rel=1e-4)
    ratios = np.linalg.norm(np.diff(vectors, axis=0), axis=1) / np.linalg.norm(
        np.diff(scaled, axis=0), axis=1
    )
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-4)
    np.testing.assert_allclose(scale.undo(scaled), vectors, atol=1e-4)
