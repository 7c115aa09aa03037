"""A trace of a few training steps, for TensorBoard's profiler or Perfetto."""

from pathlib import Path

import jax


class Profile:
    """Traces steps `first` to `first + count - 1`; a phase that ends earlier cuts the trace.

    Args:
      folder: where the trace goes.
      first: the first step to trace, counted like the argument of `before`.
      count: how many; 0 for no trace.

    Attributes:
      edges: the arguments of `before` at which the device must be done with all earlier steps.
    """

    def __init__(self, folder: Path, first: int, count: int):
        self._folder = folder
        self._first = first
        self._last = first + count
        self.edges = (first, first + count) if count else ()
        self._running = False

    def before(self, step: int) -> None:
        """To be called before every step."""
        if step == self._last:
            self.stop()
        elif step == self._first:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True

    def stop(self) -> None:
        """To be called after the last step."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
