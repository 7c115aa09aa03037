"""What a pair of networks writes for held-out sources, and how likely it finds held-out targets."""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import expit

from seqgan_jax.core.sampling import Truncation
from seqgan_jax.evaluation.densities import average
from seqgan_jax.evaluation.report import Metric


class Sample(NamedTuple):
    """What was written for one source.

    Attributes:
      tokens: [R, T].
      mask: [R, T], 1 up to the end token, which it includes.
      log_probs: of the whole sequences, in nats, [R].
      scores: the discriminator's probability that each is real, [R].
      token_log_probs: what `log_probs` are the sums of, [R, T]; None for what was searched.
      logits: the discriminator's, of which `scores` are the probabilities, [R]; None likewise.
      index: the number of each among all that were drawn for its source, which its noise is a
        function of, [R]; None likewise.
    """

    tokens: np.ndarray
    mask: np.ndarray
    log_probs: np.ndarray
    scores: np.ndarray
    token_log_probs: np.ndarray | None = None
    logits: np.ndarray | None = None
    index: np.ndarray | None = None


class Accepted(NamedTuple):
    """What rejection sampling keeps for one source.

    Attributes:
      sample: its R sequences.
      draws: how many each has cost, itself included, [R].
      acceptance: the sum over these of the probabilities to be accepted, [R].
      exhausted: whether it was kept as the last of all tries, unaccepted, [R].
    """

    sample: Sample
    draws: np.ndarray
    acceptance: np.ndarray
    exhausted: np.ndarray


def write(
    steps,
    state,
    batches: Iterable[dict],
    *,
    seed: int,
    num_samples: int,
    truncation: Truncation = Truncation(),  # noqa: B008
    forced: tuple[int, ...] = (),
    rerank: int = 1,
) -> Iterator[Sample]:
    """Samples `num_samples` sequences for every source that isn't a filler row, in order.

    With `rerank` that many times more are drawn, of which those stay that the discriminator scores
    highest, in the order in which they were drawn.
    """
    for batch in batches:
        written = jax.device_get(
            steps.write(
                state.generator.params,
                state.discriminator.params,
                _arrays(batch),
                jax.random.key(seed),
                num_samples=num_samples * rerank,
                truncation=truncation,
                forced=forced,
            )
        )
        log_probs = written.log_probs.sum(-1)
        samples = _samples(batch, written.tokens, written.mask, log_probs, written.scores)
        real = batch["weight"] > 0
        rows = written.log_probs[real], written.scores[real]
        for sample, token_log_probs, logits in zip(samples, *rows, strict=True):
            kept = np.sort(np.argsort(-logits, kind="stable")[:num_samples])
            index = np.arange(len(logits), dtype=np.int32)
            whole = sample._replace(token_log_probs=token_log_probs, logits=logits, index=index)
            yield Sample(*(x[kept] for x in whole))


def accepted(
    steps,
    state,
    batches: Iterable[dict],
    *,
    seed: int,
    num_samples: int,
    tries: int,
    truncation: Truncation = Truncation(),  # noqa: B008
    forced: tuple[int, ...] = (),
) -> Iterator[Accepted]:
    """Draws for every source that isn't a filler row until `num_samples` are accepted, in order.

    Each of them is the first of its own draws that `core.rejection` accepts, or the last of `tries`
    whatever it is. A lane that is done goes on to the next sample, so that lanes are idle only at
    the very end. Draw k of sample r is a function of (seed, the example, r, k) alone.

    Args:
      steps: the compiled functions.
      state: the training state, calibrated.
      batches: sources, all with as many rows, which is also the number of lanes.
      seed: of noise, samples and acceptance.
      num_samples: R.
      tries: draws for a sample at most.
      truncation: temperature and the like.
      forced: the first tokens of every sequence.
    """
    batches = iter(batches)
    first = next(batches)
    lanes = len(first["weight"])
    fresh = _wanted(itertools.chain([first], batches), num_samples)
    rejected: deque[_Lane] = deque()
    open_sources: deque[list[_Lane]] = deque()
    while True:
        busy = [rejected.popleft() for _ in range(min(lanes, len(rejected)))]
        for lane in itertools.islice(fresh, lanes - len(busy)):
            if not lane.slot:
                open_sources.append([])
            open_sources[-1].append(lane)
            busy.append(lane)
        if not busy:
            break
        filled = busy + busy[-1:] * (lanes - len(busy))
        written, log_a, taken = jax.device_get(
            steps.offer(
                state.generator.params,
                state.discriminator.params,
                state.calibration,
                jax.tree.map(lambda *x: np.stack(x), *(lane.source for lane in filled)),
                jax.random.key(seed),
                np.array([lane.slot * tries + lane.draws for lane in filled], np.int32),
                truncation=truncation,
                forced=forced,
            )
        )
        for i, lane in enumerate(busy):
            lane.draws += 1
            lane.acceptance += float(np.exp(log_a[i]))
            if taken[i] or lane.draws == tries:
                lane.exhausted = not taken[i]
                lane.kept = jax.tree.map(lambda x, i=i: x[i], written)
            else:
                rejected.append(lane)
        while open_sources and len(open_sources[0]) == num_samples:
            if any(lane.kept is None for lane in open_sources[0]):
                break
            yield _accepted(open_sources.popleft(), tries)


