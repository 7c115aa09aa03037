"""What the entry points do: train, generate, evaluate."""

import json
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import ml_collections
from absl import flags

from seqgan_jax import tasks
from seqgan_jax.codecs.text import UNK
from seqgan_jax.core.sampling import Truncation
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import held_out
from seqgan_jax.evaluation.report import Metric, table, write_evaluation
from seqgan_jax.files import replace_file
from seqgan_jax.models import build
from seqgan_jax.reporting import pictures
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import phases as schedule
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.loop import Interrupted, Loop
from seqgan_jax.training.state import TrainState
from seqgan_jax.training.steps import Steps

# What may differ between a run and its continuation.
_MAY_CHANGE = ("logging.", "evaluation.")
_MAY_CHANGE_IN_PHASES = ("steps", "evaluate_every")


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


# Figures of one caption an image, which beam search is judged by too.
_OF_ONE = ("true_captions", "bleu_4", "chrf", "rouge_l", "cider_d")


def main(function: Callable[[], None], *, debug: bool = False) -> None:
    """Runs a program; a user's error becomes one line on standard error and exit status 2."""
    # JAX tells of every platform that it looked for and didn't find.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
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

    Raises:
      UserError: if the directory can't be used, or holds a run of another configuration.
    """

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict | None, progress: Progress):
        self.workdir = workdir
        self.progress = progress
        if config is not None:
            _claim(workdir, config)
        self.config = _saved_config(workdir) if config is None else config
        self.phases = schedule.parse(self.config.phases)
        self.task = tasks.load(self.config, workdir, progress)
        if config is not None:
            build.check_encoder(config.encoder, self.task.template()["source"])
        self.steps = Steps(
            build.generator(self.config, self.task.codec.vocabulary),
            build.discriminator(self.config, self.task.codec.vocabulary),
            self.task.codec.vocabulary,
            self.task.length,
            self.config.clip,
        )
        self.loop = Loop(self.config, workdir, self.task, self.steps, self.phases, progress)
        if config is not None:
            # Last, so that a directory is not taken by a configuration that was refused.
            with replace_file(workdir / "config.json") as file:
                file.write(json.dumps(config.to_dict(), indent=1).encode() + b"\n")

    def restore(self, which: str) -> TrainState:
        """The state of a checkpoint: 'last', 'best' or a phase's name."""
        checkpoints = Checkpoints(self.workdir, read_only=True)
        step = checkpoints.find(which)
        return checkpoints.restore(step, shapes(self.loop.initial_state()))


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


def train(config: ml_collections.ConfigDict, workdir: str | None, *, quiet: bool = False) -> None:
    """Trains a run to its end, from wherever it stands, and shows what it has learned."""
    compilation_cache()
    directory = Path(workdir or f"runs/{config.task}-{config.variant}")
    # Rough costs of one update, relative to another: rollouts are what takes long.
    work = [
        phase.steps * (4.0 if phase.cycle > 1 else 1.0) for phase in schedule.parse(config.phases)
    ]
    with Progress(work=work, quiet=quiet) as progress:
        run = Run(directory, config, progress)
        if config.task == "captions" and config.data.source == "scenes":
            progress.message(
                "data: rendered scenes; the model will know coloured shapes only "
                "(docs/captions.md says how to train on photographs)"
            )
        state = run.loop.run()
        if int(state.phase_step) == 0:
            progress.message("nothing to train: all phases have no steps")
        figures, picture = run.loop.figures(state)
        pictures.curves(read_metrics(directory), directory / "curves.png")
        folder = directory / "samples" / "final"
        run.task.illustrate(folder, "validation", *picture)
        progress.finish()
    if not quiet:
        print(f"this run is finished; on {figures['nll'].n} held-out captions:")
        print(table({"validation": figures}))
        print("captions of images that it never saw:")
        for text in picture.captions:
            print(f"  {text}")
        print(f"pictures: {folder / 'captions.png'}, {directory / 'curves.png'}")


