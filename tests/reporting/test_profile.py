"""Traces hold the steps that were asked for, and nothing is left running."""

import gzip
import json

import jax
import pytest

from seqgan_jax.reporting.profile import Profile


def steps_in(folder):
    """The steps in a trace, by the names that the test gives them."""
    (path,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return {event["name"] for event in events if event.get("name", "").startswith("step ")}


@pytest.mark.parametrize(
    ("count", "steps", "expected"), [(2, 6, {"step 1", "step 2"}), (5, 3, {"step 1", "step 2"})]
)
def test_the_asked_for_steps_are_traced(tmp_path, count, steps, expected):
    profile = Profile(tmp_path / "profile", 1, count)
    for step in range(steps):
        profile.before(step)
        with jax.profiler.TraceAnnotation(f"step {step}"):
            pass
    profile.stop()
    profile.stop()  # of what has stopped already
    assert steps_in(tmp_path / "profile") == expected


def test_nothing_is_traced_unasked(tmp_path):
    profile = Profile(tmp_path / "profile", 1, 0)
    for step in range(3):
        profile.before(step)
    profile.stop()
    assert not (tmp_path / "profile").exists()
