"""Which checkpoints stay and are found; what comes back is what was saved, or it is refused."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.core.rejection import Calibration
from seqgan_jax.errors import UserError
from seqgan_jax.training import checkpoint
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
        reverse=None,
        rollout={"w": array(2, size)},
        baseline=array(4),
        pool=jnp.full((2, 4), step, jnp.int32),
        reference={"w": array(2, size)},
        safety=Safety(*jnp.arange(3), array(), array(2)),
        stopping=Stopping(array(2), array(2), jnp.asarray(step), jnp.asarray(True)),
        ratio=Ratio(array(), jnp.asarray(False)),
        calibration=Calibration(*(array() for _ in range(4))),
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
    """The checkpoints; nothing else may lie there but what was damaged."""
    names = {path.name for path in (folder / "checkpoints").iterdir()} - {"damaged"}
    return sorted(map(int, names))


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


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    scores = ((1, math.nan), (2, 0.5), (3, math.nan), (4, math.nan))
    save(tmp_path, [(step, "first", False, score) for step, score in scores])
    assert Checkpoints(tmp_path, read_only=True).find("best") == 2
    assert steps_in(tmp_path) == [2, 3, 4]


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda state: state.replace(rollout={"w": jnp.ones((2, 4))}),
            ["rollout/w is float32[2, 3] there and float32[2, 4] here;"],
        ),
        (
            lambda state: state.replace(rollout=state.rollout | {"more": jnp.ones(2)}),
            ["rollout/more is missing there and float32[2] here;"],
        ),
        (lambda state: state.replace(pool=None), ["pool is int32[2, 4] there and missing here;"]),
        (
            lambda state: state.replace(baseline=state.baseline.astype(jnp.int32)),
            ["baseline is float32[4] there and int32[4] here;"],
        ),
        (lambda state: state_of(0, size=4), ["discriminator/optimizer/0/mu", "(and 5 more)"]),
    ],
)
def test_a_state_of_another_structure_is_refused(saved, change, words):
    checkpoints = Checkpoints(saved, read_only=True)
    with pytest.raises(UserError, match="80: the checkpoint doesn't fit the run's conf") as refusal:
        checkpoints.restore(80, shapes(change(state_of(0))))
    for word in words:
        assert word in str(refusal.value)


def test_reading_needs_a_checkpoint_and_makes_none(tmp_path):
    with pytest.raises(UserError, match="no checkpoint is complete; train this run first"):
        Checkpoints(tmp_path, read_only=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no checkpoint is complete; train this run first"):
        Checkpoints(tmp_path, read_only=True)


# Damage


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files_of(folder, step=80):
    found = sorted(p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file())
    return [path.relative_to(folder) for path in found]


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_any_damage_to_any_file_is_noticed(saved, tmp_path, capsys, damage):
    """The checkpoint before is used instead, and what is left of the newest stays."""
    tried = 0
    for number, name in enumerate(files_of(saved)):
        folder = tmp_path / str(number)
        unfinished = damage is Path.unlink and name.name == checkpoint.MANIFEST
        if unfinished or not (saved / name).stat().st_size:
            continue
        shutil.copytree(saved, folder)
        damage(folder / name)
        reader = Checkpoints(folder, read_only=True)
        assert reader.find("last") == 70
        line = capsys.readouterr().err
        path = folder / "checkpoints" / "80"
        assert line.startswith(f"warning: {path}: damaged (")
        assert line.endswith("; not used\n")
        assert path.is_dir()

        checkpoints = Checkpoints(folder)
        assert checkpoints.latest_step() == 70
        (line,) = capsys.readouterr().err.splitlines()
        inside = name.relative_to("checkpoints/80").as_posix()
        assert f"damaged ({inside}" in line
        assert str(folder / "checkpoints" / "damaged" / "80") in line
        assert steps_in(folder) == [20, 40, 50, 70]
        assert (folder / "checkpoints" / "damaged" / "80").is_dir()
        tried += 1
    restored = checkpoints.restore(70, shapes(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(70))
    assert tried >= 5


def test_manifest_has_the_sizes_and_hashes_of_all_files(saved):
    folder = saved / "checkpoints" / "80"
    manifest = json.loads((folder / "manifest.json").read_text())
    found = {
        name.relative_to("checkpoints/80").as_posix(): saved / name for name in files_of(saved)
    }
    del found["manifest.json"]
    expected = {
        name: [len(path.read_bytes()), hashlib.sha256(path.read_bytes()).hexdigest()]
        for name, path in found.items()
    }
    assert manifest["files"] == expected
    assert manifest["format"] == checkpoint.FORMAT


def test_damaged_ones_that_were_asked_for_by_name(saved, tmp_path, capsys):
    shutil.copytree(saved, tmp_path / "run")
    largest = max(files_of(saved, 50), key=lambda name: (saved / name).stat().st_size)
    flip(tmp_path / "run" / largest)
    checkpoints = Checkpoints(tmp_path / "run", read_only=True)
    assert checkpoints.find("best") == 50
    with pytest.raises(UserError, match=r"50: damaged \(.*another SHA-256.*choose another"):
        checkpoints.restore(50, shapes(state_of(0)))
    assert checkpoints.find("last") == 80
    assert not capsys.readouterr().err


def test_no_intact_checkpoint(saved, tmp_path, capsys):
    shutil.copytree(saved, tmp_path / "run")
    for step in steps_in(saved):
        truncate(tmp_path / "run" / files_of(saved, step)[-1])
    with pytest.raises(UserError, match="no checkpoint is intact; train this run again"):
        Checkpoints(tmp_path / "run", read_only=True).find("last")
    (tmp_path / "run" / "checkpoints" / "damaged" / "80").mkdir(parents=True)
    assert Checkpoints(tmp_path / "run").latest_step() is None
    aside = {path.name for path in (tmp_path / "run" / "checkpoints" / "damaged").iterdir()}
    assert aside == {"20", "40", "50", "70", "80", "80-2"}
    assert len(capsys.readouterr().err.splitlines()) == 10


def test_unfinished_ones_are_deleted(saved, tmp_path):
    """What is left where a process is killed in a save, or in a deletion; and by older versions."""
    shutil.copytree(saved, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "50" / "manifest.json").unlink()
    shutil.copytree(folder / "50", folder / "90.orbax-checkpoint-tmp")
    shutil.copytree(folder / "50", folder / "90.unfinished")
    assert Checkpoints(tmp_path / "run", read_only=True).find("best") == 20
    assert len(list(folder.iterdir())) == 7
    assert Checkpoints(tmp_path / "run").latest_step() == 80
    assert steps_in(tmp_path / "run") == [20, 40, 70, 80]


@pytest.mark.parametrize("read_only", [False, True])
def test_other_formats_are_refused_by_name(saved, tmp_path, read_only):
    shutil.copytree(saved, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "80" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 7}
    del manifest["sha256"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"sha256": digest}))
    message = f"80: its format is 7, this program reads {checkpoint.FORMAT}; use the version of"
    with pytest.raises(UserError, match=message):
        Checkpoints(tmp_path / "run", read_only=read_only)
    # The layout from before there were manifests.
    path.unlink()
    (path.parent / "default").mkdir()
    with pytest.raises(UserError, match="80: saved by an older version of the program"):
        Checkpoints(tmp_path / "run", read_only=read_only)
    assert path.parent.is_dir()


# Saving


def test_saving_does_not_wait_for_the_checksums(tmp_path, monkeypatch):
    go, digest = threading.Event(), checkpoint._sha256
    monkeypatch.setattr(checkpoint, "_sha256", lambda path: go.wait(60) and digest(path))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(1), phase="first", ended=False, score=None)
    checkpoints.check()
    assert [p.name.partition(".")[0] for p in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert not (tmp_path / "checkpoints" / "1" / checkpoint.MANIFEST).exists()
    go.set()
    assert checkpoints.latest_step() == 1
    checkpoints.close()
    assert steps_in(tmp_path) == [1]


def test_a_kill_before_the_manifest_loses_that_checkpoint_alone(tmp_path, monkeypatch):
    save(tmp_path, SAVES[:2])

    def fail(path):
        raise KeyboardInterrupt  # the thread ends here, as by a kill

    monkeypatch.setattr(checkpoint, "_sha256", fail)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_of(30), phase="first", ended=False, score=None)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.close()
    assert (tmp_path / "checkpoints" / "30").is_dir()
    monkeypatch.undo()
    assert Checkpoints(tmp_path).latest_step() == 20
    assert steps_in(tmp_path) == [10, 20]


LIMITED = """
import resource
import sys
from concurrent.futures import wait
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_checkpoint import SAVES, save, state_of, steps_in
from seqgan_jax.errors import UserError
from seqgan_jax.training.checkpoint import Checkpoints
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in (0, 300, 1500, 3000):
    folder = Path(sys.argv[2]) / str(limit)
    save(folder, SAVES[:2])
    checkpoints = Checkpoints(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        checkpoints.save(state_of(30), phase="first", ended=False, score=None)
        wait([checkpoints._pending])
        checkpoints.check()
    except UserError as error:
        told = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.close()
    print(told)
"""


def test_what_cannot_be_written_leaves_what_was(tmp_path):
    """The system refuses to let files grow beyond some bytes, as a full disk would."""
    done = in_a_process(LIMITED, tmp_path)
    assert not done.stderr
    for limit, told in zip((0, 300, 1500, 3000), done.stdout.splitlines(), strict=True):
        folder = tmp_path / str(limit)
        assert told == (
            f"{folder}/checkpoints/30: can't be written (File too large); make room or make it "
            "writable; the same command then goes on from step 20"
        )
        assert Checkpoints(folder).latest_step() == 20
        assert steps_in(folder) == [10, 20]
        save(folder, SAVES[2:3])
        assert Checkpoints(folder, read_only=True).find("last") == 30


def in_a_process(code, *arguments, flags=""):
    """Runs code that finds this file's folder, then the given ones, in its arguments."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, (Path(__file__).parent, *arguments))],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
    )


