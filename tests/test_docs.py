"""The README, the other documents, the programs and the check script say the same."""

import configparser
import contextlib
import fractions
import functools
import importlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import util
from itertools import chain
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import yaml
from absl import flags
from ml_collections import config_flags
from PIL import Image

from seqgan_jax import api, demo
from seqgan_jax.codecs.text import TextCodec
from seqgan_jax.data import stores
from seqgan_jax.evaluation import held_out, judges, sweep
from seqgan_jax.evaluation.held_out import Accepted, Sample
from seqgan_jax.evaluation.report import Metric, write_evaluation
from seqgan_jax.programs import compare, dry_run, evaluate, generate, start
from seqgan_jax.programs.run import Run
from seqgan_jax.reporting import clips
from seqgan_jax.tasks import TASKS
from seqgan_jax.training.loop import Loop

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
WORDS = ("the", "cat", "sat", "on", "mat", "dog", "barked", ".")
# Written together with the runs that they report.
LATER = {ROOT / "docs" / "results.md", ROOT / "docs" / "performance.md"}

# The flags of each program. Not by importing them, since all define flags of the same names.
PROGRAMS = {
    name: set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / name).read_text()))
    for name in ("train.py", "generate.py", "evaluate.py")
}
# Those of programs that are modules.
MODULES = {
    flag
    for name in ("demo.py", "reporting/__main__.py")
    for flag in re.findall(r'add_argument\(\s*"--(\w+)"', (ROOT / "seqgan_jax" / name).read_text())
}


def shell_blocks(text):
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def set_up_commands():
    """The commands on the README's first screen, each split into its parts."""
    first_screen = "".join(README.read_text().splitlines(keepends=True)[:20])
    return [block.strip().split(" && ") for block in shell_blocks(first_screen)]


def program_runs():
    """Every run of one of the programs in a document: its name and arguments."""
    runs = []
    for document in DOCUMENTS:
        for line in "".join(shell_blocks(document.read_text())).splitlines():
            for part in line.split(" && "):
                words = shlex.split(part)
                runs += [
                    pytest.param(word, words[i + 1 :], id=f"{document.name}: {part}")
                    for i, word in enumerate(words)
                    if word in PROGRAMS
                ]
    return runs


def test_first_screen_sets_everything_up():
    train, tests = set_up_commands()
    assert all("\n" not in part for part in [*train, *tests])
    assert train[-1] == ".venv/bin/python train.py --config=configs/captions.py"
    assert tests[-1] == ".venv/bin/python -m pytest"


@pytest.fixture
def check(tmp_path):
    """Runs .ci/run with stand-ins for Python that note what they are asked to do.

    Gives a function: where an asked-for command contains the argument, it fails.
    """
    notes, scratch = tmp_path / "notes", tmp_path / "scratch"
    scratch.mkdir()
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(
        f'#!/bin/bash\necho "${{0/$(dirname "$(dirname "$0")")/.venv}} $*" >> "{notes}"\n'
        '[[ -z "$FAIL" || "$*" != *"$FAIL"* ]]\n'
    )
    python3 = tmp_path / "bin" / "python3"
    python3.parent.mkdir()
    python3.write_text(
        f'#!/bin/bash\necho "python3 $1 $2 .venv" >> "{notes}"\nmkdir -p "$3/bin"\n'
        f'for name in pip python ruff; do cp "{stand_in}" "$3/bin/$name"; done\n'
    )
    for script in (stand_in, python3):
        script.chmod(0o755)

    def run(fail=""):
        environment = {
            **os.environ,
            "PATH": f"{python3.parent}:{os.environ['PATH']}",
            "TMPDIR": str(scratch),
            "FAIL": fail,
        }
        done = subprocess.run([ROOT / ".ci" / "run"], env=environment, capture_output=True)
        assert not list(scratch.iterdir())
        return done.returncode, notes.read_text().splitlines()

    return run


