import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from seqgan_jax.data import features, flickr8k
from seqgan_jax.data.features import cached_features, load
from seqgan_jax.errors import UserError

NAMES = [f"{i}.png" for i in range(12)]
FEATURES = np.random.default_rng(0).normal(size=(12, 4, 6)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    (folder / "Images").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        Image.new("RGB", (8, 8), (20 * i, 1, 2)).save(folder / "Images" / name)
    lines = [f"{name},caption of {name}" for name in NAMES]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    return folder


def settings(folder, share=0.0):
    return ConfigDict(
        {
            "path": str(folder),
            "image_size": 8,
            "validation_size": 2,
            "test_size": 3,
            "max_unreadable_share": share,
        }
    )


def check(sources, values=FEATURES, count=12, **tolerance):
    seen = set()
    for source in sources.values():
        for i in range(len(source)):
            row = NAMES.index(source.name(i))
            seen.add(row)
            assert source[i]["captions"] == (f"caption of {NAMES[row]}",)
            assert source[i]["source"].dtype == np.float32
            np.testing.assert_allclose(source[i]["source"], values[row], **tolerance)
    assert len(seen) == count


def archive_of_arrays(folder, values=FEATURES):
    np.savez(folder / "features.npz", ids=NAMES[::-1], features=values[::-1])


def archive_by_id(folder, values=FEATURES):
    np.savez(folder / "features.npz", **dict(zip(NAMES, values, strict=True)))


def directory(folder, values=FEATURES):
    (folder / "features").mkdir(exist_ok=True)
    for name, value in zip(NAMES, values, strict=True):
        np.save(folder / "features" / name.replace(".png", ".npy"), value)


@pytest.mark.parametrize("layout", [archive_of_arrays, archive_by_id, directory])
def test_every_layout_gives_the_same(folder, layout):
    layout(folder)
    sources = load(settings(folder))
    assert [len(sources[split]) for split in ("train", "validation", "test")] == [7, 2, 3]
    check(sources, rtol=0)
    # The second time from the cache, for as long as the files are the same ones.
    check(load(settings(folder)), rtol=0)
    layout(folder, 2 * FEATURES)
    check(load(settings(folder)), 2 * FEATURES, rtol=0)


@pytest.mark.parametrize("layout", [archive_of_arrays, directory])
def test_one_vector_is_a_grid_of_one(folder, layout):
    layout(folder, FEATURES[:, 0])
    check(load(settings(folder)), FEATURES[:, :1], rtol=0)


def test_half_precision_stays_so_in_the_cache(folder, tmp_path):
    archive_of_arrays(folder, FEATURES.astype(np.float16))
    check(load(settings(folder)), FEATURES.astype(np.float16), rtol=0)
    (path,) = (tmp_path / "cache").glob("features-*.npy")
    assert np.load(path).dtype == np.float16


def test_pictures_are_shown_where_there_are_any(folder):
    archive_of_arrays(folder)
    source = load(settings(folder))["train"]
    row = NAMES.index(source.name(0))
    assert (source.image(0) == (20 * row, 1, 2)).all()
    (folder / "Images" / source.name(0)).unlink()
    assert (source.image(0) == 128).all()
    assert source.image(0).dtype == np.uint8


def test_images_without_features_are_left_out(folder):
    directory(folder)
    (folder / "features" / "5.npy").unlink()
    said = []
    check(load(settings(folder, share=0.1), report=said.append), count=11)
    assert said == ["left out 1 of 12 images: 5.png (no features)"]
    with pytest.raises(UserError, match=r"5\.png.*config\.data\.max_unreadable_share"):
        load(settings(folder))


def with_one(value):
    values = list(FEATURES)
    values[5] = value
    return values


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((4, 6), np.nan, np.float32), "'5(.png)?': not all are finite"),
        (np.full((4, 6), 1e300), "'5(.png)?': not all are finite as float32"),
        (np.zeros((3, 6), np.float32), "'5(.png)?': the shape is .3, 6."),
        (np.zeros((4, 6, 1), np.float32), "'5(.png)?': the shape"),
        (np.float32(0), "'5(.png)?': the shape"),
        (np.full((4, 6), "x"), "'5(.png)?': <U1 values"),
    ],
)
@pytest.mark.parametrize("layout", [archive_by_id, directory])
def test_bad_features_are_named(folder, layout, value, message):
    layout(folder, with_one(value))
    with pytest.raises(UserError, match=message):
        load(settings(folder))


def test_bad_files_are_refused(folder):
    with pytest.raises(UserError, match=r"neither features\.npz nor features/"):
        load(settings(folder))
    path = folder / "features.npz"
    for content in (b"", b"no archive", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"features\.npz: can't be read"):
            load(settings(folder))
    archive_by_id(folder, with_one(np.array([{}])))
    with pytest.raises(UserError, match=r"features\.npz: can't be read"):
        load(settings(folder))
    np.savez(path, ids=NAMES, features=FEATURES[:5])
    with pytest.raises(UserError, match="12 ids"):
        load(settings(folder))
    np.savez(path, ids=NAMES[:1] * 12, features=FEATURES)
    with pytest.raises(UserError, match="occurs twice"):
        load(settings(folder))
    np.savez(path, ids=["x"], features=FEATURES[:1])
    with pytest.raises(UserError, match=r"name them like '0\.png'"):
        load(settings(folder))
    with open(path, "wb") as file:
        np.save(file, FEATURES)
    with pytest.raises(UserError, match=r"not an \.npz archive"):
        load(settings(folder))


def mean_colour(images):
    """[B, H, W, 3] -> [B, 2, 3]: mean and maximum colour."""
    return np.stack([images.mean((1, 2)), images.max((1, 2))], 1).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_computed_features_are_computed_once(folder, monkeypatch, dtype):
    monkeypatch.setattr(features, "COMPUTE_BATCH", 4)
    images = flickr8k.load(settings(folder))["train"]
    shapes, shown = [], []

    def compute(block):
        shapes.append(block.shape)
        return mean_colour(block)

    def progress(items, total, description):
        shown.append((total, description))
        return items

    for _ in range(2):
        source = cached_features(images, compute, "mean", progress, dtype=dtype)
        assert len(source) == len(images) == 7
        assert not source.unlimited
        for i in range(7):
            expected = mean_colour(images[i]["source"][None])[0]
            np.testing.assert_allclose(source[i]["source"], expected, rtol=1e-3)
            assert source[i]["source"].dtype == np.float32
            assert source[i]["captions"] == images[i]["captions"]
            assert source[i]["example_id"] == images[i]["example_id"]
            assert source.name(i) == images.name(i)
            np.testing.assert_array_equal(source.image(i), images.image(i))
    assert shapes == [(4, 8, 8, 3)] * 2
    assert shown == [(2, "computing features")]
    # Another encoder, or other images, are other features.
    cached_features(images, compute, "another", dtype=dtype)
    cached_features(flickr8k.load(settings(folder))["test"], compute, "mean", dtype=dtype)
    assert len(shapes) == 5


def test_computed_features_must_be_finite(folder):
    images = flickr8k.load(settings(folder))["train"]

    def compute(block):
        values = mean_colour(block)
        values[3] = 1e6  # too large for float16
        return values

    with pytest.raises(UserError, match=f"'{images.name(3)}': not all are finite as float16"):
        cached_features(images, compute, "large")
    assert len(cached_features(images, mean_colour, "large")) == 7
