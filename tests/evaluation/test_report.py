"""The metric's arithmetic, the file's shape and safety, the table's alignment."""

import json
import math
import os

import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import report
from seqgan_jax.evaluation.report import Metric

WHERE = {"task": "captions", "split": "test", "checkpoint": "best", "seed": 3}


def test_mean_by_hand():
    """1, 2, 6: mean 3, squared deviations 4 + 1 + 9 = 14, error sqrt(14 / 2 / 3)."""
    assert Metric.mean([1, 2, 6], "words") == Metric(3.0, math.sqrt(7 / 3), 3, "words")
    assert Metric.mean(iter([5.0]), "") == Metric(5.0, None, 1, "")
    assert Metric.mean([], "") == Metric(None, None, 0, "")


def test_file(tmp_path):
    path = tmp_path / "evaluation.json"
    metrics = {
        "nll": Metric(np.float32(0.5), np.float64(0.25), np.int64(7), "nats"),
        "bad": Metric(math.nan, math.inf, 2, "é"),
        "none": Metric(None, None, 0, ""),
    }
    report.write_evaluation(path, **WHERE, metrics=metrics)
    written = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert written == WHERE | {
        "metrics": {
            "bad": {"value": None, "stderr": None, "n": 2, "unit": "é"},
            "nll": {"value": 0.5, "stderr": 0.25, "n": 7, "unit": "nats"},
            "none": {"value": None, "stderr": None, "n": 0, "unit": ""},
        }
    }
    assert list(written) == ["task", "split", "checkpoint", "seed", "metrics"]
    assert list(written["metrics"]) == ["bad", "nll", "none"]
    assert os.listdir(tmp_path) == ["evaluation.json"]


def test_what_a_model_is_set_beside_stands_in_the_file(tmp_path):
    path = tmp_path / "evaluation.json"
    beside = {"plain": {"psnr": Metric(16.5, None, 3, "dB")}}
    report.write_evaluation(path, **WHERE, metrics={}, comparisons=beside)
    figure = {"value": 16.5, "stderr": None, "n": 3, "unit": "dB"}
    assert json.loads(path.read_text())["comparisons"] == {"plain": {"psnr": figure}}


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "evaluation.json"
    path.write_text("old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(UserError, match=r"evaluation\.json.*No space left"):
        report.write_evaluation(path, **WHERE, metrics={})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["evaluation.json"]


def test_a_missing_directory_is_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file or directory") as error:
        report.write_evaluation(tmp_path / "no" / "evaluation.json", **WHERE, metrics={})
    assert "\n" not in str(error.value)


def test_table():
    columns = {
        "pretrain": {
            "bleu_4": Metric(23.1666, 2.157, 80, "0-100 [nrefs:5]"),
            "nll": Metric(1.5, None, 80, "nats"),
        },
        "adversarial": {
            "bleu_4": Metric(101.04, 0.0432, 80, "0-100 [nrefs:5]"),
            "true": Metric(math.nan, None, 0, "share"),
        },
    }
    assert report.table(columns).splitlines() == [
        "metric  unit   pretrain    adversarial",
        "------  -----  ----------  ---------------",
        "bleu_4  0-100  23.2 ± 2.2  101.040 ± 0.043",
        "nll     nats    1.5              -",
        "true    share     -              -",
    ]


def test_table_of_nothing():
    assert report.table({"test": {}}).splitlines() == ["metric  unit  test", "------  ----  ----"]
