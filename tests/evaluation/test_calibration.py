"""Calibration against scikit-learn and a known answer; what is kept, against its density."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.core import rejection
from seqgan_jax.evaluation import calibration, held_out
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.window_discriminator import WindowDiscriminator
from seqgan_jax.training.state import Network
from seqgan_jax.training.steps import Steps, Written

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("n_real", "n_generated", "apart"), [(300, 300, 1.0), (50, 400, 20.0)])
def test_platt_equals_a_weighted_logistic_regression(n_real, n_generated, apart):
    """Each sequence twice, once with either label, weighted by Platt's target and its side."""
    real, generated = RNG.normal(apart, 3.0, n_real), RNG.normal(0.0, 2.0, n_generated)
    targets = np.repeat([(n_real + 1) / (n_real + 2), 1 / (n_generated + 2)], [n_real, n_generated])
    sides = np.repeat([1 / n_real, 1 / n_generated], [n_real, n_generated])
    logits = np.concatenate([real, generated])[:, None]
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(
        np.concatenate([logits, logits]),
        np.repeat([1, 0], len(logits)),
        np.concatenate([targets * sides, (1 - targets) * sides]) * 1000,
    )
    wanted = reference.coef_[0, 0], reference.intercept_[0]
    np.testing.assert_allclose(calibration.platt(real, generated), wanted, rtol=1e-3)


def test_platt_finds_the_ratio_of_known_densities():
    """Of N(1, 1) and N(-1, 1) it is 2 s; here it was scaled and shifted by 3 s - 0.7."""
    real, generated = RNG.normal([[1.0], [-1.0]], 1.0, (2, 40_000))
    scale, shift = calibration.platt(3 * real - 0.7, 3 * generated - 0.7)
    # Standard errors of about 0.004 and 0.01: wrong less than once in a million times.
    assert scale == pytest.approx(2 / 3, abs=0.02)
    assert shift == pytest.approx(2 / 3 * 0.7, abs=0.06)


def test_platt_stays_finite_where_the_two_are_apart():
    found = calibration.platt(np.array([100.0, 101.0]), np.array([-100.0, -99.0]))
    assert np.isfinite(found).all()
    assert found[0] > 0


class Offers:
    """Offers in an order that is known: sequence k of example i is accepted where k % 3 == i."""

    def __init__(self):
        self.asked = []

    def offer(self, generator, discriminator, known, batch, key, index, *, truncation, forced):
        example = batch["example_id"]
        assert batch["source"].shape == (len(example), 2)
        assert (batch["source"] == example[:, None]).all()
        self.asked.append(list(zip(example.tolist(), index.tolist(), strict=True)))
        tokens = np.stack([example, index], -1)[:, None]
        ones = np.ones(tokens.shape, np.float32)
        written = Written(tokens, ones, -ones, np.zeros((len(example), 1), np.float32))
        return written, np.full(len(example), np.log(0.25)), index % 3 == example


def state_of(params=None, known=None):
    network = Network(params, None)
    return SimpleNamespace(generator=network, discriminator=network, calibration=known)


def sources(count, lanes):
    for start in range(0, count, lanes):
        rows = np.minimum(np.arange(start, start + lanes), count - 1).astype(np.int32)
        yield {
            "source": np.stack([rows, rows], -1),
            "source_mask": None,
            "example_id": rows,
            "weight": (np.arange(start, start + lanes) < count).astype(np.float32),
        }


@pytest.mark.parametrize("lanes", [2, 4, 5])
def test_each_sample_is_the_first_of_its_draws_that_is_accepted(lanes):
    """Of example 3 nothing ever is; the last of its tries is kept."""
    steps, tries = Offers(), 5
    options = {"seed": 0, "num_samples": 2, "tries": tries}
    found = list(held_out.accepted(steps, state_of(), sources(4, lanes), **options))
    assert len(found) == 4
    asked = list(itertools.chain(*steps.asked))
    for example, one in enumerate(found):
        for slot in range(2):
            draws = range(slot * tries, (slot + 1) * tries)
            taken = next((k for k in draws if k % 3 == example), draws[-1])
            assert one.sample.tokens[slot].tolist() == [example, taken]
            assert one.draws[slot] == taken - draws[0] + 1
            assert one.exhausted[slot] == (example == 3)
            assert one.acceptance[slot] == pytest.approx(0.25 * one.draws[slot])
            assert all((example, k) in asked for k in range(draws[0], taken + 1))
            assert not any((example, k) in asked for k in range(taken + 1, draws[-1] + 1))
        np.testing.assert_allclose(one.sample.log_probs, -2.0)
    # Lanes stand idle only at the end, when nothing new is left to draw for.
    idle = [len(set(row)) < lanes for row in steps.asked]
    assert idle == sorted(idle)


