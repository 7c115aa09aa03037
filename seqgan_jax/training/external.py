"""Rewards from outside: a user's function of decoded sequences, or a metric of this package.

They are found on the host, between two compiled halves of the generator's update: the first draws
(`Steps.draw`), the second learns (`Steps.train_step`). Each process finds those of its own rows.
"""

import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.captions import normalise

# fn(samples, references, sources) -> float32 [n]. Without sources the last two are None.
Function = Callable[[Sequence[str], Sequence[Sequence[str]] | None, Sequence[Any] | None], Any]

# Training examples from which CIDEr-D knows how rare an n-gram is.
_FIT = 5000
_ORDERS = 4
_SIGMA = 6.0
_SHOWN = 80


class Reward:
    """An external reward, bound to a task.

    Args:
      name: as in `config.reward.function`.
      function: see `Function`; called with all sequences of an update at once.
      task: see `tasks`; decodes, and knows references and sources.
    """

    def __init__(self, name: str, function: Function, task):
        self.name = name
        self.function = function
        self.task = task
        self._pad = task.codec.vocabulary.pad or 0
        self._has_sources = task.template()["source"] is not None

    def values(
        self,
        tokens: np.ndarray,
        mask: np.ndarray,
        completions: tuple[np.ndarray, np.ndarray] | None,
        example_id: np.ndarray,
    ) -> np.ndarray:
        """Action values of sampled tokens by the reward of whole sequences, float32 [B, T].

        That of a token is the mean reward of the completions of the prefix that ends with it, and
        of the last token the reward of the sample itself (Yu et al., 2017, eq. 4, with this reward
        for D). Without completions it is the reward of the sample for each of its tokens: all have
        led to it.

        Args:
          tokens: [B, T].
          mask: [B, T].
          completions: tokens and mask, [B, T - 1, N, T] each; or None.
          example_id: whose sources they were written for, [B].

        Raises:
          UserError: the function fails, or what it gives is no such array.
        """
        if completions is None:
            return self(tokens, mask, example_id)[:, None] * mask
        # The prefixes that a sample goes on from.
        row, place = np.nonzero(mask[:, 1:])
        completed, shown = (x[row, place] for x in completions)
        number, length = completed.shape[1:]
        found = self(
            np.concatenate([tokens, completed.reshape(-1, length)]),
            np.concatenate([mask, shown.reshape(-1, length)]),
            np.concatenate([example_id, np.repeat(example_id[row], number)]),
        )
        values = np.zeros(mask.shape, np.float32)
        values[row, place] = found[len(tokens) :].reshape(-1, number).mean(1)
        values[np.arange(len(tokens)), mask.sum(1).astype(int) - 1] = found[: len(tokens)]
        return values

    def __call__(self, tokens: np.ndarray, mask: np.ndarray, example_id: np.ndarray) -> np.ndarray:
        """The rewards of sequences, [n, T] -> float32 [n]."""
        written = np.where(mask > 0, tokens, self._pad)
        samples = [self.task.decode(row) for row in written]
        references = sources = None
        if self._has_sources:
            ids, place = np.unique(example_id, return_inverse=True)
            known = self.task.training_texts(ids)
            references, sources = ([side[i] for i in place] for side in known)
        try:
            found = self.function(samples, references, sources)
        except Exception as error:
            which = self._culprit(samples, references, sources)
            raise UserError(
                f"config.reward.function: {self.name} failed with {type(error).__name__}: "
                f"{_short(error)} on {which}; the run is saved as it was before: mend the function "
                "and give the same command"
            ) from error
        return self._checked(found, samples)

    def _culprit(self, samples, references, sources) -> str:
        """The first sample on which the function fails by itself."""
        one = lambda side, i: None if side is None else [side[i]]
        for i, sample in enumerate(samples):
            try:
                self.function([sample], one(references, i), one(sources, i))
            except Exception:
                return f"the sample '{_short(sample)}'"
        return f"{len(samples)} samples together, on none alone, the first '{_short(samples[0])}'"

    def _checked(self, found, samples) -> np.ndarray:
        where = f"config.reward.function: {self.name} must give float32 [{len(samples)}]"
        try:
            rewards = np.asarray(found, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}, one finite number a sample, not {_short(error)}") from error
        if rewards.shape != (len(samples),):
            raise UserError(f"{where}, one number a sample, not {list(rewards.shape)}")
        if not np.isfinite(rewards).all():
            worst = int(np.argmin(np.isfinite(rewards)))
            raise UserError(
                f"{where}, finite numbers, not {rewards[worst]} for the sample "
                f"'{_short(samples[worst])}'"
            )
        return rewards


