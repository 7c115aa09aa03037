"""Source encoders: independence of the batch, positions, masks, dropout."""

import jax
import numpy as np
import pytest

from seqgan_jax.models.encoders import ENCODERS, ConvolutionalEncoder, FeatureEncoder

F = 6


def parameters(net, source):
    """Normal parameters of the right shapes, faster than what `init` draws."""
    rng = np.random.default_rng(5)
    shapes = jax.eval_shape(lambda key: net.init(key, source, None, train=False), jax.random.key(0))
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def build(kind, rng, **options):
    """An encoder, four sources, and its parameters."""
    if kind == "convolutional":
        net = ConvolutionalEncoder(channels=(4, 8), size=F, **options)
        source = rng.integers(0, 256, (4, 12, 16, 3)).astype(np.uint8)
    else:
        net = FeatureEncoder(size=F, **options)
        source = rng.normal(size=(4, 5, 7)).astype(np.float32)
    variables = parameters(net, source)
    encode = jax.jit(lambda source, mask=None: net.apply(variables, source, mask, train=False))
    return net, variables, source, encode


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def encoder(request):
    return build(request.param, np.random.default_rng(0))


def test_shapes_and_size(encoder):
    net, variables, source, encode = encoder
    positions, summary = encode(source)
    count = 3 * 4 if isinstance(net, ConvolutionalEncoder) else 5
    assert positions.shape == (4, count, net.size)
    assert summary.shape == (4, net.size)
    assert set(variables) == {"params"}


def test_one_source_does_not_depend_on_the_others(encoder):
    _, _, source, encode = encoder
    whole = encode(source)
    others = source.copy()
    others[1:] = 0
    for found in (encode(source[:1]), encode(others)):
        for a, b in zip(found, whole, strict=True):
            np.testing.assert_allclose(a[0], b[0], atol=1e-5)
    assert np.abs(whole[1][0] - whole[1][1]).max() > 1e-3


def test_positions_can_be_told_apart(encoder):
    """The same content everywhere still gives every position vectors of its own."""
    _, _, source, encode = encoder
    positions = np.asarray(encode(np.full_like(source[:1], 1))[0][0])
    for i in range(len(positions)):
        for j in range(i):
            assert np.abs(positions[i] - positions[j]).max() > 1e-3


def test_every_parameter_matters(encoder):
    net, variables, source, _ = encoder

    def loss(variables):
        positions, summary = net.apply(variables, source, None, train=False)
        return (positions**2).sum() + (summary**2).sum()

    gradients = jax.jit(jax.grad(loss))(variables)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("kind", sorted(ENCODERS))
def test_dropout_only_in_training(kind):
    net, variables, source, _ = build(kind, np.random.default_rng(1), dropout=0.5)
    run = jax.jit(
        lambda key, train: net.apply(variables, source, None, train=train, rngs={"dropout": key})[
            1
        ],
        static_argnums=1,
    )
    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(run(keys[0], False), run(keys[1], False))
    assert np.abs(run(keys[0], True) - run(keys[1], True)).max() > 1e-3


def test_a_patch_is_found_where_it_is():
    """Changing one corner of an image changes the grid there and not in the opposite corner."""
    net = ConvolutionalEncoder(channels=(4,), size=F)
    image = np.zeros((1, 16, 16, 3), np.uint8)
    variables = parameters(net, image)

    def before_normalisation(image):
        _, kept = net.apply(variables, image, None, train=False, capture_intermediates=True)
        return kept["intermediates"]["Conv_0"]["__call__"][0]

    changed = image.copy()
    changed[0, -4:, :4] = 255
    difference = np.abs(before_normalisation(changed) - before_normalisation(image))[0].max(-1)
    assert difference.shape == (8, 8)
    rows, columns = np.nonzero(difference)
    assert rows.min() >= 5
    assert columns.max() <= 2


def test_masked_features_are_unseen():
    _, variables, source, encode = build("features", np.random.default_rng(2))
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 1, 1, 1], [0] * 5], np.float32)
    positions, summary = encode(source, mask)
    changed = np.where(mask[..., None] > 0, source, 50).astype(np.float32)
    other_positions, other_summary = encode(changed, mask)
    np.testing.assert_array_equal(other_summary, summary)
    real = mask[..., None]
    np.testing.assert_array_equal(other_positions * real, positions * real)
    dense = variables["params"]["Dense_1"]
    mean = np.stack(
        [p[m > 0].mean(0) for p, m in zip(np.asarray(positions[:3]), mask, strict=False)]
    )
    np.testing.assert_allclose(
        summary[:3], np.tanh(mean @ dense["kernel"] + dense["bias"]), atol=1e-5
    )
    np.testing.assert_allclose(summary[3], np.tanh(dense["bias"]), atol=1e-6)
    np.testing.assert_allclose(encode(source)[1][0], summary[0], atol=1e-6)
