"""Every speed benchmark of a part runs, at sizes that take no time, and prints what it promises."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from seqgan_jax.evaluation import sweep
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.models import efficientnet
from seqgan_jax.training import phases

FOLDER = Path(__file__).parents[1] / "benchmarks"
LIMITS = {"flops": 1e11, "exps": 1e9, "bytes": 1e10}


@pytest.fixture(autouse=True)
def without_flags():
    """Forgets the benchmarks afterwards: the programs have flags of the same names."""
    defined, imported = set(flags.FLAGS), set(sys.modules)
    yield
    for flag in set(flags.FLAGS) - defined:
        delattr(flags.FLAGS, flag)
    for module in set(sys.modules) - imported:
        if Path(getattr(sys.modules[module], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[module]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a benchmark with one repetition of everything: its lines by name."""
    monkeypatch.syspath_prepend(FOLDER)

    def lines(name, *arguments):
        module = importlib.import_module(name)
        import ceilings

        monkeypatch.setattr(ceilings, "measure", lambda: LIMITS)
        before = {flag: flags.FLAGS[flag].value for flag in ("config", "repeats")}
        flags.FLAGS([name, "--config=tiny", "--repeats=1", *arguments])
        try:
            module.main([name])
        finally:
            for flag, value in before.items():
                flags.FLAGS[flag].value = value
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {line["name"]: line for line in found}

    return lines


@pytest.mark.parametrize(
    ("name", "unit", "count"),
    [
        ("sampling", "tokens", 4 * 6),
        ("mle_step", "sequences", 4),
        ("rollout", "tokens", 2 * 4 * 15),
        ("features", "images", 2),
    ],
)
def test_compares(run, name, unit, count):
    found = run(name, *(["--batch=2", "--size=32"] if name == "features" else []))
    fast, plain = found[f"{name}/fast"], found[f"{name}/plain"]
    details = fast["configuration"]
    assert details[unit] == count
    rate = count / (1e-3 * fast["figure"])
    assert details[f"{unit}_per_second"] == pytest.approx(rate, rel=0.02)
    other = plain["configuration"][f"{unit}_per_second"]
    assert details["times_plain"] == pytest.approx(rate / other, rel=0.05, abs=0.02)
    least = details["operations"] / LIMITS["flops"] + details["exponentials"] / LIMITS["exps"]
    least = max(least, details["bytes"] / LIMITS["bytes"])
    assert details["floor_ms"] == pytest.approx(1e3 * least, abs=1e-3)
    assert min(details["compile_seconds"], details["peak_memory_mib"]) > 0


def test_discriminator_step(run):
    found = run("discriminator_step")
    for name in ("discriminator_step/ours", "discriminator_step/plain"):
        assert found[name]["configuration"]["sequences"] == 4
    ours, plain = (found[f"completions/{name}"]["configuration"] for name in ("ours", "plain"))
    assert ours["sequences"] == plain["sequences"] == 4 * 2 * 5
    assert 0 < ours["flops"] <= plain["flops"]


def test_the_plain_photograph_encoder_is_the_same(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    baselines = importlib.import_module("baselines")
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 32, 3), np.uint8)
    model = efficientnet.EfficientNetLite0(stages=efficientnet.LITE0[:2])
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    fast = jax.jit(lambda *given: model.apply({"params": given[0]}, given[1], method="features"))
    fast = fast(params, images)
    plain = jax.jit(lambda *given: baselines.grid_features(*given, model.stages))(params, images)
    assert float(jnp.std(fast)) > 0.01
    np.testing.assert_allclose(fast, plain, atol=1e-5)


def test_round(run):
    found = run("round", "--updates=2", "--full")
    parts = [found[f"round/{name}"]["figure"] for name in ("generator", "discriminator")]
    total = found["round/sum_of_updates"]
    assert total["configuration"]["updates"] == {"generator": 1, "discriminator": 2}
    assert total["figure"] == pytest.approx(parts[0] + 2 * parts[1], abs=0.01)
    assert found["round/whole"]["figure"] > 0
    for name, sequences in (("generator", 4), ("discriminator", 4)):
        details = found[f"round/{name}"]["configuration"]
        rate = sequences / (1e-3 * found[f"round/{name}"]["figure"])
        assert details["sequences_per_second"] == pytest.approx(rate, rel=0.02)
        assert details["bytes"] > 0


