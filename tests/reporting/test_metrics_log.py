"""The run's record: exact after a resume, whole after a kill, clear when it can't be written."""

import json
import resource
import signal
import struct
import subprocess
import sys
from collections import deque

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from seqgan_jax.errors import UserError
from seqgan_jax.reporting.metrics_log import MetricsLog, read_metrics, write_atomically


def log_steps(log, first, last):
    """Logs what a deterministic run would, an evaluation every third step."""
    for step in range(first, last + 1):
        random = np.random.default_rng(step)
        log.scalars(step, "one" if step < 5 else "two", {"b": random.normal(), "a": step / 3})
        if step % 3 == 0:
            log.scalars(step, "two", {"bleu": float("nan") if step == 3 else step * 1e-7})


def events(workdir):
    """All TensorBoard events, read by the TFRecord format: length, CRC, data, CRC."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.name.split(".")[-1]):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def shown_scalars(workdir):
    """The scalars TensorBoard shows: a session's start hides earlier events from its step on."""
    shown = []
    for event in events(workdir):
        if event.HasField("session_log"):
            shown = [entry for entry in shown if entry[0] < event.step]
        shown += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return [(step, tag, None if np.isnan(value) else value) for step, tag, value in shown]


def test_a_resumed_record_equals_an_uninterrupted_one(tmp_path):
    with MetricsLog(tmp_path / "whole", None) as log:
        log_steps(log, 0, 9)
    for last, checkpoint in [(2, None), (7, 4), (4, 4), (8, 0)]:
        run = tmp_path / f"resumed-{last}-{checkpoint}"
        with MetricsLog(run, None) as log:
            log_steps(log, 0, last)
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"step": 9, "phase": "tw')
        with MetricsLog(run, checkpoint) as log:
            log_steps(log, 0 if checkpoint is None else checkpoint + 1, 9)
        expected = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
        assert (run / "metrics.jsonl").read_bytes() == expected
        assert shown_scalars(run) == shown_scalars(tmp_path / "whole")
        assert sorted(p.name for p in run.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_lines_are_strict_json_with_exact_values(tmp_path):
    values = {"z": 0.1, "i": 7, "jax": jnp.float32(0.5), "inf": np.inf, "nan": jnp.nan}
    with MetricsLog(tmp_path, None) as log:
        log.scalars(3, "p", values)
        with pytest.raises(ValueError, match="step"):
            log.scalars(4, "p", {"step": 1.0})

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "metrics.jsonl").read_text()
    pairs = json.loads(text, object_pairs_hook=list, parse_constant=refuse)
    expected = [("i", 7), ("inf", None), ("jax", 0.5), ("nan", None), ("z", 0.1)]
    assert pairs == [("step", 3), ("phase", "p"), *expected]
    assert read_metrics(tmp_path) == [dict(pairs)]
    board = {v.tag: v.simple_value for event in events(tmp_path) for v in event.summary.value}
    assert board["inf"] == np.inf
    assert np.isnan(board["nan"])


def test_pictures_and_text_reach_tensorboard_at_once(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    log = MetricsLog(tmp_path, None)
    log.image(1, "sheet", picture)
    log.text(2, "samples", "*a* <b>\nsecond")
    _, _, image, text = events(tmp_path)  # before closing: after the version and the start
    log.close()
    log.close()
    shown = image.summary.value[0].image
    assert (image.step, shown.height, shown.width) == (1, 4, 6)
    assert text.summary.value[0].tensor.string_val[0] == b"    *a* <b>\n    second"


def test_a_torn_last_line_is_skipped_and_other_damage_is_named(tmp_path):
    assert read_metrics(tmp_path) == []
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "phase": "p"}\n{"step": 2, "pha')
    assert read_metrics(tmp_path) == [{"step": 1, "phase": "p"}]
    for damage in ('{"step": 1, "pha', "7", '{"step": 1}'):
        path.write_text(f'{damage}\n{{"step": 2, "phase": "p"}}\n')
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 1"):
            read_metrics(tmp_path)


def test_a_kill_loses_nothing_that_was_logged(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from seqgan_jax.reporting.metrics_log import MetricsLog\n"
        "log = MetricsLog(sys.argv[1], None)\n"
        "for step in range(20): log.scalars(step, 'p', {'x': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [r["x"] for r in read_metrics(tmp_path)] == list(range(20))
    assert [value for _, _, value in shown_scalars(tmp_path)] == list(range(20))


@pytest.fixture
def small_files():
    """Makes writes past 20 kB of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_the_users_error_and_the_record_stays_readable(tmp_path):
    log = MetricsLog(tmp_path / "lines", None)
    with pytest.raises(UserError, match=r"metrics\.jsonl: can't be written"):
        deque(log.scalars(step, "p" * 200, {"x": step}) for step in range(1000))
    assert len(read_metrics(tmp_path / "lines")) > 50
    log = MetricsLog(tmp_path / "board", None)
    with pytest.raises(UserError, match="tensorboard: can't be written"):
        deque(log.text(step, "samples", "x" * 2000) for step in range(20))
    (tmp_path / "whole").write_bytes(b"old")
    with pytest.raises(UserError, match="whole"):
        write_atomically(tmp_path / "whole", bytes(30_000))
    assert (tmp_path / "whole").read_bytes() == b"old"
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        MetricsLog(tmp_path / "file", None)
    (tmp_path / "run" / "metrics.jsonl").mkdir(parents=True)
    for step in (None, 0):
        with pytest.raises(UserError, match=r"metrics\.jsonl"):
            MetricsLog(tmp_path / "run", step)