V, T = 3, 2
EVERYTHING = np.array(list(itertools.product(range(V), repeat=T)), np.int32)


class AllSequences:
    """A task whose held-out data is every sequence once."""

    def pairs(self, split, *, batch_size, limit):
        ones = np.ones(EVERYTHING.shape, np.float32)
        yield next(self.sources(split, batch_size=9, limit=9)) | {
            "target": EVERYTHING,
            "mask": ones,
        }

    def sources(self, split, *, batch_size, limit):
        for start in range(0, limit, batch_size):
            rows = np.arange(start, start + batch_size, dtype=np.int32)
            ones = np.ones(batch_size, np.float32)
            yield {"source": None, "source_mask": None, "example_id": rows, "weight": ones}


@pytest.fixture(scope="module")
def networks():
    """A generator of two tokens and a discriminator, with parameters that make them uneven."""
    sizes = {"vocabulary_size": V, "encoder": None, "embedding_size": 2, "hidden_size": 3}
    steps = Steps(
        LSTMGenerator(**sizes, num_layers=1, attention_size=0, output_size=0, noise_size=0),
        WindowDiscriminator(**sizes, width=2, members=1),
        Vocabulary(size=V, bos=0, pad=None, eos=None),
        T,
        clip=1.0,
    )
    batch = next(AllSequences().pairs("", batch_size=9, limit=9))
    state = jax.tree.map(lambda x: 3.0 * x if x.dtype == jnp.float32 else x, steps.init(4, batch))
    return steps, state.replace(calibration=rejection.uncalibrated())


def test_what_is_kept_has_the_stated_density(networks):
    """Chi-square over all nine sequences, wrong once in 10,000 times."""
    steps, state = networks
    task, size = AllSequences(), {"batch_size": 1000, "limit": 4000, "num_samples": 1}
    # The logit of a discriminator that nothing has trained: how good it is doesn't matter here.
    logits = calibration.real_logits(steps, state, task.pairs("", batch_size=9, limit=9))
    known = rejection.Calibration(*map(np.float32, (1.0, 0.0, logits.max(), -1.0)))
    state = state.replace(calibration=jax.tree.map(jnp.asarray, known))
    found = calibration.filtered(steps, state, task, "test", tries=4, seed=2, **size)
    plain, _ = held_out.log_probs(
        steps, state, task.pairs("", batch_size=9, limit=9), seed=0, num_noise=1
    )
    density = np.exp(found.log_probs)
    assert density.sum() == pytest.approx(1.0, abs=0.02)  # as exact as the mean acceptance
    place = lambda s: int(s.tokens[0] @ np.array([V, 1]))
    counts = np.bincount([place(sample) for sample in found.samples], minlength=V**T)
    expected = density.astype(np.float64) / density.sum() * 4000
    assert expected.min() > 5
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-4
    expected = np.exp(plain.astype(np.float64))
    assert scipy.stats.chisquare(counts, expected / expected.sum() * 4000).pvalue < 1e-6
    for sample in found.samples[:20]:
        assert sample.log_probs[0] == pytest.approx(found.log_probs[place(sample)], abs=1e-5)
    # The mean acceptance against its sum over all sequences: 5 standard errors at most.
    mean = np.exp(plain) @ np.exp(calibration.log_acceptance(logits, known))
    assert found.figures["acceptance"].value == pytest.approx(mean, abs=5 * 0.5 / np.sqrt(4000))
    missed = (1 - mean) ** 3
    draws = (1 - (1 - mean) ** 4) / mean
    assert found.figures["draws_per_sample"].value == pytest.approx(draws, abs=0.15)
    assert found.figures["exhausted"].value == pytest.approx(missed * (1 - mean), abs=0.05)


