"""Curves of oracle runs over several seeds, and what one has over another; one JSON object a line.

    python benchmarks/oracle.py --seeds=0,1,2 --model=runs/oracle-mle-{seed}:best \
        --model=runs/oracle-{seed}:last [--picture=FILE]

Each `--model` names a run for every seed and a checkpoint, of which `evaluate.py
--sweep=temperature` has written the curve; the first is the baseline. A line for each model,
temperature and figure has the mean over the seeds and its standard error over them.

Lines named `below/...` say by how much a model at temperature 1 is below the least that the
baseline of the same seed has at any temperature: where it is below in both divergences, no
temperature of the baseline reaches it. They have the values of the seeds (`each`) and a second
standard error, with the sampling error of a seed's sequences in it, since all seeds may have been
judged by the same. `at_equal/...` says how much less reverse divergence the model's curve has at
the forward divergence that the baseline has at a temperature; `area` what lies between the curves.
"""

import math
import sys
from pathlib import Path

from absl import app, flags
from ceilings import print_line

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import sweep
from seqgan_jax.evaluation.report import Metric, metrics
from seqgan_jax.reporting import pictures
from seqgan_jax.tasks.oracle import Oracle

SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "What {seed} stands for.")
MODEL = flags.DEFINE_multi_string("model", [], "RUN:CHECKPOINT, the baseline first.")
PICTURE = flags.DEFINE_string("picture", None, "The PNG of the curves' means to write.")


def main(_):
    if not MODEL.value:
        raise app.UsageError("--model: none given; name RUN:CHECKPOINT")
    judged: dict[tuple, str] = {}
    try:
        models = {
            model: [points(model, seed, judged) for seed in SEEDS.value] for model in MODEL.value
        }
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    means = {model: mean(curves) for model, curves in models.items()}
    for model, curve in means.items():
        for temperature, figures in curve.items():
            for name in Oracle.sweep:
                value, stderr, _, unit = figures[name]
                print_line(
                    name, value, unit, model=model, temperature=temperature, stderr=rounded(stderr)
                )
    (baseline, starts), *others = models.items()
    for model, curves in others:
        compare(baseline, starts, model, curves)
    if PICTURE.value:
        axes = Oracle.sweep[:2]
        curves = {
            model: [(t, *(figures[axis] for axis in axes)) for t, figures in curve.items()]
            for model, curve in means.items()
        }
        pictures.tradeoff(curves, axes, PICTURE.value)


def points(model: str, seed: str, judged: dict[tuple, str]) -> sweep.Points:
    """A curve of `evaluation.json`.

    Args:
      model: as the flag has it.
      seed: of the run.
      judged: by what the curves so far were judged, and the first run of each; written into.

    Raises:
      UserError: there is none of that run and checkpoint, or it was judged by other sequences.
    """
    run, _, checkpoint = model.replace("{seed}", seed).rpartition(":")
    found = sweep.read(Path(run) / "evaluation.json") or {"checkpoints": {}}
    if checkpoint not in found["checkpoints"]:
        raise UserError(
            f"--model={model}: no curve of {checkpoint or 'a checkpoint'} in {run or '.'}; first "
            f"python evaluate.py --workdir={run} --sweep=temperature --checkpoint={checkpoint}"
        )
    curve = found["checkpoints"][checkpoint]["points"]
    curve = {point["temperature"]: metrics(point["metrics"]) for point in curve}
    judged.setdefault((found["split"], curve[1.0]["forward_kl"].n), run)
    if len(judged) > 1:
        told = " and ".join(f"{n:,} of {split} ({run})" for (split, n), run in judged.items())
        raise UserError(f"--model: judged by different sequences: {told}; evaluate them alike")
    return curve


def mean(curves: list[sweep.Points]) -> sweep.Points:
    """Means over the seeds, with their standard errors; a single one as it is."""
    if len(curves) == 1:
        return curves[0]
    return {
        t: {
            name: Metric.mean((curve[t][name].value for curve in curves), figure.unit)
            for name, figure in figures.items()
        }
        for t, figures in curves[0].items()
    }


def compare(baseline, starts, model, curves):
    """The lines of one model against the baseline."""
    told = {"model": model, "baseline": baseline}
    axes = Oracle.sweep[:2]
    found = [
        sweep.comparisons({baseline: start, model: curve}, axes)[model]
        for start, curve in zip(starts, curves, strict=True)
    ]
    for name in axes:
        each = [own["below"][name] for own in found]
        below = Metric.mean(each, curves[0][1.0][name].unit)
        sampled = max(
            math.hypot(
                min((figures[name] for figures in start.values()), key=lambda x: x.value).stderr,
                curve[1.0][name].stderr,
            )
            for start, curve in zip(starts, curves, strict=True)
        )
        print_line(
            f"below/{name}",
            below.value,
            below.unit,
            **told,
            each=[rounded(value) for value in each],
            stderr=rounded(below.stderr),
            stderr_with_sampling=rounded(math.hypot(below.stderr or 0.0, sampled)),
        )
    for temperature in starts[0]:
        each = [own["at_equal"].get(temperature) for own in found]
        if None not in each:
            less = Metric.mean(each, "nats/token")
            told_at = {**told, "temperature": temperature, "stderr": rounded(less.stderr)}
            print_line(f"at_equal/{axes[1]}", less.value, less.unit, **told_at)
    areas = [own["area"] for own in found]
    if None not in areas:  # they may share no forward divergence
        area = Metric.mean(areas, "")
        print_line("area", area.value, "", **told, stderr=rounded(area.stderr))


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    app.run(main)
