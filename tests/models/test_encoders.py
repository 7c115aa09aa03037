"""Source encoders: independence of the batch, positions, masks, dropout."""

import jax
import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.models.encoders import (
    ENCODERS,
    BiLSTMEncoder,
    ClipEncoder,
    ConvolutionalEncoder,
    FeatureEncoder,
    TransformerEncoder,
)

F, WORDS = 6, 9


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
    elif kind == "features":
        net = FeatureEncoder(size=F, **options)
        source = rng.normal(size=(4, 5, 7)).astype(np.float32)
    else:
        if kind == "bilstm":
            net = BiLSTMEncoder(WORDS, size=F, embedding_size=4, num_layers=2, **options)
        else:
            options = {"positions": "learned", "max_length": 5} | options
            net = TransformerEncoder(WORDS, F, 7, num_layers=1, num_heads=3, **options)
        source = rng.integers(0, WORDS, (4, 5)).astype(np.int32)
    variables = parameters(net, source)
    encode = jax.jit(lambda source, mask=None: net.apply(variables, source, mask, train=False))
    return net, variables, source, encode


@pytest.fixture(scope="module", params=sorted(ENCODERS.keys() - {"clip"}))
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


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_loop(p, name, inputs):
    """One layer in one direction, in NumPy: [S, I] -> outputs [S, H]."""
    w = {part: np.asarray(p[f"{name}_{part}"]) for part in ("input", "recurrent", "bias")}
    h = c = np.zeros(len(w["recurrent"]))
    outputs = []
    for x in inputs:
        i, f, g, o = np.split(x @ w["input"] + h @ w["recurrent"] + w["bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def test_bilstm_equals_a_loop_over_the_real_tokens():
    _, variables, source, encode = build("bilstm", np.random.default_rng(3))
    p = variables["params"]
    mask = (np.arange(5) < np.array([5, 3, 1, 0])[:, None]).astype(np.float32)
    positions, summary = encode(source, mask)
    for b, length in enumerate((5, 3, 1)):
        x = p["Embed_0"]["embedding"][source[b, :length]]
        for layer in range(2):
            forward = lstm_loop(p, f"forward_{layer}", x)
            backward = lstm_loop(p, f"backward_{layer}", x[::-1])[::-1]
            x = np.concatenate([forward, backward], axis=1)
        np.testing.assert_allclose(positions[b, :length], x, atol=1e-5)
        ends = np.concatenate([forward[-1], backward[0]])
        expected = np.tanh(ends @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"])
        np.testing.assert_allclose(summary[b], expected, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(positions)[mask == 0], 0)
    np.testing.assert_allclose(summary[3], np.tanh(p["Dense_0"]["bias"]), atol=1e-6)


@pytest.mark.parametrize("kind", ["bilstm", "transformer"])
def test_padding_of_tokens_changes_nothing(kind):
    """Neither what it holds nor how much of it there is."""
    options = {"positions": "rotary"} if kind == "transformer" else {}
    net, variables, source, _ = build(kind, np.random.default_rng(4), **options)
    encode = jax.jit(lambda source, mask: net.apply(variables, source, mask, train=False))
    mask = (np.arange(5) < np.array([5, 3, 1, 4])[:, None]).astype(np.float32)
    expected = encode(source, mask)
    longer = np.where(mask > 0, source, (source + 1) % WORDS)
    longer = np.pad(longer, ((0, 0), (0, 3)), constant_values=2).astype(np.int32)
    positions, summary = encode(longer, np.pad(mask, ((0, 0), (0, 3))))
    np.testing.assert_allclose(summary, expected[1], atol=1e-5)
    np.testing.assert_allclose(positions[:, :5], expected[0], atol=1e-5)
    np.testing.assert_array_equal(positions[:, 5:], 0)
    # Every position knows of every real token, both before and after it.
    for changed in (0, 2):
        other = source.copy()
        other[1, changed] = (other[1, changed] + 1) % WORDS
        difference = np.abs(encode(other, mask)[0] - expected[0])
        assert (difference[1, :3].max(-1) > 1e-4).all()
        assert difference[[0, 2, 3]].max() < 1e-5


def test_longer_sources_than_positions_are_refused():
    net = TransformerEncoder(
        WORDS, F, 7, num_layers=1, num_heads=3, positions="learned", max_length=4
    )
    with pytest.raises(UserError, match=r"config\.encoder\.max_length: 4 learned positions"):
        net.init(jax.random.key(0), np.zeros((1, 5), np.int32), None, train=False)


# Clips: places of a target are its positions


@pytest.fixture(scope="module")
def clips():
    """An encoder of 3 slots of 4 x 2 patches, two sources of 5 places, and how it reads them."""
    rng = np.random.default_rng(3)
    net = ClipEncoder(channels=(4, 4), size=8, blocks=0, num_layers=0)
    source = {
        "clip": rng.integers(0, 256, (2, 3, 16, 8, 4)).astype(np.uint8),
        "places": np.array([[0, 5, 9, 13, 23], [3, 4, 8, 1, 20]], np.int32),
    }
    variables = parameters(net, source)
    return net, variables, source, jax.jit(lambda s: net.apply(variables, s, None, train=False))


def test_a_target_of_a_clip_is_its_own_patches(clips):
    net, variables, source, encode = clips
    positions, summary = encode(source)
    assert positions.shape == (2, 5, 8)
    assert summary.shape == (2, 8)
    # Every place of the grid in turn at every step: what is found of a place depends on the step
    # by a vector of the step's alone, before the normalisation.
    after = {**variables["params"]}
    after["step"] = np.zeros_like(after["step"])
    still = jax.jit(lambda s: net.apply({"params": after}, s, None, train=False)[0])
    turned = {**source, "places": source["places"][:, ::-1]}
    np.testing.assert_allclose(still(source), still(turned)[:, ::-1], atol=1e-5)
    assert np.abs(encode(source)[0] - encode(turned)[0][:, ::-1]).max() > 0.01


def test_a_place_of_a_clip_sees_its_surroundings_in_all_slots(clips):
    _, _, source, encode = clips
    places = {**source, "places": np.array([[0, 5, 9, 13, 23]] * 2, np.int32)}
    other = {**places, "clip": places["clip"].copy()}
    other["clip"][0, 2, 14, 6] ^= 255  # the last slot's lower right corner
    before, after = encode(places)[0], encode(other)[0]
    changed = np.abs(before - after).max(-1) > 1e-6
    assert not changed[1].any()
    # Group normalisation tells all of a picture's cells of a change: compare how much.
    assert changed[0, 4]
    with_layers = ClipEncoder(channels=(4, 4), size=8, blocks=1, num_layers=2)
    variables = parameters(with_layers, source)
    read = jax.jit(lambda s, train=False: with_layers.apply(variables, s, None, train=train)[0])
    assert (np.abs(read(places) - read(other)).max(-1)[0] > 1e-6).all()
