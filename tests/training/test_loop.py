"""A whole run in this process: what it leaves behind, and how it stops and goes on."""

import contextlib
import dataclasses
import io
import json
import math
import runpy
import shutil
import signal
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from rich.console import Console

from seqgan_jax.data import pipeline
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import held_out
from seqgan_jax.programs import start
from seqgan_jax.programs.run import Run
from seqgan_jax.programs.train import train
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import loop as loop_module
from seqgan_jax.training import phases
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.loop import Interrupted, Loop
from seqgan_jax.training.phases import Stop

ROOT = Path(__file__).parents[2]


def timeless(workdir):
    """The record without the wall clock's values."""
    timed = lambda name: name.rpartition("/")[2] == "seconds" or name.endswith("_per_second")
    return [{k: v for k, v in row.items() if not timed(k)} for row in read_metrics(workdir)]


def states(workdir, *names):
    with Progress(quiet=True) as progress:
        run = Run(workdir, None, progress)
        return [jax.device_get(run.restore(name)) for name in names]


def test_every_step_and_evaluation_is_recorded(finished_run, tiny_config):
    schedule = phases.parse(tiny_config.phases)
    records = timeless(finished_run)
    expected, step = [], 0
    for phase in schedule:
        for done in range(phase.steps):
            step += 1
            network = phase.network(done) if phase.networks else "calibration"
            expected.append((step, phase.name, network))
        expected.append((step, phase.name, "validation"))
    found = [(r["step"], r["phase"], next(k for k in r if "/" in k).split("/")[0]) for r in records]
    assert found == expected
    for phase in schedule[:-1]:
        rates = [
            r["generator/learning_rate"]
            for r in records
            if r["phase"] == phase.name and "generator/learning_rate" in r
        ]
        steps = [i for i in range(phase.steps) if phase.network(i) == "generator"]
        wanted = [float(phase.generator.rate(i, phase.steps)) for i in steps]
        np.testing.assert_allclose(rates, wanted, rtol=1e-5)


def test_what_a_run_tells_of_its_steps(finished_run):
    """TensorBoard gets what `metrics.jsonl` gets, see test_metrics_log; memory where it is told."""
    rows = read_metrics(finished_run)
    for network in ("generator", "discriminator"):
        own = [row for row in rows if f"{network}/gradient_norm" in row]
        assert any(row[f"{network}/gradient_norm"] > 0 for row in own)
        timed = [row for row in own if "step/seconds" in row]
        assert timed
        for row in timed:
            assert row["step/seconds"] > 0
            assert row["step/tokens_per_second"] > 0
            assert 0 <= row["input/waiting_seconds_per_second"] <= 1
    # A program compiles at its first step, and that is where it is told of.
    assert rows[0]["compile/seconds"] > 0
    assert any("compile/seconds" not in row for row in rows)


def test_the_last_evaluation_is_what_is_shown_at_the_end(tiny_config, tmp_path, monkeypatch):
    """Nothing is evaluated twice, and a run that was finished before is evaluated once."""
    order = tiny_config.phases.order
    for name in order:
        tiny_config.phases[name].steps = 1
    every = list(range(1, len(order) + 1))
    seen, evaluate = [], Loop.evaluate
    monkeypatch.setattr(
        Loop, "evaluate", lambda self, state: seen.append(int(state.step)) or evaluate(self, state)
    )
    train(tiny_config, str(tmp_path), quiet=True)
    assert seen == every
    for name in ("captions.json", "captions.png"):
        last = (tmp_path / "samples" / f"{len(order):08d}-{order[-1]}" / name).read_bytes()
        assert (tmp_path / "samples" / "final" / name).read_bytes() == last
    train(tiny_config, str(tmp_path), quiet=True)
    assert seen == [*every, every[-1]]


def test_ends_of_phases_and_pictures_are_kept(finished_run, tiny_config):
    order = tiny_config.phases.order
    *ends, best = states(finished_run, *order, "best")
    step = 0
    for phase, state in zip(phases.parse(tiny_config.phases), ends, strict=True):
        step += phase.steps
        assert int(state.step) == step
        folder = finished_run / "samples" / f"{step:08d}-{phase.name}"
        rows = json.loads((folder / "captions.json").read_text())
        assert len(rows) == tiny_config.evaluation.num_pictures
        assert (folder / "captions.png").stat().st_size > 1000
    assert int(best.step) == step
    assert not list(finished_run.rglob("*tmp*"))


