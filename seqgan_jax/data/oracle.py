"""Sequences of integers from a known LSTM, whose density of any sequence is exact.

The synthetic data of Yu et al. (2017), arXiv:1609.05473, section 4: one LSTM layer whose
parameters are all drawn from N(0, 1). With e the embeddings and y_0 = 0, a token like any other:

    h_t, c_t = LSTM(e[y_{t-1}], h_{t-1}, c_{t-1}),    p(y_t | y_<t) = softmax(h_t W + b)[y_t]

from the zero state. No token ends a sequence: all have the length that is asked for.
"""

import functools
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.core import lstm, sampling
from seqgan_jax.errors import UserError

START = 0
# Splits have example ids of their own, and with them random streams of their own.
_FIRST_ID = {"train": 0, "validation": 2**29, "test": 2**30}
_MOST = 2**29
# Logits held at once: 4 MiB, which stay in a processor's cache. With 32 MiB log_prob took 2.6 times
# and sample 1.5 times as long on a CPU.
_LOGITS = 2**20
# The published file's names of the gates, in our order.
_GATES = ("input_gate", "forget_gate", "cell", "output_gate")


class Oracle(NamedTuple):
    """The parameters, float32.

    Attributes:
      embedding: [V, E].
      layer: the LSTM layer's, of H units.
      output: W, [H, V].
      bias: b, [V].
    """

    embedding: chex.Array
    layer: lstm.Weights
    output: chex.Array
    bias: chex.Array


