"""Judging anybody's samples, and setting runs and samples side by side."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax import tasks
from seqgan_jax.api import PART
from seqgan_jax.core.sampling import Truncation
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import embedders, held_out, sweep
from seqgan_jax.evaluation import samples as sample_files
from seqgan_jax.evaluation import text as text_metrics
from seqgan_jax.evaluation.report import Metric, metrics, plain, table, write_json
from seqgan_jax.programs.evaluate import evaluate
from seqgan_jax.programs.run import Run, parts
from seqgan_jax.programs.start import compilation_cache
from seqgan_jax.reporting import pictures
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.reporting.record import flat

# Parts of a configuration that say what a run is judged by.
_DATA = ("data", "codec", "hole", "oracle")


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
    quiet: bool = False,
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
      quiet: no progress, the table alone.

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
    with Progress(quiet=quiet) as progress:
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
            for t in sweep.TEMPERATURES if swept else (1.0,):
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
    batches = run.progress.track(parts(batch, PART), -(-count // PART), f"drawing from {title}")
    truncation = Truncation(temperature, banned=task.banned)
    written = held_out.write(
        run.steps, state, batches, seed=seed, num_samples=1, truncation=truncation
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
    lines = [table(columns), *_differences(names)]
    curves = {name: {1.0: column} for name, column in columns.items()}
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


def _differences(names: Sequence[str]) -> list[str]:
    """A line for each setting of runs' data that isn't the same for all.

    Some are meant to differ (how much of the data is used, say), so none is refused.
    """
    found = {name: _data_settings(Path(name)) for name in names}
    lines = []
    for option in sorted(set().union(*found.values())):
        # A run of an earlier version may lack an option.
        values = {name: known[option] for name, known in found.items() if option in known}
        if len({json.dumps(value) for value in values.values()}) > 1:
            told = ", ".join(f"{value} of {name}" for name, value in values.items())
            lines.append(f"not of the same data: config.{option} is {told}")
    return lines


def _data_settings(workdir: Path) -> dict[str, Any]:
    """What a run's config.json says of its data, by option; nothing where there is no such file."""
    try:
        config = json.loads((workdir / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    settings = flat({part: config[part] for part in _DATA if part in config})
    return {
        option: str(Path(value).resolve()) if _names_a_file(value) else value
        for option, value in settings.items()
    }


def _names_a_file(value: Any) -> bool:
    return isinstance(value, str) and "/" in value


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
    quiet: bool = False,
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
      quiet: no progress, the table alone.

    Raises:
      UserError: for none or several of the three, or options that go with another.
    """
    if sum(map(bool, (workdir, samples, compared))) != 1:
        raise UserError("give one of --workdir=RUN, --samples=FILE and --compare A B C")
    if not run["checkpoints"]:
        raise UserError("--checkpoint: names none; set last, best or a phase's name")
    references = text["references"]
    if workdir:
        for option, value in (("references", references), ("output", output)):
            if value:
                raise UserError(
                    f"--{option}: of no use to --workdir; --compare {workdir} judges what it writes"
                )
        evaluate(workdir, swept=swept, seed=seed, quiet=quiet, **run)
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
        quiet=quiet,
    )
