"""Noise for every step: its length is the sequences', and training reads it step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.training.phases import GeneratorUpdate, Phase
from seqgan_jax.training.steps import NOISE, Steps

B, V, T, Z = 3, 6, 5, 2
# As the oracle's: the start is also data, and nothing ends.
VOCABULARY = Vocabulary(size=V, bos=0, pad=None, eos=None)


def steps_of(length):
    generator = LSTMGenerator(V, None, 3, 4, 2, 5, 6, Z, noise_per_step=True)
    discriminator = LSTMDiscriminator(V, None, 3, 5, 1, 3, 4, 2, 2)
    return Steps(generator, discriminator, VOCABULARY, length, clip=100.0)


@pytest.fixture(scope="module")
def steps():
    return steps_of(T)


def batch_of():
    rng = np.random.default_rng(0)
    return {
        "source": None,
        "source_mask": None,
        "target": rng.integers(0, V, (B, T)).astype(np.int32),
        "mask": np.ones((B, T), np.float32),
        "example_id": np.arange(3, 3 + B, dtype=np.int32),
        "weight": np.ones(B, np.float32),
    }


@pytest.fixture(scope="module")
def params(steps):
    """Normal ones, so that every part matters."""
    rng = np.random.default_rng(1)
    state = jax.device_get(steps.init(0, batch_of()))
    return jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), state.generator.params
    )


def by_steps(steps, params, example, index, tokens, key):
    """The log-probability of one sequence, token by token, from its own noise."""
    for number in (example, index):
        key = jax.random.fold_in(key, number)
    z = jax.random.normal(key, (len(tokens), Z))
    call = lambda method, *args, **how: steps.generator.apply(
        {"params": params}, *args, method=method, **how
    )
    memory = call("encode", None, None, train=False)
    state, last, total = call("initial_state", memory, z[None], len(tokens)), VOCABULARY.bos, 0.0
    for token in tokens:
        state, logits = call("step", memory, state, np.array([last]))
        total += float(jax.nn.log_softmax(logits)[0, token])
        last = token
    return total


def test_its_length_is_the_output_s(steps, params):
    """A shorter one's vectors are the longer one's first, and so are the tokens."""
    discriminator = jax.device_get(steps.init(0, batch_of())).discriminator.params
    key, found = jax.random.key(7), {}
    for length in (3, T):
        found[length] = steps_of(length).write(
            params, discriminator, batch_of(), key, num_samples=2
        )
    assert found[3].tokens.shape == (B, 2, 3)
    np.testing.assert_array_equal(found[3].tokens, found[T].tokens[:, :, :3])
    whole = jax.device_get(found[T])
    for row, example in enumerate(batch_of()["example_id"]):
        for index in range(2):
            tokens = whole.tokens[row, index]
            known = by_steps(steps, params, example, index, tokens, jax.random.fold_in(key, NOISE))
            assert whole.log_probs[row, index].sum() == pytest.approx(known, rel=1e-4)


def test_the_bound_reads_one_noise_a_step(steps, params):
    batch, key = batch_of(), jax.random.key(2)
    found = steps.likelihood(params, batch, key, num_noise=3)
    for row, (example, tokens) in enumerate(zip(batch["example_id"], batch["target"], strict=True)):
        each = [by_steps(steps, params, example, 3 * row + k, tokens, key) for k in range(3)]
        assert found[row] == pytest.approx(-np.log(np.exp(each).mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["mle", "policy_gradient"])
def test_training_moves_what_reads_it(steps, kind):
    constant = {"updates": 1, "batch_size": 0, "learning_rate": 0.02, "warmup": 0, "decay": 0.0}
    phase = Phase(
        name="phase",
        steps=100,
        batch_size=B,
        targets=1,
        select="nll",
        evaluate_every=100,
        transfer=False,
        generator=GeneratorUpdate(**constant, **{kind: 1.0}, num_rollouts=2, rollout_chunk=2),
        discriminator=None,
    )
    state = steps.begin_phase(steps.init(0, batch_of()), 0, phase)
    before = np.array(state.generator.params["noise"]["kernel"])
    state, metrics = steps.train_step(
        state, jax.tree.map(jnp.array, batch_of()), phase=phase, network="generator"
    )
    assert np.isfinite(metrics["generator/loss"])
    assert (np.array(state.generator.params["noise"]["kernel"]) != before).any(axis=1).all()
