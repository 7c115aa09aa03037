"""Image captions by SeqGAN.

python train.py --config=configs/captions.py            rendered scenes, a small CNN
python train.py --config=configs/captions.py:smoke      every phase in seconds
python train.py --config=configs/captions.py:flickr8k --config.data.path=FOLDER
python train.py --config=configs/captions.py:large --config.data.path=FOLDER
"""

import ml_collections
from ml_collections import config_dict


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant: default, smoke, flickr8k or large."""
    config = ml_collections.ConfigDict()
    config.task = "captions"
    config.variant = variant
    config.seed = 0
    config.optimize_programs = True
    config.clip = 5.0

    config.data = ml_collections.ConfigDict()
    config.data.source = "scenes"
    config.data.path = config_dict.placeholder(str)
    config.data.seed = 0
    config.data.image_size = 48
    config.data.features = "none"
    config.data.validation_size = 1000
    config.data.test_size = 1000
    config.data.max_unreadable_share = 0.01

    config.codec = ml_collections.ConfigDict()
    config.codec.kind = "word"
    config.codec.lowercase = True
    config.codec.max_size = 10_000
    config.codec.min_count = 1
    config.codec.max_length = 13

    config.encoder = ml_collections.ConfigDict()
    config.encoder.kind = "convolutional"
    config.encoder.channels = (16, 32, 64)
    config.encoder.size = 128
    config.encoder.blocks = 1
    config.encoder.dropout = 0.0

    config.generator = ml_collections.ConfigDict()
    config.generator.embedding_size = 64
    config.generator.hidden_size = 128
    config.generator.num_layers = 3
    config.generator.attention = "multiplicative"
    config.generator.attend_after = 1
    config.generator.attention_size = 128
    config.generator.output_size = 128
    config.generator.noise_size = 16
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
        "pretrain_encoder",
        "pretrain_generator",
        "pretrain_discriminator",
        "adversarial",
        "finetune",
        "calibrate",
    )
    # The image encoder learns which words belong where, at a tenth of a caption's cost.
    config.phases.pretrain_encoder = phase(
        steps=2000,
        batch_size=32,
        targets=5,
        select="nll",
        frozen=("generator/(?!encoder/|words/)",),
        generator=generator_update(
            optimizer="muon", learning_rate=6e-3, warmup=100, decay=1.0, words=1.0
        ),
    )
    config.phases.pretrain_generator = phase(
        steps=3000,
        batch_size=32,
        targets=2,
        evaluate_every=1500,
        select="nll",
        generator=generator_update(
            optimizer="muon", learning_rate=3e-3, warmup=200, decay=1.0, mle=1.0
        ),
    )
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
    # Another phase that config.phases.order may name.
    config.phases.pretrain_adversarial = pretrain_adversarial(
        generator_update(learning_rate=1e-3, warmup=100, mle=1.0, policy_gradient=0.1),
        discriminator_update(learning_rate=3e-4, warmup=100),
        batch_size=32,
    )
    config.phases.calibrate = calibrate()

    add_common(
        config,
        validation_limit=200,
        num_samples=5,
        num_pictures=12,
    )

    if variant == "smoke":
        _smoke(config)
    elif variant == "flickr8k":
        _flickr8k(config)
    elif variant == "large":
        _large(config)
    elif variant != "default":
        raise ValueError(f"no variant '{variant}'; choose from default, smoke, flickr8k, large")
    config.phases.align = align(config.phases.pretrain_generator)
    return config


def add_common(config: ml_collections.ConfigDict, *, every: int = 20, **evaluation) -> None:
    """Adds what every task's configuration has beside its data, networks and phases.

    Args:
      config: the configuration.
      every: updates of a network between its logged lines.
      **evaluation: the values of `config.evaluation`, but for its batches.
    """
    config.seeds = 1
    config.init_from = config_dict.placeholder(str)
    config.init_checkpoint = "best"
    config.init_partial = False
    config.checkpoint_folder = config_dict.placeholder(str)
    config.guard = guard()
    config.rejection = rejection()
    config.reward = reward()
    config.parallel = parallel()
    config.logging = ml_collections.ConfigDict(
        {"every": every, "checkpoint_every": 500, "stall_seconds": 600.0}
    )
    config.evaluation = ml_collections.ConfigDict({"batch_size": 100, **evaluation})


def phase(generator=None, discriminator=None, **overrides) -> ml_collections.ConfigDict:
    """A phase; networks without updates stay as they are."""
    config = ml_collections.ConfigDict()
    config.steps = 0
    config.batch_size = 64
    config.targets = 1
    config.evaluate_every = 100_000
    config.select = "nll"
    config.transfer = False
    config.start_from = ""
    config.freeze = "none"
    config.freeze_turn = 1
    config.frozen = ()
    config.stop = ml_collections.ConfigDict()
    config.stop.metrics = ("nll",)
    config.stop.patience = 0
    config.stop.min_change = 0.0
    config.stop.regain = False
    config.noise = True
    config.generator = generator or generator_update(updates=0)
    config.discriminator = discriminator or discriminator_update(updates=0)
    config.update(overrides)
    return config


def pretrain_adversarial(generator, discriminator, **overrides) -> ml_collections.ConfigDict:
    """Both networks from whatever they are, in turn, until neither held-out loss falls."""
    config = phase(generator, discriminator, steps=10_000, evaluate_every=500)
    config.stop.update(metrics=("nll", "discriminator_loss"), patience=3, min_change=0.01)
    config.update(overrides)
    return config


def align(supervised: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The phase without noise, on aligned pairs of a source and a target; the order may name it."""
    config = supervised.copy_and_resolve_references()
    config.noise = False
    return config


