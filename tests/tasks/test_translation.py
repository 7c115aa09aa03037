"""What the translation task says of hand-made translations and of a user's own texts."""

import io
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.tasks.translation import Translation

ROOT = Path(__file__).parents[2]


class Told:
    """A display that remembers its messages."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def track(self, items, total, description):
        del total, description
        return items


def config_of(**changes):
    config = runpy.run_path(str(ROOT / "configs" / "translation.py"))["get_config"]("smoke")
    config.data.update(validation_size=40, test_size=30)
    config.update_from_flattened_dict(changes)
    return config.lock()


def task_of(folder, **changes):
    told = Told()
    return Translation(config_of(**changes), folder, told), told


@pytest.fixture(scope="module")
def phrases(tmp_path_factory):
    return task_of(tmp_path_factory.mktemp("run"))[0]


@pytest.fixture
def corpus(tmp_path):
    """Forty German sentences with English words for them."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = {
        "train.de": [f"der Hund Nummer {i} läuft" for i in range(40)],
        "train.en": [f"dog number {i} runs" for i in range(40)],
        "val.de": ["der Hund läuft", "der Hund Nummer 3 läuft läuft läuft läuft läuft"],
        "val.en": ["the dog runs", "dog number 3 runs and runs and runs and runs"],
    }
    for name, texts in lines.items():
        (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


WORDS = {
    "codec.kind": "word",
    "codec.shared": False,
    "codec.max_length": 6,
    "codec.max_source_length": 8,
    "data.source_language": "de",
    "data.target_language": "en",
    "data.validation_size": 5,
}


def sample_of(task, texts):
    tokens = np.array(
        [(task.codec.encode(text) + [0] * task.length)[: task.length] for text in texts]
    )
    log_probs = -1.0 - np.arange(len(texts))
    return Sample(tokens, tokens > 0, log_probs, np.full(len(texts), 0.25))


# Data


def test_a_row_holds_both_sides(phrases):
    for batches in (
        phrases.training_batches(batch_size=8, targets=1, seed=0, start=0),
        phrases.pairs("test", batch_size=8, limit=None),
    ):
        batch = next(batches)
        for row in range(8):
            number = int(batch["example_id"][row])
            split = "test" if number >= 2**30 else "train"
            pair = phrases.splits[split].pairs[number % 2**29]
            source = batch["source"][row][batch["source_mask"][row] > 0]
            assert phrases.source_codec.decode(source) == pair.source
            assert source[-1] == 2
            assert phrases.decode(batch["target"][row]) == phrases.codec.normalise(pair.target)
        assert batch["source"].dtype == np.int32
        assert batch["source"].shape == (8, phrases.source_length)
    assert "target" not in next(phrases.sources("test", batch_size=4, limit=4))
    for name, leaf in phrases.template().items():
        assert leaf.shape[1:] == batch[name].shape[1:]
        assert leaf.dtype == batch[name].dtype


def test_rewards_know_references_as_evaluation_does(tmp_path, corpus):
    changes = {"data.source_language": "en", "data.target_language": "de"}
    changes |= {"data.path": str(corpus), "codec.lowercase": True}
    task, _ = task_of(tmp_path, **WORDS | changes)
    pair = task.splits["train"].pairs[3]
    assert task.training_texts(np.array([3])) == ([[pair.target.lower()]], [pair.source])
    assert pair.target.lower() != pair.target
    for language, tokenizer in (("de", "13a"), ("zh_Hans", "zh"), ("ja", "char")):
        with task._config.unlocked():
            task._config.data.target_language = language
        assert task.tokenizer == tokenizer


def test_little_of_a_batch_is_padding(tmp_path):
    usual = runpy.run_path(str(ROOT / "configs" / "translation.py"))["get_config"]()
    task, _ = task_of(tmp_path, **{"data.num_buckets": usual.data.num_buckets})
    batches = task.training_batches(batch_size=64, targets=1, seed=0, start=0, cut=True)
    masks = [next(batches)[name] for _ in range(40) for name in ("mask", "source_mask")]
    assert 1 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks) < 0.15


def test_no_two_splits_share_an_example(phrases):
    ids = [next(phrases.sources(s, batch_size=9, limit=9))["example_id"] for s in phrases.splits]
    assert len(set(np.concatenate(ids))) == 27


