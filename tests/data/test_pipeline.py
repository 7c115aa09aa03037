import collections
import time
from itertools import combinations, islice

import chex
import numpy as np
import pytest
from scipy import stats

from seqgan_jax.codecs.text import TextCodec
from seqgan_jax.data.pipeline import (
    WINDOW,
    bucket_sizes,
    caption_counts,
    evaluation_batches,
    permuted,
    source_batches,
    training_batches,
)
from seqgan_jax.errors import UserError


class Numbered:
    """Image i shows i everywhere and has i % 3 + 1 captions, "i c" in words."""

    def __init__(self, count, unlimited=False, tree=False):
        self.count = count
        self.unlimited = unlimited
        self.tree = tree

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        source = np.full((2, 2, 3), i, np.uint8)
        return {
            "source": {"grid": source, "more": (source[0], None)} if self.tree else source,
            "captions": tuple(f"{i} {'x' * (c + 1)}" for c in range(i % 3 + 1)),
            "example_id": 100 + i,
        }


CODEC = TextCodec.fit([" ".join(map(str, range(30))) + " x xx xxx"], kind="word")
SETTINGS = {"length": 4, "batch_size": 6, "seed": 7}


def pairs(batches):
    """(example_id, caption) of all rows that count."""
    return [
        (int(number), CODEC.decode(target))
        for batch in batches
        for number, target, weight in zip(
            batch["example_id"], batch["target"], batch["weight"], strict=True
        )
        if weight
    ]


def expected(count):
    source = Numbered(count)
    return [(100 + i, caption) for i in range(count) for caption in source[i]["captions"]]


