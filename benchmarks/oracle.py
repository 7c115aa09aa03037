"""Curves of oracle runs over several seeds, and what one has over another; one JSON object a line.

    python benchmarks/oracle.py --seeds=0,1,2 --model=runs/oracle-mle-{seed}:best \
        --model=runs/oracle-{seed}:last [--picture=FILE]

Each `--model` names a run for every seed and a checkpoint, of which `evaluate.py
--sweep=temperature` has written the curve; the first is the baseline. A line for each model,
temperature and figure has the mean over the seeds and its standard error. Lines named `gap/...` say
by how much a model at temperature 1 lies below the baseline's curve of the same seed, linear
between its temperatures, at no higher other divergence: the mean over the seeds (`each`), its
standard error over them, and one that also has the sampling error of a seed's sequences, since all
seeds may have been judged by the same. `area` is what lies between the two curves' frontiers.
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
    try:
        models = {model: [points(model, seed) for seed in SEEDS.value] for model in MODEL.value}
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


def points(model: str, seed: str) -> sweep.Points:
    """A curve of `evaluation.json`.

    Raises:
      UserError: there is none of that run and checkpoint.
    """
    run, _, checkpoint = model.replace("{seed}", seed).rpartition(":")
    found = sweep.read(Path(run) / "evaluation.json") or {"checkpoints": {}}
    if checkpoint not in found["checkpoints"]:
        raise UserError(
            f"--model={model}: no curve of {checkpoint or 'a checkpoint'} in {run or '.'}; first "
            f"python evaluate.py --workdir={run} --sweep=temperature --checkpoint={checkpoint}"
        )
    curve = found["checkpoints"][checkpoint]["points"]
    return {point["temperature"]: metrics(point["metrics"]) for point in curve}


def mean(curves: list[sweep.Points]) -> sweep.Points:
    """Means over the seeds, with their standard errors."""
    return {
        t: {
            name: Metric.mean((curve[t][name].value for curve in curves), figure.unit)
            for name, figure in figures.items()
        }
        for t, figures in curves[0].items()
    }


def compare(baseline, starts, model, curves):
    """The lines of one model against the baseline."""
    found = [
        sweep.comparisons({baseline: start, model: curve}, Oracle.sweep[:2])[model]
        for start, curve in zip(starts, curves, strict=True)
    ]
    told = {"model": model, "baseline": baseline}
    for name in Oracle.sweep[:2]:
        each = [own["gaps"][name] for own in found]
        if None in each:
            print(f"{baseline}: nowhere as low in the other figure as {model}", file=sys.stderr)
            continue
        gap = Metric.mean(each, "nats/token")
        sampled = max(
            math.hypot(curve[1.0][name].stderr, start[1.0][name].stderr)
            for start, curve in zip(starts, curves, strict=True)
        )
        print_line(
            f"gap/{name}",
            gap.value,
            gap.unit,
            **told,
            each=[rounded(value) for value in each],
            stderr=rounded(gap.stderr),
            stderr_with_sampling=rounded(math.hypot(gap.stderr or 0.0, sampled)),
        )
    area = Metric.mean((own["area"] for own in found), "")
    print_line("area", area.value, "", **told, stderr=rounded(area.stderr))


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    app.run(main)