def test_a_finished_run_says_so_and_trains_no_more(finished, tiny_config, capsys, monkeypatch):
    def no_step(*args, **kwargs):
        raise AssertionError("trained")

    finished_run, run = finished
    monkeypatch.setattr(run.steps, "train_step", no_step)  # which runs of one process share
    before, files = timeless(finished_run), sorted((finished_run / "checkpoints").iterdir())
    train(tiny_config, str(finished_run))
    assert "this run is finished" in capsys.readouterr().out
    assert timeless(finished_run) == before
    assert sorted((finished_run / "checkpoints").iterdir()) == files


@pytest.fixture
def signal_at(monkeypatch):
    """Sends this process a signal while a step of a phase is under way; 0: Cloud's notice."""
    update, start = Progress.update, Progress.start_phase
    plan, now, listening = {}, [], []
    watch = lambda function: listening.append(function) or contextlib.nullcontext()
    monkeypatch.setattr(loop_module, "PreemptionNotice", watch)

    def started(self, name, *args):
        now[:] = [name]
        return start(self, name, *args)

    def updated(self, step, *args):
        if plan.get("at") == (*now, step):
            number = plan["signal"]
            plan.clear()
            signal.raise_signal(number) if number else listening[-1]("preempted")
        return update(self, step, *args)

    monkeypatch.setattr(Progress, "start_phase", started)
    monkeypatch.setattr(Progress, "update", updated)
    return lambda number, name, step: plan.update(signal=number, at=(name, step))


def test_interrupted_runs_end_the_same(
    finished, tiny_config, tmp_path, capsys, signal_at, monkeypatch
):
    finished_run, run = finished
    compiled = run.steps.train_step._cache_size()
    start_counts = []
    batches = pipeline.training_batches
    monkeypatch.setattr(
        pipeline,
        "training_batches",
        lambda *a, **k: start_counts.append(k["start"]) or batches(*a, **k),
    )
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    order = tiny_config.phases.order
    for number, name, step in (
        (signal.SIGTERM, order[0], 1),
        (0, "adversarial", 3),
    ):
        signal_at(number, name, step)
        start_counts.clear()
        with pytest.raises(SystemExit) as stop:
            start.main(lambda: train(tiny_config, str(tmp_path), quiet=True))
        assert stop.value.code == 128 + signal.SIGTERM
        lines = capsys.readouterr().err.splitlines()
        done = sum(tiny_config.phases[n].steps for n in order[: order.index(name)]) + step
        why = "" if number else "preemption notice (preempted): "
        assert lines == [f"{why}saved at step {done}; the same command goes on from there"]
        assert timeless(tmp_path)[-1]["step"] == done
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    start_counts.clear()
    train(tiny_config, str(tmp_path), quiet=True)
    # Each network's batches already used are not made again; then comes the fine-tuning.
    assert start_counts == [2, 1, 0, 0]
    assert timeless(tmp_path) == timeless(finished_run)
    (ours,), (theirs,) = states(tmp_path, "last"), states(finished_run, "last")
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    # What comes from a checkpoint is of the types that a new state has: nothing compiles anew.
    assert run.steps.train_step._cache_size() == compiled


def test_a_second_signal_ends_the_run_at_once(monkeypatch):
    loop, raised, handlers = Loop.__new__(Loop), [], []  # what a handler needs of it
    loop._signal = 0
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    monkeypatch.setattr(signal, "signal", lambda *which: handlers.append(which))
    loop._on_signal(signal.SIGINT, None)
    assert (raised, handlers) == ([], [])
    loop._on_signal(signal.SIGINT, None)
    assert handlers == [(signal.SIGINT, signal.SIG_DFL)]
    assert raised == [signal.SIGINT]


