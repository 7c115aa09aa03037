"""Checkpoints on a bucket, as PyPI's emulator of Google Cloud Storage has them, over loopback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.training.checkpoint import Checkpoints, place, shapes
from tests.bucket import emulated
from tests.training.test_checkpoint import state_of

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds until a process is taken to hang
FOLDER = "gs://runs/one/run"

SAVES = """
import itertools
import sys
from pathlib import Path
from seqgan_jax.training.checkpoint import Checkpoints
from tests.training.test_checkpoint import state_of
checkpoints = Checkpoints(Path("unused"), sys.argv[1])
for step in itertools.count(int(sys.argv[2])):
    score = 1.0 if step == 1 else 0.0
    checkpoints.save(state_of(step), phase="first", ended=step == 1, score=score)
"""


@pytest.fixture(scope="module")
def bucket():
    with emulated() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield place(Path("unused"), FOLDER)


def steps_of(folder, finished):
    try:
        numbers = {int(path.name) for path in folder.iterdir() if path.name.isdigit()}
    except FileNotFoundError:  # a bucket has no empty folders
        return set()
    return {n for n in numbers if (folder / str(n) / "manifest.json").exists() == finished}


def killed_while_saving(folder, first, least):
    """A process that saves and is killed in the middle of it, with so many checkpoints."""
    process = subprocess.Popen(
        [sys.executable, "-c", SAVES, FOLDER, str(first)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + PATIENCE
    try:
        while len(steps_of(folder, True)) < least or not steps_of(folder, False):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_kill_in_the_middle_of_a_save_loses_that_one_alone(bucket, capsys):
    killed_while_saving(bucket, 1, 3)
    kept = steps_of(bucket, True)
    newest = max(kept)
    assert {1, newest - 1, newest} <= kept  # the best and the phase's end, the newest two

    reader = Checkpoints(Path("unused"), FOLDER, read_only=True)
    assert (reader.find("best"), reader.find("first"), reader.find("last")) == (1, 1, newest)
    assert steps_of(bucket, False)  # a reader deletes nothing
    for step in (1, newest):
        restored = reader.restore(step, shapes(state_of(0)))
        jax.tree.map(np.testing.assert_array_equal, restored, state_of(step))

    # What the killed one left is deleted; a damaged one is set aside, the one before goes on.
    largest = max((bucket / str(newest) / "d").iterdir(), key=lambda path: path.stat().length)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    capsys.readouterr()
    checkpoints = Checkpoints(Path("unused"), FOLDER)
    before = checkpoints.latest_step()
    assert before == max(kept - {newest})
    assert f"warning: {FOLDER}/{newest}: damaged (d/" in capsys.readouterr().err
    assert not steps_of(bucket, False)
    assert (bucket / "damaged" / str(newest) / "manifest.json").exists()
    checkpoints.save(state_of(90), phase="first", ended=False, score=None)
    checkpoints.close()
    assert steps_of(bucket, True) == {1, before, 90}


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("gs://elsewhere/run", "gs://elsewhere/run: can't be written .no such bucket.; name a"),
        ("gs://runs", "config.checkpoint_folder=gs://runs: not understood; say gs://BUCKET/FOLDER"),
        ("s3://runs/one", "config.checkpoint_folder=s3://runs/one: not understood"),
    ],
)
def test_places_that_are_none(bucket, folder, words):
    with pytest.raises(UserError, match=f"^{words}"):
        Checkpoints(Path("unused"), folder)
