"""The LSTM generator: unrolling against steps, a NumPy forward pass, lanes, noise and dropout."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator, lstm_parameters

B, S, D, T, V, Z, H = 3, 4, 5, 6, 7, 2, 4
KINDS = ("source", "noise", "nothing")


class Case:
    """A generator with inputs and normal parameters, large enough for every part to matter."""

    def __init__(self, kind):
        rng = np.random.default_rng(0)
        has_source = kind == "source"
        size = 0 if kind == "nothing" else Z
        self.net = LSTMGenerator(
            vocabulary_size=V,
            encoder=FeatureEncoder(size=3) if has_source else None,
            embedding_size=3,
            hidden_size=H,
            num_layers=2,
            attention_size=5,
            output_size=6,
            noise_size=size,
            noise_slots=3,
            dropout=0.5,  # which is off unless a test asks for it
        )
        self.source = self.source_mask = None
        if has_source:
            self.source = rng.normal(size=(B, S, D)).astype(np.float32)
            self.source_mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1]], np.float32)
        self.z = rng.normal(size=(B, size)).astype(np.float32)
        self.inputs = rng.integers(0, V, (B, T))
        shapes = jax.eval_shape(
            self.net.init, jax.random.key(1), self.source, self.source_mask, self.z, self.inputs
        )
        self.variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
        self.call = jax.jit(self.net.apply, static_argnames=("method", "train"))

    def memory(self):
        return self.call(
            self.variables, self.source, self.source_mask, train=False, method="encode"
        )

    def state(self, memory, z):
        return self.call(self.variables, memory, z, T, method="initial_state")

    def unroll(self, z, inputs, memory=None):
        memory = self.memory() if memory is None else memory
        state = self.state(memory, z)
        return self.call(self.variables, memory, state, inputs, train=False, method="unroll")

    def logits(self, z, inputs, memory=None):
        return self.unroll(z, inputs, memory)[0]


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    return Case(request.param)


def by_steps(case, memory, state, inputs):
    logits, states = [], []
    for t in range(inputs.shape[1]):
        state, out = case.call(case.variables, memory, state, inputs[:, t], method="step")
        logits.append(out)
        states.append(state)
    return np.stack(logits, axis=1), states


def test_steps_equal_unroll_and_prefix_states(case):
    memory = case.memory()
    initial = case.state(memory, case.z)
    logits, states = case.unroll(case.z, case.inputs)
    stepped, stepped_states = by_steps(case, memory, initial, case.inputs)
    np.testing.assert_allclose(logits, stepped, atol=1e-5)
    for t in (1, 3, T):
        chex.assert_trees_all_close(
            case.net.prefix_state(states, t), stepped_states[t - 1], atol=1e-5
        )
    assert np.ptp(logits) > 0.1


def test_call_equals_its_parts_and_only_parameters_are_made(case):
    assert set(case.variables) == {"params"}
    whole = case.call(case.variables, case.source, case.source_mask, case.z, case.inputs)
    np.testing.assert_allclose(whole, case.logits(case.z, case.inputs), atol=1e-5)


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
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_lanes_of_a_source_equal_repeated_sources(case):
    lanes = 2
    rng = np.random.default_rng(1)
    z = rng.normal(size=(B * lanes, case.z.shape[1])).astype(np.float32)
    inputs = rng.integers(0, V, (B * lanes, T))
    shared = case.memory()
    repeated = jax.tree.map(lambda x: jnp.repeat(x, lanes, axis=0), shared)
    expected = case.logits(z, inputs, repeated)
    # A matrix product of other shapes may round otherwise, by how much depends on the processor.
    np.testing.assert_allclose(case.logits(z, inputs, shared), expected, rtol=1e-6, atol=1e-6)
    stepped, _ = by_steps(case, shared, case.state(shared, z), inputs)
    np.testing.assert_allclose(stepped, expected, atol=1e-5)


def test_state_leads_with_the_lane(case):
    """What search does: reordering lanes of one source reorders what they predict."""
    z = np.random.default_rng(3).normal(size=(2 * B, case.z.shape[1])).astype(np.float32)
    inputs = np.random.default_rng(2).integers(0, V, (2 * B, 2))
    memory = case.memory()
    logits, (state, _) = by_steps(case, memory, case.state(memory, z), inputs)
    order = np.array([1, 0, 2, 2, 5, 4])
    state = jax.tree.map(lambda x: x[order], state)
    stepped, _ = by_steps(case, memory, state, inputs[order][:, 1:])
    np.testing.assert_allclose(stepped[:, 0], logits[order][:, 1], atol=1e-6)


def test_noise_changes_logits_where_there_is_noise(case):
    if not case.net.noise_size:
        pytest.skip("no noise")
    first = case.logits(case.z, case.inputs)
    second = case.logits(case.z + 1, case.inputs)
    assert (np.abs(first - second).max(-1) > 1e-3).all()


def test_only_visible_source_positions_matter(case):
    if case.source is None:
        pytest.skip("no source")
    first = case.logits(case.z, case.inputs)
    hidden = np.where(case.source_mask[..., None] > 0, case.source, 9).astype(np.float32)
    memory = case.call(case.variables, hidden, case.source_mask, train=False, method="encode")
    np.testing.assert_array_equal(case.logits(case.z, case.inputs, memory), first)
    seen = np.where(case.source_mask[..., None] > 0, -case.source, case.source)
    memory = case.call(
        case.variables, np.float32(seen), case.source_mask, train=False, method="encode"
    )
    other = case.logits(case.z, case.inputs, memory)
    assert (np.abs(first - other).max(-1) > 1e-3).all()


def test_logits_do_not_see_the_future(case):
    first = case.logits(case.z, case.inputs)
    changed = case.inputs.copy()
    changed[:, 3:] = (changed[:, 3:] + 1) % V
    second = case.logits(case.z, changed)
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (np.abs(first - second)[:, 3:].max(-1) > 1e-3).all()


def test_first_step_equals_formulas(case):
    """The whole path from z and source memory to the first logits, in NumPy."""
    p = jax.tree.map(np.asarray, case.variables["params"])
    memory = case.memory()
    found = case.logits(case.z, case.inputs)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    dense = lambda name, x: x @ p[name]["kernel"] + p[name]["bias"]
    for b in range(B):
        states = np.zeros((2, 2, H))
        z, values, visible = case.z[b], None, slice(None)
        if memory.values is not None:
            values, visible = memory.values[b], case.source_mask[b] > 0
            known = np.concatenate([memory.summary[b], z])
        elif case.net.noise_size:
            values, known = np.tanh(dense("slots", z)).reshape(3, H), z
        if values is not None:
            states = np.tanh(dense("start", known)).reshape(2, 2, H)
        embedded = x = p["embedding"][case.inputs[b, 0]]
        for layer, (h, c) in enumerate(states):
            w = {name: p[f"lstm_{layer}_{name}"] for name in ("input", "recurrent", "bias")}
            i, f, g, o = np.split(x @ w["input"] + h @ w["recurrent"] + w["bias"], 4)
            x = sigmoid(o) * np.tanh(sigmoid(f) * c + sigmoid(i) * np.tanh(g))
        parts = [embedded, x]
        if values is not None:
            values = np.asarray(values)[visible]
            hidden = np.tanh(x @ p["attention_query"] + values @ p["attention_key"])
            weights = np.exp(hidden @ p["attention_score"])
            parts.append(weights @ values / weights.sum())
        u = np.tanh(dense("hidden", np.concatenate(parts)))
        np.testing.assert_allclose(found[b, 0], dense("output", u), atol=1e-4)


def test_forget_bias_starts_at_one():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self):
            return lstm_parameters(self, "lstm", 1, 2)

    weights, _ = Layer().init_with_output(jax.random.key(0))
    np.testing.assert_array_equal(weights.bias, [0, 0, 1, 1, 0, 0, 0, 0])
    # Orthogonal: the state's norm is neither blown up nor shrunk.
    np.testing.assert_allclose(weights.recurrent @ weights.recurrent.T, np.eye(2), atol=1e-5)


def test_dropout_in_training():
    case = Case("noise")

    def logits(key):
        arguments = case.source, case.source_mask, case.z, case.inputs
        return case.call(case.variables, *arguments, train=True, rngs={"dropout": key})

    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(logits(keys[0]), logits(keys[0]))
    assert (np.abs(logits(keys[0]) - logits(keys[1])).max(-1) > 1e-3).all()


def test_attention_weights_are_kept_on_request(case):
    """One map for each lane; a distribution over the visible positions."""
    if case.source is None:
        pytest.skip("no source")
    memory = case.memory()
    _, kept = case.net.apply(
        case.variables,
        memory,
        case.state(memory, case.z),
        case.inputs[:, 0],
        method="step",
        mutable=["intermediates"],
    )
    (weights,) = kept["intermediates"]["attention"]
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(weights > 0, case.source_mask > 0)


def test_word_logits_are_the_noisy_or_of_the_positions(case):
    if case.source is None:
        pytest.skip("words are seen in a source")
    memory = case.memory()
    head = case.variables["params"]["words"]
    each = 1 / (
        1 + np.exp(-(np.asarray(memory.values, np.float64) @ head["kernel"] + head["bias"]))
    )
    together = 1 - np.prod(1 - each * case.source_mask[:, :, None], axis=1)
    logits = case.net.apply(case.variables, memory, method="word_logits")
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), together, rtol=1e-4)
