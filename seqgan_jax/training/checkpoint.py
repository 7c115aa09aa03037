"""Checkpoints of the whole training state: asynchronous, atomic, verified, and kept by a policy.

Orbax writes the arrays, in the background. Then a manifest is added, with the size and the SHA-256
of every file (orbax alone doesn't notice a flipped bit). So a checkpoint that has one is whole, or
was damaged later; one without is unfinished, and the next start deletes it. Nothing rests on
renaming a folder, which buckets don't do at once.

Kept are the newest two, the end of every phase, and the best of every phase by its own metric.

Of several processes each writes and reads its own part of the arrays. All else is process 0's: it
names, verifies, moves and deletes, and the others ask it.
"""

import contextlib
import errno
import functools
import hashlib
import importlib.util
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import jax
import orbax.checkpoint as ocp
from etils import epath

from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file
from seqgan_jax.training import processes
from seqgan_jax.training.state import TrainState

FOLDER = "checkpoints"
DAMAGED = "damaged"
MANIFEST = "manifest.json"
# Raise it with every change that makes older checkpoints unreadable.
FORMAT = 3
BUCKET = "gs://"


class Checkpoints:
    """The checkpoints of one run.

    A damaged one is told of on standard error and, unless `read_only`, moved to
    `checkpoints/damaged/`.

    Args:
      workdir: the run's directory.
      elsewhere: see `place`.
      read_only: for programs that don't train: nothing is made, moved or deleted.

    Raises:
      UserError: if there is no checkpoint to read, or one of another format, or a bucket can't be
        reached.
    """

    def __init__(self, workdir: Path, elsewhere: str | None = None, *, read_only: bool = False):
        _quiet_failed_writes()
        self._folder = place(workdir, elsewhere)
        self._read_only = read_only
        self._checkpointer = _checkpointer()
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._intact: set[int] = set()
        self._manifests: dict[int, dict] = {}
        processes.from_first(self._read)

    def _read(self) -> None:
        if not self._read_only:
            self._prepare()
        for path in _entries(self._folder):
            if not path.name.isdigit():
                continue
            step = int(path.name)
            try:
                self._manifests[step] = _read_manifest(path)
            except FileNotFoundError:
                pass  # another process is writing it
            except _Damaged as damage:
                self._set_aside(step, damage)
        if self._read_only and not self._manifests:
            raise UserError(f"{self._folder}: no checkpoint is complete; train this run first")

    def _prepare(self) -> None:
        """Makes the folder, which buckets don't need, and deletes what is unfinished."""
        if not _on_bucket(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        elif reason := _why_unwritable(self._folder):
            raise UserError(
                f"{self._folder}: can't be written ({reason}); name a bucket that is there and "
                "that you may write to"
            )
        self._delete_unfinished()

    def save(self, state: TrainState, *, phase: str, ended: bool, score: float | None) -> None:
        """Saves in the background; the next save, or `close`, waits for it.

        Args:
          state: what to save; its buffers are copied before this returns.
          phase: name of its phase.
          ended: whether the phase ended here.
          score: the phase's own metric, higher is better, where it was evaluated.

        Raises:
          UserError: if this or the previous one can't be written; those before stay as they are.
        """
        self._wait()
        step = int(state.step)
        if score is not None and math.isnan(score):
            score = -math.inf  # no better than any other
        manifest = {"format": FORMAT, "phase": phase, "ended": ended, "score": score}
        manifest["leaves"] = _leaves(state)
        with self._told(step):
            self._checkpointer.save(self._folder / str(step), state)
        self._pending = self._background.submit(self._seal, step, manifest)

    def check(self) -> None:
        """Raises what went wrong in the background, if anything did; doesn't wait."""
        if self._pending and self._pending.done():
            self._wait()

    def scores(self) -> dict[int, tuple[str, bool, float | None]]:
        """Phase, whether it ended there, and score of every checkpoint, by step."""
        self._wait()
        return {step: (m["phase"], m["ended"], m["score"]) for step, m in self._manifests.items()}

    def latest_step(self) -> int | None:
        """The newest intact checkpoint's step, once it is complete, or None."""
        self._wait()
        return processes.from_first(self._newest)

    def _newest(self) -> int | None:
        self._wait()
        for step in sorted(self._manifests, reverse=True):
            try:
                self._verify(step)
            except _Damaged as damage:
                self._set_aside(step, damage)
            else:
                return step
        return None

    def find(self, which: str) -> int:
        """The step of a checkpoint.

        Args:
          which: 'last', the newest intact one; 'best', the best of the last phase that has one; or
            a phase's name, for its end.

        Raises:
          UserError: if the run has no such checkpoint.
        """
        self._wait()
        return processes.from_first(lambda: self._find(which))

    def _find(self, which: str) -> int:
        infos = self._manifests
        scored = [step for step in infos if infos[step]["score"] is not None]
        if which == "last" or (which == "best" and not scored):
            step = self._newest()
            if step is None:
                raise UserError(f"{self._folder}: no checkpoint is intact; train this run again")
            return step
        if which == "best":
            phase = infos[max(scored)]["phase"]
            scored = [step for step in scored if infos[step]["phase"] == phase]
            return max(scored, key=lambda step: (infos[step]["score"], step))
        ends = [step for step in infos if infos[step]["ended"] and infos[step]["phase"] == which]
        if not ends:
            known = sorted({info["phase"] for info in infos.values() if info["ended"]})
            raise UserError(
                f"--checkpoint={which}: {self._folder} has no end of such a phase; choose last, "
                f"best{''.join(', ' + name for name in known)}"
            )
        return max(ends)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state saved at a step, placed as `like` is (a state of arrays or of shapes).

        Raises:
          UserError: if it is damaged, or doesn't fit the networks of the configuration.
        """
        self._wait()
        processes.from_first(lambda: self._check(step, like))
        return self._checkpointer.restore(self._folder / str(step), like)

    def _check(self, step: int, like: TrainState) -> None:
        """Refuses a damaged checkpoint, and one of other arrays."""
        path = self._folder / str(step)
        try:
            self._verify(step)
        except _Damaged as damage:
            raise UserError(
                f"{path}: damaged ({damage}); choose another checkpoint, or restore it from a copy"
            ) from damage
        there, here = self._manifests[step]["leaves"], _leaves(like)
        differ = [n for n in sorted(there.keys() | here.keys()) if there.get(n) != here.get(n)]
        if differ:
            name, more = differ[0], f" (and {len(differ) - 1} more)" if differ[1:] else ""
            raise UserError(
                f"{path}: the checkpoint doesn't fit the run's configuration or this version of "
                f"the program: {name} is {there.get(name, 'missing')} there and "
                f"{here.get(name, 'missing')} here{more}; use what saved it, or another --workdir"
            )

    def close(self) -> None:
        """Waits until everything is on the disk.

        Raises:
          UserError: if the last save can't be written.
        """
        try:
            self._wait()
        finally:
            self._background.shutdown()
            self._checkpointer.close()

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def _seal(self, step: int, manifest: dict) -> None:
        """Finishes a checkpoint once orbax has written it, and deletes what isn't kept."""
        folder = self._folder / str(step)
        with self._told(step):
            self._checkpointer.wait_until_finished()
            if not processes.is_first():
                return
            manifest["files"] = {
                path.relative_to(folder).as_posix(): [path.stat().length, _sha256(path)]
                for path in _files(folder)
            }
            manifest["sha256"] = _sha256_of(manifest)
            _write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        self._manifests[step] = manifest
        for old in self._manifests.keys() - _kept(self._manifests):
            del self._manifests[old]
            # The manifest first: a kill must not leave half of it as a checkpoint.
            (self._folder / str(old) / MANIFEST).unlink()
            (self._folder / str(old)).rmtree()

    @contextlib.contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """Turns the ways in which orbax tells that it can't write into one line."""
        try:
            yield
        except Exception as error:
            reason = _why_unwritable(self._folder) or _reason(error)
            if reason is None:
                raise
            # The old one would raise the errors of its other writes at the next occasion.
            self._checkpointer = _checkpointer()
            if processes.is_first():
                self._delete_unfinished()
            last = max(self._manifests, default=None)
            begin = "begins anew" if last is None else f"goes on from step {last}"
            raise UserError(
                f"{self._folder / str(step)}: can't be written ({reason}); make room or make it "
                f"writable; the same command then {begin}"
            ) from error

    def _delete_unfinished(self) -> None:
        for path in _entries(self._folder):
            ours = re.match(r"\d+(\.|$)", path.name)  # orbax adds to the name until it is done
            if not ours or (path / MANIFEST).exists() or _is_old(path):
                continue
            with contextlib.suppress(OSError):
                path.rmtree()

    def _verify(self, step: int) -> None:
        """Compares a checkpoint's files with its manifest, once."""
        if step in self._intact:
            return
        for name, (size, digest) in self._manifests[step]["files"].items():
            path = self._folder / str(step) / name
            with _as_damage(name):
                if (there := path.stat().length) != size:
                    raise _Damaged(f"{name} has {there:,} bytes, not {size:,}")
                if _sha256(path) != digest:
                    raise _Damaged(f"{name} has another SHA-256 than when it was saved")
        self._intact.add(step)

    def _set_aside(self, step: int, damage: Exception) -> None:
        path = self._folder / str(step)
        what = "not used"
        if not self._read_only:
            aside = self._folder / DAMAGED
            names = (f"{step}", *(f"{step}-{number}" for number in range(2, 1000)))
            to = aside / next(name for name in names if not (aside / name).exists())
            if _on_bucket(path):
                for file in _files(path):
                    file.copy(to / file.relative_to(path))
                path.rmtree()
            else:
                aside.mkdir(exist_ok=True)
                path.rename(to)
            what = f"moved to {to}"
        self._manifests.pop(step, None)
        print(f"warning: {path}: damaged ({damage}); {what}", file=sys.stderr)


def place(workdir: Path, elsewhere: str | None = None) -> epath.Path:
    """The folder of a run's checkpoints.

    Args:
      workdir: the run's directory, which has it by default.
      elsewhere: `config.checkpoint_folder`, a folder of this run's own: 'gs://BUCKET/FOLDER', or a
        path.

    Raises:
      UserError: for a place that can't be reached.
    """
    if not elsewhere:
        return epath.Path(Path(workdir).absolute() / FOLDER)
    if "://" not in elsewhere:
        return epath.Path(Path(elsewhere).absolute())
    option = f"config.checkpoint_folder={elsewhere}"
    if not re.match(f"{BUCKET}[^/]+/.", elsewhere):
        raise UserError(f"{option}: not understood; say {BUCKET}BUCKET/FOLDER, or a path")
    if not importlib.util.find_spec("gcsfs"):
        raise UserError(f"{option}: needs the package gcsfs; pip install -e '.[bucket]'")
    # What TensorStore writes is not told to fsspec, which would give an old list of files.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return epath.Path(elsewhere)


def steps_in(folder: epath.Path) -> list[int]:
    """The steps of the complete checkpoints in a folder."""
    names = (path.name for path in _entries(folder) if (path / MANIFEST).exists())
    return sorted(int(name) for name in names if name.isdigit())


def shapes(state: TrainState) -> TrainState:
    """The state's shapes and placement, which is all that `restore` needs of it."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, state)


def _checkpointer() -> ocp.StandardCheckpointer:
    # Where folders are made in the background and that fails, orbax's threads wait for them, and
    # the process can't end, for 20 minutes.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    return ocp.StandardCheckpointer(async_options=options)


class _Damaged(Exception):
    """What is wrong with a checkpoint's files."""


def _on_bucket(path: epath.Path) -> bool:
    return str(path).startswith(BUCKET)


def _entries(folder: epath.Path) -> list[epath.Path]:
    """What is in a folder; nothing where it isn't there."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except Exception as error:
        if not _on_bucket(folder):
            raise
        raise UserError(
            f"{folder}: can't be read ({_first_line(error)}); check its name and your credentials"
        ) from error


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """All files below a folder."""
    for path in _entries(folder):
        yield from _files(path) if path.is_dir() else (path,)


def _write(path: epath.Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all, as every object of a bucket is."""
    if _on_bucket(path):
        path.write_bytes(content)
    else:
        with replace_file(path) as file:
            file.write(content)


@contextlib.contextmanager
def _as_damage(name: str) -> Iterator[None]:
    """A file that isn't there or can't be read any more is damage; one that mustn't be isn't."""
    try:
        yield
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if not gone and error.errno != errno.EIO:
            raise
        raise _Damaged(f"{name}: {error.strerror or 'not there'}") from error


def _kept(manifests: Mapping[int, Mapping]) -> set[int]:
    """The steps of the checkpoints that stay."""
    best = {}
    for step, manifest in manifests.items():
        if manifest["score"] is not None:
            entry = (manifest["score"], step)
            best[manifest["phase"]] = max(best.get(manifest["phase"], entry), entry)
    ends = {step for step, manifest in manifests.items() if manifest["ended"]}
    return {step for _, step in best.values()} | set(sorted(manifests)[-2:]) | ends


def _read_manifest(folder: epath.Path) -> dict:
    """What a checkpoint says of itself.

    Raises:
      FileNotFoundError: if it is unfinished.
      UserError: if it is of another format.
    """
    if (folder / MANIFEST).exists():
        with _as_damage(MANIFEST):
            content = (folder / MANIFEST).read_bytes()
    elif _is_old(folder):
        raise UserError(
            f"{folder}: saved by an older version of the program, without checksums; train again "
            "in another --workdir, or use the version that saved it"
        )
    else:
        raise FileNotFoundError(folder / MANIFEST)
    try:
        manifest = json.loads(content)
        if manifest["sha256"] != _sha256_of(manifest):
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise _Damaged(f"{MANIFEST} is not as it was written") from error
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{folder}: its format is {manifest['format']}, this program reads {FORMAT}; use the "
            "version of the program that saved it, or train again in another --workdir"
        )
    return manifest


