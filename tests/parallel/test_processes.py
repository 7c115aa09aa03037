"""Two processes take over a run of one: one of them is killed, or never comes."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seqgan_jax.programs import distributed
from seqgan_jax.programs.train import train
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.training import processes
from seqgan_jax.training.loop import Interrupted

ROOT = Path(__file__).parents[2]
PATIENCE = 600  # seconds until a process is taken to hang
STEPS = 400
BEGUN = 30
OPTIONS = {
    "oracle.vocabulary": 12,
    "data.length": 5,
    "data.train_size": 64,
    "data.validation_size": 8,
    "data.test_size": 8,
    "generator.num_layers": 1,
    "discriminator.kind": "window",
    "phases.order": ("pretrain_generator",),
    "phases.pretrain_generator.steps": STEPS,
    "phases.pretrain_generator.batch_size": 8,
    "phases.pretrain_generator.evaluate_every": STEPS,
    "logging.every": 1,
    "logging.checkpoint_every": 50,
    "evaluation.validation_limit": 8,
    "evaluation.batch_size": 8,
    "evaluation.num_pictures": 1,
}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def start(workdir, process, port, patience):
    command = [sys.executable, "train.py", "--config=configs/oracle.py:smoke", "--quiet"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in OPTIONS.items())]
    command += [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"]
    command += [f"--patience={patience}"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def child_of(process):
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


def single():
    config = runpy.run_path(str(ROOT / "configs" / "oracle.py"))["get_config"]("smoke")
    config.update_from_flattened_dict(OPTIONS)
    return config.lock()


def test_a_process_is_killed_and_the_run_goes_on_on_another_number(tmp_path, monkeypatch):
    # One process begins, and is asked to stop after a while.
    workdir, port = tmp_path / "run", free_port()
    with monkeypatch.context() as patch:
        asked = lambda step, number: signal.SIGTERM if step == BEGUN else 0
        patch.setattr(processes, "stop_after", asked)
        with pytest.raises(Interrupted):
            train(single(), str(workdir), quiet=True)
    assert read_metrics(workdir)[-1]["step"] == BEGUN

    # Two go on.
    both = [start(workdir, process, port, patience=60) for process in (0, 1)]
    deadline = time.monotonic() + PATIENCE
    first = workdir / "checkpoints" / str(BEGUN) / "manifest.json"
    while not set(workdir.glob("checkpoints/*/manifest.json")) - {first}:
        for process in both:
            assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child_of(both[1]), signal.SIGKILL)
    began = time.monotonic()
    _, errors = both[0].communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 120  # twice its patience
    last = errors.decode().splitlines()[-1]
    assert last.startswith("process 0 of 2: error: another process is gone")
    assert last.endswith("give all the same command again, it goes on from the last checkpoint")
    assert both[0].returncode == 75
    _, errors = both[1].communicate(timeout=PATIENCE)
    assert errors.decode() == (
        "process 1 of 2: error: ended by SIGKILL; give the same command again\n"
    )
    assert both[1].returncode == 128 + signal.SIGKILL

    # Process 1 has written nothing but its own record.
    others = {path.name for path in (workdir / "processes" / "1").iterdir()}
    assert others == {"config.json", "metrics.jsonl", "tensorboard"}
    theirs = read_metrics(workdir / "processes" / "1")
    assert {"step/seconds", "input/waiting_seconds_per_second"} <= theirs[-1].keys()
    assert theirs[0]["step"] == BEGUN + 1
    before = read_metrics(workdir)
    assert 50 <= before[-1]["step"] < STEPS

    # One process takes it to its end, as one alone would have from the beginning.
    train(single(), str(workdir), quiet=True)
    train(single(), str(tmp_path / "alone"), quiet=True)
    ours, alone = read_metrics(workdir), read_metrics(tmp_path / "alone")
    assert [row["step"] for row in ours] == [row["step"] for row in alone]
    for name in ("generator/loss", "generator/gradient_norm"):
        values = [[row[name] for row in rows if name in row] for rows in (ours, alone)]
        assert len(values[0]) == STEPS
        np.testing.assert_allclose(values[0][:50], values[1][:50], rtol=1e-4)
        np.testing.assert_allclose(values[0], values[1], rtol=0.05)


def test_a_process_that_never_comes(tmp_path):
    alone = start(tmp_path / "run", 1, free_port(), patience=3)
    _, errors = alone.communicate(timeout=PATIENCE)
    assert alone.returncode == 75
    last = errors.decode().splitlines()[-1]
    assert last == (
        "error: not all processes have joined; give all the same command again, it goes on from "
        "the last checkpoint"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [("host:1", None, 0), (None, 2, None)])
def test_half_of_the_options(given, capsys):
    options = distributed.Options(False, *given, patience=1)
    with pytest.raises(SystemExit, match="2"):
        distributed.main(lambda: pytest.fail("must not run"), options)
    told = capsys.readouterr().err
    assert told.startswith("error: --coordinator, --processes, --process: belong together; ")
