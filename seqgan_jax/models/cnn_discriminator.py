"""The discriminator of Yu et al. (2017), arXiv:1609.05473: convolutions, maxima, a highway layer.

The embedded sequence x [T, E] gives F features, for each filter of width w

    c = relu(max_a sum_{s < w} x[a + s] K[s] + b),    a = 0 .. T - w,

followed by a highway layer (Srivastava et al., 2015), dropout, and

    logit = <v, highway(c)> + b_o.

The authors' output layer has two classes (generated, real) and a softmax. Real's probability
depends on the two logits' difference alone, which is this one logit: v = v_real - v_generated. A
sequence's features are its embeddings, so a rollout carries no state of this network.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seqgan_jax.core import text_cnn
from seqgan_jax.errors import UserError
from seqgan_jax.models.interface import Memory


def _uniform(key, shape):
    """U(-1, 1)."""
    return jax.random.uniform(key, shape, minval=-1.0)


class CNNDiscriminator(nn.Module):
    """See the module's docstring; the methods are those of `interface.Discriminator`.

    It judges whole sequences: there is no `score`. Positions after a sequence's end are padding,
    embedded as zeros; windows reach over them like over tokens.

    Attributes:
      vocabulary_size: V.
      encoder: None; this network judges sequences without their source.
      embedding_size: E.
      widths: of the convolutions' windows.
      filters: how many of each width.
      gate_bias: where the biases of the highway's gate start; below 0 it starts by carrying.
      dropout: rate before the output layer in training.
      l2: weight of the penalty on the output layer.
    """

    vocabulary_size: int
    encoder: nn.Module | None = None
    embedding_size: int = 64
    widths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    filters: tuple[int, ...] = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
    gate_bias: float = -2.0
    dropout: float = 0.25
    l2: float = 0.2

    dense = False
    shares = True

    def setup(self):
        if self.encoder is not None:
            raise UserError(
                "config.encoder.kind: the CNN discriminator reads no source; set it to none, or "
                "choose the LSTM discriminator"
            )
        if not self.widths or len(self.widths) != len(self.filters):
            raise UserError(
                f"config.discriminator.filters: {len(self.filters)} numbers of filters for "
                f"{len(self.widths)} widths; give one for each width"
            )
        # The starting values are those of the authors' program, but for the highway's biases. The
        # output's are the difference of two weights of standard deviation 0.1, and of two equal
        # biases.
        total = sum(self.filters)
        init = nn.initializers
        shape = (self.vocabulary_size, self.embedding_size)
        self.embedding = self.param("embedding", _uniform, shape)
        self.kernels = [
            self.param(
                f"kernel_{width}", init.truncated_normal(0.1), (width, self.embedding_size, count)
            )
            for width, count in zip(self.widths, self.filters, strict=True)
        ]
        self.bias = self.param("bias", init.constant(0.1), (total,))
        self.highway_weight = self.param(
            "highway_weight", init.variance_scaling(1.0, "fan_in", "uniform"), (total, 2 * total)
        )
        self.highway_bias = self.param("highway_bias", self._start_carrying, (2 * total,))
        self.output_weight = self.param(
            "output_weight", init.truncated_normal(0.1 * 2**0.5), (total,)
        )
        self.output_bias = self.param("output_bias", init.zeros, ())
        self.drop = nn.Dropout(self.dropout)

    def _start_carrying(self, key, shape):
        """The highway's biases: 0 for the transform, `gate_bias` for the gate."""
        return jnp.repeat(jnp.array([0.0, self.gate_bias]), shape[0] // 2)

    def encode(self, source, source_mask, *, train: bool = False) -> Memory:
        """Nothing: there is no source."""
        return Memory(None, None, None, None)

    def initial_state(self, memory: Memory, batch: int) -> tuple[()]:
        """A sequence's state is empty."""
        return ()

    def step(self, memory: Memory, state: tuple[()], token: chex.Array):
        """The token's embedding is its feature, [lanes] -> [lanes, E]."""
        chex.assert_rank(token, 1)
        return state, self.embedding[token]

    def features(self, memory: Memory, tokens: chex.Array, *, train: bool = False) -> chex.Array:
        """The feature at every token, [B, T] -> [B, T, E]."""
        chex.assert_rank(tokens, 2)
        return self.embedding[tokens]

    def readout(
        self,
        features: chex.Array,
        mask: chex.Array,
        *,
        shared: int = 0,
        lanes: int = 1,
        train: bool = False,
    ) -> chex.Array:
        """The logit of whole sequences, real against generated.

        Args:
          features: [B, T, E].
          mask: [B, T]; where it is 0 the feature is ignored.
          shared: how many first positions (features and mask) are equal in all lanes of a source;
            static. It changes the cost and not the result.
          lanes: sequences of each source, source-major.
          train: whether to drop features.

        Returns:
          [B].

        Raises:
          UserError: a width is larger than T.
        """
        if max(self.widths) > features.shape[1]:
            raise UserError(
                f"config.discriminator.widths: a window of {max(self.widths)} does not fit in a "
                f"sequence of {features.shape[1]} tokens; leave that width out"
            )
        features = features * mask[:, :, None].astype(features.dtype)
        if shared:
            pooled = text_cnn.pool_completions(self.kernels, features, shared, lanes)
        else:
            pooled = text_cnn.pool(self.kernels, features)
        pooled = jax.nn.relu(pooled + self.bias)
        judged = text_cnn.highway(self.highway_weight, self.highway_bias, pooled)
        judged = self.drop(judged, deterministic=not train)
        return judged @ self.output_weight + self.output_bias

    def sequence_score(
        self, memory: Memory, tokens: chex.Array, mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """The logit of whole sequences, [B, T] -> [B]."""
        return self.readout(self.features(memory, tokens), mask, train=train)

    def regulariser(self) -> chex.Array:
        """The penalty on the output layer, l2 (|v|^2 + b_o^2) / 4, a scalar to add to the loss.

        The authors penalise l2 / 2 times the squares of both classes' weights. For a given
        difference v that is least, l2 / 4 |v|^2, where one class's weights are the other's negated,
        and it is there that the penalty drives them: the loss depends on the difference alone.
        """
        squares = jnp.square(self.output_weight).sum() + jnp.square(self.output_bias)
        return self.l2 / 4 * squares

    def __call__(self, source, source_mask, tokens, mask, *, train: bool = False) -> chex.Array:
        """From tokens to the sequences' logits, [B]; touches every parameter."""
        memory = self.encode(source, source_mask, train=train)
        return self.sequence_score(memory, tokens, mask, train=train)
