"""One of several processes that train one run: how it finds the others, and how it fails.

Its parent is `watcher`.
"""

import ctypes
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NamedTuple

import jax

from seqgan_jax.errors import UserError
from seqgan_jax.programs import start
from seqgan_jax.programs.watcher import GONE, JOINED, LOST
from seqgan_jax.training import processes
from seqgan_jax.training.loop import Interrupted


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
    """Runs a program, as one of several processes if that is asked for; see `start.main`."""
    given = (options.coordinator, options.processes, options.process)
    if options.detect or None not in given:
        _join(options)
        start.main(lambda: _run(function, debug), debug=debug)
    elif any(value is not None for value in given):
        start.main(_refuse, debug=debug)
    else:
        start.main(function, debug=debug)


def _refuse() -> None:
    raise UserError(
        "--coordinator, --processes, --process: belong together; give all three, or "
        "--distributed=auto on a cluster that JAX knows"
    )


def _join(options: Options) -> None:
    """Finds the other processes; ends this one where that fails."""
    if sys.platform == "linux":  # PR_SET_PDEATHSIG: it must not outlive its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    # JAX's notice of preemption, which is orbax's too, is SIGTERM: the loop takes that itself, and
    # before there is a state to save it has to end the process.
    jax.config.update("jax_enable_preemption_service", False)
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
        print(f"error: can't join the other processes ({_short(error)})", file=sys.stderr)
        _exit(LOST)
    print(f"{JOINED}{processes.index()} of {processes.count()}", file=sys.stderr, flush=True)


def _run(function: Callable[[], None], debug: bool) -> None:
    """The program; where it fails the process ends at once, without waiting for the others."""
    try:
        function()
    except (Interrupted, BrokenPipeError):
        raise  # all processes stop, or the reader of our output has gone
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        _exit(2)
    except Exception as error:
        lost = GONE.search(str(error))
        if debug or not lost:
            traceback.print_exc()
        if lost:
            print(
                f"error: another process is gone ({_short(error)}); give all the same command "
                "again, it goes on from the last checkpoint",
                file=sys.stderr,
            )
        _exit(LOST if lost else 1)


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _exit(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