def test_every_pair_once_an_epoch_across_batch_borders():
    everything = expected(13)
    assert len(everything) == caption_counts(Numbered(13)).sum() == 25
    rows = pairs(islice(training_batches(Numbered(13), CODEC, **SETTINGS), 25))
    epochs = [rows[25 * e : 25 * (e + 1)] for e in range(6)]
    assert all(sorted(epoch) == sorted(everything) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert everything not in epochs


def test_a_row_holds_its_image_and_tokens():
    for batch in islice(training_batches(Numbered(13), CODEC, **SETTINGS), 5):
        assert batch["source"].shape == (6, 2, 2, 3)
        assert batch["source_mask"] is None
        for row in range(6):
            number = batch["example_id"][row] - 100
            assert (batch["source"][row] == number).all()
            assert CODEC.decode(batch["target"][row]).split()[0] == str(number)
        chex.assert_trees_all_equal(batch["mask"], np.float32([[1, 1, 1, 0]] * 6))
        assert (batch["target"][:, 2] == 2).all()
        assert (batch["target"][:, 3] == 0).all()
        assert batch["weight"].tolist() == [1.0] * 6
        assert batch["target"].dtype == batch["example_id"].dtype == np.int32


@pytest.mark.parametrize("source", [Numbered(13), Numbered(13, tree=True), Numbered(50, True)])
def test_resumed_batches_equal_the_later_ones(source):
    fresh = list(islice(training_batches(source, CODEC, **SETTINGS), 14))
    for start in (1, 4, 9):
        resumed = list(islice(training_batches(source, CODEC, start=start, **SETTINGS), 5))
        chex.assert_trees_all_equal(resumed, fresh[start : start + 5])


@pytest.mark.parametrize("source", [Numbered(13), Numbered(50, True)])
@pytest.mark.parametrize("count", [2, 3])
def test_processes_blocks_make_the_batch(source, count):
    whole = islice(training_batches(source, CODEC, start=2, **SETTINGS), 6)
    blocks = [
        training_batches(source, CODEC, start=2, process_index=p, process_count=count, **SETTINGS)
        for p in range(count)
    ]
    for batch in whole:
        parts = [next(block) for block in blocks]
        joined = {
            name: batch[name] if batch[name] is None else np.concatenate([p[name] for p in parts])
            for name in batch
        }
        chex.assert_trees_all_equal(joined, batch)


def test_seeds_give_different_orders():
    orders = {
        tuple(pairs(islice(training_batches(Numbered(13), CODEC, **SETTINGS | {"seed": s}), 20)))
        for s in (0, 1, 2**40)
    }
    assert len(orders) == 3
    # No run is another one an epoch later.
    runs = [order[i : i + 25] for order in orders for i in (0, 25, 50)]
    assert len(set(runs)) == 9


def test_the_shuffle_is_uniform():
    # The place of each of 12 pairs over 600 epochs, chi-squared at a false-alarm rate of 1e-4.
    source = Numbered(6)
    rows = pairs(islice(training_batches(source, CODEC, length=3, batch_size=12, seed=0), 600))
    numbers = {pair: n for n, pair in enumerate(expected(6))}
    places = np.array([numbers[row] for row in rows]).reshape(600, 12)
    table = np.array([[(places[:, p] == n).sum() for p in range(12)] for n in range(12)])
    statistic = ((table - 50) ** 2 / 50).sum()
    assert statistic < stats.chi2.ppf(1 - 1e-4, 11 * 11)


def test_unlimited_examples_come_in_order_with_their_first_caption():
    rows = pairs(islice(training_batches(Numbered(30, True), CODEC, **SETTINGS), 5))
    assert rows == [(100 + i, f"{i} x") for i in range(30)]


def test_a_long_caption_is_cut_without_end():
    batch = next(training_batches(Numbered(13), CODEC, length=2, batch_size=4, seed=0))
    assert (batch["mask"] == 1).all()
    assert not (batch["target"] == 2).any()


@pytest.mark.parametrize(("limit", "count"), [(None, 10), (4, 4), (3, 3), (99, 10)])
def test_evaluation_goes_through_all_pairs_in_order(limit, count):
    batches = list(evaluation_batches(Numbered(10), CODEC, length=4, batch_size=4, limit=limit))
    assert pairs(batches) == expected(count)
    assert all(len(batch["weight"]) == len(batch["target"]) == 4 for batch in batches)
    last = batches[-1]
    real = int(last["weight"].sum())
    assert last["weight"].tolist() == [1.0] * real + [0.0] * (4 - real)
    assert (last["mask"].sum(1) > 0).all()


def test_sources_alone_in_order():
    batches = list(source_batches(Numbered(10, tree=True), batch_size=4, limit=7))
    assert [batch["example_id"].tolist() for batch in batches] == [
        [100, 101, 102, 103],
        [104, 105, 106, 106],
    ]
    assert batches[1]["weight"].tolist() == [1, 1, 1, 0]
    assert batches[0]["source"]["grid"].shape == (4, 2, 2, 3)
    assert batches[0]["source"]["more"][0].shape == (4, 2, 3)
    assert batches[0]["source"]["more"][1] is None
    assert "target" not in batches[0]


def test_bad_input_is_refused():
    with pytest.raises(
        UserError, match=r"config\.phases\.\*\.batch_size: 6 is more than the 3 examples"
    ):
        training_batches(Numbered(2), CODEC, **SETTINGS)
    with pytest.raises(UserError, match="empty"):
        training_batches(Numbered(0), CODEC, **SETTINGS)
    with pytest.raises(UserError, match="4 processes"):
        training_batches(Numbered(13), CODEC, process_count=4, **SETTINGS)
    with pytest.raises(UserError, match="no images"):
        next(evaluation_batches(Numbered(0), CODEC, length=4, batch_size=4))
    with pytest.raises(UserError, match="no images"):
        next(source_batches(Numbered(0), batch_size=4))


def test_several_captions_an_image_are_dealt_out_over_the_epochs():
    source = Numbered(3)  # with one, two and three captions
    taken = training_batches(source, CODEC, **SETTINGS | {"batch_size": 3}, targets=2)
    seen = collections.Counter()
    for batch in islice(taken, 3):  # an epoch each
        assert sorted(batch["example_id"]) == [100, 101, 102]
        assert batch["target"].shape == batch["mask"].shape == (6, 4)
        for row, number in enumerate(batch["example_id"]):
            texts = [CODEC.decode(ids) for ids in batch["target"][2 * row : 2 * row + 2]]
            assert set(texts) <= set(source[number - 100]["captions"])
            assert len(set(texts)) == min(2, number - 99)
            seen.update(texts)
    # Turned round by one every epoch, an image's captions come equally often in three epochs.
    assert [seen[text] for i in range(3) for text in source[i]["captions"]] == [6, 3, 3, 2, 2, 2]


def test_several_captions_of_unlimited_examples_are_the_first():
    source = Numbered(9, unlimited=True)
    batch = next(
        training_batches(source, CODEC, length=4, batch_size=1, seed=0, start=2, targets=2)
    )
    assert [CODEC.decode(ids) for ids in batch["target"]] == list(source[2]["captions"][:2])


# Buckets


class Lengthy:
    """Example i has a source of i % 7 + 1 tokens and a target of i % 5 words."""

    def __init__(self, count, unlimited=False, masked=True):
        self.count = count
        self.unlimited = unlimited
        self.masked = masked

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        tokens = (np.arange(7) < i % 7 + 1).astype(np.int32)
        mask = {"source_mask": tokens.astype(np.float32)} if self.masked else {}
        captions = ("x " * (i % 5),)
        return {"source": i * tokens, "captions": captions, "example_id": i} | mask


BUCKETS = {"length": 8, "batch_size": 6, "seed": 7, "buckets": (3, 5)}


@pytest.mark.parametrize("source", [Lengthy(100), Lengthy(10_000, unlimited=True)])
def test_batches_are_cut_to_the_smallest_bucket_that_holds_them(source):
    batches = list(islice(training_batches(source, CODEC, **BUCKETS), WINDOW))
    plain = list(islice(training_batches(source, CODEC, **BUCKETS | {"buckets": ()}), WINDOW))
    whole = {int(i): row for b in plain for i, row in zip(b["example_id"], rows(b), strict=True)}
    shapes = collections.Counter()
    for batch in batches:
        longest = max(batch["source_mask"].sum(1).max(), batch["mask"].sum(1).max())
        size = next((bucket for bucket in (3, 5) if longest <= bucket), None)
        assert batch["source"].shape == batch["source_mask"].shape == (6, size or 7)
        assert batch["target"].shape == batch["mask"].shape == (6, size or 8)
        shapes[size] += 1
        for number, row in zip(batch["example_id"], rows(batch), strict=True):
            for cut, uncut in zip(row, whole[int(number)], strict=True):
                assert (uncut[: len(cut)] == cut).all()
                assert not uncut[len(cut) :].any()
    assert set(shapes) == {3, 5, None}
    # The batches of a window don't come from short to long.
    assert [b["source"].shape for b in batches] != sorted(b["source"].shape for b in batches)
    # Every example of the window is there once, as without buckets.
    count = lambda found: collections.Counter(int(i) for b in found for i in b["example_id"])
    assert count(batches) == count(plain)


def rows(batch):
    return zip(*(batch[k] for k in ("source", "source_mask", "target", "mask")), strict=True)


def test_bucketed_batches_resume_and_are_shared_by_processes():
    fresh = list(islice(training_batches(Lengthy(100), CODEC, **BUCKETS), WINDOW + 9))
    resumed = training_batches(Lengthy(100), CODEC, **BUCKETS, start=WINDOW - 3)
    chex.assert_trees_all_equal(list(islice(resumed, 12)), fresh[WINDOW - 3 :])
    blocks = [
        training_batches(Lengthy(100), CODEC, process_index=p, process_count=3, **BUCKETS)
        for p in range(3)
    ]
    for batch in fresh[:20]:
        parts = [next(block) for block in blocks]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in batch}
        chex.assert_trees_all_equal(joined, batch)