def test_errors_of_the_program_keep_their_traceback(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="data type"):  # noqa: PT012
        checkpoints.save(
            state_of(1).replace(pool=np.array("text", object)),
            phase="first",
            ended=False,
            score=None,
        )
        checkpoints.close()


# Devices

OTHER_DEVICES = """
import sys
import jax
from jax.sharding import NamedSharding, PartitionSpec
sys.path.insert(0, sys.argv[1])
from test_checkpoint import state_of
from seqgan_jax.training.checkpoint import Checkpoints
mesh = jax.make_mesh((4,), ("data",))
rows = lambda x: PartitionSpec(*(["data"] if x.shape[:1] == (4,) else []))
like = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, rows(x))), state_of(0))
state = Checkpoints(sys.argv[2], read_only=True).restore(80, like)
assert all(len(leaf.sharding.device_set) == 4 for leaf in jax.tree.leaves(state))
assert state.baseline.addressable_shards[0].data.shape == (1,)
checkpoints = Checkpoints(sys.argv[3])
checkpoints.save(state, phase="first", ended=False, score=None)
checkpoints.close()
"""


def test_restores_on_another_number_of_devices(saved, tmp_path):
    """From one to four, sharded, and back."""
    in_a_process(OTHER_DEVICES, saved, tmp_path, flags="--xla_force_host_platform_device_count=4")
    restored = Checkpoints(tmp_path, read_only=True).restore(80, shapes(state_of(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, state_of(80))
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(restored))
