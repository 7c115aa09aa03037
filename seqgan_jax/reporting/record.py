"""What the directory of a run says of it, be it finished, unfinished or never judged."""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import Metric, cell
from seqgan_jax.reporting.metrics_log import FILE_NAME as METRICS
from seqgan_jax.reporting.metrics_log import read_metrics

# The weights that a network's settings in a phase give its losses.
_LOSSES = (
    "mle", "words", "guided_attention", "consistency", "policy_gradient", "entropy", "kl",
    "feature_matching", "gradient_penalty",
)  # fmt: skip


class Stage(NamedTuple):
    """A folder of samples.

    Attributes:
      folder: where they are.
      title: the step and the phase, or 'final'.
      phase: the phase's name, '' for the final samples.
    """

    folder: Path
    title: str
    phase: str


class Judgement(NamedTuple):
    """The figures of one evaluation's file.

    Attributes:
      checkpoint: what was judged.
      split: on which data.
      figures: by name; none where only a sweep was made.
      sweep: figures by name, by temperature, by checkpoint.
      axes: the two figures that the sweep sets against each other; none where it swept only one
        checkpoint.
    """

    checkpoint: str
    split: str
    figures: dict[str, Metric]
    sweep: dict[str, dict[float, dict[str, Metric]]]
    axes: tuple[str, ...]


class Timing(NamedTuple):
    """How long a phase took: `seconds` between its logged steps, `updates` of them."""

    seconds: float
    updates: int


class Record(NamedTuple):
    """All that a report tells of a run.

    Attributes:
      workdir: its directory.
      name: the directory's name.
      config: its configuration, as JSON has it.
      metrics: the records of `metrics.jsonl`.
      judgements: of its checkpoints, in the order of the phases, then best and last.
      stages: its folders of samples, oldest first.
      timings: by phase.
    """

    workdir: Path
    name: str
    config: dict
    metrics: list[dict]
    judgements: list[Judgement]
    stages: list[Stage]
    timings: dict[str, Timing]

    @property
    def planned(self) -> dict[str, int]:
        """The configuration's phases in order, with their numbers of updates."""
        phases = self.config.get("phases", {})
        return {name: phases[name]["steps"] for name in phases.get("order", ()) if name in phases}

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """First and last logged step of each phase that has begun, in order."""
        found: dict[str, tuple[int, int]] = {}
        for record in self.metrics:
            step, phase = record["step"], record["phase"]
            found[phase] = (found.get(phase, (step, step))[0], step)
        return found

    @property
    def step(self) -> int:
        """The last logged step, 0 where there is none."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def finished(self) -> bool:
        """Whether all updates are done, or phases that ended early were followed by the end."""
        if not self.metrics:
            return False
        final = self.workdir / "samples" / "final"
        log = self.workdir / METRICS
        over = final.is_dir() and final.stat().st_mtime >= log.stat().st_mtime
        return over or self.step >= sum(self.planned.values())


def read(workdir: Path) -> Record:
    """Reads a run's directory. What was torn or never written is left out.

    Raises:
      UserError: there is no run, or its configuration or a whole line of its metrics can't be read.
    """
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{workdir}: no run here (no config.json); name a run's folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read ({error}); restore it") from error
    record = Record(
        workdir, workdir.resolve().name, config, read_metrics(workdir), [], _stages(workdir), {}
    )
    return record._replace(judgements=_judgements(record), timings=_timings(workdir, record.spans))


def flat(config: Mapping) -> dict[str, Any]:
    """The settings of a configuration, or of one that was read from JSON, by their whole names."""
    settings = {}
    for name, value in config.items():
        if isinstance(value, dict | ml_collections.ConfigDict):
            settings |= {f"{name}.{inner}": own for inner, own in flat(value).items()}
        else:
            settings[name] = value
    return settings


def phase_rows(run: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The phases as a table: titles of the columns, then a number and the cells of each phase."""
    rows = []
    for number, (name, steps) in enumerate(run.planned.items(), start=1):
        first, last = run.spans.get(name, (1, 0))
        phase = run.config["phases"][name]
        cells = [name, f"{last - first + 1:,}", f"{steps:,}", str(phase.get("select", ""))]
        rows.append((str(number), [*cells, _objectives(phase)]))
    head = ["number", "phase", "updates done", "planned", "best checkpoint by", "what is trained"]
    return head, rows


