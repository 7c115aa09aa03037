"""Two translators that learn from each other: of pairs, and of texts that have none."""

import dataclasses
import functools
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import BiLSTMEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.programs.run import Run
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training.phases import GeneratorUpdate, Phase
from seqgan_jax.training.steps import REVERSE, Reverse, Steps

ROOT = Path(__file__).parents[2]
# Sources and targets differ in length and in vocabulary.
B, S, T, SOURCES, V, Z = 4, 5, 6, 8, 7, 2
CONSTANT = {"updates": 1, "batch_size": 0, "learning_rate": 0.03, "warmup": 0, "decay": 0.0}
GIVEN = {"steps": 9, "batch_size": B, "targets": 1, "evaluate_every": 9, "select": "nll"}
PAIRS = Phase(
    "align",
    generator=GeneratorUpdate(**CONSTANT, mle=1.0),
    discriminator=None,
    transfer=False,
    noise=False,
    reverse=True,
    **GIVEN,
)
ALONE = dataclasses.replace(PAIRS, reverse=False)


def dual(consistency):
    update = dataclasses.replace(PAIRS.generator, consistency=consistency)
    return dataclasses.replace(PAIRS, generator=update)


def batch():
    rng = np.random.default_rng(0)
    lengths = lambda most: np.arange(most) < rng.integers(2, most + 1, (B, 1))
    return {
        "source": rng.integers(3, SOURCES, (B, S)).astype(np.int32),
        "source_mask": lengths(S).astype(np.float32),
        "target": rng.integers(3, V, (B, T)).astype(np.int32),
        "mask": lengths(T).astype(np.float32),
        "example_id": np.arange(B, dtype=np.int32),
        "weight": np.ones(B, np.float32),
        "paired": np.float32([1, 0, 1, 0]),
    }


@pytest.fixture(scope="module")
def steps():
    ours, theirs = networks()
    return Steps(*ours, clip=9.0, reverse=theirs)


@pytest.fixture(scope="module")
def state(steps):
    begun = jax.jit(lambda: steps.begin_phase(steps.init(0, batch()), 0, PAIRS))()
    return jax.device_get(begun)


def step(steps, state, given, phase):
    after, metrics = steps.train_step(
        jax.tree.map(jnp.asarray, state), given, phase=phase, network="generator"
    )
    return jax.device_get(after), jax.device_get(metrics)


def alone(steps, state, given):
    """Both translators after an update each, by itself and from a batch of its own."""
    ours, theirs = given
    forward, _ = step(steps, state, ours, ALONE)
    turned = state.replace(generator=state.reverse)
    backward, _ = step(steps.reverse, turned, theirs, ALONE)
    return forward.generator.params, backward.generator.params


def assert_close(a, b):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), a, b)


