"""Which checkpoints stay, which one is found, and that what comes back is what was saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.state import Network, Ratio, Safety, Stopping, TrainState

# Step, phase, whether it ended there, and its score.
SAVES = (
    (10, "first", False, 0.5),
    (20, "first", False, 0.9),  # the best of the first phase
    (30, "first", False, None),
    (40, "first", True, 0.7),
    (50, "second", False, 0.2),  # the best of the second phase
    (60, "second", False, 0.1),
    (70, "second", False, None),
    (80, "second", False, None),
)


def state_of(step, size=3):
    rng = np.random.default_rng(step)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    network = lambda: Network({"w": array(2, size)}, ({"mu": array(size)}, jnp.asarray(step)))
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        phase=jnp.asarray(1, jnp.int32),
        phase_step=jnp.asarray(step % 7, jnp.int32),
        key=jax.random.key_data(jax.random.key(step)),
        generator=network(),
        discriminator=network(),
        rollout={"w": array(2, size)},
        baseline=array(4),
        pool=jnp.full((2, 4), step, jnp.int32),
        reference={"w": array(2, size)},
        safety=Safety(*jnp.arange(3), array(), array(2)),
        stopping=Stopping(array(2), jnp.asarray(step), jnp.asarray(True)),
        ratio=Ratio(array(), jnp.asarray(False)),
    )


def save(folder, saves, reopen=False):
    checkpoints = Checkpoints(folder)
    for step, phase, ended, score in saves:
        checkpoints.save(state_of(step), phase=phase, ended=ended, score=score)
        if reopen:
            checkpoints.close()
            checkpoints = Checkpoints(folder)
    checkpoints.close()


def steps_in(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save(folder, SAVES)
    return folder


@pytest.mark.parametrize("reopen", [False, True])
def test_last_two_ends_and_bests_stay(tmp_path, reopen):
    save(tmp_path, SAVES[:4], reopen)
    assert steps_in(tmp_path) == [20, 30, 40]
    save(tmp_path, SAVES[4:], reopen)
    assert steps_in(tmp_path) == [20, 40, 50, 70, 80]


def test_find(saved):
    checkpoints = Checkpoints(saved, read_only=True)
    assert checkpoints.latest_step() == 80
    assert checkpoints.find("last") == 80
    assert checkpoints.find("best") == 50
    assert checkpoints.find("first") == 40
    with pytest.raises(UserError, match=r"^--checkpoint=second: .*choose last, best, first$"):
        checkpoints.find("second")


def test_best_is_last_where_nothing_was_evaluated(tmp_path):
    save(tmp_path, [(1, "first", False, None), (2, "first", False, None)])
    assert Checkpoints(tmp_path, read_only=True).find("best") == 2


def test_equal_scores_leave_the_newer_best(tmp_path):
    save(tmp_path, [(step, "first", False, 0.5) for step in (1, 2, 3)])
    assert Checkpoints(tmp_path, read_only=True).find("best") == 3
    assert steps_in(tmp_path) == [2, 3]


def test_every_leaf_comes_back(saved):
    checkpoints = Checkpoints(saved, read_only=True)
    for step in (20, 80):
        restored = checkpoints.restore(step, shapes(state_of(0)))
        assert jax.tree.structure(restored) == jax.tree.structure(state_of(step))
        jax.tree.map(np.testing.assert_array_equal, restored, state_of(step))
        dtypes = lambda state: [leaf.dtype for leaf in jax.tree.leaves(state)]
        assert dtypes(restored) == dtypes(state_of(step))


def test_save_takes_its_values_before_the_next_step_overwrites_them(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    state = state_of(5)
    checkpoints.save(state, phase="first", ended=False, score=None)
    for _ in range(20):
        state = advance(state)
    checkpoints.close()
    restored = Checkpoints(tmp_path, read_only=True).restore(5, shapes(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(5))


def test_other_networks_are_refused(saved):
    checkpoints = Checkpoints(saved, read_only=True)
    message = r"80: the checkpoint doesn't fit the run's configuration"
    with pytest.raises(UserError, match=message):
        checkpoints.restore(80, shapes(state_of(0, size=4)))
    more = state_of(0).replace(rollout={"w": jnp.ones((2, 3)), "more": jnp.ones(2)})
    with pytest.raises(UserError, match=message):
        checkpoints.restore(80, shapes(more))


def test_reading_needs_a_checkpoint_and_makes_none(tmp_path):
    with pytest.raises(UserError, match="no checkpoints; train this run first"):
        Checkpoints(tmp_path, read_only=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint is complete; train this run first"):
        Checkpoints(tmp_path, read_only=True)
