"""Time of the CNN discriminator's training step and of scoring rollouts, one JSON object a line.

    python benchmarks/discriminator_step.py [--config=paper|seed|gpu]

Beside each stands the plain way: `lax.conv`, its derivative by JAX, whole sequences. Both take the
same parameters and optimiser, and are called in turn. `floor` is what the operations counted from
the shapes take at this machine's ceilings, measured in the same run.
"""

import time

import ceilings
import jax
import jax.numpy as jnp
import numpy as np
import optax
import settings
from absl import app

from seqgan_jax.core import losses, text_cnn
from seqgan_jax.models.cnn_discriminator import CNNDiscriminator
from seqgan_jax.programs.start import keep_memory

CHUNK = 4  # prefixes whose completions are scored together


def plain_pool(kernels, features):
    """The convolutions as written."""
    layout = ("NWC", "WIO", "NWC")
    convolve = lambda kernel: jax.lax.conv_general_dilated(
        features, kernel, (1,), "VALID", dimension_numbers=layout
    )
    return jnp.concatenate([convolve(kernel).max(1) for kernel in kernels], axis=-1)


class Plain(CNNDiscriminator):
    """The same network by the plain way."""

    def readout(self, features, mask, *, train=False, **_):
        pooled = plain_pool(self.kernels, features * mask[:, :, None])
        pooled = jax.nn.relu(pooled + self.bias)
        judged = text_cnn.highway(self.highway_weight, self.highway_bias, pooled)
        return self.drop(judged, deterministic=not train) @ self.output_weight + self.output_bias


def compiled(function, *arguments, **options):
    """The program and its compile time in seconds."""
    began = time.perf_counter()
    program = jax.jit(function, **options).lower(*arguments).compile()
    return program, time.perf_counter() - began


def training_step(network, optimizer):
    """(params, optimiser state), tokens, mask, labels, key -> the new pair and the loss."""

    def step(state, tokens, mask, labels, key):
        def loss_of(params):
            def forward(module):
                logits = module(None, None, tokens, mask, train=True)
                return losses.binary_cross_entropy(logits, labels).mean() + module.regulariser()

            rngs = {"dropout": key}
            return network.apply({"params": params}, method=forward, rngs=rngs)

        params, moments = state
        loss, gradient = jax.value_and_grad(loss_of)(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    return step


def products(network, length, cheaper):
    """Multiply-adds of one sequence's convolutions, by the cheaper way or as written; transforms
    apart."""
    return network.embedding_size * sum(
        filters * (min(direct, len(text_cnn.correlation(length)[0])) if cheaper else direct)
        for width, filters in zip(network.widths, network.filters, strict=True)
        for direct in [width * (length - width + 1)]
    )


def time_step(limits, setting):
    batch, length = setting.batch, setting.length
    rng = np.random.default_rng(0)
    tokens = jnp.array(rng.integers(0, setting.vocabulary, (batch, length)))
    mask, labels = jnp.ones((batch, length)), jnp.arange(batch) % 2.0
    key, optimizer = jax.random.key(0), optax.adam(1e-4)
    states, calls, compile_times = {}, {}, {}
    for name, kind in (("ours", CNNDiscriminator), ("plain", Plain)):
        network = kind(
            vocabulary_size=setting.vocabulary, widths=setting.widths, filters=setting.filters
        )
        params = jax.jit(network.init)(key, None, None, tokens, mask)["params"]
        states[name] = (params, optimizer.init(params))
        step, compile_times[name] = compiled(
            training_step(network, optimizer),
            *(states[name], tokens, mask, labels, key),
            donate_argnums=0,
        )

        def call(name=name, step=step):
            states[name], loss = step(states[name], tokens, mask, labels, key)
            return loss, states[name]

        calls[name] = call
    times = ceilings.seconds(calls, (settings.REPEATS.value or 20))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    for name in calls:
        # Forward, and the gradients by inputs and by weights. Adam reads four arrays, writes three.
        multiply_adds = products(network, length, name == "ours") + 2 * sum(network.filters) ** 2
        flops, moved = 3 * 2 * batch * multiply_adds, 7 * 4 * size
        floor = flops / limits["flops"] + moved / limits["bytes"]
        counts = {"flops": flops, "bytes": moved, "peak_memory_mib": ceilings.peak_memory()}
        report(name, times, floor, batch, compile_times[name], **counts)


def time_completions(limits, setting):
    batch, length, rollouts = setting.batch, setting.length, setting.rollouts
    rng = np.random.default_rng(0)
    lanes, prefixes = CHUNK * rollouts, np.arange(1, length, CHUNK)
    key, total = jax.random.key(0), batch * rollouts * (length - 1)
    tokens = rng.integers(0, setting.vocabulary, (batch, lanes, length))
    mask = jnp.ones((batch * lanes, length))
    calls, compile_times, memory, checked = {}, {}, {}, []
    for name, kind in (("ours", CNNDiscriminator), ("whole", CNNDiscriminator), ("plain", Plain)):
        network = kind(
            vocabulary_size=setting.vocabulary, widths=setting.widths, filters=setting.filters
        )
        variables = jax.jit(network.init)(key, None, None, tokens[0], mask[:lanes])
        programs, compile_times[name] = [], 0.0
        for first in prefixes.tolist():
            # The last chunk has fewer prefixes.
            each = min(CHUNK, length - first) * rollouts
            chunk = tokens[:, :each].copy()
            chunk[:, :, :first] = chunk[:, :1, :first]
            features = variables["params"]["embedding"][chunk.reshape(-1, length)]
            shared = {"shared": first, "lanes": each} if name == "ours" else {}

            def judge(variables, features, mask, network=network, shared=shared):
                return network.apply(variables, features, mask, method="readout", **shared)

            program, elapsed = compiled(judge, variables, features, mask[: len(features)])
            compile_times[name] += elapsed
            programs.append((program, features, mask[: len(features)]))
        calls[name] = lambda programs=programs, variables=variables: [
            program(variables, *arguments) for program, *arguments in programs
        ]
        program, *arguments = programs[len(programs) // 2]
        checked.append(program(variables, *arguments))
        np.testing.assert_allclose(checked[-1], checked[0], atol=2e-4)
        memory[name] = ceilings.peak_memory()
    times = ceilings.seconds(calls, max(1, (settings.REPEATS.value or 20) // 5))
    highway = 2 * sum(network.filters) ** 2
    for name in calls:
        flops = 2 * total * (products(network, length, name != "plain") + highway)
        floor = flops / limits["flops"]
        label = f"completions/{name}"
        counts = {"flops": flops, "peak_memory_mib": memory[name]}
        report(label, times, floor, total, compile_times[name], key=name, **counts)


def report(label, times, floor, sequences, compile_time, key=None, **counts):
    key = key or label
    median = float(np.median(times[key]))
    ceilings.print_line(
        label if "/" in label else f"discriminator_step/{label}",
        median * 1e3,
        "ms",
        config=settings.CONFIG.value,
        sequences=sequences,
        sequences_per_second=round(sequences / median, 1),
        fastest_ms=round(times[key].min() * 1e3, 2),
        floor_ms=round(floor * 1e3, 2),
        share_of_floor=round(floor / median, 3),
        times_plain=round(float(np.median(times["plain"] / times[key])), 2),
        compile_seconds=round(compile_time, 1),
        **counts,
    )


def main(argv):
    del argv
    keep_memory()
    limits = ceilings.report()
    time_step(limits, settings.chosen())
    time_completions(limits, settings.chosen())


if __name__ == "__main__":
    app.run(main)
