"""Speech: what the programs need to know of phrases and recordings of them."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.flatten_util import ravel_pytree

from seqgan_jax.codecs import quantisers
from seqgan_jax.codecs.mel import (
    BOS,
    EOS,
    PAD,
    Analysis,
    MelCodec,
    frames_of,
    griffin_lim,
    magnitudes_from_mel,
)
from seqgan_jax.codecs.text import UNK, TextCodec
from seqgan_jax.data import pipeline
from seqgan_jax.data import speech as data
from seqgan_jax.data.cache import cache_folder, cached_array
from seqgan_jax.data.espeak import espeak
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import judges
from seqgan_jax.evaluation import speech as metrics
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.files import replace_file
from seqgan_jax.reporting import sound
from seqgan_jax.tasks import Portable, Splits, Tokens
from seqgan_jax.training.fit import fit

SPEAKERS = "speakers.json"
_VOCODED = 64  # recordings that are made audible at once


class _Encoded:
    """One split of recordings in tokens, as the pipeline's examples."""

    unlimited = False
    single = True

    def __init__(
        self, recordings: data.Recordings, rows: np.ndarray, chosen: np.ndarray, task: "Speech"
    ):
        """Example i is recording `chosen[i]`; its row is its speaker, its id and its tokens."""
        self._recordings = recordings
        self._rows = rows
        self._chosen = chosen
        self._task = task

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, i: int) -> dict:
        speaker, number = (int(x) for x in self._rows[self._chosen[i], :2])
        source, mask = self._task.encode_source(self.text(i), speaker)
        return {
            "source": source,
            "source_mask": mask,
            "captions": (self.tokens(i),),
            "example_id": number,
        }

    def text(self, i: int) -> str:
        """What is said in example i."""
        return self._recordings.text(int(self._chosen[i]))

    def speaker(self, i: int) -> int:
        """Whose voice example i has."""
        return int(self._rows[self._chosen[i], 0])

    def audio(self, i: int) -> np.ndarray:
        """The recording itself, float32 [samples]."""
        return self._recordings[int(self._chosen[i])]["audio"]

    def tokens(self, i: int) -> np.ndarray:
        """Its tokens and the end, however long."""
        row = self._rows[self._chosen[i], 2:]
        return row[row != PAD]