def test_speech(monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("speech")
    flags.FLAGS(["speech"])
    asked = {"variant": "smoke", "phrases": ["2"], "every": [], "calls": 1, "tokens": 6}
    with flagsaver.flagsaver(**asked):
        module.main(["speech"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {line["configuration"]["part"]: line["figure"] for line in lines}
    assert found["both"] == pytest.approx(found["generator"] + found["vocoder"], abs=2e-3)
    assert found["vocoder"] > 0


def test_text(monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    module = importlib.import_module("text")
    flags.FLAGS(["text"])
    for asked in {"sentences": 30}, {"gigabytes": ["0.0005"]}:
        with flagsaver.flagsaver(**asked):
            module.main(["text"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == [
        "bleu",
        "self_bleu",
        "bleu/nltk",
        "corpus/peak_memory",
    ]
    assert all(line["figure"] > 0 for line in lines)
    assert lines[-1]["configuration"]["lines"] == 5000


def test_every_row_of_the_ablation_is_a_schedule(monkeypatch):
    """And changes what it says: a row that sets what is set anyway would show nothing."""
    monkeypatch.syspath_prepend(FOLDER)
    ablation = importlib.import_module("ablation")
    flags.FLAGS(["ablation"])
    for setting, rows in ablation.ROWS.items():
        default = ablation.configuration(setting, "default").to_dict()
        for row, changes in rows.items():
            config = ablation.configuration(setting, row)
            parsed = phases.parse(config.phases, phases.NETWORKS if config.init_from else ())
            assert parsed[-1 - (row == "default")].name == "adversarial"
            assert not changes or changes.keys() & changed(default, config.to_dict()), row


def changed(a, b, where=""):
    """The paths at which two nested dicts differ."""
    found = set()
    for key in a.keys() | b.keys():
        one, other = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found |= changed(one, other, f"{where}{key}.")
        elif one != other:
            found.add(f"{where}{key}")
    return found


def test_rows_of_the_ablation_are_paired_by_seed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    ablation = importlib.import_module("ablation")
    flags.FLAGS(["ablation"])

    def found(begun, last):
        figures = lambda value: (
            {"reverse_kl": value}
            | dict.fromkeys(("forward_kl", "js", "entropy", "discriminator_accuracy"), 0.5)
        )
        return {"pretrain_generator": map(figures, begun), "last": map(figures, last)}

    both = [
        {stage: list(each) for stage, each in found(begun, last).items()}
        for begun, last in (((3.0, 5.0), (2.0, 4.0)), ((3.0, 5.0), (2.5, 5.0)))
    ]
    lines = [
        ablation.told("ratio", name, own, both[0]) for name, own in zip("ab", both, strict=True)
    ]
    assert lines[1]["reverse_kl/value"] == pytest.approx([3.75, 1.25])
    assert lines[1]["reverse_kl/from_start"] == pytest.approx([-0.25, 0.25])
    assert lines[1]["reverse_kl/from_default"] == pytest.approx([0.75, 0.25])
    assert "| `b` | -0.250 ± 0.250 | +0.750 ± 0.250 | +0.000 ± 0.000 |" in ablation.table(lines)
    chosen = both[0] | {"last": [{"js": 0.5, "accepted_js": js} for js in (0.3, 0.4)]}
    line = ablation.told("ratio", "accepted", ablation.accepted(chosen), both[0])
    assert line["js/from_default"] == pytest.approx([-0.15, 0.05])
    ablation.picture("ratio", lines, tmp_path / "ratio.png")
    assert (tmp_path / "ratio.png").stat().st_size > 5000


def test_oracle(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    oracle = importlib.import_module("oracle")
    flags.FLAGS(["oracle"])
    axes = ("forward_kl", "reverse_kl")

    def figures(forward, reverse, error):
        found = dict.fromkeys(oracle.Oracle.sweep, Metric(0.0, 0.0, 9, "nats/token"))
        values = {"forward_kl": forward, "reverse_kl": reverse}
        return found | {name: Metric(x, error, 9, "nats/token") for name, x in values.items()}

    # A curve that falls as it goes right, and one below it by 0.5 for one seed, by 0.7 for another.
    for name, seed, below, error in (
        ("start", 0, 0.0, 0.03),
        ("start", 1, 0.0, 0.03),
        ("model", 0, 0.5, 0.04),
        ("model", 1, 0.7, 0.04),
    ):
        points = {1.0: figures(2.0, 3.0 - below, error), 0.5: figures(3.0, 2.0 - below, error)}
        entry = sweep.entry({"last": points}, {"last": 1}, axes, split="test", seed=0)
        (tmp_path / f"{name}-{seed}").mkdir()
        sweep.write(tmp_path / f"{name}-{seed}" / "evaluation.json", entry)
    models = [f"{tmp_path}/{name}-{{seed}}:last" for name in ("start", "model")]
    asked = {"seeds": ["0", "1"], "model": models, "picture": str(tmp_path / "curves.png")}
    with flagsaver.flagsaver(**asked):
        oracle.main(["oracle"])
    assert (tmp_path / "curves.png").stat().st_size > 5000
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    point = next(
        x for x in lines if x["name"] == "reverse_kl" and x["configuration"]["model"] == models[1]
    )
    assert point["figure"] == pytest.approx(2.4)
    assert point["configuration"]["stderr"] == pytest.approx(0.1)
    found = {line["name"]: line for line in lines}
    # At temperature 1 it is at (2, 2.5) and (2, 2.3), and the least of the first is 2 and 2.
    below = found["below/reverse_kl"]
    assert below["figure"] == pytest.approx(-0.4)
    assert below["configuration"]["each"] == pytest.approx([-0.5, -0.3])
    assert below["configuration"]["stderr"] == pytest.approx(0.1)
    sampled = (0.1**2 + 0.05**2) ** 0.5
    assert below["configuration"]["stderr_with_sampling"] == pytest.approx(sampled, abs=1e-4)
    assert found["below/forward_kl"]["figure"] == 0.0
    equal = [line for line in lines if line["name"] == "at_equal/reverse_kl"]
    assert [line["configuration"]["temperature"] for line in equal] == [1.0, 0.5]
    assert [line["figure"] for line in equal] == pytest.approx([0.6, 0.6])
    shutil.copytree(tmp_path / "start-0", tmp_path / "start-3")
    text = (tmp_path / "start-0" / "evaluation.json").read_text()
    (tmp_path / "start-3" / "evaluation.json").write_text(text.replace('"test"', '"validation"'))
    for seed, words in (("2", "no curve of last"), ("3", "judged by different sequences")):
        asked["seeds"] = ["0", seed]
        with flagsaver.flagsaver(**asked), pytest.raises(SystemExit) as stopped:
            oracle.main(["oracle"])
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ablation", "speech"])
def test_configurations_are_found_from_any_folder(name, tmp_path):
    """As `python benchmarks/NAME.py` has it: its own folder is on the path, the checkout isn't."""
    code = f"import sys; sys.path[0] = {str(FOLDER)!r}; import {name}, configs.captions"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