def test_a_signal_at_the_last_step_ends_the_run(tiny_config, capsys, signal_at, tmp_path):
    """There is nothing left to go on with."""
    first = tiny_config.phases.order[0]
    tiny_config.phases.order = (first,)
    signal_at(signal.SIGINT, first, 3)
    train(tiny_config, str(tmp_path))
    assert "this run is finished" in capsys.readouterr().out


def test_steps_compile_once_in_a_run(finished):
    """Nothing that the loop does between steps makes them compile again."""
    _, run = finished
    programs = {(phase.step_of(n), n) for phase in run.phases for n in phase.networks}
    # Evaluation meets the same shapes every time.
    assert run.compiled == [len(programs), 1]
    # Fine-tuning makes the updates of the adversarial phase, in another order.
    assert len(programs) == sum(len(phase.networks) for phase in run.phases[:-2])


def test_unknown_select_is_a_users_error(tiny_config, tmp_path):
    first = tiny_config.phases.order[0]
    tiny_config.phases[first].update(select="beauty", steps=1)
    with pytest.raises(UserError, match=rf"^config.phases.{first}.select: no figure 'beauty'; "):
        train(tiny_config, str(tmp_path), quiet=True)


# Every kind of phase, on an oracle small enough to run many times over.


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run whose phases are of every kind; its compiled steps serve all loops below."""
    config = runpy.run_path(str(ROOT / "configs" / "oracle.py"))["get_config"]("smoke")
    config.generator.num_layers = 1
    config.discriminator = ml_collections.ConfigDict(
        {"kind": "window", "embedding_size": 4, "hidden_size": 8, "width": 2, "members": 1}
    )
    config.oracle.update(vocabulary=9, size=3)
    config.data.update(length=4, train_size=8, validation_size=6, test_size=6)
    order = ("pretrain_generator", "pretrain_discriminator", "pretrain_adversarial")
    config.phases.order = (*order, "adversarial", "finetune", "calibrate")
    for name in config.phases.order[:-1]:
        config.phases[name].update(steps=6, batch_size=4, evaluate_every=2)
        config.phases[name].generator.update(estimator="dense", baseline="position")
        config.phases[name].discriminator.update(classification=1.0, mle=0.0, per_step=1.0)
    # Nothing improves by so much: the second evaluation after the first ends the phase.
    config.phases.pretrain_generator.update(steps=20)
    config.phases.pretrain_generator.stop.update(patience=2, min_change=100.0)
    config.phases.pretrain_adversarial.stop.update(patience=1, min_change=100.0)
    config.phases.adversarial.discriminator.update(fresh=False, band=(0.5, 0.5), band_every=2)
    config.phases.adversarial.generator.update(kl=0.1)
    config.phases.finetune.update(freeze_turn=2, start_from="adversarial", frozen=(".*/embedding",))
    config.phases.calibrate.start_from = "finetune"
    config.evaluation.update(batch_size=4, validation_limit=6, num_pictures=1)
    config.logging.update(every=1, checkpoint_every=3)
    config.guard.update(patience=2, limit=2)
    with Progress(quiet=True) as progress:
        return Run(tmp_path_factory.mktemp("small"), config.lock(), progress)


class Poisoned:
    """The task with weights that aren't numbers in some batches of the generator's first phase."""

    def __init__(self, task, numbers, times):
        self.task, self.numbers, self.left = task, numbers, times

    def __getattr__(self, name):
        return getattr(self.task, name)

    def training_batches(self, *, seed, start, **options):
        batches = self.task.training_batches(seed=seed, start=start, **options)
        for number, batch in enumerate(batches, start):
            if seed == 0 and number in self.numbers and self.left:
                self.left -= 1
                batch = batch | {"weight": np.full_like(batch["weight"], np.nan)}
            yield batch


def run_in(small, workdir, task=None, phases=None, **changes):
    """What a new process would do in a directory: its final state, and what it told."""
    workdir.mkdir(exist_ok=True)
    shutil.copy(small.workdir / "config.json", workdir)
    guard = dataclasses.replace(small.loop.guard, **changes)
    told = io.StringIO()
    with Progress(console=Console(file=told, width=300)) as progress:
        loop = Loop(small.config, workdir, task or small.task, small.steps,
                    phases or small.phases, guard, progress)  # fmt: skip
        try:
            return jax.device_get(loop.run()), told
        except UserError as error:
            return error, told


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The directory of that run without interruption, its state, and what it told."""
    workdir = tmp_path_factory.mktemp("whole")
    state, told = run_in(small, workdir)
    return workdir, state, told.getvalue()


