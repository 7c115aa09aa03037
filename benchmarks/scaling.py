"""What devices exchange in a training step, for up to 256 of them, one JSON object a line.

    python benchmarks/scaling.py [--setting=default|large] [--devices=1,2,8,64,256] [--rows=32]
    python benchmarks/scaling.py --model=2,4 --devices=8
    python benchmarks/scaling.py --topology=v5e:2x4     (needs PyPI's libtpu, and no TPU)
    python benchmarks/scaling.py --time=2 --rows=16     (runs, on so many virtual devices)
    python benchmarks/scaling.py --part=50 --setting=smoke --rows=4 --devices=2,4,8     (runs)
    python benchmarks/scaling.py --memory --layers=8 --length=128 \\
        --steps=pretrain_generator/generator

Every step is compiled, not run, once for each number of devices, in a process of its own with so
many virtual CPU devices, or for a TPU topology ahead of time. Each device has `rows` sources, so
the work of one doesn't change. A line of `scaling/PHASE/NETWORK` has the bytes of the collectives
in the compiled program, those in loops times the loop's trips; a loop that stops early counts as if
it didn't. `flops` and `products` are counted from the traced program of one device: operations of
matrix products and convolutions, and how many of them follow each other.

`predicted` is, for each kind of device in HARDWARE, milliseconds of a step: operations at `SHARE`
of the peak, `launch` for each product, and then a ring's time for the bytes and a tree's for their
latency, 2 log2 n messages. Nothing of that was measured.

With --time=n the steps do run, on one virtual device with the whole batch and on n with a part
each, in turn in one process on the same cores: `scaling/time` is the ratio of the shortest times.

With --part=n up to n adversarial rounds run from one state, on one virtual device and on others
with the same batch, each drawing its own tokens: `scaling/part` is the first round in which a token
differs, null if there is none.

With --memory steps are compiled for one device as they are, with `config.parallel.remat`, and with
`accumulate`: `scaling/memory` is the temporary memory that the program needs.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jax.experimental import topologies

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.models import build
from seqgan_jax.programs.start import compile_quickly, keep_memory
from seqgan_jax.training import phases
from seqgan_jax.training.parallel import Layout, Options
from seqgan_jax.training.steps import Steps

# Configurations belong to a checkout, not to the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
from configs import captions

SETTING = flags.DEFINE_enum(
    "setting", "default", ["default", "large", "smoke"], "Of configs/captions.py."
)
DEVICES = flags.DEFINE_list("devices", ["1", "2", "8", "64", "256"], "Numbers of devices.")
MODEL = flags.DEFINE_list("model", ["1"], "How many of them share the vocabulary's matrices.")
ROWS = flags.DEFINE_integer("rows", 32, "Sources of a batch on each device.", lower_bound=1)
STEPS = flags.DEFINE_list("steps", [], "PHASE/NETWORK; all of them by default.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Compile for this TPU topology, v5e:2x4 say.")
PART = flags.DEFINE_integer("part", 0, "Run so many rounds, with tokens of each layout's own.")
MEMORY = flags.DEFINE_bool("memory", False, "Compile for one device in several ways.")
LAYERS = flags.DEFINE_integer("layers", None, "Of the generator, instead of the setting's.")
LENGTH = flags.DEFINE_integer("length", None, "Of sequences, instead of the setting's.")
KIND = flags.DEFINE_enum("kind", "lstm", ["lstm", "transformer"], "Of the generator.")
TIME = flags.DEFINE_integer("time", 0, "Run on so many virtual devices, and on one.")
REPEATS = flags.DEFINE_integer("repeats", 10, "Runs of which the shortest counts.", lower_bound=1)
INSIDE = flags.DEFINE_bool("inside", False, "In the process that compiles.")


class Hardware(NamedTuple):
    """A kind of device, by its maker's figures.

    Attributes:
      peak: operations per second in float32 products (TPU: bfloat16 passes, six for one).
      bandwidth: bytes per second that a device sends to its neighbour in a ring.
      latency: seconds of a message to it.
      launch: seconds between two short kernels, an estimate.
    """

    peak: float
    bandwidth: float
    latency: float
    launch: float


HARDWARE = {
    "h100_nvlink": Hardware(67e12, 450e9, 3e-6, 5e-6),
    "h100_infiniband": Hardware(67e12, 50e9, 6e-6, 5e-6),
    "tpu_v5e": Hardware(197e12 / 6, 50e9, 1e-6, 1e-6),
}
SHARE = 0.4
# Vocabulary, and shape and type of a source.
DATA = {
    "default": (104, (48, 48, 3), np.uint8),
    "large": (10_000, (49, 320), np.float32),
    "smoke": (104, (48, 48, 3), np.uint8),
}
COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}


def prepared(layout: Layout):
    """The steps of a setting, the shapes of a state, and those of the batches of each step."""
    config = captions.get_config(SETTING.value)
    config.parallel.remat = layout.options.remat
    config.generator.num_layers = LAYERS.value or config.generator.num_layers
    if KIND.value == "transformer":
        config.generator.kind, config.discriminator.likelihood = KIND.value, False
    size, shape, dtype = DATA[SETTING.value]
    vocabulary = Vocabulary(size, bos=1, pad=0, eos=2)
    schedule = phases.parse(config.phases)
    length = LENGTH.value or config.codec.max_length
    steps = Steps(
        build.generator(config, vocabulary),
        build.discriminator(config, vocabulary),
        vocabulary,
        length,
        config.clip,
        phases=schedule,
        layout=layout,
    )

    def batch(rows, targets):
        struct = jax.ShapeDtypeStruct
        return {
            "source": struct((rows, *shape), dtype),
            "source_mask": None,
            "target": struct((rows * targets, length), jnp.int32),
            "mask": struct((rows * targets, length), jnp.float32),
            "example_id": struct((rows,), jnp.int32),
            "weight": struct((rows,), jnp.float32),
        }

    zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    state = jax.eval_shape(lambda: steps.init(0, zeros(batch(1, 1))))
    asked = {}
    for phase in schedule:
        for network in phase.networks:
            name = f"{phase.name}/{network}"
            if not STEPS.value or name in STEPS.value:
                static = {"phase": phase.step_of(network), "network": network}
                asked[name] = (static, lambda rows, phase=phase: batch(rows, phase.targets))
    return steps, state, asked, length


def placed(shapes, shardings):
    """Shapes with their places, which is all that compiling needs."""
    struct = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(struct, shapes, shardings)


def counted(jaxpr, trips: int) -> tuple[float, int]:
    """Operations of a traced program's products, and how many of these follow each other.

    Args:
      jaxpr: the program.
      trips: how often a loop is gone through whose trips are not known.
    """
    flops, products = 0.0, 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [counted(part, trips) for part in _parts(equation)]
        if name in ("dot_general", "conv_general_dilated"):
            flops, products = flops + _operations(equation), products + 1
        elif inner:
            times = {"scan": equation.params.get("length"), "while": trips}.get(name, 1)
            pick = max if name == "cond" else (lambda found: tuple(map(sum, zip(*found))))  # noqa: B905
            more = pick(inner)
            flops, products = flops + times * more[0], products + times * more[1]
    return flops, products


def _parts(equation) -> Iterator:
    """The programs in an operation's parameters."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield part


