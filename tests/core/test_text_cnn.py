"""Convolutions with maxima over time against a loop over windows; gradients by differences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.core import text_cnn

E = 3
RNG = np.random.default_rng(0)


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def kernels_of(widths):
    return [draw(width, E, 2 + i % 2) for i, width in enumerate(widths)]


def windows_loop(kernels, features):
    """max_a sum_s x[a + s] K[s], one window and one filter at a time, in float64."""
    out = []
    for sequence in features.astype(np.float64):
        row = []
        for kernel in kernels:
            for f in range(kernel.shape[2]):
                responses = [
                    sum(sequence[a + s] @ kernel[s, :, f] for s in range(len(kernel)))
                    for a in range(len(sequence) - len(kernel) + 1)
                ]
                row.append(max(responses, default=-np.inf))
        out.append(row)
    return np.array(out)


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_correlation_is_cyclic_correlation(length):
    before, kernel, after = text_cnn.correlation(length)
    x, k = RNG.normal(size=(2, length))
    expected = [sum(x[(a + s) % length] * k[s] for s in range(length)) for a in range(length)]
    np.testing.assert_allclose(after @ ((before @ x) * (kernel @ k)), expected, atol=1e-5)
    assert len(before) <= 1.5 * length


@pytest.mark.parametrize("length", [5, 12, 13])
def test_pool_equals_loop(length):
    kernels = kernels_of(
        (1, 2, 3, 4, 5, 11, 12)
    )  # some by frequency, some as written, some too wide
    features = draw(4, length, E)
    pooled = jax.jit(text_cnn.pool)(kernels, features)
    np.testing.assert_allclose(pooled, windows_loop(kernels, features), atol=1e-5)


def test_both_ways_are_used():
    """The test above means little if the rule picks one way for all widths."""
    costs = {width: text_cnn._products(width, 12) for width in (1, 5, 12)}
    assert costs == {1: 12, 5: 17, 12: 12}


def test_blocks_change_nothing(monkeypatch):
    kernels, features = kernels_of((2, 3, 4, 5)), draw(7, 12, E)
    whole = text_cnn.pool(kernels, features)
    monkeypatch.setattr(text_cnn, "ROWS", 3)
    monkeypatch.setattr(text_cnn, "FILTERS", 7)
    np.testing.assert_allclose(text_cnn.pool(kernels, features), whole, atol=1e-5)


def plain_pool(kernels, features):
    """As written, for autodiff."""
    pooled = [
        jnp.max(text_cnn.windows(features, len(k)) @ k.reshape(-1, k.shape[-1]), axis=1)
        for k in kernels
    ]
    return jnp.concatenate(pooled, axis=-1)


def test_gradients_equal_autodiff_and_differences():
    kernels, features = kernels_of((1, 2, 3, 4, 5, 12)), draw(4, 12, E)
    weight = draw(4, sum(k.shape[2] for k in kernels))

    def loss(pool):
        return lambda kernels, features: (pool(kernels, features) ** 2 * weight).sum()

    ours = jax.jit(jax.grad(loss(text_cnn.pool), (0, 1)))(kernels, features)
    theirs = jax.jit(jax.grad(loss(plain_pool), (0, 1)))(kernels, features)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()

    # Along a random direction, in float64, within which no maximum changes its window.
    direction = jax.tree.map(lambda leaf: draw(*leaf.shape), (kernels, features))

    def at(h):
        moved = jax.tree.map(
            lambda x, d: x.astype(np.float64) + h * d, (kernels, features), direction
        )
        return (windows_loop(*moved) ** 2 * weight).sum()

    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), ours, direction)))
    np.testing.assert_allclose(slope, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=1e-4)


def test_equal_windows_give_the_gradient_once():
    kernel, features = draw(3, E, 2), np.ones((1, 12, E), np.float32)
    gradient = jax.grad(lambda k: text_cnn.pool([k], features).sum())(kernel)
    np.testing.assert_allclose(gradient, np.ones_like(kernel), atol=1e-5)


@pytest.mark.parametrize("shared", [1, 2, 5, 9, 11])
def test_completions_equal_whole_sequences(shared):
    sources, lanes, length = 3, 4, 12
    kernels = kernels_of((1, 2, 3, 4, 5, 8, 11, 12))
    features = draw(sources, lanes, length, E)
    features[:, :, :shared] = features[:, :1, :shared]
    features = features.reshape(-1, length, E)
    pool = jax.jit(text_cnn.pool_completions, static_argnums=(2, 3))
    pooled = pool(kernels, features, shared, lanes)
    np.testing.assert_allclose(pooled, windows_loop(kernels, features), atol=1e-5)


def test_completions_read_the_shared_prefix_once():
    """Where a completion is short all widths divide: other lanes' prefixes are not read."""
    kernels, features = kernels_of((1, 2, 3, 4)), draw(4, 12, E)
    features[:, :10] = features[:1, :10]
    spoilt = features.copy()
    spoilt[1:, :10] = np.nan
    np.testing.assert_array_equal(
        text_cnn.pool_completions(kernels, spoilt, 10, 4),
        text_cnn.pool_completions(kernels, features, 10, 4),
    )


def test_highway_equals_its_definition():
    weight, bias, x = draw(E, 2 * E), draw(2 * E), draw(4, E)
    expected = np.zeros_like(x)
    for row, i in np.ndindex(*x.shape):
        gate = 1 / (1 + np.exp(-(x[row] @ weight[:, E + i] + bias[E + i])))
        transform = max(0.0, x[row] @ weight[:, i] + bias[i])
        expected[row, i] = gate * transform + (1 - gate) * x[row, i]
    np.testing.assert_allclose(text_cnn.highway(weight, bias, x), expected, atol=1e-6)


def test_pool_compiles_once():
    chex.clear_trace_counter()
    pool = jax.jit(chex.assert_max_traces(text_cnn.pool, n=1))
    for _ in range(2):
        pool(kernels_of((2, 3)), draw(2, 8, E))
