"""Clips to learn from: rendered shapes, or files that PyAV decodes, or folders of pictures.

Every source becomes windows of F frames, square, at one size. What is kept out for validation and
test of a file is the last fifth of its time; of shapes, other scenes.
"""

import fractions
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from seqgan_jax.data import shapes
from seqgan_jax.data.cache import cache_folder, cached_array
from seqgan_jax.data.captions import Progress, keep_out, no_progress
from seqgan_jax.data.images import file_key, read_image
from seqgan_jax.errors import UserError

SOURCES = ("shapes", "files")
SPLITS = ("train", "validation", "test")
CLIPS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".ogv",
    ".gif", ".y4m",
)  # fmt: skip
# Part of the cache's key: raise it when rendering or reading changes.
VERSION = 1
_RATE = 25  # frames a second of a folder of pictures
_INSTALL = "pip install 'seqgan_jax[media]'"


class Film(NamedTuple):
    """A clip's properties.

    Attributes:
      path: the file, or the folder of its frames.
      frames: how many.
      height, width: in pixels.
      rate: frames a second, the mean.
      steady: whether all frames last equally long.
    """

    path: Path
    frames: int
    height: int
    width: int
    rate: fractions.Fraction
    steady: bool


class Windows:
    """One split: windows of F frames.

    Attributes:
      identity: a hash of all that the windows hold.
    """

    def __init__(
        self,
        films: Sequence[np.ndarray],
        starts: Sequence[tuple[int, int]],
        names: Sequence[str],
        frames: int,
        identity: str,
    ):
        """Window i is `frames` frames of film `starts[i][0]` from its frame `starts[i][1]` on."""
        self._films = films
        self._starts = starts
        self._names = names
        self._frames = frames
        self.identity = identity

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: int) -> np.ndarray:
        """uint8 [F, H, W, 3]."""
        film, start = self._starts[i]
        return self._films[film][start : start + self._frames]

    def name(self, i: int) -> str:
        """What to call window i."""
        film, start = self._starts[i]
        return self._names[film].format(start=start)


def load(
    config,
    *,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, Windows]:
    """Renders or reads the clips, which are kept in the cache.

    Args:
      config: `source`; `frames`, F; `image_size`, the side in pixels; of shapes `seed` and
        `train_size`, `validation_size`, `test_size`; of files `path` and `stride`, frames between
        the starts of two windows.
      progress: shows how far the preparation is.
      report: is told what files are like.

    Returns:
      the splits 'train', 'validation' and 'test'.

    Raises:
      UserError: for anything wrong with the configuration or the files.
    """
    for option in ("frames", "image_size"):
        if config[option] < 1:
            raise UserError(f"config.data.{option}: {config[option]} is too small; set 1 or more")
    if config.source == "shapes":
        return _shapes(config, progress)
    if config.source != "files":
        raise UserError(
            f"config.data.source: no source '{config.source}'; choose one of {', '.join(SOURCES)}"
        )
    if config.frames == 1:
        return _pictures(config, progress)
    return _films(config, progress, report)


def _shapes(config, progress: Progress) -> dict[str, Windows]:
    found = {}
    size, frames = config.image_size, config.frames
    for number, split in enumerate(SPLITS):
        count = config[f"{split}_size"]
        key = f"{VERSION}-{config.seed}-{number}-{count}-{frames}-{size}"

        def fill(new, number=number, count=count, split=split):
            clips = new((count * frames, size, size, 3), np.uint8)
            for i in progress(range(count), count, f"drawing {count:,} clips for '{split}'"):
                clip = shapes.draw(shapes.scene(config.seed, number, i), frames, size)
                clips[i * frames : (i + 1) * frames] = clip

        clips = cached_array(cache_folder() / f"shapes-{key}.npy", fill)
        starts = [(0, i * frames) for i in range(count)]
        names = [f"clip at frame {{start}} of '{split}'"]
        found[split] = Windows([clips], starts, names, frames, f"shapes-{key}")
    return found


# Files


