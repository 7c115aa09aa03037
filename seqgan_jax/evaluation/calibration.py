"""What a discriminator's logits are worth on held-out data: calibration for rejection sampling."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from seqgan_jax.core import rejection
from seqgan_jax.core.rejection import Calibration
from seqgan_jax.evaluation import held_out
from seqgan_jax.evaluation.densities import average
from seqgan_jax.evaluation.report import Metric

_ITERATIONS = 100


def platt(real: np.ndarray, generated: np.ndarray) -> tuple[float, float]:
    """The logistic regression of "is real" on a logit: scale a and shift b of sigmoid(a s + b).

    Platt (1999), "Probabilistic outputs for support vector machines", with his targets
    (n_1 + 1) / (n_1 + 2) and 1 / (n_0 + 2), which keep a and b finite where the logit separates
    the two; by Newton's method with step halving (Lin et al., 2007, "A note on Platt's
    probabilistic outputs"). Either side counts half, however many sequences it has, so that at the
    minimum a s + b estimates log p - log q.

    Args:
      real: logits of real sequences, [n_1].
      generated: logits of generated ones, [n_0].
    """
    sizes = len(real), len(generated)
    logits = np.concatenate([real, generated]).astype(np.float64)
    targets = np.repeat([(sizes[0] + 1) / (sizes[0] + 2), 1 / (sizes[1] + 2)], sizes)
    weights = np.repeat([0.5 / sizes[0], 0.5 / sizes[1]], sizes)
    # In units of its own spread the problem is well conditioned.
    centre, spread = logits.mean(), logits.std() or 1.0
    design = np.stack([(logits - centre) / spread, np.ones_like(logits)], -1)

    def loss(found):
        z = design @ found
        return weights @ (np.logaddexp(0, z) - targets * z)

    found = np.zeros(2)
    for _ in range(_ITERATIONS):
        probabilities = 1 / (1 + np.exp(-np.clip(design @ found, -700, 700)))
        slope = design.T @ (weights * (probabilities - targets))
        curvature = weights * probabilities * (1 - probabilities)
        step = np.linalg.solve(design.T @ (design * curvature[:, None]) + 1e-12 * np.eye(2), slope)
        before = loss(found)
        while loss(found - step) > before and np.abs(step).max() > 1e-12:
            step = step / 2
        found = found - step
        if np.abs(step).max() < 1e-10:
            break
    return float(found[0] / spread), float(found[1] - found[0] * centre / spread)


def calibrate(
    steps, state, task, split: str, *, rate: float, batch_size: int, limit: int | None,
    num_samples: int, seed: int,
) -> tuple[Calibration, dict[str, Metric]]:  # fmt: skip
    """Calibrates the discriminator on held-out data, for the generator as it is.

    Scale and shift are `platt`'s, of the split's real sequences against sequences written for its
    sources. These are also the burn-in: `maximum` is the largest of their calibrated logits, and
    gamma the percentile 100 (1 - rate) of F at gamma = 0, so that about the share `rate` of what
    is drawn is accepted. One maximum serves all sources: calibrated logits are of one scale, and
    each source is drawn for until it has what it needs, which is its own normalisation. A maximum
    for each source would need a burn-in for each, at as many draws as it could save.

    Args:
      steps: the compiled functions.
      state: the training state.
      task: see `tasks`.
      split: which; not what the networks were trained on.
      rate: in (0, 1).
      batch_size: rows at once.
      limit: how many sources; None for all.
      num_samples: sequences written for each source.
      seed: of noise and samples.

    Returns:
      The calibration, and figures: the mean cross-entropy of the held-out sequences before and
      after it, in nats, and the mean acceptance. A scale is not negative: where generated
      sequences look more real than real ones, `scale` is 0 and all are accepted alike.
    """
    size = {"batch_size": batch_size, "limit": limit}
    real = real_logits(steps, state, task.pairs(split, **size))
    sources = task.sources(split, **size)
    written = held_out.write(steps, state, sources, seed=seed, num_samples=num_samples)
    generated = np.concatenate([sample.logits for sample in written])
    scale, shift = platt(real, generated)
    if scale <= 0:
        scale, shift = 0.0, 0.0
    maximum = float((scale * generated + shift).max())
    known = Calibration(*map(np.float32, (scale, shift, maximum, 0.0)))
    offers = np.asarray(rejection.acceptance_logit(generated, known))
    known = known._replace(gamma=np.float32(np.quantile(offers, 1 - rate)))
    accepted = np.exp(log_acceptance(generated, known))
    return known, {
        "loss_before": _loss(real, generated),
        "loss": _loss(scale * real + shift, scale * generated + shift),
        "acceptance": Metric.mean(accepted, "share"),
    }


def real_logits(steps, state, batches: Iterable[dict]) -> np.ndarray:
    """The discriminator's logits of the pairs that are no filler rows, [n]."""
    found = []
    for batch in batches:
        arrays = {key: value for key, value in batch.items() if key != "weight"}
        logits = steps.judge(state.discriminator.params, arrays, batch["target"], batch["mask"])
        found.append(np.asarray(logits)[batch["weight"] > 0])
    return np.concatenate(found)


