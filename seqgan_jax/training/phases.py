"""The schedule of a run: phases, each a cycle of updates of one network or of both in turn."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import chex
import jax.numpy as jnp
import ml_collections
import optax

from seqgan_jax.core.rewards import NORMALISATIONS, REWARDS
from seqgan_jax.errors import UserError
from seqgan_jax.training import optimizers

NETWORKS = ("generator", "discriminator")
BASELINES = ("position", "prefix", "group")
ESTIMATORS = ("rollout", "dense", "terminal", "actions")
FREEZES = ("none", "discriminator", "generator", "alternate", "both")


@dataclasses.dataclass(frozen=True)
class Update:
    """What updates of both networks have in common.

    Attributes:
      updates: how many of them in one cycle of the phase.
      batch_size: sources of its batches over all processes; 0 for the phase's.
      learning_rate: its value after the warm-up.
      warmup: over how many steps of the phase it rises from 0.
      decay: share of the learning rate that has gone by the phase's end, along a half cosine.
      end: weights of losses at the phase's end, (name, weight) each: from its value at the start
        such a weight changes linearly over the phase's steps.
      optimizer: 'adam' or 'muon'; see `training.optimizers`.
    """

    updates: int
    batch_size: int
    learning_rate: float
    warmup: int
    decay: float
    end: tuple[tuple[str, float], ...] = ()
    optimizer: str = "adam"

    def rate(self, phase_step: chex.Array, phase_steps: int) -> chex.Array:
        """The learning rate at a step of the phase: a linear warm-up times a half cosine."""
        rising = max(self.warmup, 1)
        warm = optax.linear_schedule(1 / rising, 1.0, rising - 1)
        fall = optax.cosine_decay_schedule(1.0, max(phase_steps, 1), alpha=1 - self.decay)
        return self.learning_rate * warm(phase_step) * fall(phase_step)

    def has(self, name: str) -> bool:
        """Whether a loss ever has a weight."""
        return bool(getattr(self, name) or dict(self.end).get(name))

    def weight(self, name: str, done: chex.Array) -> chex.Array | float:
        """The weight of a loss when the share `done` of the phase's steps is done."""
        start, end = getattr(self, name), dict(self.end).get(name)
        return start if end is None else start + (end - start) * done


@dataclasses.dataclass(frozen=True)
class GeneratorUpdate(Update):
    """One update of the generator.

    Attributes:
      mle: weight of the maximum-likelihood loss on real targets.
      words: weight of the loss of predicting which words the source's real targets use.
      guided_attention: weight of the loss on attention, over the source, to real targets that
        doesn't go forward at an even pace (`core.losses.guided_attention`).
      policy_gradient: weight of the policy-gradient loss on sampled sequences.
      entropy: weight of the entropy bonus on sampled sequences.
      kl: weight of the divergence from the generator as it was at the phase's start, on sampled
        sequences.
      feature_matching: weight, in a sampled sequence's reward, of minus its distance from real
        ones in the discriminator's features.
      reward: a name in `core.rewards.REWARDS`.
      estimator: where a token's action value comes from: 'rollout', the mean reward of completions;
        'dense', the discounted sum of the rewards of this and all later prefixes, for each of which
        the discriminator has a logit, and nothing is rolled out; 'terminal', the reward of the
        whole sequence, for each of its tokens (Williams, 1992); or 'actions', the reward of each
        possible token at once, over which the policy gradient is then summed rather than sampled
        (Sutton et al., 2000, theorem 1, with the states' distribution as it is and no future), for
        a discriminator that has a logit for each.
      discount: gamma, of dense values; see `core.rewards.discounted`.
      reward_clip: the largest magnitude of a logit in the estimators 'dense' and 'actions'.
      num_rollouts: N, completions of each prefix.
      rollout_chunk: how many prefixes complete together; bounds memory.
      rollout_every: n, completes every n-th prefix; values between them are interpolated.
      rollout_decay: how much of the rollout policy stays at an update.
      baseline: what is subtracted from a token's action value: 'position', a moving average for
        each position; 'prefix', the value of the prefix that the token was added to, which the
        rollouts of the token before have estimated (Kazemnejad et al., 2024, arXiv:2410.01679),
        the first token has the moving average; or 'group', the mean value at the same position of
        the other sequences that were sampled for the source (`core.rewards.group_baseline`).
      baseline_decay: how much of the moving average stays at an update.
      group_size: sequences sampled for each source; more than one with the baseline 'group'.
      normalise: a name in `core.rewards.NORMALISATIONS`, applied to the advantages of a batch.
      consistency: what `mle` is multiplied by for texts without a translation, each of which is
        reconstructed from how the other of two translators translates it; only in a phase with
        `reverse`.
      reuse: how many times the optimiser steps on one batch of samples and values, within one
        update; more than one with an importance ratio.
      clip_ratio: how far that ratio may be from 1 before it gives no gradient.
    """

    mle: float = 0.0
    words: float = 0.0
    guided_attention: float = 0.0
    policy_gradient: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    feature_matching: float = 0.0
    consistency: float = 0.0
    reward: str = "probability"
    estimator: str = "rollout"
    discount: float = 0.0
    reward_clip: float = 2.0
    num_rollouts: int = 4
    rollout_chunk: int = 4
    rollout_every: int = 1
    rollout_decay: float = 0.8
    baseline: str = "prefix"
    baseline_decay: float = 0.9
    group_size: int = 1
    normalise: str = "none"
    reuse: int = 1
    clip_ratio: float = 0.2


