"""The display, with a clock that stands still until a test moves it."""

import io
import re

import pytest
from rich.console import Console

from seqgan_jax.reporting.progress import Progress


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(clock, **options):
    console = Console(file=io.StringIO(), force_terminal=False, width=80)
    return Progress(console=console, clock=clock, **options), console.file


def run_steps(progress, clock, first, last, seconds=1.0, tokens=50):
    for step in range(first, last + 1):
        clock.now += seconds
        progress.update(step, {"loss": 1.0 / step}, tokens)


def test_plain_lines_are_few_and_whole(clock):
    progress, out = plain(clock, work=[600, 600])
    with progress:
        progress.start_phase("pre-training", 1, 2, 0, 600)
        run_steps(progress, clock, 1, 35)
        progress.sample("a cat")
        run_steps(progress, clock, 36, 45)
        progress.evaluated({"bleu": 0.25})
        progress.start_phase("adversarial", 2, 2, 0, 300)
        progress.finish()
    lines = out.getvalue().splitlines()
    assert lines[0] == "phase 1 of 2: pre-training, step 0 of 600"
    assert [re.search(r"step (\d+)", line)[1] for line in lines[1:5]] == ["10", "20", "30", "40"]
    assert "loss 0.03333" in lines[3]
    assert [line.endswith(", sample: a cat") for line in lines[1:5]] == [False] * 3 + [True]
    assert lines[5:] == [
        "phase 1 of 2: pre-training, step 45 of 600, evaluation: bleu 0.25",
        "phase 2 of 2: adversarial, step 0 of 300",
        "finished in 0:00:45",
    ]


def test_time_left_leaves_compilation_out(clock):
    """After compilation a step takes 2 s: 578 s for 289 steps, 1,200 s for twice the work."""
    progress, out = plain(clock, work=[300, 400, 200])
    progress.start_phase("one", 1, 3, 0, 300)
    clock.now += 198
    run_steps(progress, clock, 1, 1, seconds=2.0)
    assert out.getvalue().splitlines()[-1] == "phase 1 of 3: one, step 1 of 300, loss 1"
    run_steps(progress, clock, 2, 11, seconds=2.0)
    line = out.getvalue().splitlines()[-1]
    assert "step 11 of 300, phase 0:09:38 left, run about 0:29:38 left, 25 tokens/s" in line
    progress.start_phase("three", 3, 3, 100, 200)
    run_steps(progress, clock, 101, 111, seconds=1.0)
    assert "step 110 of 200, run 0:01:30 left, 50 tokens/s" in out.getvalue()


def test_an_evaluation_takes_time_but_no_throughput(clock):
    progress, out = plain(clock)
    progress.start_phase("one", 1, 1, 0, 1000)
    run_steps(progress, clock, 1, 41)
    clock.now += 40
    progress.evaluated({})
    run_steps(progress, clock, 42, 61)
    line = out.getvalue().splitlines()[-1]
    assert "step 61" in line
    assert "50 tokens/s" in line
    # 60 steps took 60 s and the evaluation 40 s, so 939 steps take 0.6 to 1 times 939 / 0.6.
    hours, minutes, seconds = map(int, re.search(r"run (\d+):(\d+):(\d+)", line).groups())
    assert 1.3 * 939 < 3600 * hours + 60 * minutes + seconds < 939 / 0.6 * 1.15


def test_text_from_data_is_printed_literally(clock):
    progress, out = plain(clock)
    with progress:
        progress.start_phase("one", 1, 1, 0, 100)
        progress.message("[red]a[/red] $x$ :smile: [/] \x1b[2Jb " + "long " * 40 + "\nsecond")
        progress.sample("[bold]\x1b[31m 你好")
        run_steps(progress, clock, 1, 12)
    lines = out.getvalue().splitlines()
    assert lines[1] == "[red]a[/red] $x$ :smile: [/]  [2Jb " + "long " * 40
    assert lines[2] == "second"
    assert lines[3].endswith("sample: [bold] [31m 你好")
    assert "\x1b" not in out.getvalue()


