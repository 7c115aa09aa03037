"""Pictures of where a translator looked in its source for each word that it wrote."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from seqgan_jax.reporting.pictures import figure_array, save_png


def heat_map(
    source: Sequence[str], target: Sequence[str], weights: np.ndarray, path: str | os.PathLike
) -> np.ndarray:
    """Draws attention as a table: a row for each token written, a column for each source token.

    The darker a cell, the more of the row's weight it has. A row's largest weight is printed in
    its cell, so that a sharp row can be told from a flat one.

    Args:
      source: the S source tokens.
      target: the T tokens written.
      weights: [T, S], each row at least 0.
      path: the PNG to write, whole or not at all.

    Returns:
      The picture, uint8 [H, W, 3].

    Raises:
      UserError: the file can't be written.
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape != (len(target), len(source)):
        raise ValueError(f"{len(target)} x {len(source)} tokens, but weights {weights.shape}")
    cell, labels, margin = 0.4, 1.5, 0.3  # inches
    width, height = cell * len(source), cell * len(target)
    size = (labels + width + margin, labels + height + margin)
    figure = Figure(figsize=size, dpi=100)
    axes = figure.add_axes((labels / size[0], margin / size[1], width / size[0], height / size[1]))
    axes.imshow(weights, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.xaxis.tick_top()
    for axis, tokens in ((axes.xaxis, source), (axes.yaxis, target)):
        axis.set_ticks(range(len(tokens)), map(_shown, tokens), parse_math=False, fontsize=9)
    axes.tick_params(axis="x", rotation=60, length=0)
    axes.tick_params(axis="y", length=0)
    for row, column in enumerate(weights.argmax(1)):
        share = weights[row, column]
        colour = "white" if share > 0.5 else "black"
        axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=7, color=colour)
    looked = [f"{a} at {source[i]}" for a, i in zip(target, weights.argmax(1), strict=True)]
    told = f"where it looked most at each token: {', '.join(looked)}"
    return save_png(figure_array(figure), path, told)


def _shown(token: str) -> str:
    """SentencePiece's mark of a word's beginning as a mark that fonts have."""
    shown = "".join(c if c.isprintable() else " " for c in token.replace("\u2581", "_"))
    return "_" if shown == " " else shown
