"""Writing with a trained model on the command line; `seqgan_jax.api` does the work."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax.api import Generated, load
from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file
from seqgan_jax.programs.start import compilation_cache
from seqgan_jax.reporting.progress import Progress

# Endings of files for what is told of sounds, clips and pictures.
_TEXT = ("", ".txt", ".json")


def generate(
    workdir: str,
    options: Mapping[str, Any],
    *,
    num_samples: int | None,
    checkpoint: str,
    replica: int,
    form: str,
    output: str | None,
    quiet: bool = False,
) -> None:
    """Writes for what a user asks, as lines of text or as JSON.

    Args:
      workdir: the run.
      options: what to write for and how, see `api.Model.generate`; None for those that weren't
        given.
      num_samples: sequences for each source; None for 5, or 1 where they go to a file of their own
        kind.
      checkpoint: 'last', 'best' or a phase's name.
      replica: which of a run of several seeds.
      form: 'text', 'json', or 'lines': what was written and nothing else, a line for each source
        (the best that beam search found, or the first that was drawn), or for each sequence where
        the model has no sources.
      output: the file to write to; None for standard output. One whose ending is among the task's
        `endings` is what was written itself, a sound, and the lines are printed.
      quiet: neither progress nor what rejection has cost.

    Raises:
      UserError: for options that make no sense, or that this model has no use for.
    """
    compilation_cache()
    with Progress(quiet=quiet or output is None or form != "text") as progress:
        model = load(workdir, checkpoint, replica=replica, progress=progress)
        task = model.task
        ending = Path(output).suffix.lower() if output is not None else ""
        whole = ending in task.endings
        if task.endings and not whole and ending not in _TEXT:
            raise UserError(
                f"--output={output}: a model of {task.name} writes {', '.join(task.endings)}, and "
                f"what is told of them to {', '.join(filter(None, _TEXT))}; choose one of these"
            )
        has_sources = task.template()["source"] is not None
        if num_samples is None:
            num_samples = 1 if whole or (form == "lines" and has_sources) else 5
        written = model.generate(num_samples=num_samples, **options)
        if written[0].accepted and not quiet:
            print(_cost(written, model.tries, task.items), file=sys.stderr)
        paths = model.save(output, written) if whole else []
    if form == "json":
        rows = [task.row(each.name, each.sample) for each in written]
        text = json.dumps(rows, indent=1, ensure_ascii=False)
    elif form == "lines":
        count = 1 if has_sources else None
        text = "\n".join(task.decode(x) for each in written for x in each.sample.tokens[:count])
    else:
        lines = (line for each in written for line in task.describe(each.name, each.sample))
        text = "\n".join(lines)
    if whole:
        print(text)
        if form == "text":
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


def _cost(written: Sequence[Generated], tries: int, items: str) -> str:
    draws = np.concatenate([each.accepted.draws for each in written])
    exhausted = int(sum(each.accepted.exhausted.sum() for each in written))
    told = f"drew {draws.sum():,} {items} to keep {len(draws):,}: {draws.mean():.1f} for each"
    if exhausted:
        told += f"; {exhausted:,} of them are the last of {tries} tries, none of them accepted"
    return told
