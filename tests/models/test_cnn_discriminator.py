"""The CNN discriminator against NumPy, padding, shared prefixes, dropout, penalty and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.models.cnn_discriminator import CNNDiscriminator
from seqgan_jax.models.encoders import FeatureEncoder

B, T, V = 4, 9, 7
LENGTHS = np.array([9, 5, 1, 2])
OPTIONS = {
    "vocabulary_size": V,
    "embedding_size": 3,
    "widths": (1, 3, 4, 9),
    "filters": (2, 3, 2, 1),
}


class Case:
    """A discriminator with tokens and normal parameters, large enough for every part to matter."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.net = CNNDiscriminator(**OPTIONS, dropout=0.5)
        self.mask = (np.arange(T) < LENGTHS[:, None]).astype(np.float32)
        self.tokens = np.where(self.mask > 0, rng.integers(1, V, (B, T)), 0)
        shapes = jax.eval_shape(
            self.net.init, jax.random.key(0), None, None, self.tokens, self.mask
        )
        self.variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

    def call(self, method, *arguments, **kwargs):
        return self.net.apply(self.variables, *arguments, method=method, **kwargs)


@pytest.fixture(scope="module")
def case():
    return Case()


def score(params, tokens, mask):
    """The logit of one sequence, window by window."""
    x = params["embedding"][tokens] * mask[:, None]
    pooled = []
    for width, filters in zip(OPTIONS["widths"], OPTIONS["filters"], strict=True):
        kernel = params[f"kernel_{width}"]
        for f in range(filters):
            pooled.append(
                max((x[a : a + width] * kernel[:, :, f]).sum() for a in range(T - width + 1))
            )
    c = np.maximum(np.array(pooled) + params["bias"], 0)
    transform, gate = np.split(c @ params["highway_weight"] + params["highway_bias"], 2)
    gate = 1 / (1 + np.exp(-gate))
    judged = gate * np.maximum(transform, 0) + (1 - gate) * c
    return judged @ params["output_weight"] + params["output_bias"]


def test_scores_equal_a_loop_over_windows(case):
    memory = case.call("encode", None, None)
    ours = case.call("sequence_score", memory, case.tokens, case.mask)
    expected = [
        score(case.variables["params"], *row) for row in zip(case.tokens, case.mask, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(ours) > 0.1


def test_readout_of_steps_is_the_sequence_score(case):
    memory = case.call("encode", None, None)
    state = case.call("initial_state", memory, B)
    features = []
    for t in range(T):
        state, feature = case.call("step", memory, state, case.tokens[:, t])
        features.append(feature)
    ours = case.call("readout", jnp.stack(features, 1), case.mask)
    expected = case.call("sequence_score", memory, case.tokens, case.mask)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_what_follows_the_end_is_ignored(case):
    memory = case.call("encode", None, None)
    other = np.where(case.mask > 0, case.tokens, V - 1)
    np.testing.assert_array_equal(
        case.call("sequence_score", memory, other, case.mask),
        case.call("sequence_score", memory, case.tokens, case.mask),
    )


@pytest.mark.parametrize("shared", [1, 4, 8])
def test_shared_prefixes_change_nothing_but_the_cost(case, shared):
    rng = np.random.default_rng(1)
    tokens = rng.integers(1, V, (3, 5, T))
    tokens[:, :, :shared] = tokens[:, :1, :shared]
    lengths = rng.integers(shared, T + 1, (15, 1))
    mask = (np.arange(T) < lengths).astype(np.float32)
    features = case.variables["params"]["embedding"][tokens.reshape(15, T)]
    plain = case.call("readout", features, mask)
    ours = case.call("readout", features, mask, shared=shared, lanes=5)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)
    assert np.ptp(plain) > 0.1


def test_dropout_in_training_alone(case):
    def judge(seed, train=True):
        keys = {"dropout": jax.random.key(seed)}
        return case.net.apply(
            case.variables, None, None, case.tokens, case.mask, train=train, rngs=keys
        )

    assert np.abs(judge(0) - judge(1)).max() > 0.1
    np.testing.assert_array_equal(judge(0, False), judge(1, False))


def test_penalty_is_the_least_of_two_classes_weights(case):
    """The authors' l2 / 2 (|w_0|^2 + |w_1|^2) over all w_1 - w_0 = v is least at w_1 = v / 2."""
    params = case.variables["params"]
    v = np.append(params["output_weight"], params["output_bias"])
    two = lambda real: case.net.l2 / 2 * (np.square(real) + np.square(real - v)).sum()
    np.testing.assert_allclose(case.call("regulariser"), two(v / 2), rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=(100, len(v)))
    assert all(two(v / 2 + n) > two(v / 2) for n in noise)


def test_starts_as_the_paper_says():
    init = jax.jit(CNNDiscriminator(vocabulary_size=50).init)
    tokens = jnp.zeros((1, 20), jnp.int32)
    params = init(jax.random.key(0), None, None, tokens, tokens)["params"]
    widths = (*range(1, 11), 15, 20)
    filters = (100, 200, 200, 200, 200, *(100,) * 5, 160, 160)
    shapes = {f"kernel_{w}": (w, 64, f) for w, f in zip(widths, filters, strict=True)}
    assert {k: v.shape for k, v in params.items() if k.startswith("kernel")} == shapes
    bias = params["highway_bias"]
    np.testing.assert_array_equal(bias, np.repeat([0.0, -2.0], 1720))
    # Uniform on +- sqrt(3 / 1720), as Glorot's for a square matrix.
    weight = np.abs(params["highway_weight"])
    assert 0.99 < weight.max() / np.sqrt(3 / 1720) <= 1


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"widths": (1, 10), "filters": (2, 2)}, "config.discriminator.widths"),
        ({"filters": (2, 3)}, "config.discriminator.filters"),
        ({"encoder": FeatureEncoder(size=3)}, "config.encoder.kind"),
    ],
)
def test_refuses_by_name(case, options, option):
    net = CNNDiscriminator(**(OPTIONS | options))
    with pytest.raises(UserError, match=option):
        net.init(jax.random.key(0), None, None, case.tokens, case.mask)
