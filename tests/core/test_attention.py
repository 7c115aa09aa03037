"""Attention against NumPy loops over every lane, head and position."""

import functools
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.core import attention

B, R, S, T = 3, 2, 4, 5
H, F, A, U, K, D = 3, 4, 5, 3, 2, 4


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def additive_loop(weights, query, memory, mask):
    """One query for each memory; zeros where the mask admits nothing."""
    w_q, w_k, v = (np.asarray(x, np.float64) for x in weights)
    contexts, attentions = np.zeros((len(query), F)), np.zeros((len(query), S))
    for b in range(len(query)):
        seen = [s for s in range(S) if mask[b, s]]
        if not seen:
            continue
        scores = np.array([v @ np.tanh(query[b] @ w_q + memory[b, s] @ w_k) for s in seen])
        for s, weight in zip(seen, softmax(scores), strict=True):
            attentions[b, s] = weight
            contexts[b] += weight * memory[b, s]
    return contexts, attentions


def multi_head_loop(weights, query, memory, mask):
    w_q, w_k, w_v = (np.asarray(x, np.float64) for x in weights)
    read = np.zeros((query.shape[0], query.shape[1], K, D))
    for b in range(query.shape[0]):
        for q in range(query.shape[1]):
            seen = [t for t in range(memory.shape[1]) if mask[b, q, t]]
            for k in range(K if seen else 0):
                scores = [
                    (query[b, q] @ w_q[:, k]) @ (memory[b, t] @ w_k[:, k]) / np.sqrt(D)
                    for t in seen
                ]
                for t, weight in zip(seen, softmax(np.array(scores)), strict=True):
                    read[b, q, k] += weight * (memory[b, t] @ w_v[:, k])
    return read


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


class AdditiveTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.weights = attention.Additive(normal(rng, H, A), normal(rng, F, A), 3 * normal(rng, A))
        self.query = normal(rng, B * R, H)
        self.memory = normal(rng, B, S, F)
        self.mask = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], np.float32)
        self.repeated = np.repeat(self.memory, R, axis=0), np.repeat(self.mask, R, axis=0)

    def attend(self, query, memory, mask):
        keys = attention.source_keys(self.weights, memory)
        return attention.read_source(self.weights, query, keys, memory, mask)

    @chex.variants(with_jit=True, without_jit=True)
    def test_lanes_equal_loop_over_repeated_memory(self):
        memory, mask = self.repeated
        expected = additive_loop(self.weights, self.query, memory, mask)
        found = self.variant(self.attend)(self.query, self.memory, self.mask)
        chex.assert_trees_all_close(found, expected, atol=1e-5)
        chex.assert_trees_all_equal(found[1][-R:], jnp.zeros((R, S)))

    @chex.variants(with_jit=True)
    def test_without_mask(self):
        expected = additive_loop(self.weights, self.query, self.repeated[0], np.ones((B * R, S)))
        found = self.variant(lambda q, m: self.attend(q, m, None))(self.query, self.memory)
        chex.assert_trees_all_close(found, expected, atol=1e-5)

    @chex.variants(with_jit=True)
    def test_masked_positions_are_unseen(self):
        other = np.where(self.mask[:, :, None] > 0, self.memory, 1e3).astype(np.float32)
        attend = self.variant(self.attend)
        chex.assert_trees_all_equal(
            attend(self.query, self.memory, self.mask), attend(self.query, other, self.mask)
        )

    def test_gradients_equal_those_of_the_plain_form(self):
        """For groups of 1, 2 and 3 of the 3 sources, against automatic differentiation."""
        rng = np.random.default_rng(2)
        by_context, by_scores = normal(rng, B * R, F), normal(rng, B * R, S)

        def loss(attend, weights, query, memory):
            context, read = attend(weights, query, memory)
            return (context * by_context).sum() + (read * by_scores).sum()

        def plain(weights, query, memory):
            memory = jnp.repeat(memory, R, axis=0)
            hidden = jnp.tanh((query @ weights.query)[:, None] + memory @ weights.key)
            seen = np.repeat(self.mask, R, axis=0) > 0
            read = jax.nn.softmax(jnp.where(seen, hidden @ weights.score, -1e9)) * seen
            return jnp.einsum("bs,bsf->bf", read, memory), read

        def ours(weights, query, memory):
            keys = attention.source_keys(weights, memory)
            return attention.read_source(weights, query, keys, memory, self.mask)

        gradient = lambda attend: jax.jit(jax.grad(functools.partial(loss, attend), (0, 1, 2)))
        point = (self.weights, self.query, self.memory)
        expected = gradient(plain)(*point)
        for sources in (1, 2, 3):
            with mock.patch.object(attention, "_TILE", sources * R * S * A):
                chex.assert_trees_all_close(gradient(ours)(*point), expected, atol=1e-5)

    def test_gradients_are_finite_where_nothing_may_be_seen(self):
        def loss(weights, query, memory):
            keys = attention.source_keys(weights, memory)
            context, read = attention.read_source(weights, query, keys, memory, self.mask)
            return (context**2).sum() + (read**2).sum()

        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(self.weights, self.query, self.memory)
        chex.assert_tree_all_finite(gradients)
        chex.assert_trees_all_equal(
            gradients[2] * (1 - self.mask)[:, :, None], jnp.zeros((B, S, F))
        )
        assert (np.abs(gradients[1][:R]) > 0).all()


class MultiplicativeTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_equals_a_loop(self):
        rng = np.random.default_rng(3)
        weights = attention.Multiplicative(normal(rng, H, A), normal(rng, F, A))
        query, memory = normal(rng, B * R, H), normal(rng, B, S, F)
        mask = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], np.float32)

        def attend(query, memory, mask):
            keys = attention.source_keys(weights, memory)
            return attention.read_source(weights, query, keys, memory, mask)

        contexts, attentions = np.zeros((B * R, F)), np.zeros((B * R, S))
        for lane in range(B * R):
            own = memory[lane // R]
            seen = [s for s in range(S) if mask[lane // R, s]]
            scores = [(query[lane] @ weights.query) @ (own[s] @ weights.key) for s in seen]
            for s, weight in zip(
                seen, softmax(np.array(scores) / A**0.5) if seen else (), strict=True
            ):
                attentions[lane, s] = weight
                contexts[lane] += weight * own[s]
        found = self.variant(attend)(query, memory, mask)
        chex.assert_trees_all_close(found, (contexts, attentions), atol=1e-5)


class MultiHeadTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(1)
        self.weights = attention.MultiHead(*(normal(rng, U, K, D) for _ in range(3)))
        self.inputs = normal(rng, B, T, U)
        self.query = normal(rng, B, 2, U)
        self.visible = rng.integers(0, 2, (B, 2, T))
        self.visible[1, 0] = 0
        self.mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 0]], np.float32)
        self.causal = np.tril(np.ones((T, T)))[None] * self.mask[:, None]

    @chex.variants(with_jit=True, without_jit=True)
    def test_multi_head_equals_loop(self):
        found = self.variant(attention.multi_head)(
            self.weights, self.query, self.inputs, self.visible
        )
        expected = multi_head_loop(self.weights, self.query, self.inputs, self.visible)
        chex.assert_trees_all_close(found, expected, atol=1e-5)
        chex.assert_trees_all_equal(found[1, 0], jnp.zeros((K, D)))

    @chex.variants(with_jit=True, without_jit=True)
    def test_causal_equals_loop(self):
        found = self.variant(attention.causal_multi_head)(self.weights, self.inputs, self.mask)
        expected = multi_head_loop(self.weights, self.inputs, self.inputs, self.causal)
        chex.assert_trees_all_close(found, expected, atol=1e-5)

    @chex.variants(with_jit=True)
    def test_the_future_changes_nothing_before_it(self):
        causal = self.variant(attention.causal_multi_head)
        before = causal(self.weights, self.inputs, np.ones((B, T)))
        for t in range(T):
            changed = self.inputs.copy()
            changed[:, t] += 3
            after = causal(self.weights, changed, np.ones((B, T)))
            chex.assert_trees_all_equal(after[:, :t], before[:, :t])
            assert (np.abs(after[:, t:] - before[:, t:]).max((1, 2, 3)) > 1e-3).all()

    @chex.variants(with_jit=True)
    def test_masked_steps_are_unseen(self):
        causal = self.variant(attention.causal_multi_head)
        changed = np.where(self.mask[:, :, None] > 0, self.inputs, -50).astype(np.float32)
        real = self.mask[:, :, None, None]
        chex.assert_trees_all_equal(
            causal(self.weights, self.inputs, self.mask) * real,
            causal(self.weights, changed, self.mask) * real,
        )

    def test_gradients_are_finite_where_nothing_may_be_seen(self):
        def loss(weights, inputs):
            return (attention.causal_multi_head(weights, inputs, self.mask) ** 2).sum()

        gradients = jax.jit(jax.grad(loss, (0, 1)))(self.weights, self.inputs)
        chex.assert_tree_all_finite(gradients)

    @chex.variants(with_jit=True)
    def test_steps_equal_whole_sequences(self):
        """Lanes at different positions of their own, as the prefixes of a rollout are."""
        whole = attention.causal_multi_head(self.weights, self.inputs, np.ones((B, T)))

        def step(cache, inputs, position):
            new = attention.keys_values(self.weights, inputs[:, None])
            cache = attention.append(cache, new, position)
            visible = np.arange(T + 2) <= position[:, None, None]
            query = attention.queries(self.weights, inputs[:, None])
            return cache, attention.read(query, cache, visible)[0][:, 0]

        step = self.variant(step)
        cache = attention.empty_cache(self.weights, B, T + 2)  # Longer than is needed.
        cache = jax.tree.map(lambda x: x + 7, cache)  # What lies ahead is never read.
        late = np.array([0, 1, 2])
        for t in range(T + 2):
            position = np.maximum(t - late, 0)  # The later lanes write their first step again.
            rows = np.arange(B), np.minimum(position, T - 1)
            cache, read = step(cache, self.inputs[rows], position)
            real = position < T
            chex.assert_trees_all_close(read[real], whole[rows][real], atol=1e-5)

    def test_appending_past_the_end_writes_nothing(self):
        cache = attention.keys_values(self.weights, self.inputs)
        new = attention.keys_values(self.weights, self.query[:, :1])
        after = attention.append(cache, new, jnp.array([T, 1, T + 3]))
        for before, found, written in zip(cache, after, new, strict=True):
            expected = np.array(before)
            expected[1, :, 1] = written[1, :, 0]
            chex.assert_trees_all_equal(found, expected)

    @chex.variants(with_jit=True, without_jit=True)
    def test_lanes_read_their_source(self):
        """Queries of R lanes for each memory, with masks for a source and for every query."""
        rng = np.random.default_rng(4)
        inputs = normal(rng, B * R, 2, U)
        repeated = np.repeat(self.inputs, R, axis=0)
        lanes = rng.integers(0, 2, (B * R, 2, T))
        lanes[1] = 0

        def read(inputs, memory, mask):
            query = attention.queries(self.weights, inputs)
            return attention.read(query, attention.keys_values(self.weights, memory), mask)

        masks = {
            "source": (self.mask[:, None], np.repeat(self.mask[:, None], R, axis=0)),
            "lane": (lanes.reshape(B, R * 2, T), lanes),
        }
        for given, expanded in masks.values():
            found, weights = self.variant(read)(inputs, self.inputs, given)
            seen = np.broadcast_to(expanded, (B * R, 2, T))
            expected = multi_head_loop(self.weights, inputs, repeated, seen)
            chex.assert_trees_all_close(found, expected, atol=1e-5)
            weights = np.asarray(weights).reshape(B, K, R, 2, T).swapaxes(1, 2)
            weights = weights.reshape(B * R, K, 2, T)
            assert (weights[np.broadcast_to(seen[:, None], weights.shape) == 0] == 0).all()
            any_seen = np.broadcast_to(seen.any(-1)[:, None], weights.shape[:3])
            np.testing.assert_allclose(weights.sum(-1), any_seen, atol=1e-5)


class RotaryTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_equals_turning_complex_numbers(self):
        rng = np.random.default_rng(0)
        x, positions = normal(rng, B, K, T, 6), rng.integers(0, 50, (B, 1, T))
        pairs = x[..., :3] + 1j * x[..., 3:]
        pairs = pairs * np.exp(1j * positions[..., None] * 10_000.0 ** (-np.arange(3) / 3))
        expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
        found = self.variant(attention.rotate)(x, positions)
        chex.assert_trees_all_close(found, expected.astype(np.float32), atol=1e-4)

    @chex.variants(with_jit=True)
    def test_products_depend_on_the_distance_alone(self):
        rng = np.random.default_rng(1)
        q, k = normal(rng, D), normal(rng, D)
        product = self.variant(
            lambda i, j: attention.rotate(q[None], i[None]) @ attention.rotate(k[None], j[None]).T
        )
        near = product(jnp.array(3), jnp.array(1))
        chex.assert_trees_all_close(product(jnp.array(40), jnp.array(38)), near, atol=1e-4)
        assert np.abs(product(jnp.array(40), jnp.array(37)) - near) > 1e-2
