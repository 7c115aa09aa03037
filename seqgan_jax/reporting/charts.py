"""Charts as SVG elements that take their colours from the page, drawn by matplotlib."""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import matplotlib
import numpy as np
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, BboxTransform, ScaledTranslation

from seqgan_jax.evaluation.report import Metric
from seqgan_jax.reporting.pictures import GREY, STYLES, tradeoff_figure

# A phase's points beyond this number are drawn as means of equally many, in the band of their
# smallest and largest.
_POINTS = 120
_RC = {"svg.fonttype": "none", "text.parse_math": False}
# The page's own colours by those of the drawing.
_COLOURS = {
    "#000000": "currentColor",
    GREY: "var(--muted)",
    **{style["color"]: f"var(--series-{k})" for k, style in enumerate(STYLES)},
}


class Phase(NamedTuple):
    """A part of the horizontal axis.

    Attributes:
      number: among the run's phases, from 1.
      name: of the phase.
      first: the step at its left end.
      last: the step at its right end.
    """

    number: int
    name: str
    first: int
    last: int


Points = Sequence[tuple[int, float]]  # step and value, which may be NaN


def curves(
    name: str, phases: Sequence[Phase], series: Sequence[Mapping[str, Points]], key: str
) -> Element:
    """One metric over the steps, every phase as wide as another, however short it is.

    Args:
      name: of the metric.
      phases: those in which it was measured.
      series: for every run its points by the phase's name; of several, each line is marked at its
        end by the run's letter.
      key: what tells this chart from the page's others.
    """
    width, height, left = 3.8, 1.95, 0.55  # inches
    right = 0.15 + 0.1 * (len(series) - 1)
    figure = Figure(figsize=(width, height))
    lines = [_line(phases, points) for points in series]
    low, high = _range([*(values for line in lines for values in line[2:])])
    columns = max(len(phases), 1)
    # Matplotlib's axes would take most of the time of a page's dozens of charts.
    place = Bbox.from_bounds(
        left / width, 0.26 / height, 1 - (left + right) / width, 1 - 0.5 / height
    )
    data = BboxTransform(Bbox.from_extents(0, low, columns, high), place) + figure.transFigure
    by_column = BboxTransform(Bbox.from_extents(0, 0, columns, 1), place) + figure.transFigure
    for run, ((x, y, least, most), style) in enumerate(zip(lines, itertools.cycle(STYLES))):
        if not x:
            continue
        few = len(x) <= 30
        figure.add_artist(
            Line2D(
                x, y, linewidth=1.3, color=style["color"], markersize=3, transform=data,
                linestyle=style["linestyle"], marker=style["marker"] if few or run else None,
                markevery=None if few else max(len(x) // 8, 1),
            )
        )  # fmt: skip
        if least != most:
            figure.add_artist(
                FillBetweenPolyCollection(
                    "x", *map(np.asarray, (x, least, most)), color=style["color"], alpha=0.2,
                    linewidth=0, transform=data,
                )
            )  # fmt: skip
        if len(series) > 1:
            end = max(k for k, value in enumerate(y) if k == 0 or not math.isnan(value))
            aside = ScaledTranslation((3 + 7 * run) / 72, 0, figure.dpi_scale_trans)
            figure.text(
                x[end], y[end], chr(ord("A") + run), fontsize=8, va="center",
                color=style["color"], transform=data + aside,
            )  # fmt: skip
    room = (width - left - right) / columns
    whole = all(0.065 * len(f"{phase.number} {phase.name}") < room for phase in phases)
    grey = {"color": GREY, "linewidth": 0.8, "transform": by_column}
    for k, phase in enumerate(phases):
        if k:
            figure.add_artist(Line2D([k, k], [0, 1], linestyle=(0, (3, 3)), **grey))
        label = f"{phase.number} {phase.name}" if whole else str(phase.number)
        figure.text(k + 0.5, 1.03, label, ha="center", va="bottom", fontsize=7, color=GREY,
                    transform=by_column)  # fmt: skip
    figure.add_artist(
        Line2D([0, 0, columns], [1, 0, 0], linewidth=0.8, color="black", transform=by_column)
    )
    below = by_column + ScaledTranslation(0, -3.5 / 72, figure.dpi_scale_trans)
    firsts = [phase.first for phase in phases[:1]]
    for k, step in enumerate([*firsts, *(phase.last for phase in phases)]):
        figure.text(k, 0, _short(step), ha="center", va="top", fontsize=7.5, transform=below)
    beside = data + ScaledTranslation(-3.5 / 72, 0, figure.dpi_scale_trans)
    for tick in MaxNLocator(4).tick_values(low, high):
        if low <= tick <= high:
            figure.text(
                0, tick, f"{tick:.4g}", ha="right", va="center", fontsize=7.5, transform=beside
            )
    return _svg(figure, key, _description(name, series))


def tradeoff(
    points: Mapping[str, Sequence[tuple[float, Metric, Metric]]], axes: Sequence[str], key: str
) -> Element:
    """Two figures against each other over the temperature; see `pictures.tradeoff_figure`."""
    said = "; ".join(
        f"{name}: " + ", ".join(f"{t:g}: {x.value:.3g} and {y.value:.3g}" for t, x, y in curve)
        for name, curve in points.items()
    )
    return _svg(
        tradeoff_figure(points, axes), key, f"{axes[0]} and {axes[1]} by temperature. {said}"
    )


def swatch(run: int) -> Element:
    """How the line of a run looks."""
    figure = Figure(figsize=(0.55, 0.2))
    plot = figure.add_axes((0.05, 0.0, 0.9, 1.0))
    style = STYLES[run % len(STYLES)]
    plot.plot([0, 1, 2], [0, 0, 0], markersize=4, markevery=[1], **style)
    plot.set_axis_off()
    return _svg(figure, f"swatch{run}", f"the line of run {chr(ord('A') + run)}")


def _line(
    phases: Sequence[Phase], points: Mapping[str, Points]
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Places, means, smallest and largest values, with a gap where a phase lies between."""
    lines: tuple[list[float], ...] = ([], [], [], [])
    before = None
    for k, phase in enumerate(phases):
        found = points.get(phase.name, ())
        if not found:
            continue
        if before is not None and phase.number > before + 1:
            for line in lines:
                line.append(math.nan)
        before = phase.number
        steps, values = (np.asarray(column, float) for column in zip(*found, strict=True))
        length = max(phase.last - phase.first, 1)
        for part in np.array_split(np.arange(len(steps)), min(len(steps), _POINTS)):
            inside = values[part][np.isfinite(values[part])]
            row = (inside.mean(), inside.min(), inside.max()) if len(inside) else (math.nan,) * 3
            place = k + 0.02 + 0.96 * (steps[part].mean() - phase.first) / length
            for line, value in zip(lines, (place, *row), strict=True):
                line.append(float(value))
    return lines


def _range(values: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The lower and upper end of the vertical axis, with a margin."""
    finite = [value for line in values for value in line if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    margin = 0.05 * (high - low or abs(low) or 1.0)
    return low - margin, high + margin


def _short(step: int) -> str:
    return f"{step:,}" if step < 100_000 else f"{step / 1000:,.0f}k"


def _description(name: str, series: Sequence[Mapping[str, Points]]) -> str:
    said = []
    for run, points in enumerate(series):
        values = [v for found in points.values() for _, v in found if math.isfinite(v)]
        who = f"run {chr(ord('A') + run)}: " if len(series) > 1 else ""
        if values:
            said.append(
                f"{who}first {values[0]:.4g}, last {values[-1]:.4g}, lowest {min(values):.4g}, "
                f"highest {max(values):.4g}"
            )
        else:
            said.append(f"{who}never measured")
    return f"{name} over the steps: {'; '.join(said)}"


def _svg(figure: Figure, key: str, description: str) -> Element:
    """A figure as an element without a size, a colour or a font of its own.

    Args:
      figure: to draw.
      key: what tells its inner names from those of the page's other charts.
      description: in words, for who can't see it.
    """
    written = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(_RC | {"svg.hashsalt": key}):
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(written.getvalue())
    root.remove(root[0])  # a style sheet, which would be the whole page's
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        if node.tag == "g":
            node.attrib.pop("id", None)
        node.text = node.text if node.tag == "text" else None
        node.tail = None
        for name, value in list(node.attrib.items()):
            if name.endswith("}href"):
                del node.attrib[name]
                node.set("href", value)
            elif name in ("d", "x", "y", "transform"):
                short = re.sub(r"\d+\.\d+", lambda x: f"{float(x[0]):.4g}", value)
                node.set(name, " ".join(short.split()))
            elif name == "style":
                value = re.sub(r"font-family:[^;]*(; )?", "", value)
                for colour, own in _COLOURS.items():
                    value = value.replace(colour, own)
                node.set(name, value)
    for name in ("width", "height", "version"):
        del root.attrib[name]
    root.attrib |= {"role": "img", "aria-label": description}
    return root