def test_a_terminal_without_unicode_is_no_reason_to_fail(clock):
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for terminal in (False, True):
        console = Console(file=file, force_terminal=terminal, width=70)
        with Progress(console=console, clock=clock) as progress:
            progress.start_phase("一", 1, 1, 0, 100)
            progress.sample("你好")
            run_steps(progress, clock, 1, 12)
            console.print(progress)
            progress.message("é")
    file.flush()
    assert b"sample: ??" in file.buffer.getvalue()


def test_quiet_prints_nothing(clock, capsys):
    for terminal in (False, True):
        console = Console(force_terminal=terminal)
        with Progress(quiet=True, console=console, clock=clock) as progress:
            progress.start_phase("one", 1, 1, 0, 100)
            run_steps(progress, clock, 1, 30)
            progress.evaluated({"bleu": 1.0})
            progress.message("hello")
            assert list(progress.track([1, 2], 2, "work")) == [1, 2]
            progress.finish()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("width", [60, 120])
def test_live_display_shows_everything_within_the_width(clock, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    with Progress(console=console, clock=clock, work=[100, 100]) as progress:
        progress.start_phase("[b]one[/b]", 1, 2, 0, 100)
        clock.now += 3
        screen = Console(file=io.StringIO(), width=width)
        screen.print(progress)
        assert "waiting for the first steps, 0:00:03" in screen.file.getvalue()
        run_steps(progress, clock, 1, 25)
        progress.update(25, {f"metric_{i}": i / 7 for i in range(9)}, 0)
        progress.sample("a [red]cat[/red]")
        progress.message("[i]saved[/i]")
        items = progress.track("abc", 3, "extracting features")
        assert next(items) + next(items) == "ab"
        screen = Console(file=io.StringIO(), width=width)
        screen.print(progress)
        items.close()
        after = Console(file=io.StringIO(), width=width)
        after.print(progress)
    text = screen.file.getvalue()
    for part in ("phase 1 of 2: [b]one[/b]", "step 25 of 100", "25%", "phase 0:01:15 left",
                 "run about 0:02:55 left", "50 tokens/s", "metric_8 1.143",
                 "sample: a [red]cat[/red]", "extracting features", "1 of 3"):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) <= width
    assert "extracting" not in after.file.getvalue()
    assert "[i]saved[/i]" in console.file.getvalue()
    assert "\x1b[?25h" in console.file.getvalue()  # the cursor is shown again


def test_track_yields_its_items_and_prints_few_lines(clock):
    progress, out = plain(clock)

    def items():
        clock.now += 100  # compilation
        for i in range(1, 26):
            clock.now += 1
            yield i

    assert list(progress.track(items(), 25, "extracting features")) == list(range(1, 26))
    assert list(progress.track([], 0, "nothing")) == []
    assert out.getvalue().splitlines() == [
        "extracting features: 25 to do",
        "extracting features: 1 of 25",
        "extracting features: 11 of 25, 0:00:14 left, 1.0/s",
        "extracting features: 21 of 25, 0:00:04 left, 1.0/s",
        "extracting features: 25 done in 0:02:05",
        "nothing: 0 to do",
        "nothing: 0 done in 0:00:00",
    ]


def test_track_where_nobody_knows_how_many_there_are(clock):
    progress, out = plain(clock)
    items = progress.track("ab", None, "reading a clip")
    assert next(items) == "a"
    screen = Console(file=io.StringIO(), width=60)
    screen.print(progress)
    assert "reading a clip" in screen.file.getvalue()
    assert "%" not in screen.file.getvalue()
    assert list(items) == ["b"]
    assert out.getvalue().splitlines() == ["reading a clip", "reading a clip: 2 done in 0:00:00"]
