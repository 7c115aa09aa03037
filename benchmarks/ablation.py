"""What each part of the training procedure does: one change at a time, over several seeds.

    python benchmarks/ablation.py [--setting=ratio,lstm,scenes] [--rows=A,B] [--folder=FOLDER]

Every row is a run of its own, of all seeds at once (`config.seeds`), in a directory of its own:
interrupted, the same command goes on where it was. Rows that change the adversarial phase alone
begin with the networks of one run, `start`, so that what they differ by is that phase; the others
train from nothing. Each line is a JSON object of one row: its figures on test data, with the
standard error over the seeds, and by how much they differ from its start's and from the default's
of the same seeds. After each setting comes its table, in Markdown.

The settings `ratio` and `lstm` are an oracle of 200 tokens and 16 units that writes sequences of
12 tokens, 2,000 of them to train on, with the recipe of configs/oracle.py (a ratio of likelihoods
judges) and with that of configs/captions.py (the LSTM judges, rewards of rollouts); `scenes` are
captions of 2,000 rendered scenes. `--rows` chooses rows.
"""

import json
import math
import sys
from pathlib import Path

from absl import app, flags

from seqgan_jax.evaluation.report import Metric
from seqgan_jax.programs.evaluate import evaluate
from seqgan_jax.programs.start import keep_memory
from seqgan_jax.programs.train import train

# Configurations belong to a checkout, not to the package.
sys.path.insert(0, str(Path(__file__).parents[1]))
from configs import captions, oracle

SETTING = flags.DEFINE_list("setting", ["ratio", "lstm", "scenes"], "What is trained on.")
ROWS_CHOSEN = flags.DEFINE_list("rows", [], "Which rows; all by default. The default is needed.")
FOLDER = flags.DEFINE_string("folder", "runs/ablation", "Where the runs live.")
SEEDS = flags.DEFINE_integer("seeds", 3, "How many at once.", lower_bound=2)
LIMIT = flags.DEFINE_integer("limit", None, "Only so many test sources.", lower_bound=2)

