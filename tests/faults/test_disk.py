"""A disk that is full, read-only or flips a bit: one line, and nothing lost but the last steps."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from seqgan_jax.programs.run import Run
from seqgan_jax.programs.train import train
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds until a process is taken to hang

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="calls Linux itself")


# PR_CAPBSET_DROP of CAP_DAC_OVERRIDE: then root, too, may only write where permissions say so.
WITHOUT_OVERRIDING = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(overrides, workdir):
    command = [sys.executable, "-c", WITHOUT_OVERRIDING, "train.py", "--quiet"]
    command += ["--config=configs/captions.py:smoke"]
    command += [f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in overrides.items())]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def checkpoints(workdir):
    return {int(p.parent.name) for p in (workdir / "checkpoints").glob("[0-9]*/manifest.json")}


def after_a_checkpoint(process, workdir):
    """Waits until there is a checkpoint that wasn't there."""
    known, deadline = checkpoints(workdir), time.monotonic() + PATIENCE
    while not checkpoints(workdir) - known:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def refusal(process):
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, errors.decode()
    # JAX warns of a compiled program that it couldn't keep, where the disk is full.
    assert b"Traceback" not in errors
    (line,) = (line for line in errors.decode().splitlines() if line.startswith("error:"))
    assert line.startswith("error: ")
    return line


def timeless(workdir):
    timed = lambda name: name.rpartition("/")[2] == "seconds" or name.endswith("_per_second")
    return [{k: v for k, v in row.items() if not timed(k)} for row in read_metrics(workdir)]


def test_no_fault_of_the_disk_changes_how_a_run_ends(
    finished_run, overrides, tiny_config, tmp_path, capsys
):
    workdir = tmp_path / "run"

    process = start(overrides, workdir)
    after_a_checkpoint(process, workdir)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (500, 500))  # as if the disk were full
    assert "can't be" in (line := refusal(process))
    assert "(File too large)" in line
    before = checkpoints(workdir)
    assert before

    process = start(overrides, workdir)
    after_a_checkpoint(process, workdir)
    folders = [workdir, *(path for path in workdir.rglob("*") if path.is_dir())]
    for folder in folders:
        os.chmod(folder, 0o555)
    line = refusal(process)
    for folder in folders:
        if folder.exists():
            os.chmod(folder, 0o755)
    assert "(Permission denied)" in line
    assert max(checkpoints(workdir)) > max(before)

    newest = max(checkpoints(workdir))
    files = (workdir / "checkpoints" / str(newest)).rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 8
    largest.write_bytes(content)
    capsys.readouterr()
    train(tiny_config, str(workdir), quiet=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"checkpoints/{newest}: damaged (" in line
    assert (workdir / "checkpoints" / "damaged" / str(newest)).is_dir()

    assert timeless(workdir) == timeless(finished_run)
    config = json.loads((workdir / "config.json").read_text())
    with Progress(quiet=True) as progress:
        ours, theirs = (Run(where, None, progress) for where in (workdir, finished_run))
        for name in ("last", *config["phases"]["order"]):
            jax.tree.map(np.testing.assert_array_equal, ours.restore(name), theirs.restore(name))
