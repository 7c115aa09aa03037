"""Pre-training without noise: what noise would change stays off, and what follows begins there."""

import dataclasses
import functools
import io
import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import BiLSTMEncoder, TransformerEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.transformer import TransformerGenerator
from seqgan_jax.programs.run import Run
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import phases
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.loop import Loop
from seqgan_jax.training.phases import DiscriminatorUpdate, GeneratorUpdate, Phase
from seqgan_jax.training.steps import Steps

ROOT = Path(__file__).parents[2]
B, S, T, V, Z, SOURCES = 3, 4, 5, 7, 2, 6
CONSTANT = {"updates": 1, "batch_size": 0, "learning_rate": 0.03, "warmup": 0, "decay": 0.0}
GIVEN = {"steps": 9, "batch_size": B, "targets": 1, "evaluate_every": 9, "select": "nll"}
MLE = GeneratorUpdate(**CONSTANT, mle=1.0)
ALIGN = Phase("align", generator=MLE, discriminator=None, transfer=False, noise=False, **GIVEN)
NOISY = dataclasses.replace(ALIGN, name="pretrain_generator", noise=True)
JUDGE = Phase("judge", generator=None, discriminator=DiscriminatorUpdate(**CONSTANT),
              transfer=True, **GIVEN)  # fmt: skip

NETWORKS = {
    "lstm": (
        lambda noise: LSTMGenerator(V, BiLSTMEncoder(SOURCES, 4, 6), 5, 8, 1, 4, 6, noise),
        lambda: BiLSTMEncoder(SOURCES, 4, 6),
        "start",
    ),
    "transformer": (
        lambda noise: TransformerGenerator(
            V, TransformerEncoder(SOURCES, 8, 8, 1, num_heads=2), 8, 8, 1, noise, num_heads=2
        ),
        lambda: TransformerEncoder(SOURCES, 8, 8, 1, num_heads=2),
        "known",
    ),
}


def batch():
    rng = np.random.default_rng(0)
    return {
        "source": rng.integers(0, SOURCES, (B, S)).astype(np.int32),
        "source_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]], np.float32),
        "target": rng.integers(3, V, (B, T)).astype(np.int32),
        "mask": np.ones((B, T), np.float32),
        "example_id": np.arange(B, dtype=np.int32),
        "weight": np.ones(B, np.float32),
    }


@functools.partial(jax.jit, static_argnums=0)
def logits(generator, params, z):
    given = batch()
    inputs = jnp.pad(given["target"][:, :-1], ((0, 0), (1, 0)), constant_values=1)
    return generator.apply({"params": params}, given["source"], given["source_mask"], z, inputs)


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_noise_is_off_and_the_next_phase_begins_there(kind):
    """Equal to a network that was built without noise, and to what the next phase begins with."""
    build, encoder, layer = NETWORKS[kind]
    generator = build(Z)
    discriminator = LSTMDiscriminator(V, encoder(), 5, 8, 1, 4, 4, 2, 2)
    steps = Steps(generator, discriminator, Vocabulary(size=V, bos=1, pad=0, eos=2), T, clip=9.0)
    begin = jax.jit(steps.begin_phase, static_argnums=(1, 2))
    initial = jax.jit(steps.init, static_argnums=0)(0, batch())
    noises = [jnp.zeros((B, Z)), 3 * jax.random.normal(jax.random.key(1), (B, Z))]
    # Noise would matter: at first the weights that read it are not 0.
    before = [logits(generator, initial.generator.params, z) for z in noises]
    assert np.abs(before[0] - before[1]).max() > 1e-2
    drawn = jax.device_get(initial.generator.params)
    state = begin(initial, 0, ALIGN)
    for _ in range(5):
        state, metrics = steps.train_step(state, batch(), phase=ALIGN, network="generator")
    aligned = jax.device_get(state.generator.params)
    kernel = aligned[layer]["kernel"]
    np.testing.assert_array_equal(kernel[-Z:], 0.0)
    assert (kernel[:-Z] != drawn[layer]["kernel"][:-Z]).all()
    without = aligned | {layer: aligned[layer] | {"kernel": kernel[:-Z]}}
    expected = logits(build(0), without, jnp.zeros((B, 0)))
    assert float(metrics["generator/loss"]) < np.log(V)  # that of guessing
    judged = begin(state, 1, JUDGE)
    jax.tree.map(
        np.testing.assert_array_equal,
        judged.discriminator.params["encoder"],
        judged.generator.params["encoder"],
    )
    begun = begin(state, 1, NOISY)
    for params in (aligned, begun.generator.params, begun.rollout):
        for z in noises:
            np.testing.assert_allclose(logits(generator, params, z), expected, atol=1e-6)