_A = "phases.adversarial."
_G, _D = _A + "generator.", _A + "discriminator."
_PRETRAINED = "phases.pretrain_discriminator.discriminator."
_SAMPLED = {_G + "estimator": "rollout", _G + "baseline": "prefix"}
_COMMON = {
    "default": {},
    # Controls.
    "mle_only": {_G + "policy_gradient": 0.0, _G + "mle": 1.0},
    "twice_as_long": {_A + "steps": 800},
    # What is frozen.
    "frozen_discriminator": {_A + "freeze": "discriminator"},
    "alternate": {_A + "freeze": "alternate", _A + "freeze_turn": 50},
    # When it ends.
    "early_stopping": {
        _A + "steps": 1600,
        _A + "evaluate_every": 100,
        _A + "stop.metrics": ("quality_diversity",),
        _A + "stop.patience": 2,
    },
    # Regularisers beside, or instead of, the one toward the data.
    "kl": {_G + "mle": 0.0, _G + "kl": 0.1},
    "entropy": {_G + "mle": 0.0, _G + "entropy": 0.02},
    # A tenth of the training data's tokens at random.
    "corrupted": {"data.corrupted": 0.1},
    "corrupted_mle_only": {
        "data.corrupted": 0.1,
        _G + "policy_gradient": 0.0,
        _G + "mle": 1.0,
    },
}
# Where a token's action value comes from.
_REWARDS = {
    "dense": {_G + "estimator": "dense", _G + "baseline": "position"},
    "terminal": {_G + "estimator": "terminal", _G + "baseline": "position"},
}
# Those of a discriminator that learns by classification.
_CLASSIFIED = {
    "no_smoothing": {_D + "smoothing": 1.0},
    "two_sided": {_D + "smoothing_generated": 0.1},
    "feature_matching": {_G + "feature_matching": 0.1},
    "no_likelihood": {"discriminator.likelihood": False},
}
ROWS = {
    "ratio": _COMMON
    | {
        "mle": {_G + "mle": 1.0},
        "rollout": _SAMPLED,
        **_REWARDS,
        "one_to_one": {_G + "updates": 1},
        "hundred_to_one": {_G + "updates": 100},
        "band": {_D + "band": (0.6, 0.66)},
        "smoothing": {_D + "smoothing": 0.9},
        "two_sided": {_D + "smoothing": 0.9, _D + "smoothing_generated": 0.1},
        "whole_sequences": {_D + "per_step": 0.0},
        "language_models": {_D + "mle": 1.0},
        "one_member": {"discriminator.members": 1},
    },
    "lstm": _COMMON
    | {
        "no_mle": {_G + "mle": 0.0},
        "log_ratio": {_G + "reward": "log_ratio"},
        **_REWARDS,
        "group": {_G + "baseline": "group", _G + "group_size": 4},
        "reuse": {_G + "reuse": 4},
        "five_to_one": {_G + "updates": 5},
        "one_to_five": {_D + "updates": 5},
        "band": {_D + "band": (0.52, 0.58)},
        **_CLASSIFIED,
        "no_steps": {_PRETRAINED + "per_step": 0.0, _D + "per_step": 0.0},
        "gradient_penalty": {
            "discriminator.likelihood": False,
            _PRETRAINED + "gradient_penalty": 0.1,
            _D + "gradient_penalty": 0.1,
        },
    },
    "scenes": {name: _COMMON[name] for name in ("default", "mle_only", "frozen_discriminator")}
    | {
        "no_mle": {_G + "mle": 0.0},
        "log_ratio": {_G + "reward": "log_ratio"},
        "no_mismatch": {_PRETRAINED + "mismatch": 0.0, _D + "mismatch": 0.0},
        "no_words": {"phases.order": ("pretrain_generator", "pretrain_discriminator")},
    },
}
_ORACLE = ("reverse_kl", "forward_kl", "entropy", "discriminator_accuracy")
SHOWN = {
    "ratio": _ORACLE,
    "lstm": _ORACLE,
    "scenes": ("true_captions", "nll", "self_bleu_4", "distinct_captions"),
}


def base(setting):
    """The configuration that a row changes."""
    config = (captions if setting == "scenes" else oracle).get_config()
    config.seeds = SEEDS.value
    phases = config.phases
    phases.order = ("pretrain_generator", "pretrain_discriminator")
    if setting == "scenes":
        phases.order = ("pretrain_encoder", *phases.order)
        config.data.update(train_size=2000)
        config.evaluation.update(validation_limit=200)
        phases.pretrain_encoder.steps = 1000
        phases.pretrain_generator.update(steps=2500, evaluate_every=2500)
        phases.adversarial.update(steps=200, evaluate_every=1600)
        return config
    config.oracle.update(vocabulary=200, size=16)
    config.data.update(length=12, train_size=2000, validation_size=1000, test_size=2000)
    config.evaluation.update(validation_limit=1000)
    if setting == "lstm":
        config.discriminator = captions.get_config().discriminator
        config.discriminator.update(feature_size=32, num_heads=2, head_size=16)
        judged = {"per_step": 0.5, "mismatch": 0.0, "warmup": 50}
        phases.pretrain_discriminator.transfer = True
        phases.pretrain_discriminator.discriminator = captions.discriminator_update(
            learning_rate=3e-3, decay=1.0, **judged
        )
        phases.adversarial.discriminator = captions.discriminator_update(
            learning_rate=3e-4, **judged
        )
        phases.adversarial.generator = captions.generator_update(
            learning_rate=3e-4, policy_gradient=1.0, mle=1.0
        )
    for network in (config.generator, config.discriminator):
        network.update(embedding_size=32, hidden_size=32, dropout=0.2)
        for option in ("attention_size", "output_size"):
            if option in network:
                network[option] = 32
    phases.pretrain_generator.update(steps=800, evaluate_every=800)
    phases.pretrain_generator.generator.warmup = 50
    phases.pretrain_discriminator.update(steps=800, evaluate_every=800)
    phases.pretrain_discriminator.discriminator.warmup = 50
    phases.adversarial.update(steps=400, evaluate_every=1600)
    return config


