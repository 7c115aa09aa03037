"""Beam search against exhaustive search and against a greedy loop."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from seqgan_jax.core import beam
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.transformer import TransformerGenerator

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


def start(width):
    return {"sum": jnp.repeat(STARTS, width, axis=0), "count": jnp.zeros(B * width)}


@partial(jax.jit, static_argnames=("width", "eos", "pad", "banned", "forced"))
def search(width, eos=EOS, pad=PAD, banned=(), forced=(), length_penalty=0.0):
    options = {"batch": B, "width": width, "length": T, "bos": BOS, "banned": banned}
    options |= {"forced": forced, "length_penalty": length_penalty}
    return beam.search(toy_step, start(width), eos=eos, pad=pad, **options)


def penalised(log_prob, length, alpha):
    """Wu et al. (2016), eq. 14."""
    return log_prob * 6**alpha / (5 + length) ** alpha


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


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_length_penalty_equals_exhaustive_search(alpha):
    found = search(40, banned=(PAD, BOS), length_penalty=alpha)
    moved = False
    for b in range(B):
        scored = [
            (penalised(x, len(y), alpha), x, y)
            for y, x in exhaustive(STARTS[b], EOS, (PAD, BOS), ())
        ]
        scored.sort(reverse=True)
        scores, log_probs, sequences = zip(*scored[:40], strict=True)
        np.testing.assert_allclose(found.scores[b, : len(scores)], scores, atol=1e-4)
        np.testing.assert_allclose(found.log_probs[b, : len(scores)], log_probs, atol=1e-4)
        for i, y in enumerate(sequences):
            assert found.tokens[b, i].tolist() == [*y, *[PAD] * (T - len(y))]
        moved |= list(sequences) != [y for y, _ in exhaustive(STARTS[b], EOS, (PAD, BOS), ())][:40]
    assert moved == (alpha > 0)  # the penalty decides something here


@pytest.mark.parametrize(("bias", "least", "most"), [(9.0, 2, 6), (-9.0, 20, 20)])
def test_stops_when_no_open_sequence_can_win(bias, least, most):
    """Where almost all probability ends at once, long before T; where none does, at T."""
    steps = []

    @jax.jit
    def run():
        def step(state, token):
            jax.debug.callback(lambda: steps.append(1))
            state, logits = toy_step(state, token)
            return state, logits.at[:, EOS].add(bias)

        options = {"batch": B, "width": 2, "length": 20, "bos": BOS, "banned": (PAD, BOS)}
        return beam.search(step, start(2), eos=EOS, pad=PAD, length_penalty=1.0, **options)

    found = jax.block_until_ready(run())
    jax.effects_barrier()
    assert least <= len(steps) <= most
    assert np.isfinite(found.log_probs).all()
    assert (np.diff(found.scores) <= 0).all()


NETWORKS = {
    "lstm": lambda: LSTMGenerator(V, FeatureEncoder(4), 3, 6, 2, 4, 5, noise_size=2),
    "transformer": lambda: TransformerGenerator(V, FeatureEncoder(4), 4, 6, 2, 2, num_heads=2),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_generators_equal_exhaustive_search(kind):
    """All sequences read at once by `unroll`; beams by `step`, from states that search reorders."""
    rng = np.random.default_rng(0)
    net = NETWORKS[kind]()
    source, z = rng.normal(size=(B, 3, 4)), rng.normal(size=(B, 2))
    source, z = source.astype(np.float32), z.astype(np.float32)
    shapes = jax.eval_shape(
        net.init, jax.random.key(0), source, None, z, np.zeros((B, T), np.int32)
    )
    variables = jax.tree.map(lambda x: jnp.float32(0.8 * rng.normal(size=x.shape)), shapes)
    words = [i for i in range(V) if i not in (PAD, BOS)]
    every = np.array(list(itertools.product(words, repeat=T)))
    inputs = np.tile(np.pad(every[:, :-1], ((0, 0), (1, 0)), constant_values=BOS), (B, 1))

    @partial(jax.jit, static_argnames="width")
    def run(width):
        apply = partial(net.apply, variables)
        memory = apply(source, None, train=False, method="encode")
        begin = lambda lanes: apply(memory, jnp.repeat(z, lanes, 0), T, method="initial_state")
        logits, _ = apply(memory, begin(len(every)), inputs, method="unroll")
        step = lambda state, token: apply(memory, state, token, method="step")
        options = {"batch": B, "width": width, "length": T, "bos": BOS, "banned": (PAD, BOS)}
        found = beam.search(step, begin(width), eos=EOS, pad=PAD, length_penalty=0.6, **options)
        return logits, found

    log_probs = scipy.special.log_softmax(np.float64(run(40)[0]), axis=-1)
    log_probs = log_probs.reshape(B, len(every), T, V)
    best = []
    for b in range(B):
        known = {}
        for y, steps in zip(every, log_probs[b], strict=True):
            length = list(y).index(EOS) + 1 if EOS in y else T
            log_prob = steps[np.arange(length), y[:length]].sum()
            known[tuple(y[:length])] = penalised(log_prob, length, 0.6)
        best.append(dict(sorted(known.items(), key=lambda item: -item[1])))
    for width in (40, 3):
        found = run(width)[1]
        for b in range(B):
            ranked = list(best[b].items())[: width if width == 40 else 1]
            np.testing.assert_allclose(
                found.scores[b, : len(ranked)], [score for _, score in ranked], atol=1e-4
            )
            for tokens, mask, score in zip(
                found.tokens[b], found.mask[b], found.scores[b], strict=True
            ):
                if np.isfinite(score):
                    y = tuple(tokens[mask > 0].tolist())
                    np.testing.assert_allclose(score, best[b][y], atol=1e-4)
