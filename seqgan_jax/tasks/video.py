"""Video: what the programs need to know of clips with holes, and of what fills them."""

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from threadpoolctl import ThreadpoolController

from seqgan_jax.codecs import filler, patches, quantisers
from seqgan_jax.codecs.filler import CELL, Filler
from seqgan_jax.codecs.patches import PatchCodec
from seqgan_jax.data import holes, pipeline
from seqgan_jax.data import video as data
from seqgan_jax.data.cache import cache_folder, cached_array
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import frechet, judges
from seqgan_jax.evaluation import video as metrics
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.files import replace_file
from seqgan_jax.reporting import clips as pictures
from seqgan_jax.tasks import Splits, Tokens
from seqgan_jax.training.fit import fit

REFERENCES = ("none", "linear", "mean")
_ENDLESS = 2**29  # training examples before they come again
_THREADS = ThreadpoolController()
_CODED = 256  # windows that are coded at once
_FILLED = 48  # clips that are filled at once
_HELD_OUT = 200  # clips that what learns the mean is judged on
_THUMBNAIL = 4  # a picture's side for the Fréchet distance


class _Split:
    """One split: windows, their holes and codes, as the pipeline's examples."""

    single = True

    def __init__(self, windows: data.Windows, number: int, task: "Video"):
        self._windows = windows
        self._number = number
        self._task = task
        # A window comes with a new hole each time, but for the mean, which takes long to find.
        self._renewed = number == 0 and task.holed
        self.unlimited = self._renewed and not task.filled

    def __len__(self) -> int:
        if self._renewed:
            return _ENDLESS if self.unlimited else self._task.examples
        return len(self._windows)

    def __getitem__(self, i: int) -> dict:
        clip, hole = self.clip(i), self.hole(i)
        guess = self.mean(i, clip, hole)
        if guess is None:
            guess = self._task.guess(clip, hole)
        if self._task.steady:
            tokens = self._codes[self._window(i)[0]][self._task.places(hole)].ravel()
        else:
            # As many threads as cores take longer over a few patches than one does.
            with _THREADS.limit(limits=1):
                tokens = self._task.codec.encode(self._task.vectors(clip, hole, guess))
        return {
            "source": self._task.source(clip, hole, guess),
            "captions": (tokens,),
            "example_id": self._number * _ENDLESS + i,
        }

    @functools.cached_property
    def _codes(self) -> np.ndarray:
        """The tokens of every patch of every window, int32 [N, patches, Q], cached."""
        return self._task.codes(self._windows)

    @functools.cached_property
    def _fills(self) -> np.ndarray:
        """What the mean of every example's target patches is, uint8 [N, T, D], cached."""
        return self._task.fills(self, f"{self._windows.identity} {self._number}")

    def _window(self, i: int) -> tuple[int, bool]:
        """Which window example i is, and whether it is mirrored."""
        if not self._renewed:
            return i, False
        epoch, place = divmod(i, len(self._windows))
        key = hashlib.sha256(f"{self._task.seed} {epoch}".encode()).digest()
        place = pipeline.permuted(place, len(self._windows), int.from_bytes(key[:8], "little"))
        return place, self._task.flip and bool(key[8 + i % 24] & 1)

    def clip(self, i: int) -> np.ndarray:
        """The true clip, uint8 [F, H, W, 3]."""
        window, mirrored = self._window(i)
        clip = self._windows[window]
        return clip[:, :, ::-1] if mirrored else clip

    def hole(self, i: int) -> np.ndarray:
        """What is missing of it, bool [slots, rows, columns]."""
        bits = np.random.PCG64(np.random.SeedSequence([self._task.seed, 1, self._number, i]))
        # NumPy promises the stability of raw bits, not that of a Generator's methods.
        uniform = lambda: (int(bits.random_raw()) >> 11) * 2.0**-53
        return self._task.draw_hole(uniform, largest=self._number > 0)

    def mean(self, i: int, clip: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
        """Example i's clip with the mean in its hole, float [F, H, W, 3]; None without a mean."""
        return self._task.replaced(clip, hole, self._fills[i]) if self._task.filled else None

    def name(self, i: int) -> str:
        return self._windows.name(i)


class _Request(NamedTuple):
    """A user's clip.

    Attributes:
      film: what it is like.
      box: (x, y, w, h) of the hole, in its pixels.
      times: (first, end) of the frames that have the hole.
      starts: the first frame of each window.
      small: each window at the model's size, uint8 [F, H, W, 3].
      masked: the pixels of each that show anything of the hole, bool [F, H, W].
      hidden: what is missing of each, bool [slots, rows, columns].
    """

    film: data.Film
    box: tuple[int, int, int, int]
    times: tuple[int, int]
    starts: Sequence[int]
    small: Sequence[np.ndarray]
    masked: Sequence[np.ndarray]
    hidden: Sequence[np.ndarray]


class Video(Splits):
    """The task, bound to its clips and its codec; see `tasks.Task`.

    A source is the visible part of a clip, the hole marked, with the places of the patches to be
    filled; a target their codes, in that order. With no kinds of holes a source is nothing, and a
    target all of a picture or clip.

    Args:
      config: the run's configuration.
      workdir: the run's directory; the codec is read from it, or fitted and saved to it.
      progress: shows one-off work, see `reporting.progress.Progress`.

    Attributes:
      codec: of patches.
      holed: whether there are holes.
      grid: (slots, rows, columns) of patches.
      length: T, the largest hole's patches, times the codec's levels.
      seed: of the order of training clips and of holes.
      flip: whether half of the training clips are mirrored.
      steady: whether a patch has the same codes whatever the hole.

    Raises:
      UserError: for a source that can't be used, settings that make no sense, or where what reads
        clips isn't installed.
    """

    name = "video"
    items = "clips"
    banned = ()
    options = ("video", "mask")
    endings = (".mp4", ".gif")
    num_samples = 2
    shown = ("psnr", "ssim", "sharpness")
    falling = ("temporal_error", "frechet", "judge_accuracy", "judge_auc")
    beam = ("psnr", "ssim", "temporal_error", "sharpness")

    def __init__(self, config, workdir: Path, progress):
        self._config = config
        self._progress = progress
        self._requested: _Request | None = None
        self.seed, self.flip = config.data.seed, config.data.flip
        self.holed = bool(config.hole.kinds)
        self.steady = config.codec.reference == "none" and not self.flip
        self.patch = tuple(config.codec.patch)
        self._check()
        frames, size = config.data.frames, config.data.image_size
        self.grid = frames // self.patch[0], size // self.patch[1], size // self.patch[2]
        self._targets = math.prod(self.grid)
        if self.holed:
            shape = self.grid, config.hole.side, config.hole.time
            kinds = {*config.hole.kinds, config.hole.evaluated}
            self._targets = max(holes.largest(kind, *shape) for kind in kinds)
        else:
            self.options, self.endings, self.beam = (), (".png", ".gif"), ()
            self.shown = ("frechet", "sharpness")
        self.length = self._targets * config.codec.levels
        self._folder, self._filler = workdir / "codec", None
        # Without a configuration this is no run yet, and the codec is what a failed start left.
        if not (workdir / "config.json").exists():
            self._fit()
        self.codec = PatchCodec.load(self._folder)
        if config.codec.reference == "mean":
            self._filler = Filler.load(self._folder)
        if config.data.source == "shapes":
            self.message = (
                "data: rendered shapes and digits; the model will know nothing else "
                "(docs/video.md says how to train on clips)"
            )

    def _check(self) -> None:
        """Refuses sizes that don't go together."""
        options, codec = self._config.data, self._config.codec
        patch = codec.patch
        if len(patch) != 3 or not all(isinstance(n, int) and n > 0 for n in patch):
            raise UserError(
                f"config.codec.patch: {patch} must be three whole numbers, of frames and of pixels"
            )
        for option, sizes in (("frames", patch[:1]), ("image_size", patch[1:])):
            if any(options[option] % size for size in sizes):
                raise UserError(
                    f"config.data.{option}: {options[option]} is no multiple of what a patch of "
                    f"config.codec.patch = {patch} has; set one"
                )
        if codec.reference not in REFERENCES:
            raise UserError(
                f"config.codec.reference: no reference '{codec.reference}'; choose one of "
                f"{', '.join(REFERENCES)}"
            )
        if codec.reference != "none" and not self.holed:
            raise UserError("config.codec.reference: without holes there is none; set none")
        alike, evaluated = self._config.hole.alike, self._config.hole.evaluated
        if self.holed and evaluated not in holes.KINDS:
            raise UserError(
                f"config.hole.evaluated: no hole '{evaluated}'; choose from "
                f"{', '.join(holes.KINDS)}"
            )
        if not 0 <= alike <= 1:
            raise UserError(f"config.hole.alike: {alike} is no share; set a number from 0 to 1")
        counted = {"codec.fitted": codec.fitted}
        if codec.reference == "mean":
            names = "examples", "steps", "batch_size"
            counted |= {f"codec.mean.{name}": codec.mean[name] for name in names}
        for option, number in counted.items():
            if number < 1:
                raise UserError(
                    f"config.{option}: {number} leaves none to learn from; set 1 or more"
                )
        if codec.reference == "mean" and options.image_size % CELL:
            raise UserError(
                f"config.data.image_size: {options.image_size} is no multiple of {CELL}, which "
                "config.codec.reference=mean needs; set one"
            )
        encoder = self._config.encoder
        if self.holed and encoder.kind == "clip" and {2 ** len(encoder.channels)} != {*patch[1:]}:
            side = 2 ** len(encoder.channels)
            raise UserError(
                f"config.encoder.channels: {len(encoder.channels)} stages look at patches of "
                f"{side} x {side} pixels, and config.codec.patch is {patch}; name as many stages "
                "as halvings make one of it"
            )

    def _fit(self) -> None:
        """Fits the codec to what is missing of training clips and saves it."""
        options = self._config.codec
        if options.reference == "mean":
            self._filler = self._fitted_filler()
            self._filler.save(self._folder)
        train = _Split(self._windows["train"], 0, self)
        count = options.fitted if train.unlimited else min(options.fitted, len(train))
        each = self._progress.track(range(count), count, f"reading {count:,} clips for the codec")
        vectors = np.concatenate([self.vectors(train.clip(i), train.hole(i)) for i in each])
        settings = {"size": options.size, "levels": options.levels}
        if options.quantiser == quantisers.VQVAE.kind:
            settings["steps"] = options.steps
            settings["progress"] = lambda steps: self._progress.track(
                steps, len(steps), "fitting the codec"
            )
        else:
            settings["iterations"] = options.iterations
            self._progress.message(f"fitting the codec to {len(vectors):,} patches")
        PatchCodec.fit(
            vectors,
            self._config.seed,
            patch=self.patch,
            quantiser=options.quantiser,
            minimise=fit,
            **settings,
        ).save(self._folder)

    def _fitted_filler(self) -> Filler:
        """What has learned the mean of what is missing, on clips as the networks will see them."""
        options, size = self._config.codec.mean, self._config.codec.mean.batch_size
        time, height, width = self.patch
        splits = [_Split(self._windows[name], i, self) for i, name in enumerate(data.SPLITS[:2])]

        def rows(split, number):
            clip, hole = split.clip(number), split.hole(number)
            return self.guess(clip, hole) / metrics.PEAK, self._missing(hole), clip / metrics.PEAK

        def batch(split, number):
            numbers = (k % len(split) for k in range(number * size, (number + 1) * size))
            seen, mask, clips = zip(*(rows(split, k) for k in numbers), strict=True)
            return np.float32(seen), np.stack(mask), np.float32(clips)

        train, held_out = splits
        found, psnr = Filler.fit(
            (batch(train, number) for number in itertools.count()),
            [batch(held_out, n) for n in range(-(-min(len(held_out), _HELD_OUT) // size))],
            self._config.seed,
            channels=options.channels,
            most=self._targets * time * -(-height // 2) * -(-width // 2),
            steps=options.steps,
            every=max(1, options.steps // 5),
            minimise=fit,
            progress=lambda steps: self._progress.track(
                steps, len(steps), "learning the mean of what is missing"
            ),
        )
        self._progress.message(f"the mean of what is missing: {psnr:.2f} dB of validation clips")
        return found

    # Data.

    @functools.cached_property
    def _windows(self) -> dict[str, data.Windows]:
        """All clips by split; read when first asked for, since generation needs none."""
        track, tell = self._progress.track, self._progress.message
        return data.load(self._config.data, progress=track, report=tell)

    @functools.cached_property
    def splits(self) -> dict[str, _Split]:
        windows = self._windows
        return {name: _Split(windows[name], i, self) for i, name in enumerate(data.SPLITS)}

    @property
    def encoder(self) -> Tokens:
        return Tokens(self.codec.vocabulary)

    def draw_hole(self, uniform: Callable[[], float], *, largest: bool) -> np.ndarray:
        """A hole of one of the run's kinds, or the largest of the kind to judge by.

        A share of those that are not asked to be the largest, `config.hole.alike`, is so too.
        """
        options = self._config.hole
        if not self.holed:
            return np.ones(self.grid, bool)
        largest = largest or (options.alike > 0 and uniform() < options.alike)
        kind = options.evaluated if largest else options.kinds[int(len(options.kinds) * uniform())]
        shape = self.grid, options.side, options.time
        return holes.draw(kind, *shape, uniform, largest=largest)

    def _missing(self, hole: np.ndarray) -> np.ndarray:
        """The hole's pixels, bool [F, H, W]."""
        return holes.to_pixels(hole, self.patch)

    def guess(self, clip: np.ndarray, hole: np.ndarray) -> np.ndarray | None:
        """The clip with a first guess in its hole, from visible pixels alone, float [F, H, W, 3].

        It is linear in time, or the mean that has been learned. None without holes.
        """
        if not self.holed:
            return None
        mask = self._missing(hole)
        guess = metrics.interpolate(clip, mask)
        if self._filler is None:
            return guess
        return np.round(metrics.PEAK * self._filler(guess / metrics.PEAK, mask))

    def _reference(
        self, clip: np.ndarray, hole: np.ndarray, guess: np.ndarray | None = None
    ) -> np.ndarray:
        """What codes are added to, float [F, H, W, 3]; the guess where that is known already."""
        if self._config.codec.reference == "none":
            return np.zeros(clip.shape)
        return self.guess(clip, hole) if guess is None else guess

    def vectors(
        self, clip: np.ndarray, hole: np.ndarray, guess: np.ndarray | None = None
    ) -> np.ndarray:
        """The target's patches before they are coded, float32 [T, D]."""
        differences = (clip - self._reference(clip, hole, guess)) / metrics.PEAK
        return self._target_patches(differences.astype(np.float32), hole)

    def _target_patches(self, clip: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """[F, H, W, 3] -> [T, D]."""
        rows = patches.split(clip, self.patch)
        return rows.reshape(-1, rows.shape[-1])[self.places(hole)]

    @property
    def filled(self) -> bool:
        """Whether what is missing is filled with its mean first."""
        return self._filler is not None

    @property
    def examples(self) -> int:
        """Training examples whose mean is found."""
        return self._config.codec.mean.examples

    def fills(self, split: _Split, identity: str) -> np.ndarray:
        """The target patches of every example's guess, uint8 [N, T, D], cached.

        Args:
          split: the examples.
          identity: of its windows and holes.
        """
        holed = self._config.hole.to_json(sort_keys=True)
        about = f"{identity} {len(split)} {holed} {self.seed} {self.flip} {self.patch}"
        key = hashlib.sha256(about.encode())
        key.update((self._folder / filler.SETTINGS).read_bytes())  # with the parameters' checksum

        def fill(new):
            found = new((len(split), self._targets, 3 * math.prod(self.patch)), np.uint8)
            starts = range(0, len(split), _FILLED)
            for start in self._progress.track(starts, len(starts), "filling clips with the mean"):
                numbers = range(start, min(start + _FILLED, len(split)))
                clips = np.stack([split.clip(i) for i in numbers])
                drawn = [split.hole(i) for i in numbers]
                masks = np.stack([self._missing(hole) for hole in drawn])
                first = map(metrics.interpolate, clips, masks)
                filled = self._filler(np.stack(list(first)) / metrics.PEAK, masks)
                for i, clip, hole in zip(numbers, filled, drawn, strict=True):
                    found[i] = self._target_patches(np.round(metrics.PEAK * clip), hole)

        return cached_array(cache_folder() / f"fills-{key.hexdigest()[:24]}.npy", fill)

    def replaced(self, clip: np.ndarray, hole: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """A clip with its target patches replaced by rows [T, D], float [F, H, W, 3]."""
        grid = patches.split(clip.astype(np.float64), self.patch)
        flat = grid.reshape(-1, grid.shape[-1])
        flat[self.places(hole)] = rows
        return patches.join(flat.reshape(grid.shape), self.patch)

    def places(self, hole: np.ndarray) -> np.ndarray:
        """See `data.holes.places`."""
        return holes.places(hole, self._targets)

    def codes(self, windows: data.Windows) -> np.ndarray:
        """Tokens of every patch of windows, int32 [N, patches, Q], cached; see `steady`."""
        key = hashlib.sha256(windows.identity.encode())
        for file in (quantisers.SETTINGS, patches.FILE):
            key.update((self._folder / file).read_bytes())

        def fill(new):
            found = new((len(windows), math.prod(self.grid), self.codec.quantiser.levels), np.int32)
            starts = range(0, len(windows), _CODED)
            for start in self._progress.track(starts, len(starts), "coding clips"):
                stop = min(start + _CODED, len(windows))
                cut = [
                    patches.split(windows[i].astype(np.float32) / metrics.PEAK, self.patch)
                    for i in range(start, stop)
                ]
                rows = np.concatenate([each.reshape(-1, each.shape[-1]) for each in cut])
                found[start:stop] = self.codec.encode(rows).reshape(stop - start, *found.shape[1:])

        return cached_array(cache_folder() / f"codes-{key.hexdigest()[:24]}.npy", fill)

    def source(
        self, clip: np.ndarray, hole: np.ndarray, guess: np.ndarray | None = None
    ) -> dict[str, np.ndarray] | None:
        """What the networks see of a clip; none of the hole's pixels is read.

        Args:
          clip: uint8 [F, H, W, 3].
          hole: bool [slots, rows, columns].
          guess: see there; where that is known already.

        Returns:
          "clip": uint8 [slots, H, W, 4 t], of each of a slot's frames red, green, blue and whether
          a pixel is missing; a missing one is as guessed, a start for what has to be found;
          "places": see `data.holes.places`. None without holes.
        """
        if not self.holed:
            return None
        mask = self._missing(hole)
        guess = self.guess(clip, hole) if guess is None else guess
        seen = np.where(mask[..., None], guess, clip)
        channels = np.concatenate([np.round(seen), 255 * mask[..., None]], axis=-1).astype(np.uint8)
        slots = channels.reshape(self.grid[0], self.patch[0], *channels.shape[1:])
        slots = np.moveaxis(slots, 1, 3).reshape(*self.grid[:1], *channels.shape[1:3], -1)
        return {"clip": slots, "places": self.places(hole)}

    def template(self) -> dict:
        size = self._config.data.image_size
        empty = np.zeros((self._config.data.frames, size, size, 3), np.uint8)
        hole = self.draw_hole(lambda: 0.0, largest=True)
        source = self.source(empty, hole, guess=empty)
        return {
            "source": source and {name: leaf[None] for name, leaf in source.items()},
            "source_mask": None,
            "target": np.zeros((1, self.length), np.int32),
            "mask": np.ones((1, self.length), np.float32),
        }

    # A user's clip.

    def request(self, options: Mapping[str, Any]) -> tuple[list[str], dict]:
        """A user's clip in overlapping windows; without holes a row without a source.

        Raises:
          UserError: for no clip or no mask, several of them, a clip that can't be read or is too
            short, or a mask that lies outside, covers everything or more than the model fills.
        """
        if not self.holed:
            row = {"source": None, "source_mask": None, "example_id": np.zeros(1, np.int32)}
            return [""], row | {"weight": np.ones(1, np.float32)}
        for option, what in (("video", "a clip"), ("mask", "its hole, x,y,w,h or x,y,w,h,t0,t1")):
            if not options[option] or len(options[option]) > 1:
                told = "more than one" if options[option] else "none given"
                raise UserError(f"--{option}: {told}; name {what}")
        path, mask = Path(options["video"][0]).expanduser(), options["mask"][0]
        if not path.exists():
            raise UserError(f"--video={path}: there is no such file; name a clip")
        size, frames = self._config.data.image_size, self._config.data.frames
        numbers = _numbers(mask)
        film, whole = data.read(
            path, size, progress=self._progress.track, change=functools.partial(_hide, numbers)
        )
        if film.frames < frames:
            raise UserError(
                f"{path}: {film.frames} frames are fewer than the {frames} that this model looks "
                "at; give a longer clip"
            )
        if not film.steady:
            self._progress.message(
                f"{path}: its frame rate varies; frames are taken as they come, and written at "
                f"{float(film.rate):.3g} a second"
            )
        box, times = _placed(mask, numbers, film)
        whole_mask = _small_mask(box, times, film, size)
        starts = window_starts(times, frames, film.frames)
        small = [whole[start : start + frames] for start in starts]
        masked = [whole_mask[start : start + frames] for start in starts]
        hidden = [holes.of_pixels(each, self.patch) for each in masked]
        most = max(int(hole.sum()) for hole in hidden)
        if most > self._targets:
            raise UserError(
                f"--mask={mask}: hides {most} of the {math.prod(self.grid)} patches of "
                f"{frames} frames, and this model fills {self._targets}; choose a smaller box or "
                "fewer frames"
            )
        if any(hole.all(axis=0).any() for hole in hidden):
            self._progress.message(
                f"--mask={mask}: hides some places in all of the {frames} frames that are looked "
                "at together; what is never seen there is guessed from what surrounds it"
            )
        self._requested = _Request(film, box, times, starts, small, masked, hidden)
        sources = [self.source(*pair) for pair in zip(small, hidden, strict=True)]
        batch = {
            "source": {name: np.stack([each[name] for each in sources]) for name in sources[0]},
            "source_mask": None,
            "example_id": np.arange(len(starts), dtype=np.int32),
            "weight": np.ones(len(starts), np.float32),
        }
        return [f"{path} from frame {start} on" for start in starts], batch

    def fill(
        self,
        clip: np.ndarray,
        hole: np.ndarray,
        tokens: np.ndarray,
        guess: np.ndarray | None = None,
    ) -> np.ndarray:
        """The clip with what tokens say of its hole; everything else stays as it is, uint8.

        Args:
          clip: uint8 [F, H, W, 3].
          hole: bool [slots, rows, columns].
          tokens: of its patches.
          guess: see there; where that is known already.

        Raises:
          UserError: for fewer tokens than the hole has.
        """
        found = self.codec.decode(tokens)
        missing = int(hole.sum())
        if len(found) < missing:
            raise UserError(
                f"--length: {len(tokens)} tokens fill {len(found)} of {missing} missing patches; "
                "leave it out"
            )
        rows = patches.split(self._reference(clip, hole, guess), self.patch)
        flat = rows.reshape(-1, rows.shape[-1])
        places = self.places(hole)[:missing]
        flat[places] += metrics.PEAK * found[:missing]
        filled = patches.join(flat.reshape(rows.shape), self.patch)
        return metrics.blend(clip, self._missing(hole), filled)

    def save(self, path: Path, samples: Sequence[Sample]) -> list[Path]:
        """Writes clips, or pictures: the file named for a single one, numbered ones for several."""
        count = len(samples[0].tokens)
        paths = [path]
        if count > 1:
            paths = [path.with_stem(f"{path.stem}-{i}") for i in range(1, count + 1)]
        for i, file in enumerate(paths):
            if self._requested is None:
                self._save_whole(file, samples[0].tokens[i])
                continue
            asked = self._requested
            frames = self._filled_frames(asked, [sample.tokens[i] for sample in samples])
            shown = self._progress.track(frames, asked.film.frames, f"writing {file.name}")
            pictures.write(file, shown, asked.film.rate)
        return paths

    def _save_whole(self, path: Path, tokens: np.ndarray) -> None:
        clip = self._whole(tokens)
        if path.suffix.lower() != ".png":
            pictures.write(path, iter(clip), self._config.data.frames)
            return
        pictures.strip({"generated": clip}, path)

    def _whole(self, tokens: np.ndarray) -> np.ndarray:
        """A clip or picture all of which was written."""
        size = self._config.data.image_size
        empty = np.zeros((self._config.data.frames, size, size, 3), np.uint8)
        return self.fill(empty, np.ones(self.grid, bool), tokens)

    def _filled_frames(self, asked: _Request, tokens: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The frames of a user's clip at its own size, read once more, the hole filled.

        Where windows overlap their fills are averaged, each with a weight that falls towards the
        window's ends.
        """
        frames = self._config.data.frames
        weights = np.minimum(np.arange(frames) + 1, frames - np.arange(frames))
        sums: dict[int, np.ndarray] = {}
        totals: dict[int, float] = {}
        windows = zip(asked.starts, asked.small, asked.masked, asked.hidden, tokens, strict=True)
        for start, small, masked, hole, written in windows:
            # Patches reach beyond the hole, and what is true there is known.
            filled = np.where(masked[..., None], self.fill(small, hole, written), small)
            for t, frame in enumerate(filled):
                sums[start + t] = sums.get(start + t, 0.0) + float(weights[t]) * frame
                totals[start + t] = totals.get(start + t, 0.0) + float(weights[t])
        x, y, w, h = asked.box
        area = slice(y, y + h), slice(x, x + w)
        for t, (_, frame) in enumerate(data.frames_of(asked.film.path)):
            if asked.times[0] <= t < asked.times[1]:
                small = np.round(sums[t] / totals[t]).astype(np.uint8)
                frame = frame.copy()
                frame[area] = data.resize(small, *frame.shape[:2])[area]
            yield frame

    # What was written, in words.

    def decode(self, tokens: np.ndarray) -> str:
        """The codes themselves."""
        tokens = np.asarray(tokens)
        return f"{len(tokens)} codes: {' '.join(map(str, tokens % self.codec.quantiser.size))}"

    def prefix(self, text: str) -> tuple[int, ...]:
        """Clips begin with no text.

        Raises:
          UserError: for any prefix.
        """
        if text:
            raise UserError(f"--prefix={text}: of no use to a model of video; leave it out")
        return ()

    def row(self, name: str, sample: Sample) -> dict:
        written = zip(sample.tokens, sample.log_probs, sample.scores, strict=True)
        return {
            "window": name,
            "fills": [
                {"codes": tokens.tolist(), "log_prob": float(log_prob), "score": float(score)}
                for tokens, log_prob, score in written
            ],
        }

    def describe(self, name: str, sample: Sample) -> list[str]:
        return [
            *([name] if name else []),
            *(
                f"  {len(row['codes'])} codes  (log-probability {row['log_prob']:.2f}, "
                f"discriminator {row['score']:.2f}); --output=FILE{self.endings[0]} to see it"
                for row in self.row(name, sample)["fills"]
            ),
        ]

    # Figures.

    def _truths(self, split: str, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The first true clips of a split, and their holes."""
        held_out = self.split(split)
        return [held_out.clip(i) for i in range(count)], [held_out.hole(i) for i in range(count)]

    def _means(self, split: str, clips, hidden) -> list[np.ndarray | None]:
        """Their means; see `_Split.mean`."""
        return list(map(self.split(split).mean, range(len(clips)), clips, hidden))

    def evaluate(
        self, split: str, samples: Sequence[Sample], log_probs: np.ndarray, *, thorough: bool
    ) -> dict[str, Metric]:
        """How well the first fill of each clip fits; thorough also a fresh judge and diversity.

        `quality_diversity` is the PSNR less 10 |log10 sharpness|: what is blurred or noisy costs as
        many decibels as its gradient energy is off. Without holes it is less the Fréchet distance.
        """
        del log_probs
        if not self.holed:
            figures = self._unconditional(split, [self._whole(s.tokens[0]) for s in samples])
        else:
            clips, hidden = self._truths(split, len(samples))
            means = self._means(split, clips, hidden)
            first = [
                self.fill(clip, hole, sample.tokens[0], mean)
                for clip, hole, mean, sample in zip(clips, hidden, means, samples, strict=True)
            ]
            figures = self._figures(first, clips, hidden)
        if not thorough:
            return figures
        figures |= self._real_or_generated(
            np.stack([sample.tokens[0] for sample in samples]), self._real(split, 0, len(samples))
        )
        if all(len(sample.tokens) > 1 for sample in samples):
            if not self.holed:
                clips, hidden = self._truths(split, len(samples))
                means = self._means(split, clips, hidden)
            pairs = [
                tuple(self.fill(clip, hole, sample.tokens[i], mean) for i in range(2))
                for clip, hole, mean, sample in zip(clips, hidden, means, samples, strict=True)
            ]
            figures |= metrics.diversity(pairs, self._pixels(hidden))
        return figures

    def _pixels(self, hidden: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(map(self._missing, hidden))

    def _figures(self, filled, clips, hidden) -> dict[str, Metric]:
        figures = metrics.figures(filled, clips, self._pixels(hidden))
        psnr, sharp = figures["psnr"], figures["sharpness"].value
        off = 10 * abs(math.log10(max(sharp, 1e-3))) if sharp is not None else 0.0
        return figures | {"quality_diversity": psnr._replace(value=psnr.value - off)}

    def _unconditional(self, split: str, made: Sequence[np.ndarray]) -> dict[str, Metric]:
        clips, hidden = self._truths(split, len(made))
        thumbnails = lambda shown: np.stack([_thumbnail(clip) for clip in shown])
        parts = frechet.halves(thumbnails(made), thumbnails(clips), self._config.seed)
        figures = frechet.frechet(parts, f"of {_THUMBNAIL} x {_THUMBNAIL} thumbnails")
        figures["sharpness"] = metrics.sharpness(made, clips, self._pixels(hidden))
        far = figures["frechet"]
        best = far._replace(value=None if far.value is None else -far.value)
        return figures | {"quality_diversity": best}

    def _real(self, split: str, start: int, count: int) -> np.ndarray:
        """The code sequences of a split's own clips, [N, T]."""
        held_out = self.split(split)
        stop = min(start + count, len(held_out))
        return np.stack([held_out[i]["captions"][0] for i in range(start, stop)])

    def _real_or_generated(self, ours: np.ndarray, real: np.ndarray) -> dict[str, Metric]:
        if min(len(ours), len(real)) < 10:
            return {}
        verdict = judges.real_or_generated(
            real,
            ours,
            vocabulary_size=self.codec.vocabulary.size,
            seed=self._config.seed,
            progress=lambda steps: self._progress.track(steps, len(steps), "training a judge"),
        )
        return {"judge_accuracy": verdict.accuracy, "judge_auc": verdict.auc}

    def comparisons(
        self, split: str, count: int, num_samples: int
    ) -> tuple[dict[str, dict[str, Metric]], list[str]]:
        """What fills holes without learning, and what coding leaves of the truth; a note on codes.

        The judge of the coded column tells one half of the real code sequences from the other.
        """
        del num_samples
        clips, hidden = self._truths(split, count)
        means = self._means(split, clips, hidden)
        vectors = list(map(self.vectors, clips, hidden, means))
        coded = [
            self.fill(clip, hole, self.codec.encode(rows), mean)
            for clip, hole, mean, rows in zip(clips, hidden, means, vectors, strict=True)
        ]
        half, judged = count // 2, {}
        if half:
            judged = self._real_or_generated(
                self._real(split, 0, half), self._real(split, half, count - half)
            )
        quality = patches.quality(self.codec, np.concatenate(vectors))
        lines = [
            f"codec: {self.codec.bits_per_patch:.1f} bits for a patch of "
            f"{' x '.join(map(str, self.patch))}, {quality['psnr']:.1f} dB; "
            f"{quality['used']:.0%} of the codes used, perplexity {quality['perplexity']:.0f}"
        ]
        if not self.holed:
            return {"the same, coded": self._unconditional(split, coded) | judged}, lines
        columns = {}
        pairs = list(zip(clips, self._pixels(hidden), strict=True))
        for name, fill in metrics.FILLS.items():
            each = self._progress.track(pairs, len(pairs), f"filling by {name}")
            filled = [metrics.blend(clip, mask, fill(clip, mask)) for clip, mask in each]
            columns[name] = self._figures(filled, clips, hidden)
        return columns | {"the truth, coded": self._figures(coded, clips, hidden) | judged}, lines

    # Pictures.

    def illustrate(
        self, folder: Path, split: str, samples: Sequence[Sample], attention: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Writes strips and moving pictures of what is seen, what was filled in and what is true.

        `N.png` has the three below one another, frames from left to right; `N.gif` side by side.
        Without holes `samples.png` has all pictures, and true ones below them. `video.json` says
        how far each is from the truth.
        """
        del attention
        folder.mkdir(parents=True, exist_ok=True)
        clips, hidden = self._truths(split, len(samples))
        drawn, rows = {}, []
        if not self.holed:
            made = np.concatenate([self._whole(sample.tokens[0]) for sample in samples])
            shown = {"generated": made, "real": np.concatenate(clips)}
            return {"samples": pictures.strip(shown, folder / "samples.png")}
        given = zip(clips, hidden, self._means(split, clips, hidden), samples, strict=True)
        for i, (clip, hole, mean, sample) in enumerate(given):
            mask = self._missing(hole)
            filled = self.fill(clip, hole, sample.tokens[0], mean)
            masked = np.where(mask[..., None], np.uint8(255), clip)
            shown = {"masked": masked, "filled": filled, "true": clip}
            picture = pictures.strip(shown, folder / f"{i + 1}.png")
            pictures.moving(shown, folder / f"{i + 1}.gif")
            drawn |= {} if drawn else {str(i + 1): picture}
            error = np.mean((filled.astype(float) - clip)[mask] ** 2)
            psnr = round(float(10 * np.log10(metrics.PEAK**2 / max(error, 1e-6))), 2)
            clip_name = self.split(split).name(i)
            score = round(float(sample.scores[0]), 6)
            rows.append({"clip": clip_name, "psnr": psnr, "score": score})
        with replace_file(folder / "video.json") as file:
            file.write(json.dumps(rows, indent=1).encode())
        return drawn


def _thumbnail(clip: np.ndarray) -> np.ndarray:
    """A clip's middle frame as few numbers, 0 to 1."""
    frame = Image.fromarray(clip[len(clip) // 2])
    small = frame.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small, np.float64).ravel() / metrics.PEAK


def _numbers(mask: str) -> tuple[int, ...]:
    """x, y, w, h and maybe t0, t1 of a mask as text."""
    try:
        numbers = tuple(map(int, mask.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) not in (4, 6):
        raise UserError(f"--mask={mask}: must be whole numbers x,y,w,h or x,y,w,h,t0,t1")
    return numbers


def _hide(numbers: tuple[int, ...], number: int, frame: np.ndarray) -> np.ndarray:
    """A frame with its hole painted over, so that nothing of it gets into a smaller frame's pixels.

    From the pixels on its left to those on its right, or from above to below where it is as wide as
    the frame.
    """
    x, y, w, h, first, end = (*numbers, 0, number + 1)[:6]
    height, width = frame.shape[:2]
    if not first <= number < end or not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
        return frame
    if w == width:
        if h == height:
            return np.zeros_like(frame)
        turned = (y, x, h, w, *numbers[4:])
        return _hide(turned, number, frame.swapaxes(0, 1)).swapaxes(0, 1)
    rows = frame[y : y + h].astype(np.float64)
    left, right = rows[:, max(x - 1, 0)], rows[:, min(x + w, width - 1)]
    left, right = (left if x else right), (right if x + w < width else left)
    share = (np.arange(1, w + 1) / (w + 1))[:, None]
    painted = frame.copy()
    painted[y : y + h, x : x + w] = np.round((1 - share) * left[:, None] + share * right[:, None])
    return painted


def _placed(
    mask: str, numbers: tuple[int, ...], film: data.Film
) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """(x, y, w, h) and (first, end) of a mask that lies within a clip."""
    where = f"--mask={mask}"
    x, y, w, h, first, end = (*numbers, 0, film.frames)[:6]
    if w < 1 or h < 1 or end <= first:
        raise UserError(f"{where}: hides nothing; w and h must be positive, and t1 above t0")
    outside = x < 0 or y < 0 or x + w > film.width or y + h > film.height
    if outside or first < 0 or end > film.frames:
        raise UserError(
            f"{where}: lies outside of {film.path.name}, which has {film.width} x {film.height} "
            f"pixels and {film.frames} frames"
        )
    if (w, h) == (film.width, film.height) and end - first == film.frames:
        raise UserError(f"{where}: covers everything, so that nothing is left to fill it from")
    return (x, y, w, h), (first, end)


def _small_mask(box, times, film: data.Film, size: int) -> np.ndarray:
    """All pixels of the small frames that show anything of the hole, bool [frames, size, size]."""
    x, y, w, h = box
    mask = np.zeros((film.frames, size, size), bool)
    low = lambda place, whole: place * size // whole
    high = lambda place, whole: -(-place * size // whole)
    rows = slice(low(y, film.height), high(y + h, film.height))
    columns = slice(low(x, film.width), high(x + w, film.width))
    mask[times[0] : times[1], rows, columns] = True
    return mask


def window_starts(times: tuple[int, int], frames: int, total: int) -> list[int]:
    """Where windows of `frames` frames begin that cover the frames `times` of a clip.

    The first has as much before the hole as after it, if the hole is short and there is as much;
    each further one begins half a window later.

    Args:
      times: (first, end).
      frames: F.
      total: frames of the clip, at least F.
    """
    last = total - frames
    before = (frames - min(times[1] - times[0], frames)) // 2
    starts = [min(max(times[0] - before, 0), last)]
    while starts[-1] + frames < times[1]:
        starts.append(min(starts[-1] + max(frames // 2, 1), last))
    return starts