def run(setting, row, config, checkpoints, reject=False):
    """Trains and judges a run, or takes what was found: metrics of each seed, by checkpoint."""
    folder = Path(FOLDER.value) / setting / row
    names = {each: f"evaluation-{each}.json" for each in checkpoints}
    names[checkpoints[-1]] = "evaluation.json"
    if not all((folder / name).exists() for name in names.values()):
        train(config.lock(), str(folder), quiet=True)
        evaluate(
            str(folder),
            split="test",
            checkpoints=checkpoints,
            swept=None,
            num_samples=None,
            num_noise=1,
            beam_size=None,
            rerank=1,
            reject=reject,
            limit=LIMIT.value,
            seed=0,
            batch_size=100,
            quiet=True,
        )
    found = {}
    for checkpoint, name in names.items():
        content = json.loads((folder / name).read_text())
        found[checkpoint] = [
            {key: figure["value"] for key, figure in own.items()} for own in content["replicas"]
        ]
    return found


def judged(setting, row):
    """The metrics of each seed of a row, at its `pretrain_generator` and `last`."""
    changes = ROWS[setting][row]
    config = base(setting)
    if all(key.startswith(_A) for key in changes):
        start = run(setting, "start", base(setting), ["pretrain_generator"])
        config.init_from = str(Path(FOLDER.value) / setting / "start")
        config.init_checkpoint = "last"
        config.phases.order = ()
    config.update_from_flattened_dict(changes)
    # What rejection sampling does to a generator that stays as it is, for the default alone.
    calibrated = row == "default"
    config.phases.order += ("adversarial", *["calibrate"] * calibrated)
    if config.init_from:
        return start | run(setting, row, config, ["last"], reject=calibrated)
    return run(setting, row, config, ["pretrain_generator", "last"])


def told(setting, row, own, default):
    """A row as JSON: means, and paired differences from its own start and from the default."""
    line = {"benchmark": f"ablation/{setting}", "row": row, "seeds": SEEDS.value}
    for name in SHOWN[setting]:
        last = [each[name] for each in own["last"]]
        start = [each[name] for each in own["pretrain_generator"]]
        other = [each[name] for each in default["last"]]
        for what, values in (
            ("value", last),
            ("from_start", [a - b for a, b in zip(last, start, strict=True)]),
            ("from_default", [a - b for a, b in zip(last, other, strict=True)]),
        ):
            metric = Metric.mean(values, "")
            line[f"{name}/{what}"] = [metric.value, metric.stderr]
    return line


def table(setting, lines):
    shown = SHOWN[setting]
    title = [f"{name} | change from its start | against the default" for name in shown]
    rows = [f"| row | {' | '.join(title)} |", "| --- " * (1 + 3 * len(shown)) + "|"]
    for line in lines:
        cells = []
        for name in shown:
            for what, sign in (("value", ""), ("from_start", "+"), ("from_default", "+")):
                value, error = line[f"{name}/{what}"]
                known = error is not None and math.isfinite(error)
                cells.append(f"{value:{sign}.3f}" + (f" ± {error:.3f}" if known else ""))
        rows.append(f"| {line['row']} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main(argv):
    del argv
    keep_memory()
    for setting in SETTING.value:
        if setting not in ROWS:
            raise app.UsageError(f"--setting: no {setting}; choose from {', '.join(ROWS)}")
        rows = ROWS_CHOSEN.value or list(ROWS[setting])
        unknown = sorted(set(rows) - ROWS[setting].keys())
        if unknown:
            known = ", ".join(ROWS[setting])
            raise app.UsageError(f"--rows: no row {unknown[0]} of {setting}; choose from {known}")
        default, lines = judged(setting, "default"), []
        for row in rows:
            lines.append(told(setting, row, judged(setting, row), default))
            print(json.dumps(lines[-1]), flush=True)
        print(table(setting, lines))


if __name__ == "__main__":
    app.run(main)
