"""The record of a run: `metrics.jsonl` for programs, TensorBoard files for people.

`metrics.jsonl` holds one JSON object per logged step: `step` and `phase`, then the scalars by
name. It is an exact function of what was logged, so a run that was killed and resumed ends with
the same bytes as one that was not, except for the values of wall-clock time (`seconds` and names
that end in `_per_second`) and, where the backend tells it, of the device's memory.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

FILE_NAME = "metrics.jsonl"


def write_atomically(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` to `path` so that the file is there whole or not at all.

    Raises:
      UserError: the file can't be written (no such folder, no permission, disk full).
    """
    path = Path(path)
    try:
        with replace_file(path) as file:
            file.write(data)
    except OSError as error:
        raise _unwritable(path, error) from error


def read_metrics(workdir: str | os.PathLike) -> list[dict]:
    """Reads the records of `workdir/metrics.jsonl`, oldest first; none if there is no file.

    A value that was not finite is None. A torn last line, which a killed run may leave, is
    skipped.

    Raises:
      UserError: the file can't be read, or another line is not one of ours.
    """
    path = Path(workdir) / FILE_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not {"step", "phase"} <= record.keys():
                raise ValueError
        except (ValueError, AttributeError):
            # What follows the last newline is empty, or was cut short by a kill.
            if number == len(lines):
                break
            raise UserError(
                f"{path}: line {number} is not a record of a run; move the file away or mend it"
            ) from None
        records.append(record)
    return records


class MetricsLog:
    """Appends what a run measures to `workdir/metrics.jsonl` and `workdir/tensorboard/`.

    Opened at the checkpoint's step, it first drops every line of a later step, which the resumed
    run will write again, and hides the later events from TensorBoard. Log everything of a step
    before saving the checkpoint of that step: then neither file misses or repeats a line.

    Each line reaches the operating system before the call returns, so killing the process loses
    at most the line being written. Values that are not finite are `null` in the file, since JSON
    has no other spelling that browsers and strict readers take; TensorBoard gets them as they
    are.

    Args:
      workdir: the run's folder; made if it doesn't exist.
      step: the step of the checkpoint the run goes on from, None to start an empty record.

    Raises:
      UserError: here and in every method, if a file can't be written (no permission, disk full)
        or the existing record can't be read.
    """

    def __init__(self, workdir: str | os.PathLike, step: int | None):
        self._path = Path(workdir) / FILE_NAME
        self._board = Path(workdir) / "tensorboard"
        try:
            self._board.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self._board, error) from error
        kept = [] if step is None else [r for r in read_metrics(workdir) if r["step"] <= step]
        write_atomically(self._path, "".join(map(_line, kept)).encode())
        try:
            self._file = open(self._path, "ab")  # noqa: SIM115
        except OSError as error:
            raise _unwritable(self._path, error) from error
        # tensorboardX's SummaryWriter hands events to a thread through a bounded queue: when the
        # disk is full that thread dies and the next calls block for ever. Its synchronous writer
        # tells us instead. The suffix keeps two openings within a second in separate files.
        try:
            self._events = EventsWriter(str(self._board / "events"), f".{time.time_ns()}")
        except OSError as error:
            raise _unwritable(self._board, error) from error
        first = 0 if step is None else step + 1
        self._add_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Logs one line of numbers (Python, NumPy or JAX scalars) of a step."""
        if reserved := {"step", "phase"} & values.keys():
            raise ValueError(f"not a name for a metric: {', '.join(sorted(reserved))}")
        values = {name: np.asarray(values[name]).item() for name in sorted(values)}
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        try:
            self._file.write(_line({"step": int(step), "phase": phase, **finite}).encode())
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error
        scalars = [Summary.Value(tag=name, simple_value=v) for name, v in values.items()]
        self._add_event(Event(step=int(step), summary=Summary(value=scalars)))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs a picture, uint8 [H, W, 3], to TensorBoard."""
        picture = summary.image(name, np.asarray(image), dataformats="HWC")
        self._add_event(Event(step=int(step), summary=picture))

    def text(self, step: int, name: str, text: str) -> None:
        """Logs text to TensorBoard, which shows it literally."""
        # TensorBoard renders Markdown; an indented block is the form it leaves as it is.
        literal = "\n".join("    " + line for line in text.splitlines())
        self._add_event(Event(step=int(step), summary=summary.text(name, literal)))

    def close(self) -> None:
        """Closes both files; a second call does nothing."""
        if self._file.closed:
            return
        try:
            self._file.close()
            self._events.close()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _add_event(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self._events.write_event(event)
            self._events.flush()
        except OSError as error:
            raise _unwritable(self._board, error) from error


def _line(record: Mapping) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path}: can't be written ({error.strerror}); free space or choose another folder"
    )
