"""What the processes of one run tell each other, beside what they compute together.

It goes through the service by which `jax.distributed` lets processes find each other, not over the
devices: it works before there are any, and a wait has no end but that of process 0 itself.
"""

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# JAX has no public name for this service's client; orbax takes it from here too.
from jax._src import distributed

from seqgan_jax.errors import UserError

_FOREVER = 7 * 24 * 3600 * 1000  # milliseconds
_numbers = itertools.count()


def count() -> int:
    """How many processes there are. Unlike `jax.process_count`, doesn't ask for their devices."""
    return distributed.global_state.num_processes or 1


def index() -> int:
    """This process's number."""
    return distributed.global_state.process_id or 0


def is_first() -> bool:
    """Whether this is process 0, which alone writes what all share."""
    return index() == 0


def own_folder(workdir: Path) -> Path:
    """Where this process writes what is not shared: process 0 into the run's directory itself."""
    return workdir if is_first() else workdir / "processes" / str(index())


def from_first(function: Callable[[], Any]) -> Any:
    """What a function gives on process 0, where alone it is called, on all processes.

    All must call this in the same order.

    Args:
      function: gives what JSON can spell.

    Raises:
      UserError: on all processes, if the function raises it.
    """
    if count() == 1:
        return function()
    key = f"seqgan_jax/{next(_numbers)}"
    if is_first():
        try:
            given = function()
        except UserError as error:
            _client().key_value_set(key, json.dumps({"refused": str(error)}))
            raise
        _client().key_value_set(key, json.dumps({"given": given}))
        return given
    told = json.loads(_client().blocking_key_value_get(key, _FOREVER))
    if "refused" in told:
        raise UserError(told["refused"])
    return told["given"]


def on_first(function: Callable[..., None]) -> Callable[..., None]:
    """A function that is called on process 0 alone; the others wait until it is done."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        from_first(lambda: function(*args, **kwargs))

    return call


def stop_after(step: int, number: int) -> int:
    """The signal for which all processes stop after a step, or 0.

    All must call it after every step. The first that got a signal names the next step: the others
    can't be through with that before it has told them, since they compute it together.

    Args:
      step: the number of the step that was done last.
      number: the signal that this process got, or 0.
    """
    if count() == 1:
        return number
    if number:
        try:
            _client().key_value_set(_STOP, f"{step + 1} {number}")
        except Exception as error:
            if "ALREADY_EXISTS" not in str(error):
                raise
    try:
        last, number = map(int, _client().key_value_try_get(_STOP).split())
    except Exception as error:
        if "NOT_FOUND" not in str(error):
            raise
        return 0
    return number if step >= last else 0


_STOP = "seqgan_jax/stop"


def _client():
    return distributed.global_state.client
