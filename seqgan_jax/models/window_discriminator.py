"""A discriminator that sees no more than the last few tokens, and an ensemble of such.

With e the embeddings, W the width and y_0, y_-1, .. a token of its own for "nothing yet", each
member of the ensemble gives to token i

    logit_i = <v, relu(K [e(y_{i-W+1}); ..; e(y_i)] + b)> + b_o.

It judges the prefix up to i by its end alone: trained at every step (`per_step` = 1), the logit
tends to log p_data - log p_generator of the window's W tokens. As a dense reward it says at once
and of each token by itself what is wrong with it, where the score of a whole sequence says it late
and of all tokens together.

A sequence's logit is the sum of its windows' over W. Windows overlap, so that the sum alone would
count every token W times; if tokens were independent, the quotient would be the sequence's own log
p_data - log p_generator, but for the first and last W - 1 tokens.

Members have nothing in common, embeddings included, and the ensemble's logit is their mean. In
training each gives its own, so that each has a loss of its own: were the mean's loss trained, the
members would be one wider network, which memorises sooner.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seqgan_jax.errors import UserError
from seqgan_jax.models.interface import Memory


class WindowDiscriminator(nn.Module):
    """See the module's docstring; the methods are those of `interface.Discriminator`.

    M members. In training logits are member-major: those of B sequences by the first member, then
    those by the second, [M B] or [M B, T].

    Attributes:
      vocabulary_size: V.
      encoder: None; this network judges sequences without their source.
      embedding_size: E.
      hidden_size: H.
      width: W, tokens of a window.
      members: M.
      dropout: rate on embeddings and hidden units in training.
    """

    vocabulary_size: int
    encoder: nn.Module | None = None
    embedding_size: int = 64
    hidden_size: int = 128
    width: int = 3
    members: int = 2
    dropout: float = 0.0

    dense = True
    shares = False

    def setup(self):
        if self.encoder is not None:
            raise UserError(
                "config.encoder.kind: the window discriminator reads no source; set it to none, or "
                "choose the LSTM discriminator"
            )
        for option in ("embedding_size", "hidden_size", "width", "members"):
            value = getattr(self, option)
            if value < 1:
                raise UserError(
                    f"config.discriminator.{option}: {value} is too small; set 1 or more"
                )
        members, inputs, hidden = self.members, self.width * self.embedding_size, self.hidden_size
        init = nn.initializers
        # The last row is the token before the first.
        self.embedding = self.param(
            "embedding", init.normal(0.1), (members, self.vocabulary_size + 1, self.embedding_size)
        )
        fan_in = init.lecun_normal(batch_axis=0)
        self.kernel = self.param("kernel", fan_in, (members, inputs, hidden))
        self.bias = self.param("bias", init.zeros, (members, hidden))
        self.output_kernel = self.param("output_kernel", fan_in, (members, hidden, 1))
        self.output_bias = self.param("output_bias", init.zeros, (members,))
        self.drop = nn.Dropout(self.dropout)

    def encode(self, source, source_mask, *, train: bool = False) -> Memory:
        """Nothing: there is no source."""
        return Memory(None, None, None, None)

    def initial_state(self, memory: Memory, batch: int) -> chex.Array:
        """The last W - 1 tokens, of which there are none yet: [batch, W - 1]."""
        return jnp.full((batch, self.width - 1), self.vocabulary_size)

    def step(self, memory: Memory, state: chex.Array, token: chex.Array):
        """Reads one token in every lane; the feature is the members' logits, [lanes, M]."""
        chex.assert_rank(token, 1)
        window = jnp.concatenate([state, token[:, None].astype(state.dtype)], axis=1)
        return window[:, 1:], self._windows(window, False)[..., 0].T

    def features(self, memory: Memory, tokens: chex.Array, *, train: bool = False) -> chex.Array:
        """The members' logits at every token: [B, T, M], in training [M B, T, 1]."""
        chex.assert_rank(tokens, 2)
        before = self.initial_state(memory, len(tokens))
        logits = self._windows(jnp.concatenate([before, tokens.astype(before.dtype)], 1), train)
        return logits.reshape(-1, tokens.shape[1], 1) if train else jnp.moveaxis(logits, 0, -1)

    def _windows(self, tokens, train):
        """The logit of every window in [B, W - 1 + T] tokens, [M, B, T]."""
        drop = lambda x: self.drop(x, deterministic=not train)
        length = tokens.shape[1] - self.width + 1
        embedded = drop(self.embedding[:, tokens])
        windows = [embedded[:, :, i : i + length] for i in range(self.width)]
        hidden = jnp.concatenate(windows, -1).reshape(self.members, -1, self.kernel.shape[1])
        hidden = drop(jax.nn.relu(hidden @ self.kernel + self.bias[:, None]))
        logits = (hidden @ self.output_kernel)[..., 0] + self.output_bias[:, None]
        return logits.reshape(self.members, -1, length)

    def readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """The logit of whole sequences, [B, T, M] or [B, T, 1] -> [B]."""
        return (self.dense_readout(features, mask) * mask).sum(-1) / self.width

    def dense_readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """The logit of every prefix by its last window, [B, T, M] or [B, T, 1] -> [B, T]."""
        chex.assert_equal_shape_prefix([features, mask], 2)
        return features.mean(-1)

    def score(
        self, memory: Memory, tokens: chex.Array, mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """The logit of every prefix by its last window, [B, T]; in training [M B, T]."""
        return self._judged(self.dense_readout, memory, tokens, mask, train)

    def sequence_score(
        self, memory: Memory, tokens: chex.Array, mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """The logit of whole sequences, [B]; in training [M B]."""
        return self._judged(self.readout, memory, tokens, mask, train)

    def _judged(self, readout, memory, tokens, mask, train):
        mask = jnp.tile(mask, (self.members if train else 1, 1))
        return readout(self.features(memory, tokens, train=train), mask)

    def regulariser(self) -> chex.Array:
        """Nothing."""
        return jnp.zeros(())

    def __call__(self, source, source_mask, tokens, mask, *, train: bool = False) -> chex.Array:
        """From tokens to the logit of every prefix, [B, T]; touches every parameter."""
        return self.score(self.encode(source, source_mask, train=train), tokens, mask, train=train)