def moved(a, b):
    return any(np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_of_pairs_each_learns_as_if_it_were_alone(steps, state):
    given = batch()
    after, metrics = step(steps, state, given, PAIRS)
    expected = alone(steps, state, (given, Steps.turned(given)))
    assert_close((after.generator.params, after.reverse.params), expected)
    assert moved(after.generator.params, state.generator.params)
    # Both are untrained: what they find is about what guessing would.
    for name, size in (("loss", V), ("loss_reverse", SOURCES)):
        assert abs(metrics[f"generator/{name}"] - np.log(size)) < 0.5


def test_without_a_pair_each_reads_what_the_other_writes(steps, state):
    given, weight = batch(), 0.25
    after, metrics = step(steps, state, given, dual(weight))
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
    turned = Steps.turned(given)
    written = (
        jax.jit(steps.reverse._translated)(
            state.reverse.params, turned, jax.random.fold_in(key, REVERSE)
        ),
        jax.jit(steps._translated)(state.generator.params, given, key),
    )
    batches = []
    for own, sample in zip((given, turned), written, strict=True):
        own = {name: np.array(value) for name, value in own.items()}
        for row in (1, 3):
            own["source"][row] = sample.tokens[row]
            own["source_mask"][row] = sample.mask[row]
        own["factor"] = np.float32([1, weight, 1, weight])
        batches.append(own)
    assert_close((after.generator.params, after.reverse.params), alone(steps, state, batches))
    # The weight scales a row's loss, whatever else is in the batch.
    for params, which, own, name in (
        (state.generator.params, steps, batches[0], "loss"),
        (state.reverse.params, steps.reverse, batches[1], "loss_reverse"),
    ):
        given = {name: value for name, value in own.items() if name not in ("paired", "factor")}
        each = which.likelihood(params, given, jax.random.key(0), num_noise=1)
        expected = np.vdot(own["factor"], each) / own["mask"].sum()
        np.testing.assert_allclose(metrics[f"generator/{name}"], expected, rtol=1e-4)


def test_a_text_alone_teaches_only_the_one_that_writes_it(steps, state):
    """Another source in a row that is no pair: the translator to targets never reads it."""
    given = batch()
    other = given | {"source": given["source"].copy()}
    other["source"][1] = given["source"][1, ::-1]
    (a, _), (b, _) = (step(steps, state, x, dual(1.0)) for x in (given, other))
    assert not moved(a.generator, b.generator)
    assert moved(a.reverse, b.reverse)


@pytest.mark.parametrize("broken", ["generator", "reverse"])
def test_a_step_that_is_not_finite_is_skipped_in_one_alone(steps, state, broken):
    network = getattr(state, broken)
    start = jax.tree.map(lambda x: np.nan * x, network.params["start"])
    params = network.params | {"start": start}
    bad = state.replace(**{broken: network.replace(params=params)})
    whole = {"generator": "reverse", "reverse": "generator"}[broken]
    after, metrics = step(steps, bad, batch(), PAIRS)
    assert metrics["guard/skipped"] == 1
    assert metrics["guard/in_a_row"] == 1
    np.testing.assert_array_equal(
        getattr(after, broken).params["embedding"], network.params["embedding"]
    )
    assert moved(getattr(after, whole).params, getattr(state, whole).params)


class Babbling(Steps):
    """Translations are random words, so that texts alone teach what is likely, and no more."""

    def _translated(self, params, batch, key):
        found = super()._translated(params, batch, key)
        words = jax.random.randint(key, found.tokens.shape, 3, self.vocabulary.size)
        return found._replace(tokens=jnp.where(found.mask > 0, words, found.tokens))


def networks():
    theirs = LSTMGenerator(SOURCES, BiLSTMEncoder(V, 4, 6), 5, 8, 1, 4, 6, Z)
    ours = LSTMGenerator(V, BiLSTMEncoder(SOURCES, 4, 6), 5, 8, 1, 4, 6, Z)
    judge = LSTMDiscriminator(V, BiLSTMEncoder(SOURCES, 4, 6), 5, 8, 1, 4, 4, 2, 2)
    words = lambda size: Vocabulary(size=size, bos=1, pad=0, eos=2)
    return (ours, judge, words(V), T), Reverse(theirs, words(SOURCES), S)


def test_they_learn_from_each_other(steps):
    """Six pairs of equal texts, and hundreds of texts alone: more than what is likely is learnt."""
    rng = np.random.default_rng(1)

    def texts(count):
        """Each letter is followed by the next one or the one after it."""
        first, more = rng.integers(0, 4, (count, 1)), rng.integers(1, 3, (count, 3))
        return np.cumsum(np.concatenate([first, more], 1), 1) % 4

    def rows(letters, sources, paired):
        count = len(letters)
        whole = lambda x, size: np.pad(x + 3, ((0, 0), (0, size - 4)))
        mask = lambda size: np.tile(np.float32(np.arange(size) < 4), (count, 1))
        return {
            "source": whole(sources, S).astype(np.int32),
            "source_mask": mask(S),
            "target": whole(letters, T).astype(np.int32),
            "mask": mask(T),
            "example_id": np.arange(count, dtype=np.int32),
            "weight": np.ones(count, np.float32),
            "paired": np.full(count, paired, np.float32),
        }

    known, alone, held_out = texts(6), texts(400), texts(64)
    pairs = rows(known, known, 1)
    test = {k: v for k, v in rows(held_out, held_out, 1).items() if k != "paired"}

    def nll(steps, phase):
        rng = np.random.default_rng(2)
        begun = jax.jit(lambda: steps.begin_phase(steps.init(2, batch()), 0, PAIRS))()
        for k in range(300):
            picked = rng.integers(0, len(known), 8)
            given = {name: x[picked] for name, x in pairs.items()}
            if phase is not PAIRS and k >= 100:
                others = rows(*(alone[rng.integers(0, 400, 8)] for _ in range(2)), 0)
                given = {name: np.concatenate([x, others[name]]) for name, x in given.items()}
            begun, _ = steps.train_step(begun, given, phase=phase if k >= 100 else PAIRS,
                                        network="generator")  # fmt: skip
        found = steps.likelihood(begun.generator.params, test, jax.random.key(0), num_noise=1)
        return float(np.mean(found)) / 4

    ours, theirs = networks()
    babbling = Babbling(*ours, clip=9.0, reverse=theirs)
    babbling.reverse = Babbling(theirs.generator, ours[1], *theirs[1:], clip=9.0)
    of_texts, of_pairs = nll(babbling, dual(1.0)), nll(steps, PAIRS)
    assert nll(steps, dual(1.0)) < 0.9 * min(of_texts, of_pairs)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, count in (("train", 60), ("val", 12)):
        for language, words in (("de", "der Hund Nummer {} läuft"), ("en", "dog number {} runs")):
            lines = "\n".join(words.format(i) for i in range(count))
            (folder / f"{name}.{language}").write_text(lines + "\n", encoding="utf-8")
    (tmp_path / "more.en").write_text("dogs run\n\nnumber 7 runs\n", encoding="utf-8")
    return folder


def run(folder, corpus, **changes):
    """The state at the end of a run of both phases, and the figures on the way."""
    config = runpy.run_path(str(ROOT / "configs" / "translation.py"))["get_config"]("smoke")
    dual = runpy.run_path(str(ROOT / "configs" / "translation.py"))["get_config"]("dual").phases
    for name in ("align", "dual"):
        config.phases[name] = dual[name].copy_and_resolve_references()
        config.phases[name].update(steps=2, batch_size=4, evaluate_every=2)
        config.phases[name].generator.decay = 0.0
    config.phases.order = ("align", "dual")
    config.codec.update(kind="word", max_size=90, max_length=20, max_source_length=24)
    config.data.update(
        path=str(corpus),
        source_language="de",
        target_language="en",
        target_texts=str(corpus.parent / "more.en"),
        validation_size=8,
        num_buckets=1,
        aligned=0.5,
    )
    config.update_from_flattened_dict(changes)
    with Progress(quiet=True) as progress:
        state = jax.device_get(Run(folder, config.lock(), progress).loop.run())
    with open(folder / "metrics.jsonl", encoding="utf-8") as file:
        return state, [json.loads(line) for line in file]


def test_a_run_of_both_phases_goes_on_where_it_was(corpus, tmp_path):
    """The reverse translator is in the checkpoints, and its likelihood in the evaluations.

    Batches are cut to their longest text here, and what is written to be read is not.
    """
    whole, _ = run(tmp_path / "whole", corpus, **{"phases.dual.steps": 4})
    run(tmp_path / "halves", corpus)
    halves, figures = run(tmp_path / "halves", corpus, **{"phases.dual.steps": 4})
    for network in ("generator", "reverse"):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(whole, network), getattr(halves, network)
        )
    found = [line["validation/nll_reverse"] for line in figures if "validation/nll_reverse" in line]
    assert len(found) == 3
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.aligned": 1.0, "data.target_texts": None}, "config.data.aligned: all pairs are"),
        ({"data.aligned": 0.0}, "config.data.aligned: 0 is no share of pairs; set 0 to 1"),
        ({"data.aligned": 0.001}, "config.data.aligned: 0.001 of 52 pairs are none"),
        ({"data.source_texts": "nowhere.de"}, "nowhere.de: can't be read"),
        ({"data.path": None}, "config.data.aligned: is for texts of your own"),
        ({"data.path": None, "data.aligned": 1.0}, "config.data.target_texts: is for texts of"),
        ({"phases.order": ("dual",)}, "config.phases.dual.generator.consistency: nothing before"),
        (
            {
                "phases.order": ("pretrain_generator", "align", "dual"),
                "phases.dual.start_from": "pretrain_generator",
                "phases.pretrain_generator.start_from": "",
                "phases.pretrain_generator.stop.regain": False,
            },
            "config.phases.dual.generator.consistency: nothing before",
        ),
        (
            {"phases.dual.generator.mle": 0.0, "phases.dual.generator.words": 1.0},
            "config.phases.dual.generator.consistency: is how much maximum",
        ),
        (
            {"phases.dual.frozen": ("generator/encoder",)},
            "config.phases.dual.frozen: names no parameters of the reverse",
        ),
        ({"phases.dual.reverse": False}, "config.phases.dual.generator.consistency: needs a"),
        ({"phases.dual.targets": 2}, "config.phases.dual.reverse: True is for a phase of maximum"),
    ],
)
def test_what_makes_no_sense_is_refused(corpus, tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", corpus, **changes)
    assert str(error.value).startswith(words)
    assert not (tmp_path / "run" / "config.json").exists()
