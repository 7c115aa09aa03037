"""What training and search know of a network; any class with these methods can be plugged in.

Shapes: B batch, S source length, T target length, V vocabulary, Z noise, U feature. Lanes are
source-major: with R lanes for each source, lanes b R .. b R + R - 1 belong to source b. Every
method is called through Linen's `apply` and is pure.
"""

from typing import Any, NamedTuple, Protocol

import chex


class Memory(NamedTuple):
    """All that depends only on the source, computed once; what the LSTM networks know of it.

    Attributes:
      keys: projected for attention, [B, S, A], or None without a source.
      values: what is averaged, [B, S, F], or None.
      mask: [B, S], or None where all positions exist.
      summary: the source as one vector, [B, F], or None.
    """

    keys: chex.Array | None
    values: chex.Array | None
    mask: chex.Array | None
    summary: chex.Array | None


class Generator(Protocol):
    """A network that writes sequences.

    Its state is any pytree whose leaves lead with the lane. Its parameters hold the tokens'
    embeddings [V, E] under the name 'embedding'.

    Attributes:
      noise_size: Z.
      noise_per_step: whether z is [B, T, Z], a vector for every step, instead of [B, Z]: its length
        is then the sequences'.
      noise_layers: the dense layers of which the last Z inputs are z, by name; of a network without
        some of them, the others.
    """

    noise_size: int
    noise_per_step: bool
    noise_layers: tuple[str, ...]

    def encode(self, source: Any, source_mask: chex.Array | None, *, train: bool) -> Any:
        """Source [B, ...] -> memory."""

    def initial_state(self, memory: Any, z: chex.Array, max_length: int) -> Any:
        """Noise -> the state before the first token. z gives B, also where Z = 0."""

    def step(self, memory: Any, state: Any, token: chex.Array) -> tuple[Any, chex.Array]:
        """Reads tokens [B R] against a memory of [B]: the new state and logits [B R, V]."""

    def unroll(
        self, memory: Any, state: Any, inputs: chex.Array, *, train: bool
    ) -> tuple[chex.Array, Any]:
        """Reads whole sequences [B, T]: logits [B, T, V] and the states after every step.

        The state is one of `initial_state`, for T tokens or more. Inputs are the start token and
        all targets but the last, so that logits[:, t] predicts target[:, t]. Equal to T calls of
        `step` where `train` is false.
        """

    def before_output(
        self, memory: Any, state: Any, inputs: chex.Array, *, train: bool
    ) -> tuple[chex.Array, chex.Array, chex.Array]:
        """What `unroll` makes its logits of: u [B, T, U], kernel [U, V] and bias [V].

        For losses that never hold all logits at once.
        """

    def prefix_state(self, states: Any, t: int) -> Any:
        """The state after t >= 1 inputs, from the states of `unroll`; t may be traced."""

    def word_logits(self, memory: Any) -> chex.Array:
        """The logit of each word's being used of the source, [B, V]; only where there is one."""


def noise_shape(generator: Generator, length: int) -> tuple[int, ...]:
    """The shape of one sequence's z, for T = `length` tokens: [Z] or [T, Z]."""
    size = generator.noise_size
    return (length, size) if generator.noise_per_step else (size,)


class Discriminator(Protocol):
    """A network that judges pairs of source and sequence, token by token.

    Attributes:
      dense: whether it has a `score`.
      shares: whether `readout` takes `shared` and `lanes`: how many first positions are alike in
        all of a source's lanes, which saves work where they need be read only once.
    """

    dense: bool
    shares: bool

    def encode(self, source: Any, source_mask: chex.Array | None, *, train: bool) -> Any:
        """Source [B, ...] -> memory."""

    def initial_state(self, memory: Any, batch: int) -> Any:
        """The state of `batch` sequences before the first token."""

    def step(self, memory: Any, state: Any, token: chex.Array) -> tuple[Any, chex.Array]:
        """Reads tokens [B R]: the new state and the feature of this step, [B R, U]."""

    def readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """Features of whole sequences [B, T, U], mask [B, T] -> logits of the sequences, [B]."""

    def features(self, memory: Any, tokens: chex.Array, *, train: bool) -> chex.Array:
        """The features of every step of whole sequences, [B, T, U]; only where `dense` is true."""

    def dense_readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """Features -> the logit of every prefix, [B, T]; only where `dense` is true."""

    def score(
        self, memory: Any, tokens: chex.Array, mask: chex.Array, *, train: bool
    ) -> chex.Array:
        """The logit of every prefix, [B, T]; only where `dense` is true."""

    def sequence_score(
        self, memory: Any, tokens: chex.Array, mask: chex.Array, *, train: bool
    ) -> chex.Array:
        """The logit at the last real token, [B]."""

    def regulariser(self) -> chex.Array:
        """What its loss has besides the classification, a scalar."""
