"""The supervised loop against closed forms and a loop written out."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqgan_jax.training.fit import fit

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
Y = X @ np.array([1.0, -2.0, 0.5], np.float32)
START = {"w": jnp.zeros(3)}


def squares(params, batch, key):
    del key
    x, y = batch
    error = x @ params["w"] - y
    return (error**2).mean(), error


def run(**options):
    options = {"steps": 5, "optimizer": optax.sgd(0.1), "seed": 0} | options
    return fit(options.pop("loss", squares), START, itertools.repeat((X, Y)), **options)


def test_steps_are_gradient_steps():
    w = np.zeros(3)
    for _ in range(5):
        w = w - 0.1 * 2 * X.T @ (X @ w - Y) / len(X)
    np.testing.assert_allclose(run()["w"], w, rtol=1e-5)
    # The caller's parameters outlive the donation.
    np.testing.assert_array_equal(START["w"], np.zeros(3))


def test_it_finds_the_solution_and_compiles_once():
    traced = chex.assert_max_traces(squares, n=1)
    found = run(loss=traced, steps=300)["w"]
    np.testing.assert_allclose(found, np.linalg.lstsq(X, Y)[0], atol=1e-3)


def test_after_sees_the_update_and_what_the_loss_told():
    seen = lambda params, batch, aux, key: {"w": params["w"] * 0 + aux[:3]}
    # The second update starts from what `after` left: the first one's errors, -Y.
    after_one = -Y[:3]
    np.testing.assert_allclose(run(steps=1, after=seen)["w"], after_one, rtol=1e-5)
    np.testing.assert_allclose(run(steps=2, after=seen)["w"], (X @ after_one - Y)[:3], rtol=1e-5)


def test_keys_differ_between_steps_and_follow_the_seed():
    def noise(params, batch, key):
        return 0.0 * params["w"].sum(), jax.random.normal(key, (3,))

    add = lambda params, batch, aux, key: {"w": params["w"] + aux}
    one = lambda **options: np.asarray(run(loss=noise, after=add, **options)["w"])
    np.testing.assert_array_equal(one(), one())
    assert not np.allclose(one(), one(seed=1))
    assert not np.allclose(one(steps=2), 2 * one(steps=1))


def test_the_best_validated_parameters_are_returned():
    figures, tried = iter([3.0, 1.0, 2.0, 5.0]), []

    def validate(params):
        tried.append(np.asarray(params["w"]))
        return next(figures)

    found = run(steps=7, validate=validate, every=2)["w"]
    assert len(tried) == 4  # after 2, 4 and 6, and after the last
    np.testing.assert_array_equal(found, tried[1])
    np.testing.assert_allclose(tried[1], run(steps=4)["w"], rtol=1e-6)
    assert not np.allclose(tried[1], tried[3])


def test_progress_wraps_the_steps():
    wrapped = []
    run(progress=lambda steps: wrapped.append(steps) or steps)
    assert wrapped == [range(5)]


def test_bad_use():
    with pytest.raises(ValueError, match=r"^2 batches for 3 steps"):
        fit(squares, START, iter([(X, Y)] * 2), steps=3, optimizer=optax.sgd(0.1), seed=0)
    with pytest.raises(ValueError, match="go together"):
        run(validate=lambda params: 0.0)
