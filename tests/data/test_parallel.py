"""Pairs read from files written by hand, and what is said about files that are wrong."""

import tracemalloc

import ml_collections
import pytest

from seqgan_jax.data import parallel
from seqgan_jax.data.parallel import Pair
from seqgan_jax.errors import UserError

GERMAN = [f"Satz {i}" for i in range(30)]
ENGLISH = [f"sentence {i}" for i in range(30)]


def settings(path, **changes):
    values = {"source_language": "de", "target_language": "en"}
    values |= {"path": str(path), "validation_size": 4, "test_size": 3}
    return ml_collections.ConfigDict(values | changes)


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.de", GERMAN)
    write(tmp_path / "train.en", ENGLISH)
    return tmp_path


def texts(split):
    return [tuple(pair[:2]) for pair in split]


ALL = list(zip(GERMAN, ENGLISH, strict=True))


def test_lines_are_paired_and_some_are_kept_out(folder):
    splits = parallel.load(settings(folder))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [23, 4, 3]
    assert sorted(pair for split in splits.values() for pair in texts(split)) == sorted(ALL)
    assert texts(splits["train"]) == [pair for pair in ALL if pair in texts(splits["train"])]


def test_what_is_kept_out_depends_on_no_order(folder):
    before = parallel.load(settings(folder))
    write(folder / "train.de", GERMAN[::-1])
    write(folder / "train.en", ENGLISH[::-1])
    after = parallel.load(settings(folder))
    assert {k: set(texts(v)) for k, v in after.items()} == {
        k: set(texts(v)) for k, v in before.items()
    }


def test_equal_sources_are_never_in_two_splits(tmp_path):
    write(tmp_path / "pairs.tsv", [f"Satz {i % 10}\tsentence {i}" for i in range(60)])
    splits = parallel.load(settings(tmp_path / "pairs.tsv"))
    sources = [{pair.source for pair in split} for split in splits.values()]
    assert sum(map(len, sources)) == 10
    assert all(sources)


@pytest.mark.parametrize(
    ("files", "kept_out"),
    [
        ({}, {"validation", "test"}),
        ({"val": "test"}, {"validation"}),
        ({"test": "test"}, {"validation"}),
        ({"dev": "validation", "test": "test"}, set()),
        ({"validation": "validation", "test": "test"}, set()),
    ],
)
def test_files_for_validation_and_test(folder, files, kept_out):
    for name, split in files.items():
        write(folder / f"{name}.de", [f"{split} {i}" for i in range(5)])
        write(folder / f"{name}.en", [f"{split} {i}" for i in range(5)])
    splits = parallel.load(settings(folder))
    for split in files.values():
        assert texts(splits[split]) == [(f"{split} {i}",) * 2 for i in range(5)]
    sizes = {"validation": 4, "test": 3}
    assert {split for split in sizes if len(splits[split]) == sizes[split]} == kept_out
    assert len(splits["train"]) == 30 - sum(sizes[split] for split in kept_out)


def test_a_prefix_and_a_table(folder):
    expected = {k: texts(v) for k, v in parallel.load(settings(folder)).items()}
    found = parallel.load(settings(folder / "train"))
    assert {k: texts(v) for k, v in found.items()} == expected
    for name, rows in (
        ("plain", [f"{a}\t{b}" for a, b in ALL]),
        ("header", ["id\ten\tde", *(f"{i}\t{b}\t{a}" for i, (a, b) in enumerate(ALL))]),
        ("dialects", ["EN-gb\tDE", *(f"{b}\t{a}" for a, b in ALL)]),
    ):
        write(folder / f"{name}.tsv", rows)
        found = parallel.load(settings(folder / f"{name}.tsv"))
        assert {k: texts(v) for k, v in found.items()} == expected


@pytest.mark.parametrize(
    ("rows", "pairs"),
    [
        (
            ["eins\tone", "nur\t", "\tonly", "zwei\ttwo"],
            [("eins", "one"), ("nur", ""), ("", "only"), ("zwei", "two")],
        ),
        (["\tone\t5", "eins\tone\t5"], [("", "one"), ("eins", "one")]),
        (["\tde\ten", "0\tHund\tdog", "1\tnur"], [("Hund", "dog"), ("nur", "")]),
        (["a\tb\rc", "x" * 140_000 + "\ty"], [("a", "b\rc"), ("x" * 140_000, "y")]),
    ],
)
def test_cells_of_a_table_stay_in_their_columns(tmp_path, rows, pairs):
    (tmp_path / "a.tsv").write_bytes("\n".join(rows).encode() + b"\r\n")
    found = list(parallel.read_tsv(tmp_path / "a.tsv", ("de", "en")))
    assert found == [Pair(*pair) for pair in pairs]