def test_ci_does_what_the_readme_says(check):
    code, commands = check()
    assert code == 0
    # It trains in the smoke variant, in a directory of its own.
    asked = [command.replace(":smoke", "").partition(" --workdir=")[0] for command in commands]
    for part in chain(*set_up_commands()):
        assert " ".join(shlex.split(part)) in asked
    for config in (ROOT / "configs").glob("*.py"):
        assert any(f"train.py --config=configs/{config.name}:smoke" in c for c in commands)
    assert commands[-1] == ".venv/bin/python -m pytest"


@pytest.mark.parametrize(
    "fail", ["install -e", "train.py", "generate.py", "evaluate.py", "check", "--check", "pytest"]
)
def test_ci_stops_at_the_first_failure(check, fail):
    code, commands = check(fail)
    assert code != 0
    assert fail in commands[-1]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(("program", "arguments"), program_runs())
def test_commands_use_what_exists(program, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    of_config = [argument for argument in arguments if argument.startswith("--config")]
    for argument in arguments:
        name = re.match(r"--(\w+)", argument)
        assert name, f"{argument} is no flag"
        assert name[1] in PROGRAMS[program], f"{program} has no flag {argument}"
    if of_config:
        # The program's own parser: it refuses unknown variants and options, and wrong types.
        monkeypatch.setattr(sys, "argv", [program, *of_config])
        parser = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=parser)
        parser(sys.argv)


# Executing them: train.py to where it would begin to compile. `.ci/run` executes all three programs
# to the end, of every task.

# Data that only a user has, which are refused by name where they aren't.
THEIRS = ("FOLDER", "PATH", "memory.tmx", "image_coco/train.txt", "target_lstm.npz")
# Where so much data are made on the fly that the smoke variant stands for all others.
LONG = ("speech", "translation", "oracle", "video")


