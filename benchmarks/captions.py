"""Time and memory of the training steps of configs/captions.py, one JSON object a line.

    python benchmarks/captions.py [--config=configs/captions.py:VARIANT]

For every phase and network: the compile time, the median time of a step with its input already on
the device, and captions per second. The last line is the process's peak memory, data and compiler
included.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from seqgan_jax.programs.run import Run
from seqgan_jax.programs.start import keep_memory
from seqgan_jax.reporting.progress import Progress

CONFIG = config_flags.DEFINE_config_file("config", "configs/captions.py", "The configuration.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Steps timed for each median.", lower_bound=1)


def main(argv):
    del argv
    keep_memory()
    with tempfile.TemporaryDirectory() as folder, Progress(quiet=True) as progress:
        run = Run(Path(folder), CONFIG.value, progress)
        state = run.loop.initial_state()
        for index, phase in enumerate(run.phases):
            state = run.loop.begin(state, index)
            for network in phase.networks:
                batch = next(run.loop.batches(phase, index, network, 0))
                began = time.perf_counter()
                compiled = run.steps.train_step.lower(
                    state, batch, phase=phase, network=network
                ).compile()
                compile_time = time.perf_counter() - began
                times = []
                for _ in range(REPEATS.value + 1):
                    began = time.perf_counter()
                    state, metrics = compiled(state, batch)
                    jax.block_until_ready((state, metrics))
                    times.append(time.perf_counter() - began)
                median = float(np.median(times[1:]))
                _print(
                    f"{phase.name}/{network}",
                    median * 1e3,
                    "ms/step",
                    captions_per_second=round(phase.sources(network) * phase.targets / median, 1),
                    compile_seconds=round(compile_time, 1),
                    batch_size=phase.sources(network),
                    targets=phase.targets,
                )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if _MAC else 1024)
    _print("peak_memory", memory / 2**20, "MiB")


_MAC = sys.platform == "darwin"


def _print(name, figure, unit, **configuration):
    print(
        json.dumps(
            {"name": name, "figure": round(figure, 3), "unit": unit, "configuration": configuration}
        ),
        flush=True,
    )


if __name__ == "__main__":
    app.run(main)
