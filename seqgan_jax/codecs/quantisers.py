"""Vectors <-> integers: k-means and VQ-VAE behind one interface, for speech and for video.

Shapes: N vectors of D numbers (a few frames of a spectrogram, a patch of a clip), Q residual
levels, V codes on each level, C numbers in a code vector.

Level 1 quantises a vector, level q + 1 what the levels 1 to q leave of it; a vector is decoded
from the sum of its levels' code vectors.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqgan_jax.codecs import stored
from seqgan_jax.errors import UserError

_NAME = "quantiser"
SETTINGS = f"{_NAME}.json"
_ROWS = 1024  # vectors coded at once
_DECAY = 0.99  # of the moving averages that the VQ-VAE's code vectors are
_DEAD = 0.1  # a code used less than this part of its fair share is replaced
_WEIGHT = 0.25  # of the commitment loss


class Quantiser(Protocol):
    """What the codecs know of a fitted quantiser.

    Attributes:
      size: V.
      levels: Q.
      features: D.
    """

    size: int
    levels: int
    features: int

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [N, D] -> codes, int32 [N, Q], each in 0 .. V - 1."""
        ...

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32 [N, Q] -> float32 [N, D]."""
        ...

    def save(self, directory: str | Path) -> None:
        """Writes the quantiser in a directory, which is made if need be; see `load`."""
        ...


class Scale:
    """Centres every feature and divides all by one number, so that distances keep their meaning.

    Attributes:
      mean: [D].
      deviation: the root mean square of the centred features.
    """

    def __init__(self, mean: np.ndarray, deviation: float):
        self.mean = np.asarray(mean, np.float32)
        self.deviation = np.float32(deviation)

    @classmethod
    def fit(cls, examples: np.ndarray) -> "Scale":
        """That of the vectors `examples`, [N, D]."""
        mean = examples.mean(axis=0, dtype=np.float64)
        deviation = np.sqrt(np.mean(np.var(examples, axis=0, dtype=np.float64)))
        return cls(mean, deviation or 1.0)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        return (np.asarray(vectors, np.float32) - self.mean) / self.deviation

    def undo(self, vectors: np.ndarray) -> np.ndarray:
        return vectors * self.deviation + self.mean


def nearest(vectors, codebook):
    """The index of the code vector [V, C] nearest to each of the vectors [N, C], [N]."""
    # |x - c|^2 without |x|^2, which is the same for all c.
    distances = (codebook**2).sum(axis=-1) - 2 * vectors @ codebook.T
    return distances.argmin(axis=-1)


# k-means


class KMeans:
    """Code vectors by mini-batch k-means (Sculley 2010), in the space of the vectors themselves.

    Attributes:
      size, levels, features: see `Quantiser`.
    """

    kind = "kmeans"

    def __init__(self, codebooks: np.ndarray, scale: Scale):
        """Code vectors [Q, V, D] of scaled vectors."""
        self._codebooks = np.asarray(codebooks, np.float32)
        self._scale = scale
        self.levels, self.size, self.features = self._codebooks.shape

    @classmethod
    def fit(
        cls,
        examples: np.ndarray,
        seed: int,
        *,
        size: int,
        levels: int = 1,
        iterations: int = 0,
    ) -> "KMeans":
        """Fits V = `size` codes on each of Q = `levels` levels to vectors, float32 [N, D].

        With `iterations`, as many at most of Lloyd's algorithm on all vectors, which for some ten
        thousands of them is quicker than mini-batches, and finds better codes.

        Raises:
          UserError: for fewer vectors than codes, or if scikit-learn isn't installed.
        """
        try:
            import sklearn.cluster
        except ImportError as error:
            raise UserError(
                "config.codec.quantiser: 'kmeans' needs scikit-learn; run "
                "pip install 'seqgan_jax[speech]', or choose vqvae"
            ) from error
        examples = _checked(examples, size)
        scale = Scale.fit(examples)
        rest, codebooks = scale.apply(examples), []
        for level in range(levels):
            if iterations:
                means = sklearn.cluster.KMeans(
                    size, n_init=1, max_iter=iterations, random_state=seed + level
                ).fit(rest)
            else:
                means = sklearn.cluster.MiniBatchKMeans(
                    size, batch_size=max(1024, 4 * size), n_init=3, random_state=seed + level
                ).fit(rest)
            codebooks.append(means.cluster_centers_.astype(np.float32))
            rest = rest - codebooks[-1][_nearest_rows(rest, codebooks[-1])]
        return cls(np.stack(codebooks), scale)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [N, D] -> int32 [N, Q]."""
        rest, codes = self._scale.apply(vectors), []
        for codebook in self._codebooks:
            codes.append(_nearest_rows(rest, codebook))
            rest = rest - codebook[codes[-1]]
        return np.stack(codes, axis=-1).astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32 [N, Q] -> float32 [N, D]."""
        vectors = self._codebooks[np.arange(self.levels), codes].sum(axis=-2)
        return self._scale.undo(vectors)

    def save(self, directory: str | Path) -> None:
        """Writes quantiser.npz and quantiser.json."""
        arrays = {"codebooks": self._codebooks, "mean": self._scale.mean}
        settings = {"kind": self.kind, "deviation": float(self._scale.deviation)}
        stored.save(directory, _NAME, settings, arrays)

    @classmethod
    def restore(cls, settings: dict, arrays: dict) -> "KMeans":
        """From what `save` wrote."""
        return cls(arrays["codebooks"], Scale(arrays["mean"], settings["deviation"]))


def _nearest_rows(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    # In pieces: all distances of a long recording's frames at once can be gigabytes.
    starts = range(0, len(vectors), _ROWS)
    rows = [nearest(vectors[start : start + _ROWS], codebook) for start in starts]
    return np.concatenate(rows) if rows else np.zeros(0, np.int64)


# VQ-VAE


class _Perceptron(nn.Module):
    """Two hidden layers."""

    hidden: int
    out: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(self.out)(x)


class Autoencoder(nn.Module):
    """Encoder and decoder around the quantisation; [N, D] <-> [N, C].

    Attributes:
      features: D.
      hidden: width of the hidden layers.
      code_features: C.
    """

    features: int
    hidden: int
    code_features: int

    def setup(self):
        self.encoder = _Perceptron(self.hidden, self.code_features)
        self.decoder = _Perceptron(self.hidden, self.features)

    def encode(self, vectors):
        return self.encoder(vectors)

    def decode(self, vectors):
        return self.decoder(vectors)

    def __call__(self, vectors):
        return self.decode(self.encode(vectors))


def quantise(vectors, codebooks):
    """Residual quantisation.

    Args:
      vectors: [N, C].
      codebooks: code vectors, [Q, V, C].

    Returns:
      (codes [N, Q], the sum of their code vectors [N, C], what each level was given [Q, N, C]).
    """
    codes, given = [], []
    rest = vectors
    for codebook in codebooks:
        given.append(rest)
        codes.append(nearest(rest, codebook))
        rest = rest - codebook[codes[-1]]
    return jnp.stack(codes, axis=-1), vectors - rest, jnp.stack(given)


class VQVAE:
    """A vector-quantised autoencoder (van den Oord et al. 2017, arXiv:1711.00937).

    With the encoder's output e(x) and the sum s of its nearest code vectors, the loss is
    mean (x - d(s))^2 + 0.25 mean (e(x) - stop(s))^2, where d's gradient with respect to s goes to
    e(x) unchanged (straight-through, their equation 3 and section 3.2). Code vectors are moving
    averages of the encoder outputs nearest to them (their appendix A.1), and one that is hardly
    ever nearest becomes a random encoder output of the batch.

    Attributes:
      size, levels, features: see `Quantiser`.
    """

    kind = "vqvae"

    def __init__(self, network: Autoencoder, params: dict, scale: Scale):
        """`params` as `initial_params` and `after` give them."""
        self._network = network
        self._params = params
        self._scale = scale
        self.levels, self.size = params["count"].shape
        self.features = network.features
        self._encode = jax.jit(functools.partial(_encode, network))
        self._decode = jax.jit(functools.partial(_decode, network))

    @classmethod
    def fit(
        cls,
        examples: np.ndarray,
        seed: int,
        *,
        size: int,
        levels: int = 1,
        minimise: Callable,
        steps: int = 3000,
        batch_size: int = 256,
        hidden: int = 128,
        code_features: int = 32,
        learning_rate: float = 1e-3,
        progress: Callable = iter,
    ) -> "VQVAE":
        """Trains the networks and V = `size` codes on each of Q = `levels` levels.

        Args:
          examples: float32 [N, D].
          seed: of the parameters and the batches.
          minimise: what trains, `training.fit.fit` or another function
            `(loss, params, batches, *, steps, optimizer, seed, after, progress) -> params`.
          steps, batch_size, learning_rate: of Adam; the rate falls to 0 along a cosine.
          hidden, code_features: see `Autoencoder`.
          progress: wraps the range of steps, to show how far it is.

        Raises:
          UserError: for fewer vectors than codes.
        """
        examples = _checked(examples, size)
        scale = Scale.fit(examples)
        scaled = scale.apply(examples)
        network = Autoencoder(examples.shape[1], hidden, code_features)
        params = minimise(
            functools.partial(loss, network),
            initial_params(network, scaled, seed, size=size, levels=levels),
            _batches(scaled, batch_size, seed),
            steps=steps,
            optimizer=optax.adam(optax.cosine_decay_schedule(learning_rate, steps)),
            seed=seed,
            after=after,
            progress=progress,
        )
        return cls(network, jax.device_get(params), scale)

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [N, D] -> int32 [N, Q]."""
        scaled = self._scale.apply(vectors)
        codes = _in_pieces(functools.partial(self._encode, self._params), scaled)
        return codes.reshape(-1, self.levels).astype(np.int32)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """int32 [N, Q] -> float32 [N, D]."""
        scaled = _in_pieces(functools.partial(self._decode, self._params), np.asarray(codes))
        return self._scale.undo(scaled.reshape(-1, self.features))

    def save(self, directory: str | Path) -> None:
        """Writes quantiser.npz and quantiser.json."""
        settings = {
            "kind": self.kind,
            "hidden": self._network.hidden,
            "code_features": self._network.code_features,
            "deviation": float(self._scale.deviation),
        }
        arrays = flax.traverse_util.flatten_dict({"params": self._params}, sep="/")
        stored.save(
            directory, _NAME, {"kind": self.kind, **settings}, {"mean": self._scale.mean, **arrays}
        )

    @classmethod
    def restore(cls, settings: dict, arrays: dict) -> "VQVAE":
        """From what `save` wrote."""
        mean = arrays.pop("mean")
        network = Autoencoder(len(mean), settings["hidden"], settings["code_features"])
        params = flax.traverse_util.unflatten_dict(arrays, sep="/")["params"]
        return cls(network, params, Scale(mean, settings["deviation"]))