@dataclasses.dataclass(frozen=True)
class DiscriminatorUpdate(Update):
    """One update of the discriminator.

    Attributes:
      classification: weight of the loss of telling real sequences from generated ones. Without it
        nothing is generated.
      mle: weight of the maximum likelihood of real sequences, for a discriminator that has language
        models.
      smoothing: the label of real pairs.
      smoothing_generated: the label of generated and of mismatched ones.
      mismatch: weight of real sequences with another example's source, as negatives.
      per_step: weight of the loss on every prefix; the rest is on whole sequences.
      gradient_penalty: weight of the squared gradient of real sequences' logits by their
        embeddings.
      pool: how many generated sequences are written at once and then learnt from for `epochs`
        epochs, as in Yu et al. (2017); 0 for new ones at every update.
      epochs: see `pool`.
      fresh: whether its parameters and optimiser are drawn anew at its first update in every cycle.
        One that is trained for long memorises the real sequences, and then teaches the generator
        to.
      band: the accuracy on held-out data that its turns are to keep it in, (low, high): above
        `high` they are skipped until it is below `low`; () for none skipped.
      band_every: steps of the phase between measurements of that accuracy.
    """

    classification: float = 1.0
    mle: float = 0.0
    smoothing: float = 0.9
    smoothing_generated: float = 0.0
    mismatch: float = 0.0
    per_step: float = 0.0
    gradient_penalty: float = 0.0
    pool: int = 0
    epochs: int = 1
    fresh: bool = False
    band: tuple[float, ...] = ()
    band_every: int = 20


@dataclasses.dataclass(frozen=True)
class Stop:
    """When a phase ends before its steps are done.

    Attributes:
      metrics: held-out figures, by name.
      patience: after how many evaluations in a row in which none of them improved; 0 for never.
      min_change: what counts as an improvement on the best value so far.
      regain: whether it is also evaluated before its first step, and ends at the first evaluation
        in which all of them are no worse than then.
    """

    metrics: tuple[str, ...] = ("nll",)
    patience: int = 0
    min_change: float = 0.0
    regain: bool = False


@dataclasses.dataclass(frozen=True)
class Guard:
    """What happens when training breaks.

    Attributes:
      patience: after how many updates in a row whose loss or gradient was not finite, and which
        were therefore skipped, the run goes back to its last checkpoint.
      backoff: what the learning rates are multiplied by then, for the rest of the phase.
      limit: how often in a phase it goes back before it stops with an error.
      entropy: below which share of the phase's first entropy of samples, per token, they count as
        collapsed; 0 for never.
      distinct: below which share of different sequences among an evaluation's; 0 for never.
      stop: whether a phase ends where they have collapsed; there is a warning in any case.
    """

    patience: int = 5
    backoff: float = 0.5
    limit: int = 3
    entropy: float = 0.2
    distinct: float = 0.05
    stop: bool = False


@dataclasses.dataclass(frozen=True)
class Rejection:
    """How the discriminator chooses among what the generator draws; see `core.rejection`.

    Attributes:
      rate: about the share of draws that is accepted, on validation data.
      tries: draws for a sample at most; the last of them is kept whatever it is.
    """

    rate: float = 0.25
    tries: int = 40


