"""The network that the speed benchmarks run, the plain ways to do its work, and how both are timed.

The network is made of `core` functions alone: stacked LSTM layers, attention over a source where
the setting has one, and an output layer on [h; c]. The plain ways are what one would sensibly write
first in JAX: Gumbel noise for every word of the vocabulary, prefixes read again for their
completions, all logits at once with `log_softmax` and a gather.

Shapes: B batch, S source positions, T length, V vocabulary, H hidden and embedding.
"""

import time
from typing import NamedTuple

import ceilings
import jax
import jax.numpy as jnp
import numpy as np
from settings import Setting

from seqgan_jax.core import attention, lstm
from seqgan_jax.models import efficientnet


class Network(NamedTuple):
    """Parameters; `attend` is None without a source."""

    embedding: jax.Array
    layers: tuple[lstm.Weights, ...]
    attend: attention.Additive | None
    kernel: jax.Array
    bias: jax.Array


def network(setting: Setting, seed: int) -> Network:
    """Random parameters."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.array(shape[0] ** -0.5 * rng.normal(size=shape), jnp.float32)
    h, a = setting.hidden, setting.positions > 0
    return Network(
        normal(setting.vocabulary, h),
        tuple(
            lstm.Weights(normal(h, 4 * h), normal(h, 4 * h), normal(4 * h))
            for _ in range(setting.layers)
        ),
        attention.Additive(normal(h, h), normal(h, h), normal(h)) if a else None,
        normal(h * (1 + a), setting.vocabulary),
        normal(setting.vocabulary),
    )


def source(setting: Setting) -> jax.Array | None:
    """What is attended to, [B, S, H]."""
    if not setting.positions:
        return None
    shape = setting.batch, setting.positions, setting.hidden
    return jnp.array(np.random.default_rng(0).normal(size=shape), jnp.float32)


def encode(params: Network, values):
    """What attention reads, once for all steps: its keys and values, or None."""
    return None if values is None else (attention.source_keys(params.attend, values), values)


def zero_states(setting: Setting, lanes: int) -> tuple[lstm.State, ...]:
    """Every layer's state before the first token."""
    return (lstm.zero_state(lanes, setting.hidden),) * setting.layers


def output_inputs(params: Network, memory, hidden):
    """[h; c], what the output layer reads, [lanes, H or 2 H]."""
    if params.attend is None:
        return hidden
    context, _ = attention.read_source(params.attend, hidden, *memory)
    return jnp.concatenate([hidden, context], axis=-1)


def step(params: Network, memory, states, token):
    """Reads one token in every lane: (states, logits [lanes, V])."""
    states = lstm.stack_step(params.layers, states, params.embedding[token])
    return states, output_inputs(params, memory, states[-1].hidden) @ params.kernel + params.bias


def read(params: Network, states, tokens) -> tuple[lstm.State, ...]:
    """All layers' states after every token, [B, T, H]."""
    return lstm.stack_unroll(params.layers, states, params.embedding[tokens])


def size(params: Network) -> int:
    """Bytes of the parameters."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def multiply_adds(setting: Setting, *, output: bool = True) -> int:
    """Of one token's forward pass, counted from the shapes."""
    h, s = setting.hidden, setting.positions
    cells = 8 * setting.layers * h * h
    if not output:
        return cells
    attend = h * h + 2 * s * h if s else 0
    return cells + attend + (1 + (s > 0)) * h * setting.vocabulary


# The plain ways.


def gumbel_sample(params: Network, memory, states, key, length: int):
    """Tokens and their log-probabilities, each [T, B]; Gumbel noise through `categorical`."""

    def body(carry, key):
        states, token = carry
        states, logits = step(params, memory, states, token)
        token = jax.random.categorical(key, logits)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)
        return (states, token), (token, log_probs[:, 0])

    start = states, jnp.zeros(states[0].hidden.shape[0], jnp.int32)
    return jax.lax.scan(body, start, jax.random.split(key, length))[1]