def test_quotation_marks_are_text(tmp_path):
    write(tmp_path / "pairs.tsv", ['"Ja\t"yes', 'sagte er"\the said"'])
    pairs = list(parallel.read_tsv(tmp_path / "pairs.tsv", ("de", "en")))
    assert pairs == [Pair('"Ja', '"yes'), Pair('sagte er"', 'he said"')]


TMX = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="de"/><body>
<tu><tuv xml:lang="de-AT"><seg>Grüß  Gott</seg></tuv><tuv xml:lang="EN"><seg>hello</seg></tuv></tu>
<tu><note>x</note><tuv lang="de"><seg>ein <bpt i="1">&lt;b></bpt>dicker<ept i="1">&lt;/b></ept>
 <hi>Hund</hi>!</seg></tuv><tuv lang="fr"><seg>chien</seg></tuv>
<tuv lang="en-GB"><seg>a fat dog!</seg></tuv></tu>
<tu><tuv xml:lang="de"><seg>nur</seg></tuv></tu>
<tu><tuv xml:lang="de"><seg>leer</seg></tuv><tuv xml:lang="en"><seg> </seg></tuv></tu>
</body></tmx>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_translation_memories(tmp_path, encoding):
    path = tmp_path / "memory.tmx"
    path.write_bytes(TMX.format(encoding=encoding).encode(encoding))
    pairs = list(parallel.read_tmx(path, ("de", "en")))
    assert pairs == [
        Pair("Grüß Gott", "hello"), Pair("ein dicker Hund!", "a fat dog!"), Pair("leer", ""),
    ]  # fmt: skip


def test_a_translation_memory_is_read_in_constant_memory(tmp_path):
    unit = '<tu><tuv xml:lang="de"><seg>{0}</seg></tuv><tuv xml:lang="en"><seg>{0}</seg></tuv></tu>'
    peaks = []
    for count in (2_000, 8_000):
        path = tmp_path / f"{count}.tmx"
        units = "".join(unit.format(f"{i} {'x' * 60}") for i in range(count))
        path.write_text(f"<tmx><body>{units}</body></tmx>")
        tracemalloc.start()
        assert sum(1 for _ in parallel.read_tmx(path, ("de", "en"))) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Elements that stayed would make it four times as much.
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize(
    ("sources", "targets"),
    [("abcdefg", "vwxyz"), ("abcdefg", ""), ("", "xyz")],
)
def test_every_text_without_a_pair_is_read(sources, targets):
    pairs = [parallel.Pair(f"source {i}", f"target {i}") for i in range(3)]
    # The longest first: they come in the order of their lengths.
    grown = lambda texts: [text * (9 - i) for i, text in enumerate(texts)]
    rows = list(parallel.Apart(pairs, grown(sources), grown(targets)))
    paired, alone = rows[::2], rows[1::2]
    assert all(pair in pairs for pair in paired)
    assert not any(pair.paired for pair in alone)
    for side, texts in (("source", grown(sources)), ("target", grown(targets))):
        found = [getattr(pair, side) for pair in alone]
        # Without any of its own, a side has the pairs'.
        assert set(found) == set(texts or (getattr(pair, side) for pair in pairs))
        assert [len(text) for text in found] == sorted(len(text) for text in found)
    assert len(rows) == 2 * max(map(len, (sources, targets, pairs)))


def test_pairs_are_split_apart_at_random():
    pairs = [parallel.Pair(str(i), str(-i)) for i in range(1000)]
    some, others = parallel.split_apart(pairs, 0.1, 0)
    assert (len(some), len(others)) == (100, 900)
    assert sorted(some + others) == sorted(pairs)
    assert some == [pair for pair in pairs if pair in some]
    # A tenth of any hundred of them, but for chance (4 standard deviations).
    for first in range(0, 1000, 100):
        assert abs(sum(first <= int(pair.source) < first + 100 for pair in some) - 10) <= 12
    assert parallel.split_apart(pairs, 0.1, 0)[0] == some
    assert parallel.split_apart(pairs, 0.1, 1)[0] != some
    assert parallel.split_apart(pairs, 1.0, 0) == (pairs, [])


