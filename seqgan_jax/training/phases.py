"""The schedule of a run: phases, each a cycle of updates of one network or of both in turn."""

import dataclasses
import math

import chex
import jax.numpy as jnp
import ml_collections

from seqgan_jax.core.rewards import REWARDS
from seqgan_jax.errors import UserError

BASELINES = ("position", "prefix")
VALUES = ("rollout", "dense")


@dataclasses.dataclass(frozen=True)
class Update:
    """What updates of both networks have in common.

    Attributes:
      updates: how many of them in one cycle of the phase.
      batch_size: sources of its batches over all processes; 0 for the phase's.
      learning_rate: its value after the warm-up.
      warmup: over how many steps of the phase it rises from 0.
      decay: share of the learning rate that has gone by the phase's end, along a half cosine.
    """

    updates: int
    batch_size: int
    learning_rate: float
    warmup: int
    decay: float

    def rate(self, phase_step: chex.Array, phase_steps: int) -> chex.Array:
        """The learning rate at a step of the phase."""
        warm = jnp.minimum(1.0, (phase_step + 1) / max(self.warmup, 1))
        done = jnp.minimum(1.0, phase_step / max(phase_steps, 1))
        return self.learning_rate * warm * (1 - self.decay * 0.5 * (1 - jnp.cos(math.pi * done)))


@dataclasses.dataclass(frozen=True)
class GeneratorUpdate(Update):
    """One update of the generator.

    Attributes:
      mle: weight of the maximum-likelihood loss on real targets.
      words: weight of the loss of predicting which words the source's real targets use.
      policy_gradient: weight of the policy-gradient loss on sampled sequences.
      entropy: weight of the entropy bonus on sampled sequences.
      reward: a name in `core.rewards.REWARDS`.
      values: where a token's action value comes from: 'rollout', the mean reward of completions, or
        'dense', the discounted sum of the rewards of this and all later prefixes, for each of which
        the discriminator has a logit. Then nothing is rolled out.
      discount: gamma, of dense values; see `core.rewards.discounted`.
      reward_clip: the largest magnitude of a logit in dense values.
      num_rollouts: N, completions of each prefix.
      rollout_chunk: how many prefixes complete together; bounds memory.
      rollout_decay: how much of the rollout policy stays at an update.
      baseline: what is subtracted from a token's action value: 'position', a moving average for
        each position, or 'prefix', the value of the prefix that the token was added to, which the
        rollouts of the token before have estimated (Kazemnejad et al., 2024, arXiv:2410.01679);
        the first token has the moving average.
      baseline_decay: how much of the moving average stays at an update.
    """

    mle: float = 0.0
    words: float = 0.0
    policy_gradient: float = 0.0
    entropy: float = 0.0
    reward: str = "probability"
    values: str = "rollout"
    discount: float = 0.0
    reward_clip: float = 2.0
    num_rollouts: int = 4
    rollout_chunk: int = 4
    rollout_decay: float = 0.8
    baseline: str = "prefix"
    baseline_decay: float = 0.9


@dataclasses.dataclass(frozen=True)
class DiscriminatorUpdate(Update):
    """One update of the discriminator.

    Attributes:
      smoothing: the label of real pairs.
      mismatch: weight of real sequences with another example's source, as negatives.
      per_step: weight of the loss on every prefix; the rest is on whole sequences.
      pool: how many generated sequences are written at once and then learnt from for `epochs`
        epochs, as in Yu et al. (2017); 0 for new ones at every update.
      epochs: see `pool`.
      fresh: whether its parameters and optimiser are drawn anew at its first update in every cycle.
        One that is trained for long memorises the real sequences, and then teaches the generator
        to.
    """

    smoothing: float = 0.9
    mismatch: float = 0.0
    per_step: float = 0.0
    pool: int = 0
    epochs: int = 1
    fresh: bool = False


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase; hashable, so that a step is compiled once for each.

    Attributes:
      name: its name in the configuration.
      steps: its length in updates.
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

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it updates."""
        return tuple(name for name in ("generator", "discriminator") if getattr(self, name))

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

    def sources(self, network: str) -> int:
        """Sources of a network's batches."""
        return getattr(self, network).batch_size or self.batch_size

    def network(self, phase_step: int) -> str:
        """Which network step `phase_step` updates."""
        ours = self.generator.updates if self.generator else 0
        return "generator" if phase_step % self.cycle < ours else "discriminator"

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


