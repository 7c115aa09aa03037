"""One run on several processes: how they start, find each other, and end.

JAX ends a process whose run has lost another one from within C++, without a word that a person
could use. So the program that a user starts is a parent: it starts itself again, hands on what that
one says with the process's number before it, and turns its end into one line and an exit status.
"""

import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import jax

from seqgan_jax.errors import UserError
from seqgan_jax.programs import start
from seqgan_jax.training import processes

# Exit status of a process whose run has lost another one: try again (sysexits.h).
LOST = 75
_CHILD = "SEQGAN_JAX_CHILD"
_JOINED = "joined as process "
# What C++ logs, and how errors say that another process has gone.
_LOGGED = re.compile(r"[IWEF]\d{4} \d\d:\d\d:|\*\*\* |\s+@ |\s*$")
_GONE = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|unavailable|heartbeat|deadline.?exceeded"
    r"|coordination|barrier|task.* (died|failed)|peer",
    re.IGNORECASE,
)


class Options(NamedTuple):
    """How processes find each other.

    Attributes:
      detect: whether JAX finds that out from the cluster's environment.
      coordinator: HOST:PORT of process 0, else; None for a run of one process.
      processes: how many there are.
      process: which this is, from 0 on.
      patience: seconds after which one that doesn't join, or doesn't answer any more, is given up.
    """

    detect: bool
    coordinator: str | None
    processes: int | None
    process: int | None
    patience: int


def main(function: Callable[[], None], options: Options, *, debug: bool = False) -> None:
    """Runs a program, on several processes if that is asked for; see `start.main`."""
    given = (options.coordinator, options.processes, options.process)
    several = options.detect or any(value is not None for value in given)
    if not several:
        start.main(function, debug=debug)
    elif not options.detect and None in given:
        start.main(_refuse, debug=debug)
    elif _CHILD in os.environ:
        _join(options)
        start.main(lambda: _run(function, debug), debug=debug)
    else:
        sys.exit(_watch(options))


def _refuse() -> None:
    raise UserError(
        "--coordinator, --processes, --process: belong together; give all three, or "
        "--distributed=auto on a cluster that JAX knows"
    )


# The child.


def _join(options: Options) -> None:
    """Finds the other processes; ends this one where that fails."""
    if sys.platform == "linux":  # PR_SET_PDEATHSIG: it must not outlive its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            initialization_timeout=options.patience,
            heartbeat_timeout_seconds=options.patience,
            shutdown_timeout_seconds=options.patience,
        )
    except Exception as error:
        print(f"error: --distributed: can't join ({_first_line(error)})", file=sys.stderr)
        _exit(LOST)
    print(f"{_JOINED}{processes.index()} of {processes.count()}", file=sys.stderr, flush=True)


def _run(function: Callable[[], None], debug: bool) -> None:
    """The program; where it fails the process ends at once, without waiting for the others."""
    try:
        function()
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        _exit(2)
    except Exception as error:
        lost = _GONE.search(str(error))
        if debug or not lost:
            traceback.print_exc()
        if lost:
            print(f"error: another process is gone ({_first_line(error)})", file=sys.stderr)
        _exit(LOST if lost else 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _exit(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


# The parent.


def _watch(options: Options) -> int:
    """Starts this program again, and waits for its end: the exit status."""
    # In a group of its own: what a terminal sends to all of a group would reach it twice.
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _CHILD: "1"},
        stderr=subprocess.PIPE,
        process_group=0,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: child.send_signal(number))
    name = "this process"
    if options.process is not None:
        name = f"process {options.process} of {options.processes}"
    logged: deque[str] = deque(maxlen=40)
    joined = threading.Event()

    def hand_on():
        nonlocal name
        for line in child.stderr:
            line = line.decode(errors="replace").rstrip("\n")
            if line.startswith(_JOINED):
                name = f"process {line.removeprefix(_JOINED)}"
                joined.set()
            elif _LOGGED.match(line):
                logged.append(line)
            else:
                print(f"{name}: {line}", file=sys.stderr, flush=True)

    reader = threading.Thread(target=hand_on, daemon=True)
    reader.start()
    status = child.wait()
    reader.join(5)  # longer only if something of the child's still lives
    if status >= 0:
        return status
    if status != -signal.SIGABRT:
        told = signal.Signals(-status).name
        print(f"error: {name}: was ended by {told}; give the same command again", file=sys.stderr)
        return 128 - status
    if not any(_GONE.search(line) for line in logged):
        print(*logged, sep="\n", file=sys.stderr)
    wait = f"within {options.patience} s"
    what = f"another process is gone, or didn't answer {wait}"
    if not joined.is_set():
        what = f"not all processes have joined {wait}"
    print(
        f"error: {name}: {what}; give all the same command again, it goes on from the last "
        "checkpoint",
        file=sys.stderr,
    )
    return LOST