@dataclasses.dataclass
class _Lane:
    """A sample that is drawn for until one is accepted."""

    source: dict
    slot: int
    draws: int = 0
    acceptance: float = 0.0
    exhausted: bool = False
    kept: Any = None


def _wanted(batches: Iterable[dict], num_samples: int) -> Iterator[_Lane]:
    for batch in batches:
        arrays = _arrays(batch)
        for row in np.flatnonzero(batch["weight"]):
            source = jax.tree.map(lambda x, row=row: x[row], arrays)
            yield from (_Lane(source, slot) for slot in range(num_samples))


def _accepted(lanes: Sequence[_Lane], tries: int) -> Accepted:
    written = jax.tree.map(lambda *x: np.concatenate(x), *(lane.kept for lane in lanes))
    sample = Sample(
        written.tokens,
        written.mask,
        written.log_probs.sum(-1),
        1 / (1 + np.exp(-written.scores)),
        written.log_probs,
        written.scores,
        np.array([lane.slot * tries + lane.draws - 1 for lane in lanes], np.int32),
    )
    told = (np.array([getattr(x, n) for x in lanes]) for n in ("draws", "acceptance", "exhausted"))
    return Accepted(sample, *told)


def search(
    steps,
    state,
    batches: Iterable[dict],
    *,
    seed: int,
    width: int,
    forced: tuple[int, ...] = (),
    banned: tuple[int, ...] = (),
    length_penalty: float = 0.0,
) -> Iterator[Sample]:
    """The `width` best sequences of every source that isn't a filler row, best first.

    Under one z for each source, which the seed decides, and by `core.beam`'s measure: without a
    penalty the most probable ones. Fewer where fewer exist.
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
                length_penalty=length_penalty,
            )
        )
        for sample in _samples(batch, beams.tokens, beams.mask, beams.log_probs, scores):
            found = np.isfinite(sample.log_probs)
            yield Sample(*(x[found] for x in sample[:4]))


def _samples(batch, tokens, mask, log_probs, logits) -> Iterator[Sample]:
    """The rows that are no filler of what was written for a batch."""
    scores = expit(logits)
    for row in np.flatnonzero(batch["weight"]):
        yield Sample(tokens[row], mask[row], log_probs[row], scores[row])


def log_probs(
    steps,
    state,
    batches: Iterable[dict],
    *,
    seed: int,
    num_noise: int,
    temperature: float = 1.0,
    shuffled: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The generator's log-probability of held-out targets, in nats, and their tokens: [n], [n].

    With noise this is the importance-weighted bound of K samples, a lower bound.

    Args:
      steps: the compiled functions.
      state: the training state.
      batches: pairs, see `data.pipeline`.
      seed: of the noise.
      num_noise: K.
      temperature: of the softmax over the generator's logits.
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
            for name in ("source", "source_mask"):
                arrays[name] = jax.tree.map(lambda x, order=order: x[order], batch[name])
        nll = steps.likelihood(
            state.generator.params,
            arrays,
            jax.random.key(seed),
            num_noise=num_noise,
            temperature=temperature,
        )
        totals.append(-np.asarray(nll)[real])
        counts.append(batch["mask"].sum(-1)[real])
    return np.concatenate(totals), np.concatenate(counts)


def likelihood(log_probs: np.ndarray, counts: np.ndarray) -> Metric:
    """Negative log-likelihood per token, the ratio of two sums; lower is better, nats.

    It says nothing of what a model writes: a model that ignores its source scores well where
    sources tell little.

    Args:
      log_probs: of independent sequences, [n].
      counts: their tokens, [n].
    """
    mean = -log_probs.sum() / counts.sum()
    # Delta method for a ratio of means over independent sequences.
    deviation = (-log_probs - mean * counts) / counts.mean()
    stderr = deviation.std(ddof=1) / np.sqrt(len(counts)) if len(counts) > 1 else None
    return Metric(float(mean), stderr and float(stderr), len(counts), "nats/token")


def discrimination(
    steps, state, batches: Iterable[dict], samples: Sequence[Sample]
) -> dict[str, Metric]:
    """How often the discriminator is right on held-out pairs, and on sequences written for them.

    All that belongs to one source is one item: its answers are averaged first.

    Args:
      steps: the compiled functions.
      state: the training state.
      batches: pairs, see `data.pipeline`.
      samples: what was written for their sources.

    Returns:
      Accuracies: `discriminator_real` on real pairs, `discriminator_generated` on written ones,
      the mean of these two, `discriminator_accuracy`, and where there are sources
      `discriminator_mismatched` on real sequences before another example's source. And
      `discriminator_loss`, the mean cross-entropy of real pairs and written ones, in nats.
    """
    real, mismatched, surprise = {}, {}, {}
    params = state.discriminator.params
    for batch in batches:
        ids, keep = batch["example_id"], batch["weight"] > 0
        arrays = _arrays(batch)
        logits = steps.judge(params, arrays, batch["target"], batch["mask"])
        _collect(real, ids[keep], np.asarray(logits)[keep] > 0)
        _collect(surprise, ids[keep], np.logaddexp(0, -np.asarray(logits))[keep])
        if batch["source"] is not None:
            other = _derangement(ids)
            logits = steps.judge(params, arrays, batch["target"][other], batch["mask"][other])
            keep &= ids[other] != ids
            _collect(mismatched, ids[keep], np.asarray(logits)[keep] < 0)
    share = lambda answers: Metric.mean((np.mean(a) for a in answers), "share")
    ours, theirs = share(real.values()), share(sample.scores < 0.5 for sample in samples)
    # Probabilities in single precision tell nothing of a larger loss than 16 nats.
    written = (-np.log(np.maximum(1 - sample.scores, 1e-7)) for sample in samples)
    nats = lambda losses: Metric.mean((np.mean(x) for x in losses), "nats")
    figures = {
        "discriminator_accuracy": average(ours, theirs, "share"),
        "discriminator_loss": average(nats(surprise.values()), nats(written), "nats"),
        "discriminator_real": ours,
        "discriminator_generated": theirs,
    }
    if mismatched:
        figures["discriminator_mismatched"] = share(mismatched.values())
    return figures


def _collect(answers: dict[int, list], ids: np.ndarray, right: np.ndarray) -> None:
    for example, answer in zip(ids, right, strict=True):
        answers.setdefault(int(example), []).append(answer)


def figures(
    steps,
    state,
    task,
    split: str,
    *,
    batch_size: int,
    limit: int | None,
    seed: int,
    num_samples: int,
    num_noise: int,
    thorough: bool,
) -> tuple[dict[str, Metric], list[Sample]]:
    """All figures of a pair of networks on a part of a split, and what it wrote for that part.

    Args:
      steps: the compiled functions.
      state: the training state.
      task: see `tasks`; adds its own figures.
      split: which.
      batch_size: rows at once.
      limit: how many sources; None for all.
      seed: of noise and samples.
      num_samples: sequences written for each source.
      num_noise: noise samples of the likelihood's bound.
      thorough: also the figures that take long.
    """
    pairs = lambda: task.pairs(split, batch_size=batch_size, limit=limit)
    read = {"seed": seed, "num_noise": num_noise}
    found, counts = log_probs(steps, state, pairs(), **read)
    metrics = {"nll": likelihood(found, counts)}
    if next(iter(pairs()))["source"] is not None:
        others = log_probs(steps, state, pairs(), **read, shuffled=True)
        metrics["nll_shuffled"] = likelihood(*others)
    if steps.reverse:
        other, turned = state.replace(generator=state.reverse), map(steps.turned, pairs())
        metrics["nll_reverse"] = likelihood(*log_probs(steps.reverse, other, turned, **read))
    sources = task.sources(split, batch_size=batch_size, limit=limit)
    samples = list(write(steps, state, sources, seed=seed, num_samples=num_samples))
    metrics |= discrimination(steps, state, pairs(), samples)
    return metrics | task.evaluate(split, samples, found, thorough=thorough), samples


def at_temperature(
    steps,
    state,
    task,
    split: str,
    temperature: float,
    *,
    batch_size: int,
    limit: int | None,
    seed: int,
) -> dict[str, Metric]:
    """The task's figures of the generator with its logits divided by a temperature.

    One sequence is written for each source. Its log-probability and those of held-out targets are
    the tempered generator's.
    """
    size = {"batch_size": batch_size, "limit": limit}
    read = {"seed": seed, "num_noise": 1, "temperature": temperature}
    truncation = Truncation(temperature=temperature)
    samples = []
    for batch in task.sources(split, **size):
        written = list(
            write(steps, state, [batch], seed=seed, num_samples=1, truncation=truncation)
        )
        filled = written + written[-1:] * (len(batch["weight"]) - len(written))
        tokens, mask = (np.concatenate([getattr(s, x) for s in filled]) for x in ("tokens", "mask"))
        pairs = [{**batch, "target": tokens, "mask": mask}]
        own, _ = log_probs(steps, state, pairs, **read)
        samples += [sample._replace(log_probs=own[i : i + 1]) for i, sample in enumerate(written)]
    found, _ = log_probs(steps, state, task.pairs(split, **size), **read)
    return task.evaluate(split, samples, found, thorough=False)


def _arrays(batch: dict) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key not in ("weight",)}


def _derangement(example_id: np.ndarray) -> np.ndarray:
    """A rotation of the rows that gives as few rows as possible their own example back."""
    size = len(example_id)
    clashes = [np.sum(np.roll(example_id, -shift) == example_id) for shift in range(1, size)]
    shift = 1 + int(np.argmin(clashes)) if clashes else 0
    return np.roll(np.arange(size), -shift)