def test_threads_read_no_window_twice():
    read = collections.Counter()

    class Slow(Lengthy):
        def __getitem__(self, i):
            read[i] += 1
            time.sleep(0.0005)
            return super().__getitem__(i)

    batches = training_batches(Slow(10_000, unlimited=True), CODEC, **BUCKETS)
    list(islice(batches, 3 * WINDOW))
    assert set(read.values()) == {1}


def test_sources_of_one_length_stay_whole():
    batches = islice(training_batches(Lengthy(100, masked=False), CODEC, **BUCKETS), WINDOW)
    shapes = {(b["source"].shape[1], b["target"].shape[1]) for b in batches}
    assert shapes == {(7, 3), (7, 5)}


def test_masks_of_sources_reach_evaluation():
    batch = next(source_batches(Lengthy(9), batch_size=4))
    assert batch["source_mask"].sum(1).tolist() == [1, 2, 3, 4]
    batch = next(evaluation_batches(Lengthy(9), CODEC, length=8, batch_size=4))
    assert batch["source_mask"].sum(1).tolist() == [1, 2, 3, 4]


def test_little_padding_is_left():
    """Lengths like those of sentence pairs: a gamma distribution, the sides apart by a tenth."""
    rng = np.random.default_rng(0)
    pairs = np.clip(rng.gamma(7, 2.1, (4096, 1)) * rng.normal(1, 0.1, (4096, 2)), 2, 39).astype(int)

    class Sentences(Lengthy):
        def __getitem__(self, i):
            mask = (np.arange(40) < pairs[i, 0]).astype(np.float32)
            captions = ("x " * (pairs[i, 1] - 1),)
            return {"source": mask, "source_mask": mask, "captions": captions, "example_id": i}

    settings = {"length": 40, "batch_size": 64, "seed": 0}
    padding = {}
    for buckets in ((), bucket_sizes(pairs.max(1), 8)):
        batches = training_batches(Sentences(4096), CODEC, **settings, buckets=buckets)
        real = full = 0
        for batch in islice(batches, WINDOW):
            for mask in (batch["mask"], batch["source_mask"]):
                real += mask.sum()
                full += mask.size
        padding[bool(buckets)] = 1 - real / full
    assert padding[True] < 0.15
    assert padding[False] > 0.6


