"""One seed, one result: on 1, 2, 4 and 8 devices, on two processes, under jit and pmap."""

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.training import parallel
from seqgan_jax.training.parallel import Layout, Options, Rows

ROOT = Path(__file__).parents[2]
ROUNDS = Path(__file__).with_name("rounds.py")
PATIENCE = 600  # seconds until a process is taken to hang

# Which part of the work is done on which layout, see rounds.py; in one process of 8 devices, and
# in two of two.
LAYOUTS = {
    "one": ({"data": 1}, ["draw", "write", "generator", "both"]),
    "two": ({"data": 2}, ["write"]),
    "four": ({"data": 4, "mode": "pmap"}, ["draw", "generator"]),
    "eight": ({"data": 8, "accumulate": 2, "shard_above": 30}, ["write", "both"]),
    "grid": ({"data": 4, "model": 2}, ["write", "generator"]),
}
PROCESSES = {
    "processes": ({"data": 4}, ["write"]),
    "pmap": ({"data": 4, "mode": "pmap"}, ["generator"]),
}


def start(layouts, folder, devices, *joined):
    asked = {name: {"options": o, "parts": parts} for name, (o, parts) in layouts.items()}
    count = f"--xla_force_host_platform_device_count={devices}"
    flags = f"{os.environ['XLA_FLAGS']} {count}"
    return subprocess.Popen(
        [sys.executable, ROUNDS, json.dumps(asked), folder, *map(str, joined)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every layout gave, by its name."""
    folder = tmp_path_factory.mktemp("layouts")
    joined = (f"127.0.0.1:{free_port()}", 2)
    for several in ([(LAYOUTS, 8)], [(PROCESSES, 2, *joined, 0), (PROCESSES, 2, *joined, 1)]):
        running = [start(layouts, folder, *how) for layouts, *how in several]
        for process in running:
            _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, errors.decode()
    return {name: dict(np.load(folder / f"{name}.npz")) for name in LAYOUTS | PROCESSES}


@pytest.mark.parametrize("name", ["two", "eight", "processes", "grid"])
def test_tokens_are_the_same(found, name):
    """But where a uniform falls within rounding of an edge between two tokens."""
    ours, theirs = (found[which]["write/tokens"] for which in (name, "one"))
    assert np.unique(theirs).size > 20
    assert np.mean(ours != theirs) < 1e-4
    same = (ours == theirs).all(-1)
    for figure in ("log_probs", "scores"):
        ours, theirs = (found[which][f"write/{figure}"][same] for which in (name, "one"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_tokens_of_an_update_are_the_same_under_pmap(found):
    """What the generator's next update draws; `write` above is always under jit."""
    ours, theirs = (found[which]["draw/sample/tokens"] for which in ("four", "one"))
    assert np.unique(theirs).size > 10
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "part"),
    [("four", "generator"), ("eight", "both"), ("grid", "generator"), ("pmap", "generator")],
)
def test_updates_are_the_same(found, name, part):
    """To float tolerance for the first round, and over 20 rounds from the same tokens."""
    figures = [key for key in found["one"] if key.startswith(f"{part}/")]
    assert len(figures) >= 20 * 10
    for key in figures:
        first = key.split("/")[1] == "0"
        ours, theirs = found[name][key], found["one"][key]
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-5 if first else 1e-3, atol=1e-6 if first else 1e-4, err_msg=key
        )
    learnt = [float(found["one"][f"{part}/{k}/generator/generator/loss"]) for k in (0, 19)]
    assert abs(learnt[1] - learnt[0]) > 0.1


def test_states_stay_where_they_were_placed(found):
    placed = lambda name, path: list(found[name][f"placed/{path}"])
    for moment in ("params", "optimizer/mu", "optimizer/nu"):
        assert placed("eight", f"{moment}/output/kernel") == ["", "data"]
        assert placed("eight", f"{moment}/output/bias") == ["data"]
        assert placed("eight", f"{moment}/start/bias") == []  # 16 numbers are not above 30
        assert placed("grid", f"{moment}/embedding") == ["model"]
        assert placed("grid", f"{moment}/output/kernel") == ["", "model"]
        assert placed("grid", f"{moment}/words/bias") == ["model"]
        assert placed("grid", f"{moment}/lstm_0_recurrent") == []
    assert not any(any(spec) for key, spec in found["one"].items() if key.startswith("placed/"))


# The rows of a batch, with an axis of `vmap` in the place of devices.


def on_devices(function, *args, devices=4):
    split = [x.reshape(devices, -1, *x.shape[1:]) for x in args]
    rows = lambda: Rows(jax.lax.axis_index("data"), devices, "data")
    return jax.vmap(lambda *args: function(rows(), *args), axis_name="data")(*split)