def _short(what: Any) -> str:
    text = " ".join(str(what).split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def load(name: str, task) -> Reward:
    """The reward of `config.reward.function`.

    - `bleu`: BLEU of the sentence against its source's references by sacrebleu, 0 to 1, with its
      usual smoothing and with the orders that the sentence has (Lin and Och, 2004; Post, 2018,
      arXiv:1804.08771).
    - `cider`: CIDEr-D against them, over 10, so 0 to 1 (`Cider`).
    - `length`: words over the most tokens that a sequence may have, 0 to 1.
    - `package.module:function`: your own, see `Function`; found from where the program is started.

    Raises:
      UserError: no such function, or one that needs references where there are no sources.
    """
    if ":" in name:
        return Reward(name, _import(name), task)
    if name == "length":
        return Reward(name, _length(task.length), task)
    if name not in ("bleu", "cider"):
        raise UserError(
            f"config.reward.function: no reward '{name}'; choose bleu, cider, length or "
            "package.module:function"
        )
    if task.template()["source"] is None:
        raise UserError(
            f"config.reward.function: {name} compares with the references of a source, and this "
            "task has no sources; set length or package.module:function"
        )
    if name == "bleu":
        return Reward(name, functools.partial(_bleu, task.tokenizer), task)
    train = task.splits["train"]
    ids = np.array([train[i]["example_id"] for i in range(min(len(train), _FIT))])
    return Reward(name, Cider(task.training_texts(ids)[0]), task)


def _import(name: str) -> Function:
    module, _, function = name.partition(":")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        raise UserError(
            f"config.reward.function: {name} can't be imported ({_short(error)}); name it "
            "package.module:function, from where the program is started"
        ) from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise UserError(f"config.reward.function: {name} is no function; name one")
    return found


def _length(most: int) -> Function:
    return lambda samples, references, sources: [len(text.split()) / most for text in samples]


def _bleu(tokenizer, samples, references, sources) -> list[float]:
    del sources
    metric = BLEU(effective_order=True, tokenize=tokenizer)
    return [
        metric.sentence_score(sample, truths).score / 100
        for sample, truths in zip(samples, references, strict=True)
    ]


class Cider:
    """CIDEr-D of single texts over 10 (Vedantam et al., 2015, arXiv:1411.5726), 0 to 1.

    As pycocoevalcap computes it, but for the document frequencies, which are those of the texts
    given here: a few samples have none to speak of.

    Args:
      corpus: the true texts of each of many sources.
    """

    def __init__(self, corpus: Sequence[Sequence[str]]):
        self._frequency = Counter()
        for texts in corpus:
            self._frequency.update({gram for text in texts for gram in _grams(text)})
        self._log_size = np.log(max(len(corpus), 1))
        self._known: dict[str, tuple] = {}

    def __call__(self, samples, references, sources) -> list[float]:
        del sources
        return [
            np.mean([self._likeness(self._vectors(sample), self._reference(t)) for t in truths])
            for sample, truths in zip(samples, references, strict=True)
        ]

    def _reference(self, text: str) -> tuple:
        if text not in self._known:
            self._known[text] = self._vectors(text)
        return self._known[text]

    def _vectors(self, text: str) -> tuple[list[dict], np.ndarray, int]:
        """tf-idf of the n-grams of each order, their norms, and how many pairs of words."""
        orders: list[dict] = [{} for _ in range(_ORDERS)]
        for gram, count in _grams(text).items():
            idf = self._log_size - np.log(max(1, self._frequency[gram]))
            orders[len(gram) - 1][gram] = count * idf
        norms = [np.sqrt(sum(x * x for x in order.values())) for order in orders]
        return orders, np.array(norms), max(len(normalise(text)) - 1, 0)

    def _likeness(self, ours: tuple, theirs: tuple) -> float:
        shared = np.array([
            sum(min(x, known[gram]) * known[gram] for gram, x in own.items() if gram in known)
            for own, known in zip(ours[0], theirs[0], strict=True)
        ])  # fmt: skip
        norms = ours[1] * theirs[1]
        cosines = shared / np.where(norms > 0, norms, 1.0)
        return cosines.mean() * np.exp(-((ours[2] - theirs[2]) ** 2) / (2 * _SIGMA**2))


def _grams(text: str) -> Counter:
    words = normalise(text)
    return Counter(
        tuple(words[i : i + n]) for n in range(1, _ORDERS + 1) for i in range(len(words) - n + 1)
    )
