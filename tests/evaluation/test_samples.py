"""Files of samples: every way of writing them, every way of getting them wrong; calibration."""

import gzip
import json
import shutil

import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import samples, text

LINES = [f"a dog, number {i}." for i in range(25)]
WORDS = [("a", "dog", ",", "number", str(i), ".") for i in range(25)]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_compressed_and_json(tmp_path):
    plain = "\ufeff" + "\r\n".join(LINES[:3]) + "\n\n  \n" + "\n".join(LINES[3:])
    json_lines = "\n".join(map(json.dumps, LINES))
    for name, content in (
        ("a.txt", plain),
        ("b.txt.gz", gzip.compress(plain.encode())),
        ("c.jsonl", json_lines),
        ("d.jsonl.gz", gzip.compress(json_lines.encode())),
    ):
        assert samples.read(write(tmp_path / name, content), "word") == WORDS


def test_tokenizers(tmp_path):
    path = write(tmp_path / "a", "\n".join(["cafe\u0301 a.b"] * 20))
    first = lambda tokenizer: samples.read(path, tokenizer)[0]
    assert first("word") == ("café", "a", ".", "b")
    assert first("whitespace") == ("café", "a.b")
    assert first("character") == ("c", "a", "f", "é", " ", "a", ".", "b")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "a.txt: is empty"),
        ("a.txt", "\n \n", "a.txt: is empty"),
        ("a.txt", "one\ntwo", "a.txt: 2 sentences are too few"),
        ("a.txt", b"\x89PNG\0\0", "a.txt: is binary"),
        ("a.txt", "word\n".encode("utf-16"), "a.txt: is binary or UTF-16"),
        ("a.txt", b"fine\ncaf\xe9\n", r"a.txt, line 2: isn't UTF-8"),
        ("a.txt", "fine\n" + "x" * 100_001, r"line 2: has 100,001 characters"),
        ("a.txt.gz", "not compressed", r"a.txt.gz: can't be read \(Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"word" * 99, mtime=0)[:20], "a.txt.gz: can't be read"),
        ("a.jsonl", '"fine"\n{torn', "a.jsonl, line 2: is no JSON"),
        ("a.jsonl", '"fine"\n["list"]', "a.jsonl, line 2: is no JSON string"),
    ],
)
def test_bad_files(tmp_path, name, content, words):
    with pytest.raises(UserError, match=words):
        samples.read(write(tmp_path / name, content), "word")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none: can't be read \(No such file"):
        samples.read(tmp_path / "none", "word")


def test_the_same_file_twice(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(LINES))
    copy, link = tmp_path / "copy.txt", tmp_path / "link.txt"
    shutil.copy(path, copy)
    link.symlink_to(path)
    for other in (path, copy, link):
        with pytest.raises(UserError, match=r"^--samples=.* holds the same sentences"):
            samples.refuse_same("samples", path, WORDS, other, samples.read(other, "word"))
    samples.refuse_same("samples", path, WORDS, copy, WORDS[1:])


@pytest.fixture
def judged(monkeypatch):
    """What is judged against what, in place of the figures."""
    calls = []
    monkeypatch.setattr(text, "figures", lambda *args, **options: calls.append(args) or {})
    return calls


def test_calibration_halves_the_references_and_cuts_all_to_one_size(judged):
    real = [(f"r{i}",) for i in range(40)]
    ours, theirs = [(f"a{i}",) for i in range(30)], [(f"b{i}",) for i in range(15)]
    options = {"seed": 0, "thorough": False, "track": lambda title: iter}
    columns, note = samples.judge({"a": ours, "b": theirs}, real, None, calibrate=True, **options)
    assert list(columns) == ["a", "b", "references"]
    assert note.startswith("15 sentences of each, against 20 references; the column 'references'")
    for (found, against, training), source in zip(judged, (ours, theirs, real), strict=True):
        assert len(set(found)) == len(found) == 15
        assert set(found) <= set(source)
        assert against == judged[0][1]
        assert training is None
    assert len(set(judged[0][1])) == 20
    assert not set(judged[0][1]) & set(judged[2][0])

    columns, note = samples.judge({"a": ours}, real, real, calibrate=False, **options)
    assert list(columns) == ["a"]
    assert note == "30 sentences of each, against 40 references"
    assert judged[-1] == (ours, real, real)
