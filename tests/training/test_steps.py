"""The training step on tiny networks, against slow loops and on tasks with a known answer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.window_discriminator import WindowDiscriminator
from seqgan_jax.training import parallel
from seqgan_jax.training.phases import DiscriminatorUpdate, GeneratorUpdate, Phase
from seqgan_jax.training.state import copy
from seqgan_jax.training.steps import (
    ACCEPT,
    DROPOUT,
    FRESH,
    HELD_OUT,
    NOISE,
    ROLLOUT,
    SAMPLE,
    Steps,
)

V, T, Z, S, D = 7, 4, 2, 2, 3
VOCABULARY = Vocabulary(size=V, bos=1, pad=0, eos=2)
RNG = np.random.default_rng(0)
CONSTANT = {"updates": 1, "batch_size": 0, "learning_rate": 0.01, "warmup": 0, "decay": 0.0}


def phase(name, generator=None, discriminator=None, **options):
    given = {"steps": 100, "batch_size": 3, "targets": 1, "evaluate_every": 100}
    given |= {"select": "nll", "transfer": False} | options
    return Phase(name=name, generator=generator, discriminator=discriminator, **given)


MLE = phase("mle", GeneratorUpdate(**CONSTANT, mle=1.0), targets=2)
JUDGE = phase("judge", None, DiscriminatorUpdate(**CONSTANT, mismatch=0.5, per_step=0.3))
ADVERSARIAL = phase(
    "adversarial",
    GeneratorUpdate(**CONSTANT, mle=0.5, policy_gradient=2.0, num_rollouts=3, rollout_chunk=2),
    DiscriminatorUpdate(**CONSTANT, mismatch=0.5),
)


def batch_of(rows, targets=1):
    """Sequences of all lengths, one cut without an end."""
    lengths = (np.arange(rows * targets) + 2) % T + 1
    mask = (np.arange(T) < lengths[:, None]).astype(np.float32)
    target = RNG.integers(3, V, (rows * targets, T)) * mask.astype(np.int64)
    ended = lengths < T
    target[ended, lengths[ended] - 1] = VOCABULARY.eos
    return {
        "source": RNG.normal(size=(rows, S, D)).astype(np.float32),
        "source_mask": None,
        "target": target.astype(np.int32),
        "mask": mask,
        "example_id": np.arange(10, 10 + rows, dtype=np.int32),
        "weight": np.ones(rows, np.float32),
    }


def generator(noise_size=Z):
    return LSTMGenerator(
        vocabulary_size=V,
        encoder=FeatureEncoder(4),
        embedding_size=3,
        hidden_size=5,
        num_layers=1,
        attention_size=3,
        output_size=4,
        noise_size=noise_size,
    )


def discriminator():
    return LSTMDiscriminator(
        vocabulary_size=V,
        encoder=FeatureEncoder(4),
        embedding_size=3,
        hidden_size=5,
        num_layers=1,
        attention_size=3,
        feature_size=4,
        num_heads=2,
        head_size=2,
    )


@pytest.fixture(scope="module")
def steps():
    # No gradient here reaches the norm at which it is clipped.
    return Steps(generator(), discriminator(), VOCABULARY, T, clip=100.0)


@pytest.fixture(scope="module")
def initial(steps):
    """A state on the host: steps consume the state that they are given."""
    return jax.device_get(steps.init(0, batch_of(3)))


def on_device(state):
    return jax.tree.map(jnp.array, state)


def begin(steps, state, index, chosen):
    return jax.device_get(steps.begin_phase(on_device(state), index, chosen))


def gradient(network):
    """The gradient of a network's first update, from Adam's first moment (1 - 0.9) g."""
    return jax.tree.map(lambda mu: np.asarray(mu) / (1 - 0.9), network.optimizer.mu)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def assert_close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-4), a, b)


def test_each_phase_and_network_compiles_once_and_updates_one_network(steps, initial):
    mesh = parallel.mesh()
    state = parallel.replicate(on_device(initial), mesh)
    compiled = 0
    for index, chosen in enumerate((MLE, JUDGE, ADVERSARIAL)):
        state = parallel.replicate(steps.begin_phase(state, index, chosen), mesh)
        for done in range(3 * chosen.cycle):
            network = chosen.network(done)
            other = "discriminator" if network == "generator" else "generator"
            # Of a copy: NumPy's view of a buffer on the CPU would keep it from being donated.
            before = jax.device_get(copy(state))
            batch = parallel.shard(batch_of(3, chosen.targets), mesh)
            given, (state, metrics) = (
                state,
                steps.train_step(state, batch, phase=chosen, network=network),
            )
            assert steps.train_step._cache_size() == compiled + min(done + 1, chosen.cycle)
            donated = (given.generator, given.discriminator, given.rollout)
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))
            assert_same(getattr(state, other), getattr(before, other))
            changed = jax.tree.map(
                lambda a, b: np.any(a != b),
                getattr(before, network).params,
                jax.device_get(getattr(state, network).params),
            )
            assert np.mean(jax.tree.leaves(changed)) > 0.8
            assert all(name.startswith((f"{network}/", "guard/")) for name in metrics)
            assert int(state.step) == int(before.step) + 1
            assert int(state.phase) == index
            assert int(state.phase_step) == done + 1
            assert np.array_equal(state.key, before.key)
        compiled += chosen.cycle


def noises(state, purpose, example_ids, samples):
    """z of each (example, sample), by the rule that the step documents."""
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
    key = jax.random.fold_in(key, purpose)
    fold = lambda example, sample: jax.random.fold_in(jax.random.fold_in(key, example), sample)
    return [jax.random.normal(fold(*pair), (Z,)) for pair in zip(example_ids, samples, strict=True)]


@jax.jit
def sequence_log_prob(params, source, z, tokens, never=()):
    """log G of every token of one sequence, token by token through `step`."""
    net = generator()
    call = lambda method, *args, **kw: net.apply({"params": params}, *args, method=method, **kw)
    memory = call("encode", source[None], None, train=False)
    state = call("initial_state", memory, z[None], T)
    log_probs, previous = [], jnp.array([VOCABULARY.bos])
    for token in tokens:
        state, logits = call("step", memory, state, previous)
        logits = logits[0].at[jnp.array(never, int)].set(-jnp.inf)
        log_probs.append(jax.nn.log_softmax(logits)[token])
        previous = token[None]
    return jnp.stack(log_probs)


def test_maximum_likelihood_step_equals_a_slow_loss(steps, initial):
    state = begin(steps, initial, 0, MLE)
    batch = batch_of(3, targets=2)
    zs = noises(state, NOISE, np.repeat(batch["example_id"], 2), range(6))

    def slow(params):
        total = 0.0
        for row in range(6):
            tokens = batch["target"][row]
            log_probs = sequence_log_prob(params, batch["source"][row // 2], zs[row], tokens)
            total -= log_probs[: int(batch["mask"][row].sum())].sum()
        return total / batch["mask"].sum()

    loss, grads = jax.value_and_grad(slow)(on_device(state.generator.params))
    after, metrics = steps.train_step(on_device(state), batch, phase=MLE, network="generator")
    np.testing.assert_allclose(metrics["generator/loss"], loss, rtol=1e-5)
    assert_close(gradient(after.generator), grads)
    # Adam's first update is the gradient's sign, but for its epsilon of 1e-8.
    moved = jax.tree.map(
        lambda p, g: p - 0.01 * g / (np.abs(g) + 1e-8),
        state.generator.params,
        jax.device_get(grads),
    )
    assert_close(after.generator.params, moved, atol=1e-4)
    assert_same(after.rollout, state.rollout)
    np.testing.assert_allclose(
        metrics["generator/gradient_norm"],
        np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads))),
        rtol=1e-4,
    )


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_clipping_scales_the_whole_gradient(steps, initial, share):
    state, batch = begin(steps, initial, 0, MLE), batch_of(2)
    options = {"phase": MLE, "network": "generator"}
    whole, metrics = steps.train_step(on_device(state), batch, **options)
    norm = float(metrics["generator/gradient_norm"])
    clipping = Steps(steps.generator, steps.discriminator, VOCABULARY, T, clip=share * norm)
    clipped, found = clipping.train_step(on_device(state), batch, **options)
    smaller = jax.tree.map(lambda g: min(1.0, share) * g, gradient(whole.generator))
    assert_close(gradient(clipped.generator), smaller)
    assert norm < steps.clip
    np.testing.assert_allclose(found["generator/gradient_norm"], norm, rtol=1e-6)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_filler_rows_change_nothing(steps, initial, network):
    state = begin(steps, initial, 2, ADVERSARIAL)
    batch = batch_of(2)
    row = np.array([0, 1, 1])  # the pipeline repeats the last row
    filled = {k: None if v is None else v[row] for k, v in batch.items()}
    filled["weight"] = np.float32([1, 1, 0])
    (a, ours), (b, theirs) = (
        steps.train_step(on_device(state), x, phase=ADVERSARIAL, network=network)
        for x in (batch, filled)
    )
    assert_close(gradient(getattr(a, network)), gradient(getattr(b, network)))
    assert_close(ours, theirs)
    assert_close(a.baseline, b.baseline)


@pytest.mark.parametrize("kind", ["position", "prefix"])
def test_policy_gradient_step_equals_a_slow_search(steps, initial, kind):
    """Sample, roll out under the old policy, judge, and differentiate, one token at a time."""
    chosen = dataclasses.replace(
        ADVERSARIAL, generator=dataclasses.replace(ADVERSARIAL.generator, baseline=kind)
    )
    state = begin(steps, initial, 2, chosen)
    other = jax.device_get(steps.init(1, batch_of(3)))
    # The rollout policy and the baseline as they might be later in the phase.
    baseline = np.float32([0.4, 0.5, 0.6, 0.7])
    state = state.replace(rollout=other.generator.params, baseline=baseline)
    batch, rollouts = batch_of(2), ADVERSARIAL.generator.num_rollouts
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
    # Row b is sample b of its source.
    written = steps.write(state.generator.params, state.discriminator.params, batch, key,
                          num_samples=2)  # fmt: skip
    tokens = np.stack([written.tokens[b, b] for b in range(2)])
    mask = np.stack([written.mask[b, b] for b in range(2)])
    zs = noises(state, NOISE, batch["example_id"], range(2))

    @jax.jit
    def next_logits(source, z, prefix):
        logits = steps.generator.apply(
            {"params": on_device(state.rollout)}, source[None], None, z[None], prefix[None]
        )
        return logits[0]

    @jax.jit
    def judged(source, tokens, mask):
        apply = lambda method, *args: steps.discriminator.apply(
            {"params": on_device(state.discriminator.params)}, *args, method=method
        )
        memory = apply("encode", source[None], None)
        return jax.nn.sigmoid(apply("sequence_score", memory, tokens[None], mask[None])[0])

    def reward(b, sequence):
        padded = np.zeros(T, np.int32)
        padded[: len(sequence)] = sequence
        return judged(batch["source"][b], padded, np.float32(np.arange(T) < len(sequence)))

    def complete(b, sequence, uniforms):
        sequence = list(sequence)
        for uniform in uniforms:
            if sequence[-1] == VOCABULARY.eos or len(sequence) == T:
                break
            inputs = np.zeros(T, np.int32)
            inputs[: len(sequence) + 1] = [VOCABULARY.bos, *sequence]
            logits = np.float64(next_logits(batch["source"][b], zs[b], inputs)[len(sequence)])
            logits[[VOCABULARY.pad, VOCABULARY.bos]] = -np.inf
            cumulative = np.cumsum(np.exp(logits) / np.exp(logits).sum())
            assert np.abs(cumulative - uniform).min() > 1e-5  # else take another seed
            sequence.append(int(np.searchsorted(cumulative, uniform, side="right")))
        return sequence

    values = np.zeros((2, T))
    for b in range(2):
        count = int(mask[b].sum())
        for t in range(1, count + 1):
            for n in range(rollouts if t < count else 1):
                row = jax.random.fold_in(jax.random.fold_in(key, ROLLOUT), batch["example_id"][b])
                row = jax.random.fold_in(row, t * rollouts + n)
                uniforms = jax.random.uniform(row, (T,))
                sequence = complete(b, tokens[b, :t], uniforms if t < count else ())
                values[b, t - 1] += reward(b, sequence) / (rollouts if t < count else 1)

    def slow(params):
        surrogate = nll = 0.0
        for b in range(2):
            source, count = batch["source"][b], int(mask[b].sum())
            never = VOCABULARY.pad, VOCABULARY.bos
            log_probs = sequence_log_prob(params, source, zs[b], tokens[b], never)
            before = baseline if kind == "position" else [baseline[0], *values[b, :-1]]
            surrogate -= (log_probs * (values[b] - np.float32(before)))[:count].sum()
            real, count = batch["target"][b], int(batch["mask"][b].sum())
            nll -= sequence_log_prob(params, source, zs[b], real)[:count].sum()
        surrogate = 2.0 * surrogate / mask.sum()
        return surrogate + 0.5 * nll / batch["mask"].sum(), surrogate

    (_, loss), grads = jax.value_and_grad(slow, has_aux=True)(on_device(state.generator.params))
    after, metrics = steps.train_step(on_device(state), batch, phase=chosen, network="generator")
    np.testing.assert_allclose(metrics["generator/loss_policy_gradient"], loss, rtol=1e-4)
    np.testing.assert_allclose(
        metrics["generator/reward"], (values * mask).sum() / mask.sum(), rtol=1e-5
    )
    assert_close(gradient(after.generator), grads)
    # The baseline and the rollout policy move after they were used.
    count = mask.sum(0)
    mean = (values * mask).sum(0) / np.maximum(count, 1)
    expected = np.where(count > 0, 0.9 * baseline + 0.1 * mean, baseline)
    np.testing.assert_allclose(after.baseline, expected, rtol=1e-5)
    slower = jax.tree.map(lambda o, n: 0.8 * o + 0.2 * n, state.rollout, after.generator.params)
    slower["embedding"] = after.generator.params["embedding"]
    assert_close(after.rollout, slower, atol=1e-6)


def test_discriminator_learns_a_fixed_batch(steps, initial):
    batch, state = batch_of(3), on_device(begin(steps, initial, 1, JUDGE))
    # Real sequences of a token that the generator writes once in five.
    batch["target"] = np.where(batch["mask"] > 0, 3, 0).astype(np.int32)
    found = []
    for _ in range(60):
        state, metrics = steps.train_step(state, batch, phase=JUDGE, network="discriminator")
        found.append(jax.device_get(metrics))
    losses = [m["discriminator/loss"] for m in found]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    for name in ("real", "generated"):
        assert np.mean([m[f"discriminator/accuracy_{name}"] for m in found[-10:]]) > 0.8


def test_captions_of_one_source_are_no_mismatch(steps, initial):
    """Every row has the same example: the loss is that of real and generated sequences alone."""
    state, batch = begin(steps, initial, 1, JUDGE), batch_of(3)
    batch = {k: v if v is None else v[[0, 0, 0]] for k, v in batch.items()}
    other = {**batch, "example_id": np.array([10, 10, 11], np.int32)}
    results = [
        steps.train_step(on_device(state), x, phase=JUDGE, network="discriminator")[1]
        for x in (batch, other)
    ]
    assert float(results[0]["discriminator/accuracy_mismatched"]) == 0  # of no rows
    # The same sequence as a positive and as a negative costs more than as a positive alone.
    assert results[1]["discriminator/loss"] != results[0]["discriminator/loss"]


class Counter(nn.Module):
    """A judge that likes one token: its logit is 8 (share of the token) - 4."""

    liked: int = 5
    dense = True
    shares = False

    def setup(self):
        self.unused = self.param("unused", nn.initializers.zeros, (1,))

    def encode(self, source, source_mask, *, train=False):
        return None

    def initial_state(self, memory, batch):
        return jnp.zeros((batch, 1))

    def step(self, memory, state, token):
        return state, (token == self.liked).astype(jnp.float32)[:, None]

    def readout(self, features, mask):
        return 8 * (features[..., 0] * mask).sum(-1) / mask.sum(-1) - 4

    def sequence_score(self, memory, tokens, mask, *, train=False):
        return self.readout((tokens == self.liked)[..., None].astype(jnp.float32), mask)

    def __call__(self, source, source_mask, tokens, mask, *, train=False):
        return self.sequence_score(None, tokens, mask) + self.unused


def test_policy_gradient_finds_what_is_rewarded():
    net = Counter()
    steps = Steps(generator(), net, VOCABULARY, T, clip=1.0)
    batch = batch_of(16)
    chosen = phase(
        "policy",
        GeneratorUpdate(**{**CONSTANT, "learning_rate": 0.03}, policy_gradient=1.0),
        batch_size=16,
    )
    state = steps.begin_phase(steps.init(0, batch), 0, chosen)

    def share():
        written = steps.write(state.generator.params, state.discriminator.params, batch,
                              jax.random.key(1), num_samples=8)  # fmt: skip
        return float(((written.tokens == net.liked) * written.mask).sum() / written.mask.sum())

    before = share()
    for _ in range(60):
        state, _ = steps.train_step(state, batch, phase=chosen, network="generator")
    assert before < 0.4
    assert share() > 0.9


def test_a_new_phase_starts_afresh_without_sharing_buffers(steps, initial):
    state = on_device(initial)
    state, _ = steps.train_step(state, batch_of(3, 2), phase=MLE, network="generator")
    state = state.replace(baseline=state.baseline + 1)
    began = steps.begin_phase(state, 1, dataclasses.replace(JUDGE, transfer=True))
    assert int(began.phase) == 1
    assert int(began.phase_step) == 0
    assert int(began.step) == 1
    assert_same(began.generator.params, state.generator.params)
    assert_same(began.rollout, state.generator.params)
    # Both read sources and tokens alike, but the outputs are their own.
    both = {"encoder", "embedding", "lstm_0_input", "lstm_0_recurrent", "lstm_0_bias"}
    both |= {"attention_query", "attention_key", "attention_score"}
    for name, found in began.discriminator.params.items():
        origin = state.generator if name in both else state.discriminator
        if name == "start":  # the generator's also reads the noise
            expected = dict(state.generator.params[name])
            expected["kernel"] = expected["kernel"][: len(found["kernel"])]
            assert_same(found, expected)
        elif name != "hidden":  # of equal size here by chance
            assert_same(found, origin.params[name])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(began.discriminator.optimizer))
    assert_same(began.generator.optimizer, state.generator.optimizer)  # frozen in this phase
    assert not np.any(began.baseline)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(began)]
    assert len(set(pointers)) == len(pointers)
    kept = steps.begin_phase(state, 1, JUDGE)
    assert_same(kept.discriminator.params, state.discriminator.params)


def test_samples_depend_on_the_example_alone(steps, initial):
    """Not on the batch that it is in, nor on how many samples are drawn."""
    params = initial.generator.params, initial.discriminator.params
    batch = batch_of(3)
    order = np.array([2, 0])
    fewer = {k: v if v is None else v[order] for k, v in batch.items()}
    a = steps.write(*params, batch, jax.random.key(4), num_samples=3)
    b = steps.write(*params, fewer, jax.random.key(4), num_samples=2)
    np.testing.assert_array_equal(a.tokens[order][:, :2], b.tokens)
    np.testing.assert_array_equal(a.mask[order][:, :2], b.mask)
    np.testing.assert_allclose(a.log_probs[order][:, :2], b.log_probs, atol=1e-5)
    np.testing.assert_allclose(a.scores[order][:, :2], b.scores, atol=1e-5)
    assert np.any(a.tokens[:, 0] != a.tokens[:, 1])
    other = steps.write(*params, batch, jax.random.key(5), num_samples=3)
    assert np.any(a.tokens != other.tokens)


def test_purposes_have_numbers_of_their_own():
    assert len({SAMPLE, NOISE, ROLLOUT, DROPOUT, FRESH, HELD_OUT, ACCEPT}) == 7


def test_a_pool_is_read_whole_in_every_epoch_and_then_renewed():
    options = {"encoder": None}
    update = DiscriminatorUpdate(**CONSTANT, pool=6, epochs=2)
    chosen = phase("judge", None, update)
    steps = Steps(
        generator().clone(**options),
        discriminator().clone(**options),
        VOCABULARY,
        T,
        5.0,
        (chosen,),
    )
    batch = batch_of(3) | {"source": None}
    state = steps.begin_phase(steps.init(0, batch), 0, chosen)
    pools, seen = [], []
    for turn in range(8):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        _, tokens, mask = steps._from_pool(state, batch, key, update, turn)
        state, _ = steps.train_step(state, batch, phase=chosen, network="discriminator")
        pools.append(np.asarray(state.pool))
        seen.append(np.asarray(tokens))
        ends = [list(row).index(2) + 1 if 2 in row else T for row in np.asarray(tokens)]
        np.testing.assert_array_equal(mask, np.arange(T) < np.array(ends)[:, None])
    rows = lambda pool: sorted(map(tuple, pool))
    for turn in range(8):
        np.testing.assert_array_equal(pools[turn], pools[turn // 2 * 2])  # of an epoch
        assert rows(pools[turn]) == rows(pools[turn // 4 * 4])
    assert rows(pools[0]) != rows(pools[4])
    orders = {tuple(map(tuple, pool)) for pool in pools}
    assert len(orders) == 4, "every epoch has an order of its own"
    for epoch in range(4):
        both = seen[2 * epoch : 2 * epoch + 2]
        assert rows(np.concatenate(both)) == rows(pools[2 * epoch])


@pytest.mark.parametrize(
    ("estimator", "reward"),
    [("dense", "log_ratio"), ("dense", "probability"), ("terminal", "log_ratio")],
)
def test_values_of_judged_samples_equal_a_slow_sum(steps, initial, estimator, reward):
    """Judge every prefix, clip, sum what is to come (or take the end alone), differentiate."""
    state = begin(steps, initial, 2, ADVERSARIAL)
    baseline = np.float32([0.4, 0.5, 0.6, 0.7])
    state = state.replace(baseline=baseline)
    batch = batch_of(3)
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
    written = steps.write(state.generator.params, state.discriminator.params, batch, key,
                          num_samples=3)  # fmt: skip
    tokens = np.stack([written.tokens[b, b] for b in range(3)])
    mask = np.stack([written.mask[b, b] for b in range(3)])
    zs = noises(state, NOISE, batch["example_id"], range(3))

    judge = lambda method, *args: steps.discriminator.apply(
        {"params": on_device(state.discriminator.params)}, *args, method=method
    )
    memory = judge("encode", batch["source"], None)
    prefixes = [np.float32(np.tile(np.arange(T) <= s, (3, 1))) for s in range(T)]
    logits = np.stack([judge("sequence_score", memory, tokens, prefix) for prefix in prefixes], 1)
    clip = float(np.median(np.abs(logits[mask > 0])))
    values = np.zeros((3, T))
    if estimator == "terminal":
        values += judge("sequence_score", memory, tokens, mask)[:, None]
    for b in range(3 if estimator == "dense" else 0):
        for s in range(int(mask[b].sum())):
            logit = np.clip(logits[b, s], -clip, clip)
            step_reward = logit if reward == "log_ratio" else 1 / (1 + np.exp(-logit))
            for t in range(s + 1):
                values[b, t] += 0.5 ** (s - t) * step_reward
    options = {"estimator": estimator, "discount": 0.5, "reward_clip": clip, "reward": reward}
    update = GeneratorUpdate(**CONSTANT, policy_gradient=2.0, baseline="position", **options)
    chosen = phase(estimator, update)

    def slow(params):
        surrogate = 0.0
        for b in range(3):
            count = int(mask[b].sum())
            never = VOCABULARY.pad, VOCABULARY.bos
            log_probs = sequence_log_prob(params, batch["source"][b], zs[b], tokens[b], never)
            surrogate -= (log_probs * np.float32(values[b] - baseline))[:count].sum()
        return 2.0 * surrogate / mask.sum()

    grads = jax.grad(slow)(on_device(state.generator.params))
    after, metrics = steps.train_step(on_device(state), batch, phase=chosen, network="generator")
    assert_close(gradient(after.generator), grads)
    np.testing.assert_allclose(
        metrics["generator/reward"], (values * mask).sum() / mask.sum(), rtol=1e-4, atol=1e-6
    )
    assert_same(after.rollout, state.rollout)


@pytest.fixture(scope="module")
def windows():
    judge = WindowDiscriminator(vocabulary_size=V, embedding_size=3, hidden_size=4)
    return Steps(generator().clone(encoder=None), judge, VOCABULARY, T, clip=100.0)


def without_sources(rows):
    return batch_of(rows) | {"source": None}


@pytest.mark.parametrize("per_step", [0.0, 0.4, 1.0])
def test_each_member_learns_from_a_loss_of_its_own(windows, per_step):
    update = DiscriminatorUpdate(**CONSTANT, per_step=per_step, smoothing_generated=0.2)
    chosen, batch = phase("judge", None, update), without_sources(3)
    initial = jax.device_get(windows.init(0, batch))
    state = begin(windows, initial, 0, chosen)
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
    written = windows.write(state.generator.params, state.discriminator.params, batch, key,
                            num_samples=3)  # fmt: skip
    fake = [np.stack([x[b, b] for b in range(3)]) for x in (written.tokens, written.mask)]
    tokens = np.concatenate([batch["target"], fake[0]])
    mask = np.concatenate([batch["mask"], fake[1]])
    labels = np.repeat([0.9, 0.2], 3)
    alone = windows.discriminator.clone(members=1)

    def slow(params):
        losses = []
        for m in range(2):
            own = jax.tree.map(lambda x, m=m: x[m : m + 1], params)
            logits = alone.apply({"params": own}, None, None, tokens, mask)
            cross = lambda x, y: jnp.log1p(jnp.exp(x)) - y * x
            steps = (cross(logits, labels[:, None]) * mask).sum() / mask.sum()
            whole = cross((logits * mask).sum(-1) / 3, labels).mean()
            losses.append(per_step * steps + (1 - per_step) * whole)
        return sum(losses) / 2

    params = on_device(state.discriminator.params)
    loss, grads = jax.value_and_grad(slow)(params)
    whole = windows.discriminator.apply(
        {"params": params}, None, tokens, mask, method="sequence_score"
    )
    after, metrics = windows.train_step(
        on_device(state), batch, phase=chosen, network="discriminator"
    )
    np.testing.assert_allclose(metrics["discriminator/loss"], loss, rtol=1e-5)
    assert_close(gradient(after.discriminator), grads)
    for name, share in (("real", whole[:3] > 0), ("generated", whole[3:] < 0)):
        np.testing.assert_allclose(metrics[f"discriminator/accuracy_{name}"], share.mean())


def test_a_fresh_discriminator_in_every_cycle(windows):
    """Two updates of each network a cycle: the new one comes at the third and the seventh."""
    twice = CONSTANT | {"updates": 2}
    old = DiscriminatorUpdate(**twice, per_step=1.0)
    new = dataclasses.replace(old, fresh=True)
    ours = GeneratorUpdate(**twice, mle=1.0)
    fresh, plain = phase("fresh", ours, new), phase("plain", ours, old)
    batch = without_sources(3)
    state = begin(windows, jax.device_get(windows.init(0, batch)), 0, fresh)
    count = lambda state: int(state.discriminator.optimizer.count)
    drawn = []
    for done in range(8):
        network = fresh.network(done)
        step = lambda chosen, state=state, network=network: jax.device_get(
            windows.train_step(on_device(state), batch, phase=chosen, network=network)[0]
        )
        after = step(fresh)
        assert_same(after, step(fresh))  # the state alone decides what is drawn
        if done % 4 == 2:
            assert count(after) == 1
            key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), done)
            params = windows.discriminator.init(
                jax.random.fold_in(key, FRESH), None, None, batch["target"], batch["mask"]
            )["params"]
            drawn.append(jax.device_get(params))
            # Adam's first update moves no parameter by more than the learning rate.
            jax.tree.map(
                lambda a, b: np.testing.assert_array_less(np.abs(a - b), 0.0101),
                after.discriminator.params,
                drawn[-1],
            )
        else:
            # Another program, which may round otherwise; Adam's step would magnify that, its
            # first moment doesn't.
            assert_close(after.discriminator.optimizer.mu, step(plain).discriminator.optimizer.mu)
            assert count(after) == count(state) + (network == "discriminator")
        state = after
    assert np.any(drawn[0]["kernel"] != drawn[1]["kernel"])


# Frozen parameters


ASKED = []


class Seen(nn.Module):
    """An encoder that notes in `ASKED` when something asks for a gradient through it."""

    inner: FeatureEncoder

    @property
    def size(self):
        return self.inner.size

    @nn.compact
    def __call__(self, source, source_mask, *, train):
        @jax.custom_vjp
        def same(x):
            return x

        def backward(_, gradient):
            ASKED.append(1)
            return (gradient,)

        same.defvjp(lambda x: (x, None), backward)
        values, summary = self.inner(source, source_mask, train=train)
        return same(values), summary


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_no_gradient_is_computed_of_frozen_parameters(network):
    ASKED.clear()
    seeing = {"encoder": Seen(FeatureEncoder(4))}
    steps = Steps(
        generator().clone(**seeing), discriminator().clone(**seeing), VOCABULARY, T, clip=1.0
    )
    state = jax.eval_shape(lambda: steps.init(0, batch_of(3)))
    phases = {
        "generator": phase("a", GeneratorUpdate(**CONSTANT, mle=1.0, policy_gradient=1.0)),
        "discriminator": JUDGE,
    }
    trace = lambda chosen: jax.eval_shape(
        lambda state, batch: steps._train_step(state, batch, phase=chosen, network=network),
        state,
        batch_of(3),
    )
    chosen = phases[network]
    trace(chosen)
    assert ASKED
    ASKED.clear()
    trace(dataclasses.replace(chosen, frozen=(f"{network}/encoder",)))
    assert not ASKED


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_frozen_parameters_and_their_moments_stay(steps, initial, network):
    """Bit for bit, from a phase that trained them on; and clipping doesn't see their gradient."""
    batch = batch_of(3)
    state, _ = steps.train_step(
        on_device(begin(steps, initial, 2, ADVERSARIAL)), batch, phase=ADVERSARIAL, network=network
    )
    before = jax.device_get(copy(state))
    parts = (f"{network}/encoder", f"{network}/.*embed", "discriminator/heads_.*")
    chosen = dataclasses.replace(ADVERSARIAL, name="frozen", frozen=parts)
    state = steps.begin_phase(state, 3, chosen)
    free = on_device(jax.device_get(state))
    norms = []
    for _ in range(2):
        state, metrics = steps.train_step(state, batch, phase=chosen, network=network)
        norms.append(metrics[f"{network}/gradient_norm"])
    after, old = (jax.device_get(getattr(s, network)) for s in (state, before))
    assert int(after.optimizer.count) == 2

    def check(keys, new, kept):
        path = f"{network}/" + "/".join(key.key for key in keys)
        if "/words/" not in path:  # a loss of no weight here
            assert np.array_equal(new, kept) == chosen.is_frozen(path), path

    for new, kept in (
        (after.params, old.params),
        (after.optimizer.mu, old.optimizer.mu),
        (after.optimizer.nu, old.optimizer.nu),
    ):
        jax.tree_util.tree_map_with_path(check, new, kept)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(old.optimizer.mu["encoder"]))
    # Clipping sees the norm of what is trained alone.
    whole, _ = steps.train_step(free, batch, phase=ADVERSARIAL, network=network)
    grads = jax.tree_util.tree_leaves_with_path(gradient(getattr(whole, network)))
    trained = [
        np.sum(np.square(leaf))
        for keys, leaf in grads
        if not chosen.is_frozen(f"{network}/" + "/".join(key.key for key in keys))
    ]
    np.testing.assert_allclose(norms[0], np.sqrt(sum(trained)), rtol=1e-4)


