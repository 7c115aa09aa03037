"""Networks from configurations: every kind of discriminator, and what is refused."""

import runpy
from pathlib import Path

import ml_collections
import numpy as np
import pytest

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.models import build
from seqgan_jax.models.cnn_discriminator import CNNDiscriminator
from seqgan_jax.models.encoders import BiLSTMEncoder, TransformerEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.ratio_discriminator import RatioDiscriminator
from seqgan_jax.models.transformer import TransformerGenerator
from seqgan_jax.models.window_discriminator import WindowDiscriminator

ORACLE = Path(__file__).parents[2] / "configs" / "oracle.py"
VOCABULARY = Vocabulary(size=9, bos=0)


def oracle_config(variant):
    return runpy.run_path(str(ORACLE))["get_config"](variant)


def test_a_kind_takes_its_own_options_and_leaves_those_of_others():
    config = oracle_config("default")
    built = build.discriminator(config, VOCABULARY)
    assert isinstance(built, RatioDiscriminator)
    assert (built.num_layers, built.members, built.vocabulary_size) == (1, 3, 9)
    assert built.opponent == build.generator(config, VOCABULARY)
    for name in config.phases.order:
        config.phases[name].generator.estimator = "dense"
        config.phases[name].discriminator.mle = 0.0
    config.discriminator.kind = "window"
    built = build.discriminator(config, VOCABULARY)
    assert isinstance(built, WindowDiscriminator)
    assert (built.hidden_size, built.members) == (128, 3)
    for name in config.phases.order:
        config.phases[name].generator.estimator = "rollout"
        config.phases[name].discriminator.per_step = 0.0
    config.discriminator.kind = "cnn"
    built = build.discriminator(config, VOCABULARY)
    assert isinstance(built, CNNDiscriminator)
    assert built.dropout == config.discriminator.dropout


@pytest.mark.parametrize(
    ("option", "value", "begin"),
    [
        ("discriminator.kind", "judge", "config.discriminator.kind: no discriminator 'judge'"),
        *(
            (option, value, f"config.{option}: the cnn discriminator judges whole sequences alone")
            for option, value in (
                ("phases.adversarial.generator.estimator", "dense"),
                ("phases.pretrain_discriminator.discriminator.per_step", 0.5),
            )
        ),
        *(
            (option, value, f"config.{option}: the cnn discriminator has no language models; set")
            for option, value in (
                ("phases.adversarial.generator.estimator", "actions"),
                ("phases.pretrain_discriminator.discriminator.mle", 1.0),
            )
        ),
    ],
)
def test_refuses_by_name(option, value, begin):
    config = oracle_config("paper")
    config.update_from_flattened_dict({option: value})
    with pytest.raises(UserError) as caught:
        build.discriminator(config, VOCABULARY)
    assert str(caught.value).startswith(begin)


def test_dense_scores_are_not_asked_for_where_a_network_rests():
    config = oracle_config("paper")
    config.phases.pretrain_discriminator.generator.estimator = "dense"  # of no updates
    assert not build.discriminator(config, VOCABULARY).dense


GENERATOR = {
    "embedding_size": 8,
    "hidden_size": 12,
    "num_layers": 2,
    "attention_size": 5,  # of the LSTM
    "output_size": 6,  # of the LSTM
    "noise_size": 3,
    "dropout": 0.1,
    "num_heads": 2,  # of the Transformer
    "positions": "rotary",
    "max_length": 0,
    "tied": False,
}
ENCODER = {
    "kind": "transformer",
    "size": 8,
    "hidden_size": 12,
    "num_layers": 1,
    "num_heads": 2,
    "positions": "rotary",
    "max_length": 0,
    "embedding_size": 4,  # of the LSTM
    "dropout": 0.2,
}
DISCRIMINATOR = {
    "kind": "lstm",
    "embedding_size": 4,
    "hidden_size": 4,
    "num_layers": 1,
    "attention_size": 4,
    "feature_size": 4,
    "num_heads": 1,
    "head_size": 2,
    "likelihood": False,
}
TOKENS = np.zeros((2, 5), np.int32)


def translator(**changes):
    config = ml_collections.ConfigDict(
        {
            "generator": {"kind": "transformer"} | GENERATOR,
            "encoder": ENCODER,
            "discriminator": DISCRIMINATOR,
            "phases": {"order": ()},
        }
    )
    config.update_from_flattened_dict(changes)
    return config


def test_generators_and_encoders_take_their_own_options():
    config = translator()
    built = build.generator(config, VOCABULARY, 11)
    assert isinstance(built, TransformerGenerator)
    assert (built.num_heads, built.tied, built.noise_size, built.dropout) == (2, False, 3, 0.1)
    assert isinstance(built.encoder, TransformerEncoder)
    assert (built.encoder.vocabulary_size, built.encoder.dropout) == (11, 0.2)
    config.generator.kind, config.encoder.kind = "lstm", "bilstm"
    built = build.generator(config, VOCABULARY, 11)
    assert isinstance(built, LSTMGenerator)
    assert (built.output_size, built.dropout) == (6, 0.1)
    assert isinstance(built.encoder, BiLSTMEncoder)
    assert (built.encoder.vocabulary_size, built.encoder.embedding_size) == (11, 4)
    assert isinstance(build.discriminator(config, VOCABULARY, 11).encoder, BiLSTMEncoder)
    del config.generator.kind
    assert isinstance(build.generator(config, VOCABULARY, 11), LSTMGenerator)


