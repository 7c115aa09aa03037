"""Networks that start with what another run has learned."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqgan_jax.errors import UserError
from seqgan_jax.training.state import TrainState, path

# Parameters with a row or a column for each token of the targets, and that dimension; of those
# below 'encoder' the tokens are the sources'.
_BY_TOKEN = (
    (r"(^|/)embedding$", 0),
    (r"(^|/)(output|words)/(kernel|bias)$", -1),
    (r"^generator/bias$", -1),
)
_ENCODER = re.compile(r"(^|/)encoder/")
_SHOWN = 40


class Tokens(NamedTuple):
    """What the tokens of a run stand for, by their numbers.

    Attributes:
      target: of the targets.
      source: of the sources; none where they are no tokens.
    """

    target: Sequence[str]
    source: Sequence[str]


class Origin(NamedTuple):
    """What another run has learned.

    Attributes:
      name: the run, for messages.
      networks: parameters by the networks' names, of those that it has trained.
      tokens: its own.
      noise_size: Z of its generator.
    """

    name: str
    networks: Mapping[str, Any]
    tokens: Tokens
    noise_size: int


class Start(NamedTuple):
    """How a run's networks start with another's parameters.

    A generator that reads more noise than the other starts with weights of 0 for it, so that it
    writes what the other does.

    Attributes:
      origin: the other run.
      tokens: of this run.
      noise_size: Z of this run.
      noise_layers: see `models.interface.Generator`.
      partial: whether what doesn't fit stays as it is drawn: parameters of another shape, and
        among those of tokens all but the tokens that both runs know.
    """

    origin: Origin
    tokens: Tokens
    noise_size: int
    noise_layers: Sequence[str]
    partial: bool

    def check(self, state: TrainState) -> list[str]:
        """Looks whether all fits a state, or its shapes; gives the parameters that don't.

        Raises:
          UserError: where something doesn't and `partial` is false, or nothing does.
        """
        hint = "set config.init_partial=True to start with what fits"
        if not self.partial:
            for side in Tokens._fields:
                differ = _differ(getattr(self.origin.tokens, side), getattr(self.tokens, side))
                if differ:
                    raise UserError(
                        f"config.init_from: {self.origin.name} has another {side} vocabulary: "
                        f"{differ}; use the data and config.codec that it was trained with, or "
                        f"{hint}"
                    )
        ours, theirs = self._leaves(state)
        wrong = [name for name in sorted(ours | theirs) if not self._fits(name, ours, theirs)]
        if wrong and not self.partial:
            shape = lambda leaves, name: list(leaves[name].shape) if name in leaves else "missing"
            more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
            raise UserError(
                f"config.init_from: {self.origin.name} has other networks: {wrong[0]} is "
                f"{shape(theirs, wrong[0])} there and {shape(ours, wrong[0])} here{more}; set "
                f"config.encoder, config.generator and config.discriminator as there, or {hint}"
            )
        left = [name for name in wrong if name in ours]
        if len(left) == len(ours):
            raise UserError(
                f"config.init_from: nothing of {self.origin.name} fits these networks; leave it out"
            )
        return left

    def __call__(self, state: TrainState) -> TrainState:
        """A new run's state with the other's parameters."""
        theirs = self._leaves(state)[1]

        def move(keys, to, network):
            name = f"{network}/{path(keys)}"
            return self._moved(name, to, theirs[name]) if name in theirs else to

        moved = {}
        for network in self.origin.networks:
            own = getattr(state, network)
            params = jax.tree_util.tree_map_with_path(
                functools.partial(move, network=network), own.params
            )
            moved[network] = own.replace(params=params)
        return state.replace(**moved)

    def _leaves(self, state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
        """This state's parameters and the other run's, by paths."""
        named = lambda network, params: {
            f"{network}/{path(keys)}": leaf
            for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        ours, theirs = {}, {}
        for network, params in self.origin.networks.items():
            ours |= named(network, getattr(state, network).params)
            theirs |= named(network, params)
        return ours, theirs

    def _fits(self, name: str, ours: Mapping, theirs: Mapping) -> bool:
        if name not in ours or name not in theirs:
            return False
        here, there = ours[name].shape, theirs[name].shape
        if self._dimension(name, there) is not None and self.partial:
            dimension = self._dimension(name, there)
            return _without(here, dimension) == _without(there, dimension)
        return here == there or self._more_noise(name, here, there)

    def _more_noise(self, name: str, here: Sequence[int], there: Sequence[int]) -> bool:
        """Whether a parameter has rows for more noise, and is otherwise of the same shape."""
        layers = [f"generator/{layer}/kernel" for layer in self.noise_layers]
        more = self.noise_size - self.origin.noise_size
        return name in layers and more > 0 and tuple(here) == (there[0] + more, *there[1:])

    def _dimension(self, name: str, shape: Sequence[int]) -> int | None:
        """Along which dimension of the other's parameter its tokens are, if along any."""
        found = next((d for ends, d in _BY_TOKEN if re.search(ends, name)), None)
        if found is None or not shape or shape[found] != len(self._side(name)[1]):
            return None
        return found % len(shape)

    def _side(self, name: str) -> tuple[Sequence[str], Sequence[str]]:
        """The tokens that a parameter would be of, here and there."""
        side = "source" if _ENCODER.search(name) else "target"
        return getattr(self.tokens, side), getattr(self.origin.tokens, side)

    def _moved(self, name: str, to, theirs):
        if not self._fits(name, {name: to}, {name: theirs}):
            return to
        dimension = self._dimension(name, theirs.shape)
        here, there = self._side(name)
        if dimension is not None and list(here) != list(there):
            number = {token: i for i, token in enumerate(there)}
            known = [(i, number[token]) for i, token in enumerate(here) if token in number]
            if not known:
                return to
            here, there = map(jnp.array, zip(*known, strict=True))
            rows = jnp.moveaxis(theirs, dimension, 0)[there]
            return jnp.moveaxis(jnp.moveaxis(to, dimension, 0).at[here].set(rows), 0, dimension)
        if to.shape == theirs.shape:
            return jnp.copy(theirs)
        return jnp.zeros_like(to).at[: len(theirs)].set(theirs)


def _without(shape: Sequence[int], dimension: int) -> tuple[int, ...]:
    return (*shape[:dimension], *shape[dimension + 1 :])


def _differ(there: Sequence[str], here: Sequence[str]) -> str:
    """What the difference of two vocabularies is; nothing where there is none."""
    if len(there) != len(here):
        return f"{len(there):,} tokens there, {len(here):,} here"
    for number, (a, b) in enumerate(zip(there, here, strict=True)):
        if a != b:
            return f"token {number} is '{a[:_SHOWN]}' there and '{b[:_SHOWN]}' here"
    return ""
