"""The report in a real browser: in light and dark, on a phone, by keyboard, with every medium.

Skipped only where no Chromium is installed.
"""

import io
import json
import shutil
import wave

import numpy as np
import pytest
from PIL import Image

from seqgan_jax.reporting import html_report
from seqgan_jax.reporting.metrics_log import MetricsLog

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

MAGENTA = (255, 0, 255)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


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
def opened(browser, report):
    """Opens the report: a page on which nothing went wrong and which asked for nothing else."""
    contexts, wrong, asked = [], [], []

    def opened(width=1200, scheme="light"):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


def screenshot(page):
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), int)


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