# Updates that aren't finite


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_an_update_that_is_not_finite_changes_nothing(steps, initial, network):
    state, batch = begin(steps, initial, 2, ADVERSARIAL), batch_of(3)
    torn = batch | {"weight": np.float32([1, np.nan, 1])}
    state, _ = steps.train_step(on_device(state), batch, phase=ADVERSARIAL, network=network)
    before = jax.device_get(copy(state))
    kept = ("generator", "discriminator", "rollout", "baseline")
    for times in (1, 2):
        state, metrics = steps.train_step(state, torn, phase=ADVERSARIAL, network=network)
        assert not np.isfinite(metrics[f"{network}/loss"])
        for part in kept:
            assert_same(getattr(state, part), getattr(before, part))
        assert int(state.step) == int(before.step) + times
        assert (int(state.safety.skipped), int(metrics["guard/in_a_row"])) == (times, times)
        assert int(metrics["guard/skipped"]) == times
    assert_same(state.safety.entropy, before.safety.entropy)
    # The other network's updates are sound: they don't hide that this one's are not.
    other = "discriminator" if network == "generator" else "generator"
    state, metrics = steps.train_step(state, batch, phase=ADVERSARIAL, network=other)
    assert np.isfinite(metrics[f"{other}/loss"])
    assert int(metrics["guard/in_a_row"]) == 2
    state, metrics = steps.train_step(state, batch, phase=ADVERSARIAL, network=network)
    assert np.isfinite(metrics[f"{network}/loss"])
    assert (int(state.safety.skipped), int(metrics["guard/in_a_row"])) == (2, 0)
    moved = jax.tree.map(
        lambda a, b: np.any(a != b),
        jax.device_get(getattr(state, network).params),
        getattr(before, network).params,
    )
    assert any(jax.tree.leaves(moved))


