"""The ratio discriminator against the networks that it is made of, asked one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.ratio_discriminator import OPPONENT, RatioDiscriminator

B, T, V, M = 3, 5, 7, 2
LENGTHS = np.array([5, 2, 4])
SIZES = {"vocabulary_size": V, "embedding_size": 4, "hidden_size": 5, "output_size": 6}


def generator(**overrides):
    options = {"encoder": None, "num_layers": 2, "attention_size": 0, "noise_size": 0}
    return LSTMGenerator(**SIZES | options | overrides)


class Case:
    def __init__(self):
        rng = np.random.default_rng(0)
        self.net = RatioDiscriminator(**SIZES, bos=0, opponent=generator(), members=M, dropout=0.5)
        self.mask = (np.arange(T) < LENGTHS[:, None]).astype(np.float32)
        self.tokens = rng.integers(0, V, (B, T))
        arguments = (None, None, self.tokens, self.mask)
        shapes = jax.eval_shape(self.net.init, jax.random.key(0), *arguments)
        self.variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
        self.memory = self.net.apply(self.variables, None, None, method="encode")

    def call(self, method, *arguments, **kwargs):
        return self.net.apply(self.variables, *arguments, method=method, **kwargs)

    def log_probs(self, tokens):
        """Every network's log-probability of every next token after each of one row's prefixes.

        The models' first, then the generator's: [M + 1, T, V], from one `step` after another.
        """
        params = self.variables["params"]
        rows = []
        for name in [*(f"models_{m}" for m in range(M)), OPPONENT]:
            net = generator(num_layers=2 if name == OPPONENT else 1)
            bound = net.bind({"params": params[name]})
            state = bound.initial_state(self.memory, jnp.zeros((1, 0)), T)
            found = []
            for token in [0, *tokens[:-1]]:
                state, logits = bound.step(self.memory, state, jnp.array([token]))
                logits = np.asarray(logits[0], np.float64)
                found.append(logits - np.log(np.exp(logits).sum()))
            rows.append(found)
        return np.array(rows)


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def log_probs(case):
    """[B, M + 1, T, V]."""
    return np.array([case.log_probs(row) for row in case.tokens])


def ratios(log_probs):
    """[B, M + 1, T, V] -> [B, T, V]."""
    return np.log(np.exp(log_probs[:, :M]).mean(1)) - log_probs[:, M]


def drawn(values, tokens):
    """[B, T, V] -> [B, T]."""
    return np.take_along_axis(values, tokens[..., None], -1)[..., 0]


def test_scores_are_sums_of_log_ratios(case, log_probs):
    expected = np.cumsum(drawn(ratios(log_probs), case.tokens) * case.mask, 1)
    found = case.call("score", case.memory, case.tokens, case.mask)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    found = case.call("sequence_score", case.memory, case.tokens, case.mask)
    np.testing.assert_allclose(found, expected[:, -1], rtol=1e-4, atol=1e-4)


def test_every_action_has_a_logit(case, log_probs):
    found = case.call("action_logits", case.memory, case.tokens)
    np.testing.assert_allclose(found, ratios(log_probs), rtol=1e-4, atol=1e-4)


def test_expected_ratio_is_one_under_the_generator(case, log_probs):
    """sum_v q(v) p(v) / q(v) = 1: the models' mean is a distribution."""
    found = np.exp(case.call("action_logits", case.memory, case.tokens))
    np.testing.assert_allclose((np.exp(log_probs[:, M]) * found).sum(-1), 1.0, rtol=1e-4)


def test_step_by_step_features_equal_those_of_whole_sequences(case):
    whole = case.call("features", case.memory, case.tokens)
    state = case.call("initial_state", case.memory, B)
    for t in range(T):
        state, feature = case.call("step", case.memory, state, case.tokens[:, t])
        np.testing.assert_allclose(feature, whole[:, t], rtol=1e-4, atol=1e-5)


def test_models_are_judged_alone_in_training(case, log_probs):
    without = case.net.clone(dropout=0.0)
    found = without.apply(
        case.variables, case.memory, case.tokens, train=True, method="features"
    ).reshape(M, B, T, 2)
    for m in range(M):
        for column, network in ((0, m), (1, M)):
            expected = drawn(log_probs[:, network], case.tokens)
            np.testing.assert_allclose(found[m, ..., column], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(case.call("log_likelihood", found), found[..., 0])
    dropped = case.call(
        "features", case.memory, case.tokens, train=True, rngs={"dropout": jax.random.key(0)}
    ).reshape(M, B, T, 2)
    assert not np.allclose(dropped[..., 0], found[..., 0], atol=1e-3)
    # The generator that is judged is the one that writes: without dropout.
    np.testing.assert_allclose(dropped[..., 1], found[..., 1], rtol=1e-5, atol=1e-5)


def test_the_generator_gets_no_gradient(case):
    def loss(params):
        judged = case.net.apply({"params": params}, None, None, case.tokens, case.mask)
        return jnp.sum(judged**2)

    gradients = jax.grad(loss)(case.variables["params"])
    for name, tree in gradients.items():
        largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))
        assert largest == 0 if name == OPPONENT else largest > 1e-3, name


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"encoder": FeatureEncoder(size=4)}, "config.encoder.kind"),
        ({"opponent": generator(noise_size=2)}, "config.generator.noise_size"),
        ({"members": 0}, "config.discriminator.members"),
    ],
)
def test_refusals(case, options, word):
    with pytest.raises(UserError, match=word):
        case.net.clone(**options).init(jax.random.key(0), None, None, case.tokens, case.mask)
