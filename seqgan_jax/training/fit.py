"""A plain supervised loop, for networks that are trained beside the two: quantisers and judges."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

Params = Any


def fit(
    loss: Callable[[Params, Any, jax.Array], tuple[jax.Array, Any]],
    params: Params,
    batches: Iterator[Any],
    *,
    steps: int,
    optimizer: optax.GradientTransformation,
    seed: int,
    after: Callable[[Params, Any, Any, jax.Array], Params] | None = None,
    validate: Callable[[Params], float] | None = None,
    every: int = 0,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Params:
    """Minimises a loss over batches and gives the parameters back.

    A step, compiled once: g = d loss / d params, u = optimizer(g), params + u, then `after`.

    Args:
      loss: of (parameters, batch, key): a scalar, and whatever `after` needs to know.
      params: where to begin; they are copied, never changed.
      batches: pytrees of arrays of the same shapes, at least `steps` of them.
      steps: updates.
      optimizer: its transformation of the gradient.
      seed: of the keys; equal seeds and batches give equal parameters.
      after: changes the parameters after an update, given (parameters, batch, what the loss told,
        key): the reset of a codebook's unused entries, say.
      validate: a figure of the parameters, less is better: those with the least are returned, of
        all that were tried. None returns the last.
      every: steps between two calls of `validate`, which is also called after the last one.
      progress: wraps the range of steps to show how far it has come, as `Progress.track` does.

    Raises:
      ValueError: there are fewer batches than steps, or `every` doesn't go with `validate`.
    """
    if (validate is None) != (every < 1):
        raise ValueError("validate and every go together")

    key = jax.random.key(seed)

    def update(params, state, batch, step):
        loss_key, after_key = jax.random.split(jax.random.fold_in(key, step))
        (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params, batch, loss_key)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        if after is not None:
            params = after(params, batch, aux, after_key)
        return params, state, value

    update = jax.jit(update, donate_argnums=(0, 1))
    copy = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
    # The caller's arrays must outlive the donation of ours.
    params = best = copy(params)
    state, least = optimizer.init(params), jnp.inf
    for step in progress(range(steps)):
        batch = next(batches, None)
        if batch is None:
            raise ValueError(f"{step} batches for {steps} steps")
        params, state, _ = update(params, state, batch, step)
        if validate and ((step + 1) % every == 0 or step + 1 == steps):
            figure = validate(params)
            if figure < least:
                least, best = figure, copy(params)
    return best if validate else params