def _update(kind: type, options: ml_collections.ConfigDict, where: str) -> Update | None:
    update = kind(**options)
    for option in ("updates", "batch_size"):
        value = getattr(update, option)
        if value < 0:
            raise UserError(f"{where}.{option}: {value} is negative; set 0 or more")
    return update if update.updates else None


def _check_values(update: GeneratorUpdate, where: str) -> None:
    if update.values not in VALUES:
        raise UserError(
            f"{where}.values: no values '{update.values}'; choose from {', '.join(VALUES)}"
        )
    if update.values == "dense" and update.baseline != "position":
        raise UserError(
            f"{where}.baseline: '{update.baseline}' needs the values of prefixes, which rollouts "
            "estimate; set position"
        )
    if not 0 <= update.discount <= 1:
        raise UserError(f"{where}.discount: {update.discount} is out of range; set 0 to 1")
    if not update.reward_clip > 0:
        raise UserError(f"{where}.reward_clip: {update.reward_clip} must be above 0")


def parse(config: ml_collections.ConfigDict) -> tuple[Phase, ...]:
    """The phases of `config.phases`, in their order.

    Raises:
      UserError: where a phase is named that does not exist, or makes no sense.
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
            **options,
        )
        if not phase.generator and not phase.discriminator:
            raise UserError(f"{where}: neither network is updated; give one of them updates")
        if phase.generator and phase.generator.reward not in REWARDS:
            raise UserError(
                f"{where}.generator.reward: no reward '{phase.generator.reward}'; choose from "
                f"{', '.join(REWARDS)}"
            )
        if phase.generator and phase.generator.baseline not in BASELINES:
            raise UserError(
                f"{where}.generator.baseline: no baseline '{phase.generator.baseline}'; choose "
                f"from {', '.join(BASELINES)}"
            )
        if phase.generator:
            _check_values(phase.generator, f"{where}.generator")
        if phase.generator and not (
            phase.generator.mle or phase.generator.words or phase.generator.policy_gradient
        ):
            raise UserError(f"{where}.generator: no loss has a weight; set mle or policy_gradient")
        if phase.generator and phase.generator.num_rollouts < 1:
            raise UserError(f"{where}.generator.num_rollouts: must be 1 or more")
        judge = phase.discriminator
        alone = not phase.discriminator and not phase.generator.policy_gradient
        if phase.targets > 1 and not alone:
            raise UserError(
                f"{where}.targets: more than 1 needs a phase of maximum likelihood alone; set 1"
            )
        for option in ("batch_size", "targets", "evaluate_every"):
            if getattr(phase, option) < 1:
                raise UserError(f"{where}.{option}: must be 1 or more")
        if judge and judge.mismatch and phase.sources("discriminator") < 2:
            raise UserError(
                f"{where}.batch_size: 1 leaves no other example to mismatch; set 2 or more"
            )
        if (
            judge
            and judge.pool
            and (judge.pool < phase.sources("discriminator") or judge.epochs < 1)
        ):
            raise UserError(
                f"{where}.discriminator.pool: {judge.pool} for {judge.epochs} epochs is less than "
                "a batch; set 0 or a batch at least, and 1 epoch or more"
            )
        if phase.steps < 0:
            raise UserError(f"{where}.steps: {phase.steps} is negative; set 0 or more")
        phases.append(phase)
    return tuple(phases)
