"""The Transformer generator against a forward pass in NumPy, and what it refuses."""

import jax
import numpy as np
import pytest
import scipy.special

from seqgan_jax.errors import UserError
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.transformer import TransformerGenerator

B, S, F, T, V, E, K, L, Z = 2, 3, 5, 4, 6, 8, 2, 2, 3
D = E // K


def norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def turned(x, position):
    """Pairs of components as complex numbers, turned by their angles."""
    pairs = x[: D // 2] + 1j * x[D // 2 :]
    pairs = pairs * np.exp(1j * position * 10_000.0 ** (-2 * np.arange(D // 2) / D))
    return np.concatenate([pairs.real, pairs.imag])


def attend(p, name, queries, memory, sees, rotary):
    """[T, E] and [S, F] -> every head's read-out, side by side, [T, E]."""
    found = np.zeros((len(queries), K, D))
    for i, query in enumerate(queries):
        seen = [j for j in range(len(memory)) if sees(i, j)]
        for k in range(K):
            q = query @ p[f"{name}_query"][:, k]
            keys = [memory[j] @ p[f"{name}_key"][:, k] for j in seen]
            if rotary:
                q, keys = turned(q, i), [turned(key, j) for key, j in zip(keys, seen, strict=True)]
            weights = scipy.special.softmax([q @ key / np.sqrt(D) for key in keys])
            found[i, k] = sum(
                w * (memory[j] @ p[f"{name}_value"][:, k])
                for w, j in zip(weights, seen, strict=True)
            )
    return found.reshape(len(queries), -1)


def forward(net, p, values, mask, known, inputs):
    """One sequence: source positions [S, F] or None, [summary; z], inputs [T] -> logits [T, V]."""
    rotary = net.positions == "rotary"
    x = p["embedding"][inputs] * np.sqrt(E) + dense(known, p["known"])
    if not rotary:
        x = x + p["position"][: len(inputs)]
    for i in range(L):
        block = p[f"blocks_{i}"]
        inner = norm(x, block["norm"])
        heads = attend(block, "self", inner, inner, lambda i, j: j <= i, rotary)
        x = x + dense(heads, block["found"])
        if values is not None:
            inner = norm(x, block["source_norm"])
            heads = attend(block, "source", inner, values, lambda i, j: mask[j] > 0, False)
            x = x + dense(heads, block["source_found"])
        inner = gelu(dense(norm(x, block["feed_norm"]), block["feed_in"]))
        x = x + dense(inner, block["feed_out"])
    x = norm(x, p["norm"])
    return x @ p["embedding"].T + p["bias"] if net.tied else dense(x, p["output"])


@pytest.mark.parametrize(
    ("positions", "tied", "has_source"), [("rotary", True, True), ("learned", False, False)]
)
def test_equals_numpy(positions, tied, has_source):
    rng = np.random.default_rng(0)
    net = TransformerGenerator(
        V,
        FeatureEncoder(F) if has_source else None,
        E,
        hidden_size=7,
        num_layers=L,
        noise_size=Z,
        num_heads=K,
        positions=positions,
        max_length=T + 2,
        tied=tied,
    )
    source = rng.normal(size=(B, S, 4)).astype(np.float32) if has_source else None
    mask = np.array([[1, 0, 1], [1, 1, 0]], np.float32) if has_source else None
    z = rng.normal(size=(B, Z)).astype(np.float32)
    inputs = rng.integers(0, V, (B, T)).astype(np.int32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), source, mask, z, inputs)
    variables = jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), shapes)
    call = jax.jit(net.apply, static_argnames=("method", "train", "max_length"))
    found = call(variables, source, mask, z, inputs)
    memory = call(variables, source, mask, train=False, method="encode")
    # With more room than the inputs need, both ways of reading go on alike.
    start = call(variables, memory, z, max_length=T + 2, method="initial_state")
    _, states = call(variables, memory, start, inputs, method="unroll")
    state = start
    for t in range(T):
        state, logits = call(variables, memory, state, inputs[:, t], method="step")
        np.testing.assert_allclose(logits, found[:, t], atol=1e-5)
    for before in (state, net.prefix_state(states, T)):
        _, logits = call(variables, memory, before, inputs[:, 0], method="step")
        longer = np.concatenate([inputs, inputs[:, :1]], axis=1)
        expected = call(variables, source, mask, z, longer)[:, T]
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    for b in range(B):
        values, known = None, z[b]
        if has_source:
            values = np.asarray(memory.values[b], np.float64)
            known = np.concatenate([memory.summary[b], z[b]])
        expected = forward(net, p, values, mask[b] if has_source else None, known, inputs[b])
        np.testing.assert_allclose(found[b], expected, atol=1e-4)
        assert np.ptp(expected) > 0.5


def test_a_prefix_shares_the_cache():
    """States of many prefixes are one cache and their lengths: nothing of size T x T is made."""
    net = TransformerGenerator(V, None, E, hidden_size=7, num_layers=L, noise_size=0, num_heads=K)
    z, inputs = np.zeros((B, 0), np.float32), np.zeros((B, T), np.int32)
    variables = net.init(jax.random.key(0), None, None, z, inputs)

    def states(variables):
        memory = net.apply(variables, None, None, train=False, method="encode")
        start = net.apply(variables, memory, z, T, method="initial_state")
        return net.apply(variables, memory, start, inputs, method="unroll")[1]

    found = states(variables)
    sizes = {x.shape for x in jax.tree.leaves(found.caches)}
    assert sizes == {(B, K, T, D)}
    prefix = net.prefix_state(found, 2)
    assert prefix.caches is found.caches
    np.testing.assert_array_equal(prefix.length, [2] * B)


def test_too_few_learned_positions_are_refused():
    net = TransformerGenerator(V, None, E, 7, L, 0, num_heads=K, positions="learned", max_length=3)
    inputs = np.zeros((B, T), np.int32)
    with pytest.raises(UserError, match=r"config\.generator\.max_length: 3 learned positions"):
        net.init(jax.random.key(0), None, None, np.zeros((B, 0)), inputs)


def test_it_starts_near_the_uniform_distribution_and_with_inputs_of_unit_size():
    net = TransformerGenerator(500, None, 64, 128, L, 0)
    inputs = np.arange(40, dtype=np.int32).reshape(2, 20)
    variables = net.init(jax.random.key(0), None, None, np.zeros((2, 0)), inputs)
    log_probs = jax.nn.log_softmax(net.apply(variables, None, None, np.zeros((2, 0)), inputs))
    # Logits of variance 1 at most cost half a nat.
    assert -log_probs.mean() < np.log(500) + 0.8
    read = variables["params"]["embedding"] * 64**0.5
    np.testing.assert_allclose(np.square(read).mean(), 1, rtol=0.05)


def test_dropout_in_training():
    net = TransformerGenerator(V, None, E, 7, L, Z, num_heads=K, dropout=0.5)
    z, inputs = np.ones((B, Z), np.float32), np.zeros((B, T), np.int32)
    variables = net.init(jax.random.key(0), None, None, z, inputs)
    run = lambda key: net.apply(
        variables, None, None, z, inputs, train=True, rngs={"dropout": jax.random.key(key)}
    )
    np.testing.assert_array_equal(run(0), run(0))
    assert (np.abs(run(0) - run(1)).max(-1) > 1e-3).all()
