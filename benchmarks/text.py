"""Time of the n-gram metrics, and memory of a corpus of any size; one JSON object a line.

    python benchmarks/text.py [--sentences=10000] [--path=FILE]
    python benchmarks/text.py --gigabytes=0.5,5

`bleu` and `self_bleu` are the times of all of their orders, 2 to 5, of so many sentences against
as many others, and among themselves: lines of --path, or made ones whose words are drawn by Zipf's
law. NLTK's time for one of the sentences, times their number, stands beside them.

With --gigabytes, files of such sizes are made, one after the other, indexed and read in batches as
training reads them; each line tells the process's peak memory so far, which must not grow.
"""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from ceilings import print_line
from ml_collections import ConfigDict
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from seqgan_jax.codecs.text import TextCodec
from seqgan_jax.data import pipeline, stores, text
from seqgan_jax.evaluation import ngrams, samples
from seqgan_jax.tasks import Tokens

SENTENCES = flags.DEFINE_integer("sentences", 10_000, "On either side.", lower_bound=1)
PATH = flags.DEFINE_string("path", None, "Sentences, one a line; twice as many at least.")
GIGABYTES = flags.DEFINE_list("gigabytes", [], "Sizes of corpora to index and read.")
BATCHES = 500


def sentences(count: int) -> list[tuple[str, ...]]:
    if PATH.value:
        found = samples.read(Path(PATH.value), "word")[:count]
        if len(found) < count:
            raise app.UsageError(f"--path: {len(found)} sentences, fewer than {count}")
        return found
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 18, count)
    return [tuple(f"w{word}" for word in rng.zipf(1.3, size) % 5000) for size in lengths]


def time_bleu():
    count = SENTENCES.value
    both = sentences(2 * count)
    ours, references = both[:count], both[count:]
    configuration = {"sentences": count, "of": PATH.value or "made ones"}
    for name, call in (
        ("bleu", lambda: ngrams.bleu(ours, references)),
        ("self_bleu", lambda: ngrams.self_bleu(ours)),
    ):
        began = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - began
        values = {key: round(figure.value, 4) for key, figure in found.items()}
        print_line(name, seconds, "s", **configuration, **values)
    began = time.perf_counter()
    for n in range(2, 6):
        weights = [1 / n] * n
        sentence_bleu(references, ours[0], weights, smoothing_function=SmoothingFunction().method1)
    one = time.perf_counter() - began
    print_line("bleu/nltk", one * count, "s", sentences=count, timed=1)


def write_corpus(path: Path, size: int) -> int:
    """Different lines of some 500 bytes in 12 long words; gives their number."""
    rng = np.random.default_rng(0)
    words = rng.zipf(1.3, (5000, 12)) % 5000
    block = [" ".join(f"{word:040}" for word in row) for row in words]
    lines = 0
    with open(path, "w") as file:
        while file.tell() < size:
            file.writelines(f"{lines + i} {line}\n" for i, line in enumerate(block))
            lines += len(block)
    return lines


def read_corpus(size: float):
    config = ConfigDict({"source": "path", "path": None, "field": None, "unicode": "NFC"})
    config.update({"too_long": "cut", "validation_share": 0.001, "test_share": 0.001})
    with tempfile.TemporaryDirectory() as folder:
        config.path = str(Path(folder) / "corpus.txt")
        lines = write_corpus(Path(config.path), int(size * 1e9))
        began = time.perf_counter()
        store = stores.open_store(config, Path(folder))
        codec = TextCodec.fit(
            text.training_texts(store, config), kind="word", max_size=10_000, min_count=2, seed=0
        )
        fitted = time.perf_counter()
        splits, _ = text.splits(store, codec, config, 24)
        indexed = time.perf_counter()
        batches = pipeline.training_batches(
            splits["train"],
            Tokens(codec.vocabulary),
            length=24,
            batch_size=64,
            seed=0,
            start=0,
            targets=1,
        )
        for _ in range(BATCHES):
            next(batches)
        read = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print_line(
            "corpus/peak_memory",
            peak,
            "MiB",
            gigabytes=size,
            lines=lines,
            vocabulary_s=round(fitted - began, 1),
            index_s=round(indexed - fitted, 1),
            sequences_per_second=round(64 * BATCHES / (read - indexed)),
        )


def main(_):
    for size in GIGABYTES.value:
        read_corpus(float(size))
    if not GIGABYTES.value:
        time_bleu()


if __name__ == "__main__":
    app.run(main)
