"""Every training step with a Transformer that reads tokens, against replaying whole prefixes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.core import sampling
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import BiLSTMEncoder, TransformerEncoder
from seqgan_jax.models.transformer import TransformerGenerator
from seqgan_jax.training.phases import DiscriminatorUpdate, GeneratorUpdate, Phase
from seqgan_jax.training.steps import NOISE, ROLLOUT, Steps

B, V, SOURCES, S, T, Z = 2, 7, 5, 3, 5, 2
VOCABULARY = Vocabulary(size=V, bos=1, pad=0, eos=2)
CONSTANT = {"updates": 1, "batch_size": 0, "learning_rate": 0.02, "warmup": 0, "decay": 0.0}
ROLLOUTS = 2


def phase(generator=None, discriminator=None, **options):
    given = {"name": "phase", "steps": 100, "batch_size": B, "targets": 1, "select": "nll"}
    given |= {"evaluate_every": 100, "transfer": False} | options
    return Phase(generator=generator, discriminator=discriminator, **given)


MLE = phase(GeneratorUpdate(**CONSTANT, mle=1.0, words=0.1), targets=2)
ADVERSARIAL = phase(
    GeneratorUpdate(**CONSTANT, policy_gradient=1.0, num_rollouts=ROLLOUTS, rollout_chunk=3),
    DiscriminatorUpdate(**CONSTANT, mismatch=0.5),
    transfer=True,
)


def batch_of(targets=1):
    rng = np.random.default_rng(targets)
    lengths = 2 + np.arange(B * targets)
    mask = (np.arange(T) < lengths[:, None]).astype(np.float32)
    target = rng.integers(3, V, (B * targets, T)) * mask.astype(np.int64)
    rows = lengths < T
    target[rows, lengths[rows] - 1] = VOCABULARY.eos
    return {
        "source": rng.integers(0, SOURCES, (B, S)).astype(np.int32),
        "source_mask": np.array([[1, 1, 1], [1, 1, 0]], np.float32),
        "target": target.astype(np.int32),
        "mask": mask,
        "example_id": np.arange(3, 3 + B, dtype=np.int32),
        "weight": np.ones(B, np.float32),
    }


@pytest.fixture(scope="module")
def steps():
    generator = TransformerGenerator(
        V, TransformerEncoder(SOURCES, 8, 8, 1, num_heads=2), 8, 8, 2, Z, num_heads=2
    )
    discriminator = LSTMDiscriminator(V, BiLSTMEncoder(SOURCES, 4, 3), 8, 5, 1, 3, 4, 2, 2)
    return Steps(generator, discriminator, VOCABULARY, T, clip=100.0)


@pytest.fixture(scope="module")
def states(steps):
    """Two states with parameters of their own, on the host."""
    init = jax.jit(lambda seed: steps.init(seed, batch_of()))
    return [jax.device_get(init(seed)) for seed in range(2)]


def on_device(tree):
    return jax.tree.map(jnp.array, tree)


def assert_changed(before, after):
    leaves = jax.tree_util.tree_leaves_with_path(before)
    for (path, old), new in zip(leaves, jax.tree.leaves(after), strict=True):
        assert np.isfinite(new).all(), jax.tree_util.keystr(path)
        assert (new != old).any(), jax.tree_util.keystr(path)


def test_maximum_likelihood_learns_a_batch(steps, states):
    state, batch = on_device(states[0]), batch_of(2)
    losses = []
    for _ in range(60):
        state, metrics = steps.train_step(state, batch, phase=MLE, network="generator")
        losses.append(float(metrics["generator/loss_mle"]))
    # Each source has two targets: which one it is costs log 2 for each of their first tokens.
    assert losses[0] > 1.5
    assert losses[-1] < 0.6
    assert_changed(states[0].generator.params, jax.device_get(state.generator.params))


def test_policy_gradient_rewards_equal_replayed_prefixes(steps, states):
    """The mean action value of a step, completing each prefix from its start, token by token."""
    state = on_device(states[0].replace(rollout=states[1].generator.params))
    late = state.generator.params["bias"].at[VOCABULARY.eos].add(-4.0)  # sequences of many tokens
    ours = state.generator.params | {"bias": late}
    state = state.replace(generator=state.generator.replace(params=ours))
    batch = batch_of()
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    written = steps.write(
        state.generator.params, state.discriminator.params, batch, key, num_samples=B
    )
    sequences = []
    for b in range(B):  # row b is sample b of its source
        real = int(written.mask[b, b].sum())
        sequences.append(written.tokens[b, b, :real].tolist())
    slow, known = on_device(states[1].generator.params), on_device(batch)
    source_of = lambda b: [known[name][b][None] for name in ("source", "source_mask")]

    @jax.jit
    def logits_of(b, tokens):
        noise_key = jax.random.fold_in(jax.random.fold_in(key, NOISE), known["example_id"][b])
        z = jax.random.normal(jax.random.fold_in(noise_key, b), (1, Z))
        inputs = jnp.pad(tokens[None, :-1], ((0, 0), (1, 0)), constant_values=VOCABULARY.bos)
        logits = steps.generator.apply({"params": slow}, *source_of(b), z, inputs)[0]
        return logits.at[:, jnp.array([VOCABULARY.pad, VOCABULARY.bos])].set(-jnp.inf)

    @jax.jit
    def reward_of(b, tokens, mask):
        apply = lambda method, *args: steps.discriminator.apply(
            {"params": state.discriminator.params}, *args, method=method
        )
        memory = apply("encode", *source_of(b))
        return jax.nn.sigmoid(apply("sequence_score", memory, tokens[None], mask[None])[0])

    def padded(sequence):
        return np.array(sequence + [VOCABULARY.pad] * (T - len(sequence)), np.int32)

    index = jnp.arange((T + 1) * ROLLOUTS)
    uniforms = jax.jit(sampling.uniforms, static_argnums=3)
    values = []
    for b, sequence in enumerate(sequences):
        example = jnp.full(len(index), batch["example_id"][b])
        draws = uniforms(jax.random.fold_in(key, ROLLOUT), example, index, T)
        for t in range(1, len(sequence) + 1):
            for n in range(ROLLOUTS):
                y = sequence[:t]
                while t < len(sequence) and len(y) < T and y[-1] != VOCABULARY.eos:
                    cumulative = np.cumsum(jax.nn.softmax(logits_of(b, padded(y))[len(y)]))
                    y.append(
                        int(
                            np.searchsorted(
                                cumulative, draws[t * ROLLOUTS + n, len(y) - t], side="right"
                            )
                        )
                    )
                mask = np.float32(np.arange(T) < len(y))
                values.append(float(reward_of(b, padded(y), mask)))
    assert max(map(len, sequences)) > 2
    before = jax.device_get(state.generator.params)
    state, metrics = steps.train_step(state, batch, phase=ADVERSARIAL, network="generator")
    np.testing.assert_allclose(metrics["generator/reward"], np.mean(values), rtol=1e-4)
    words = {"words"}  # of no loss in this phase
    after = jax.device_get(state.generator.params)
    assert_changed(*({k: p[k] for k in p if k not in words} for p in (before, after)))
    # The rollout policy is a mean of both, but for the embeddings.
    np.testing.assert_array_equal(state.rollout["embedding"], after["embedding"])
    np.testing.assert_allclose(
        state.rollout["known"]["kernel"],
        0.8 * states[1].generator.params["known"]["kernel"] + 0.2 * after["known"]["kernel"],
        atol=1e-6,
    )


def test_a_discriminator_of_tokens_learns_and_takes_what_fits(steps, states):
    state = steps.begin_phase(on_device(states[0]), 1, ADVERSARIAL)
    theirs = jax.device_get(state.discriminator.params)
    np.testing.assert_array_equal(theirs["embedding"], states[0].generator.params["embedding"])
    state, metrics = steps.train_step(state, batch_of(), phase=ADVERSARIAL, network="discriminator")
    assert 0.3 < metrics["discriminator/loss"] < 3
    assert_changed(theirs, jax.device_get(state.discriminator.params))


def test_search_likelihood_and_attention_agree(steps, states):
    """Beams' probabilities are what the likelihood says of them, under the one z of both."""
    params, judge = states[0].generator.params, states[0].discriminator.params
    batch, key = batch_of(), jax.random.key(3)
    beams, scores = steps.search_beams(params, judge, batch, key, width=3, length_penalty=0.7)
    assert np.isfinite(scores).all()
    z = steps._noise(jax.random.fold_in(key, NOISE), batch["example_id"], jnp.zeros(B, int))
    logits_of = jax.jit(steps._logits)
    for i in range(3):
        tokens, mask = beams.tokens[:, i], np.asarray(beams.mask[:, i])
        logits = logits_of(params, batch, z, tokens)
        each = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, :, None], axis=2)[:, :, 0]
        np.testing.assert_allclose((each * mask).sum(1), beams.log_probs[:, i], atol=1e-4)
        penalty = ((5 + mask.sum(1)) / 6) ** 0.7
        np.testing.assert_allclose(beams.scores[:, i] * penalty, beams.log_probs[:, i], rtol=1e-5)
    looked = steps.attention(params, batch, key, beams.tokens[:, 0])
    assert looked.shape == (B, T, S)
    np.testing.assert_allclose(looked.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(looked[1, :, 2], 0)
