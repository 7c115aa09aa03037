"""Quality of the speech codec at several sizes, and speed of its vocoder, one JSON object a line.

    python benchmarks/speech_codec.py [--source=espeak|fsdd] [--path=FOLDER]
        [--settings=kmeans:256:1:1,vqvae:256:4:1,...]

A setting is quantiser:codes:frames in a group:residual levels. Codecs are fitted to training
recordings; all figures are of held-out ones, decoded to waveforms by Griffin-Lim.
`recognised` is the share of held-out spoken digits whose decoded waveform a support vector machine
names, which has learnt from uncoded training recordings alone.
"""

import functools
import time

import ceilings
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from seqgan_jax.codecs import mel, quantisers
from seqgan_jax.data import speech
from seqgan_jax.evaluation import speech as evaluation
from seqgan_jax.training import fit

SOURCE = flags.DEFINE_enum("source", "espeak", ("espeak", "fsdd"), "Where recordings come from.")
PATH = flags.DEFINE_string("path", "", "The folder of FSDD.")
HOP_MS = flags.DEFINE_float("hop_ms", 16.0, "Time from frame to frame; a window is four of them.")
BANDS = flags.DEFINE_integer("bands", 64, "Mel bands.")
SETTINGS = flags.DEFINE_list(
    "settings",
    [
        *("kmeans:64:1:1", "kmeans:256:1:1", "kmeans:256:4:1", "kmeans:512:4:1"),
        *("vqvae:64:1:1", "vqvae:256:1:1", "vqvae:256:4:1", "vqvae:512:4:1"),
        *("kmeans:256:4:2", "vqvae:256:4:2"),
    ],
    "Settings of the codec.",
)
STEPS = flags.DEFINE_integer("steps", 3000, "Training steps of a VQ-VAE.")
FITTED = flags.DEFINE_integer("fitted", 800, "Recordings that codecs are fitted to.")
HELD_OUT = flags.DEFINE_integer("held_out", 240, "Recordings judged.")

ESPEAK = {
    "language": "en-us",
    "voices": ("m1", "m3", "m7", "f2", "f4"),
    "rates": (130, 190),
    "pitches": (35, 65),
    "phrases": "digits",
    "digits": (1, 2),
    "text": "characters",
    "train_size": 3000,
    "validation_size": 1,
    "test_size": 1,
    "seed": 0,
    "sample_rate": 16000,
}
FSDD = {"sample_rate": 8000}


def recordings() -> tuple[list[dict], list[dict], int]:
    """Single spoken digits: to learn from, held out, and their sample rate."""
    sizes = ESPEAK if SOURCE.value == "espeak" else FSDD
    config = ConfigDict({"source": SOURCE.value, "path": PATH.value, "trim_db": 40.0, **sizes})
    splits = speech.load(config)
    examples = {name: [split[i] for i in range(len(split))] for name, split in splits.items()}
    if SOURCE.value == "espeak":  # its single words are all in one split
        words = [example for example in examples["train"] if " " not in example["text"]]
        return words[HELD_OUT.value :], words[: HELD_OUT.value], config.sample_rate
    held_out = examples["validation"] + examples["test"]
    return examples["train"], held_out[: HELD_OUT.value], config.sample_rate


