"""The report in a real browser: in light and dark, on a phone, by keyboard, with every medium; and
of every task with what its own code writes for it.
"""

import functools
import io
import json
import runpy
import wave
from pathlib import Path

import html5lib
import jax
import numpy as np
import pytest
from PIL import Image

from seqgan_jax.core.sampling import Truncation
from seqgan_jax.evaluation import held_out, sweep
from seqgan_jax.programs import evaluate
from seqgan_jax.reporting import html_report
from seqgan_jax.reporting.metrics_log import MetricsLog

MAGENTA = (255, 0, 255)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run with captions, a picture, a moving one and a sound."""
    run = tmp_path_factory.mktemp("runs") / "run"
    folder = run / "samples" / "final"
    folder.mkdir(parents=True)
    phases = {name: {"steps": 200, "generator": {"updates": 1}} for name in ("first", "second")}
    config = {"task": "captions", "variant": "tiny", "phases": phases | {"order": list(phases)}}
    (run / "config.json").write_text(json.dumps(config))
    with MetricsLog(run, None) as log:
        for step in range(1, 401):
            values = {f"{group}/x{k}": k / step for group in "ab" for k in range(6)}
            log.scalars(step, "first" if step <= 200 else "second", values)
    captions = [{"image": f"{i}.jpg", "caption": "a dog runs " * i} for i in range(5)]
    (folder / "captions.json").write_text(json.dumps(captions))
    Image.new("RGB", (1000, 120), MAGENTA).save(folder / "sheet.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:])
    with wave.open(str(folder / "voice.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 8000))
    return html_report.write(run)


@pytest.fixture
def visited(browser):
    """Opens a page on which nothing may go wrong and which may ask for nothing else."""
    contexts, wrong, asked, own = [], [], [], set()

    def visited(path, width=1200, scheme="light"):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        own.add(path.as_uri())
        page.goto(path.as_uri())
        return page

    yield visited
    for context in contexts:
        context.close()
    assert wrong == []
    assert {url for url in asked if not url.startswith("data:")} == own


@pytest.fixture
def opened(visited, report):
    """Opens the report."""
    return functools.partial(visited, report)


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


def screenshot(what):
    return np.asarray(Image.open(io.BytesIO(what.screenshot())).convert("RGB"), int)


def test_every_medium_plays_and_every_chart_is_drawn(opened):
    page = opened()
    unfold(page)
    # No waiting for an expression: the page's policy forbids to evaluate text.
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    assert page.locator("img").count() == 2
    script = "a => new Promise(go => { a.onloadedmetadata = () => go(a.duration); a.load(); })"
    assert page.locator("audio").evaluate(script) == pytest.approx(1.0)
    charts = page.locator("figure.chart svg")
    assert charts.count() > 10
    for box in (charts.nth(i).bounding_box() for i in range(charts.count())):
        assert box["width"] > 150
        assert box["height"] > 80
    page.locator("img[alt^=sheet]").scroll_into_view_if_needed()
    near = abs(screenshot(page) - MAGENTA).max(-1) < 16  # it was packed with a loss
    assert near.sum() > 50_000


def test_light_and_dark(opened):
    """The background follows the reader's choice, and text stands out from it: WCAG 2, AA."""
    for scheme in ("light", "dark"):
        page = opened(scheme=scheme)
        assert (np.median(screenshot(page)) > 128) == (scheme == "light")
        background = luminance(colour(page, "body", "backgroundColor"))
        for what in ("body", "a[href='#samples']", "figcaption", "thead th", "svg text"):
            text = luminance(colour(page, what, "fill" if "svg" in what else "color"))
            darker, lighter = sorted((text, background))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (scheme, what)


def colour(page, selector, name):
    script = "([s, n]) => getComputedStyle(document.querySelector(s))[n]"
    found = page.evaluate(script, [selector, name])
    return [int(x) for x in found[found.index("(") + 1 : -1].split(",")[:3]]


