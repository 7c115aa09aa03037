"""A whole run in this process: what it leaves behind, and how it stops and goes on."""

import json
import signal

import jax
import numpy as np
import pytest

from seqgan_jax import program
from seqgan_jax.data import pipeline
from seqgan_jax.errors import UserError
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import phases
from seqgan_jax.training.loop import Loop
from seqgan_jax.training.steps import Steps


def timeless(workdir):
    """The record without the wall clock's values."""
    timed = lambda name: name.rpartition("/")[2] == "seconds" or name.endswith("_per_second")
    return [{k: v for k, v in row.items() if not timed(k)} for row in read_metrics(workdir)]


def states(workdir, *names):
    with Progress(quiet=True) as progress:
        run = program.Run(workdir, None, progress)
        return [jax.device_get(run.restore(name)) for name in names]


def test_every_step_and_evaluation_is_recorded(finished_run, tiny_config):
    schedule = phases.parse(tiny_config.phases)
    records = timeless(finished_run)
    expected, step = [], 0
    for phase in schedule:
        for done in range(phase.steps):
            step += 1
            expected.append((step, phase.name, phase.network(done)))
        expected.append((step, phase.name, "validation"))
    found = [(r["step"], r["phase"], next(k for k in r if "/" in k).split("/")[0]) for r in records]
    assert found == expected
    for phase in schedule:
        rates = [
            r["generator/learning_rate"]
            for r in records
            if r["phase"] == phase.name and "generator/learning_rate" in r
        ]
        steps = [i for i in range(phase.steps) if phase.network(i) == "generator"]
        wanted = [float(phase.generator.rate(i, phase.steps)) for i in steps]
        np.testing.assert_allclose(rates, wanted, rtol=1e-6)


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
    program.train(tiny_config, str(tmp_path), quiet=True)
    assert seen == every
    for name in ("captions.json", "captions.png"):
        last = (tmp_path / "samples" / f"{len(order):08d}-{order[-1]}" / name).read_bytes()
        assert (tmp_path / "samples" / "final" / name).read_bytes() == last
    program.train(tiny_config, str(tmp_path), quiet=True)
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
    assert (finished_run / "curves.png").exists()
    assert int(best.step) == step
    assert not list(finished_run.rglob("*tmp*"))


def test_a_finished_run_says_so_and_trains_no_more(finished_run, tiny_config, capsys, monkeypatch):
    def no_step(*args, **kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr(Steps, "_train_step", no_step)
    before, files = timeless(finished_run), sorted((finished_run / "checkpoints").iterdir())
    program.train(tiny_config, str(finished_run))
    assert "this run is finished" in capsys.readouterr().out
    assert timeless(finished_run) == before
    assert sorted((finished_run / "checkpoints").iterdir()) == files


@pytest.fixture
def signal_at(monkeypatch):
    """Sends this process a signal while a step of a phase is under way."""
    update, start = Progress.update, Progress.start_phase
    plan, now = {}, []

    def started(self, name, *args):
        now[:] = [name]
        return start(self, name, *args)

    def updated(self, step, *args):
        if plan.get("at") == (*now, step):
            signal.raise_signal(plan.pop("signal"))
            plan.clear()
        return update(self, step, *args)

    monkeypatch.setattr(Progress, "start_phase", started)
    monkeypatch.setattr(Progress, "update", updated)
    return lambda number, name, step: plan.update(signal=number, at=(name, step))


def test_interrupted_runs_end_the_same(
    finished_run, tiny_config, tmp_path, capsys, signal_at, monkeypatch
):
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
        (signal.SIGINT, order[0], 1),
        (signal.SIGTERM, "adversarial", 3),
    ):
        signal_at(number, name, step)
        start_counts.clear()
        with pytest.raises(SystemExit) as stop:
            program.main(lambda: program.train(tiny_config, str(tmp_path), quiet=True))
        assert stop.value.code == 130
        lines = capsys.readouterr().err.splitlines()
        done = sum(tiny_config.phases[n].steps for n in order[: order.index(name)]) + step
        assert lines == [f"saved at step {done}; the same command goes on from there"]
        assert timeless(tmp_path)[-1]["step"] == done
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    start_counts.clear()
    program.train(tiny_config, str(tmp_path), quiet=True)
    assert start_counts == [2, 1]  # each network's batches already used are not made again
    assert timeless(tmp_path) == timeless(finished_run)
    (ours,), (theirs,) = states(tmp_path, "last"), states(finished_run, "last")
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_signal_at_the_last_step_ends_the_run(tiny_config, capsys, signal_at, tmp_path):
    """There is nothing left to go on with."""
    first = tiny_config.phases.order[0]
    tiny_config.phases.order = (first,)
    signal_at(signal.SIGINT, first, 3)
    program.train(tiny_config, str(tmp_path))
    assert "this run is finished" in capsys.readouterr().out


def test_steps_compile_once_in_a_run(finished):
    """Nothing that the loop does between steps makes them compile again."""
    _, run = finished
    programs = {(phase.step_of(n), n) for phase in run.phases for n in phase.networks}
    assert run.steps.train_step._cache_size() == len(programs)
    # Fine-tuning makes the updates of the adversarial phase, in another order.
    assert len(programs) == sum(len(phase.networks) for phase in run.phases[:-1])
    # Evaluation meets the same shapes every time.
    assert run.steps.likelihood._cache_size() == 1


def test_unknown_select_is_a_users_error(tiny_config, tmp_path):
    first = tiny_config.phases.order[0]
    tiny_config.phases[first].update(select="beauty", steps=1)
    with pytest.raises(UserError, match=rf"^config.phases.{first}.select: no figure 'beauty'; "):
        program.train(tiny_config, str(tmp_path), quiet=True)
