"""Translation by SeqGAN.

python train.py --config=configs/translation.py              generated phrases, English to German
python train.py --config=configs/translation.py:smoke        every phase in seconds
python train.py --config=configs/translation.py:multi30k --config.data.path=FOLDER
python train.py --config=configs/translation.py:transformer --config.data.path=FOLDER
python train.py --config=configs/translation.py:dual --config.data.path=FOLDER
python train.py --config=configs/translation.py:large --config.data.path=FOLDER

FOLDER holds train.de and train.en, line n of one the translation of line n of the other; see
docs/translation.md for others.
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
)


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant: default, smoke, multi30k, transformer, dual or large."""
    config = ml_collections.ConfigDict()
    config.task = "translation"
    config.variant = variant
    config.seed = 0
    config.optimize_programs = True
    config.clip = 5.0

    config.data = ml_collections.ConfigDict()
    config.data.source = "phrases"
    config.data.path = config_dict.placeholder(str)
    config.data.source_language = "en"
    config.data.target_language = "de"
    config.data.seed = 0
    config.data.validation_size = 1000
    config.data.test_size = 1000
    config.data.max_ratio = 3.0
    config.data.aligned = 1.0
    config.data.source_texts = config_dict.placeholder(str)
    config.data.target_texts = config_dict.placeholder(str)
    config.data.num_buckets = 10

    config.codec = ml_collections.ConfigDict()
    config.codec.kind = "sentencepiece"
    config.codec.shared = True
    config.codec.lowercase = False
    config.codec.max_size = 300
    config.codec.min_count = 1
    config.codec.max_length = 28
    config.codec.max_source_length = 30

    config.encoder = ml_collections.ConfigDict()
    config.encoder.kind = "bilstm"
    config.encoder.embedding_size = 64
    config.encoder.size = 128
    config.encoder.num_layers = 1
    config.encoder.dropout = 0.0

    config.generator = ml_collections.ConfigDict()
    config.generator.kind = "lstm"
    config.generator.embedding_size = 64
    config.generator.hidden_size = 128
    config.generator.num_layers = 3
    config.generator.attention = "additive"
    config.generator.attend_after = 0
    config.generator.attention_size = 128
    config.generator.output_size = 128
    config.generator.noise_size = 8
    config.generator.dropout = 0.0

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.kind = "lstm"
    config.discriminator.embedding_size = 64
    config.discriminator.hidden_size = 128
    config.discriminator.num_layers = 3
    config.discriminator.attention_size = 128
    config.discriminator.feature_size = 128
    config.discriminator.num_heads = 4
    config.discriminator.head_size = 32
    config.discriminator.dropout = 0.0
    config.discriminator.likelihood = True

    config.phases = ml_collections.ConfigDict()
    config.phases.order = (
        "align",
        "pretrain_generator",
        "pretrain_discriminator",
        "adversarial",
        "finetune",
        "calibrate",
    )
    # A translator without noise; then one with noise that is no worse.
    config.phases.align = phase(
        steps=2000,
        batch_size=64,
        evaluate_every=1000,
        select="nll",
        noise=False,
        reverse=False,
        generator=generator_update(
            optimizer="muon", learning_rate=2e-3, warmup=200, decay=1.0, mle=1.0
        ),
    )
    config.phases.pretrain_generator = phase(
        steps=1000,
        batch_size=64,
        evaluate_every=250,
        select="nll",
        start_from="best",
        generator=generator_update(learning_rate=5e-4, warmup=100, decay=1.0, mle=1.0),
    )
    config.phases.pretrain_generator.stop.regain = True
    config.phases.pretrain_discriminator = phase(
        steps=100,
        batch_size=32,
        select="discriminator_accuracy",
        transfer=True,
        discriminator=discriminator_update(learning_rate=1e-3, warmup=50, decay=0.5),
    )
    adversarial = {"learning_rate": 1e-4, "warmup": 20, "policy_gradient": 1.0, "mle": 1.0}
    config.phases.adversarial = phase(
        steps=60,
        batch_size=32,
        select="quality_diversity",
        generator=generator_update(**adversarial),
        discriminator=discriminator_update(learning_rate=3e-4),
    )
    # From the best adversarial checkpoint, one network at a time.
    config.phases.finetune = phase(
        steps=20,
        batch_size=32,
        select="quality_diversity",
        start_from="best",
        freeze="alternate",
        freeze_turn=10,
        generator=generator_update(**adversarial),
        discriminator=discriminator_update(learning_rate=3e-4),
    )
    # Other phases that config.phases.order may name; the first after an align with reverse=True.
    config.phases.dual = phase(
        steps=1800,
        batch_size=64,
        evaluate_every=600,
        select="quality_diversity",
        noise=False,
        start_from="best",
        reverse=True,
        generator=generator_update(
            optimizer="muon",
            learning_rate=1e-3,
            warmup=100,
            decay=1.0,
            mle=1.0,
            consistency=1.0,
        ),
    )
    config.phases.pretrain_adversarial = pretrain_adversarial(
        generator_update(
            **adversarial | {"learning_rate": 1e-3, "warmup": 100, "policy_gradient": 0.1}
        ),
        discriminator_update(learning_rate=3e-4, warmup=100),
        batch_size=32,
    )
    config.phases.calibrate = calibrate()

    add_common(
        config,
        validation_limit=500,
        num_samples=1,
        num_pictures=12,
    )

    variants = {
        "smoke": _smoke,
        "multi30k": _multi30k,
        "transformer": _transformer,
        "dual": _dual,
        "large": _large,
    }
    if variant in variants:
        variants[variant](config)
    elif variant != "default":
        raise ValueError(f"no variant '{variant}'; choose from default, {', '.join(variants)}")
    return config


