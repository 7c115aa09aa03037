"""What the entry points do: train, generate, evaluate."""

import contextlib
import ctypes
import errno
import importlib
import json
import logging
import os
import runpy
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import flags

from seqgan_jax import tasks
from seqgan_jax.core.sampling import Truncation
from seqgan_jax.data.cache import cache_folder
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import calibration, embedders, held_out, sweep
from seqgan_jax.evaluation import samples as sample_files
from seqgan_jax.evaluation import text as text_metrics
from seqgan_jax.evaluation.report import (
    Metric,
    metrics,
    plain,
    table,
    write_evaluation,
    write_json,
)
from seqgan_jax.files import replace_file
from seqgan_jax.models import build
from seqgan_jax.reporting import html_report, model_card, pictures
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import external
from seqgan_jax.training import phases as schedule
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.loop import VALIDATION, Interrupted, Loop
from seqgan_jax.training.state import TrainState
from seqgan_jax.training.steps import Steps

# What may differ between a run and its continuation.
_MAY_CHANGE = ("logging.", "evaluation.", "guard.")
_MAY_CHANGE_IN_PHASES = ("steps", "evaluate_every")
BEAM_SIZE = 3
# Sources of a request that are written for at once.
PART = 100
TEMPERATURES = tuple(round(0.1 * tenth, 1) for tenth in range(5, 16))


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Reads the command line; a bad one is one line on standard error and exit status 2.

    A configuration's unknown keys, wrong types and unknown variants are found here too.
    """
    try:
        flags.FLAGS.set_gnu_getopt()  # options may stand behind the names of --compare A B C
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS:
            _ = flags.FLAGS.config.task  # a file that can't be read is told of at its first use
        if len(rest) == 1 or ("compare" in flags.FLAGS and flags.FLAGS["compare"].value):
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
        sys.exit(128 + stop.signal)  # as shells have it: 130 for Ctrl-C, 143 for SIGTERM
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
    """Keeps compiled programs in the user's cache folder, so that a second start is quick.

    JAX warns of an entry that it can't load, compiles, and leaves the entry to fail again. Here it
    is deleted, with all others: what broke one may have broken more, and they only save time.
    """
    folder = cache_folder() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    show = warnings.showwarning

    def heal(message, *details, **more):
        if "Error reading persistent compilation cache entry" not in str(message):
            show(message, *details, **more)
            return
        for entry in folder.glob("*-cache"):
            entry.unlink(missing_ok=True)

    warnings.showwarning = heal


def _compile_quickly() -> None:
    """Has XLA compile without optimising, which takes half the time or less.

    For programs that run for seconds. Without effect once JAX has begun to compute.
    """
    flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


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
        if not self.config.get("optimize_programs", True):
            _compile_quickly()
        self.phases = schedule.parse(self.config.phases)
        guard = schedule.parse_guard(self.config.get("guard", {}))
        self.rejection = schedule.parse_rejection(self.config.get("rejection", {}))
        reward = schedule.parse_reward(self.config.get("reward", {}), self.phases)
        self.task = tasks.load(self.config, workdir, progress)
        if config is not None:
            source = self.task.template()["source"]
            build.check_encoder(config.encoder, source)
            if source is None:
                _check_without_sources(self.phases)
            _check_discriminator(self.phases, config.discriminator)
        self.steps = Steps(
            build.generator(self.config, self.task.codec.vocabulary, self.task.source_vocabulary),
            build.discriminator(
                self.config, self.task.codec.vocabulary, self.task.source_vocabulary
            ),
            self.task.codec.vocabulary,
            self.task.length,
            self.config.clip,
            phases=self.phases,
            external=reward.weight,
        )
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
        if config is not None:
            # Last, so that a directory is not taken by a configuration that was refused.
            with replace_file(workdir / "config.json") as file:
                file.write(json.dumps(config.to_dict(), indent=1).encode() + b"\n")

    def restore(self, which: str) -> TrainState:
        """The state of a checkpoint: 'last', 'best' or a phase's name."""
        checkpoints = Checkpoints(self.workdir, read_only=True)
        step = checkpoints.find(which)
        return checkpoints.restore(step, shapes(self.loop.initial_state()))

    def calibrated(self, which: str) -> TrainState:
        """The same of a checkpoint that rejection sampling can be done with.

        Raises:
          UserError: for one that isn't calibrated.
        """
        state = self.restore(which)
        if not np.isfinite(state.calibration.maximum):
            raise UserError(
                f"--reject: the checkpoint {which} of {self.workdir} is not calibrated; choose the "
                "end of the phase calibrate, or train with it at the end of config.phases.order"
            )
        return state