@dataclasses.dataclass(frozen=True)
class ExternalReward:
    """A reward beside the discriminator's; see `training.external`.

    Attributes:
      function: a metric's name or package.module:function; '' for none.
      weight: w of (1 - w) times the discriminator's reward plus w times this one.
    """

    function: str = ""
    weight: float = 0.0


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase; hashable, so that a step is compiled once for each.

    Attributes:
      name: its name in the configuration.
      steps: its length in updates, at most.
      batch_size: sources of a batch over all processes, for networks that don't say otherwise.
      targets: real sequences for each source; more than one only where nothing but the maximum
        likelihood is trained.
      evaluate_every: updates between evaluations on validation data.
      select: the validation metric by which the phase's best checkpoint is chosen.
      transfer: whether the discriminator starts with the generator's parameters wherever names and
        shapes agree, or with the first rows where the generator's also read noise: both read the
        source and the words alike.
      generator: its updates, or None where the generator stays as it is.
      discriminator: its updates, or None.
      freeze: the network that stays as it is whatever its updates say; 'alternate' for one network
        at a time, the discriminator frozen first; 'both' for a phase of one step that updates
        nothing.
      freeze_turn: steps until 'alternate' changes over.
      frozen: regular expressions for the beginnings of the paths of parameters that stay as they
        are, such as 'generator/encoder'.
      start_from: whose parameters it starts with: '' for those that the phase before ended with,
        'best' for the best of the phase before, or the name of a phase for its end.
      stop: when it ends before its steps are done.
      noise: whether its generator reads noise. Where it doesn't, z is 0, and the weights by which z
        is read start and stay at 0: the next phase starts with outputs that are the same for all z.
      reverse: whether a second generator, which translates targets to sources, is trained along by
        updates as those of the first.
    """

    name: str
    steps: int
    batch_size: int
    targets: int
    evaluate_every: int
    select: str
    transfer: bool
    generator: GeneratorUpdate | None
    discriminator: DiscriminatorUpdate | None
    freeze: str = "none"
    freeze_turn: int = 1
    frozen: tuple[str, ...] = ()
    start_from: str = ""
    stop: Stop = Stop()
    noise: bool = True
    reverse: bool = False

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it updates."""
        return tuple(name for name in NETWORKS if getattr(self, name))

    @property
    def all_networks(self) -> tuple[str, ...]:
        """The same, and 'reverse' where the reverse translator is trained along."""
        return (*self.networks, "reverse") if self.reverse else self.networks

    @property
    def cycle(self) -> int:
        """Updates in a cycle: the generator's turns, then the discriminator's."""
        return sum(u.updates for u in (self.generator, self.discriminator) if u)

    def updates_before(self, network: str, phase_step: chex.Array) -> chex.Array:
        """How many of the phase's first `phase_step` updates are those of a network."""
        ours = self.generator.updates if self.generator else 0
        whole, rest = jnp.divmod(phase_step, self.cycle)
        if network == "generator":
            return whole * ours + jnp.minimum(rest, ours)
        return whole * (self.cycle - ours) + jnp.maximum(rest - ours, 0)

    @property
    def only_likelihood(self) -> bool:
        """Whether real sequences are all that it looks at, so that nothing is sampled."""
        update = self.generator
        return bool(update) and not self.discriminator and not update.has("policy_gradient")

    @property
    def uses_rewards(self) -> bool:
        """Whether its generator learns from rewards of what it samples."""
        return bool(self.generator) and self.generator.has("policy_gradient")

    @property
    def work(self) -> float:
        """Roughly what all its steps cost, in updates without rollouts; one with them costs six."""
        rolled = self.uses_rewards and self.generator.estimator == "rollout"
        return self.steps * (1 + (5 * self.generator.updates / self.cycle if rolled else 0))

    def sources(self, network: str) -> int:
        """Sources of a network's batches."""
        return getattr(self, network).batch_size or self.batch_size

    def network(self, phase_step: int) -> str:
        """Which network step `phase_step` updates."""
        ours = self.generator.updates if self.generator else 0
        return "generator" if phase_step % self.cycle < ours else "discriminator"

    def step_of(self, network: str) -> "Phase":
        """The phase with all of it blank that a step of a network doesn't depend on.

        Phases whose steps do the same then share one compiled program.
        """
        update = getattr(self, network)
        updates = {network: dataclasses.replace(update, updates=1, batch_size=0)}
        if network == "discriminator" and (update.fresh or update.pool):  # it counts its turns
            updates = {name: getattr(self, name) for name in self.networks}
        return Phase(
            name="",
            steps=self.steps if update.decay or update.end else 1,
            batch_size=1,
            targets=1,
            evaluate_every=1,
            select="",
            transfer=False,
            frozen=self.frozen,
            noise=self.noise,
            reverse=self.reverse,
            **{"generator": None, "discriminator": None} | updates,
        )

    def is_frozen(self, path: str) -> bool:
        """Whether `frozen` names a parameter, 'generator/encoder/...' for example."""
        return any(re.match(pattern, path) for pattern in self.frozen)

    def first_in_window(self, phase_step: int, size: int) -> bool:
        """Whether step `phase_step` is its network's first in a window of `size` steps.

        Such steps are logged: at most one in `size` of either network, and one at least of each of
        its turns where the other's turns are longer than that.
        """
        network = self.network(phase_step)
        ours = getattr(self, network).updates
        within = phase_step % self.cycle - (self.cycle - ours) * (network == "discriminator")
        previous = phase_step - 1 - (0 if within else self.cycle - ours)
        return previous < phase_step - phase_step % size