def ratio_discriminator() -> ml_collections.ConfigDict:
    """Language models of one layer, for which three layers of a generator need no equals."""
    config = ml_collections.ConfigDict()
    config.kind = "ratio"
    config.embedding_size = 128
    config.hidden_size = 128
    config.num_layers = 1
    config.output_size = 128
    config.members = 3
    config.dropout = 0.5
    return config


def ratio_phases(epoch: int) -> ml_collections.ConfigDict:
    """A schedule for sequences without a source, judged by a ratio of likelihoods.

    Args:
      epoch: updates that see every training sequence once, 64 at a time.
    """
    phases = ml_collections.ConfigDict()
    phases.order = (
        "pretrain_generator",
        "pretrain_discriminator",
        "adversarial",
        "finetune",
        "calibrate",
    )
    phases.pretrain_generator = phase(
        steps=16 * epoch,
        evaluate_every=2 * epoch,
        select="nll",
        generator=generator_update(learning_rate=3e-3, warmup=epoch, decay=1.0, mle=1.0),
    )
    # The discriminator's language models learn as the generator did, from other parameters.
    phases.pretrain_discriminator = phase(
        steps=16 * epoch,
        evaluate_every=4 * epoch,
        select="discriminator_accuracy",
        discriminator=discriminator_update(
            learning_rate=3e-3,
            warmup=epoch,
            decay=1.0,
            classification=0.0,
            mle=1.0,
            mismatch=0.0,
        ),
    )
    # A round: the generator learns from the ratio of likelihoods, the models to tell it from data.
    rewarded = {
        "policy_gradient": 1.0,
        "reward": "log_ratio",
        "estimator": "actions",
        "reward_clip": 10.0,
        "baseline": "position",
    }
    judged = {"learning_rate": 3e-5, "smoothing": 1.0, "mismatch": 0.0, "per_step": 1.0}
    phases.adversarial = phase(
        steps=800,
        batch_size=64,
        evaluate_every=200,
        select="quality_diversity",
        generator=generator_update(updates=20, learning_rate=5e-4, decay=0.9, **rewarded),
        discriminator=discriminator_update(**judged),
    )
    # From the best round, one network at a time.
    phases.finetune = phase(
        steps=40,
        select="quality_diversity",
        start_from="best",
        freeze="alternate",
        freeze_turn=20,
        generator=generator_update(learning_rate=5e-5, **rewarded),
        discriminator=discriminator_update(**judged),
    )
    # Another phase that the order may name.
    phases.pretrain_adversarial = pretrain_adversarial(
        generator_update(mle=1.0, warmup=epoch, **rewarded | {"policy_gradient": 0.1}),
        discriminator_update(**judged),
    )
    phases.calibrate = calibrate()
    return phases


def calibrate() -> ml_collections.ConfigDict:
    """Both networks stay as the best checkpoint has them; what becomes better is sampling."""
    return phase(steps=1, select="quality_diversity", start_from="best", freeze="both")


def rejection() -> ml_collections.ConfigDict:
    """How the discriminator chooses among what the generator draws."""
    config = ml_collections.ConfigDict()
    config.rate = 0.25
    config.tries = 40
    return config


def reward() -> ml_collections.ConfigDict:
    """A reward beside the discriminator's: none."""
    config = ml_collections.ConfigDict()
    config.function = ""
    config.weight = 0.0
    return config


def parallel() -> ml_collections.ConfigDict:
    """How devices share the work: each has its part of every batch."""
    config = ml_collections.ConfigDict()
    config.data = 0
    config.model = 1
    config.mode = "jit"
    config.accumulate = 1
    config.remat = False
    config.shard_above = 0
    config.precision = "default"
    return config


def guard() -> ml_collections.ConfigDict:
    """What happens when training breaks."""
    config = ml_collections.ConfigDict()
    config.patience = 5
    config.backoff = 0.5
    config.limit = 3
    config.entropy = 0.2
    config.distinct = 0.05
    config.stop = False
    return config