def initial_params(
    network: Autoencoder, examples: np.ndarray, seed: int, *, size: int, levels: int
) -> dict:
    """Random networks; code vectors are encoder outputs of random examples, or what is left of
    them on later levels.

    Returns:
      {"network": parameters, "count": [Q, V], "sum": [Q, V, C]}: a code vector is sum / count,
      with the moving averages of how often it is nearest in a batch, relative to its fair share,
      and of the encoder outputs that it is nearest to.
    """
    rng = np.random.default_rng(seed)
    variables = network.init(jax.random.key(seed), examples[:1])["params"]
    codebooks = []
    for _ in range(levels):
        chosen = examples[rng.choice(len(examples), size, replace=False)]
        rest = network.apply({"params": variables}, chosen, method="encode")
        for codebook in codebooks:
            rest = rest - codebook[nearest(rest, codebook)]
        codebooks.append(rest)
    return {
        "network": variables,
        "count": jnp.ones((levels, size)),
        "sum": jnp.stack(codebooks),
    }


def codebooks(params: dict) -> jax.Array:
    """The code vectors, [Q, V, C]."""
    return params["sum"] / params["count"][..., None]


def loss(network: Autoencoder, params: dict, batch: jax.Array, key: jax.Array):
    """The loss in `VQVAE` on scaled vectors, [B, D]; uses no randomness.

    Returns:
      (scalar, {"codes": [B, Q], "given": what each level was given [Q, B, C], "error": the mean
      squared error, 1 for vectors decoded to their mean}).
    """
    del key
    variables = {"params": params["network"]}
    encoded = network.apply(variables, batch, method="encode")
    books = jax.lax.stop_gradient(codebooks(params))
    codes, quantised, given = quantise(jax.lax.stop_gradient(encoded), books)
    straight_through = encoded + quantised - jax.lax.stop_gradient(encoded)
    decoded = network.apply(variables, straight_through, method="decode")
    error = jnp.mean((batch - decoded) ** 2)
    commitment = jnp.mean((encoded - quantised) ** 2)
    aux = {"codes": codes, "given": given, "error": error}
    return error + _WEIGHT * commitment, aux


