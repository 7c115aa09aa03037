"""A run that starts with what another has learned, by its configuration."""

import json
import runpy
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqgan_jax
from seqgan_jax.errors import UserError
from seqgan_jax.programs.run import Run
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]


def config_of(**changes):
    """A translator of words by few numbers, in two phases of nothing."""
    config = runpy.run_path(str(ROOT / "configs" / "translation.py"))["get_config"]("smoke")
    config.codec.update(kind="character", max_length=6, max_source_length=20)
    config.data.update(validation_size=4, test_size=4)
    config.phases.order = ("align", "pretrain_generator")
    config.update_from_flattened_dict(changes)
    return config.lock()


def run_of(workdir, **changes):
    with Progress(quiet=True) as progress:
        return Run(workdir, config_of(**changes), progress)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A run that is saved as if it had ended its phase `align`, without noise in the network."""
    workdir = tmp_path_factory.mktemp("aligned")
    run = run_of(workdir, **{"generator.noise_size": 0, "seed": 7})
    state = run.loop.initial_state().replace(phase_step=jnp.full((), 9, jnp.int32))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, phase="align", ended=True, score=-1.0)
    checkpoints.close()
    return workdir, jax.device_get(state)


def begun(run):
    """The state that a run's first step begins with."""
    checkpoints = Checkpoints(run.workdir)
    state = run.loop._newest_state(checkpoints, checkpoints.latest_step())
    checkpoints.close()
    return state


def test_a_run_starts_with_another_and_resumes_without_it(aligned, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(aligned[0], gone)
    options = {"init_from": str(gone), "phases.order": ("pretrain_generator",)}
    options |= {"phases.pretrain_generator.start_from": "", "seed": 7}
    run = run_of(tmp_path / "new", **options)
    state = begun(run)
    theirs, ours = aligned[1].generator.params, jax.device_get(state.generator.params)
    kernel = ours["start"].pop("kernel")
    expected = theirs | {"start": {"bias": theirs["start"]["bias"]}}
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    np.testing.assert_array_equal(kernel, np.pad(theirs["start"]["kernel"], ((0, 4), (0, 0))))
    jax.tree.map(np.testing.assert_array_equal, state.rollout, state.generator.params)
    checkpoints = Checkpoints(run.workdir)
    checkpoints.save(state, phase="pretrain_generator", ended=False, score=None)
    checkpoints.close()
    shutil.rmtree(gone)
    again = begun(run_of(tmp_path / "new", **options))
    jax.tree.map(np.testing.assert_array_equal, again.generator.params, state.generator.params)


def test_a_run_hands_on_what_it_was_given(aligned, tmp_path):
    """The second trains the discriminator alone; the third starts with the first's generator."""
    order = ("pretrain_discriminator", "pretrain_generator")
    options = {"init_from": str(aligned[0]), "phases.order": order, "seed": 8}
    options |= {"phases.pretrain_generator.start_from": "", "generator.noise_size": 0}
    second = run_of(tmp_path / "second", **options)
    state = begun(second).replace(phase_step=jnp.full((), 1, jnp.int32))
    checkpoints = Checkpoints(second.workdir)
    checkpoints.save(state, phase="pretrain_discriminator", ended=False, score=None)
    checkpoints.close()
    options |= {"init_from": str(second.workdir), "init_checkpoint": "last", "seed": 9}
    third = begun(run_of(tmp_path / "third", **options))
    ours, theirs = jax.device_get(third.generator.params), aligned[1].generator.params
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_what_can_not_be_started_with_is_refused(aligned, tmp_path):
    for words, changes in (
        (("config.init_from=", "no run here"), {"init_from": str(tmp_path)}),
        (("config.init_from=", "adversarial"), {"init_checkpoint": "adversarial"}),
        (("target vocabulary", "tokens there"), {"codec.kind": "word"}),
    ):
        options = {"init_from": str(aligned[0]), "seed": 7} | changes
        with pytest.raises(UserError) as caught:
            run_of(tmp_path / "refused", **options)
        assert all(word in str(caught.value) for word in words), caught.value
        assert not (tmp_path / "refused" / "config.json").exists()
        shutil.rmtree(tmp_path / "refused")


def test_a_length_penalty_orders_an_n_best_list(tiny_run):
    """By Wu et al. (2016), eq. 14; a search without one by log-probability."""
    model = seqgan_jax.load(tiny_run("translation"))
    for alpha in (0.0, 3.0):
        (found,) = model.generate(text="seven", beam_size=4, length_penalty=alpha)
        assert len(found.hypotheses) == 4
        measure = [h.log_prob * (6 / (5 + len(h.tokens))) ** alpha for h in found.hypotheses]
        assert measure == sorted(measure, reverse=True)
        rows = json.loads(json.dumps(model.task.row(found.name, found.sample)))
        assert len(rows["translations"]) == 4
    with pytest.raises(UserError, match="--length_penalty"):
        model.generate(text="seven", length_penalty=1.0)
