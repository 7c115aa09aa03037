"""The generator: noise, stacked LSTM layers, attention over the source, a tanh and an output layer.

With e_t the embedding of the previous token, h_t the top layer's output after reading it and c_t
the context of the attention, which h_t asks for:

    u_t = tanh(W_h [e_t; h_t; c_t] + b_h),    logits_t = V_o u_t + b_o

Or a lower layer asks for the context, and the next one reads it too (as in Wu et al., 2016,
arXiv:1609.08144, section 3): the layers above then remember what was seen where, and a whole
sequence is still read one layer after the other.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seqgan_jax.core import attention, lstm
from seqgan_jax.models.interface import Memory

ATTENTIONS = ("additive", "multiplicative")
Initializer = Callable[[chex.PRNGKey, tuple[int, ...]], chex.Array]


def lstm_parameters(
    module: nn.Module,
    name: str,
    inputs: int,
    size: int,
    initializer: Callable[[Initializer], Initializer] = lambda usual: usual,
) -> lstm.Weights:
    """Declares one LSTM layer's weights in a Linen module.

    Kernels are Glorot uniform and orthogonal; the forget gate's bias is 1 (Jozefowicz et al.,
    2015), the others 0; unless `initializer` puts another in the place of the usual one.
    """

    def bias(key, shape):
        del key
        return jnp.zeros(shape).at[size : 2 * size].set(1.0)

    shape = (inputs, 4 * size)
    return lstm.Weights(
        module.param(f"{name}_input", initializer(nn.initializers.glorot_uniform()), shape),
        module.param(
            f"{name}_recurrent", initializer(nn.initializers.orthogonal()), (size, 4 * size)
        ),
        module.param(f"{name}_bias", initializer(bias), (4 * size,)),
    )


def stack_parameters(
    module: nn.Module,
    context: int,
    initializer: Callable[[Initializer], Initializer] = lambda usual: usual,
) -> list[lstm.Weights]:
    """Declares a network's LSTM layers, one of which reads the context, [F], too; see `Reading`.

    Both networks have the same, as the discriminator may start with the generator's parameters.
    """
    sizes = [module.embedding_size] + [module.hidden_size] * (module.num_layers - 1)
    if 0 < module.attend_after < module.num_layers:
        sizes[module.attend_after] += context
    return [
        lstm_parameters(module, f"lstm_{i}", size, module.hidden_size, initializer)
        for i, size in enumerate(sizes)
    ]


def attention_parameters(
    module: nn.Module, kind: str, query: int, key: int, size: int
) -> attention.Additive | attention.Multiplicative:
    """Declares the weights of attention over the source in a Linen module, of a kind of
    `ATTENTIONS`."""
    init = nn.initializers.glorot_uniform()
    projections = (
        module.param("attention_query", init, (query, size)),
        module.param("attention_key", init, (key, size)),
    )
    if kind == "multiplicative":
        return attention.Multiplicative(*projections)
    score = module.param("attention_score", nn.initializers.normal(size**-0.5), (size,))
    return attention.Additive(*projections, score)


def noisy_or(logits: chex.Array, mask: chex.Array | None) -> chex.Array:
    """The logit of each word's being used of a source, wherever it is seen.

    Positions speak for words independently, and one is enough (noisy-or; Fang et al., 2015,
    arXiv:1411.4952, section 3.1): p = 1 - prod_s (1 - p_s). With n = -log(1 - p), the sum of
    softplus(logit_s), its logit is log(exp(n) - 1) = n + log(1 - exp(-n)).

    Args:
      logits: of each word at each position, [B, S, V].
      mask: [B, S], nonzero where a position exists; None where all do.

    Returns:
      [B, V].
    """
    each = jax.nn.softplus(logits)
    if mask is not None:
        each = jnp.where(mask[:, :, None] > 0, each, 0.0)
    n = jnp.maximum(each.sum(1), 1e-6)
    return n + jnp.log(-jnp.expm1(-n))


class Reading:
    """What LSTM layers read, with the context that the output of one of them asks for.

    It goes between the layers of one pass over their stack; see `core.lstm.Between`.
    """

    def __init__(
        self,
        after: int,
        look: Callable[[chex.Array], chex.Array] | None,
        drop: Callable[[chex.Array], chex.Array] = lambda x: x,
    ):
        """The context is `look` of what layer `after` gives, counted from 1; None for no source.

        What a layer reads of another goes through `drop`.
        """
        self._after = after if look else 0
        self._look = look
        self._drop = drop
        self._context = None

    def __call__(self, layer: int, x: chex.Array) -> chex.Array:
        """The input of a layer, counted from 0."""
        if not layer:
            return x
        x = self._drop(x)
        if layer == self._after:
            self._context = self._look(x)
            x = jnp.concatenate([x, self._context], axis=-1)
        return x

    def context_of(self, top: chex.Array) -> chex.Array | None:
        """The context at the end of the pass, which the top layer's output asks for if none has."""
        if self._context is None and self._look:
            return self._look(top)
        return self._context


