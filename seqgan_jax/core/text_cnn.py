"""Convolutions of several widths over a sequence, their maxima over time, and the highway layer.

A kernel K of width w sees the windows that start at a = 0 .. T - w,

    y[a] = sum_{s < w} x[a + s] K[s],

and its filter's feature is max_a y[a] (Collobert et al., 2011; Kim, 2014, arXiv:1408.5882). A bias
and a ReLU may follow the maximum instead of preceding it: they are alike in all windows and never
reverse an order.

As written, one filter costs w (T - w + 1) products of E terms. No window wraps around, so y is also
part of the cyclic correlation of length T, which by frequencies costs about 3 T / 2 products,
whatever w: 29 for T = 20, where w = 10 costs 110. The rearrangement is exact, and its transforms
are orthogonal up to scale, so that rounding errors are no larger than those of the sum as written.

Shapes: B batch, T length, E channels, F filters of all widths together, R lanes of one source.
"""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

# Sequences and filters that are pooled together, so that what they need stays in a core's cache.
ROWS, FILTERS = 32, 300


@functools.cache
def correlation(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P [r, T], Q [r, T] and R [T, r]: R (P x * Q k) is the cyclic correlation of x and k, [T].

    Rows of P and Q are combinations of real Fourier coefficients. With x_c and x_s the cosine and
    sine coefficients of one frequency, Gauss's three products

        (x_c + x_s) k_c,    x_s (k_s - k_c),    x_c (k_c + k_s)

    stand for one complex product x conj(k): its real part is the first plus the second, its sine
    part the first minus the third. r is T plus the number of frequencies that have both parts.

    Args:
      length: T.
    """
    t = np.arange(length)
    real = np.stack([t * 0 + 1.0, 1.0 - 2.0 * (t % 2)][: 2 - length % 2])
    angles = 2 * np.pi * np.outer(np.arange(1, (length + 1) // 2), t) / length
    c, s = np.cos(angles), np.sin(angles)
    before = np.concatenate([real, c + s, s, c])
    kernel = np.concatenate([real, c, s - c, c + s])
    after = np.concatenate([real, 2 * (c + s), 2 * c, -2 * s]).T / length
    return tuple(matrix.astype(np.float32) for matrix in (before, kernel, after))


def windows(features: chex.Array, width: int) -> chex.Array:
    """All windows, [B, T, E] -> [B, T - w + 1, w E]."""
    count = features.shape[1] - width + 1
    return jnp.concatenate([features[:, s : s + count] for s in range(width)], axis=-1)


def _flat(kernel):
    """[w, E, F] -> [w E, F]."""
    return kernel.reshape(-1, kernel.shape[-1])


def _prepare(kernels, length):
    """Kernels side by side, zero beyond their width, times Q, [r, E, F]; and where windows fit.

    The latter is [T - min(w) + 1, 1, F].
    """
    widths = [len(k) for k in kernels]
    longest = max(widths)
    padded = [jnp.pad(k, ((0, longest - len(k)), (0, 0), (0, 0))) for k in kernels]
    padded = jnp.concatenate(padded, axis=-1)
    _, q, _ = correlation(length)
    spectra = (q[:, :longest] @ padded.reshape(longest, -1)).reshape(-1, *padded.shape[1:])
    start = np.arange(length - min(widths) + 1)[:, None, None]
    return spectra, start <= length - np.repeat(widths, [k.shape[-1] for k in kernels])


def _pieces(array):
    """[..., F] -> [pieces, ..., filters of a piece], filled up with zeros."""
    filters = array.shape[-1]
    pieces = -(-filters // FILTERS)
    size = -(-filters // pieces)
    array = jnp.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, pieces * size - filters),))
    return jnp.moveaxis(array.reshape(*array.shape[:-1], pieces, size), -2, 0)


def _transform(features):
    """P x: [B, T, E] -> [r, B, E]."""
    return jnp.einsum("rt,bte->rbe", correlation(features.shape[1])[0], features)


def _all_windows(spectra, inside, transformed, length):
    """y of every start, [T - min(w) + 1, B, F], from P x, [r, B, E]; -inf where it does not fit."""
    _, _, r = correlation(length)
    products = transformed @ spectra
    y = (r[: len(inside)] @ products.reshape(len(products), -1)).reshape(-1, *products.shape[1:])
    return jnp.where(inside, y, -jnp.inf)


@jax.custom_vjp
def _pool_by_frequency(kernels, features):
    batch, length, channels = features.shape
    spectra, inside = _prepare(kernels, length)
    blocks = -(-batch // ROWS)
    features = jnp.pad(features, ((0, blocks * ROWS - batch), (0, 0), (0, 0)))
    transformed = jax.vmap(_transform)(features.reshape(blocks, ROWS, length, channels))

    def piece(inputs):
        return jax.lax.map(lambda rows: _all_windows(*inputs, rows, length).max(0), transformed)

    pooled = jax.lax.map(piece, (_pieces(spectra), _pieces(inside)))
    pooled = jnp.moveaxis(pooled.reshape(len(pooled), blocks * ROWS, -1), 0, 1)
    return pooled.reshape(blocks * ROWS, -1)[:batch, : spectra.shape[-1]]


def _pool_forward(kernels, features):
    spectra, inside = _prepare(kernels, features.shape[1])
    y = _all_windows(spectra, inside, _transform(features), features.shape[1])
    return y.max(0), (kernels, features, spectra, y.argmax(0))


def _pool_backward(residuals, gradient):
    kernels, features, spectra, best = residuals
    longest, length = max(len(k) for k in kernels), features.shape[1]
    p, q, r = correlation(length)
    r = r[: length - min(len(k) for k in kernels) + 1]
    # The one window that was the maximum takes the filter's gradient.
    d_windows = jnp.where(jnp.arange(len(r))[:, None, None] == best, gradient, 0.0)
    d_products = (r.T @ d_windows.reshape(len(r), -1)).reshape(-1, *gradient.shape)
    d_features = jnp.einsum("rbf,ref->rbe", d_products, spectra)
    d_spectra = jnp.einsum("rbe,rbf->ref", jnp.einsum("rt,bte->rbe", p, features), d_products)
    d_padded = q[:, :longest].T @ d_spectra.reshape(len(q), -1)
    d_padded = d_padded.reshape(longest, *d_spectra.shape[1:])
    split = zip(_by_kernel(d_padded, kernels), kernels, strict=True)
    d_kernels = [d[: len(k)] for d, k in split]
    return d_kernels, jnp.einsum("rt,rbe->bte", p, d_features)


_pool_by_frequency.defvjp(_pool_forward, _pool_backward)


def _products(width: int, length: int) -> int:
    """Products of E terms that one filter costs over a sequence, the cheaper way."""
    direct = width * max(0, length - width + 1)
    return min(direct, len(correlation(length)[0]))


def pool(kernels: Sequence[chex.Array], features: chex.Array) -> chex.Array:
    """The largest response of every filter over all windows.

    Where several windows are equal, the first takes the gradient.

    Args:
      kernels: one for each width, [w, E, F_w].
      features: [B, T, E].

    Returns:
      [B, F], filters in the order of the kernels; -inf where a kernel is wider than T.
    """
    chex.assert_rank([features, *kernels], 3)
    length = features.shape[1]
    pooled, fast = {}, []
    for i, kernel in enumerate(kernels):
        width, _, filters = kernel.shape
        if width > length:
            pooled[i] = jnp.full((len(features), filters), -jnp.inf, features.dtype)
        elif _products(width, length) < width * (length - width + 1):
            fast.append(i)
        else:
            pooled[i] = (windows(features, width) @ _flat(kernel)).max(1)
    if fast:
        together = _pool_by_frequency([kernels[i] for i in fast], features)
        pooled.update(zip(fast, _by_kernel(together, [kernels[i] for i in fast]), strict=True))
    return jnp.concatenate([pooled[i] for i in range(len(kernels))], axis=-1)


def pool_completions(
    kernels: Sequence[chex.Array], features: chex.Array, shared: int, lanes: int
) -> chex.Array:
    """`pool` for R sequences of each source whose first positions are equal.

    A window lies inside the shared prefix, inside the completion, or straddles the prefix's end
    with m positions in the completion. The first kind is pooled once for each source. The last
    kind's sum splits at the prefix's end: its first part is computed once for each source too; its
    second covers the completion's first m positions whatever the width, so that all widths' are one
    product. Widths that would cost more this way than over the whole sequence are pooled over it.

    Args:
      kernels: one for each width, [w, E, F_w].
      features: [B R, T, E], source-major; lanes of one source agree in positions 0 .. shared - 1.
      shared: length of the shared prefix, 0 .. T - 1; static.
      lanes: R.

    Returns:
      [B R, F], as `pool(kernels, features)`.
    """
    chex.assert_rank([features, *kernels], 3)
    length = features.shape[1]
    left = length - shared

    def divides(width):
        straddling = range(max(1, width - shared), min(left, width - 1) + 1)
        return _products(width, left) + sum(straddling) < _products(width, length)

    divided = [i for i, kernel in enumerate(kernels) if divides(len(kernel))]
    whole = [i for i in range(len(kernels)) if i not in divided]
    best = {}
    for indices, pooled in (
        (whole, lambda some: pool(some, features)),
        (divided, lambda some: _pool_divided(some, features, shared, lanes)),
    ):
        if indices:
            some = [kernels[i] for i in indices]
            best.update(zip(indices, _by_kernel(pooled(some), some), strict=True))
    return jnp.concatenate([best[i] for i in range(len(kernels))], axis=-1)


def _by_kernel(filters, kernels):
    """Splits [..., F] by kernels."""
    return jnp.split(filters, np.cumsum([k.shape[-1] for k in kernels])[:-1], axis=-1)


def _pool_divided(kernels, features, shared, lanes):
    rows, length, channels = features.shape
    repeat = lambda x: jnp.repeat(x, lanes, axis=0)
    own = features.reshape(-1, lanes, length, channels)[:, 0, :shared]
    rest = features[:, shared:]
    inside = jnp.maximum(repeat(pool(kernels, own)), pool(kernels, rest))
    best = _by_kernel(inside, kernels)

    # The prefix's part of straddling windows: windows over the prefix followed by zeros.
    padded = jnp.pad(own, ((0, 0), (0, length - shared), (0, 0)))
    first = [max(0, shared - len(k) + 1) for k in kernels]
    heads = {}
    for m in range(1, length - shared + 1):
        found = [i for i, k in enumerate(kernels) if m < len(k) <= m + shared]
        if not found:
            continue
        for i in found:
            if i not in heads:
                width = len(kernels[i])
                across = padded[:, first[i] : shared + width - 1]
                heads[i] = windows(across, width) @ _flat(kernels[i])
        head = [heads[i][:, shared + m - len(kernels[i]) - first[i]] for i in found]
        tail = jnp.concatenate([_flat(kernels[i][-m:]) for i in found], axis=-1)
        y = repeat(jnp.concatenate(head, axis=-1)) + rest[:, :m].reshape(rows, -1) @ tail
        for i, new in zip(found, _by_kernel(y, [kernels[i] for i in found]), strict=True):
            best[i] = jnp.maximum(best[i], new)
    return jnp.concatenate(best, axis=-1)


def highway(weight: chex.Array, bias: chex.Array, inputs: chex.Array) -> chex.Array:
    """One highway layer (Srivastava et al., 2015, arXiv:1505.00387), with H and T side by side.

        t = sigmoid(x W_T + b_T),    output = t relu(x W_H + b_H) + (1 - t) x

    Args:
      weight: [F, 2 F].
      bias: [2 F].
      inputs: [B, F].
    """
    chex.assert_shape(weight, (inputs.shape[-1], 2 * inputs.shape[-1]))
    transform, gate = jnp.split(inputs @ weight + bias, 2, axis=-1)
    gate = jax.nn.sigmoid(gate)
    return gate * jax.nn.relu(transform) + (1 - gate) * inputs
