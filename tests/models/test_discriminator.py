"""The LSTM discriminator: one score by many ways, padding, lanes, sources and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.training.state import transfer

B, S, D, T, V, U, H = 4, 3, 5, 6, 7, 4, 4
LENGTHS = np.array([6, 4, 1, 2])


class Case:
    """A discriminator with inputs and normal parameters, large enough for every part to matter."""

    def __init__(self, has_source, likelihood, attend_after=0):
        rng = np.random.default_rng(0)
        self.net = LSTMDiscriminator(
            vocabulary_size=V,
            encoder=FeatureEncoder(size=3) if has_source else None,
            embedding_size=3,
            hidden_size=H,
            num_layers=2,
            attention_size=5,
            feature_size=U,
            num_heads=2,
            head_size=3,
            dropout=0.5,  # which is off unless a test asks for it
            likelihood=likelihood,
            bos=1,
            attend_after=attend_after,
        )
        self.source = self.source_mask = None
        if has_source:
            self.source = rng.normal(size=(B, S, D)).astype(np.float32)
            self.source_mask = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0]], np.float32)
        self.likelihood = likelihood
        self.mask = (np.arange(T) < LENGTHS[:, None]).astype(np.float32)
        self.tokens = np.where(self.mask > 0, rng.integers(1, V, (B, T)), 0)
        shapes = jax.eval_shape(
            self.net.init, jax.random.key(1), self.source, self.source_mask, self.tokens, self.mask
        )
        self.variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
        self.apply = jax.jit(self.net.apply, static_argnames=("method", "train"))

    def call(self, method, *arguments):
        return self.apply(self.variables, *arguments, method=method)

    def memory(self):
        return self.call("encode", self.source, self.source_mask)


@pytest.fixture(
    scope="module",
    params=[(True, False), (False, False), (True, True), (False, True), (True, True, 1)],
    ids=["source", "no_source", "source-likelihood", "no_source-likelihood", "source-early"],
)
def case(request):
    return Case(*request.param)


def by_steps(case, memory, tokens):
    state = case.net.apply(case.variables, memory, len(tokens), method="initial_state")
    features = []
    for t in range(tokens.shape[1]):
        state, feature = case.call("step", memory, state, tokens[:, t])
        features.append(feature)
    return np.stack(features, axis=1)


def test_features_equal_steps(case):
    memory = case.memory()
    features = case.call("features", memory, case.tokens)
    np.testing.assert_allclose(features, by_steps(case, memory, case.tokens), atol=1e-5)
    assert np.ptp(features) > 0.1


def test_sequence_score_is_the_dense_score_at_the_last_real_token(case):
    memory = case.memory()
    dense = case.call("score", memory, case.tokens, case.mask)
    sequence = case.call("sequence_score", memory, case.tokens, case.mask)
    np.testing.assert_allclose(sequence, dense[np.arange(B), LENGTHS - 1], atol=1e-5)
    assert dense.shape == (B, T)
    assert np.ptp(sequence) > 1e-2


def test_dense_score_judges_each_prefix_alone(case):
    memory = case.memory()
    tokens = np.random.default_rng(3).integers(0, V, (B, T))
    dense = case.call("score", memory, tokens, np.ones((B, T)))
    for t in range(1, T + 1):
        mask = np.broadcast_to(np.arange(T) < t, (B, T)).astype(np.float32)
        cut = np.where(mask > 0, tokens, 0)
        score = case.call("sequence_score", memory, cut, mask)
        np.testing.assert_allclose(score, dense[:, t - 1], atol=1e-5)


def test_score_equals_formula(case):
    """From features to logits, in NumPy: sum_k <W_k, head_k(i)> + <V, u_i> + b (+ w l_i)."""
    p = jax.tree.map(np.asarray, case.variables["params"])
    features = np.asarray(case.call("features", case.memory(), case.tokens))
    dense = case.call("dense_readout", features, case.mask)
    sequence = case.call("readout", features, case.mask)
    weights = p["head_output"]["kernel"].reshape(2, 3)
    for b in range(B):
        for i in range(LENGTHS[b]):
            u = features[b, : i + 1, :U]
            logit = p["head_output"]["bias"][0] + u[i] @ p["feature_output"]["kernel"][:, 0]
            for k in range(2):
                query = u[i] @ p["heads_query"][:, k]
                scores = np.exp(u @ p["heads_key"][:, k] @ query / np.sqrt(3))
                head = scores @ (u @ p["heads_value"][:, k]) / scores.sum()
                logit += weights[k] @ head
            if case.likelihood:
                logit += p["likelihood_weight"] * features[b, : i + 1, U].sum()
            np.testing.assert_allclose(dense[b, i], logit, atol=1e-4)
        np.testing.assert_allclose(sequence[b], logit, atol=1e-4)


def test_padding_never_changes_a_score(case):
    memory = case.memory()
    dense = case.call("score", memory, case.tokens, case.mask)
    sequence = case.call("sequence_score", memory, case.tokens, case.mask)
    other = np.where(case.mask > 0, case.tokens, 5)
    np.testing.assert_array_equal(
        case.call("score", memory, other, case.mask) * case.mask, dense * case.mask
    )
    np.testing.assert_array_equal(case.call("sequence_score", memory, other, case.mask), sequence)
    wide = [np.pad(x, ((0, 0), (0, 3)), constant_values=v) for x, v in ((other, 4), (case.mask, 0))]
    np.testing.assert_allclose(case.call("sequence_score", memory, *wide), sequence, atol=1e-5)
    for b in (1, 2):  # a sequence on its own, without any padding
        one = jax.tree.map(lambda x, b=b: x[b : b + 1], memory)
        cut = case.tokens[b : b + 1, : LENGTHS[b]]
        score = case.call("sequence_score", one, cut, np.ones(cut.shape))
        np.testing.assert_allclose(score[0], sequence[b], atol=1e-5)


def test_lanes_of_a_source_equal_repeated_sources(case):
    lanes = 2
    tokens = np.random.default_rng(1).integers(0, V, (B * lanes, T))
    mask = np.repeat(case.mask, lanes, axis=0)
    shared = case.memory()
    repeated = jax.tree.map(lambda x: jnp.repeat(x, lanes, axis=0), shared)
    expected = case.call("features", repeated, tokens)
    np.testing.assert_allclose(by_steps(case, shared, tokens), expected, atol=1e-5)
    np.testing.assert_allclose(
        case.call("sequence_score", shared, tokens, mask),
        case.call("sequence_score", repeated, tokens, mask),
        atol=1e-5,
    )


def test_judges_the_pair(case):
    """Another example's source changes the score; a hidden source position doesn't."""
    if case.source is None:
        pytest.skip("no source")
    memory = case.memory()
    dense = case.call("score", memory, case.tokens, case.mask)
    hidden = np.where(case.source_mask[..., None] > 0, case.source, 9).astype(np.float32)
    same = case.call("encode", hidden, case.source_mask)
    np.testing.assert_array_equal(case.call("score", same, case.tokens, case.mask), dense)
    rolled = jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), memory)
    other = case.call("score", rolled, case.tokens, case.mask)
    assert (np.abs(other - dense) > 1e-4).all()


def test_call_equals_its_parts_and_every_parameter_matters(case):
    assert set(case.variables) == {"params"}
    arguments = case.source, case.source_mask, case.tokens, case.mask

    def loss(variables):
        dense = case.net.apply(variables, *arguments)
        return (jnp.sin(dense) * case.mask).sum(), dense

    gradients, dense = jax.jit(jax.grad(loss, has_aux=True))(case.variables)
    expected = case.call("score", case.memory(), case.tokens, case.mask)
    np.testing.assert_allclose(dense, expected, atol=1e-5)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_row_without_tokens_is_finite(case):
    readout = lambda v, u: case.net.apply(v, u, np.zeros((B, T)), method="readout").sum()
    features = np.random.default_rng(2).normal(size=(B, T, U + case.likelihood))
    result = jax.jit(jax.value_and_grad(readout, (0, 1)))(case.variables, features)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


@pytest.mark.parametrize("has_source", [True, False])
def test_a_transferred_discriminator_knows_the_generators_likelihood(has_source):
    case = Case(has_source, True)
    options = {name: getattr(case.net, name) for name in (
        "vocabulary_size", "encoder", "embedding_size", "hidden_size", "num_layers",
        "attention_size")}  # fmt: skip
    generator = LSTMGenerator(**options, output_size=U, noise_size=2 if has_source else 0)
    inputs = np.pad(case.tokens[:, :-1], ((0, 0), (1, 0)), constant_values=case.net.bos)
    z = np.zeros((B, generator.noise_size))
    arguments = case.source, case.source_mask, z, inputs
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(generator.init, jax.random.key(1), *arguments)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    logits = jax.jit(generator.apply)(variables, *arguments)
    expected = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(logits)), case.tokens[..., None], axis=-1
    )
    case.variables = {"params": transfer(variables["params"], case.variables["params"])}
    features = case.call("features", case.memory(), case.tokens)
    np.testing.assert_allclose(features[..., U:], expected, atol=1e-4)


def test_dropout_in_training():
    case = Case(False, False)

    def score(key):
        arguments = case.source, case.source_mask, case.tokens, np.ones((B, T))
        return case.apply(case.variables, *arguments, train=True, rngs={"dropout": key})

    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(score(keys[0]), score(keys[0]))
    assert np.abs(score(keys[0]) - score(keys[1])).max() > 1e-3
