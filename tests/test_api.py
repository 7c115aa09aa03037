"""A run opened from Python, held to a loop over the networks' own steps and to enumeration."""

import itertools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import seqgan_jax
from seqgan_jax.errors import UserError
from seqgan_jax.programs import generate as program
from seqgan_jax.training.steps import NOISE


@pytest.fixture(scope="module")
def captions(tiny_model):
    return tiny_model("captions")


@pytest.fixture(scope="module")
def oracle(tiny_model):
    return tiny_model("oracle")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.effect_noise((60, 50), 80).convert("RGB").save(path)
    return path


def slow_log_probs(model, batch, tokens, seed, index, allowed=True):
    """Each token's log-probability by one step after another, and where the generator looked."""
    steps = model.run.steps
    params, network = {"params": model.state.generator.params}, steps.generator
    key = jax.random.fold_in(jax.random.key(seed), NOISE)
    for number in (int(batch["example_id"][0]), index):
        key = jax.random.fold_in(key, number)
    z = jax.random.normal(key, (1, network.noise_size))
    source = (None, None) if batch["source"] is None else (batch["source"], batch["source_mask"])
    memory = network.apply(params, *source, train=False, method="encode")
    state = network.apply(params, memory, z, len(tokens), method="initial_state")
    last, log_probs, looked = steps.vocabulary.bos, [], []
    for token in tokens:
        (state, logits), kept = network.apply(
            params, memory, state, np.array([last]), method="step", mutable=["intermediates"]
        )
        logits = np.array(logits[0], np.float64)
        if allowed and steps.vocabulary.pad is not None:
            logits[[steps.vocabulary.pad, steps.vocabulary.bos]] = -np.inf
        log_probs.append(logits[token] - np.log(np.exp(logits).sum()))
        looked += [np.array(x[0]) for x in kept.get("intermediates", {}).get("attention", ())]
        last = token
    return np.array(log_probs), np.array(looked)


def test_importing_is_cheap():
    code = "import seqgan_jax, sys; print({'jax', 'flax', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
    assert {"load", "export"} <= set(dir(seqgan_jax))
    with pytest.raises(AttributeError, match="laod"):
        _ = seqgan_jax.laod


@pytest.mark.parametrize("how", [{}, {"rerank": 3}, {"reject": True}, {"beam_size": 2}])
def test_what_is_written_is_what_the_networks_say(captions, picture, how):
    assert captions.run.steps.generator.noise_size > 0
    (found,) = captions.generate(image=picture, num_samples=2, seed=5, attention=True, **how)
    _, batch = captions.task.request({"image": [picture]})
    assert found.name == str(picture)
    assert len(found.hypotheses) == 2
    assert (found.accepted is not None) == ("reject" in how)
    indices = [0, 0] if "beam_size" in how else found.sample.index.tolist()
    assert len(set(indices)) == 2 or "beam_size" in how
    for hypothesis, index in zip(found.hypotheses, indices, strict=True):
        allowed = "beam_size" not in how
        known, looked = slow_log_probs(captions, batch, hypothesis.tokens, 5, index, allowed)
        np.testing.assert_allclose(hypothesis.log_probs, known, rtol=1e-4)
        np.testing.assert_allclose(hypothesis.attention, looked, atol=1e-5)
        assert hypothesis.log_prob == pytest.approx(known.sum(), rel=1e-4)
        assert hypothesis.text == captions.task.codec.decode(hypothesis.tokens)
        eos = captions.task.codec.vocabulary.eos
        assert eos not in hypothesis.tokens[:-1]
        assert hypothesis.tokens[-1] == eos or len(hypothesis.tokens) == captions.task.length
    tokens = [hypothesis.tokens for hypothesis in found.hypotheses]
    for hypothesis, score in zip(
        found.hypotheses, captions.score(tokens, image=picture), strict=True
    ):
        assert score.score == pytest.approx(hypothesis.score, rel=1e-4)


def test_the_bound_of_given_texts(captions, picture):
    texts = ["a red circle", "a green square"]
    found = captions.score(texts, image=picture, num_noise=3, seed=2)
    _, batch = captions.task.request({"image": [picture]})
    for text, score in zip(texts, found, strict=True):
        tokens = captions.task.codec.encode(text)
        assert score.tokens.tolist() == tokens
        each = np.array([slow_log_probs(captions, batch, tokens, 2, k)[0] for k in range(3)])
        # Prefix by prefix: the mean of K products of probabilities.
        prefixes = [np.exp(each[:, :t].sum(1)).mean() for t in range(len(tokens) + 1)]
        np.testing.assert_allclose(score.log_probs, np.diff(np.log(prefixes)), rtol=1e-3)
        assert score.log_prob == pytest.approx(np.log(prefixes[-1]), rel=1e-4)