def generate(
    workdir: str,
    images: Sequence[str],
    *,
    num_samples: int,
    seed: int,
    truncation: Truncation,
    beam_size: int,
    prefix: str,
    checkpoint: str,
    output: str,
) -> None:
    """Writes captions of a user's own images, as lines of text or as JSON."""
    _check_truncation(truncation)
    for option, value in (("num_samples", num_samples), ("beam_size", beam_size + 1)):
        if value < 1:
            raise UserError(f"--{option}: must be positive")
    compilation_cache()
    with Progress(quiet=True) as progress:
        run = Run(Path(workdir), None, progress)
        names, batch = run.task.request(images)
        state = run.restore(checkpoint)
    forced = tuple(run.task.codec.encode(prefix)[:-1])
    if UNK in forced:
        raise UserError(f"--prefix={prefix}: has a word that the model doesn't know; change it")
    if len(forced) >= run.task.length:
        raise UserError(f"--prefix: longer than the {run.task.length} tokens of a caption")
    if beam_size:
        samples = list(
            held_out.search(
                run.steps,
                state,
                [batch],
                seed=seed,
                width=beam_size,
                forced=forced,
                banned=(UNK,),
            )
        )
    else:
        samples = list(
            held_out.write(
                run.steps,
                state,
                [batch],
                seed=seed,
                num_samples=num_samples,
                truncation=truncation._replace(banned=(UNK,)),
                forced=forced,
            )
        )
    rows = [
        {
            "image": name,
            "captions": [
                {
                    "caption": run.task.decode(tokens),
                    "log_prob": float(log_prob),
                    "score": float(score),
                }
                for tokens, log_prob, score in zip(
                    sample.tokens, sample.log_probs, sample.scores, strict=True
                )
            ],
        }
        for name, sample in zip(names, samples, strict=True)
    ]
    if output == "json":
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for row in rows:
        print(row["image"])
        for caption in row["captions"]:
            print(
                f"  {caption['caption']}  (log-probability {caption['log_prob']:.2f}, "
                f"discriminator {caption['score']:.2f})"
            )


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
    num_samples: int,
    num_noise: int,
    beam_size: int,
    limit: int | None,
    seed: int,
    batch_size: int,
) -> None:
    """Judges one checkpoint or several on held-out data; prints a table, writes JSON."""
    compilation_cache()
    directory = Path(workdir)
    with Progress() as progress:
        run = Run(directory, None, progress)
        columns = {}
        for which in checkpoints:
            state = run.restore(which)
            columns[which] = figures = _held_out_figures(
                run, state, split, num_samples, num_noise, beam_size, limit, seed, batch_size
            )
            name = "evaluation.json" if which == checkpoints[-1] else f"evaluation-{which}.json"
            write_evaluation(
                directory / name,
                task=run.config.task,
                split=split,
                checkpoint=which,
                seed=seed,
                metrics=figures,
            )
        images = figures["images"].n
        columns["references"] = run.task.reference_figures(split, images, num_samples)
        text, single = run.task.single_caption(split, images)
        columns["one caption for all"] = {"cider_d": single}
    for column in columns.values():
        column.pop("images", None)
    print(table(columns))
    print(f"one caption for all: {text}")
    print(f"written: {directory / 'evaluation.json'}")


def _held_out_figures(
    run: Run, state, split, num_samples, num_noise, beam_size, limit, seed, batch_size
) -> dict[str, Metric]:
    size = {"batch_size": batch_size, "limit": limit}
    pairs = lambda: run.task.pairs(split, **size)
    figures = {
        "nll": held_out.likelihood(run.steps, state, pairs(), seed=seed, num_noise=num_noise),
        "nll_shuffled": held_out.likelihood(
            run.steps, state, pairs(), seed=seed, num_noise=num_noise, shuffled=True
        ),
    }
    figures |= held_out.discrimination(run.steps, state, pairs(), seed=seed)
    samples = list(
        held_out.write(
            run.steps, state, run.task.sources(split, **size), seed=seed, num_samples=num_samples
        )
    )
    texts = [[run.task.decode(tokens) for tokens in sample.tokens] for sample in samples]
    figures |= run.task.evaluate(split, texts)
    best = held_out.search(
        run.steps, state, run.task.sources(split, **size), seed=seed, width=beam_size
    )
    found = [[run.task.decode(sample.tokens[0])] for sample in best]
    likeness = run.task.evaluate(split, found)
    figures |= {f"beam_{name}": likeness[name] for name in _OF_ONE if name in likeness}
    figures["images"] = Metric(len(texts), None, len(texts), "images")
    return figures
