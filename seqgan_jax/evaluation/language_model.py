"""Cross-entropy of text under an n-gram model of other text, counted with arrays."""

from collections.abc import Hashable, Sequence

import numpy as np

from seqgan_jax.evaluation.ngrams import Sentence

DISCOUNT = 0.75


def log_probs(
    sentences: Sequence[Sentence], training: Sequence[Sentence], order: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of whole sentences under interpolated Kneser-Ney smoothing.

    Kneser and Ney (1995), in the interpolated form of Chen and Goodman (1999), with one discount
    D = 0.75 for all orders. For the longest history h, with c the training counts,

      p(w | h) = max(c(h w) - D, 0) / c(h) + D N(h .) / c(h) p(w | h less its first token),

    where N(h .) is the number of different tokens seen after h. In lower orders, down to the empty
    history, c(h w) is the number of different tokens seen before h w. Below the empty history is
    the uniform distribution over the V different tokens of both texts and the end, so every
    sentence has a probability. A history that was never seen is shortened.

    All n-grams of both texts are numbered together by np.unique, order by order, so that a count is
    a np.bincount and a look-up is an index.

    Args:
      sentences: whose probabilities are asked for.
      training: what the model is made of.
      order: n, the tokens of the longest n-gram.

    Returns:
      Log-probabilities in nats, the end of the sentence included, [N], and the number of tokens
      that each is of, the end counted, [N].

    Raises:
      ValueError: there is no training text.
    """
    if not training:
        raise ValueError("no text to make a language model of")
    texts = [*training, *sentences]
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    tokens, size = _padded(texts, lengths, order)
    sentence = np.repeat(np.arange(len(texts)), lengths + order)
    # Of the padding before each sentence only what stands in a history counts, never as a token.
    starts = np.cumsum(lengths + order) - (lengths + order)
    predicted = np.arange(len(tokens)) - starts[sentence] >= order - 1
    seen = sentence < len(training)

    # grams[k]: the number of the k-gram that ends here; histories[k]: that of the k tokens before.
    grams, histories, sizes = [np.zeros(len(tokens), np.int64)], [], [1]
    for k in range(order):
        histories.append(np.roll(grams[k], 1))
        key = histories[k] * size + tokens
        distinct, gram = np.unique(key, return_inverse=True)
        grams.append(gram)
        sizes.append(len(distinct))

    use, ask = predicted & seen, predicted & ~seen
    # The padding's own number is among the tokens, but never predicted.
    probability = np.full(ask.sum(), 1.0 / (size - 1))
    for k in range(1, order + 1):
        # What is counted: positions, in the highest order; in the others the first position of
        # each different (k+1)-gram.
        counted = np.flatnonzero(use)
        if k < order:
            counted = counted[np.unique(grams[k + 1][use], return_index=True)[1]]
        count = np.bincount(grams[k][counted], minlength=sizes[k])
        total = np.bincount(histories[k - 1][counted], minlength=sizes[k - 1])
        kinds = counted[np.unique(grams[k][counted], return_index=True)[1]]
        followers = np.bincount(histories[k - 1][kinds], minlength=sizes[k - 1])

        own, history = count[grams[k][ask]], histories[k - 1][ask]
        known = total[history] > 0
        divisor = np.maximum(total[history], 1)
        mixed = np.maximum(own - DISCOUNT, 0) + DISCOUNT * followers[history] * probability
        probability = np.where(known, mixed / divisor, probability)
    whole = np.bincount(sentence[ask] - len(training), np.log(probability), len(sentences))
    return whole, lengths[len(training) :] + 1


def _padded(texts, lengths, order) -> tuple[np.ndarray, int]:
    """All tokens as numbers, each sentence after order - 1 beginnings (0) and before an end (1)."""
    numbers: dict[Hashable, int] = {}
    tokens = np.ones(lengths.sum() + len(texts) * order, np.int64)
    flat = [numbers.setdefault(token, len(numbers) + 2) for text in texts for token in text]
    starts = np.cumsum(lengths + order) - (lengths + order)
    place = np.arange(len(flat)) + np.repeat(
        starts + order - 1 - (np.cumsum(lengths) - lengths), lengths
    )
    tokens[place] = flat
    tokens[(starts[:, None] + np.arange(order - 1)).ravel()] = 0
    return tokens, len(numbers) + 2
