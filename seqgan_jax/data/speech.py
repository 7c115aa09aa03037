"""Spoken phrases: made by eSpeak NG, from FSDD, or from LJ Speech.

Every source becomes recordings at one sample rate, mono, without the silence around them, at one
peak level, kept in the cache. What is kept out for validation and test are phrases, not only
recordings of them; FSDD alone, with its ten words, keeps recordings out.
"""

import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.signal

from seqgan_jax.data.cache import cache_folder, cached_array
from seqgan_jax.data.captions import Progress, data_folder, no_progress, read_text
from seqgan_jax.data.espeak import INSTALL, PITCHES, RATES, espeak
from seqgan_jax.data.images import file_key
from seqgan_jax.errors import UserError

SOURCES = ("espeak", "fsdd", "ljspeech")
SPLITS = ("train", "validation", "test")
PEAK = 0.9
SHARD = 256  # recordings in one file of the cache

DIGITS = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "cmn": tuple("零一二三四五六七八九"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
    "fr": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
}
COMMANDS = {
    "en": (
        ("turn on", "turn off", "open", "close", "find", "move"),
        ("the door", "the window", "the light", "the radio", "the fan", "the bed", "the clock"),
        ("", "in the kitchen", "in the bedroom", "in the car", "upstairs"),
    ),
    "cmn": (
        ("打开", "关上", "找到", "看看", "搬走"),
        ("", "厨房的", "卧室的", "楼上的", "车里的"),
        ("门", "窗", "灯", "电视", "收音机", "桌子"),
    ),
}
UNSPACED = ("cmn", "yue", "hak", "ja", "th")


class Record(NamedTuple):
    """One recording before it is read.

    Attributes:
      name: what to call it.
      text: what is said.
      speaker: number of the voice.
      example_id: unique in the data set, below 2**31.
      content: all that the audio depends on, as JSON.
      read: returns (float32 [samples], Hz).
    """

    name: str
    text: str
    speaker: int
    example_id: int
    content: tuple
    read: Callable[[], tuple[np.ndarray, int]]


class Recordings:
    """One split of a data set of spoken phrases.

    Attributes:
      sample_rate: Hz.
      speakers: the voices' names, by number; the same in every split.
    """

    def __init__(
        self,
        records: Sequence[Record],
        shards: Sequence[np.ndarray],
        places: Sequence[int],
        sample_rate: int,
        speakers: Sequence[str],
    ):
        """Example i is `records[i]`, kept in the cache's recording number `places[i]`."""
        self._records = records
        self._shards = shards
        self._places = places
        self.sample_rate = sample_rate
        self.speakers = tuple(speakers)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict:
        """Example i.

        Returns:
          "text": a string; "speaker": an int, see `speakers`; "audio": float32 [samples] in -1 to
          1 at `sample_rate`; "example_id": an int below 2**31, unique in the data set.
        """
        record = self._records[i]
        return {
            "text": record.text,
            "speaker": record.speaker,
            "audio": _from_shard(self._shards, self._places[i]),
            "example_id": record.example_id,
        }

    def text(self, i: int) -> str:
        """What is said in example i, without reading its audio."""
        return self._records[i].text

    def name(self, i: int) -> str:
        """What to call example i: a file's name or "phrase 17"."""
        return self._records[i].name


def load(
    config,
    *,
    progress: Progress = no_progress,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, Recordings]:
    """Loads or makes the recordings; made and resampled ones are kept in the cache.

    Args:
      config: `source` and what is said at `espeak_records`, `fsdd_records` or `ljspeech_records`;
        `sample_rate`, Hz; `trim_db`, how far below its loudest moment a recording's edges count
        as silence.
      progress: shows how far the preparation is.
      report: is told about recordings without transcript.

    Returns:
      the splits 'train', 'validation' and 'test'.

    Raises:
      UserError: for anything wrong with the configuration, the files, or what isn't installed.
    """
    if config.source == "espeak":
        records, speakers = espeak_records(config, progress=progress)
    elif config.source == "fsdd":
        records, speakers = fsdd_records(config)
    elif config.source == "ljspeech":
        records, speakers = ljspeech_records(config, report=report)
    else:
        raise UserError(
            f"config.data.source: no source '{config.source}'; choose one of {', '.join(SOURCES)}"
        )
    everything = [record for split in SPLITS for record in records[split]]
    shards = _shards(everything, config.sample_rate, config.trim_db, progress)
    starts = itertools.accumulate((len(records[split]) for split in SPLITS), initial=0)
    return {
        split: Recordings(
            records[split],
            shards,
            range(start, start + len(records[split])),
            config.sample_rate,
            speakers,
        )
        for split, start in zip(SPLITS, starts, strict=False)
    }


