"""What another run's parameters become in a new one, by hand-made networks of a few numbers."""

import re
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.training.origin import Origin, Start, Tokens

WORDS, SIGNS = ("<eos>", "dog", "cat"), ("a", "b")


class Network(NamedTuple):
    params: dict

    def replace(self, params):
        return Network(params)


class State(SimpleNamespace):
    def replace(self, **changes):
        return State(**vars(self) | changes)


def params(start, tokens=WORDS, signs=SIGNS, known=5, layers=("a",)):
    """Arrays that begin with `start` and count on from it."""
    shapes = {"embedding": (len(tokens), 2), "encoder": (len(signs), 2), "start": (known, 4)}
    numbers = lambda *shape: start + jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)
    return {
        "embedding": numbers(*shapes["embedding"]),
        "encoder": {"embedding": numbers(*shapes["encoder"])},
        "start": {"kernel": numbers(*shapes["start"]), "bias": numbers(4)},
        "output": {"kernel": numbers(2, len(tokens)), "bias": numbers(len(tokens))},
        **{f"layer_{name}": numbers(3) for name in layers},
    }


def start_of(theirs, *, here=(WORDS, SIGNS), there=(WORDS, SIGNS), noise=(2, 2), partial=False):
    origin = Origin("runs/old", {"generator": theirs}, Tokens(*there), noise[1])
    return Start(origin, Tokens(*here), noise[0], ("start",), partial)


def state_of(ours):
    return State(generator=Network(ours), discriminator=Network({"kept": jnp.ones(1)}))


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def moved(start, ours):
    state = state_of(ours)
    left = start.check(state)
    found = start(state)
    assert found.discriminator is state.discriminator  # the other run had not trained its own
    return found.generator.params, left


def test_a_run_of_the_same_kind_is_taken_whole():
    theirs = params(100.0)
    found, left = moved(start_of(theirs), params(0.0))
    assert left == []
    same(found, theirs)


@pytest.mark.parametrize("old", [0, 1])
def test_more_noise_changes_no_output(old):
    """[s; z] W with another width of z is s W + z W_z, with zeros for what is new."""
    theirs, ours = params(100.0, known=3 + old), params(0.0, known=3 + 2)
    found, left = moved(start_of(theirs, noise=(2, old)), ours)
    assert left == []
    rng = np.random.default_rng(0)
    s, z = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    expected = np.concatenate([s, z[:, :old]], 1) @ theirs["start"]["kernel"]
    given = np.concatenate([s, z], 1) @ found["start"]["kernel"]
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    same(found["embedding"], theirs["embedding"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"here": (("<eos>", "cat", "dog"), SIGNS)}, "target vocabulary: token 1 is 'dog' there "
         "and 'cat' here"),
        ({"here": (WORDS, ("a", "c"))}, "source vocabulary: token 1 is 'b' there and 'c' here"),
        ({"there": (WORDS[:2], SIGNS)}, "target vocabulary: 2 tokens there, 3 here"),
        ({"layers": ("a", "b")}, "generator/layer_b is missing there and [3] here; set config."),
        ({"layers": ()}, "generator/layer_a is [3] there and missing here; set config."),
        ({"known": 4}, "generator/start/kernel is [5, 4] there and [4, 4] here; set config."),
    ],
)  # fmt: skip
def test_what_differs_is_named(options, words):
    sizes = {name: options.pop(name) for name in ("layers", "known") if name in options}
    ours = params(0.0, **sizes)
    with pytest.raises(UserError, match=r"config\.init_from: runs/old has") as caught:
        start_of(params(100.0), **options).check(state_of(ours))
    assert words in str(caught.value)
    assert re.search(r"config\.init_partial=True to start with what fits", str(caught.value))
    assert "\n" not in str(caught.value)


def test_what_fits_is_taken_token_by_token():
    """Tokens that both know keep what was learned of them, whatever their numbers."""
    here = ("<eos>", "cat", "bird", "dog")
    theirs, ours = params(100.0, known=4), params(0.0, tokens=here, layers=("a", "b"))
    start = start_of(theirs, here=(here, SIGNS), partial=True)
    found, left = moved(start, ours)
    assert left == ["generator/layer_b", "generator/start/kernel"]
    for i, token in enumerate(here):
        source, j = (theirs, WORDS.index(token)) if token in WORDS else (ours, i)
        same(found["embedding"][i], source["embedding"][j])
        same(found["output"]["kernel"][:, i], source["output"]["kernel"][:, j])
        same(found["output"]["bias"][i], source["output"]["bias"][j])
    for name, source in (("layer_a", theirs), ("layer_b", ours)):
        same(found[name], source[name])
    same(found["start"]["kernel"], ours["start"]["kernel"])
    same(found["start"]["bias"], theirs["start"]["bias"])
    same(found["encoder"], theirs["encoder"])


def test_nothing_that_fits_is_refused():
    with pytest.raises(UserError, match="nothing of runs/old fits"):
        start_of({"other": jnp.ones(3)}, partial=True).check(state_of({"own": jnp.ones(2)}))
