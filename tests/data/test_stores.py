"""Reading what users have: the same texts from every form, and one clear line for what is wrong."""

import csv
import gzip
import io
import json

import numpy as np
import pytest
import zstandard
from ml_collections import ConfigDict

from seqgan_jax.data import stores
from seqgan_jax.data.captions import no_progress
from seqgan_jax.errors import UserError

TEXTS = ["a cat, a dog", "", "cafe\u0301 \u4e2d\u6587", "  spaces  ", "\ufb01ve", "last"]
NORMAL = ["a cat, a dog", "", "caf\u00e9 \u4e2d\u6587", "spaces", "\ufb01ve", "last"]


def config_of(path=None, **changes):
    return ConfigDict(
        {"source": "path", "path": path and str(path), "field": None, "unicode": "NFC", **changes}
    )


def opened(path, tmp_path, **changes):
    return stores.open_store(config_of(path, **changes), tmp_path)


def records(store):
    return list(store.records(no_progress, "reading"))


def texts(store):
    """All texts in order, each checked to be what its position gives too."""
    found = records(store)
    for position, text in reversed(found):
        assert store[position][0] == text
    return [text for _, text in found]


def written(folder, name, data):
    """A file of bytes, compressed if its name says so."""
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        # Two frames, as several files make that are written one after another.
        half = len(data) // 2
        pack = zstandard.ZstdCompressor().compress
        data = pack(data[:half]) + pack(data[half:])
    (folder / name).write_bytes(data)
    return folder / name


def as_csv(field):
    text = io.StringIO()
    csv.writer(text).writerows([["number", field], *([i, t] for i, t in enumerate(TEXTS))])
    return text.getvalue().encode()


PLAIN = "\n".join(TEXTS).encode()
JSONL = b"\n".join(json.dumps({"number": i, "text": t}).encode() for i, t in enumerate(TEXTS))


@pytest.mark.parametrize(
    ("name", "data", "field"),
    [
        ("a.txt", PLAIN, None),
        ("a.txt", PLAIN.replace(b"\n", b"\r\n") + b"\r\n", None),
        ("a.txt", b"\xef\xbb\xbf" + PLAIN, None),
        ("a.txt.gz", PLAIN, None),
        ("a.zst", PLAIN, None),
        ("a.jsonl", JSONL, "text"),
        ("a.jsonl.zst", JSONL + b"\n\n", "text"),
        ("a.ndjson.gz", JSONL, "text"),
        ("a.csv", as_csv("what is said"), "what is said"),
        ("a.csv.gz", as_csv("text"), "text"),
    ],
)
def test_every_form_gives_the_same_texts(tmp_path, name, data, field):
    path = written(tmp_path, name, data)
    assert texts(opened(path, tmp_path, field=field)) == NORMAL


def test_compatible_forms_become_one_if_asked_for(tmp_path):
    path = written(tmp_path, "a.txt", PLAIN)
    assert texts(opened(path, tmp_path, unicode="NFKC"))[4] == "five"


def test_several_files_in_the_order_of_their_names(tmp_path):
    for name, text in (("b.txt", "two\n"), ("a.txt.gz", "one"), ("c.txt", "three")):
        written(tmp_path, name, text.encode())
    assert texts(opened(tmp_path / "*.txt*", tmp_path)) == ["one", "two", "three"]
    written(tmp_path, "c.txt", b"changed text")
    assert texts(opened(tmp_path / "*.txt*", tmp_path)) == ["one", "two", "changed text"]


def test_lines_of_a_field_become_one(tmp_path):
    data = json.dumps({"text": "one\ntwo\r\nthree"}).encode()
    assert texts(opened(written(tmp_path, "a.jsonl", data), tmp_path, field="text")) == [
        "one two  three"
    ]


def test_a_plain_file_is_read_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "cache"))
    long = "x" * 5000
    path = written(tmp_path, "a.txt", f"one\n{long}\ntwo".encode())
    store = opened(path, tmp_path)
    assert texts(store) == ["one", long, "two"]
    assert [position for position, _ in records(store)] == [0, 4, 5005]
    assert not (tmp_path / "cache").exists()


def test_made_texts(tmp_path):
    store = opened(None, tmp_path, source="cfg", seed=0, size=20)
    assert len(texts(store)) == 20
    assert store.name == "cfg"


def test_standard_input_is_kept_with_its_run(tmp_path, monkeypatch):
    def read(given):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        return texts(opened("-", tmp_path))

    assert read(b"one\ntwo\n") == ["one", "two"]
    assert read(b"three") == ["three"]  # no run yet: what was left behind doesn't count
    (tmp_path / "config.json").write_text("{}")
    assert read(b"four") == ["three"]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    with pytest.raises(UserError, match="standard input is a terminal"):
        opened("-", tmp_path / "new")


# Integers


def arrays(tmp_path, **given):
    np.savez(tmp_path / "a.npz", **given)
    return tmp_path / "a.npz"


TARGET = np.array([[3, 1, 2], [5, -1, -1], [0, 0, -1]])


def test_integers_are_words(tmp_path):
    store = opened(arrays(tmp_path, target=TARGET), tmp_path)
    assert texts(store) == ["3 1 2", "5", "0 0"]
    assert store.source is None
    assert store.source_vocabulary is None
    padded = arrays(tmp_path, target=np.maximum(TARGET, 0), length=[3, 1, 2])
    assert texts(opened(padded, tmp_path)) == ["3 1 2", "5", "0 0"]


