"""What the entry points do: train, generate, evaluate."""

import ctypes
import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags

from seqgan_jax import tasks
from seqgan_jax.core.sampling import Truncation
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import held_out, sweep
from seqgan_jax.evaluation.report import table, write_evaluation
from seqgan_jax.files import replace_file
from seqgan_jax.models import build
from seqgan_jax.reporting import pictures
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import phases as schedule
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.loop import VALIDATION, Interrupted, Loop
from seqgan_jax.training.state import TrainState
from seqgan_jax.training.steps import Steps

# What may differ between a run and its continuation.
_MAY_CHANGE = ("logging.", "evaluation.")
_MAY_CHANGE_IN_PHASES = ("steps", "evaluate_every")
BEAM_SIZE = 3
TEMPERATURES = tuple(round(0.1 * tenth, 1) for tenth in range(5, 16))


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads the command line; a bad one is one line on standard error and exit status 2.

    A configuration's unknown keys, wrong types and unknown variants are found here too.
    """
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            _ = flags.FLAGS.config.task  # a file that can't be read is told of at its first use
        if len(rest) == 1:
            return rest
        message = f"'{rest[1]}' belongs to no option; repeat the option before every value"
    except flags.Error as error:
        message = str(error)
    except OSError as error:
        message = f"--config: {error}"
    except (AttributeError, KeyError, TypeError, ValueError, UserError) as error:
        message = f"--config: {error.args[0] if error.args else error}"
    print(f"error: {' '.join(message.split())}; see {argv[0]} --help", file=sys.stderr)
    sys.exit(2)


def main(function: Callable[[], None], *, debug: bool = False) -> None:
    """Runs a program; a user's error becomes one line on standard error and exit status 2."""
    # JAX tells of every platform that it looked for and didn't find.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    keep_memory()
    try:
        function()
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:  # before there was anything to save
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone: `| head`
        sys.stderr.close()
        sys.exit(0)


def keep_memory() -> None:
    """Keeps freed memory in the process, where the C library is glibc.

    By default it hands every large buffer back to the system, and a step on a CPU spends a quarter
    of its time on page faults when it asks for them anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        for parameter, value in _MALLOC.items():
            mallopt(parameter, value)


# M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, in bytes, and M_ARENA_MAX; see mallopt(3).
_MALLOC = {-3: 2**30, -1: 2**31 - 1, -8: 1}


def compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second start is quick."""
    from seqgan_jax.data.cache import cache_folder

    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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
            _claim(workdir, config)
        self.config = _saved_config(workdir) if config is None else config
        self.phases = schedule.parse(self.config.phases)
        self.task = tasks.load(self.config, workdir, progress)
        if config is not None:
            source = self.task.template()["source"]
            build.check_encoder(config.encoder, source)
            if source is None:
                _check_without_sources(self.phases)
        self.steps = Steps(
            build.generator(self.config, self.task.codec.vocabulary),
            build.discriminator(self.config, self.task.codec.vocabulary),
            self.task.codec.vocabulary,
            self.task.length,
            self.config.clip,
            pool=max(p.discriminator.pool if p.discriminator else 0 for p in self.phases),
        )
        self.loop = Loop(
            self.config, workdir, self.task, self.steps, self.phases, progress, profile
        )
        if config is not None:
            # Last, so that a directory is not taken by a configuration that was refused.
            with replace_file(workdir / "config.json") as file:
                file.write(json.dumps(config.to_dict(), indent=1).encode() + b"\n")

    def restore(self, which: str) -> TrainState:
        """The state of a checkpoint: 'last', 'best' or a phase's name."""
        checkpoints = Checkpoints(self.workdir, read_only=True)
        step = checkpoints.find(which)
        return checkpoints.restore(step, shapes(self.loop.initial_state()))


def _check_without_sources(phases: Sequence[schedule.Phase]) -> None:
    """Refuses losses that need sources."""
    for phase in phases:
        where = f"config.phases.{phase.name}"
        if phase.generator and phase.generator.words:
            raise UserError(f"{where}.generator.words: this task has no sources; set 0")
        if phase.discriminator and phase.discriminator.mismatch:
            raise UserError(f"{where}.discriminator.mismatch: this task has no sources; set 0")


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


def _flat(config: ml_collections.ConfigDict) -> dict:
    return dict(_leaves(config, ""))


def _leaves(config, prefix):
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _may_change(name: str) -> bool:
    return name.startswith(_MAY_CHANGE) or (
        name.startswith("phases.") and name.rpartition(".")[2] in _MAY_CHANGE_IN_PHASES
    )