def kept(workdir):
    """The checkpoints: step -> phase, whether it ended there."""
    checkpoints = Checkpoints(workdir, read_only=True)
    return {step: (phase, ended) for step, (phase, ended, _) in checkpoints.scores().items()}


def restored(like, workdir, which):
    checkpoints = Checkpoints(workdir, read_only=True)
    state = checkpoints.restore(checkpoints.find(which), shapes(jax.tree.map(jnp.array, like)))
    return jax.device_get(state)


def test_phases_end_where_nothing_improves(whole):
    workdir, state, told = whole
    # Evaluations at 2, 4, 6 of which the first improves on nothing; at 2, 4 with patience 1.
    lengths = {"pretrain_generator": 6, "pretrain_discriminator": 6, "pretrain_adversarial": 4}
    lengths |= {"adversarial": 6, "finetune": 6, "calibrate": 1}
    ends = dict(zip(np.cumsum(list(lengths.values())).tolist(), lengths, strict=True))
    assert {step: phase for step, (phase, ended) in kept(workdir).items() if ended} == ends
    assert (
        "phase pretrain_generator ends at step 6: no improvement of nll by 100 in 2 evalu" in told
    )
    assert "nll and discriminator_loss by 100 in 1 evaluations" in told
    assert int(state.step) == sum(lengths.values())


def test_what_is_frozen_in_each_phase(whole):
    workdir, state, _ = whole
    adversarial, finetune = (restored(state, workdir, x) for x in ("adversarial", "finetune"))
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    for network in ("generator", "discriminator"):
        before, after = (getattr(s, network) for s in (adversarial, finetune))
        same(before.params["embedding"], after.params["embedding"])
        for moment in ("mu", "nu"):
            ours, theirs = (getattr(n.optimizer, moment) for n in (before, after))
            same(ours["embedding"], theirs["embedding"])
        moved = [
            np.any(x != y)
            for x, y in zip(*map(jax.tree.leaves, (before.params, after.params)), strict=True)
        ]
        assert any(moved)
        same(after, getattr(state, network))  # both are frozen in the last phase
    same(
        adversarial.reference,
        restored(state, workdir, "pretrain_adversarial").generator.params,
    )


def test_turns_that_are_not_taken_have_no_figures(whole):
    rows = [
        r for r in timeless(whole[0]) if r["phase"] == "adversarial" and "discriminator/turn" in r
    ]
    assert rows
    for row in rows:
        assert ("discriminator/loss" in row) == (row["discriminator/turn"] == 1)
        assert 0 <= row["discriminator/held_out_accuracy"] <= 1
        assert row["discriminator/turn"] or row["discriminator/held_out_accuracy"] >= 0.5


def test_a_phase_starts_from_the_checkpoint_that_it_names(small, whole):
    workdir, state, _ = whole
    for which in ("best", "pretrain_generator"):
        phase = dataclasses.replace(small.phases[4], start_from=which)
        loop = Loop(small.config, workdir, small.task, small.steps, (*small.phases[:4], phase),
                    small.loop.guard, Progress(quiet=True))  # fmt: skip
        checkpoints = Checkpoints(workdir)
        began = jax.device_get(loop.begin(jax.tree.map(jnp.array, state), 4, checkpoints))
        found = restored(state, workdir, which)
        jax.tree.map(np.testing.assert_array_equal, began.generator.params, found.generator.params)
        assert int(began.step) == int(state.step)
        checkpoints.close()


