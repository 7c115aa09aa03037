"""Losses against closed forms, finite differences and exact enumeration."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from seqgan_jax.core import losses

T, V = 3, 4


def difference(function, point, direction, eps=1e-5):
    """Directional derivative of a NumPy function, in double precision."""
    point = np.asarray(point, np.float64)
    return (function(point + eps * direction) - function(point - eps * direction)) / (2 * eps)


class LossesTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.logits = (2 * rng.normal(size=(T, V))).astype(np.float32)
        self.direction = rng.normal(size=(T, V))
        self.tokens = np.array([3, 0, 2])
        self.mask = np.array([1.0, 1.0, 0.0], np.float32)

    def nll(self, logits):
        return sum(
            self.mask[t] * -np.log(scipy.special.softmax(logits[t])[self.tokens[t]])
            for t in range(T)
        )

    def entropies(self, logits):
        return sum(
            self.mask[t] * scipy.stats.entropy(scipy.special.softmax(logits[t])) for t in range(T)
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_token_log_probs(self):
        found = self.variant(losses.token_log_probs)(self.logits, self.tokens)
        expected = np.log(scipy.special.softmax(self.logits, -1))[np.arange(T), self.tokens]
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_negative_log_likelihood(self):
        value, gradient = self.variant(jax.value_and_grad(losses.negative_log_likelihood))(
            self.logits, self.tokens, self.mask
        )
        np.testing.assert_allclose(value, self.nll(self.logits), rtol=1e-5)
        closed = (scipy.special.softmax(self.logits, -1) - np.eye(V)[self.tokens]) * self.mask[
            :, None
        ]
        np.testing.assert_allclose(gradient, closed, atol=1e-6)
        np.testing.assert_allclose(
            np.vdot(gradient, self.direction),
            difference(self.nll, self.logits, self.direction),
            rtol=1e-4,
        )

    @chex.variants(with_jit=True)
    def test_entropy(self):
        value, gradient = self.variant(jax.value_and_grad(losses.entropy))(self.logits, self.mask)
        np.testing.assert_allclose(value, self.entropies(self.logits), rtol=1e-5)
        np.testing.assert_allclose(
            np.vdot(gradient, self.direction),
            difference(self.entropies, self.logits, self.direction),
            rtol=1e-4,
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_entropy_of_uniform_and_of_certain(self):
        logits = np.stack([np.zeros(V), np.eye(V)[0] * 1e4]).astype(np.float32)
        found = self.variant(losses.entropy)(logits, np.ones(2))
        np.testing.assert_allclose(found, np.log(V), rtol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_policy_gradient_is_the_weighted_sum_and_blind_to_the_advantages_origin(self):
        log_probs = np.array([-1.0, -2.0, -3.0], np.float32)
        advantages = np.array([0.5, -1.0, 7.0], np.float32)
        value, gradients = self.variant(jax.value_and_grad(losses.policy_gradient, (0, 1)))(
            log_probs, advantages, self.mask
        )
        np.testing.assert_allclose(value, 0.5 - 2.0)
        np.testing.assert_allclose(gradients[0], [-0.5, 1.0, 0.0])
        np.testing.assert_array_equal(gradients[1], np.zeros(T))

    @chex.variants(with_jit=True, without_jit=True)
    def test_clipped_policy_gradient(self):
        """Ratios inside and outside of the band, with gains and losses: value and gradient."""
        old = np.log(np.full(8, 0.5, np.float32))
        ratio = np.float32([0.5, 0.9, 1.0, 1.1, 1.5, 0.5, 1.5, 1.0])
        advantages = np.float32([1, 1, 2, 1, 1, -1, -1, 5])
        mask = np.float32([1, 1, 1, 1, 1, 1, 1, 0])

        def slow(log_probs):
            total = 0.0
            for r, a, m in zip(np.exp(log_probs - old), advantages, mask, strict=True):
                total -= m * min(r * a, min(max(r, 0.8), 1.2) * a)
            return total

        log_probs = old + np.log(ratio)
        value, gradients = self.variant(
            jax.value_and_grad(losses.clipped_policy_gradient, (0, 1, 2)), static_argnums=4
        )(log_probs, old, advantages, mask, 0.2)
        np.testing.assert_allclose(value, slow(log_probs), rtol=1e-5)
        # A ratio that is beyond the band on the side of its advantage has no gradient.
        np.testing.assert_allclose(gradients[0], [-0.5, -0.9, -2.0, -1.1, 0, 0, 1.5, 0], rtol=1e-5)
        for t, direction in enumerate(np.eye(8)):
            expected = difference(slow, log_probs, direction)
            np.testing.assert_allclose(gradients[0][t], expected, atol=1e-4)
        assert not np.any(gradients[1:])

    @chex.variants(with_jit=True, without_jit=True)
    def test_clipped_policy_gradient_of_padding_that_is_impossible(self):
        log_probs, old = np.float32([-1.0, -np.inf]), np.float32([-1.0, 0.0])
        value, gradient = self.variant(
            jax.value_and_grad(losses.clipped_policy_gradient), static_argnums=4
        )(log_probs, old, np.ones(2, np.float32), np.float32([1, 0]), 0.2)
        np.testing.assert_allclose(value, -1.0)
        np.testing.assert_array_equal(gradient, [-1.0, 0.0])

    @chex.variants(with_jit=True)
    def test_binary_cross_entropy(self):
        logits = np.linspace(-5, 5, 11).astype(np.float32)
        for label in (0.0, 0.1, 0.9, 1.0):
            value, gradient = self.variant(
                jax.value_and_grad(lambda x, y: losses.binary_cross_entropy(x, y).sum())
            )(logits, label)
            d = scipy.special.expit(logits.astype(np.float64))
            expected = -label * np.log(d) - (1 - label) * np.log(1 - d)
            np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
            np.testing.assert_allclose(gradient, d - label, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_binary_cross_entropy_of_extreme_logits(self):
        logits = np.array([1e4, -1e4], np.float32)
        found = self.variant(losses.binary_cross_entropy)(logits, np.array([0.9, 0.9]))
        np.testing.assert_allclose(found, [1e3, 9e3], rtol=1e-5)
        found = self.variant(losses.binary_cross_entropy)(logits, np.array([1.0, 0.0]))
        np.testing.assert_array_equal(found, [0, 0])
        gradient = self.variant(jax.grad(lambda x: losses.binary_cross_entropy(x, 0.9).sum()))
        np.testing.assert_allclose(gradient(logits), [0.1, -0.9], atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_weighted_mean(self):
        values, weights = np.array([[1.0, 2.0], [4.0, 9.0]]), np.array([[1.0, 0.5], [0.0, 2.0]])
        mean = self.variant(losses.weighted_mean)
        np.testing.assert_allclose(mean(values, weights), (1 + 1 + 18) / 3.5, rtol=1e-6)
        assert mean(values, np.zeros((2, 2))) == 0
        gradient = self.variant(jax.grad(losses.weighted_mean))(values, np.zeros((2, 2)))
        np.testing.assert_array_equal(gradient, np.zeros((2, 2)))


N, H, SIZE = 7, 3, 11


@pytest.fixture(params=[1, 3 * SIZE, 10**6], ids=["rows_of_a_state", "tiles", "one_tile"])
def projection(request, monkeypatch):
    """Inputs of the losses that contain the output layer: 3, 3 or 1 tiles, the last one not full.

    One token is excluded.
    """
    monkeypatch.setattr(losses, "_TILE", request.param)
    rng = np.random.default_rng(3)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    bias = normal(SIZE)
    bias[4] = -np.inf
    tokens = np.array([0, 10, 3, 3, 7, 9, 0])
    return normal(N, H), normal(H, SIZE), bias, tokens, normal(N), normal(N)


def softmax_rows(hidden, kernel, bias):
    """Probabilities, their logarithms (0 where excluded) and entropies, in double precision."""
    p = scipy.special.softmax(np.float64(hidden) @ np.float64(kernel) + np.float64(bias), -1)
    log_p = np.log(np.where(p > 0, p, 1))
    return p, log_p, -(p * log_p).sum(-1)


def chain(hidden, kernel, gradient):
    """From the gradient by the logits to those by hidden, kernel and bias."""
    hidden, kernel = np.float64(hidden), np.float64(kernel)
    return gradient @ kernel.T, hidden.T @ gradient, gradient.sum(0)


def assert_close(found, expected):
    """To 1e-5 of the largest entry."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def test_projected_log_probs(projection):
    hidden, kernel, bias, tokens, weights, _ = projection
    p, log_p, _ = softmax_rows(hidden, kernel, bias)
    expected = log_p[np.arange(N), tokens]

    @jax.jit
    def loss(hidden, kernel, bias):
        found = losses.projected_log_probs(hidden, kernel, bias, tokens)
        return jnp.sum(weights * found**2), found

    gradients, found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(hidden, kernel, bias)
    assert_close(found, expected)
    slope = 2 * weights * expected
    logits_gradient = slope[:, None] * (np.eye(SIZE)[tokens] - p)
    assert_close(gradients, chain(hidden, kernel, logits_gradient))
    assert_close(losses.projected_log_probs(hidden, kernel, bias, tokens), expected)