def test_rows_know_their_place_in_the_batch():
    x = jnp.arange(24.0).reshape(12, 2)
    flat = lambda found: np.asarray(found).reshape(-1, *found.shape[2:])
    np.testing.assert_array_equal(
        flat(on_devices(lambda rows, x: rows.numbers(len(x)), x)), np.arange(12)
    )
    np.testing.assert_array_equal(
        flat(on_devices(lambda rows, x: rows.previous(x), x)), np.roll(x, 1, axis=0)
    )
    for whole in on_devices(lambda rows, x: rows.whole(x), x):
        np.testing.assert_array_equal(whole, x)
    np.testing.assert_array_equal(
        flat(on_devices(lambda rows, x: rows.own(rows.whole(x)), x)), np.asarray(x)
    )
    np.testing.assert_array_equal(
        on_devices(lambda rows, x: rows.total(x.sum()), x), np.full(4, 24 * 23 / 2)
    )
    whole = Rows()
    np.testing.assert_array_equal(whole.previous(x), np.roll(x, 1, axis=0))
    np.testing.assert_array_equal(whole.own(whole.whole(x)), x)


def test_a_pieces_dropout_is_that_of_the_whole_batch():
    key, shape = jax.random.key(3), (12, 5)
    whole = jax.random.bernoulli(key, 0.7, shape)
    pieces = [Rows(i, 4)._bernoulli(key, 0.7, (3, 5)) for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_sums_over_parts_are_sums_over_the_batch():
    layout = Layout(Options(data=1, accumulate=3))
    x = jnp.arange(12.0)
    given = {"x": x, "pair": jnp.stack([x, x], -1).reshape(24), "none": jnp.zeros((12, 0))}

    def found(part, rows):
        numbers = rows.numbers(len(part["x"]))
        lanes = part["pair"].reshape(-1, 2)
        return {"dot": jnp.vdot(part["x"], numbers), "lanes": (lanes * numbers[:, None]).sum()}

    total = layout.sum(found, given)
    assert float(total["dot"]) == float(jnp.vdot(x, x))
    assert float(total["lanes"]) == 2 * float(jnp.vdot(x, x))


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": 0}, "config.parallel.model: 0 is too small; set 1 or more"),
        ({"data": -1}, "config.parallel.data: -1 is too small; set 0 or more"),
        ({"accumulate": 0}, "config.parallel.accumulate: 0 is too small"),
        ({"mode": "xmap"}, "config.parallel.mode: no mode 'xmap'; choose from jit, pmap"),
        ({"precision": "bf16"}, "config.parallel.precision: no precision 'bf16'; choose from"),
        ({"mode": "pmap", "model": 2}, "config.parallel.mode: pmap splits nothing but batches"),
        ({"mode": "pmap", "shard_above": 1}, "config.parallel.mode: pmap splits nothing"),
    ],
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(UserError, match=f"^{re.escape(words)}"):
        parallel.parse(dataclasses.asdict(Options()) | options)


class Device:
    """What stands for a device where nothing is placed."""

    process_index = 0
    platform = device_kind = "none"

    def __init__(self, number):
        self.id = number


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": 9}, "config.parallel: data x model is 9 x 1, more than the 8 devices"),
        ({"data": 4, "model": 4}, "config.parallel: data x model is 4 x 4, more than the 8"),
        ({"model": 3}, "config.parallel.model: 3 doesn't divide the 8 devices"),
    ],
)
def test_devices_that_are_not_there(options, words):
    with pytest.raises(UserError, match=f"^{re.escape(words)}"):
        Layout(Options(**options), [Device(i) for i in range(8)])


def test_batches_that_cannot_be_shared():
    layout = Layout(Options(data=4, accumulate=2), [Device(i) for i in range(4)])
    layout.check("adversarial", 32)
    words = (
        "config.phases.adversarial.batch_size: 36 rows can't be shared equally by 4 devices "
        "times 2 parts; set a multiple of 8, or lower config.parallel.data"
    )
    with pytest.raises(UserError, match=f"^{re.escape(words)}$"):
        layout.check("adversarial", 36)


@pytest.mark.parametrize(
    ("shape", "dimension"),
    [((12, 5), 0), ((13, 8), 1), ((13, 5), None)],
)
def test_a_vocabulary_that_cannot_be_split(shape, dimension):
    """Then the layer's other dimension is, and where that can't be either it is refused."""
    layout = Layout(Options(model=4), [Device(i) for i in range(4)])
    refused = pytest.raises(UserError, match=r"^config.parallel.model: 4 .* generator/embedding ")
    with refused if dimension is None else contextlib.nullcontext():
        spec = layout._spec("generator/embedding", shape)
        assert [axis == "model" for axis in spec] == [False] * dimension + [True]
