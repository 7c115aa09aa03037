import re
import runpy
import sys
from pathlib import Path

import pytest
from absl import app, flags

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shown(monkeypatch, capsys):
    """Runs an entry point as the main program with one argument: what it prints."""

    def shown(name, argument):
        before, status = set(flags.FLAGS), None
        monkeypatch.setattr(sys, "argv", [str(ROOT / name), argument])
        monkeypatch.setattr(app, "run", lambda main, flags_parser: main(flags_parser(sys.argv)))
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        finally:
            for flag in set(flags.FLAGS) - before:
                delattr(flags.FLAGS, flag)
        assert status == 0
        return capsys.readouterr().out.splitlines()

    return shown


@pytest.mark.parametrize("name", ["train.py", "generate.py", "evaluate.py"])
def test_help_fits_a_screen(shown, name):
    lines = shown(name, "--help")
    assert 12 <= len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert sum(f"python {name} --" in line for line in lines) >= 2  # examples
    text = "\n".join(lines)
    options = [re.match(r"  --(?:\[no\])?(\w+)  +\S", line) for line in lines]
    options = [found[1] for found in options if found]
    defined = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', (ROOT / name).read_text())
    assert options == defined
    assert {"debug", "quiet"} <= set(options)
    assert "None" not in text


def test_help_tells_choices_and_defaults(shown):
    text = "\n".join(shown("generate.py", "-h"))
    assert re.search(r"--format +<text\|lines\|json>: .*\[text\]", text)
    assert re.search(r"--temperature +.*\[1\.0\]", text)
    text = "\n".join(shown("evaluate.py", "--help"))
    assert "--[no]calibrate" in text
    assert re.search(r"--checkpoint +.*\n? .*\[last\]", text)
