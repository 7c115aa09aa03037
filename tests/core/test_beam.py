"""Beam search against exhaustive search and against a greedy loop."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from seqgan_jax.core import beam

V, PAD, BOS, EOS = 5, 0, 1, 2
B, T = 2, 4
TABLE, MIX = np.random.default_rng(3).normal(size=(2, V, V)).astype(np.float32)
STARTS = np.random.default_rng(4).normal(size=(B, V)).astype(np.float32)


def toy_step(state, token):
    """A fading sum of the tokens' rows, so that the logits depend on the whole history."""
    state = {"sum": 0.7 * state["sum"] + jnp.array(TABLE)[token], "count": state["count"] + 1}
    return state, state["sum"] @ MIX * state["count"][:, None] ** 0.5


def toy_log_prob(start, y):
    """log p(y) in NumPy."""
    state, total = start.astype(np.float64), 0.0
    for t, (previous, token) in enumerate(zip((BOS, *y), y, strict=False)):
        state = 0.7 * state + TABLE[previous]
        total += scipy.special.log_softmax(state @ MIX * (t + 1) ** 0.5)[token]
    return total


def exhaustive(start, eos, banned, forced):
    """All sequences with their log-probabilities, best first."""
    found = {}
    for y in itertools.product(range(V), repeat=T):
        if eos is not None and eos in y:
            y = y[: y.index(eos) + 1]
        free = y[len(forced) :]
        if y[: len(forced)] == tuple(forced)[: len(y)] and not set(free) & set(banned):
            found[y] = toy_log_prob(start, y)
    return sorted(found.items(), key=lambda item: -item[1])


@partial(jax.jit, static_argnames=("width", "eos", "pad", "banned", "forced"))
def search(width, eos=EOS, pad=PAD, banned=(), forced=()):
    state = {"sum": jnp.repeat(STARTS, width, axis=0), "count": jnp.zeros(B * width)}
    options = {"batch": B, "width": width, "length": T, "bos": BOS, "banned": banned}
    return beam.search(toy_step, state, eos=eos, pad=pad, forced=forced, **options)


@pytest.mark.parametrize(
    ("eos", "banned", "forced", "width"),
    [
        (EOS, (PAD, BOS), (), 40),
        (None, (PAD, BOS, EOS), (), 16),
        (EOS, (PAD,), (3,), 15),
        (EOS, (PAD, BOS), (1, 4, 3), 3),
        (EOS, (PAD, BOS), (4, EOS), 2),
    ],
)
def test_equals_exhaustive_search(eos, banned, forced, width):
    found = search(width, eos, None if eos is None else PAD, banned, forced)
    for b in range(B):
        expected = exhaustive(STARTS[b], eos, banned, forced)[:width]
        log_probs = np.asarray(found.log_probs[b])
        np.testing.assert_allclose(log_probs[: len(expected)], [x for _, x in expected], atol=1e-4)
        assert (log_probs[len(expected) :] == -np.inf).all()
        for i, (y, _) in enumerate(expected):
            padding = [0] * (T - len(y))
            assert found.tokens[b, i].tolist() == [*y, *padding]
            assert found.mask[b, i].tolist() == [1] * len(y) + padding


def test_narrow_beams_are_consistent():
    """Best first, without repeats, and with the log-probability of what they hold."""
    width = 3
    found = search(width, banned=(PAD, BOS))
    for b in range(B):
        assert (np.diff(found.log_probs[b]) <= 0).all()
        rows = [
            tuple(y[: int(n)])
            for y, n in zip(found.tokens[b].tolist(), found.mask[b].sum(-1), strict=True)
        ]
        assert len(set(rows)) == width
        np.testing.assert_allclose(
            found.log_probs[b], [toy_log_prob(STARTS[b], y) for y in rows], atol=1e-4
        )


def test_width_one_is_greedy():
    found = search(1, banned=(PAD,))
    for b in range(B):
        y = []
        while len(y) < T and EOS not in y:
            options = [i for i in range(V) if i != PAD]
            y.append(max(options, key=lambda i: toy_log_prob(STARTS[b], [*y, i])))
        assert found.tokens[b, 0].tolist() == y + [PAD] * (T - len(y))
        np.testing.assert_allclose(found.log_probs[b, 0], toy_log_prob(STARTS[b], y), atol=1e-4)
