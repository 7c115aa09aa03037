"""External rewards: metrics against their libraries, values against slow loops, bad functions."""

import dataclasses
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sacrebleu
from pycocoevalcap.cider.cider_scorer import CiderScorer

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.captions import normalise
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.window_discriminator import WindowDiscriminator
from seqgan_jax.training import external, parallel
from seqgan_jax.training.phases import GeneratorUpdate, Phase
from seqgan_jax.training.steps import Steps

RNG = np.random.default_rng(0)
WORDS = ("a", "red", "green", "dog", "cat", "runs", "sits")
V, T, B = 7, 4, 16
VOCABULARY = Vocabulary(size=V, bos=1, pad=0, eos=2)


def sentences(count):
    return [" ".join(RNG.choice(WORDS, RNG.integers(1, 9))) for _ in range(count)]


REFERENCES = [sentences(RNG.integers(1, 4)) for _ in range(30)]


class Texts:
    """A task with sources; token i is the number i, and example i has the references i."""

    codec = SimpleNamespace(vocabulary=VOCABULARY)
    length = T
    tokenizer = "13a"

    def __init__(self, sources=True):
        self.splits = {"train": [{"example_id": 100 + i} for i in range(len(REFERENCES))]}
        self.source = np.zeros(1) if sources else None
        self.asked = []

    def template(self):
        return {"source": self.source}

    def decode(self, tokens):
        return " ".join(str(token) for token in tokens if token > 2)

    def training_texts(self, example_id):
        self.asked.append(example_id.tolist())
        return [REFERENCES[i - 100] for i in example_id], [f"source {i}" for i in example_id]


def test_bleu_splits_words_as_the_task_says():
    task = Texts()
    task.tokenizer = "char"
    found = external.load("bleu", task).function(["日本語"], [["日本人"]], None)
    wanted = sacrebleu.sentence_bleu("日本語", ["日本人"], tokenize="char").score / 100
    assert found == [wanted]
    assert wanted > 0.3