def _is_old(folder: epath.Path) -> bool:
    """Whether it was saved before there were manifests."""
    return (folder / "default").is_dir()


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of(manifest: Mapping) -> str:
    """Of all that a manifest says but this itself. Every format must keep to it."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _leaves(state: Any) -> dict[str, str]:
    """Type and shape of every array by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _reason(error: Exception) -> str | None:
    """Why the system didn't write, or None for another kind of error."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # TensorStore's errors are ValueErrors with the system's number in the text.
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(number[1])) if number else None


def _why_unwritable(folder: epath.Path) -> str | None:
    """Why a file can't be written there, or None if it can.

    The first error that orbax raises may be about what another failed write has left missing.
    """
    tried = folder / f".write.{os.getpid()}.tmp"
    try:
        try:
            tried.write_bytes(bytes(2**20))
        finally:
            tried.unlink(missing_ok=True)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        return error.strerror or ("no such bucket" if gone else _first_line(error))
    except Exception as error:  # of gcsfs
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@functools.cache
def _quiet_failed_writes() -> None:
    """Drops what is printed for each further write of a save that has already failed.

    When one write fails, orbax raises that and closes its event loop; every other write then has a
    traceback because it can't report to the loop any more, or a warning because nobody waits for
    it.
    """
    for name in ("absl", "asyncio", "gcsfs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    show = sys.unraisablehook

    def hook(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            show(unraisable)

    sys.unraisablehook = hook
