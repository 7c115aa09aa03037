"""A local page to try a trained run on: python -m seqgan_jax.demo --workdir=RUN

Whatever comes from a browser is checked against `RANGES` and the bounds below before it reaches the
networks. Requests are answered one after another; what can't be answered is an error on the page.
"""

import argparse
import atexit
import base64
import html
import math
import os
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from PIL import Image

from seqgan_jax.api import Generated, Model, load
from seqgan_jax.errors import UserError
from seqgan_jax.programs.start import compilation_cache, keep_memory
from seqgan_jax.tasks import Splits

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
try:
    import gradio
except ImportError:
    gradio = None


class Range(NamedTuple):
    """A setting: what the page calls it, its bounds, the grid that it is rounded to, its value."""

    label: str
    low: float
    high: float
    step: float
    value: float


# What a visitor may set, by the names of `Model.generate`.
RANGES = {
    "temperature": Range("Temperature", 0.1, 2.0, 0.1, 1.0),
    "top_k": Range("Top-k: draw from so many tokens; 0: all", 0, 100, 1, 0),
    "top_p": Range("Top-p: draw from the most probable tokens of this mass", 0.05, 1.0, 0.05, 1.0),
    "num_samples": Range("Samples", 1, 8, 1, 3),
    "rerank": Range("Reranking: draw so many times more, keep the best", 1, 8, 1, 1),
    "seed": Range("Seed: equal seeds give equal sequences", 0, 2**31 - 1, 1, 0),
}
TEXT = 2000  # characters of a text
PIXELS = 50_000_000  # of a picture
FILE = 20_000_000  # bytes of a file
UNPACKED = 200_000_000  # bytes of a file's arrays
FRAMES = 1000  # of a clip
FILMED = 2_000_000_000  # pixels of all of a clip's frames
WAITING = 200  # requests
SHOWN = 300  # characters of a sequence
KEPT = 100  # answers whose files are there to be fetched
PROGRAMS = 64  # compiled ones, after which all are forgotten


class Page:
    """What the page does, apart from how it looks.

    Args:
      model: what is tried.
      folder: where sounds, clips and pictures are kept for a while.
    """

    def __init__(self, model: Model, folder: Path):
        self.model = model
        task = model.task
        # A file of texts is another way to give what the page has a box for.
        options = [name for name in task.options if name != "input" or "text" not in task.options]
        self.sources = [name for name in options if name in SOURCES]
        self.prefixed = not task.endings
        self.looks = type(task).draw_attention is not Splits.draw_attention
        self.media = next((end for end in task.endings if end in PLAYERS), None)
        self._folder = folder
        self._answers: deque[Path] = deque()
        self._programs: set[tuple] = set()

    def answer(
        self, sources: Mapping[str, Any], settings: Mapping[str, Any], prefix: str, look: bool
    ) -> tuple[list[list], list[tuple[Path, str]], list[str]]:
        """Writes what a visitor asks for.

        Args:
          sources: what for, by the names of `self.sources`.
          settings: values of `RANGES`.
          prefix: how each sequence begins.
          look: whether to draw where the generator looked.

        Returns:
          Rows of sequence, discriminator's score and log-probability; pictures of attention with
          their titles; and files to play.

        Raises:
          UserError: for a request that makes no sense or is too large.
        """
        known = {name: SOURCES[name].check(name, sources.get(name)) for name in self.sources}
        how = {name: _number(name, settings.get(name, r.value)) for name, r in RANGES.items()}
        prefix = _text("prefix", prefix) or ""
        program = (prefix, *(value for name, value in how.items() if name != "seed"))
        if len(self._programs - {program}) >= PROGRAMS:
            jax.clear_caches()
            self._programs.clear()
        self._programs.add(program)
        found = self.model.generate(**known, **how, prefix=prefix, attention=look and self.looks)
        folder = self._new_folder()
        rows, drawn = [], []
        for each in found:
            for number, hypothesis in enumerate(each.hypotheses, start=1):
                text = hypothesis.text
                text = text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
                rows.append([text, round(hypothesis.score, 4), round(hypothesis.log_prob, 2)])
                if hypothesis.attention is not None:
                    path = folder / f"attention-{len(rows)}.png"
                    if self._draw(each, hypothesis, path):
                        drawn.append((path, f"{number}. {text[:80]}"))
        files = self.model.save(folder / f"written{self.media}", found) if self.media else []
        return rows, drawn, [str(path) for path in files]

    def _draw(self, each: Generated, hypothesis, path: Path) -> bool:
        looked = self.model.task.draw_attention(
            each.name, hypothesis.tokens, hypothesis.attention, path
        )
        return looked is not None

    def _new_folder(self) -> Path:
        self._answers.append(Path(tempfile.mkdtemp(dir=self._folder)))
        if len(self._answers) > KEPT:
            shutil.rmtree(self._answers.popleft(), ignore_errors=True)
        return self._answers[-1]