def generator_update(**overrides) -> ml_collections.ConfigDict:
    """An update of the generator."""
    config = ml_collections.ConfigDict()
    config.updates = 1
    config.batch_size = 0
    config.optimizer = "adam"
    config.learning_rate = 1e-3
    config.warmup = 0
    config.decay = 0.0
    config.mle = 0.0
    config.words = 0.0
    config.policy_gradient = 0.0
    config.entropy = 0.0
    config.kl = 0.0
    config.feature_matching = 0.0
    config.end = ends("mle", "words", "policy_gradient", "entropy", "kl", "feature_matching")
    config.reward = "probability"
    config.estimator = "rollout"
    config.discount = 0.0
    config.reward_clip = 2.0
    config.num_rollouts = 4
    config.rollout_chunk = 4
    config.rollout_decay = 0.8
    config.baseline = "prefix"
    config.baseline_decay = 0.9
    config.group_size = 1
    config.normalise = "none"
    config.reuse = 1
    config.clip_ratio = 0.2
    config.update(overrides)
    return config


def discriminator_update(**overrides) -> ml_collections.ConfigDict:
    """An update of the discriminator."""
    config = ml_collections.ConfigDict()
    config.updates = 1
    config.batch_size = 0
    config.optimizer = "adam"
    config.learning_rate = 1e-3
    config.warmup = 0
    config.decay = 0.0
    config.classification = 1.0
    config.mle = 0.0
    config.smoothing = 0.9
    config.smoothing_generated = 0.0
    config.mismatch = 0.5
    config.per_step = 0.0
    config.gradient_penalty = 0.0
    config.end = ends("mismatch", "gradient_penalty")
    config.pool = 0
    config.epochs = 1
    config.fresh = False
    config.band = ()
    config.band_every = 20
    config.update(overrides)
    return config


def ends(*weights) -> ml_collections.ConfigDict:
    """Weights at the phase's end; as at its start where none is set."""
    return ml_collections.ConfigDict({name: config_dict.placeholder(float) for name in weights})


def _smoke(config):
    """Every phase, one evaluation each, on networks too small to learn."""
    config.optimize_programs = False
    config.data.validation_size = 64
    config.data.test_size = 64
    config.encoder.channels = (8, 8, 16)
    config.encoder.size = 16
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
        ("pretrain_encoder", 10),
        ("pretrain_generator", 30),
        ("pretrain_discriminator", 10),
        ("adversarial", 10),
        ("finetune", 8),
        ("pretrain_adversarial", 10),
    ):
        config.phases[name].steps = steps
        config.phases[name].batch_size = 16
    config.phases.finetune.freeze_turn = 4
    config.logging.every = 1
    config.logging.checkpoint_every = 8
    config.evaluation.batch_size = 16
    config.evaluation.validation_limit = 32
    config.evaluation.num_pictures = 4


def _flickr8k(config):
    """Photographs through EfficientNet-Lite0, for a data set of hundreds to thousands."""
    config.data.source = "flickr8k"
    config.data.features = "efficientnet_lite0"
    config.data.image_size = 224
    config.data.validation_size = 80
    config.data.test_size = 80
    config.codec.min_count = 3
    config.codec.max_length = 20
    config.encoder = ml_collections.ConfigDict({"kind": "features", "size": 128, "dropout": 0.5})
    config.generator.update(embedding_size=128, dropout=0.5, attention="additive", attend_after=0)
    config.discriminator.embedding_size = 128
    config.discriminator.dropout = 0.5
    config.phases.order = config.phases.order[1:]
    config.phases.pretrain_generator.update(batch_size=32, targets=5, steps=600)
    config.phases.pretrain_generator.evaluate_every = 100
    config.phases.pretrain_generator.generator.update(optimizer="adam", learning_rate=2e-3)
    config.evaluation.validation_limit = 80


def _large(config):
    """COCO on a GPU or TPU."""
    config.data.source = "coco"
    config.data.features = "efficientnet_lite0"
    config.data.image_size = 224
    config.data.validation_size = 5000
    config.data.test_size = 5000
    config.codec.min_count = 5
    config.codec.max_length = 24
    config.encoder = ml_collections.ConfigDict({"kind": "features", "size": 512, "dropout": 0.3})
    for network in (config.generator, config.discriminator):
        network.embedding_size = 512
        network.hidden_size = 1024
        network.attention_size = 512
        network.dropout = 0.3
    config.generator.output_size = 1024
    config.generator.noise_size = 64
    config.discriminator.feature_size = 512
    config.discriminator.num_heads = 8
    config.discriminator.head_size = 64
    config.phases.order = config.phases.order[1:]
    config.phases.pretrain_generator.update(batch_size=512, targets=5, steps=15_000)
    config.phases.pretrain_generator.evaluate_every = 1000
    config.phases.pretrain_generator.generator.update(learning_rate=5e-4, warmup=1000)
    config.phases.pretrain_discriminator.update(batch_size=512, steps=5000)
    config.phases.adversarial.update(batch_size=256, steps=10_000, evaluate_every=1000)
    config.phases.finetune.update(batch_size=256, steps=2000, freeze_turn=500, evaluate_every=500)
    for name in ("adversarial", "finetune"):
        config.phases[name].generator.update(num_rollouts=8, rollout_chunk=8)
    config.logging.every = 100
    config.logging.checkpoint_every = 1000
    config.evaluation.validation_limit = 1000