def _check_without_sources(phases: Sequence[schedule.Phase]) -> None:
    """Refuses losses that need sources."""
    for phase in phases:
        where = f"config.phases.{phase.name}"
        for option in ("words", "guided_attention"):
            if phase.generator and phase.generator.has(option):
                raise UserError(f"{where}.generator.{option}: this task has no sources; set 0")
        if phase.discriminator and phase.discriminator.mismatch:
            raise UserError(f"{where}.discriminator.mismatch: this task has no sources; set 0")


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


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Turns a full disk, and files that can't be written any more, into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UserError(
            f"{error.filename or directory}: can't be read or written ({error.strerror}); make "
            "room or make it accessible; the same command then goes on from the last checkpoint"
        ) from error


_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
)  # fmt: skip


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
    with Progress(work=work, quiet=quiet) as progress, _writing(directory):
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
        write_evaluation(
            directory / "validation.json",
            task=config.task,
            split=VALIDATION,
            checkpoint="last",
            seed=config.seed,
            metrics=found.figures,
        )
        _document(run)
        closing = [] if quiet else list(_closing(run, state, found.samples))
        progress.finish()
    if not quiet:
        print(f"this run is finished; on {found.figures['nll'].n} held-out {run.task.items}:")
        print(table({VALIDATION: found.figures}))
        for title, samples in closing:
            print(title)
            for sample in samples:
                print(f"  {run.task.decode(sample.tokens[0])}")
        files = [folder / f"{name}.png" for name in drawn] + [directory / "curves.png"]
        print(f"pictures: {', '.join(map(str, files))}")
        print(f"report: {directory / html_report.FILE_NAME}")
        if profile:
            print(f"traces of {profile} steps a phase: {directory / 'profile'}")


def _document(run: Run) -> None:
    """Writes the run's model card and its report."""
    state = jax.eval_shape(lambda: run.steps.init(run.config.seed, run.task.template()))
    parameters = {
        name: sum(leaf.size for leaf in jax.tree.leaves(getattr(state, name).params))
        for name in ("generator", "discriminator")
    }
    model_card.write(
        run.workdir,
        items=run.task.items,
        parameters=parameters,
        message=run.task.message,
        command=_command(run.config),
    )
    html_report.write(run.workdir)


def _command(config: ml_collections.ConfigDict) -> str | None:
    """What trains a run of this configuration; None where the task's file hasn't its options."""
    file = f"configs/{config.task}.py"
    try:
        content = runpy.run_path(str(Path(__file__).parents[1] / file))
        default = _flat(content["get_config"](config.variant))
    except (OSError, ValueError, UserError):
        return None
    values = _flat(config)
    if values.keys() != default.keys():
        return None
    changed = [f"--config.{name}={x}" for name, x in values.items() if x != default[name]]
    return shlex.join(["python", "train.py", f"--config={file}:{config.variant}", *changed])


def _closing(
    run: Run, state: TrainState, samples: Sequence[held_out.Sample]
) -> Iterator[tuple[str, Sequence[held_out.Sample]]]:
    """What a finished run shows of what it writes: titles, and samples below them.

    Those of the last evaluation, or new ones at each of `config.evaluation.temperatures`.
    """
    temperatures = run.config.evaluation.get("temperatures", ())
    if not temperatures:
        yield f"{run.task.items} that it writes for data that it never saw:", samples
    for temperature in temperatures:
        count = len(samples)
        batches = run.task.sources(VALIDATION, batch_size=count, limit=count)
        truncation = Truncation(temperature, banned=run.task.banned)
        written = held_out.write(
            run.steps, state, batches, seed=run.config.seed, num_samples=1, truncation=truncation
        )
        yield f"{run.task.items} that it writes at temperature {temperature:g}:", list(written)


