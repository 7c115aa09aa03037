"""A run, or several side by side, as one HTML page that needs no other file and no network.

Everything is read from the runs' directories; see `record`. The page holds no script.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.reporting import artefacts, charts
from seqgan_jax.reporting.artefacts import scrolled, value_text
from seqgan_jax.reporting.markup import document, tag
from seqgan_jax.reporting.metrics_log import write_atomically
from seqgan_jax.reporting.record import Record, Stage, figure_rows, flat, phase_rows, read

FILE_NAME = "report.html"
VALIDATION = "validation/"  # how the names of figures on validation data begin
_MEDIA_BYTES = 3_000_000  # of files in a page; their text form takes a third more
_SAFETY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def write(workdir: str | os.PathLike) -> Path:
    """Writes `workdir/report.html` and returns its path.

    Raises:
      UserError: there is no run, a file of it can't be read, or the page can't be written.
    """
    workdir = Path(workdir)
    run = read(workdir)
    sections = [
        ("Training", _training([run])),
        ("Samples", _samples(run)),
        ("Held-out figures", _figures([run])),
        ("Quality and diversity", _tradeoffs([run])),
        ("Curves", _curves([run])),
        ("Time and throughput", _times([run])),
        ("Configuration", _configuration(run)),
    ]
    path = workdir / FILE_NAME
    write_atomically(path, _page(f"{run.name}: {_what(run)}", [run], sections))
    return path


def write_comparison(workdirs: Sequence[str | os.PathLike], output: str | os.PathLike) -> Path:
    """Writes one page about several runs to `output` and returns its path.

    Raises:
      UserError: there are fewer than two runs, or as for `write`.
    """
    if len(workdirs) < 2:
        raise UserError("a comparison needs two runs or more; name another folder")
    runs = [read(Path(workdir)) for workdir in workdirs]
    if len({run.name for run in runs}) < len(runs):
        runs = [run._replace(name=str(run.workdir)) for run in runs]
    newest = {
        f"{letter} {run.name}": run.stages[-1].folder
        for letter, run in zip(_letters(), runs, strict=False)
        if run.stages
    }
    sections = [
        ("Training", _training(runs)),
        ("Samples", artefacts.tables(newest, of="run") or [_nothing("No run has samples yet.")]),
        ("Held-out figures", _figures(runs)),
        ("Quality and diversity", _tradeoffs(runs)),
        ("Curves", _curves(runs)),
        ("Time and throughput", _times(runs)),
        ("Configuration", _differences(runs)),
    ]
    title = "Comparison of " + ", ".join(run.name for run in runs)
    path = Path(output)
    write_atomically(path, _page(title, runs, sections))
    return path


def _page(
    title: str, runs: Sequence[Record], sections: Sequence[tuple[str, Sequence[Element]]]
) -> bytes:
    anchors = {name: name.lower().replace(" ", "-") for name, _ in sections}
    links = [tag("li", tag("a", name, href=f"#{anchor}")) for name, anchor in anchors.items()]
    parts = [
        tag("section", tag("h2", name, id=anchors[name]), *content, aria_labelledby=anchors[name])
        for name, content in sections
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=_SAFETY),
        tag("title", title),
        tag("style", _STYLE),
    )
    states = [
        tag("p", (f"{run.name}: " if len(runs) > 1 else "") + _state(run), class_="state")
        for run in runs
    ]
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#content", class_="skip"),
        tag("header", tag("h1", title), *states),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", *parts, id="content"),
    )
    return document(tag("html", head, body, lang="en"))


# What was trained on what.


def _what(run: Record) -> str:
    return f"{value_text(run.config.get('task'))}, {value_text(run.config.get('variant'))}"


def _state(run: Record) -> str:
    total = sum(run.planned.values())
    if run.finished:
        seconds = sum(timing.seconds for timing in run.timings.values())
        took = f", in {_duration(seconds)}" if seconds else ""
        return f"Finished after {run.step:,} updates{took}."
    if not run.metrics:
        return f"Not begun: 0 of {total:,} updates."
    return f"Unfinished: {run.step:,} of {total:,} updates, in phase {run.metrics[-1]['phase']}."


def _training(runs: Sequence[Record]) -> list[Element]:
    topics = ["data", *(name for name in ("encoder", "generator", "discriminator"))]
    rows = [("task", [_what(run) for run in runs])]
    for topic in topics:
        rows.append((topic, [_settings(run.config.get(topic, {})) for run in runs]))
    rows.append(("seed", [value_text(run.config.get("seed")) for run in runs]))
    found = [_table("What was trained on what", ["part", *_titles(runs)], rows)]
    for letter, run in zip(_letters(), runs, strict=False):
        caption = f"Phases of {letter}, in order" if len(runs) > 1 else "Phases, in order"
        found.append(_table(caption, *phase_rows(run), text=(1, 4, 5)))
    return found


def _settings(tree: Mapping) -> str:
    return ", ".join(
        f"{name} {value_text(value)}" for name, value in tree.items() if value is not None
    )


# Samples.


def _samples(run: Record) -> list[Element]:
    if not run.stages:
        return [_nothing("No samples have been written yet.")]
    stages = _stages(run.stages)
    found = artefacts.tables({stage.title: stage.folder for stage in stages})
    room = artefacts.Room(_MEDIA_BYTES)
    for k, stage in enumerate(reversed(stages)):
        content = artefacts.media(stage.folder, stage.title, run.workdir, room)
        if any(True for node in content.iter() if node.tag in ("figure", "p")):
            unfolded = tag("details", tag("summary", stage.title), content, open=not k)
            found.append(unfolded)
    if left := len(run.stages) - len(stages):
        found.append(_nothing(f"In the folder samples: {left} more, from between these."))
    return found


def _stages(stages: Sequence[Stage]) -> list[Stage]:
    """The last stage of every phase and what was written at the end, unless it is the same."""
    shown = list({stage.phase: stage for stage in stages}.values())
    content = lambda stage: {p.name: p.read_bytes() for p in stage.folder.iterdir() if p.is_file()}
    if len(shown) > 1 and content(shown[-1]) == content(shown[-2]):
        del shown[-1]
    return shown


# Figures.


def _figures(runs: Sequence[Record]) -> list[Element]:
    columns: dict[str, Mapping[str, Metric]] = {}
    for letter, run in zip(_letters(), runs, strict=False):
        for judged in run.judgements:
            if judged.figures:
                title = f"{judged.checkpoint} on {judged.split} data"
                columns[f"{letter}: {title}" if len(runs) > 1 else title] = judged.figures
    if columns:
        found = [
            _figure_table("Value ± one standard error, by checkpoint and data", columns),
            _nothing("The likelihood of a model with noise is a lower bound."),
        ]
    else:
        found = [_nothing("No checkpoint has been judged yet; evaluate.py does it.")]
    last: dict[str, dict[str, Metric]] = {}
    for letter, run in zip(_letters(), runs, strict=False):
        for record in run.metrics:
            figures = {
                name.removeprefix(VALIDATION): Metric(value, None, 0, "")
                for name, value in record.items()
                if name.startswith(VALIDATION) and not name.endswith("seconds")
            }
            if figures:
                phase = record["phase"]
                last[f"{letter}: {phase}" if len(runs) > 1 else phase] = figures
    if last:
        found.append(_figure_table("Validation data at the end of each phase", last))
    return found


def _figure_table(caption: str, columns: Mapping[str, Mapping[str, Metric]]) -> Element:
    head, rows = figure_rows(columns)
    return _table(caption, head, rows, text=(len(head) - 1,) if head[-1] == "unit" else ())


def _tradeoffs(runs: Sequence[Record]) -> list[Element]:
    found: list[Element] = []
    points: dict[tuple[str, ...], dict] = {}
    for letter, run in zip(_letters(), runs, strict=False):
        for judged in run.judgements:
            for name, curve in judged.sweep.items():
                title = f"{letter}: {name}" if len(runs) > 1 else name
                if judged.axes:
                    points.setdefault(judged.axes, {})[title] = [
                        (t, *(figures[axis] for axis in judged.axes))
                        for t, figures in curve.items()
                        if all(_known(figures.get(axis)) for axis in judged.axes)
                    ]
                columns = {f"temperature {t:g}": figures for t, figures in curve.items()}
                table = _figure_table(f"{title}, by temperature", columns)
                found.append(tag("details", tag("summary", f"Figures of {title}"), table))
    drawn = [
        tag("figure", charts.tradeoff(curves, axes, f"tradeoff{k}"),
            tag("figcaption", f"{axes[0]} against {axes[1]}"), class_="chart large")
        for k, (axes, curves) in enumerate(points.items())
    ]  # fmt: skip
    pictured = runs[0].workdir / "temperature.png"
    if not drawn and len(runs) == 1 and pictured.exists():
        room = artefacts.Room(_MEDIA_BYTES)
        title = "figures against each other over the temperature"
        try:
            drawn = [tag("figure", artefacts.picture(pictured, title, runs[0].workdir, room))]
        except (OSError, ValueError, SyntaxError):
            drawn = [_nothing(f"{pictured.name} can't be read.")]
    said = "No temperatures have been swept: evaluate.py does it for the tasks that offer it."
    return [*drawn, *found] or [_nothing(said)]


def _known(figure: Metric | None) -> bool:
    return figure is not None and figure.value is not None


# Curves.


def _curves(runs: Sequence[Record]) -> list[Element]:
    series: dict[str, list[dict[str, list]]] = {}
    every_span = [run.spans for run in runs]
    for k, (run, spans) in enumerate(zip(runs, every_span, strict=True)):
        for record in run.metrics:
            first = 0 if len(runs) == 1 else spans[record["phase"]][0] - 1
            for name, value in record.items():
                if name not in ("step", "phase"):
                    of_run = series.setdefault(name, [{} for _ in runs])[k]
                    points = of_run.setdefault(record["phase"], [])
                    points.append((record["step"] - first, math.nan if value is None else value))
    if not series:
        return [_nothing("Nothing has been logged yet.")]
    names = _merged([list(spans) for spans in every_span])
    phases = []
    for number, name in enumerate(names, start=1):
        found = [spans[name] for spans in every_span if name in spans]
        first, last = found[0]
        if len(runs) > 1:
            first, last = 1, max(b - a + 1 for a, b in found)
        phases.append(charts.Phase(number, name, first, last))
    numbered = ", ".join(f"{phase.number} {phase.name}" for phase in phases)
    steps = "steps" if len(runs) == 1 else "updates within the phase"
    legend = [
        tag(
            "p",
            f"Phases: {numbered}. Each is drawn equally wide; the numbers below are {steps}. Where "
            "points are many, the line is the mean of neighbours and the band their range.",
        )
    ]
    if len(runs) > 1:
        keys = [
            tag("li", charts.swatch(k), f" {letter} {run.name}")
            for k, (letter, run) in enumerate(zip(_letters(), runs, strict=False))
        ]
        legend.append(tag("ul", *keys, class_="key"))
    found = legend
    # Held-out figures first: they are what the run is for.
    names = sorted(series, key=lambda name: (not name.startswith(VALIDATION), name))
    for group, members in itertools.groupby(names, lambda name: name.partition("/")[0]):
        figures = []
        for name in members:
            shown = [p for p in phases if any(p.name in of_run for of_run in series[name])]
            drawn = charts.curves(name, shown, series[name], name)
            figures.append(tag("figure", tag("figcaption", name), drawn, class_="chart"))
        found += [tag("h3", group), tag("div", *figures, class_="charts")]
    return found


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """The names of all orders, each before those that follow it in the order that it is from."""
    merged: list[str] = []
    for order in orders:
        for k, name in enumerate(order):
            if name not in merged:
                after = [merged.index(other) for other in order[k + 1 :] if other in merged]
                merged.insert(min(after, default=len(merged)), name)
    return merged


# Time.


def _times(runs: Sequence[Record]) -> list[Element]:
    rows = []
    for letter, run in zip(_letters(), runs, strict=False):
        whose = f"{letter}: " if len(runs) > 1 else ""
        for phase, (seconds, updates) in run.timings.items():
            rate = f"{updates / seconds:.3g}" if seconds else "–"
            rows.append((whose + phase, [f"{updates:,}", _duration(seconds), rate]))
        if run.timings:
            seconds = sum(timing.seconds for timing in run.timings.values())
            updates = sum(timing.updates for timing in run.timings.values())
            rows.append((f"{whose}all", [f"{updates:,}", _duration(seconds), "–"]))
    if not rows:
        return [_nothing("No times are known.")]
    head = ["phase", "updates", "time", "updates per second"]
    caption = "Between each phase's first and last logged step, evaluations included"
    return [_table(caption, head, rows, text=())]


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


# Configuration.


def _configuration(run: Record) -> list[Element]:
    rows = [(name, [value_text(value)]) for name, value in flat(run.config).items()]
    table = _table("config.json", ["option", "value"], rows, text=(1,))
    found = [tag("details", tag("summary", f"All {len(rows)} settings"), table)]
    try:
        card = (run.workdir / "model_card.md").read_text(errors="replace")
    except OSError:
        return found
    said = tag("pre", card, tabindex="0")
    return [*found, tag("details", tag("summary", "Model card"), said)]


def _differences(runs: Sequence[Record]) -> list[Element]:
    settings = [flat(run.config) for run in runs]
    names = dict.fromkeys(name for own in settings for name in own)
    rows = []
    for name in names:
        values = [own.get(name, "not there") for own in settings]
        if any(value != values[0] for value in values):
            rows.append((name, [value_text(value) for value in values]))
    if not rows:
        return [_nothing("The runs have the same settings.")]
    head = ["option", *_titles(runs)]
    return [_table("Settings that differ", head, rows, text=tuple(range(1, len(head))))]


# Parts.


def _letters():
    return map(chr, itertools.count(ord("A")))


def _titles(runs: Sequence[Record]) -> list[str]:
    if len(runs) == 1:
        return [runs[0].name]
    return [f"{letter} {run.name}" for letter, run in zip(_letters(), runs, strict=False)]


def _nothing(said: str) -> Element:
    return tag("p", said, class_="note")


def _table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    *,
    text: Sequence[int] | None = None,
) -> Element:
    """A table whose rows begin with their titles.

    Args:
      caption: above it.
      head: titles of the columns.
      rows: title and cells of each.
      text: the columns that hold text, which begins at the left; None for all.
    """
    text = range(len(head)) if text is None else text
    titles = [tag("th", title, scope="col", class_=None if k in text or not k else "number")
              for k, title in enumerate(head)]  # fmt: skip
    body = [
        tag("tr", tag("th", name, scope="row"),
            *(tag("td", cell, class_=_kind(cell) if k in text else "number")
              for k, cell in enumerate(cells, start=1)))
        for name, cells in rows
    ]  # fmt: skip
    head = tag("thead", tag("tr", *titles))
    return scrolled(tag("table", tag("caption", caption), head, tag("tbody", *body)), caption)


def _kind(text: str) -> str | None:
    """Long text keeps a width, and is not squeezed to a word a line."""
    return "long" if len(text) > 30 else None


_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1f2328; --muted: #57606a; --rule: #d0d7de; --raised: #f6f8fa;
  --link: #0b5cad;
  --series-0: #0b5cad; --series-1: #b42318; --series-2: #1a7f37; --series-3: #6f42c1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --ink: #e6edf3; --muted: #9aa4af; --rule: #30363d; --raised: #161b22;
    --link: #6cb6ff;
    --series-0: #6cb6ff; --series-1: #ff938a; --series-2: #6bc46d; --series-3: #c4a7f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 74rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.5rem; padding-top: 0.5rem;
     border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 0.5rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100vw; }
.skip:focus { position: static; }
.state { margin: 0; font-weight: 600; }
.note { color: var(--muted); }
nav ul, .key { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; list-style: none; padding: 0; }
nav a { display: inline-block; padding: 0.35rem 0; }
.key { position: sticky; top: 0; z-index: 1; margin: 0; padding: 0.35rem 0;
       background: var(--paper); border-bottom: 1px solid var(--rule); }
.key svg { width: 3.2rem; vertical-align: middle; }
.scroll { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
.samples { min-width: min(44rem, 100%); }
.samples th[scope=row] { min-width: 7rem; }
td:not(.number) { min-width: 6rem; }
.samples td:not(.number), td.long { min-width: 14rem; }
caption { text-align: left; overflow-wrap: anywhere; font-weight: 600; padding: 0.25rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.75rem 0.3rem 0;
         border-bottom: 1px solid var(--rule); }
th { font-weight: 500; }
thead th { color: var(--muted); vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
details { margin: 0.75rem 0; }
summary { cursor: pointer; padding: 0.4rem 0; font-weight: 500; }
figure { margin: 0; }
figcaption { font-size: 0.85rem; color: var(--muted); overflow-wrap: anywhere; }
pre { background: var(--raised); padding: 0.75rem; overflow: auto; max-height: 30rem;
      font-size: 0.8rem; white-space: pre-wrap; }
.media { display: flex; flex-wrap: wrap; gap: 1rem; }
.medium { display: flex; flex-direction: column; max-width: 100%; }
.scroll > img { min-width: 44rem; }
img, video { max-width: 100%; height: auto; border-radius: 4px; background: #ffffff; }
audio { max-width: 100%; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr));
          gap: 1.25rem 1.5rem; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible;
             stroke-linejoin: round; stroke-linecap: butt; }
.chart.large { max-width: 42rem; }
svg text { fill: currentColor; font-family: system-ui, sans-serif; }
@media print { nav, .skip { display: none; } }
"""