def test_runs_interrupted_in_every_phase_end_the_same(small, whole, tmp_path, signal_at):
    phases = [phase for phase in small.phases if phase.networks]
    for number, phase in enumerate(phases):
        signal_at(signal.SIGINT, phase.name, 1 + number % 3)
        with pytest.raises(Interrupted):
            run_in(small, tmp_path)
        assert timeless(tmp_path)[-1]["phase"] == phase.name
    state, _ = run_in(small, tmp_path)
    assert timeless(tmp_path) == timeless(whole[0])
    jax.tree.map(np.testing.assert_array_equal, state, whole[1])
    assert {p.name for p in (tmp_path / "samples").iterdir()} == {
        p.name for p in (whole[0] / "samples").iterdir()
    }


# Figures that are of no use at once


@pytest.fixture(scope="module")
def seldom(small):
    """The same run, which records every hundredth update of a phase."""
    config = small.config.copy_and_resolve_references()
    config.logging.every = 100
    same = {name: getattr(small, name) for name in ("workdir", "task", "steps", "phases", "loop")}
    return types.SimpleNamespace(config=config, **same)


@pytest.mark.parametrize("long", [math.inf, -1.0])
def test_the_device_has_its_next_update_before_figures_are_read(seldom, small, tmp_path, long):
    """And is waited for where a checkpoint is due, every third update, or a record is.

    Always where an update takes long.
    """
    phase = dataclasses.replace(small.phases[0], stop=Stop(), steps=8, evaluate_every=8)
    events, given = [], small.steps.train_step
    with pytest.MonkeyPatch.context() as patch:
        told_of = loop_module._read
        patch.setattr(loop_module, "_read", lambda found: events.append("read") or told_of(found))
        count = lambda *args, **kwargs: events.append("give") or given(*args, **kwargs)
        patch.setattr(small.steps, "train_step", count)
        patch.setattr(loop_module, "_LONG", long)
        state, _ = run_in(seldom, tmp_path / "seldom", None, (phase,))
    late = [
        *("give", "read"),
        *("give", "give", "read", "read"),
        *("give", "give", "read", "give", "read", "read"),
        *("give", "give", "read", "read"),
    ]
    assert events == (late if long > 0 else 8 * ["give", "read"])
    wanted, _ = run_in(small, tmp_path / "often", None, (phase,))
    jax.tree.map(np.testing.assert_array_equal, state, wanted)
    rows, others = (timeless(tmp_path / name) for name in ("seldom", "often"))
    assert rows == [row for row in others if row["step"] == 1 or row["step"] == 8]
    assert rows
    timed = [row for row in read_metrics(tmp_path / "seldom") if "step/seconds" in row]
    assert all(0 < row["step/seconds"] < 60 for row in timed)


def test_a_run_that_reads_figures_late_is_interrupted_and_goes_back_alike(
    seldom, small, tmp_path, signal_at, monkeypatch
):
    monkeypatch.setattr(loop_module, "_LONG", math.inf)
    phase = dataclasses.replace(small.phases[0], stop=Stop(), steps=8, evaluate_every=8)
    signal_at(signal.SIGINT, phase.name, 4)
    with pytest.raises(Interrupted, match="saved at step 5"):  # which the device had already
        run_in(seldom, tmp_path, None, (phase,))
    assert set(kept(tmp_path)) == {3, 5}
    state, told = run_in(seldom, tmp_path, Poisoned(small.task, {5, 6}, 2), (phase,))
    assert (
        "2 updates in a row up to step 7 had a loss or a gradient that is not finite; going back "
        "to step 5 with learning rates times 0.5"
    ) in told.getvalue()
    assert (int(state.step), int(state.safety.rollbacks)) == (8, 1)


# Guards


def test_a_few_bad_updates_are_skipped_and_counted(small, tmp_path):
    state, told = run_in(small, tmp_path, Poisoned(small.task, {1}, 9), small.phases[:1])
    rows = [r for r in timeless(tmp_path) if "generator/loss" in r]
    assert [r.get("guard/skipped") for r in rows] == [None, 1, 1, 1, 1, 1]
    assert rows[1]["generator/loss"] is None
    assert int(state.safety.rollbacks) == 0
    assert "going back" not in told.getvalue()


