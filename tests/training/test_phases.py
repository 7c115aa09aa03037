"""The schedule: what a configuration says, what is refused, and the rates and turns of updates."""

import dataclasses
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from seqgan_jax.errors import UserError
from seqgan_jax.training import phases
from seqgan_jax.training.phases import DiscriminatorUpdate, GeneratorUpdate, Guard, Phase

ROOT = Path(__file__).parents[2]


def test_parse_takes_every_value_of_the_configuration(tiny_config):
    config = tiny_config.phases
    parsed = phases.parse(config)
    assert tuple(phase.name for phase in parsed) == config.order
    for phase in parsed:
        options = config[phase.name].to_dict()
        for network in ("generator", "discriminator"):
            update, wanted = getattr(phase, network), options.pop(network)
            assert (update is None) == (wanted["updates"] == 0)
            assert not any(wanted.pop("end").values())
            if phase.freeze == "alternate":
                wanted["updates"] = phase.freeze_turn
            for name, value in wanted.items() if update else ():
                assert getattr(update, name) == value
        assert vars(phase.stop) == options.pop("stop")
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
            {"adversarial.generator.estimator": "guess"},
            "config.phases.adversarial.generator.estimator: no estimator 'guess'; choose from "
            "rollout, dense, terminal, actions",
        ),
        (
            {
                "adversarial.generator.estimator": "actions",
                "adversarial.generator.baseline": "prefix",
            },
            "config.phases.adversarial.generator.baseline: 'prefix' is for the values of drawn "
            "tokens, and 'actions' has those of all; set 'position'",
        ),
        (
            {"adversarial.discriminator.classification": 0.0},
            "config.phases.adversarial.discriminator: no loss has a weight; set classification or "
            "mle",
        ),
        (
            {
                "adversarial.generator.estimator": "dense",
                "adversarial.generator.baseline": "prefix",
            },
            "config.phases.adversarial.generator.baseline: 'prefix' needs the values of prefixes, "
            "which rollouts estimate; set position or group",
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
        (
            {"adversarial.generator.baseline": "group"},
            "config.phases.adversarial.generator.group_size: 1 with the baseline 'group'; set 2 or "
            "more for group, 1 for any other",
        ),
        (
            {"adversarial.generator.normalise": "twice"},
            "config.phases.adversarial.generator.normalise: no normalisation 'twice'; choose from "
            "none, batch, rank",
        ),
        (
            {"adversarial.generator.reuse": 0},
            "config.phases.adversarial.generator.reuse: must be 1 or more",
        ),
        (
            {"adversarial.generator.clip_ratio": 1.0},
            "config.phases.adversarial.generator.clip_ratio: 1.0 is out of range; set 0 to 1",
        ),
        (
            {"pretrain_generator.generator.kl": 0.1},
            "config.phases.pretrain_generator.generator.kl: is of the sequences that the policy "
            "gradient samples; set policy_gradient too",
        ),
        (
            {"adversarial.discriminator.smoothing_generated": -0.1},
            "config.phases.adversarial.discriminator.smoothing_generated: -0.1 is no label; set 0 "
            "to 1",
        ),
        (
            {"adversarial.discriminator.band": (0.8, 0.6)},
            "config.phases.adversarial.discriminator.band: (0.8, 0.6) is no (low, high) of "
            "accuracies; set (0.6, 0.8), for example, or () for none",
        ),
        (
            {"adversarial.discriminator.band": (0.6, 0.8), "adversarial.discriminator.fresh": True},
            "config.phases.adversarial.discriminator.band: a discriminator that is drawn anew in "
            "every cycle must be trained in every cycle; set fresh to False, or band to ()",
        ),
        (
            {"finetune.freeze": "all"},
            "config.phases.finetune.freeze: no way 'all'; choose from none, discriminator, "
            "generator, alternate, both",
        ),
        (
            {"finetune.freeze": "generator", "finetune.discriminator.updates": 0},
            "config.phases.finetune.freeze: 'generator' leaves the discriminator to be trained, "
            "which has no updates; set config.phases.finetune.discriminator.updates",
        ),
        (
            {"finetune.generator.updates": 0},
            "config.phases.finetune.freeze: 'alternate' leaves the generator to be trained, "
            "which has no updates; set config.phases.finetune.generator.updates",
        ),
        ({"finetune.freeze_turn": 0}, "config.phases.finetune.freeze_turn: must be 1 or more"),
        (
            {"finetune.freeze": "both"},
            "config.phases.finetune.steps: 3 with both networks frozen; set 1, in which nothing is "
            "updated, or 0 to leave the phase out",
        ),
        (
            {"finetune.frozen": ("generator/(",)},
            "config.phases.finetune.frozen: 'generator/(' is no regular expression (missing ), "
            "unterminated subpattern at position 10)",
        ),
        (
            {"pretrain_generator.transfer": True},
            "config.phases.pretrain_generator.transfer: the discriminator is not trained here; set "
            "False",
        ),
        (
            {"adversarial.stop.patience": 2, "adversarial.stop.metrics": ()},
            "config.phases.adversarial.stop.metrics: names no figure; name one, or set patience to "
            "0",
        ),
        (
            {"order": ("finetune",)},
            "config.phases.finetune.freeze: 'alternate' is for networks that are trained, and no "
            "phase trains the generator before what it starts from; put one there in "
            "config.phases.order",
        ),
        (
            {"order": ("pretrain_generator", "calibrate")},
            "config.phases.calibrate.freeze: 'both' is for networks that are trained, and no phase "
            "trains the discriminator before what it starts from; put one there in "
            "config.phases.order",
        ),
        (
            {
                "order": ("pretrain_generator", "pretrain_discriminator", "finetune"),
                "finetune.start_from": "pretrain_generator",
            },
            "config.phases.finetune.freeze: 'alternate' is for networks that are trained, and no "
            "phase trains the discriminator before what it starts from; put one there in "
            "config.phases.order",
        ),
        (
            {
                "pretrain_generator.steps": 0,
                "order": ("pretrain_generator", "adversarial"),
                "adversarial.generator.kl": 1.0,
            },
            "config.phases.adversarial.generator.kl: its reference would be a generator that "
            "nothing has trained; put a phase that trains it before this one, or set 0",
        ),
        (
            {
                "order": ("pretrain_generator", "adversarial"),
                "adversarial.freeze": "none",
                "adversarial.discriminator.updates": 0,
            },
            "config.phases.adversarial.generator.policy_gradient: its rewards would be those of a "
            "discriminator that nothing trains; put a phase that trains it before this one",
        ),
        (
            {"pretrain_generator.start_from": "best"},
            "config.phases.pretrain_generator.start_from: 'best' of no phase before it; set ''",
        ),
        (
            {"finetune.start_from": "finetune"},
            "config.phases.finetune.start_from: 'finetune' is no phase before it; choose from "
            "best, pretrain_generator, pretrain_discriminator, adversarial, or set ''",
        ),
    ],
)
def test_parse_refuses_what_makes_no_sense(tiny_config, changes, message):
    tiny_config.phases.order = tiny_config.phases.order[1:]
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


