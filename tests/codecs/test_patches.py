"""Patches of clips: cutting and joining, codes and back, files."""

import itertools
import json

import numpy as np
import pytest

from seqgan_jax.codecs import patches
from seqgan_jax.codecs.patches import PatchCodec
from seqgan_jax.codecs.quantisers import KMeans, Scale
from seqgan_jax.errors import UserError

PATCH = (2, 2, 3)
D = 3 * 2 * 2 * 3


@pytest.fixture(scope="module")
def codec():
    """Six vectors, each of which many patches are near."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(size=(6, D)).astype(np.float32)
    vectors = centres[rng.integers(6, size=200)] + 0.01 * rng.normal(size=(200, D))
    vectors = vectors.astype(np.float32)
    settings = {"size": 6, "levels": 2, "iterations": 20}
    return PatchCodec.fit(
        vectors, 0, patch=PATCH, quantiser="kmeans", minimise=None, **settings
    ), vectors


def test_patches_are_the_blocks_of_a_clip():
    clip = np.random.default_rng(1).integers(0, 256, (4, 6, 6, 3))
    cut = patches.split(clip, PATCH)
    assert cut.shape == (2, 3, 2, D)
    for slot, row, column in itertools.product(range(2), range(3), range(2)):
        block = clip[2 * slot : 2 * slot + 2, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        np.testing.assert_array_equal(cut[slot, row, column], block.ravel())
    np.testing.assert_array_equal(patches.join(cut, PATCH), clip)


def test_codes_go_there_and_back(codec):
    codec, vectors = codec
    tokens = codec.encode(vectors)
    assert tokens.dtype == np.int32
    assert len(tokens) == 2 * len(vectors)
    first, second = tokens[::2], tokens[1::2]
    assert first.min() >= 0
    assert first.max() < 6 <= second.min()
    assert second.max() < 12
    assert (codec.vocabulary.size, codec.vocabulary.bos) == (12, 0)
    assert codec.vocabulary.eos is codec.vocabulary.pad is None
    decoded = codec.decode(tokens)
    assert np.abs(decoded - vectors).max() < 0.1
    # What is decoded is coded alike.
    np.testing.assert_array_equal(codec.encode(decoded), tokens)
    # A second level brings patches nearer, and a code of the wrong level is read as the right one.
    rough = KMeans(codec.quantiser._codebooks[:1], codec.quantiser._scale)
    error = np.mean((rough.decode(rough.encode(vectors)) - vectors) ** 2)
    assert np.mean((decoded - vectors) ** 2) < 0.9 * error
    np.testing.assert_array_equal(codec.decode(tokens % 6), decoded)
    np.testing.assert_array_equal(codec.decode(tokens[:5]), decoded[:2])
    assert codec.bits_per_patch == pytest.approx(2 * np.log2(6))


def test_each_different_patch_counts_once():
    rng = np.random.default_rng(2)
    rare = rng.uniform(size=(3, D)).astype(np.float32)
    vectors = np.concatenate([np.zeros((1000, D), np.float32), rare])
    codec = PatchCodec.fit(
        vectors, 0, patch=PATCH, quantiser="kmeans", minimise=None, size=4, iterations=5
    )
    np.testing.assert_allclose(codec.decode(codec.encode(rare)), rare, atol=1e-5)


def test_quality_is_that_of_the_definition():
    # One code, at 0.25 everywhere: the error of vectors at 0.5 and 0 is 1 / 16.
    scale = Scale(np.full(D, 0.25, np.float32), 1.0)
    codec = PatchCodec(PATCH, KMeans(np.zeros((1, 2, D), np.float32), scale))
    vectors = np.concatenate([np.full((2, D), 0.5), np.zeros((2, D))]).astype(np.float32)
    found = patches.quality(codec, vectors)
    assert found["psnr"] == pytest.approx(10 * np.log10(16), abs=1e-5)
    assert found["used"] == 0.5
    assert found["perplexity"] == 1


def test_files_hold_all_of_it(codec, tmp_path):
    codec, vectors = codec
    codec.save(tmp_path)
    again = PatchCodec.load(tmp_path)
    assert again.patch == PATCH
    np.testing.assert_array_equal(again.encode(vectors), codec.encode(vectors))
    np.testing.assert_array_equal(
        again.decode(codec.encode(vectors)), codec.decode(codec.encode(vectors))
    )


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"kind": "mel", "patch": [2, 2, 3]}', '{"kind": "patches", "patch": [2, 2, 2]}'],
)
def test_damaged_files_are_named(codec, tmp_path, content):
    codec[0].save(tmp_path)
    (tmp_path / patches.FILE).write_text(content)
    with pytest.raises(UserError, match=r"codec\.json: the codec file is damaged"):
        PatchCodec.load(tmp_path)
    (tmp_path / patches.FILE).unlink()
    with pytest.raises(UserError, match=r"codec\.json: can't read the codec"):
        PatchCodec.load(tmp_path)
    assert json.loads((tmp_path / "quantiser.json").read_text())["kind"] == "kmeans"
