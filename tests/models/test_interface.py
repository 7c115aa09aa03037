"""What training and search ask of a generator, of both architectures, with and without source and
noise: steps against unrolling, prefixes, lanes, padding, causality, gradients.
"""

import jax
import numpy as np
import pytest

from seqgan_jax.models.encoders import BiLSTMEncoder, TransformerEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.interface import noise_shape
from seqgan_jax.models.transformer import TransformerGenerator

B, S, SOURCES, T, V, E = 3, 4, 6, 5, 7, 8
ENCODERS = {
    "lstm": lambda: BiLSTMEncoder(SOURCES, size=6, embedding_size=3),
    "multiplicative": lambda: BiLSTMEncoder(SOURCES, size=6, embedding_size=3),
    "transformer": lambda: TransformerEncoder(
        SOURCES, size=6, hidden_size=5, num_layers=1, num_heads=3
    ),
}
GENERATORS = {
    "lstm": lambda encoder, noise_size, **how: LSTMGenerator(
        V, encoder, 3, 4, 2, 5, 6, noise_size, noise_slots=3, dropout=0.5, **how
    ),
    "multiplicative": lambda encoder, noise_size, **how: LSTMGenerator(
        V,
        encoder,
        3,
        4,
        2,
        5,
        6,
        noise_size,
        noise_slots=3,
        attention="multiplicative",
        attend_after=1,
        **how,
    ),
    "transformer": lambda encoder, noise_size, **how: TransformerGenerator(
        V, encoder, E, 6, 2, noise_size, num_heads=2, dropout=0.5, **how
    ),
}


class Case:
    """A generator with inputs and normal parameters, large enough for every part to matter."""

    def __init__(self, kind, has_source, noise_size, per_step=False):
        rng = np.random.default_rng(0)
        encoder = ENCODERS[kind]() if has_source else None
        self.net = GENERATORS[kind](encoder, noise_size, noise_per_step=per_step)
        self.source = self.source_mask = None
        if has_source:
            self.source = rng.integers(0, SOURCES, (B, S)).astype(np.int32)
            self.source_mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], np.float32)
        self.z = rng.normal(size=(B, *noise_shape(self.net, T))).astype(np.float32)
        self.inputs = rng.integers(0, V, (B, T)).astype(np.int32)
        shapes = jax.eval_shape(
            self.net.init, jax.random.key(1), self.source, self.source_mask, self.z, self.inputs
        )
        self.variables = jax.tree.map(
            lambda x: 0.7 * rng.normal(size=x.shape).astype(np.float32), shapes
        )
        self.call = jax.jit(
            self.net.apply, static_argnames=("method", "train", "max_length", "mutable")
        )
        self.memory = self.encode(self.source, self.source_mask)
        self.logits, self.states = self.unroll(self.memory, self.z, self.inputs)

    def encode(self, source, mask):
        return self.call(self.variables, source, mask, train=False, method="encode")

    def start(self, memory, z):
        return self.call(self.variables, memory, z, max_length=T, method="initial_state")

    def unroll(self, memory, z, inputs):
        return self.call(self.variables, memory, self.start(memory, z), inputs, method="unroll")

    def step(self, memory, state, token):
        return self.call(self.variables, memory, state, token, method="step")

    def by_steps(self, memory, state, inputs):
        logits = []
        for token in inputs.T:
            state, out = self.step(memory, state, token)
            logits.append(out)
        return np.stack(logits, axis=1), state


