"""The parent of a process that is one of several, and what it makes of its child's end.

JAX ends a process whose run has lost another one from within C++, without a word that a person
could use. So the program that a user starts is a parent: it starts itself again, hands on what that
one says with the process's number before it, and turns its end into one line and an exit status.
It imports nothing but the standard library, and so is small.
"""

import os
import re
import signal
import subprocess
import sys
import threading

# Exit status of a process whose run has lost another one: try again (sysexits.h).
LOST = 75
JOINED = "joined as process "
# What C++ logs, and how errors say that another process has gone.
GONE = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|unavailable|heartbeat|deadline.?exceeded"
    r"|coordination|barrier|task.* (died|failed)|peer",
    re.IGNORECASE,
)
_LOGGED = re.compile(r"[IWEF]\d{4} \d\d:\d\d:|\*\*\* |\s+@ |\s*$|Additional GRPC|:UNKNOWN:")
# What Python then writes at the end: the stacks of all threads.
_ABORTED = "Fatal Python error: Aborted"
_OPTIONS = ("--coordinator", "--processes", "--process", "--distributed=auto")
_CHILD = "SEQGAN_JAX_CHILD"


def watch() -> None:
    """In the program that a user starts as one of several: runs it again, and ends as it ends.

    Returns at once in that child, and where no option speaks of several processes.
    """
    several = any(argument.startswith(_OPTIONS) for argument in sys.argv[1:])
    if several and _CHILD not in os.environ:
        sys.exit(_ended(_start()))


def _start() -> subprocess.Popen:
    # In a group of its own: what a terminal sends to all of a group would reach it twice.
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _CHILD: "1"},
        stderr=subprocess.PIPE,
        process_group=0,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: child.send_signal(number))
    return child


def _ended(child: subprocess.Popen) -> int:
    """Hands on what the child says until it ends: the exit status."""
    logged: list[str] = []
    name = ""

    def hand_on():
        nonlocal name
        aborted = False
        for line in child.stderr:
            line = line.decode(errors="replace").rstrip("\n")
            aborted |= line == _ABORTED
            if line.startswith(JOINED):
                name = f"process {line.removeprefix(JOINED)}: "
            elif aborted or _LOGGED.match(line):
                logged.append(line)
            else:
                print(f"{name}{line}", file=sys.stderr, flush=True)

    reader = threading.Thread(target=hand_on, daemon=True)
    reader.start()
    status = child.wait()
    reader.join(5)  # longer only if something of the child's still lives
    if status >= 0:
        return status
    if status != -signal.SIGABRT:
        told = signal.Signals(-status).name
        print(f"{name}error: ended by {told}; give the same command again", file=sys.stderr)
        return 128 - status
    if not any(GONE.search(line) for line in logged):
        print(*logged, sep="\n", file=sys.stderr)
    what = "another process is gone, or doesn't answer" if name else "not all processes have joined"
    print(
        f"{name}error: {what}; give all the same command again, it goes on from the last "
        "checkpoint",
        file=sys.stderr,
    )
    return LOST
