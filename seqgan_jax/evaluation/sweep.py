"""Figures at every temperature: what is compared of them, and their place in `evaluation.json`."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqgan_jax.evaluation import densities
from seqgan_jax.evaluation.report import Metric, plain, table, write_json

TEMPERATURES = tuple(round(0.1 * tenth, 1) for tenth in range(5, 16))
# Figures by name, at each temperature, lowest first.
Points = Mapping[float, Mapping[str, Metric]]


def curve(points: Points, axes: Sequence[str]) -> list[tuple[float, float]]:
    """The two figures against each other, in the order of their temperatures."""
    return [(figures[axes[0]].value, figures[axes[1]].value) for figures in points.values()]


def comparisons(curves: Mapping[str, Points], axes: Sequence[str]) -> dict[str, dict]:
    """How far each curve lies below the first, the baseline; see `evaluation.densities`.

    Args:
      curves: by checkpoint.
      axes: the two figures' names; less is better of both.

    Returns:
      For every other checkpoint `baseline` (the first's name), `area`, `low` and `high` (the range
      of the first figure that both curves cover); `below`, by how much its point at temperature 1
      has less of each figure than the baseline has at any temperature; `gaps`, by which that point
      lies below the baseline's curve in each figure at no higher other, None where the curve has
      no other as low; and `at_equal`, by the baseline's temperatures, by how much its curve, linear
      between its points, has less of the second figure than the baseline's curve at the first
      figure that the baseline has there; the least, where a curve has it twice.
    """
    (first, baseline), *others = curves.items()
    found = {}
    for name, points in others:
        between = densities.area(curve(baseline, axes), curve(points, axes))
        below = {
            axis: min(figures[axis].value for figures in baseline.values())
            - points[1.0][axis].value
            for axis in axes
        }
        gaps = {}
        for x, y in (axes, axes[::-1]):
            gap = densities.gap(curve(baseline, (x, y)), *curve({1.0: points[1.0]}, (x, y)))
            gaps[y] = gap if math.isfinite(gap) else None
        at_equal = {}
        for t, (x, _) in zip(baseline, curve(baseline, axes), strict=True):
            least = densities.least_at(curve(points, axes), x)
            if least is not None:
                at_equal[t] = densities.least_at(curve(baseline, axes), x) - least
        told = {"baseline": first, **between._asdict(), "below": below}
        found[name] = told | {"gaps": gaps, "at_equal": at_equal}
    return found


def lines(curves: Mapping[str, Points], shown: Sequence[str]) -> list[str]:
    """A table for each checkpoint and unit, and a sentence for each comparison.

    Args:
      curves: by checkpoint.
      shown: the figures of the tables, the axes first.
    """
    text = []
    for name, points in curves.items():
        text.append(f"{name}:")
        first = next(iter(points.values()))
        units = dict.fromkeys(first[figure].unit for figure in shown)
        text += [
            table(
                {
                    figure: {f"temperature {t:g}": found[figure] for t, found in points.items()}
                    for figure in shown
                    if first[figure].unit == unit
                }
            )
            for unit in units
        ]
    x = shown[0]
    for name, found in comparisons(curves, shown[:2]).items():
        line = f"{name} and {found['baseline']} have no {x} in common"
        if found["area"] is not None:
            line = (
                f"{name} lies below {found['baseline']} by an area of {found['area']:.4f} over {x} "
                f"of {found['low']:.3f} to {found['high']:.3f}"
            )
        gaps = (
            f"{figure} beyond compare" if gap is None else f"{gap:.4f} in {figure}"
            for figure, gap in found["gaps"].items()
        )
        text.append(f"{line}; at temperature 1 by {' and by '.join(gaps)}")
        below = " and ".join(f"{gap:.4f} in {figure}" for figure, gap in found["below"].items())
        text.append(
            f"at temperature 1 {name} is below the least that {found['baseline']} has at any "
            f"temperature by {below}"
        )
        if found["at_equal"]:
            gaps = ", ".join(f"{gap:.4f} ({t:g})" for t, gap in found["at_equal"].items())
            text.append(
                f"at the {x} that {found['baseline']} has at a temperature, {name} has less "
                f"{shown[1]} by {gaps}"
            )
    return text


def entry(
    curves: Mapping[str, Points],
    steps: Mapping[str, int],
    axes: Sequence[str],
    *,
    split: str,
    seed: int,
) -> dict:
    """A sweep as JSON.

    Args:
      curves: by checkpoint.
      steps: each checkpoint's step.
      axes: the figures whose curves are compared.
      split: the data.
      seed: of the samples.
    """
    return {
        "parameter": "temperature",
        "split": split,
        "seed": seed,
        "checkpoints": {
            name: {
                "step": steps[name],
                "points": [
                    {"temperature": t, "metrics": plain(figures)} for t, figures in points.items()
                ],
            }
            for name, points in curves.items()
        },
        "comparisons": comparisons(curves, axes),
    }


def read(path: Path) -> dict | None:
    """The sweep that an evaluation's file holds, or None."""
    return _content(path).get("sweep")


def write(path: Path, sweep: dict) -> None:
    """Puts a sweep into an evaluation's file and leaves what else it holds.

    Raises:
      UserError: `path` can't be written.
    """
    write_json(path, _content(path) | {"sweep": sweep})


def _content(path: Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):  # not there, or no longer of use
        return {}
    return content if isinstance(content, dict) else {}