def random(seed: int, vocabulary: int = 5000, size: int = 32) -> Oracle:
    """An oracle with every parameter drawn from N(0, 1).

    Args:
      seed: of the parameters.
      vocabulary: V.
      size: E and H.
    """
    shapes = Oracle(
        (vocabulary, size),
        lstm.Weights((size, 4 * size), (size, 4 * size), (4 * size,)),
        (size, vocabulary),
        (vocabulary,),
    )
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda x: type(x) is tuple)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(key, shape) for key, shape in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def load(path: Path | str) -> Oracle:
    """Reads an oracle from an `.npz` file with the published parameters' names.

    These are `embedding` [V, E], for each of `input_gate`, `forget_gate`, `cell` and `output_gate`
    the arrays `_x` [E, H], `_h` [H, H] and `_b` [H], `output_w` [H, V] and `output_b` [V].

    Raises:
      UserError: for a file that can't be read, or with other names, shapes or types than these, or
        with values that are not finite.
    """
    path = Path(path)
    remedy = "set --config.oracle.params to the published oracle's file, or to none of them"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise TypeError(f"'{name}' is no array")
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); {remedy}") from error
    except (
        ValueError,
        TypeError,  # one array alone, .npy
        EOFError,
        KeyError,
        MemoryError,  # shapes that nothing has
        RuntimeError,  # encrypted, or compressed otherwise
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is no whole .npz file of arrays ({reason}); {remedy}") from error

    names = ["embedding", "output_w", "output_b"]
    names += [f"{gate}_{part}" for gate in _GATES for part in "xhb"]
    for name in sorted(arrays.keys() ^ set(names)):
        fault = "has an unknown" if name in arrays else "lacks the"
        raise UserError(f"{path}: {fault} array '{name}'; {remedy}")
    for name in ("embedding", "output_w"):
        if arrays[name].ndim != 2 or not arrays[name].size:
            raise UserError(f"{path}: '{name}' has shape {arrays[name].shape}, not two; {remedy}")
    (vocabulary, inputs), size = arrays["embedding"].shape, len(arrays["output_w"])
    wanted = {"embedding": (vocabulary, inputs), "output_w": (size, vocabulary)}
    wanted |= {"output_b": (vocabulary,)}
    for gate in _GATES:
        wanted |= {f"{gate}_x": (inputs, size), f"{gate}_h": (size, size), f"{gate}_b": (size,)}
    for name, array in arrays.items():
        if array.shape != wanted[name]:
            raise UserError(
                f"{path}: '{name}' has shape {array.shape}, not {wanted[name]} as the shapes of "
                f"'embedding' and 'output_w' demand; {remedy}"
            )
        if array.dtype != np.float32:
            raise UserError(f"{path}: '{name}' has type {array.dtype}, not float32; {remedy}")
        if not np.isfinite(array).all():
            raise UserError(f"{path}: '{name}' has values that are not finite; {remedy}")
    beside = lambda part: jnp.asarray(np.concatenate([arrays[f"{g}_{part}"] for g in _GATES], -1))
    return Oracle(
        jnp.asarray(arrays["embedding"]),
        lstm.Weights(beside("x"), beside("h"), beside("b")),
        jnp.asarray(arrays["output_w"]),
        jnp.asarray(arrays["output_b"]),
    )


def sample(oracle: Oracle, seed: int, count: int, length: int, *, first: int = 0) -> np.ndarray:
    """Draws sequences, exactly; sequence i is a function of (seed, first + i).

    Args:
      oracle: what draws.
      seed: of the draws.
      count: N, at least 1.
      length: T.
      first: the first sequence's number.

    Returns:
      [N, T] int32.
    """
    rows = min(count, max(1, _LOGITS // len(oracle.bias)))
    key = jax.random.key(seed)
    chunks = [
        np.asarray(_sample(oracle, key, jnp.arange(start, start + rows), length))
        for start in range(first, first + count, rows)
    ]
    return np.concatenate(chunks)[:count]


@functools.partial(jax.jit, static_argnames="length")
def _sample(oracle: Oracle, key, numbers: chex.Array, length: int) -> chex.Array:
    draws = sampling.uniforms(key, numbers, jnp.zeros_like(numbers), length)

    def step(state, token):
        state = lstm.step(oracle.layer, state, oracle.embedding[token])
        return state, state.hidden @ oracle.output + oracle.bias, None

    start = lstm.zero_state(len(numbers), len(oracle.output))
    with jax.default_matmul_precision("highest"):
        return sampling.sample(step, start, draws, bos=START).tokens


def log_prob(oracle: Oracle, sequences: np.ndarray) -> np.ndarray:
    """The log-probability of whole sequences, [N, T] -> [N], in nats.

    Raises:
      ValueError: for a token that the oracle doesn't have.
    """
    sequences = np.asarray(sequences)
    count, length = sequences.shape
    if count and not 0 <= sequences.min() <= sequences.max() < len(oracle.bias):
        raise ValueError(f"tokens outside of 0 to {len(oracle.bias) - 1}")
    rows = min(count, max(1, _LOGITS // (len(oracle.bias) * length)))
    found = np.zeros(count)
    for start in range(0, count, max(rows, 1)):
        # The last chunk begins early enough to be as long as the others.
        chunk = slice(min(start, count - rows), min(start, count - rows) + rows)
        found[chunk] = _log_prob(oracle, sequences[chunk].astype(np.int32))
    return found


@jax.jit
def _log_prob(oracle: Oracle, sequences: chex.Array) -> chex.Array:
    inputs = jnp.pad(sequences[:, :-1], ((0, 0), (1, 0)), constant_values=START)
    start = lstm.zero_state(len(sequences), len(oracle.output))
    with jax.default_matmul_precision("highest"):
        hidden = lstm.unroll(oracle.layer, start, oracle.embedding[inputs]).hidden
        logits = hidden @ oracle.output + oracle.bias
    picked = jnp.take_along_axis(logits, sequences[:, :, None], axis=-1)[..., 0]
    return (picked - jax.nn.logsumexp(logits, axis=-1)).sum(-1)


class Sequences:
    """A split: sequences that an oracle drew, for `data.pipeline`.

    Item i is a dict of `source` (None), `captions` (the pipeline's word for what is to be learnt:
    here the one sequence, int32 [T]) and `example_id`.

    Args:
      oracle: what draws them, when they are first asked for.
      split: 'train', 'validation' or 'test'.
      seed: of the draws.
      count: how many.
      length: T.
      corrupted: share of the tokens in whose place another stands, uniformly random.
    """

    unlimited = False

    def __init__(
        self,
        oracle: Oracle,
        split: str,
        *,
        seed: int,
        count: int,
        length: int,
        corrupted: float = 0.0,
    ):
        self._oracle = oracle
        self._first_id = _FIRST_ID[split]
        self._seed = seed
        self._count = count
        self._length = length
        self._corrupted = corrupted

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> dict:
        return {
            "source": None,
            "captions": (self.tokens[i],),
            "example_id": self._first_id + i,
        }

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """All sequences, [N, T] int32."""
        drawn = sample(self._oracle, self._seed, self._count, self._length, first=self._first_id)
        if not self._corrupted:
            return drawn
        rng = np.random.default_rng((self._seed, self._first_id))
        # Row by row, so that a sequence doesn't depend on how many there are.
        whether, which = np.moveaxis(rng.random((*drawn.shape, 2)), -1, 0)
        others = (which * len(self._oracle.bias)).astype(drawn.dtype)
        return np.where(whether < self._corrupted, others, drawn)

    @functools.cached_property
    def log_probs(self) -> np.ndarray:
        """The oracle's log-probability of each, [N], in nats."""
        return log_prob(self._oracle, self.tokens)


def splits(oracle: Oracle, config) -> dict[str, Sequences]:
    """The splits 'train', 'validation' and 'test'.

    Args:
      oracle: what draws them.
      config: `seed`, `length`, for each split its number of sequences, as `train_size`, and
        `corrupted`, the share of the training data's tokens that are not the oracle's.

    Raises:
      UserError: a value is out of range.
    """
    for option, low, high in (
        ("seed", 0, 2**63 - 1),
        ("length", 1, 2**20),
        *((f"{split}_size", 1, _MOST) for split in _FIRST_ID),
    ):
        value = config[option]
        if not low <= value <= high:
            raise UserError(f"config.data.{option}: {value} is out of range; set {low} to {high}")
    if not 0 <= config.corrupted < 1:
        raise UserError(
            f"config.data.corrupted: {config.corrupted} is out of range; set 0 to less than 1"
        )
    return {
        split: Sequences(
            oracle,
            split,
            seed=config.seed,
            count=config[f"{split}_size"],
            length=config.length,
            corrupted=config.corrupted if split == "train" else 0.0,
        )
        for split in _FIRST_ID
    }
