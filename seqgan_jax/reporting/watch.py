"""How long the steps of a run take, and where it is when it stands still."""

import faulthandler
import sys
import threading
import time
from collections.abc import Callable

import jax

# Standard error's file descriptor: faulthandler must write there even when Python can't.
_STDERR = 2


class StepTimes:
    """Means over the updates since they were last asked for."""

    def __init__(self):
        self._clear()

    def _clear(self) -> None:
        self._steps = self._tokens = 0
        self._seconds = self._waiting = 0.0

    def add(self, seconds: float, waiting: float, tokens: int) -> None:
        """Counts an update that took `seconds`, of which it waited `waiting` for its batch."""
        self._steps += 1
        self._seconds += seconds
        self._waiting += waiting
        self._tokens += tokens

    def taken(self) -> dict[str, float]:
        """Figures for the record, of the updates since the last call; none if there were none.

        Seconds of an update, tokens per second, seconds of waiting for input per second, and where
        the backend tells it the most memory that one of this process's devices has used so far, in
        bytes.
        """
        if not self._steps:
            return {}
        figures = {
            "step/seconds": self._seconds / self._steps,
            "step/tokens_per_second": self._tokens / self._seconds,
            "input/waiting_seconds_per_second": self._waiting / self._seconds,
        }
        told = [device.memory_stats() or {} for device in jax.local_devices()]
        peaks = [memory["peak_bytes_in_use"] for memory in told if "peak_bytes_in_use" in memory]
        if peaks:
            figures["device/peak_bytes"] = max(peaks)
        self._clear()
        return figures


class StallWatch:
    """Prints where a program is, and the stacks of all threads, when it stands still.

    A context manager. Once for each time that it stands still; the program goes on.

    Args:
      seconds: after how long without a word from `at`.
      clock: seconds from any origin.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self._limit = seconds
        self._clock = clock
        self._where, self._count = "", 0

    def at(self, where: str) -> None:
        """Says what begins now."""
        self._where, self._count = where, self._count + 1

    def __enter__(self) -> "StallWatch":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        seen, since = -1, 0.0
        while True:
            if self._count != seen:
                seen, since, told = self._count, self._clock(), False
                # Should this thread not get to run, because a library holds Python's lock.
                faulthandler.dump_traceback_later(2 * self._limit, file=_STDERR)
            elif not told and self._clock() - since >= self._limit:
                told = True
                faulthandler.cancel_dump_traceback_later()
                print(
                    f"warning: no progress for {self._limit:g} s: {self._where}; "
                    "where every thread is:",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(file=_STDERR)
            if self._over.wait(self._limit / 4):
                faulthandler.cancel_dump_traceback_later()
                return
