import io

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from seqgan_jax.data.images import ImageRecord, file_key, image_sources, read_image
from seqgan_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_picture_of_the_right_size_is_left_alone(tmp_path):
    pixels = noise(20, 20)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 20), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


def test_the_centre_is_cut_out_and_shrunk(tmp_path):
    # Blue, but for a green middle square whose left half is red.
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:] = (0, 0, 255)
    pixels[:, 30:50] = (255, 0, 0)
    pixels[:, 50:70] = (0, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    small = read_image(tmp_path / "a.png", 10)
    assert small.shape == (10, 10, 3)
    # Each edge column takes a little of what is cut off: cubic filtering looks that far.
    assert np.abs(small[:, :4] - np.float32([255, 0, 0])).max() <= 25
    assert np.abs(small[:, 6:] - np.float32([0, 255, 0])).max() <= 25


def test_a_large_jpeg_is_the_average_of_its_blocks(tmp_path):
    # Smooth, so that any sensible way to shrink it agrees with the mean of each block.
    y, x = np.mgrid[0:800, 0:800] / 800
    pixels = (255 * np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    means = pixels.reshape(16, 50, 16, 50, 3).mean((1, 3))
    assert np.abs(read_image(tmp_path / "a.jpg", 16) - means).max() < 6


@pytest.mark.parametrize("size", [(1000, 500), (500, 1000), (100, 50)])
def test_for_display_the_whole_picture_is_at_most_320_pixels(tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "a.jpg")
    height, width, _ = read_image(tmp_path / "a.jpg").shape
    assert (width, height) == tuple(min(1, 320 / max(size)) * side for side in size)


def test_photographs_are_turned_upright(tmp_path):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to look at it
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    upright = read_image(tmp_path / "a.jpg")
    assert upright.shape == (64, 32, 3)
    assert upright[:28].min() > 200
    assert upright[36:].max() < 55


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("1", 1, (255, 255, 255)),
    ],
)
def test_every_mode_becomes_colour(tmp_path, mode, colour, expected):
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 4) == expected).all()


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path, kind, share):
    file = io.BytesIO()
    Image.fromarray(noise(200, 300)).save(file, kind)
    path = tmp_path / "a"
    path.write_bytes(file.getvalue()[: int(share * len(file.getvalue()))])
    for size in (None, 32, 224):
        with pytest.raises(UserError, match="a: this image can't be read") as error:
            read_image(path, size)
        assert "\n" not in str(error.value)


def test_missing_files_and_other_files_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    for path, reason in (
        (tmp_path / "a.jpg", "not an image"),
        (tmp_path / "b.jpg", "no such file"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(UserError, match=f"{path}: .*{reason}"):
            read_image(path)


def dataset(folder, bad=()):
    """Ten images, 8 to train on; those in `bad` are truncated or, if odd, missing."""
    folder.mkdir(exist_ok=True)
    records = []
    for i in range(10):
        path = folder / f"{i}.jpg"
        data = jpeg(noise(24, 24, seed=i))
        if i not in bad:
            path.write_bytes(data)
        elif i % 2 == 0:
            path.write_bytes(data[: len(data) // 2])
        records.append(ImageRecord(path.name, path, (f"image {i}",), 50 + i))
    return {"train": records[2:], "validation": records[:1], "test": records[1:2]}


def settings(share=0.01, size=16):
    return ConfigDict({"path": "DATA", "image_size": size, "max_unreadable_share": share})


def test_sources_hold_the_images(tmp_path, cache):
    shown = []

    def progress(items, total, description):
        shown.append((total, description))
        return items

    for _ in range(2):
        sources = image_sources(dataset(tmp_path / "data"), settings(), progress=progress)
        assert {split: len(source) for split, source in sources.items()} == {
            "train": 8,
            "validation": 1,
            "test": 1,
        }
        for split, first in (("train", 2), ("validation", 0), ("test", 1)):
            source = sources[split]
            assert not source.unlimited
            assert source.skipped == ()
            for i in range(len(source)):
                path = tmp_path / "data" / f"{first + i}.jpg"
                np.testing.assert_array_equal(source[i]["source"], read_image(path, 16))
                np.testing.assert_array_equal(source.image(i), read_image(path))
                assert source[i]["captions"] == (f"image {first + i}",)
                assert source[i]["example_id"] == 50 + first + i
                assert source.name(i) == path.name
        if len(shown) == 1:  # the second time, files as before must not be read again
            stamp = [(path.name, path.stat().st_mtime_ns) for path in cache.glob("*.npy")]
            split_otherwise = dataset_unchanged(tmp_path / "data")
            image_sources(split_otherwise, settings(), progress=progress)
            assert stamp == [(path.name, path.stat().st_mtime_ns) for path in cache.glob("*.npy")]
            assert len(shown) == 1
    # `dataset` wrote the files anew: they were prepared anew.
    assert shown == [(10, "preparing images")] * 2


def dataset_unchanged(folder):
    records = [
        ImageRecord(f"{i}.jpg", folder / f"{i}.jpg", (f"image {i}",), 50 + i) for i in range(10)
    ]
    return {"train": records[:4], "validation": records[4:9], "test": records[9:]}


def test_what_can_be_no_file_is_as_good_as_missing(tmp_path):
    keys = {file_key([1], [("a", tmp_path / name)]) for name in ("missing", "no\0name")}
    assert len(keys) == 1


def test_a_few_unreadable_images_are_named_and_left_out(tmp_path):
    splits = dataset(tmp_path / "data", bad=(0, 3, 6))
    for _ in range(2):  # prepared, then from the cache
        said = []
        sources = image_sources(splits, settings(share=0.3), report=said.append)
        assert len(sources["train"]) == 6
        assert len(sources["validation"]) == 0
        assert [sources["train"].name(i)[0] for i in range(6)] == list("245789")
        for i in range(6):
            path = tmp_path / "data" / sources["train"].name(i)
            np.testing.assert_array_equal(sources["train"][i]["source"], read_image(path, 16))
        assert len(said) == 1
        assert "left out 3 of 10 images: 0.jpg (" in said[0]
        assert "3.jpg (no such file" in said[0]
        assert "truncated" in said[0].lower()
        assert len(sources["test"].skipped) == 3
        with pytest.raises(UserError, match=r"0\.jpg.*config\.data\.max_unreadable_share"):
            image_sources(splits, settings(share=0.2))


def test_too_many_unreadable_images_leave_no_cache(tmp_path, cache):
    splits = dataset(tmp_path / "data", bad=range(10))
    with pytest.raises(UserError, match=r"config\.data\.max_unreadable_share from 0\.01"):
        image_sources(splits, settings())
    assert not list(cache.glob("*.npy"))
    assert not list(cache.glob(".*"))
    with pytest.raises(UserError, match="no image to train on"):
        image_sources(splits, settings(share=1.0))
