"""Clips from shapes, files and folders: windows, splits, the cache, and what can't be read."""

import fractions
import wave

import av
import ml_collections
import numpy as np
import pytest
from PIL import Image

from seqgan_jax.data import shapes, video
from seqgan_jax.errors import UserError
from seqgan_jax.reporting import clips


def config_of(**changes):
    values = {
        "source": "files", "path": None, "seed": 0, "frames": 4, "image_size": 16, "stride": 1,
        "train_size": 5, "validation_size": 2, "test_size": 3,
    }  # fmt: skip
    return ml_collections.ConfigDict(values | changes)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "cache"))


def frames(count, height=24, width=32):
    """Frame t is grey, 4 t bright."""
    return [np.full((height, width, 3), 4 * t, np.uint8) for t in range(count)]


@pytest.fixture
def clip(tmp_path):
    clips.write(tmp_path / "a.mp4", iter(frames(50)), fractions.Fraction(10))
    return tmp_path / "a.mp4"


def times(window):
    """Which frames these are, by their brightness."""
    return [round(float(frame.mean()) / 4) for frame in window]


def test_shapes_come_from_the_cache_and_differ_between_splits(monkeypatch):
    found = video.load(config_of(source="shapes"))
    assert {name: len(windows) for name, windows in found.items()} == {
        "train": 5, "validation": 2, "test": 3,
    }  # fmt: skip
    for number, windows in enumerate(found.values()):
        for i in range(len(windows)):
            expected = shapes.draw(shapes.scene(0, number, i), 4, 16)
            np.testing.assert_array_equal(windows[i], expected)
    monkeypatch.setattr(shapes, "draw", None)
    again = video.load(config_of(source="shapes"))
    np.testing.assert_array_equal(again["test"][2], found["test"][2])
    with pytest.raises(TypeError):
        video.load(config_of(source="shapes", seed=1))


def test_the_last_fifth_of_a_clip_is_kept_out(clip):
    told = []
    found = video.load(config_of(path=str(clip), stride=2), report=told.append)
    starts = {"train": range(0, 37, 2), "validation": [40], "test": [45]}
    for split, expected in starts.items():
        windows = [times(found[split][i]) for i in range(len(found[split]))]
        assert windows == [[s, s + 1, s + 2, s + 3] for s in expected]
    assert found["train"][0].shape == (4, 16, 16, 3)
    assert found["test"].name(0) == "a.mp4 from frame 45 on"
    assert told == ["a.mp4: 50 frames of 32 x 24 pixels at 10 a second, stretched to 16 x 16"]
    # From the cache it is read without a word.
    video.load(config_of(path=str(clip)), report=told.append)
    assert len(told) == 1


def test_folders_of_clips_and_of_frames(clip, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for t, frame in enumerate(frames(40)):
        Image.fromarray(frame).save(folder / f"{t:03d}.png")
    found = video.load(config_of(path=str(folder)))
    assert times(found["test"][0]) == [36, 37, 38, 39]
    clips.write(tmp_path / "b.gif", iter(frames(40)), fractions.Fraction(10))
    found = video.load(config_of(path=str(tmp_path)))
    assert len(found["test"]) == 2 + 1
    assert found["test"].name(2) == "b.gif from frame 36 on"


def test_single_pictures_are_split_whole(tmp_path):
    for t, frame in enumerate(frames(12)):
        Image.fromarray(frame).save(tmp_path / f"{t}.png")
    options = {"path": str(tmp_path), "frames": 1, "validation_size": 2, "test_size": 3}
    found = video.load(config_of(**options))
    pictures = {
        split: [times(windows[i])[0] for i in range(len(windows))]
        for split, windows in found.items()
    }
    assert [len(part) for part in pictures.values()] == [7, 2, 3]
    assert {t for part in pictures.values() for t in part} == set(range(12))


def test_a_film_says_its_rate_and_whether_it_varies(clip, tmp_path):
    film, small = video.read(clip, 8)
    assert film == video.Film(clip, 50, 24, 32, fractions.Fraction(10), True)
    assert small.shape == (50, 8, 8, 3)
    pictures = [Image.fromarray(frame) for frame in frames(6)]
    pictures[0].save(
        tmp_path / "b.gif", save_all=True, append_images=pictures[1:],
        duration=[100, 100, 400, 100, 100, 100],
    )  # fmt: skip
    film, _ = video.read(tmp_path / "b.gif", 8)
    assert not film.steady
    assert film.frames == 6


def bad_files(folder):
    """Files that can't be used, by what the message says of them."""
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no clip " * 100)
    with wave.open(str(folder / "sound.mp4"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    clips.write(folder / "short.mp4", iter(frames(3)), fractions.Fraction(10))
    clips.write(folder / "few.mp4", iter(frames(30)), fractions.Fraction(10))
    clips.write(folder / "whole.mp4", iter(frames(50)), fractions.Fraction(10))
    content = (folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 3])
    return {
        "empty.mp4": "this file is empty",
        "text.mp4": "can't be decoded",
        "sound.mp4": r"no pictures in this file \(audio only\)",
        "short.mp4": "3 frames are fewer than the 4 of a window",
        "few.mp4": "of its 30 frames 3 are for 'validation', fewer than the 4 of a window",
        "cut.mp4": "can't be decoded",
        "none.mp4": "there is no such file or folder",
    }


def test_titles_in_another_encoding_do_no_harm(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        container.metadata["title"] = "caf_ caf_"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        for pixels in frames(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    content = (tmp_path / "a.avi").read_bytes()
    assert content.count(b"caf_") == 2
    (tmp_path / "a.avi").write_bytes(content.replace(b"caf_", b"caf\xe9"))
    assert video.read(tmp_path / "a.avi", 8)[1].shape == (5, 8, 8, 3)


def test_bad_files_are_named_in_one_line(tmp_path):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(UserError, match=f"{name}: .*{message}") as error:
            video.load(config_of(path=str(tmp_path / name)))
        assert "\n" not in str(error.value)
    # Nothing of them stays in the cache.
    kept = [path.name for path in (tmp_path / "cache").iterdir() if path.suffix == ".npy"]
    assert len(kept) == 2  # short.mp4 and few.mp4 could be read


def test_bad_folders_and_settings_are_refused(tmp_path):
    cases = [
        ({"source": "film"}, "config.data.source: no source 'film'"),
        ({"frames": 0}, "config.data.frames: 0 is too small"),
        ({"path": str(tmp_path), "stride": 0}, "config.data.stride: 0 is too small"),
        ({}, "config.data.path is not set"),
        ({"path": str(tmp_path)}, "neither clips nor pictures in this folder"),
    ]
    (tmp_path / "notes.txt").write_text("nothing")
    for changes, message in cases:
        with pytest.raises(UserError, match=message):
            video.load(config_of(**changes))
    for t, frame in enumerate([*frames(3), *frames(1, 8, 8)]):
        Image.fromarray(frame).save(tmp_path / f"{t}.png")
    with pytest.raises(UserError, match=r"3\.png: is 8 x 8 pixels, the frames before it 32 x 24"):
        video.load(config_of(path=str(tmp_path)))
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1\.png: this picture can't be read"):
        video.load(config_of(path=str(tmp_path)))
