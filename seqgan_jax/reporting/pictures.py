"""Pictures for people: captions under images, attention over images, curves of figures.

Each function writes a PNG, whole or not at all, and returns its pixels, uint8 [H, W, 3], for
TensorBoard. Nothing is told by colour alone. Text is drawn literally: a dollar sign in a caption
starts no formula.
"""

import functools
import io
import itertools
import math
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from seqgan_jax.evaluation.report import Metric
from seqgan_jax.reporting.metrics_log import write_atomically

_DPI = 100
_LINE = 1.3  # height of a line in units of the font's size
_TRUE, _FALSE = "#1a7f37", "#b42318"
GREY = "#57606a"
# Apart without colour too, by mark and line.
STYLES = (
    {"color": "#0b5cad", "marker": "o", "linestyle": "-"},
    {"color": "#b42318", "marker": "s", "linestyle": "--"},
    {"color": "#1a7f37", "marker": "^", "linestyle": ":"},
    {"color": "#6f42c1", "marker": "D", "linestyle": "-."},
)
# Families that hold Chinese, Japanese and Korean, on Linux, macOS and Windows.
_CJK = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS",
)  # fmt: skip


def caption_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    path: str | os.PathLike,
    *,
    references: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    verdicts: Sequence[bool | None] | None = None,
    columns: int = 4,
) -> np.ndarray:
    """Writes a sheet of images with their captions.

    Args:
      images: uint8 [H, W, 3] each, of any sizes.
      captions: the generated caption of each image, shown in full.
      path: the PNG to write.
      references: a true caption of each image.
      scores: the discriminator's score of each caption.
      verdicts: whether each caption is true, None where that is not known.
      columns: most images in a row.

    Returns:
      The sheet, uint8 [H, W, 3].

    Raises:
      UserError: the file can't be written.
    """
    if not images:
        raise ValueError("no images to show")
    size, gap, margin = 2.5, 0.3, 0.3  # inches
    cells = []
    for i, caption in enumerate(captions):
        mark, colour = "", "black"
        if verdicts is not None and verdicts[i] is not None:
            mark, colour = ("✓\u00a0", _TRUE) if verdicts[i] else ("✗\u00a0", _FALSE)
        cell = [(line, colour, 10.0) for line in _wrap(mark + _printable(caption), 10.0, size)]
        if references is not None:
            reference = "reference: " + _printable(references[i])
            cell += [(line, GREY, 8.5) for line in _wrap(reference, 8.5, size)]
        if scores is not None:
            cell.append((f"score {scores[i]:.3f}", GREY, 8.5))
        cells.append(cell)

    columns = min(columns, len(images))
    rows = [range(s, min(s + columns, len(images))) for s in range(0, len(images), columns)]
    text_heights = [max(sum(_height(c[2]) for c in cells[i]) for i in row) for row in rows]
    width = 2 * margin + columns * size + (columns - 1) * gap
    height = 2 * margin + sum(size + 0.1 + t for t in text_heights) + (len(rows) - 1) * gap
    figure = Figure(figsize=(width, height), dpi=_DPI)
    top = margin
    for row, text_height in zip(rows, text_heights, strict=True):
        for column, i in enumerate(row):
            left = margin + column * (size + gap)
            _show(_axes(figure, left, top, size, size), images[i])
            y = top + size + 0.1
            for line, colour, points in cells[i]:
                _text(figure, left, y, line, points, color=colour)
                y += _height(points)
        top += size + 0.1 + text_height + gap
    return _save(figure, path, f"images with captions: {'; '.join(captions)}")