@pytest.mark.parametrize("bonus", [False, True])
def test_projected_log_likelihood(projection, bonus):
    hidden, kernel, bias, tokens, weights, entropy_weights = projection
    entropy_weights = entropy_weights if bonus else np.zeros(N, np.float32)
    p, log_p, entropy = softmax_rows(hidden, kernel, bias)
    log_probs = log_p[np.arange(N), tokens]
    expected = (weights @ log_probs + entropy_weights @ entropy, log_probs, entropy)

    def objective(hidden, kernel, bias):
        found = losses.projected_log_likelihood(
            hidden, kernel, bias, tokens, weights, entropy_weights if bonus else None
        )
        return 3 * found.value, found

    gradients, found = jax.jit(jax.grad(objective, (0, 1, 2), has_aux=True))(hidden, kernel, bias)
    assert_close(found, expected)
    by_logits = weights[:, None] * (np.eye(SIZE)[tokens] - p)
    by_logits -= entropy_weights[:, None] * p * (log_p + entropy[:, None])
    assert_close(gradients, chain(hidden, kernel, 3 * by_logits))
    assert_close(objective(hidden, kernel, bias)[1], expected)


def test_projected_divergence(projection):
    hidden, kernel, bias, _, weights, _ = projection
    rng = np.random.default_rng(4)
    other = [rng.normal(size=x.shape).astype(np.float32) for x in (hidden, kernel, bias)]
    other[2][4] = -np.inf
    p, log_p, _ = softmax_rows(hidden, kernel, bias)
    q, log_q, _ = softmax_rows(*other)
    rows = [
        scipy.stats.entropy(np.delete(a, 4), np.delete(b, 4)) for a, b in zip(p, q, strict=True)
    ]

    @jax.jit
    def loss(own, other):
        found = losses.projected_divergence(*own, tuple(other))
        return jnp.vdot(weights, found), found

    gradients, found = jax.grad(loss, (0, 1), has_aux=True)((hidden, kernel, bias), tuple(other))
    assert_close(found, np.array(rows))
    # d KL / d logits = p (log p - log q - KL)
    by_logits = weights[:, None] * p * (log_p - log_q - np.array(rows)[:, None])
    assert_close(gradients[0], chain(hidden, kernel, by_logits))
    assert not any(np.any(g) for g in jax.tree.leaves(gradients[1]))
    np.testing.assert_allclose(
        loss((hidden, kernel, bias), (hidden, kernel, bias))[1], 0, atol=1e-6
    )