def test_draws_for_sources_are_those_that_writing_gives():
    """With noise and sources, in other batches: draw k of sample r is number r tries + k."""
    sizes = {"vocabulary_size": 5, "embedding_size": 2, "hidden_size": 3, "num_layers": 1}
    steps = Steps(
        LSTMGenerator(
            **sizes, encoder=FeatureEncoder(2), attention_size=2, output_size=0, noise_size=2
        ),
        WindowDiscriminator(
            vocabulary_size=5, encoder=None, embedding_size=2, hidden_size=3, width=2, members=1
        ),
        Vocabulary(size=5, bos=1, pad=0, eos=2),
        T,
        clip=1.0,
    )
    batches = [
        batch | {"source": RNG.normal(size=(3, 2, 4)).astype(np.float32)} for batch in sources(5, 3)
    ]
    blank = {"target": np.zeros((3, T), np.int32), "mask": np.ones((3, T), np.float32)}
    state = steps.init(0, batches[0] | blank)
    known = rejection.Calibration(*map(jnp.float32, (1.0, 0.0, 1.0, 0.0)))
    state, tries = state.replace(calibration=known), 3
    written = list(held_out.write(steps, state, batches, seed=7, num_samples=2 * tries))
    kept = list(held_out.accepted(steps, state, batches, seed=7, num_samples=2, tries=tries))
    assert len(kept) == len(written) == 5
    for one, all_draws in zip(kept, written, strict=True):
        number = np.arange(2) * tries + one.draws - 1
        np.testing.assert_array_equal(one.sample.tokens, all_draws.tokens[number])
        np.testing.assert_allclose(one.sample.logits, all_draws.logits[number], atol=1e-5)
        np.testing.assert_allclose(one.sample.log_probs, all_draws.log_probs[number], atol=1e-5)
        chance = np.exp(calibration.log_acceptance(all_draws.logits, known)).reshape(2, tries)
        wanted = [row[:draws].sum() for row, draws in zip(chance, one.draws, strict=True)]
        np.testing.assert_allclose(one.acceptance, wanted, rtol=1e-4)
        assert (one.draws[one.exhausted] == tries).all()
    assert len({draws for one in kept for draws in one.draws}) > 1


class Logits:
    """Networks of which only the discriminator's logits are known."""

    def __init__(self, real, generated):
        self.real, self.generated = real, generated

    def judge(self, params, batch, tokens, mask):
        return self.real

    def write(self, generator, discriminator, batch, key, *, num_samples, truncation, forced):
        shape = (len(self.generated), num_samples)
        blank = np.zeros((*shape, T), np.float32)
        return Written(blank.astype(np.int32), blank, blank, self.generated.reshape(shape))


class OneBatch(AllSequences):
    def sources(self, split, *, batch_size, limit):
        yield from super().sources(split, batch_size=limit, limit=limit)

    def pairs(self, split, *, batch_size, limit):
        rows = next(self.sources(split, batch_size=limit, limit=limit))
        blank = np.zeros((limit, T), np.float32)
        yield rows | {"target": blank.astype(np.int32), "mask": blank}


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_the_rate_is_that_of_acceptances_above_one_half(rate):
    real, generated = RNG.normal(1.0, 1.0, 500), RNG.normal(-1.0, 1.0, 500)
    known, figures = calibration.calibrate(
        Logits(real, generated), state_of(), OneBatch(), "validation",
        rate=rate, batch_size=500, limit=500, num_samples=1, seed=0,
    )  # fmt: skip
    assert (known.scale, known.shift) == pytest.approx(calibration.platt(real, generated), rel=1e-5)
    assert known.maximum == pytest.approx((known.scale * generated + known.shift).max(), rel=1e-5)
    chance = np.exp(calibration.log_acceptance(generated, known))
    assert np.mean(chance > 0.5) == pytest.approx(rate, abs=0.005)
    assert figures["acceptance"].value == pytest.approx(chance.mean(), rel=1e-5)
    assert figures["loss"].value <= figures["loss_before"].value


def test_a_discriminator_that_prefers_what_is_generated_has_no_say():
    found, _ = calibration.calibrate(
        Logits(RNG.normal(-1.0, 1.0, 500), RNG.normal(1.0, 1.0, 500)), state_of(), OneBatch(),
        "validation", rate=0.25, batch_size=500, limit=500, num_samples=1, seed=0,
    )  # fmt: skip
    assert found.scale == 0
    chance = calibration.log_acceptance(np.array([-3.0, 0.0, 5.0]), found)
    assert np.ptp(chance) == 0