def attention_sheet(
    image: np.ndarray,
    words: Sequence[str],
    weights: np.ndarray,
    grid: tuple[int, int],
    path: str | os.PathLike,
    *,
    columns: int = 5,
) -> np.ndarray:
    """Writes the image and, for each word, where the generator looked while it chose that word.

    A place is as bright as its weight relative to the word's largest weight, which is printed
    beside the weight that even attention would give: that tells a sharp map from a flat one.

    Args:
      image: uint8 [H, W, 3].
      words: the T words.
      weights: [T, S], each row at least 0 with sum 1, over the grid's cells in row-major order.
      grid: (rows, columns) of the feature grid, S = rows * columns.
      path: the PNG to write.
      columns: most panels in a row.

    Returns:
      The sheet, uint8 [H, W, 3].

    Raises:
      UserError: the file can't be written.
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(words), grid[0] * grid[1]):
        raise ValueError(f"{len(words)} words on a grid of {grid}, but weights {weights.shape}")
    size, gap, margin = 1.8, 0.2, 0.3  # inches
    panels = [(image, "the image", "")]
    for word, weight in zip(words, weights, strict=True):
        note = f"peak {weight.max():.0%}, even {1 / weight.size:.1%}"
        panels.append((overlay(image, weight.reshape(grid)), _printable(word), note))
    titles = [_wrap(word, 10.0, size) for _, word, _ in panels]
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    title_height = max(map(len, titles)) * _height(10.0)
    cell = title_height + 0.05 + size + 0.05 + _height(8.0)
    width = 2 * margin + columns * size + (columns - 1) * gap
    figure = Figure(figsize=(width, 2 * margin + rows * cell + (rows - 1) * gap), dpi=_DPI)
    for i, ((picture, _, note), title) in enumerate(zip(panels, titles, strict=True)):
        left = margin + (i % columns) * (size + gap)
        top = margin + (i // columns) * (cell + gap)
        for k, line in enumerate(reversed(title), start=1):
            y = top + title_height - k * _height(10.0)
            _text(figure, left + size / 2, y, line, 10.0, ha="center")
        _show(_axes(figure, left, top + title_height + 0.05, size, size), picture)
        y = top + title_height + size + 0.1
        _text(figure, left + size / 2, y, note, 8.0, ha="center", color=GREY)
    described = (f"{word} ({note})" for _, word, note in panels[1:])
    return _save(figure, path, f"where attention was at each word: {', '.join(described)}")


def overlay(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lights the image by attention: dark where there is none, bright at the largest weight.

    With a the weight over the largest, interpolated between cell centres, a pixel p becomes
    (1 - a) 0.3 p + a (0.8 p + 51): brightness rises with a on dark and light pictures alike.

    Args:
      image: uint8 [H, W, 3].
      weights: [rows, columns], at least 0.

    Returns:
      uint8 [h, w, 3], the image enlarged to at least 180 pixels a side.
    """
    picture = Image.fromarray(np.asarray(image))
    scale = max(1.0, 180 / min(picture.size))
    size = tuple(round(scale * n) for n in picture.size)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float64)
    light = np.asarray(weights, np.float32) / max(float(np.max(weights)), 1e-12)
    light = Image.fromarray(light).resize(size, Image.Resampling.BILINEAR)
    a = np.asarray(light, np.float64)[..., None]
    return np.clip((1 - a) * 0.3 * pixels + a * (0.8 * pixels + 51), 0, 255).astype(np.uint8)


def tradeoff(
    curves: Mapping[str, Sequence[tuple[float, Metric, Metric]]],
    axes: Sequence[str],
    path: str | os.PathLike,
) -> np.ndarray:
    """Writes the picture of `tradeoff_figure` as a PNG; returns its pixels, uint8 [H, W, 3].

    Raises:
      UserError: the file can't be written.
    """
    return _save(tradeoff_figure(curves, axes), path)