def training_runs():
    """The arguments of train.py in the documents, each once."""
    found = {}
    for run in program_runs():
        program, arguments = run.values
        if program == "train.py":
            arguments = [x for x in arguments if x not in ("--dry_run", "--quiet")]
            found.setdefault(tuple(arguments), pytest.param(arguments, id=run.id))
    return list(found.values())


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs an entry point in this process: its exit status, and standard error."""

    def call(name, arguments):
        before, status = set(flags.FLAGS), 0
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        entry = runpy.run_path(str(ROOT / name), run_name=name)
        own = set(flags.FLAGS) - before
        try:
            entry["main"](start.parse_flags(sys.argv))
        except SystemExit as stop:
            status = stop.code
        finally:
            for flag in set(flags.FLAGS):
                if flag in own or flag.startswith("config."):
                    delattr(flags.FLAGS, flag)
            flags.FLAGS.unparse_flags()
        return status, capsys.readouterr().err

    return call


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files of text and arrays that the documents speak of."""
    rng = np.random.default_rng(0)
    for name, words in (
        ("mine.txt", WORDS),
        ("molecules.smi", ("CC", "(=O)", "[nH]", "1Cl", "Br")),
        ("tunes.txt", ("C4:q", "D4:q", "E4:h", "|", "G4:w")),
        ("sessions.log", ("login(alice)", "open(17)", "write(17)", "error:E42")),
    ):
        lines = [" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(600)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    (tmp_path / "mine.py").write_text("def score(samples, references, sources):\n    return []\n")
    target = rng.integers(0, 9, (600, 5))
    np.savez(tmp_path / "numbers.npz", target=target)
    np.savez(tmp_path / "pairs.npz", target=target, source=rng.normal(size=(600, 2, 3)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    lines = io.BytesIO((tmp_path / "mine.txt").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    return tmp_path


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize("arguments", training_runs())
def test_training_commands_run(call, workplace, arguments, monkeypatch):
    monkeypatch.setattr(dry_run, "measure", lambda run: [])
    monkeypatch.setattr(Loop, "initial_state", lambda loop: None)
    monkeypatch.setattr(Loop, "evaluate", lambda loop, state: None)
    before = sorted(workplace.rglob("*"))
    given = [x.replace("--config=configs/", f"--config={ROOT}/configs/") for x in arguments]
    if not any(x.startswith("--config.data.path=") for x in arguments):
        given = [re.sub(rf"/({'|'.join(LONG)})\.py(:\w+)?$", r"/\1.py:smoke", x) for x in given]
    status, errors = call("train.py", [*given, "--dry_run", "--quiet"])
    theirs = [name for name in THEIRS if any(x.endswith(f"={name}") for x in arguments)]
    if theirs:
        assert status == 2
        assert theirs[0] in errors
        assert len(errors.splitlines()) == 1
    else:
        assert (status, errors) == (0, "")
    assert sorted(workplace.rglob("*")) == before


# The others: to their end, on a tiny run of their task, with dice for networks. Of an evaluation
# only the extent is set to something small.

FEW = {"evaluate.py": ("--limit=4", "--batch_size=4", "--quiet")}
# By their runs' names, else by their documents'.
OF_TASK = {"mine": "text", "your_own_data": "text", "results": "captions", "sampling": "oracle"}


def task_of(document, arguments):
    """Which task's run a command is about; None where it is about files alone."""
    if "--input=new.npz" in arguments:
        return "pairs"
    if "--workdir=runs/video-image" in arguments:
        return "image"
    named = [re.match(r"(?:--workdir=)?runs/(\w+)", argument) for argument in arguments]
    for name in [*(found[1] for found in named if found), Path(document).stem]:
        if OF_TASK.get(name, name) in TASKS:
            return OF_TASK.get(name, name)
    return "text" if any(argument.startswith("--compare") for argument in arguments) else None


def dice(steps, state, batches, *, seed, num_samples=1, width=None, **how):
    """What networks would write: for every source sequences of any tokens."""
    count, rng = width or num_samples, np.random.default_rng(seed)
    low = 0 if steps.vocabulary.pad is None else 4
    for batch in batches:
        for _ in range(int((batch["weight"] > 0).sum())):
            tokens = rng.integers(low, steps.vocabulary.size, (count, steps.length))
            each = -np.ones(tokens.shape, np.float32)
            row = np.full(count, 0.5, np.float32)
            index = np.arange(count, dtype=np.int32)
            yield Sample(tokens, -each, each.sum(1), row, each, 0 * row, index)


def accepted_dice(*args, tries, **how):
    for sample in dice(*args, **how):
        ones = np.ones(len(sample.tokens))
        yield Accepted(sample, ones, ones, ones < 0)


def figures_of_dice(steps, state, task, split, *, batch_size, limit, seed, num_samples, **how):
    sources = task.sources(split, batch_size=batch_size, limit=limit)
    samples = list(dice(steps, state, sources, seed=seed, num_samples=num_samples))
    log_probs = -np.ones(len(samples), np.float32)
    return task.evaluate(split, samples, log_probs, thorough=False), samples


def dice_at_temperature(steps, state, task, split, temperature, **part):
    metric = lambda value: Metric(value * temperature, 0.1, 9, "nats/token")
    return {name: metric(number) for number, name in enumerate(task.sweep, start=1)}


@pytest.fixture(scope="module")
def compared():
    """By a task, what it sets beside its figures: found once, since it takes long."""
    return functools.cache(lambda task: functools.cache(task.comparisons))


@pytest.fixture
def prepared(workplace, begun, compared, monkeypatch):
    """By a task: the files that documents speak of, and a run, opened already."""
    rng = np.random.default_rng(0)
    Image.effect_noise((60, 50), 80).convert("RGB").save(workplace / "photo.jpg")
    (workplace / "FOLDER").mkdir()
    Image.effect_noise((60, 50), 80).convert("RGB").save(workplace / "FOLDER" / "b.jpg")
    (workplace / "texts.txt").write_text("four\nseven\n")
    frames = rng.integers(0, 256, (32, 100, 120, 3)).astype(np.uint8)
    clips.write(workplace / "clip.mp4", frames, fractions.Fraction(25))
    for name in ("theirs", "test", "train", "samples", "real"):
        lines = [" ".join(rng.choice(WORDS, 5)) for _ in range(40)]
        (workplace / f"{name}.txt").write_text("\n".join(lines))
    np.savez(workplace / "new.npz", source=rng.normal(size=(2, 2, 3)))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"four\nseven\n")))
    verdict = judges.Verdict(*[Metric(0.5, 0.1, 12, "0-1")] * 2)
    monkeypatch.setattr(judges, "real_or_generated", lambda *_, **__: verdict)
    for name, stand_in in (
        ("write", dice),
        ("search", dice),
        ("accepted", accepted_dice),
        ("figures", figures_of_dice),
        ("at_temperature", dice_at_temperature),
    ):
        monkeypatch.setattr(held_out, name, stand_in)
    nothing = lambda self, steps, batch, samples, *_, **__: [
        (s.token_log_probs, None) for s in samples
    ]
    monkeypatch.setattr(api.Model, "_read", nothing)
    monkeypatch.setattr(sweep, "TEMPERATURES", (0.5, 1.0, 1.5))
    monkeypatch.setattr(evaluate, "_accepted_figures", lambda *_: {})
    monkeypatch.setattr(evaluate, "document", lambda run: None)

    def prepared(task):
        if task is None:
            return
        run, state = begun(task), MagicMock()
        state.replace.return_value = state
        state.calibration.maximum = 1.0
        monkeypatch.setattr(Run, "restore", lambda run, which, replica=0: state)
        monkeypatch.setattr(run.task, "comparisons", compared(run.task), raising=False)
        model = api.Model(run, "last")
        for name in ("a", "b", "captions-default"):
            folder = workplace / "runs" / name
            folder.mkdir(parents=True)
            shutil.copy(run.workdir / "config.json", folder)
            write_evaluation(
                folder / "evaluation.json", task=run.task.name, split="test", checkpoint="last",
                seed=0, metrics={x: Metric(1.0, 0.1, 9, "") for x in ("nll", *run.task.sweep)},
            )  # fmt: skip
        for module in (evaluate, compare):
            monkeypatch.setattr(module, "Run", lambda *_: run)
        for module in (generate, demo):
            monkeypatch.setattr(module, "load", lambda *_, **__: model)

    return prepared


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("program", "arguments"),
    # The same command in two documents is run once.
    {str(run.values): run for run in program_runs() if run.values[0] != "train.py"}.values(),
)
def test_other_commands_run(call, prepared, workplace, program, arguments, request):
    document = request.node.callspec.id.partition(": ")[0]
    prepared(task_of(document, arguments))
    few = FEW.get(program, ()) if any(x.startswith("--workdir=") for x in arguments) else ()
    status, errors = call(program, [*arguments, *few])
    assert (status, [x for x in errors.splitlines() if not x.startswith("drew ")]) == (0, [])
    for argument in arguments:
        if argument.startswith("--output="):
            files = list(workplace.glob(f"{Path(argument[9:]).stem}*{Path(argument).suffix}"))
            assert files, argument
            assert all(path.stat().st_size > 20 for path in files)