# What visitors send.


def _number(name: str, value: Any) -> int | float:
    """A setting within its range, on its grid."""
    _, low, high, step, _ = RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name}: must be a number")
    if not low <= value <= high:
        raise UserError(f"{name}: must be {low:g} to {high:g}")
    whole = round(value / step)
    return whole if isinstance(step, int) else round(whole * step, 6)


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{name}: must be a text")
    if len(value) > TEXT:
        raise UserError(f"{name}: {len(value):,} characters are more than {TEXT:,}; cut it")
    return value


def _file(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not Path(value).is_file():
        raise UserError(f"{name}: must be a file")
    if Path(value).stat().st_size > FILE:
        raise UserError(f"{name}: the file has more than {FILE // 10**6} MB; give a smaller one")
    return value


def _picture(name: str, value: Any) -> str | None:
    path = _file(name, value)
    if path is not None:
        try:
            with Image.open(path) as image:  # reads its head alone
                width, height = image.size
        except Exception as error:  # Pillow raises nearly anything on a damaged file
            raise UserError(f"{name}: this is no picture that can be read; give another") from error
        if width * height > PIXELS:
            raise UserError(f"{name}: {width} x {height} is too large; give a smaller picture")
    return path


def _clip(name: str, value: Any) -> str | None:
    path = _file(name, value)
    if path is not None:
        import av

        try:
            with av.open(path) as container:
                stream = container.streams.video[0]
                size = stream.width * stream.height
                frames = sum(packet.size > 0 for packet in container.demux(stream))
        except (av.FFmpegError, IndexError, OSError) as error:
            raise UserError(f"{name}: this is no clip that can be read; give another") from error
        if frames > FRAMES or frames * size > FILMED:
            raise UserError(f"{name}: {frames:,} frames of this size are too many; cut the clip")
    return path


def _arrays(name: str, value: Any) -> str | None:
    path = _file(name, value)
    if path is not None:
        try:
            with zipfile.ZipFile(path) as file:
                size = sum(each.file_size for each in file.infolist())
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(f"{name}: this is no .npz file; give another") from error
        if size > UNPACKED:
            raise UserError(f"{name}: its arrays have more than {UNPACKED // 10**6} MB; cut them")
    return path


class Source(NamedTuple):
    """How the page asks for what to write for, and checks it."""

    component: Callable[[Any], Any]
    check: Callable[[str, Any], Any]


# By the names of tasks' options.
SOURCES = {
    "image": Source(lambda task: _uploaded_picture(), _picture),
    "text": Source(
        lambda task: gradio.Textbox(label="Text", lines=2, max_length=TEXT, autofocus=True), _text
    ),
    "speaker": Source(
        lambda task: gradio.Dropdown(
            list(task.speakers), value=task.speakers[0], label="Voice", allow_custom_value=False
        ),
        _text,
    ),
    "video": Source(
        lambda task: gradio.File(label="Clip", file_types=["video", ".gif"], type="filepath"), _clip
    ),
    "mask": Source(
        lambda task: gradio.Textbox(
            label="Hole: x,y,w,h or x,y,w,h,t0,t1 in pixels and frames", max_length=TEXT
        ),
        _text,
    ),
    "input": Source(
        lambda task: gradio.File(label="Sources, .npz", file_types=[".npz"], type="filepath"),
        _arrays,
    ),
}

# What plays a task's files, by their ending.
PLAYERS = {
    ".wav": lambda **how: gradio.Audio(type="filepath", interactive=False, **how),
    ".mp4": lambda **how: gradio.Video(interactive=False, **how),
    ".png": lambda **how: gradio.Image(type="filepath", interactive=False, **how),
}


def _uploaded_picture():
    """A place for a picture that hands the file on as it is, to be checked here."""
    # Not by a subclass, for which Gradio would write a file of types beside this one.
    picture = gradio.Image(label="Picture", type="filepath", sources=["upload", "clipboard"])
    picture.preprocess = lambda payload: payload and payload.path
    return picture


# How it looks.


def build(page: Page, title: str):
    """The page as Gradio's blocks."""
    task = page.model.task
    about = f"# {html.escape(title)}\n{html.escape(task.message or '')}"
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gradio.Markdown(about)
        with gradio.Row():
            with gradio.Column():
                asked = [SOURCES[name].component(task) for name in page.sources]
                prefix = gradio.Textbox(
                    label="Beginning of each sequence", max_length=TEXT, visible=page.prefixed
                )
                settings = [
                    gradio.Number(value=r.value, label=r.label, precision=0)
                    if name == "seed"
                    else gradio.Slider(r.low, r.high, r.value, step=r.step, label=r.label)
                    for name, r in RANGES.items()
                ]
                look = gradio.Checkbox(
                    value=page.looks, label="Show where it looked", visible=page.looks
                )
                button = gradio.Button("Write", variant="primary")
            with gradio.Column():
                table = gradio.Dataframe(
                    headers=["Sequence", "Discriminator's score", "Log-probability"],
                    datatype=["str", "number", "number"],
                    column_widths=["50%", "25%", "25%"],
                    label="Written",
                    wrap=True,
                    interactive=False,
                )
                players = []
                if page.media:
                    most = RANGES["num_samples"].high
                    players = [
                        PLAYERS[page.media](label=str(i + 1), visible=not i) for i in range(most)
                    ]
                looked = gradio.HTML(label="Where it looked", visible=page.looks)

        def answer(*values: Any) -> Sequence[Any]:
            count = len(asked)
            sources = dict(zip(page.sources, values[:count], strict=True))
            chosen = dict(zip(RANGES, values[count : count + len(RANGES)], strict=True))
            try:
                rows, drawn, files = page.answer(sources, chosen, *values[-2:])
            except UserError as error:
                raise gradio.Error(_without_paths(error, sources), print_exception=False) from error
            except Exception as error:
                traceback.print_exc()
                raise gradio.Error(
                    "this can't be done; the program's own output says why", print_exception=False
                ) from error
            shown = [gradio.update(value=file, visible=True) for file in files[: len(players)]]
            shown += [gradio.update(value=None, visible=False)] * (len(players) - len(shown))
            return rows, "".join(map(_figure, drawn)), *shown

        gradio.on(
            [button.click, *(box.submit for box in (*asked, prefix) if hasattr(box, "submit"))],
            answer,
            [*asked, *settings, prefix, look],
            [table, looked, *players],
            api_name="write",
            concurrency_limit=1,
        )
    return blocks


def _figure(drawn: tuple[Path, str]) -> str:
    path, title = drawn
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><figcaption>{html.escape(title)}</figcaption><img alt="Where it looked for each '
        f'token" src="data:image/png;base64,{data}"></figure>'
    )


