"""Time of the photograph encoder beside XLA's own convolutions, one JSON object a line.

    python benchmarks/features.py [--batch=8]

The weights are random, which changes nothing of the speed. `floor` is the convolutions' products at
this machine's ceilings, measured in the same run.
"""

import math

import baselines
import jax
import numpy as np
import settings
from absl import app, flags

from seqgan_jax.models import efficientnet
from seqgan_jax.programs.start import keep_memory

BATCH = flags.DEFINE_integer("batch", 8, "Pictures at once.", lower_bound=1)
SIZE = flags.DEFINE_integer("size", efficientnet.IMAGE_SIZE, "Pixels of a side.", lower_bound=1)


def multiply_adds(model, params, images: np.ndarray) -> int:
    """Multiply-adds of the convolutions behind `features`: output positions x kernel size."""

    def outputs(params, images):
        _, captured = model.apply(
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


def main(argv):
    del argv
    keep_memory()
    shape = (BATCH.value, SIZE.value, SIZE.value, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    stages = efficientnet.LITE0[: 2 if settings.CONFIG.value == "tiny" else None]
    model = efficientnet.EfficientNetLite0(stages=stages)
    params = jax.jit(model.init)(jax.random.key(0), images[:1])["params"]
    read = {name: params[name] for name in params if name not in ("conv_head", "classifier")}
    ways = {
        "fast": lambda params, images: model.apply({"params": params}, images, method="features"),
        "plain": lambda params, images: baselines.grid_features(params, images, stages),
    }
    baselines.compare(
        "features",
        {name: (way, (params, images)) for name, way in ways.items()},
        settings.REPEATS.value or 10,
        unit="images",
        counts=dict.fromkeys(ways, BATCH.value),
        operations=2 * multiply_adds(model, params, images[:1]),
        exponentials=0,
        moved=images.size + sum(x.nbytes for x in jax.tree.leaves(read)),
        size=SIZE.value,
    )


if __name__ == "__main__":
    app.run(main)