def _operations(equation) -> float:
    """Two for each multiplication of a matrix product or a convolution."""
    out, (left, right) = equation.outvars[0].aval, (x.aval for x in equation.invars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * math.prod(out.shape) * math.prod(left.shape[d] for d in contracted)
    features = equation.params["dimension_numbers"].rhs_spec[0]
    return 2.0 * math.prod(out.shape) * math.prod(right.shape) / right.shape[features]


def collectives(program: str, trips: int) -> dict[str, dict[str, int]]:
    """The collectives of a compiled program's text: how many are done, and their bytes, by kind.

    Args:
      program: the text.
      trips: as in `counted`.
    """
    inside, calls, current = {}, {}, ""
    for line in program.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = head[1]
        found = re.search(rf" = (.*?) ({COLLECTIVES})(?:-start)?\(", line)
        if found:
            inside.setdefault(current, []).append((found[2], _bytes(found[1])))
        times = 1
        if " while(" in line:
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            times = int(known[1]) if known else trips
        for called in re.findall(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)", line):
            calls[called] = (current, times)
        for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
            calls |= {name.strip(" %"): (current, 1) for name in group.split(",")}

    def often(name):
        caller, times = calls.get(name, ("", 1))
        return times * (often(caller) if caller in calls else 1)

    total = {}
    for name, each in inside.items():
        for kind, size in each:
            entry = total.setdefault(kind, {"count": 0, "bytes": 0})
            entry["count"] += often(name)
            entry["bytes"] += size * often(name)
    return total


def _bytes(shapes: str) -> int:
    return sum(
        SIZES.get(kind, 4) * math.prod(int(d) for d in dims.split(",") if d)
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    )


def predicted(flops: float, products: int, moved: int, devices: int) -> dict[str, dict]:
    """Milliseconds of a step, and the share of it that isn't waiting for other devices."""
    found = {}
    for name, kind in HARDWARE.items():
        compute = flops / (SHARE * kind.peak) + products * kind.launch
        ring = 2 * (devices - 1) / devices * moved / kind.bandwidth
        exchange = ring + 2 * math.log2(devices) * kind.latency
        found[name] = {
            "ms": round(1e3 * (compute + exchange), 3),
            "efficiency": round(compute / (compute + exchange), 3),
        }
    return found


def compile_all(devices: list, model: int) -> None:
    """Compiles every step for some devices and prints its line."""
    layout = Layout(Options(model=model), devices)
    rows = ROWS.value * len(devices)
    steps, state, asked, length = prepared(layout)
    single, *_ = prepared(Layout(Options(data=1), devices[:1]))
    sharding = jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec("data"))
    known = placed(state, layout.shardings(state))
    for name, (static, batch) in asked.items():
        traced = jax.make_jaxpr(
            lambda state, batch, static=static: single._train_step(state, batch, **static)
        )(state, batch(ROWS.value))
        flops, products = counted(traced.jaxpr, length - 1)
        given = batch(rows)
        given = placed(given, jax.tree.map(lambda _: sharding, given))
        program = steps.train_step.lower(known, given, **static).compile()
        found = collectives(program.as_text(), length - 1)
        moved = sum(kind["bytes"] for kind in found.values())
        memory = program.memory_analysis()
        parameters = state.generator if static["network"] == "generator" else state.discriminator
        line = {
            "name": f"scaling/{name}",
            "figure": moved,
            "unit": "bytes exchanged",
            "configuration": {
                "setting": SETTING.value,
                "compiled_for": TOPOLOGY.value or "virtual CPU devices",
                "devices": len(devices),
                "model": model,
                "rows_per_device": ROWS.value,
                "parameter_bytes": sum(x.size * 4 for x in jax.tree.leaves(parameters.params)),
                "collectives": found,
                "flops": flops,
                "products": products,
                "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
                "predicted": predicted(flops, products, moved, len(devices)),
            },
        }
        print(json.dumps(line), flush=True)