@pytest.fixture(scope="module")
def captions(overrides, tmp_path_factory):
    """A run of captions: another task with a source, aligned for a step, and then with noise."""
    config = runpy.run_path(str(ROOT / "configs" / "captions.py"))["get_config"]("smoke")
    config.update_from_flattened_dict(overrides)
    config.phases.align.update(steps=1, targets=1)
    config.phases.pretrain_generator.update(steps=8, targets=1, evaluate_every=2)
    config.phases.pretrain_generator.stop.regain = True
    config.phases.order = ("align", "pretrain_generator")
    with Progress(quiet=True) as progress:
        return Run(tmp_path_factory.mktemp("captions"), config.lock(), progress)


@pytest.mark.parametrize("task", ["captions", "speech", "translation", "video"])
def test_every_task_with_a_source_can_be_aligned(task):
    config = runpy.run_path(str(ROOT / "configs" / f"{task}.py"))["get_config"]("smoke")
    config.phases.order = ("align", "pretrain_generator")
    aligned, _ = phases.parse(config.phases)
    assert aligned.networks == ("generator",)
    assert not aligned.noise


@pytest.mark.parametrize(
    ("later", "length", "words"),
    [
        ([2.5, 2.1, 2.0], 6, "ends at step 6: nll no worse than before it"),
        ([2.5, 2.4, 2.3, 2.2], 8, "ends with worse nll than it began with"),
    ],
)
def test_a_phase_regains_what_it_began_with(captions, tmp_path, monkeypatch, later, length, words):
    values, evaluate = iter([3.0, 2.0, *later]), Loop.evaluate

    def given(loop, state):
        found = evaluate(loop, state)
        nll = found.figures["nll"]._replace(value=next(values))
        return found._replace(figures=found.figures | {"nll": nll})

    monkeypatch.setattr(Loop, "evaluate", given)
    shutil.copy(captions.workdir / "config.json", tmp_path)
    told = io.StringIO()
    with Progress(console=Console(file=told, width=300)) as progress:
        loop = Loop(captions.config, tmp_path, captions.task, captions.steps, captions.phases,
                    captions.loop.guard, progress)  # fmt: skip
        state = loop.run()
    assert int(state.phase_step) == length
    assert words in told.getvalue()
    assert next(values, None) is None
    checkpoints = Checkpoints(tmp_path, read_only=True)
    aligned = checkpoints.restore(checkpoints.find("align"), shapes(state)).generator.params
    noise = captions.config.generator.noise_size
    assert not np.any(aligned["start"]["kernel"][-noise:])
    assert np.all(state.generator.params["start"]["kernel"][-noise:])


def test_two_figures_are_regained_or_improve(captions):
    """Each against its own start, whatever the other did in between; patience is with either."""
    state = captions.loop.initial_state()
    both = np.float32([-np.inf, -np.inf])
    figures = lambda nll, accuracy: {
        "nll": Metric(nll, None, 1, "nats"),
        "discriminator_accuracy": Metric(accuracy, None, 1, "share"),
    }
    stop = phases.Stop(metrics=("nll", "discriminator_accuracy"), patience=2, min_change=0.1)
    for regain, given in (
        (True, [((1.8, 0.28), 0, False), ((1.9, 0.31), 1, True)]),
        (False, [((1.8, 0.28), 0, False), ((1.9, 0.45), 0, False), ((1.9, 0.5), 1, False),
                 ((1.75, 0.5), 2, True)]),
    ):  # fmt: skip
        phase = dataclasses.replace(
            captions.phases[1], stop=dataclasses.replace(stop, regain=regain)
        )
        own = state.stopping.replace(best=both, start=np.float32([-2.0, 0.3]))
        own = state.replace(stopping=own)
        for values, waited, stopped in given:
            own = captions.loop._waited(own, phase, figures(*values))
            assert (int(own.stopping.waited), bool(own.stopping.stopped)) == (waited, stopped)


def test_what_makes_no_sense_is_refused(captions):
    def refused(order, pattern, **changes):
        config = captions.config.phases.copy_and_resolve_references().unlock()
        config.order = order
        config.update_from_flattened_dict(changes)
        with pytest.raises(UserError, match=pattern):
            phases.parse(config)
        return config

    config = refused(("pretrain_generator",), r"pretrain_generator\.stop\.regain: nothing before")
    assert phases.parse(config, ("generator",))[0].stop.regain
    refused(("adversarial",), r"adversarial\.noise: False", **{"adversarial.noise": False})
