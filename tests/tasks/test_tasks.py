"""What tasks share: the texts of training examples, found by their numbers."""

import numpy as np
import pytest

from seqgan_jax.codecs.text import TextCodec
from seqgan_jax.tasks import Splits


class Examples:
    """Examples whose numbers are those of a larger data set, or not."""

    unlimited = False

    def __init__(self, numbers, encode):
        self.numbers, self.encode = numbers, encode

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, i):
        texts = (f"example {self.numbers[i]}", "another text")
        return {
            "source": np.full((2, 3), self.numbers[i], np.float32),
            "captions": tuple(map(self.encode, texts)),
            "example_id": self.numbers[i],
        }


NUMBERS = [list(range(8)), [70, 3, 0, 9, 1, 6, 2, 5]]
CODEC = TextCodec.fit(["example another text", " ".join(map(str, range(100)))], kind="word")


def task_of(numbers, encode):
    task = Splits()
    task.codec, task.length = CODEC, 4
    task.splits = {"train": Examples(numbers, encode)}
    return task


@pytest.mark.parametrize("numbers", NUMBERS)
def test_training_texts_are_those_of_the_batch(numbers):
    task = task_of(numbers, str)
    batch = next(task.training_batches(batch_size=5, targets=1, seed=0, start=0))
    references, sources = task.training_texts(batch["example_id"])
    assert references == [[f"example {i}", "another text"] for i in batch["example_id"]]
    for row, truths in zip(batch["target"], references, strict=True):
        assert CODEC.decode(row) in truths
    np.testing.assert_array_equal(np.stack(sources), batch["source"])


@pytest.mark.parametrize("numbers", NUMBERS)
def test_training_texts_of_tokens_are_decoded(numbers):
    wanted = [numbers[3], numbers[0], numbers[3]]
    references, _ = task_of(numbers, CODEC.encode).training_texts(np.array(wanted, np.int32))
    assert references == [[f"example {i}", "another text"] for i in wanted]
