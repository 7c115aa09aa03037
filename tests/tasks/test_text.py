"""What the text task says of hand-made samples, and what data it refuses."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from seqgan_jax.data import expressions
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import text as metrics
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.tasks import banned
from seqgan_jax.tasks.text import Text, expression_figures

T = 6
WORDS = ("a", "red", "dog", "runs", "sits", "here")


@pytest.fixture
def lines(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 6))) + "." for _ in range(80)]
    (tmp_path / "lines.txt").write_text("\n".join(texts))
    return tmp_path / "lines.txt"


@pytest.fixture
def config(lines):
    update = {"batch_size": 0}
    phase = {"batch_size": 4, "generator": update, "discriminator": update}
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "source": "path",
                "path": str(lines),
                "field": None,
                "unicode": "NFKC",
                "too_long": "cut",
                "validation_share": 0.2,
                "test_share": 0.3,
                "seed": 0,
                "size": 200,
            },
            "codec": {
                "kind": "word",
                "lowercase": True,
                "max_size": 50,
                "min_count": 1,
                "max_length": T,
            },
            "encoder": {"kind": "none"},
            "phases": {"order": ("only",), "only": phase},
        }
    )


def task_of(config, folder):
    with Progress(quiet=True) as progress:
        return Text(config, folder / "run", progress)


@pytest.fixture
def task(config, tmp_path):
    (tmp_path / "run").mkdir()
    return task_of(config, tmp_path)


def sample_of(task, texts):
    tokens = np.zeros((len(texts), T), np.int32)
    for row, text in enumerate(texts):
        ids = task.codec.encode(text)[:T]
        tokens[row, : len(ids)] = ids
    each = -np.arange(1.0, T + 1) * (tokens > 0)
    return Sample(tokens, tokens > 0, each.sum(1), np.full(len(texts), 0.25), each)


def test_batches_hold_the_lines(task, lines):
    assert task.template()["source"] is None
    found = []
    for split in ("train", "validation", "test"):
        (batch,) = task.pairs(split, batch_size=100, limit=None)
        assert batch["source"] is batch["source_mask"] is None
        found += [task.decode(t) for t in batch["target"][batch["weight"] > 0]]
        (same,) = task.sources(split, batch_size=100, limit=None)
        np.testing.assert_array_equal(same["example_id"], batch["example_id"])
    wanted = [" ".join([*line[:-1].split(), "."][:T]) for line in lines.read_text().split("\n")]
    assert sorted(found) == sorted(wanted)
    train = {
        task.decode(t) for t in next(task.pairs("train", batch_size=100, limit=None))["target"]
    }
    batches = task.training_batches(batch_size=10, targets=1, seed=0, start=0)
    assert {task.decode(t) for t in next(batches)["target"]} <= train
    with pytest.raises(UserError, match=r"^--split=dev: no such split; choose from train, "):
        task.pairs("dev", batch_size=5, limit=None)


def test_figures_are_of_samples_held_out_and_training_text(task):
    texts = ["a red dog.", "a dog sits here", "red red red", "here runs a dog."]
    found = task.evaluate("test", [sample_of(task, [t]) for t in texts], None, thorough=False)
    words = lambda split, n: [
        tuple(task.decode(t).split())
        for t in next(task.pairs(split, batch_size=100, limit=n))["target"]
    ]
    count = len(task.splits["train"])
    wanted = metrics.figures(
        [("a", "red", "dog", "."), ("a", "dog", "sits", "here"), ("red",) * 3,
         ("here", "runs", "a", "dog", ".")],
        words("test", 4)[:4],
        words("train", None)[:count],
        seed=0,
        thorough=False,
    )  # fmt: skip
    assert found == wanted
    assert {"quality_diversity", *task.shown, *task.falling, *task.sweep} <= set(found)
    assert "parsed" not in found


def test_real_text_is_the_yardstick(task):
    columns, lines = task.comparisons("test", 6, 1)
    assert lines == []
    assert columns["real text"]["novel_sentences"].value > 0
    assert columns["real text"]["length"].n == 6


def test_what_was_written(task, tmp_path):
    sample = sample_of(task, ["a dog.", "a dog sits here a dog"])
    (row,) = [task.row("", sample)]
    assert row["texts"][0] == {
        "text": "a dog .",
        "tokens": ["a", "dog", ".", "<eos>"],
        "log_prob": -10.0,
        "score": 0.25,
        "token_log_probs": [-1.0, -2.0, -3.0, -4.0],
    }
    assert row["texts"][1]["tokens"] == ["a", "dog", "sits", "here", "a", "dog"]
    assert task.describe("", sample) == ["a dog .", "a dog sits here a dog"]
    searched = task.row("", sample._replace(token_log_probs=None))
    assert "token_log_probs" not in searched["texts"][0]
    assert task.illustrate(tmp_path / "s", "test", [sample], None) == {}
    assert json.loads((tmp_path / "s" / "texts.json").read_text()) == row["texts"][:1]


def test_prefixes_and_bans(task):
    assert task.decode(task.prefix("A red")) == "a red"
    assert task.prefix("\uff41") == task.prefix("a")  # NFKC, as the data were read
    with pytest.raises(UserError, match=r"^--prefix=a cat: has a word that the model doesn't know"):
        task.prefix("a cat")
    assert banned(task, ["dog", "."]) == (3, *task.prefix("dog"), *task.prefix("."))
    for name in ("cat", "a dog", ""):
        with pytest.raises(UserError, match=rf"^--ban={name}: is no token"):
            banned(task, ["a", name])


def test_writing_needs_no_data(task, lines, config, tmp_path):
    (tmp_path / "run" / "config.json").write_text("{}")
    lines.unlink()
    again = task_of(config, tmp_path)
    assert again.codec.tokens == task.codec.tokens
    names, batch = again.request({})
    assert names == [""]
    assert batch["source"] is None
    np.testing.assert_array_equal(batch["weight"], [1])
    assert again.template()["source"] is None
    with pytest.raises(UserError, match=r"lines\.txt: no such file"):
        again.pairs("test", batch_size=2, limit=None)


def test_what_a_person_is_told(task):
    said = task.message.splitlines()
    assert said[0].startswith("data: ")
    assert "80 lines" in said[0]
    assert said[1] == "vocabulary: 11 tokens"


# Integers


@pytest.fixture
def sources(config, tmp_path):
    rng = np.random.default_rng(0)
    source = rng.integers(0, 7, (60, 3))
    source[:, 2] = np.where(rng.random(60) < 0.5, -1, 6)
    target = rng.integers(0, 4, (60, 5))
    np.savez(tmp_path / "a.npz", source=source, target=target)
    config.data.path = str(tmp_path / "a.npz")
    config.encoder.kind = "bilstm"
    (tmp_path / "run").mkdir()
    return task_of(config, tmp_path)


def test_sources_of_integers(sources, tmp_path):
    assert sources.source_vocabulary == 7
    template = sources.template()
    assert template["source"].shape == template["source_mask"].shape == (1, 3)
    batch = next(sources.training_batches(batch_size=4, targets=1, seed=0, start=0))
    assert batch["source"].shape == batch["source_mask"].shape == (4, 3)
    assert batch["source"].dtype == np.int32
    with np.load(tmp_path / "a.npz") as given:
        pairs = {(tuple(np.maximum(s, 0)), tuple(t)) for s, t in zip(*given.values(), strict=True)}
    for source, target in zip(batch["source"], batch["target"], strict=True):
        known = tuple(map(int, sources.decode(target).split()))
        assert (tuple(source), known) in pairs
    assert sources.decode(sources.prefix("3 0")) == "3 0"


def test_requests_are_like_training(sources, tmp_path):
    assert sources.options == ("input",)
    path = str(tmp_path / "request.npz")
    np.savez(path, source=np.array([[6, 5], [0, -1]]))
    names, batch = sources.request({"input": path})
    assert names == ["source 0", "source 1"]
    np.testing.assert_array_equal(batch["source"], [[6, 5, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch["source_mask"], [[1, 1, 0], [1, 0, 0]])
    with pytest.raises(UserError, match=r"^--input: none given"):
        sources.request({"input": None})
    for wrong in ([[7]], [[1, 2, 3, 4]], [[0.5]], [1]):
        np.savez(path, source=np.array(wrong))
        with pytest.raises(UserError, match=r"^--input=.*integers below 7 of shape \[N, 3\]"):
            sources.request({"input": path})


def test_integers_are_words_and_nothing_else(config, sources, tmp_path):
    config.codec.kind = "character"
    with pytest.raises(UserError, match=r"^config\.codec\.kind: 'character' can't read .*a\.npz"):
        task_of(config, tmp_path)
    config.codec.kind = "word"
    config.encoder.kind = "none"
    with pytest.raises(UserError, match=r"^config\.encoder\.kind: 'none', but .* has sources"):
        task_of(config, tmp_path)


def test_text_has_no_sources(config, tmp_path):
    config.encoder.kind = "features"
    with pytest.raises(UserError, match=r"^config\.encoder\.kind: 'features', but .*; set none"):
        task_of(config, tmp_path)


def test_fewer_lines_than_a_batch(config, tmp_path):
    config.phases.only.discriminator.batch_size = 79
    with pytest.raises(UserError, match=r"lines\.txt: \d+ sequences to train on are fewer than a"):
        task_of(config, tmp_path)


def test_too_little_to_judge_by(config, tmp_path):
    config.data.test_share = 0.0
    (tmp_path / "run").mkdir()
    task = task_of(config, tmp_path)
    with pytest.raises(
        UserError, match=r"^--split=test: has 1 sequences, .* config\.data\.test_sh"
    ):
        task.evaluate("test", [sample_of(task, ["a dog"])], None, thorough=False)


# Expressions


def test_expressions_are_judged_by_their_grammar(config, tmp_path):
    config.data.update(source="cfg", path=None, too_long="drop")
    (tmp_path / "run").mkdir()
    task = task_of(config, tmp_path)
    texts = ["x + 1", "( x )", "x +", "1 * 2", "1"]
    found = task.evaluate("test", [sample_of(task, [t]) for t in texts], None, thorough=False)
    assert found["parsed"].value == 0.8
    depths = [4, 6, 4, 3]
    assert found["depth_deviation"].value == pytest.approx(np.std(depths, ddof=1))
    assert "parsed" in task.shown
    real = task.comparisons("test", 20, 1)[0]["real text"]
    assert real["parsed"].value == 1


def test_the_error_of_a_deviation_is_that_of_many_repetitions():
    """Over 300 draws of 200: the deviations' own deviation, within four of its errors."""
    rng = np.random.default_rng(0)
    texts = {3: ["x"], 4: ["x", "+", "1"], 5: ["1", "-", "2", "-", "3"], 6: ["(", "x", ")"]}
    assert [expressions.depth(text) for text in texts.values()] == list(texts)
    draws = rng.choice(list(texts), (300, 200), p=[0.4, 0.3, 0.1, 0.2])
    found = [expression_figures([texts[d] for d in row])["depth_deviation"] for row in draws]
    np.testing.assert_allclose([f.value for f in found], draws.std(1, ddof=1))
    spread, told = np.std([f.value for f in found]), np.mean([f.stderr for f in found])
    assert abs(spread / told - 1) < 4 / np.sqrt(2 * 300)
    one = expression_figures([["x"]])["depth_deviation"]
    assert (one.value, one.stderr, one.n) == (None, None, 1)