def _smoke(config):
    """Every phase, one evaluation each, on networks too small to learn."""
    config.optimize_programs = False
    config.data.validation_size = 64
    config.data.test_size = 64
    config.data.num_buckets = 2
    config.encoder.embedding_size = 16
    config.encoder.size = 16
    for network in (config.generator, config.discriminator):
        network.embedding_size = 16
        network.hidden_size = 16
        network.attention_size = 8
    config.generator.num_layers = 1
    config.discriminator.num_layers = 1
    config.generator.output_size = 16
    config.generator.noise_size = 4
    config.discriminator.feature_size = 16
    config.discriminator.num_heads = 2
    config.discriminator.head_size = 8
    for name, steps in (
        ("align", 20),
        ("pretrain_generator", 10),
        ("pretrain_discriminator", 10),
        ("adversarial", 10),
        ("finetune", 8),
        ("dual", 8),
        ("pretrain_adversarial", 8),
    ):
        config.phases[name].update(steps=steps, batch_size=16, evaluate_every=1000)
    config.phases.finetune.freeze_turn = 4
    config.logging.every = 1
    config.logging.checkpoint_every = 8
    config.evaluation.batch_size = 16
    config.evaluation.validation_limit = 32
    config.evaluation.num_pictures = 4


def _multi30k(config):
    """Tens of thousands of short sentences, German to English."""
    config.data.source = "path"
    config.data.source_language = "de"
    config.data.target_language = "en"
    config.codec.max_size = 8000
    config.codec.max_length = 40
    config.codec.max_source_length = 40
    config.encoder.update(embedding_size=256, size=256, dropout=0.3)
    for network in (config.generator, config.discriminator):
        network.embedding_size = 256
        network.hidden_size = 256
        network.attention_size = 256
        network.dropout = 0.3
    config.generator.update(attention="multiplicative", attend_after=1)
    config.generator.output_size = 256
    config.generator.noise_size = 16
    config.discriminator.feature_size = 256
    config.discriminator.head_size = 64
    config.phases.align.update(steps=1800, evaluate_every=600)
    config.phases.align.generator.update(warmup=300)
    config.phases.pretrain_generator.update(steps=1500)
    config.phases.pretrain_discriminator.update(steps=300)
    # A tenth the discriminator's, the rest BLEU of the sentence (Yang et al., 2018,
    # arXiv:1703.04887), of whole translations against the others of their source.
    config.reward.update(function="bleu", weight=0.9)
    for name in ("adversarial", "finetune"):
        config.phases[name].generator.update(
            estimator="terminal", baseline="group", group_size=4, normalise="batch", mle=0.2
        )
    config.phases.adversarial.update(steps=400, evaluate_every=200)
    config.phases.adversarial.generator.update(updates=9, learning_rate=3e-4, decay=1.0)
    config.evaluation.validation_limit = 1000