def filled(batch):
    """A batch of random numbers, by its shapes."""
    rng = np.random.default_rng(0)

    def fill(shape):
        if shape.dtype == jnp.float32:
            return np.ones(shape.shape, np.float32)
        return rng.integers(3, 100, shape.shape).astype(shape.dtype)

    return jax.tree.map(fill, batch)


def memory_all() -> None:
    """Compiles every step for one device, in several ways."""
    ways = {"plain": {}, "remat": {"remat": True}, "accumulate": {"accumulate": 4}}
    for way, options in ways.items():
        steps, state, asked, length = prepared(Layout(Options(data=1, **options)))
        for name, (static, batch) in asked.items():
            program = steps.train_step.lower(state, batch(ROWS.value), **static).compile()
            figure = round(program.memory_analysis().temp_size_in_bytes / 1e6, 1)
            line = {"name": f"scaling/memory/{name}", "figure": figure, "unit": "MB"}
            line["configuration"] = {"way": way, "setting": SETTING.value, "kind": KIND.value}
            line["configuration"] |= {"layers": LAYERS.value, "length": length}
            line["configuration"] |= {"rows": ROWS.value}
            print(json.dumps(line), flush=True)


def part_all(counts: list[int]) -> None:
    """Runs adversarial rounds on one device and on others until their tokens differ."""
    rows = ROWS.value * max(counts)
    whole, alone = None, {}
    for count in (1, *counts):
        layout = Layout(Options(data=count))
        steps, _, asked, _ = prepared(layout)
        updates = {name: asked[f"adversarial/{name}"] for name in ("generator", "discriminator")}
        given = filled(updates["generator"][1](rows))
        whole = whole or jax.device_get(steps.init(0, given))
        state, batch = layout.place(whole), layout.shard(given)
        parted = None
        for number in range(1, 1 + PART.value):
            drawn = steps.draw(state, batch, phase=updates["generator"][0]["phase"])
            tokens = layout.local_rows(drawn.sample.tokens)
            if (alone.setdefault(number, tokens) != tokens).any():
                parted = number
                break
            for static, _ in updates.values():
                state, _ = steps.train_step(state, batch, **static)
        if count > 1:
            line = {"name": f"scaling/part/{count}", "figure": parted, "unit": "round"}
            line["configuration"] = {"setting": SETTING.value, "rows": rows, "rounds": PART.value}
            line["configuration"] |= {"tokens_per_round": tokens.size}
            print(json.dumps(line), flush=True)


