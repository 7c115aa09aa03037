"""A run: its directory, and all that its configuration says."""

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import ml_collections
import numpy as np

from seqgan_jax import tasks
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import write_json
from seqgan_jax.files import replace_file
from seqgan_jax.models import build
from seqgan_jax.programs.start import compile_quickly
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.reporting.record import flat
from seqgan_jax.training import external, parallel, processes, replicas
from seqgan_jax.training import phases as schedule
from seqgan_jax.training.checkpoint import Checkpoints, place, shapes, steps_in
from seqgan_jax.training.loop import Loop
from seqgan_jax.training.origin import Origin, Start, Tokens
from seqgan_jax.training.state import TrainState
from seqgan_jax.training.steps import Reverse, Steps

# What may differ between a run and its continuation.
_MAY_CHANGE = ("logging.", "evaluation.", "guard.", "parallel.")
_MAY_CHANGE_IN_PHASES = ("steps", "evaluate_every")

# The networks that another run gave to this one, by name.
_GIVEN = "given.json"

# What a process has traced and compiled serves its later runs of equal networks and phases.
_layout = functools.cache(parallel.Layout)
_steps = functools.lru_cache(maxsize=8)(Steps)


class Run:
    """A run's directory with all that its configuration says: data, networks, steps.

    Args:
      workdir: the directory.
      config: the configuration of a new or a continued run; None to read the saved one.
      progress: the display.
      profile: how many steps of every phase to trace.

    Raises:
      UserError: if the directory can't be used, or holds a run of another configuration.
    """

    def __init__(
        self,
        workdir: Path,
        config: ml_collections.ConfigDict | None,
        progress: Progress,
        profile: int = 0,
    ):
        self.workdir = workdir
        self.progress = progress
        if config is not None:
            processes.from_first(lambda: _claim(workdir, config))
        self.config = _saved_config(workdir) if config is None else config
        if not self.config.get("optimize_programs", True):
            compile_quickly()
        # Programs that don't train use what devices there are, whatever trained the run.
        shared = self.config.get("parallel", {})
        if config is None:
            shared = {"precision": shared.get("precision", "default")}
        layout = _layout(parallel.parse(shared))
        if not self.config.clip > 0:
            raise UserError(f"config.clip: {self.config.clip} must be above 0; 1e9 clips nothing")
        self.phases = schedule.parse(self.config.phases, trained_elsewhere(self.config))
        guard = schedule.parse_guard(self.config.get("guard", {}))
        self.rejection = schedule.parse_rejection(self.config.get("rejection", {}))
        reward = schedule.parse_reward(self.config.get("reward", {}), self.phases)
        seeds = self.config.get("seeds", 1)
        _check_seeds(seeds, layout if config is not None else None, bool(reward.function))
        self.task = self._load_task()
        if config is not None:
            source = self.task.template()["source"]
            build.check_encoder(config.encoder, source)
            if source is None:
                _check_without_sources(self.phases)
            _check_discriminator(self.phases, config.discriminator)
            for phase in self.phases:
                for network in phase.networks if phase.steps else ():
                    layout.check(phase.name, phase.sources(network))
        self.steps = _steps(
            build.generator(self.config, self.task.codec.vocabulary, self.task.source_vocabulary),
            build.discriminator(
                self.config, self.task.codec.vocabulary, self.task.source_vocabulary
            ),
            self.task.codec.vocabulary,
            self.task.length,
            self.config.clip,
            phases=self.phases,
            external=reward.weight,
            layout=layout,
            replicas=seeds,
            reverse=_reverse(self.config, self.phases, self.task),
        )
        uses_texts = (
            phase.steps and phase.generator and phase.generator.has("consistency")
            for phase in self.phases
        )
        if config is not None and any(uses_texts):
            _ = self.task.apart  # what it lacks is better known before the phases that need less
        rewarded = config is not None and reward.function
        self.loop = Loop(
            self.config,
            workdir,
            self.task,
            self.steps,
            self.phases,
            guard,
            progress,
            profile,
            reward=external.load(reward.function, self.task) if rewarded else None,
        )
        if config is not None and any(phase.frozen for phase in self.phases):
            schedule.check_frozen(self.phases, self.loop.parameters())
        given = None
        if config is not None and config.get("init_from"):
            self.loop.start = functools.cache(lambda: self._starts(config))
            if not steps_in(place(workdir, config.get("checkpoint_folder"))):
                given = sorted(self.loop.start()[0].origin.networks)
        if config is not None:
            # Last, so that a directory is not taken by a configuration that was refused.
            processes.from_first(lambda: _write_config(workdir, config))
            if given:
                processes.from_first(lambda: write_json(workdir / _GIVEN, given))

    def _starts(self, config: ml_collections.ConfigDict) -> list[Start]:
        """How the networks of each replica start with another run's parameters.

        A replica starts with that of the same number there, and all with the only one there is.

        Raises:
          UserError: where there is no such run, or it doesn't fit.
        """
        where = Path(config.init_from)
        if not (where / "config.json").exists():
            raise UserError(
                f"config.init_from={where}: no run here (no config.json); name a run's directory"
            )
        try:
            other = Run(where, None, self.progress)
            seeds, theirs = self.steps.replicas, other.steps.replicas
            if 1 < theirs < seeds:
                raise UserError(f"it has {theirs} seeds; set config.seeds to at most as many")
            states = [other.restore(config.init_checkpoint, r % theirs) for r in range(seeds)]
        except UserError as error:
            # What it says of an option, such as --checkpoint, is of opening a run by itself.
            raise UserError(f"config.init_from={where}: {error}") from error
        place = states[0]
        done = [phase for phase in other.phases[: int(place.phase)] if phase.steps]
        done += [other.phases[int(place.phase)]] * (int(place.phase_step) > 0)
        known = {name for phase in done for name in phase.networks}
        if (where / _GIVEN).exists():  # as a third run has trained them
            known |= set(json.loads((where / _GIVEN).read_text()))
        trained = [name for name in schedule.NETWORKS if name in known]
        if not trained:
            raise UserError(f"config.init_from={where}: nothing is trained there; train it first")
        schedule.check_order(self.phases, trained)
        generator = self.steps.generator
        starts = []
        for state in states:
            networks = {name: jax.device_get(getattr(state, name).params) for name in trained}
            start = Start(
                Origin(str(where), networks, _tokens(other), other.steps.generator.noise_size),
                _tokens(self),
                generator.noise_size,
                generator.noise_layers,
                config.init_partial,
            )
            starts.append(start)
        left = starts[0].check(
            jax.eval_shape(lambda: self.steps.init(config.seed, self.task.template()))
        )
        told = f"; {len(left)} parameters are new, {left[0]} the first" if left else ""
        names = " and ".join(trained)
        self.progress.message(f"starting with the {names} of {where}, step {place.step}{told}")
        return starts

    def _load_task(self) -> tasks.Task:
        """The task; process 0 makes what all share, the others then read copies of it."""
        made = []
        load = lambda folder: tasks.load(self.config, folder, self.progress)
        processes.from_first(lambda: made.append(load(self.workdir)))
        if made:
            return made[0]
        own = processes.own_folder(self.workdir)
        shutil.rmtree(own / "codec", ignore_errors=True)
        own.mkdir(parents=True, exist_ok=True)
        if (self.workdir / "codec").exists():
            shutil.copytree(self.workdir / "codec", own / "codec")
        _write_config(own, self.config)
        return load(own)

    def restore(self, which: str, replica: int = 0) -> TrainState:
        """The state of a checkpoint: 'last', 'best' or a phase's name.

        Args:
          which: see there.
          replica: whose, in a run of several seeds: 0 for the first.

        Raises:
          UserError: where there is no such checkpoint or replica.
        """
        seeds = self.steps.replicas
        if not 0 <= replica < seeds:
            known = f"choose from 0 to {seeds - 1}" if seeds > 1 else "leave it out"
            raise UserError(
                f"--replica={replica}: {self.workdir} was trained with config.seeds={seeds}; "
                f"{known}"
            )
        elsewhere = self.config.get("checkpoint_folder")
        checkpoints = Checkpoints(self.workdir, elsewhere, read_only=True)
        step = checkpoints.find(which)
        state = checkpoints.restore(step, shapes(self.loop.initial_state()))
        return state if seeds == 1 else replicas.one(state, replica)

    def calibrated(self, which: str, replica: int = 0) -> TrainState:
        """The same of a checkpoint that rejection sampling can be done with.

        Raises:
          UserError: for one that isn't calibrated.
        """
        state = self.restore(which, replica)
        check_calibrated(state, which, self.workdir)
        return state


