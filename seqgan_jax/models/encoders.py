"""Source encoders: a source -> a memory of positions and a summary vector."""

from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seqgan_jax.core import lstm
from seqgan_jax.errors import UserError
from seqgan_jax.models.generator import lstm_parameters
from seqgan_jax.models.transformer import Block, read_block


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
      remat: whether each convolution is computed again for its gradient, from its inputs.
    """

    channels: Sequence[int]
    size: int
    blocks: int = 0
    dropout: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(
        self, source: chex.Array, mask: chex.Array | None, *, train: bool
    ) -> tuple[chex.Array, chex.Array]:
        """Images [B, height, width, 3], uint8 -> positions [B, S, F] and summary [B, F]."""
        chex.assert_rank(source, 4)
        pixels = source.astype(jnp.float32) / 127.5 - 1.0
        x = convolutions(self, pixels, self.channels, self.blocks)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        grid = nn.Dense(self.size)(x) + self.param(
            "position", nn.initializers.normal(0.5), (x.shape[1], self.size)
        )
        grid = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(grid))
        summary = nn.Dense(self.size)(grid.reshape(grid.shape[0], -1))
        return grid, jnp.tanh(summary)


class ClipEncoder(nn.Module):
    """Features of the patches that are to be filled, made of what is visible of a clip.

    All frames lie one behind the other in the channels of one picture, which goes through the
    convolutions of `ConvolutionalEncoder`: a cell of the last grid knows what is seen of its patch
    and of those around it in every slot of time. A patch to be filled starts from its cell, a
    learned vector of its place in space and time and one of its place in the target. Transformer
    blocks then let these patches attend to one another and to all cells; see `models.transformer`.

    Attributes:
      channels: output channels of the stages; a patch is 2^stages pixels wide and high.
      size: F, of a position's feature and of the summary; a multiple of 4.
      blocks: more residual convolutions on the last grid.
      num_layers: L, Transformer blocks.
      dropout: rate on what each part of a block finds, in training.
      remat: whether each block and convolution is computed again for its gradient, from its inputs.
    """

    channels: Sequence[int]
    size: int
    blocks: int = 2
    num_layers: int = 1
    dropout: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(
        self, source: dict[str, chex.Array], mask: chex.Array | None, *, train: bool
    ) -> tuple[chex.Array, chex.Array]:
        """A clip and places -> positions [B, T, F] and summary [B, F].

        Args:
          source: "clip", uint8 [B, slots, H, W, C], nothing of the hole in it; "places", int32
            [B, T], indices of patches in the flattened grid [slots, rows, columns].
          mask: [B, T], or None.
          train: whether to drop.
        """
        clip, places = source["clip"], source["places"]
        chex.assert_rank([clip, places], [5, 2])
        batch, slots, height, width, _ = clip.shape

        x = jnp.moveaxis(clip, 1, 3).reshape(batch, height, width, -1)
        x = x.astype(jnp.float32) / 127.5 - 1.0
        x = convolutions(self, x, self.channels, self.blocks)
        rows, columns = x.shape[1:3]
        normal = nn.initializers.normal(0.5)
        cells = nn.Dense(self.size)(x).reshape(batch, rows * columns, self.size)
        cells = nn.relu(cells + self.param("cell", normal, cells.shape[1:]))

        patches = nn.Dense(slots * self.size)(x).reshape(batch, rows * columns, slots, self.size)
        patches = jnp.moveaxis(patches, 2, 1).reshape(batch, -1, self.size)
        patches = patches + self.param("patch", normal, patches.shape[1:])
        found = jnp.take_along_axis(patches, places[:, :, None], axis=1)
        found = found + self.param("step", normal, found.shape[1:])
        for _ in range(self.num_layers):
            block = Block(self.size, 2 * self.size, 4, self.size, False, self.dropout)
            every = jnp.ones((1, 1, places.shape[1])) if mask is None else mask[:, None]
            steps = jnp.arange(places.shape[1])[None]
            seen = block.source_cache(cells)
            found, _, _ = read_block(
                block, found, steps, every, source=seen, train=train, remat=self.remat
            )
        found = nn.LayerNorm()(found)
        means = jnp.concatenate([found.mean(1), cells.mean(1)], axis=-1)
        return found, jnp.tanh(nn.Dense(self.size)(means))


def convolutions(
    module: nn.Module, x: chex.Array, channels: Sequence[int], blocks: int
) -> chex.Array:
    """The convolutions of `ConvolutionalEncoder`, within a compact Linen module that has `remat`.

    [B, H, W, C] -> [B, H / 2^stages, W / 2^stages, channels[-1]].
    """

    def convolve(x, channels, stride):
        def layer(_, x):
            x = nn.Conv(channels, (3, 3), (stride, stride), use_bias=False)(x)
            return nn.relu(nn.GroupNorm(num_groups=None, group_size=1)(x))

        return (nn.remat(layer) if module.remat else layer)(module, x)

    for stage, size in enumerate(channels):
        x = convolve(x, size, 2)
        if stage:
            x = x + convolve(x, size, 1)
    for _ in range(blocks):
        x = x + convolve(x, channels[-1], 1)
    return x


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


class BiLSTMEncoder(nn.Module):
    """Stacked bidirectional LSTM layers over tokens (Schuster and Paliwal, 1997).

    A layer reads the sequence forwards with half of its units and backwards, from the last real
    token on, with the others. The summary is made of where both end.

    Attributes:
      vocabulary_size: of the sources.
      size: F of a position's feature and of the summary; even.
      embedding_size: E.
      num_layers: L.
      dropout: rate on the embeddings, between layers and on the features in training.
      remat: whether each layer is computed again for its gradient, from its inputs.
    """

    vocabulary_size: int
    size: int
    embedding_size: int
    num_layers: int = 1
    dropout: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(
        self, source: chex.Array, mask: chex.Array | None, *, train: bool
    ) -> tuple[chex.Array, chex.Array]:
        """Tokens [B, S], mask [B, S] or None -> positions [B, S, F] and summary [B, F].

        The mask is 1 up to a source's length; what comes after changes nothing, and gives zeros.
        """
        chex.assert_rank(source, 2)
        drop = nn.Dropout(self.dropout, deterministic=not train)
        mask = jnp.ones(source.shape) if mask is None else mask
        lengths, steps = mask.sum(1, keepdims=True).astype(jnp.int32), jnp.arange(source.shape[1])
        # Backwards, the real tokens come first too: no state has read padding before them.
        mirror = jnp.where(steps < lengths, lengths - 1 - steps, steps)[:, :, None]
        turn = lambda x: jnp.take_along_axis(x, mirror, axis=1)
        half = self.size // 2
        zero = lstm.zero_state(len(source), half)
        unroll = jax.checkpoint(lstm.unroll) if self.remat else lstm.unroll
        x = nn.Embed(
            self.vocabulary_size, self.embedding_size, embedding_init=nn.initializers.normal(0.1)
        )(source)
        for i in range(self.num_layers):
            x = drop(x)
            forward = lstm_parameters(self, f"forward_{i}", x.shape[-1], half)
            backward = lstm_parameters(self, f"backward_{i}", x.shape[-1], half)
            there = unroll(forward, zero, x).hidden
            back = turn(unroll(backward, zero, turn(x)).hidden)
            x = jnp.concatenate([there, back], axis=-1)
        x = x * mask[:, :, None]
        last = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, :, None], axis=1)[:, 0, :half]
        summary = nn.Dense(self.size)(jnp.concatenate([last, x[:, 0, half:]], axis=-1))
        return drop(x), jnp.tanh(summary)


class TransformerEncoder(nn.Module):
    """A Transformer over tokens, with the generator's blocks; see `models.transformer`.

    The summary is a projection of the positions' mean.

    Attributes:
      vocabulary_size: of the sources.
      size: F of the blocks, of a position's feature and of the summary.
      hidden_size: of the layer inside a block's last part.
      num_layers: L, blocks.
      num_heads: K; F is a multiple of it, and of 2 K with rotary positions.
      positions: 'rotary' or 'learned'.
      max_length: how many positions are learned; with learned ones.
      dropout: rate on the embeddings and on what each part of a block finds, in training.
      remat: whether each block is computed again for its gradient, from its inputs.
    """

    vocabulary_size: int
    size: int
    hidden_size: int
    num_layers: int
    num_heads: int = 4
    positions: str = "rotary"
    max_length: int = 0
    dropout: float = 0.0
    remat: bool = False

    @nn.compact
    def __call__(
        self, source: chex.Array, mask: chex.Array | None, *, train: bool
    ) -> tuple[chex.Array, chex.Array]:
        """Tokens [B, S], mask [B, S] or None -> positions [B, S, F] and summary [B, F].

        What the mask excludes changes nothing, and gives zeros.
        """
        chex.assert_rank(source, 2)
        length = source.shape[1]
        mask = jnp.ones(source.shape) if mask is None else mask
        embed = nn.Embed(
            self.vocabulary_size, self.size, embedding_init=nn.initializers.normal(self.size**-0.5)
        )
        x = embed(source) * self.size**0.5
        if self.positions == "learned":
            if length > self.max_length:
                raise UserError(
                    f"config.encoder.max_length: {self.max_length} learned positions are too few "
                    f"for sources of {length} tokens; set {length} or more"
                )
            init = nn.initializers.normal(0.5)
            x = x + self.param("position", init, (self.max_length, self.size))[:length]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        for _ in range(self.num_layers):
            rotary = self.positions == "rotary"
            block = Block(self.size, self.hidden_size, self.num_heads, None, rotary, self.dropout)
            steps = jnp.arange(length)[None]
            x, _, _ = read_block(block, x, steps, mask[:, None], train=train, remat=self.remat)
        x = nn.LayerNorm()(x) * mask[:, :, None]
        mean = x.sum(1) / jnp.maximum(mask.sum(1), 1.0)[:, None]
        return x, jnp.tanh(nn.Dense(self.size)(mean))


ENCODERS: dict[str, Any] = {
    "convolutional": ConvolutionalEncoder,
    "clip": ClipEncoder,
    "features": FeatureEncoder,
    "bilstm": BiLSTMEncoder,
    "transformer": TransformerEncoder,
}
