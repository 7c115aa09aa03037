"""Muon against singular values by NumPy; what it leaves to Adam; the same steps in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqgan_jax.training import optimizers

MATRICES = {
    "lstm_0_input": (12, 20),
    "attention_key": (9, 6),
    "self_value": (8, 2, 3),  # heads: all read one input
    "encoder": {"Conv_0": {"kernel": (3, 3, 4, 10)}, "Dense_0": {"kernel": (5, 7)}},
}
OTHERS = {
    "embedding": (11, 6),
    "lstm_0_bias": (20,),
    "attention_score": (6,),
    "output": {"kernel": (6, 11), "bias": (11,)},
    "words": {"kernel": (6, 11)},
    "kernel": (3, 5, 4),  # of several windowed models
    "start": {"kernel": (2, 40)},  # 20 times as wide as long
}
AS_MATRIX = {(8, 2, 3): (8, 6), (3, 3, 4, 10): (36, 10)}


def normal(seed, shapes):
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def run(name, gradients, init):
    """The directions of consecutive steps."""
    update = jax.jit(optimizers.elementwise(name, init).update)
    state, found = optimizers.init(init), []
    for gradient in gradients:
        updates, state = update(gradient, state)
        found.append(jax.jit(optimizers.directions, static_argnums=0)(name, updates))
    return found, state


def test_matrices_move_along_their_momentum_made_orthogonal():
    gradients = [normal(seed, MATRICES) for seed in range(3)]
    found, _ = run("muon", gradients, gradients[0])
    momentum = jax.tree.map(np.zeros_like, gradients[0])
    for gradient, directions in zip(gradients, found, strict=True):
        momentum = jax.tree.map(lambda m, g: 0.95 * m + 0.05 * g, momentum, gradient)
        ahead = jax.tree.map(lambda m, g: 0.95 * m + 0.05 * g, momentum, gradient)
        for direction, wanted in zip(
            jax.tree.leaves(directions), jax.tree.leaves(ahead), strict=True
        ):
            shape = AS_MATRIX.get(wanted.shape, wanted.shape)
            left, values, right = np.linalg.svd(wanted.reshape(shape), full_matrices=False)
            assert values.min() > 0.02 * values.max()
            moved = np.asarray(direction).reshape(shape) / (0.3 * max(shape) ** 0.5)
            along = left.T @ moved @ right.T  # diagonal where the singular vectors are the same
            np.testing.assert_allclose(along - np.diag(np.diag(along)), 0, atol=2e-3)
            assert 0.4 < np.diag(along).min() < np.diag(along).max() < 1.3


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_matrices_move_as_far_whatever_the_gradients_size(scale):
    gradient = normal(0, MATRICES)
    (plain,), _ = run("muon", [gradient], gradient)
    (scaled,), _ = run("muon", [jax.tree.map(lambda g: g * scale, gradient)], gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), plain, scaled)


def test_the_others_are_adams():
    gradients = [normal(seed, {**OTHERS, **MATRICES}) for seed in range(3)]
    muon, state = run("muon", gradients, gradients[0])
    adam, _ = run("adam", gradients, gradients[0])
    for ours, theirs in zip(muon, adam, strict=True):
        for name in OTHERS:
            jax.tree.map(np.testing.assert_array_equal, ours[name], theirs[name])
        for name in MATRICES:
            for a, b in zip(*map(jax.tree.leaves, (ours[name], theirs[name])), strict=True):
                assert np.abs(a - b).max() > 0.01
    plain = optax.scale_by_adam().init(gradients[0])
    assert jax.tree.structure(state) == jax.tree.structure(plain)
    for name in MATRICES:  # their squares are not kept
        assert not any(x.any() for x in jax.tree.leaves(state.nu[name]))


@pytest.mark.parametrize("name", optimizers.NAMES)
def test_nothing_moves_without_a_gradient(name):
    zeros = jax.tree.map(jnp.zeros_like, normal(0, {**OTHERS, **MATRICES}))
    found, _ = run(name, [zeros], zeros)
    assert not any(x.any() for x in jax.tree.leaves(found))


def test_adam_is_that_of_optax():
    plain = optax.scale_by_adam()
    gradients = [normal(seed, OTHERS) for seed in range(3)]
    state = plain.init(gradients[0])
    for gradient, ours in zip(gradients, run("adam", gradients, gradients[0])[0], strict=True):
        theirs, state = plain.update(gradient, state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)


@pytest.mark.parametrize("name", optimizers.NAMES)
@pytest.mark.parametrize("before", [0, 2])
def test_what_is_no_gradient_leaves_the_state(name, before):
    gradients = [normal(seed, {**OTHERS, **MATRICES}) for seed in range(before + 1)]
    state = optimizers.init(gradients[0])
    if before:
        _, state = run(name, gradients[:before], gradients[0])
    bad = jax.tree.map(lambda x: np.full_like(x, np.nan), gradients[0])
    update = jax.jit(lambda sound: optimizers.elementwise(name, bad, sound).update(bad, state)[1])
    jax.tree.map(np.testing.assert_array_equal, update(False), state)
    assert np.isnan(update(True).mu["embedding"]).all()


def test_frozen_parameters_are_left_out():
    gradient = normal(0, MATRICES) | {"attention_key": None}
    found, state = run("muon", [gradient], gradient)
    assert found[0]["attention_key"] is state.mu["attention_key"] is None
    assert np.abs(found[0]["lstm_0_input"]).max() > 0.01


def test_parts_of_parameters_are_treated_like_the_whole():
    """Which matrices are moved is said by their whole shapes: a part may be 16 times as wide."""
    whole = {"lstm_0_input": normal(0, (12, 20))}
    part = jax.tree.map(lambda x: x[3:4], whole)
    update = optimizers.elementwise("muon", whole).update
    (expected, _), (found, _) = (update(x, optimizers.init(x)) for x in (whole, part))
    np.testing.assert_array_equal(found["lstm_0_input"], expected["lstm_0_input"][3:4])
    other, _ = optimizers.elementwise("muon", part).update(part, optimizers.init(part))
    assert np.abs(other["lstm_0_input"] - found["lstm_0_input"]).max() > 0.01