@pytest.mark.parametrize("option", ["patience", "backoff", "limit", "entropy", "distinct"])
def test_guards_out_of_range_are_refused(tiny_config, option):
    assert vars(phases.parse_guard(tiny_config.guard)) == tiny_config.guard.to_dict()
    assert phases.parse_guard({}) == Guard()
    kind = type(tiny_config.guard[option])
    with pytest.raises(UserError, match=rf"^config\.guard\.{option}: -1.* is out of range; set "):
        phases.parse_guard(tiny_config.guard.to_dict() | {option: kind(-1)})


@pytest.mark.parametrize("task", ["captions", "oracle", "speech", "text", "translation", "video"])
def test_default_schedules_end_with_fine_tuning(task):
    """And all tasks know the other way of pre-training, which none takes by default."""
    config = runpy.run_path(str(ROOT / "configs" / f"{task}.py"))["get_config"]()
    parsed = phases.parse(config.phases)
    assert [phase.name for phase in parsed[-2:]] == ["finetune", "calibrate"]
    assert parsed[-2].freeze == "alternate"
    config.phases.order = ("pretrain_adversarial",)
    (alone,) = phases.parse(config.phases)
    assert alone.networks == phases.NETWORKS
    assert alone.generator.mle > 0
    assert alone.generator.updates == alone.discriminator.updates == 1
    assert alone.stop.metrics == ("nll", "discriminator_loss")


def test_weights_move_linearly(tiny_config):
    options = tiny_config.phases.adversarial.generator
    options.update(mle=1.0, entropy=0.0)
    options.end.update(mle=0.2, kl=0.5)
    update = phases.parse(tiny_config.phases)[3].generator
    assert hash(update)
    for done in (0.0, 0.25, 1.0):
        assert update.weight("mle", done) == pytest.approx(1 - 0.8 * done)
        assert update.weight("kl", done) == pytest.approx(0.5 * done)
        assert update.weight("policy_gradient", done) == 1.0
    assert [n for n in ("mle", "kl", "policy_gradient", "entropy") if update.has(n)] == [
        "mle",
        "kl",
        "policy_gradient",
    ]


@pytest.mark.parametrize(
    ("freeze", "turns"),
    [
        ("none", "gddgddgd"),
        ("discriminator", "gggggggg"),
        ("generator", "dddddddd"),
        ("alternate", "gggdddgg"),
    ],
)
def test_freeze_leaves_the_others_turns(tiny_config, freeze, turns):
    options = tiny_config.phases.finetune
    options.update(freeze=freeze, freeze_turn=3, steps=8)
    options.discriminator.updates = 2
    phase = phases.parse(tiny_config.phases)[-2]
    assert "".join(phase.network(step)[0] for step in range(8)) == turns
    assert {name[0] for name in phase.networks} == set(turns)