def after(params: dict, batch: jax.Array, aux: dict, key: jax.Array) -> dict:
    """Moves the code vectors after a step, and replaces those that are hardly ever nearest."""
    del batch
    levels, size = params["count"].shape
    share = size / aux["codes"].shape[0]  # 1 / the uses of a code if all were used alike

    def level(count, total, codes, given, key):
        used = jax.nn.one_hot(codes, size)
        count = _DECAY * count + (1 - _DECAY) * share * used.sum(axis=0)
        total = _DECAY * total + (1 - _DECAY) * share * used.T @ given
        fresh = given[jax.random.randint(key, (size,), 0, len(given))]
        dead = count < _DEAD
        return jnp.where(dead, 1.0, count), jnp.where(dead[:, None], fresh, total)

    keys = jax.random.split(key, levels)
    count, total = jax.vmap(level)(
        params["count"], params["sum"], aux["codes"].T, aux["given"], keys
    )
    return {**params, "count": count, "sum": total}


def _encode(network: Autoencoder, params: dict, vectors: jax.Array) -> jax.Array:
    encoded = network.apply({"params": params["network"]}, vectors, method="encode")
    return quantise(encoded, codebooks(params))[0]


def _decode(network: Autoencoder, params: dict, codes: jax.Array) -> jax.Array:
    vectors = codebooks(params)[jnp.arange(codes.shape[-1]), codes].sum(axis=-2)
    return network.apply({"params": params["network"]}, vectors, method="decode")