# eSpeak NG


def espeak_records(
    config, *, progress: Progress = no_progress
) -> tuple[dict[str, list[Record]], tuple[str, ...]]:
    """Phrases for eSpeak NG; number i of a split is a pure function of (seed, split, i).

    A phrase belongs to one split for good, by a hash of its text: one in ten to 'test', one in ten
    to 'validation'. Phrases of a single word are all in 'train'.

    Args:
      config: `language`, a code of eSpeak NG's (en-us, de, cmn, ...); `voices`, names of its voice
        variants (m3, f2, ...), the speakers; `rates` and `pitches`, each (least, most), drawn from
        uniformly: words per minute and 0 to 99; `phrases`: 'digits', 'commands', 'both', or
        'file', one phrase on each line of the text file `path`; `digits`, (least, most) number of
        digits in a string of them; `text`: 'characters', or 'phonemes' for the phrases in IPA;
        `train_size`, `validation_size`, `test_size`; `seed`.
      progress: shows how far the translation into phonemes is.

    Raises:
      UserError: for a setting that eSpeak NG can't follow, or phrases that leave a split empty.
    """
    engine = espeak()
    voices = [f"{config.language}+{variant}" for variant in config.voices]
    if not voices:
        raise UserError("config.data.voices: there is none; name at least one, like f2")
    for voice in voices:
        engine.check_voice(voice)
    for option, (least, most) in {"rates": RATES, "pitches": PITCHES}.items():
        low, high = config[option]
        if not least <= low <= high <= most:
            raise UserError(
                f"config.data.{option}: ({low}, {high}) is no range within {least} to {most}"
            )
    phrase = _phrases(config)

    def record(split: str, i: int) -> Record:
        bits = np.random.PCG64(np.random.SeedSequence([config.seed, SPLITS.index(split), i]))
        # NumPy promises the stability of raw bits, not that of a Generator's methods.
        uniform = lambda: (int(bits.random_raw()) >> 11) * 2.0**-53
        between = lambda low, high: low + int((high - low + 1) * uniform())
        text = phrase(split, uniform)
        speaker = between(0, len(voices) - 1)
        rate, pitch = between(*config.rates), between(*config.pitches)

        def read():
            audio = engine.speak(text, voices[speaker], rate=rate, pitch=pitch)
            return audio, engine.sample_rate

        content = (engine.version, text, voices[speaker], rate, pitch)
        example_id = SPLITS.index(split) * 2**29 + i
        return Record(f"{split} phrase {i}", text, speaker, example_id, content, read)

    records = {
        split: [record(split, i) for i in range(config[f"{split}_size"])] for split in SPLITS
    }
    if config.text == "phonemes":
        texts = sorted({record.text for split in SPLITS for record in records[split]})
        spelt = {
            text: engine.phonemes(text, config.language)
            for text in progress(texts, len(texts), "translating phrases into phonemes")
        }
        records = {
            split: [record._replace(text=spelt[record.text]) for record in records[split]]
            for split in SPLITS
        }
    elif config.text != "characters":
        raise UserError(f"config.data.text: '{config.text}' is neither characters nor phonemes")
    return records, tuple(config.voices)


def split_of(phrase: str) -> str:
    """The split that a phrase belongs to, by a hash of its text; about 8 in 10 are in 'train'."""
    tenth = hashlib.sha256(phrase.encode()).digest()[0] % 10
    return {0: "test", 1: "validation"}.get(tenth, "train")