def test_bleu_is_sacrebleus():
    samples = [*sentences(28), "", REFERENCES[-1][0]]
    found = external.load("bleu", Texts()).function(samples, REFERENCES, None)
    wanted = [
        sacrebleu.sentence_bleu(sample, truths).score / 100
        for sample, truths in zip(samples, REFERENCES, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert 0 < np.mean(found[:28]) < 0.9
    assert found[-1] == pytest.approx(1.0)


def test_cider_is_pycocoevalcaps():
    samples = [*sentences(28), "", REFERENCES[-1][0]]
    found = external.load("cider", Texts()).function(samples, REFERENCES, None)
    scorer = CiderScorer()
    for sample, truths in zip(samples, REFERENCES, strict=True):
        scorer += " ".join(normalise(sample)), [" ".join(normalise(text)) for text in truths]
    np.testing.assert_allclose(found, scorer.compute_score()[1] / 10, atol=1e-9)
    assert found[-2] == 0 < np.mean(found)


def test_length_is_a_share_of_the_longest():
    found = external.load("length", Texts(sources=False)).function(
        ["", "3 4", "3 4 5 6"], None, None
    )
    np.testing.assert_allclose(found, [0, 0.5, 1])


def total(samples, references, sources):
    """The sum of a sample's numbers, and of its source's."""
    own = [sum(map(int, sample.split())) for sample in samples]
    if references is not None:
        own = [x + 0.001 * int(source.split()[1]) for x, source in zip(own, sources, strict=True)]
        assert all(truth in REFERENCES for truth in references)
    return np.array(own, np.float32)


def masks(lengths):
    return (np.arange(T) < np.asarray(lengths)[..., None]).astype(np.float32)


def test_values_are_means_over_completions():
    tokens, lengths = RNG.integers(3, V, (3, T)), np.array([4, 1, 3])
    completed = RNG.integers(3, V, (3, T - 1, 2, T))
    ends = RNG.integers(2, T + 1, (3, T - 1, 2))
    ids = np.array([100, 105, 103])
    task = Texts()
    reward = external.Reward("total", total, task)
    found = reward.values(tokens, masks(lengths), (completed, masks(ends)), ids)
    for i, length in enumerate(lengths):
        for t in range(T):
            if t >= length:
                assert found[i, t] == 0
            elif t == length - 1:
                wanted = tokens[i, :length].sum() + 0.001 * ids[i]
                assert found[i, t] == pytest.approx(wanted, rel=1e-6)
            else:
                wanted = [completed[i, t, n, : ends[i, t, n]].sum() for n in range(2)]
                assert found[i, t] == pytest.approx(np.mean(wanted) + 0.001 * ids[i], rel=1e-6)
    assert task.asked == [[100, 103, 105]]  # each source once
    whole = reward.values(tokens, masks(lengths), None, ids)
    wanted = [tokens[i, :n].sum() + 0.001 * ids[i] for i, n in enumerate(lengths)]
    np.testing.assert_allclose(whole, np.array(wanted)[:, None] * masks(lengths), rtol=1e-6)


def refuses_five(samples, references, sources):
    if any("5" in sample for sample in samples):
        raise LookupError("no fives")
    return np.zeros(len(samples))


def needs_one(samples, references, sources):
    if len(samples) > 1:
        raise ValueError("one by one")
    return np.zeros(len(samples))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (refuses_five, ["LookupError: no fives on the sample '6 5'"]),
        (needs_one, ["ValueError: one by one", "2 samples together, on none alone", "'3 4'"]),
        (lambda *_: np.zeros(3), ["must give float32 [2]", "not [3]"]),
        (lambda *_: np.zeros((2, 1)), ["must give float32 [2]", "not [2, 1]"]),
        (lambda *_: ["one", "two"], ["must give float32 [2]", "'one'"]),
        (lambda *_: None, ["must give float32 [2]"]),
        (lambda *_: [0.5, np.nan], ["finite", "nan for the sample '6 5'"]),
    ],
)
def test_bad_functions_are_named_with_the_sample(function, words):
    reward = external.Reward("my.module:score", function, Texts(sources=False))
    with pytest.raises(UserError) as refusal:
        reward(np.array([[3, 4, 2, 0], [6, 5, 2, 0]]), np.ones((2, T)), np.arange(2))
    for word in ["config.reward.function: my.module:score", *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blue", ["no reward 'blue'", "bleu, cider, length"]),
        ("bleu", ["bleu compares with", "no sources"]),
        ("cider", ["cider compares with", "no sources"]),
        ("no_such_module:score", ["can't be imported", "no_such_module"]),
        ("math:no_such_function", ["can't be imported", "no_such_function"]),
        ("math:pi", ["math:pi is no function"]),
    ],
)
def test_rewards_that_do_not_exist(name, words):
    path = list(sys.path)
    with pytest.raises(UserError) as refusal:
        external.load(name, Texts(sources=False))
    for word in words:
        assert word in str(refusal.value)
    assert sys.path == path


# In training


def phase(values, **options):
    given = {"steps": 100, "batch_size": B, "targets": 1, "evaluate_every": 100, "select": "nll"}
    constant = {"updates": 1, "batch_size": 0, "learning_rate": 0.05, "warmup": 0, "decay": 0.0}
    update = GeneratorUpdate(
        **constant, policy_gradient=1.0, estimator=values, num_rollouts=2, rollout_chunk=3,
        baseline="position" if values == "dense" else "prefix", **options,
    )  # fmt: skip
    return Phase("", generator=update, discriminator=None, transfer=False, **given)


def batch():
    return {
        "source": None,
        "source_mask": None,
        "target": np.full((B, T), 3, np.int32),
        "mask": np.ones((B, T), np.float32),
        "example_id": np.arange(B, dtype=np.int32),
        "weight": np.ones(B, np.float32),
    }