def film_paths(path: str | Path | None) -> list[Path]:
    """The clips at a path: itself if it is one or a folder of pictures, or those in a folder.

    Raises:
      UserError: for a path that isn't there, or a folder of neither.
    """
    if not path:
        raise UserError(
            "config.data.path is not set: say --config.data.path=PATH, a clip, a folder of clips "
            "or a folder of pictures, one for each frame"
        )
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; name a clip or a folder of them")
    if not path.is_dir():
        return [path]
    clips = sorted(file for file in path.iterdir() if file.suffix.lower() in CLIPS)
    if not clips and not _pictures_in(path):
        raise UserError(f"{path}: neither clips nor pictures in this folder; name another")
    return clips or [path]


def _pictures_in(folder: Path) -> list[Path]:
    endings = Image.registered_extensions().keys() - set(CLIPS)
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in endings)


def _av():
    try:
        import av
    except ImportError as error:
        raise UserError(f"PyAV, which decodes clips, is not installed; run {_INSTALL}") from error
    return av


def frames_of(path: Path) -> Iterator[tuple[float | None, np.ndarray]]:
    """The frames of a clip or of a folder of pictures, in order.

    Yields:
      (when it is shown, in seconds, or None if that isn't known; uint8 [H, W, 3]).

    Raises:
      UserError: for what can't be decoded, holds no picture, or changes its size.
    """
    if path.is_dir():
        size, files = None, _pictures_in(path)
        if not files:
            raise UserError(
                f"{path}: no pictures in this folder; name a clip, or a folder of its frames"
            )
        for i, file in enumerate(files):
            frame = _whole_picture(file)
            if frame.shape != (size or frame.shape):
                raise UserError(
                    f"{file}: is {frame.shape[1]} x {frame.shape[0]} pixels, the frames before it "
                    f"{size[1]} x {size[0]}; give them one size"
                )
            size = frame.shape
            yield i / _RATE, frame
        return
    av = _av()
    if path.is_file() and not path.stat().st_size:
        raise UserError(f"{path}: this file is empty; replace or remove it")
    count = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                kinds = (
                    ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
                )
                raise UserError(f"{path}: no pictures in this file ({kinds} only); name a clip")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield frame.time, frame.to_ndarray(format="rgb24")
                count += 1
    except (av.FFmpegError, OSError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        where = f"from frame {count} on " if count else ""
        raise UserError(
            f"{path}: can't be decoded {where}({reason}); replace or remove it"
        ) from error
    if not count:
        raise UserError(f"{path}: this clip has no frames; replace or remove it")


def _whole_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise UserError(f"{path}: this picture can't be read; replace or remove it") from error


def resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame at another size, uint8 [height, width, 3], its sides stretched if need be."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def read(
    path: Path,
    size: int,
    *,
    progress: Progress = no_progress,
    change: Callable[[int, np.ndarray], np.ndarray] = lambda number, frame: frame,
) -> tuple[Film, np.ndarray]:
    """A whole clip at a small size.

    Args:
      path: a file or a folder of pictures.
      size: side of the square to which its frames are stretched.
      progress: shows how many frames were read.
      change: what to make of a frame, by its number, before it is stretched.

    Returns:
      (what it is like, uint8 [frames, size, size, 3]).

    Raises:
      UserError: see `frames_of`.
    """
    times, small, shape = [], [], None
    total = len(_pictures_in(path)) if path.is_dir() else _announced(path)
    for time, frame in progress(frames_of(path), total, f"reading {path.name}"):
        if shape and frame.shape != shape:
            raise UserError(
                f"{path}: its pictures change their size, from {shape[1]} x {shape[0]} to "
                f"{frame.shape[1]} x {frame.shape[0]} pixels at frame {len(small)}; convert it"
            )
        shape = frame.shape
        times.append(time)
        small.append(resize(change(len(small), frame), size, size))
    rate, steady = _rate(times)
    return Film(path, len(small), shape[0], shape[1], rate, steady), np.stack(small)


