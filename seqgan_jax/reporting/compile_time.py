"""How long programs took to compile."""

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class CompileTime:
    """Adds up the seconds that this process spends on compiling.

    A program that comes from the persistent cache counts with the time of loading it.
    """

    def __init__(self):
        self._seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_):
        if event == _EVENT:
            self._seconds += seconds

    def taken(self) -> float:
        """Seconds since the last call of this method, or since the start."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
