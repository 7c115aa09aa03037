"""Speech by SeqGAN: text in, a waveform out.

python train.py --config=configs/speech.py              spoken digits, made by eSpeak NG
python train.py --config=configs/speech.py:smoke        every phase in seconds
python train.py --config=configs/speech.py:long         the same as the first, for an hour
python train.py --config=configs/speech.py:fsdd --config.data.path=FOLDER
python train.py --config=configs/speech.py:ljspeech --config.data.path=FOLDER

All of them need pip install '.[speech]'; docs/speech.md says what FOLDER holds.
"""

import ml_collections
from ml_collections import config_dict

from configs.captions import (
    add_common,
    align,
    calibrate,
    discriminator_update,
    generator_update,
    phase,
    pretrain_adversarial,
)


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant: default, smoke, long, fsdd or ljspeech."""
    config = ml_collections.ConfigDict()
    config.task = "speech"
    config.variant = variant
    config.seed = 0
    config.optimize_programs = True
    config.clip = 5.0

    config.data = ml_collections.ConfigDict()
    config.data.source = "espeak"
    config.data.path = config_dict.placeholder(str)
    config.data.seed = 0
    config.data.sample_rate = 16_000
    config.data.trim_db = 40.0
    config.data.language = "en-us"
    config.data.voices = ("m3", "f2")
    config.data.rates = (140, 180)
    config.data.pitches = (40, 60)
    config.data.phrases = "digits"
    config.data.digits = (1, 3)
    config.data.text = "characters"
    config.data.train_size = 4000
    config.data.validation_size = 200
    config.data.test_size = 400
    config.data.max_seconds = 10.0
    config.data.num_buckets = 4

    config.codec = ml_collections.ConfigDict()
    config.codec.quantiser = "kmeans"
    config.codec.size = 256
    config.codec.levels = 1
    config.codec.group = 4
    config.codec.hop = 256
    config.codec.window = 1024
    config.codec.bands = 64
    config.codec.fmin = 50.0
    config.codec.fmax = 7600.0
    config.codec.floor_db = -80.0
    config.codec.fitted = 1000
    config.codec.steps = 3000
    config.codec.lowercase = True
    config.codec.max_length = 26
    config.codec.max_source_length = 24

    # What names words in recordings, to judge by. It learns from other voices.
    config.recogniser = ml_collections.ConfigDict()
    config.recogniser.voices = ("m1", "m2", "m7", "f3", "f4", "steph")
    config.recogniser.size = 1500
    config.recogniser.steps = 600
    config.recogniser.seed = 0
    config.recogniser.max_words = 64

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
    config.generator.attention_size = 64
    config.generator.output_size = 128
    config.generator.noise_size = 8
    config.generator.dropout = 0.0

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.kind = "lstm"
    config.discriminator.embedding_size = 64
    config.discriminator.hidden_size = 128
    config.discriminator.num_layers = 3
    config.discriminator.attention_size = 64
    config.discriminator.feature_size = 128
    config.discriminator.num_heads = 4
    config.discriminator.head_size = 32
    config.discriminator.dropout = 0.0
    config.discriminator.likelihood = True

    config.phases = ml_collections.ConfigDict()
    config.phases.order = (
        "pretrain_generator",
        "pretrain_discriminator",
        "adversarial",
        "finetune",
        "calibrate",
    )
    # Attention is guided along the text until it goes there by itself.
    guided = {"mle": 1.0, "guided_attention": 1.0}
    config.phases.pretrain_generator = phase(
        steps=3500,
        batch_size=64,
        evaluate_every=700,
        select="nll",
        generator=generator_update(learning_rate=3e-3, warmup=200, decay=1.0, **guided),
    )
    config.phases.pretrain_discriminator = phase(
        steps=100,
        batch_size=32,
        select="discriminator_accuracy",
        # A few thousand recordings can be learnt by heart.
        start_from="best",
        transfer=True,
        discriminator=discriminator_update(learning_rate=1e-3, warmup=50, decay=0.5),
    )
    # Completions of every second prefix: a code is 64 ms.
    adversarial = guided | {"learning_rate": 1e-4, "warmup": 20, "policy_gradient": 1.0}
    adversarial["rollout_every"] = 2
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
    # Another phase that config.phases.order may name.
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
        validation_limit=200,
        num_samples=1,
        num_pictures=6,
    )

    variants = {"smoke": _smoke, "long": _long, "fsdd": _fsdd, "ljspeech": _ljspeech}
    if variant in variants:
        variants[variant](config)
    elif variant != "default":
        raise ValueError(f"no variant '{variant}'; choose from default, {', '.join(variants)}")
    config.phases.align = align(config.phases.pretrain_generator)
    return config


def _smoke(config):
    """Every phase, one evaluation each, on networks too small to learn."""
    config.optimize_programs = False
    config.data.update(train_size=64, validation_size=16, test_size=16, num_buckets=2)
    config.codec.update(size=32, fitted=64)
    config.recogniser.update(size=64, steps=5)
    config.encoder.update(embedding_size=16, size=16)
    for network in (config.generator, config.discriminator):
        network.update(embedding_size=16, hidden_size=16, attention_size=8, num_layers=1)
    config.generator.update(output_size=16, noise_size=4)
    config.discriminator.update(feature_size=16, num_heads=2, head_size=8)
    for name, steps in (
        ("pretrain_generator", 20),
        ("pretrain_discriminator", 8),
        ("adversarial", 8),
        ("finetune", 8),
        ("pretrain_adversarial", 8),
    ):
        config.phases[name].update(steps=steps, batch_size=16, evaluate_every=1000)
    config.phases.finetune.freeze_turn = 4
    config.logging.every = 1
    config.logging.checkpoint_every = 8
    config.evaluation.update(batch_size=16, validation_limit=16, num_pictures=2)


def _long(config):
    """More data of the same kind, more codes, and more time for it."""
    config.data.train_size = 24_000
    config.codec.update(size=512, fitted=3000)
    config.encoder.dropout = config.generator.dropout = 0.1
    config.phases.pretrain_generator.update(steps=20_000, evaluate_every=4000)
    config.phases.pretrain_discriminator.steps = 300
    config.phases.adversarial.update(steps=400, evaluate_every=100)


def _fsdd(config):
    """Single digits by six people: shorter groups of frames, since their voices differ more."""
    config.data.update(source="fsdd", sample_rate=8000)
    config.codec.update(size=512, group=2, hop=128, window=512, bands=48, fmax=4000.0, fitted=3000)
    config.codec.update(max_length=40, max_source_length=8)
    config.recogniser.update(size=3000, steps=2000)
    for network in (config.encoder, config.generator):
        network.dropout = 0.3
    config.phases.pretrain_generator.update(steps=2500, evaluate_every=500)
    # A code is 32 ms.
    for name in ("adversarial", "finetune"):
        config.phases[name].generator.rollout_every = 4


def _ljspeech(config):
    """Hours of one reader, on a GPU."""
    config.data.update(source="ljspeech", sample_rate=22_050)
    config.data.update(validation_size=200, test_size=200, num_buckets=12)
    config.codec.update(quantiser="vqvae", size=512, group=2, hop=256, window=1024, bands=80)
    config.codec.update(fmax=8000.0, fitted=2000, steps=10_000)
    config.codec.update(max_length=440, max_source_length=200)
    config.encoder.update(embedding_size=256, size=512, num_layers=2, dropout=0.2)
    for network in (config.generator, config.discriminator):
        network.update(embedding_size=256, hidden_size=512, attention_size=256, dropout=0.2)
    config.generator.update(output_size=512, noise_size=32)
    config.discriminator.update(feature_size=512, num_heads=8, head_size=64)
    config.phases.pretrain_generator.update(batch_size=64, steps=60_000, evaluate_every=5000)
    config.phases.pretrain_generator.generator.update(learning_rate=1e-3, warmup=2000)
    config.phases.pretrain_discriminator.update(batch_size=32, steps=2000)
    config.phases.adversarial.update(batch_size=16, steps=4000, evaluate_every=1000)
    config.phases.finetune.update(batch_size=16, steps=400, freeze_turn=100)
    for name in ("adversarial", "finetune"):
        config.phases[name].generator.update(rollout_every=16, rollout_chunk=2, num_rollouts=2)
    config.logging.update(every=100, checkpoint_every=1000)
    config.evaluation.batch_size = 32
