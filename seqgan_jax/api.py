"""Writing and judging with a trained run, from Python.

    import seqgan_jax

    model = seqgan_jax.load("runs/captions-scenes")
    for found in model.generate(image="photo.jpg", num_samples=3, seed=1):
        for hypothesis in found.hypotheses:
            print(hypothesis.text, hypothesis.log_prob, hypothesis.score)
    model.score(["a red circle"], image="photo.jpg")

generate.py and the demonstration page are made of this. Shapes: B sources, R sequences for each, T
tokens of the longest possible sequence, V vocabulary, S source positions, K noise samples.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax import tasks
from seqgan_jax.core.sampling import Truncation
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import held_out
from seqgan_jax.programs.run import Run, check_calibrated, parts
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training.steps import NOISE, Steps

# Sources of a request that are written for, or sequences that are judged, at once.
PART = 100
# What a request may name several of.
_SEVERAL = ("image", "text", "video", "mask")


class Hypothesis(NamedTuple):
    """A sequence that was written.

    Attributes:
      text: what its tokens decode to, as one line for a person.
      tokens: int32 [N], to its end, which they include where it has one.
      log_probs: of the tokens under the generator as it is, at temperature 1, and under the noise
        that they were written with, in nats, [N].
      log_prob: their sum.
      score: the discriminator's probability that it is real.
      attention: where the generator looked at each token, [N, S]; None where it wasn't asked for,
        or the generator doesn't look anywhere.
    """

    text: str
    tokens: np.ndarray
    log_probs: np.ndarray
    log_prob: float
    score: float
    attention: np.ndarray | None


class Generated(NamedTuple):
    """What was written for one source.

    Attributes:
      name: the source: its path, its text, or nothing.
      hypotheses: the sequences, in the order in which they were drawn; of a beam search the best
        one first.
      sample: the same as arrays.
      accepted: what rejection sampling tells beside it, where it was asked for; else None.
    """

    name: str
    hypotheses: tuple[Hypothesis, ...]
    sample: held_out.Sample
    accepted: held_out.Accepted | None


class Score(NamedTuple):
    """What a pair of networks says of a given sequence.

    Attributes:
      tokens: int32 [N], the end included where there is one.
      log_probs: of each token given those before it, in nats, [N]. With noise they are those of
        the importance-weighted bound: log of (1/K) sum_k G(y_1..t | z_k), less that of t - 1.
      log_prob: their sum; with noise a lower bound of the sequence's.
      score: the discriminator's probability that it is real.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    log_prob: float
    score: float


def load(
    workdir: str | os.PathLike,
    checkpoint: str = "last",
    *,
    replica: int = 0,
    progress: Progress | None = None,
) -> "Model":
    """Opens a trained run.

    Args:
      workdir: its directory.
      checkpoint: 'last', 'best' or a phase's name.
      replica: which of a run of several seeds.
      progress: shows what takes long; None for nothing.

    Raises:
      UserError: where there is no run, or no such checkpoint.
    """
    run = Run(Path(workdir), None, progress or Progress(quiet=True))
    return Model(run, checkpoint, replica)