def test_probabilities_of_all_sequences_sum_to_one(oracle):
    every = list(itertools.product(range(9), repeat=2))
    found = oracle.score(every)
    assert sum(np.exp(score.log_prob) for score in found) == pytest.approx(1, abs=1e-4)
    # And what was drawn is as probable as it was said to be.
    (written,) = oracle.generate(num_samples=3, prefix="7 0")
    for hypothesis, score in zip(
        written.hypotheses, oracle.score([h.tokens for h in written.hypotheses]), strict=True
    ):
        assert hypothesis.tokens[:2].tolist() == [7, 0]
        np.testing.assert_allclose(score.log_probs, hypothesis.log_probs, rtol=1e-4)
        assert score.score == pytest.approx(hypothesis.score, rel=1e-4)


def test_one_source_for_each_sequence(captions, picture, tmp_path):
    other = tmp_path / "other.png"
    Image.new("RGB", (40, 40), "red").save(other)
    texts, pictures = ["a red circle", "a red circle"], [picture, other]
    first, second = captions.score(texts, image=pictures)
    assert first.score != second.score
    (alone,) = captions.score(texts[:1], image=picture)
    np.testing.assert_allclose(first.log_probs, alone.log_probs, rtol=1e-4)
    with pytest.raises(UserError, match="2 of them for 3 sources"):
        captions.score(texts, image=[*pictures, other])


def test_nothing_is_compiled_twice(oracle):
    oracle.generate(num_samples=3, prefix="7 0")
    counted = lambda: [s.write._cache_size() for s in oracle._steps.values()]
    before = counted()
    for seed in (1, 2):
        oracle.generate(num_samples=3, prefix="7 0", seed=seed)
    assert counted() == before
    (short,) = oracle.generate(num_samples=3, length=3)
    assert {len(h.tokens) for h in short.hypotheses} == {3}
    (whole,) = oracle.generate(num_samples=3)
    assert {len(h.tokens) for h in whole.hypotheses} == {4}


def test_the_program_prints_what_the_api_finds(captions, picture, monkeypatch, capsys):
    monkeypatch.setattr(program, "load", lambda *_, **__: captions)
    monkeypatch.setattr(program, "compilation_cache", lambda: None)
    options = {"image": [picture], "text": None, "seed": 5}
    how = {"num_samples": 2, "checkpoint": "last", "replica": None, "output": None}
    program.generate("run", options, form="json", **how)
    (row,) = json.loads(capsys.readouterr().out)
    (found,) = captions.generate(image=picture, num_samples=2, seed=5)
    assert [(c["caption"], c["log_prob"], c["score"]) for c in row["captions"]] == [
        (h.text, h.log_prob, h.score) for h in found.hypotheses
    ]


def test_mistakes_are_named(captions, oracle, picture, tmp_path):
    for model, words, arguments in (
        (captions, "--image: none given", {}),
        (captions, "--text: of no use", {"text": "a"}),
        (captions, "--temperature", {"image": picture, "temperature": 0}),
        (captions, "--top_p", {"image": picture, "top_p": 2}),
        (captions, "--rerank", {"image": picture, "beam_size": 2, "rerank": 2}),
        (captions, "--length=9", {"image": picture, "length": 9}),
        (oracle, "--num_samples", {"num_samples": 0}),
        (oracle, "--prefix=9", {"prefix": "9"}),
    ):
        with pytest.raises(UserError, match=words):
            model.generate(**arguments)
    for words, sequences in (
        ("number 2: has 5 tokens", [[1], [1] * 5]),
        ("number 1: .* among 0 to 8", [[9]]),
        ("number 1: .* among 0 to 8", [[-1]]),
        ("number 1: is not what", [[]]),
        ("number 1: is not what", [[[1]]]),
        ("number 1: is not what", ["1 2"]),
    ):
        with pytest.raises(UserError, match=words):
            oracle.score(sequences)
    with pytest.raises(UserError, match="--num_noise"):
        oracle.score([[1]], num_noise=0)
    with pytest.raises(UserError, match="its sequences are text"):
        oracle.save(tmp_path / "a.wav", [])
    with pytest.raises(UserError, match="no run here"):
        seqgan_jax.load(tmp_path)
    assert oracle.score([]) == []
