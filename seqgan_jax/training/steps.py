"""The one training step, and the compiled functions of evaluation, over both networks.

`Steps` binds two networks to these functions; apart from that they are pure: a state and a batch
in, a state and metrics out. Shapes: B batch, T target length, V vocabulary, Z noise, R samples of
one source.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.core import beam, losses, rewards, rollout, sampling
from seqgan_jax.models.interface import Discriminator, Generator
from seqgan_jax.training.phases import DiscriminatorUpdate, GeneratorUpdate, Phase
from seqgan_jax.training.state import Network, TrainState, copy, transfer

# What a step's random numbers are for: each purpose folds its number into the step's key.
SAMPLE, NOISE, ROLLOUT, DROPOUT, FRESH = range(5)


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


class Steps:
    """Compiled steps for a pair of networks.

    Args:
      generator: see `models.interface`.
      discriminator: see `models.interface`.
      vocabulary: the codec's.
      length: T.
      clip: largest global norm of a gradient.
      pool: the largest `DiscriminatorUpdate.pool` of the schedule.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        vocabulary: Vocabulary,
        length: int,
        clip: float,
        pool: int = 0,
    ):
        self.generator = generator
        self.discriminator = discriminator
        self.vocabulary = vocabulary
        self.length = length
        self.pool = pool
        self.optimizer = optax.chain(optax.clip_by_global_norm(clip), optax.scale_by_adam())
        self.train_step = jax.jit(
            self._train_step, static_argnames=("phase", "network"), donate_argnums=0
        )
        self.write = jax.jit(self._write, static_argnames=("num_samples", "truncation", "forced"))
        self.likelihood = jax.jit(self._likelihood, static_argnames="num_noise")
        self.judge = jax.jit(self._judge)
        self.attention = jax.jit(self._attention)
        self.search_beams = jax.jit(
            self._search_beams, static_argnames=("width", "forced", "banned")
        )

    # Networks as functions of their parameters.

    def _call(self, network, params, method, *args, **kwargs):
        return network.apply({"params": params}, *args, method=method, **kwargs)

    def _noise(self, key, example_id, sample_index) -> chex.Array:
        """z ~ N(0, I), [B, Z], a function of the example and the sample alone."""

        def row(example, sample):
            row_key = jax.random.fold_in(jax.random.fold_in(key, example), sample)
            return jax.random.normal(row_key, (self.generator.noise_size,))

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
        z = jnp.zeros((len(batch["target"]), self.generator.noise_size))
        source, source_mask, target = batch["source"], batch["source_mask"], batch["target"]

        def initialise(key):
            ours, theirs = jax.random.split(key)
            generator = self.generator.init(ours, source, source_mask, z, target)["params"]
            discriminator = self.discriminator.init(
                theirs, source, source_mask, target, batch["mask"]
            )["params"]
            return generator, discriminator

        generator, discriminator = jax.jit(initialise)(jax.random.fold_in(key, 0))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            phase=jnp.zeros((), jnp.int32),
            phase_step=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(jax.random.fold_in(key, 1)),
            generator=Network(generator, self.optimizer.init(generator)),
            discriminator=Network(discriminator, self.optimizer.init(discriminator)),
            rollout=copy(generator),
            baseline=jnp.zeros((self.length,)),
            pool=jnp.zeros((self.pool, self.length), jnp.int32) if self.pool else None,
        )

    def begin_phase(self, state: TrainState, index: int, phase: Phase) -> TrainState:
        """The state at a phase's start: fresh optimisers, baseline and rollout policy."""
        params = copy(state.discriminator.params)
        if phase.transfer:
            params = transfer(state.generator.params, params)
        return state.replace(
            phase=jnp.asarray(index, jnp.int32),
            phase_step=jnp.zeros((), jnp.int32),
            generator=Network(state.generator.params, self.optimizer.init(state.generator.params)),
            discriminator=Network(params, self.optimizer.init(params)),
            rollout=copy(state.generator.params),
            baseline=jnp.zeros((self.length,)),
        )

    # Training.

    def _train_step(
        self, state: TrainState, batch: dict[str, Any], *, phase: Phase, network: str
    ) -> tuple[TrainState, dict[str, chex.Array]]:
        """One update of one network.

        Args:
          state: donated.
          batch: B rows, see `data.pipeline`.
          phase: the phase; static.
          network: which network this step of it updates, 'generator' or 'discriminator'; static.

        Returns:
          The new state and scalar metrics.
        """
        update = phase.generator if network == "generator" else phase.discriminator
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        rate = update.rate(state.phase_step, phase.steps)
        if network == "generator":
            state, metrics = self._update_generator(state, batch, key, update, rate)
        else:
            turn = phase.updates_before("discriminator", state.phase_step)
            if update.fresh:
                state = self._renewed(state, batch, key, turn % update.updates == 0)
            if update.pool:
                state, *fake = self._from_pool(state, batch, key, update, turn)
            else:
                fake = self._sample(
                    state.generator.params,
                    batch,
                    key,
                    jnp.arange(len(batch["example_id"])),
                    sampling.Truncation(),
                    (),
                )[:2]
            state, metrics = self._update_discriminator(state, batch, key, update, rate, *fake)
        return state.replace(step=state.step + 1, phase_step=state.phase_step + 1), {
            f"{network}/{name}": value for name, value in metrics.items()
        }

    def _apply(self, network: Network, grads, rate) -> tuple[Network, chex.Array]:
        updates, optimizer = self.optimizer.update(grads, network.optimizer, network.params)
        params = jax.tree.map(lambda p, u: p - rate * u, network.params, updates)
        return Network(params, optimizer), optax.tree.norm(grads)

    def _update_generator(self, state, batch, key, update: GeneratorUpdate, rate):
        metrics = {}
        sample = None
        if update.policy_gradient:
            estimate = self._search if update.values == "rollout" else self._dense_values
            z, sample, values = estimate(state, batch, key, update)
            advantages = values - (
                state.baseline
                if update.baseline == "position"
                else jnp.pad(values[:, :-1], ((0, 0), (1, 0))).at[:, 0].set(state.baseline[0])
            )
            metrics["reward"] = losses.weighted_mean(values, sample.mask * batch["weight"][:, None])
            state = state.replace(
                baseline=rewards.update_baseline(
                    state.baseline,
                    values,
                    sample.mask * batch["weight"][:, None],
                    update.baseline_decay,
                )
            )

        def loss_of(params):
            terms = {}
            if update.mle or update.words:
                terms |= self._on_real(params, batch, key, update)
            if update.policy_gradient:
                found, entropy = self._on_sample(params, batch, z, sample, advantages, update)
                terms |= found
                metrics["sample_entropy"] = entropy
            return sum(terms.values()), (terms, metrics)

        (loss, (terms, metrics)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            state.generator.params
        )
        generator, norm = self._apply(state.generator, grads, rate)
        state = state.replace(generator=generator)
        if update.policy_gradient and update.values == "rollout":
            slow = lambda old, new: update.rollout_decay * old + (1 - update.rollout_decay) * new
            rollout = jax.tree.map(slow, state.rollout, generator.params)
            # As in the authors' program, the rollout policy has the generator's own embeddings.
            state = state.replace(
                rollout=rollout | {"embedding": jnp.copy(generator.params["embedding"])}
            )
        return state, {
            **metrics,
            **{f"loss_{name}": term for name, term in terms.items()},
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": rate,
        }

    def _on_real(self, params, batch, key, update: GeneratorUpdate) -> dict[str, chex.Array]:
        """The losses on real targets, with dropout: those of `mle` and `words` that have weights.

        `mle` is the mean negative log-likelihood per token, one z a target; `words` the mean over
        sources of the loss of predicting which words their targets use.
        """
        target, sources = batch["target"], len(batch["example_id"])
        each = len(target) // sources

        def forward(module, source, source_mask, noise, inputs):
            memory = module.encode(source, source_mask, train=True)
            state = module.initial_state(memory, noise, self.length)
            return (
                module.before_output(memory, state, inputs, train=True) if update.mle else None,
                module.word_logits(memory) if update.words else None,
            )

        noise = self._noise(
            jax.random.fold_in(key, NOISE),
            jnp.repeat(batch["example_id"], each),
            jnp.arange(len(target)),
        )
        projected, words = self.generator.apply(
            {"params": params},
            batch["source"],
            batch["source_mask"],
            noise,
            self._inputs(target),
            method=forward,
            rngs={"dropout": jax.random.fold_in(key, DROPOUT)},
        )
        terms = {}
        if update.mle:
            mask = batch["mask"] * jnp.repeat(batch["weight"], each)[:, None]
            found = _log_likelihood(projected, target, mask / jnp.maximum(mask.sum(), 1.0))
            terms["mle"] = -update.mle * found.value
        if update.words:
            used = (
                jnp.zeros(words.shape)
                .at[jnp.arange(sources)[:, None], target.reshape(sources, -1)]
                .max(batch["mask"].reshape(sources, -1))
            )
            per_source = losses.binary_cross_entropy(words, used).sum(-1)
            terms["words"] = update.words * losses.weighted_mean(per_source, batch["weight"])
        return terms

    def _on_sample(self, params, batch, z, sample, advantages, update: GeneratorUpdate):
        """The losses on sampled sequences, without dropout, and their mean entropy per token."""

        def forward(module, source, source_mask, inputs):
            memory = module.encode(source, source_mask, train=False)
            state = module.initial_state(memory, z, self.length)
            return module.before_output(memory, state, inputs, train=False)

        u, kernel, bias = self.generator.apply(
            {"params": params},
            batch["source"],
            batch["source_mask"],
            self._inputs(sample.tokens),
            method=forward,
        )
        mask = sample.mask * batch["weight"][:, None]
        share = mask / jnp.maximum(mask.sum(), 1.0)
        found = _log_likelihood(
            (u, kernel, self._allowed(bias)),
            sample.tokens,
            update.policy_gradient * advantages * share,
            update.entropy * share if update.entropy else None,
        )
        # The gradient of both terms is that of `value`, their sum.
        entropy = jax.lax.stop_gradient(jnp.vdot(share, found.entropy.reshape(share.shape)))
        gained = update.entropy * entropy
        return {"policy_gradient": gained - found.value, "entropy": -gained}, entropy

    def _logits(self, params, batch, z, tokens) -> chex.Array:
        """Logits [B, T, V] of given sequences under given noise, without dropout."""
        return self.generator.apply(
            {"params": params}, batch["source"], batch["source_mask"], z, self._inputs(tokens)
        )

    def _search(self, state: TrainState, batch, key, update: GeneratorUpdate):
        """Samples one sequence a source and estimates the action value of each of its tokens."""
        rows = jnp.arange(len(batch["example_id"]))
        identity = (batch["example_id"], rows)
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
            return self._call(theirs, judge_params, "step", judge_memory, judge_state, token)

        def step(states, token):
            own, policy_state = states
            own, logits = self._call(ours, params, "step", memory, own, token)
            policy_state, _ = policy(policy_state, token)
            return (own, policy_state), self._allowed(logits), policy_state

        def observe(judge_state, token):
            judge_state, feature = judge(judge_state, token)
            return judge_state, (judge_state, feature)

        start = tuple(
            self._call(ours, p, "initial_state", m, z, self.length)
            for p, m in ((params, memory), (slow, slow_memory))
        )
        sample = sampling.sample(
            step,
            start,
            draws,
            bos=self.vocabulary.bos,
            **self._special(),
            observe=observe,
            observer=self._call(theirs, judge_params, "initial_state", judge_memory, len(rows)),
        )
        policy_states, (judge_states, features) = sample.extras
        values = rollout.action_values(
            lambda policy_state, token: self._then_allowed(policy(policy_state, token)),
            judge,
            lambda features, mask, **known: rewards.REWARDS[update.reward](
                self._call(theirs, judge_params, "readout", features, mask, **known)
            ),
            tokens=sample.tokens,
            mask=sample.mask,
            policy_states=policy_states,
            judge_states=judge_states,
            features=jnp.swapaxes(features, 0, 1),
            key=jax.random.fold_in(key, ROLLOUT),
            example_id=batch["example_id"],
            num_rollouts=update.num_rollouts,
            chunk=update.rollout_chunk,
            shares=theirs.shares,
            **self._special(),
        )
        return z, sample, values

    def _dense_values(self, state: TrainState, batch, key, update: GeneratorUpdate):
        """As `_search`, from the discriminator's logits of all prefixes."""
        rows = jnp.arange(len(batch["example_id"]))
        z = self._noise(jax.random.fold_in(key, NOISE), batch["example_id"], rows)
        sample = self._sample(state.generator.params, batch, key, rows, sampling.Truncation(), ())
        judge = lambda method, *args: self._call(
            self.discriminator, state.discriminator.params, method, *args
        )
        memory = judge("encode", batch["source"], batch["source_mask"])
        logits = judge("score", memory, sample.tokens, sample.mask)
        clipped = jnp.clip(logits, -update.reward_clip, update.reward_clip)
        values = rewards.discounted(
            rewards.REWARDS[update.reward](clipped), sample.mask, update.discount
        )
        return z, sample, values

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
            return Network(params, self.optimizer.init(params))

        return state.replace(discriminator=jax.lax.cond(due, draw, lambda: state.discriminator))

    def _from_pool(self, state, batch, key, update: DiscriminatorUpdate, turn):
        """The batch of generated sequences that is update `turn`'s, from a pool renewed in time.

        Returns:
          The state with its pool, the batch's tokens [B, T] and their mask.
        """
        size = len(batch["example_id"])
        each_epoch = update.pool // size
        turn = turn % (each_epoch * update.epochs)
        place = turn % each_epoch

        def fill():
            rows = jnp.arange(each_epoch * size).reshape(each_epoch, size)
            write = lambda row: (
                self._sample(
                    state.generator.params, batch, key, row, sampling.Truncation(), ()
                ).tokens
            )
            written = jax.lax.map(write, rows).reshape(-1, self.length)
            return state.pool.at[: len(written)].set(written)

        pool = jax.lax.cond(turn == 0, fill, lambda: state.pool)
        # The order of an epoch is the same at all of its updates.
        first = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step - place)
        order = jax.random.permutation(first, each_epoch * size)
        tokens = pool[jax.lax.dynamic_slice_in_dim(order, place * size, size)]
        return state.replace(pool=pool), tokens, self._mask(tokens)

    def _mask(self, tokens):
        """1 up to the end token, which it includes: [B, T] -> [B, T]."""
        if self.vocabulary.eos is None:
            return jnp.ones(tokens.shape)
        ends = tokens == self.vocabulary.eos
        return (jnp.cumsum(ends, axis=1) - ends == 0).astype(jnp.float32)

    def _update_discriminator(
        self, state, batch, key, update: DiscriminatorUpdate, rate, fake, fake_mask
    ):
        # Lanes of one source: its real sequence, a generated one, another example's real one.
        tokens = [batch["target"], fake]
        masks = [batch["mask"], fake_mask]
        labels = [update.smoothing, 0.0]
        weights = [batch["weight"], batch["weight"]]
        if update.mismatch:
            tokens.append(jnp.roll(batch["target"], 1, axis=0))
            masks.append(jnp.roll(batch["mask"], 1, axis=0))
            labels.append(0.0)
            # Another caption of the same source is no mismatch.
            other = jnp.roll(batch["example_id"], 1) != batch["example_id"]
            weights.append(update.mismatch * batch["weight"] * other)
        tokens, mask = jnp.stack(tokens, 1), jnp.stack(masks, 1)
        labels, weights = jnp.array(labels), jnp.stack(weights, 1)
        lanes = (-1, self.length)

        def loss_of(params):
            whole, dense, penalty = self._judge_lanes(
                params, batch, tokens.reshape(lanes), mask.reshape(lanes), key, update.per_step > 0
            )
            # A discriminator of several members gives one logit by each: a loss for each of them.
            final = whole.reshape(-1, *weights.shape)
            mean = jax.vmap(losses.weighted_mean, (0, None))
            loss = mean(losses.binary_cross_entropy(final, labels), weights).mean()
            if update.per_step:
                prefixes = dense.reshape(-1, *mask.shape)
                element = losses.binary_cross_entropy(prefixes, labels[:, None])
                steps = mean(element, mask * weights[:, :, None]).mean()
                loss = (1 - update.per_step) * loss + update.per_step * steps
            return loss + penalty, final.mean(0)

        (loss, final), grads = jax.value_and_grad(loss_of, has_aux=True)(state.discriminator.params)
        discriminator, norm = self._apply(state.discriminator, grads, rate)
        weight = batch["weight"]
        metrics = {
            "loss": loss,
            "accuracy_real": losses.weighted_mean(final[:, 0] > 0, weight),
            "accuracy_generated": losses.weighted_mean(final[:, 1] < 0, weight),
            "gradient_norm": norm,
            "learning_rate": rate,
        }
        if update.mismatch:
            metrics["accuracy_mismatched"] = losses.weighted_mean(final[:, 2] < 0, weights[:, 2])
        return state.replace(discriminator=discriminator), metrics

    def _judge_lanes(self, params, batch, tokens, mask, key, dense):
        """R sequences a source: logits [M B R], those of all prefixes if `dense`, the penalty."""

        def forward(module, source, source_mask, tokens, mask):
            memory = module.encode(source, source_mask, train=True)
            if not dense:
                whole = module.sequence_score(memory, tokens, mask, train=True)
                return whole, None, module.regulariser()
            features = module.features(memory, tokens, train=True)
            mask = jnp.tile(mask, (len(features) // len(mask), 1))
            whole = module.readout(features, mask)
            return whole, module.dense_readout(features, mask), module.regulariser()

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
        rows = jnp.arange(len(batch["example_id"]))
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


def _log_likelihood(projected, tokens, weights, entropy_weights=None) -> losses.Projected:
    """`losses.projected_log_likelihood` of whole sequences: u [B, T, U], the others [B, T]."""
    u, kernel, bias = projected
    return losses.projected_log_likelihood(
        u.reshape(-1, u.shape[-1]),
        kernel,
        bias,
        tokens.reshape(-1),
        weights.reshape(-1),
        None if entropy_weights is None else entropy_weights.reshape(-1),
    )
