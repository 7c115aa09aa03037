"""The Transformer (Vaswani et al., 2017) as a generator: its blocks, and the network made of them.

A block normalises before each of its parts (Xiong et al., 2020) and adds what the part finds:

    x <- x + self-attention(norm(x))
    x <- x + attention(norm(x), source)        where there is a source
    x <- x + W_2 gelu(W_1 norm(x) + b_1) + b_2

The generator reads sqrt(E) times the previous token's embedding, plus a projection of what is
known from the start, [the source's summary; z]. With learned positions it adds the position's
vector; with rotary ones self-attention turns its queries and keys. Logits are those of norm(x)
times the embeddings' transpose (Press and Wolf, 2017), plus a bias, or of an output layer of their
own.
"""

from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from seqgan_jax.core import attention
from seqgan_jax.errors import UserError
from seqgan_jax.models.generator import noisy_or

POSITIONS = ("rotary", "learned")


def multi_head_parameters(
    module: nn.Module, name: str, query: int, memory: int, num_heads: int
) -> attention.MultiHead:
    """Declares the weights of multi-head attention, heads of query / K each, in a Linen module."""
    init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", 0, (1, 2))
    shape = (num_heads, query // num_heads)
    return attention.MultiHead(
        module.param(f"{name}_query", init, (query, *shape)),
        module.param(f"{name}_key", init, (memory, *shape)),
        module.param(f"{name}_value", init, (memory, *shape)),
    )


class Block(nn.Module):
    """One block; see the module's docstring.

    Attributes:
      size: E.
      hidden_size: of the layer between W_1 and W_2.
      num_heads: K; E is a multiple of it.
      source_size: F of the source's positions, or None for a block that reads no source.
      rotary: whether self-attention has rotary positions.
      dropout: rate on what each part finds, in training.
    """

    size: int
    hidden_size: int
    num_heads: int
    source_size: int | None
    rotary: bool
    dropout: float

    def setup(self):
        self.norm = nn.LayerNorm()
        self.attend = multi_head_parameters(self, "self", self.size, self.size, self.num_heads)
        self.found = nn.Dense(self.size)
        if self.source_size is not None:
            self.source_norm = nn.LayerNorm()
            self.attend_source = multi_head_parameters(
                self, "source", self.size, self.source_size, self.num_heads
            )
            self.source_found = nn.Dense(self.size)
        self.feed_norm = nn.LayerNorm()
        self.feed_in = nn.Dense(self.hidden_size)
        self.feed_out = nn.Dense(self.size)
        self.drop = nn.Dropout(self.dropout)

    def source_cache(self, values: chex.Array) -> attention.Cache:
        """The source's keys and values, once for all steps: [B, S, F] -> [B, K, S, D]."""
        return attention.keys_values(self.attend_source, values)

    def empty_cache(self, lanes: int, length: int) -> attention.Cache:
        """The cache of self-attention before the first step."""
        return attention.empty_cache(self.attend, lanes, length)

    def __call__(
        self,
        x: chex.Array,
        positions: chex.Array,
        visible: chex.Array,
        *,
        cache: attention.Cache | None = None,
        source: attention.Cache | None = None,
        source_mask: chex.Array | None = None,
        train: bool = False,
    ) -> tuple[chex.Array, attention.Cache, chex.Array | None]:
        """Reads Q steps in every lane.

        Args:
          x: [lanes, Q, E].
          positions: of the steps, broadcastable to [lanes, Q].
          visible: nonzero where a step sees another; broadcastable to [lanes, Q, steps].
          cache: the steps before, [lanes, K, T, D], to which the one step x is added; None where x
            holds all steps.
          source: see `source_cache`.
          source_mask: [B, S].
          train: whether to drop.

        Returns:
          x, [lanes, Q, E]; the cache with these steps; the attention over the source, averaged over
          the heads, [lanes Q, S], or None.
        """
        drop = lambda y: self.drop(y, deterministic=not train)
        flat = lambda heads: heads.reshape(*heads.shape[:2], -1)
        inputs = self.norm(x)
        query = attention.queries(self.attend, inputs)
        new = attention.keys_values(self.attend, inputs)
        if self.rotary:
            turned = jnp.broadcast_to(positions, x.shape[:2])[:, None]
            query = attention.rotate(query, turned)
            new = new._replace(key=attention.rotate(new.key, turned))
        cache = new if cache is None else attention.append(cache, new, positions[:, 0])
        x = x + drop(self.found(flat(attention.read(query, cache, visible)[0])))
        looked = None
        if source is not None:
            query = attention.queries(self.attend_source, self.source_norm(x))
            mask = None if source_mask is None else source_mask[:, None]
            heads, looked = attention.read(query, source, mask)
            looked = looked.mean(1).reshape(-1, looked.shape[-1])
            x = x + drop(self.source_found(flat(heads)))
        x = x + drop(self.feed_out(jax.nn.gelu(self.feed_in(self.feed_norm(x)))))
        return x, cache, looked


def read_block(block: Block, *args, train: bool, remat: bool, **kwargs):
    """What a block gives; with `remat` it is computed again for its gradient, from its inputs."""
    call = lambda block, args, kwargs: block(*args, train=train, **kwargs)
    return (nn.remat(call) if remat else call)(block, args, kwargs)


class Memory(NamedTuple):
    """All that depends only on the source; None everywhere without one.

    Attributes:
      caches: every block's keys and values of the source, [B, K, S, D].
      values: the source's positions, [B, S, F].
      mask: [B, S], or None where all positions exist.
      summary: [B, F].
    """

    caches: tuple[attention.Cache, ...] | None
    values: chex.Array | None
    mask: chex.Array | None
    summary: chex.Array | None


class State(NamedTuple):
    """What changes from lane to lane.

    A state before another differs in its length alone, as what lies ahead is never read: `unroll`
    makes one cache for all prefixes. A lane's caches are 2 L E max_length numbers, which a rollout
    has for every lane of a chunk.

    Attributes:
      caches: every block's keys and values of the tokens read, [lanes, K, max_length, D].
      length: how many tokens were read, [lanes] int32.
      known: what is added to embeddings, one for all steps [lanes, 1, E] or one for each
        [lanes, T, E]; None without noise and source.
    """

    caches: tuple[attention.Cache, ...]
    length: chex.Array
    known: chex.Array | None


class TransformerGenerator(nn.Module):
    """See the module's docstring; the methods are those of `interface.Generator`.

    Attributes:
      vocabulary_size: V.
      encoder: a source encoder, or None for sequences without a source.
      embedding_size: E, of every block.
      hidden_size: of the layer inside a block's last part.
      num_layers: L, blocks.
      noise_size: Z; 0 for none.
      noise_per_step: whether every step has a z of its own, z [B, T, Z].
      num_heads: K; E is a multiple of it, and of 2 K with rotary positions.
      positions: 'rotary' or 'learned'.
      max_length: how many positions are learned; with learned ones.
      tied: whether the output layer is the embeddings' transpose.
      dropout: rate on the embeddings and on what each part of a block finds, in training.
      remat: whether each block is computed again for its gradient, from its inputs.
    """

    vocabulary_size: int
    encoder: nn.Module | None
    embedding_size: int
    hidden_size: int
    num_layers: int
    noise_size: int
    num_heads: int = 4
    positions: str = "rotary"
    max_length: int = 0
    tied: bool = True
    dropout: float = 0.0
    noise_per_step: bool = False
    remat: bool = False

    noise_layers = ("known",)

    def setup(self):
        size = self.embedding_size
        self.embedding = self.param(
            "embedding", nn.initializers.normal(size**-0.5), (self.vocabulary_size, size)
        )
        if self.positions == "learned":
            self.position = self.param(
                "position", nn.initializers.normal(0.5), (self.max_length, size)
            )
        self.has_known = self.encoder is not None or self.noise_size > 0
        if self.has_known:
            self.known = nn.Dense(size)
        self.blocks = [
            Block(
                size,
                self.hidden_size,
                self.num_heads,
                None if self.encoder is None else self.encoder.size,
                self.positions == "rotary",
                self.dropout,
            )
            for _ in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm()
        if self.tied:
            self.bias = self.param("bias", nn.initializers.zeros, (self.vocabulary_size,))
        else:
            self.output = nn.Dense(self.vocabulary_size)
        if self.encoder is not None:
            # Few positions speak for a word: all start as improbable.
            self.words = nn.Dense(self.vocabulary_size, bias_init=nn.initializers.constant(-5.0))
        self.drop = nn.Dropout(self.dropout)

    def encode(self, source, source_mask, *, train: bool) -> Memory:
        """Source -> every block's keys and values of its positions, and the summary."""
        if self.encoder is None:
            return Memory(None, None, None, None)
        values, summary = self.encoder(source, source_mask, train=train)
        caches = tuple(block.source_cache(values) for block in self.blocks)
        return Memory(caches, values, source_mask, summary)

    def initial_state(self, memory: Memory, z: chex.Array, max_length: int) -> State:
        """Empty caches for `max_length` tokens; z as `noise_shape` says, of B R lanes."""
        each = z if self.noise_per_step else z[:, None]
        chex.assert_shape(each, (None, max_length if self.noise_per_step else 1, self.noise_size))
        if self.positions == "learned" and max_length > self.max_length:
            raise UserError(
                f"config.generator.max_length: {self.max_length} learned positions are too few for "
                f"sequences of {max_length} tokens; set {max_length} or more"
            )
        lanes = len(z)
        known = None
        if self.has_known:
            known = each
            if self.encoder is not None:
                summary = jnp.repeat(memory.summary, lanes // len(memory.summary), axis=0)
                summary = jnp.repeat(summary[:, None], each.shape[1], axis=1)
                known = jnp.concatenate([summary, each], axis=-1)
            known = self.known(known)
        caches = tuple(block.empty_cache(lanes, max_length) for block in self.blocks)
        return State(caches, jnp.zeros((lanes,), jnp.int32), known)

    def _read(self, memory, state, tokens, positions, visible, *, cached, train=False):
        """Q tokens a lane [lanes, Q] -> what the output layer reads, [lanes, Q, E], and caches."""
        x = self.embedding[tokens] * self.embedding_size**0.5
        if self.positions == "learned":
            # Lanes that have ended may be read on past the last position.
            x = x + self.position[jnp.minimum(positions, self.max_length - 1)]
        if state.known is not None:
            last = state.known.shape[1] - 1
            x = x + jnp.take_along_axis(
                state.known, jnp.minimum(positions, last)[:, :, None], axis=1
            )
        x = self.drop(x, deterministic=not train)
        caches, looked = [], []
        for i, block in enumerate(self.blocks):
            x, cache, weights = read_block(
                block,
                x,
                positions,
                visible,
                cache=state.caches[i] if cached else None,
                source=None if memory.caches is None else memory.caches[i],
                source_mask=memory.mask,
                train=train,
                remat=self.remat and not cached,
            )
            caches.append(cache)
            looked.append(weights)
        if memory.caches is not None:
            self.sow("intermediates", "attention", sum(looked) / len(looked))
        return self.norm(x), tuple(caches)

    def _logits(self, u):
        return u @ self.embedding.T + self.bias if self.tied else self.output(u)

    def step(self, memory: Memory, state: State, token: chex.Array) -> tuple[State, chex.Array]:
        """Reads one token in every lane."""
        chex.assert_rank(token, 1)
        steps = jnp.arange(state.caches[0].key.shape[2])
        visible = steps <= state.length[:, None, None]
        u, caches = self._read(
            memory, state, token[:, None], state.length[:, None], visible, cached=True
        )
        return State(caches, state.length + 1, state.known), self._logits(u[:, 0])

    def _unroll(self, memory, state, inputs, train):
        """Whole sequences [B, T] -> what the output layer reads, [B, T, E], and the states."""
        chex.assert_rank(inputs, 2)
        length = inputs.shape[1]
        steps = jnp.arange(length)
        visible = (steps[:, None] >= steps)[None]
        u, caches = self._read(
            memory, state, inputs, steps[None], visible, cached=False, train=train
        )
        ahead = state.caches[0].key.shape[2] - length
        caches = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, ahead), (0, 0))), caches)
        return u, State(caches, state.length + length, state.known)

    def unroll(
        self, memory: Memory, state: State, inputs: chex.Array, *, train: bool = False
    ) -> tuple[chex.Array, State]:
        """Reads whole sequences at once, from an initial state; dropout only in training."""
        u, states = self._unroll(memory, state, inputs, train)
        return self._logits(u), states

    def before_output(
        self, memory: Memory, state: State, inputs: chex.Array, *, train: bool = False
    ) -> tuple[chex.Array, chex.Array, chex.Array]:
        """What `unroll` makes logits of: u [B, T, E], kernel [E, V] and bias [V]."""
        u, _ = self._unroll(memory, state, inputs, train)
        if self.tied:
            return u, self.embedding.T, self.bias
        weights = self.output.variables["params"]
        return u, weights["kernel"], weights["bias"]

    def word_logits(self, memory: Memory) -> chex.Array:
        """The logit of each word's being used of the source, [B, V]; see `generator.noisy_or`."""
        return noisy_or(self.words(memory.values), memory.mask)

    def prefix_state(self, states: State, t: int) -> State:
        """The state after t inputs: all of the cache, of which it reads t steps."""
        return states._replace(length=jnp.full_like(states.length, t))

    def __call__(self, source, source_mask, z, inputs, *, train: bool = False) -> chex.Array:
        """Teacher forcing from source to logits, [B, T, V]; touches every parameter."""
        memory = self.encode(source, source_mask, train=train)
        if self.is_initializing() and self.encoder is not None:
            self.word_logits(memory)
        state = self.initial_state(memory, z, inputs.shape[1])
        return self.unroll(memory, state, inputs, train=train)[0]