# From a configuration, with its mistakes.


def parse(config: ml_collections.ConfigDict, trained: Sequence[str] = ()) -> tuple[Phase, ...]:
    """The phases of `config.phases`, in their order.

    Args:
      config: see there.
      trained: the networks that the first phase starts with as another run has trained them.

    Raises:
      UserError: where a phase is named that does not exist, or makes no sense, or makes none there.
    """
    if not config.order:
        raise UserError("config.phases.order: names no phase; name at least one")
    phases = []
    for name in config.order:
        where = f"config.phases.{name}"
        if name == "order" or name not in config:
            known = ", ".join(key for key in config if key != "order")
            raise UserError(f"config.phases.order: no phase '{name}'; choose from {known}")
        options = config[name].to_dict()
        phase = Phase(
            name,
            generator=_update(GeneratorUpdate, options.pop("generator"), f"{where}.generator"),
            discriminator=_update(
                DiscriminatorUpdate, options.pop("discriminator"), f"{where}.discriminator"
            ),
            stop=Stop(**options.pop("stop", {})),
            **options,
        )
        phase = _with_freeze(phase, where)
        _check_phase(phase, where)
        for network in phase.networks:
            update = getattr(phase, network)
            _choose(update.optimizer, optimizers.NAMES, f"{where}.{network}.optimizer")
        if phase.generator:
            _check_generator(phase, f"{where}.generator")
        if phase.discriminator:
            _check_discriminator(phase, f"{where}.discriminator")
        phases.append(phase)
    check_order(phases, trained)
    return tuple(phases)


def parse_guard(config: ml_collections.ConfigDict) -> Guard:
    """The guard of `config.guard`.

    Raises:
      UserError: for a value out of its range.
    """
    guard = Guard(**config)
    for option, low, high in (
        ("patience", 1, None),
        ("limit", 0, None),
        ("backoff", 0, 1),
        ("entropy", 0, 1),
        ("distinct", 0, 1),
    ):
        value = getattr(guard, option)
        if value < low or (high is not None and value > high):
            limits = f"{low} or more" if high is None else f"{low} to {high}"
            raise UserError(f"config.guard.{option}: {value} is out of range; set {limits}")
    return guard


def parse_rejection(config: ml_collections.ConfigDict) -> Rejection:
    """The options of `config.rejection`.

    Raises:
      UserError: for a value out of its range.
    """
    options = Rejection(**config)
    if not 0 < options.rate < 1:
        raise UserError(f"config.rejection.rate: {options.rate} is out of range; set 0 to 1")
    if options.tries < 1:
        raise UserError(f"config.rejection.tries: {options.tries} is too few; set 1 or more")
    return options