def log_acceptance(logits: np.ndarray, calibration: Calibration) -> np.ndarray:
    """`rejection.log_acceptance` on the host, [n]."""
    return np.asarray(rejection.log_acceptance(logits, calibration))


def _loss(real: np.ndarray, generated: np.ndarray) -> Metric:
    halves = (Metric.mean(np.logaddexp(0, x), "nats") for x in (-real, generated))
    return average(*halves, "nats")


class Filtered(NamedTuple):
    """What rejection sampling keeps, and at what cost.

    Attributes:
      samples: one for each source; where it has no other sources than none, `log_probs` are those
        of `rejection.log_density`.
      log_probs: of the held-out targets under the same density, [n]; None with sources.
      figures: `draws_per_sample`; `acceptance`, the mean over draws; and `exhausted`, the share of
        samples that are the last of all their tries.
    """

    samples: list[held_out.Sample]
    log_probs: np.ndarray | None
    figures: dict[str, Metric]


def filtered(
    steps, state, task, split: str, *, tries: int, batch_size: int, limit: int | None,
    num_samples: int, seed: int,
) -> Filtered:  # fmt: skip
    """What is kept for a part of a split, with exact log-densities where there is no source.

    Args:
      steps: the compiled functions.
      state: the training state, calibrated.
      task: see `tasks`.
      split: which.
      tries: draws for a sample at most.
      batch_size: rows at once.
      limit: how many sources; None for all.
      num_samples: sequences kept for each source.
      seed: of noise, samples and acceptance.
    """
    size = {"batch_size": batch_size, "limit": limit}
    kept = list(
        held_out.accepted(
            steps,
            state,
            task.sources(split, **size),
            seed=seed,
            num_samples=num_samples,
            tries=tries,
        )
    )
    draws = np.concatenate([one.draws for one in kept])
    total = np.concatenate([one.acceptance for one in kept])
    # Wald's identity: the sum over all draws, over their number.
    mean = float(total.sum() / draws.sum())
    figures = {
        "draws_per_sample": Metric.mean((np.mean(one.draws) for one in kept), "draws"),
        "acceptance": Metric(mean, None, int(draws.sum()), "share"),
        "exhausted": Metric.mean((np.mean(one.exhausted) for one in kept), "share"),
    }
    samples = [one.sample for one in kept]
    if next(iter(task.sources(split, **size)))["source"] is not None:
        return Filtered(samples, None, figures)

    def density(log_q, logits):
        log_a = log_acceptance(logits, state.calibration)
        return np.asarray(rejection.log_density(log_q, log_a, mean, tries), np.float64)

    samples = [s._replace(log_probs=density(s.log_probs, s.logits)) for s in samples]
    log_q, _ = held_out.log_probs(steps, state, task.pairs(split, **size), seed=seed, num_noise=1)
    logits = real_logits(steps, state, task.pairs(split, **size))
    return Filtered(samples, density(log_q, logits), figures)
