"""Source encoders: a source -> a memory of positions and a summary vector."""

from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

from seqgan_jax.core import lstm
from seqgan_jax.errors import UserError
from seqgan_jax.models.generator import lstm_parameters
from seqgan_jax.models.transformer import Block


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
    """

    vocabulary_size: int
    size: int
    embedding_size: int
    num_layers: int = 1
    dropout: float = 0.0

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
        x = nn.Embed(
            self.vocabulary_size, self.embedding_size, embedding_init=nn.initializers.normal(0.1)
        )(source)
        for i in range(self.num_layers):
            x = drop(x)
            forward = lstm_parameters(self, f"forward_{i}", x.shape[-1], half)
            backward = lstm_parameters(self, f"backward_{i}", x.shape[-1], half)
            there = lstm.unroll(forward, zero, x).hidden
            back = turn(lstm.unroll(backward, zero, turn(x)).hidden)
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
    """

    vocabulary_size: int
    size: int
    hidden_size: int
    num_layers: int
    num_heads: int = 4
    positions: str = "rotary"
    max_length: int = 0
    dropout: float = 0.0

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
            x, _, _ = block(x, jnp.arange(length)[None], mask[:, None], train=train)
        x = nn.LayerNorm()(x) * mask[:, :, None]
        mean = x.sum(1) / jnp.maximum(mask.sum(1), 1.0)[:, None]
        return x, jnp.tanh(nn.Dense(self.size)(mean))


ENCODERS: dict[str, Any] = {
    "convolutional": ConvolutionalEncoder,
    "features": FeatureEncoder,
    "bilstm": BiLSTMEncoder,
    "transformer": TransformerEncoder,
}