def _in_pieces(function: Callable, rows: np.ndarray) -> np.ndarray:
    """Applies a compiled function to `_ROWS` rows at a time, so that it is compiled once."""
    pieces = []
    for start in range(0, len(rows), _ROWS):
        piece = rows[start : start + _ROWS]
        padded = np.pad(piece, [(0, _ROWS - len(piece)), *[(0, 0)] * (rows.ndim - 1)])
        pieces.append(np.asarray(function(padded))[: len(piece)])
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _batches(examples: np.ndarray, size: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for _ in itertools.count():
        yield examples[rng.integers(len(examples), size=size)]


# Both


def fit(kind: str, examples: np.ndarray, seed: int, *, minimise: Callable, **settings) -> Quantiser:
    """Fits a quantiser of the kind 'kmeans' or 'vqvae'; see their own `fit`.

    Args:
      examples: float32 [N, D].
      minimise: what trains the VQ-VAE, `training.fit.fit`; k-means has no use for it.
      **settings: `size`, `levels` and, for the VQ-VAE, its own.

    Raises:
      UserError: for an unknown kind, or as `fit` of that kind.
    """
    if kind == KMeans.kind:
        return KMeans.fit(examples, seed, **settings)
    if kind == VQVAE.kind:
        return VQVAE.fit(examples, seed, minimise=minimise, **settings)
    raise UserError(f"config.codec.quantiser: no quantiser '{kind}'; choose kmeans or vqvae")


def load(directory: str | Path) -> Quantiser:
    """Reads what a quantiser's `save` wrote.

    Raises:
      UserError: if a file is missing or is not as it was written.
    """
    kinds = {c.kind: c for c in (KMeans, VQVAE)}
    return stored.load(
        directory, _NAME, lambda settings, arrays: kinds[settings["kind"]].restore(settings, arrays)
    )


def code_use(codes: np.ndarray, size: int) -> dict[str, float]:
    """How a codebook is used, the mean over levels.

    Args:
      codes: int [N, Q].
      size: V.

    Returns:
      "perplexity": exp of the entropy of the codes' frequencies, 1 to V; "used": the share of
      codes that occur; "bits": the entropy itself, in bits for each vector, summed over levels.
    """
    counts = np.stack([np.bincount(level, minlength=size) for level in np.asarray(codes).T])
    shares = counts / counts.sum(axis=1, keepdims=True)
    entropies = -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=1)
    return {
        "perplexity": float(np.exp(entropies).mean()),
        "used": float((counts > 0).mean()),
        "bits": float(entropies.sum() / np.log(2)),
    }


def _checked(examples: np.ndarray, size: int) -> np.ndarray:
    examples = np.asarray(examples, np.float32)
    if len(examples) < size:
        raise UserError(
            f"config.codec.size: {size} codes can't be fitted to {len(examples)} vectors; "
            "set it lower or give more data"
        )
    return examples
