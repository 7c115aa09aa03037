"""Arithmetic expressions, sentences of a small context-free grammar.

    E -> E + T | E - T | T        T -> T * F | T / F | F        F -> ( E ) | a number | a variable

The grammar is unambiguous, so each expression has one derivation, whose depth says how deep the
structure goes that a generator must keep in mind.
"""

import random
from collections.abc import Iterator, Sequence

from seqgan_jax.data.captions import Progress, no_progress
from seqgan_jax.errors import UserError

OPERANDS = (*"0123456789", *"xyz")
# How often a rule with an operator or brackets is taken. Expressions end with probability 1: the
# expected numbers of symbols that a symbol becomes have a spectral radius below 1.
_SUM, _PRODUCT, _BRACKETS = 0.4, 0.3, 0.2
_LONGEST = 100


def key(config) -> list:
    """What the sentences depend on."""
    return [config.seed, config.size]


def sentences(config, *, progress: Progress = no_progress) -> Iterator[str]:
    """Different expressions, drawn from the grammar, with spaces between their tokens.

    Args:
      config: `seed` of the draws, `size`, how many.
      progress: shows how far it is.

    Raises:
      UserError: for a size below 1.
    """
    if config.size < 1:
        raise UserError(f"config.data.size: {config.size} is no number of sentences; set 1 or more")
    draw = random.Random(config.seed)
    seen = set()
    for _ in progress(range(config.size), config.size, "writing expressions"):
        tokens = None
        while not tokens or len(tokens) > _LONGEST or tokens in seen:
            tokens = tuple(_expression(draw))
        seen.add(tokens)
        yield " ".join(tokens)


def _expression(draw: random.Random) -> Iterator[str]:
    symbols = ["E"]  # the next one last
    while symbols:
        symbol = symbols.pop()
        if symbol == "E":
            symbols += ["T", draw.choice("+-"), "E"] if draw.random() < _SUM else ["T"]
        elif symbol == "T":
            symbols += ["F", draw.choice("*/"), "T"] if draw.random() < _PRODUCT else ["F"]
        elif symbol == "F":
            symbols += [")", "E", "("] if draw.random() < _BRACKETS else [draw.choice(OPERANDS)]
        else:
            yield symbol


def depth(tokens: Sequence[str]) -> int | None:
    """The depth of an expression's derivation, or None where the grammar has no such sentence.

    It is the number of rules on the longest way from E to an operand: 3 for "x".
    """
    found, end = _sum(tokens, 0)
    return found if found and end == len(tokens) else None


def _sum(tokens, at):
    return _chain(
        tokens, at, "+-", lambda at: _chain(tokens, at, "*/", lambda at: _operand(tokens, at))
    )


def _chain(tokens, at, operators, part):
    """X -> X operator Y | Y: the depth, 0 for none, and the place after it."""
    found, at = part(at)
    found = found and found + 1
    while found and at < len(tokens) and tokens[at] in operators:
        right, at = part(at + 1)
        found = right and max(found, right) + 1
    return found, at


def _operand(tokens, at):
    if at < len(tokens) and tokens[at] in OPERANDS:
        return 1, at + 1
    if at < len(tokens) and tokens[at] == "(":
        found, at = _sum(tokens, at + 1)
        if found and at < len(tokens) and tokens[at] == ")":
            return found + 1, at + 1
    return 0, at
