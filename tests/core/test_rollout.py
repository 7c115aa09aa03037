"""Monte-Carlo action values against a loop that replays every prefix, and against enumeration."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from seqgan_jax.core import rollout, sampling
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator

V, H, U, BOS, EOS, PAD = 6, 3, 2, 1, 2, 0
RNG = np.random.default_rng(0)
READ, MOVE, WRITE = (RNG.normal(size=s).astype(np.float32) for s in ((V, H), (H, H), (H, V)))
JUDGE_READ, JUDGE_MOVE = (RNG.normal(size=s).astype(np.float32) for s in ((V, U), (U, U)))
POSITIONS = RNG.normal(size=(10, U)).astype(np.float32)


def toy_policy(bias, state, token):
    """bias: [B, V], known of each source, against tokens of [B R] in source-major lanes."""
    state = jnp.tanh(state @ MOVE + jnp.array(READ)[token])
    lanes = state.reshape(len(bias), -1, H)
    return state, (lanes @ WRITE + bias[:, None]).reshape(-1, V)


def toy_judge(state, token):
    state = jnp.tanh(state @ JUDGE_MOVE + jnp.array(JUDGE_READ)[token])
    return state, state


def toy_readout(features, mask):
    """Depends on every real step, on its position and on the length."""
    summed = (features * POSITIONS[: features.shape[1]] * mask[..., None]).sum((1, 2))
    return summed + 0.1 * mask.sum(-1)


def toy_score(tokens):
    """The judge on one whole sequence without padding, in NumPy."""
    state, score = np.zeros(U), 0.0
    for i, token in enumerate(tokens):
        state = np.tanh(state @ JUDGE_MOVE + JUDGE_READ[token])
        score += state @ POSITIONS[i]
    return score + 0.1 * len(tokens)


def toy_logits(bias, prefix):
    """The policy on one whole prefix, in NumPy."""
    state = np.zeros(H)
    for token in (BOS, *prefix):
        state = np.tanh(state @ MOVE + READ[token])
    return state @ WRITE + bias


def replayed(logits_of, score_of, tokens, mask, key, example_id, num_rollouts, eos):
    """Completes every prefix from its start, N times; every rollout has its own uniforms."""
    batch, length = tokens.shape
    uniforms = jax.jit(sampling.uniforms, static_argnums=3)
    values = np.zeros((batch, length))
    for b in range(batch):
        real = int(mask[b].sum())
        for t in range(1, real + 1):
            for n in range(num_rollouts):
                row = np.array([t * num_rollouts + n])
                draws = uniforms(key, example_id[b : b + 1], row, length)[0]
                y = list(tokens[b, :t])
                while t < real and len(y) < length and not (eos is not None and y[-1] == eos):
                    cumulative = np.cumsum(scipy.special.softmax(np.float64(logits_of(b, y))))
                    uniform = draws[len(y) - t]
                    assert np.abs(cumulative - uniform).min() > 1e-6  # else take another seed
                    y.append(int(np.searchsorted(cumulative, uniform, side="right")))
                values[b, t - 1] += score_of(b, y) / num_rollouts
    return values


def toy_states(bias, tokens):
    """What the sampling scan would have kept: policy states, judge states, features."""
    batch, length = tokens.shape
    state, judge_state = jnp.zeros((batch, H)), jnp.zeros((batch, U))
    policy_states, judge_states = [], []
    token = jnp.full(batch, BOS)
    for t in range(length):
        state, _ = toy_policy(bias, state, token)
        token = tokens[:, t]
        judge_state, _ = toy_judge(judge_state, token)
        policy_states.append(state)
        judge_states.append(judge_state)
    judge_states = jnp.stack(judge_states)
    return jnp.stack(policy_states), judge_states, jnp.swapaxes(judge_states, 0, 1)


@partial(jax.jit, static_argnames=("num_rollouts", "chunk", "eos", "every"))
def toy_values(bias, tokens, mask, key, example_id, num_rollouts, chunk, eos, every=1):
    policy_states, judge_states, features = toy_states(bias, tokens)
    return rollout.action_values(
        partial(toy_policy, bias),
        toy_judge,
        toy_readout,
        tokens=tokens,
        mask=mask,
        policy_states=lambda t: policy_states[t - 1],
        judge_states=judge_states,
        features=features,
        key=key,
        example_id=example_id,
        num_rollouts=num_rollouts,
        chunk=chunk,
        every=every,
        eos=eos,
        pad=None if eos is None else PAD,
    )


SEQUENCES = {  # one that is cut at T, one that ends early, one that ends at once, a filler row
    6: [[3, 4, 1, 5, 3, 4], [5, 5, EOS, PAD, PAD, PAD], [EOS] + [PAD] * 5, [PAD] * 6],
    2: [[3, 4], [4, EOS], [EOS, PAD], [PAD, PAD]],
    1: [[3], [4], [EOS], [PAD]],
}


def real_tokens(tokens):
    ends = np.cumsum(tokens == EOS, axis=1) - (tokens == EOS)
    return ((ends == 0) & (tokens != PAD)).astype(np.float32)


@pytest.mark.parametrize(
    ("length", "chunk", "ending", "eos"),
    [
        (6, 1, 0.0, EOS),
        (6, 2, 0.0, EOS),
        (6, 5, 0.0, EOS),
        (6, 2, 50.0, EOS),  # rollouts end at once
        (6, 2, -50.0, EOS),  # rollouts never end
        (6, 99, 0.0, None),
        (2, 1, 0.0, EOS),
        (1, 1, 0.0, EOS),
    ],
)
def test_equals_loop(length, chunk, ending, eos):
    tokens = np.array(SEQUENCES[length])
    mask = real_tokens(tokens) if eos is not None else np.ones(tokens.shape, np.float32)
    bias = 0.5 * np.random.default_rng(1).normal(size=(len(tokens), V)).astype(np.float32)
    bias[:, EOS] += ending
    key, example_id = jax.random.key(7), np.array([11, 4, 2**31 - 1, 0])
    found = toy_values(bias, tokens, mask, key, example_id, 3, chunk, eos)
    expected = replayed(
        lambda b, y: toy_logits(bias[b], y),
        lambda b, y: toy_score(y),
        *(tokens, mask, key, example_id, 3, eos),
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("every", "chunk"), [(2, 1), (2, 5), (3, 2), (9, 4)])
def test_values_between_are_on_the_line(every, chunk):
    """Of the loop's values only every n-th and the last are used, by NumPy's interpolation."""
    tokens = np.array(SEQUENCES[6])
    mask = real_tokens(tokens)
    bias = 0.5 * np.random.default_rng(1).normal(size=(len(tokens), V)).astype(np.float32)
    key, example_id = jax.random.key(7), np.array([11, 4, 2**31 - 1, 0])
    found = toy_values(bias, tokens, mask, key, example_id, 3, chunk, EOS, every=every)
    loop = replayed(
        lambda b, y: toy_logits(bias[b], y),
        lambda b, y: toy_score(y),
        *(tokens, mask, key, example_id, 3, EOS),
    )
    expected = np.zeros(tokens.shape)
    for b, whole in enumerate(mask.sum(1).astype(int)):
        known = sorted({*range(1, whole, every), whole} - {0})
        if known:
            at = np.arange(1, whole + 1)
            expected[b, :whole] = np.interp(at, known, loop[b, np.array(known) - 1])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - loop).max() > 1e-2


def test_expected_value_equals_enumeration():
    """Within 5 standard errors, which come from the enumeration too (false alarms below 1e-5)."""
    length, num_rollouts = 4, 3000
    tokens = np.array([[3, 4, 5, 3]])
    bias = np.zeros((1, V), np.float32)

    def complete(prefix):
        """All completions with their probabilities."""
        if len(prefix) == length or prefix[-1] == EOS:
            yield prefix, 1.0
            return
        for token, p in enumerate(scipy.special.softmax(toy_logits(bias[0], prefix))):
            for y, rest in complete((*prefix, token)):
                yield y, p * rest

    found = toy_values(
        bias, tokens, np.ones((1, length)), jax.random.key(1), np.array([8]), num_rollouts, 3, EOS
    )
    for t in range(1, length):
        completions = list(complete(tuple(tokens[0, :t])))
        p = np.array([p for _, p in completions])
        np.testing.assert_allclose(p.sum(), 1)
        scores = np.array([toy_score(y) for y, _ in completions])
        mean = p @ scores
        standard_error = np.sqrt(p @ (scores - mean) ** 2 / num_rollouts)
        assert abs(found[0, t - 1] - mean) < 5 * standard_error
        assert standard_error > 1e-3
    np.testing.assert_allclose(found[0, -1], toy_score(tokens[0]), rtol=1e-5)


@pytest.mark.parametrize("with_source", [True, False])
def test_real_networks_equal_loop(with_source):
    """States from sampling's own scan; lanes that share a source; the loop replays from BOS."""
    batch, length, num_rollouts, size, z_size = 3, 5, 2, 7, 2
    encoder = FeatureEncoder(size=3) if with_source else None
    small = {"vocabulary_size": size, "encoder": encoder, "embedding_size": 3, "hidden_size": 4}
    small |= {"num_layers": 1 + with_source, "attention_size": 3}
    generator = LSTMGenerator(**small, output_size=5, noise_size=z_size, noise_slots=2)
    discriminator = LSTMDiscriminator(**small, feature_size=4, num_heads=2, head_size=3)
    rng = np.random.default_rng(4)
    source = rng.normal(size=(batch, 4, 5)).astype(np.float32) if with_source else None
    source_mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], np.float32)
    source_mask = source_mask if with_source else None
    z = rng.normal(size=(batch, z_size)).astype(np.float32)
    draws = rng.random((batch, length)).astype(np.float32)
    zeros = np.zeros((batch, length), int)
    shapes = (
        jax.eval_shape(generator.init, jax.random.key(0), source, source_mask, z, zeros),
        jax.eval_shape(discriminator.init, jax.random.key(0), source, source_mask, zeros, zeros),
    )
    g, d = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    key, example_id = jax.random.key(5), np.array([3, 1, 2])

    @jax.jit
    def run(g, d):
        memory = generator.apply(g, source, source_mask, train=False, method="encode")
        judged = discriminator.apply(d, source, source_mask, train=False, method="encode")
        policy = lambda state, token: generator.apply(g, memory, state, token, method="step")
        judge = lambda state, token: discriminator.apply(d, judged, state, token, method="step")

        def step(state, token):
            state, logits = policy(state, token)
            return state, logits, state

        def observe(state, token):
            state, feature = judge(state, token)
            return state, (state, feature)

        samples = sampling.sample(
            step,
            generator.apply(g, memory, z, length, method="initial_state"),
            draws,
            bos=BOS,
            eos=EOS,
            pad=PAD,
            observe=observe,
            observer=discriminator.apply(d, judged, batch, method="initial_state"),
        )
        policy_states, (judge_states, features) = samples.extras
        values = rollout.action_values(
            policy,
            judge,
            lambda f, m: discriminator.apply(d, f, m, method="readout"),
            tokens=samples.tokens,
            mask=samples.mask,
            policy_states=lambda t: jax.tree.map(lambda x: x[t - 1], policy_states),
            judge_states=judge_states,
            features=jnp.swapaxes(features, 0, 1),
            key=key,
            example_id=example_id,
            num_rollouts=num_rollouts,
            chunk=3,
            eos=EOS,
            pad=PAD,
        )
        return samples, values

    samples, found = run(g, d)
    tokens, mask = np.asarray(samples.tokens), np.asarray(samples.mask)

    row = lambda x, b: None if x is None else x[b : b + 1]
    padded = lambda y: np.array([list(y) + [PAD] * (length - len(y))])
    teacher_force = jax.jit(lambda g, *a: generator.apply(g, *a))
    sequence_score = jax.jit(
        lambda d, s, m, y, mask: discriminator.apply(
            d,
            s,
            m,
            y,
            mask,
            method=lambda net, s, m, y, mask: net.sequence_score(
                net.encode(s, m, train=False), y, mask
            ),
        )
    )

    def logits_of(b, y):
        inputs = padded((BOS, *y))[:, :length]
        return teacher_force(g, row(source, b), row(source_mask, b), row(z, b), inputs)[0, len(y)]

    def score_of(b, y):
        real = (np.arange(length) < len(y))[None].astype(np.float32)
        return sequence_score(d, row(source, b), row(source_mask, b), padded(y), real)[0]

    expected = replayed(logits_of, score_of, tokens, mask, key, example_id, num_rollouts, EOS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected[mask > 0]) > 1e-2
    assert len(set(itertools.chain(*tokens.tolist()))) > 2