def time_all(devices: int) -> None:
    """Runs every step on one device and on several, in turn."""
    rows = ROWS.value * devices
    layouts = {count: Layout(Options(data=count)) for count in (1, devices)}
    made = {count: prepared(layout) for count, layout in layouts.items()}
    for name, (static, batch) in made[1][2].items():
        given = filled(batch(rows))
        fastest, states, batches = {}, {}, {}
        for count, (steps, *_) in made.items():
            states[count] = layouts[count].place(steps.init(0, given))
            batches[count] = layouts[count].shard(given)
        for _ in range(1 + REPEATS.value):
            for count, (steps, *_) in made.items():
                began = time.perf_counter()
                found = steps.train_step(states[count], batches[count], **static)
                states[count], _ = jax.block_until_ready(found)
                fastest.setdefault(count, []).append(time.perf_counter() - began)
        ms = {count: round(1e3 * min(times[1:]), 2) for count, times in fastest.items()}
        line = {"name": f"scaling/time/{name}", "figure": round(ms[devices] / ms[1], 3)}
        line |= {"unit": f"times of {devices} devices over one", "configuration": {"ms": ms}}
        line["configuration"] |= {"setting": SETTING.value, "rows": rows, "cores": os.cpu_count()}
        print(json.dumps(line), flush=True)


def main(argv):
    if MEMORY.value:
        memory_all()
    elif PART.value:
        compile_quickly()
        counts = list(map(int, DEVICES.value))
        count = f"--xla_force_host_platform_device_count={max(counts)}"
        os.environ["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} {count}"
        part_all(counts)
    elif TIME.value:
        count = f"--xla_force_host_platform_device_count={TIME.value}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
        keep_memory()
        time_all(TIME.value)
    elif INSIDE.value:
        compile_all(jax.devices(), int(MODEL.value[0]))
    elif TOPOLOGY.value:
        described = topologies.get_topology_desc(TOPOLOGY.value, platform="tpu")
        for model in MODEL.value:
            compile_all(list(described.devices), int(model))
    else:
        compile_quickly()  # what is exchanged doesn't depend on it
        for devices in DEVICES.value:
            for model in MODEL.value:
                count = f"--xla_force_host_platform_device_count={devices}"
                told = f"{os.environ['XLA_FLAGS']} {count}"
                subprocess.run(
                    [sys.executable, *argv, "--inside", f"--model={model}", *_handed_on()],
                    env={**os.environ, "XLA_FLAGS": told, "JAX_PLATFORMS": "cpu"},
                    check=True,
                )


def _handed_on() -> list[str]:
    steps = [f"--steps={','.join(STEPS.value)}"] if STEPS.value else []
    return [f"--setting={SETTING.value}", f"--rows={ROWS.value}", *steps]


if __name__ == "__main__":
    app.run(main)
