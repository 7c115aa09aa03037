"""Time and memory of an adversarial round: training steps as they run, one JSON object a line.

    python benchmarks/round.py [--config=paper|seed|gpu] [--full]

A round is one update of the generator by rollouts and then 4,680 of the discriminator, five times
three epochs of 10,000 real and 10,000 generated sequences, 32 of each an update (Yu et al., 2017).
Each network's update is timed by itself, and with --full a whole round is, the writing of generated
sequences included. `seed` and `gpu` have three LSTM layers in both networks, attention over the
noise's slots, and new sequences at every update of the discriminator.

`floor` is the time of the products counted from the shapes, and of one exponential for each logit,
at this machine's ceilings, measured in the same run; these are given for `paper`. `bytes` are what
the optimiser reads and writes. The plain ways stand beside the parts of a round in the other
benchmarks.
"""

import sys
import time
from pathlib import Path

import ceilings
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import settings
from absl import app, flags

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.core import text_cnn
from seqgan_jax.models import build
from seqgan_jax.programs.start import keep_memory
from seqgan_jax.training import phases
from seqgan_jax.training.steps import Steps

# Configurations belong to a checkout, not to the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
from configs import oracle

FULL = flags.DEFINE_bool("full", False, "Time a whole round too.")
UPDATES = flags.DEFINE_integer(
    "updates", None, "The discriminator's in a round, instead of the usual number.", lower_bound=1
)
PHASE = "adversarial"


def configuration(setting: settings.Setting, paper: bool) -> ml_collections.ConfigDict:
    """The oracle experiment's, at the setting's sizes."""
    config = oracle.get_config("paper")
    config.phases.order = (PHASE,)
    config.phases.adversarial.batch_size = setting.batch
    update = config.phases.adversarial.generator
    update.num_rollouts = setting.rollouts
    if not paper:
        size = {"embedding_size": setting.hidden, "hidden_size": setting.hidden}
        size |= {"num_layers": setting.layers, "attention_size": setting.hidden}
        config.generator.update(size | {"output_size": setting.hidden, "noise_size": 32})
        config.discriminator = ml_collections.ConfigDict(
            {"kind": "lstm", "feature_size": setting.hidden, "num_heads": 4, "dropout": 0.25}
            | {"head_size": max(1, setting.hidden // 4), **size}
        )
        config.phases.adversarial.discriminator.update(pool=0, batch_size=setting.batch)
    if UPDATES.value:
        config.phases.adversarial.discriminator.updates = UPDATES.value
    return config


def batch_of(setting: settings.Setting, size: int) -> dict:
    """A batch of `size` random sequences."""
    tokens = np.random.default_rng(0).integers(0, setting.vocabulary, (size, setting.length))
    return {
        "source": None,
        "source_mask": None,
        "target": jnp.array(tokens, jnp.int32),
        "mask": jnp.ones((size, setting.length)),
        "example_id": jnp.arange(size, dtype=jnp.int32),
        "weight": jnp.ones(size),
    }


def work(config: ml_collections.ConfigDict, setting: settings.Setting) -> dict:
    """Operations of products, and exponentials, in an update of each of the paper's networks."""
    judge, length = config.discriminator, setting.length
    pooled = judge.embedding_size * sum(
        filters * min(width * (length - width + 1), len(text_cnn.correlation(length)[0]))
        for width, filters in zip(judge.widths, judge.filters, strict=True)
    )
    highway = 2 * sum(judge.filters) ** 2
    update = config.phases.adversarial.generator
    tokens = setting.batch * update.num_rollouts * length * (length - 1) // 2
    hidden, vocabulary = config.generator.hidden_size, setting.vocabulary
    writing = tokens * 2 * hidden * (8 * hidden + vocabulary)
    scoring = setting.batch * update.num_rollouts * (length - 1) * (pooled + highway)
    size = 2 * config.phases.adversarial.discriminator.batch_size
    return {
        "generator": {"operations": writing + 2 * scoring, "exponentials": tokens * vocabulary},
        "discriminator": {"operations": 6 * size * (pooled + highway), "exponentials": 0},
    }


def main(argv):
    del argv
    keep_memory()
    setting, paper = settings.chosen(), settings.CONFIG.value == "paper"
    limits = ceilings.report()
    config = configuration(setting, paper)
    schedule = phases.parse(config.phases)
    (phase,) = schedule
    vocabulary = Vocabulary(setting.vocabulary, bos=0)
    steps = Steps(
        build.generator(config, vocabulary),
        build.discriminator(config, vocabulary),
        vocabulary,
        setting.length,
        config.clip,
        phases=schedule,
    )
    batches = {name: batch_of(setting, phase.sources(name)) for name in phase.networks}
    state = steps.begin_phase(steps.init(0, batches["generator"]), 0, phase)
    counted = work(config, setting) if paper else {}
    floor = {
        name: each["operations"] / limits["flops"] + each["exponentials"] / limits["exps"]
        for name, each in counted.items()
    }

    def report(name, seconds, floor, **details):
        shares = {}
        if floor:
            shares = {
                "floor_ms": round(1e3 * floor, 1),
                "share_of_floor": round(floor / seconds, 3),
            }
        details |= {"peak_memory_mib": ceilings.peak_memory(), "config": settings.CONFIG.value}
        ceilings.print_line(f"round/{name}", 1e3 * seconds, "ms", **shares, **details)

    programs, medians = {}, {}
    for name in phase.networks:
        began = time.perf_counter()
        program = steps.train_step.lower(state, batches[name], phase=phase, network=name).compile()
        compile_seconds = time.perf_counter() - began
        programs[name] = program
        times = []
        # The first call is not timed; in the paper's setting it fills the pool as well.
        for _ in range(1 + (settings.REPEATS.value or {"generator": 3}.get(name, 20))):
            began = time.perf_counter()
            state, metrics = program(state, batches[name])
            jax.block_until_ready((state, metrics))
            times.append(time.perf_counter() - began)
        medians[name] = float(np.median(times[1:]))
        sequences = len(batches[name]["weight"])
        parameters = sum(x.size for x in jax.tree.leaves(getattr(state, name).params))
        report(
            name,
            medians[name],
            floor.get(name),
            fastest_ms=round(1e3 * min(times[1:]), 2),
            sequences=sequences,
            sequences_per_second=round(sequences / medians[name], 1),
            **counted.get(name, {}),
            # Adam reads parameters, two moments and the gradient, and writes all but the last.
            bytes=7 * 4 * parameters,
            compile_seconds=round(compile_seconds, 1),
        )
    updates = {name: getattr(phase, name).updates for name in phase.networks}
    total = lambda each: sum(updates[name] * each[name] for name in updates) if each else None
    report("sum_of_updates", total(medians), total(floor), updates=updates)
    if FULL.value:
        state = state.replace(phase_step=jnp.zeros((), jnp.int32))
        began = time.perf_counter()
        for name, count in updates.items():
            for _ in range(count):
                state, metrics = programs[name](state, batches[name])
                jax.block_until_ready(metrics)
        report("whole", time.perf_counter() - began, total(floor), updates=updates)


if __name__ == "__main__":
    app.run(main)
