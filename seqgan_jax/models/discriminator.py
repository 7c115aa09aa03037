"""The discriminator: stacked LSTM layers, attention over the source, causal multi-head attention.

With s_i the top layer's output after token i and c_i the context of attention over the source,

    u_i = tanh(W [s_i; c_i] + b)
    logit_i = sum_k <W_k, head_k(i)> + <V, u_i> + b,    y_i = sigmoid(logit_i)

where head_k(i) is head k's read-out at step i from the u of steps 1 .. i. y_i judges the prefix up
to i in front of the source; the sequence's score is the one at its last real token. The heads do
not feed the LSTM, so a rollout carries LSTM states alone and reads them out once, at its end. The
context is asked for by the top layer or, as in the generator, by a lower one.

With `likelihood` the same layers also predict the next token, and what they find of the prefix
enters the score with a learnt weight:

    u_i = tanh(W [e_i; s_i; c_i] + b)
    logit_i = (as above) + w sum_{j <= i} log softmax(V_o u_{j-1} + b_o)[y_j]

These are the generator's equations, so that a discriminator which starts with a generator's
parameters starts with all that the generator knows of which sequence fits which source. To learn
that from labels of whole sequences takes as many steps as the generator took.
"""

from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seqgan_jax.core import attention, lstm
from seqgan_jax.models.generator import Reading, attention_parameters, stack_parameters
from seqgan_jax.models.interface import Memory


class State(NamedTuple):
    """What changes from lane to lane.

    Attributes:
      layers: the layers' states, each [lanes, H].
      feature: u at the last token, which predicts the next one, [lanes, U]; with `likelihood`.
    """

    layers: tuple[lstm.State, ...]
    feature: chex.Array | None