def luminance(rgb):
    """Relative luminance of WCAG 2."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_on_a_phone_nothing_is_wider_than_the_screen(opened):
    page = opened(width=360)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    # A wide sheet keeps its size in a part that scrolls.
    sheet = page.locator("img[alt^=sheet]")
    assert sheet.bounding_box()["width"] > 600
    assert sheet.locator("..").bounding_box()["width"] <= 360
    chart = page.locator("figure.chart svg").first.bounding_box()
    assert chart["width"] > 300


def test_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#training"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    last = page.locator("summary").last
    assert not last.locator("..").evaluate("d => d.open")
    reached = set()
    for _ in range(300):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
        if last.evaluate("s => s === document.activeElement"):
            break
    assert {"A", "SUMMARY", "AUDIO", "DIV"} <= reached
    page.keyboard.press("Enter")
    assert last.locator("..").evaluate("d => d.open")


def test_pictures_of_reports_are_taken(browser, report, tmp_path):
    script = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "screenshots.py"))
    take = script["take"]
    take.__globals__["FOLDER"] = tmp_path
    with Image.open(take(browser, report.parent)) as picture:
        assert picture.width == 1000
        assert picture.height > 300
        near = abs(np.asarray(picture.convert("RGB"), int) - MAGENTA).max(-1) < 24
    assert near.sum() > 50_000


# Every task's report, of what its own code writes.


@pytest.fixture(scope="module")
def run(tiny_model):
    """By a task's name, the folder of a run with the samples of two held-out sources."""

    @functools.cache
    def run(task):
        model = tiny_model(task)
        steps, state, sources = model.run.steps, model.state, model.task.sources
        how = {"seed": 0, "num_samples": 1, "truncation": Truncation(banned=model.task.banned)}
        batches = sources("validation", batch_size=2, limit=2)
        samples = list(held_out.write(steps, state, batches, **how))
        first = next(iter(sources("validation", batch_size=1, limit=1)))
        tokens = samples[0].tokens[:1]
        looked = steps.attention(state.generator.params, first, jax.random.key(0), tokens)
        folder = model.run.workdir / "samples" / "final"
        model.task.illustrate(
            folder, "validation", samples, None if looked is None else np.asarray(looked[0])
        )
        return model.run.workdir

    return run


@pytest.fixture
def shown(visited, run):
    """Opens a task's report, which is valid, small, and no wider than a phone."""

    def shown(task):
        path = html_report.write(run(task))
        html5lib.HTMLParser(strict=True).parse(path.read_bytes())
        assert path.stat().st_size < 5e6
        phone = visited(path, width=360, scheme="dark")
        unfold(phone)
        assert phone.evaluate("document.documentElement.scrollWidth") == 360
        return visited(path)

    return shown


def written(run, name):
    """The rows of a file of samples, and the folder that it is in."""
    folder = run / "samples" / "final"
    return json.loads((folder / name).read_text()), folder


def in_table(page, number, texts):
    """Whether the table of a sample has cells of these texts, and can be seen."""
    table = page.get_by_role("region", name=f"sample {number}", exact=True)
    table.scroll_into_view_if_needed()
    said = " ".join(table.inner_text().split())
    return table.is_visible() and all(" ".join(text.split()) in said for text in texts)


def drawn(page, path):
    """How a picture of the report looks: as its file does."""
    packed = "[src^='data:image/webp'], [src^='data:image/png']"
    image = page.locator(f"img[alt^='{path.stem}, final']:is({packed})")
    image.evaluate("image => image.decode()")
    seen = screenshot(image)
    with Image.open(path) as file:
        assert file.text.get("Description", "") in image.get_attribute("alt")
        known = np.asarray(file.convert("RGB").resize(seen.shape[1::-1]), int)
    assert known.std() > 10
    assert abs(seen - known).mean() < 0.1 * known.std()
    return seen


def test_captions_stand_below_their_pictures(shown, run):
    page = shown("captions")
    rows, folder = written(run("captions"), "captions.json")
    assert len(rows) == 2
    for number, row in enumerate(rows, start=1):
        assert in_table(page, number, [row["image"], row["caption"]])
    drawn(page, folder / "captions.png")
    drawn(page, folder / "attention.png")


