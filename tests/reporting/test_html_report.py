"""The report tells what is in a run's directory, in valid HTML, whatever a user wrote there."""

import base64
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import wave

import html5lib
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import sweep
from seqgan_jax.evaluation.report import Metric, write_evaluation
from seqgan_jax.reporting import __main__, charts, html_report, record
from seqgan_jax.reporting.metrics_log import MetricsLog

EVIL = "<script>alert(1)</script> \"quoted\" & 'more' </td></table>\x00\x0b\ud800 $x$ ‮ 猫"
PHASES = {"warm_up": 40, "adversarial": 10}
SECONDS = 7.0  # of each update


def write_samples(folder, captions, scores):
    folder.mkdir(parents=True)
    rows = [
        {"image": f"{i}.jpg", "caption": caption, "score": score, "tokens": [1, 2, i]}
        for i, (caption, score) in enumerate(zip(captions, scores, strict=True))
    ]
    (folder / "captions.json").write_text(json.dumps(rows))


def make_run(workdir, *, task="captions", shift=0.0, clock=None):
    """A run of two phases with everything that a report shows; the clock is set by its steps."""
    workdir.mkdir()
    phases = {
        name: {"steps": steps, "select": "nll", "generator": {"updates": 1, "mle": 0.5}}
        for name, steps in PHASES.items()
    }
    config = {"task": task, "variant": "tiny", "seed": 3, "data": {"path": EVIL, "lost": None}}
    config |= {"generator": {"hidden_size": 8}, "phases": phases | {"order": list(PHASES)}}
    (workdir / "config.json").write_text(json.dumps(config))
    with MetricsLog(workdir, None) as log:
        step = 0
        for phase, steps in PHASES.items():
            for _ in range(steps):
                step += 1
                if clock:
                    clock(step * SECONDS)
                log.scalars(step, phase, {"generator/loss": 10 / step + shift})
            log.scalars(step, phase, {"validation/nll": 5 / step, "validation/odd": math.nan})
    write_samples(workdir / "samples" / "00000020-warm_up", ["early", "too"], [0.1, 0.2])
    write_samples(workdir / "samples" / "00000040-warm_up", ["a dog", "a cat"], [0.25, 0.5])
    write_samples(workdir / "samples" / "00000050-adversarial", [EVIL, "a bird"], [0.5, 0.75])
    write_samples(workdir / "samples" / "final", [EVIL, "a bird"], [0.5, 0.75])
    return workdir


def evaluate(workdir, checkpoint, value, file="evaluation.json", **more):
    write_evaluation(
        workdir / file, task="captions", split="test", checkpoint=checkpoint, seed=0,
        metrics={"nll": Metric(value, 0.0123, 77, "nats/token [signature]")}, **more
    )  # fmt: skip


def swept():
    figure = lambda x: Metric(x, 0.01, 9, "nats/token")
    curves = {
        name: {t: {"forward": figure(1 / t + k), "reverse": figure(t)} for t in (0.5, 1.0)}
        for k, name in enumerate(("warm_up", "last"))
    }
    steps = {"warm_up": 40, "last": 50}
    return sweep.entry(curves, steps, ("forward", "reverse"), split="test", seed=0)


def parsed(path):
    """The page as a tree; anything that HTML's grammar doesn't allow raises."""
    content = path.read_bytes()
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(content)
    ids = [node.get("id") for node in tree.iter() if node.get("id")]
    assert len(ids) == len(set(ids))
    targets = {node.get("href")[1:] for node in tree.iter() if node.get("href", "")[:1] == "#"}
    targets |= set(re.findall(r"url\(#([^)]+)\)", content.decode()))
    assert targets <= set(ids)
    assert all(node.get("alt") for node in tree.iter("img"))
    levels = [int(node.tag[1]) for node in tree.iter() if re.fullmatch("h[1-6]", str(node.tag))]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    return tree


def words(node):
    return " ".join("".join(node.itertext()).split())


