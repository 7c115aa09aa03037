"""The training step with the ratio discriminator, against slow sums and a known end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.ratio_discriminator import OPPONENT, RatioDiscriminator
from seqgan_jax.training.phases import DiscriminatorUpdate, GeneratorUpdate, Phase
from seqgan_jax.training.steps import Steps

V, T, M, B = 6, 3, 2, 8
VOCABULARY = Vocabulary(size=V, bos=0)
CONSTANT = {"updates": 1, "batch_size": 0, "learning_rate": 0.03, "warmup": 0, "decay": 0.0}
ACTIONS = {
    "policy_gradient": 2.0,
    "reward": "log_ratio",
    "estimator": "actions",
    "reward_clip": 50.0,
}


def phase(**options):
    given = {"steps": 1000, "batch_size": B, "targets": 1, "evaluate_every": 1, "select": "nll"}
    given |= {"name": "any", "transfer": False, "generator": None, "discriminator": None}
    return Phase(**given | options)


LEARN = phase(discriminator=DiscriminatorUpdate(**CONSTANT, classification=0.0, mle=0.5))
PLAY = phase(
    generator=GeneratorUpdate(**CONSTANT, **ACTIONS),
    discriminator=DiscriminatorUpdate(**CONSTANT, per_step=0.5, smoothing=1.0),
)


def batch(weight=1.0):
    rng = np.random.default_rng(1)
    return {
        "source": None,
        "source_mask": None,
        "target": rng.integers(0, V, (B, T)).astype(np.int32),
        "mask": np.ones((B, T), np.float32),
        "example_id": np.arange(B, dtype=np.int32),
        "weight": np.full(B, weight, np.float32),
    }


@pytest.fixture(scope="module")
def steps():
    sizes = {"vocabulary_size": V, "embedding_size": 4, "hidden_size": 8, "output_size": 8}
    generator = LSTMGenerator(
        **sizes, encoder=None, num_layers=1, attention_size=0, noise_size=0, init_scale=0.7
    )
    judge = RatioDiscriminator(**sizes, bos=0, opponent=generator, members=M)
    return Steps(generator, judge, VOCABULARY, T, clip=100.0)


@pytest.fixture(scope="module")
def initial(steps):
    state = steps.init(0, batch())
    # Models that are not all alike: each says something of its own.
    params = {
        name: tree if name == OPPONENT else jax.tree.map(lambda x: 3.0 * x + 0.1, tree)
        for name, tree in state.discriminator.params.items()
    }
    return jax.device_get(state.replace(discriminator=state.discriminator.replace(params=params)))


def begin(steps, initial, chosen):
    return steps.begin_phase(jax.tree.map(jnp.array, initial), 0, chosen)


def log_probs(generator, params, tokens):
    """[B, T, V], by one step after another."""
    bound = generator.bind({"params": params})
    memory = bound.encode(None, None, train=False)
    state = bound.initial_state(memory, jnp.zeros((len(tokens), 0)), T)
    found = []
    for t in range(T):
        before = tokens[:, t - 1] if t else np.zeros(len(tokens), int)
        state, logits = bound.step(memory, state, jnp.array(before))
        logits = np.asarray(logits, np.float64)
        found.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
    return np.stack(found, 1)


def models(params):
    return [params[f"models_{m}"] for m in range(M)]


def test_language_models_learn_real_sequences_alone(steps, initial):
    state = begin(steps, initial, LEARN)
    chosen = LEARN.step_of("discriminator")
    given = batch() | {"weight": np.array([1, 0, 1, 1, 1, 1, 1, 0], np.float32)}
    _, metrics = steps.train_step(state, given, phase=chosen, network="discriminator")
    expected = 0.0
    for params in models(initial.discriminator.params):
        each = log_probs(steps.generator, params, given["target"])
        each = np.take_along_axis(each, given["target"][..., None], -1)[..., 0]
        expected -= 0.5 * each[given["weight"] > 0].mean() / M
    np.testing.assert_allclose(metrics["discriminator/loss_mle"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["discriminator/loss"], expected, rtol=1e-5)
    assert not any("generated" in name for name in metrics)


def test_the_policy_gradient_is_summed_over_actions(steps, initial):
    state = begin(steps, initial, PLAY)
    chosen, given = PLAY.step_of("generator"), batch()
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    tokens = np.asarray(
        steps._action_values(state, given, key, PLAY.generator, 0.0)[1].tokens  # what it draws
    )
    _, metrics = steps.train_step(state, given, phase=chosen, network="generator")
    ours = log_probs(steps.generator, initial.generator.params, tokens)
    theirs = [
        np.exp(log_probs(steps.generator, p, tokens)) for p in models(initial.discriminator.params)
    ]
    divergence = (np.exp(ours) * (ours - np.log(np.mean(theirs, 0)))).sum(-1)
    np.testing.assert_allclose(
        metrics["generator/loss_policy_gradient"], 2.0 * divergence.mean(), rtol=1e-4
    )
    entropy = -(np.exp(ours) * ours).sum(-1).mean()
    np.testing.assert_allclose(metrics["generator/sample_entropy"], entropy, rtol=1e-4)


def test_the_generator_becomes_the_models_mean(steps, initial):
    """Alone against models that stay as they are, its divergence from them goes to 0."""
    state = begin(steps, initial, PLAY)
    chosen, given = PLAY.step_of("generator"), batch()
    found = []
    for _ in range(150):
        state, metrics = steps.train_step(state, given, phase=chosen, network="generator")
        found.append(float(metrics["generator/loss_policy_gradient"]))
    assert found[0] > 0.5
    assert max(found[-10:]) < 0.02 * found[0]


def opposes(state):
    pairs = (state.discriminator.params[OPPONENT], state.generator.params)
    return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, pairs), strict=True))


def test_the_discriminator_always_faces_the_generator_of_now(steps, initial):
    state = begin(steps, initial, PLAY)
    assert opposes(state)
    before = jax.device_get(state.generator.params)
    for network in ("generator", "discriminator", "generator"):
        state, _ = steps.train_step(state, batch(), phase=PLAY.step_of(network), network=network)
        assert opposes(state), network
    assert not np.array_equal(before["embedding"], state.generator.params["embedding"])