@pytest.mark.parametrize("share", [None, 0.0, 0.05, 0.6])
def test_projected_forms_equal_the_gradient_of_the_plain_one(share):
    """At a vocabulary of several tiles, against automatic differentiation; with padding too."""
    rng = np.random.default_rng(5)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    hidden, kernel, bias, weights = normal(1200, 8), normal(8, 3000), normal(3000), normal(1200)
    tokens = rng.integers(0, 3000, 1200)
    mask = None if share is None else (rng.random(1200) < share).astype(np.float32)
    kept = np.ones(1200, np.float32) if mask is None else mask

    def plain(hidden, kernel, bias):
        log_p = jax.nn.log_softmax(hidden @ kernel + bias)
        log_probs = kept * log_p[jnp.arange(1200), tokens]
        entropy = -kept * (jnp.exp(log_p) * log_p).sum(-1)
        return weights @ log_probs + 0.1 * entropy.sum(), (log_probs, entropy)

    def general(hidden, kernel, bias):
        log_probs = losses.projected_log_probs(hidden, kernel, bias, tokens, mask)
        return weights @ log_probs, log_probs  # rows of the mask have weights too

    def linear(hidden, kernel, bias):
        found = losses.projected_log_likelihood(
            hidden, kernel, bias, tokens, weights * kept, 0.1 * kept, mask
        )
        return found.value, found[1:]

    of = lambda f: jax.jit(jax.grad(f, (0, 1, 2), has_aux=True))(hidden, kernel, bias)
    gradients, found = of(plain)
    assert_close(of(linear), (gradients, found))
    without = lambda *arguments: (weights @ plain(*arguments)[1][0], plain(*arguments)[1][0])
    assert_close(of(general), of(without))


