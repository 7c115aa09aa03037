"""A run that is killed again and again ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

from seqgan_jax.programs.run import Run
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds until a process is taken to hang


def start(overrides, workdir):
    command = [sys.executable, "train.py", "--config=configs/captions.py:smoke", "--quiet"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in overrides.items())]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=dict(os.environ))


def kill_when(process, reached):
    """Kills as soon as the condition holds; the process must not have ended before."""
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def is_saving(workdir):
    """Whether a checkpoint is being written: it has no manifest yet."""
    folders = list(workdir.glob("checkpoints/[0-9]*"))
    return any(not (folder / "manifest.json").exists() for folder in folders)


def timeless(workdir):
    timed = lambda name: name.rpartition("/")[2] == "seconds" or name.endswith("_per_second")
    return [{k: v for k, v in row.items() if not timed(k)} for row in read_metrics(workdir)]


def states(workdir, names):
    with Progress(quiet=True) as progress:
        run = Run(workdir, None, progress)
        return [jax.device_get(run.restore(name)) for name in names]


def test_killed_runs_end_the_same(finished_run, overrides, tmp_path):
    workdir = tmp_path / "run"

    def in_adversarial_phase():
        try:
            return '"adversarial"' in (workdir / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return False

    # At any moment: while it starts, before there is a checkpoint, or later.
    moment = time.monotonic() + random.Random(0).uniform(2, 8)
    kill_when(start(overrides, workdir), lambda: time.monotonic() > moment)

    # While a checkpoint is being written, or has no manifest yet.
    kill_when(start(overrides, workdir), lambda: is_saving(workdir))
    assert len(read_metrics(workdir)) < len(read_metrics(finished_run))

    kill_when(start(overrides, workdir), in_adversarial_phase)
    assert len(read_metrics(workdir)) < len(read_metrics(finished_run))

    last = start(overrides, workdir)
    _, errors = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, errors.decode()

    assert timeless(workdir) == timeless(finished_run)
    config = json.loads((workdir / "config.json").read_text())
    assert config == json.loads((finished_run / "config.json").read_text())
    names = ["last", "best", *config["phases"]["order"]]
    for ours, theirs in zip(states(workdir, names), states(finished_run, names), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    left = {"tmp", "damaged"}
    assert not is_saving(workdir)
    assert not [p for p in workdir.rglob("*") if any(word in p.name for word in left)]
