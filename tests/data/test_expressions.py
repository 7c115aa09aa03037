"""Expressions against Python's own grammar of arithmetic, and depths by hand."""

import ast
import random

import pytest
from ml_collections import ConfigDict

from seqgan_jax.data import expressions
from seqgan_jax.errors import UserError


def drawn(size, seed=0):
    return list(expressions.sentences(ConfigDict({"seed": seed, "size": size})))


def test_all_are_expressions_and_differ():
    found = drawn(300)
    assert len(set(found)) == 300
    for text in found:
        ast.parse(text, mode="eval")
        assert expressions.depth(text.split()) >= 3
    assert found == drawn(300)
    assert found != drawn(300, seed=1)
    with pytest.raises(UserError, match=r"^config\.data\.size: 0"):
        drawn(0)


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("x", 3),  # E T F x
        ("x + 1", 4),  # E (E T F x) + (T F 1)
        ("1 - 2 - 3", 5),
        ("x * 1", 4),
        ("( x )", 6),  # E T F ( E T F x )
        ("( x ) * 2 + y", 8),  # E E T (T F ( E T F x ))
        ("", None),
        ("x +", None),
        ("+ x", None),
        ("x y", None),
        ("( x", None),
        ("x )", None),
        ("( )", None),
        ("x ** 2", None),
        ("10", None),
    ],
)
def test_depths(text, depth):
    assert expressions.depth(text.split()) == depth


def test_what_the_grammar_has_is_what_python_has():
    """Of random strings of the tokens, exactly those that Python reads, signs left aside."""
    draw = random.Random(0)
    alphabet = [*"12x+-*/()"]
    verdicts = []
    for _ in range(3000):
        tokens = draw.choices(alphabet, k=draw.randint(1, 5))
        try:
            tree = ast.parse(" ".join(tokens), mode="eval")
            # Calls, tuples and signs are Python's, and not in the grammar.
            nodes = {type(node) for node in ast.walk(tree)}
            wanted = not nodes & {ast.Call, ast.Tuple, ast.UnaryOp}
        except SyntaxError:
            wanted = False
        wanted = wanted and "* *" not in " ".join(tokens) and "/ /" not in " ".join(tokens)
        verdicts.append(wanted)
        assert (expressions.depth(tokens) is not None) == wanted, tokens
    assert 100 < sum(verdicts) < 2900
