import sys
import time

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from seqgan_jax.data import speech
from seqgan_jax.data.espeak import Espeak, espeak
from seqgan_jax.errors import UserError

RATE = 16000
SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "cache"))


def settings(**changes):
    return ConfigDict(
        {
            "source": "espeak",
            "path": "",
            "sample_rate": RATE,
            "trim_db": 40.0,
            "language": "en-us",
            "voices": ("m3", "f2"),
            "rates": (120, 200),
            "pitches": (30, 70),
            "phrases": "digits",
            "digits": (1, 3),
            "text": "characters",
            "train_size": 12,
            "validation_size": 4,
            "test_size": 4,
            "seed": 0,
            "max_seconds": 10.0,
            **changes,
        }
    )


def examples(splits):
    return {name: [split[i] for i in range(len(split))] for name, split in splits.items()}


# eSpeak NG


def test_what_is_said_depends_on_the_arguments_alone():
    engine = espeak()
    say = lambda engine: engine.speak("seven two", "en-us+f2", rate=150, pitch=60)
    first = say(engine)
    engine.speak("something else", "de+whisper", rate=300, pitch=5)
    np.testing.assert_array_equal(say(engine), first)
    time.sleep(1.0)  # left to itself, it starts from the clock's second
    np.testing.assert_array_equal(say(Espeak()), first)
    assert 0.05 < np.abs(first).max() <= 1


