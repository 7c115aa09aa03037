"""What the tests share: one cache of compiled programs, and a configuration that trains in seconds.

The environment is set before anything imports JAX, and reaches the processes that tests start.
"""

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
# Tiny networks take far longer to compile than to run.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)

import numpy as np  # noqa: E402
import pytest  # noqa: E402

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
    """A run that nothing interrupted: its directory, and the run itself."""
    from seqgan_jax import program

    runs = []

    class Kept(program.Run):
        def __init__(self, *args):
            super().__init__(*args)
            runs.append(self)

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "Run", Kept)
        program.train(tiny(overrides), str(workdir), quiet=True)
    return workdir, runs[0]


@pytest.fixture(scope="session")
def finished_run(finished):
    """The directory of a run that nothing interrupted."""
    return finished[0]
