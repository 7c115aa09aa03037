"""Networks from configurations: every kind of discriminator, and what is refused."""

import runpy
from pathlib import Path

import pytest

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.models import build
from seqgan_jax.models.cnn_discriminator import CNNDiscriminator
from seqgan_jax.models.window_discriminator import WindowDiscriminator

ORACLE = Path(__file__).parents[2] / "configs" / "oracle.py"
VOCABULARY = Vocabulary(size=9, bos=0)


def oracle_config(variant):
    return runpy.run_path(str(ORACLE))["get_config"](variant)


def test_a_kind_takes_its_own_options_and_leaves_those_of_others():
    config = oracle_config("default")
    built = build.discriminator(config, VOCABULARY)
    assert isinstance(built, WindowDiscriminator)
    assert (built.width, built.members, built.vocabulary_size) == (3, 2, 9)
    config.discriminator.kind = "cnn"
    for name in config.phases.order:
        config.phases[name].generator.values = "rollout"
        config.phases[name].discriminator.per_step = 0.0
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
                ("phases.adversarial.generator.values", "dense"),
                ("phases.pretrain_discriminator.discriminator.per_step", 0.5),
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
    config.phases.pretrain_discriminator.generator.values = "dense"  # of no updates
    assert not build.discriminator(config, VOCABULARY).dense
