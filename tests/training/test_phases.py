"""The schedule: what a configuration says, what is refused, and the rates and turns of updates."""

import math

import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.training import phases
from seqgan_jax.training.phases import DiscriminatorUpdate, GeneratorUpdate, Phase


def test_parse_takes_every_value_of_the_configuration(tiny_config):
    config = tiny_config.phases
    parsed = phases.parse(config)
    assert tuple(phase.name for phase in parsed) == config.order
    for phase in parsed:
        options = config[phase.name].to_dict()
        for network in ("generator", "discriminator"):
            update, wanted = getattr(phase, network), options.pop(network)
            assert (update is None) == (wanted["updates"] == 0)
            for name, value in wanted.items() if update else ():
                assert getattr(update, name) == value
        for name, value in options.items():
            assert getattr(phase, name) == value
        assert hash(phase) == hash(phases.parse(config)[parsed.index(phase)])


def test_parse_takes_the_order(tiny_config):
    tiny_config.phases.order = ("adversarial", "pretrain_generator")
    assert [p.name for p in phases.parse(tiny_config.phases)] == list(tiny_config.phases.order)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": ()}, "config.phases.order: names no phase; name at least one"),
        (
            {"pretrain_generator.generator.updates": 0},
            "config.phases.pretrain_generator: neither network is updated; "
            "give one of them updates",
        ),
        (
            {"adversarial.generator.updates": -1},
            "config.phases.adversarial.generator.updates: -1 is negative; set 0 or more",
        ),
        (
            {"adversarial.generator.reward": "praise"},
            "config.phases.adversarial.generator.reward: no reward 'praise'; choose from "
            "probability, log_ratio",
        ),
        (
            {"adversarial.generator.values": "guess"},
            "config.phases.adversarial.generator.values: no values 'guess'; choose from rollout, "
            "dense",
        ),
        (
            {"adversarial.generator.values": "dense", "adversarial.generator.baseline": "prefix"},
            "config.phases.adversarial.generator.baseline: 'prefix' needs the values of prefixes, "
            "which rollouts estimate; set position",
        ),
        (
            {"adversarial.generator.discount": 1.5},
            "config.phases.adversarial.generator.discount: 1.5 is out of range; set 0 to 1",
        ),
        (
            {"adversarial.generator.reward_clip": 0.0},
            "config.phases.adversarial.generator.reward_clip: 0.0 must be above 0",
        ),
        (
            {"pretrain_generator.generator.mle": 0.0, "pretrain_generator.generator.words": 0.0},
            "config.phases.pretrain_generator.generator: no loss has a weight; "
            "set mle or policy_gradient",
        ),
        (
            {"adversarial.generator.num_rollouts": 0},
            "config.phases.adversarial.generator.num_rollouts: must be 1 or more",
        ),
        (
            {"adversarial.targets": 2},
            "config.phases.adversarial.targets: more than 1 needs a phase of maximum likelihood "
            "alone; set 1",
        ),
        (
            {"pretrain_discriminator.batch_size": 1},
            "config.phases.pretrain_discriminator.batch_size: 1 leaves no other example to "
            "mismatch; set 2 or more",
        ),
        (
            {"pretrain_generator.batch_size": 0},
            "config.phases.pretrain_generator.batch_size: must be 1 or more",
        ),
        (
            {"pretrain_generator.evaluate_every": 0},
            "config.phases.pretrain_generator.evaluate_every: must be 1 or more",
        ),
        (
            {"pretrain_generator.steps": -5},
            "config.phases.pretrain_generator.steps: -5 is negative; set 0 or more",
        ),
    ],
)
def test_parse_refuses_what_makes_no_sense(tiny_config, changes, message):
    tiny_config.phases.order = ("pretrain_generator", "pretrain_discriminator", "adversarial")
    tiny_config.phases.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as caught:
        phases.parse(tiny_config.phases)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", ["warm_up", "order"])
def test_parse_refuses_an_unknown_phase_and_names_all_others(tiny_config, name):
    known = [key for key in tiny_config.phases if key != "order"]
    tiny_config.phases.order = (name,)
    with pytest.raises(UserError) as caught:
        phases.parse(tiny_config.phases)
    begin, _, choices = str(caught.value).partition("; choose from ")
    assert begin == f"config.phases.order: no phase '{name}'"
    assert sorted(choices.split(", ")) == sorted(known)


@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_rate_is_a_ramp_times_a_half_cosine(warmup, decay):
    update = GeneratorUpdate(updates=1, batch_size=0, learning_rate=0.5, warmup=warmup, decay=decay)
    for step in range(12):
        ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
        fallen = decay * math.sin(math.pi / 2 * min(step / 10, 1.0)) ** 2
        np.testing.assert_allclose(update.rate(step, 10), 0.5 * ramp * (1 - fallen), rtol=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [(1, 0), (0, 2), (1, 1), (2, 3)])
def test_networks_take_turns(ours, theirs):
    update = {"batch_size": 0, "learning_rate": 1.0, "warmup": 0, "decay": 0.0}
    phase = Phase(
        name="any",
        steps=12,
        batch_size=2,
        targets=1,
        evaluate_every=1,
        select="nll",
        transfer=False,
        generator=GeneratorUpdate(updates=ours, **update) if ours else None,
        discriminator=DiscriminatorUpdate(updates=theirs, **update) if theirs else None,
    )
    turn = ["generator"] * ours + ["discriminator"] * theirs
    assert phase.cycle == len(turn)
    assert [phase.network(step) for step in range(12)] == (turn * 12)[:12]
    for network in phase.networks:
        turns = [phase.network(step) == network for step in range(12)]
        before = [phase.updates_before(network, step) for step in range(12)]
        np.testing.assert_array_equal(before, np.cumsum(turns) - turns)
    for size in (1, 2, 5):
        for network in phase.networks:
            updated = [step for step in range(12) if phase.network(step) == network]
            # The first of each window, found by looking at the windows one by one.
            windows = {step // size: step for step in reversed(updated)}
            found = [step for step in updated if phase.first_in_window(step, size)]
            assert found == sorted(windows.values())
