"""The one training step, and the compiled functions of evaluation, over both networks.

`Steps` binds two networks to these functions; apart from that they are pure: a state and a batch
in, a state and metrics out. Shapes: B batch, T target length, V vocabulary, Z noise, R samples of
one source.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.core import beam, losses, rejection, rewards, rollout, sampling
from seqgan_jax.models.interface import Discriminator, Generator, noise_shape
from seqgan_jax.models.ratio_discriminator import OPPONENT
from seqgan_jax.training import optimizers
from seqgan_jax.training.parallel import Layout, Options, Rows
from seqgan_jax.training.phases import NETWORKS, DiscriminatorUpdate, GeneratorUpdate, Phase
from seqgan_jax.training.replicas import AXES, together
from seqgan_jax.training.state import (
    Network,
    Ratio,
    Safety,
    Stopping,
    TrainState,
    copy,
    merge,
    only,
    path,
    per_parameter,
    silence,
    transfer,
)

# What a step's random numbers are for: each purpose folds its number into the step's key.
SAMPLE, NOISE, ROLLOUT, DROPOUT, FRESH, HELD_OUT, ACCEPT, REVERSE, SHUFFLE = range(9)


class Reverse(NamedTuple):
    """What translates targets to sources.

    Attributes:
      generator: reads targets and writes sources.
      vocabulary: of the sources.
      length: S, tokens of a source at most.
    """

    generator: Generator
    vocabulary: Vocabulary
    length: int


class Written(NamedTuple):
    """Sequences that the generator wrote, R for each source.

    Attributes:
      tokens: [B, R, T] int32.
      mask: [B, R, T].
      log_probs: of each token given z, in nats, [B, R, T].
      scores: the discriminator's logit of each sequence, [B, R].
    """

    tokens: chex.Array
    mask: chex.Array
    log_probs: chex.Array
    scores: chex.Array


class Drawn(NamedTuple):
    """What the generator's update by the policy gradient learns from, before external rewards.

    Attributes:
      z: the noise, [N, Z], or [N, T, Z] where every step has its own.
      sample: the sequences, [N, T], G for each source.
      values: the discriminator's action values, [N, T].
      completions: tokens and mask of what the prefixes of the samples were completed to,
        [N, A, R, T] each, for the values 'rollout'; else None.
      example_id: of each sequence's source, [N].
      distance: what feature matching took from the reward of each sequence, [N]; None without it.
    """

    z: chex.Array
    sample: sampling.Samples
    values: chex.Array
    completions: tuple[chex.Array, chex.Array] | None
    example_id: chex.Array
    distance: chex.Array | None


class _Judged(NamedTuple):
    """What a discriminator of M members finds of N sequences in training.

    Attributes:
      whole: logits of whole sequences, [M N].
      dense: those of all prefixes, [M N, T], where a loss has them.
      log_likelihood: of each token by its language models, [M N, T], likewise.
      penalty: its regulariser.
    """

    whole: chex.Array
    dense: chex.Array | None
    log_likelihood: chex.Array | None
    penalty: chex.Array


def _facing(generator: Any, discriminator: Any) -> Any:
    """The discriminator's parameters with the generator's in them, where it reads those."""
    if OPPONENT not in discriminator:
        return discriminator
    return discriminator | {OPPONENT: copy(generator)}


class Steps:
    """Compiled steps for a pair of networks.

    Args:
      generator: see `models.interface`.
      discriminator: see `models.interface`.
      vocabulary: the codec's.
      length: T.
      clip: largest global norm of a gradient.
      phases: the schedule, which says what its state must hold.
      external: the weight w of external rewards, where an update is given some: the
        discriminator's count 1 - w.
      layout: the devices; one of them by default.
      replicas: R; with more than one, states, and the batches of training, are those of
        `replicas.stack`.
      reverse: the reverse translator, where a phase trains one.

    Attributes:
      reverse: the same functions of it: its targets are the sources.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        vocabulary: Vocabulary,
        length: int,
        clip: float,
        phases: Sequence[Phase] = (),
        external: float = 0.0,
        layout: Layout | None = None,
        replicas: int = 1,
        reverse: Reverse | None = None,
    ):
        self.reverse = None
        if reverse:
            self.reverse = Steps(
                reverse.generator,
                discriminator,
                reverse.vocabulary,
                reverse.length,
                clip,
                layout=layout,
            )
        self.generator = generator
        self.discriminator = discriminator
        self.vocabulary = vocabulary
        self.length = length
        self.external = external
        self.pool = max((p.discriminator.pool for p in phases if p.discriminator), default=0)
        self.has_reference = any(p.generator.has("kl") for p in phases if p.generator)
        self.num_stopping = max((len(p.stop.metrics) for p in phases), default=0)
        self.layout = layout or Layout(Options(data=1))
        self.clip = clip
        compiled = self.layout.compile
        self.replicas = replicas
        train, hold = self._train_step, self._hold
        if replicas > 1:
            train, hold = together(train, 0, gives=(AXES, 0)), together(hold, None)
        self.train_step = compiled(
            train,
            ("state", "rows", "rows", "rows"),
            ("state", "all"),
            static=("phase", "network"),
            donate=True,
        )
        self.draw = compiled(self._draw, ("state", "rows"), "rows", static=("phase",))
        self.hold = compiled(hold, ("state", "rows"), "state", static=("band",), donate=True)
        self.write = compiled(
            self._write,
            ("all", "all", "rows", "all"),
            "gathered",
            static=("num_samples", "truncation", "forced"),
        )
        self.offer = compiled(
            self._offer,
            ("all", "all", "all", "rows", "all", "rows"),
            "gathered",
            static=("truncation", "forced"),
        )
        self.likelihood = compiled(
            self._likelihood, ("all", "rows", "all"), "gathered", static=("num_noise",)
        )
        self.judge = compiled(self._judge, ("all", "rows", "rows", "rows"), "gathered")
        self.attention = compiled(self._attention, ("all", "rows", "all", "rows"), "gathered")
        self.search_beams = compiled(
            self._search_beams,
            ("all", "all", "rows", "all"),
            "gathered",
            static=("width", "forced", "banned"),
        )

    # Networks as functions of their parameters.

    def _call(self, network, params, method, *args, **kwargs):
        return network.apply({"params": params}, *args, method=method, **kwargs)

    def _noise(self, key, example_id, sample_index) -> chex.Array:
        """z ~ N(0, I), one for each row, a function of the example and the sample alone."""
        shape = noise_shape(self.generator, self.length)

        def row(example, sample):
            row_key = jax.random.fold_in(jax.random.fold_in(key, example), sample)
            return jax.random.normal(row_key, shape)

        return jax.vmap(row)(example_id, sample_index)

    def _inputs(self, target) -> chex.Array:
        """The start token and all targets but the last."""
        return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=self.vocabulary.bos)

    def _special(self) -> dict[str, int | None]:
        return {"eos": self.vocabulary.eos, "pad": self.vocabulary.pad}

    def _never(self) -> tuple[int, ...]:
        """Tokens that are no output: padding and the start token, unless the start is also data."""
        pad = self.vocabulary.pad
        return () if pad is None else (pad, self.vocabulary.bos)

    def init(self, seed: int, batch: dict[str, Any]) -> TrainState:
        """A new state; the batch gives the shapes."""
        key = jax.random.key(seed)

        def initialise(key):
            ours, theirs = jax.random.split(key)
            generator = self._drawn_generator(ours, batch)
            discriminator = self.discriminator.init(
                theirs, batch["source"], batch["source_mask"], batch["target"], batch["mask"]
            )["params"]
            reverse = self.reverse and self.reverse._drawn_generator(
                jax.random.fold_in(key, REVERSE), self.turned(batch)
            )
            return generator, discriminator, reverse

        generator, discriminator, reverse = jax.jit(initialise)(jax.random.fold_in(key, 0))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            phase=jnp.zeros((), jnp.int32),
            phase_step=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(jax.random.fold_in(key, 1)),
            generator=Network(generator, optimizers.init(generator)),
            discriminator=Network(
                _facing(generator, discriminator), optimizers.init(discriminator)
            ),
            reverse=reverse and Network(reverse, optimizers.init(reverse)),
            rollout=copy(generator),
            baseline=jnp.zeros((self.length,)),
            pool=jnp.zeros((self.pool, self.length), jnp.int32) if self.pool else None,
            reference=copy(generator) if self.has_reference else None,
            **self._watched(),
        )

    @staticmethod
    def turned(batch: dict[str, Any]) -> dict[str, Any]:
        """The batch for the reverse translator: of targets as sources, and sources as targets."""
        sides = {"source": "target", "source_mask": "mask"}
        sides |= {other: name for name, other in sides.items()}
        return batch | {name: batch[other] for name, other in sides.items()}

    def _drawn_generator(self, key, batch) -> Any:
        z = jnp.zeros((len(batch["target"]), *noise_shape(self.generator, self.length)))
        source = batch["source"], batch["source_mask"]
        return self.generator.init(key, *source, z, batch["target"])["params"]

    def _watched(self) -> dict[str, Any]:
        """What is remembered of a phase at its start, but for the updates skipped so far."""
        return {
            "safety": Safety(
                skipped=jnp.zeros((), jnp.int32),
                in_a_row=jnp.zeros((len(NETWORKS),), jnp.int32),
                rollbacks=jnp.zeros((), jnp.int32),
                scale=jnp.ones(()),
                entropy=jnp.full((2,), jnp.nan, jnp.float32),
            ),
            "stopping": Stopping(
                best=jnp.full((self.num_stopping,), -jnp.inf, jnp.float32),
                start=jnp.full((self.num_stopping,), -jnp.inf, jnp.float32),
                waited=jnp.zeros((), jnp.int32),
                stopped=jnp.zeros((), bool),
            ),
            "ratio": Ratio(accuracy=jnp.full((), jnp.nan, jnp.float32), trains=jnp.ones((), bool)),
            "calibration": rejection.uncalibrated(),
        }

    def begin_phase(self, state: TrainState, index: int, phase: Phase) -> TrainState:
        """The state at a phase's start: fresh optimisers, baseline and rollout policy.

        A frozen network's optimiser, and the moments of frozen parameters, stay as they were. In a
        phase without noise the weights that read it are 0, and so are their gradients, as z is 0.
        """
        begin = self._begin_phase if self.replicas == 1 else together(self._begin_phase)
        return begin(state, index=index, phase=phase)

    def _begin_phase(self, state: TrainState, *, index: int, phase: Phase) -> TrainState:
        if not phase.noise:
            state = state.replace(generator=self._silenced(state.generator))
        params = copy(state.discriminator.params)
        if phase.transfer:
            params = transfer(state.generator.params, params)
        params = _facing(state.generator.params, params)
        networks = {
            "generator": state.generator,
            "discriminator": state.discriminator.replace(params=params),
        }
        if phase.reverse:
            reverse = state.reverse if phase.noise else self.reverse._silenced(state.reverse)
            networks["reverse"] = reverse
        for name in phase.all_networks:
            network = networks[name]
            trained = self._trained(network.params, name, phase)
            optimizer = per_parameter(
                lambda new, old, trained=trained: merge(only(new, trained), old),
                optimizers.init(network.params),
                network.optimizer,
            )
            networks[name] = network.replace(optimizer=optimizer)
        watched = self._watched()
        watched["safety"] = watched["safety"].replace(skipped=jnp.copy(state.safety.skipped))
        if phase.generator and phase.generator.has("kl"):
            watched["reference"] = copy(state.generator.params)
        return state.replace(
            phase=jnp.asarray(index, jnp.int32),
            phase_step=jnp.zeros((), jnp.int32),
            rollout=copy(state.generator.params),
            baseline=jnp.zeros((self.length,)),
            **networks,
            **watched,
        )

    def _silenced(self, network: Network) -> Network:
        """The generator, or one of its kind, with weights of 0 for noise."""
        layers, size = self.generator.noise_layers, self.generator.noise_size
        return network.replace(params=silence(network.params, layers, size))

    def _trained(self, params, network: str, phase: Phase) -> Any:
        """Which parameters of a network a phase doesn't freeze: booleans in their structure."""
        return jax.tree_util.tree_map_with_path(
            lambda keys, _: not phase.is_frozen(f"{network}/{path(keys)}"), params
        )

    # Training.

    def _draw(self, state: TrainState, batch: dict[str, Any], *, phase: Phase) -> Drawn:
        """The first half of the generator's next update by the policy gradient.

        For rewards that are found on the host: `train_step` is the second half, with what this
        gives, and with an external action value for each token. The two draw nothing else than
        `train_step` alone does.

        Args:
          state: not donated.
          batch: B rows.
          phase: the phase; static.
        """
        update = phase.generator
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        done = state.phase_step / max(phase.steps, 1)
        example = jnp.repeat(batch["example_id"], update.group_size)
        completions = None
        if update.estimator == "rollout":
            z, sample, (values, completions), distance = self._search(
                state, batch, key, update, done, complete=True
            )
        else:
            z, sample, values, distance = self._dense_values(state, batch, key, update, done)
        return Drawn(z, sample._replace(extras=None), values, completions, example, distance)

    def _train_step(
        self,
        state: TrainState,
        batch: dict[str, Any],
        drawn: Drawn | None = None,
        external_values: chex.Array | None = None,
        *,
        phase: Phase,
        network: str,
    ) -> tuple[TrainState, dict[str, chex.Array]]:
        """One update of one network.

        Args:
          state: donated.
          batch: B rows, see `data.pipeline`.
          drawn: from `draw`, where there are external rewards.
          external_values: action values by the external reward of what was drawn, [N, T].
          phase: the phase; static.
          network: which network this step of it updates, 'generator' or 'discriminator'; static.

        Returns:
          The new state and scalar metrics.
        """
        update = phase.generator if network == "generator" else phase.discriminator
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        rate = update.rate(state.phase_step, phase.steps) * state.safety.scale
        if network == "generator":
            given = None if drawn is None else (drawn, external_values)
            update_generator = self._update_both if phase.reverse else self._update_generator
            state, metrics = update_generator(state, batch, key, phase, rate, given)
        else:
            turn = phase.updates_before("discriminator", state.phase_step)
            if update.fresh:
                state = self._renewed(state, batch, key, turn % update.updates == 0)
            pooled = None
            if update.pool:
                state, *pooled = self._from_pool(state, batch, key, update, turn)

            def learn():
                fake = pooled
                if not fake and update.has("classification"):
                    rows = self.layout.rows.numbers(len(batch["example_id"]))
                    fake = self._sample(
                        state.generator.params, batch, key, rows, sampling.Truncation(), ()
                    )[:2]
                return self._update_discriminator(state, batch, key, phase, rate, fake)

            if update.band:
                state, metrics = self._if_in_turn(state, learn)
            else:
                state, metrics = learn()
        safety = state.safety
        metrics = {f"{network}/{name}": value for name, value in metrics.items()} | {
            "guard/skipped": safety.skipped,
            "guard/in_a_row": safety.in_a_row.max(),
            "guard/rollbacks": safety.rollbacks,
            "guard/entropy": safety.entropy[1] / safety.entropy[0],
        }
        return state.replace(step=state.step + 1, phase_step=state.phase_step + 1), metrics

    def _if_in_turn(self, state: TrainState, learn: Callable):
        """The discriminator's update where its accuracy asks for one; else no figures of one."""

        def skip():
            _, metrics = jax.eval_shape(learn)
            return state, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), metrics)

        trains, accuracy = state.ratio.trains, state.ratio.accuracy
        state, metrics = jax.lax.cond(trains, learn, skip)
        # The mean over devices of what all of them have: no step is done before all were given it,
        # as `processes.stop_after` takes for granted.
        total = self.layout.rows.total
        turn = total(trains.astype(jnp.float32)) / total(jnp.ones(()))
        return state, metrics | {"held_out_accuracy": accuracy, "turn": turn}

    def _hold(self, state: TrainState, batch, *, band: tuple[float, float]) -> TrainState:
        """Measures the discriminator on held-out pairs, and decides whether its turns are taken.

        Above the band they are skipped, below it taken, and in it what was decided before stays.

        Args:
          state: donated.
          batch: held-out pairs; for their sources sequences are generated.
          band: see `DiscriminatorUpdate.band`; static.
        """
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        rows = self.layout.rows.numbers(len(batch["example_id"]))
        fake = self._sample(
            state.generator.params,
            batch,
            jax.random.fold_in(key, HELD_OUT),
            rows,
            sampling.Truncation(),
            (),
        )
        judge = lambda *sequences: self._judge(state.discriminator.params, batch, *sequences)
        right = (judge(batch["target"], batch["mask"]) > 0, judge(fake.tokens, fake.mask) < 0)
        accuracy = sum(self._mean(x, batch["weight"]) for x in right) / 2
        low, high = band
        trains = (accuracy <= high) & (state.ratio.trains | (accuracy < low))
        return state.replace(ratio=Ratio(accuracy, trains))

    def _descend(
        self,
        network: Network,
        name: str,
        phase: Phase,
        loss_of: Callable[[Any, Any, Rows], tuple[chex.Array, Any]],
        given: Any,
        rate: chex.Array,
    ) -> tuple[Network, chex.Array, dict[str, chex.Array], Any]:
        """One step of the optimiser down a loss, none where that or its gradient isn't finite.

        Parameters that the phase freezes are split off before anything is differentiated.

        Args:
          network: parameters and optimiser.
          name: which network it is.
          phase: see there.
          loss_of: from parameters, some of the rows of `given`, and which these are, to their
            share of the loss and what else it found, likewise: both add up to those of all rows.
          given: a pytree whose leaves lead with rows.
          rate: the learning rate.

        Returns:
          The network, whether there was a step, its figures, and what else the loss found.
        """
        trained = self._trained(network.params, name, phase)
        params = only(network.params, trained)
        optimizer = per_parameter(lambda tree: only(tree, trained), network.optimizer)
        slope = jax.value_and_grad(
            lambda params, *rows: loss_of(merge(params, network.params), *rows), has_aux=True
        )
        (loss, found), grads = self.layout.sum(lambda *rows: slope(params, *rows), given)
        # Compiled by itself: XLA's tree of sums over the transposed product that the gradient of a
        # matrix is takes 12 ms for 6 million elements, where a plain sum takes 2.
        norm = jax.jit(optax.tree.norm)(grads)
        sound = jnp.isfinite(loss) & jnp.isfinite(norm)
        shrink = jnp.minimum(1.0, self.clip / norm)
        grads = jax.tree.map(lambda g: g * shrink, grads)
        kind = getattr(phase, name).optimizer
        elementwise = optimizers.elementwise(kind, params, sound)
        updates, optimizer = self.layout.update(elementwise, grads, optimizer, params)
        updates = optimizers.directions(kind, updates)
        params = jax.tree.map(lambda p, u: jnp.where(sound, p - rate * u, p), params, updates)
        network = Network(
            merge(params, network.params), per_parameter(merge, optimizer, network.optimizer)
        )
        return network, sound, {"loss": loss, "gradient_norm": norm, "learning_rate": rate}, found

    def _update_generator(self, state: TrainState, batch, key, phase: Phase, rate, given):
        update, samples, metrics, old = phase.generator, None, {}, state
        done = state.phase_step / max(phase.steps, 1)
        if update.has("policy_gradient"):
            estimate = {
                "rollout": self._search,
                "dense": self._dense_values,
                "terminal": self._dense_values,
                "actions": self._action_values,
            }[update.estimator]
            if given:
                (z, sample, values, *_, distance), external = given
            else:
                z, sample, values, distance = estimate(state, batch, key, update, done)
            mask = _weights(batch, sample.mask)
            if distance is not None:
                # It is a part of the reward and has no gradient of its own.
                weights = jnp.repeat(batch["weight"], update.group_size)
                metrics["loss_feature_matching"] = self._mean(distance, weights)
            if given:
                values = (1 - self.external) * values + self.external * external
                metrics["external_reward"] = self._mean(external, mask)
            if update.estimator == "actions":
                samples = z, sample._replace(extras=None), values
                drawn = jnp.take_along_axis(values, sample.tokens[..., None], axis=-1)[..., 0]
                metrics["reward"] = self._mean(drawn, mask)
            else:
                advantages = self._advantages(state, values, sample.mask, mask, update)
                samples = z, sample._replace(extras=None), advantages
                metrics["reward"] = self._mean(values, mask)
                # One row stands for all rows of all devices.
                total = self.layout.rows.total
                count = total(mask.sum(0, keepdims=True))
                mean = total((values * mask).sum(0, keepdims=True)) / jnp.maximum(count, 1.0)
                baseline = rewards.update_baseline(
                    state.baseline, mean, jnp.sign(count), update.baseline_decay
                )
                state = state.replace(baseline=baseline)

        totals = {"real": _weights(batch, batch["mask"]).sum(), "sources": batch["weight"].sum()}
        if samples:
            totals["samples"] = _weights(batch, samples[1].mask).sum()
        totals = self.layout.rows.total(totals)

        def descend(network, key):
            def loss_of(params, given, rows):
                batch, samples = given
                terms, entropy = {}, {}
                if update.has("mle") or update.has("words"):
                    terms |= self._on_real(params, batch, key, phase, done, rows, totals)
                if samples:
                    found, entropy["sample_entropy"] = self._on_sample(
                        params, old.reference, batch, *samples, update, done, totals["samples"]
                    )
                    terms |= found
                return sum(terms.values()), (terms, entropy)

            network, sound, figures, (terms, entropy) = self._descend(
                network, "generator", phase, loss_of, (batch, samples), rate
            )
            named = {f"loss_{name}": term for name, term in terms.items()}
            return network, (sound, {**entropy, **named, **figures})

        if update.reuse == 1:
            generator, (sound, found) = descend(state.generator, key)
        else:
            keys = jax.random.split(key, update.reuse)
            generator, (sound, found) = jax.lax.scan(descend, state.generator, keys)
            sound, found = sound.all(), jax.tree.map(lambda x: x.mean(0), found)
            kept = lambda new, old: jnp.where(sound, new, old)
            generator = jax.tree.map(kept, generator, state.generator)
        metrics |= found
        judge = state.discriminator
        state = state.replace(
            generator=generator,
            discriminator=judge.replace(params=_facing(generator.params, judge.params)),
        )
        if update.has("policy_gradient") and update.estimator == "rollout":
            slow = lambda old, new: update.rollout_decay * old + (1 - update.rollout_decay) * new
            rollout = jax.tree.map(slow, state.rollout, generator.params)
            # As in the authors' program, the rollout policy has the generator's own embeddings.
            state = state.replace(
                rollout=rollout | {"embedding": jnp.copy(generator.params["embedding"])}
            )
        entropy = metrics.get("sample_entropy")
        return self._guarded(old, state, "generator", sound, entropy), metrics

    def _update_both(self, state: TrainState, batch, key, phase: Phase, rate, given):
        """An update of the generator, and one of the reverse translator from the same batch.

        With a weight for consistency, rows may hold a source and a target that are no pair. Of such
        a row each translator reads how the other, as it is now, translates the text that it has to
        write (He et al., 2016, arXiv:1611.00179, whose translators also learn by the policy
        gradient from how well they are translated back; Sennrich et al., 2016, arXiv:1511.06709).
        """
        turned, turned_key = self.turned(batch), jax.random.fold_in(key, REVERSE)
        if phase.generator.has("consistency"):
            done = state.phase_step / max(phase.steps, 1)
            weight = phase.generator.weight("consistency", done)
            source = self.reverse._translated(state.reverse.params, turned, turned_key)
            target = self._translated(state.generator.params, batch, key)
            batch, turned = _reading(batch, source, weight), _reading(turned, target, weight)
        after, metrics = self._update_generator(state, batch, key, phase, rate, given)
        other, found = self.reverse._update_generator(
            state.replace(generator=state.reverse), turned, turned_key, phase, rate, None
        )
        safety = after.safety.replace(
            skipped=after.safety.skipped + other.safety.skipped - state.safety.skipped,
            in_a_row=jnp.maximum(after.safety.in_a_row, other.safety.in_a_row),
        )
        told = {f"{name}_reverse": found[name] for name in ("loss", "gradient_norm")}
        return after.replace(reverse=other.generator, safety=safety), metrics | told

    def _translated(self, params, batch, key) -> sampling.Samples:
        """A translation for each row: the most probable token at each step.

        With few pairs such translations teach more than samples do (Edunov et al., 2018,
        arXiv:1808.09381).
        """
        rows = self.layout.rows.numbers(len(batch["example_id"]))
        return self._sample(params, batch, key, rows, sampling.Truncation(top_k=1), ())

    def _guarded(
        self, old: TrainState, new: TrainState, network: str, sound, entropy=None
    ) -> TrainState:
        """The new state, with what moved beside the networks put back after an unsound update."""
        own = NETWORKS.index(network)
        in_a_row = jnp.where(sound, 0, old.safety.in_a_row[own] + 1)
        safety = old.safety.replace(
            skipped=old.safety.skipped + ~sound,
            in_a_row=old.safety.in_a_row.at[own].set(in_a_row),
        )
        if entropy is not None:
            known = old.safety.entropy
            moved = jnp.stack([known[0], 0.9 * known[1] + 0.1 * entropy])
            moved = jnp.where(jnp.isnan(known), entropy, moved)
            safety = safety.replace(entropy=jnp.where(sound, moved, known))
        baseline, rollout = jax.tree.map(
            lambda new, old: new if new is old else jnp.where(sound, new, old),
            (new.baseline, new.rollout),
            (old.baseline, old.rollout),
        )
        return new.replace(safety=safety, baseline=baseline, rollout=rollout)

    def _advantages(self, state: TrainState, values, written, mask, update: GeneratorUpdate):
        """Values less the baseline, normalised, [B G, T]; `mask` also leaves out filler rows."""
        if update.baseline == "prefix":
            baseline = jnp.pad(values[:, :-1], ((0, 0), (1, 0))).at[:, 0].set(state.baseline[0])
        elif update.baseline == "group":
            grouped = (x.reshape(-1, update.group_size, self.length) for x in (values, written))
            baseline = rewards.group_baseline(*grouped, state.baseline).reshape(values.shape)
        else:
            baseline = state.baseline
        if update.normalise == "none":
            return values - baseline
        here = self.layout.rows
        known = map(here.whole, (values - baseline, mask))
        return here.own(rewards.NORMALISATIONS[update.normalise](*known))

    def _mean(self, values: chex.Array, weights: chex.Array) -> chex.Array:
        """`losses.weighted_mean` over the rows of all devices."""
        total = self.layout.rows.total
        return total(_share(values, weights, total(weights.sum())))

    def _on_real(
        self, params, batch, key, phase: Phase, done, rows: Rows, totals
    ) -> dict[str, chex.Array]:
        """The losses on real targets, with dropout: those that have weights.

        `mle` is the mean negative log-likelihood per token, one z a target; `words` the mean over
        sources of the loss of predicting which words their targets use; `guided_attention` the mean
        over targets of how far attention is from going forward.
        """
        update, target, sources = phase.generator, batch["target"], len(batch["example_id"])
        each = len(target) // sources

        has_mle, has_words = update.has("mle"), update.has("words")

        def forward(module, source, source_mask, noise, inputs):
            memory = module.encode(source, source_mask, train=True)
            state = module.initial_state(memory, noise, self.length)
            return (
                module.before_output(memory, state, inputs, train=True) if has_mle else None,
                module.word_logits(memory) if has_words else None,
            )

        noise = self._noise(
            jax.random.fold_in(key, NOISE),
            jnp.repeat(batch["example_id"], each),
            rows.numbers(len(target)),
        )
        if not phase.noise:
            noise = jnp.zeros_like(noise)
        with rows.dropout():
            (projected, words), kept = self.generator.apply(
                {"params": params},
                batch["source"],
                batch["source_mask"],
                noise,
                self._inputs(target),
                method=forward,
                rngs={"dropout": jax.random.fold_in(key, DROPOUT)},
                mutable=["intermediates"],
            )
        terms = {}
        if update.has("guided_attention"):
            weights = kept["intermediates"]["attention"][0].reshape(*target.shape, -1)
            positions = batch["source_mask"]
            if positions is None:
                positions = jnp.ones((sources, weights.shape[-1]))
            far = jax.vmap(losses.guided_attention)(
                weights, batch["mask"], jnp.repeat(positions, each, axis=0)
            )
            weights = jnp.repeat(batch["weight"], each)
            mean = _share(far, weights, each * totals["sources"])
            terms["guided_attention"] = update.weight("guided_attention", done) * mean
        if has_mle:
            mask = _weights(batch, batch["mask"])
            share = mask / jnp.maximum(totals["real"], 1.0)
            if "factor" in batch:
                share *= batch["factor"][:, None]
            found = _log_likelihood(projected, target, share, None, mask)
            terms["mle"] = -update.weight("mle", done) * found.value
        if has_words:
            used = (
                jnp.zeros(words.shape)
                .at[jnp.arange(sources)[:, None], target.reshape(sources, -1)]
                .max(batch["mask"].reshape(sources, -1))
            )
            per_source = losses.binary_cross_entropy(words, used).sum(-1)
            mean = _share(per_source, batch["weight"], totals["sources"])
            terms["words"] = update.weight("words", done) * mean
        return terms

    def _on_sample(
        self, params, reference, batch, z, sample, advantages, update: GeneratorUpdate, done, total
    ):
        """The losses on sampled sequences, without dropout, and their mean entropy per token."""

        def forward(module, source, source_mask, inputs):
            memory = module.encode(source, source_mask, train=False)
            state = module.initial_state(memory, z, self.length)
            return module.before_output(memory, state, inputs, train=False)

        def projected(params):
            u, kernel, bias = self.generator.apply(
                {"params": params},
                batch["source"],
                batch["source_mask"],
                self._inputs(sample.tokens),
                method=forward,
            )
            return u, kernel, self._allowed(bias)

        share = _weights(batch, sample.mask) / jnp.maximum(total, 1.0)
        u, kernel, bias = projected(params)
        weight = update.weight("policy_gradient", done)
        bonus = update.weight("entropy", done)
        flat = lambda x: x.reshape(-1, x.shape[-1])
        if update.estimator == "actions":
            expected, entropies = losses.expected_reward(u @ kernel + bias, advantages)
            entropy = jnp.vdot(share, entropies)
            terms = {"policy_gradient": -weight * jnp.vdot(share, expected)}
            if update.has("entropy"):
                terms["entropy"] = -bonus * entropy
        else:
            linear = weight * advantages * share if update.reuse == 1 else jnp.zeros_like(share)
            found = _log_likelihood(
                (u, kernel, bias),
                sample.tokens,
                linear,
                bonus * share if update.has("entropy") else None,
                share,
            )
            # The gradient of both terms is that of `value`, their sum.
            entropy = jax.lax.stop_gradient(jnp.vdot(share, found.entropy.reshape(share.shape)))
            gained = bonus * entropy
            terms = {"policy_gradient": gained - found.value}
            if update.has("entropy"):
                terms["entropy"] = -gained
        if update.reuse > 1:
            log_probs = losses.projected_log_probs(
                flat(u), kernel, bias, sample.tokens.reshape(-1), share.reshape(-1)
            )
            each = jax.vmap(losses.clipped_policy_gradient, (0, 0, 0, 0, None))(
                log_probs.reshape(share.shape),
                sample.log_probs,
                advantages,
                share,
                update.clip_ratio,
            )
            terms["policy_gradient"] += weight * each.sum()
        if update.has("kl"):
            known = projected(reference)
            divergence = losses.projected_divergence(
                flat(u), kernel, bias, (flat(known[0]), *known[1:])
            ).reshape(share.shape)
            terms["kl"] = update.weight("kl", done) * jnp.vdot(share, divergence)
        return terms, entropy

    def _logits(self, params, batch, z, tokens) -> chex.Array:
        """Logits [B, T, V] of given sequences under given noise, without dropout."""
        return self.generator.apply(
            {"params": params}, batch["source"], batch["source_mask"], z, self._inputs(tokens)
        )

    def _search(
        self, state: TrainState, batch, key, update: GeneratorUpdate, done, complete: bool = False
    ):
        """Samples sequences and estimates the action value of each of their tokens.

        G of them for each source, source-major. With `complete` the values come with the tokens and
        the mask of all completions. Last comes what feature matching took from their rewards; see
        `Drawn`.
        """
        rows = self.layout.rows.numbers(len(batch["example_id"]) * update.group_size)
        example = jnp.repeat(batch["example_id"], update.group_size)
        identity = (example, rows)
        z = self._noise(jax.random.fold_in(key, NOISE), *identity)
        draws = sampling.uniforms(jax.random.fold_in(key, SAMPLE), *identity, self.length)
        source = batch["source"], batch["source_mask"]
        ours, theirs = self.generator, self.discriminator
        params, slow, judge_params = (
            state.generator.params,
            state.rollout,
            state.discriminator.params,
        )
        memory = self._call(ours, params, "encode", *source, train=False)
        slow_memory = self._call(ours, slow, "encode", *source, train=False)
        judge_memory = self._call(theirs, judge_params, "encode", *source, train=False)

        def policy(policy_state, token):
            return self._call(ours, slow, "step", slow_memory, policy_state, token)

        def judge(judge_state, token):
            known = self._call(theirs, judge_params, "step", judge_memory, judge_state, token)
            if not complete:
                return known
            # A completion's tokens go where its features go: as one more of them.
            judge_state, feature = known
            own = token[:, None].astype(feature.dtype)
            return judge_state, jnp.concatenate([feature, own], axis=-1)

        def step(own, token):
            own, logits = self._call(ours, params, "step", memory, own, token)
            return own, self._allowed(logits), None

        def observe(judge_state, token):
            judge_state, feature = judge(judge_state, token)
            return judge_state, (judge_state, feature)

        sample = sampling.sample(
            step,
            self._call(ours, params, "initial_state", memory, z, self.length),
            draws,
            bos=self.vocabulary.bos,
            **self._special(),
            observe=observe,
            observer=self._call(theirs, judge_params, "initial_state", judge_memory, len(rows)),
        )
        _, (judge_states, features) = sample.extras
        start = self._call(ours, slow, "initial_state", slow_memory, z, self.length)
        inputs = self._inputs(sample.tokens)
        _, states = self._call(ours, slow, "unroll", slow_memory, start, inputs, train=False)
        distance = self._distance(judge_params, judge_memory, batch, update, done)

        def reward(features, mask, **known):
            features = features[..., :-1] if complete else features
            scores = self._call(theirs, judge_params, "readout", features, mask, **known)
            found = rewards.REWARDS[update.reward](scores)
            return found - distance(features, mask) if distance else found

        def completion(features, mask):
            return features[..., -1].astype(jnp.int32), mask

        values = rollout.action_values(
            lambda policy_state, token: self._then_allowed(policy(policy_state, token)),
            judge,
            reward,
            tokens=sample.tokens,
            mask=sample.mask,
            policy_states=jax.vmap(lambda t: ours.prefix_state(states, t)),
            judge_states=judge_states,
            features=jnp.swapaxes(features, 0, 1),
            key=jax.random.fold_in(key, ROLLOUT),
            example_id=example * update.group_size + rows % update.group_size,
            num_rollouts=update.num_rollouts,
            chunk=update.rollout_chunk,
            every=update.rollout_every,
            keep=completion if complete else None,
            shares=theirs.shares,
            **self._special(),
        )
        if not distance:
            return z, sample, values, None
        features = jnp.swapaxes(features, 0, 1)
        return (
            z,
            sample,
            values,
            distance(features[..., :-1] if complete else features, sample.mask),
        )

    def _distance(self, params, memory, batch, update: GeneratorUpdate, done) -> Callable | None:
        """How far sequences are from the batch's real ones, times the loss's weight.

        From features [N, T, U] -> [N].
        """
        if not update.has("feature_matching"):
            return None
        real = self._call(self.discriminator, params, "features", memory, batch["target"])
        whole = self.layout.rows.whole
        real = whole(rewards.mean_feature(real, batch["mask"]))
        share = whole(batch["weight"])
        weight = update.weight("feature_matching", done)
        return lambda features, mask: (
            weight * rewards.feature_distance(rewards.mean_feature(features, mask), real, share)
        )

    def _dense_values(self, state: TrainState, batch, key, update: GeneratorUpdate, done):
        """As `_search`, from the discriminator's logits of all prefixes or of whole sequences."""
        rows = self.layout.rows.numbers(len(batch["example_id"]) * update.group_size)
        example = jnp.repeat(batch["example_id"], update.group_size)
        z = self._noise(jax.random.fold_in(key, NOISE), example, rows)
        sample = self._sample(state.generator.params, batch, key, rows, sampling.Truncation(), ())
        judge = lambda method, *args: self._call(
            self.discriminator, state.discriminator.params, method, *args
        )
        memory = judge("encode", batch["source"], batch["source_mask"])
        reward = rewards.REWARDS[update.reward]
        if update.estimator == "terminal":
            logits = judge("sequence_score", memory, sample.tokens, sample.mask)
            values = reward(logits)[:, None] * sample.mask
        else:
            logits = judge("score", memory, sample.tokens, sample.mask)
            clipped = jnp.clip(logits, -update.reward_clip, update.reward_clip)
            values = rewards.discounted(reward(clipped), sample.mask, update.discount)
        distance = self._distance(state.discriminator.params, memory, batch, update, done)
        if not distance:
            return z, sample, values, None
        far = distance(judge("features", memory, sample.tokens), sample.mask)
        # All tokens have led to it.
        return z, sample, values - far[:, None] * sample.mask, far

    def _action_values(self, state: TrainState, batch, key, update: GeneratorUpdate, done):
        """As `_search`, the reward of each token that might have been drawn: [B G, T, V]."""
        del done
        rows = self.layout.rows.numbers(len(batch["example_id"]) * update.group_size)
        example = jnp.repeat(batch["example_id"], update.group_size)
        z = self._noise(jax.random.fold_in(key, NOISE), example, rows)
        sample = self._sample(state.generator.params, batch, key, rows, sampling.Truncation(), ())
        judge = lambda method, *args: self._call(
            self.discriminator, state.discriminator.params, method, *args
        )
        memory = judge("encode", batch["source"], batch["source_mask"])
        logits = judge("action_logits", memory, sample.tokens)
        clipped = jnp.clip(logits, -update.reward_clip, update.reward_clip)
        return z, sample, rewards.REWARDS[update.reward](clipped), None

    def _allowed(self, logits):
        """Padding and start tokens are never written: logits or the output's bias, [..., V]."""
        never = self._never()
        return logits.at[..., jnp.array(never)].set(-jnp.inf) if never else logits

    def _then_allowed(self, state_and_logits):
        state, logits = state_and_logits
        return state, self._allowed(logits)

    def _renewed(self, state: TrainState, batch, key, due):
        """The state with a new discriminator if `due`."""

        def draw():
            params = self.discriminator.init(
                jax.random.fold_in(key, FRESH),
                batch["source"],
                batch["source_mask"],
                batch["target"],
                batch["mask"],
            )["params"]
            return Network(_facing(state.generator.params, params), optimizers.init(params))

        return state.replace(discriminator=jax.lax.cond(due, draw, lambda: state.discriminator))

    def _from_pool(self, state, batch, key, update: DiscriminatorUpdate, turn):
        """The batch of generated sequences that is update `turn`'s, from a pool renewed in time.

        Returns:
          The state with its pool, the batch's tokens [B, T] and their mask.
        """
        here = self.layout.rows
        size = len(batch["example_id"]) * here.count
        each_epoch = update.pool // size
        turn = turn % (each_epoch * update.epochs)
        place = turn % each_epoch

        def fill():
            rows = jnp.arange(each_epoch * size).reshape(each_epoch, size)
            write = lambda row: here.whole(
                self._sample(
                    state.generator.params, batch, key, here.own(row), sampling.Truncation(), ()
                ).tokens
            )
            written = jax.lax.map(write, rows).reshape(-1, self.length)
            return state.pool.at[: len(written)].set(written)

        pool = jax.lax.cond(turn == 0, fill, lambda: state.pool)
        # An epoch is one way through the pool, which is shuffled before.
        shuffle = jax.random.fold_in(key, SHUFFLE)
        pool = jax.lax.cond(
            place == 0,
            lambda pool: pool.at[: each_epoch * size].set(
                jax.random.permutation(shuffle, pool[: each_epoch * size])
            ),
            lambda pool: pool,
            pool,
        )
        tokens = here.own(jax.lax.dynamic_slice_in_dim(pool, place * size, size))
        return state.replace(pool=pool), tokens, self._mask(tokens)

    def _mask(self, tokens):
        """1 up to the end token, which it includes: [B, T] -> [B, T]."""
        if self.vocabulary.eos is None:
            return jnp.ones(tokens.shape)
        ends = tokens == self.vocabulary.eos
        return (jnp.cumsum(ends, axis=1) - ends == 0).astype(jnp.float32)

    def _update_discriminator(self, state, batch, key, phase: Phase, rate, fake):
        update = phase.discriminator
        done = state.phase_step / max(phase.steps, 1)
        # Lanes of one source: its real sequence, a generated one, another example's real one.
        tokens, masks = [batch["target"]], [batch["mask"]]
        labels, weights = [update.smoothing], [batch["weight"]]
        if fake:
            for many, one in zip((tokens, masks), fake, strict=True):
                many.append(one)
            labels.append(update.smoothing_generated)
            weights.append(batch["weight"])
        if update.has("mismatch"):
            previous = self.layout.rows.previous
            tokens.append(previous(batch["target"]))
            masks.append(previous(batch["mask"]))
            labels.append(update.smoothing_generated)
            # Another caption of the same source is no mismatch.
            other = previous(batch["example_id"]) != batch["example_id"]
            weights.append(update.weight("mismatch", done) * batch["weight"] * other)
        tokens, mask = jnp.stack(tokens, 1), jnp.stack(masks, 1)
        labels, weights = jnp.array(labels), jnp.stack(weights, 1)
        lanes = (-1, self.length)
        totals = self.layout.rows.total(
            {
                "sequences": weights.sum(),
                "prefixes": (mask * weights[:, :, None]).sum(),
                "real": (mask[:, 0] * batch["weight"][:, None]).sum(),
                "sources": batch["weight"].sum(),
                "mismatched": weights[:, -1].sum(),
            }
        )

        def loss_of(params, given, rows):
            batch, tokens, mask, weights = given
            judged = self._judge_lanes(
                params, batch, tokens.reshape(lanes), mask.reshape(lanes), key, update, rows
            )
            # A discriminator of several members gives one logit by each: a loss for each of them.
            final = judged.whole.reshape(-1, *weights.shape)
            mean = jax.vmap(_share, (0, None, None))
            terms = {"regulariser": judged.penalty / rows.count}
            weight = update.weight("classification", done)
            if update.has("classification"):
                element = losses.binary_cross_entropy(final, labels)
                loss = mean(element, weights, totals["sequences"]).mean()
                terms["sequence"] = weight * (1 - update.per_step) * loss
            if update.has("classification") and update.per_step:
                prefixes = judged.dense.reshape(-1, *mask.shape)
                element = losses.binary_cross_entropy(prefixes, labels[:, None])
                steps = mean(element, mask * weights[:, :, None], totals["prefixes"]).mean()
                terms["per_step"] = weight * update.per_step * steps
            if update.has("mle"):
                real = judged.log_likelihood.reshape(-1, *mask.shape)[:, :, 0]
                known = mask[:, 0] * batch["weight"][:, None]
                found = mean(real, known, totals["real"]).mean()
                terms["mle"] = -update.weight("mle", done) * found
            if update.has("gradient_penalty"):
                weight = update.weight("gradient_penalty", done)
                share = batch["weight"].sum() / jnp.maximum(totals["sources"], 1e-8)
                terms["gradient_penalty"] = weight * share * self._squared_slope(params, batch)
            right, weight = final.mean(0), batch["weight"]
            told = {"accuracy_real": _share(right[:, 0] > 0, weight, totals["sources"])}
            if fake:
                told["accuracy_generated"] = _share(right[:, 1] < 0, weight, totals["sources"])
            if update.has("mismatch"):
                told["accuracy_mismatched"] = _share(
                    right[:, 2] < 0, weights[:, 2], totals["mismatched"]
                )
            return sum(terms.values()), (terms, told)

        discriminator, sound, figures, (terms, told) = self._descend(
            state.discriminator,
            "discriminator",
            phase,
            loss_of,
            (batch, tokens, mask, weights),
            rate,
        )
        metrics = {**figures, **{f"loss_{name}": term for name, term in terms.items()}, **told}
        new = state.replace(discriminator=discriminator)
        return self._guarded(state, new, "discriminator", sound), metrics

    def _squared_slope(self, params, batch) -> chex.Array:
        """Half the mean squared gradient of real sequences' logits by their embeddings (R1).

        Mescheder et al. (2018), arXiv:1801.04406, eq. 9, in the embeddings, since tokens have no
        gradient. Each position gets a row of the table to itself, so that it is the gradient by
        what this position reads: the network needs no hook, but must read tokens by their
        embeddings alone.
        """
        tokens, mask = batch["target"], batch["mask"]
        rows = params["embedding"][tokens.reshape(-1)]
        own = jnp.arange(tokens.size).reshape(tokens.shape)
        judge = self.discriminator.clone(vocabulary_size=tokens.size)

        def total(rows):
            call = lambda method, *args, **how: self._call(
                judge, params | {"embedding": rows}, method, *args, **how
            )
            memory = call("encode", batch["source"], batch["source_mask"], train=False)
            return call("sequence_score", memory, own, mask).sum()

        slopes = jax.grad(total)(rows).reshape(len(tokens), -1)
        return 0.5 * losses.weighted_mean(jnp.square(slopes).sum(-1), batch["weight"])

    def _judge_lanes(
        self, params, batch, tokens, mask, key, update: DiscriminatorUpdate, rows: Rows
    ):
        """What a loss of R sequences a source reads, [B R, T] -> `_Judged`."""
        has_mle = update.has("mle")

        def forward(module, source, source_mask, tokens, mask):
            memory = module.encode(source, source_mask, train=True)
            if not (update.per_step or has_mle):
                whole = module.sequence_score(memory, tokens, mask, train=True)
                return _Judged(whole, None, None, module.regulariser())
            features = module.features(memory, tokens, train=True)
            mask = jnp.tile(mask, (len(features) // len(mask), 1))
            return _Judged(
                module.readout(features, mask),
                module.dense_readout(features, mask) if update.per_step else None,
                module.log_likelihood(features) if has_mle else None,
                module.regulariser(),
            )

        with rows.dropout():
            return self.discriminator.apply(
                {"params": params},
                batch["source"],
                batch["source_mask"],
                tokens,
                mask,
                method=forward,
                rngs={"dropout": jax.random.fold_in(key, DROPOUT)},
            )

    # Writing and judging.

    def _sample(self, params, batch, key, sample_index, truncation, forced):
        """One sequence a row; rows may be several samples of one source, source-major."""
        sources = len(batch["example_id"])
        example = jnp.repeat(batch["example_id"], len(sample_index) // sources)
        z = self._noise(jax.random.fold_in(key, NOISE), example, sample_index)
        draws = sampling.uniforms(
            jax.random.fold_in(key, SAMPLE), example, sample_index, self.length
        )
        memory = self._call(
            self.generator, params, "encode", batch["source"], batch["source_mask"], train=False
        )
        start = self._call(self.generator, params, "initial_state", memory, z, self.length)

        def step(state, token):
            state, logits = self._call(self.generator, params, "step", memory, state, token)
            return state, self._allowed(logits), None

        return sampling.sample(
            step,
            start,
            draws,
            bos=self.vocabulary.bos,
            **self._special(),
            truncation=truncation,
            forced=forced,
        )

    def _write(
        self,
        generator: Any,
        discriminator: Any,
        batch: dict[str, Any],
        key: chex.Array,
        *,
        num_samples: int,
        truncation: sampling.Truncation = sampling.Truncation(),  # noqa: B008
        forced: tuple[int, ...] = (),
    ) -> Written:
        """Samples `num_samples` sequences for each source and scores them.

        Args:
          generator: parameters.
          discriminator: parameters.
          batch: sources, [B, ...].
          key: with equal keys an example's sequences are equal, whatever the batch.
          num_samples: R.
          truncation: temperature and the like.
          forced: the first tokens of every sequence.
        """
        sources = len(batch["example_id"])
        index = jnp.tile(jnp.arange(num_samples), sources)
        sample = self._sample(generator, batch, key, index, truncation, forced)
        shape = (sources, num_samples, self.length)
        scores = self._judge(discriminator, batch, sample.tokens, sample.mask)
        return Written(
            sample.tokens.reshape(shape),
            sample.mask.reshape(shape),
            sample.log_probs.reshape(shape),
            scores.reshape(shape[:2]),
        )

    def _offer(
        self,
        generator: Any,
        discriminator: Any,
        calibration: rejection.Calibration,
        batch: dict[str, Any],
        key: chex.Array,
        index: chex.Array,
        *,
        truncation: sampling.Truncation = sampling.Truncation(),  # noqa: B008
        forced: tuple[int, ...] = (),
    ) -> tuple[Written, chex.Array, chex.Array]:
        """One sequence a row, and whether `core.rejection` accepts it.

        Args:
          generator: parameters.
          discriminator: parameters.
          calibration: of the discriminator.
          batch: sources, [B, ...].
          key: with equal keys an example's sequence of one number is equal, whatever the batch.
          index: the number of each row's sequence among those of its example, [B].
          truncation: temperature and the like.
          forced: the first tokens of every sequence.

        Returns:
          The sequences, R = 1; the log-probability that each is accepted, [B]; whether it is, [B].
        """
        sample = self._sample(generator, batch, key, index, truncation, forced)
        logits = self._judge(discriminator, batch, sample.tokens, sample.mask)
        written = Written(*(x[:, None] for x in (*sample[:3], logits)))
        log_a = rejection.log_acceptance(logits, calibration)
        draws = sampling.uniforms(jax.random.fold_in(key, ACCEPT), batch["example_id"], index, 1)
        return written, log_a, jnp.log(draws[:, 0]) < log_a

    def _search_beams(
        self,
        generator: Any,
        discriminator: Any,
        batch: dict[str, Any],
        key: chex.Array,
        *,
        width: int,
        forced: tuple[int, ...] = (),
        banned: tuple[int, ...] = (),
        length_penalty: float = 0.0,
    ) -> tuple[beam.Beams, chex.Array]:
        """The `width` best sequences of each source under one z, and their logits, [B, W]."""
        sources = len(batch["example_id"])
        index = jnp.zeros_like(batch["example_id"])
        z = self._noise(jax.random.fold_in(key, NOISE), batch["example_id"], index)
        memory = self._call(
            self.generator, generator, "encode", batch["source"], batch["source_mask"], train=False
        )
        start = self._call(
            self.generator, generator, "initial_state", memory, jnp.repeat(z, width, 0), self.length
        )
        found = beam.search(
            lambda state, token: self._call(
                self.generator, generator, "step", memory, state, token
            ),
            start,
            batch=sources,
            width=width,
            length=self.length,
            bos=self.vocabulary.bos,
            **self._special(),
            banned=(*self._never(), *banned),
            forced=forced,
            length_penalty=length_penalty,
        )
        lanes = (sources * width, self.length)
        scores = self._judge(
            discriminator, batch, found.tokens.reshape(lanes), found.mask.reshape(lanes)
        )
        return found, scores.reshape(sources, width)

    def _judge(self, params, batch, tokens, mask) -> chex.Array:
        """The discriminator's logits of R sequences a source: [B R, T] -> [B R]."""
        memory = self._call(
            self.discriminator, params, "encode", batch["source"], batch["source_mask"], train=False
        )
        return self._call(self.discriminator, params, "sequence_score", memory, tokens, mask)

    def _likelihood(
        self,
        params: Any,
        batch: dict[str, Any],
        key: chex.Array,
        *,
        num_noise: int,
        temperature: float = 1.0,
    ) -> chex.Array:
        """-log (1/K) sum_k G(target | z_k), z_k ~ N(0, I), in nats for each sequence, [B].

        An upper bound of -log E_z G(target | z) in expectation (Burda et al., 2016, with the prior
        as proposal), tighter with more noise samples; exact for Z = 0. The logits are divided by
        the temperature.
        """
        rows = self.layout.rows.numbers(len(batch["example_id"]))
        num_noise = num_noise if self.generator.noise_size else 1

        def one(k):
            z = self._noise(key, batch["example_id"], rows * num_noise + k)
            logits = self._logits(params, batch, z, batch["target"]) / temperature
            return -jax.vmap(losses.negative_log_likelihood)(logits, batch["target"], batch["mask"])

        log_probs = jax.lax.map(one, jnp.arange(num_noise))
        return -jax.nn.logsumexp(log_probs, axis=0) + jnp.log(num_noise)

    def _attention(
        self, params: Any, batch: dict[str, Any], key: chex.Array, tokens: chex.Array
    ) -> chex.Array | None:
        """Where the first sample of each source, [B, T], looked at each token, [B, T, S].

        None where the generator keeps no attention.
        """
        index = jnp.zeros_like(batch["example_id"])
        z = self._noise(jax.random.fold_in(key, NOISE), batch["example_id"], index)
        _, kept = self.generator.apply(
            {"params": params},
            batch["source"],
            batch["source_mask"],
            z,
            self._inputs(tokens),
            mutable=["intermediates"],
        )
        weights = kept.get("intermediates", {}).get("attention")
        return None if weights is None else weights[0].reshape(*tokens.shape, -1)


def _reading(batch: dict[str, Any], sample: sampling.Samples, weight) -> dict[str, Any]:
    """The batch with the sample as source of those rows that are no pair.

    A sample may be longer than what the batch was cut to. 'factor' is of each row's loss, [B].
    """
    paired = batch["paired"] > 0

    def chosen(own, other):
        own = jnp.pad(own, ((0, 0), (0, other.shape[1] - own.shape[1])))
        return jnp.where(paired[:, None], own, other)

    return batch | {
        "source": chosen(batch["source"], sample.tokens),
        "source_mask": chosen(batch["source_mask"], sample.mask),
        "factor": jnp.where(paired, 1.0, weight),
    }


def _weights(batch, mask) -> chex.Array:
    """A mask of R sequences a source, [B R, T], less those of filler rows."""
    return mask * jnp.repeat(batch["weight"], len(mask) // len(batch["weight"]))[:, None]


def _share(values: chex.Array, weights: chex.Array, total: chex.Array) -> chex.Array:
    """What some rows add to `losses.weighted_mean` over all, whose weights add up to `total`."""
    chex.assert_equal_shape([values, weights])
    return jnp.sum(values * weights) / jnp.maximum(total, 1e-8)


def _log_likelihood(projected, tokens, weights, entropy_weights, mask) -> losses.Projected:
    """`losses.projected_log_likelihood` of whole sequences: u [B, T, U], the others [B, T]."""
    u, kernel, bias = projected
    flat = lambda x: None if x is None else x.reshape(-1)
    return losses.projected_log_likelihood(
        u.reshape(-1, u.shape[-1]),
        kernel,
        bias,
        *map(flat, (tokens, weights, entropy_weights, mask)),
    )
