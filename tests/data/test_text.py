"""Splits that neither more lines nor duplicates disturb, in memory that doesn't grow."""

import collections
import random
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from seqgan_jax.codecs.text import TextCodec
from seqgan_jax.data import pipeline, stores, text
from seqgan_jax.errors import UserError

LENGTH = 6
BY_WORD = TextCodec.fit([" ".join(map(str, range(20)))], kind="word")


def config_of(path, **changes):
    return ConfigDict(
        {
            "source": "path",
            "path": str(path),
            "field": None,
            "unicode": "NFC",
            "too_long": "cut",
            "validation_share": 0.2,
            "test_share": 0.3,
            **changes,
        }
    )


def splits(lines, folder, codec=BY_WORD, length=LENGTH, **changes):
    path = folder / "lines.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    config = config_of(path, **changes)
    return text.splits(stores.open_store(config, folder), codec, config, length)


def contents(sequences):
    return [sequences.words(i) for i in range(len(sequences))]


def lines_of(count, seed=0):
    draw = random.Random(seed)
    return [
        " ".join(str(draw.randrange(20)) for _ in range(draw.randint(1, 4))) for _ in range(count)
    ]


def test_shares_are_as_asked_for():
    """Of 20,000 random texts: a chi-squared test, false alarm in 1 of 10,000."""
    found = collections.Counter(text.split_of(f"text {i}", 0.05, 0.1) for i in range(20_000))
    counts = [found[split] for split in text.SPLITS]
    assert stats.chisquare(counts, [17_000, 1_000, 2_000]).pvalue > 1e-4


def test_texts_that_are_alike_stay_together():
    for i in range(50):
        forms = (f"Caf\u00e9 \ufb01 {i}.", f"cafe\u0301  fi{i} .", f"\tCAF\u00c9 FI {i}.\n")
        assert len({text.split_of(form, 0.3, 0.3) for form in forms}) == 1


def test_more_lines_move_none(tmp_path):
    lines = lines_of(200)
    before = {name: set(contents(split)) for name, split in splits(lines, tmp_path)[0].items()}
    after, counts = splits([*lines_of(150, seed=1), *lines, "", *lines], tmp_path)
    assert counts["lines"] == 551
    assert counts["empty"] == 1
    both = [set(contents(after[split])) for split in text.SPLITS]
    for split, found in zip(text.SPLITS, both, strict=True):
        assert before[split] <= found
    assert len(set().union(*both)) == sum(map(len, both))
    assert sum(map(len, after.values())) == 550


def test_what_becomes_of_long_lines(tmp_path):
    numbers = [str(i) for i in range(20)]
    lines = [" ".join(numbers[:n]) for n in range(1, 18)]
    everything = lambda **how: splits(lines, tmp_path, **how, validation_share=0.3, test_share=0.3)
    key = lambda words: (len(words), words)

    found, counts = everything(too_long="cut")
    assert counts["long"] == sum(n >= LENGTH for n in range(1, 18))
    cut = sorted((w for s in found.values() for w in contents(s)), key=key)
    assert cut == sorted((tuple(numbers[: min(n, LENGTH)]) for n in range(1, 18)), key=key)

    found, counts = everything(too_long="drop")
    kept = sorted((w for s in found.values() for w in contents(s)), key=key)
    assert kept == [tuple(numbers[:n]) for n in range(1, LENGTH)]

    found, counts = everything(too_long="split")
    pieces = collections.Counter(w for s in found.values() for w in contents(s))
    assert pieces == collections.Counter(
        tuple(numbers[start : min(n, start + LENGTH)])
        for n in range(1, 18)
        for start in range(0, n, LENGTH)
    )
    # All pieces of a line are in one split: each line's share of a prefix has its own.
    for line in lines:
        home = text.split_of(line, 0.3, 0.3)
        words = tuple(line.split())
        assert words[:LENGTH] in contents(found[home])


def test_ends_are_where_lines_end(tmp_path):
    lines = ["1 2", "1 2 3 4 5", "1 2 3 4 5 6", "1 2 3 4 5 6 7"] * 2
    found, _ = splits([*lines, *lines_of(40)], tmp_path, too_long="split")
    seen = {}
    for split in found.values():
        for i in range(len(split)):
            seen[split.words(i)] = split[i]["captions"][0][-1] == 2
    number = lambda n: tuple(str(i + 1) for i in range(n))
    assert seen[number(2)]
    assert seen[number(5)]
    assert not seen[number(6)]  # six tokens and no room for the end
    assert seen["7",]


def test_examples_are_numbered_and_encoded(tmp_path):
    found, _ = splits(lines_of(100), tmp_path)
    ids = [s[i]["example_id"] for s in found.values() for i in range(len(s))]
    assert len(set(ids)) == 100
    assert max(ids) < 2**31
    for split in found.values():
        for i in range(len(split)):
            tokens = split[i]["captions"][0]
            assert BY_WORD.decode(tokens) == " ".join(split.words(i))
            assert text.words(BY_WORD, [*tokens, 5, 0]) == split.words(i)


