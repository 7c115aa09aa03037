"""Held-out figures: their statistics against NumPy, the likelihood's bound against its draws."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.evaluation import held_out
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.training.state import Network
from seqgan_jax.training.steps import Steps

V, T, Z = 6, 4, 2
VOCABULARY = Vocabulary(size=V, bos=1, pad=0, eos=2)
RNG = np.random.default_rng(0)


def state_of(params):
    """All that evaluation reads of a training state."""
    network = Network(params, None)
    return SimpleNamespace(generator=network, discriminator=network)


def pairs(sizes, batch_size, captions=3):
    """Batches of pairs, `captions` for each image; the last is filled up with its last row."""
    ids = np.repeat(np.arange(sum(sizes)), captions)
    lengths = RNG.integers(1, T + 1, len(ids))
    for start in range(0, len(ids), batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), len(ids) - 1)
        mask = (np.arange(T) < lengths[rows, None]).astype(np.float32)
        yield {
            "source": ids[rows, None, None].astype(np.float32) * np.ones((1, 2, 3), np.float32),
            "source_mask": None,
            "target": ((2 + rows[:, None] + np.arange(T)) % 4 + 2).astype(np.int32),
            "mask": mask,
            "example_id": ids[rows].astype(np.int32),
            "weight": (np.arange(start, start + batch_size) < len(ids)).astype(np.float32),
        }


class Pretended:
    """Networks whose figures are known: -log G is 1 for each token, and more by the images' gap.

    The judge finds a sequence real that begins with an odd token.
    """

    def __init__(self):
        self.seen = []

    def likelihood(self, params, batch, key, *, num_noise, temperature):
        seen, own = batch["source"][:, 0, 0], batch["example_id"]
        self.seen += list(zip(own, seen, strict=True))
        return batch["mask"].sum(-1) * (1.0 + np.abs(seen - own))

    def judge(self, params, batch, tokens, mask):
        return np.where(tokens[:, 0] % 2, 1.0, -1.0)


@pytest.mark.parametrize("batch_size", [5, 7, 24])
def test_likelihood_is_a_ratio_of_sums_with_its_delta_error(batch_size):
    batches = list(pairs([8], batch_size))
    found = held_out.likelihood(
        *held_out.log_probs(Scaled(), state_of(None), batches, seed=0, num_noise=1)
    )
    real = np.concatenate([b["weight"] for b in batches]) > 0
    count = np.concatenate([b["mask"].sum(-1) for b in batches])[real]
    total = count * np.concatenate([1.0 + b["example_id"] % 4 for b in batches])[real]
    n = len(total)
    assert found.n == n == 24
    np.testing.assert_allclose(found.value, total.sum() / count.sum(), rtol=1e-6)
    # Var(T / C) = (Var T - 2 r Cov(T, C) + r^2 Var C) / (n mean(C)^2), to first order.
    r, c = total.sum() / count.sum(), np.cov(total, count, ddof=1)
    variance = (c[0, 0] - 2 * r * c[0, 1] + r**2 * c[1, 1]) / (n * count.mean() ** 2)
    np.testing.assert_allclose(found.stderr, np.sqrt(variance), rtol=1e-5)


class Scaled(Pretended):
    """Images differ in how likely their targets are."""

    def likelihood(self, params, batch, key, *, num_noise, temperature):
        return batch["mask"].sum(-1) * (1.0 + batch["example_id"] % 4)


@pytest.mark.parametrize(("images", "batch_size"), [(8, 24), (8, 5), (9, 13), (5, 7), (3, 8)])
def test_shuffled_pairs_are_never_of_one_image(images, batch_size):
    """Rows are left out only where one image has more than half of the batch."""
    batches = list(pairs([images], batch_size))
    steps = Pretended()
    found = held_out.likelihood(
        *held_out.log_probs(steps, state_of(None), batches, seed=0, num_noise=1, shuffled=True)
    )
    real = np.concatenate([b["weight"] for b in batches]) > 0
    own, seen = np.array(steps.seen).T
    kept = real & (own != seen)
    assert found.n == kept.sum()
    for k, batch in enumerate(batches):
        rows = slice(k * batch_size, (k + 1) * batch_size)
        if np.bincount(batch["example_id"]).max() <= batch_size / 2:
            assert (kept == real)[rows].all()
    count = np.concatenate([b["mask"].sum(-1) for b in batches])
    wanted = (count * (1 + np.abs(own - seen)))[kept].sum() / count[kept].sum()
    np.testing.assert_allclose(found.value, wanted, rtol=1e-6)
    assert found.value >= 2


def test_a_shuffled_source_keeps_its_own_mask():
    class Masked(Pretended):
        def likelihood(self, params, batch, key, *, num_noise, temperature):
            np.testing.assert_array_equal(batch["source_mask"], batch["source"][:, :, 0])
            self.seen = batch["source_mask"][:, 0].tolist()
            return batch["mask"].sum(-1)

    steps = Masked()
    batches = [batch | {"source_mask": batch["source"][:, :, 0]} for batch in pairs([5], 15)]
    held_out.log_probs(steps, state_of(None), batches, seed=0, num_noise=1, shuffled=True)
    assert (np.array(steps.seen) != batches[0]["example_id"]).all()


def written(scores):
    """One sample for each list of scores."""
    return [held_out.Sample(None, None, None, np.array(each)) for each in scores]


def test_discrimination_counts_each_image_once():
    batches = list(pairs([7], 5))
    samples = written([[0.4, 0.6], [0.1, 0.2], [0.9, 0.7], [0.3, 0.8], *[[0.2, 0.2]] * 3])
    found = held_out.discrimination(Pretended(), state_of(None), batches, samples)
    rows = [
        (b["example_id"][i], b["target"][i, 0] % 2 == 1)
        for b in batches
        for i in np.flatnonzero(b["weight"])
    ]
    # Three captions of an image, or two sequences written for it, are one item.
    real = [np.mean([right for own, right in rows if own == image]) for image in range(7)]
    generated = [0.5, 1, 0, 0.5, 1, 1, 1]
    for name, answers in (("real", real), ("generated", generated)):
        figure = found[f"discriminator_{name}"]
        assert figure.value == pytest.approx(np.mean(answers))
        assert figure.stderr == pytest.approx(np.std(answers, ddof=1) / np.sqrt(7))
        assert figure.n == 7
    accuracy = found["discriminator_accuracy"]
    assert accuracy.value == pytest.approx((np.mean(real) + np.mean(generated)) / 2)
    # The judge's logit is 1 or -1; the loss of a written one is -log(1 - its score).
    right, wrong = np.log1p(np.exp([-1.0, 1.0]))
    losses = [share * right + (1 - share) * wrong for share in real]
    others = [np.mean(-np.log1p(-sample.scores)) for sample in samples]
    found_loss = found["discriminator_loss"]
    assert found_loss.value == pytest.approx((np.mean(losses) + np.mean(others)) / 2)
    assert found_loss.unit == "nats"
    variance = (np.var(real, ddof=1) + np.var(generated, ddof=1)) / 7
    assert accuracy.stderr == pytest.approx(np.sqrt(variance) / 2)
    order = [held_out._derangement(b["example_id"]) for b in batches]
    wrong = {}
    for b, o in zip(batches, order, strict=True):
        for i in np.flatnonzero(b["weight"]):
            if b["example_id"][o[i]] != b["example_id"][i]:
                wrong.setdefault(b["example_id"][i], []).append(b["target"][o[i], 0] % 2 == 0)
    assert found["discriminator_mismatched"].n == len(wrong)
    wanted = np.mean([np.mean(answers) for answers in wrong.values()])
    assert found["discriminator_mismatched"].value == pytest.approx(wanted)


def test_nothing_is_mismatched_without_sources():
    batches = [batch | {"source": None} for batch in pairs([7], 5)]
    found = held_out.discrimination(Pretended(), state_of(None), batches, written([[0.1], [0.2]]))
    assert set(found) == {f"discriminator_{x}" for x in ("accuracy", "loss", "real", "generated")}


def test_write_gives_each_real_row_once():
    class Writer:
        def write(self, generator, discriminator, batch, key, *, num_samples, **_):
            shape = (len(batch["example_id"]), num_samples)
            tokens = batch["example_id"][:, None, None] * np.ones((*shape, T), np.int32)
            log_probs = np.tile(-np.arange(T, dtype=np.float32), (*shape, 1))
            return held_out.Sample(tokens, tokens > 0, log_probs, np.full(shape, 2.0))

    batches = list(pairs([7], 4, captions=1))
    found = list(held_out.write(Writer(), state_of(None), batches, seed=0, num_samples=3))
    assert [int(sample.tokens[0, 0]) for sample in found] == list(range(7))
    np.testing.assert_allclose(found[0].log_probs, [-6.0] * 3)
    np.testing.assert_allclose(found[0].scores, scipy.special.expit([2.0] * 3))


def test_reranking_keeps_the_highest_scores_in_the_order_of_the_draws():
    # As probabilities, the second row's are 1, all of them.
    scores = np.array([[0.3, -1.0, 2.0, 0.5, 2.0, -3.0], np.arange(40, 46)], np.float32)

    class Writer:
        def write(self, generator, discriminator, batch, key, *, num_samples, **_):
            assert num_samples == 6
            tokens = np.broadcast_to(np.arange(6)[:, None], (2, 6, T))
            return held_out.Sample(tokens, tokens >= 0, -tokens.astype(np.float32), scores)

    batches = list(pairs([2], 2, captions=1))
    found = list(held_out.write(Writer(), state_of(None), batches, seed=0, num_samples=2, rerank=3))
    for sample, kept in zip(found, ([2, 4], [4, 5]), strict=True):
        np.testing.assert_array_equal(sample.tokens[:, 0], kept)
        np.testing.assert_array_equal(sample.log_probs, -T * np.array(kept))
    np.testing.assert_allclose(found[1].scores, scipy.special.expit([44.0, 45.0]))


def network(noise_size):
    net = LSTMGenerator(
        vocabulary_size=V,
        encoder=FeatureEncoder(3),
        embedding_size=3,
        hidden_size=4,
        num_layers=1,
        attention_size=2,
        output_size=4,
        noise_size=noise_size,
    )
    batch = next(pairs([2], 2, captions=1))
    z = jnp.zeros((2, noise_size))
    params = net.init(jax.random.key(0), batch["source"], None, z, batch["target"])["params"]
    # Far from the start, so that the noise matters.
    params = jax.tree.map(lambda p: 3 * p, params)
    return net, Steps(net, None, VOCABULARY, T, 1.0), params, batch


def log_prob(net, params, batch, z):
    """log G(target | z) of each row, in NumPy from the logits."""
    inputs = np.concatenate([np.full((2, 1), VOCABULARY.bos), batch["target"][:, :-1]], 1)
    logits = net.apply({"params": params}, batch["source"], None, z, inputs.astype(np.int32))
    log_probs = scipy.special.log_softmax(np.float64(logits), axis=-1)
    picked = np.take_along_axis(log_probs, batch["target"][:, :, None], -1)[..., 0]
    return (picked * batch["mask"]).sum(-1)


def noise(seed, k, n):
    """The n-th of k draws for each of the two rows, which are examples 0 and 1."""
    fold = jax.random.fold_in
    keys = [fold(fold(jax.random.key(seed), row), row * k + n) for row in (0, 1)]
    return jnp.stack([jax.random.normal(key, (Z,)) for key in keys])


def test_bound_is_the_log_of_a_mean_and_tightens():
    net, steps, params, batch = network(Z)
    each = {1: [], 16: []}
    for k, found in each.items():
        for seed in range(40):
            found.append(
                np.asarray(steps.likelihood(params, batch, jax.random.key(seed), num_noise=k))
            )
        logs = [log_prob(net, params, batch, noise(0, k, n)) for n in range(k)]
        wanted = np.log(k) - scipy.special.logsumexp(logs, axis=0)
        np.testing.assert_allclose(found[0], wanted, rtol=1e-4)
    fall = np.mean(np.array(each[1]) - np.array(each[16]), axis=1)
    # By Jensen's inequality the mean falls; by chance it would not once in 1000 times, z < 3.1.
    assert fall.mean() > 3.1 * fall.std(ddof=1) / np.sqrt(len(fall))


def test_without_noise_the_likelihood_is_exact():
    net, steps, params, batch = network(0)
    wanted = -log_prob(net, params, batch, jnp.zeros((2, 0)))
    for k in (1, 16):
        found = steps.likelihood(params, batch, jax.random.key(k), num_noise=k)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


class Sharpened(Pretended):
    """Draws token 3 at temperature 1 and token 4 at others; -log G is example, first, temperature.

    As one number: 100 example + 10 first token + temperature.
    """

    def write(self, generator, discriminator, batch, key, *, num_samples, truncation, forced):
        shape = (len(batch["example_id"]), num_samples)
        tokens = np.full((*shape, T), 3 if truncation.temperature == 1 else 4)
        return held_out.Sample(tokens, np.ones((*shape, T)), np.zeros((*shape, T)), np.zeros(shape))

    def likelihood(self, params, batch, key, *, num_noise, temperature):
        return 100 * batch["example_id"] + 10 * batch["target"][:, 0] + temperature


def test_at_a_temperature_all_densities_are_that_temperatures():
    class Task:
        """Seven sources, one target each, of token 5; its figures are what it is given."""

        def sources(self, split, *, batch_size, limit):
            for batch in pairs([7], batch_size, captions=1):
                yield {k: v for k, v in batch.items() if k not in ("target", "mask")}

        def pairs(self, split, *, batch_size, limit):
            for batch in pairs([7], batch_size, captions=1):
                yield batch | {"target": np.full_like(batch["target"], 5)}

        def evaluate(self, split, samples, log_probs, *, thorough):
            return np.concatenate([s.log_probs for s in samples]), log_probs

    size = {"batch_size": 4, "limit": None, "seed": 0}
    for temperature, token in ((1.0, 3), (0.5, 4)):
        own, theirs = held_out.at_temperature(
            Sharpened(), state_of(None), Task(), "test", temperature, **size
        )
        np.testing.assert_allclose(own, [-(100 * i + 10 * token + temperature) for i in range(7)])
        np.testing.assert_allclose(theirs, [-(100 * i + 50 + temperature) for i in range(7)])