def test_the_learning_rate_is_scaled(steps, initial):
    state, batch = begin(steps, initial, 0, MLE), batch_of(3, targets=2)
    scaled = state.replace(safety=state.safety.replace(scale=np.float32(0.25)))
    (one, _), (quarter, metrics) = (
        steps.train_step(on_device(x), batch, phase=MLE, network="generator")
        for x in (state, scaled)
    )
    np.testing.assert_allclose(metrics["generator/learning_rate"], 0.0025, rtol=1e-6)
    assert_close(
        jax.tree.map(
            lambda new, old: 4 * (new - old), quarter.generator.params, state.generator.params
        ),
        jax.tree.map(lambda new, old: new - old, one.generator.params, state.generator.params),
    )


# Further losses


def test_reuse_kl_groups_and_feature_matching(steps, initial):
    """One phase with all of them, of steps too small to matter: all see the same gradient.

    Amid a phase through which the entropy's weight moves from 0.06 to 0.14.
    """
    batch, other = batch_of(3), jax.device_get(steps.init(5, batch_of(3)))
    options = CONSTANT | {"learning_rate": 1e-12, "policy_gradient": 2.0}
    options |= {"estimator": "dense", "baseline": "group", "group_size": 2, "normalise": "batch"}
    options |= {"feature_matching": 0.3, "kl": 0.7, "entropy": 0.06, "end": (("entropy", 0.14),)}
    once = phase("once", GeneratorUpdate(**options))
    often = phase("often", GeneratorUpdate(**options, reuse=3))
    state = begin(steps, initial, 2, once).replace(reference=other.generator.params)
    baseline = np.float32([0.4, 0.5, 0.6, 0.7])
    state = state.replace(baseline=baseline, phase_step=np.int32(50))
    found = {
        x.name: steps.train_step(on_device(state), batch, phase=x, network="generator")
        for x in (once, often)
    }
    # What was sampled, R = 2 for each source, and the noise.
    rows = np.arange(6)
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
    written = steps.write(state.generator.params, state.discriminator.params, batch, key,
                          num_samples=6)  # fmt: skip
    tokens = np.stack([written.tokens[b // 2, b] for b in rows])
    mask = np.stack([written.mask[b // 2, b] for b in rows])
    zs = noises(state, NOISE, np.repeat(batch["example_id"], 2), rows)

    judge = lambda method, *args: steps.discriminator.apply(
        {"params": on_device(state.discriminator.params)}, *args, method=method
    )
    memory = judge("encode", batch["source"], None)
    logits = np.asarray(judge("score", memory, tokens, mask))
    pooled = lambda tokens, mask: np.stack(
        [
            f[: int(m.sum())].mean(0)
            for f, m in zip(judge("features", memory, tokens), mask, strict=True)
        ]
    )
    real = pooled(batch["target"], batch["mask"])
    far = np.square(pooled(tokens, mask) - real.mean(0)) / (real.var(0) + 1e-6)
    values = (1 / (1 + np.exp(-logits)) - 0.3 * far.mean(-1)[:, None]) * mask
    advantages = np.zeros((6, T))
    for b in rows:
        partner = b + 1 if b % 2 == 0 else b - 1
        for t in range(T):
            other_value = values[partner, t] if mask[partner, t] else baseline[t]
            advantages[b, t] = values[b, t] - other_value
    real_ones = advantages[mask > 0]
    advantages = (advantages - real_ones.mean()) / real_ones.std() * mask

    inputs = np.concatenate([np.full((6, 1), VOCABULARY.bos), tokens[:, :-1]], axis=1)
    given = np.repeat(batch["source"], 2, axis=0), None, np.stack(zs), inputs

    def slow(params):
        """All logits at once, one source a row; padding and the start token are no outputs."""
        ours, theirs = (
            jax.nn.log_softmax(steps.generator.apply({"params": p}, *given)[:, :, 2:])
            for p in (params, other.generator.params)
        )
        share = mask / mask.sum()
        picked = jnp.take_along_axis(ours, np.maximum(tokens - 2, 0)[..., None], axis=-1)[..., 0]
        parts = {
            "policy_gradient": -2.0 * jnp.sum(share * picked * advantages),
            "kl": 0.7 * jnp.sum(share[..., None] * jnp.exp(ours) * (ours - theirs)),
            "entropy": 0.1 * jnp.sum(share[..., None] * jnp.exp(ours) * ours),
        }
        return sum(parts.values()), parts

    (_, parts), grads = jax.jit(jax.value_and_grad(slow, has_aux=True))(
        on_device(state.generator.params)
    )
    for name, value in parts.items():
        metric = found["once"][1][f"generator/loss_{name}"]
        np.testing.assert_allclose(metric, value, rtol=1e-3, atol=1e-5)
    assert_close(gradient(found["once"][0].generator), grads, atol=2e-5)
    # With a ratio of 1 the surrogate's value is another, its gradient is not.
    after, metrics = found["often"]
    assert int(after.generator.optimizer.count) == 3
    scaled = jax.tree.map(lambda g: (1 - 0.9**3) * g, grads)
    assert_close(after.generator.optimizer.mu, scaled, atol=2e-5)
    surrogate = -2.0 * (advantages * mask).sum() / mask.sum()
    np.testing.assert_allclose(
        metrics["generator/loss_policy_gradient"], surrogate, rtol=1e-3, atol=1e-5
    )
    assert_close(after.generator.params, state.generator.params, atol=1e-9)

    # Feature matching is a part of the reward, and logged.
    taken = found["once"][1]["generator/loss_feature_matching"]
    np.testing.assert_allclose(taken, 0.3 * far.mean(), rtol=1e-4)
    # The guard's moving average of the entropy, beside what it was at first.
    state, metrics = found["once"]
    first = float(metrics["generator/sample_entropy"])
    np.testing.assert_allclose(state.safety.entropy, [first, first], rtol=1e-6)
    state, metrics = steps.train_step(state, batch, phase=once, network="generator")
    moved = 0.9 * first + 0.1 * float(metrics["generator/sample_entropy"])
    assert moved != pytest.approx(first, rel=1e-5)
    np.testing.assert_allclose(state.safety.entropy, [first, moved], rtol=1e-5)
    np.testing.assert_allclose(metrics["guard/entropy"], moved / first, rtol=1e-5)
    # Steps so large that the second of the three has no finite loss: the first is taken back.
    before = jax.device_get(copy(after))
    far_off = after.replace(safety=after.safety.replace(scale=jnp.full((), 1e38)))
    broken, _ = steps.train_step(far_off, batch, phase=often, network="generator")
    assert int(broken.safety.skipped) == 1
    assert_same(broken.generator, before.generator)


def test_the_gradient_penalty_is_the_slope_by_what_each_position_reads(steps, initial):
    """Against finite differences: an embedding of its own for one position at a time."""
    state, batch = begin(steps, initial, 1, JUDGE), batch_of(2)
    batch["weight"] = np.float32([1.0, 0.5])
    params = on_device(state.discriminator.params)
    wider = discriminator().clone(vocabulary_size=V + 1)

    @jax.jit
    def score(row, position, shift):
        """The logit of a sequence where one position reads its embedding moved by `shift`."""
        tokens, mask, source = (jnp.array(batch[k])[row] for k in ("target", "mask", "source"))
        table = params["embedding"]
        moved = jnp.concatenate([table, (table[tokens[position]] + shift)[None]])
        tokens = tokens.at[position].set(V)
        call = lambda method, *args: wider.apply(
            {"params": params | {"embedding": moved}}, *args, method=method
        )
        memory = call("encode", source[None], None)
        return call("sequence_score", memory, tokens[None], mask[None])[0]

    squares = np.zeros(2)
    for row, position, axis in np.ndindex(2, T, 3):
        shift = 0.01 * np.eye(3, dtype=np.float32)[axis]
        slope = (score(row, position, shift) - score(row, position, -shift)) / 0.02
        squares[row] += float(slope) ** 2
    expected = 0.5 * np.average(squares, weights=batch["weight"])
    np.testing.assert_allclose(steps._squared_slope(params, batch), expected, rtol=0.02)
    update = dataclasses.replace(JUDGE.discriminator, mismatch=0.0, gradient_penalty=3.0)
    chosen = phase("penalty", None, update)
    _, metrics = steps.train_step(on_device(state), batch, phase=chosen, network="discriminator")
    np.testing.assert_allclose(
        metrics["discriminator/loss_gradient_penalty"], 3 * expected, rtol=0.02
    )


# The adaptive ratio


def test_a_band_decides_whether_the_discriminator_takes_its_turns(windows):
    update = DiscriminatorUpdate(**CONSTANT, band=(0.3, 0.6))
    chosen, batch = phase("band", None, update), without_sources(6)
    state = begin(windows, jax.device_get(windows.init(0, batch)), 0, chosen)
    assert bool(state.ratio.trains)
    held = batch | {"weight": np.float32([1, 1, 1, 1, 0, 0])}
    measured = windows.hold(on_device(state), held, band=(0.3, 0.6))
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(state.key)), state.step)
    key = jax.random.fold_in(key, HELD_OUT)
    params = state.generator.params, state.discriminator.params
    scores = windows.write(*params, batch, key, num_samples=6).scores
    real = windows.judge(params[1], batch, batch["target"], batch["mask"])
    wanted = (np.mean(real[:4] > 0) + np.mean([scores[b, b] < 0 for b in range(4)])) / 2
    np.testing.assert_allclose(measured.ratio.accuracy, wanted)

    accuracy = float(wanted)
    for before in (True, False):
        for band, trains in (
            ((0.0, accuracy - 0.01), False),  # too good
            ((accuracy + 0.01, 1.0), True),  # too bad
            ((accuracy - 0.01, accuracy + 0.01), before),
        ):
            given = state.replace(ratio=state.ratio.replace(trains=np.array(before)))
            found = windows.hold(on_device(given), held, band=band)
            assert bool(found.ratio.trains) == trains

    for trains in (True, False):
        ratio = state.ratio.replace(trains=np.array(trains), accuracy=np.float32(0.5))
        given = on_device(state.replace(ratio=ratio))
        after, metrics = windows.train_step(given, batch, phase=chosen, network="discriminator")
        assert float(metrics["discriminator/turn"]) == trains
        assert float(metrics["discriminator/held_out_accuracy"]) == 0.5
        assert np.isfinite(metrics["discriminator/loss"]) == trains
        assert int(after.discriminator.optimizer.count) == trains
        assert int(after.step) == 1
        if not trains:
            assert_same(after.discriminator, state.discriminator)


def test_guided_attention_is_of_where_real_targets_look(steps, initial):
    guided = dataclasses.replace(
        MLE, generator=dataclasses.replace(MLE.generator, guided_attention=0.7)
    )
    state = begin(steps, initial, 0, guided)
    batch = batch_of(3, targets=2)
    zs = jnp.stack(noises(state, NOISE, np.repeat(batch["example_id"], 2), range(6)))
    total = 0.0
    for row in range(6):  # one sequence at a time
        inputs = np.append(VOCABULARY.bos, batch["target"][row, :-1])
        _, kept = steps.generator.apply(
            {"params": on_device(state.generator.params)},
            batch["source"][row // 2][None],
            None,
            zs[row][None],
            inputs[None],
            mutable=["intermediates"],
        )
        (weights,) = kept["intermediates"]["attention"]
        count = int(batch["mask"][row].sum())
        for t in range(count):
            for s in range(S):
                away = 1 - np.exp(-((s / S - t / count) ** 2) / (2 * 0.2**2))
                total += float(weights[t, s]) * away / count / 6
    after, metrics = steps.train_step(on_device(state), batch, phase=guided, network="generator")
    np.testing.assert_allclose(metrics["generator/loss_guided_attention"], 0.7 * total, rtol=1e-5)
    loss = metrics["generator/loss_mle"] + metrics["generator/loss_guided_attention"]
    np.testing.assert_allclose(metrics["generator/loss"], loss, rtol=1e-6)
    plain, _ = steps.train_step(on_device(state), batch, phase=MLE, network="generator")
    keys = [np.asarray(gradient(x.generator)["attention_key"]) for x in (after, plain)]
    assert np.abs(keys[0] - keys[1]).max() > 1e-6


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_matrix_products_are_of_the_precision_asked_for(initial, network):
    """All of them, with those of gradients, while all arrays stay float32."""
    layout = parallel.Layout(parallel.Options(data=1, precision="bfloat16"))
    steps = Steps(generator(), discriminator(), VOCABULARY, T, clip=100.0, layout=layout)
    state = begin(steps, initial, 0, ADVERSARIAL)
    program = steps.train_step.lower(
        on_device(state), batch_of(3), phase=ADVERSARIAL.step_of(network), network=network
    ).as_text()
    # Some products have to be exact whatever is asked for, and say so themselves.
    products = [x for x in program.splitlines() if "dot_general" in x and "HIGHEST" not in x]
    assert len(products) > 20
    asked = "lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type = f32"
    assert all(asked in product for product in products)
    assert "xbf16>" not in program