@pytest.mark.parametrize(
    ("variant", "network", "kind", "words"),
    [
        ("default", "encoder", "transformer", "hidden_size"),
        ("transformer", "encoder", "bilstm", "embedding_size"),
        ("transformer", "generator", "lstm", "attention_size, output_size"),
    ],
)
def test_a_kind_whose_options_a_configuration_lacks(variant, network, kind, words):
    config = runpy.run_path(str(ORACLE.with_name("translation.py")))["get_config"](variant)
    config[network].kind = kind
    with pytest.raises(UserError, match=rf"^config\.{network}\.kind: '{kind}' needs {words} too"):
        build.generator(config, VOCABULARY, 9)


def test_both_networks_read_the_source_alike():
    config = translator(**{"generator.kind": "lstm", "encoder.kind": "bilstm"})
    for kind, after in (("additive", 0), ("multiplicative", 1)):
        config.generator.attention, config.generator.attend_after = kind, after
        for make in (build.generator, build.discriminator):
            built = make(config, VOCABULARY, 11)
            assert (built.attention, built.attend_after) == (kind, after)
    config.generator.attend_after = -1
    with pytest.raises(UserError, match=r"config.generator.attend_after: -1 is negative"):
        build.generator(config, VOCABULARY, 11)
    config.generator.attend_after, config.generator.attention = 0, "soft"
    with pytest.raises(UserError, match="no attention 'soft'; choose from additive"):
        build.generator(config, VOCABULARY, 11)


@pytest.mark.parametrize(
    ("changes", "begin"),
    [
        ({"generator.kind": "gru"}, "config.generator.kind: no generator 'gru'; choose from lstm,"),
        ({"generator.positions": "sine"}, "config.generator.positions: no positions 'sine'"),
        ({"generator.positions": "learned"}, "config.generator.max_length:"),
        ({"generator.num_heads": 3}, "config.generator.embedding_size: 8 doesn't divide into 3"),
        ({"generator.num_heads": 8}, "config.generator.embedding_size: 8 doesn't divide into 8"),
        ({"generator.num_heads": 0}, "config.generator.num_heads: 0 is too small"),
        ({"generator.num_layers": 0}, "config.generator.num_layers: 0 is too small"),
        ({"encoder.hidden_size": 0}, "config.encoder.hidden_size: 0 is too small"),
        ({"encoder.size": 9}, "config.encoder.size: 9 doesn't divide into 2"),
        ({"encoder.positions": "none"}, "config.encoder.positions: no positions 'none'"),
        ({"discriminator.likelihood": True}, "config.discriminator.likelihood:"),
    ],
)
def test_refuses_what_makes_no_transformer(changes, begin):
    config = translator(**changes)
    judges = any(option.startswith("discriminator") for option in changes)
    with pytest.raises(UserError) as caught:
        (build.discriminator if judges else build.generator)(config, VOCABULARY, 11)
    assert str(caught.value).startswith(begin)
    assert "\n" not in str(caught.value)


def test_learned_positions_need_no_pairs():
    config = translator(
        **{"generator.positions": "learned", "generator.max_length": 4, "generator.num_heads": 8}
    )
    assert build.generator(config, VOCABULARY, 11).num_heads == 8


@pytest.mark.parametrize("kind", ["bilstm", "transformer"])
def test_readers_of_tokens_need_tokens(kind):
    config = translator(**{"encoder.kind": kind})
    build.check_encoder(config.encoder, TOKENS)
    for source in (TOKENS.astype(np.float32), TOKENS[:, :, None], np.zeros((2, 8, 8, 3), np.uint8)):
        with pytest.raises(UserError, match=f"config.encoder.kind: '{kind}' can't read sources"):
            build.check_encoder(config.encoder, source)
    with pytest.raises(UserError, match=f"config.encoder.kind: .* no sources for '{kind}'"):
        build.check_encoder(config.encoder, None)
    for make in (build.generator, build.discriminator):
        with pytest.raises(UserError, match=f"config.encoder.kind: '{kind}' reads tokens"):
            make(config, VOCABULARY)


@pytest.mark.parametrize(
    ("changes", "begin"),
    [
        (
            {"encoder.kind": "features"},
            "config.encoder.kind: 'features' can't read sources of shape (5,) and type int32; "
            "set it to bilstm or transformer",
        ),
        (
            {"encoder.kind": "bilstm", "encoder.size": 7},
            "config.encoder.size: 7 can't be halved between both directions",
        ),
        ({"encoder.kind": "sum"}, "config.encoder.kind: no encoder 'sum'; choose from none,"),
        ({"encoder.size": 0}, "config.encoder.size: 0 is too small"),
    ],
)
def test_refuses_encoders_for_tokens(changes, begin):
    with pytest.raises(UserError) as caught:
        build.check_encoder(translator(**changes).encoder, TOKENS)
    assert str(caught.value).startswith(begin)
