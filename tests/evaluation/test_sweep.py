"""A sweep's comparisons by hand, and its place in the evaluation's file."""

import json
import math

import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import sweep
from seqgan_jax.evaluation.report import Metric, write_evaluation

AXES = ("forward_kl", "reverse_kl")


def points(values):
    """Figures at temperatures 0.5, 1 and 1.5."""
    metric = lambda value: Metric(value, 0.1, 10, "nats/token")
    return {
        t: {"forward_kl": metric(x), "reverse_kl": metric(y), "js": Metric(0.5, None, 9, "nats")}
        for t, (x, y) in zip((0.5, 1.0, 1.5), values, strict=True)
    }


BASE = points([(3.0, 1.0), (2.0, 2.0), (1.0, 3.0)])
BETTER = points([(3.0, 0.5), (2.0, 1.5), (1.0, 2.5)])
ELSEWHERE = points([(0.9, 7.0), (0.8, 8.0), (0.7, 9.0)])


def test_comparisons_with_the_first():
    found = sweep.comparisons({"mle": BASE, "gan": BETTER, "far": ELSEWHERE}, AXES)
    assert set(found) == {"gan", "far"}
    gan = found["gan"]
    assert (gan["baseline"], gan["low"], gan["high"]) == ("mle", 1.0, 3.0)
    assert gan["area"] == pytest.approx(0.5 * 2)
    # (2, 1.5): the baseline has 2 at forward 2, and forward 2.5 at reverse 1.5.
    assert gan["gaps"] == pytest.approx({"reverse_kl": 0.5, "forward_kl": 0.5})
    assert gan["at_equal"] == pytest.approx({0.5: 0.5, 1.0: 0.5, 1.5: 0.5})
    # The least that the baseline has are 1 and 1, at other temperatures.
    assert gan["below"] == pytest.approx({"forward_kl": -1.0, "reverse_kl": -0.5})
    far = found["far"]
    assert far["area"] is None
    assert far["at_equal"] == {}
    # It has the least forward divergence, and for that the baseline has no reverse one.
    assert far["gaps"] == {"reverse_kl": None, "forward_kl": pytest.approx(1.0 - 0.8)}
    assert sweep.comparisons({"mle": BASE}, AXES) == {}


def test_equal_figures_are_between_points():
    """The baseline has 2 of the first at temperature 1; the other's curve is (1.5, 3), (2.5, 1)."""
    other = points([(2.5, 1.0), (1.5, 3.0), (0.5, 0.0)])
    (found,) = sweep.comparisons({"mle": BASE, "gan": other}, AXES).values()
    # At 1, half of the way from (0.5, 0) to (1.5, 3); 3 is beyond the curve.
    assert found["at_equal"] == pytest.approx({1.0: 2.0 - 2.0, 1.5: 3.0 - 1.5})


def test_of_two_points_with_an_equal_figure_the_better_counts():
    """The other's curve goes down to 0.8 of the first figure and up again, above the way down."""
    other = points([(2.8, 1.0), (0.8, 1.5), (2.8, 3.5)])
    (found,) = sweep.comparisons({"mle": BASE, "gan": other}, AXES).values()
    # On the way down it has 1 + (2.8 - x) / 4 at x = 2 and 1, where the baseline has 2 and 3.
    assert found["at_equal"] == pytest.approx({1.0: 2 - 1.2, 1.5: 3 - 1.45})
    (found,) = sweep.comparisons({"gan": other, "the same": other}, AXES).values()
    assert found["at_equal"] == {0.5: 0.0, 1.0: 0.0, 1.5: 0.0}


def test_lines_name_everything():
    text = "\n".join(sweep.lines({"mle": BASE, "gan": BETTER, "far": ELSEWHERE}, AXES))
    for words in (
        "mle:",
        "temperature 0.5",
        "3.00 ± 0.10",
        "gan lies below mle by an area of 1.0000",
        "0.5000 in reverse_kl and by 0.5000 in forward_kl",
        "far and mle have no forward_kl in common",
        "far is below the least that mle has at any temperature by 0.2000 in forward_kl and -7.00",
        "reverse_kl beyond compare",
        "that mle has at a temperature, gan has less reverse_kl by 0.5000 (0.5), 0.5000 (1)",
    ):
        assert words in text


def test_the_file_keeps_evaluation_and_sweep(tmp_path):
    path = tmp_path / "evaluation.json"
    assert sweep.read(path) is None
    metrics = {"nll": Metric(1.0, 0.1, 5, "nats")}
    write_evaluation(path, task="oracle", split="test", checkpoint="last", seed=0, metrics=metrics)
    before = json.loads(path.read_text())
    bad = {t: {**f, "js": Metric(math.inf, math.nan, 3, "nats")} for t, f in BETTER.items()}
    curves, steps = {"mle": BASE, "gan": bad}, {"mle": 7, "gan": 9}
    entry = sweep.entry(curves, steps, AXES, split="test", seed=4)
    sweep.write(path, entry)
    after = json.loads(path.read_text())
    assert after.pop("sweep") == sweep.read(path) == json.loads(json.dumps(entry, allow_nan=False))
    assert after == before
    gan = entry["checkpoints"]["gan"]
    assert gan["step"] == 9
    assert [point["temperature"] for point in gan["points"]] == [0.5, 1.0, 1.5]
    assert gan["points"][1]["metrics"]["reverse_kl"] == {
        "value": 1.5,
        "stderr": 0.1,
        "n": 10,
        "unit": "nats/token",
    }
    assert gan["points"][1]["metrics"]["js"]["value"] is None
    assert entry["comparisons"]["gan"]["baseline"] == "mle"
    for text in ("[]", "{torn"):
        path.write_text(text)
        assert sweep.read(path) is None
    with pytest.raises(UserError, match=r"missing/evaluation.json: can't be written"):
        sweep.write(tmp_path / "missing" / "evaluation.json", entry)
