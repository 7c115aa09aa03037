"""What a person sees in the terminal while a program works."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

# Half-lives in seconds. Time left is judged over minutes, evaluations and saving included;
# throughput is a figure for now, training steps only.
_PACE_HALF_LIFE = 300.0
_THROUGHPUT_HALF_LIFE = 20.0


class Progress:
    """A live display on a terminal, plain lines elsewhere, nothing when quiet.

    Use it as a context manager. On a terminal the display shows the phase, the step, a bar, the
    time left, throughput, the newest metrics and the newest sample. Elsewhere a line is printed
    at each phase change and evaluation, and otherwise at most every `interval` seconds. Text is
    printed literally: it may come from data and hold markup or terminal control codes.

    The first update of a phase only starts the clock, since it waits for compilation.

    Args:
      work: an estimate of each phase's work in one common unit, e.g. steps times the relative
        cost of a step. With it the time left for the whole run is shown in every phase, without
        it in the last phase only.
      quiet: print nothing.
      console: where to print; standard output by default.
      clock: seconds from any origin; tests pass their own.
      interval: least seconds between plain lines.
    """

    def __init__(
        self,
        *,
        work: Sequence[float] = (),
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval: float = 10.0,
    ):
        self._console = console or Console()
        self._quiet = quiet
        live = self._console.is_terminal and not self._console.is_dumb_terminal and not quiet
        # What is shown stays on the screen only as the lines printed above the display.
        self._live = Live(self, console=self._console, transient=True) if live else None
        self._work = work
        self._clock = clock
        self._interval = interval
        self._began = self._printed = clock()
        self._phase: _Phase | None = None
        self._job: _Job | None = None
        self._sample = ""
        self._sample_is_new = False

    def __enter__(self) -> "Progress":
        self._began = self._clock()
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def start_phase(self, name: str, number: int, count: int, step: int, steps: int) -> None:
        """Begins phase `number` (from 1) of `count` at `step` of its `steps`."""
        self._phase = _Phase(name, number, count, step, steps, self._clock())
        self._print_line(self._phase.heading())

    def update(self, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Shows step `step` of the phase, reached with `tokens` tokens since the last update."""
        now = self._clock()
        self._phase.advance(now, step, tokens)
        self._phase.metrics = dict(metrics)
        if not self._live and now - self._printed >= self._interval:
            parts = [self._phase.heading(), *self._times(self._phase), *_values(metrics)]
            if self._sample_is_new:
                parts.append(f"sample: {self._sample}")
                self._sample_is_new = False
            self._print_line(", ".join(parts))

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Prints an evaluation's metrics; the time it took does not lower the throughput."""
        self._phase.rest(self._clock())
        self._print_line(f"{self._phase.heading()}, evaluation: {', '.join(_values(metrics))}")

    def sample(self, text: str) -> None:
        """Sets the newest sample to show."""
        self._sample, self._sample_is_new = _literal(" ".join(text.split())), True

    def message(self, text: str) -> None:
        """Prints text, of one line or several, above the display."""
        for line in text.splitlines() or [""]:
            self._print_line(line)

    def finish(self) -> None:
        """Says that the work is done and how long this process took."""
        self._phase = None
        self._print_line(f"finished in {_duration(self._clock() - self._began)}")

    def track(self, items: Iterable, total: int | None, description: str) -> Iterator:
        """Yields from `items`, `total` of them if it's known, with a progress bar of their own."""
        self._job = job = _Job(description, total, self._clock())
        self._print_line(description if total is None else f"{description}: {total:,} to do")
        try:
            for item in items:
                yield item
                job.advance(self._clock())
                if not self._live and self._clock() - self._printed >= self._interval:
                    self._print_line(", ".join([f"{description}: {job.position()}", *job.times()]))
        finally:
            self._job = None
        took = _duration(self._clock() - job.began)
        self._print_line(f"{description}: {job.done:,} done in {took}")

    def __rich__(self) -> Group:
        """The live display."""
        # The display's thread renders while the program works: it reads each field once.
        phase, job, rows = self._phase, self._job, []
        if phase:
            rows += _bar(self._encodable(phase.title()), phase.position(), phase.step, phase.steps)
            waiting = _duration(self._clock() - phase.began)
            times = self._times(phase) or [f"waiting for the first steps, {waiting}"]
            rows.append(Text(self._encodable("   ".join(times))))
            if phase.metrics:
                values = [Text(self._encodable(v)) for v in _values(phase.metrics)]
                rows.append(Columns(values, padding=(0, 3)))
            if self._sample:
                rows.append(Text(self._encodable(f"sample: {self._sample}"), style="italic"))
        if job:
            rows += _bar(self._encodable(job.description), job.position(), job.done, job.total)
            rows.append(Text("   ".join(job.times())))
        return Group(*rows)

    def _times(self, phase: "_Phase") -> list[str]:
        times = []
        if (left := phase.seconds_left()) is not None:
            times.append(f"phase {_duration(left)} left")
            if phase.number == phase.count:
                times = [f"run {_duration(left)} left"]
            elif self._work:
                # One unit of work takes as long in the phases to come as it does in this one.
                seconds = phase.steps / phase.pace.value() / self._work[phase.number - 1]
                left += seconds * sum(self._work[phase.number :])
                times.append(f"run about {_duration(left)} left")
        if (rate := phase.throughput.value()) is not None:
            times.append(f"{rate:,.0f} tokens/s")
        return times

    def _print_line(self, text: str) -> None:
        self._printed = self._clock()
        if not self._quiet:
            # A Text is not searched for markup; soft_wrap leaves lines whole for other programs.
            self._console.print(Text(self._encodable(_literal(text))), soft_wrap=True)

    def _encodable(self, text: str) -> str:
        encoding = self._console.encoding
        return text.encode(encoding, "replace").decode(encoding)