def test_bucket_sizes_equal_exhaustive_search():
    rng = np.random.default_rng(0)
    for _ in range(100):
        lengths = rng.integers(1, 9, rng.integers(1, 12))
        count = int(rng.integers(1, 4))
        sizes = np.unique(lengths)
        cost = lambda buckets: sum(min(b for b in buckets if b >= x) for x in lengths)  # noqa: B023
        choices = combinations(sizes, min(count, len(sizes)))
        least = min(cost(choice) for choice in choices if choice[-1] == sizes[-1])
        found = bucket_sizes(lengths, count)
        assert cost(found) == least
        assert len(found) <= count
        assert list(found) == sorted(set(found))


class Single(Numbered):
    """Image i with the one caption "i"."""

    single = True

    def __getitem__(self, i):
        return {**super().__getitem__(i), "captions": (str(i),)}


def test_single_captions_come_once_an_epoch_in_an_order_of_their_own():
    rows = pairs(islice(training_batches(Single(13), CODEC, **SETTINGS), 13))
    epochs = [rows[13 * e : 13 * (e + 1)] for e in range(6)]
    everything = [(100 + i, str(i)) for i in range(13)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert everything not in epochs
    again = pairs(islice(training_batches(Single(13), CODEC, **SETTINGS, start=4), 2))
    assert again == rows[24:36]
    two = next(training_batches(Single(13), CODEC, **SETTINGS, targets=2))
    assert two["target"].shape == (12, 4)
    chex.assert_trees_all_equal(two["target"][::2], two["target"][1::2])


@pytest.mark.parametrize("count", [*range(1, 10), 64, 100, 1000])
def test_permuted_numbers_come_once_each(count):
    for key in (0, 1, 2**64 - 1):
        assert sorted(permuted(i, count, key) for i in range(count)) == list(range(count))


@pytest.mark.parametrize("count", [2, 5, 20])
def test_every_number_comes_at_every_place(count):
    """A chi-squared test of all pairs of places, over 2,000 keys; false alarm in 1 of 1,000."""
    seen = np.zeros((count, count))
    for key in np.random.default_rng(0).integers(0, 2**63, 2000).tolist():
        for i in range(count):
            seen[i, permuted(i, count, key)] += 1
    # Rows and columns add up to 2,000 each, which leaves (count - 1)^2 free.
    statistic = ((seen - 2000 / count) ** 2 / (2000 / count)).sum() * (count - 1) / count
    assert stats.chi2.sf(statistic, (count - 1) ** 2) > 1e-3