def tables(tree):
    """Rows of cells by a table's caption."""
    return {
        words(table.find("caption")): [[words(cell) for cell in row] for row in table.iter("tr")]
        for table in tree.iter("table")
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first <b>")


@pytest.fixture(scope="module")
def page(run):
    evaluate(run, "last", 1.25, sweep=swept())
    evaluate(run, "warm_up", 1.5, "evaluation-warm_up.json")
    return parsed(html_report.write(run))


def test_nothing_that_a_user_wrote_is_markup(page, run):
    text = (run / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert not list(page.iter("script"))
    shown = words(page)
    # Sample, configuration and the run's own name; what no page may hold is replaced.
    clean = " ".join(re.sub("[\x00\x0b\ud800]", "\ufffd", EVIL).split())
    assert shown.count(clean) >= 3
    assert words(page.find(".//h1")) == "first <b>: captions, tiny"


def test_needs_no_network(page, run):
    for node in page.iter():
        assert re.match("data:|#", node.get("src", "#"))
        assert re.match("#", node.get("href", "#"))
    assert not re.search(r"url\((?!#)|@import", (run / "report.html").read_text())
    (policy,) = [n for n in page.iter("meta") if n.get("http-equiv") == "Content-Security-Policy"]
    assert policy.get("content").startswith("default-src 'none'")


def test_samples_stand_side_by_side(page):
    found = tables(page)
    # Of the stages of one phase the last; the final ones equal the last phase's.
    assert found["sample 2, image: 1.jpg"] == [
        ["stage", "caption", "score"],
        ["step 40, warm_up", "a cat", "0.5"],
        ["step 50, adversarial", "a bird", "0.75"],
    ]
    assert "In the folder samples: 2 more, from between these." in words(page)


def test_figures_stand_side_by_side_with_errors(page):
    assert tables(page)["Value ± one standard error, by checkpoint and data"] == [
        ["figure", "warm_up on test data", "last on test data", "n", "unit"],
        ["nll", "1.500 ± 0.012", "1.250 ± 0.012", "77", "nats/token"],
    ]
    assert tables(page)["Validation data at the end of each phase"] == [
        ["figure", "warm_up", "adversarial"],
        ["nll", "0.125", "0.1"],
        ["odd", "-", "-"],
    ]


def chart(tree, name):
    for figure in tree.iter("figure"):
        if words(figure.find("figcaption")) == name:
            return next(node for node in figure.iter() if str(node.tag).endswith("svg"))
    raise AssertionError(f"no chart of {name}")


def test_curves_show_every_value_and_the_phases(page):
    drawn = chart(page, "generator/loss")
    assert drawn.get("aria-label") == (
        "generator/loss over the steps: first 10, last 0.2, lowest 0.2, highest 10"
    )
    labels = {words(node) for node in drawn.iter() if str(node.tag).endswith("text")}
    assert {"1", "40", "50", "1 warm_up", "2 adversarial"} <= labels
    # One line through the 50 points.
    lines = [node.get("d", "") for node in drawn.iter() if "series-0" in (node.get("style") or "")]
    assert max(line.count("L") for line in lines) == 49
    text = words(chart(page, "validation/odd"))
    assert "nan" not in text.lower()


def test_a_line_lies_where_its_values_are_and_stops_where_there_are_none():
    values = [(step, math.nan if 40 <= step < 60 else float(step)) for step in range(1, 101)]
    drawn = charts.curves("x", [charts.Phase(1, "one", 1, 100)], [{"one": values}], "x")
    styled = [node for node in drawn.iter() if "series-0" in (node.get("style") or "")]
    (line,) = (node.get("d") for node in styled if node.get("d"))
    assert line.count("M") == 2
    y = np.array(re.findall(r"[ML] \S+ (\S+)", line), float)
    texts = {words(node): node for node in drawn.iter() if str(node.tag).endswith("text")}
    low, high = (float(texts[number].get("y")) for number in ("30", "90"))
    known = np.array([value for _, value in values if not math.isnan(value)])
    wanted = low + (known - 30) * (high - low) / 60
    # A number stands beside its value, its baseline a little lower.
    assert 0 < low - y[29] < 5
    np.testing.assert_allclose(y - y[29], wanted - low, atol=0.2)


def test_quality_against_diversity(page):
    drawn = chart(page, "forward against reverse")
    said = drawn.get("aria-label")
    assert said.startswith("forward and reverse by temperature. warm_up: 0.5: 2 and 0.5, 1: 1 and")
    row = tables(page)["last, by temperature"][1]
    assert row[:3] == ["forward", "3.000 ± 0.010", "2.000 ± 0.010"]


def test_times_come_from_the_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    run = make_run(tmp_path / "timed", clock=lambda seconds: now.__setitem__(0, seconds))
    rows = tables(parsed(html_report.write(run)))
    found = rows["Between each phase's first and last logged step, evaluations included"]
    assert found[1:] == [
        ["warm_up", "39", "4 min 33 s", "0.143"],
        ["adversarial", "9", "1 min 03 s", "0.143"],
        ["all", "48", "5 min 36 s", "–"],
    ]
    # The time between two starts of the program doesn't count.
    now[0] += 1e6
    with MetricsLog(run, 50) as log:
        for step in (51, 52, 53):
            now[0] += 2.0
            log.scalars(step, "adversarial", {"x": 1.0})
    assert record.read(run).timings["adversarial"] == (9 * SECONDS + 2 * 2.0, 11)


def test_phases_say_how_far_they_are(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:21]) + '{"step": 22, "phase": "war')  # torn by a kill
    for name in ("final", "00000050-adversarial"):
        for file in (run / "samples" / name).iterdir():
            file.unlink()
        (run / "samples" / name).rmdir()
    tree = parsed(html_report.write(run))
    assert "Unfinished: 21 of 50 updates, in phase warm_up." in words(tree)
    assert tables(tree)["Phases, in order"][1:] == [
        ["1", "warm_up", "21", "40", "nll", "generator × 1 by mle 0.5"],
        ["2", "adversarial", "0", "10", "nll", "generator × 1 by mle 0.5"],
    ]
    assert "No checkpoint has been judged yet" in words(tree)


