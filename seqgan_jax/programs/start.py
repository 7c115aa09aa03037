"""Starting and ending a program: the command line, errors, memory, compiled programs."""

import ctypes
import logging
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence

import jax
from absl import flags
from absl import logging as absl_logging

from seqgan_jax.data.cache import cache_folder
from seqgan_jax.errors import UserError
from seqgan_jax.training.loop import Interrupted


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads the command line; a bad one is one line on standard error and exit status 2.

    A configuration's unknown keys, wrong types and unknown variants are found here too. --help
    prints what fits a screen, --helpfull every flag of every library.
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(_help())
        sys.exit(0)
    try:
        flags.FLAGS.set_gnu_getopt()  # options may stand behind the names of --compare A B C
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            _ = flags.FLAGS.config.task  # a file that can't be read is told of at its first use
        if len(rest) == 1 or ("compare" in flags.FLAGS and flags.FLAGS["compare"].value):
            return rest
        message = f"'{rest[1]}' belongs to no option; repeat the option before every value"
    except flags.Error as error:
        message = _of_flag(str(error))
    except OSError as error:
        message = _of_flag(f"--config: {error}")
    except KeyError as error:
        message = _of_flag(f"--config: no option {error.args[0] if error.args else ''}")
    except (AttributeError, TypeError, ValueError, UserError) as error:
        message = _of_flag(f"--config: {error.args[0] if error.args else error}")
    print(f"error: {' '.join(message.split())}; see {argv[0]} --help", file=sys.stderr)
    sys.exit(2)


def _of_flag(message: str) -> str:
    """What absl-py and ml_collections say of a bad flag, without what only a programmer reads."""
    if missing := re.search(r"Flag (--\w+) must have a value other than None", message):
        return f"{missing[1]}: none given; name one"
    if meant := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', message):
        return f"--config: no option '{meant[2]}'; did you mean '{meant[1]}'?"
    if "Traceback" in message or "earlier failure" in message:  # of the configuration's file
        last = message.strip().splitlines()[-1]
        return f"--config: {last.removeprefix('ValueError: ')}"
    return message


def _help(width: int = 80) -> str:
    """What the program's own file says of it, then its options in the order of their definition."""
    program = flags.FLAGS.find_module_defining_flag("debug")
    options = flags.FLAGS.flags_by_module_dict()[program]
    names = [f"--[no]{flag.name}" if flag.default is True else f"--{flag.name}" for flag in options]
    column = max(map(len, names)) + 4
    lines = [sys.modules["__main__"].__doc__.strip(), ""]
    for name, flag in zip(names, options, strict=True):
        # What absl-py adds to the help of a flag that may be given several times.
        told, several, _ = flag.help.partition(";\n")
        told += " Can be repeated." if several else ""
        if flag.default and flag.default is not True:
            default = flag.default if isinstance(flag.default, list) else [flag.default]
            told += f" [{','.join(map(str, default))}]"
        lines += textwrap.wrap(
            told,
            width,
            initial_indent=f"  {name}".ljust(column),
            subsequent_indent=" " * column,
            break_on_hyphens=False,
        )
    lines += ["", "[...] is the default. --helpfull lists the flags of all libraries too."]
    return "\n".join(lines)


def main(function: Callable[[], None], *, debug: bool = False) -> None:
    """Runs a program; a user's error becomes one line on standard error and exit status 2."""
    # JAX tells of every platform that it looked for and didn't find.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    if not flags.FLAGS["verbosity"].present:  # optax tells of every schedule that is constant
        absl_logging.set_verbosity(absl_logging.WARNING)
    keep_memory()
    try:
        function()
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signal)  # as shells have it: 130 for Ctrl-C, 143 for SIGTERM
    except KeyboardInterrupt:  # before there was anything to save
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone: `| head`
        sys.stderr.close()
        sys.exit(0)


def keep_memory() -> None:
    """Keeps freed memory in the process, where the C library is glibc.

    By default it hands every large buffer back to the system, and a step on a CPU spends a quarter
    of its time on page faults when it asks for them anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        for parameter, value in _MALLOC.items():
            mallopt(parameter, value)


# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in bytes, and M_ARENA_MAX; see mallopt(3).
_MALLOC = {-3: 2**30, -1: 2**31 - 1, -8: 1}


def compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start is quick.

    JAX warns of an entry that it can't load, compiles, and leaves the entry to fail again. Here it
    is deleted, with all others: what broke one may have broken more, and they only save time.
    """
    folder = cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    show = warnings.showwarning

    def heal(message, *details, **more):
        if "Error reading persistent compilation cache entry" not in str(message):
            show(message, *details, **more)
            return
        for entry in folder.glob("*-cache"):
            entry.unlink(missing_ok=True)

    warnings.showwarning = heal


def compile_quickly() -> None:
    """Has XLA compile without optimising, which takes half the time or less.

    For programs that run for seconds. Without effect once JAX has begun to compute.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    # Programs are kept by these flags: what is there already is not said again.
    os.environ["XLA_FLAGS"] = " ".join(given + [flag for flag in _QUICKLY if flag not in given])


_QUICKLY = ("--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false")
