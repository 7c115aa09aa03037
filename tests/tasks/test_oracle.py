"""What the oracle task says of known sequences, and what it refuses."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from seqgan_jax.data import oracle
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.tasks.oracle import Oracle

V, T = 9, 4


@pytest.fixture
def config():
    return ConfigDict(
        {
            "oracle": {"params": None, "seed": 1, "vocabulary": V, "size": 3},
            "data": {
                "seed": 0,
                "length": T,
                "train_size": 8,
                "validation_size": 6,
                "test_size": 5,
                "corrupted": 0.0,
            },
            "encoder": {"kind": "none"},
            "generator": {"noise_size": 0},
        }
    )


@pytest.fixture
def task(config, tmp_path):
    return Oracle(config, tmp_path, None)


def sample_of(tokens, log_probs):
    shape = np.shape(tokens)
    return Sample(np.array(tokens), np.ones(shape), np.array(log_probs), np.full(shape[0], 0.5))


def test_vocabulary_and_shapes(task):
    assert tuple(task.codec.vocabulary) == (V, 0, None, None)
    template = task.template()
    assert template["source"] is None
    assert template["target"].shape == template["mask"].shape == (1, T)
    (batch,) = task.sources("test", batch_size=5, limit=None)
    assert "target" not in batch
    assert batch["source"] is None
    (whole,) = task.pairs("test", batch_size=5, limit=None)
    np.testing.assert_array_equal(whole["example_id"], batch["example_id"])
    batches = task.training_batches(batch_size=4, targets=1, seed=0, start=0)
    seen = np.concatenate([next(batches)["target"], next(batches)["target"]])
    train = oracle.splits(task._oracle, task_data())["train"].tokens
    assert sorted(seen.tolist()) == sorted(train.tolist())
    with pytest.raises(UserError, match=r"^--split=dev: no such split; choose from train, "):
        task.pairs("dev", batch_size=5, limit=None)


def task_data():
    sizes = {"train_size": 8, "validation_size": 6, "test_size": 5, "corrupted": 0.0}
    return ConfigDict({"seed": 0, "length": T, **sizes})


def test_figures_are_of_both_densities(task):
    rng = np.random.default_rng(0)
    tokens, own = rng.integers(0, V, (4, 2, T)), -rng.uniform(5, 9, (4, 2))
    theirs = -rng.uniform(5, 9, 4)
    samples = [sample_of(t, p) for t, p in zip(tokens, own, strict=True)]
    found = task.evaluate("test", samples, theirs, thorough=False)
    drawn = oracle.random(1, V, 3)
    known = oracle.log_prob(drawn, tokens.reshape(-1, T))
    data = oracle.log_prob(drawn, next(task.pairs("test", batch_size=4, limit=4))["target"])
    assert found["nll_oracle"].value == pytest.approx(-known.mean() / T)
    assert found["reverse_kl"].value == pytest.approx((own.mean() - known.mean()) / T)
    assert found["forward_kl"].value == pytest.approx((data - theirs).mean() / T)
    assert found["nll_test"].value == pytest.approx(-theirs.mean() / T)
    assert found["quality_diversity"].value == pytest.approx(
        -(found["reverse_kl"].value + found["forward_kl"].value) / 2
    )
    assert set(task.falling) | {"quality_diversity", "entropy", "oracle_entropy"} == set(found)
    assert set(task.sweep) < set(found)


def test_the_oracle_is_the_yardstick(task):
    columns, lines = task.comparisons("test", 4, 1)
    figures = columns["oracle"]
    assert lines == []
    assert figures["forward_kl"].value == figures["reverse_kl"].value == 0
    assert figures["nll_oracle"].value == figures["nll_test"].value == figures["entropy"].value


def test_what_was_written(task, tmp_path):
    sample = sample_of([[1, 2, 3, 4], [0, 0, 0, 8]], [-3.0, -4.0])
    known = oracle.log_prob(oracle.random(1, V, 3), sample.tokens)
    rows = task.row("", sample)["sequences"]
    assert rows[1] == {
        "tokens": [0, 0, 0, 8],
        "log_prob": -4.0,
        "oracle_log_prob": pytest.approx(known[1]),
        "score": 0.5,
    }
    assert task.describe("", sample)[0] == (
        f"1 2 3 4  (log-probability -3.00, the oracle's {known[0]:.2f}, discriminator 0.50)"
    )
    assert task.illustrate(tmp_path / "s", "test", [sample, sample], None) == {}
    assert json.loads((tmp_path / "s" / "sequences.json").read_text()) == [rows[0]] * 2


def test_prefixes_are_tokens(task):
    assert task.prefix("") == ()
    assert task.prefix(" 3  0 8") == (3, 0, 8)
    for text in ("3 9", "-1", "three", "1.5"):
        with pytest.raises(UserError, match=rf"^--prefix={text}: not all are whole numbers of 0"):
            task.prefix(text)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("encoder.kind", "features"),
        ("generator.noise_size", 2),
        ("oracle.vocabulary", 0),
        ("oracle.size", 0),
        ("oracle.seed", 10**20),
        ("data.test_size", 0),
    ],
)
def test_options_that_make_no_sense(config, tmp_path, option, value):
    config.update_from_flattened_dict({option: value})
    with pytest.raises(UserError, match=rf"^config\.{option}: "):
        Oracle(config, tmp_path, None)


def test_a_file_must_be_of_the_configured_sizes(config, tmp_path):
    path = tmp_path / "oracle.npz"
    rng = np.random.default_rng(0)
    shapes = {"embedding": (V, 3), "output_w": (3, V), "output_b": (V,)}
    for gate in ("input_gate", "forget_gate", "output_gate", "cell"):
        shapes |= {f"{gate}_x": (3, 3), f"{gate}_h": (3, 3), f"{gate}_b": (3,)}
    np.savez(path, **{k: rng.normal(size=v).astype(np.float32) for k, v in shapes.items()})
    config.oracle.params = str(path)
    assert Oracle(config, tmp_path, None).codec.vocabulary.size == V
    config.oracle.vocabulary = V + 1
    with pytest.raises(UserError, match=r"oracle\.npz: .* config\.oracle\.vocabulary = 9, not 10"):
        Oracle(config, tmp_path, None)
