"""The demonstration page in a real browser, for every task."""

import gc
import io

import numpy as np
import pytest
from PIL import Image

from seqgan_jax import demo

# What each task is asked for: labels of boxes, and what to type into them.
ASKED = {
    "translation": {"Text": "four"},
    "speech": {"Text": "seven two"},
    "text": {"Beginning of each sequence": "red dog"},
    "oracle": {"Beginning of each sequence": "7 0"},
}
OPTIONS = {
    "translation": {"text": "four"},
    "speech": {"text": "seven two"},
    "text": {"prefix": "red dog"},
    "oracle": {"prefix": "7 0"},
}
WAIT = 120_000  # ms; a first answer is compiled for


@pytest.fixture
def opened(browser, tiny_model):
    """Opens a task's page, on which no script fails and which asks nobody but its server."""
    servers, asked, wrong = [], [], []

    def opened(task, **how):
        servers.append(demo.serve(tiny_model(task)))
        page = browser.new_page(viewport={"width": 1200, "height": 1100}, **how)
        page.set_default_timeout(WAIT)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(servers[-1].local_url)
        page.get_by_role("button", name="Write", exact=True).wait_for()
        return page

    yield opened
    for context in browser.contexts:
        context.close()
    for server in servers:
        server.close(verbose=False)
    gc.collect()  # of Gradio's event loops, before another file's tests
    assert wrong == []
    own = ("data:", "blob:", *(server.local_url for server in servers))
    assert [url for url in asked if not url.startswith(own)] == []


def write(page):
    page.get_by_role("button", name="Write", exact=True).click()


def sequences(page, count=3):
    """What the table says was written."""
    cells = [page.get_by_test_id(f"cell-{row}-0") for row in range(count)]
    cells[-1].wait_for()
    return [cell.inner_text().strip() for cell in cells]


def pixels(locator):
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB"), int)


@pytest.fixture
def picture(tmp_path):
    """A red picture, of which an attention picture can't be taken for anything else."""
    path = tmp_path / "picture.png"
    Image.new("RGB", (60, 60), (230, 20, 20)).save(path)
    return path


def test_a_dropped_picture_is_captioned(opened, tiny_model, picture, tmp_path):
    page = opened("captions")
    page.locator("input[accept='image/*']").set_input_files(picture)
    page.get_by_role("button", name="Remove Image").wait_for()
    write(page)
    (found,) = tiny_model("captions").generate(image=picture, num_samples=3)
    assert sequences(page) == [h.text for h in found.hypotheses]
    shown = page.get_by_alt_text("Where it looked").first
    shown.wait_for()
    red = pixels(shown)
    share = ((red[..., 0] > 120) & (red[..., 1] < 90) & (red[..., 2] < 90)).mean()
    assert share > 0.02  # the picture itself is on the sheet
    # A file that is none is told of, and the page goes on working.
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    page.get_by_role("button", name="Remove Image").click()
    page.locator("input[accept='image/*']").set_input_files(broken)
    page.get_by_role("button", name="Remove Image").wait_for()
    write(page)
    page.get_by_text("no picture that can be read").wait_for()
    page.get_by_role("button", name="Remove Image").click()
    page.locator("input[accept='image/*']").set_input_files(picture)
    page.get_by_role("button", name="Remove Image").wait_for()
    page.get_by_label("Beginning of each sequence").fill("two red")
    write(page)
    page.get_by_test_id("cell-0-0").get_by_text("two red").wait_for()


@pytest.mark.parametrize("task", sorted(ASKED))
def test_every_task_writes_what_the_api_writes(opened, tiny_model, task):
    page = opened(task, color_scheme="dark" if task == "text" else "light")
    for label, text in ASKED[task].items():
        page.get_by_label(label).fill(text)
    write(page)
    (found,) = tiny_model(task).generate(num_samples=3, **OPTIONS[task])
    assert sequences(page) == [" ".join(h.text.split()) for h in found.hypotheses]
    if task in ("translation", "speech"):
        assert pixels(page.get_by_alt_text("Where it looked").first).std() > 5
    if task == "speech":
        links = page.locator("a[download][href$='.wav']")
        links.nth(2).wait_for()
        urls = [link.get_attribute("href") for link in links.all()]
        assert len(urls) == 3
        for url in urls:
            assert page.request.get(url).body()[:4] == b"RIFF"


def test_a_hole_in_a_clip_is_filled_and_plays(opened, tmp_path):
    page, clip, broken = opened("video"), tmp_path / "clip.gif", tmp_path / "broken.gif"
    frames = [Image.new("RGB", (32, 24), (40 * t, 20, 20)) for t in range(4)]
    frames[0].save(clip, save_all=True, append_images=frames[1:])
    broken.write_text("no clip")

    def put(path):
        # The results' table has an input for files too, and "name.gif" is written in one piece
        # only while it is sent; the label says what is held.
        page.locator("input[type=file][accept*='.gif']").set_input_files(path)
        page.get_by_label(path.name, exact=True).wait_for()

    page.get_by_label("Hole").fill("8,6,12,8,2,4")
    put(broken)
    write(page)
    page.get_by_text("no clip that can be read").wait_for()
    page.get_by_role("button", name="Clear").or_(page.get_by_label("Remove")).first.click()
    put(clip)
    write(page)
    players = page.locator("video[src]")
    players.nth(2).wait_for()
    seen = "v => new Promise(go => { const told = () => go([v.videoWidth, v.videoHeight]); "
    seen += "v.readyState ? told() : v.onloadedmetadata = told; })"
    assert [player.evaluate(seen) for player in players.all()] == [[32, 24]] * 3


def test_a_phone_shows_everything(opened):
    page = opened("oracle")
    page.set_viewport_size({"width": 380, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    write(page)
    assert len(sequences(page)) == 3
