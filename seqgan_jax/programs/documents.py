"""What a run says of itself: its model card and its report."""

import runpy
import shlex
from pathlib import Path

import jax
import ml_collections

from seqgan_jax.errors import UserError
from seqgan_jax.programs.run import Run
from seqgan_jax.reporting import html_report, model_card
from seqgan_jax.reporting.record import flat
from seqgan_jax.training.phases import NETWORKS


def document(run: Run) -> None:
    """Writes the run's model card and its report."""
    state = jax.eval_shape(lambda: run.steps.init(run.config.seed, run.task.template()))
    parameters = {
        name: sum(leaf.size for leaf in jax.tree.leaves(getattr(state, name).params))
        for name in NETWORKS
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
        content = runpy.run_path(str(Path(__file__).parents[2] / file))
        default = flat(content["get_config"](config.variant))
    except (OSError, ValueError, UserError):
        return None
    values = flat(config)
    if values.keys() != default.keys():
        return None
    changed = [f"--config.{name}={x}" for name, x in values.items() if x != default[name]]
    return shlex.join(["python", "train.py", f"--config={file}:{config.variant}", *changed])