class State(NamedTuple):
    """What changes from lane to lane.

    Attributes:
      layers: the layers' states, each [lanes, H].
      slots: where there is no source, the noise's keys and values, [lanes, M, A] and [lanes, M, H];
        otherwise None.
      noise: where every step has its own, what is added to each step's embedding, [lanes, T, E];
        otherwise None.
      length: how many tokens were read, [lanes] int32; None without such noise.
    """

    layers: tuple[lstm.State, ...]
    slots: tuple[chex.Array, chex.Array] | None = None
    noise: chex.Array | None = None
    length: chex.Array | None = None


class LSTMGenerator(nn.Module):
    """See the module's docstring; the methods are those of `interface.Generator`.

    Attributes:
      vocabulary_size: V.
      encoder: a source encoder, or None for sequences without a source; z projected to
        `noise_slots` positions is then the memory, and with Z = 0 the context is zero.
      embedding_size: E.
      hidden_size: H of each layer.
      num_layers: L.
      attention_size: A.
      attention: how positions of the source, or the noise's, are scored: see `ATTENTIONS`.
      attend_after: the layer that asks for the context, counted from 1, where there are layers
        above it; 0 for the top one.
      output_size: size of u; 0 for logits straight from [h; c], as in Yu et al. (2017).
      noise_size: Z; 0 for none.
      noise_slots: positions that z is projected to where there is no source.
      noise_per_step: whether every step has a z of its own, z [B, T, Z]. A projection of it is
        added to the step's embedding, and there are no slots.
      dropout: rate on embeddings, between layers and on u in training.
      init_scale: standard deviation of the normal distribution from which the embeddings, the LSTM
        layers, the tanh layer and the output layer start; 0 for each kind's usual start.
      remat: whether each layer is computed again for its gradient, from its inputs.
    """

    vocabulary_size: int
    encoder: nn.Module | None
    embedding_size: int
    hidden_size: int
    num_layers: int
    attention_size: int
    output_size: int
    noise_size: int
    noise_slots: int = 8
    noise_per_step: bool = False
    attention: str = "additive"
    attend_after: int = 0
    dropout: float = 0.0
    init_scale: float = 0.0
    remat: bool = False

    @property
    def noise_layers(self) -> tuple[str, ...]:
        """See `interface.Generator`."""
        return ("noise",) if self.noise_per_step else ("start", "slots")

    def setup(self):
        def initializer(usual):
            return nn.initializers.normal(self.init_scale) if self.init_scale else usual

        def dense(size):
            kernel, bias = nn.initializers.lecun_normal(), nn.initializers.zeros
            return nn.Dense(size, kernel_init=initializer(kernel), bias_init=initializer(bias))

        self.embedding = self.param(
            "embedding",
            initializer(nn.initializers.normal(0.1)),
            (self.vocabulary_size, self.embedding_size),
        )
        self.has_slots = self.encoder is None and self.noise_size > 0 and not self.noise_per_step
        self.has_memory = self.encoder is not None or self.has_slots
        context = self.encoder.size if self.encoder is not None else self.hidden_size
        self.layers = stack_parameters(self, context if self.has_memory else 0, initializer)
        if self.noise_per_step:
            scale = 0.1 * self.noise_size**-0.5  # as large as an embedding
            self.noise = nn.Dense(
                self.embedding_size, use_bias=False, kernel_init=nn.initializers.normal(scale)
            )
        if self.has_memory:
            self.attend = attention_parameters(
                self, self.attention, self.hidden_size, context, self.attention_size
            )
            self.start = nn.Dense(2 * self.num_layers * self.hidden_size)
        if self.encoder is not None:
            # Few positions speak for a word: all start as improbable.
            self.words = nn.Dense(self.vocabulary_size, bias_init=nn.initializers.constant(-5.0))
        if self.has_slots:
            self.slots = nn.Dense(self.noise_slots * self.hidden_size)
        if self.output_size:
            self.hidden = dense(self.output_size)
        self.output = dense(self.vocabulary_size)
        self.drop = nn.Dropout(self.dropout)

    def encode(self, source, source_mask, *, train: bool) -> Memory:
        """Source -> positions with their attention keys, and the summary."""
        if self.encoder is None:
            return Memory(None, None, None, None)
        values, summary = self.encoder(source, source_mask, train=train)
        return Memory(attention.source_keys(self.attend, values), values, source_mask, summary)

    def initial_state(self, memory: Memory, z: chex.Array, max_length: int) -> State:
        """The layers' states from the summary and the noise, z [B R, Z] against a memory of [B].

        With noise for every step, z [B R, T, Z], from the summary alone.
        """
        lanes = z.shape[0]
        noise = length = None
        if self.noise_per_step:
            chex.assert_shape(z, (None, max_length, self.noise_size))
            noise, length = self.noise(z), jnp.zeros((lanes,), jnp.int32)
            z = jnp.zeros((lanes, 0))
        else:
            chex.assert_shape(z, (None, self.noise_size))
        if not self.has_memory:
            zero = lstm.zero_state(lanes, self.hidden_size)
            return State((zero,) * self.num_layers, None, noise, length)
        slots = None
        if self.encoder is None:
            known = z
            values = jnp.tanh(self.slots(z)).reshape(lanes, self.noise_slots, self.hidden_size)
            slots = attention.source_keys(self.attend, values), values
        else:
            summary = memory.summary
            known = jnp.concatenate(
                [jnp.repeat(summary, lanes // summary.shape[0], axis=0), z], axis=-1
            )
        parts = jnp.split(jnp.tanh(self.start(known)), 2 * self.num_layers, axis=-1)
        layers = tuple(lstm.State(h, c) for h, c in zip(parts[::2], parts[1::2], strict=True))
        return State(layers, slots, noise, length)

    def _look(self, memory, slots, hidden):
        """The context for [..., H], all lanes of the same source one after the other: [..., F]."""
        keys, values = (memory.keys, memory.values) if slots is None else slots
        lanes = hidden.reshape(-1, self.hidden_size)
        context, weights = attention.read_source(
            self.attend, lanes, keys, values, None if slots else memory.mask
        )
        self.sow("intermediates", "attention", weights)
        return context.reshape(*hidden.shape[:-1], -1)

    def _reading(self, memory, state, *, train=False) -> "Reading":
        look = functools.partial(self._look, memory, state.slots) if self.has_memory else None
        return Reading(self.attend_after, look, lambda x: self.drop(x, deterministic=not train))

    def _before_output(self, context, embedded, hidden, *, train=False):
        """[..., E], [..., H] and a context or None -> what the output layer reads, [..., U]."""
        parts = [embedded, hidden] if self.output_size else [hidden]
        u = jnp.concatenate([*parts, *([] if context is None else [context])], axis=-1)
        if self.output_size:
            u = jnp.tanh(self.hidden(u))
        return self.drop(u, deterministic=not train)

    def step(self, memory: Memory, state: State, token: chex.Array) -> tuple[State, chex.Array]:
        """Reads one token in every lane."""
        chex.assert_rank(token, 1)
        embedded = self.embedding[token]
        length = state.length
        if self.noise_per_step:
            # Lanes that have ended may be read on past the last step.
            place = jnp.minimum(length, state.noise.shape[1] - 1)
            embedded += jnp.take_along_axis(state.noise, place[:, None, None], axis=1)[:, 0]
            length += 1
        reading = self._reading(memory, state)
        layers = lstm.stack_step(self.layers, state.layers, embedded, reading)
        hidden = layers[-1].hidden
        u = self._before_output(reading.context_of(hidden), embedded, hidden)
        return state._replace(layers=layers, length=length), self.output(u)

    def _read(self, memory, state, inputs, train):
        """Whole sequences [B, T] -> what the output layer reads, [B, T, U], and the states."""
        chex.assert_rank(inputs, 2)
        embedded = self.embedding[inputs]
        if self.noise_per_step:
            embedded += state.noise[:, : inputs.shape[1]]
        embedded = self.drop(embedded, deterministic=not train)
        reading = self._reading(memory, state, train=train)
        layers = lstm.stack_unroll(self.layers, state.layers, embedded, reading, remat=self.remat)
        top = layers[-1].hidden
        u = self._before_output(reading.context_of(top), embedded, top, train=train)
        return u, state._replace(layers=layers)

    def unroll(
        self, memory: Memory, state: State, inputs: chex.Array, *, train: bool = False
    ) -> tuple[chex.Array, State]:
        """Reads whole sequences; dropout only where `train` is true."""
        u, states = self._read(memory, state, inputs, train)
        return self.output(u), states

    def before_output(
        self, memory: Memory, state: State, inputs: chex.Array, *, train: bool = False
    ) -> tuple[chex.Array, chex.Array, chex.Array]:
        """What `unroll` makes logits of: u [B, T, U], kernel [U, V] and bias [V]."""
        u, _ = self._read(memory, state, inputs, train)
        weights = self.output.variables["params"]
        return u, weights["kernel"], weights["bias"]

    def word_logits(self, memory: Memory) -> chex.Array:
        """The logit of each word's being used of the source, [B, V]; see `noisy_or`."""
        return noisy_or(self.words(memory.values), memory.mask)

    def prefix_state(self, states: State, t: int) -> State:
        """The state after t >= 1 inputs."""
        layers = jax.tree.map(lambda x: x[:, t - 1], states.layers)
        length = None if states.length is None else jnp.full_like(states.length, t)
        return states._replace(layers=layers, length=length)

    def __call__(self, source, source_mask, z, inputs, *, train: bool = False) -> chex.Array:
        """Teacher forcing from source to logits, [B, T, V]; touches every parameter."""
        memory = self.encode(source, source_mask, train=train)
        if self.is_initializing() and self.encoder is not None:
            self.word_logits(memory)
        state = self.initial_state(memory, z, inputs.shape[1])
        return self.unroll(memory, state, inputs, train=train)[0]
