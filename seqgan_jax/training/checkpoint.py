"""Checkpoints of the whole training state: asynchronous, atomic, verified, and kept by a policy.

Orbax writes the arrays, in the background. Then a manifest is added, with the size and the SHA-256
of every file (orbax alone doesn't notice a flipped bit), and the folder gets its final name, the
step. So a folder of that name is whole, or was damaged later; anything else is unfinished, and the
next start deletes it.

Kept are the newest two, the end of every phase, and the best of every phase by its own metric.

Of several processes each writes and reads its own part of the arrays. All else is process 0's: it
names, verifies, moves and deletes, and the others ask it.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file
from seqgan_jax.training import processes
from seqgan_jax.training.state import TrainState

FOLDER = "checkpoints"
DAMAGED = "damaged"
MANIFEST = "manifest.json"
# Raise it with every change that makes older checkpoints unreadable.
FORMAT = 1
_UNFINISHED = ".unfinished"


class Checkpoints:
    """The checkpoints of one run.

    A damaged one is told of on standard error and, unless `read_only`, moved to
    `checkpoints/damaged/`.

    Args:
      workdir: the run's directory.
      read_only: for programs that don't train: nothing is made, moved or deleted.

    Raises:
      UserError: if there is no checkpoint to read, or one of another format.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False):
        _quiet_failed_writes()
        self._folder = Path(workdir).absolute() / FOLDER
        self._read_only = read_only
        if read_only and not self._folder.is_dir():
            raise UserError(f"{self._folder}: no checkpoints; train this run first")
        self._checkpointer = _checkpointer()
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._intact: set[int] = set()
        self._manifests: dict[int, dict] = {}
        processes.from_first(self._read)

    def _read(self) -> None:
        if not self._read_only:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._delete_unfinished()
        steps = sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())
        if self._read_only and not steps:
            raise UserError(f"{self._folder}: no checkpoint is complete; train this run first")
        for step in steps:
            try:
                self._manifests[step] = _read_manifest(self._folder / str(step))
            except _Damaged as damage:
                self._set_aside(step, damage)

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
        manifest = {"format": FORMAT, "phase": phase, "ended": ended, "score": score}
        manifest["leaves"] = _leaves(state)
        with self._told(step):
            self._checkpointer.save(self._folder / f"{step}{_UNFINISHED}", state)
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
        unfinished = self._folder / f"{step}{_UNFINISHED}"
        with self._told(step):
            self._checkpointer.wait_until_finished()
            if not processes.is_first():
                return
            files = sorted(path for path in unfinished.rglob("*") if path.is_file())
            manifest["files"] = {
                path.relative_to(unfinished).as_posix(): [path.stat().st_size, _sha256(path)]
                for path in files
            }
            manifest["sha256"] = _sha256_of(manifest)
            with replace_file(unfinished / MANIFEST) as file:
                file.write(json.dumps(manifest, indent=1).encode())
            unfinished.rename(self._folder / str(step))
        self._manifests[step] = manifest
        for old in self._manifests.keys() - _kept(self._manifests):
            del self._manifests[old]
            # Under a name of its own first: a kill must not leave half of it as a checkpoint.
            dropped = self._folder / f"{old}{_UNFINISHED}"
            (self._folder / str(old)).rename(dropped)
            shutil.rmtree(dropped)

    @contextlib.contextmanager
    def _told(self, step: int) -> Iterator[None]:
        """Turns the ways in which orbax tells that it can't write into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
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
        for path in self._folder.glob(f"*{_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _verify(self, step: int) -> None:
        """Compares a checkpoint's files with its manifest, once."""
        if step in self._intact:
            return
        for name, (size, digest) in self._manifests[step]["files"].items():
            path = self._folder / str(step) / name
            with _as_damage(name):
                if path.stat().st_size != size:
                    raise _Damaged(f"{name} has {path.stat().st_size:,} bytes, not {size:,}")
                if _sha256(path) != digest:
                    raise _Damaged(f"{name} has another SHA-256 than when it was saved")
        self._intact.add(step)

    def _set_aside(self, step: int, damage: Exception) -> None:
        path = self._folder / str(step)
        what = "not used"
        if not self._read_only:
            aside = self._folder / DAMAGED
            aside.mkdir(exist_ok=True)
            names = (f"{step}", *(f"{step}-{number}" for number in range(2, 1000)))
            to = aside / next(name for name in names if not (aside / name).exists())
            path.rename(to)
            what = f"moved to {to}"
        self._manifests.pop(step, None)
        print(f"warning: {path}: damaged ({damage}); {what}", file=sys.stderr)


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


@contextlib.contextmanager
def _as_damage(name: str) -> Iterator[None]:
    """A file that isn't there or can't be read any more is damage; one that mustn't be isn't."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EIO):
            raise
        raise _Damaged(f"{name}: {error.strerror}") from error


def _kept(manifests: Mapping[int, Mapping]) -> set[int]:
    """The steps of the checkpoints that stay."""
    best = {}
    for step, manifest in manifests.items():
        if manifest["score"] is not None:
            entry = (manifest["score"], step)
            best[manifest["phase"]] = max(best.get(manifest["phase"], entry), entry)
    ends = {step for step, manifest in manifests.items() if manifest["ended"]}
    return {step for _, step in best.values()} | set(sorted(manifests)[-2:]) | ends


def _read_manifest(folder: Path) -> dict:
    """What a checkpoint says of itself.

    Raises:
      UserError: if it is of another format.
    """
    if not (folder / MANIFEST).exists() and (folder / "default").is_dir():
        raise UserError(
            f"{folder}: saved by an older version of the program, without checksums; train again "
            "in another --workdir, or use the version that saved it"
        )
    with _as_damage(MANIFEST):
        content = (folder / MANIFEST).read_bytes()
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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
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


def _why_unwritable(folder: Path) -> str | None:
    """Why a file can't be written there, or None if it can.

    The first error that orbax raises may be about what another failed write has left missing.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))
    except OSError as error:
        return error.strerror
    return None


@functools.cache
def _quiet_failed_writes() -> None:
    """Drops what is printed for each further write of a save that has already failed.

    When one write fails, orbax raises that and closes its event loop; every other write then has a
    traceback because it can't report to the loop any more, or a warning because nobody waits for
    it.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    show = sys.unraisablehook

    def hook(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            show(unraisable)

    sys.unraisablehook = hook
