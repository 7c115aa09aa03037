"""The oracle benchmark of Yu et al. (2017), arXiv:1609.05473: data from a known LSTM.

python train.py --config=configs/oracle.py              three-layer generator, our recipe
python train.py --config=configs/oracle.py:paper        the paper's networks and recipe
python train.py --config=configs/oracle.py:smoke        every phase in seconds

An oracle is drawn from config.oracle.seed; --config.oracle.params=target_lstm.npz reads the
published one, with which figures can be set beside the paper's.
"""

import ml_collections
from ml_collections import config_dict

from configs.captions import (
    add_common,
    discriminator_update,
    generator_update,
    phase,
    ratio_discriminator,
    ratio_phases,
)

# Updates that see each of the 10,000 training sequences once, 64 at a time.
EPOCH = 156


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The configuration of a variant: default, paper or smoke."""
    config = ml_collections.ConfigDict()
    config.task = "oracle"
    config.variant = variant
    config.seed = 0
    config.optimize_programs = True
    config.clip = 5.0

    config.oracle = ml_collections.ConfigDict()
    config.oracle.params = config_dict.placeholder(str)
    config.oracle.seed = 0
    config.oracle.vocabulary = 5000
    config.oracle.size = 32

    config.data = ml_collections.ConfigDict()
    config.data.seed = 0
    config.data.length = 20
    config.data.train_size = 10_000
    config.data.validation_size = 10_000
    config.data.test_size = 10_000
    config.data.corrupted = 0.0

    config.encoder = ml_collections.ConfigDict({"kind": "none"})

    config.generator = ml_collections.ConfigDict()
    config.generator.embedding_size = 128
    config.generator.hidden_size = 128
    config.generator.num_layers = 3
    config.generator.attention_size = 128
    config.generator.output_size = 128
    config.generator.noise_size = 0
    config.generator.dropout = 0.5

    config.discriminator = ratio_discriminator()
    config.phases = ratio_phases(EPOCH)

    add_common(
        config,
        every=100,
        validation_limit=2000,
        num_samples=1,
        num_pictures=4,
    )

    if variant == "paper":
        _paper(config)
    elif variant == "smoke":
        _smoke(config)
    elif variant != "default":
        raise ValueError(f"no variant '{variant}'; choose from default, paper, smoke")
    return config


def _paper(config):
    """Yu et al. (2017), as the authors' program has it."""
    config.generator.embedding_size = 32
    config.generator.hidden_size = 32
    config.generator.num_layers = 1
    config.generator.output_size = 0
    config.generator.init_scale = 0.1
    config.generator.dropout = 0.0
    config.discriminator = ml_collections.ConfigDict()
    config.discriminator.kind = "cnn"
    config.discriminator.embedding_size = 64
    config.discriminator.widths = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    config.discriminator.filters = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
    config.discriminator.gate_bias = -2.0
    config.discriminator.dropout = 0.25
    config.discriminator.l2 = 0.2

    config.phases.pretrain_generator = phase(
        steps=120 * EPOCH,
        evaluate_every=5 * EPOCH,
        select="nll",
        generator=generator_update(learning_rate=1e-2, mle=1.0),
    )
    # 32 real and 32 generated sequences an update, so twice as many updates an epoch.
    judged = {"learning_rate": 1e-4, "smoothing": 1.0, "mismatch": 0.0, "pool": 10_000, "epochs": 3}
    config.phases.pretrain_discriminator = phase(
        steps=50 * 3 * 2 * EPOCH,
        batch_size=32,
        evaluate_every=10 * 3 * 2 * EPOCH,
        select="discriminator_accuracy",
        discriminator=discriminator_update(**judged),
    )
    # A round is one update of the generator, then five times three epochs of the discriminator.
    updates = 5 * 3 * 2 * EPOCH
    rounds = 1 + updates
    config.phases.adversarial = phase(
        steps=200 * rounds,
        batch_size=64,
        evaluate_every=5 * rounds,
        select="quality_diversity",
        generator=generator_update(
            learning_rate=1e-2,
            policy_gradient=64.0 * 20,  # the paper's sum over batch and time, not their mean
            num_rollouts=16,
            rollout_chunk=4,
            rollout_decay=0.8,
            baseline="position",
            baseline_decay=1.0,  # it stays at zero: none
        ),
        discriminator=discriminator_update(updates=updates, batch_size=32, **judged),
    )
    # The paper ends there, and has no maximum likelihood beside rewards.
    config.phases.order = config.phases.order[:3]
    del config.phases.finetune, config.phases.pretrain_adversarial
    config.logging.every = 300
    config.logging.checkpoint_every = rounds


def _smoke(config):
    """Every phase, one evaluation each, of networks too small to learn a small oracle."""
    config.optimize_programs = False
    config.oracle.vocabulary = 50
    config.oracle.size = 8
    config.data.length = 8
    config.data.train_size = 400
    config.data.validation_size = 200
    config.data.test_size = 200
    for network in (config.generator, config.discriminator):
        network.embedding_size = 16
        network.hidden_size = 16
    config.generator.attention_size = 8
    config.generator.output_size = 16
    for name, steps in (
        ("pretrain_generator", 30),
        ("pretrain_discriminator", 10),
        ("adversarial", 12),
        ("finetune", 8),
        ("pretrain_adversarial", 12),
    ):
        config.phases[name].update(steps=steps, batch_size=16, evaluate_every=100)
    config.phases.adversarial.generator.updates = 1
    config.phases.adversarial.discriminator.updates = 2
    config.phases.finetune.freeze_turn = 4
    config.logging.checkpoint_every = 8
    config.evaluation.batch_size = 50
    config.evaluation.validation_limit = 200