def test_a_run_that_has_nothing_but_a_configuration(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    text = words(parsed(html_report.write(tmp_path)))
    for said in ("Not begun", "No samples", "No times", "Nothing has been logged yet"):
        assert said in text
    with pytest.raises(UserError, match=r"no run here \(no config.json\)"):
        html_report.write(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config.json: can't be read"):
        html_report.write(tmp_path)


def test_phases_that_ended_early_finish_a_run(tmp_path):
    run = make_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["phases"]["adversarial"]["steps"] = 1000
    (run / "config.json").write_text(json.dumps(config))
    assert record.read(run).finished
    with MetricsLog(run, 50):  # and it goes on
        pass
    os.utime(run / "metrics.jsonl", (2e9, 2e9))
    assert not record.read(run).finished


def png(path, size, description=None):
    info = PngImagePlugin.PngInfo()
    if description:
        info.add_itxt("Description", description)
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(path, pnginfo=info)


def test_files_show_by_their_kind(tmp_path):
    run = make_run(tmp_path / "run")
    folder = run / "samples" / "final"
    png(folder / "attention.png", (1800, 300), 'looked at "<b>" &')
    png(folder / "voice.png", (40, 30))
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:])
    with wave.open(str(folder / "voice.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    (folder / "clip.mp4").write_bytes(b"moving")
    (folder / "notes.txt").write_text("words " * 2000 + "the end")
    (folder / "torn.png").write_bytes((folder / "voice.png").read_bytes()[:60])
    (folder / "huge.wav").write_bytes(bytes(html_report._MEDIA_BYTES))
    tree = parsed(html_report.write(run))
    (final,) = [node for node in tree.iter("details") if words(node).startswith("final")]
    assert final.get("open") is not None
    pictures = {node.get("alt").partition(",")[0]: node for node in final.iter("img")}
    assert pictures["attention"].get("alt") == 'attention, final. looked at "<b>" &'
    assert (pictures["attention"].get("width"), pictures["attention"].get("height")) == (
        "1400", "233",
    )  # fmt: skip
    with Image.open(io.BytesIO(data_of(pictures["clip"]))) as moving:
        assert moving.n_frames == 3
    (sound,) = final.iter("audio")
    assert data_of(sound) == (folder / "voice.wav").read_bytes()
    (video,) = final.iter("video")
    assert data_of(video) == b"moving"
    # The sound beside its spectrogram.
    (both,) = [f for f in final.iter("figure") if f.find("audio") is not None]
    assert both.find("img") is not None
    assert words(both) == "voice"
    (link,) = final.iter("a")
    assert link.get("href") == "samples/final/huge.wav"
    assert "torn.png can't be shown" in words(final)
    assert "cut at 4,000 characters" in words(final)
    assert "the end" not in words(final)
    assert (run / "report.html").stat().st_size < 5e6


def data_of(node):
    return base64.b64decode(node.get("src").partition(",")[2])


def test_runs_compared(run, page, tmp_path):
    other = make_run(tmp_path / "second", task="oracle", shift=0.5)
    output = tmp_path / "both.html"
    assert html_report.write_comparison([run, other], output) == output
    tree = parsed(output)
    drawn = chart(tree, "generator/loss")
    assert drawn.get("aria-label") == (
        "generator/loss over the steps: run A: first 10, last 0.2, lowest 0.2, highest 10; "
        "run B: first 10.5, last 0.7, lowest 0.7, highest 10.5"
    )
    styles = " ".join(node.get("style") or "" for node in drawn.iter())
    assert "--series-0" in styles
    assert "--series-1" in styles
    assert "stroke-dasharray" in styles  # apart without colour
    assert {"A", "B"} <= {words(node) for node in drawn.iter()}
    found = tables(tree)
    assert found["Settings that differ"] == [
        ["option", "A first <b>", "B second"],
        ["task", "captions", "oracle"],
    ]
    assert found["Value ± one standard error, by checkpoint and data"][0][1:3] == [
        "A: warm_up on test data", "A: last on test data",
    ]  # fmt: skip
    head, *rows = found["sample 2, image: 1.jpg; caption: a bird"]
    assert head == ["run", "score"]  # what is measured is no part of what the sample is
    assert rows == [["A first <b>", "0.75"], ["B second", "0.75"]]
    assert "Phases: 1 warm_up, 2 adversarial." in words(tree)
    path = other / "metrics.jsonl"
    path.write_text('{"step": 0, "phase": "sooner", "x": 1}\n' + path.read_text())
    html_report.write_comparison([run, other], output)
    assert "Phases: 1 sooner, 2 warm_up, 3 adversarial." in words(parsed(output))
    with pytest.raises(UserError, match="two runs"):
        html_report.write_comparison([run], output)


def test_program(run, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["reporting", *map(str, arguments)])
        status = 0
        try:
            __main__.main()
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    assert call(run) == (0, f"{run / 'report.html'}\n", "")
    said = f"error: {tmp_path}: no run here (no config.json); name a run's folder\n"
    assert call(run, tmp_path)[0::2] == (2, said)
    both = tmp_path / "both.html"
    assert call(run, run, "--compare", f"--output={both}") == (0, f"{both}\n", "")
    assert both.exists()
    status, _, errors = call(run, "--output=x")
    assert status == 2
    assert "add --compare" in errors
    shown = subprocess.run(
        [sys.executable, "-m", "seqgan_jax.reporting", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert "example: " in shown.stdout
