"""Rewards and baselines against closed forms and a loop."""

import chex
import numpy as np
import scipy.stats

from seqgan_jax.core import rewards


class RewardsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_rewards_of_a_probability(self):
        d = np.array([0.01, 0.5, 0.9])
        logits = np.log(d / (1 - d)).astype(np.float32)
        np.testing.assert_allclose(self.variant(rewards.probability)(logits), d, rtol=1e-5)
        np.testing.assert_allclose(
            self.variant(rewards.log_ratio)(logits), np.log(d) - np.log(1 - d), rtol=1e-5
        )

    @chex.variants(with_jit=True, without_jit=True)
    def test_rewards_of_extreme_logits(self):
        found = self.variant(rewards.probability)(np.array([-1e4, 1e4], np.float32))
        np.testing.assert_array_equal(found, [0, 1])

    @chex.variants(with_jit=True, without_jit=True)
    def test_discounted_rewards_equal_a_loop(self):
        rng = np.random.default_rng(0)
        reward = rng.normal(size=(3, 4)).astype(np.float32)
        mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], np.float32)
        found = self.variant(rewards.discounted)
        for discount in (0.0, 0.5, 1.0):
            expected = np.zeros((3, 4))
            for b in range(3):
                count = int(mask[b].sum())
                for t in range(count):
                    for s in range(t, count):
                        expected[b, t] += discount ** (s - t) * reward[b, s]
            np.testing.assert_allclose(
                found(reward, mask, discount), expected, rtol=1e-5, atol=1e-6
            )

    @chex.variants(with_jit=True, without_jit=True)
    def test_baseline_moves_only_where_there_are_tokens(self):
        rng = np.random.default_rng(0)
        baseline = rng.normal(size=4).astype(np.float32)
        values = rng.normal(size=(3, 4)).astype(np.float32)
        mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], np.float32)
        expected = baseline.copy()
        for t in range(4):
            real = [values[b, t] for b in range(3) if mask[b, t]]
            if real:
                expected[t] = 0.9 * baseline[t] + 0.1 * np.mean(real)
        values[mask == 0] = 1e6
        found = self.variant(rewards.update_baseline)(baseline, values, mask, 0.9)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert found[3] == baseline[3]

    @chex.variants(with_jit=True, without_jit=True)
    def test_baseline_reaches_the_mean(self):
        update = self.variant(rewards.update_baseline)
        found = update(np.zeros(2), np.array([[1.0, 2.0], [3.0, 4.0]]), np.ones((2, 2)), 0.0)
        np.testing.assert_allclose(found, [2, 3])
        kept = update(np.ones(2), np.zeros((2, 2)), np.ones((2, 2)), 1.0)
        np.testing.assert_array_equal(kept, [1, 1])


def ragged(shape, seed=0):
    """Values, and a mask whose rows have 1 to T tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, shape[-1] + 1, shape[:-1])
    mask = (np.arange(shape[-1]) < lengths[..., None]).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32), mask


def test_group_baseline_is_the_mean_of_the_others():
    values, mask = ragged((3, 4, 5))
    otherwise = np.arange(5, dtype=np.float32)
    found = rewards.group_baseline(values, mask, otherwise)
    for b, g, t in np.ndindex(values.shape):
        others = [values[b, o, t] for o in range(4) if o != g and mask[b, o, t]]
        expected = np.mean(others) if others else otherwise[t]
        np.testing.assert_allclose(found[b, g, t], expected, rtol=1e-5, atol=1e-6)
    # A sequence's own values are not in its baseline, so they can't bias the gradient.
    changed = np.array(values)
    changed[1, 2] += 10
    again = rewards.group_baseline(changed, mask, otherwise)
    np.testing.assert_allclose(again[1, 2], found[1, 2], rtol=1e-5)


def test_standardised():
    values, mask = ragged((4, 6))
    real = values[mask > 0]
    found = np.asarray(rewards.standardised(values, mask))
    np.testing.assert_allclose(found[mask > 0], (real - real.mean()) / real.std(), rtol=1e-4)
    assert not np.any(found[mask == 0])
    equal = np.asarray(rewards.standardised(np.ones((2, 3), np.float32), np.ones((2, 3))))
    np.testing.assert_array_equal(equal, np.zeros((2, 3)))


def test_ranked():
    values, mask = ragged((4, 6))
    values = np.round(values)  # some are equal
    count = int(mask.sum())
    expected = (scipy.stats.rankdata(values[mask > 0]) - 1 - (count - 1) / 2) / count
    found = np.asarray(rewards.ranked(values, mask))
    np.testing.assert_allclose(found[mask > 0], expected, atol=1e-6)
    assert not np.any(found[mask == 0])
    np.testing.assert_allclose(rewards.ranked(10 * values**3, mask), found, atol=1e-6)


def test_feature_distance():
    rng = np.random.default_rng(0)
    features, mask = rng.normal(size=(3, 4, 5)).astype(np.float32), ragged((3, 4))[1]
    pooled = rewards.mean_feature(features, mask)
    for row in range(3):
        np.testing.assert_allclose(
            pooled[row], features[row, mask[row] > 0].mean(0), rtol=1e-5, atol=1e-6
        )
    real = rng.normal(2.0, 3.0, size=(50, 5)).astype(np.float32)
    weights = np.repeat([1.0, 0.0], [40, 10]).astype(np.float32)  # the last rows are no real ones
    scaled = (np.asarray(pooled) - real[:40].mean(0)) / real[:40].std(0)
    found = rewards.feature_distance(pooled, real, weights)
    np.testing.assert_allclose(found, np.square(scaled).mean(-1), rtol=1e-4)
    # The features' scale is of no account.
    again = rewards.feature_distance(100 * pooled, 100 * real, weights)
    np.testing.assert_allclose(again, found, rtol=1e-4)
