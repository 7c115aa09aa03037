"""Replicas against runs of their own, and what is said of several by hand."""

import json
import math
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

import seqgan_jax
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.programs.evaluate import evaluate
from seqgan_jax.programs.run import Run
from seqgan_jax.programs.train import train
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import replicas

ROOT = Path(__file__).parents[2]
PHASES = ("pretrain_generator", "pretrain_discriminator", "adversarial", "calibrate")


def config(seed, seeds):
    """An oracle of 9 tokens and a rollout's worth of every kind of update."""
    config = runpy.run_path(str(ROOT / "configs" / "oracle.py"))["get_config"]("smoke")
    config.update(seed=seed, seeds=seeds)
    config.generator.num_layers = 1
    config.discriminator = {"kind": "window", "embedding_size": 4, "hidden_size": 8}
    config.discriminator.update(width=2, members=1)
    config.oracle.update(vocabulary=9, size=3)
    config.data.update(length=4, train_size=8, validation_size=6, test_size=6)
    config.phases.order = PHASES
    for name in PHASES[:-1]:
        config.phases[name].update(steps=4, batch_size=4, evaluate_every=100)
        config.phases[name].generator.update(estimator="dense", baseline="position")
        config.phases[name].discriminator.update(classification=1.0, mle=0.0)
    config.phases.calibrate.start_from = "adversarial"
    config.evaluation.update(batch_size=3, validation_limit=6, num_pictures=1)
    config.logging.every = 1
    return config.lock()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directory of a run of two seeds, and those of each alone."""
    folder = tmp_path_factory.mktemp("replicas")
    for name, seed, seeds in (("both", 3, 2), ("first", 3, 1), ("second", 4, 1)):
        train(config(seed, seeds), str(folder / name), quiet=True)
    return folder / "both", (folder / "first", folder / "second")


def opened(workdir: Path) -> Run:
    return Run(workdir, None, Progress(quiet=True))


def test_a_replica_is_the_run_of_its_seed(runs):
    both, alone = runs
    for replica, workdir in enumerate(alone):
        for which in PHASES:
            ours = opened(both).restore(which, replica)
            theirs = opened(workdir).restore(which)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, theirs)
    first, second = (opened(both).restore("last", replica) for replica in range(2))
    unlike = lambda a, b: not np.allclose(a, b, atol=1e-3)
    for network in ("generator", "discriminator"):
        pair = (jax.tree.leaves(getattr(state, network).params) for state in (first, second))
        assert any(unlike(a, b) for a, b in zip(*pair, strict=True))


def from_run(origin, workdir, seeds, which="last", **adversarial):
    """A run of the phase `adversarial` alone that would begin with the networks of another."""
    chosen = config(9, seeds).copy_and_resolve_references()
    chosen.unlock()
    chosen.phases.order = ("adversarial",)
    chosen.phases.adversarial.update(adversarial)
    chosen.update(init_from=str(origin), init_checkpoint=which)
    with Progress(quiet=True) as progress:
        return Run(workdir, chosen, progress)


def test_a_replica_begins_with_that_of_the_same_number(runs, tmp_path):
    """Also with a discriminator that stays as it is, since the other run has trained it."""
    both, alone = runs
    origins = (opened(both).restore("last", 0), opened(both).restore("last", 1))
    for name, origin, seeds, expected in (
        ("two", both, 2, origins),
        ("one", both, 1, origins[:1]),
        ("shared", alone[0], 2, [opened(alone[0]).restore("last")] * 2),
    ):
        loop = from_run(origin, tmp_path / name, seeds, freeze="discriminator").loop
        state = loop.initial_state(loop.start())
        for replica, theirs in enumerate(expected):
            ours = replicas.one(state, replica) if seeds > 1 else state
            for network in ("generator", "discriminator"):
                pair = (getattr(each, network).params for each in (ours, theirs))
                jax.tree.map(np.testing.assert_array_equal, *pair)
    with pytest.raises(UserError, match=r"^config.init_from=.* has 2 seeds; set config.seeds to"):
        from_run(both, tmp_path / "three", 3)
    untrained = r"adversarial.freeze: .* no phase trains the discriminator before what it starts"
    with pytest.raises(UserError, match=untrained):
        from_run(both, tmp_path / "frozen", 2, "pretrain_generator", freeze="discriminator")
    assert not (tmp_path / "frozen" / "config.json").exists()


def test_metrics_are_means_and_spreads(runs):
    both, alone = runs
    rows, (first, second) = read_metrics(both), map(read_metrics, alone)
    assert [row["step"] for row in rows] == [row["step"] for row in first]
    compared = 0
    for row, *each in zip(rows, first, second, strict=True):
        for name in each[0].keys() - {"step", "phase"}:
            if "second" in name or name.startswith(("compile", "memory", "time", "device")):
                continue
            values = [one[name] for one in each]
            assert row[name] == pytest.approx(np.mean(values), abs=1e-4), name
            if f"spread/{name}" in row:
                spread = np.std(values, ddof=1)
                assert row[f"spread/{name}"] == pytest.approx(spread, abs=1e-4), name
                compared += spread > 0
    assert compared > 20


def test_evaluation_over_seeds_and_of_one(runs, capsys):
    both, alone = runs
    options = {"split": "test", "checkpoints": ["last"], "swept": None, "num_samples": None}
    options |= {"num_noise": 1, "beam_size": None, "rerank": 1, "reject": False, "limit": None}
    options |= {"seed": 0, "batch_size": 3, "quiet": True}
    found = {}
    for name, workdir, replica in (
        ("all", both, None),
        ("second", both, 1),
        ("alone", alone[1], None),
    ):
        evaluate(str(workdir), replica=replica, **options)
        content = json.loads((workdir / "evaluation.json").read_text())
        found[name] = content["metrics"]["nll"]
        assert ("replicas" in content) == (name == "all")
        if name == "all":
            values = [each["nll"]["value"] for each in content["replicas"]]
    assert found["second"]["value"] == pytest.approx(found["alone"]["value"], abs=1e-5)
    assert values[1] == pytest.approx(found["alone"]["value"], abs=1e-5)
    assert found["all"]["value"] == pytest.approx(np.mean(values))
    assert found["all"]["n"] == 2
    assert found["all"]["stderr"] > 0
    assert "nll" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^--replica=2: .* config.seeds=2; choose from 0 to 1$"):
        evaluate(str(both), replica=2, **options)
    with pytest.raises(UserError, match=r"^--replica=1: .* config.seeds=1; leave it out$"):
        evaluate(str(alone[0]), replica=1, **options)


def test_a_replica_writes_what_the_run_of_its_seed_does(runs):
    both, alone = runs
    models = [seqgan_jax.load(both, replica=r) for r in range(2)] + list(
        map(seqgan_jax.load, alone)
    )
    written = [model.generate(num_samples=8, seed=5)[0].sample for model in models]
    for ours, theirs in zip(written[:2], written[2:], strict=True):
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-4)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    assert np.any(written[0].tokens != written[1].tokens)


def test_a_reward_is_for_one_seed(tmp_path):
    chosen = config(0, 2).copy_and_resolve_references()
    chosen.unlock()
    chosen.reward.update(function="length", weight=0.5)
    with pytest.raises(UserError, match=r"^config.seeds: an external reward is for one seed"):
        train(chosen, str(tmp_path / "run"), quiet=True)
    chosen.reward.update(function="", weight=0.0)
    chosen.seeds = 0
    with pytest.raises(UserError, match=r"^config.seeds: 0 is too small"):
        train(chosen, str(tmp_path / "run"), quiet=True)


def test_figures_and_spreads_by_hand():
    metric = lambda value: Metric(value, 0.5, 10, "nats")
    found = replicas.figures([{"a": metric(1.0)}, {"a": metric(2.0)}, {"a": metric(6.0)}])
    deviation = math.sqrt((4 + 1 + 9) / 2)
    assert found["a"] == pytest.approx((3.0, deviation / math.sqrt(3), 3, "nats"))
    assert replicas.spreads(found)["a"] == pytest.approx(deviation)
    assert replicas.figures([{"a": metric(1.0)}]) == {"a": metric(1.0)}


def test_scalars_of_replicas_that_skipped_their_turn():
    told = replicas.scalars(
        {"discriminator/loss": np.array([1.0, np.nan]), "guard/in_a_row": np.array([0, 2])}
    )
    assert told["discriminator/loss"] == 1.0
    assert told["guard/in_a_row"] == 2
    assert replicas.scalars({"generator/loss": np.float32(2.0)}) == {"generator/loss": 2.0}