def parse_reward(config: ml_collections.ConfigDict, phases: Sequence[Phase]) -> ExternalReward:
    """The external reward of `config.reward`.

    Raises:
      UserError: for one that makes no sense, or none in these phases.
    """
    options = ExternalReward(**config)
    if not 0 <= options.weight <= 1:
        raise UserError(f"config.reward.weight: {options.weight} is out of range; set 0 to 1")
    if bool(options.function) != bool(options.weight):
        raise UserError(
            f"config.reward: function '{options.function}' with weight {options.weight}; set both, "
            "or neither"
        )
    rewarded = [phase for phase in phases if phase.uses_rewards]
    if options.function and not rewarded:
        raise UserError(
            "config.reward.function: no phase has a policy gradient; set generator.policy_gradient "
            "in one, or function to ''"
        )
    for phase in rewarded if options.function else ():
        where, update = f"config.phases.{phase.name}.generator", phase.generator
        if update.estimator == "actions":
            raise UserError(
                f"{where}.estimator: 'actions' are of tokens that nobody drew, and an external "
                "reward is of whole sequences; set dense or rollout"
            )
        if update.estimator == "rollout" and update.rollout_every > 1:
            raise UserError(
                f"{where}.rollout_every: {update.rollout_every} with config.reward.function, which "
                "needs the completions of every prefix; set 1"
            )
    return options


def _update(kind: type, options: Mapping, where: str) -> Update | None:
    ends = options.pop("end", None) or {}
    ends = tuple((name, value) for name, value in ends.items() if value is not None)
    update = kind(**options, end=ends)
    for option in ("updates", "batch_size"):
        value = getattr(update, option)
        if value < 0:
            raise UserError(f"{where}.{option}: {value} is negative; set 0 or more")
    return update if update.updates else None


def _with_freeze(phase: Phase, where: str) -> Phase:
    """The phase without the updates of frozen networks, and with the turns of `alternate`."""
    freeze = phase.freeze
    if freeze not in FREEZES:
        raise UserError(f"{where}.freeze: no way '{freeze}'; choose from {', '.join(FREEZES)}")
    if freeze == "both":
        return dataclasses.replace(phase, generator=None, discriminator=None)
    if freeze == "none":
        return phase
    trained = {"discriminator": ("generator",), "generator": ("discriminator",)}
    for network in trained.get(freeze, NETWORKS):
        if not getattr(phase, network):
            raise UserError(
                f"{where}.freeze: '{freeze}' leaves the {network} to be trained, which has no "
                f"updates; set {where}.{network}.updates"
            )
    if freeze != "alternate":
        return dataclasses.replace(phase, **{freeze: None})
    if phase.freeze_turn < 1:
        raise UserError(f"{where}.freeze_turn: must be 1 or more")
    turns = {
        network: dataclasses.replace(getattr(phase, network), updates=phase.freeze_turn)
        for network in phase.networks
    }
    return dataclasses.replace(phase, **turns)


def _check_phase(phase: Phase, where: str) -> None:
    if phase.steps < 0:
        raise UserError(f"{where}.steps: {phase.steps} is negative; set 0 or more")
    if phase.freeze == "both":
        if phase.steps > 1:
            raise UserError(
                f"{where}.steps: {phase.steps} with both networks frozen; set 1, in which nothing "
                "is updated, or 0 to leave the phase out"
            )
    elif not phase.networks:
        raise UserError(f"{where}: neither network is updated; give one of them updates")
    for option in ("batch_size", "targets", "evaluate_every"):
        if getattr(phase, option) < 1:
            raise UserError(f"{where}.{option}: must be 1 or more")
    if phase.targets > 1 and phase.networks and not phase.only_likelihood:
        raise UserError(
            f"{where}.targets: more than 1 needs a phase of maximum likelihood alone; set 1"
        )
    if phase.transfer and not phase.discriminator:
        raise UserError(f"{where}.transfer: the discriminator is not trained here; set False")
    for pattern in phase.frozen:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{where}.frozen: '{pattern}' is no regular expression ({error})"
            ) from error
    if phase.stop.patience < 0 or phase.stop.min_change < 0:
        raise UserError(f"{where}.stop: patience and min_change must be 0 or more")
    if (phase.stop.patience or phase.stop.regain) and not phase.stop.metrics:
        never = "patience to 0" if phase.stop.patience else "regain to False"
        raise UserError(f"{where}.stop.metrics: names no figure; name one, or set {never}")
    if not phase.noise and not phase.only_likelihood:
        raise UserError(
            f"{where}.noise: False is for a phase of maximum likelihood alone; set True"
        )
    if phase.reverse and phase.frozen:
        raise UserError(
            f"{where}.frozen: names no parameters of the reverse translator, which is trained "
            "along; set (), or reverse to False"
        )
    if phase.reverse and not (phase.only_likelihood and phase.targets == 1):
        raise UserError(
            f"{where}.reverse: True is for a phase of maximum likelihood alone, one target a "
            "source; set False"
        )


