"""Text by SeqGAN: any sequences, one a line.

python train.py --config=configs/text.py                sentences of Python's own documentation
python train.py --config=configs/text.py --config.data.path=FILE
python train.py --config=configs/text.py:smoke          every phase in seconds
python train.py --config=configs/text.py:cfg            expressions of a context-free grammar
python train.py --config=configs/text.py:image_coco --config.data.path=image_coco/train.txt
python train.py --config=configs/text.py:large --config.data.path=FILE

docs/your_own_data.md says what a file may hold.
"""

import ml_collections
from ml_collections import config_dict

from configs.captions import (
    add_common,
    calibrate,
    discriminator_update,
    generator_update,
    phase,
    pretrain_adversarial,
    ratio_discriminator,
    ratio_phases,
)


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant: default, smoke, cfg, image_coco or large."""
    config = ml_collections.ConfigDict()
    config.task = "text"
    config.variant = variant
    config.seed = 0
    config.optimize_programs = True
    config.clip = 5.0

    config.data = ml_collections.ConfigDict()
    config.data.source = "docstrings"
    config.data.path = config_dict.placeholder(str)
    config.data.field = config_dict.placeholder(str)
    config.data.unicode = "NFC"
    config.data.too_long = "drop"
    config.data.validation_share = 0.05
    config.data.test_share = 0.1
    config.data.seed = 0
    config.data.size = 20_000

    config.codec = ml_collections.ConfigDict()
    config.codec.kind = "word"
    config.codec.lowercase = True
    config.codec.max_size = 10_000
    config.codec.min_count = 2
    config.codec.max_length = 24

    config.encoder = ml_collections.ConfigDict()
    config.encoder.kind = "none"
    config.encoder.size = 128
    config.encoder.dropout = 0.3

    config.generator = ml_collections.ConfigDict()
    config.generator.embedding_size = 128
    config.generator.hidden_size = 192
    config.generator.num_layers = 3
    config.generator.attention_size = 64
    config.generator.output_size = 128
    config.generator.noise_size = 16
    config.generator.noise_slots = 8
    config.generator.noise_per_step = False
    config.generator.dropout = 0.4

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.kind = "lstm"
    config.discriminator.embedding_size = 64
    config.discriminator.hidden_size = 96
    config.discriminator.num_layers = 3
    config.discriminator.attention_size = 64
    config.discriminator.feature_size = 64
    config.discriminator.num_heads = 4
    config.discriminator.head_size = 16
    config.discriminator.dropout = 0.3

    config.phases = ml_collections.ConfigDict()
    config.phases.order = (
        "pretrain_generator",
        "pretrain_discriminator",
        "adversarial",
        "finetune",
        "calibrate",
    )
    config.phases.pretrain_generator = phase(
        steps=1500,
        evaluate_every=250,
        select="nll",
        generator=generator_update(learning_rate=3e-3, warmup=100, decay=1.0, mle=1.0),
    )
    judged = {"learning_rate": 1e-3, "warmup": 20, "mismatch": 0.0, "per_step": 0.5}
    # From the generator that finds held-out text most likely. Few updates: a discriminator that is
    # trained for long memorises the real sequences.
    config.phases.pretrain_discriminator = phase(
        steps=200,
        select="discriminator_accuracy",
        start_from="best",
        discriminator=discriminator_update(**judged),
    )
    rewarded = {
        "learning_rate": 1e-4,
        "warmup": 20,
        "policy_gradient": 1.0,
        "mle": 1.0,
        "reward": "log_ratio",
        "estimator": "dense",
        "baseline": "position",
    }
    config.phases.adversarial = phase(
        steps=200,
        evaluate_every=100,
        select="quality_diversity",
        generator=generator_update(**rewarded),
        discriminator=discriminator_update(**judged),
    )
    # From the best adversarial checkpoint, one network at a time.
    config.phases.finetune = phase(
        steps=40,
        select="quality_diversity",
        start_from="best",
        freeze="alternate",
        freeze_turn=20,
        generator=generator_update(**rewarded),
        discriminator=discriminator_update(**judged),
    )
    # Another phase that config.phases.order may name.
    config.phases.pretrain_adversarial = pretrain_adversarial(
        generator_update(
            **rewarded | {"learning_rate": 1e-3, "warmup": 100, "policy_gradient": 0.1}
        ),
        discriminator_update(**judged),
    )
    config.phases.calibrate = calibrate()

    add_common(
        config,
        validation_limit=1000,
        num_samples=1,
        num_pictures=8,
        temperatures=(0.7, 1.0, 1.3),
    )

    variants = {
        "default": lambda config: None,
        "smoke": _smoke,
        "cfg": _cfg,
        "image_coco": _image_coco,
        "large": _large,
    }
    if variant not in variants:
        raise ValueError(f"no variant '{variant}'; choose from {', '.join(variants)}")
    variants[variant](config)
    return config


def _smoke(config):
    """Every phase, one evaluation each, on networks too small to learn."""
    config.optimize_programs = False
    config.codec.max_length = 12
    for network in (config.generator, config.discriminator):
        network.embedding_size = 16
        network.hidden_size = 16
        network.attention_size = 8
    config.generator.output_size = 16
    config.generator.noise_size = 4
    config.discriminator.feature_size = 16
    config.discriminator.num_heads = 2
    config.discriminator.head_size = 8
    for name, steps in (
        ("pretrain_generator", 30),
        ("pretrain_discriminator", 10),
        ("adversarial", 10),
        ("finetune", 8),
        ("pretrain_adversarial", 8),
    ):
        config.phases[name].update(steps=steps, batch_size=16, evaluate_every=100)
    config.phases.finetune.freeze_turn = 4
    config.logging.every = 1
    config.logging.checkpoint_every = 8
    config.evaluation.validation_limit = 100
    config.evaluation.num_pictures = 4


def _cfg(config):
    """20,000 different arithmetic expressions, judged by their grammar too."""
    config.data.source = "cfg"
    config.codec.min_count = 1
    config.codec.max_length = 40
    config.generator.embedding_size = 32
    config.generator.hidden_size = 128
    config.generator.dropout = 0.1
    config.discriminator.embedding_size = 32


def _image_coco(config):
    """The 10,000 captions that text GANs are compared on (Zhu et al., 2018, arXiv:1802.01886)."""
    config.data.source = "path"
    config.data.too_long = "cut"
    config.codec.min_count = 1
    config.codec.max_length = 24  # 1 in 200 captions is longer
    # As the oracle's sequences, which are as many: see docs/oracle.md.
    config.generator.update(hidden_size=128, noise_size=0, dropout=0.5)
    config.discriminator = ratio_discriminator()
    config.phases = ratio_phases(epoch=132)


def _large(config):
    """Millions of lines on a GPU or TPU."""
    config.data.source = "path"
    config.data.too_long = "split"
    config.data.validation_share = 0.005
    config.data.test_share = 0.005
    config.codec.kind = "sentencepiece"
    config.codec.lowercase = False
    config.codec.max_size = 16_000
    config.codec.max_length = 64
    for network in (config.generator, config.discriminator):
        network.embedding_size = 512
        network.hidden_size = 1024
        network.attention_size = 256
        network.dropout = 0.1
    config.generator.output_size = 1024
    config.generator.noise_size = 64
    config.discriminator.feature_size = 512
    config.discriminator.num_heads = 8
    config.discriminator.head_size = 64
    config.phases.pretrain_generator.update(batch_size=512, steps=50_000, evaluate_every=2000)
    config.phases.pretrain_generator.generator.update(learning_rate=1e-3, warmup=2000)
    config.phases.pretrain_discriminator.update(batch_size=512, steps=2000)
    config.phases.adversarial.update(batch_size=256, steps=10_000, evaluate_every=1000)
    config.phases.finetune.update(batch_size=256, steps=2000, freeze_turn=500, evaluate_every=500)
    config.logging.every = 100
    config.logging.checkpoint_every = 1000
    config.evaluation.validation_limit = 5000
