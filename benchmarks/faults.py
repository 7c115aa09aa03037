"""Kills a run again and again and fills its disk; does it end as if nothing had happened?

    python benchmarks/faults.py [--config=configs/oracle.py:smoke] [--kills=20] [--seed=0]

Each line is a JSON object. `faults/kills`: one run is killed (SIGKILL) at so many random steps, in
every phase, every other time while a checkpoint is being written; at its end all that it has
logged, but for times, and every kept checkpoint are compared bit for bit with those of a run that
nothing interrupted. `faults/resume`: from the command to the first logged step of a run that goes
on, less what loading compiled programs took. `faults/full_disk`: the same as the first where the
run's file system, a tmpfs, is full at first and is then made larger; null where mounting isn't
permitted. `faults/verify` and `faults/restore`: what reading a checkpoint costs. Exit status 1 if
any comparison fails.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from seqgan_jax.programs.run import Run
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training.checkpoint import MANIFEST, Checkpoints, place, shapes, steps_in

ROOT = Path(__file__).parents[1]
CONFIG = flags.DEFINE_string("config", "configs/oracle.py:smoke", "The run's configuration.")
KILLS = flags.DEFINE_integer("kills", 20, "How often to kill it.", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Of the moments.")
FULL = "size=2m"


def start(workdir):
    command = [sys.executable, "train.py", f"--config={CONFIG.value}", "--quiet"]
    command += [f"--workdir={workdir}", "--config.logging.every=1"]
    command += ["--config.logging.checkpoint_every=2"]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def finish(workdir):
    process = start(workdir)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"the run in {workdir} failed: {errors.decode()}")


def step_of(workdir):
    """The last logged step."""
    try:
        lines = (workdir / "metrics.jsonl").read_bytes().split(b"\n")
        return max((json.loads(line)["step"] for line in lines[-3:-1]), default=0)
    except FileNotFoundError:
        return 0


def is_saving(workdir):
    """Whether a checkpoint is being written: it has no manifest yet."""
    folders = list(workdir.glob("checkpoints/[0-9]*"))
    return any(not (folder / MANIFEST).exists() for folder in folders)


def kill_at(workdir, step, while_saving):
    """Starts the run and kills it once it has logged a step.

    Returns:
      The last step that it logged, how many of them no checkpoint has, and whether one was being
      written; None if the run ended before.
    """
    process = start(workdir)
    while True:
        now = step_of(workdir)
        saving = is_saving(workdir)
        if now >= step and (saving or not while_saving):
            break
        if process.poll() is not None:
            return None
        time.sleep(0.002)
    process.kill()
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        return None
    kept = steps_in(place(workdir))
    return now, now - max(kept, default=0), saving


def timeless(workdir):
    timed = lambda name: name.rpartition("/")[2] == "seconds" or name.endswith("_per_second")
    return [{k: v for k, v in row.items() if not timed(k)} for row in read_metrics(workdir)]


def states(workdir):
    """Every kept checkpoint by step."""
    with Progress(quiet=True) as progress:
        run = Run(workdir, None, progress)
        like = shapes(run.loop.initial_state())
        checkpoints = Checkpoints(workdir, read_only=True)
        return {
            step: jax.device_get(checkpoints.restore(step, like)) for step in checkpoints.scores()
        }


def equal(workdir, whole):
    ours, theirs = states(workdir), states(whole)
    same = lambda a, b: np.array_equal(a, b, equal_nan=True)
    return (
        timeless(workdir) == timeless(whole)
        and ours.keys() == theirs.keys()
        and all(jax.tree.all(jax.tree.map(same, ours[step], theirs[step])) for step in theirs)
    )


def report(name, figure, unit, **configuration):
    configuration = {"config": CONFIG.value, "seed": SEED.value} | configuration
    line = {"name": name, "figure": figure, "unit": unit, "configuration": configuration}
    print(json.dumps(line), flush=True)


def kills(folder, whole):
    generator = random.Random(SEED.value)
    steps = read_metrics(whole)[-1]["step"]
    phase_of = {row["step"]: row["phase"] for row in read_metrics(whole)}
    targets = sorted(generator.randint(0, steps - 2) for _ in range(KILLS.value))
    done = [kill_at(folder, step, bool(k % 2)) for k, step in enumerate(targets)]
    finish(folder)
    done = [entry for entry in done if entry]
    report(
        "faults/kills",
        len(done),
        "kills",
        equal=equal(folder, whole),
        while_saving=sum(saving for _, _, saving in done),
        phases=sorted({phase_of[step] for step, _, _ in done if step in phase_of}),
        most_steps_lost=max(lost for _, lost, _ in done),
    )
    return len(done) == KILLS.value and equal(folder, whole)


def full_disk(folder, whole):
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, FULL, "none", folder], capture_output=True).returncode:
        report("faults/full_disk", None, "refusals", reason="mounting is not permitted")
        return True
    try:
        process = start(folder / "run")
        _, errors = process.communicate()
        lines = errors.decode().splitlines()
        clear = process.returncode == 2 and len(lines) == 1 and "No space left" in lines[0]
        subprocess.run([*mount, "remount,size=256m", "none", folder], check=True)
        step = step_of(folder / "run")
        finish(folder / "run")
        same = equal(folder / "run", whole)
        report("faults/full_disk", int(clear), "refusals", equal=same, step=step, told=lines)
        return clear and same
    finally:
        subprocess.run(["umount", folder], check=True)


def resuming(folder, whole):
    """Seconds from the command to the first logged step of a run that goes on, but compiling."""
    kill_at(folder, read_metrics(whole)[-1]["step"] // 2, False)
    kept = max(steps_in(place(folder)))
    record = folder / "metrics.jsonl"
    old, began = record.stat().st_ino, time.monotonic()
    process = start(folder)
    # Another file takes the record's place, cut back to the checkpoint, and then grows.
    while record.stat().st_ino == old or step_of(folder) <= kept:
        if process.poll() is not None:
            sys.exit(f"the run in {folder} failed: {process.stderr.read().decode()}")
        time.sleep(0.002)
    seconds = time.monotonic() - began
    process.kill()
    process.communicate()
    row = next(row for row in read_metrics(folder) if row["step"] > kept)
    compiling = row.get("compile/seconds", 0.0)
    report("faults/resume", round(seconds - compiling, 2), "s", compiling=round(compiling, 2))


def costs(whole):
    """Times of verifying and restoring the newest checkpoint, minima of five."""
    with Progress(quiet=True) as progress:
        like = shapes(Run(whole, None, progress).loop.initial_state())
    times = {"verify": [], "restore": []}
    for _ in range(5):
        began = time.perf_counter()
        checkpoints = Checkpoints(whole, read_only=True)
        step = checkpoints.latest_step()
        verified = time.perf_counter()
        checkpoints.restore(step, like)
        times["verify"].append(verified - began)
        times["restore"].append(time.perf_counter() - verified)
    files = [p for p in (whole / "checkpoints" / str(step)).rglob("*") if p.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    for name, seconds in times.items():
        median = round(1e3 * statistics.median(seconds), 2)
        report(f"faults/{name}", round(1e3 * min(seconds), 2), "ms", megabytes=size, median=median)


def main(argv):
    del argv
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        began = time.monotonic()
        finish(folder / "whole")
        report("faults/uninterrupted", round(time.monotonic() - began, 1), "s")
        costs(folder / "whole")
        resuming(folder / "resumed", folder / "whole")
        good = kills(folder / "killed", folder / "whole")
        good &= full_disk(folder / "small", folder / "whole")
    sys.exit(not good)


if __name__ == "__main__":
    app.run(main)