def module_runs():
    """Every `python -m seqgan_jax...` of the documents: its module and arguments."""
    found = [
        (document.name, shlex.split(line))
        for document in DOCUMENTS
        for line in "".join(shell_blocks(document.read_text())).splitlines()
        if " -m seqgan_jax" in line
    ]
    return [
        pytest.param(words[2], words[3:], id=f"{name}: {' '.join(words)}") for name, words in found
    ]


@pytest.mark.parametrize(("module", "arguments"), module_runs())
def test_modules_run(prepared, module, arguments, workplace, monkeypatch):
    prepared("captions")
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    # Not by capsys: a logger that Gradio ends closes the stream that pytest keeps below it.
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if module == "seqgan_jax.demo":
            monkeypatch.setattr(demo.gradio.Blocks, "block_thread", lambda blocks: None)
            monkeypatch.setattr(demo, "compilation_cache", lambda: None)
            demo.main()
        else:
            importlib.import_module(f"{module}.__main__").main()
    for line in printed.getvalue().splitlines():
        if module == "seqgan_jax.demo":
            assert "the page is at http://127.0.0.1:" in line
        else:
            assert (workplace / line).stat().st_size > 1000


def test_benchmarks_have_the_flags_that_are_named():
    """`tests/test_benchmarks.py` runs them."""
    shared = (ROOT / "benchmarks" / "settings.py").read_text()
    commands = {
        command
        for document in DOCUMENTS
        for command in re.findall(r"`(?:\S*/)?python (benchmarks/[^`]+)`", document.read_text())
    }
    assert len(commands) > 10
    for command in commands:
        name, *arguments = shlex.split(command)
        flags_of = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / name).read_text() + shared)
        for argument in arguments:
            assert argument.startswith("--"), command
            assert argument[2:].partition("=")[0] in flags_of, command


