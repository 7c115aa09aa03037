"""Checkpoints of the whole training state, by orbax: asynchronous, atomic, and kept by a policy.

Kept are the newest two, the end of every phase, and the best of every phase by its own metric.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from seqgan_jax.errors import UserError
from seqgan_jax.training.state import TrainState

FOLDER = "checkpoints"


class _Policy:
    """Which checkpoints stay; each carries its phase, whether that ended, and its score."""

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        best = {}
        for info in checkpoints:
            score = info.metrics["score"]
            if score is not None:
                phase = info.metrics["phase"]
                best[phase] = max(best.get(phase, (score, info.step)), (score, info.step))
        kept = {step for _, step in best.values()}
        kept |= {info.step for info in checkpoints[-2:]}
        return [info.step in kept or info.metrics["ended"] for info in checkpoints]


class Checkpoints:
    """The checkpoints of one run.

    Args:
      workdir: the run's directory.
      read_only: for programs that don't train: nothing is made or deleted.

    Raises:
      UserError: if there is no checkpoint to read.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False):
        # orbax tells of every save and restore; a person wants to hear of trouble alone.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = Path(workdir).absolute() / FOLDER
        if read_only and not self._folder.is_dir():
            raise UserError(f"{self._folder}: no checkpoints; train this run first")
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else _Policy(),
                # Without this orbax drops the metrics; what it says decides nothing here.
                best_fn=lambda metrics: metrics["score"] or 0.0,
                read_only=read_only,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )
        if read_only and self._manager.latest_step() is None:
            raise UserError(f"{self._folder}: no checkpoint is complete; train this run first")

    def save(self, state: TrainState, *, phase: str, ended: bool, score: float | None) -> None:
        """Saves in the background; the next save, or `close`, waits for it.

        Args:
          state: what to save; its buffers are copied before this returns.
          phase: name of its phase.
          ended: whether the phase ended here.
          score: the phase's own metric, higher is better, where it was evaluated.
        """
        self._manager.save(
            int(state.step),
            args=ocp.args.StandardSave(state),
            metrics={"phase": phase, "ended": ended, "score": score},
            force=True,
        )

    def latest_step(self) -> int | None:
        """The newest checkpoint's step, once it is complete, or None."""
        self._manager.wait_until_finished()
        return self._manager.latest_step()

    def find(self, which: str) -> int:
        """The step of a checkpoint.

        Args:
          which: 'last'; 'best', the best of the last phase that has one; or a phase's name, for
            its end.

        Raises:
          UserError: if the run has no such checkpoint.
        """
        self._manager.wait_until_finished()
        infos = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        if which == "last":
            return max(infos)
        if which == "best":
            scored = [step for step in infos if infos[step]["score"] is not None]
            if not scored:
                return max(infos)
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
          UserError: if it doesn't fit the networks of the configuration.
        """
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._folder / str(step)}: the checkpoint doesn't fit the run's configuration "
                f"({str(error).splitlines()[0]})"
            ) from error

    def close(self) -> None:
        """Waits until everything is on the disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def shapes(state: TrainState) -> TrainState:
    """The state's shapes and placement, which is all that `restore` needs of it."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