def tradeoff_figure(
    curves: Mapping[str, Sequence[tuple[float | None, Metric, Metric]]], axes: Sequence[str]
) -> Figure:
    """Two figures against each other over the temperature, one curve or point for each model.

    Error bars are one standard error. Models differ in their marks and lines as well as their
    colours; the ends of each curve name their temperatures and a ring marks temperature 1.

    Args:
      curves: points (temperature, figure, figure) by the model's name, in order; a temperature of
        None isn't named.
      axes: the two figures' names.
    """
    figure = Figure(figsize=(7.0, 5.5), dpi=_DPI)
    plot = _axes(figure, 0.8, 0.3, 5.9, 4.55)
    for (name, points), style in zip(curves.items(), itertools.cycle(STYLES)):
        temperatures = [t for t, _, _ in points]
        x, y = ([point[k].value for point in points] for k in (1, 2))
        xerr, yerr = ([point[k].stderr or 0.0 for point in points] for k in (1, 2))
        plot.errorbar(
            x,
            y,
            yerr,
            xerr,
            label=_printable(name),
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            markersize=5,
            **style,
        )
        for k in {0, len(points) - 1} if None not in temperatures else ():
            plot.annotate(
                f"{temperatures[k]:g}",
                (x[k], y[k]),
                xytext=(6, 3),
                textcoords="offset points",
                fontsize=8,
                color=style["color"],
            )
        if 1.0 in temperatures:
            k = temperatures.index(1.0)
            plot.plot(x[k], y[k], "o", markersize=13, fillstyle="none", color=style["color"])
    units = [next(iter(curves.values()))[0][k].unit for k in (1, 2)]
    plot.set_xlabel(f"{axes[0]} ({units[0]})", fontsize=9)
    plot.set_ylabel(f"{axes[1]} ({units[1]})", fontsize=9)
    told = "bars: one standard error"
    if any(t is not None for points in curves.values() for t, _, _ in points):
        told = f"numbers: temperatures; ring: temperature 1; {told}"
    plot.set_title(told, fontsize=8, color=GREY)
    plot.tick_params(labelsize=8)
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(fontsize=9, frameon=False)
    return figure


def figure_array(figure: Figure) -> np.ndarray:
    """Draws a figure and returns its pixels, uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A box for a character that no installed font has is all that can be done.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def _save(figure: Figure, path: str | os.PathLike, description: str = "") -> np.ndarray:
    return save_png(figure_array(figure), path, description)


def save_png(pixels: np.ndarray, path: str | os.PathLike, description: str = "") -> np.ndarray:
    """Writes pixels, uint8 [H, W, 3], as a PNG, whole or not at all, and returns them.

    Its description says in words what a person sees, for who can't; a report shows a short one.

    Raises:
      UserError: the file can't be written.
    """
    encoded, text = io.BytesIO(), PngInfo()
    if description:
        text.add_itxt("Description", _printable(description))
    Image.fromarray(pixels).save(encoded, "PNG", pnginfo=text)
    write_atomically(path, encoded.getvalue())
    return pixels


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at inches from the figure's upper left corner."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(np.asarray(image), interpolation="antialiased")
    axes.set_anchor("S")  # a wide picture stands on its caption
    axes.set_axis_off()


def _text(figure: Figure, left: float, top: float, text: str, points: float, **style) -> None:
    w, h = figure.get_size_inches()
    font = _font(points)
    figure.text(left / w, 1 - top / h, text, va="top", font=font, parse_math=False, **style)


@functools.cache
def _font(points: float) -> FontProperties:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return FontProperties(family=["DejaVu Sans", *(f for f in _CJK if f in installed)], size=points)


def _height(points: float) -> float:
    return points * _LINE / 72


def _wrap(text: str, points: float, width: float) -> list[str]:
    """Splits text into lines of at most `width` inches, within a word where it must."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if _measure(joined, points) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:  # also how Chinese, which has no spaces, is wrapped
            if lines[-1] and _measure(lines[-1] + character, points) > width:
                lines.append("")
            lines[-1] += character
    return lines


@functools.lru_cache(maxsize=4096)
def _measure(text: str, points: float) -> float:
    """Width in inches."""
    renderer = _renderer()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        width, _, _ = renderer.get_text_width_height_descent(text, _font(points), ismath=False)
    return width / _DPI


@functools.cache
def _renderer():
    return FigureCanvasAgg(Figure(dpi=_DPI)).get_renderer()


def _printable(text: str) -> str:
    """One line without characters that no font draws."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