def test_long_and_uneven_pairs_are_counted():
    pairs = [
        Pair("a " * m, "b " * n) for m, n in [(3, 3), (9, 3), (10, 3), (3, 10), (11, 9), (6, 8)]
    ]
    kept, dropped = parallel.filtered(
        pairs,
        lambda pair: (len(pair.source.split()), len(pair.target.split())),
        limits=(10, 9),
        max_ratio=3,
    )
    assert kept == [pairs[0], pairs[1], pairs[5]]
    assert dropped == (6, 2, 1)


def test_pairs_that_are_empty_on_one_side(folder):
    write(folder / "train.de", ["", *GERMAN[1:7], "", *GERMAN[8:]])
    write(folder / "train.en", ["", *ENGLISH[1:9], "  ", *ENGLISH[10:]])
    told = []
    splits = parallel.load(settings(folder), report=told.append)
    assert sum(map(len, splits.values())) == 27
    assert told == [
        f"{folder / 'train.de'}: 2 pairs are empty on one side, the first of them number 8; "
        "left out"
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.en", b"one\ntwo\n", r"train.de has 30 lines, .*train.en has 2; line n of one"),
        ("train.de", b"eins\n" * 31, r"train.de has 31 lines, .*train.en has 30;"),
        ("train.en", b"one\ntw\xf6\n", r"train.en: line 2 is not UTF-8; convert"),
        ("train.en", None, r"train.en: can't be read \(No such file"),
        ("train.en", b"\n" * 30, r"train.de: no pairs with text on both sides"),
        ("val.de", b"eins\n", r"val.en: can't be read"),
    ],
)
def test_bad_files(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        parallel.load(settings(folder))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"eins\tone\nzwei\n", r"a.tsv: line 2 has 1 columns, not 2; put a tab"),
        ("a.tsv", b"id\ten\tde\n5\n", r"a.tsv: line 2 has 1 columns, not 3; put a tab"),
        ("a.tsv", b"id\tx\ten\tde\n5\tx\n", r"a.tsv: line 2 has 2 columns, not 4; put a tab"),
        ("a.tsv", b"", r"a.tsv: no pairs"),
        ("a.tsv", b"fr\ten\nun\tone\n", r"a.tsv: its columns are fr, en; set config.data.source"),
        ("a.tmx", b"<tmx><body><tu>", r"a.tmx: is no TMX file \(no element found: line 1"),
        (
            "a.tmx",
            b"<?xml version='1.0' encoding='gb2312'?><tmx/>",
            r"a.tmx: its encoding can't be",
        ),
        ("a.tmx", b"<?xml version='1.0' encoding='none'?><tmx/>", r"a.tmx: its encoding can't be"),
        ("a.tmx", b"<tmx/>", r"a.tmx: has no translations between de and en; .* none"),
        (
            "a.tmx",
            b"<tmx><body><tu><tuv lang='fr'><seg>un</seg></tuv></tu></body></tmx>",
            r"its languages are fr$",
        ),
    ],
)
def test_bad_tables_and_memories(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        parallel.load(settings(tmp_path / name))


@pytest.mark.parametrize(
    ("path", "changes", "message"),
    [
        (
            "",
            {"source_language": "it"},
            r"has no train.it and train.en; see config.data.source_lan",
        ),
        ("missing", {}, r"missing: there is no such folder, nor files missing.de and missing.en"),
        ("missing.tsv", {}, r"missing.tsv: can't be read \(No such file"),
        ("missing.tmx", {}, r"missing.tmx: can't be read \(No such file"),
        ("", {"test_size": 26}, r"config.data.test_size \+ config.data.validation_size = 30 of 30"),
        ("", {"validation_size": 0}, r"config.data.validation_size: 0 leaves nothing"),
        ("", {"source_language": "en"}, r"config.data.target_language: en is the source's too"),
    ],
)
def test_bad_settings(folder, path, changes, message):
    if "source_language" in changes:
        (folder / "train.en").unlink()
    with pytest.raises(UserError, match=message):
        parallel.load(settings(folder / path, **changes))


def test_too_few_different_sources(tmp_path):
    write(tmp_path / "pairs.tsv", ["Satz\tsentence"] * 20)
    with pytest.raises(UserError, match="too few different sources"):
        parallel.load(settings(tmp_path / "pairs.tsv"))
