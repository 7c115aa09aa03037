"""Judges that never saw the generator: of real against generated sequences, and of spoken words."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata

from seqgan_jax.core import losses, text_cnn
from seqgan_jax.evaluation import speech
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.training.fit import fit

_WIDTHS = (1, 2, 3, 4)
_BATCH = 128
_EVERY = 25  # steps between two looks at the validation part
_JUDGED = 256  # sequences judged at once


class Verdict(NamedTuple):
    """How well a classifier tells real from generated sequences that it has not seen.

    Attributes:
      accuracy: share of sequences that it assigns rightly, of as many real as generated ones.
      auc: area under the ROC curve.
    """

    accuracy: Metric
    auc: Metric


def real_or_generated(
    real_tokens: np.ndarray,
    generated_tokens: np.ndarray,
    *,
    vocabulary_size: int,
    seed: int,
    real_mask: np.ndarray | None = None,
    generated_mask: np.ndarray | None = None,
    steps: int = 400,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Verdict:
    """Trains a classifier from scratch and says how well it tells the two kinds apart.

    A classifier two-sample test (Lopez-Paz and Oquab, 2017, arXiv:1610.06545). As many sequences of
    each kind as there are of the rarer one are split into 60 % to train on, 20 % to stop early by
    (the least cross-entropy), and 20 % to report on. The network is Kim's (2014, arXiv:1408.5882):
    convolutions of widths 1 to 4 over learnt embeddings, their maxima over time, dropout.

    Accuracy and AUC are 0 to 1 and lower is better for a generator: 0.5 cannot be told from real
    data by this judge. Blind spots: it is blind to what windows of four tokens don't show, so a
    value near 0.5 proves no equality; it learns from thousands of sequences only, so compare at
    equal numbers; a different way of preparing the two (capitals, spaces, lengths cut) is found
    first and hides all else; a copy of the training data passes. Two parts of the real data set
    give the value to aim at.

    Args:
      real_tokens: [N, T], int.
      generated_tokens: [M, T'], int; the shorter of the two is padded.
      vocabulary_size: tokens are 0 to this less 1.
      seed: of the parts, the parameters, the order and the dropout.
      real_mask: [N, T], 1 for tokens that count, a prefix of each row; None if all do.
      generated_mask: [M, T'], likewise.
      steps: updates, of 64 sequences of either kind.
      progress: see `training.fit`.

    Returns:
      Accuracy, with the binomial standard error of the held-out part, and AUC, with that of DeLong
      et al. (1988). Neither counts how much another training would differ.

    Raises:
      ValueError: fewer than 10 sequences of a kind, or tokens beyond the vocabulary.
    """
    kinds = [_whole(real_tokens, real_mask), _whole(generated_tokens, generated_mask)]
    length = max(_WIDTHS[-1], *(tokens.shape[1] for tokens, _ in kinds))
    count = min(len(tokens) for tokens, _ in kinds)
    if count < 10:
        raise ValueError(f"{count} sequences of a kind are too few to split")
    rng = np.random.default_rng(seed)
    parts = [[], [], []]
    for label, (tokens, mask) in enumerate(kinds):
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocabulary_size:
            raise ValueError(f"tokens are not all from 0 to {vocabulary_size - 1}")
        room = ((0, 0), (0, length - tokens.shape[1]))
        rows = rng.permutation(len(tokens))[:count]
        bounds = [count * 6 // 10, count * 8 // 10]
        for part, chosen in zip(parts, np.split(rows, bounds), strict=True):
            part.append(
                {
                    "tokens": np.pad(tokens[chosen], room),
                    "mask": np.pad(mask[chosen], room),
                    "label": np.full(len(chosen), 1.0 - label, np.float32),
                }
            )
    train, validation, test = (
        jax.tree.map(lambda *kinds: np.concatenate(kinds), *part) for part in parts
    )

    network = Judge(vocabulary_size)
    one = jax.tree.map(lambda x: x[:1], train)
    params = network.init(jax.random.key(seed), one["tokens"], one["mask"], train=False)

    def loss(params, batch, key):
        logits = network.apply(
            params, batch["tokens"], batch["mask"], train=True, rngs={"dropout": key}
        )
        return losses.binary_cross_entropy(logits, batch["label"]).mean(), None

    @jax.jit
    def judge(params, batch):
        return network.apply(params, batch["tokens"], batch["mask"], train=False)

    def validate(params):
        logits = _in_parts(judge, params, validation)
        return float(losses.binary_cross_entropy(logits, validation["label"]).mean())

    params = fit(
        loss,
        params,
        _batches(train, rng),
        steps=steps,
        optimizer=optax.adamw(2e-3, weight_decay=1e-2),
        seed=seed,
        validate=validate,
        every=_EVERY,
        progress=progress,
    )
    logits = _in_parts(judge, params, test)
    real = test["label"] > 0.5
    # A logit of 0 is no verdict: half right.
    right = np.where(logits == 0, 0.5, (logits > 0) == real)
    return Verdict(Metric.mean(right, "0-1"), auc(logits[real], logits[~real]))


class Judge(nn.Module):
    """Convolutions of several widths over embeddings, their maxima, dropout and a linear layer.

    (tokens [B, T], mask [B, T]) -> logits [B] of being real. What is masked is a zero vector.
    """

    vocabulary_size: int
    size: int = 32
    filters: int = 64

    @nn.compact
    def __call__(self, tokens, mask, *, train):
        table = nn.Embed(self.vocabulary_size, self.size)
        features = table(tokens) * mask[..., None]
        features = nn.Dropout(0.2, broadcast_dims=(2,))(features, deterministic=not train)
        initial = nn.initializers.lecun_normal(in_axis=(0, 1))
        kernels = [
            self.param(f"width_{width}", initial, (width, self.size, self.filters))
            for width in _WIDTHS
        ]
        bias = self.param("bias", nn.initializers.zeros, (len(_WIDTHS) * self.filters,))
        pooled = nn.relu(text_cnn.pool(kernels, features) + bias)
        pooled = nn.Dropout(0.5)(pooled, deterministic=not train)
        return nn.Dense(1)(pooled)[:, 0]


def _whole(tokens, mask):
    tokens = np.asarray(tokens, np.int32)
    mask = np.ones(tokens.shape) if mask is None else np.asarray(mask)
    if tokens.ndim != 2 or tokens.shape != mask.shape:
        raise ValueError(f"tokens {tokens.shape} and their mask {mask.shape} are no [N, T]")
    return np.where(mask > 0, tokens, 0), mask.astype(np.float32)


def _batches(rows: dict, rng: np.random.Generator) -> Iterator[dict]:
    """Endless batches of as many real as generated rows, every row once before any comes again."""
    half = len(rows["label"]) // 2
    size = min(_BATCH // 2, half)
    while True:
        orders = [rng.permutation(half), half + rng.permutation(half)]
        for start in range(0, half - size + 1, size):
            chosen = np.concatenate([order[start : start + size] for order in orders])
            yield jax.tree.map(lambda x: x[chosen], rows)  # noqa: B023


def _in_parts(judge, params, rows: dict) -> np.ndarray:
    """The logits of all rows, a few at a time; the last part is filled up, to compile once."""
    count, logits = len(rows["label"]), []
    for start in range(0, count, _JUDGED):
        chosen = np.arange(start, start + _JUDGED) % count
        logits.append(judge(params, jax.tree.map(lambda x: x[chosen], rows)))  # noqa: B023
    return np.asarray(jnp.concatenate(logits))[:count]


def auc(positive: np.ndarray, negative: np.ndarray) -> Metric:
    """Share of pairs in which the positive one scores higher, equal ones counted by half; 0 to 1.

    The standard error is that of DeLong et al. (1988): with V_i the share of negatives below
    positive i and W_j the share of positives above negative j, var(V) / N + var(W) / M.

    Args:
      positive: scores, [N].
      negative: scores, [M].
    """
    n, m = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    below = (ranks[:n] - rankdata(positive)) / m
    above = 1 - (ranks[n:] - rankdata(negative)) / n
    stderr = None
    if min(n, m) > 1:
        stderr = float(np.sqrt(below.var(ddof=1) / n + above.var(ddof=1) / m))
    return Metric(float(below.mean()), stderr, n + m, "0-1")


# Spoken words

_STRIDE = 4  # frames of 10 ms in a step of the recogniser
_HEARD = 64  # recordings heard at once
_NOISE = 0.3  # standard deviation, in nats, of what is added to every band of a frame in training
_SHIFT = 2  # bands by which recordings are moved up or down at most in training


class WordRecogniser:
    """Names the words of recordings: log-mel bands, convolutions, best path of CTC.

    Attributes:
      words: those that it knows.
    """

    def __init__(self, words: Sequence[str], params, sample_rate: int):
        """`params` as `fit` finds them."""
        self.words = tuple(words)
        self.params = params
        self._sample_rate = sample_rate
        network = Recogniser(len(self.words) + 1)
        self._apply = jax.jit(lambda params, *batch: network.apply(params, *batch, train=False))

    @classmethod
    def initial_params(cls, words: Sequence[str], seed: int):
        """Random parameters, for their structure too."""
        frames = jnp.zeros((1, _STRIDE, speech.BANDS))
        mask = jnp.ones((1, _STRIDE))
        network = Recogniser(len(words) + 1)
        return network.init(jax.random.key(seed), frames, mask, train=False)

    @classmethod
    def fit(
        cls,
        recordings: Sequence[np.ndarray],
        phrases: Sequence[Sequence[str]],
        sample_rate: int,
        *,
        seed: int,
        steps: int,
        progress: Callable[[range], Iterable[int]] = iter,
    ) -> "WordRecogniser":
        """Learns from real recordings of known phrases, no pauses between words needed.

        Minimises the loss of connectionist temporal classification (Graves et al., 2006). So that
        it doesn't depend on what a voice or a vocoder adds, bands get noise and recordings are
        moved up or down by a few bands.

        Args:
          recordings: float32 [samples] each.
          phrases: the words of each.
          sample_rate: Hz.
          seed: of the parameters, the order and the noise.
          steps: updates, of 32 recordings.
          progress: see `training.fit`.
        """
        words = tuple(sorted({word for phrase in phrases for word in phrase}))
        number = {word: i for i, word in enumerate(words, start=1)}  # 0 is the blank
        frames, mask = _frames(recordings, sample_rate)
        longest = max(map(len, phrases))
        labels = np.zeros((len(phrases), longest), np.int32)
        for row, phrase in enumerate(phrases):
            labels[row, : len(phrase)] = [number[word] for word in phrase]
        rows = {"frames": frames, "mask": mask, "labels": labels}
        network = Recogniser(len(words) + 1)

        def loss(params, batch, key):
            keys = jax.random.split(key, 3)
            shift = jax.random.randint(keys[0], (len(batch["labels"]),), -_SHIFT, _SHIFT + 1)
            bands = jnp.clip(jnp.arange(speech.BANDS) + shift[:, None], 0, speech.BANDS - 1)
            heard = jnp.take_along_axis(batch["frames"], bands[:, None], axis=2)
            heard += _NOISE * jax.random.normal(keys[1], heard.shape)
            logits, heard_mask = network.apply(
                params, heard, batch["mask"], train=True, rngs={"dropout": keys[2]}
            )
            labels = batch["labels"]
            each = optax.ctc_loss(logits, 1 - heard_mask, labels, (labels == 0).astype(jnp.float32))
            return each.mean(), None

        rng = np.random.default_rng(seed)
        size = min(32, len(phrases))

        def batches():
            while True:
                order = rng.permutation(len(phrases))
                for start in range(0, len(order) - size + 1, size):
                    chosen = order[start : start + size]
                    yield {name: x[chosen] for name, x in rows.items()}

        rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, max(steps // 10, 1), max(steps, 2))
        params = fit(
            loss,
            cls.initial_params(words, seed),
            batches(),
            steps=steps,
            optimizer=optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(rate)),
            seed=seed,
            progress=progress,
        )
        return cls(words, params, sample_rate)

    def __call__(self, recordings: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
        """The words heard in each recording; none in one of no length."""
        heard = []
        for start in range(0, len(recordings), _HEARD):
            part = list(recordings[start : start + _HEARD])
            filled = part + [np.zeros(0, np.float32)] * (_HEARD - len(part))
            frames, mask = _frames(filled, self._sample_rate)
            logits, steps = self._apply(self.params, frames, mask)
            best = np.where(np.asarray(steps) > 0, np.asarray(logits).argmax(-1), 0)
            heard += [self._read(row) for row in best[: len(part)]]
        return heard

    def _read(self, best: np.ndarray) -> tuple[str, ...]:
        """The best path without repetitions and blanks."""
        new = np.append(True, best[1:] != best[:-1])
        return tuple(self.words[i - 1] for i in best[new & (best > 0)])


class Recogniser(nn.Module):
    """Convolutions over log-mel frames with layer normalisation, four frames to a step.

    (frames [B, T, bands], mask [B, T]) -> (logits [B, T / 4, outputs], their mask [B, T / 4]).
    """

    outputs: int
    size: int = 96

    @nn.compact
    def __call__(self, frames, mask, *, train):
        x = frames * mask[..., None]
        for stride in (2, 2, 1, 1):
            mask = mask[:, ::stride]
            y = nn.relu(nn.LayerNorm()(nn.Conv(self.size, (5,), (stride,))(x)))
            x = (y if stride > 1 else x + y) * mask[..., None]
        x = nn.Dropout(0.2)(x, deterministic=not train)
        return nn.Dense(self.outputs)(x), mask


def _frames(recordings: Sequence[np.ndarray], sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-mel bands less their mean over the recording, [B, T, bands], and their mask [B, T].

    T is a multiple of a step and of half a second, so that few lengths are compiled.
    """
    bands = [speech.log_bands(audio, sample_rate) for audio in recordings]
    longest = max(map(len, bands))
    length = max(1, -(-longest // (13 * _STRIDE))) * 13 * _STRIDE
    frames = np.zeros((len(bands), length, speech.BANDS), np.float32)
    for row, found in enumerate(bands):
        if len(found):
            frames[row, : len(found)] = found - found.mean()
    return frames, (np.arange(length) < [[len(x)] for x in bands]).astype(np.float32)