def test_bad_updates_in_a_row_go_back_with_smaller_steps(small, tmp_path):
    """To step 3, the last checkpoint before them; twice, and then they are over."""
    task = Poisoned(small.task, {4, 5}, 4)
    phase = dataclasses.replace(small.phases[0], stop=Stop(), steps=8, evaluate_every=8)
    state, told = run_in(small, tmp_path, task, (phase,))
    for scale in (0.5, 0.25):
        assert f"going back to step 3 with learning rates times {scale}" in told.getvalue()
    rows = [r for r in timeless(tmp_path) if "generator/loss" in r]
    assert [r["step"] for r in rows] == list(range(1, 9))
    assert [r.get("guard/rollbacks") for r in rows] == [None] * 3 + [2] * 5
    assert [r.get("guard/skipped") for r in rows] == [None] * 3 + [4] * 5
    for row in rows:
        rate = float(phase.generator.rate(row["step"] - 1, 8))
        wanted = rate * (0.25 if row["step"] > 3 else 1)
        np.testing.assert_allclose(row["generator/learning_rate"], wanted, rtol=1e-5)
    assert float(state.safety.scale) == 0.25
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.generator.params))


def test_a_run_that_breaks_again_and_again_stops_and_keeps_what_it_had(small, tmp_path):
    phase = dataclasses.replace(small.phases[0], stop=Stop(), steps=8, evaluate_every=8)
    error, _ = run_in(small, tmp_path, Poisoned(small.task, {4, 5}, 99), (phase,))
    assert str(error).startswith("config.guard.limit: phase pretrain_generator: 2 updates in a row")
    assert "after going back 2 times" in str(error)
    assert set(kept(tmp_path)) == {3}
    # Without the cause the same directory goes on.
    state, _ = run_in(small, tmp_path, None, (phase,))
    assert int(state.step) == 8


def test_going_back_to_the_start(small, tmp_path):
    """Before there is a checkpoint, the run begins anew."""
    phase = dataclasses.replace(small.phases[0], stop=Stop(), steps=3)
    state, told = run_in(small, tmp_path, Poisoned(small.task, {0, 1}, 2), (phase,))
    assert "going back to step 0 with learning rates times 0.5" in told.getvalue()
    assert (int(state.step), float(state.safety.scale)) == (3, 0.5)


def test_distinct_sequences_are_counted_up_to_their_end():
    sample = lambda tokens, mask: held_out.Sample(np.array(tokens), np.array(mask), None, None)
    samples = [
        sample([[1, 2, 3], [1, 2, 4]], [[1, 1, 0], [1, 1, 0]]),  # equal but for padding
        sample([[1, 2, 3], [5, 2, 3]], [[1, 1, 1], [1, 1, 1]]),
    ]
    assert loop_module._distinct(samples) == 3 / 4


@pytest.mark.parametrize("stop", [False, True])
def test_collapsed_samples_are_told_of_and_may_end_a_phase(small, tmp_path, stop):
    """By a share that no evaluation reaches."""
    phase = dataclasses.replace(small.phases[0], stop=Stop(), steps=4)
    state, told = run_in(small, tmp_path, None, (phase,), distinct=1.1, stop=stop)
    text = told.getvalue()
    assert text.count("warning: phase pretrain_generator, step 2: only ") == 1
    assert int(state.phase_step) == (2 if stop else 4)
    assert ("ends at step 2: only " in text) == stop


def test_a_fall_of_the_entropy_ends_a_phase(small, tmp_path, monkeypatch):
    """The third figure is below a share of 0.9 of the first."""
    figures = iter([1.0, 0.95, 0.85, 0.8, 0.8, 0.8])
    told_of = loop_module._read

    def read(found):
        told, scalars = told_of(found)
        return told | {"entropy": next(figures)}, scalars

    monkeypatch.setattr(loop_module, "_read", read)
    phase = dataclasses.replace(small.phases[0], stop=Stop(), steps=6, evaluate_every=6)
    state, told = run_in(small, tmp_path, None, (phase,), entropy=0.9, stop=True)
    assert int(state.phase_step) == 3
    assert (
        "the entropy of samples has fallen to 85% of what the phase began with" in told.getvalue()
    )
    assert kept(tmp_path) == {3: ("pretrain_generator", True)}
