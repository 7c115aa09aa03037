"""Rewards and baselines against closed forms and a loop."""

import chex
import numpy as np

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