def test_both_frozen_is_a_phase_without_updates(tiny_config):
    phase = phases.parse(tiny_config.phases)[-1]
    assert (phase.networks, phase.steps, phase.cycle) == ((), 1, 0)


def test_external_rewards_need_whole_sequences_of_every_prefix(tiny_config):
    reward = {"function": "length", "weight": 0.5}
    schedule = phases.parse(tiny_config.phases)
    assert phases.parse_reward(reward, schedule) == phases.ExternalReward(**reward)
    update = dataclasses.replace(schedule[3].generator, rollout_every=2)
    schedule = (*schedule[:3], dataclasses.replace(schedule[3], generator=update), *schedule[4:])
    with pytest.raises(UserError, match=r"rollout_every: 2 with config"):
        phases.parse_reward(reward, schedule)
    assert phases.parse_reward({}, schedule).function == ""
    update = dataclasses.replace(update, estimator="actions")
    schedule = (dataclasses.replace(schedule[3], generator=update),)
    with pytest.raises(UserError, match=r"generator.estimator: 'actions'.* set dense or rollout"):
        phases.parse_reward(reward, schedule)


PATHS = ("generator/encoder/kernel", "generator/output/kernel", "discriminator/encoder/kernel")


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("encoder",), ["'encoder' matches no parameter", "discriminator/encoder, generator/enc"]),
        (("generator/encoder", "generator/out"), ["whole generator", "updates to 0"]),
        ((".*",), ["whole generator"]),
        ((".*/encoder",), ["whole discriminator"]),
    ],
)
def test_patterns_that_freeze_nothing_or_everything_are_refused(tiny_config, patterns, words):
    tiny_config.phases.adversarial.frozen = patterns
    parsed = phases.parse(tiny_config.phases)
    with pytest.raises(UserError) as caught:
        phases.check_frozen(parsed, PATHS)
    assert str(caught.value).startswith("config.phases.adversarial.frozen: ")
    for word in words:
        assert word in str(caught.value)
    tiny_config.phases.adversarial.frozen = (".*/out",)
    parsed = phases.parse(tiny_config.phases)
    phases.check_frozen(parsed, PATHS)
    assert [parsed[3].is_frozen(path) for path in PATHS] == [False, True, False]


def test_steps_that_do_the_same_share_a_program():
    constant = {"updates": 2, "batch_size": 0, "learning_rate": 1.0, "warmup": 3, "decay": 0.0}

    def phase(ours, theirs, **options):
        given = {"name": "a", "steps": 9, "batch_size": 2, "targets": 1, "evaluate_every": 1}
        given |= {"select": "nll", "transfer": False} | options
        ours = GeneratorUpdate(**constant | ours, mle=1.0)
        return Phase(
            **given, generator=ours, discriminator=DiscriminatorUpdate(**constant | theirs)
        )

    plain = phase({}, {})
    other = phase({"updates": 5}, {"batch_size": 3}, name="b", steps=7, select="x", freeze_turn=2)
    for network in plain.networks:
        assert plain.step_of(network) == other.step_of(network)
        assert plain.step_of(network).networks == (network,)
        assert plain.step_of(network) != phase({}, {}, frozen=("a",)).step_of(network)
    # What depends on the phase's length, or on the turns of both.
    for changes in ({"decay": 0.5}, {"end": (("mle", 0.0),)}):
        a, b = (phase(changes, {}, steps=steps).step_of("generator") for steps in (7, 9))
        assert a != b
    for changes in ({"fresh": True}, {"pool": 4}):
        a, b = (phase({"updates": n}, changes).step_of("discriminator") for n in (1, 2))
        assert a != b


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout_every": 0}, "rollout_every: must be 1 or more"),
        (
            {"guided_attention": 1.0, "mle": 0.0},
            "guided_attention: is of the attention with which maximum likelihood reads real "
            "targets; set mle too",
        ),
    ],
)
def test_what_speech_adds_is_refused_where_it_makes_no_sense(tiny_config, changes, message):
    with tiny_config.unlocked():
        tiny_config.phases.adversarial.generator.update(changes)
    with pytest.raises(UserError) as caught:
        phases.parse(tiny_config.phases)
    assert str(caught.value) == f"config.phases.adversarial.generator.{message}"


def test_work_counts_rollouts(tiny_config):
    update = {"updates": 1, "batch_size": 0, "learning_rate": 1.0, "warmup": 0, "decay": 0.0}
    parsed = phases.parse(tiny_config.phases)[0]
    plain = dataclasses.replace(
        parsed, steps=100, generator=GeneratorUpdate(**update, mle=1.0), discriminator=None
    )
    assert plain.work == 100
    # Of 20 updates one completes prefixes, and costs as much as six others.
    rolled = GeneratorUpdate(**update, policy_gradient=1.0)
    judged = DiscriminatorUpdate(**update | {"updates": 19})
    turns = dataclasses.replace(plain, generator=rolled, discriminator=judged)
    assert turns.work == pytest.approx(125)
    whole = dataclasses.replace(rolled, estimator="actions")
    assert dataclasses.replace(turns, generator=whole).work == 100
