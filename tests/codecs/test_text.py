import json
import random

import pytest

from seqgan_jax.codecs.text import TextCodec, split_words
from seqgan_jax.errors import UserError

CORPUS = [
    "A dog runs.",
    "A dog doesn't sit, it runs!",
    'The "old" man feeds 3.5 dogs at 10:30',
    "A cat and a dog",
]
CHINESE = ["两只狗在草地上跑", "一只猫坐在椅子上", "两个人在街上走"]
SUBJECTS = ("a horse", "the small dog", "two people", "a woman")
VERBS = ("jumping over", "watching", "quickly passing", "near", "left of")
OBJECTS = ("brown fences", "a big red circle", "green water", "the blue square")


def sentences(count, seed=0):
    draw = random.Random(seed)
    return [" ".join(map(draw.choice, (SUBJECTS, VERBS, OBJECTS))) for _ in range(count)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog, a cat.", ["A", "dog", ",", "a", "cat", "."]),
        ("don't stop", ["don't", "stop"]),
        ("a t-shirt - red", ["a", "t-shirt", "-", "red"]),
        ("'quoted' (so)", ["'", "quoted", "'", "(", "so", ")"]),
        ("3.5 or 1,000 at 10:30.", ["3.5", "or", "1,000", "at", "10:30", "."]),
        ("end.Start", ["end", ".", "Start"]),
        ("what?!", ["what", "?", "!"]),
        ("हिन्दी है।", ["हिन्दी", "है", "।"]),
        ("一只狗,两只猫。", ["一只狗", ",", "两只猫", "。"]),
        (" \t\n", []),
    ],
)
def test_words_and_punctuation(text, words):
    assert split_words(text) == words


def test_splitting_again_changes_nothing():
    draw = random.Random(1)
    for _ in range(500):
        text = "".join(draw.choices("ab1é.,:'’-_!\" \u0301中", k=12))
        words = split_words(text)
        assert split_words(" ".join(words)) == words
        assert "".join(words) == "".join(text.split())


def test_words_are_kept_by_frequency_then_alphabet():
    codec = TextCodec.fit(["b b a a c", "d b"], kind="word", max_size=7)
    assert codec.tokens == ["<pad>", "<bos>", "<eos>", "<unk>", "b", "a", "c"]
    assert codec.dropped == 1
    assert codec.vocabulary == (7, 1, 0, 2)
    assert codec.encode("d a b") == [3, 5, 4, 2]
    assert codec.decode([1, 5, 0, 4, 3, 2, 4]) == "a b <unk>"


def test_rare_words_are_unknown():
    codec = TextCodec.fit(["b b a a c", "d b"], kind="word", min_count=2)
    assert codec.tokens[4:] == ["b", "a"]
    assert codec.dropped == 2


@pytest.mark.parametrize(
    ("kind", "texts", "size"),
    [
        ("word", CORPUS, None),
        ("character", CORPUS, None),
        ("character", CHINESE, None),
        ("sentencepiece", sentences(300), 40),
    ],
)
@pytest.mark.parametrize("lowercase", [False, True])
def test_decoding_gives_the_normalised_text(kind, texts, size, lowercase, tmp_path):
    codec = TextCodec.fit(texts, kind=kind, max_size=size, lowercase=lowercase)
    codec.save(tmp_path / "codec")
    loaded = TextCodec.load(tmp_path / "codec")
    assert loaded.tokens == codec.tokens
    assert loaded.vocabulary == codec.vocabulary
    assert codec.vocabulary.size == len(codec.tokens) == (size or len(codec.tokens))
    for text in texts:
        ids = codec.encode(text)
        assert ids[-1] == 2
        assert min(ids[:-1]) > 3
        assert codec.decode(ids) == codec.normalise(text)
        assert loaded.encode(text) == ids
        assert loaded.decode([1, *ids, 0, 0]) == codec.normalise(text)
    assert (
        codec.normalise("A  Dog!")
        == {
            ("word", False): "A Dog !",
            ("word", True): "a dog !",
            ("character", False): "A  Dog!",
            ("character", True): "a  dog!",
            ("sentencepiece", False): "A Dog!",
            ("sentencepiece", True): "a dog!",
        }[kind, lowercase]
    )


def test_both_ways_to_write_an_accent_are_one():
    codec = TextCodec.fit(["caf\u00e9"], kind="word")
    assert codec.encode("cafe\u0301") == [4, 2]


def test_sentencepiece_is_the_same_every_time():
    texts = sentences(200)
    first, second = (
        TextCodec.fit(texts, kind="sentencepiece", max_size=40, seed=3) for _ in range(2)
    )
    assert first.tokens == second.tokens
    assert first.decode(first.encode("a zebra")) == "a <unk>ebra"