class Speech(Splits):
    """The task, bound to its recordings and its codecs; see `tasks.Task`.

    A source is the speaker's token, the characters of a text (or its phonemes) and an end.

    Args:
      config: the run's configuration.
      workdir: the run's directory; the codecs are read from it, or fitted and saved to it.
      progress: shows one-off work, see `reporting.progress.Progress`.

    Attributes:
      codec: of the recordings.
      source_codec: of the texts.
      source_vocabulary: how many source tokens there are, speakers among them.
      source_length: S, tokens of a source at most.
      speakers: the voices' names, by number.

    Raises:
      UserError: for a source that can't be used, settings that make no sense, or where what makes
        or reads recordings isn't installed.
    """

    name = "speech"
    items = "recordings"
    banned = ()
    options = ("text", "speaker")
    endings = (".wav",)
    num_samples = 2
    shown = ("phrases_recognised", "words_recognised", "mel_cepstral_distortion")
    falling = (
        "mel_cepstral_distortion",
        "duration_error",
        "judge_accuracy",
        "judge_auc",
    )
    beam = ("phrases_recognised", "words_recognised", "mel_cepstral_distortion", "duration_error")

    def __init__(self, config, workdir: Path, progress):
        self._config = config
        self._progress = progress
        for option, least in (("max_length", 2), ("max_source_length", 3)):
            if config.codec[option] < least:
                raise UserError(
                    f"config.codec.{option}: {config.codec[option]} leaves no room for a token and "
                    f"the end; set {least} or more"
                )
        self.length = config.codec.max_length
        self.source_length = config.codec.max_source_length
        self._folder = workdir / "codec"
        # Without a configuration this is no run yet, and the codec is what a failed start left.
        if not (workdir / "config.json").exists():
            self._fit()
        self.codec = MelCodec.load(self._folder)
        self.source_codec = TextCodec.load(self._folder / "source")
        self.speakers = _read_speakers(self._folder / SPEAKERS)
        self.source_vocabulary = self.source_codec.vocabulary.size + len(self.speakers)
        if config.data.source == "espeak":
            self.message = (
                f"data: {config.data.phrases} in {config.data.language}, spoken by eSpeak NG in "
                f"{len(self.speakers)} voices; the model will know nothing else "
                "(docs/speech.md says how to train on recordings)"
            )

    def _fit(self) -> None:
        """Fits the codecs to training recordings and saves them."""
        options, train = self._config.codec, self._all["train"]
        count = min(options.fitted, len(train))
        recordings = (train[i]["audio"] for i in range(count))
        track = self._progress.track
        settings = {"size": options.size, "levels": options.levels}
        if options.quantiser == quantisers.VQVAE.kind:
            settings["steps"] = options.steps
            settings["progress"] = lambda steps: track(steps, len(steps), "fitting the codec")
        codec = MelCodec.fit(
            track(recordings, count, f"fitting the codec to {count:,} recordings"),
            self._config.seed,
            analysis=Analysis(
                sample_rate=self._config.data.sample_rate,
                hop=options.hop,
                window=options.window,
                bands=options.bands,
                fmin=options.fmin,
                fmax=options.fmax,
                floor_db=options.floor_db,
            ),
            group=options.group,
            quantiser=options.quantiser,
            minimise=fit,
            **settings,
        )
        texts = TextCodec.fit(
            (train.text(i) for i in range(len(train))),
            kind="character",
            lowercase=options.lowercase,
        )
        codec.save(self._folder)
        texts.save(self._folder / "source")
        with replace_file(self._folder / SPEAKERS) as file:
            file.write(json.dumps(train.speakers, ensure_ascii=False).encode())

    # Data.

    @functools.cached_property
    def _all(self) -> dict[str, data.Recordings]:
        """All recordings by split; read when first asked for, since generation needs none."""
        track = self._progress.track
        return data.load(self._config.data, progress=track, report=self._progress.message)

    @functools.cached_property
    def splits(self) -> dict[str, _Encoded]:
        """The recordings in tokens; of those to train on, the ones of fitting lengths."""
        found = {}
        for name, recordings in self._all.items():
            rows = self._rows(name, recordings)
            chosen = np.arange(len(recordings))
            if name == "train":
                written = (rows[:, 2:] != PAD).sum(1)
                texts = [2 + len(recordings.text(i)) for i in range(len(recordings))]
                fits = (written <= self.length) & (np.array(texts) <= self.source_length)
                if not fits.any():
                    raise UserError(
                        "config.codec.max_length, max_source_length: no recording to train on is "
                        f"within them; the shortest has {written.min()} and {min(texts)} tokens"
                    )
                chosen = np.flatnonzero(fits)
                if len(chosen) < len(fits):
                    self._progress.message(
                        f"data: {len(chosen):,} of {len(fits):,} training recordings; left out are "
                        f"those of more than {self.length} tokens, or more than "
                        f"{self.source_length} of text"
                    )
            found[name] = _Encoded(recordings, rows, chosen, self)
        return found

    def _rows(self, split: str, recordings: data.Recordings) -> np.ndarray:
        """Speaker, example's id and tokens of each recording, int32 [N, 2 + longest], cached."""
        key = _digest(recordings)
        for file in (quantisers.SETTINGS, "codec.json"):
            key.update((self._folder / file).read_bytes())

        def fill(new):
            count = len(recordings)
            each = (recordings[i] for i in range(count))
            rows = [
                [example["speaker"], example["example_id"], *self.codec.encode(example["audio"])]
                for example in self._progress.track(each, count, f"encoding {split} recordings")
            ]
            found = new((count, max(map(len, rows))), np.int32)
            for row, content in enumerate(rows):
                found[row, : len(content)] = content

        return cached_array(cache_folder() / f"codes-{key.hexdigest()[:24]}.npy", fill)

    @functools.cached_property
    def buckets(self) -> tuple[int, ...]:
        train = self.splits["train"]
        lengths = (
            max(len(train.tokens(i)), min(2 + len(train.text(i)), self.source_length))
            for i in range(len(train))
        )
        return pipeline.bucket_sizes(lengths, self._config.data.num_buckets)

    def encode_source(self, text: str, speaker: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [S] int32 and their mask [S] float32; a longer text is cut and keeps its end."""
        ids = [self.source_codec.vocabulary.size + speaker, *self.source_codec.encode(text)]
        if len(ids) > self.source_length:
            ids = [*ids[: self.source_length - 1], EOS]
        tokens = np.full(self.source_length, PAD, np.int32)
        tokens[: len(ids)] = ids
        return tokens, (np.arange(self.source_length) < len(ids)).astype(np.float32)

    def template(self) -> dict:
        return {
            "source": np.zeros((1, self.source_length), np.int32),
            "source_mask": np.ones((1, self.source_length), np.float32),
            "target": np.zeros((1, self.length), np.int32),
            "mask": np.ones((1, self.length), np.float32),
        }

    @property
    def encoder(self) -> Tokens:
        return Tokens(self.codec.vocabulary)

    def request(self, options: Mapping[str, Any]) -> tuple[list[str], dict]:
        """A user's own phrases, each given with --text, in the voice that --speaker names.

        Raises:
          UserError: for no phrase, an empty or a too long one, one with characters that the model
            has never seen, or a speaker that there isn't.
        """
        speaker = options["speaker"] or self.speakers[0]
        if speaker not in self.speakers:
            raise UserError(
                f"--speaker={speaker}: this model doesn't know that voice; choose from "
                f"{', '.join(self.speakers)}"
            )
        if not options["text"]:
            raise UserError("--text: none given; name a phrase to say")
        texts = [self._checked(text) for text in options["text"]]
        encode = functools.partial(self.encode_source, speaker=self.speakers.index(speaker))
        tokens, masks = zip(*map(encode, texts), strict=True)
        batch = {
            "source": np.stack(tokens),
            "source_mask": np.stack(masks),
            "example_id": np.arange(len(texts), dtype=np.int32),
            "weight": np.ones(len(texts), np.float32),
        }
        return list(options["text"]), batch

    def _checked(self, text: str) -> str:
        """A user's text as the model reads it, phonemes where it was trained on these."""
        options, said = self._config.data, text
        text = " ".join(text.split())
        if text and options.source == "espeak" and options.text == "phonemes":
            text = espeak().phonemes(text, options.language)
        if not text:
            raise UserError("--text: is empty; name a phrase to say")
        encode = self.source_codec.encode
        unknown = dict.fromkeys(c for c in text if UNK in encode(c))
        if unknown:
            raise UserError(
                f"--text={said}: the model has never seen {' '.join(map(repr, unknown))}; say it "
                "in other words"
            )
        count = 1 + len(encode(text))
        if count > self.source_length:
            raise UserError(
                f"--text={said[:40]}: has {count} tokens with the speaker and the end, and this "
                f"model reads {self.source_length} at most; split the phrase"
            )
        return text

    def portable(self) -> Portable:
        """Sources begin with their speaker; tokens are decoded where they have one level."""
        size, quantiser = self.source_codec.vocabulary.size, self.codec.quantiser
        return Portable(
            self.template()["source"],
            source_codec=self.source_codec,
            first={name: size + i for i, name in enumerate(self.speakers)},
            decode=self._waveform if quantiser.levels == 1 else None,
            sample_rate=self.codec.analysis.sample_rate,
        )

    def _waveform(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Tokens [T] as sound, float32 [T hop G], and how many samples of it are meant."""
        codec, analysis = self.codec, self.codec.analysis
        every = np.arange(codec.quantiser.size, dtype=np.int32)[:, None]
        frames = jnp.asarray(codec.quantiser.decode(every))[jnp.maximum(tokens - EOS - 1, 0)]
        written = jnp.cumsum(tokens <= EOS) == 0
        frames = jnp.where(written[:, None], frames, analysis.floor)
        audio = griffin_lim(
            magnitudes_from_mel(frames.reshape(1, -1, analysis.bands), analysis),
            hop=analysis.hop,
            window=analysis.window,
            iterations=32,
            key=jax.random.key(0),
        )
        return audio[0], written.sum() * codec.group * analysis.hop

    # What was written.

    def audio(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Tokens as waveforms, float32 [samples] each, by the codec and its vocoder."""
        found = []
        for start in range(0, len(sequences), _VOCODED):
            part = list(sequences[start : start + _VOCODED])
            # The vocoder is compiled for each number of recordings: fill the last part up.
            filled = part + part[-1:] * (min(_VOCODED, len(sequences)) - len(part))
            found += self.codec.decode_batch(filled)[: len(part)]
        return found

    def seconds(self, tokens: np.ndarray) -> float:
        """How long tokens sound."""
        return int((self._written(tokens) >= EOS + 1).sum()) / self.codec.tokens_per_second

    def _written(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens before the end."""
        ends = np.flatnonzero(np.isin(tokens, (EOS, PAD, BOS)))
        return tokens[: ends[0]] if len(ends) else tokens

    def decode(self, tokens: np.ndarray) -> str:
        """Their duration, and the codes themselves."""
        codes = self._written(np.asarray(tokens)) - EOS - 1
        return f"{self.seconds(tokens):.2f} s: {' '.join(map(str, codes))}"

    def prefix(self, text: str) -> tuple[int, ...]:
        """Speech begins with no text.

        Raises:
          UserError: for any prefix.
        """
        if text:
            raise UserError(f"--prefix={text}: of no use to a model of speech; leave it out")
        return ()

    def row(self, name: str, sample: Sample) -> dict:
        return {
            "text": name,
            "recordings": [
                {
                    "seconds": self.seconds(tokens),
                    "codes": (self._written(tokens) - EOS - 1).tolist(),
                    "log_prob": float(log_prob),
                    "score": float(score),
                }
                for tokens, log_prob, score in zip(
                    sample.tokens, sample.log_probs, sample.scores, strict=True
                )
            ],
        }

    def describe(self, name: str, sample: Sample) -> list[str]:
        return [
            name,
            *(
                f"  {row['seconds']:.2f} s of speech  (log-probability {row['log_prob']:.2f}, "
                f"discriminator {row['score']:.2f}); --output=FILE.wav to hear it"
                for row in self.row(name, sample)["recordings"]
            ),
        ]

    def save(self, path: Path, samples: Sequence[Sample]) -> list[Path]:
        """Writes WAV files: the one named for a single recording, numbered ones for several."""
        waves = self.audio([tokens for sample in samples for tokens in sample.tokens])
        paths = [path]
        if len(waves) > 1:
            paths = [path.with_stem(f"{path.stem}-{i}") for i in range(1, len(waves) + 1)]
        for file, wave in zip(paths, waves, strict=True):
            sound.write_wav(file, wave, self.codec.analysis.sample_rate)
        return paths

    # Figures.

    @functools.cached_property
    def recogniser(self) -> judges.WordRecogniser | None:
        """What names words in recordings, of `config.recogniser`; None where words are too many.

        It learns from real recordings alone: with eSpeak NG of voices that the model doesn't have,
        otherwise of the training split. Kept in the cache.
        """
        options, recordings = self._config.recogniser, self._all["train"]
        if self._config.data.source == "espeak":
            settings = ml_collections.ConfigDict(self._config.data.to_dict())
            settings.update(voices=options.voices, seed=settings.seed + 1)
            settings.update(train_size=options.size, validation_size=0, test_size=0)
            if shared := set(options.voices) & set(self.speakers):
                raise UserError(
                    f"config.recogniser.voices: {', '.join(sorted(shared))} must not be among "
                    "config.data.voices, which it judges"
                )
            recordings = data.load(settings, progress=self._progress.track)["train"]
        count = min(len(recordings), options.size)
        phrases = [self.words(recordings.text(i)) for i in range(count)]
        words = sorted({word for phrase in phrases for word in phrase})
        if len(words) > options.max_words:
            return None
        rate, steps = self._config.data.sample_rate, options.steps
        key = _digest(recordings)
        key.update(json.dumps([options.to_dict(), rate, words]).encode())

        def fill(new):
            found = judges.WordRecogniser.fit(
                [recordings[i]["audio"] for i in range(count)],
                phrases,
                rate,
                seed=options.seed,
                steps=steps,
                progress=lambda each: self._progress.track(
                    each, len(each), "training the recogniser on real recordings"
                ),
            )
            flat = np.asarray(ravel_pytree(found.params)[0])
            new(flat.shape, flat.dtype)[:] = flat

        flat = cached_array(cache_folder() / f"recogniser-{key.hexdigest()[:24]}.npy", fill)
        shapes = jax.eval_shape(lambda: judges.WordRecogniser.initial_params(words, options.seed))
        _, unravel = ravel_pytree(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
        return judges.WordRecogniser(words, unravel(np.array(flat)), rate)

    def words(self, text: str) -> tuple[str, ...]:
        """What a recogniser is to hear: words, or characters where no spaces are written."""
        options = self._config.data
        unspaced = options.source == "espeak" and options.text == "characters"
        if unspaced and options.language.split("-")[0] in data.UNSPACED:
            return tuple(text)
        return tuple(text.split())

    def evaluate(
        self, split: str, samples: Sequence[Sample], log_probs: np.ndarray, *, thorough: bool
    ) -> dict[str, Metric]:
        """Recognition, distortion and duration of the first recording of each phrase.

        Thorough also the fresh judge of code sequences, and how different two recordings of a
        phrase are. `quality_diversity` is the share of phrases recognised, or less the distortion
        where there is no recogniser: z and sampling vary speech enough by themselves.
        """
        del log_probs
        first = self.audio([sample.tokens[0] for sample in samples])
        figures = self._judge(split, first)
        if not thorough:
            return figures
        figures |= self._real_or_generated(
            [sample.tokens[0] for sample in samples], self._real(split, 0, len(samples))
        )
        if all(len(sample.tokens) > 1 for sample in samples):
            second = self.audio([sample.tokens[1] for sample in samples])
            pairs = list(zip(first, second, strict=True))
            figures |= metrics.diversity(pairs, self.codec.analysis.sample_rate)
        return figures

    def _judge(self, split: str, waves: Sequence[np.ndarray]) -> dict[str, Metric]:
        """Recognition, distortion and duration of recordings of a split's first phrases."""
        held_out, figures = self.split(split), {}
        if self.recogniser:
            said = [self.words(held_out.text(i)) for i in range(len(waves))]
            figures = metrics.recognition(self.recogniser(waves), said)
        references = [held_out.audio(i) for i in range(len(waves))]
        figures |= metrics.distances(waves, references, self.codec.analysis.sample_rate)
        best = figures.get("phrases_recognised")
        if best is None:
            far = figures["mel_cepstral_distortion"]
            best = far._replace(value=-1e3 if far.value is None else -far.value)
        return figures | {"quality_diversity": best}

    def _real(self, split: str, start: int, count: int) -> list[np.ndarray]:
        """Code sequences of a split's recordings, cut as generated ones are."""
        held_out = self.split(split)
        stop = min(start + count, len(held_out))
        return [held_out.tokens(i)[: self.length] for i in range(start, stop)]

    def _real_or_generated(self, ours, real) -> dict[str, Metric]:
        if min(len(ours), len(real)) < 10:
            return {}
        tokens, masks = zip(*(_padded(each, self.length) for each in (real, ours)), strict=True)
        verdict = judges.real_or_generated(
            *tokens,
            vocabulary_size=self.codec.vocabulary.size,
            seed=self._config.seed,
            real_mask=masks[0],
            generated_mask=masks[1],
            progress=lambda steps: self._progress.track(steps, len(steps), "training a judge"),
        )
        return {"judge_accuracy": verdict.accuracy, "judge_auc": verdict.auc}

    def comparisons(
        self, split: str, count: int, num_samples: int
    ) -> tuple[dict[str, dict[str, Metric]], list[str]]:
        """The recordings themselves, and what is left of them by the codec; and a note on these.

        The judge of the second column tells one half of the real recordings from the other.
        """
        del num_samples
        held_out = self.split(split)
        real = [held_out.audio(i) for i in range(count)]
        half = count // 2
        coded = self._judge(split, self.audio([held_out.tokens(i) for i in range(count)]))
        coded |= self._real_or_generated(
            self._real(split, 0, half), self._real(split, half, count - half)
        )
        columns = {"real recordings": self._judge(split, real), "the same, coded": coded}
        lines = [
            f"codec: {self.codec.tokens_per_second:.1f} tokens and "
            f"{self.codec.bits_per_second:.0f} bits a second"
        ]
        if self.recogniser:
            heard = self._config.recogniser.voices if self.message else self.speakers
            lines.append(
                "recogniser: trained on real recordings of "
                f"{', '.join(heard)}; its own accuracy is the column of real recordings"
            )
        return columns, lines

    # Pictures.

    def illustrate(
        self, folder: Path, split: str, samples: Sequence[Sample], attention: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Writes recordings, their spectrograms beside the real ones', and where the first looked.

        `N.wav` is what was written for phrase N and `N-real.wav` a real recording of it;
        `speech.json` says which phrases these are, and `index.html`, in the folder above, plays
        those of all stages.
        """
        folder.mkdir(parents=True, exist_ok=True)
        held_out, analysis = self.split(split), self.codec.analysis
        waves = self.audio([sample.tokens[0] for sample in samples])
        heard = self.recogniser(waves) if self.recogniser else [()] * len(waves)
        drawn, rows = {}, []
        for i, (sample, wave) in enumerate(zip(samples, waves, strict=True)):
            name, real = str(i + 1), held_out.audio(i)
            sound.write_wav(folder / f"{name}.wav", wave, analysis.sample_rate)
            sound.write_wav(folder / f"{name}-real.wav", real, analysis.sample_rate)
            titles = (f"written for: {held_out.text(i)}", "a real recording")
            frames = {
                title: frames_of(audio, analysis)
                for title, audio in zip(titles, (wave, real), strict=True)
            }
            picture = sound.spectrograms(frames, analysis.frames_per_second, folder / f"{name}.png")
            drawn |= {} if drawn else {name: picture}
            rows.append(
                {
                    "text": held_out.text(i),
                    "speaker": self.speakers[held_out.speaker(i)],
                    "heard": " ".join(heard[i]),
                    "seconds": round(len(wave) / analysis.sample_rate, 3),
                    "score": round(float(sample.scores[0]), 6),
                }
            )
        with replace_file(folder / "speech.json") as file:
            file.write(json.dumps(rows, indent=1, ensure_ascii=False).encode())
        sound.listening_page(folder.parent)
        if attention is not None:
            voice = f"<{self.speakers[held_out.speaker(0)]}>"
            weights = attention[: int(samples[0].mask[0].sum())]
            path = folder / "attention.png"
            drawn["attention"] = self._draw_attention(held_out.text(0), voice, weights, path)
        return drawn

    def draw_attention(
        self, name: str, tokens: np.ndarray, attention: np.ndarray, path: Path
    ) -> np.ndarray:
        del tokens
        return self._draw_attention(self._checked(name), "<voice>", attention, path)

    def _draw_attention(self, text: str, voice: str, attention, path: Path) -> np.ndarray:
        ids, mask = self.encode_source(text, 0)
        source = [voice, *(self.source_codec.tokens[i] for i in ids[mask > 0][1:])]
        weights = attention[:, : len(source)]
        return sound.attention(source, weights, self.codec.tokens_per_second, path)


def _padded(sequences: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Code sequences with their ends, [N, T], and their mask."""
    tokens = np.full((len(sequences), length), PAD, np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
    return tokens, (tokens != PAD).astype(np.float32)


def _digest(recordings: data.Recordings):
    """A hash of all that recordings hold."""
    key = hashlib.sha256()
    for i in range(len(recordings)):
        example = recordings[i]
        key.update(
            json.dumps([example["text"], example["speaker"], example["example_id"]]).encode()
        )
        key.update(example["audio"].tobytes())
    return key


def _read_speakers(path: Path) -> tuple[str, ...]:
    try:
        names = json.loads(path.read_bytes())
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); train anew") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged; restore it from a copy") from error
    return tuple(names)