def test_translations_show_what_they_look_at(shown, run):
    page = shown("translation")
    rows, folder = written(run("translation"), "translations.json")
    for number, row in enumerate(rows, start=1):
        assert in_table(page, number, [row["source"], row["translation"], row["reference"]])
    drawn(page, folder / "attention.png")


def test_speech_is_heard_beside_its_spectrogram(shown, run):
    page = shown("speech")
    rows, folder = written(run("speech"), "speech.json")
    script = "a => new Promise(go => { a.onloadedmetadata = () => go(a.duration); a.load(); })"
    for number, row in enumerate(rows, start=1):
        assert in_table(page, number, [row["text"], row["speaker"]])
        player = page.get_by_label(f"{number}, final", exact=True)
        figure = player.locator("..")
        assert player.evaluate(script) == pytest.approx(row["seconds"], abs=0.01)
        real = page.get_by_label(f"{number}-real, final", exact=True)
        with wave.open(str(folder / f"{number}-real.wav")) as file:
            seconds = file.getnframes() / file.getframerate()
        assert real.evaluate(script) == pytest.approx(seconds, abs=0.01)
        spectrogram = figure.locator("img").bounding_box()
        assert abs(spectrogram["y"] - player.bounding_box()["y"]) < spectrogram["height"] + 100
        drawn(page, folder / f"{number}.png")
    drawn(page, folder / "attention.png")


def test_clips_are_filled_beside_masked_and_true_ones(shown, run):
    page = shown("video")
    rows, folder = written(run("video"), "video.json")
    for number, row in enumerate(rows, start=1):
        assert in_table(page, number, [row["clip"]])
        strip = drawn(page, folder / f"{number}.png")
        masked, filled, true = (strip[y : y + 96, : 96 * 4] for y in (0, 98, 196))
        hidden = (masked > 250).all(-1) & (abs(filled - true).max(-1) > 30)
        assert hidden.any()
        # What isn't hidden stays what it is, but for how it was packed.
        assert abs(filled - true)[(masked < 200).any(-1)].mean() < 6
        figure = page.get_by_text(f"{number}: from top to bottom: masked, filled, true")
        figure.scroll_into_view_if_needed()
        moving = page.locator(f"img[src^='data:image/gif'][alt^='{number}, final']")
        size = moving.evaluate("i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])")
        with Image.open(folder / f"{number}.gif") as file:
            assert size == list(file.size)
            assert file.n_frames == 4


def test_texts_are_shown_as_they_are(shown, run):
    page = shown("text")
    rows, _ = written(run("text"), "texts.json")
    for number, row in enumerate(rows, start=1):
        assert in_table(page, number, [row["text"]])


def test_the_oracle_shows_quality_against_diversity(shown, run, tiny_model, monkeypatch, capsys):
    model, folder = tiny_model("oracle"), run("oracle")
    monkeypatch.setattr(evaluate, "Run", lambda *_: model.run)
    monkeypatch.setattr(sweep, "TEMPERATURES", (0.5, 1.0, 1.5))
    asked = {"split": "test", "checkpoints": ["adversarial", "last"], "swept": "temperature"}
    nothing = dict.fromkeys(("num_samples", "beam_size", "limit"))
    how = {"num_noise": 1, "rerank": 1, "reject": False, "seed": 0, "batch_size": 6}
    evaluate.evaluate(str(folder), quiet=True, **asked, **nothing, **how)
    page = shown("oracle")
    rows, _ = written(folder, "sequences.json")
    for number, row in enumerate(rows, start=1):
        assert in_table(page, number, [" ".join(map(str, row["tokens"]))])
    curve = page.locator("section[aria-labelledby=quality-and-diversity] figure.chart svg")
    curve.scroll_into_view_if_needed()
    labels = curve.locator("text").all_text_contents()
    # The ends of a curve are named, and each checkpoint.
    assert {"0.5", "1.5", "adversarial", "last"} <= set(labels)
    # Both lines are there, in colours of their own.
    seen = screenshot(curve)
    for colour in ((11, 92, 173), (180, 35, 24)):
        assert (abs(seen - colour).max(-1) < 40).sum() > 20
