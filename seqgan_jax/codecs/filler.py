"""The mean of what is missing of a clip, given what is seen of it: what codes can be added to.

A network learns it by squared error, whose least is at the mean. It is as sharp as the clip is
sure, and blurred elsewhere; codes of the difference then say which of the possible clips it is.

Shapes: F frames, H height, W width, in pixels.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqgan_jax.codecs import stored

_NAME = "filler"
SETTINGS = f"{_NAME}.json"
# The coarsest of the network's grids has a cell for so many pixels of a side.
CELL = 8
# Units of what the network gives: pixels a frame, and nats.
_SPEED = 3.0
_WEIGHT = 3.0


class UNet(nn.Module):
    """Finds missing pixels where they are visible in other frames, or paints them itself.

    Convolutions on three grids, each half as fine as the one before (Ronneberger et al., 2015,
    arXiv:1505.04597), over all frames at once, one behind the other in the channels. Of every
    missing cell of 2 x 2 pixels they tell a few velocities before its frame and after it: with
    these its pixels are looked for in every other frame (voxel flow: Liu et al., 2017,
    arXiv:1702.02463). A pixel is the mean of what is visible there and of a colour that is painted,
    with weights that the network tells too.

    Attributes:
      channels: of the finest grid, whose cells are 2 x 2 pixels; the others have twice as many.
      most: cells of a clip that can be missing; 0 for all of them.
      motions: K, velocities of a cell before its frame, and as many after it.
      features: of a cell in each frame, which its velocities, weights and colours are told from.
    """

    channels: int
    most: int = 0
    motions: int = 2
    features: int = 32

    @nn.compact
    def __call__(self, seen, mask):
        """What to add to clips [B, F, H, W, 3] where the mask [B, F, H, W] is true."""
        batch, frames, height, width, _ = seen.shape
        seen, visible = jnp.asarray(seen), 1 - jnp.asarray(mask, seen.dtype)
        small = nn.initializers.normal(0.01)
        fine, coarse = self.channels, 2 * self.channels

        def residual(x):
            found = nn.relu(nn.Conv(x.shape[-1], (3, 3))(x))
            return nn.relu(x + nn.Conv(x.shape[-1], (3, 3), kernel_init=small)(found))

        def finer(x, other):
            x = nn.Dense(other.shape[-1])(x).repeat(2, axis=1).repeat(2, axis=2)
            return residual(nn.relu(x + other))

        x = _cells(jnp.concatenate([2 * seen - 1, 1 - visible[..., None]], axis=-1))
        x = x.reshape(batch, height // 2, width // 2, -1)
        first = residual(nn.relu(nn.Conv(fine, (3, 3))(x)))
        second = residual(residual(nn.relu(nn.Conv(coarse, (3, 3), (2, 2))(first))))
        third = residual(residual(nn.relu(nn.Conv(coarse, (3, 3), (2, 2))(second))))
        x = finer(finer(third, second), first)
        x = nn.relu(nn.Dense(frames * self.features)(x)).reshape(batch, -1, self.features)

        missing = 1 - _cells(visible).min(-1)
        _, cells = jax.lax.top_k(missing, self.most or missing.shape[1])
        numbers = 2 * 2 * self.motions, 4 * (self.motions * frames + 1), 4 * 3
        told = nn.Dense(sum(numbers), kernel_init=small)(_pick(x, cells)).swapaxes(1, 2)
        speeds, weights, painted = jnp.split(told, np.cumsum(numbers[:2]), axis=1)
        guess = jnp.moveaxis(_pick(_cells(seen), cells), 1, -1)
        found = _blend(
            seen,
            visible,
            cells,
            _SPEED * speeds.reshape(batch, 2, self.motions, 2, -1),
            _WEIGHT * weights.reshape(batch, -1, 4, cells.shape[1]),
            guess + painted.reshape(guess.shape),
        )
        added = jnp.zeros((*missing.shape, 4, 3)).at[jnp.arange(batch)[:, None], cells]
        added = added.set(jnp.moveaxis(found - guess, -1, 1))
        added = added.reshape(batch, height // 2, width // 2, frames, 2, 2, 3)
        return jnp.moveaxis(added, (3, 1, 4, 2, 5), (1, 2, 3, 4, 5)).reshape(seen.shape)


def _cells(x):
    """[B, F, H, W, ...] -> [B, cells, 4, ...], cells of 2 x 2 pixels by row, column and frame."""
    batch, frames, height, width, *rest = x.shape
    x = x.reshape(batch, frames, height // 2, 2, width // 2, 2, *rest)
    return jnp.moveaxis(x, (2, 4, 1, 3, 5), (1, 2, 3, 4, 5)).reshape(batch, -1, 4, *rest)


def _pick(x, cells):
    """[B, all cells, ...], [B, M] -> [B, M, ...]."""
    return jnp.take_along_axis(x, cells.reshape(*cells.shape, *(1,) * (x.ndim - 2)), axis=1)


def _blend(seen, visible, cells, speeds, weights, painted):
    """The pixels of cells: what is visible where they are looked for, and what is painted.

    Args:
      seen: [B, F, H, W, 3].
      visible: 1 where it is, otherwise 0, [B, F, H, W].
      cells: which, [B, M].
      speeds: before and after, K each, downwards and to the right, pixels a frame, [B, 2, K, 2, M].
      weights: logarithms, [B, K F + 1, 4, M].
      painted: [B, 4, 3, M].

    Returns:
      [B, 4, 3, M].
    """
    batch, frames, height, width, _ = seen.shape
    motions, most = speeds.shape[2], cells.shape[1]
    time, place = cells % frames, cells // frames
    row, column = 2 * (place // (width // 2)), 2 * (place % (width // 2))
    frame = jnp.arange(frames)[:, None]
    ahead = (frame - time[:, None]).astype(seen.dtype)  # [B, F, M]
    before, after = speeds[:, 0, :, :, None], speeds[:, 1, :, :, None]
    shift = jnp.where((ahead < 0)[:, None, None], before, after) * ahead[:, None, None]

    def looked(start, offsets, shift, size):
        """Where pixels are looked for, [B, K, F, 4, M]: the pixel before that, and the rest."""
        start = start[:, None] + jnp.array(offsets)[:, None]
        where = jnp.clip(start[:, None, None] + shift[:, :, :, None], 0, size - 1)
        whole = jnp.minimum(jnp.floor(where), size - 2)
        return whole.astype(int), (where - whole).reshape(batch, -1)

    top, down = looked(row, (0, 0, 1, 1), shift[:, :, 0], height)
    left, right = looked(column, (0, 1, 0, 1), shift[:, :, 1], width)
    index = ((frame[:, None] * height + top) * width + left).reshape(batch, -1)
    # The compiler would work all of this out again at every use.
    index, down, right = jax.lax.optimization_barrier((index, down, right))

    # Unless the network tells otherwise, near frames count for more.
    prior = jnp.broadcast_to(-0.5 * jnp.abs(ahead)[:, None], (batch, motions, frames, most))
    prior = jnp.pad(prior.reshape(batch, -1, most), ((0, 0), (0, 1), (0, 0)), constant_values=-1.0)
    weights = weights + prior[:, :, None]
    weights = jnp.exp(weights - jax.lax.stop_gradient(weights.max(1, keepdims=True)))
    found, alone = weights[:, :-1], weights[:, -1]

    def mean(plane):
        """The weighted sum of a plane [B, F, H, W] where it is looked at, [B, 4, M]."""
        flat = plane.reshape(batch, -1)
        at = lambda step: jnp.take_along_axis(flat, index + step, axis=1)
        upper = (1 - right) * at(0) + right * at(1)
        lower = (1 - right) * at(width) + right * at(width + 1)
        there = jax.lax.optimization_barrier((1 - down) * upper + down * lower)
        return (found * there.reshape(found.shape)).sum(1)

    total = mean(visible) + alone + 1e-6
    colours = [(mean(seen[..., c] * visible) + alone * painted[:, :, c]) / total for c in range(3)]
    return jnp.stack(colours, axis=2)


def _fill(network, params, seen, mask):
    """Clips with the missing pixels' mean in place of the first guess that `seen` has of them."""
    return jnp.where(mask[..., None], seen + network.apply({"params": params}, seen, mask), seen)


