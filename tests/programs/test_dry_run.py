import json
import re
import runpy
from pathlib import Path

import jax
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.programs import dry_run as module
from seqgan_jax.programs.dry_run import dry_run
from seqgan_jax.training import phases
from seqgan_jax.training.loop import Loop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def oracle():
    """The smallest configuration: one phase, a generator without source and noise."""
    config = runpy.run_path(str(ROOT / "configs" / "oracle.py"))["get_config"]("smoke")
    config.oracle.update(vocabulary=9, size=3)
    config.data.update(length=4, train_size=32, validation_size=6, test_size=5)
    config.evaluation.update(batch_size=6, validation_limit=6)
    config.phases.order = ("pretrain_generator",)
    return config.lock()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What there is where the program runs."""
    monkeypatch.chdir(tmp_path)
    return lambda: sorted(tmp_path.rglob("*"))


def bytes_of(text):
    value, unit = text.split()
    return float(value) * 1024 ** ("B", "KiB", "MiB", "GiB").index(unit)


def test_it_tells_what_there_is_and_writes_nothing(oracle, files, capsys, monkeypatch):
    monkeypatch.setattr(Loop, "evaluate", lambda loop, state: None)  # compiles much
    dry_run(oracle, None, quiet=True)
    assert files() == []
    output = capsys.readouterr().out
    assert "  --config.data.length=4\n" in output
    assert "  --config.phases.order=('pretrain_generator',)\n" in output
    for name, count in (("train", 32), ("validation", 6), ("test", 5)):
        assert re.search(rf"^  {name} +{count} examples$", output, re.MULTILINE)
    assert re.search(r"target +up to 4 of 9 tokens$", output, re.MULTILINE)

    # Embeddings, LSTM layers, the tanh layer of [e; h], the output layer.
    v, net = 9, oracle.generator
    e, h, u, layers = net.embedding_size, net.hidden_size, net.output_size, net.num_layers
    expected = v * e + 4 * h * (e + h + 1) + (layers - 1) * 4 * h * (2 * h + 1)
    expected += u * (e + h + 1) + v * (u + 1)
    counted = re.search(r"^  generator +([\d,]+) parameters +(.*)$", output, re.MULTILINE)
    assert int(counted[1].replace(",", "")) == expected
    assert bytes_of(counted[2]) == pytest.approx(4 * expected, rel=5e-3)

    state = re.search(r"training state .* ([\d.]+ \w+)$", output, re.MULTILINE)
    memory = re.search(r"^memory: ([\d.]+ \w+) for", output, re.MULTILINE)
    # The update's program is handed the whole state; beside it there is little here.
    assert bytes_of(state[1]) > 3 * 4 * expected  # parameters, two moments
    assert bytes_of(state[1]) < bytes_of(memory[1]) < bytes_of(state[1]) + 2**22
    assert len(re.findall(r" ms each ", output)) == 1
    assert output.endswith("nothing written to runs/oracle-smoke\n")


def test_the_estimate_is_the_sum_of_what_was_measured(tiny_config, files, capsys, monkeypatch):
    timed = []

    def time_of(run, index, phase, network):
        timed.append(phase.step_of(network))
        return 60.0, 3 * 2**20

    monkeypatch.setattr(module, "_time", time_of)
    monkeypatch.setattr(Loop, "initial_state", lambda loop: None)
    monkeypatch.setattr(Loop, "evaluate", lambda loop, state: None)
    dry_run(tiny_config, None, quiet=True)
    assert files() == []
    output = capsys.readouterr().out
    expected = {}
    schedule = phases.parse(tiny_config.phases)
    for phase in schedule:
        for step in range(phase.steps if phase.networks else 0):
            name = f"{phase.name}/{phase.network(step)}"
            expected[name] = expected.get(name, 0) + 1
    found = re.findall(r"^  (\w+/\w+) +(\d+) updates +60000.0 ms each +(\S+) \w+ ", output, re.M)
    assert {name: int(count) for name, count, _ in found} == expected
    assert len(timed) == len(set(timed)) < len(expected)  # what is alike is compiled once
    assert f"updates {sum(expected.values()):.1f} min" in output
    assert "memory: 3 MiB for the largest update" in output
    evaluations = sum(len(range(0, p.steps, p.evaluate_every)) for p in schedule)
    assert f", evaluations {evaluations} of" in output


def test_it_refuses_what_training_would_refuse(oracle, tmp_path):
    other = oracle.to_dict() | {"seed": 7}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"config\.seed=7, not 0"):
        dry_run(oracle, str(tmp_path), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    oracle.unlock()
    oracle.generator.kind = "transistor"
    with pytest.raises(UserError, match=r"config\.generator\.kind"):
        dry_run(oracle, str(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_peak_memory_counts_donated_arrays_once():
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    plain = jax.jit(lambda x: x + 1)
    x = jax.ShapeDtypeStruct((1000,), "float32")
    assert module._peak(add.lower(x).compile().memory_analysis()) == 4000
    assert module._peak(plain.lower(x).compile().memory_analysis()) == 8000
