"""One file per modality: what the programs need to know about it."""

import importlib
from pathlib import Path

from seqgan_jax.errors import UserError

TASKS = {"captions": "Captions"}


def load(config, workdir: Path, progress):
    """The task that `config.task` names, bound to its data; see `tasks.captions.Captions`."""
    if config.task not in TASKS:
        raise UserError(f"config.task: no task '{config.task}'; choose from {', '.join(TASKS)}")
    module = importlib.import_module(f"seqgan_jax.tasks.{config.task}")
    return getattr(module, TASKS[config.task])(config, workdir, progress)
