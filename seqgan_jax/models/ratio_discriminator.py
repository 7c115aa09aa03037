"""A discriminator that is a ratio of likelihoods: language models against the generator itself.

Against a generator q the best discriminator's logit is log p_data - log q (Goodfellow et al., 2014,
arXiv:1406.2661, proposition 1). The generator's half of it is known. For the data's there are M
language models of their own, p_1 .. p_M, whose probabilities are averaged token by token:

    logit_i = sum_{j <= i} log (1/M sum_m p_m(y_j | y_1..y_{j-1})) - log q(y_j | y_1..y_{j-1})

A network without the second half has to learn from samples what the generator's parameters say at
once, and from 10,000 real sequences it learns little before it knows them by heart. Language models
that start from other parameters err elsewhere than the generator, and their average errs less than
each (Lakshminarayanan et al., 2017, arXiv:1612.01474): that difference is what it can teach.

The logit is a sum over tokens, and known of each possible next token, not only of the one that was
drawn: `action_logits` is what a policy gradient needs to sum over all actions.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seqgan_jax.core import losses
from seqgan_jax.errors import UserError
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.interface import Generator, Memory

# The name of the parameters that are the generator's.
OPPONENT = "opponent"


class RatioDiscriminator(nn.Module):
    """See the module's docstring; the methods are those of `interface.Discriminator`.

    A feature is the log-probability of a token by each of the models and, last, by the generator,
    [M + 1]; in training, where each model has a loss of its own, sequences are model-major and
    features [M B, T, 2].

    Attributes:
      vocabulary_size: V.
      bos: the token before the first.
      pad: the token after the end, whose log-probability is 0 here; or None.
      opponent: the generator that is judged, without noise. Its parameters are set by training, and
        have no gradient.
      encoder: None; sequences are judged without a source.
      embedding_size, hidden_size, num_layers, output_size, dropout: of each language model; see
        `LSTMGenerator`.
      members: M.
      remat: of each language model too.
    """

    vocabulary_size: int
    bos: int
    opponent: Generator
    pad: int | None = None
    encoder: nn.Module | None = None
    embedding_size: int = 128
    hidden_size: int = 128
    num_layers: int = 1
    output_size: int = 128
    members: int = 2
    dropout: float = 0.0
    remat: bool = False

    dense = True
    shares = False

    def setup(self):
        if self.encoder is not None:
            raise UserError(
                "config.encoder.kind: the ratio discriminator reads no source; set it to none, or "
                "choose the LSTM discriminator"
            )
        if self.opponent.noise_size:
            raise UserError(
                "config.generator.noise_size: the ratio discriminator needs the generator's own "
                "likelihood, which noise hides; set 0, or choose another discriminator"
            )
        for option in ("embedding_size", "hidden_size", "num_layers", "members"):
            if getattr(self, option) < 1:
                raise UserError(
                    f"config.discriminator.{option}: {getattr(self, option)} is too small; set 1 "
                    "or more"
                )
        self.models = [
            LSTMGenerator(
                vocabulary_size=self.vocabulary_size,
                encoder=None,
                embedding_size=self.embedding_size,
                hidden_size=self.hidden_size,
                num_layers=self.num_layers,
                attention_size=0,
                output_size=self.output_size,
                noise_size=0,
                dropout=self.dropout,
                remat=self.remat,
            )
            for _ in range(self.members)
        ]

    def encode(self, source, source_mask, *, train: bool = False) -> Memory:
        """Nothing: there is no source."""
        return Memory(None, None, None, None)

    def _all(self):
        return *self.models, self.opponent

    def _start(self, network, memory, lanes, length):
        return network.initial_state(memory, jnp.zeros((lanes, 0)), length)

    def initial_state(self, memory: Memory, batch: int):
        """Every network's state and the token that it has not read yet, which is the start."""
        # No network that is judged here looks at the length.
        states = tuple(self._start(network, memory, batch, 1) for network in self._all())
        return states, jnp.full((batch,), self.bos)

    def step(self, memory: Memory, state, token: chex.Array):
        """Reads one token in every lane; the feature is its log-probabilities, [lanes, M + 1]."""
        chex.assert_rank(token, 1)
        states, before = state
        read = [
            network.step(memory, one, before)
            for network, one in zip(self._all(), states, strict=True)
        ]
        log_probs = [losses.token_log_probs(logits, token) for _, logits in read]
        feature = jax.lax.stop_gradient(jnp.stack(log_probs, -1))
        return (tuple(one for one, _ in read), token.astype(before.dtype)), feature

    def _before_output(self, network, memory, tokens, train):
        inputs = jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=self.bos)
        start = self._start(network, memory, *tokens.shape)
        if self.is_initializing():  # `before_output` reads parameters that must exist by then
            network.unroll(memory, start, inputs, train=False)
        return network.before_output(memory, start, inputs, train=train)

    def _log_probs(self, network, memory, tokens, train):
        u, kernel, bias = self._before_output(network, memory, tokens, train)
        flat = tokens.reshape(-1)
        mask = None if self.pad is None else flat != self.pad
        found = losses.projected_log_probs(u.reshape(-1, u.shape[-1]), kernel, bias, flat, mask)
        return found.reshape(tokens.shape)

    def features(self, memory: Memory, tokens: chex.Array, *, train: bool = False) -> chex.Array:
        """The log-probabilities of every token: [B, T, M + 1], in training [M B, T, 2]."""
        chex.assert_rank(tokens, 2)
        ours = [self._log_probs(model, memory, tokens, train) for model in self.models]
        theirs = jax.lax.stop_gradient(self._log_probs(self.opponent, memory, tokens, False))
        if not train:
            return jnp.stack([*ours, theirs], -1)
        return jnp.stack([jnp.concatenate(ours), jnp.tile(theirs, (self.members, 1))], -1)

    def dense_readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """The logit of every prefix, [B, T, M + 1] -> [B, T]."""
        chex.assert_equal_shape_prefix([features, mask], 2)
        return jnp.cumsum(_ratio(features) * mask, axis=1)

    def readout(self, features: chex.Array, mask: chex.Array) -> chex.Array:
        """The logit of whole sequences, [B, T, M + 1] -> [B]."""
        return self.dense_readout(features, mask)[:, -1]

    def score(
        self, memory: Memory, tokens: chex.Array, mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """The logit of every prefix, [B, T]; in training [M B, T]."""
        mask = jnp.tile(mask, (self.members if train else 1, 1))
        return self.dense_readout(self.features(memory, tokens, train=train), mask)

    def sequence_score(
        self, memory: Memory, tokens: chex.Array, mask: chex.Array, *, train: bool = False
    ) -> chex.Array:
        """The logit of whole sequences, [B]; in training [M B]."""
        return self.score(memory, tokens, mask, train=train)[:, -1]

    def log_likelihood(self, features: chex.Array) -> chex.Array:
        """What the language models say of each token, from features in training: [M B, T]."""
        return features[..., 0]

    def action_logits(self, memory: Memory, tokens: chex.Array) -> chex.Array:
        """By how much each possible token at each position would change the logit, [B, T, V]."""
        log_probs = []
        for network in self._all():
            u, kernel, bias = self._before_output(network, memory, tokens, False)
            log_probs.append(jax.nn.log_softmax(u @ kernel + bias))
        return _ratio(jnp.stack(log_probs, -1))

    def regulariser(self) -> chex.Array:
        """Nothing."""
        return jnp.zeros(())

    def __call__(self, source, source_mask, tokens, mask, *, train: bool = False) -> chex.Array:
        """From tokens to the logit of every prefix, [B, T]; touches every parameter."""
        return self.score(self.encode(source, source_mask, train=train), tokens, mask, train=train)


def _ratio(log_probs):
    """[.., M + 1], the generator's last -> log of the models' mean less the generator's, [..]."""
    number = log_probs.shape[-1] - 1
    return jax.nn.logsumexp(log_probs[..., :-1], -1) - jnp.log(number) - log_probs[..., -1]
