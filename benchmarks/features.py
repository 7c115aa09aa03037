"""Speed of the photograph encoder, beside this machine's matrix-multiply peak in the same run.

    python benchmarks/features.py

Prints one JSON object per line: name, figure, unit, configuration.
"""

import json
import math
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.models import efficientnet

BATCHES = (1, 8, 32)
PEAK_SIZE = 2048
REPEATS = 5


def seconds(function, *arguments) -> float:
    """The fastest of several calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)


def multiply_adds(params, images: np.ndarray) -> int:
    """Multiply-adds of the convolutions behind `grid_features`: output positions x kernel size."""

    def outputs(params, images):
        _, captured = efficientnet.EfficientNetLite0().apply(
            {"params": params}, images, method="features", capture_intermediates=True
        )
        return captured["intermediates"]

    captured = jax.eval_shape(outputs, params, images)
    total = 0
    for path, kernel in jax.tree.leaves_with_path(params):
        *module, leaf = (key.key for key in path)
        node = captured
        for name in (*module, "__call__"):
            node = node.get(name, {})
        if leaf == "kernel" and node:
            total += math.prod(node[0].shape[:-1]) * kernel.size
    return total


def main():
    size = efficientnet.IMAGE_SIZE
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(BATCHES), size, size, 3), np.uint8)
    model = efficientnet.EfficientNetLite0()
    params = jax.jit(model.init)(jax.random.key(0), images[:1])["params"]
    device = {"device": jax.devices()[0].device_kind, "cpu_cores": os.cpu_count()}

    def report(name, figure, unit, **configuration):
        line = {"name": name, "figure": figure, "unit": unit}
        print(json.dumps({**line, "configuration": configuration | device}), flush=True)

    matrix = jnp.ones((PEAK_SIZE, PEAK_SIZE))
    peak = PEAK_SIZE**3 / seconds(jax.jit(jnp.matmul), matrix, matrix)
    report("matmul_peak", round(peak / 1e9, 1), "GMAC/s", size=PEAK_SIZE, dtype="float32")
    work = multiply_adds(params, images[:1])
    report("features_multiply_adds", work / 1e6, "MMAC/image", size=size)
    for batch in BATCHES:
        elapsed = seconds(efficientnet.grid_features, params, jnp.asarray(images[:batch]))
        shape = {"batch": batch, "size": size}
        report("features_throughput", round(batch / elapsed, 1), "images/s", **shape)
        report("features_time", round(1e3 * elapsed / batch, 2), "ms/image", **shape)
        share = work * batch / elapsed / peak
        report("features_share_of_peak", round(share, 3), "of matmul peak", **shape)


if __name__ == "__main__":
    main()