def replayed_values(policy: Network, judge: Network, memory, tokens, score, key, rollouts: int):
    """Action values [B, T - 1]: every prefix is read again from its start in every rollout."""
    batch, length = tokens.shape
    given = jnp.repeat(tokens, rollouts, axis=0)
    zero = (lstm.zero_state(len(given), policy.embedding.shape[1]),) * len(policy.layers)

    def value(prefix):
        def body(carry, inputs):
            states, token = carry
            i, own, key = inputs
            states, logits = step(policy, memory, states, token)
            token = jnp.where(i < prefix, own, jax.random.categorical(key, logits))
            return (states, token), token

        start = zero, jnp.zeros(len(given), given.dtype)
        keys = jax.random.split(jax.random.fold_in(key, prefix), length)
        inputs = jnp.arange(length), given.T, keys
        whole = jax.lax.scan(body, start, inputs)[1].T
        features = read(judge, zero, whole)[-1].hidden
        return score(features, jnp.ones(whole.shape)).reshape(batch, rollouts).mean(-1)

    return jax.lax.map(value, jnp.arange(1, length)).T


def gathered_log_likelihood(hidden, kernel, bias, tokens, weights):
    """sum_n w_n log p_n[y_n] with all logits at once."""
    log_probs = jax.nn.log_softmax(hidden @ kernel + bias)
    return weights @ jnp.take_along_axis(log_probs, tokens[:, None], axis=-1)[:, 0]


def grid_features(params, images, stages):
    """`EfficientNetLite0.features` of uint8 [B, H, W, 3] by XLA's convolutions."""

    def conv(x, own, stride=1, groups=1):
        x = jax.lax.conv_general_dilated(
            x,
            own["kernel"],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return x + own["bias"]

    relu6 = jax.nn.relu6
    x = (images.astype(jnp.float32) - efficientnet.PIXEL_MEAN) / efficientnet.PIXEL_SCALE
    x = relu6(conv(x, params["conv_stem"], stride=2))
    strides = [s.stride if i == 0 else 1 for s in stages for i in range(s.repeats)]
    for number, stride in enumerate(strides):
        block = params[f"blocks_{number}"]
        y = relu6(conv(x, block["expand"])) if "expand" in block else x
        y = relu6(conv(y, block["depthwise"], stride, groups=y.shape[-1]))
        y = conv(y, block["project"])
        x = x + y if x.shape == y.shape else y
    return x.reshape(len(x), -1, x.shape[-1])


# Timing.


def compare(
    name, calls, repeats, *, unit, counts, operations, exponentials, moved=0, **configuration
):
    """Times 'fast' and 'plain' in turn and prints a line for each, and their ratio.

    Args:
      name: of the part.
      calls: {'fast' or 'plain': (function, arguments)}.
      repeats: calls timed for each median.
      unit: what is counted, 'tokens', 'sequences' or 'images'.
      counts: how many a call makes, for each name.
      operations: of one of them, additions and multiplications.
      exponentials: of one of them.
      moved: bytes that a call reads and writes however it is done.
      **configuration: printed.
    """
    limits = ceilings.report()
    compiled = {}
    for key, (function, arguments) in calls.items():
        began = time.perf_counter()
        program = jax.jit(function).lower(*arguments).compile()
        compiled[key] = time.perf_counter() - began, program
    ready = {
        key: lambda program=program, arguments=calls[key][1]: program(*arguments)
        for key, (_, program) in compiled.items()
    }
    times = ceilings.seconds(ready, repeats)
    medians = {key: float(np.median(seconds)) for key, seconds in times.items()}
    rates = {key: counts[key] / medians[key] for key in calls}
    for key, median in medians.items():
        compute = operations / limits["flops"] + exponentials / limits["exps"]
        floor = max(counts[key] * compute, moved / limits["bytes"])
        ceilings.print_line(
            f"{name}/{key}",
            1e3 * median,
            "ms",
            **{f"{unit}_per_second": round(rates[key], 1), unit: counts[key]},
            fastest_ms=round(1e3 * times[key].min(), 3),
            floor_ms=round(1e3 * floor, 3),
            share_of_floor=round(floor / median, 3),
            times_plain=round(rates[key] / rates["plain"], 2),
            operations=counts[key] * operations,
            exponentials=counts[key] * exponentials,
            bytes=moved,
            compile_seconds=round(compiled[key][0], 2),
            peak_memory_mib=ceilings.peak_memory(),
            **configuration,
        )
