"""What a pair of networks writes for held-out sources, and how likely it finds held-out targets."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from seqgan_jax.core.sampling import Truncation
from seqgan_jax.evaluation.report import Metric


class Sample(NamedTuple):
    """What was written for one source.

    Attributes:
      tokens: [R, T].
      mask: [R, T], 1 up to the end token, which it includes.
      log_probs: of the whole sequences, in nats, [R].
      scores: the discriminator's probability that each is real, [R].
    """

    tokens: np.ndarray
    mask: np.ndarray
    log_probs: np.ndarray
    scores: np.ndarray


def write(
    steps,
    state,
    batches: Iterable[dict],
    *,
    seed: int,
    num_samples: int,
    truncation: Truncation = Truncation(),  # noqa: B008
    forced: tuple[int, ...] = (),
) -> Iterator[Sample]:
    """Samples `num_samples` sequences for every source that isn't a filler row, in order."""
    for batch in batches:
        written = jax.device_get(
            steps.write(
                state.generator.params,
                state.discriminator.params,
                _arrays(batch),
                jax.random.key(seed),
                num_samples=num_samples,
                truncation=truncation,
                forced=forced,
            )
        )
        for row in np.flatnonzero(batch["weight"]):
            yield Sample(
                written.tokens[row],
                written.mask[row],
                written.log_probs[row].sum(-1),
                1 / (1 + np.exp(-written.scores[row])),
            )


def search(
    steps,
    state,
    batches: Iterable[dict],
    *,
    seed: int,
    width: int,
    forced: tuple[int, ...] = (),
    banned: tuple[int, ...] = (),
) -> Iterator[Sample]:
    """The `width` most probable sequences of every source that isn't a filler row, best first.

    Under one z for each source, which the seed decides. Fewer where fewer exist.
    """
    for batch in batches:
        beams, scores = jax.device_get(
            steps.search_beams(
                state.generator.params,
                state.discriminator.params,
                _arrays(batch),
                jax.random.key(seed),
                width=width,
                forced=forced,
                banned=banned,
            )
        )
        for row in np.flatnonzero(batch["weight"]):
            found = np.isfinite(beams.log_probs[row])
            yield Sample(
                beams.tokens[row][found],
                beams.mask[row][found],
                beams.log_probs[row][found],
                1 / (1 + np.exp(-scores[row][found])),
            )


def likelihood(
    steps, state, batches: Iterable[dict], *, seed: int, num_noise: int, shuffled: bool = False
) -> Metric:
    """Negative log-likelihood per token of held-out targets; lower is better, nats.

    With noise this is the importance-weighted bound of K samples, an upper bound. It says nothing
    of what a model writes: a model that ignores its source scores well where sources tell little.

    Args:
      steps: the compiled functions.
      state: the training state.
      batches: pairs, see `data.pipeline`.
      seed: of the noise.
      num_noise: K.
      shuffled: whether targets are paired with another batch row's source; rows for which only
        their own is left don't count.
    """
    totals, counts = [], []
    for batch in batches:
        real = batch["weight"] > 0
        arrays = _arrays(batch)
        if shuffled:
            order = _derangement(batch["example_id"])
            real &= batch["example_id"][order] != batch["example_id"]
            arrays["source"] = jax.tree.map(lambda x, order=order: x[order], batch["source"])
        nll = steps.likelihood(
            state.generator.params, arrays, jax.random.key(seed), num_noise=num_noise
        )
        totals.append(np.asarray(nll)[real])
        counts.append(batch["mask"].sum(-1)[real])
    total, count = np.concatenate(totals), np.concatenate(counts)
    mean = total.sum() / count.sum()
    # Delta method for a ratio of means over independent sequences.
    deviation = (total - mean * count) / count.mean()
    stderr = deviation.std(ddof=1) / np.sqrt(len(total)) if len(total) > 1 else None
    return Metric(float(mean), stderr and float(stderr), len(total), "nats/token")


def discrimination(steps, state, batches: Iterable[dict], *, seed: int) -> dict[str, Metric]:
    """How often the discriminator is right on held-out pairs, and on sequences written for them.

    Returns accuracies: `discriminator_real` on real pairs, `discriminator_generated` on written
    ones, `discriminator_mismatched` on real sequences before another example's source, and their
    balanced mean of the first two, `discriminator_accuracy`.
    """
    right = {"real": [], "generated": [], "mismatched": []}
    params = state.discriminator.params
    for batch in batches:
        keep = batch["weight"] > 0
        arrays = _arrays(batch)
        written = steps.write(
            state.generator.params, params, arrays, jax.random.key(seed), num_samples=1
        )
        other = _derangement(batch["example_id"])
        real = steps.judge(params, arrays, batch["target"], batch["mask"])
        wrong = steps.judge(params, arrays, batch["target"][other], batch["mask"][other])
        right["real"].append(np.asarray(real)[keep] > 0)
        right["generated"].append(np.asarray(written.scores)[keep, 0] < 0)
        keep &= batch["example_id"][other] != batch["example_id"]
        right["mismatched"].append(np.asarray(wrong)[keep] < 0)
    accuracy = {
        name: Metric.mean(np.concatenate(values), "share") for name, values in right.items()
    }
    both = np.concatenate([*right["real"], *right["generated"]])
    return {
        "discriminator_accuracy": Metric.mean(both, "share"),
        **{f"discriminator_{name}": metric for name, metric in accuracy.items()},
    }


def _arrays(batch: dict) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key not in ("weight",)}


def _derangement(example_id: np.ndarray) -> np.ndarray:
    """A rotation of the rows that gives as few rows as possible their own example back."""
    size = len(example_id)
    clashes = [np.sum(np.roll(example_id, -shift) == example_id) for shift in range(1, size)]
    shift = 1 + int(np.argmin(clashes)) if clashes else 0
    return np.roll(np.arange(size), -shift)