def test_every_command_is_some_test_s():
    """What isn't a program's or a module's is what `.ci/run` does, or would do for ever."""
    extras = configparser.ConfigParser(interpolation=None)
    extras.read(ROOT / "setup.cfg")
    checked = {word for run in program_runs() for word in (run.values[0],)}
    for document in DOCUMENTS:
        for line in "".join(shell_blocks(document.read_text())).splitlines():
            for part in re.split(r" && | \| ", line):
                words = shlex.split(part, comments=True)
                if not words or words[0] in ("cat", "zcat"):
                    continue
                name = Path(words[0]).name
                if name == "pip":
                    wanted = words[-1].partition("[")[2].rstrip("]")
                    assert words[1:3] == ["install", "-e"] or words[1] == "wheel", part
                    assert not wanted or wanted in extras["options.extras_require"], part
                elif words[1] == "-m":
                    known = ("venv", "pytest", "mkdocs", "seqgan_jax.demo", "seqgan_jax.reporting")
                    assert words[2] in known, part
                elif words[1] != "docs/screenshots.py":  # tests/browser has it
                    assert {Path(word).name for word in words} & checked, part


def test_every_page_stands_in_the_menu():
    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    menu = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(menu) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_one_version_everywhere():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+?),", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert setup["metadata"]["version"] == citation["version"] == newest
    assert setup["metadata"]["license"] == citation["license"]


@pytest.fixture(scope="module")
def configurations():
    """All variants of all configurations."""
    found = []
    for path in (ROOT / "configs").glob("*.py"):
        spec = util.spec_from_file_location(path.stem, path)
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        variants = re.findall(rf"configs/{path.name}:(\w+)", module.__doc__)
        found += [module.get_config(variant) for variant in ("default", *variants)]
    return found


def has(config, name):
    """Whether a configuration has an option, where PHASE stands for any phase."""
    for phase in config.phases.order:
        node = config
        for part in name.replace("PHASE", phase).split("."):
            if part not in node:
                break
            node = node[part]
        else:
            return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_options_in_the_text_exist(document, configurations):
    text = document.read_text()
    for name in re.findall(r"`(?:--)?config\.(?!json\b)([\w.]+)", text):
        assert any(has(config, name) for config in configurations), f"no option config.{name}"
    for name in re.findall(r"`--(\w+)", text):
        assert name in set.union(MODULES, *PROGRAMS.values()), f"no program has a flag --{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"[a-z]+:", target):
            path = (document.parent / target.partition("#")[0]).resolve()
            assert path.exists() or path in LATER, f"{target} leads nowhere"


@pytest.mark.parametrize(
    ("data", "text", "tokens"),
    [
        ("molecules.smi", "CC(=O)[nH]1Cl", "C C ( = O ) [nH] 1 Cl"),
        ("tunes.txt", "C4:q D4:q E4:h | G4:w", "C4:q D4:q E4:h | G4:w"),
        ("sessions.log", "login(alice) error:E42", "login ( alice ) error : E42"),
    ],
)
def test_patterns_of_your_own_data_do_what_is_said(data, text, tokens):
    (kind,) = (
        argument.removeprefix("--config.codec.kind=")
        for program in program_runs()
        if f"--config.data.path={data}" in program.values[1]
        for argument in program.values[1]
        if argument.startswith("--config.codec.kind=")
    )
    assert TextCodec.fit([text], kind=kind).split(text) == tokens.split()


def test_integers_of_your_own_data_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "your_own_data.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(block, {})
    store = stores.Arrays(tmp_path / "numbers.npz")
    assert [store[i][0] for i in range(2)] == ["3 1 4 1 5", "9 2 6"]
