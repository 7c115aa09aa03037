"""The optimisers of `training.steps`: Adam, and Muon, which is Adam for all but the inner matrices.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) moves a matrix of m x n along
its momentum with all singular values made about 1. Its steps are scaled to a root mean square of
0.3 an element, which is about Adam's (Liu et al., 2025, arXiv:2502.16982, section 2.2), so that
both take the same learning rates. Tables of vectors, what predicts tokens or scores, and matrices
more than 16 times as long as wide, for which it would take long, are left to Adam.

Both have the same state, whose trees are like the parameters.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

NAMES = ("adam", "muon")
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8  # Adam's, as in optax
_BETA = 0.95
_RMS = 0.3
# p(s) = a s + b s^3 + c s^5 takes singular values in (0, 1] towards 1, small ones at once.
_QUINTIC = 3.4445, -4.775, 2.0315
_ITERATIONS = 4
# Rounded to bfloat16, A has eigenvalues below 0, which the iterations would drive apart.
_times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_ENDS = ("kernel", "_input", "_recurrent", "_query", "_key", "_value")
_PREDICTING = ("output", "words", "head_output", "feature_output")


def _matrix(keys: tuple, x: chex.Array) -> tuple[int, int] | None:
    """The shape, as a matrix, of a parameter that Muon moves; None of the others."""
    names = [str(key.key) for key in keys]
    alone = names[-1] == "kernel" and len(names) == 1
    if jnp.ndim(x) < 2 or alone or not names[-1].endswith(_ENDS):
        return None
    if any(name in _PREDICTING for name in names):
        return None
    # Heads [U, K, D] read one input; of convolutions [..., I, O] the whole window is the input.
    rows = x.shape[0] if x.ndim == 3 and names[-1] != "kernel" else x.size // x.shape[-1]
    columns = x.size // rows
    return (rows, columns) if max(rows, columns) <= 16 * min(rows, columns) else None


# The state before the first step, of either.
init = optax.scale_by_adam().init


def elementwise(
    name: str, params: Any, sound: chex.Array | bool = True
) -> optax.GradientTransformation:
    """What an optimiser does to each element of parameters by itself, and so to parts of them too.

    Of the matrices that Muon moves it is the momentum (Nesterov's), of the others Adam's update
    (Kingma and Ba, 2015, arXiv:1412.6980), as `optax.scale_by_adam` has it. That can't leave its
    state as it is where there is to be no update, and to choose between two states afterwards
    copies three arrays of the parameters' size.

    Args:
      name: see `NAMES`.
      params: whole, as their shapes say which are such matrices.
      sound: whether the gradient is one. Otherwise the state stays, and what is given is of no use.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    muon = name == "muon"
    matrices = {keys for keys, x in leaves if muon and _matrix(keys, x) is not None}
    keep = lambda new, old: jnp.where(sound, new, old)

    def update(grads, state, params=None):
        del params
        count = keep(optax.safe_increment(state.count), state.count)
        first, second = (1 - decay ** jnp.maximum(count, 1) for decay in (_FIRST, _SECOND))

        def moved(keys, g, mu, nu):
            if keys in matrices:
                mu = keep(_BETA * mu + (1 - _BETA) * g, mu)
                return _BETA * mu + (1 - _BETA) * g, mu, nu
            mu = keep((1 - _FIRST) * g + _FIRST * mu, mu)
            nu = keep((1 - _SECOND) * g**2 + _SECOND * nu, nu)
            return mu / first / (jnp.sqrt(nu / second) + _EPSILON), mu, nu

        found = jax.tree_util.tree_map_with_path(moved, grads, state.mu, state.nu)
        updates, mu, nu = jax.tree.transpose(
            jax.tree.structure(grads), jax.tree.structure((0, 0, 0)), found
        )
        return updates, state._replace(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def directions(name: str, updates: Any) -> Any:
    """What `elementwise` gave, of whole parameters -> what to subtract, times the rate."""
    if name != "muon":
        return updates

    def turned(keys, x):
        shape = _matrix(keys, x)
        if shape is None:
            return x
        matrix = x.reshape(shape) if shape[0] <= shape[1] else x.reshape(shape).T
        moved = _RMS * max(shape) ** 0.5 * _orthogonal(matrix)
        return (moved if shape[0] <= shape[1] else moved.T).reshape(x.shape)

    return jax.tree_util.tree_map_with_path(turned, updates)


def _orthogonal(x: chex.Array) -> chex.Array:
    """A matrix [m, n], m <= n, with its singular values made about 1; a zero matrix stays zero.

    Newton-Schulz iterations x <- p(x) = P x, P = a + b A + c A^2 with A = x x^T, where only A is
    iterated, A <- P A P (all of them commute), and x is multiplied once, by the product of the P:
    half the operations of the plain form. They start from singular values of 1 at most, by the
    Schatten norm of order 4, the root of A's Frobenius norm (Boissin et al., 2025,
    arXiv:2512.04632, take another), which lets four iterations do what five do from x's own.
    """
    a, b, c = _QUINTIC
    # Fourth powers of what networks give at their start, 1e-12 and the like, would be zero.
    largest = jnp.abs(x).max()
    x = x / jnp.where(largest > 0, largest, 1.0)
    gram = _times(x, x.T)
    norm = jnp.maximum(jnp.linalg.norm(gram), 1.0)  # less is 0: the largest element is 1
    gram, product = gram / norm, None
    for i in range(_ITERATIONS):
        step = a * jnp.eye(len(x)) + b * gram + c * _times(gram, gram)
        product = step if product is None else _times(step, product)
        if i + 1 < _ITERATIONS:
            gram = _times(_times(step, gram), step)
    return product @ x / jnp.sqrt(norm)
