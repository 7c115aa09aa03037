"""A model card: what a model is, what it was trained on, how well it does, what it isn't for.

After Mitchell et al. (2019), Model Cards for Model Reporting, arXiv:1810.03993.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from seqgan_jax.reporting.metrics_log import write_atomically
from seqgan_jax.reporting.record import Record, figure_rows, phase_rows, read

FILE_NAME = "model_card.md"
_PACKAGES = (
    "seqgan_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy",
    "sacrebleu",
)  # fmt: skip


def write(
    workdir: str | os.PathLike,
    *,
    items: str,
    parameters: Mapping[str, int],
    message: str | None,
    command: str | None,
) -> Path:
    """Writes `workdir/model_card.md`, whole or not at all, and returns its path.

    Args:
      workdir: the run's directory; configuration, progress and figures are read from it.
      items: what the model writes, in the plural.
      parameters: how many numbers each network has learnt.
      message: what a person should know of the data, or None.
      command: what trains such a model anew; None where only the configuration says it.

    Raises:
      UserError: a file of the run can't be read, or the card can't be written.
    """
    run = read(Path(workdir))
    path = run.workdir / FILE_NAME
    text = "\n\n".join(_sections(run, items, parameters, message, command))
    write_atomically(path, text.encode(errors="replace") + b"\n")
    return path


def _sections(
    run: Record,
    items: str,
    parameters: Mapping[str, int],
    message: str | None,
    command: str | None,
) -> list[str]:
    config = run.config
    networks = {name: config.get(name) for name in ("encoder", "generator", "discriminator")}
    counts = [(name, [f"{count:,}"]) for name, count in parameters.items()]
    head, rows = phase_rows(run)
    found = [
        f"# Model card of {_plain(run.name)}",
        f"A sequence GAN that writes {items}: a generator and a discriminator, trained by maximum "
        "likelihood and then by policy gradient on the discriminator's scores.",
        "## Networks",
        _table(["network", "parameters"], counts),
        _json(networks),
        "## Training data",
        *([_plain(message)] if message else []),
        _json({"task": config.get("task"), "data": config.get("data")}),
        "## Training procedure",
        _table(head, rows),
        f"Seed {config.get('seed')}. All settings are in config.json.",
        "## Held-out figures",
        *_figures(run),
        "## Intended use and limits",
        "For research and teaching. The figures above hold for data like the held-out data that "
        "they were measured on, and say nothing about other data.",
        "What the model writes may be false, and may repeat errors and prejudices of its training "
        "data. A discriminator's score says how alike a sequence is to the training data, not "
        "whether it is true. Have a person check whatever is to be relied on.",
        "## To reproduce",
    ]
    found.append(
        f"```sh\n{command}\n```" if command else "Train with all the settings of config.json."
    )
    found.append("Versions when this card was written:")
    found.append(_table(["package", "version"], [(name, [v]) for name, v in _versions().items()]))
    return found


def _figures(run: Record) -> list[str]:
    columns = {
        f"{judged.checkpoint} on {judged.split} data": judged.figures
        for judged in run.judgements
        if judged.figures
    }
    if not columns:
        return ["None yet."]
    said = (
        "Value ± one standard error; n is the number of items that a figure was computed from. "
        "Validation data chose the checkpoints, test data chose nothing."
    )
    return [said, _table(*figure_rows(columns))]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # used from its folder
            found[name] = "not installed"
    return found


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows)]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    """One line in which Markdown and HTML find nothing to act on."""
    text = " ".join(text.split())
    for mark in "\\`*[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return text


def _json(content: Mapping) -> str:
    """JSON as a block of code, which nothing in it can end: a string of it starts no line."""
    return f"```json\n{json.dumps(content, indent=1, ensure_ascii=False)}\n```"
