"""Sampling against NumPy definitions, slow loops, exact enumeration and goodness-of-fit tests.

Statistical tests have a fixed seed and reject at a false-alarm rate of 1e-6 each.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from absl.testing import parameterized

from seqgan_jax.core import sampling

FALSE_ALARM = 1e-6
LARGEST = np.float32(1 - 2**-24)  # the largest float32 below 1


def goodness_of_fit(counts, probabilities):
    """The chi-square test's p-value; cells that expect fewer than 5 are pooled."""
    expected = probabilities / probabilities.sum() * counts.sum()
    rare = expected < 5
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    assert (counts[expected == 0] == 0).all()
    return scipy.stats.chisquare(counts[expected > 0], expected[expected > 0]).pvalue


def searchsorted(logits, uniform):
    """Inverse CDF of one row by one cumulative sum in double precision; distance to an edge too."""
    cumulative = np.cumsum(scipy.special.softmax(np.asarray(logits, np.float64)))
    edge = np.abs(cumulative - uniform).min()
    return np.searchsorted(cumulative, uniform, side="right"), edge


def truncate_slowly(row, temperature=1.0, top_k=0, top_p=1.0, banned=()):
    """One row by the definitions; tokens that tie with the last one kept stay too."""
    row = [-np.inf if i in banned else x / temperature for i, x in enumerate(np.float64(row))]
    for limited in ("k", "p"):
        if (limited == "k" and not top_k) or (limited == "p" and top_p == 1):
            continue
        probabilities = scipy.special.softmax(row)
        kept, mass = [], 0.0
        for i in sorted(range(len(row)), key=lambda i: -row[i]):
            if (limited == "k" and len(kept) == top_k) or (limited == "p" and mass >= top_p):
                break
            kept.append(i)
            mass += probabilities[i]
        least = min(row[i] for i in kept)
        row = [x if x >= least else -np.inf for x in row]
    return np.array(row)


class TruncateTest(chex.TestCase):
    @chex.variants(with_jit=True)
    @parameterized.named_parameters(
        ("nothing", {}),
        ("temperature", {"temperature": 0.5}),
        ("one", {"top_k": 1}),
        ("three", {"top_k": 3}),
        ("all", {"top_k": 9}),
        ("nucleus", {"top_p": 0.6}),
        ("tiny_nucleus", {"top_p": 1e-6}),
        ("large_nucleus", {"top_p": 0.999}),
        ("banned", {"banned": (0, 8)}),
        ("everything", {"temperature": 2.0, "top_k": 5, "top_p": 0.8, "banned": (4,)}),
    )
    def test_equals_definition(self, options):
        rng = np.random.default_rng(0)
        logits = (2 * rng.normal(size=(20, 9))).astype(np.float32)
        logits[10:] = np.round(logits[10:])  # ties
        logits[15:, 3] = -np.inf
        expected = [truncate_slowly(row, **options) for row in logits]
        truncation = sampling.Truncation(**options)
        found = self.variant(lambda x: sampling.truncate(x, truncation))(logits)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