def picture(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """A recording's spectrogram at 32 places, without its loudness; [32 x 40]."""
    frames = evaluation.log_bands(audio, sample_rate)
    places = np.linspace(0, len(frames) - 1, 32)
    low = np.floor(places).astype(int)
    high, share = np.minimum(low + 1, len(frames) - 1), (places - low)[:, None]
    frames = (1 - share) * frames[low] + share * frames[high]
    return (frames - frames.mean()).ravel()


def main(argv):
    del argv
    learnt, held_out, rate = recordings()
    hop = round(HOP_MS.value / 1000 * rate)
    analysis = mel.Analysis(rate, hop, 4 * hop, BANDS.value, fmax=min(7600.0, rate / 2))
    pictures = lambda waves: np.stack([picture(wave, rate) for wave in waves])
    digits = lambda examples: [example["text"] for example in examples]
    waves = lambda examples: [example["audio"] for example in examples]
    recogniser = make_pipeline(StandardScaler(), SVC(C=10.0))
    recogniser.fit(pictures(waves(learnt)), digits(learnt))
    print_line = functools.partial(
        ceilings.print_line, source=SOURCE.value, hop_ms=HOP_MS.value, bands=BANDS.value
    )

    def judge(show, decoded):
        for name, figure in evaluation.codec_quality(decoded, waves(held_out), rate).items():
            show(name, figure.value, figure.unit, stderr=round(figure.stderr, 3))
        recognised = recogniser.score(pictures(decoded), digits(held_out))
        show("recognised", recognised, "of 1", n=len(held_out))

    judge(functools.partial(print_line, setting="real"), waves(held_out))
    vocode(analysis, waves(held_out)[:16], print_line)
    audio = mel.GriffinLim(analysis)(mel.log_mel(padded(waves(held_out), analysis), analysis))
    uncoded = [row[: len(wave)] for row, wave in zip(audio, waves(held_out), strict=True)]
    judge(functools.partial(print_line, setting="uncoded"), uncoded)

    fitted = waves(learnt)[: FITTED.value]
    for setting in SETTINGS.value:
        kind, size, group, levels = setting.split(":")
        options = {"steps": STEPS.value} if kind == quantisers.VQVAE.kind else {}
        began = time.perf_counter()
        codec = mel.MelCodec.fit(
            fitted,
            0,
            analysis=analysis,
            group=int(group),
            quantiser=kind,
            minimise=fit.fit,
            size=int(size),
            levels=int(levels),
            **options,
        )
        took = time.perf_counter() - began
        decoded = codec.decode_batch([codec.encode(wave) for wave in waves(held_out)])
        use = quantisers.code_use(
            np.concatenate([codec.codes(wave) for wave in waves(held_out)]), codec.quantiser.size
        )
        show = functools.partial(print_line, setting=setting)
        show("tokens", codec.tokens_per_second, "tokens/s")
        show("rate", codec.bits_per_second, "bits/s")
        show("perplexity", use["perplexity"], "codes")
        show("used", use["used"], "of all codes")
        show("fit", took, "s")
        judge(show, decoded)


def padded(waves: list[np.ndarray], analysis: mel.Analysis) -> np.ndarray:
    """Recordings with silence up to one length, [B, samples]."""
    length = -(-max(map(len, waves)) // analysis.hop) * analysis.hop
    return np.stack([np.pad(wave, (0, length - len(wave))) for wave in waves])


def vocode(analysis, waves, print_line):
    """Griffin-Lim without any codes: iterations against convergence and time."""
    batch = padded(waves, analysis)
    frames = mel.log_mel(batch, analysis)
    shape = {"hop": analysis.hop, "window": analysis.window}
    vocoders = {
        (iterations, momentum): mel.GriffinLim(analysis, iterations=iterations, momentum=momentum)
        for iterations in (8, 16, 32, 64)
        for momentum in (0.0, 0.99)
    }
    calls = {name: functools.partial(vocoder, frames) for name, vocoder in vocoders.items()}
    times = ceilings.seconds(calls, 3)
    target = mel.magnitudes_from_mel(frames, analysis)
    for (iterations, momentum), call in calls.items():
        show = functools.partial(
            print_line, setting="griffin_lim", iterations=iterations, momentum=momentum
        )
        converged = jnp.mean(mel.spectral_convergence(call(), target, **shape))
        show("spectral_convergence", float(converged), "relative")
        seconds = times[iterations, momentum].min()
        show("real_time_factor", seconds * analysis.sample_rate / batch.size, "s/s")


if __name__ == "__main__":
    app.run(main)