def _claim(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Makes the directory, or checks that it holds a run of this configuration."""
    if (workdir / "config.json").exists():
        old, new = _flat(_saved_config(workdir)), _flat(config)
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name) and not _may_change(name):
                raise UserError(
                    f"--workdir={workdir}: holds a run with config.{name}={old.get(name)!r}, not "
                    f"{new.get(name)!r}; name another directory"
                )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: can't be written to ({error.strerror}); name another directory"
        ) from error


def train(
    config: ml_collections.ConfigDict,
    workdir: str | None,
    *,
    quiet: bool = False,
    profile: int = 0,
) -> None:
    """Trains a run to its end, from wherever it stands, and shows what it has learned."""
    compilation_cache()
    directory = Path(workdir or f"runs/{config.task}-{config.variant}")
    # Rough costs of one update, relative to another: rollouts are what takes long.
    work = [
        phase.steps * (4.0 if phase.cycle > 1 else 1.0) for phase in schedule.parse(config.phases)
    ]
    with Progress(work=work, quiet=quiet) as progress:
        run = Run(directory, config, progress, profile)
        if run.task.message:
            progress.message(run.task.message)
        state = run.loop.run()
        if int(state.phase_step) == 0:
            progress.message("nothing to train: all phases have no steps")
        found = run.loop.newest(state)
        pictures.curves(read_metrics(directory), directory / "curves.png")
        folder = directory / "samples" / "final"
        drawn = run.task.illustrate(folder, VALIDATION, found.samples, found.attention)
        progress.finish()
    if not quiet:
        print(f"this run is finished; on {found.figures['nll'].n} held-out {run.task.items}:")
        print(table({VALIDATION: found.figures}))
        print(f"{run.task.items} that it writes for data that it never saw:")
        for sample in found.samples:
            print(f"  {run.task.decode(sample.tokens[0])}")
        files = [folder / f"{name}.png" for name in drawn] + [directory / "curves.png"]
        print(f"pictures: {', '.join(map(str, files))}")
        if profile:
            print(f"traces of {profile} steps a phase: {directory / 'profile'}")


def generate(
    workdir: str,
    options: Mapping[str, Any],
    *,
    num_samples: int,
    seed: int,
    truncation: Truncation,
    beam_size: int,
    rerank: int,
    prefix: str,
    checkpoint: str,
    output: str,
) -> None:
    """Writes for what a user asks, as lines of text or as JSON.

    Args:
      workdir: the run.
      options: what to write for, the values of one option of the command line or another; None for
        those that weren't given.
      num_samples: sequences for each source.
      seed: of noise and samples.
      truncation: temperature and the like.
      beam_size: how many of the most probable sequences to search instead; 0 to draw.
      rerank: how many times more sequences to draw and leave to the discriminator's choice.
      prefix: how each begins.
      checkpoint: 'last', 'best' or a phase's name.
      output: 'text' or 'json'.
    """
    _check_truncation(truncation)
    for option, value in (("num_samples", num_samples), ("beam_size", beam_size + 1)):
        if value < 1:
            raise UserError(f"--{option}: must be positive")
    if beam_size and rerank > 1:
        raise UserError("--rerank: of no use to a beam search; leave out one of the two")
    compilation_cache()
    with Progress(quiet=True) as progress:
        run = Run(Path(workdir), None, progress)
        task = run.task
        for option, value in options.items():
            if value is not None and option not in task.options:
                raise UserError(f"--{option}: of no use to a model of {task.name}; leave it out")
        names, batch = task.request(options)
        forced = task.prefix(prefix)
        if len(forced) >= task.length:
            raise UserError(f"--prefix: longer than the {task.length} tokens of its {task.items}")
        state = run.restore(checkpoint)
    how = {"seed": seed, "forced": forced}
    if beam_size:
        samples = held_out.search(
            run.steps, state, [batch], width=beam_size, banned=task.banned, **how
        )
    else:
        truncation = truncation._replace(banned=task.banned)
        samples = held_out.write(
            run.steps,
            state,
            [batch],
            num_samples=num_samples,
            truncation=truncation,
            rerank=rerank,
            **how,
        )
    written = list(zip(names, samples, strict=True))
    if output == "json":
        rows = [task.row(name, sample) for name, sample in written]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for name, sample in written:
        print(*task.describe(name, sample), sep="\n")


def _check_truncation(truncation: Truncation) -> None:
    if not truncation.temperature > 0:
        raise UserError("--temperature: must be above 0; use --beam_size=1 for the most probable")
    if truncation.top_k < 0:
        raise UserError("--top_k: must be 0 (all tokens) or more")
    if not 0 < truncation.top_p <= 1:
        raise UserError("--top_p: must be above 0 and at most 1")


def evaluate(
    workdir: str,
    *,
    split: str,
    checkpoints: Sequence[str],
    swept: str | None,
    num_samples: int | None,
    num_noise: int,
    beam_size: int | None,
    rerank: int,
    limit: int | None,
    seed: int,
    batch_size: int,
) -> None:
    """Judges one checkpoint or several on held-out data; prints a table, writes JSON.

    Args:
      workdir: the run.
      split: which data.
      checkpoints: 'last', 'best' or phases' names.
      swept: 'temperature' for the figures at every temperature, and a picture; or None.
      num_samples: sequences for each source; None for the task's own number.
      num_noise: noise samples of the likelihood's bound.
      beam_size: width of the beam search; None for the usual one.
      rerank: how many times more sequences to draw and leave to the discriminator's choice; 1 for
        no such figures.
      limit: how many sources; None for all.
      seed: of noise and samples.
      batch_size: sources at once.
    """
    compilation_cache()
    directory = Path(workdir)
    with Progress() as progress:
        run = Run(directory, None, progress)
        part = {"seed": seed, "batch_size": batch_size, "limit": limit}
        if beam_size and not run.task.beam:
            raise UserError(f"--beam_size: of no use to a model of {run.task.name}; leave it out")
        if rerank > 1 and not run.task.beam:
            raise UserError(f"--rerank: of no use to a model of {run.task.name}; leave it out")
        if swept:
            for option, value in (
                ("num_samples", num_samples),
                ("beam_size", beam_size),
                ("rerank", rerank > 1),
            ):
                if value:
                    raise UserError(f"--{option}: of no use to a sweep; leave it out")
            lines = _sweep(run, split, checkpoints, part, progress)
        else:
            num_samples = num_samples or run.task.num_samples
            beam_size = beam_size or BEAM_SIZE
            lines = _evaluate(
                run, split, checkpoints, part, num_samples, num_noise, beam_size, rerank
            )
    print(*lines, f"written: {directory / 'evaluation.json'}", sep="\n")


def _evaluate(
    run: Run, split, checkpoints, part, num_samples, num_noise, beam_size, rerank
) -> list[str]:
    columns = {}
    for which in checkpoints:
        state = run.restore(which)
        columns[which], written = held_out.figures(
            run.steps,
            state,
            run.task,
            split,
            num_samples=num_samples,
            num_noise=num_noise,
            thorough=True,
            **part,
        )
        if run.task.beam:
            columns[which] |= _beam_figures(run, state, split, part, beam_size)
        if rerank > 1:
            columns[which] |= _reranked_figures(run, state, split, part, num_samples, rerank)
        name = "evaluation.json" if which == checkpoints[-1] else f"evaluation-{which}.json"
        path = run.workdir / name
        write_evaluation(
            path,
            task=run.config.task,
            split=split,
            checkpoint=which,
            seed=part["seed"],
            metrics=columns[which],
            sweep=sweep.read(path),
        )
    others, lines = run.task.comparisons(split, len(written), num_samples)
    return [table(columns | others), *lines]


def _reranked_figures(run: Run, state, split, part, num_samples, rerank):
    size = {name: part[name] for name in ("batch_size", "limit")}
    kept = held_out.write(
        run.steps,
        state,
        run.task.sources(split, **size),
        seed=part["seed"],
        num_samples=num_samples,
        rerank=rerank,
    )
    figures = run.task.evaluate(split, list(kept), None, thorough=False)
    return {f"reranked_{name}": figure for name, figure in figures.items()}


def _beam_figures(run: Run, state, split, part, beam_size):
    size = {name: part[name] for name in ("batch_size", "limit")}
    found = held_out.search(
        run.steps, state, run.task.sources(split, **size), seed=part["seed"], width=beam_size
    )
    best = [held_out.Sample(*(x[:1] for x in sample)) for sample in found]
    figures = run.task.evaluate(split, best, None, thorough=True)
    return {f"beam_{name}": figures[name] for name in run.task.beam if name in figures}


def _sweep(run: Run, split, checkpoints, part, progress) -> list[str]:
    shown = run.task.sweep
    if not shown:
        raise UserError(f"--sweep: a model of {run.task.name} has no curve to draw; leave it out")
    curves, steps = {}, {}
    for which in checkpoints:
        state = run.restore(which)
        steps[which] = int(state.step)
        temperatures = progress.track(TEMPERATURES, len(TEMPERATURES), f"temperatures of {which}")
        curves[which] = {
            t: held_out.at_temperature(run.steps, state, run.task, split, t, **part)
            for t in temperatures
        }
    found = sweep.entry(curves, steps, shown[:2], split=split, seed=part["seed"])
    sweep.write(run.workdir / "evaluation.json", found)
    picture = run.workdir / "temperature.png"
    points = {
        which: [(t, figures[shown[0]], figures[shown[1]]) for t, figures in curve.items()]
        for which, curve in curves.items()
    }
    pictures.tradeoff(points, shown[:2], picture)
    return [*sweep.lines(curves, shown), f"picture: {picture}"]