def _reverse(
    config: ml_collections.ConfigDict, phases: Sequence[schedule.Phase], task: tasks.Task
) -> Reverse | None:
    """The reverse translator, of the generator's sizes, where a phase trains one.

    Raises:
      UserError: for a task whose sources a generator can't write.
    """
    found = next((phase for phase in phases if phase.reverse), None)
    if found is None:
        return None
    if task.reverse is None:
        raise UserError(
            f"config.phases.{found.name}.reverse: the sources of {task.name} can't be written; set "
            "False"
        )
    vocabulary, length = task.reverse
    generator = build.generator(config, vocabulary, task.codec.vocabulary.size)
    return Reverse(generator, vocabulary, length)


def trained_elsewhere(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The networks that a run may start with as another has trained them.

    Which those are is checked when the other is read, once, before the first step.
    """
    return schedule.NETWORKS if config.get("init_from") else ()


def _tokens(run: Run) -> Tokens:
    """What a run's tokens stand for; of a codec without texts, which codec's they are."""
    task = run.task
    target = getattr(task.codec, "tokens", None)
    if target is None:
        files = sorted(path for path in (run.workdir / "codec").rglob("*") if path.is_file())
        digest = hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest()[:8]
        target = [f"{i} of codec {digest}" for i in range(task.codec.vocabulary.size)]
    if task.source_vocabulary is None:
        return Tokens(target, ())
    source = task.source_codec.tokens
    more = range(len(source), task.source_vocabulary)  # that are no text, such as speakers
    return Tokens(target, [*source, *map(str, more)])


def check_calibrated(state: TrainState, which: str, workdir: Path) -> None:
    """Refuses a checkpoint that rejection sampling can't be done with."""
    if not np.isfinite(state.calibration.maximum):
        raise UserError(
            f"--reject: the checkpoint {which} of {workdir} is not calibrated; choose the end of "
            "the phase calibrate, or train with it at the end of config.phases.order"
        )


def _check_seeds(seeds: int, layout: parallel.Layout | None, rewarded: bool) -> None:
    """Refuses replicas where something can't be done for several at once."""
    if seeds < 1:
        raise UserError(f"config.seeds: {seeds} is too small; set 1 or more")
    if seeds > 1 and rewarded:
        raise UserError("config.seeds: an external reward is for one seed; set 1, or no reward")
    if seeds > 1 and layout is not None and layout.mesh.size > 1:
        raise UserError(
            "config.seeds: several train on one device; set config.parallel.data=1, or seeds to 1"
        )


def _check_without_sources(phases: Sequence[schedule.Phase]) -> None:
    """Refuses losses that need sources."""
    for phase in phases:
        where = f"config.phases.{phase.name}"
        for option in ("words", "guided_attention"):
            if phase.generator and phase.generator.has(option):
                raise UserError(f"{where}.generator.{option}: this task has no sources; set 0")
        if phase.discriminator and phase.discriminator.mismatch:
            raise UserError(f"{where}.discriminator.mismatch: this task has no sources; set 0")
        if not phase.noise:
            raise UserError(
                f"{where}.noise: without a source, noise is all that tells sequences apart; set "
                "True"
            )


def _check_discriminator(
    phases: Sequence[schedule.Phase], config: ml_collections.ConfigDict
) -> None:
    """Refuses losses for which the discriminator isn't made."""
    for phase in phases:
        where = f"config.phases.{phase.name}"
        if phase.generator and phase.generator.has("feature_matching") and config.kind == "cnn":
            raise UserError(
                f"{where}.generator.feature_matching: the cnn discriminator has no features of "
                "prefixes; set 0, or choose the lstm or window discriminator"
            )
        reads_more = config.kind in ("window", "ratio") or config.get("likelihood", False)
        if phase.discriminator and phase.discriminator.has("gradient_penalty") and reads_more:
            raise UserError(
                f"{where}.discriminator.gradient_penalty: needs a discriminator that reads tokens "
                "by one embedding and by nothing else; set 0, or choose cnn, or lstm with "
                "config.discriminator.likelihood=False"
            )


def _write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    with replace_file(workdir / "config.json") as file:
        file.write(json.dumps(config.to_dict(), indent=1).encode() + b"\n")


def _saved_config(workdir: Path) -> ml_collections.ConfigDict:
    path = workdir / "config.json"
    try:
        return ml_collections.ConfigDict(_tuples(json.loads(path.read_text())))
    except FileNotFoundError as error:
        raise UserError(f"--workdir={workdir}: no run here (no config.json); train one") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: can't be read ({error}); restore it or train anew") from error


def _tuples(tree):
    """JSON's lists as the tuples that they were."""
    if isinstance(tree, dict):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(map(_tuples, tree)) if isinstance(tree, list) else tree


def _may_change(name: str) -> bool:
    return name.startswith(_MAY_CHANGE) or (
        name.startswith("phases.") and name.rpartition(".")[2] in _MAY_CHANGE_IN_PHASES
    )


def refuse_another(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Refuses a directory that holds a run of another configuration."""
    if not (workdir / "config.json").exists():
        return
    old, new = flat(_saved_config(workdir)), flat(config)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name) and not _may_change(name):
            raise UserError(
                f"--workdir={workdir}: holds a run with config.{name}={old.get(name)!r}, not "
                f"{new.get(name)!r}; name another directory"
            )


def _claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes the directory, or checks that it holds a run of this configuration."""
    refuse_another(workdir, config)
    elsewhere = config.get("checkpoint_folder")
    if elsewhere and not (workdir / "config.json").exists() and steps_in(place(workdir, elsewhere)):
        raise UserError(
            f"config.checkpoint_folder={elsewhere}: holds another run's checkpoints; name a folder "
            "of this run's own"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: can't be written to ({error.strerror}); name another directory"
        ) from error


def parts(batch: dict, size: int) -> Iterator[dict]:
    """The rows of a batch, `size` at a time; the last part is filled up with rows of weight 0."""
    count = len(batch["weight"])
    for start in range(0, count, size):
        rows = np.arange(start, start + min(size, count))
        part = jax.tree.map(lambda x, rows=rows: x[np.minimum(rows, count - 1)], batch)
        yield part | {"weight": part["weight"] * (rows < count)}