def test_a_save_that_fails_keeps_the_old_file(tmp_path):
    codec = TextCodec.fit(CORPUS, kind="word")
    codec.save(tmp_path)
    broken = TextCodec.fit(CORPUS, kind="word")
    broken.dropped = object()  # not to be written as JSON
    with pytest.raises(TypeError):
        broken.save(tmp_path)
    assert TextCodec.load(tmp_path).tokens == codec.tokens
    assert [path.name for path in tmp_path.iterdir()] == ["codec.json"]


def test_a_small_corpus_has_the_pieces_that_it_has():
    codec = TextCodec.fit(CORPUS, kind="sentencepiece", max_size=5000)
    assert 20 < codec.vocabulary.size < 100
    assert all(codec.decode(codec.encode(text)) == codec.normalise(text) for text in CORPUS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": [], "kind": "word"}, "no vocabulary"),
        ({"texts": ["", " "], "kind": "word"}, "no vocabulary"),
        ({"texts": [" "], "kind": "sentencepiece", "max_size": 50}, "no vocabulary"),
        ({"texts": CORPUS, "kind": "syllable"}, "config.codec.kind"),
        ({"texts": CORPUS, "kind": "word", "max_size": 4}, "config.codec.max_size"),
        ({"texts": CORPUS, "kind": "word", "min_count": 99}, "config.codec.min_count"),
        ({"texts": CHINESE, "kind": "character", "max_size": 10}, "config.codec.max_size"),
        ({"texts": CORPUS, "kind": "sentencepiece"}, "config.codec.max_size"),
        (
            {"texts": CORPUS, "kind": "sentencepiece", "max_size": 8},
            "config.codec.max_size.*set it higher",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        TextCodec.fit(**arguments)
    assert "\n" not in str(error.value)


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"codec\.json.*No such file"):
        TextCodec.load(tmp_path)
    TextCodec.fit(CORPUS, kind="word").save(tmp_path)
    path = tmp_path / "codec.json"
    whole = path.read_text()
    changed = json.loads(whole)
    changed["tokens"][5] = "zebra"
    for damaged in ("", whole[: len(whole) // 2], "[]", "3", "{}", json.dumps(changed), "\xff"):
        path.write_text(damaged, encoding="latin-1")
        with pytest.raises(UserError, match=r"codec\.json.*damaged"):
            TextCodec.load(tmp_path)


# Patterns

SMILES = r"regex:\[[^\]]+\]|Br|Cl|%\d\d|[A-Za-z]|\d|[()=#+\-/\\@.]"


@pytest.mark.parametrize(
    ("kind", "text", "tokens", "decoded"),
    [
        (SMILES, "CC(=O)[nH]1Cl", ["C", "C", "(", "=", "O", ")", "[nH]", "1", "Cl"], None),
        (r"regex:\S+", "C4:q  D4:e |", ["C4:q", "D4:e", "|"], "C4:q D4:e |"),
        (r"regex:[A-Z]+\d|\s", "AB1 C2", ["AB1", " ", "C2"], None),
        (r"regex:(a)|(b)", "ab", ["a", "b"], None),
        # What doesn't match stays visible.
        (r"regex:E\d+", "E1 (bad) E22;E3", ["E1", "(bad)", "E22", ";", "E3"], "E1 (bad) E22 ; E3"),
        (r"regex:x*", "xxyx", ["xx", "y", "x"], None),
    ],
)
def test_matches_of_a_pattern_are_tokens(kind, text, tokens, decoded, tmp_path):
    codec = TextCodec.fit([text], kind=kind)
    assert codec.split(text) == tokens
    assert sorted(codec.tokens[4:]) == sorted(set(tokens))
    codec.save(tmp_path)
    for known in (codec, TextCodec.load(tmp_path)):
        assert known.decode(known.encode(text)) == known.normalise(text) == (decoded or text)
    assert codec.identity != TextCodec.fit([text], kind="word").identity


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"\d+", "matches nothing in the training texts"),
        ("x*", "matches nothing"),
        ("", "matches nothing"),
        ("(", "no regular expression .*mend it"),
    ],
)
def test_patterns_of_no_use_are_refused(pattern, message):
    with pytest.raises(UserError, match=rf"^config\.codec\.kind: regex:.* {message}") as error:
        TextCodec.fit(["a dog", "a cat"], kind=f"regex:{pattern}")
    assert "\n" not in str(error.value)


def test_tokens_as_strings_know_no_vocabulary():
    codec = TextCodec.fit(["a a b"], kind="word", min_count=2, lowercase=True)
    assert codec.split("A zebra, b.") == ["a", "zebra", ",", "b", "."]
    assert codec.decode(codec.encode("A zebra")) == "a <unk>"
    pieces = TextCodec.fit(sentences(200), kind="sentencepiece", max_size=40)
    text = sentences(1)[0]
    assert "".join(pieces.split(text)).replace("\u2581", " ").strip() == text
    assert len(pieces.split(text)) == len(pieces.encode(text)) - 1