@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_expected_surrogate_gradient_is_the_gradient_of_the_expected_reward(baseline):
    """Summed over all sequences: sum_y p(y) grad surrogate(y) = -grad sum_y p(y) R(y).

    With the whole reward at each token, with the exact action value at each token, and with either
    less a baseline, which changes nothing in expectation.
    """
    size, length = 3, 3
    rng = np.random.default_rng(1)
    sequences = np.array(list(itertools.product(range(size), repeat=length)))
    reward = rng.normal(size=len(sequences)).astype(np.float32)
    theta = jnp.array(rng.normal(size=(length, size + 1, size)), jnp.float32)

    def log_probs(theta, tokens):
        """A policy that knows the position and the previous token (`size` at the start)."""
        previous = jnp.concatenate([jnp.array([size]), tokens[:-1]])
        return losses.token_log_probs(theta[jnp.arange(length), previous], tokens)

    def expected_reward(theta):
        totals = jax.vmap(lambda y: log_probs(theta, y).sum())(sequences)
        return jnp.sum(jnp.exp(totals) * reward)

    probability = np.exp(jax.vmap(lambda y: log_probs(theta, y).sum())(sequences))
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-5)
    action_values = np.zeros((len(sequences), length), np.float32)
    for i, y in enumerate(sequences):
        for t in range(length):
            same = (sequences[:, : t + 1] == y[: t + 1]).all(1)
            action_values[i, t] = np.average(reward[same], weights=probability[same])

    def surrogate(theta, values):
        each = jax.vmap(
            lambda y, q: losses.policy_gradient(log_probs(theta, y), q - baseline, jnp.ones(length))
        )(sequences, values)
        return jnp.sum(probability * each)

    def clipped(theta, values):
        """With the ratio to the policy that samples, as in the first of several updates."""
        each = jax.vmap(
            lambda y, q: losses.clipped_policy_gradient(
                log_probs(theta, y), log_probs(start, y), q - baseline, jnp.ones(length), 0.2
            )
        )(sequences, values)
        return jnp.sum(probability * each)

    start = theta
    wanted = -jax.jit(jax.grad(expected_reward))(theta)
    for values in (np.repeat(reward[:, None], length, axis=1), action_values):
        for objective in (surrogate, clipped):
            found = jax.jit(jax.grad(objective))(theta, values)
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_expected_divergence_of_steps_is_that_of_sequences():
    """The chain rule, over all sequences: E_p sum_t KL_t(prefix) = KL(p(y) || q(y))."""
    size, length = 3, 3
    rng = np.random.default_rng(2)
    sequences = np.array(list(itertools.product(range(size), repeat=length)))
    tables = rng.normal(size=(2, length, size + 1, size)).astype(np.float32)

    previous = np.concatenate([np.full((len(sequences), 1), size), sequences[:, :-1]], axis=1)
    p, q = (table[np.arange(length), previous].reshape(-1, size) for table in tables)
    totals = [
        losses.token_log_probs(x, sequences.ravel()).reshape(-1, length).sum(-1) for x in (p, q)
    ]
    eye, zero = np.eye(size, dtype=np.float32), np.zeros(size, np.float32)
    steps = losses.projected_divergence(p, eye, zero, (q, eye, zero)).reshape(-1, length)
    found = np.exp(totals[0]) @ steps.sum(-1)
    np.testing.assert_allclose(found, scipy.stats.entropy(*np.exp(np.float64(totals))), rtol=1e-4)


def test_expected_reward_equals_a_sum_over_actions():
    rng = np.random.default_rng(8)
    logits, values = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 5))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    reward, entropy = losses.expected_reward(jnp.array(logits), jnp.array(values))
    np.testing.assert_allclose(reward, (probs * values).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(entropy, -(probs * np.log(probs)).sum(-1), rtol=1e-5)
    # The gradient by a logit, in closed form: p_v (r_v - sum_u p_u r_u).
    gradient = jax.grad(lambda x: losses.expected_reward(x, jnp.array(values))[0].sum())(
        jnp.array(logits)
    )
    expected = probs * (values - (probs * values).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_expected_reward_without_a_token():
    """A token that can't be drawn counts for nothing, and leaves all gradients finite."""
    logits, values = jnp.array([0.3, -jnp.inf, 1.2]), jnp.array([1.0, 100.0, -2.0])
    both = lambda x: sum(losses.expected_reward(x, values))
    kept = jnp.array([0, 2])
    np.testing.assert_allclose(
        both(logits), sum(losses.expected_reward(logits[kept], values[kept])), rtol=1e-6
    )
    gradient = jax.grad(both)(logits)
    assert gradient[1] == 0
    assert np.isfinite(gradient).all()


def test_guided_attention_equals_the_papers_double_sum():
    """Equations 5 and 6 by a loop over real steps and positions, 1 / N left out; see there."""
    rng = np.random.default_rng(9)
    weights = rng.random((5, 4)).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    for tokens, positions in ((5, 4), (3, 2), (1, 1)):
        total = 0.0
        for t in range(tokens):
            for n in range(positions):
                away = 1 - np.exp(-((n / positions - t / tokens) ** 2) / (2 * 0.2**2))
                total += weights[t, n] * away / tokens
        mask, source_mask = np.arange(5) < tokens, np.arange(4) < positions
        found = losses.guided_attention(weights, mask.astype(float), source_mask.astype(float))
        np.testing.assert_allclose(found, total, rtol=1e-5)
    even = np.eye(4, dtype=np.float32)
    ones = np.ones(4)
    assert losses.guided_attention(even, ones, ones) == 0
    assert losses.guided_attention(even[::-1], ones, ones) > 0.5
