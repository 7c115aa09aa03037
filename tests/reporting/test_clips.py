"""Strips, moving pictures and files of clips, read again."""

import fractions

import av
import numpy as np
import pytest
from PIL import Image

from seqgan_jax.errors import UserError
from seqgan_jax.reporting import clips


@pytest.fixture
def three():
    rng = np.random.default_rng(0)
    names = ("masked", "filled", "true")
    return {name: rng.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8) for name in names}


def test_a_strip_has_all_frames_in_their_places(three, tmp_path):
    pixels = clips.strip(three, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    for row, clip in enumerate(three.values()):
        for t, frame in enumerate(clip):
            y, x = row * 98, t * 98
            np.testing.assert_array_equal(pixels[y : y + 96 : 24, x : x + 96 : 24], frame)
    assert pixels.shape == (3 * 98 - 2, 3 * 98 - 2, 3)


def test_moving_pictures_show_clips_side_by_side(tmp_path):
    grey = {n: np.full((2, 4, 4, 3), v, np.uint8) for n, v in (("a", 40), ("b", 200))}
    grey["a"][1] = 90
    clips.moving(grey, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 2
        image.seek(1)
        frame = np.asarray(image.convert("RGB"))
    assert frame.shape == (96, 194, 3)
    assert frame[50, 50].tolist() == [90] * 3
    assert frame[50, 150].tolist() == [200] * 3


@pytest.mark.parametrize("size", [(32, 48), (31, 45)])
def test_a_file_has_the_frames_that_were_written(tmp_path, size):
    frames = [np.full((*size, 3), 20 * t, np.uint8) for t in range(7)]
    clips.write(tmp_path / "a.mp4", iter(frames), fractions.Fraction(30000, 1001))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == fractions.Fraction(30000, 1001)
        read = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(read) == 7
    for ours, theirs in zip(frames, read, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    clips.write(tmp_path / "a.gif", iter(frames), fractions.Fraction(10))
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"]) == (7, 100)


def test_nothing_is_left_of_a_file_that_can_t_be_written(tmp_path):
    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        clips.write(tmp_path / "a.mp4", broken(), fractions.Fraction(25))
    assert not list(tmp_path.iterdir())
    frames = iter([np.zeros((16, 16, 3), np.uint8)])
    with pytest.raises(UserError, match=r"a\.mp4: can't be written"):
        clips.write(tmp_path / "no" / "a.mp4", frames, fractions.Fraction(25))