def generate(
    workdir: str,
    options: Mapping[str, Any],
    *,
    num_samples: int | None,
    seed: int,
    truncation: Truncation,
    beam_size: int,
    rerank: int,
    reject: bool,
    prefix: str,
    length: int | None,
    banned: Sequence[str],
    checkpoint: str,
    form: str,
    output: str | None,
) -> None:
    """Writes for what a user asks, as lines of text or as JSON.

    Args:
      workdir: the run.
      options: what to write for, the values of one option of the command line or another; None for
        those that weren't given.
      num_samples: sequences for each source; None for 5, or 1 where a file of sound is written.
      seed: of noise and samples.
      truncation: temperature and the like.
      beam_size: how many of the most probable sequences to search instead; 0 to draw.
      rerank: how many times more sequences to draw and leave to the discriminator's choice.
      reject: whether to draw until the discriminator accepts.
      prefix: how each begins.
      length: tokens of a sequence at most, its end included; None for as many as in training.
      banned: tokens that are never written.
      checkpoint: 'last', 'best' or a phase's name.
      form: 'text' or 'json'.
      output: the file to write to; None for standard output. One whose ending is among the task's
        `endings` is what was written itself, a sound, and the lines are printed.

    Raises:
      UserError: for options that make no sense, or that this model has no use for.
    """
    _check_truncation(truncation)
    for option, value in (("num_samples", num_samples), ("beam_size", beam_size + 1)):
        if value is not None and value < 1:
            raise UserError(f"--{option}: must be positive")
    if beam_size and rerank > 1:
        raise UserError("--rerank: of no use to a beam search; leave out one of the two")
    if reject and (beam_size or rerank > 1):
        raise UserError("--reject: is another way to choose; leave out --beam_size and --rerank")
    compilation_cache()
    with Progress(quiet=output is None or form == "json") as progress:
        run = Run(Path(workdir), None, progress)
        task = run.task
        if length is not None and not 1 <= length <= task.length:
            raise UserError(
                f"--length={length}: this model writes 1 to {task.length} tokens; set one of these"
            )
        for option, value in options.items():
            if value is not None and option not in task.options:
                raise UserError(f"--{option}: of no use to a model of {task.name}; leave it out")
        whole = output is not None and Path(output).suffix.lower() in task.endings
        num_samples = num_samples or (1 if whole else 5)
        names, batch = task.request(options)
        forced = task.prefix(prefix)
        if len(forced) >= (length or task.length):
            raise UserError(
                f"--prefix: longer than the {length or task.length} tokens of its {task.items}"
            )
        never = tasks.banned(task, banned) if banned else task.banned
        state = run.calibrated(checkpoint) if reject else run.restore(checkpoint)
        run.steps.length = length or task.length
        how = {"seed": seed, "forced": forced}
        # Without a source each sequence is a row of its own, so that any number can be written.
        alone = batch["source"] is None and not beam_size
        if alone:
            rows = np.arange(num_samples, dtype=np.int32)
            batch = batch | {"example_id": rows, "weight": np.ones(num_samples, np.float32)}
        count = len(batch["weight"])
        batches = progress.track(_parts(batch, PART), -(-count // PART), f"writing {task.items}")
        if beam_size:
            samples = held_out.search(
                run.steps, state, batches, width=beam_size, banned=never, **how
            )
        else:
            how |= {"num_samples": 1 if alone else num_samples}
            how |= {"truncation": truncation._replace(banned=never)}
            if reject:
                tries = run.rejection.tries
                kept = list(held_out.accepted(run.steps, state, batches, tries=tries, **how))
                print(_cost(kept, tries, task.items), file=sys.stderr)
                samples = [one.sample for one in kept]
            else:
                samples = held_out.write(run.steps, state, batches, rerank=rerank, **how)
        if alone:
            samples = [held_out.Sample(*map(np.concatenate, zip(*samples, strict=True)))]
        written = list(zip(names, samples, strict=True))
        paths = task.save(Path(output), [sample for _, sample in written]) if whole else []
    if form == "json":
        rows = [task.row(name, sample) for name, sample in written]
        text = json.dumps(rows, indent=1, ensure_ascii=False)
    else:
        text = "\n".join(line for name, sample in written for line in task.describe(name, sample))
    if whole:
        print(text)
        if form != "json":
            print(f"written: {', '.join(map(str, paths))}")
        return
    if output is None:
        print(text)
        return
    try:
        with replace_file(Path(output)) as file:
            file.write(text.encode() + b"\n")
    except OSError as error:
        raise UserError(
            f"--output={output}: can't be written ({error.strerror}); name another file"
        ) from error


def _cost(kept: Sequence[held_out.Accepted], tries: int, items: str) -> str:
    draws = np.concatenate([one.draws for one in kept])
    exhausted = int(sum(one.exhausted.sum() for one in kept))
    told = f"drew {draws.sum():,} {items} to keep {len(draws):,}: {draws.mean():.1f} for each"
    if exhausted:
        told += f"; {exhausted:,} of them are the last of {tries} tries, none of them accepted"
    return told


def _parts(batch: dict, size: int) -> Iterator[dict]:
    """The rows of a batch, `size` at a time; the last part is filled up with rows of weight 0."""
    count = len(batch["weight"])
    for start in range(0, count, size):
        rows = np.arange(start, start + min(size, count))
        part = jax.tree.map(lambda x, rows=rows: x[np.minimum(rows, count - 1)], batch)
        yield part | {"weight": part["weight"] * (rows < count)}


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
    reject: bool,
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
      reject: whether to judge also what the discriminator accepts.
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
                ("reject", reject),
            ):
                if value:
                    raise UserError(f"--{option}: of no use to a sweep; leave it out")
            lines = _sweep(run, split, checkpoints, part, progress)
        else:
            num_samples = num_samples or run.task.num_samples
            beam_size = beam_size or BEAM_SIZE
            lines = _evaluate(
                run, split, checkpoints, part, num_samples, num_noise, beam_size, rerank, reject
            )
        _document(run)
    print(*lines, f"written: {directory / 'evaluation.json'}", sep="\n")


def _evaluate(
    run: Run, split, checkpoints, part, num_samples, num_noise, beam_size, rerank, reject
) -> list[str]:
    columns, beside = {}, {}
    for which in checkpoints:
        state = run.calibrated(which) if reject else run.restore(which)
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
        found = columns[which]
        if reject:
            beside[f"{which}, accepted"] = accepted = _accepted_figures(
                run, state, split, part, num_samples
            )
            found = found | {f"accepted_{name}": figure for name, figure in accepted.items()}
        name = "evaluation.json" if which == checkpoints[-1] else f"evaluation-{which}.json"
        path = run.workdir / name
        write_evaluation(
            path,
            task=run.config.task,
            split=split,
            checkpoint=which,
            seed=part["seed"],
            metrics=found,
            sweep=sweep.read(path),
        )
    others, lines = run.task.comparisons(split, len(written), num_samples)
    return [table(columns | beside | others), *lines]


def _accepted_figures(run: Run, state, split, part, num_samples) -> dict[str, Metric]:
    tries = run.rejection.tries
    kept = calibration.filtered(
        run.steps, state, run.task, split, tries=tries, num_samples=num_samples, **part
    )
    figures = run.task.evaluate(split, kept.samples, kept.log_probs, thorough=False)
    return figures | kept.figures


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
    best = [held_out.Sample(*(x[:1] for x in sample[:4])) for sample in found]
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


def judge_samples(
    names: Sequence[str],
    *,
    references: str,
    training: str | None,
    tokenizer: str,
    embedder: str | None,
    calibrate: bool,
    checkpoint: str,
    swept: str | None,
    num_samples: int | None,
    seed: int,
    output: str | None,
    picture: str | None,
) -> None:
    """Judges files of samples, and samples drawn from runs, against one file of real text.

    Args:
      names: files, see `evaluation.samples.read`, and runs' directories.
      references: a file of real text that no model was trained on.
      training: a file of the text that they were trained on, for novelty; or None.
      tokenizer: of `evaluation.samples.TOKENIZERS`.
      embedder: see `evaluation.embedders.load`; None for the default one.
      calibrate: whether real text is judged too, see `evaluation.samples.judge`.
      checkpoint: of the runs: 'last', 'best' or a phase's name.
      swept: 'temperature' to draw from runs at every temperature; or None.
      num_samples: to draw from a run; None for as many as a file is judged by.
      seed: of everything drawn.
      output: the JSON file to write, or None.
      picture: the PNG of quality against diversity, or None.

    Raises:
      UserError: for files or runs that can't be used.
    """
    compilation_cache()
    split, separator = sample_files.TOKENIZERS[tokenizer]
    real = sample_files.read(Path(references), tokenizer)
    known = training and sample_files.read(Path(training), tokenizer)
    if known:
        sample_files.refuse_same("training", Path(training), known, Path(references), real)
    how = {
        "calibrate": calibrate,
        "seed": seed,
        "embedder": embedder or embedders.default(),
        "separator": separator,
    }
    number = num_samples or len(real) // (2 if calibrate else 1)
    texts, drawn = {}, {}
    with Progress() as progress:
        track = lambda title: lambda steps: progress.track(steps, len(steps), title)
        for name in names:
            path = Path(name)
            if not path.is_dir():
                if not path.exists():
                    raise UserError(f"{name}: no such file or run; name one that exists")
                texts[name] = sample_files.read(path, tokenizer)
                sample_files.refuse_same("samples", path, texts[name], Path(references), real)
                continue
            run = Run(path, None, progress)
            state = run.restore(checkpoint)
            for t in TEMPERATURES if swept else (1.0,):
                lines = _drawn(run, state, number, t, seed, f"{name} at temperature {t:g}")
                drawn.setdefault(name, {})[t] = [tuple(split(line)) for line in lines]
            texts[name] = drawn[name][1.0]
        if swept and not drawn:
            raise UserError("--sweep: files of samples have no temperature; name a run")
        columns, note = sample_files.judge(texts, real, known, thorough=True, track=track, **how)
        curves = {name: {1.0: columns[name]} for name in texts}
        if swept:
            flat = {(name, t): found for name, by in drawn.items() for t, found in by.items()}
            tracked = progress.track(flat.items(), len(flat), "judging temperatures")
            at = {
                key: sample_files.judge({key: found}, real, known, thorough=False, **how)[0][key]
                for key, found in tracked
            }
            curves |= {name: {t: at[name, t] for t in by} for name, by in drawn.items()}
    lines = [table(columns), note]
    content = {
        "references": references,
        "training": training,
        "tokenizer": tokenizer,
        "embedder": how["embedder"],
        "seed": seed,
        "judged": note,
        "metrics": {title: plain(found) for title, found in columns.items()},
    }
    if swept:
        content["sweep"] = {
            name: [{"temperature": t, "metrics": plain(m)} for t, m in curves[name].items()]
            for name in drawn
        }
        lines += sweep.lines({name: curves[name] for name in drawn}, text_metrics.AXES)
    if calibrate:
        curves[sample_files.REFERENCES] = {1.0: columns[sample_files.REFERENCES]}
    swept_names = drawn if swept else ()
    _finish(lines, content, curves, swept_names, text_metrics.AXES, output, picture)


def _drawn(run: Run, state, count: int, temperature: float, seed: int, title: str) -> list[str]:
    """What a run without sources writes, as lines."""
    task = run.task
    if task.template()["source"] is not None:
        raise UserError(
            f"{run.workdir}: a model of {task.name} writes for sources; leave out --references to "
            "compare its evaluation.json"
        )
    _, batch = task.request({})
    rows = np.arange(count, dtype=np.int32)
    batch = batch | {"example_id": rows, "weight": np.ones(count, np.float32)}
    parts = run.progress.track(_parts(batch, PART), -(-count // PART), f"drawing from {title}")
    truncation = Truncation(temperature, banned=task.banned)
    written = held_out.write(
        run.steps, state, parts, seed=seed, num_samples=1, truncation=truncation
    )
    return [task.decode(sample.tokens[0]) for sample in written]


def compare(names: Sequence[str], *, swept: str | None, output: str, picture: str) -> None:
    """Sets runs side by side by what `evaluate` wrote of each; see `judge_samples` for samples.

    Args:
      names: runs' directories.
      swept: 'temperature' for the curves that they hold; or None.
      output: the JSON file to write.
      picture: the PNG of the task's two main figures against each other, if it has such.

    Raises:
      UserError: for a run that wasn't evaluated, or runs of different tasks or data.
    """
    found = {name: _evaluated(name, swept) for name in names}
    for key in ("task", "split"):
        values = {name: content[key] for name, content in found.items()}
        if len(set(values.values())) > 1:
            told = ", ".join(f"{value} of {name}" for name, value in values.items())
            raise UserError(f"--compare: different {key}s have nothing in common: {told}")
    task = found[names[0]]["task"]
    axes = getattr(importlib.import_module(f"seqgan_jax.tasks.{task}"), tasks.TASKS[task]).sweep[:2]
    columns = {name: metrics(content["metrics"]) for name, content in found.items()}
    _split_units(columns)
    lines, curves = [table(columns)], {name: {1.0: column} for name, column in columns.items()}
    content = {name: {k: v for k, v in found[name].items() if k != "sweep"} for name in names}
    if swept:
        for name in names:
            # The last checkpoint named is the one whose figures stand beside the sweep.
            *_, last = found[name]["sweep"]["checkpoints"].values()
            content[name]["sweep"] = last
            points = last["points"]
            curves[name] = {p["temperature"]: metrics(p["metrics"]) for p in points}
        lines += sweep.lines(curves, axes)
    _finish(lines, content, curves, names if swept else (), axes, output, picture)


def _split_units(columns: Mapping[str, dict[str, Metric]]) -> None:
    """Gives figures of one name and different units (embedders, say) different names."""
    units: dict[str, set] = {}
    for column in columns.values():
        for name, figure in column.items():
            units.setdefault(name, set()).add(figure.unit)
    for column in columns.values():
        for name in [name for name in column if len(units[name]) > 1]:
            figure = column.pop(name)
            column[f"{name}, {figure.unit}"] = figure


def _evaluated(name: str, swept: str | None) -> dict:
    """What a run's evaluation.json holds."""
    if Path(name).is_file():
        raise UserError(
            f"{name}: samples can't be judged without real text; name a file of it: --references"
        )
    command = f"python evaluate.py --workdir={name}"
    try:
        content = json.loads((Path(name) / "evaluation.json").read_text())
        if "metrics" not in content:
            raise ValueError("a sweep alone")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{name}: hasn't been evaluated; first {command}") from error
    if swept and "sweep" not in content:
        raise UserError(f"{name}: hasn't been swept; first {command} --sweep={swept}")
    return content


def _finish(lines, content, curves, swept, axes, output, picture) -> None:
    """Writes the figures and the picture of a comparison, and prints what it found."""
    if output:
        write_json(Path(output), content)
        lines.append(f"written: {output}")
    if picture and axes:
        # A temperature is named only where there are several.
        points = {
            name: [(t if name in swept else None, m[axes[0]], m[axes[1]]) for t, m in by.items()]
            for name, by in curves.items()
        }
        pictures.tradeoff(points, axes, picture)
        lines.append(f"picture: {picture}")
    print(*lines, sep="\n")


def evaluate_or_compare(
    workdir: str | None,
    samples: str | None,
    compared: Sequence[str],
    *,
    run: Mapping[str, Any],
    text: Mapping[str, Any],
    swept: str | None,
    seed: int,
    output: str | None,
) -> None:
    """Does what one of three options asks: `evaluate`, `judge_samples` or `compare`.

    Args:
      workdir: a run to evaluate, or None.
      samples: a file of samples to judge, or None.
      compared: runs and files to set side by side, or none.
      run: further arguments of `evaluate`.
      text: further arguments of `judge_samples`.
      swept: 'temperature', or None.
      seed: of everything drawn.
      output: the JSON file to write, or None for the usual one.

    Raises:
      UserError: for none or several of the three, or options that go with another.
    """
    if sum(map(bool, (workdir, samples, compared))) != 1:
        raise UserError("give one of --workdir=RUN, --samples=FILE and --compare A B C")
    references = text["references"]
    if workdir:
        for option, value in (("references", references), ("output", output)):
            if value:
                raise UserError(
                    f"--{option}: of no use to --workdir; --compare {workdir} judges what it writes"
                )
        evaluate(workdir, swept=swept, seed=seed, **run)
        return
    if len(set(compared)) < len(compared):
        raise UserError("--compare: names something twice; leave one of them out")
    if samples and not references:
        raise UserError(f"--references: none given; name real text to judge {samples} by")
    if samples and Path(samples).is_dir():
        raise UserError(f"--samples={samples}: is a directory; name a file, or --compare a run")
    if compared:
        output = output or "comparison.json"
    picture = str(Path(output).with_suffix(".png")) if compared else None
    if not references:
        compare(compared, swept=swept, output=output, picture=picture)
        return
    checkpoint = run["checkpoints"][0]
    judge_samples(
        compared or [samples],
        **text,
        checkpoint=checkpoint,
        swept=swept,
        num_samples=run["num_samples"],
        seed=seed,
        output=output,
        picture=picture,
    )
