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
# The coarsest of the network's grids has a cell for so many pixels of a side.
CELL = 8


class UNet(nn.Module):
    """Convolutions on three grids, each half as fine as the one before (Ronneberger et al., 2015,
    arXiv:1505.04597), over all frames at once, one behind the other in the channels.

    Attributes:
      channels: of the finest grid, whose cells are 2 x 2 pixels; the others have twice as many.
    """

    channels: int

    @nn.compact
    def __call__(self, seen, mask):
        """What to add to clips [B, F, H, W, 3] where the mask [B, F, H, W] is true."""
        batch, frames, height, width, _ = seen.shape
        small = nn.initializers.normal(0.01)
        fine, coarse = self.channels, 2 * self.channels

        def residual(x):
            found = nn.relu(nn.Conv(x.shape[-1], (3, 3))(x))
            return nn.relu(x + nn.Conv(x.shape[-1], (3, 3), kernel_init=small)(found))

        def finer(x, other):
            x = nn.Dense(other.shape[-1])(x).repeat(2, axis=1).repeat(2, axis=2)
            return residual(nn.relu(x + other))

        x = jnp.concatenate([2 * seen - 1, mask[..., None].astype(seen.dtype)], axis=-1)
        x = jnp.moveaxis(x, 1, 3).reshape(batch, height // 2, 2, width // 2, 2, 4 * frames)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, -1)
        first = residual(nn.relu(nn.Conv(fine, (3, 3))(x)))
        second = residual(residual(nn.relu(nn.Conv(coarse, (3, 3), (2, 2))(first))))
        third = residual(residual(nn.relu(nn.Conv(coarse, (3, 3), (2, 2))(second))))
        x = finer(finer(third, second), first)
        x = nn.Dense(4 * 3 * frames, kernel_init=small)(x)
        x = x.reshape(batch, height // 2, width // 2, 2, 2, frames, 3)
        return x.transpose(0, 5, 1, 3, 2, 4, 6).reshape(seen.shape)


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
          channels: see `UNet`.
          steps, learning_rate: of Adam, the rate after a warm-up along a half cosine.
          every: steps between looks at the held-out clips.
          minimise: `training.fit.fit`.
          progress: wraps the range of steps, to show how far it is.

        Returns:
          The filler, and its PSNR over the missing pixels of all held-out clips, in dB.
        """
        network = UNet(channels)
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
        """Fills one clip.

        Args:
          seen: with a first guess of what is missing, float [F, H, W, 3], 0 to 1.
          mask: what is missing, bool [F, H, W].

        Returns:
          The clip with the mean where pixels are missing, 0 to 1, float32.
        """
        filled = self._fill(self.params, seen[None].astype(np.float32), mask[None])
        return np.clip(np.asarray(filled[0]), 0, 1)

    def save(self, directory: str | Path) -> None:
        """Writes filler.json and filler.npz."""
        arrays = flax.traverse_util.flatten_dict(self.params, sep="/")
        stored.save(directory, _NAME, {"channels": self.network.channels}, arrays)

    @classmethod
    def load(cls, directory: str | Path) -> "Filler":
        """Reads what `save` wrote.

        Raises:
          UserError: if a file is missing or is not as it was written.
        """

        def restore(settings, arrays):
            params = flax.traverse_util.unflatten_dict(arrays, sep="/")
            return cls(UNet(int(settings["channels"])), params)

        return stored.load(directory, _NAME, restore)
