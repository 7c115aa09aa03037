"""What the tests share: one cache of compiled programs, and a configuration that trains in seconds.

The environment is set before anything imports JAX, and reaches the processes that tests start.
"""

import functools
import gc
import os
import runpy
import tempfile
from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="seqgan_jax-tests-")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SEQGAN_JAX_CACHE", _CACHE.name)
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(os.environ["SEQGAN_JAX_CACHE"], "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Tiny networks take far longer to compile than to run.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

# What JAX keeps of traced programs is much to look through, and none of it is garbage.
gc.set_threshold(100_000, 50, 100)

ROOT = Path(__file__).parents[1]
WORDS = ("a", "red", "green", "dog", "cat", "runs", "sits")


@pytest.fixture(scope="session")
def features_folder(tmp_path_factory):
    """16 sources of 2 positions with 3 features, and two captions of three words each."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    names = [f"{i}.jpg" for i in range(16)]
    np.savez(folder / "features.npz", ids=names, features=rng.normal(size=(16, 2, 3)))
    lines = [f"{name},{' '.join(rng.choice(WORDS, 3))}" for name in names for _ in range(2)]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    return folder


@pytest.fixture(scope="session")
def overrides(features_folder):
    """What makes configs/captions.py:smoke tiny, by the names that the command line takes."""
    order = smoke().phases.order
    values = {
        "data.source": "features",
        "data.path": str(features_folder),
        "data.validation_size": 4,
        "data.test_size": 4,
        "codec.max_length": 4,
        "encoder.kind": "features",
        "generator.num_layers": 1,
        "discriminator.num_layers": 1,
        "evaluation.batch_size": 4,
        "evaluation.validation_limit": 4,
        "evaluation.num_samples": 2,
        "evaluation.num_pictures": 1,
        "logging.every": 1,
        "logging.checkpoint_every": 2,
    }
    for phase in order:
        values |= {f"phases.{phase}.steps": 3, f"phases.{phase}.batch_size": 4}
        values |= {f"phases.{phase}.targets": 1, f"phases.{phase}.evaluate_every": 100}
    values |= {"phases.pretrain_generator.targets": 2, "phases.adversarial.steps": 6}
    values |= {"phases.finetune.freeze_turn": 2, "phases.calibrate.steps": 1}
    return values


@pytest.fixture
def tiny_config(overrides):
    """The configuration of a run of three steps a phase, six in the last."""
    return tiny(overrides)


def smoke():
    return runpy.run_path(str(ROOT / "configs" / "captions.py"))["get_config"]("smoke")


def tiny(overrides):
    config = smoke()
    config.update_from_flattened_dict(overrides)
    return config.lock()


@pytest.fixture(scope="session")
def finished(overrides, tmp_path_factory):
    """A run that nothing interrupted: its directory, and the run itself.

    `compiled` of the run is how many programs of its steps and of its evaluations it made.
    """
    from seqgan_jax.programs.run import Run, _steps
    from seqgan_jax.programs.train import train

    _steps.cache_clear()  # what it compiles is its own
    runs = []

    class Kept(Run):
        def __init__(self, *args):
            super().__init__(*args)
            runs.append(self)

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqgan_jax.programs.train.Run", Kept)
        train(tiny(overrides), str(workdir), quiet=True)
    (run,) = runs
    run.compiled = [f._cache_size() for f in (run.steps.train_step, run.steps.likelihood)]
    return workdir, run


@pytest.fixture(scope="session")
def finished_run(finished):
    """The directory of a run that nothing interrupted."""
    return finished[0]


@pytest.fixture(scope="session")
def begun(overrides, tmp_path_factory):
    """By a task's name, a tiny run as it begins: without networks.

    "pairs" is text that is written for features, "image" video without holes.
    """
    from seqgan_jax.programs.run import Run
    from seqgan_jax.reporting.progress import Progress

    @functools.cache
    def begun(task):
        file = {"pairs": "text", "image": "video"}.get(task, task)
        config = runpy.run_path(str(ROOT / "configs" / f"{file}.py"))["get_config"]("smoke")
        workdir = tmp_path_factory.mktemp(task)
        config.generator.num_layers = config.discriminator.num_layers = 1
        if task == "captions":
            config.update_from_flattened_dict(overrides)
            config.data.update(source="scenes", image_size=32)
            config.encoder.update(kind="convolutional", channels=(4, 4))
        elif task == "oracle":
            config.oracle.update(vocabulary=9, size=3)
            config.data.update(length=4, train_size=8, validation_size=6, test_size=6)
        elif task == "translation":
            config.codec.update(max_length=5, max_source_length=20)
        elif task == "speech":
            config.data.update(train_size=12, validation_size=2, test_size=2)
            config.codec.update(size=8, max_length=8)
        elif file == "video":
            config.data.update(train_size=12, validation_size=2, test_size=2)
            config.codec.update(size=8)
            if task == "image":
                config.hole.kinds = ()
                config.codec.reference = "none"
                config.encoder = {"kind": "none"}
                for name in config.phases.order[:-1]:
                    config.phases[name].generator.guided_attention = 0.0
                    config.phases[name].discriminator.mismatch = 0.0
        elif task == "pairs":
            path = tmp_path_factory.mktemp("pairs") / "pairs.npz"
            rng = np.random.default_rng(0)
            source, target = rng.normal(size=(60, 2, 3)), rng.integers(0, 9, (60, 5))
            np.savez(path, source=source, target=target)
            config.data.update(path=str(path))
            config.encoder.kind = "features"
            for name in config.phases.order:
                config.phases[name].batch_size = 4
        elif task == "text":
            lines = tmp_path_factory.mktemp("lines") / "lines.txt"
            rng = np.random.default_rng(0)
            words = [*WORDS, "the", "mat", "1", "3"]
            lines.write_text("\n".join(" ".join(rng.choice(words, 4)) for _ in range(60)))
            config.data.update(path=str(lines))
            config.codec.update(max_length=12)
            for name in config.phases.order:
                config.phases[name].batch_size = 4
        with Progress(quiet=True) as progress:
            return Run(workdir, config, progress)

    return begun


@pytest.fixture(scope="session")
def tiny_run(begun):
    """By a task's name, the directory of a run that has learned nothing, with one checkpoint."""
    import jax.numpy as jnp

    from seqgan_jax.core.rejection import Calibration
    from seqgan_jax.training.checkpoint import Checkpoints

    @functools.cache
    def tiny_run(task):
        run = begun(task)
        state = run.loop.initial_state()
        known = Calibration(*map(jnp.float32, (1.0, 0.0, 1.0, 0.0)))
        checkpoints = Checkpoints(run.workdir)
        state = state.replace(calibration=known)
        checkpoints.save(state, phase="adversarial", ended=True, score=None)
        checkpoints.close()
        return run.workdir

    return tiny_run


@pytest.fixture(scope="session")
def tiny_model(tiny_run):
    """The same, opened from Python."""
    import seqgan_jax

    return functools.cache(lambda task: seqgan_jax.load(tiny_run(task)))