def test_batches_cut_to_buckets_hold_little_padding(phrases):
    settings = {"batch_size": 16, "targets": 1, "seed": 0, "start": 0}
    shares, shapes = {}, set()
    for cut in (False, True):
        batches = phrases.training_batches(**settings, cut=cut)
        masks = [next(batches)[name] for _ in range(64) for name in ("mask", "source_mask")]
        shares[cut] = 1 - sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)
        shapes |= {mask.shape for mask in masks if cut}
    assert shares[True] < shares[False] - 0.1
    # The smoke variant's two buckets, or uncut on either side.
    assert len(shapes) <= 4


def test_phrases_have_no_end_and_say_so(phrases):
    for what in (phrases.pairs, phrases.sources):
        with pytest.raises(UserError, match=r"^--split=train: has no end; .* --limit"):
            what("train", batch_size=2, limit=None)
    with pytest.raises(UserError, match=r"^--split=dev: no such split; .* validation, test"):
        phrases.sources("dev", batch_size=2, limit=None)
    assert "numbers, dates, times, prices, quantities" in phrases.message
    assert "en to de" in phrases.message


def test_a_corpus_with_two_vocabularies(corpus, tmp_path):
    changes = WORDS | {"data.path": str(corpus)}
    task, told = task_of(tmp_path / "run", **changes)
    assert "läuft" in task.source_codec.tokens
    assert "läuft" not in task.codec.tokens
    assert task.source_vocabulary == len(task.source_codec.tokens) != task.codec.vocabulary.size
    assert [len(task.splits[name]) for name in ("train", "validation", "test")] == [35, 5, 2]
    assert told.messages == [
        "data: 35 of 35 training pairs; left out are 0 of more than 8 source or 6 target tokens "
        "and 0 with one side more than 3 times as long as the other",
        "data: of 7 held-out pairs 1 sources have more than 8 tokens and are cut, and 1 targets "
        "more than 6, which no translation has (config.codec.max_source_length, "
        "config.codec.max_length)",
    ]
    # A held-out source that is too long is cut, and keeps its end.
    batch = next(task.sources("test", batch_size=2, limit=None))
    assert task.source_codec.decode(batch["source"][1]) == "der Hund Nummer 3 läuft läuft läuft"
    assert batch["source"][1, -1] == 2
    # Writing needs no data, only the run.
    (tmp_path / "run" / "config.json").write_text("{}")
    for file in corpus.iterdir():
        file.unlink()
    again, _ = task_of(tmp_path / "run", **changes)
    assert again.source_codec.tokens == task.source_codec.tokens
    assert again.codec.tokens == task.codec.tokens
    assert again.source_vocabulary == task.source_vocabulary
    names, _ = again.request({"text": ["der Hund"], "input": None})
    assert names == ["der Hund"]


def test_a_corpus_with_one_vocabulary(corpus, tmp_path):
    task, _ = task_of(tmp_path, **WORDS | {"data.path": str(corpus), "codec.shared": True})
    assert task.source_codec is task.codec
    assert {"läuft", "runs"} <= set(task.codec.tokens)
    assert task.beam == ("bleu", "chrf")


def test_pairs_of_unfit_lengths_are_left_out_and_told(corpus, tmp_path):
    limits = {"codec.max_length": 5, "data.max_ratio": 1.0}
    task, _ = task_of(tmp_path / "a", **WORDS | limits | {"data.path": str(corpus)})
    with pytest.raises(UserError, match=r"no training pair is within config\.codec\.max_length"):
        task.split("train")
    with open(corpus / "train.en", "a") as file:
        file.write("a b c d e f g h\na\n")
    with open(corpus / "train.de", "a") as file:
        file.write("eins zwei\neins zwei drei vier fünf sechs\n")
    changes = {"data.path": str(corpus), "data.validation_size": 1}
    task, told = task_of(tmp_path / "b", **WORDS | changes)
    kept = len(task.splits["train"])
    held_out = [pair.target for pair in task.splits["validation"].pairs]
    assert kept == 40 - len([text for text in held_out if text.startswith("dog")])
    long, uneven = (text not in held_out for text in ("a b c d e f g h", "a"))
    assert f"left out are {int(long)} of more than" in told.messages[0]
    assert f"and {int(uneven)} with one side" in told.messages[0]