class LSTMDiscriminator(nn.Module):
    """See the module's docstring; the methods are those of `interface.Discriminator`.

    Attributes:
      vocabulary_size: V.
      encoder: a source encoder, or None for sequences without a source.
      embedding_size: E.
      hidden_size: H of each layer.
      num_layers: L.
      attention_size: A, of the attention over the source.
      feature_size: U, size of u.
      num_heads: K.
      head_size: D.
      attention: how the source's positions are scored: see `generator.ATTENTIONS`.
      attend_after: the layer that asks for the context; see `generator`.
      dropout: rate on embeddings and on the layers' outputs in training.
      likelihood: whether the score has the prefix's log-likelihood in it.
      bos: the token read before the first one; with `likelihood`.
      remat: whether each layer is computed again for its gradient, from its inputs.
    """

    vocabulary_size: int
    encoder: nn.Module | None
    embedding_size: int
    hidden_size: int
    num_layers: int
    attention_size: int
    feature_size: int
    num_heads: int
    head_size: int
    attention: str = "additive"
    attend_after: int = 0
    dropout: float = 0.0
    likelihood: bool = False
    bos: int = 0
    remat: bool = False

    dense = True
    shares = False

    def setup(self):
        self.embedding = self.param(
            "embedding", nn.initializers.normal(0.1), (self.vocabulary_size, self.embedding_size)
        )
        self.layers = stack_parameters(self, self.encoder.size if self.encoder is not None else 0)
        if self.encoder is not None:
            self.attend = attention_parameters(
                self, self.attention, self.hidden_size, self.encoder.size, self.attention_size
            )
            self.start = nn.Dense(2 * self.num_layers * self.hidden_size)
        self.hidden = nn.Dense(self.feature_size)
        shape = (self.feature_size, self.num_heads, self.head_size)
        init = nn.initializers.normal(self.feature_size**-0.5)
        self.heads = attention.MultiHead(
            *(self.param(f"heads_{name}", init, shape) for name in ("query", "key", "value"))
        )
        self.head_output = nn.Dense(1)
        self.feature_output = nn.Dense(1, use_bias=False)
        if self.likelihood:
            self.output = nn.Dense(self.vocabulary_size)
            self.weight = self.param("likelihood_weight", nn.initializers.constant(0.5), ())
        self.drop = nn.Dropout(self.dropout)

    def encode(self, source, source_mask, *, train: bool = False) -> Memory:
        """Source -> positions with their attention keys, and the summary."""
        if self.encoder is None:
            return Memory(None, None, None, None)
        values, summary = self.encoder(source, source_mask, train=train)
        return Memory(attention.source_keys(self.attend, values), values, source_mask, summary)

    def initial_state(self, memory: Memory, batch: int) -> State:
        """The state before the first token: from the source's summary, or zero without a source."""
        if self.encoder is None:
            layers = (lstm.zero_state(batch, self.hidden_size),) * self.num_layers
        else:
            summary = jnp.repeat(memory.summary, batch // memory.summary.shape[0], axis=0)
            parts = jnp.split(jnp.tanh(self.start(summary)), 2 * self.num_layers, axis=-1)
            layers = tuple(lstm.State(h, c) for h, c in zip(parts[::2], parts[1::2], strict=True))
        if not self.likelihood:
            return State(layers, None)
        embedded = self.embedding[jnp.full((batch,), self.bos)]
        reading = self._reading(memory)
        layers = lstm.stack_step(self.layers, layers, embedded, reading)
        return State(layers, self._feature(reading, embedded, layers[-1].hidden))

    def _reading(self, memory, drop=lambda x: x):
        def look(hidden):
            lanes = hidden.reshape(-1, self.hidden_size)
            context, _ = attention.read_source(
                self.attend, lanes, memory.keys, memory.values, memory.mask
            )
            return context.reshape(*hidden.shape[:-1], -1)

        return Reading(self.attend_after, look if self.encoder is not None else None, drop)

    def _feature(self, reading, embedded, hidden):
        """[..., E], [..., H] -> u, [..., U]."""
        parts = [embedded, hidden] if self.likelihood else [hidden]
        context = reading.context_of(hidden)
        parts += [] if context is None else [context]
        return jnp.tanh(self.hidden(jnp.concatenate(parts, axis=-1)))

    def _log_probs(self, features, tokens):
        """What u [..., U] gave to the tokens that came next, in nats, [..., 1]."""
        log_probs = jax.nn.log_softmax(self.output(features))
        return jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)

    def step(self, memory: Memory, state: State, token: chex.Array) -> tuple[State, chex.Array]:
        """Reads one token in every lane; the feature ends in its log-probability."""
        chex.assert_rank(token, 1)
        embedded = self.embedding[token]
        reading = self._reading(memory)
        layers = lstm.stack_step(self.layers, state.layers, embedded, reading)
        feature = self._feature(reading, embedded, layers[-1].hidden)
        if not self.likelihood:
            return State(layers, None), feature
        log_probs = self._log_probs(state.feature, token)
        return State(layers, feature), jnp.concatenate([feature, log_probs], axis=-1)

    def features(self, memory: Memory, tokens: chex.Array, *, train: bool = False) -> chex.Array:
        """The feature at every token, [B, T] -> [B, T, U]; equal to T calls of `step`."""
        chex.assert_rank(tokens, 2)
        drop = lambda x: self.drop(x, deterministic=not train)
        start = self.initial_state(memory, tokens.shape[0])
        embedded = self.embedding[tokens]
        reading = self._reading(memory, drop)
        states = lstm.stack_unroll(
            self.layers, start.layers, drop(embedded), reading, remat=self.remat
        )
        features = self._feature(reading, embedded, drop(states[-1].hidden))
        if not self.likelihood:
            return features
        before = jnp.concatenate([start.feature[:, None], features[:, :-1]], axis=1)
        return jnp.concatenate([features, self._log_probs(before, tokens)], axis=-1)

    def _logits(self, heads, features):
        flat = heads.reshape(*heads.shape[:-2], -1)
        return (self.head_output(flat) + self.feature_output(features))[..., 0]

    def _found(self, features, mask):
        """Features -> u, and the weighted log-likelihood of every prefix, [B, T]."""
        if not self.likelihood:
            return features, 0.0
        return features[..., :-1], self.weight * jnp.cumsum(features[..., -1] * mask, axis=-1)

    def readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """[B, T, U] -> [B]: only the last real step's query is computed."""
        features, found = self._found(features, mask)
        last = jnp.maximum(mask.sum(-1).astype(jnp.int32) - 1, 0)
        query = jnp.take_along_axis(features, last[:, None, None], axis=1)
        heads = attention.multi_head(self.heads, query, features, mask[:, None])
        logits = self._logits(heads, query)[:, 0]
        return logits + found[:, -1] if self.likelihood else logits

    def dense_readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """[B, T, U] -> the logit of every prefix, [B, T]."""
        features, found = self._found(features, mask)
        heads = attention.causal_multi_head(self.heads, features, mask)
        return self._logits(heads, features) + found

    def score(
        self, memory: Memory, tokens: chex.Array, mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """The logit of every prefix, [B, T]."""
        return self.dense_readout(self.features(memory, tokens, train=train), mask)

    def sequence_score(
        self, memory: Memory, tokens: chex.Array, mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """The logit at the last real token, [B]."""
        return self.readout(self.features(memory, tokens, train=train), mask)

    def regulariser(self) -> chex.Array:
        """Nothing."""
        return jnp.zeros(())

    def __call__(self, source, source_mask, tokens, mask, *, train: bool = False) -> chex.Array:
        """From source and tokens to the logit of every prefix; touches every parameter."""
        return self.score(self.encode(source, source_mask, train=train), tokens, mask, train=train)
