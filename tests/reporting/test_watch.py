"""What steps take, by hand; and that a program that stands still says where."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from seqgan_jax.reporting.watch import StepTimes

STALLED = """
import sys
import time
from seqgan_jax.reporting.watch import StallWatch


def the_slow_part():
    time.sleep(1.5)


with StallWatch(0.4) as watch:
    for step in range(8):
        watch.at(f"step {step}")
        time.sleep(0.1)
    print("so far nothing", file=sys.stderr, flush=True)
    watch.at("phase x, evaluation")
    the_slow_part()
"""


def test_means_since_the_last_line(monkeypatch):
    stats = {"peak_bytes_in_use": 7, "bytes_in_use": 3}
    times = StepTimes()
    assert times.taken() == {}
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: None)])
    times.add(2.0, 0.5, 100)
    times.add(3.0, 0.75, 200)
    assert times.taken() == {
        "step/seconds": 2.5,
        "step/tokens_per_second": 60.0,
        "input/waiting_seconds_per_second": pytest.approx(0.25),
    }
    assert times.taken() == {}
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: stats)])
    times.add(1.0, 0.0, 10)
    assert times.taken()["device/peak_bytes"] == 7


def test_a_stall_is_told_of_once_and_the_program_goes_on():
    done = subprocess.run(
        [sys.executable, "-c", STALLED], check=True, capture_output=True, text=True, timeout=120
    )
    before, _, after = done.stderr.partition("so far nothing\n")
    assert before == ""
    line, _, stacks = after.partition("\n")
    assert line == "warning: no progress for 0.4 s: phase x, evaluation; where every thread is:"
    assert stacks.count("in the_slow_part") == 1
