"""What the speech task says of real recordings, of hand-made samples and of a user's own texts."""

import json
import runpy
import wave
from pathlib import Path

import jax
import numpy as np
import pytest

from seqgan_jax.codecs.mel import EOS, PAD, Analysis
from seqgan_jax.data import speech as data
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import judges
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.tasks import speech
from seqgan_jax.tasks.speech import Speech
from seqgan_jax.training import phases

ROOT = Path(__file__).parents[2]


class Told:
    """A display that remembers what it was told."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def track(self, items, total, description):
        self.messages.append(f"{description}, {total}")
        return items


def task_of(folder, **changes):
    config = runpy.run_path(str(ROOT / "configs" / "speech.py"))["get_config"]("smoke")
    config.data.update(train_size=24, validation_size=12, test_size=20)
    config.update_from_flattened_dict(changes)
    told = Told()
    return Speech(config.lock(), folder, told), told


class Deaf:
    """A recogniser that always hears the same."""

    def __init__(self, heard):
        self.heard = heard

    def __call__(self, recordings):
        return [self.heard] * len(recordings)


@pytest.fixture
def judged(monkeypatch):
    """What the fresh judge is given: real and generated sequences, without their padding."""
    given = []

    def judge(real, generated, *, vocabulary_size, real_mask, generated_mask, **_):
        assert max(real.max(), generated.max()) < vocabulary_size
        pairs = ((real, real_mask), (generated, generated_mask))
        given.append([[row[m > 0].tolist() for row, m in zip(*p, strict=True)] for p in pairs])
        figure = Metric(0.5, 0.1, 20, "0-1")
        return judges.Verdict(figure, figure)

    monkeypatch.setattr(judges, "real_or_generated", judge)
    return given


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    task, _ = task_of(tmp_path_factory.mktemp("run"))
    task.__dict__["recogniser"] = Deaf(("seven",))
    return task


def sample_of(task, sequences):
    tokens = np.full((len(sequences), task.length), PAD, np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence[: task.length]
    log_probs = -1.0 - np.arange(len(tokens))
    return Sample(tokens, (tokens != PAD) * 1.0, log_probs, np.full(len(tokens), 0.25))


# Data


def test_a_row_holds_the_speaker_the_text_and_the_codes(digits):
    everything = {name: digits._all[name] for name in data.SPLITS}
    known = {
        recordings[i]["example_id"]: recordings[i]
        for recordings in everything.values()
        for i in range(len(recordings))
    }
    for batches in (
        digits.training_batches(batch_size=8, targets=1, seed=0, start=0),
        digits.pairs("test", batch_size=8, limit=None),
    ):
        batch = next(batches)
        for row in range(8):
            example = known[int(batch["example_id"][row])]
            source = batch["source"][row][batch["source_mask"][row] > 0]
            characters = digits.source_codec.vocabulary.size
            assert source[0] == characters + example["speaker"] < digits.source_vocabulary
            assert digits.source_codec.decode(source[1:]) == example["text"]
            assert source[-1] == 2
            written = batch["target"][row][batch["mask"][row] > 0]
            assert written.tolist() == digits.codec.encode(example["audio"])
            assert written[-1] == EOS
        for name, leaf in digits.template().items():
            assert leaf.shape[1:] == batch[name].shape[1:]
            assert leaf.dtype == batch[name].dtype
    assert "target" not in next(digits.sources("test", batch_size=4, limit=4))


def test_codes_come_from_the_cache_and_writing_needs_no_recordings(digits, monkeypatch):
    folder = digits._folder.parent
    again, told = task_of(folder)
    _ = again.splits
    assert not [message for message in told.messages if message.startswith("encoding")]
    (folder / "config.json").write_text("{}")

    def fail(*_, **__):
        raise AssertionError("read")

    monkeypatch.setattr(data, "load", fail)
    again, _ = task_of(folder)
    assert again.speakers == ("m3", "f2")
    names, _ = again.request({"text": ["seven two"], "speaker": "f2"})
    assert names == ["seven two"]
    with pytest.raises(AssertionError, match="read"):
        again.split("test")


def test_recordings_that_are_too_long_are_left_out_of_training_alone(tmp_path):
    task, told = task_of(tmp_path, **{"codec.max_length": 13})
    train = task.splits["train"]
    assert 0 < len(train) < 24
    assert f"data: {len(train)} of 24 training recordings" in " ".join(told.messages)
    assert max(len(train.tokens(i)) for i in range(len(train))) <= 13
    cut = next(iter(task.pairs("test", batch_size=20, limit=None)))
    longer = [len(task.splits["test"].tokens(i)) > 13 for i in range(20)]
    assert any(longer)
    # Those that are cut have no end.
    assert [EOS not in row for row in cut["target"]] == longer
    task, _ = task_of(tmp_path / "none", **{"codec.max_length": 2})
    with pytest.raises(UserError, match=r"^config.codec.max_length.*: no recording .* shortest"):
        task.split("train")


@pytest.mark.parametrize(("option", "value"), [("max_length", 1), ("max_source_length", 2)])
def test_lengths_that_make_no_sense(tmp_path, option, value):
    with pytest.raises(UserError, match=rf"^config\.codec.{option}: {value} leaves no room"):
        task_of(tmp_path, **{f"codec.{option}": value})


# A user's own texts


def test_a_text_is_said_in_the_voice_that_is_asked_for(digits):
    ask = lambda **options: digits.request({"text": ["Seven  two"], "speaker": None, **options})
    first, second = ask()[1], ask(speaker="f2")[1]
    size = digits.source_codec.vocabulary.size
    assert [batch["source"][0, 0] - size for batch in (first, second)] == [0, 1]
    np.testing.assert_array_equal(first["source"][0, 1:], second["source"][0, 1:])
    assert digits.source_codec.decode(first["source"][0, 1:]) == "seven two"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": ["seven", "quake 7!"]}, r"^--text=quake 7!: .* never seen 'q' 'a' 'k' '7' '!'; "),
        ({"text": ["seven " * 9]}, r"^--text=seven .*: has 5\d tokens .* reads 24 at most; split"),
        ({"text": [" "]}, r"^--text: is empty"),
        ({"text": None}, r"^--text: none given"),
        ({"text": ["seven"], "speaker": "m9"}, r"^--speaker=m9: .*; choose from m3, f2$"),
    ],
)
def test_bad_requests(digits, options, message):
    with pytest.raises(UserError, match=message):
        digits.request({"speaker": None, **options})


def test_a_prefix_is_refused(digits):
    assert digits.prefix("") == ()
    with pytest.raises(UserError, match=r"^--prefix=one: of no use"):
        digits.prefix("one")


# What was written


def test_files_are_numbered_where_there_are_several(digits, tmp_path):
    codes = digits.splits["test"].tokens(0)
    one = sample_of(digits, [codes])
    assert digits.save(tmp_path / "out.wav", [one]) == [tmp_path / "out.wav"]
    with wave.open(str(tmp_path / "out.wav")) as file:
        seconds = file.getnframes() / file.getframerate()
    assert file.getframerate() == 16_000
    row = digits.row("seven", one)["recordings"][0]
    assert row["seconds"] == pytest.approx(seconds, abs=1e-3)
    assert row["codes"] == (codes[:-1] - 3).tolist()
    assert digits.describe("seven", one)[1].startswith(f"  {seconds:.2f} s of speech")
    paths = digits.save(tmp_path / "all.wav", [one, sample_of(digits, [codes, [EOS]])])
    assert [path.name for path in paths] == ["all-1.wav", "all-2.wav", "all-3.wav"]
    # One that ended at once is a file without sound.
    assert [path.stat().st_size > 44 for path in paths] == [True, True, False]


def test_figures_are_what_hand_made_recordings_deserve(digits, judged):
    test = digits.splits["test"]
    tokens = [test.tokens(i).tolist() for i in range(12)]
    own = [sample_of(digits, [row, row]) for row in tokens]
    figures = digits.evaluate("test", own, None, thorough=True)
    said = [test.text(i).split() for i in range(12)]
    right = np.mean([phrase == ["seven"] for phrase in said])
    assert figures["phrases_recognised"].value == figures["quality_diversity"].value == right
    heard = sum("seven" in phrase for phrase in said) / sum(map(len, said))
    assert figures["words_recognised"].value == pytest.approx(heard)
    assert figures["sample_distance"].value == pytest.approx(0, abs=1e-3)
    assert judged == [[tokens, tokens]]
    assert figures["judge_accuracy"].value == 0.5
    others = [own[(i + 1) % 12] for i in range(12)]
    worse = digits.evaluate("test", others, None, thorough=False)
    assert worse["mel_cepstral_distortion"].value > figures["mel_cepstral_distortion"].value + 0.5
    assert "judge_accuracy" not in worse
    assert set(digits.falling) <= set(figures)
    assert set(digits.beam) <= set(worse)
    silent = digits.evaluate("test", [sample_of(digits, [[EOS]])] * 12, None, thorough=False)
    assert silent["duration_error"].value > 2
    assert silent["mel_cepstral_distortion"].value is None


def test_the_real_thing_and_its_codes_are_compared(digits, judged):
    columns, lines = digits.comparisons("test", 20, 2)
    real, coded = columns["real recordings"], columns["the same, coded"]
    assert real["mel_cepstral_distortion"].value == pytest.approx(0, abs=1e-6)
    assert real["duration_error"].value == 0
    assert coded["mel_cepstral_distortion"].value > 1
    tokens = [digits.splits["test"].tokens(i).tolist() for i in range(20)]
    assert judged == [[tokens[10:], tokens[:10]]]
    assert "judge_accuracy" in coded
    assert "15.6 tokens" in lines[0]
    assert "m1, m2" in lines[1]


def test_recordings_pictures_and_the_page_are_written(digits, tmp_path):
    test = digits.splits["validation"]
    samples = [sample_of(digits, [test.tokens(i)]) for i in range(2)]
    attention = np.full((digits.length, digits.source_length), 0.1)
    drawn = digits.illustrate(tmp_path / "x", "validation", samples, attention)
    names = {path.name for path in (tmp_path / "x").iterdir()}
    each = ("1.wav", "1-real.wav", "1.png", "2.wav", "2-real.wav", "2.png")
    assert names == {*each, "speech.json", "attention.png"}
    assert set(drawn) == {"1", "attention"}
    rows = json.loads((tmp_path / "x" / "speech.json").read_text())
    assert [row["text"] for row in rows] == [test.text(i) for i in range(2)]
    assert rows[0]["heard"] == "seven"
    with wave.open(str(tmp_path / "x" / "1-real.wav")) as file:
        assert file.getnframes() == len(test.audio(0))
    assert (tmp_path / "index.html").read_text().count("<audio") == 4
    assert "attention" not in digits.illustrate(tmp_path / "y", "validation", samples, None)


# The recogniser


def test_the_recogniser_learns_from_real_recordings_of_other_voices(tmp_path, monkeypatch):
    learnt = []

    def fit(recordings, phrases, rate, *, seed, steps, progress):
        learnt.append((recordings, phrases))
        words = sorted({word for phrase in phrases for word in phrase})
        shapes = jax.eval_shape(lambda: judges.WordRecogniser.initial_params(words, seed))
        draw = np.random.default_rng(0).normal
        params = jax.tree.map(lambda x: draw(size=x.shape).astype(x.dtype), shapes)
        return judges.WordRecogniser(words, params, rate)

    monkeypatch.setattr(judges.WordRecogniser, "fit", fit)
    monkeypatch.setattr(speech, "cache_folder", lambda: tmp_path)
    task, _ = task_of(tmp_path / "run", **{"recogniser.size": 30})
    heard = task.recogniser(task._all["test"][0]["audio"][None])
    ((recordings, phrases),) = learnt
    assert len(recordings) == len(phrases) == 30
    assert set(task.recogniser.words) <= set(data.DIGITS["en"])
    # No phrase that is held out, and no recording of the model's own.
    held_out = {task._all[s].text(i) for s in ("validation", "test") for i in range(12)}
    assert not held_out & {" ".join(phrase) for phrase in phrases}
    own = {task._all["train"][i]["audio"].tobytes() for i in range(24)}
    assert not own & {audio.tobytes() for audio in recordings}
    # Read from the cache again, it hears the same.
    again, _ = task_of(tmp_path / "run", **{"recogniser.size": 30})
    assert again.recogniser(again._all["test"][0]["audio"][None]) == heard
    assert len(learnt) == 1
    task, _ = task_of(tmp_path / "run", **{"recogniser.voices": ("m1", "f2")})
    with pytest.raises(UserError, match=r"^config\.recogniser\.voices: f2 must not be among"):
        _ = task.recogniser
    task, _ = task_of(tmp_path / "run", **{"recogniser.max_words": 3})
    assert task.recogniser is None


@pytest.mark.parametrize("variant", ["default", "smoke", "long", "fsdd", "ljspeech"])
def test_variants_are_whole(variant):
    config = runpy.run_path(str(ROOT / "configs" / "speech.py"))["get_config"](variant)
    found = phases.parse(config.phases)
    assert [phase.name for phase in found] == list(config.phases.order)
    # It says itself where bands are too narrow, or beyond what the sample rate holds.
    names = ("hop", "window", "bands", "fmin", "fmax", "floor_db")
    analysis = Analysis(config.data.sample_rate, **{name: config.codec[name] for name in names})
    longest = config.codec.max_length / config.codec.levels * config.codec.group
    assert 1 < longest / analysis.frames_per_second < 11