def test_words_of_sentencepiece_are_words(tmp_path):
    lines = [f"the small dog number {i} runs" for i in range(60)]
    codec = TextCodec.fit(lines, kind="sentencepiece", max_size=30)
    found, _ = splits(lines, tmp_path, codec=codec, length=40)
    assert all(w[:4] == ("the", "small", "dog", "number") for w in contents(found["train"]))
    assert text.words(codec, found["train"][0]["captions"][0]) == found["train"].words(0)


def test_the_vocabulary_is_of_training_lines_alone(tmp_path):
    path = tmp_path / "lines.txt"
    lines = [f"word{i}" for i in range(300)]
    path.write_text("\n".join(lines))
    config = config_of(path)
    store = stores.open_store(config, tmp_path)
    fitted = list(text.training_texts(store, config))
    assert fitted == [t for t in lines if text.split_of(t, 0.2, 0.3) == "train"]
    assert 100 < len(fitted) < 200


@pytest.mark.parametrize(
    ("lines", "changes", "message"),
    [
        (["", " "], {}, "is empty"),
        (["1 2 3 4 5 6 7"] * 9, {"too_long": "drop"}, "0 are left for train"),
        (["1 2", "1 2"], {}, "are left for"),
        (["1"], {"too_long": "wrap"}, r"^config\.data\.too_long: no way 'wrap'"),
        (["1"], {"length": 1}, r"^config\.codec\.max_length: 1"),
        (["1"], {"test_share": 1.5}, r"^config\.data\.test_share: 1.5"),
        (["1"], {"test_share": 0.9}, r"^config\.data\.validation_share: .* nothing to train on"),
    ],
)
def test_what_is_refused(tmp_path, lines, changes, message):
    with pytest.raises(UserError, match=message):
        splits(lines, tmp_path, **changes)


def test_a_summary_for_a_person(tmp_path):
    lines = [*lines_of(60), "", "1 2 3 4 5 6 7 8"]
    found, counts = splits(lines, tmp_path, too_long="split")
    said = text.summary("FILE", counts, config_of("FILE", too_long="split"), LENGTH)
    assert said.startswith("data: FILE, 62 lines of which 1 are empty; ")
    assert f"{len(found['train'])} train, {len(found['validation'])} validation" in said
    assert said.endswith("; 1 of more than 5 tokens were split")


def test_batches_of_a_split(tmp_path):
    found, _ = splits(lines_of(200), tmp_path)
    train = found["train"]
    codec = collections.namedtuple("Codec", "vocabulary encode")(BY_WORD.vocabulary, lambda x: x)
    batches = pipeline.training_batches(train, codec, length=LENGTH, batch_size=10, seed=3)
    seen = collections.Counter()
    for _ in range(len(train)):  # ten epochs
        seen.update(next(batches)["example_id"].tolist())
    assert set(seen.values()) == {10}
    assert len(seen) == len(train)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Indexing 50 MB, and reading at random, takes a few MiB more than the start of it does."""
    code = """
import resource, sys
from pathlib import Path
from ml_collections import ConfigDict
from seqgan_jax.codecs.text import TextCodec
from seqgan_jax.data import stores, text
config = ConfigDict({"source": "path", "path": sys.argv[1], "field": None, "unicode": "NFC",
                     "too_long": "cut", "validation_share": 0.1, "test_share": 0.1})
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
codec = TextCodec.fit(["word"], kind="word")
store = stores.open_store(config, Path("."))
next(iter(text.training_texts(store, config)))
before = peak()
found, counts = text.splits(store, codec, config, 1000)
for i in range(0, len(found["train"]), 500):
    found["train"][i]
print(peak() - before, counts["lines"])
"""
    path = tmp_path / "large.txt"
    with open(path, "w") as file:
        for i in range(50_000):
            file.write(f"line {i} {'of a large file ' * 62}\n")
    assert path.stat().st_size > 50e6
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    grown, lines = map(int, done.stdout.split())
    assert lines == 50_000
    unit = 1 if sys.platform == "darwin" else 1024
    assert grown * unit < 12e6


def test_the_index_is_made_anew_for_another_file_or_other_options(tmp_path):
    first, _ = splits(["1 2 3"] * 20 + lines_of(50), tmp_path)
    again, _ = splits(["1 2 3"] * 20 + lines_of(50), tmp_path)
    assert contents(first["train"]) == contents(again["train"])
    changed, counts = splits(lines_of(50, seed=2), tmp_path)
    assert counts["lines"] == 50
    other, _ = splits(lines_of(50, seed=2), tmp_path, test_share=0.6)
    assert len(other["test"]) > len(changed["test"])
    assert np.sum([len(s) for s in other.values()]) == 50
