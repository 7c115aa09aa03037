"""LSTM layers against a NumPy loop written from the formulas."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.core import lstm

B, T, D, H = 3, 5, 4, 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop(weights, state, inputs):
    """One layer, sequence by sequence and step by step; gates i, f, g, o."""
    w_x, w_h, b = (np.asarray(x, np.float64) for x in weights)
    size = w_h.shape[0]
    hidden = np.zeros((*inputs.shape[:2], size))
    cell = np.zeros_like(hidden)
    for n in range(inputs.shape[0]):
        h, c = np.asarray(state.hidden[n], np.float64), np.asarray(state.cell[n], np.float64)
        for t in range(inputs.shape[1]):
            a = inputs[n, t] @ w_x + h @ w_h + b
            i, f, g, o = (a[k * size : (k + 1) * size] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            hidden[n, t], cell[n, t] = h, c
    return lstm.State(hidden, cell)


def random_layer(rng, inputs, size):
    shapes = (inputs, 4 * size), (size, 4 * size), (4 * size,)
    return lstm.Weights(*(rng.normal(size=s).astype(np.float32) for s in shapes))


def random_state(rng, size):
    return lstm.State(*(rng.normal(size=(B, size)).astype(np.float32) for _ in range(2)))


class LstmTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.inputs = rng.normal(size=(B, T, D)).astype(np.float32)
        self.sizes = (H, H + 1, H)
        self.layers = [
            random_layer(rng, i, s) for i, s in zip((D, *self.sizes), self.sizes, strict=False)
        ]
        self.states = [random_state(rng, s) for s in self.sizes]
        self.direction = jax.tree.map(
            lambda x: rng.normal(size=x.shape), (self.layers[0], self.states[0], self.inputs)
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_unroll_equals_loop(self):
        found = self.variant(lstm.unroll)(self.layers[0], self.states[0], self.inputs)
        expected = loop(self.layers[0], self.states[0], self.inputs)
        chex.assert_trees_all_close(found, expected, atol=1e-5)

    @chex.variants(with_jit=True)
    def test_stack_equals_loops_over_loops(self):
        found = self.variant(lstm.stack_unroll)(self.layers, self.states, self.inputs)
        x = self.inputs
        for layer, state, states in zip(self.layers, self.states, found, strict=True):
            expected = loop(layer, state, x)
            chex.assert_trees_all_close(states, expected, atol=1e-5)
            x = expected.hidden

    @chex.variants(with_jit=True, without_jit=True)
    def test_steps_equal_unroll(self):
        unrolled = lstm.stack_unroll(self.layers, self.states, self.inputs)
        step = self.variant(lstm.stack_step)
        states = tuple(self.states)
        for t in range(T):
            states = step(self.layers, states, self.inputs[:, t])
            at_t = jax.tree.map(lambda x, t=t: x[:, t], unrolled)
            chex.assert_trees_all_close(states, at_t, atol=1e-5)

    def test_between_gets_every_layers_input(self):
        plain = lstm.stack_unroll(self.layers, self.states, self.inputs)
        seen = {}

        def between(layer, x):
            seen[layer] = x
            return x * (layer != 1)

        cut = lstm.stack_unroll(self.layers, self.states, self.inputs, between)
        chex.assert_trees_all_close(
            seen, {0: self.inputs, 1: plain[0].hidden, 2: cut[1].hidden}, atol=1e-6
        )
        expected = loop(self.layers[1], self.states[1], np.zeros_like(plain[0].hidden))
        chex.assert_trees_all_close(cut[1], expected, atol=1e-5)

    def test_gradient_equals_finite_difference(self):
        def loss(layer, state, inputs, unroll):
            out = unroll(layer, state, inputs)
            return (out.hidden * np.cos(np.arange(T))[None, :, None]).sum() + (out.cell**2).sum()

        point = (self.layers[0], self.states[0], self.inputs)
        gradients = jax.jit(jax.grad(lambda *p: loss(*p, lstm.unroll), (0, 1, 2)))(*point)
        along = sum(
            np.vdot(g, d)
            for g, d in zip(
                jax.tree.leaves(gradients), jax.tree.leaves(self.direction), strict=True
            )
        )
        eps = 1e-5  # In double precision: the NumPy loop.
        ends = [
            loss(*jax.tree.map(lambda x, d, s=s: x + s * d, point, self.direction), loop)
            for s in (eps, -eps)
        ]
        np.testing.assert_allclose(along, (ends[0] - ends[1]) / (2 * eps), rtol=1e-4)

    def test_zero_state(self):
        state = lstm.zero_state(B, H, jnp.bfloat16)
        chex.assert_trees_all_equal(state, lstm.State(*[jnp.zeros((B, H), jnp.bfloat16)] * 2))