CASES = [
    ("lstm", True, 2),
    ("lstm", False, 2),
    ("lstm", False, 0),
    ("multiplicative", True, 2),
    ("multiplicative", False, 2),
    ("transformer", True, 2),
    ("transformer", True, 0),
    ("transformer", False, 2),
    ("transformer", False, 0),
    ("lstm", True, 2, True),
    ("lstm", False, 2, True),
    ("transformer", True, 2, True),
    ("transformer", False, 2, True),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return Case(*request.param)


def test_steps_equal_unroll(case):
    stepped, _ = case.by_steps(case.memory, case.start(case.memory, case.z), case.inputs)
    np.testing.assert_allclose(stepped, case.logits, atol=1e-5)
    assert np.ptp(case.logits, axis=-1).min() > 0.1


def test_a_prefix_goes_on_as_the_whole(case):
    """With the lengths in one array, as rollouts ask for them."""
    lengths = np.array([1, 3])
    found = jax.vmap(lambda t: case.net.prefix_state(case.states, t))(lengths)
    for i, t in enumerate(lengths):
        state = jax.tree.map(lambda x, i=i: x[i], found)
        logits, _ = case.by_steps(case.memory, state, case.inputs[:, t:])
        np.testing.assert_allclose(logits, case.logits[:, t:], atol=1e-5)
        other, _ = case.by_steps(case.memory, state, (case.inputs[:, t:] + 1) % V)
        assert (np.abs(other - logits).max(-1) > 1e-3).all()


def test_call_and_what_is_before_the_output_equal_unroll(case):
    whole = case.call(case.variables, case.source, case.source_mask, case.z, case.inputs)
    np.testing.assert_allclose(whole, case.logits, atol=1e-5)
    u, kernel, bias = case.call(
        case.variables,
        case.memory,
        case.start(case.memory, case.z),
        case.inputs,
        method="before_output",
    )
    np.testing.assert_allclose(u @ kernel + bias, case.logits, atol=1e-5)
    assert set(case.variables) == {"params"}
    assert case.variables["params"]["embedding"].shape[0] == V


def test_every_parameter_matters(case):
    def loss(variables):
        out = case.net.apply(variables, case.source, case.source_mask, case.z, case.inputs)
        total = (jax.nn.log_softmax(out)[..., 0] ** 2).sum()
        if case.source is not None:
            memory = case.net.apply(
                variables, case.source, case.source_mask, train=False, method="encode"
            )
            total += (case.net.apply(variables, memory, method="word_logits") ** 2).sum()
        return total

    gradients = jax.jit(jax.grad(loss))(case.variables)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        assert np.abs(gradient).max() > 1e-6, jax.tree_util.keystr(path)


def test_lanes_of_a_source_equal_single_ones(case):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(2 * B, *case.z.shape[1:])).astype(np.float32)
    inputs = rng.integers(0, V, (2 * B, T)).astype(np.int32)
    expected = np.zeros((2 * B, T, V), np.float32)
    for lane in range(2):
        expected[lane::2] = case.unroll(case.memory, z[lane::2], inputs[lane::2])[0]
    np.testing.assert_allclose(case.unroll(case.memory, z, inputs)[0], expected, atol=1e-5)
    stepped, _ = case.by_steps(case.memory, case.start(case.memory, z), inputs)
    np.testing.assert_allclose(stepped, expected, atol=1e-5)
    order = np.array([1, 0, 2, 2, 5, 4])  # lanes of one source change places, or are copied
    _, state = case.by_steps(case.memory, case.start(case.memory, z), inputs[:, :2])
    state = jax.tree.map(lambda x: x[order], state)
    moved, _ = case.by_steps(case.memory, state, inputs[order][:, 2:])
    np.testing.assert_allclose(moved, expected[order][:, 2:], atol=1e-5)


def test_padding_of_the_source_changes_nothing(case):
    if case.source is None:
        return
    real = case.source_mask > 0
    hidden = np.where(real, case.source, (case.source + 1) % SOURCES).astype(np.int32)
    longer = np.pad(hidden, ((0, 0), (0, 2)), constant_values=3)
    mask = np.pad(case.source_mask, ((0, 0), (0, 2)))
    seen = np.where(real, (case.source + 1) % SOURCES, case.source).astype(np.int32)
    words = lambda memory: case.call(case.variables, memory, method="word_logits")
    memory = case.encode(longer, mask)
    found = case.unroll(memory, case.z, case.inputs)[0]
    np.testing.assert_allclose(found, case.logits, atol=1e-5)
    np.testing.assert_allclose(words(memory), words(case.memory), atol=1e-5)
    other = case.unroll(case.encode(seen, case.source_mask), case.z, case.inputs)[0]
    assert (np.abs(other - case.logits).max(-1) > 1e-3).all()


def test_logits_do_not_see_the_future(case):
    changed = case.inputs.copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % V
    found = case.unroll(case.memory, case.z, changed)[0]
    np.testing.assert_array_equal(found[:, :3], case.logits[:, :3])
    assert (np.abs(found - case.logits)[:, 3:].max(-1) > 1e-3).all()


def test_noise_changes_every_step(case):
    if case.net.noise_size:
        found = case.unroll(case.memory, case.z + 1, case.inputs)[0]
        assert (np.abs(found - case.logits).max(-1) > 1e-3).all()


def test_noise_of_a_step_changes_what_follows_it(case):
    if case.net.noise_per_step:
        z = case.z.copy()
        z[:, 2] += 1
        found = case.unroll(case.memory, z, case.inputs)[0]
        np.testing.assert_array_equal(found[:, :2], case.logits[:, :2])
        assert (np.abs(found - case.logits)[:, 2:].max(-1) > 1e-3).all()


def test_attention_over_the_source_is_kept_on_request(case):
    """Lane by lane, step by step: distributions over the real positions."""
    if case.source is None:
        return
    _, kept = case.call(
        case.variables,
        case.source,
        case.source_mask,
        case.z,
        case.inputs,
        mutable=("intermediates",),
    )
    (weights,) = kept["intermediates"]["attention"]
    weights = weights.reshape(B, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(weights > 0, np.repeat(case.source_mask[:, None] > 0, T, axis=1))


def test_everything_is_float32(case):
    arguments = case.source, case.source_mask, case.z, case.inputs
    written = str(jax.make_jaxpr(case.net.apply)(case.variables, *arguments))
    assert "f32[" in written
    assert not any(kind in written for kind in ("bf16[", "f16[", "f64["))