def _announced(path: Path) -> int | None:
    """How many frames a file says it has, where it does."""
    av = _av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            return (container.streams.video[0].frames or None) if container.streams.video else None
    except (av.FFmpegError, OSError):
        return None


def _rate(times: Sequence[float | None]) -> tuple[fractions.Fraction, bool]:
    """Frames a second, the mean, and whether all last equally long, to within a millisecond or two.

    Containers round the times of frames.
    """
    if len(times) < 2 or None in times or times[-1] <= times[0]:
        return fractions.Fraction(_RATE), True
    gaps = np.diff(times)
    mean = (times[-1] - times[0]) / (len(times) - 1)
    rate = fractions.Fraction(1 / mean).limit_denominator(1001)
    return rate, bool(np.all(abs(gaps - mean) <= 0.002 + 0.02 * mean))


def _films(config, progress: Progress, report) -> dict[str, Windows]:
    size, frames = config.image_size, config.frames
    if config.stride < 1:
        raise UserError(f"config.data.stride: {config.stride} is too small; set 1 or more")
    films, names, keys = [], [], []
    starts = {split: [] for split in SPLITS}
    for path in film_paths(config.path):
        files = _pictures_in(path) if path.is_dir() else [path]
        key = file_key([VERSION, size], [(file.name, file) for file in files])
        whole = cached_array(
            cache_folder() / f"clip-{key}.npy", _reader(path, size, progress, report)
        )
        count = len(whole)
        if count < frames:
            raise UserError(
                f"{path}: {count} frames are fewer than the {frames} of a window; remove it, or "
                "lower config.data.frames"
            )
        # The last fifth is kept out: its first half to choose by, the second to judge by.
        edges = [0, count * 8 // 10, count * 9 // 10, count]
        for split, low, high in zip(SPLITS, edges[:-1], edges[1:], strict=True):
            if high - low < frames:
                raise UserError(
                    f"{path}: of its {count} frames {high - low} are for '{split}', fewer than the "
                    f"{frames} of a window; give a clip of {10 * frames} frames or more"
                )
            places = range(low, high - frames + 1, config.stride)
            starts[split] += [(len(films), start) for start in places]
        films.append(whole)
        names.append(f"{path.name} from frame {{start}} on")
        keys.append(key)
    identity = hashlib.sha256(f"{keys} {frames} {config.stride}".encode()).hexdigest()[:24]
    return {
        split: Windows(films, starts[split], names, frames, f"{identity}-{split}")
        for split in SPLITS
    }


def _reader(path: Path, size: int, progress: Progress, report) -> Callable:
    def fill(new):
        film, small = read(path, size, progress=progress)
        report(
            f"{path.name}: {film.frames} frames of {film.width} x {film.height} pixels at "
            f"{float(film.rate):.3g} a second, stretched to {size} x {size}"
            + ("" if film.steady else "; its frame rate varies, which is ignored")
        )
        new(small.shape, np.uint8)[:] = small

    return fill


def _pictures(config, progress: Progress) -> dict[str, Windows]:
    """Windows of one frame: a folder of independent pictures, or the frames of clips."""
    paths = film_paths(config.path)
    if len(paths) > 1 or not paths[0].is_dir():
        return _films(config, progress, lambda message: None)
    files = {file.name: file for file in _pictures_in(paths[0])}
    size = config.image_size
    key = file_key([VERSION, size, "pictures"], sorted(files.items()))
    names = sorted(files)

    def fill(new):
        pictures = new((len(names), size, size, 3), np.uint8)
        for i in progress(range(len(names)), len(names), "preparing pictures"):
            pictures[i] = read_image(files[names[i]], size)

    pictures = cached_array(cache_folder() / f"pictures-{key}.npy", fill)
    place = {name: i for i, name in enumerate(names)}
    return {
        split: Windows(
            [pictures],
            [(0, place[name]) for name in members],
            [f"picture {{start}} of {paths[0].name}"],
            1,
            f"{key}-{split}",
        )
        for split, members in keep_out(names, config).items()
    }
