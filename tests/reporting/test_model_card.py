"""The model card says what a run's directory says, and nothing in it is taken for markup."""

import json

import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import Metric, write_evaluation
from seqgan_jax.reporting import model_card
from seqgan_jax.reporting.metrics_log import MetricsLog

MESSAGE = "data: drawings | <script>alert(1)</script> `code`\nsecond line"


@pytest.fixture
def run(tmp_path):
    workdir = tmp_path / "my_run"
    workdir.mkdir()
    phase = {"steps": 4, "select": "nll", "generator": {"updates": 2, "policy_gradient": 1.0}}
    config = {
        "task": "text",
        "seed": 5,
        "data": {"path": "a```\n```b"},
        "generator": {"hidden_size": 8},
        "phases": {"order": ["adversarial"], "adversarial": phase},
    }
    (workdir / "config.json").write_text(json.dumps(config))
    with MetricsLog(workdir, None) as log:
        log.scalars(3, "adversarial", {"loss": 1.0})
    return workdir


def card(run, **changes):
    options = {"items": "sentences", "parameters": {"generator": 1234567}, "message": MESSAGE}
    options |= {"command": "python train.py --config=configs/text.py:smoke"}
    path = model_card.write(run, **(options | changes))
    assert path == run / "model_card.md"
    assert [p.name for p in run.glob("*model_card*")] == ["model_card.md"]
    return path.read_text()


def test_what_a_card_says(run):
    text = card(run)
    assert "writes sentences" in text
    assert "| generator | 1,234,567 |" in text
    row = "| 1 | adversarial | 1 | 4 | nll | generator × 2 by policy\\_gradient 1 |"
    assert row.replace("\\_", "_") in text
    assert "```sh\npython train.py --config=configs/text.py:smoke\n```" in text
    assert "None yet." in text
    assert "| jax | " in text
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(headings) == 6
    assert "settings of config.json" in card(run, command=None)


def test_figures_with_their_errors(run):
    for file, checkpoint, split, value in (
        ("evaluation.json", "last", "test", 2.0),
        ("validation.json", "last", "validation", 3.0),
    ):
        figures = {"nll": Metric(value, 0.25, 40, "nats/token [v1]")}
        write_evaluation(
            run / file, task="text", split=split, checkpoint=checkpoint, seed=0, metrics=figures
        )
    text = card(run)
    assert "| figure | last on test data | last on validation data | n | unit |" in text
    assert "| nll | 2.00 ± 0.25 | 3.00 ± 0.25 | 40 | nats/token |" in text
    assert "None yet." not in text


def test_nothing_is_taken_for_markup(run):
    text = card(run)
    said = "data: drawings \\| \\<script\\>alert(1)\\</script\\> \\`code\\` second line"
    assert said in text.splitlines()
    # Blocks of code begin and end where they were meant to.
    fences = [line for line in text.splitlines() if line.lstrip().startswith("```")]
    assert fences == ["```json", "```"] * 2 + ["```sh", "```"]
    block = text.split("```json\n")[2].split("\n```")[0]
    assert json.loads(block)["data"] == {"path": "a```\n```b"}


def test_no_run_and_no_place(run, tmp_path):
    with pytest.raises(UserError, match="no run here"):
        card(tmp_path)
    (run / "model_card.md").mkdir()
    with pytest.raises(UserError, match=r"model_card.md: can't be written"):
        card(run)
