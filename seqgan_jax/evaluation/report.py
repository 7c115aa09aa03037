"""The form of every figure: a metric with its standard error, the file and the table of them."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file


class Metric(NamedTuple):
    """One figure.

    Attributes:
      value: the figure, or None where it is undefined (nothing to average, say).
      stderr: the standard error of `value`, or None where it isn't known.
      n: how many independent items (images, sentences) it was computed from.
      unit: what it is measured in; text in brackets after it (an implementation's signature) is
        kept in the file and left out of the table.
    """

    value: float | None
    stderr: float | None
    n: int
    unit: str

    @classmethod
    def mean(cls, values: Iterable[float], unit: str) -> "Metric":
        """The mean of independent `values` [n] and its standard error, std(ddof=1) / sqrt(n)."""
        values = np.fromiter(values, float)
        n = len(values)
        return cls(
            value=float(values.mean()) if n else None,
            stderr=float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None,
            n=n,
            unit=unit,
        )


def write_evaluation(
    path: str | os.PathLike,
    *,
    task: str,
    split: str,
    checkpoint: str,
    seed: int,
    metrics: Mapping[str, Metric],
    sweep: Mapping | None = None,
    replicas: Sequence[Mapping[str, Metric]] = (),
    comparisons: Mapping[str, Mapping[str, Metric]] = MappingProxyType({}),
) -> None:
    """Writes `{task, split, checkpoint, seed, metrics: {name: {value, stderr, n, unit}}}` as JSON.

    Metrics are sorted by name, so that two files compare line by line. A figure that isn't finite
    is written as null, since JSON has no NaN. The file appears whole or not at all. A sweep, see
    `evaluation.sweep`, stands under a key of its own, and so do the metrics of each replica where
    `metrics` are means over several, and those of `comparisons` by what the model is set beside.

    Raises:
      UserError: `path` can't be written.
    """
    content = {
        "task": task,
        "split": split,
        "checkpoint": checkpoint,
        "seed": int(seed),
        "metrics": plain(metrics),
    }
    if len(replicas) > 1:
        content["replicas"] = [plain(own) for own in replicas]
    if comparisons:
        content["comparisons"] = {title: plain(own) for title, own in comparisons.items()}
    if sweep is not None:
        content["sweep"] = sweep
    write_json(Path(path), content)


def write_json(path: Path, content: Mapping) -> None:
    """Writes JSON, whole or not at all.

    Raises:
      UserError: `path` can't be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        with replace_file(path) as file:
            file.write(text.encode() + b"\n")
    except OSError as error:
        raise UserError(
            f"{path}: can't be written ({error.strerror}); choose a writable directory"
        ) from error


def plain(metrics: Mapping[str, Metric]) -> dict[str, dict]:
    """Metrics for JSON, by name in order; a figure that isn't finite is None."""
    finite = lambda x: float(x) if x is not None and math.isfinite(x) else None
    return {
        name: {
            "value": finite(metrics[name].value),
            "stderr": finite(metrics[name].stderr),
            "n": int(metrics[name].n),
            "unit": metrics[name].unit,
        }
        for name in sorted(metrics)
    }


def metrics(content: Mapping[str, Mapping]) -> dict[str, Metric]:
    """What `plain` gave, as metrics again."""
    return {name: Metric(**figure) for name, figure in content.items()}


def table(columns: Mapping[str, Mapping[str, Metric]]) -> str:
    """A plain-text table: one row per metric, one column per title, `value ± stderr` in the cells.

    Args:
      columns: metrics by column title, for example `{"pretrain": ..., "adversarial": ...}`. Rows
        stand in the order in which names first appear; a metric that a column lacks shows as "-".
    """
    names = list(dict.fromkeys(name for metrics in columns.values() for name in metrics))
    units = [
        next(m[name].unit for m in columns.values() if name in m).partition(" [")[0]
        for name in names
    ]
    blocks = [_column("metric", names), _column("unit", units)]
    for title, metrics in columns.items():
        cells = [cell(metrics.get(name)) for name in names]
        # Values end and errors begin at one place, so that a reader can compare down a column.
        left, right = (max((len(cell[side]) for cell in cells), default=0) for side in (0, 1))
        blocks.append(_column(title, [f"{v:>{left}}{e:<{right}}" for v, e in cells]))
    return "\n".join("  ".join(row).rstrip() for row in zip(*blocks, strict=True))


def _column(title: str, cells: list[str]) -> list[str]:
    width = max(map(len, [title, *cells]))
    return [f"{line:<{width}}" for line in (title, "-" * width, *cells)]


def cell(metric: Metric | None) -> tuple[str, str]:
    """The value and " ± stderr", rounded to the error's first two digits."""
    if metric is None or metric.value is None or not math.isfinite(metric.value):
        return "-", ""
    if not metric.stderr or not math.isfinite(metric.stderr):
        return f"{metric.value:.4g}", ""
    decimals = min(max(1 - math.floor(math.log10(metric.stderr)), 0), 6)
    return f"{metric.value:.{decimals}f}", f" ± {metric.stderr:.{decimals}f}"
