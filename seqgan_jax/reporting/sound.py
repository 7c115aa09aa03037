"""Recordings for people: WAV files, pictures of them, and a page to listen to them."""

import html
import io
import os
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from matplotlib.figure import Figure

from seqgan_jax.reporting.metrics_log import write_atomically
from seqgan_jax.reporting.pictures import figure_array, save_png

PAGE = "index.html"


def write_wav(path: str | os.PathLike, audio: np.ndarray, sample_rate: int) -> None:
    """Writes a mono WAV file of 16 bits, whole or not at all.

    Args:
      path: where.
      audio: float32 [samples] in -1 to 1; what lies beyond is cut off.
      sample_rate: Hz.

    Raises:
      UserError: the file can't be written.
    """
    encoded = io.BytesIO()
    with wave.open(encoded, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.round(np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())
    write_atomically(path, encoded.getvalue())


def spectrograms(
    frames: Mapping[str, np.ndarray], frames_per_second: float, path: str | os.PathLike
) -> np.ndarray:
    """Draws log-mel spectrograms below one another, on one scale of time and of loudness.

    Args:
      frames: [T, M] by title, natural logarithms of amplitudes.
      frames_per_second: of all.
      path: the PNG to write, whole or not at all.

    Returns:
      The picture, uint8 [H, W, 3].

    Raises:
      UserError: the file can't be written.
    """
    figure = Figure(figsize=(6, 0.4 + 1.5 * len(frames)), dpi=100, layout="constrained")
    axes = np.ravel(figure.subplots(len(frames), sharex=True, squeeze=False))
    loudest = max((part.max(initial=-np.inf) for part in frames.values()), default=0.0)
    loudest = loudest if np.isfinite(loudest) else 0.0
    longest = max(1, *map(len, frames.values())) / frames_per_second
    for axis, (title, part) in zip(axes, frames.items(), strict=True):
        if len(part):
            end = len(part) / frames_per_second
            axis.imshow(
                part.T,
                origin="lower",
                aspect="auto",
                cmap="Greys",
                vmin=loudest - 7,  # 60 dB
                vmax=loudest,
                extent=(0, end, 0, part.shape[1]),
            )
        axis.set_xlim(0, longest)
        axis.set_title(title, fontsize=9, loc="left", parse_math=False)
        axis.set_ylabel("mel band", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("seconds", fontsize=8)
    told = f"spectrograms, from top to bottom: {', '.join(frames)}"
    return save_png(figure_array(figure), path, told)


def attention(
    source: Sequence[str], weights: np.ndarray, tokens_per_second: float, path: str | os.PathLike
) -> np.ndarray:
    """Draws where speech looked in its source: time to the right, the source from top to bottom.

    Args:
      source: the S source tokens.
      weights: [T, S].
      tokens_per_second: of speech.
      path: the PNG to write, whole or not at all.

    Returns:
      The picture, uint8 [H, W, 3].

    Raises:
      UserError: the file can't be written.
    """
    if weights.shape[1] != len(source):
        raise ValueError(f"{len(source)} source tokens, but weights {weights.shape}")
    height = min(0.8 + 0.17 * len(source), 12.0)
    figure = Figure(figsize=(6, height), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    seconds = len(weights) / tokens_per_second
    axes.imshow(
        weights.T, aspect="auto", cmap="Greys", vmin=0, vmax=1, extent=(0, seconds, len(source), 0)
    )
    places = np.arange(0, len(source), -(-len(source) // 60))
    axes.set_yticks(places + 0.5, [_shown(source[i]) for i in places], fontsize=8, parse_math=False)
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=8)
    told = f"where it looked over {seconds:.1f} seconds, in: {' '.join(map(_shown, source))}"
    return save_png(figure_array(figure), path, told)


def listening_page(folder: Path) -> None:
    """Writes index.html in a folder: players of the WAV files of every folder in it, newest first.

    Raises:
      UserError: the file can't be written.
    """
    parts = []
    for stage in sorted((path for path in folder.iterdir() if path.is_dir()), reverse=True):
        players = [
            f'<p><audio controls preload="none" src="{quote(f"{stage.name}/{path.name}")}"></audio>'
            f" {html.escape(path.stem)}</p>"
            for path in sorted(stage.glob("*.wav"))
        ]
        if players:
            parts += [f"<h2>{html.escape(stage.name)}</h2>", *players]
    lines = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Samples</title>',
        *parts,
        "</html>\n",
    ]
    write_atomically(folder / PAGE, "\n".join(lines).encode())


def _shown(token: str) -> str:
    return "_" if token == " " else "".join(c if c.isprintable() else " " for c in token)