def test_buckets_are_those_of_pairs_from_all_over_a_sorted_file(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("seqgan_jax.tasks.translation._FIT", 10)
    lines = [("Hund " * n, "dog " * n) for n in range(1, 41)]
    for name, side in (("train.de", 0), ("train.en", 1)):
        (corpus / name).write_text("".join(f"{line[side]}\n" for line in lines))
    limits = {"codec.max_length": 50, "codec.max_source_length": 50, "data.validation_size": 1}
    task, _ = task_of(tmp_path, **WORDS | limits | {"data.path": str(corpus)})
    assert max(task.buckets) >= 40


def test_phrases_that_are_too_long_are_told(tmp_path):
    task, told = task_of(tmp_path, **{"codec.max_length": 20})
    task.split("train")
    assert re.search(
        r" 0 sources .* and [1-9]\d* targets more than 20, which no", told.messages[-1]
    )


@pytest.mark.parametrize("language", ["fr", "ar"])
def test_phrases_in_other_languages_have_the_pieces_that_they_have(tmp_path, language):
    task, _ = task_of(tmp_path, **{"data.target_language": language, "codec.max_length": 200})
    assert 100 < task.codec.vocabulary.size <= 300
    assert task.decode(task.codec.encode(task.splits["test"].pairs[0].target))


def test_a_variant_for_files_says_that_none_are_named(tmp_path):
    with pytest.raises(UserError, match=r"^config\.data\.path is not set: say .*train.en and"):
        task_of(tmp_path, **{"data.source": "path"})


@pytest.mark.parametrize("option", ["max_length", "max_source_length"])
def test_lengths_that_make_no_sense(tmp_path, option):
    with pytest.raises(UserError, match=rf"^config\.codec.{option}: 1 leaves no room"):
        task_of(tmp_path, **{f"codec.{option}": 1})


# A user's own texts


def test_texts_files_and_standard_input(phrases, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("\ufefffive\n  six \n", encoding="utf-8")
    names, batch = phrases.request({"text": ["four", "5:00:00"], "input": str(tmp_path / "in.txt")})
    assert names == ["four", "5:00:00", "five", "six"]
    decoded = [phrases.source_codec.decode(ids) for ids in batch["source"]]
    assert decoded == names
    assert batch["weight"].tolist() == [1, 1, 1, 1]
    assert batch["source_mask"].sum(1).tolist() == (batch["source"] > 0).sum(1).tolist()
    given = io.TextIOWrapper(io.BytesIO("\ufeffone\ntwo\n".encode()), encoding="latin-1")
    monkeypatch.setattr("sys.stdin", given)
    assert phrases.request({"text": None, "input": "-"})[0] == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\n\ntwo\n", r"in.txt: line 2: is empty; leave it out"),
        (b"one\ntw\xf6\n", r"in.txt: line 2 is not UTF-8"),
        (b"one\n" + b"seven " * 40, r"in.txt: line 2: has \d+ tokens, and this model reads 30 at"),
        (b"", "^--text: none given; name a text, or a file .* --input"),
        (None, r"in.txt: can't be read \(No such file"),
    ],
)
def test_bad_input(phrases, tmp_path, content, message):
    if content is not None:
        (tmp_path / "in.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        phrases.request({"text": None, "input": str(tmp_path / "in.txt")})


def test_bad_texts(phrases, monkeypatch):
    with pytest.raises(UserError, match=r"^--text: none given"):
        phrases.request({"text": None, "input": None})
    with pytest.raises(UserError, match=r"^--text: is empty"):
        phrases.request({"text": ["one", "  "], "input": None})
    with pytest.raises(UserError, match=r"^--text: has \d+ tokens, .* split the text: seven seven"):
        phrases.request({"text": ["seven " * 40], "input": None})
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa\nb\n\xf6"), encoding="utf-8")
    )
    with pytest.raises(UserError, match=r"^--input=-: what was read is not UTF-8, in line 3"):
        phrases.request({"text": None, "input": "-"})
    # What Python makes of such an argument, and of standard input in some locales.
    with pytest.raises(UserError, match=r"^--text: is not UTF-8; convert it"):
        phrases.request({"text": ["tw\udcf6"], "input": None})


# What was written