class _Rate:
    """Amount per second, a mean whose weights halve every `half_life` seconds."""

    def __init__(self, half_life: float):
        self._half_life = half_life
        self._seconds = self._amount = 0.0

    def add(self, seconds: float, amount: float) -> None:
        keep = 0.5 ** (seconds / self._half_life)
        self._seconds = keep * self._seconds + seconds
        self._amount = keep * self._amount + amount

    def value(self) -> float | None:
        """The rate, None while nothing is known."""
        return self._amount / self._seconds if self._seconds > 0 < self._amount else None


class _Phase:
    def __init__(self, name: str, number: int, count: int, step: int, steps: int, now: float):
        self.name, self.number, self.count = _literal(name), number, count
        self.step, self.steps, self.began = step, steps, now
        self.metrics: dict[str, float] = {}
        self.pace, self.throughput = _Rate(_PACE_HALF_LIFE), _Rate(_THROUGHPUT_HALF_LIFE)
        self._last: float | None = None

    def advance(self, now: float, step: int, tokens: int) -> None:
        if self._last is not None:
            self.pace.add(now - self._last, step - self.step)
            self.throughput.add(now - self._last, tokens)
        self.step, self._last = step, now

    def rest(self, now: float) -> None:
        if self._last is not None:
            self.pace.add(now - self._last, 0)
            self._last = now

    def seconds_left(self) -> float | None:
        pace = self.pace.value()
        return None if pace is None else (self.steps - self.step) / pace

    def title(self) -> str:
        return f"phase {self.number} of {self.count}: {self.name}"

    def position(self) -> str:
        return f"step {self.step:,} of {self.steps:,}"

    def heading(self) -> str:
        return f"{self.title()}, {self.position()}"


class _Job:
    def __init__(self, description: str, total: int | None, now: float):
        self.description, self.total, self.began = _literal(description), total, now
        self.done = 0
        self._pace, self._last = _Rate(_PACE_HALF_LIFE), None

    def advance(self, now: float) -> None:
        if self._last is not None:
            self._pace.add(now - self._last, 1)
        self.done, self._last = self.done + 1, now

    def position(self) -> str:
        return f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"

    def times(self) -> list[str]:
        pace = self._pace.value()
        if pace is None:
            return []
        rate = f"{pace:,.1f}/s"
        if self.total is None:
            return [rate]
        return [f"{_duration((self.total - self.done) / pace)} left", rate]


def _bar(left: str, right: str, done: int, total: int | None) -> list[Table]:
    rows = []
    if total is not None:
        total = max(total, 1)
    share = "" if total is None else f"{done / total:.0%}"
    for row in (
        (Text(left, style="bold"), Text(right)),
        (ProgressBar(total=total, completed=done), Text(share)),
    ):
        # Two tables: the title's columns and the bar's have different widths.
        table = Table.grid(expand=True, padding=(0, 2, 0, 0))
        table.add_column(ratio=1)
        table.add_column(justify="right")
        table.add_row(*row)
        rows.append(table)
    return rows


def _values(metrics: Mapping[str, float]) -> list[str]:
    return [f"{name} {float(value):.4g}" for name, value in metrics.items()]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _literal(text: str) -> str:
    """One line without control codes, which would move the cursor or restyle the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
