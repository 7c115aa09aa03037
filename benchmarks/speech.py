"""Speed of speech from text to waveform, and what action values cost; one JSON object a line.

    python benchmarks/speech.py [--variant=default|smoke|fsdd|ljspeech] [--every=1,4,16]

Networks of `configs/speech.py` with random weights, and a codec fitted to noise: neither changes
the speed. `real_time_factor` is seconds of work for a second of speech, of one phrase and of many
at once, by the generator, by the codec with Griffin-Lim, and by both.

`values` is the time of one update of the generator whose action values come from completions of
every n-th prefix, and of one with the dense estimator, beside the memory that the compiled program
needs for what it computes on the way. Rollouts of random networks seldom end, so that they cost as
much as they can.
"""

import functools
import sys
from pathlib import Path

import ceilings
import jax
import numpy as np
from absl import app, flags

from seqgan_jax.codecs.mel import Analysis, MelCodec
from seqgan_jax.models import build
from seqgan_jax.programs.start import keep_memory
from seqgan_jax.training import fit, phases
from seqgan_jax.training.steps import Steps

# Configurations belong to a checkout, not to the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
from configs import speech

VARIANT = flags.DEFINE_string("variant", "default", "The variant of configs/speech.py.")
PHRASES = flags.DEFINE_list("phrases", ["1", "64"], "How many are said at once.")
EVERY = flags.DEFINE_list("every", ["1", "4", "16"], "Values of rollout_every; empty for none.")
BATCH = flags.DEFINE_integer("batch", 16, "Sources of an update.")
TOKENS = flags.DEFINE_integer("tokens", None, "Instead of the configuration's max_length.")
CALLS = flags.DEFINE_integer("calls", 5, "Calls timed of each.")


def main(argv):
    del argv
    keep_memory()
    config = speech.get_config(VARIANT.value)
    length = TOKENS.value or config.codec.max_length
    codec = noise_codec(config)
    networks = [
        make(config, codec.vocabulary, 64) for make in (build.generator, build.discriminator)
    ]
    steps = Steps(*networks, codec.vocabulary, length, config.clip)
    state = steps.init(0, batch_of(config, 1, length))
    show = functools.partial(ceilings.print_line, variant=VARIANT.value, length=length)
    for count in map(int, PHRASES.value):
        say(steps, state, batch_of(config, count, length), codec, show)
    for every in map(int, filter(None, EVERY.value)):
        value(steps, config, length, show, rollout_every=every)
    if EVERY.value:
        value(steps, config, length, show, estimator="dense", baseline="position")


def noise_codec(config) -> MelCodec:
    """A codec of the configuration's sizes."""
    options, rate = config.codec, config.data.sample_rate
    analysis = Analysis(
        rate, options.hop, options.window, options.bands, options.fmin, options.fmax
    )
    seconds = 2 * options.size * options.group * options.hop / rate
    noise = np.random.default_rng(0).normal(size=int(seconds * rate)).astype(np.float32)
    return MelCodec.fit(
        [0.1 * noise],
        0,
        analysis=analysis,
        group=options.group,
        quantiser="kmeans",
        minimise=fit.fit,
        size=options.size,
        levels=options.levels,
    )


def batch_of(config, count: int, length: int) -> dict:
    """Random texts and targets."""
    rng = np.random.default_rng(1)
    source = rng.integers(3, 64, (count, config.codec.max_source_length)).astype(np.int32)
    return {
        "source": source,
        "source_mask": np.ones(source.shape, np.float32),
        "target": rng.integers(3, 3 + config.codec.size, (count, length)).astype(np.int32),
        "mask": np.ones((count, length), np.float32),
        "example_id": np.arange(count, dtype=np.int32),
        "weight": np.ones(count, np.float32),
    }


def say(steps, state, batch, codec, show):
    """Real-time factors of a batch of phrases, all as long as they may be."""
    count = len(batch["weight"])
    sources = {name: batch[name] for name in ("source", "source_mask", "example_id")}
    params = state.generator.params, state.discriminator.params
    key = jax.random.key(0)
    tokens = batch["target"]
    write = lambda: steps.write(*params, sources, key, num_samples=1)
    vocode = lambda: codec.decode_batch(tokens)
    times = ceilings.seconds({"generator": write, "vocoder": vocode}, CALLS.value)
    spoken = tokens.size / codec.tokens_per_second
    taken = {name: times[name].min() for name in times}
    for part, seconds in (*taken.items(), ("both", sum(taken.values()))):
        show("real_time_factor", seconds / spoken, "s/s", part=part, phrases=count)


def value(steps, config, length, show, **changes):
    """The time and the memory of an update by the policy gradient."""
    schedule = config.phases.copy_and_resolve_references()
    schedule.order = ("adversarial",)
    schedule.adversarial.batch_size = BATCH.value
    schedule.adversarial.generator.update(changes)
    (phase,) = phases.parse(schedule)
    program = phase.step_of("generator")
    batch = batch_of(config, BATCH.value, length)
    start = jax.device_get(steps.begin_phase(steps.init(0, batch), 0, phase))
    compiled = steps.train_step.lower(start, batch, phase=program, network="generator").compile()
    memory = compiled.memory_analysis()

    def update():
        return compiled(jax.tree.map(jax.numpy.array, start), batch)[1]

    times = ceilings.seconds({"update": update}, CALLS.value)["update"]
    told = {"estimator": phase.generator.estimator, "batch": BATCH.value}
    if phase.generator.estimator == "rollout":
        for name in ("num_rollouts", "rollout_chunk", "rollout_every"):
            told[name] = getattr(phase.generator, name)
    show(
        "values",
        1e3 * times.min(),
        "ms",
        **told,
        temporary_mib=memory and round(memory.temp_size_in_bytes / 2**20, 1),
    )


if __name__ == "__main__":
    app.run(main)
