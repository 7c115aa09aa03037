"""Takes the pictures in docs/screenshots from the reports of runs, with Chromium.

    python docs/screenshots.py runs/captions-short runs/oracle-short ...

makes TASK.png of each run: the sections of its report that show what its task is about.
"""

import json
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent / "screenshots"
SHOWN = {"oracle": "quality-and-diversity"}  # else the samples
WIDTH, HEIGHT = 1000, 2400  # pixels; a longer section is cut
_PLAIN = Image.Dither.NONE


def take(browser, run: Path) -> Path:
    """Writes a section of a run's report in 256 colours."""
    task = json.loads((run / "config.json").read_text())["task"]
    page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
    page.goto((run / "report.html").absolute().as_uri())
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    section = page.locator(f"section[aria-labelledby={SHOWN.get(task, 'samples')}]")
    box = section.bounding_box()
    path = FOLDER / f"{task}.png"
    clip = {"x": 0, "y": box["y"], "width": WIDTH, "height": min(box["height"], HEIGHT)}
    page.screenshot(path=path, full_page=True, clip=clip)
    page.close()
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=_PLAIN)
    few.save(path, optimize=True)
    return path


def main(runs: list[str]) -> None:
    if not runs:
        sys.exit(__doc__)
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for run in runs:
            print(take(browser, Path(run)))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