def test_figures_are_what_hand_made_translations_deserve(phrases):
    pairs = [phrases.splits["test"].pairs[i] for i in range(30)]
    texts = [phrases.codec.normalise(pair.target) for pair in pairs]
    perfect = phrases.judge("test", texts)
    assert perfect["bleu"].value == pytest.approx(100)
    assert perfect["exact_match"].value == 1
    wrong = [text if i % 3 else f"{text} x" for i, text in enumerate(texts)]
    figures = phrases.judge("test", wrong)
    assert figures["exact_match"].value == pytest.approx(20 / 30)
    assert figures["quality_diversity"] == figures["exact_match"]
    assert figures["bleu"].value < 100
    for kind in {pair.kind for pair in pairs}:
        right = [bool(i % 3) for i, pair in enumerate(pairs) if pair.kind == kind]
        assert figures[f"exact_match_{kind}"].value == pytest.approx(np.mean(right))
    # What beam search is judged by is among the figures.
    assert set(phrases.beam) <= set(figures)


def test_tokens_are_judged_as_their_text(phrases):
    texts = [phrases.splits["test"].pairs[0].target, "vier"]
    samples = [sample_of(phrases, [texts[0], "fünf"]), sample_of(phrases, [texts[1]])]
    found = phrases.evaluate("test", samples, None, thorough=False)
    assert found == phrases.judge("test", texts)
    assert found["exact_match"].value == 0.5


def test_copied_sources_are_the_baseline(phrases):
    columns, lines = phrases.comparisons("test", 30, 1)
    figures = columns["source copied"]
    pairs = [phrases.splits["test"].pairs[i] for i in range(30)]
    same = np.mean([pair.source == pair.target for pair in pairs])
    assert figures["exact_match"].value == same < 0.1
    assert figures["chrf"].value > 1
    assert lines[0].startswith("bleu: sacrebleu nrefs:1|")
    assert lines[1].startswith("chrf: sacrebleu nrefs:1|")


def test_files_have_no_kinds(corpus, tmp_path):
    task, _ = task_of(tmp_path, **WORDS | {"data.path": str(corpus)})
    figures = task.judge("test", ["the dog runs", "runs"])
    assert set(figures) == {"bleu", "chrf", "quality_diversity"}
    assert figures["quality_diversity"] == figures["bleu"]


def test_what_was_written_in_words(phrases):
    sample = sample_of(phrases, ["vier", "fünf Euro"])
    assert phrases.row("four", sample) == {
        "source": "four",
        "translations": [
            {"translation": "vier", "log_prob": -1.0, "score": 0.25},
            {"translation": "fünf Euro", "log_prob": -2.0, "score": 0.25},
        ],
    }
    assert phrases.describe("four", sample) == [
        "four",
        "  vier  (log-probability -1.00, discriminator 0.25)",
        "  fünf Euro  (log-probability -2.00, discriminator 0.25)",
    ]


def test_samples_and_attention_are_drawn(phrases, tmp_path):
    samples = [sample_of(phrases, ["vier"]), sample_of(phrases, ["fünf"])]
    attention = np.full((phrases.length, phrases.source_length), 1 / phrases.source_length)
    drawn = phrases.illustrate(tmp_path / "s", "validation", samples, attention)
    rows = json.loads((tmp_path / "s" / "translations.json").read_text())
    pairs = [phrases.splits["validation"].pairs[i] for i in range(2)]
    assert [row["source"] for row in rows] == [pair.source for pair in pairs]
    assert [row["reference"] for row in rows] == [pair.target for pair in pairs]
    assert [row["translation"] for row in rows] == ["vier", "fünf"]
    with Image.open(tmp_path / "s" / "attention.png") as image:
        np.testing.assert_array_equal(np.asarray(image), drawn["attention"])
        # 0.4 inches a token at 100 dots, the end too, beside labels of 1.5 and a margin of 0.3.
        tokens = [
            len(phrases.source_codec.encode(pairs[0].source)),
            len(phrases.codec.encode("vier")),
        ]
        assert image.size == tuple(180 + 40 * count for count in tokens)
    assert phrases.illustrate(tmp_path / "t", "validation", samples, None) == {}


@pytest.mark.parametrize(
    "variant", ["default", "smoke", "multi30k", "transformer", "dual", "large"]
)
def test_variants_are_whole(variant):
    from seqgan_jax.training import phases

    config = runpy.run_path(str(ROOT / "configs" / "translation.py"))["get_config"](variant)
    found = phases.parse(config.phases)
    assert [phase.name for phase in found] == list(config.phases.order)
    aligning = ["align", "dual"] if variant == "dual" else ["align"]
    assert [phase.name for phase in found if not phase.noise] == aligning
    reward = phases.parse_reward(config.reward, found)
    mixed = ("", 0.0) if variant in ("default", "smoke") else ("bleu", 0.9)
    assert (reward.function, reward.weight) == mixed