def test_sources_of_integers_and_of_features(tmp_path):
    source = np.array([[4, 2], [7, -1], [-1, -1]])
    store = opened(arrays(tmp_path, target=TARGET, source=source), tmp_path)
    assert store.source_vocabulary == 8
    rows = [store[i][1] for i in range(3)]
    np.testing.assert_array_equal([r["source"] for r in rows], [[4, 2], [7, 0], [0, 0]])
    np.testing.assert_array_equal([r["source_mask"] for r in rows], [[1, 1], [1, 0], [0, 0]])
    assert rows[0]["source"].dtype == np.int32
    features = np.random.default_rng(0).normal(size=(3, 2, 4))
    store = opened(arrays(tmp_path, target=TARGET, source=features), tmp_path)
    np.testing.assert_array_equal(store[2][1]["source"], features[2].astype(np.float32))
    assert store[2][1]["source_mask"] is None
    assert store.source_vocabulary is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": TARGET}, "lacks the array 'target'"),
        ({"target": TARGET.astype(float)}, "'target' is float64"),
        ({"target": TARGET[0]}, "shape \\(3,\\)"),
        ({"target": TARGET - 1}, "outside of -1"),
        ({"target": np.array([[1, -1, 2]])}, "row 0 of 'target' goes on after a -1"),
        ({"target": TARGET, "length": [3, 2, 2]}, "row 1 of 'target' has no 2 tokens"),
        ({"target": TARGET, "length": [3, 1]}, "'length' must be integers"),
        ({"target": TARGET, "source": TARGET[:2]}, "2 rows of 'source' for 3"),
        ({"target": TARGET, "source": np.full((3, 2, 2), np.nan)}, "not finite"),
        ({"target": TARGET, "source": np.ones((3, 2))}, "integers of two dimensions or float"),
        ({"target": TARGET, "source": np.array(["a", "b", "c"])}, "'source' is <U1"),
    ],
)
def test_arrays_that_make_no_sense(tmp_path, given, message):
    with pytest.raises(UserError, match=rf"a\.npz: .*{message}"):
        opened(arrays(tmp_path, **given), tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("name", "data", "field", "message"),
    [
        ("a.txt", b"one\ntwo\ncaf\xe9\n", None, r"a\.txt: line 3 is not UTF-8 \(byte 0xe9\)"),
        ("a.txt.gz", b"one\n\xff", None, r"a\.txt\.gz: line 2 is not UTF-8"),
        ("a.txt", b"one\n\0\1\2", None, r"a\.txt: line 2 has a zero byte"),
        ("a.txt", "one\n".encode("utf-16"), None, "not UTF-8|zero byte"),
        ("a.txt", b"one\n" + b"x" * 2**20 + b"\n", None, "line 2 is longer than 1,048,576"),
        ("a.zst", b"x" * 2**22, None, "line 1 is longer than 1,048,576"),
        ("a.jsonl", b'{"a": "b"}\n{"b": "c"}', "a", r"line 2 has no field 'a'"),
        ("a.jsonl", b'{"a": "b"}\n[]', "a", r"line 2 has no field 'a'"),
        ("a.jsonl", b'{"a": "b"}\n\n{"a": 3}', "a", r"line 3: the field 'a' is no text but int"),
        ("a.jsonl", b'{"a": "b"}\n{"a":', "a", r"line 2 is not JSON"),
        ("a.jsonl", b'{"a": "b"}', None, r"config\.data\.field is not set"),
        ("a.txt", b"one", "a", r"config\.data\.field: .*a\.txt has lines and no fields"),
        ("a.csv", b"b,c\n1,2\n", "a", r"no column 'a' in its first line \(b, c\)"),
        ("a.csv", b"b,a\n1,2\n3\n", "a", r"line 3 has no field 'a' but 1 columns"),
        ("a.csv", b'a\n"one\ntwo\n', "a", r"line 3: unexpected end of data"),
        ("a.csv", b"", "a", r"no column 'a'"),
        ("a.npz", b"no such thing", None, r"a\.npz: no whole \.npz"),
    ],
)
def test_bad_files(tmp_path, name, data, field, message):
    path = written(tmp_path, name, data)
    with pytest.raises(UserError, match=message) as error:
        texts(opened(path, tmp_path, field=field))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
def test_torn_files(tmp_path, name):
    rng = np.random.default_rng(0)
    path = written(tmp_path, name, rng.bytes(3000).hex().encode() + b"\n")
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(UserError, match=r"can't be decompressed"):
        texts(opened(path, tmp_path))
    path.write_bytes(b"not compressed at all")
    with pytest.raises(UserError, match=r"can't be decompressed"):
        texts(opened(path, tmp_path))


def test_nothing_to_read(tmp_path):
    for path, message in (
        (tmp_path / "no-such.txt", "no such file"),
        (tmp_path / "*.txt", "no such file, and no file matches"),
        (tmp_path, "a folder; name its files"),
        (None, r"config\.data\.path is not set"),
    ):
        with pytest.raises(UserError, match=message):
            opened(path, tmp_path)
    for option, value in (("source", "web"), ("unicode", "NFX")):
        with pytest.raises(UserError, match=rf"^config\.data\.{option}: no \w+ '{value}'; choose"):
            opened(None, tmp_path, **{option: value})
