"""Clips for people: strips of frames, moving pictures, files to watch."""

import fractions
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from seqgan_jax.errors import UserError
from seqgan_jax.reporting.metrics_log import write_atomically
from seqgan_jax.reporting.pictures import save_png

_GAP = 2  # pixels between pictures
_SIDE = 96  # pixels that a frame is enlarged to at least
_PAPER = 255
_SLOW = 8  # frames a second of a GIF of a few frames


def enlarged(frames: np.ndarray) -> np.ndarray:
    """Frames [F, H, W, 3], every pixel repeated so that sides have 96 pixels or a bit less."""
    scale = max(1, _SIDE // max(frames.shape[1:3]))
    return frames.repeat(scale, axis=1).repeat(scale, axis=2)


def strip(clips: Mapping[str, np.ndarray], path: str | os.PathLike) -> np.ndarray:
    """Writes clips below one another, their frames from left to right, as a PNG.

    Args:
      clips: uint8 [F, H, W, 3] each, of one shape, by what they are, from top to bottom.
      path: the file, whole or not at all.

    Returns:
      The picture, uint8 [H', W', 3].

    Raises:
      UserError: the file can't be written.
    """
    rows = [_joined(list(enlarged(clip)), axis=1) for clip in clips.values()]
    told = f"from top to bottom: {', '.join(clips)}" if len(clips) > 1 else ""
    return save_png(_joined(rows, axis=0), path, told)


def moving(clips: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Writes clips side by side as a GIF that repeats, slowly enough to see.

    Args:
      clips: see `strip`; from left to right.
      path: the file, whole or not at all.

    Raises:
      UserError: the file can't be written.
    """
    together = [enlarged(clip) for clip in clips.values()]
    frames = [_joined(list(row), axis=1) for row in zip(*together, strict=True)]
    write_atomically(path, _gif(frames, fractions.Fraction(_SLOW)))


def _joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, _PAPER, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return np.concatenate(parts, axis=axis)


def _gif(frames: Iterable[np.ndarray], rate: fractions.Fraction) -> bytes:
    pictures = [Image.fromarray(frame) for frame in frames]
    encoded = io.BytesIO()
    pictures[0].save(
        encoded,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=max(20, round(1000 / rate)),
        loop=0,
    )
    return encoded.getvalue()


def write(path: Path, frames: Iterable[np.ndarray], rate: fractions.Fraction) -> None:
    """Writes a clip: .mp4 (H.264) or .gif, whole or not at all.

    Frames go into an MP4 as they come, so that a clip may be longer than the memory.

    Args:
      path: the file.
      frames: uint8 [H, W, 3] each, of one size.
      rate: frames a second.

    Raises:
      UserError: the file can't be written.
    """
    if path.suffix.lower() == ".gif":
        write_atomically(path, _gif(frames, rate))
        return
    import av

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "12"})
            for i, pixels in enumerate(frames):
                height, width = pixels.shape[:2]
                if not i:
                    stream.width, stream.height = width, height
                    # Colour at half the resolution, which all players know, needs even sides.
                    odd = height % 2 or width % 2
                    stream.pix_fmt = "yuv444p" if odd else "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: can't be written ({reason}); name another file") from error
    finally:
        temporary.unlink(missing_ok=True)