def _error(network, params, batch):
    """The mean squared error over the missing pixels of all clips."""
    seen, mask, clip = batch
    weight = mask[..., None].astype(seen.dtype)
    error = jnp.square(_fill(network, params, seen, mask) - clip) * weight
    return error.sum() / jnp.maximum(3 * weight.sum(), 1.0)


class Filler:
    """Fills what is missing of clips with its mean.

    Attributes:
      network: the U-Net.
      params: its parameters.
    """

    def __init__(self, network: UNet, params: dict):
        self.network = network
        self.params = params
        self._fill = jax.jit(lambda params, *clips: _fill(network, params, *clips))

    @classmethod
    def fit(
        cls,
        batches: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]],
        held_out: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
        seed: int,
        *,
        channels: int,
        most: int = 0,
        steps: int,
        every: int,
        learning_rate: float = 2e-3,
        minimise: Callable,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> tuple["Filler", float]:
        """Trains the network, and keeps it as it was when it was best on held-out clips.

        Args:
          batches: of clips with a first guess of what is missing, float32 [B, F, H, W, 3] from 0 to
            1, what is missing, bool [B, F, H, W], and the true clips.
          held_out: batches of the same shapes.
          seed: of the parameters.
          channels, most: see `UNet`.
          steps, learning_rate: of Adam, the rate after a warm-up along a half cosine.
          every: steps between looks at the held-out clips.
          minimise: `training.fit.fit`.
          progress: wraps the range of steps, to show how far it is.

        Returns:
          The filler, and its PSNR over the missing pixels of all held-out clips, in dB.
        """
        network = UNet(channels, most)
        seen, mask, _ = held_out[0]
        error = jax.jit(lambda params, batch: _error(network, params, batch))
        rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(50, steps // 2), steps)
        least = []

        def validate(params):
            least.append(float(np.mean([error(params, batch) for batch in held_out])))
            return least[-1]

        params = minimise(
            lambda params, batch, key: (_error(network, params, batch), None),
            network.init(jax.random.key(seed), seen, mask)["params"],
            batches,
            steps=steps,
            optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
            seed=seed,
            validate=validate,
            every=every,
            progress=progress,
        )
        return cls(network, jax.device_get(params)), -10 * float(np.log10(min(least)))

    def __call__(self, seen: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Fills a clip, or several.

        Args:
          seen: with a first guess of what is missing, float [..., F, H, W, 3], 0 to 1.
          mask: what is missing, bool [..., F, H, W].

        Returns:
          The clips with the mean where pixels are missing, 0 to 1, float32.
        """
        clips = seen.astype(np.float32).reshape(-1, *seen.shape[-4:])
        filled = self._fill(self.params, clips, mask.reshape(-1, *mask.shape[-3:]))
        return np.clip(np.asarray(filled), 0, 1).reshape(seen.shape)

    def save(self, directory: str | Path) -> None:
        """Writes filler.json and filler.npz."""
        arrays = flax.traverse_util.flatten_dict(self.params, sep="/")
        settings = {"channels": self.network.channels, "most": self.network.most}
        stored.save(directory, _NAME, settings, arrays)

    @classmethod
    def load(cls, directory: str | Path) -> "Filler":
        """Reads what `save` wrote.

        Raises:
          UserError: if a file is missing or is not as it was written.
        """

        def restore(settings, arrays):
            params = flax.traverse_util.unflatten_dict(arrays, sep="/")
            return cls(UNet(int(settings["channels"]), int(settings["most"])), params)

        return stored.load(directory, _NAME, restore)