class Model:
    """A run's networks at one of its checkpoints.

    A function is compiled once for each number of sources, of sequences, and each way to choose
    tokens, and is there for the next call.

    Attributes:
      task: see `tasks.Task`; its `options` are what may be written for.
      checkpoint: which.
      run: what it is one of.
      state: the checkpoint, without what only training needs.
      tries: draws for a sequence of rejection sampling at most.
    """

    def __init__(self, run: Run, checkpoint: str, replica: int = 0):
        self.task = run.task
        self.checkpoint = checkpoint
        self.tries = run.rejection.tries
        self.run = run
        state = run.restore(checkpoint, replica)
        # What training alone needs is let go: most of the memory.
        self.state = state.replace(
            generator=state.generator.replace(optimizer=None),
            discriminator=state.discriminator.replace(optimizer=None),
            rollout=None,
            baseline=None,
            pool=None,
            reference=None,
        )
        self._steps: dict[int, _Steps] = {}

    def generate(
        self,
        *,
        num_samples: int = 5,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        beam_size: int = 0,
        length_penalty: float = 0.0,
        rerank: int = 1,
        reject: bool = False,
        prefix: str = "",
        length: int | None = None,
        ban: Sequence[str] = (),
        attention: bool = False,
        **sources: str | os.PathLike | Sequence[str | os.PathLike] | None,
    ) -> list[Generated]:
        """Writes sequences for sources; equal arguments give equal sequences.

        Args:
          num_samples: R, sequences for each source; a beam search has `beam_size` of them.
          seed: of noise and samples.
          temperature: the logits are divided by it; above 0.
          top_k: draw from the k most probable tokens only; 0 for all.
          top_p: draw from the smallest set of the most probable tokens with this mass.
          beam_size: search for so many of the most probable sequences instead; 0 to draw.
          length_penalty: of that search, see `core.beam`: above 0, longer sequences; about 1
            compares log-probabilities per token.
          rerank: draw so many times more, of which the discriminator keeps the best.
          reject: draw until the discriminator accepts, see docs/sampling.md; for checkpoints that
            are calibrated.
          prefix: how each sequence begins.
          length: tokens of a sequence at most, its end included; None for as many as in training.
          ban: tokens that are never written.
          attention: whether to find where the generator looked.
          **sources: what to write for, by the names of the task's options: `image` for captions,
            `text` for translation and speech, and so on; one, or a sequence of them.

        Returns:
          One for each source, in order; a single one where the task has no sources.

        Raises:
          UserError: for options that make no sense, or that this model has no use for.
        """
        truncation = Truncation(temperature, top_k, top_p)
        check_truncation(truncation)
        for option, value in (("num_samples", num_samples), ("beam_size", beam_size + 1)):
            if value < 1:
                raise UserError(f"--{option}: must be positive")
        if length_penalty < 0 or (length_penalty and not beam_size):
            raise UserError("--length_penalty: is of a beam search, 0 or more; set --beam_size too")
        if beam_size and rerank > 1:
            raise UserError("--rerank: of no use to a beam search; leave out one of the two")
        if reject and (beam_size or rerank > 1):
            raise UserError(
                "--reject: is another way to choose; leave out --beam_size and --rerank"
            )
        steps = self._of_length(length)
        names, batch = self._request(sources)
        forced = self.task.prefix(prefix)
        if len(forced) >= steps.length:
            raise UserError(
                f"--prefix: longer than the {steps.length} tokens of its {self.task.items}"
            )
        banned = tasks.banned(self.task, ban) if ban else self.task.banned
        if reject:
            check_calibrated(self.state, self.checkpoint, self.run.workdir)
        # Without a source each sequence is a row of its own, so that any number can be written.
        alone = batch["source"] is None and not beam_size
        if alone:
            rows = np.arange(num_samples, dtype=np.int32)
            batch = batch | {"example_id": rows, "weight": np.ones(num_samples, np.float32)}
        how = {"seed": seed, "forced": forced}
        accepted = None
        if beam_size:
            how |= {"width": beam_size, "banned": banned, "length_penalty": length_penalty}
            samples = list(held_out.search(steps, self.state, self._parts(batch), **how))
        else:
            how |= {"num_samples": 1 if alone else num_samples}
            how |= {"truncation": truncation._replace(banned=banned)}
            if reject:
                how |= {"tries": self.tries}
                accepted = list(held_out.accepted(steps, self.state, self._parts(batch), **how))
                samples = [one.sample for one in accepted]
            else:
                how |= {"rerank": rerank}
                samples = list(held_out.write(steps, self.state, self._parts(batch), **how))
        looked: list[np.ndarray | None] = [None] * len(samples)
        if attention or beam_size:
            # The likelihood that a beam search compares is that of all tokens.
            read = self._read(steps, batch, samples, seed, allowed=not beam_size)
            for i, (log_probs, weights) in enumerate(read):
                looked[i] = weights if attention else None
                if beam_size:
                    samples[i] = samples[i]._replace(token_log_probs=log_probs)
        if alone:
            samples, accepted = [_joined(samples)], accepted and [_joined(accepted)]
            looked = [None if looked[0] is None else np.concatenate(looked)]
        return [
            Generated(name, self._hypotheses(sample, looked[i]), sample, accepted and accepted[i])
            for i, (name, sample) in enumerate(zip(names, samples, strict=True))
        ]

    def score(
        self,
        sequences: Iterable[Any],
        *,
        seed: int = 0,
        num_noise: int = 16,
        **sources: str | os.PathLike | Sequence[str | os.PathLike] | None,
    ) -> list[Score]:
        """How probable the generator finds sequences, and how real the discriminator does.

        Args:
          sequences: each as the task's codec reads it, a text for example, or a recording's
            samples; or as its tokens, whole numbers, with the end where there is to be one.
          seed: of the noise.
          num_noise: K, noise samples of the bound; without effect on a generator without noise.
          **sources: as in `generate`; one for all sequences, or one for each.

        Returns:
          One for each sequence, in order.

        Raises:
          UserError: for sequences that are empty, too long or no tokens, or sources that don't
            belong to them.
        """
        if num_noise < 1:
            raise UserError("--num_noise: must be positive")
        rows = [self._tokens(number, each) for number, each in enumerate(sequences, start=1)]
        names, batch = self._request(sources)
        if len(names) not in (1, len(rows)):
            raise UserError(
                f"sequences: {len(rows)} of them for {len(names)} sources; give one source for "
                "all, or one for each"
            )
        steps, lengths = self._of_length(None), np.array([len(row) for row in rows])
        mask = (np.arange(steps.length) < lengths[:, None]).astype(np.float32)
        tokens = np.full(mask.shape, steps.vocabulary.pad or 0, np.int32)
        tokens[mask > 0] = np.concatenate(rows) if rows else ()
        found = []
        for start in range(0, len(rows), PART):
            part = np.arange(start, min(start + PART, len(rows)))
            arrays = batch if len(names) == 1 else jax.tree.map(lambda x, i=part: x[i], batch)
            arrays = {key: value for key, value in arrays.items() if key != "weight"}
            if arrays["source"] is None:  # then the batch's size is that of its ids
                arrays["example_id"] = np.zeros(len(part), np.int32)
            given = tokens[part], mask[part]
            log_probs, _ = steps.read(
                self.state.generator.params,
                arrays,
                jax.random.key(seed),
                np.zeros(len(part), np.int32),
                *given,
                num_noise=num_noise,
                allowed=True,
            )
            logits = steps.judge(self.state.discriminator.params, arrays, *given)
            for i, of_tokens, logit in zip(part, *jax.device_get((log_probs, logits)), strict=True):
                of_tokens = of_tokens[: lengths[i]]
                score = float(1 / (1 + np.exp(-logit)))
                found.append(Score(rows[i], of_tokens, float(of_tokens.sum()), score))
        return found

    def save(self, path: str | os.PathLike, generated: Sequence[Generated]) -> list[Path]:
        """Writes what was written as files of one of the task's `endings`: sounds, clips.

        Returns:
          The files: the one named for a single sequence, numbered ones for several.

        Raises:
          UserError: for a task that has no such files.
        """
        path = Path(path)
        if path.suffix.lower() not in self.task.endings:
            known = f"choose from {', '.join(self.task.endings)}" if self.task.endings else ""
            raise UserError(
                f"{path}: a model of {self.task.name} writes no such file; "
                f"{known or 'its sequences are text'}"
            )
        return self.task.save(path, [each.sample for each in generated])

    def _of_length(self, length: int | None) -> "_Steps":
        """The compiled functions for sequences of one length; they are made once."""
        most = self.task.length
        if length is not None and not 1 <= length <= most:
            raise UserError(
                f"--length={length}: this model writes 1 to {most} tokens; set one of these"
            )
        length = length or most
        if length not in self._steps:
            self._steps[length] = _Steps(self.run.steps, length)
        return self._steps[length]

    def _request(self, sources: Mapping[str, Any]) -> tuple[list[str], dict]:
        given = {option: value for option, value in sources.items() if value is not None}
        for option in given:
            if option not in self.task.options:
                raise UserError(
                    f"--{option}: of no use to a model of {self.task.name}; leave it out"
                )
        single = lambda option, value: option in _SEVERAL and isinstance(value, str | os.PathLike)
        known = {option: [v] if single(option, v) else v for option, v in given.items()}
        return self.task.request(dict.fromkeys(self.task.options) | known)

    def _parts(self, batch: dict) -> Iterator[dict]:
        count = -(-len(batch["weight"]) // PART)
        progress = self.run.progress
        return progress.track(parts(batch, PART), count, f"writing {self.task.items}")

    def _read(self, steps: "_Steps", batch, samples, seed: int, *, allowed: bool):
        """Of each sample its tokens' log-probabilities, [R, T], and [R, T, S] or None."""
        for number, part in enumerate(parts(batch, PART)):
            group = samples[number * PART : (number + 1) * PART]
            size, lanes = len(part["weight"]), max(len(sample.tokens) for sample in group)
            # Rows that only fill up are read too, whatever they are.
            full = lambda x, lanes=lanes: x[np.minimum(np.arange(lanes), len(x) - 1)]
            rows = [group[min(row, len(group) - 1)] for row in range(size)]
            stacked = lambda name, rows=rows, full=full: np.concatenate(
                [full(getattr(sample, name)) for sample in rows]
            )
            index = np.zeros(size * lanes, np.int32) if rows[0].index is None else stacked("index")
            found = steps.read(
                self.state.generator.params,
                {key: value for key, value in part.items() if key != "weight"},
                jax.random.key(seed),
                index,
                stacked("tokens"),
                stacked("mask"),
                num_noise=1,
                allowed=allowed,
            )
            found = jax.tree.map(lambda x, s=(size, lanes): x.reshape(*s, *x.shape[1:]), found)
            log_probs, weights = jax.device_get(found)
            for row, sample in enumerate(group):
                count = len(sample.tokens)
                yield log_probs[row, :count], None if weights is None else weights[row, :count]

    def _hypotheses(self, sample: held_out.Sample, looked) -> tuple[Hypothesis, ...]:
        found = []
        for i, tokens in enumerate(sample.tokens):
            count = int(sample.mask[i].sum())
            found.append(
                Hypothesis(
                    self.task.decode(tokens),
                    tokens[:count],
                    sample.token_log_probs[i, :count],
                    float(sample.log_probs[i]),
                    float(sample.scores[i]),
                    None if looked is None else looked[i, :count],
                )
            )
        return tuple(found)

    def _tokens(self, number: int, sequence: Any) -> np.ndarray:
        """A user's sequence as tokens, int32 [N]."""
        where = f"sequences: number {number}"
        tokens = np.asarray(sequence)
        if tokens.dtype.kind not in "iu":
            tokens = np.asarray(self.task.codec.encode(sequence))
        size = self.task.codec.vocabulary.size
        if tokens.dtype.kind not in "iu" or tokens.ndim != 1 or not len(tokens):
            raise UserError(f"{where}: is not what this model writes; give its tokens")
        if len(tokens) > self.task.length:
            raise UserError(
                f"{where}: has {len(tokens)} tokens with its end, and this model writes "
                f"{self.task.length} at most; cut it"
            )
        if tokens.min() < 0 or tokens.max() >= size:
            raise UserError(f"{where}: has tokens that are not among 0 to {size - 1}")
        return tokens.astype(np.int32)


class _Steps(Steps):
    """The compiled functions for sequences of one length, and one that reads given sequences."""

    def __init__(self, steps: Steps, length: int):
        super().__init__(
            steps.generator, steps.discriminator, steps.vocabulary, length, clip=float("inf")
        )
        self.read = jax.jit(self._read, static_argnames=("num_noise", "allowed"))

    def _read(
        self,
        params: Any,
        batch: dict[str, Any],
        key: chex.PRNGKey,
        index: chex.Array,
        tokens: chex.Array,
        mask: chex.Array,
        *,
        num_noise: int,
        allowed: bool,
    ) -> tuple[chex.Array, chex.Array | None]:
        """Log-probabilities of given tokens, see `Score`, and where the generator looked.

        Args:
          params: the generator's.
          batch: sources, [B, ...].
          key: as for `write`.
          index: the number of each sequence among those drawn for its source, [B R]; noise k is
            that of number `index` + k.
          tokens: [B R, T].
          mask: [B R, T].
          num_noise: K.
          allowed: whether padding and the start are left out of the distribution, as where tokens
            are drawn.

        Returns:
          [B R, T], and [B R, T, S] under the first noise or None.
        """
        example = jnp.repeat(batch["example_id"], len(tokens) // len(batch["example_id"]))

        def forward(network, source, source_mask, z):
            memory = network.encode(source, source_mask, train=False)
            start = network.initial_state(memory, z, self.length)
            return network.unroll(memory, start, self._inputs(tokens), train=False)[0]

        def under(k):
            logits, kept = self.generator.apply(
                {"params": params},
                batch["source"],
                batch["source_mask"],
                self._noise(jax.random.fold_in(key, NOISE), example, index + k),
                method=forward,
                mutable=["intermediates"],
            )
            log_probs = jax.nn.log_softmax(self._allowed(logits) if allowed else logits)
            found = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
            looked = kept.get("intermediates", {}).get("attention")
            looked = None if looked is None else looked[0].reshape(*tokens.shape, -1)
            return jnp.where(mask > 0, found, 0.0), looked

        first, looked = under(0)
        if num_noise == 1 or not self.generator.noise_size:
            return first, looked
        every = jax.lax.map(lambda k: under(k)[0], jnp.arange(num_noise))
        bounds = jax.nn.logsumexp(jnp.cumsum(every, axis=-1), axis=0) - jnp.log(num_noise)
        return jnp.diff(bounds, axis=-1, prepend=0.0), looked


def _joined(samples: Sequence[Any]) -> Any:
    """Samples of one sequence each as one."""
    return jax.tree.map(lambda *x: np.concatenate(x), *samples)


def check_truncation(truncation: Truncation) -> None:
    """Refuses what makes no sense."""
    if not truncation.temperature > 0:
        raise UserError("--temperature: must be above 0; use --beam_size=1 for the most probable")
    if truncation.top_k < 0:
        raise UserError("--top_k: must be 0 (all tokens) or more")
    if not 0 < truncation.top_p <= 1:
        raise UserError("--top_p: must be above 0 and at most 1")
