"""Source encoders: a source -> a memory of positions and a summary vector."""

from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp


class ConvolutionalEncoder(nn.Module):
    """A small convolutional network that turns an image into a grid of patch features.

    Each stage is a 3 x 3 convolution with stride 2 and, but for the first, a residual one with
    stride 1 (He et al., 2016), each with group normalisation (Wu and He, 2018; nothing depends on
    the rest of the batch) and a rectifier. A learned vector for each grid position is added, since
    attention alone would not know where a feature was seen.

    Attributes:
      channels: output channels of the stages; the grid's side is the image's over 2^stages.
      size: F, size of a position's feature and of the summary.
      blocks: more residual convolutions on the last grid, each of which lets a position see one
        position farther.
      dropout: rate on the grid features in training.
    """

    channels: Sequence[int]
    size: int
    blocks: int = 0
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, source: chex.Array, mask: chex.Array | None, *, train: bool
    ) -> tuple[chex.Array, chex.Array]:
        """Images [B, height, width, 3], uint8 -> positions [B, S, F] and summary [B, F]."""
        chex.assert_rank(source, 4)

        def convolve(x, channels, stride):
            x = nn.Conv(channels, (3, 3), (stride, stride), use_bias=False)(x)
            return nn.relu(nn.GroupNorm(num_groups=None, group_size=1)(x))

        x = source.astype(jnp.float32) / 127.5 - 1.0
        for stage, channels in enumerate(self.channels):
            x = convolve(x, channels, 2)
            if stage:
                x = x + convolve(x, channels, 1)
        for _ in range(self.blocks):
            x = x + convolve(x, self.channels[-1], 1)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        grid = nn.Dense(self.size)(x) + self.param(
            "position", nn.initializers.normal(0.5), (x.shape[1], self.size)
        )
        grid = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(grid))
        summary = nn.Dense(self.size)(grid.reshape(grid.shape[0], -1))
        return grid, jnp.tanh(summary)


class FeatureEncoder(nn.Module):
    """Projects precomputed feature vectors, one for each source position.

    Attributes:
      size: F, size of a position's projected feature and of the summary.
      dropout: rate on the incoming and on the projected features in training.
    """

    size: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, source: chex.Array, mask: chex.Array | None, *, train: bool
    ) -> tuple[chex.Array, chex.Array]:
        """Features [B, S, D], mask [B, S] or None -> positions [B, S, F] and summary [B, F]."""
        chex.assert_rank(source, 3)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        position = self.param("position", nn.initializers.normal(0.1), (source.shape[1], self.size))
        features = nn.LayerNorm()(nn.Dense(self.size)(drop(source.astype(jnp.float32))))
        features = drop(nn.relu(features + position))
        if mask is None:
            mean = features.mean(1)
        else:
            weights = mask[:, :, None] / jnp.maximum(mask.sum(1), 1.0)[:, None, None]
            mean = (features * weights).sum(1)
        return features, jnp.tanh(nn.Dense(self.size)(mean))


ENCODERS: dict[str, Any] = {"convolutional": ConvolutionalEncoder, "features": FeatureEncoder}