def _transformer(config):
    """The same with a Transformer for encoder and generator."""
    _multi30k(config)
    config.encoder = ml_collections.ConfigDict()
    config.encoder.kind = "transformer"
    config.encoder.size = 256
    config.encoder.hidden_size = 1024
    config.encoder.num_layers = 3
    config.encoder.num_heads = 4
    config.encoder.dropout = 0.3
    config.generator = ml_collections.ConfigDict()
    config.generator.kind = "transformer"
    config.generator.embedding_size = 256
    config.generator.hidden_size = 1024
    config.generator.num_layers = 3
    config.generator.num_heads = 4
    config.generator.noise_size = 16
    config.generator.dropout = 0.3
    # The discriminator's LSTM can't start with a Transformer's layers: its source encoder does.
    config.discriminator.likelihood = False
    config.phases.align.update(steps=2500, evaluate_every=625)
    config.phases.pretrain_generator.generator.update(learning_rate=1e-4)


def _dual(config):
    """A tenth of the pairs, and the others' texts as if nobody had translated them."""
    _multi30k(config)
    config.data.aligned = 0.1
    # Few pairs: smaller networks and fewer pieces.
    config.codec.max_size = 4000
    config.encoder.update(embedding_size=128, size=128)
    for network in (config.generator, config.discriminator):
        network.update(embedding_size=128, hidden_size=128, attention_size=128)
    config.generator.update(attention="additive", attend_after=0, output_size=128)
    config.phases.align.generator.update(warmup=100)
    # Both directions from the pairs, and then from what they make of texts without a translation.
    config.phases.align.update(
        steps=2500, evaluate_every=1250, select="quality_diversity", reverse=True
    )
    config.phases.order = ("align", "dual", *config.phases.order[1:])


def _large(config):
    """Millions of sentences on a GPU or TPU."""
    _multi30k(config)
    config.data.validation_size = 3000
    config.data.test_size = 3000
    config.codec.max_size = 32_000
    config.codec.max_length = 100
    config.codec.max_source_length = 100
    config.encoder.update(embedding_size=512, size=1024, num_layers=2, dropout=0.2)
    for network in (config.generator, config.discriminator):
        network.embedding_size = 512
        network.hidden_size = 1024
        network.attention_size = 512
        network.dropout = 0.2
    config.generator.output_size = 1024
    config.generator.noise_size = 64
    config.discriminator.feature_size = 512
    config.discriminator.num_heads = 8
    config.phases.align.update(batch_size=512, steps=50_000, evaluate_every=2000)
    config.phases.align.generator.update(optimizer="adam", learning_rate=5e-4, warmup=4000)
    config.phases.pretrain_generator.update(batch_size=512, steps=5000, evaluate_every=1000)
    config.phases.pretrain_generator.generator.update(learning_rate=1e-4)
    config.phases.pretrain_discriminator.update(batch_size=512, steps=5000)
    config.phases.adversarial.update(batch_size=256, steps=10_000, evaluate_every=1000)
    config.phases.adversarial.generator.learning_rate = 1e-4
    config.phases.finetune.update(batch_size=256, steps=2000, freeze_turn=500, evaluate_every=500)
    config.logging.every = 100
    config.logging.checkpoint_every = 1000