def test_rate_and_pitch_are_heard():
    engine = espeak()
    say = lambda rate, pitch: engine.speak("nine nine nine", "en-us+m3", rate=rate, pitch=pitch)
    assert len(say(100, 50)) > 1.5 * len(say(250, 50))

    def frequency(audio):  # of the voice, by the peak of the autocorrelation
        middle = audio[len(audio) // 2 - 1024 : len(audio) // 2 + 1024]
        correlation = np.correlate(middle, middle, "full")[2047:]
        lags = np.arange(engine.sample_rate // 400, engine.sample_rate // 60)
        return engine.sample_rate / lags[correlation[lags].argmax()]

    assert frequency(say(150, 90)) > 1.2 * frequency(say(150, 20))


def test_phonemes():
    engine = espeak()
    assert engine.phonemes("seven two, please!", "en-us+f2") == "sˈɛvən tˈuː plˈiːz"
    assert engine.phonemes("7 2", "de") == "zˈiːbən tsvˈaɪ"
    tones = [engine.phonemes(syllable, "cmn") for syllable in "妈麻马骂"]
    assert len(set(tones)) == 4
    assert {tone.rstrip("_|0123456789") for tone in tones} == {"m'A"}


@pytest.mark.parametrize(
    ("language", "words"), [("en-us", speech.DIGITS["en"]), ("cmn", "零一二三四五六七八九")]
)
def test_examples_of_espeak(language, words):
    splits = speech.load(settings(language=language))
    everything = examples(splits)
    assert {name: len(e) for name, e in everything.items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    flat = [example for name in SPLITS for example in everything[name]]
    assert len({example["example_id"] for example in flat}) == 20
    assert {example["speaker"] for example in flat} == {0, 1}
    for example in flat:
        parts = example["text"].split() if language == "en-us" else list(example["text"])
        assert 1 <= len(parts) <= 3
        assert set(parts) <= set(words)
        audio = example["audio"]
        assert audio.dtype == np.float32
        assert np.abs(audio).max() == pytest.approx(0.9, abs=1e-3)
        assert 0.1 * len(parts) < len(audio) / RATE < 1.2 * len(parts)
    assert splits["test"].speakers == ("m3", "f2")
    assert splits["test"].sample_rate == RATE
    assert splits["test"].text(1) == everything["test"][1]["text"]
    assert splits["test"].name(1) == "test phrase 1"


def test_no_phrase_kept_out_is_trained_on():
    records, _ = speech.espeak_records(
        settings(train_size=3000, validation_size=300, test_size=300)
    )
    texts = {split: {record.text for record in records[split]} for split in SPLITS}
    assert not texts["train"] & (texts["test"] | texts["validation"])
    assert not texts["test"] & texts["validation"]
    assert set(speech.DIGITS["en"]) <= texts["train"]
    # A tenth of the phrases each: 100 pairs, 1000 triples. Five standard deviations either side.
    everything = [f"{a} {b} {c}" for a in "0123456789" for b in "0123456789" for c in "0123456789"]
    shares = [sum(speech.split_of(p) == split for p in everything) / 1000 for split in SPLITS]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.06)


def test_examples_are_functions_of_seed_and_index():
    records = lambda **changes: speech.espeak_records(settings(**changes))[0]["train"]
    contents = lambda records: [record.content for record in records]
    assert contents(records(train_size=5)) == contents(records(train_size=9))[:5]
    assert contents(records(seed=1)) != contents(records())


def test_made_recordings_come_from_the_cache_the_second_time(monkeypatch):
    made = examples(speech.load(settings()))

    def fail(*_, **__):
        raise AssertionError("said again")

    monkeypatch.setattr(Espeak, "speak", fail)
    for name, again in examples(speech.load(settings())).items():
        for a, b in zip(made[name], again, strict=True):
            np.testing.assert_array_equal(a["audio"], b["audio"])
    with pytest.raises(AssertionError, match="said again"):
        speech.load(settings(trim_db=30.0))


def test_commands_files_and_phonemes(tmp_path):
    records, _ = speech.espeak_records(settings(phrases="both", train_size=200))
    texts = {record.text for record in records["train"]}
    assert any("the light" in text for text in texts)
    assert any(set(text.split()) <= set(speech.DIGITS["en"]) for text in texts)

    phrases = tmp_path / "phrases.txt"
    lines = [f"guten Tag Nummer {i}" for i in range(60)]
    phrases.write_text("\n".join([*lines, "", lines[0]]))
    config = settings(phrases="file", path=str(phrases), language="de", train_size=100)
    records, _ = speech.espeak_records(config)
    assert {record.text for record in records["train"]} <= set(lines)

    counted = []
    progress = lambda items, total, description: counted.append(description) or items
    config = settings(text="phonemes", train_size=20)
    records, _ = speech.espeak_records(config, progress=progress)
    assert any("sˈɛvən" in record.text for record in records["train"])
    assert counted == ["translating phrases into phonemes"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "radio"}, "no source 'radio'; choose one of espeak, fsdd, ljspeech"),
        ({"voices": ("m3", "nosuch")}, "config.data.voices: no voice 'nosuch'"),
        ({"voices": ()}, "config.data.voices: there is none"),
        ({"language": "xx"}, "config.data.language: eSpeak NG can't speak 'xx'"),
        ({"rates": (10, 100)}, r"config.data.rates: \(10, 100\) is no range within 80 to 450"),
        ({"pitches": (60, 50)}, "config.data.pitches"),
        ({"digits": (1, 1)}, "config.data.digits"),
        ({"phrases": "poems"}, "config.data.phrases: 'poems'"),
        ({"phrases": "commands", "language": "de"}, "no commands in 'de'"),
        ({"phrases": "file", "path": "/nowhere/at/all"}, "'/nowhere/at/all' is no file"),
        ({"text": "letters"}, "config.data.text: 'letters'"),
    ],
)
def test_settings_that_espeak_cannot_follow_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        speech.load(settings(**changes))