def _phrases(config) -> Callable[[str, Callable[[], float]], str]:
    """A function (split, uniform) -> phrase, `uniform` drawing a number from [0, 1)."""
    language = config.language.split("-")[0]
    gap = "" if language in UNSPACED else " "
    if config.phrases == "file":
        if not config.path or not Path(config.path).expanduser().is_file():
            raise UserError(
                f"config.data.path: '{config.path}' is no file of phrases, one on each line"
            )
        lines = read_text(Path(config.path).expanduser()).splitlines()
        fixed = list(dict.fromkeys(filter(None, (" ".join(line.split()) for line in lines))))
        where = config.path
    elif config.phrases in ("commands", "both"):
        if language not in COMMANDS:
            raise UserError(
                f"config.data.phrases: no commands in '{config.language}', only in "
                f"{', '.join(COMMANDS)}; choose digits, or file and config.data.path"
            )
        parts = itertools.product(*COMMANDS[language])
        fixed = [gap.join(filter(None, part)) for part in parts]
        where = "the commands"
    elif config.phrases == "digits":
        fixed = []
    else:
        raise UserError(
            f"config.data.phrases: '{config.phrases}' is none of digits, commands, both, file"
        )
    pools = {split: [] for split in SPLITS}
    for phrase in fixed:
        pools[split_of(phrase)].append(phrase)
    for split in SPLITS:
        if fixed and config[f"{split}_size"] and not pools[split]:
            raise UserError(
                f"{where}: none of the {len(fixed)} phrases falls to '{split}'; add more"
            )
    if config.phrases == "file" and not fixed:
        raise UserError(f"{config.path}: no phrases in this file; put one on each line")

    fewest, most = config.digits
    if config.phrases in ("digits", "both") and (not 1 <= fewest <= most or most < 2):
        raise UserError(
            f"config.data.digits: ({fewest}, {most}) is no range of lengths that leaves phrases "
            "to keep out; set (1, 4), say"
        )
    # eSpeak NG reads figures in any language.
    words = DIGITS.get(language, tuple("0123456789"))

    def digits(split, uniform):
        while True:
            count = fewest + int((most - fewest + 1) * uniform())
            phrase = gap.join(words[int(10 * uniform())] for _ in range(count))
            if split == ("train" if count == 1 else split_of(phrase)):
                return phrase

    def draw(split, uniform):
        if config.phrases == "digits" or (config.phrases == "both" and uniform() < 0.5):
            return digits(split, uniform)
        return pools[split][int(len(pools[split]) * uniform())]

    return draw


# Files