class InverseCdfTest(chex.TestCase):
    @chex.variants(with_jit=True)
    @parameterized.parameters(1, 2, 3, 7, 50, 1000)
    def test_equals_searchsorted_on_the_whole_sum(self, size):
        rng = np.random.default_rng(size)
        logits = (2 * rng.normal(size=(500, size))).astype(np.float32)
        logits[::3] = np.where(rng.random(logits[::3].shape) < 0.5, -np.inf, logits[::3])
        logits[:, rng.integers(size)] = 1.0  # at least one token is left
        uniforms = rng.random(500).astype(np.float32)
        found = self.variant(sampling.inverse_cdf)(logits, uniforms)
        assert found.dtype == jnp.int32
        compared = 0
        for row, uniform, token in zip(logits, uniforms, np.asarray(found), strict=True):
            expected, edge = searchsorted(row, uniform)
            assert row[token] > -np.inf
            if edge > 1e-6:
                assert token == expected
                compared += 1
        assert compared > 450

    @chex.variants(with_jit=True)
    @parameterized.parameters(2, 7, 50, 1000)
    def test_never_draws_an_excluded_token(self, size):
        width = max(1, round(size**0.5))
        rng = np.random.default_rng(0)
        patterns = [np.zeros(size, bool) for _ in range(6)]
        patterns[0][0] = True  # the first
        patterns[1][-1] = True  # the last
        patterns[2][: -(size // 2)] = True  # the first blocks
        patterns[3][-(size // 2) :] = True  # the last blocks
        patterns[4][:] = True  # all but the first token of the last block
        patterns[4][(size - 1) // width * width] = False
        patterns[5][:] = True  # all but the last token of the first block
        patterns[5][width - 1] = False
        uniforms = np.array([0, 2**-24, 0.5, 1 - 2**-23, LARGEST], np.float32)
        excluded = np.repeat(patterns, len(uniforms), axis=0)
        logits = np.where(excluded, -np.inf, rng.normal(size=excluded.shape)).astype(np.float32)
        found = self.variant(sampling.inverse_cdf)(logits, np.tile(uniforms, len(patterns)))
        assert not excluded[np.arange(len(found)), found].any()
        allowed = [np.flatnonzero(~row) for row in excluded]
        found = np.asarray(found).reshape(len(patterns), -1)
        allowed = allowed[:: len(uniforms)]
        np.testing.assert_array_equal(found[:, 0], [a[0] for a in allowed])
        np.testing.assert_array_equal(found[:, -1], [a[-1] for a in allowed])

    @chex.variants(with_jit=True, without_jit=True)
    def test_extreme_logits(self):
        logits = np.array([[1e30, 0, -1e30], [-1e4, -1e4, -1e4], [-np.inf, 5, -np.inf]], np.float32)
        found = self.variant(sampling.inverse_cdf)(logits, np.array([LARGEST, 0.5, 0.0]))
        np.testing.assert_array_equal(found, [0, 1, 1])

    @parameterized.parameters((2, 1.0), (7, 0.5), (50, 2.0), (1000, 1.0))
    def test_draws_from_softmax(self, size, temperature):
        n, chunk = 100_000, 2_000
        logits = np.random.default_rng(size).normal(size=size).astype(np.float32)

        @jax.jit
        def draw(key):
            uniforms = jax.random.uniform(key, (chunk,))
            rows = jnp.broadcast_to(logits, (chunk, size))
            truncation = sampling.Truncation(temperature=temperature)
            return sampling.inverse_cdf(sampling.truncate(rows, truncation), uniforms)

        tokens = jax.lax.map(draw, jax.random.split(jax.random.key(0), n // chunk))
        counts = np.bincount(np.ravel(tokens), minlength=size)
        assert len(counts) == size
        probabilities = scipy.special.softmax(logits.astype(np.float64) / temperature)
        assert goodness_of_fit(counts, probabilities) > FALSE_ALARM


class UniformsTest(chex.TestCase):
    @chex.variants(with_jit=True)
    def test_rows_do_not_depend_on_the_layout(self):
        key = jax.random.key(3)
        example = np.array([5, 2**31 - 1, 0, 5, 17, 0])
        index = np.array([0, 1, 2, 3, 0, 0])
        draw = self.variant(lambda e, i: sampling.uniforms(key, e, i, 4))
        whole = np.asarray(draw(example, index))
        assert ((whole >= 0) & (whole < 1)).all()
        assert len(np.unique(whole)) == whole.size
        order = np.array([3, 1, 5, 0, 4, 2])
        np.testing.assert_array_equal(draw(example[order], index[order]), whole[order])
        np.testing.assert_array_equal(draw(example[4:5], index[4:5]), whole[4:5])
        other = sampling.uniforms(jax.random.key(4), example, index, 4)
        assert not np.isin(other, whole).any()

    def test_uniform_and_independent(self):
        example, index = (x.ravel() for x in np.mgrid[:100, :100])
        draws = np.asarray(sampling.uniforms(jax.random.key(0), example, index, 2))
        cells = np.floor(draws * 10).astype(int)
        counts = np.bincount(cells[:, 0] * 10 + cells[:, 1], minlength=100)
        assert goodness_of_fit(counts, np.ones(100)) > FALSE_ALARM
        for neighbour in (1, 100):  # the next sample, the next example
            pairs = cells[:-neighbour, 0] * 10 + cells[neighbour:, 0]
            counts = np.bincount(pairs, minlength=100)
            assert goodness_of_fit(counts, np.ones(100)) > FALSE_ALARM


V, BOS, EOS, PAD = 5, 1, 2, 0
TABLE = np.random.default_rng(8).normal(size=(V, V)).astype(np.float32)
MIX = np.random.default_rng(9).normal(size=(V, V)).astype(np.float32)


def toy_step(state, token):
    """State [B, V]: a fading sum of table rows. Extra: the state after reading the token."""
    state = 0.5 * state + jnp.array(TABLE)[token]
    return state, state @ MIX, state


def sample_slowly(draws, start, truncation, eos, forced):
    """Row by row, token by token, in double precision."""
    batch, length = draws.shape
    tokens = np.full((batch, length), PAD)
    mask, log_probs = np.zeros((batch, length)), np.zeros((batch, length))
    states = np.zeros((length, batch, V))
    for b in range(batch):
        state, token = start[b].astype(np.float64), BOS
        for t in range(length):
            state = 0.5 * state + TABLE[token]
            states[t, b] = state
            logits = state @ MIX
            if t and tokens[b, t - 1] == eos and mask[b, t - 1]:
                break
            if t < len(forced):
                token = forced[t]
            else:
                token, edge = searchsorted(truncate_slowly(logits, **truncation), draws[b, t])
                assert edge > 1e-5  # Otherwise rounding decides: take another seed.
            tokens[b, t], mask[b, t] = token, 1
            log_probs[b, t] = np.log(scipy.special.softmax(logits)[token])
    return tokens, mask, log_probs, states


@pytest.mark.parametrize(
    ("eos", "truncation", "forced"),
    [
        (EOS, {}, ()),
        (None, {}, ()),
        (EOS, {"temperature": 0.7, "top_p": 0.9, "banned": (PAD, BOS)}, (4,)),
        (None, {"top_k": 2}, (3, EOS, 4)),
        (EOS, {}, (3, EOS, 4)),
        (EOS, {}, (3, 4, 3, 3, 3, 4, 3)),
    ],
)
def test_sample_equals_slow_loop(eos, truncation, forced):
    rng = np.random.default_rng(11)
    draws = rng.random((8, 7)).astype(np.float32)
    start = rng.normal(size=(8, V)).astype(np.float32)

    def observe(state, token):
        return state + 1, (state, token)

    @jax.jit
    def run(start, draws):
        return sampling.sample(
            toy_step,
            start,
            draws,
            bos=BOS,
            eos=eos,
            pad=PAD if eos is not None else None,
            truncation=sampling.Truncation(**truncation),
            forced=forced,
            observe=observe,
            observer=jnp.zeros(8, jnp.int32),
        )

    tokens, mask, log_probs, states = sample_slowly(draws, start, truncation, eos, forced)
    found = run(start, draws)
    real = mask.T[:, :, None]
    np.testing.assert_array_equal(found.tokens, tokens)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_allclose(found.log_probs, log_probs, atol=1e-5)
    extra, (counted, seen) = found.extras
    np.testing.assert_allclose(extra * real, states * real, atol=1e-5)
    np.testing.assert_array_equal(counted, np.repeat(np.arange(7)[:, None], 8, axis=1))
    np.testing.assert_array_equal(seen, tokens.T)


def test_without_observer_extras_hold_none():
    found = sampling.sample(toy_step, jnp.zeros((2, V)), jnp.full((2, 3), 0.5), bos=BOS)
    extra, seen = found.extras
    assert extra.shape == (3, 2, V)
    assert seen is None


def test_whole_sequences_of_a_markov_chain():
    """The share of every sequence of up to 4 tokens against its exact probability."""
    size, length, n = 4, 4, 100_000
    chain = np.random.default_rng(2).normal(size=(size, size)).astype(np.float32)
    chain[:, PAD] = -np.inf
    probabilities = scipy.special.softmax(chain.astype(np.float64), axis=-1)

    @jax.jit
    def run(key):
        draws = sampling.uniforms(key, jnp.arange(n // 10), jnp.zeros(n // 10, jnp.int32), length)
        step = lambda state, token: (state, jnp.array(chain)[token], None)
        samples = sampling.sample(step, None, draws, bos=BOS, eos=EOS, pad=PAD)
        return samples.tokens, samples.log_probs.sum(-1)

    tokens, log_probs = jax.lax.map(run, jax.random.split(jax.random.key(1), 10))
    tokens, log_probs = np.reshape(tokens, (n, length)), np.ravel(log_probs)

    exact = {}
    for y in itertools.product(range(1, size), repeat=length):
        if EOS in y:
            y = y[: y.index(EOS) + 1]
        steps = zip((BOS, *y), y, strict=False)
        exact[y + (PAD,) * (length - len(y))] = np.prod([probabilities[a, b] for a, b in steps])
    np.testing.assert_allclose(sum(exact.values()), 1)
    index = {y: i for i, y in enumerate(exact)}
    drawn = np.array([index[tuple(y)] for y in tokens.tolist()])
    exact = np.array(list(exact.values()))
    assert goodness_of_fit(np.bincount(drawn, minlength=len(exact)), exact) > FALSE_ALARM
    np.testing.assert_allclose(np.exp(log_probs), exact[drawn], rtol=1e-4)