def test_phrases_that_leave_nothing_to_keep_out_are_named(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("one phrase only\n")
    with pytest.raises(UserError, match="none of the 1 phrases falls to"):
        speech.load(settings(phrases="file", path=str(path)))
    path.write_text("\n\n")
    with pytest.raises(UserError, match="no phrases in this file"):
        speech.load(settings(phrases="file", path=str(path)))


def test_a_phrase_with_nothing_to_say_is_named():
    with pytest.raises(UserError, match=r"finds nothing to say in '\.\.\.'"):
        espeak().speak("...", "en-us", rate=150, pitch=50)


def test_what_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    message = r"not installed; run pip install 'seqgan_jax\[speech\]'"
    with pytest.raises(UserError, match=message):
        Espeak()
    with pytest.raises(UserError, match=message):
        speech.read_audio(tmp_path / "x.wav")


# Files


def sound(seconds=0.4, rate=8000, channels=1):
    """A tone between two silences; channels differ, their mean doesn't."""
    t = np.arange(int(seconds * rate)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 300 * t)
    wave = np.pad(wave, int(0.3 * rate))
    if channels == 2:
        wave = wave[:, None] * [1.5, 0.5]
    return wave


def write_fsdd(folder):
    folder.mkdir()
    for digit in (3, 7):
        for speaker in ("ann", "bo_b"):
            for index in range(25):
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", sound(), 8000)
    (folder / "readme.txt").write_text("not a recording")


def test_fsdd_keeps_one_index_in_ten_out(tmp_path):
    write_fsdd(tmp_path / "fsdd")
    splits = speech.load(settings(source="fsdd", path=str(tmp_path / "fsdd"), sample_rate=8000))
    names = {split: {splits[split].name(i) for i in range(len(splits[split]))} for split in SPLITS}
    index = lambda name: int(name.rsplit("_")[-1].split(".")[0])
    assert {index(name) for name in names["test"]} == {0, 20}
    assert {index(name) for name in names["validation"]} == {10}
    assert len(names["train"]) == 4 * 22
    assert splits["train"].speakers == ("ann", "bo_b")
    for example, i in ((splits["test"][i], i) for i in range(8)):
        digit, rest = splits["test"].name(i).split("_", 1)
        assert example["text"] == {"3": "three", "7": "seven"}[digit]
        assert splits["test"].speakers[example["speaker"]] == rest.rsplit("_", 1)[0]
        assert len(example["audio"]) / 8000 == pytest.approx(0.44, abs=0.02)


def test_fsdd_without_recordings_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing for the 'train' split.*\{digit\}_\{speaker\}"):
        speech.load(settings(source="fsdd", path=str(tmp_path)))
    with pytest.raises(UserError, match="no such folder"):
        speech.load(settings(source="fsdd", path=str(tmp_path / "nowhere")))


def write_ljspeech(folder, count=12):
    (folder / "wavs").mkdir(parents=True)
    lines = []
    for i in range(count):
        soundfile.write(folder / "wavs" / f"LJ-{i}.wav", sound(0.2 + 0.02 * i, 22050), 22050)
        # The last two lines are the same text.
        lines.append(f'LJ-{i}|No. {i}, "quoted|number {min(i, count - 2)}, "quoted')
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return lines


def test_ljspeech(tmp_path):
    folder = tmp_path / "LJ"
    write_ljspeech(folder)
    soundfile.write(folder / "wavs" / "spare.flac", sound(), 8000)
    told = []
    config = settings(source="ljspeech", path=str(folder), validation_size=2, test_size=3)
    splits = speech.load(config, report=told.append)
    texts = {split: {splits[split].text(i) for i in range(len(splits[split]))} for split in SPLITS}
    assert (len(texts["validation"]), len(texts["test"])) == (2, 3)
    assert not texts["train"] & (texts["test"] | texts["validation"])
    assert sum(map(len, splits.values())) == 12
    assert set.union(*texts.values()) == {f'number {i}, "quoted' for i in range(11)}
    assert splits["train"].speakers == ("LJ",)
    for split in splits.values():
        for i in range(len(split)):
            number = int(split.name(i)[3:].split(".")[0])
            # Trimmed to the tone with 20 ms on either side.
            seconds = len(split[i]["audio"]) / RATE
            assert seconds == pytest.approx(0.24 + 0.02 * number, abs=0.02)
    assert len(told) == 1
    assert "1 recordings have no line in metadata.csv, spare.flac for one" in told[0]

    told.clear()
    splits = speech.load(settings(**{**config, "max_seconds": 0.95}), report=told.append)
    assert sum(map(len, splits.values())) == 8
    assert any("4 of 12 recordings are longer" in line for line in told)


def test_what_is_wrong_with_ljspeech_is_named(tmp_path):
    folder = tmp_path / "LJ"
    config = settings(source="ljspeech", path=str(folder), validation_size=2, test_size=2)
    lines = write_ljspeech(folder)
    metadata = folder / "metadata.csv"
    metadata.write_text("\n".join([*lines, "gone|never recorded"]))
    with pytest.raises(UserError, match="1 of 13 transcripts have no recording, 'gone' for one"):
        speech.load(config)
    metadata.write_text("\n".join([lines[0], "LJ-1|"]))
    with pytest.raises(UserError, match=r"metadata\.csv: line 2 has no transcript"):
        speech.load(config)
    metadata.write_text("\n".join([lines[0], lines[0]]))
    with pytest.raises(UserError, match="line 2 repeats the id 'LJ-0'"):
        speech.load(config)
    metadata.write_text("\n".join(lines[:3]))
    with pytest.raises(UserError, match="nothing for the 'train' split"):
        speech.load(config)
    metadata.unlink()
    with pytest.raises(UserError, match=r"metadata\.csv: can't be read"):
        speech.load(config)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_format_rate_and_number_of_channels(tmp_path, form, channels):
    path = tmp_path / "sound"
    wave = sound(rate=11025, channels=channels)
    soundfile.write(path, wave, 11025, format=form)
    audio, rate = speech.read_audio(path)
    assert rate == 11025
    mono = wave.mean(axis=1) if channels == 2 else wave
    assert audio.shape == mono.shape
    tolerance = 1e-3 if form != "OGG" else 0.1
    assert np.sqrt(np.mean((audio - mono) ** 2)) < tolerance


def truncated(path):
    soundfile.write(path, sound(), 8000)
    path.write_bytes(path.read_bytes()[:-1000])


def header_only(path):
    soundfile.write(path, sound(), 8000)
    path.write_bytes(path.read_bytes()[:30])


BAD = {
    "truncated": (truncated, r"truncated, [\d,]+ of [\d,]+ bytes are there"),
    "header": (header_only, "can't be read as audio"),
    "no_samples": (lambda path: soundfile.write(path, np.zeros(0), 8000), "is empty"),
    "no_bytes": (lambda path: path.write_bytes(b""), "can't be read as audio"),
    "text": (lambda path: path.write_text("not a sound"), "can't be read as audio"),
    "folder": (lambda path: path.mkdir(), "can't be read as audio"),
    "silence": (lambda path: soundfile.write(path, np.zeros(4000), 8000), "is silent"),
    "nan": (
        lambda path: soundfile.write(path, np.full(4000, np.nan), 8000, subtype="FLOAT"),
        "not all samples are finite",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_recording_is_named_in_one_line(tmp_path, kind):
    write_fsdd(tmp_path / "fsdd")
    path = tmp_path / "fsdd" / "5_ann_1.wav"
    make, message = BAD[kind]
    make(path)
    with pytest.raises(UserError, match=message) as raised:
        speech.load(settings(source="fsdd", path=str(path.parent), sample_rate=8000))
    assert "5_ann_1.wav" in str(raised.value)
    assert "\n" not in str(raised.value)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    assert len(speech.load(settings(source="fsdd", path=str(path.parent), sample_rate=8000))) == 3


# Audio


@pytest.mark.parametrize(("rate", "target"), [(22050, 16000), (8000, 16000), (48000, 16000)])
def test_a_resampled_tone_is_the_tone(rate, target):
    tone = lambda rate: np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    resampled = speech.resample(tone(rate).astype(np.float32), rate, target)
    assert resampled.dtype == np.float32
    assert len(resampled) == target
    middle = slice(target // 10, -target // 10)
    np.testing.assert_allclose(resampled[middle], tone(target)[middle], atol=3e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold():
    wave = np.sin(2 * np.pi * 6000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(speech.resample(wave, 16000, 8000)[400:-400]).max() < 0.01


def test_trimming_keeps_20_ms_around_the_sound():
    rate = 1000
    audio = np.zeros(1000, np.float32)
    audio[300:500] = 0.5
    audio[320:330] = 0  # a pause inside stays
    audio[700:] = 0.001  # 54 dB below
    np.testing.assert_array_equal(speech.trim(audio, rate, 40.0), audio[280:520])
    np.testing.assert_array_equal(speech.trim(audio, rate, 60.0), audio[280:])
    assert len(speech.trim(audio[:300], rate, 40.0)) == 0
    assert len(speech.trim(audio[:0], rate, 40.0)) == 0
