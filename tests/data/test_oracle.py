"""The oracle against a slow LSTM written from its equations, and its files against bad ones."""

import itertools
import math
import zipfile
from types import SimpleNamespace

import ml_collections
import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, log_softmax

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.data import oracle, pipeline
from seqgan_jax.errors import UserError

V, E, H, T = 5, 3, 4, 3
SHAPES = {"embedding": (V, E), "output_w": (H, V), "output_b": (V,)}
for _gate in ("input_gate", "forget_gate", "output_gate", "cell"):
    SHAPES |= {f"{_gate}_x": (E, H), f"{_gate}_h": (H, H), f"{_gate}_b": (H,)}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def known(arrays, tmp_path):
    np.savez(tmp_path / "known.npz", **arrays)
    return oracle.load(tmp_path / "known.npz")


def slow_log_prob(arrays, sequence):
    """log p, one token after another, from the published file's arrays."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    h, c, token, total = np.zeros(H), np.zeros(H), 0, 0.0
    for following in sequence:
        x = a["embedding"][token]
        gate = lambda name, x=x, h=h: x @ a[f"{name}_x"] + h @ a[f"{name}_h"] + a[f"{name}_b"]
        c = expit(gate("forget_gate")) * c + expit(gate("input_gate")) * np.tanh(gate("cell"))
        h = expit(gate("output_gate")) * np.tanh(c)
        total += log_softmax(h @ a["output_w"] + a["output_b"])[following]
        token = following
    return total


ALL = np.array(list(itertools.product(range(V), repeat=T)))


def test_log_prob_equals_a_slow_loop(arrays, known, monkeypatch):
    wanted = [slow_log_prob(arrays, sequence) for sequence in ALL]
    np.testing.assert_allclose(oracle.log_prob(known, ALL), wanted, rtol=1e-5)
    assert np.exp(oracle.log_prob(known, ALL)).sum() == pytest.approx(1)
    # Nor does it matter how many sequences are read at once.
    monkeypatch.setattr(oracle, "_LOGITS", 7 * V * T)
    np.testing.assert_allclose(oracle.log_prob(known, ALL), wanted, rtol=1e-5)
    assert oracle.log_prob(known, ALL[:0]).shape == (0,)
    with pytest.raises(ValueError, match="outside of 0 to 4"):
        oracle.log_prob(known, ALL + 1)


def test_sampling_follows_the_density(known, monkeypatch):
    # Chi-squared over all 125 sequences, those that are expected less than 5 times as one; a
    # correct sampler fails at one seed in 10,000.
    monkeypatch.setattr(oracle, "_LOGITS", 3000 * V)  # several chunks
    count = 20_000
    drawn = oracle.sample(known, 3, count, T)
    assert drawn.shape == (count, T)
    assert drawn.dtype == np.int32
    found = np.bincount(drawn @ V ** np.arange(T - 1, -1, -1), minlength=len(ALL))
    wanted = count * np.exp(oracle.log_prob(known, ALL))
    rare = wanted < 5
    found = np.append(found[~rare], found[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    assert ((found - wanted) ** 2 / wanted).sum() < stats.chi2.ppf(1 - 1e-4, len(found) - 1)


def test_a_sequence_depends_on_seed_and_number_alone(known, monkeypatch):
    whole = oracle.sample(known, 3, 50, T)
    monkeypatch.setattr(oracle, "_LOGITS", 8 * V)
    np.testing.assert_array_equal(oracle.sample(known, 3, 50, T), whole)
    np.testing.assert_array_equal(oracle.sample(known, 3, 5, T, first=20), whole[20:25])
    assert not np.array_equal(oracle.sample(known, 4, 50, T), whole)


def test_random_parameters_are_standard_normal():
    drawn = oracle.random(0, 300, 16)
    parts = (drawn.embedding, *drawn.layer, drawn.output, drawn.bias)
    shapes = [(300, 16), (16, 64), (16, 64), (64,), (16, 300), (300,)]
    assert [part.shape for part in parts] == shapes
    for part in parts:  # a correct one fails at one seed in 10,000
        assert stats.kstest(np.ravel(part), "norm").pvalue > 1e-4
    again, other = oracle.random(0, 300, 16), oracle.random(1, 300, 16)
    np.testing.assert_array_equal(again.output, drawn.output)
    assert not np.any(other.output == drawn.output)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a | {"more": a["cell_b"]}, "unknown array 'more'"),
        (lambda a: {k: v for k, v in a.items() if k != "cell_h"}, "lacks the array 'cell_h'"),
        (lambda a: a | {"cell_h": a["cell_x"]}, r"'cell_h' has shape \(3, 4\), not \(4, 4\)"),
        (lambda a: a | {"output_b": a["output_b"][:-1]}, r"'output_b' has shape \(4,\)"),
        (lambda a: a | {"embedding": a["output_b"]}, "'embedding' has shape"),
        (lambda a: a | {"cell_b": a["cell_b"] * np.nan}, "'cell_b' has values that are not finite"),
        (lambda a: a | {"cell_b": a["cell_b"] / 0}, "'cell_b' has values that are not finite"),
        (lambda a: a | {"cell_b": a["cell_b"].astype(int)}, "'cell_b' has type int64"),
        (lambda a: a | {"cell_b": a["cell_b"].astype(float)}, "'cell_b' has type float64"),
        (lambda a: a | {"cell_b": a["cell_b"].astype(object)}, "no whole .npz file"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_arrays_are_refused(arrays, tmp_path, change, words):
    np.savez(tmp_path / "bad.npz", **change(arrays))
    with pytest.raises(UserError, match=words) as refusal:
        oracle.load(tmp_path / "bad.npz")
    message = str(refusal.value)
    assert message.startswith(str(tmp_path / "bad.npz"))
    assert "--config.oracle.params" in message
    assert "\n" not in message


def test_what_is_no_array_is_refused(arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **{name: arrays[name] for name in arrays if name != "cell_b"})
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
        file.writestr("cell_b.npy", b"")
    with pytest.raises(UserError, match=r"no whole .npz file of arrays .*'cell_b' is no array"):
        oracle.load(tmp_path / "a.npz")
    header = np.lib.format.magic(1, 0) + b"\x76\x00"
    shape = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"
    np.savez(tmp_path / "b.npz", **{name: arrays[name] for name in arrays if name != "cell_b"})
    with zipfile.ZipFile(tmp_path / "b.npz", "a") as file:
        file.writestr("cell_b.npy", header + shape.ljust(0x75) + b"\n")
    with pytest.raises(UserError, match=r"no whole .npz file of arrays"):
        oracle.load(tmp_path / "b.npz")


def test_bad_files_are_refused(arrays, tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, **arrays)
    data = bytearray(whole.read_bytes())
    bad = {"torn": data[: len(data) // 2], "text": b"no arrays", "empty": b""}
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 0xFF
    bad["flipped"] = flipped
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "single.npy", arrays["cell_b"])
    for name in (*bad, "single.npy", "missing", "."):
        with pytest.raises(UserError, match=r"; set --config\.oracle\.params") as refusal:
            oracle.load(tmp_path / name)
        assert "\n" not in str(refusal.value)


CONFIG = {"seed": 0, "length": T, "train_size": 40, "validation_size": 30, "test_size": 20}
CONFIG["corrupted"] = 0.0


def splits(known, **changes):
    return oracle.splits(known, ml_collections.ConfigDict(CONFIG | changes))


def test_splits_are_of_their_sizes_and_streams(known):
    found = splits(known)
    assert {name: len(split) for name, split in found.items()} == {
        "train": 40,
        "validation": 30,
        "test": 20,
    }
    ids = [split[i]["example_id"] for split in found.values() for i in range(len(split))]
    assert len(set(ids)) == 90
    assert max(ids) < 2**31
    firsts = [split.tokens[:20].tolist() for split in found.values()]
    assert firsts[0] != firsts[1] != firsts[2] != firsts[0]
    # A split doesn't change with the others' sizes.
    other = splits(known, train_size=41)
    np.testing.assert_array_equal(other["test"].tokens, found["test"].tokens)
    np.testing.assert_array_equal(other["train"].tokens[:40], found["train"].tokens)
    assert splits(known, seed=1)["test"].tokens.tolist() != found["test"].tokens.tolist()
    np.testing.assert_array_equal(
        found["test"].log_probs, oracle.log_prob(known, found["test"].tokens)
    )


def test_a_share_of_the_training_data_is_corrupted(known):
    share, size = 0.3, 3000
    clean, changed = (splits(known, train_size=size, corrupted=c) for c in (0.0, share))
    differ = clean["train"].tokens != changed["train"].tokens
    # A random token is the right one once in V times. False alarms: 5 standard deviations.
    expected, count = share * (1 - 1 / V), differ.size
    assert abs(differ.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / count)
    np.testing.assert_array_equal(clean["test"].tokens, changed["test"].tokens)
    fewer = splits(known, train_size=10, corrupted=share)["train"].tokens
    np.testing.assert_array_equal(fewer, changed["train"].tokens[:10])
    with pytest.raises(UserError, match=r"^config.data.corrupted: 1.0 is out of range"):
        splits(known, corrupted=1.0)


@pytest.mark.parametrize("option", ["train_size", "test_size", "length"])
def test_sizes_of_nothing_are_refused(known, option):
    with pytest.raises(UserError, match=rf"^config.data.{option}: 0 is out of range"):
        splits(known, **{option: 0})


def test_the_pipeline_serves_them(known):
    split = splits(known)["train"]
    codec = SimpleNamespace(vocabulary=Vocabulary(V, 0), encode=lambda sequence: sequence)
    given = {"length": T, "batch_size": 8, "seed": 0}
    batches = list(itertools.islice(pipeline.training_batches(split, codec, **given), 5))
    for batch in batches:
        assert batch["source"] is batch["source_mask"] is None
        np.testing.assert_array_equal(batch["target"], split.tokens[batch["example_id"]])
        assert (batch["mask"] == 1).all()
        assert batch["mask"].shape == (8, T)
    assert sorted(np.concatenate([b["example_id"] for b in batches])) == list(range(40))
    resumed = next(pipeline.training_batches(split, codec, **given, start=3))
    np.testing.assert_array_equal(resumed["target"], batches[3]["target"])
    *_, last = pipeline.evaluation_batches(split, codec, length=T, batch_size=16)
    np.testing.assert_array_equal(last["target"][:8], split.tokens[32:])
    assert last["weight"].tolist() == [1] * 8 + [0] * 8
