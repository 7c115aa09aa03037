"""Judging a run on held-out data."""

from collections.abc import Sequence
from pathlib import Path

from seqgan_jax.core.sampling import Truncation
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import calibration, held_out, sweep
from seqgan_jax.evaluation.report import Metric, table, write_evaluation
from seqgan_jax.programs.documents import document
from seqgan_jax.programs.run import Run
from seqgan_jax.programs.start import compilation_cache
from seqgan_jax.reporting import pictures
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import replicas

BEAM_SIZE = 3
# How figures of what rejection sampling accepts begin.
_ACCEPTED = "accepted_"


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
    temperature: float = 1.0,
    replica: int | None = None,
    quiet: bool = False,
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
      temperature: at which to draw also, with the discriminator's choice from such draws; 1 for no
        figures beside the usual ones.
      replica: which of a run of several seeds; None for all, of which the means are shown, with
        their standard errors over the seeds.
      quiet: no progress, the table alone.
    """
    compilation_cache()
    directory = Path(workdir)
    with Progress(quiet=quiet) as progress:
        run = Run(directory, None, progress)
        chosen = range(run.steps.replicas) if replica is None else (replica,)
        part = {"seed": seed, "batch_size": batch_size, "limit": limit}
        if beam_size and not run.task.beam:
            raise UserError(f"--beam_size: of no use to a model of {run.task.name}; leave it out")
        if rerank > 1 and not run.task.beam:
            raise UserError(f"--rerank: of no use to a model of {run.task.name}; leave it out")
        if temperature != 1.0 and not run.task.beam:
            raise UserError(
                f"--temperature: of no use to a model of {run.task.name}; leave it out, or set "
                "--sweep=temperature"
            )
        if swept:
            for option, value in (
                ("num_samples", num_samples),
                ("beam_size", beam_size),
                ("rerank", rerank > 1),
                ("reject", reject),
                ("temperature", temperature != 1.0),
            ):
                if value:
                    raise UserError(f"--{option}: of no use to a sweep; leave it out")
            lines = _sweep(run, split, checkpoints, chosen, part, progress)
        else:
            num_samples = num_samples or run.task.num_samples
            beam_size = beam_size or BEAM_SIZE
            options = (num_samples, num_noise, beam_size, rerank, reject, temperature)
            lines = _evaluate(run, split, checkpoints, chosen, part, *options)
        document(run)
    print(*lines, f"written: {directory / 'evaluation.json'}", sep="\n")


def _evaluate(
    run: Run,
    split,
    checkpoints,
    chosen,
    part,
    num_samples,
    num_noise,
    beam_size,
    rerank,
    reject,
    temperature,
) -> list[str]:
    columns, beside, others = {}, {}, None
    for which in checkpoints:
        own = []
        for replica in chosen:
            state = (run.calibrated if reject else run.restore)(which, replica)
            found, written = held_out.figures(
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
                found |= _beam_figures(run, state, split, part, beam_size)
            for times in sorted({1, rerank}):
                if (times, temperature) != (1, 1.0):
                    options = (num_samples, temperature, times)
                    found |= _drawn_figures(run, state, split, part, *options)
            if reject:
                found |= _accepted_figures(run, state, split, part, num_samples)
            own.append(found)
        found = replicas.figures(own)
        accepted = {name: found[name] for name in found if name.startswith(_ACCEPTED)}
        columns[which] = {name: found[name] for name in found if name not in accepted}
        if reject:
            beside[f"{which}, accepted"] = {
                name.removeprefix(_ACCEPTED): figure for name, figure in accepted.items()
            }
        if others is None:
            others, lines = run.task.comparisons(split, len(written), num_samples)
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
            replicas=own,
            comparisons=others,
        )
    return [table(columns | beside | others), *lines]


def _accepted_figures(run: Run, state, split, part, num_samples) -> dict[str, Metric]:
    tries = run.rejection.tries
    kept = calibration.filtered(
        run.steps, state, run.task, split, tries=tries, num_samples=num_samples, **part
    )
    figures = run.task.evaluate(split, kept.samples, kept.log_probs, thorough=False)
    return {_ACCEPTED + name: figure for name, figure in (figures | kept.figures).items()}


def _drawn_figures(run: Run, state, split, part, num_samples, temperature, rerank):
    size = {name: part[name] for name in ("batch_size", "limit")}
    kept = held_out.write(
        run.steps,
        state,
        run.task.sources(split, **size),
        seed=part["seed"],
        num_samples=num_samples,
        truncation=Truncation(temperature=temperature),
        rerank=rerank,
    )
    figures = run.task.evaluate(split, list(kept), None, thorough=False)
    how = "reranked_" * (rerank > 1) + f"at_{temperature:g}_" * (temperature != 1.0)
    return {how + name: figure for name, figure in figures.items()}


def _beam_figures(run: Run, state, split, part, beam_size):
    size = {name: part[name] for name in ("batch_size", "limit")}
    found = held_out.search(
        run.steps, state, run.task.sources(split, **size), seed=part["seed"], width=beam_size
    )
    best = [held_out.Sample(*(x[:1] for x in sample[:4])) for sample in found]
    figures = run.task.evaluate(split, best, None, thorough=True)
    return {f"beam_{name}": figures[name] for name in run.task.beam if name in figures}


def _sweep(run: Run, split, checkpoints, chosen, part, progress) -> list[str]:
    shown = run.task.sweep
    if not shown:
        raise UserError(f"--sweep: a model of {run.task.name} has no curve to draw; leave it out")
    curves, steps = {}, {}
    for which in checkpoints:
        states = [run.restore(which, replica) for replica in chosen]
        steps[which] = int(states[0].step)
        title = f"temperatures of {which}"
        temperatures = progress.track(sweep.TEMPERATURES, len(sweep.TEMPERATURES), title)
        curves[which] = {
            t: replicas.figures(
                [held_out.at_temperature(run.steps, s, run.task, split, t, **part) for s in states]
            )
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
