"""Sequences of a known LSTM: what the programs need to know of the oracle benchmark."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.data import oracle
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import densities
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.files import replace_file
from seqgan_jax.tasks import Splits, Tokens


class Oracle(Splits):
    """The task, bound to its oracle; see `tasks.Task`.

    Args:
      config: the run's configuration.
      workdir: the run's directory; nothing of it is needed.
      progress: the display; likewise.

    Raises:
      UserError: for a file that holds no such oracle, sizes that make no sense, or networks whose
        densities wouldn't be exact.
    """

    name = "oracle"
    items = "sequences"
    banned = ()
    options = ()
    num_samples = 1
    falling = ("nll_oracle", "nll_test", "reverse_kl", "forward_kl", "js")
    shown = ("nll_oracle", "entropy", "reverse_kl", "forward_kl")
    sweep = ("forward_kl", "reverse_kl", "nll_oracle", "nll_test", "entropy")

    def __init__(self, config, workdir: Path, progress):
        del workdir, progress
        if config.encoder.kind != "none":
            raise UserError("config.encoder.kind: the oracle's sequences have no source; set none")
        if config.generator.noise_size:
            raise UserError(
                "config.generator.noise_size: with noise the generator's density would be known by "
                "a bound alone; set 0"
            )
        self._oracle = _oracle(config.oracle)
        self.splits = oracle.splits(self._oracle, config.data)
        self.codec = Tokens(Vocabulary(size=len(self._oracle.bias), bos=oracle.START))
        self.length = config.data.length

    def template(self) -> dict:
        return {
            "source": None,
            "source_mask": None,
            "target": np.zeros((1, self.length), np.int32),
            "mask": np.ones((1, self.length), np.float32),
        }

    def request(self, options: Mapping[str, Any]) -> tuple[list[str], dict]:
        """One row without a source, for which any number of sequences can be written."""
        del options
        row = {"source": None, "source_mask": None}
        return [""], {**row, "example_id": np.zeros(1, np.int32), "weight": np.ones(1, np.float32)}

    def prefix(self, text: str) -> tuple[int, ...]:
        """Whole numbers with spaces between.

        Raises:
          UserError: for anything else, or a number that is no token.
        """
        size = self.codec.vocabulary.size
        try:
            tokens = tuple(map(int, text.split()))
        except ValueError:
            tokens = (-1,)
        if not all(0 <= token < size for token in tokens):
            raise UserError(f"--prefix={text}: not all are whole numbers of 0 to {size - 1}")
        return tokens

    # What was written.

    def decode(self, tokens: np.ndarray) -> str:
        return " ".join(map(str, tokens))

    def row(self, name: str, sample: Sample) -> dict:
        del name
        return {
            "sequences": [
                {
                    "tokens": tokens.tolist(),
                    "log_prob": float(log_prob),
                    "oracle_log_prob": float(known),
                    "score": float(score),
                }
                for tokens, log_prob, known, score in zip(
                    sample.tokens,
                    sample.log_probs,
                    oracle.log_prob(self._oracle, sample.tokens),
                    sample.scores,
                    strict=True,
                )
            ]
        }

    def describe(self, name: str, sample: Sample) -> list[str]:
        return [
            f"{self.decode(row['tokens'])}  (log-probability {row['log_prob']:.2f}, the oracle's "
            f"{row['oracle_log_prob']:.2f}, discriminator {row['score']:.2f})"
            for row in self.row(name, sample)["sequences"]
        ]

    def evaluate(
        self, split: str, samples: Sequence[Sample], log_probs: np.ndarray, *, thorough: bool
    ) -> dict[str, Metric]:
        """See `evaluation.densities.divergences`.

        `quality_diversity` is minus the mean of the two Kullback-Leibler divergences. The forward
        one falls with what the generator leaves out, the reverse one with what it shouldn't write,
        and no temperature improves both. The Jensen-Shannon divergence, which weighs both too, is
        log 2 but for its noise for every generator of long sequences.
        """
        del thorough
        tokens = np.concatenate([sample.tokens for sample in samples])
        figures = densities.divergences(
            np.concatenate([sample.log_probs for sample in samples]),
            oracle.log_prob(self._oracle, tokens),
            log_probs,
            self.split(split).log_probs[: len(log_probs)],
            self.length,
        )
        both = densities.average(figures["forward_kl"], figures["reverse_kl"], "nats/token")
        return figures | {"quality_diversity": both._replace(value=-both.value)}

    def comparisons(
        self, split: str, count: int, num_samples: int
    ) -> tuple[dict[str, dict[str, Metric]], list[str]]:
        """The oracle itself as the generator."""
        del num_samples
        known = self.split(split).log_probs[:count]
        figures = densities.divergences(known, known, known, known, self.length)
        return {"oracle": figures}, []

    def illustrate(
        self, folder: Path, split: str, samples: Sequence[Sample], attention: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Writes `sequences.json`; there is nothing to see."""
        del split, attention
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row for sample in samples for row in self.row("", sample)["sequences"][:1]]
        with replace_file(folder / "sequences.json") as file:
            file.write(json.dumps(rows).encode())
        return {}


def _oracle(config) -> oracle.Oracle:
    """The oracle of `config.oracle`: drawn from a seed, or read from a file of these sizes."""
    if config.params is None:
        for option in ("vocabulary", "size"):
            if config[option] < 1:
                raise UserError(
                    f"config.oracle.{option}: {config[option]} is no size; set 1 or more"
                )
        if not 0 <= config.seed < 2**63:
            raise UserError(f"config.oracle.seed: {config.seed}; set a number from 0 to 2^63 - 1")
        return oracle.random(config.seed, config.vocabulary, config.size)
    known = oracle.load(config.params)
    for option, size in zip(("vocabulary", "size"), known.output.shape[::-1], strict=True):
        if config[option] != size:
            raise UserError(
                f"{config.params}: an oracle with config.oracle.{option} = {size}, not "
                f"{config[option]}; set it to that"
            )
    return known