def fsdd_records(config) -> tuple[dict[str, list[Record]], tuple[str, ...]]:
    """The Free Spoken Digit Dataset, or any folder of `{digit}_{speaker}_{index}.<ending>`.

    One index in ten is kept out, half of these for 'validation' and half for 'test': 10, 30, 50,
    ... and 0, 20, 40, ... The text is the English word.

    Args:
      config: `path`, the folder of recordings, or one with these in `recordings/`.

    Raises:
      UserError: if the folder or a split of it is empty.
    """
    folder = data_folder(config, "recordings named {digit}_{speaker}_{index}.wav")
    if (folder / "recordings").is_dir():
        folder = folder / "recordings"
    found = []
    for path in folder.iterdir():
        if match := re.fullmatch(r"(\d)_(.+)_(\d+)\.\w+", path.name):
            found.append((int(match[3]), match[2], int(match[1]), path))
    speakers = sorted({speaker for _, speaker, _, _ in found})
    records = {split: [] for split in SPLITS}
    for number, (index, speaker, digit, path) in enumerate(sorted(found)):
        split = "train" if index % 10 else ("test", "validation")[index // 10 % 2]
        records[split].append(
            _file_record(path, DIGITS["en"][digit], speakers.index(speaker), number)
        )
    _check_filled(records, folder, "recordings named {digit}_{speaker}_{index}.wav")
    return records, tuple(speakers)


def ljspeech_records(
    config, *, report: Callable[[str], None] = lambda message: None
) -> tuple[dict[str, list[Record]], tuple[str, ...]]:
    """LJ Speech (Ito and Johnson 2017), or any folder in its layout.

    `metadata.csv` has a line `id|transcript` or `id|transcript|transcript with numbers spelt out`
    for each recording `wavs/<id>.<ending>`. The last column is the text. Which texts are kept out
    follows from the texts alone.

    Args:
      config: `path`; `validation_size` and `test_size`, numbers of different texts kept out;
        `max_seconds`, longer recordings are left out.
      report: is told about recordings without transcript, and how many are too long.

    Raises:
      UserError: for a malformed line, a transcript without recording, or too few of them.
    """
    folder = data_folder(config, "metadata.csv and wavs/")
    metadata, wavs = folder / "metadata.csv", folder / "wavs"
    if not wavs.is_dir():
        raise UserError(f"{wavs}: there is no such folder; see config.data.path")
    paths = {path.stem: path for path in sorted(wavs.iterdir()) if not path.name.startswith(".")}
    texts = {}
    for number, line in enumerate(read_text(metadata).splitlines(), 1):
        if not line.strip():
            continue
        name, *columns = line.split("|")
        text = " ".join(columns[-1].split()) if columns else ""
        if not text:
            raise UserError(f"{metadata}: line {number} has no transcript; it must be id|text")
        if name in texts:
            raise UserError(f"{metadata}: line {number} repeats the id '{name}'; remove one")
        texts[name] = text
    if missing := [name for name in texts if name not in paths]:
        raise UserError(
            f"{wavs}: {len(missing)} of {len(texts)} transcripts have no recording, '{missing[0]}' "
            f"for one; add the files or remove their lines from {metadata.name}"
        )
    if spare := [path.name for name, path in paths.items() if name not in texts]:
        report(
            f"{wavs}: {len(spare)} recordings have no line in {metadata.name}, {spare[0]} for one; "
            "they are left out"
        )
    lengths = {name: _seconds(paths[name]) for name in texts}
    kept = [name for name in texts if lengths[name] <= config.max_seconds]
    if len(kept) < len(texts):
        report(
            f"{wavs}: {len(texts) - len(kept)} of {len(texts)} recordings are longer than "
            f"config.data.max_seconds = {config.max_seconds} and left out"
        )
    ranked = sorted(
        {texts[name] for name in kept}, key=lambda text: hashlib.sha256(text.encode()).digest()
    )
    test, validation = config.test_size, config.test_size + config.validation_size
    held_out = dict.fromkeys(ranked[:test], "test")
    held_out |= dict.fromkeys(ranked[test:validation], "validation")
    records = {split: [] for split in SPLITS}
    for number, name in enumerate(sorted(kept)):
        split = held_out.get(texts[name], "train")
        records[split].append(_file_record(paths[name], texts[name], 0, number))
    _check_filled(records, folder, "transcripts; lower validation_size and test_size")
    return records, (folder.resolve().name,)


def _check_filled(records: dict[str, list[Record]], folder: Path, contents: str) -> None:
    for split in SPLITS:
        if not records[split]:
            raise UserError(f"{folder}: nothing for the '{split}' split; it needs more {contents}")


def _file_record(path: Path, text: str, speaker: int, number: int) -> Record:
    content = (file_key([], [(path.name, path)]),)
    return Record(path.name, text, speaker, number, content, functools.partial(read_audio, path))


def _soundfile():
    try:
        import soundfile
    except ImportError as error:
        raise UserError(
            f"soundfile, which reads recordings, is not installed; run {INSTALL}"
        ) from error
    return soundfile


def _seconds(path: Path) -> float:
    soundfile = _soundfile()
    try:
        return soundfile.info(path).duration
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from error


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Reads a recording in any format that libsndfile knows, its channels averaged.

    Returns:
      (float32 [samples], its sample rate in Hz).

    Raises:
      UserError: if it can't be read, holds no sample or a value that isn't finite, or is a WAV
        file shorter than its header says.
    """
    path, soundfile = Path(path), _soundfile()
    try:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        with open(path, "rb") as file:
            head = file.read(8)
    except (soundfile.SoundFileError, OSError) as error:
        raise _unreadable(path, error) from error
    # libsndfile reads what is left of a truncated WAV file without a word. A stream's writer that
    # didn't know the length has put 0 or the largest number there.
    expected = int.from_bytes(head[4:], "little") + 8
    if head[:4] == b"RIFF" and path.stat().st_size < expected < 2**31:
        raise UserError(
            f"{path}: truncated, {path.stat().st_size:,} of {expected:,} bytes are there; "
            "replace or remove it"
        )
    if not len(audio):
        raise UserError(f"{path}: this recording is empty; replace or remove it")
    if not np.isfinite(audio).all():
        raise UserError(f"{path}: not all samples are finite numbers; replace or remove it")
    return audio.mean(axis=1), rate


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
    return UserError(f"{path}: can't be read as audio ({reason}); replace or remove it")


# Audio


def resample(audio: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Changes the sample rate from `rate` to `target` Hz by a polyphase filter.

    Returns:
      float32 [ceil(samples * target / rate)].
    """
    divisor = math.gcd(rate, target)
    if rate == target:
        return audio.astype(np.float32)
    return scipy.signal.resample_poly(audio, target // divisor, rate // divisor).astype(np.float32)


def trim(audio: np.ndarray, sample_rate: int, decibels: float) -> np.ndarray:
    """Cuts silence off both ends, all but 20 ms.

    Silence is where the root mean square over 10 ms lies more than `decibels` below its greatest
    value. Silent audio becomes empty.
    """
    size = max(sample_rate // 100, 1)
    blocks = np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
    power = np.mean(np.square(blocks, dtype=np.float64), axis=1)
    loud = np.flatnonzero((power > 0) & (power >= power.max(initial=0) * 10 ** (-decibels / 10)))
    if not len(loud):
        return audio[:0]
    return audio[max(loud[0] - 2, 0) * size : (loud[-1] + 3) * size]


def prepare(audio: np.ndarray, rate: int, sample_rate: int, trim_db: float) -> np.ndarray:
    """Resampled, trimmed, and scaled to a peak of 0.9; empty if it is silent."""
    audio = trim(resample(audio, rate, sample_rate), sample_rate, trim_db)
    return audio * (PEAK / np.abs(audio).max()) if len(audio) else audio


def _shards(
    records: Sequence[Record], sample_rate: int, trim_db: float, progress: Progress
) -> list[np.ndarray]:
    """Prepared recordings in the cache, `SHARD` to a file: see `_from_shard`."""
    starts = range(0, len(records), SHARD)
    return [
        _shard(records[start : start + SHARD], sample_rate, trim_db)
        for start in progress(starts, len(starts), f"preparing {len(records):,} recordings")
    ]


def _shard(records: Sequence[Record], sample_rate: int, trim_db: float) -> np.ndarray:
    content = [sample_rate, trim_db, PEAK, [record.content for record in records]]
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]

    def fill(new):
        audio = []
        for record in records:
            prepared = prepare(*record.read(), sample_rate, trim_db)
            if not len(prepared):
                raise UserError(f"{record.name}: this recording is silent; replace or remove it")
            audio.append(np.round(prepared * 32767).astype(np.int16))
        ends = np.cumsum([len(a) for a in audio], dtype=np.int64)
        # In front of the samples: where each recording ends, an int64 in the place of 4 samples.
        ends = np.pad(ends, (0, SHARD - len(ends)))
        content = np.concatenate([ends.view(np.int16), *audio])
        new(content.shape, np.int16)[:] = content

    return cached_array(cache_folder() / f"speech-{key}.npy", fill)


def _from_shard(shards: Sequence[np.ndarray], place: int) -> np.ndarray:
    """Recording number `place` of all shards, float32 [samples]."""
    shard, row = shards[place // SHARD], place % SHARD
    ends, samples = shard[: 4 * SHARD].view(np.int64), shard[4 * SHARD :]
    return samples[ends[row - 1] if row else 0 : ends[row]].astype(np.float32) / 32767
