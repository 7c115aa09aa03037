"""Video inpainting by SeqGAN: a clip with a hole in, what is missing out.

python train.py --config=configs/video.py               rendered shapes and digits
python train.py --config=configs/video.py:smoke         every phase in seconds
python train.py --config=configs/video.py:files --config.data.path=PATH
python train.py --config=configs/video.py:image         whole pictures from noise
python train.py --config=configs/video.py:large --config.data.path=PATH

All of them need pip install '.[media]'; docs/video.md says what PATH may be.
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
    """The configuration of a variant: default, smoke, files, image or large."""
    config = ml_collections.ConfigDict()
    config.task = "video"
    config.variant = variant
    config.seed = 0
    config.optimize_programs = True
    config.clip = 5.0

    config.data = ml_collections.ConfigDict()
    config.data.source = "shapes"
    config.data.path = config_dict.placeholder(str)
    config.data.seed = 0
    config.data.frames = 8
    config.data.image_size = 32
    config.data.stride = 1
    config.data.flip = False
    config.data.train_size = 6000
    config.data.validation_size = 200
    config.data.test_size = 400

    # What is missing: a box of half of the picture's height and width, in half of the frames. Most
    # holes in training are like those of evaluation, the others of all sizes and times.
    config.hole = ml_collections.ConfigDict()
    config.hole.kinds = ("box",)
    config.hole.evaluated = "box"
    config.hole.alike = 0.85
    config.hole.side = 0.5
    config.hole.time = 0.5

    config.codec = ml_collections.ConfigDict()
    config.codec.quantiser = "kmeans"
    config.codec.patch = (1, 4, 4)
    config.codec.size = 256
    config.codec.levels = 1
    config.codec.reference = "mean"
    config.codec.mean = ml_collections.ConfigDict()
    config.codec.mean.channels = 48
    config.codec.mean.steps = 1100
    config.codec.mean.batch_size = 16
    config.codec.mean.examples = 4000
    config.codec.fitted = 600
    config.codec.iterations = 30
    config.codec.steps = 3000

    config.encoder = ml_collections.ConfigDict()
    config.encoder.kind = "clip"
    config.encoder.channels = (32, 128)
    config.encoder.size = 128
    config.encoder.blocks = 2
    config.encoder.num_layers = 1
    config.encoder.dropout = 0.0

    config.generator = ml_collections.ConfigDict()
    config.generator.kind = "lstm"
    config.generator.embedding_size = 64
    config.generator.hidden_size = 128
    config.generator.num_layers = 2
    config.generator.attention = "multiplicative"
    config.generator.attend_after = 1
    config.generator.attention_size = 64
    config.generator.output_size = 256
    config.generator.noise_size = 8
    config.generator.dropout = 0.0

    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.kind = "lstm"
    config.discriminator.embedding_size = 64
    config.discriminator.hidden_size = 128
    config.discriminator.num_layers = 2
    config.discriminator.attention_size = 64
    config.discriminator.feature_size = 256
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
    # The t-th code is that of the t-th place: attention is guided there until it goes by itself.
    guided = {"mle": 1.0, "guided_attention": 1.0}
    config.phases.pretrain_generator = phase(
        steps=500,
        batch_size=32,
        evaluate_every=500,
        select="nll",
        generator=generator_update(
            optimizer="muon", learning_rate=2e-3, warmup=100, decay=1.0, **guided
        ),
    )
    config.phases.pretrain_discriminator = phase(
        steps=100,
        batch_size=32,
        select="discriminator_accuracy",
        start_from="best",
        transfer=True,
        discriminator=discriminator_update(learning_rate=5e-4, warmup=50, decay=0.5),
    )
    # Completions of every eighth prefix.
    adversarial = guided | {"learning_rate": 1e-4, "warmup": 20, "policy_gradient": 1.0}
    adversarial["rollout_every"] = 8
    config.phases.adversarial = phase(
        steps=40,
        batch_size=32,
        select="quality_diversity",
        generator=generator_update(**adversarial),
        discriminator=discriminator_update(learning_rate=2e-4),
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
        discriminator=discriminator_update(learning_rate=2e-4),
    )
    # Another phase that config.phases.order may name.
    config.phases.pretrain_adversarial = pretrain_adversarial(
        generator_update(
            **adversarial | {"learning_rate": 1e-3, "warmup": 100, "policy_gradient": 0.1}
        ),
        discriminator_update(learning_rate=2e-4, warmup=100),
        batch_size=32,
    )
    config.phases.calibrate = calibrate()

    add_common(config, validation_limit=200, num_samples=1, num_pictures=6)

    variants = {"smoke": _smoke, "files": _files, "image": _image, "large": _large}
    if variant in variants:
        variants[variant](config)
    elif variant != "default":
        raise ValueError(f"no variant '{variant}'; choose from default, {', '.join(variants)}")
    config.phases.align = align(config.phases.pretrain_generator)
    return config


def _smoke(config):
    """Every phase, one evaluation each, on networks too small to learn."""
    config.optimize_programs = False
    config.data.update(image_size=16, frames=4, train_size=64, validation_size=16, test_size=16)
    config.codec.update(patch=(2, 4, 4), size=32, fitted=64, iterations=5)
    config.codec.mean.update(channels=8, steps=10, examples=32)
    config.encoder.update(channels=(8, 16), size=16, blocks=1)
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


def _files(config):
    """A few real clips: too few to learn a mean from, so that little is added to what is linear."""
    config.data.update(source="files", image_size=64, flip=True)
    config.codec.update(reference="linear", patch=(2, 8, 8), size=64, fitted=2000)
    config.encoder.update(channels=(32, 64, 128), dropout=0.3)
    config.generator.dropout = 0.5
    config.discriminator.dropout = 0.2
    config.phases.pretrain_generator.update(steps=250, evaluate_every=50)
    config.evaluation.validation_limit = 100


def _image(config):
    """Whole pictures without a source."""
    config.data.update(frames=1)
    config.data.update(train_size=20_000)
    config.hole.kinds = ()
    config.codec.reference = "none"
    config.encoder = ml_collections.ConfigDict({"kind": "none"})
    config.generator.update(noise_size=16, attention="additive", attend_after=0)
    config.phases.pretrain_generator.update(steps=2000, evaluate_every=500)
    config.phases.pretrain_generator.generator.optimizer = "adam"
    for name in (*config.phases.order[:-1], "pretrain_adversarial"):
        network = config.phases[name]
        network.generator.guided_attention = 0.0
        network.discriminator.mismatch = 0.0


def _large(config):
    """Many clips, on a GPU."""
    config.data.update(source="files", image_size=128, frames=16, flip=True, stride=4)
    config.hole.kinds = ("box", "frames", "patches")
    config.hole.update(time=0.25, alike=0.0)
    config.codec.update(quantiser="vqvae", patch=(2, 8, 8), size=2048, steps=20_000)
    config.codec.update(reference="linear", fitted=4000)
    config.encoder.update(channels=(64, 128, 256), size=512, blocks=4, num_layers=4, dropout=0.1)
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
        config.phases[name].generator.update(rollout_every=32, rollout_chunk=2, num_rollouts=2)
    config.logging.update(every=100, checkpoint_every=1000)
    config.evaluation.batch_size = 32