def _objectives(phase: Mapping) -> str:
    """Which networks a phase updates, how often in a cycle, and by which losses."""
    said = []
    for network in ("generator", "discriminator"):
        settings = phase.get(network) or {}
        if updates := settings.get("updates"):
            weights = [f"{name} {settings[name]:g}" for name in _LOSSES if settings.get(name)]
            by = f" by {', '.join(weights)}" if weights else ""
            said.append(f"{network} × {updates}{by}")
    return "; ".join(said)


def figure_rows(
    columns: Mapping[str, Mapping[str, Metric]],
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Figures as a table: titles of the columns, then the name and the cells of each figure.

    How many items a figure was computed from, and its unit, are left out where none is known.
    """
    names = sorted({name for figures in columns.values() for name in figures})
    known = any(figure.n for figures in columns.values() for figure in figures.values())
    rows = []
    for name in names:
        figures = [figures.get(name) for figures in columns.values()]
        cells = ["".join(cell(figure)) for figure in figures]
        if known:
            there = [figure for figure in figures if figure is not None]
            cells += [" / ".join(dict.fromkeys(f"{figure.n:,}" for figure in there))]
            cells += [there[0].unit.partition(" [")[0]]
        rows.append((name, cells))
    return ["figure", *columns, *(("n", "unit") if known else ())], rows


def _judgements(record: Record) -> list[Judgement]:
    found = []
    files = sorted(record.workdir.glob("evaluation*.json"))
    for path in [*files, record.workdir / "validation.json"]:
        try:
            content = json.loads(path.read_bytes())
            sweep = content.get("sweep") or {"checkpoints": {}, "comparisons": {}}
            swept = {
                name: {p["temperature"]: _figures(p["metrics"]) for p in curve["points"]}
                for name, curve in sweep["checkpoints"].items()
            }
            axes = [tuple(reversed(found["gaps"])) for found in sweep["comparisons"].values()]
            judged = Judgement(
                str(content.get("checkpoint", "")),
                str(content.get("split", "")),
                _figures(content.get("metrics", {})),
                swept,
                axes[0] if axes else (),
            )
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            continue  # not there, or no file of ours
        found.append(judged)
    order = [*record.planned, "best", "last"]
    place = {name: k for k, name in enumerate(order)}
    return sorted(found, key=lambda judged: place.get(judged.checkpoint, len(order)))


def _figures(content: Mapping) -> dict[str, Metric]:
    return {name: Metric(**figure) for name, figure in content.items()}


def _stages(workdir: Path) -> list[Stage]:
    found = []
    for folder in sorted(p for p in workdir.glob("samples/*") if p.is_dir()):
        step, _, phase = folder.name.partition("-")
        if step.isdigit() and phase:
            found.append(Stage(folder, f"step {int(step):,}, {phase}", phase))
        else:
            found.append(Stage(folder, folder.name, ""))
    return found


def _timings(workdir: Path, spans: Mapping[str, tuple[int, int]]) -> dict[str, Timing]:
    """Time by phase, from the clock in the TensorBoard files.

    Every start of the program has a file of its own, so that the time between two doesn't count.
    """
    found = {}
    for path in sorted(workdir.glob("tensorboard/events*")):
        clock = [(event.step, event.wall_time) for event in _events(path)]
        for phase, (first, last) in spans.items():
            within = [(step, time) for step, time in clock if first <= step <= last]
            if len(within) > 1:
                before = found.get(phase, Timing(0.0, 0))
                found[phase] = Timing(
                    before.seconds + within[-1][1] - within[0][1],
                    before.updates + within[-1][0] - within[0][0],
                )
    return {phase: found[phase] for phase in spans if phase in found}


def _events(path: Path) -> Iterator[Event]:
    """The logged steps of a file: records of length (8 bytes), its check (4), data, check (4)."""
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        body = data[at + 12 : at + 12 + length]
        if len(body) < length:  # torn by a kill
            return
        try:
            event = Event.FromString(body)
        except DecodeError:  # no record begins here
            return
        if event.HasField("summary"):
            yield event
        at += 16 + length