def _choose(value: str, known: Sequence[str], where: str) -> None:
    option = where.rpartition(".")[2]
    if value not in known:
        raise UserError(f"{where}: no {option} '{value}'; choose from {', '.join(known)}")


def _check_generator(phase: Phase, where: str) -> None:
    update = phase.generator
    _choose(update.reward, tuple(REWARDS), f"{where}.reward")
    _choose(update.baseline, BASELINES, f"{where}.baseline")
    _choose(update.estimator, ESTIMATORS, f"{where}.estimator")
    if update.normalise not in NORMALISATIONS:
        raise UserError(
            f"{where}.normalise: no normalisation '{update.normalise}'; choose from "
            f"{', '.join(NORMALISATIONS)}"
        )
    if update.estimator in ("dense", "terminal") and update.baseline == "prefix":
        raise UserError(
            f"{where}.baseline: 'prefix' needs the values of prefixes, which rollouts estimate; "
            "set position or group"
        )
    if update.estimator == "actions":
        for option, only in (
            ("baseline", "position"),
            ("normalise", "none"),
            ("reuse", 1),
            ("feature_matching", 0.0),
        ):
            if getattr(update, option) != only:
                raise UserError(
                    f"{where}.{option}: {getattr(update, option)!r} is for the values of drawn "
                    f"tokens, and 'actions' has those of all; set {only!r}"
                )
    if (update.baseline == "group") != (update.group_size > 1):
        raise UserError(
            f"{where}.group_size: {update.group_size} with the baseline '{update.baseline}'; set "
            "2 or more for group, 1 for any other"
        )
    if not 0 <= update.discount <= 1:
        raise UserError(f"{where}.discount: {update.discount} is out of range; set 0 to 1")
    if not update.reward_clip > 0:
        raise UserError(f"{where}.reward_clip: {update.reward_clip} must be above 0")
    if not 0 < update.clip_ratio < 1:
        raise UserError(f"{where}.clip_ratio: {update.clip_ratio} is out of range; set 0 to 1")
    for option in ("num_rollouts", "rollout_every", "reuse"):
        if getattr(update, option) < 1:
            raise UserError(f"{where}.{option}: must be 1 or more")
    if update.has("guided_attention") and not update.has("mle"):
        raise UserError(
            f"{where}.guided_attention: is of the attention with which maximum likelihood reads "
            "real targets; set mle too"
        )
    if update.has("consistency") and not update.has("mle"):
        raise UserError(
            f"{where}.consistency: is how much maximum likelihood counts for texts without a "
            "translation; set mle too"
        )
    if update.has("consistency") and not phase.reverse:
        raise UserError(
            f"{where}.consistency: needs a reverse translator; set config.phases.{phase.name}."
            "reverse to True, or 0"
        )
    if not any(map(update.has, ("mle", "words", "policy_gradient"))):
        raise UserError(f"{where}: no loss has a weight; set mle or policy_gradient")
    if not update.has("policy_gradient"):
        for option in ("entropy", "kl", "feature_matching"):
            if update.has(option):
                raise UserError(
                    f"{where}.{option}: is of the sequences that the policy gradient samples; set "
                    "policy_gradient too"
                )