@pytest.fixture(scope="module")
def steps():
    sizes = {"vocabulary_size": V, "encoder": None, "embedding_size": 3, "hidden_size": 8}
    return Steps(
        LSTMGenerator(**sizes, num_layers=1, attention_size=0, output_size=0, noise_size=0),
        WindowDiscriminator(**sizes, width=2, members=1),
        VOCABULARY,
        T,
        clip=10.0,
        external=0.9,
    )


@pytest.fixture(scope="module")
def initial(steps):
    return jax.device_get(steps.init(0, batch()))


def on_device(state):
    return parallel.replicate(jax.tree.map(jnp.array, state), parallel.mesh())


def fours(samples, references, sources):
    """The share of the token 4, a user's taste."""
    assert references is None is sources
    return [sample.split().count("4") / T for sample in samples]


@pytest.mark.parametrize(("values", "updates"), [("dense", 40), ("rollout", 25)])
def test_a_users_reward_rises(steps, initial, values, updates):
    """From about a seventh of tokens to most of them; each half compiles once."""
    chosen, mesh = phase(values), parallel.mesh()
    reward = external.Reward("fours", fours, Texts(sources=False))
    state, seen = on_device(initial), []
    before = steps.draw._cache_size(), steps.train_step._cache_size()
    data = parallel.shard(batch(), mesh)
    for _ in range(updates):
        drawn = steps.draw(state, data, phase=chosen)
        shown = drawn.sample.tokens, drawn.sample.mask, drawn.completions, drawn.example_id
        tokens, mask, completions, ids = parallel.local_rows(shown, mesh)
        assert (completions is None) == (values == "dense")
        if completions:
            written, until = completions
            for t in range(T - 1):  # a completion begins with its prefix, if that goes on
                on = mask[:, t + 1] > 0
                begun = np.broadcast_to(
                    tokens[on, None, : t + 1], written[on, t][..., : t + 1].shape
                )
                np.testing.assert_array_equal(written[on, t][..., : t + 1], begun)
                assert (until[on, t].sum(-1) >= t + 2).all()
        found = reward.values(tokens, mask, completions, ids)
        state, metrics = steps.train_step(
            state, data, drawn, parallel.shard(found, mesh), phase=chosen, network="generator"
        )
        seen.append(float(np.mean(reward(tokens, mask, ids))))
        total = (found * mask).sum() / mask.sum()
        assert metrics["generator/external_reward"] == pytest.approx(total, rel=1e-4)
        own = (np.asarray(drawn.values) * mask).sum() / mask.sum()
        assert metrics["generator/reward"] == pytest.approx(0.1 * own + 0.9 * total, rel=1e-3)
    assert np.mean(seen[:3]) < 0.3
    assert np.mean(seen[-3:]) > 0.8
    assert steps.draw._cache_size() == before[0] + 1
    assert steps.train_step._cache_size() == before[1] + 1


def test_two_halves_with_the_discriminators_own_values_are_the_fused_step(steps, initial):
    """(1 - w) D + w D is D: the same samples, values, parameters and metrics."""
    chosen, data = phase("rollout"), batch()
    whole, metrics = steps.train_step(on_device(initial), data, phase=chosen, network="generator")
    state = on_device(initial)
    drawn = steps.draw(state, data, phase=chosen)
    parts, others = steps.train_step(
        state, data, drawn, drawn.values, phase=chosen, network="generator"
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, jax.device_get(whole), jax.device_get(parts))
    assert others.pop("generator/external_reward") == pytest.approx(metrics["generator/reward"])
    jax.tree.map(close, jax.device_get(metrics), jax.device_get(others))


def test_a_draw_leaves_the_state_as_it_was(steps, initial):
    state = on_device(initial)
    steps.draw(state, batch(), phase=phase("dense"))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), initial)


def test_phases_are_those_with_samples():
    chosen = phase("dense")
    assert chosen.uses_rewards
    update = dataclasses.replace(chosen.generator, policy_gradient=0.0, mle=1.0)
    assert not dataclasses.replace(chosen, generator=update).uses_rewards
    assert not dataclasses.replace(chosen, generator=None).uses_rewards