def _without_paths(error: UserError, sources: Mapping[str, Any]) -> str:
    """What is wrong, without where uploaded files are kept."""
    told = str(error).removeprefix("--")
    for value in sources.values():
        if isinstance(value, str) and os.path.isabs(value):
            told = told.replace(value, Path(value).name)
    return told


def serve(
    run: str | os.PathLike | Model,
    checkpoint: str = "last",
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
):
    """Starts the page's server in the background.

    Args:
      run: its directory, or what `api.load` has opened.
      checkpoint: 'last', 'best' or a phase's name; of a run that isn't open yet.
      host: the address to listen at; only this machine can reach 127.0.0.1.
      port: to listen at; None for a free one.

    Returns:
      Gradio's blocks: `local_url` is the page's address, `close()` ends the server.

    Raises:
      UserError: where there is no run, Gradio isn't installed, or the port can't be had.
    """
    if gradio is None:
        raise UserError("the page needs Gradio; run pip install 'seqgan_jax[demo]'")
    model = run if isinstance(run, Model) else load(run, checkpoint)
    files = tempfile.TemporaryDirectory(prefix="seqgan_jax-demo-")
    if "GRADIO_TEMP_DIR" not in os.environ:  # one for all servers of a process
        os.environ["GRADIO_TEMP_DIR"] = uploaded = tempfile.mkdtemp(prefix="seqgan_jax-demo-")
        atexit.register(shutil.rmtree, uploaded, ignore_errors=True)
    page = Page(model, Path(files.name))
    blocks = build(page, f"{model.task.name}: {model.run.workdir.absolute().name}")
    blocks.page, blocks.files = page, files  # the files live as long as the server
    blocks.queue(max_size=WAITING)
    # Fonts of the system: the page asks nobody but this server.
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            share=False,
            max_file_size=FILE,
            theme=theme,
            footer_links=["api"],
        )
    except OSError as error:
        raise UserError(f"--port={port}: can't be listened at ({error}); name another") from error
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m seqgan_jax.demo",
        description="A local page to try a trained run on.",
        epilog="example: python -m seqgan_jax.demo --workdir=runs/captions-default",
    )
    parser.add_argument("--workdir", required=True, help="the run's folder")
    parser.add_argument("--checkpoint", default="last", help="last, best, or a phase's name")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    options = parser.parse_args()
    keep_memory()
    compilation_cache()
    try:
        blocks = serve(options.workdir, options.checkpoint, host=options.host, port=options.port)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"the page is at {blocks.local_url} (Ctrl-C ends it)", flush=True)
    try:
        blocks.block_thread()
    finally:
        blocks.close(verbose=False)


if __name__ == "__main__":
    main()