def _check_discriminator(phase: Phase, where: str) -> None:
    update = phase.discriminator
    sources = phase.sources("discriminator")
    if update.has("mismatch") and sources < 2:
        raise UserError(
            f"config.phases.{phase.name}.batch_size: 1 leaves no other example to mismatch; set 2 "
            "or more"
        )
    if update.pool and (update.pool < sources or update.epochs < 1):
        raise UserError(
            f"{where}.pool: {update.pool} for {update.epochs} epochs is less than a batch; set 0 "
            "or a batch at least, and 1 epoch or more"
        )
    for option in ("smoothing", "smoothing_generated"):
        if not 0 <= getattr(update, option) <= 1:
            raise UserError(f"{where}.{option}: {getattr(update, option)} is no label; set 0 to 1")
    if not any(map(update.has, ("classification", "mle"))):
        raise UserError(f"{where}: no loss has a weight; set classification or mle")
    if not update.band:
        return
    if len(update.band) != 2 or not 0 <= update.band[0] <= update.band[1] <= 1:
        raise UserError(
            f"{where}.band: {update.band} is no (low, high) of accuracies; set (0.6, 0.8), for "
            "example, or () for none"
        )
    if update.band_every < 1:
        raise UserError(f"{where}.band_every: must be 1 or more")
    if update.fresh:
        raise UserError(
            f"{where}.band: a discriminator that is drawn anew in every cycle must be trained in "
            "every cycle; set fresh to False, or band to ()"
        )


def check_order(phases: Sequence[Phase], given: Sequence[str]) -> None:
    """Refuses what needs that an earlier phase has trained something, where none has.

    Args:
      phases: the schedule.
      given: the networks that the first phase starts with as another run has trained them.

    Raises:
      UserError: names the phase and the option.
    """
    trained = set(given)
    done: dict[str, set[str]] = {}  # what was trained at each phase's end
    for phase in phases:
        if not phase.steps:
            continue
        where = f"config.phases.{phase.name}"
        trained = set(done.get(phase.start_from, trained))
        missing = [name for name in NETWORKS if name not in trained]
        if phase.freeze != "none" and missing:
            raise UserError(
                f"{where}.freeze: '{phase.freeze}' is for networks that are trained, and no phase "
                f"trains the {missing[0]} before what it starts from; put one there in "
                "config.phases.order"
            )
        update = phase.generator
        if update and update.has("kl") and "generator" in missing:
            raise UserError(
                f"{where}.generator.kl: its reference would be a generator that nothing has "
                "trained; put a phase that trains it before this one, or set 0"
            )
        learns = update and update.has("policy_gradient") and not phase.discriminator
        if learns and "discriminator" in missing:
            raise UserError(
                f"{where}.generator.policy_gradient: its rewards would be those of a discriminator "
                "that nothing trains; put a phase that trains it before this one"
            )
        if update and update.has("consistency") and "reverse" not in trained:
            raise UserError(
                f"{where}.generator.consistency: nothing before it has trained the reverse "
                "translator; put a phase with reverse=True and without consistency before this one"
            )
        if phase.stop.regain and "generator" in missing:
            raise UserError(
                f"{where}.stop.regain: nothing before it has trained the generator, so that it "
                "would end at once; put a phase that trains it before this one, or set False"
            )
        if phase.start_from == "best" and not done:
            raise UserError(f"{where}.start_from: 'best' of no phase before it; set ''")
        if phase.start_from not in ("", "best", *done):
            raise UserError(
                f"{where}.start_from: '{phase.start_from}' is no phase before it; choose from "
                f"{', '.join(('best', *done))}, or set ''"
            )
        trained |= set(phase.all_networks)
        done[phase.name] = set(trained)


def check_frozen(phases: Sequence[Phase], paths: Sequence[str]) -> None:
    """Refuses patterns in `frozen` that freeze nothing, or all that a phase trains.

    Args:
      phases: the schedule.
      paths: of all parameters, 'generator/...' and 'discriminator/...'.

    Raises:
      UserError: names the pattern, or the network.
    """
    for phase in phases:
        where = f"config.phases.{phase.name}.frozen"
        for pattern in phase.frozen:
            if not any(re.match(pattern, path) for path in paths):
                some = sorted({"/".join(path.split("/")[:2]) for path in paths})
                raise UserError(
                    f"{where}: '{pattern}' matches no parameter; they are {', '.join(some)}"
                )
        for network in phase.networks:
            left = [phase.is_frozen(path) for path in paths if path.startswith(f"{network}/")]
            if all(left):
                raise UserError(
                    f"{where}: freezes the whole {network}, a frozen network can't be trained; "
                    f"leave a part of it, or set config.phases.{phase.name}.{network}.updates to 0"
                )
            if network == "discriminator" and phase.discriminator.fresh and any(left):
                raise UserError(
                    f"{where}: a part of a discriminator that is drawn anew in every cycle; set "
                    f"config.phases.{phase.name}.discriminator.fresh to False"
                )
