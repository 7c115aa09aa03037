"""Recordings for people: files that others can read, pictures at the right places, a page."""

import re
import wave

import numpy as np
import pytest
from PIL import Image

from seqgan_jax.errors import UserError
from seqgan_jax.reporting import sound


def test_a_wav_file_holds_the_samples(tmp_path):
    audio = np.float32([0, 0.5, -1, 1, 2, -3])
    sound.write_wav(tmp_path / "a.wav", audio, 8000)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        found = np.frombuffer(file.readframes(10), "<i2")
    np.testing.assert_allclose(found / 32767, np.clip(audio, -1, 1), atol=1 / 32767)
    sound.write_wav(tmp_path / "none.wav", audio[:0], 8000)
    with wave.open(str(tmp_path / "none.wav")) as file:
        assert file.getnframes() == 0
    with pytest.raises(UserError, match=r"no/a.wav: can't be written"):
        sound.write_wav(tmp_path / "no" / "a.wav", audio, 8000)


def test_spectrograms_share_time(tmp_path):
    """The first lasts half as long as the second: its picture is white on the right."""
    loud = np.zeros((20, 8))
    frames = {"short $x$": loud[:10], "long": loud, "none": loud[:0]}
    pixels = sound.spectrograms(frames, 50.0, tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    dark = (pixels.max(-1) < 60).mean(0)
    middle = pixels.shape[1] // 2
    assert dark[middle - 60 : middle].mean() > 1.7 * dark[middle + 60 : middle + 120].mean()


def test_attention_goes_down_as_time_goes_on(tmp_path):
    pixels = sound.attention(list("two one "), np.eye(8), 16.0, tmp_path / "a.png")
    dark = pixels.max(-1) < 30
    rows, columns = np.nonzero(dark[:, 60:])
    assert np.corrcoef(rows, columns)[0, 1] > 0.6
    with pytest.raises(ValueError, match="3 source tokens"):
        sound.attention("abc", np.eye(8), 16.0, tmp_path / "a.png")


def test_the_page_plays_every_file_of_every_stage(tmp_path):
    for stage in ("00000010-pretrain", "final", "empty"):
        (tmp_path / stage).mkdir()
    for name in ("1.wav", "1-real.wav", "a&b #2.wav"):
        (tmp_path / "final" / name).write_bytes(b"")
    (tmp_path / "00000010-pretrain" / "1.wav").write_bytes(b"")
    sound.listening_page(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert re.findall(r'src="([^"]+)"', page) == [
        "final/1-real.wav",
        "final/1.wav",
        "final/a%26b%20%232.wav",
        "00000010-pretrain/1.wav",
    ]
    assert "a&amp;b #2" in page
    assert re.findall("<h2>(.*)</h2>", page) == ["final", "00000010-pretrain"]
