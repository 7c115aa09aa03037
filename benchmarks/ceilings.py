"""What this machine can do at most, measured in the run that quotes it.

    python benchmarks/ceilings.py

The other benchmarks import its functions. The processor's cores take part
as far as the process may use them.
"""

import json
import os
import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

REPEATS = 7


def print_line(name: str, figure: float, unit: str, **configuration) -> None:
    """One JSON object on standard output."""
    line = {"name": name, "figure": round(figure, 3), "unit": unit}
    print(json.dumps({**line, "configuration": configuration}), flush=True)


def peak_memory() -> float:
    """The most memory in use so far, MiB: an accelerator's, else the process's, compiler included.

    It only grows: a line that is printed later tells of all that ran before it.
    """
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        return round(statistics["peak_bytes_in_use"] / 2**20, 1)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def seconds(calls: dict, repeats: int) -> dict[str, np.ndarray]:
    """Times of several functions without arguments, called in turn, [repeats] for each name.

    In turn, because another process or a change of the clock then meets all of them alike. The
    first call of each is not timed.
    """
    times = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - began)
    return {name: np.array(each[1:]) for name, each in times.items()}


def measure() -> dict[str, float]:
    """The fastest of several calls: float32, as the benchmarks compute.

    Returns:
      flops: of a matrix product, operations/s, an addition and a multiplication being two.
      exps: exponentials/s of an array that fits in the cache.
      bytes: read and written by adding to an array in place that does not, bytes/s.
    """
    accelerated = jax.default_backend() != "cpu"
    size = 8192 if accelerated else 1536
    matrix = jnp.ones((size, size))
    small = jnp.zeros(2**24 if accelerated else 2**18)
    large = [jnp.zeros(2**28 if accelerated else 2**25)]
    # Many exponentials a call: what a call costs by itself must not count.
    rounds = 32
    exps = jax.jit(lambda x: jax.lax.fori_loop(0, rounds, lambda _, y: jnp.exp(-y), x))
    product, add = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1, donate_argnums=0)

    def add_in_place():
        large[0] = add(large[0])
        return large[0]

    calls = {
        "flops": lambda: product(matrix, matrix),
        "exps": lambda: exps(small),
        "bytes": add_in_place,
    }
    work = {"flops": 2 * size**3, "exps": rounds * small.size, "bytes": 8 * large[0].size}
    times = seconds(calls, REPEATS)
    return {name: work[name] / times[name].min() for name in calls}


def report() -> dict[str, float]:
    """Measures, prints one line for each ceiling, and returns what `measure` does."""
    device = {"device": jax.devices()[0].device_kind, "cpu_cores": len(os.sched_getaffinity(0))}
    ceilings = measure()
    for name, unit in (("flops", "GFLOP/s"), ("exps", "G/s"), ("bytes", "GB/s")):
        print_line(f"ceiling_{name}", ceilings[name] / 1e9, unit, **device)
    return ceilings


if __name__ == "__main__":
    report()
