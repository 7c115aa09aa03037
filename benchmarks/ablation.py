"""What each part of the training procedure does: one change at a time, over several seeds.

    python benchmarks/ablation.py [--setting=ratio,lstm,scenes] [--rows=A,B] [--folder=FOLDER]

Every row is a run of its own, of all seeds at once (`config.seeds`), in a directory of its own:
interrupted, the same command goes on where it was. Rows that change the adversarial phase alone
begin with the networks of one run, `start`, so that what they differ by is that phase; the others
train from nothing. Each line is a JSON object of one row: its figures on test data, with the
standard error over the seeds, and by how much they differ from its start's and from the default's
of the same seeds. `default, accepted` is what the default's discriminator accepts of it, and how
many draws such a sequence took (docs/sampling.md). After each setting come its table, in Markdown,
and SETTING.png in the folder.

The settings `ratio` and `lstm` are an oracle of 200 tokens and 16 units that writes sequences of
12 tokens, 2,000 of them to train on, with the recipe of configs/oracle.py (a ratio of likelihoods
judges) and with that of configs/captions.py (the LSTM judges, rewards of rollouts); `scenes` are
captions of 2,000 rendered scenes. `--rows` chooses rows.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from seqgan_jax.errors import UserError
from seqgan_jax.programs import start
from seqgan_jax.programs.evaluate import evaluate
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
    },
}
# Figures that are compared, and others that are shown.
_ORACLE = (("reverse_kl", "forward_kl", "js"), ("entropy", "discriminator_accuracy"))
SHOWN = {
    "ratio": _ORACLE,
    "lstm": _ORACLE,
    "scenes": (("true_captions", "nll"), ("self_bleu_4", "distinct_captions")),
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


def configuration(setting, row):
    """A row's configuration: of a run of its own, or of one that begins with `start`'s networks."""
    changes = ROWS[setting][row]
    config = base(setting)
    if all(key.startswith(_A) for key in changes):
        config.init_from = str(Path(FOLDER.value) / setting / "start")
        config.init_checkpoint = "last"
        config.phases.order = ()
    config.update_from_flattened_dict(changes)
    # What rejection sampling does to a generator that stays as it is, for the default alone.
    config.phases.order += ("adversarial", *["calibrate"] * (row == "default"))
    return config


def judged(setting, row):
    """The metrics of each seed of a row, at its `pretrain_generator` and `last`."""
    config = configuration(setting, row)
    if not config.init_from:
        return run(setting, row, config, ["pretrain_generator", "last"])
    begun = run(setting, "start", base(setting), ["pretrain_generator"])
    return begun | run(setting, row, config, ["last"], reject=row == "default")


def accepted(found):
    """The default's metrics, of the sequences that its discriminator accepts."""
    own = [
        {name.removeprefix("accepted_"): each[name] for name in each if "accepted_" in name}
        for each in found["last"]
    ]
    return found | {"last": own}


def told(setting, row, own, default):
    """A row as JSON: means, and paired differences from its own start and from the default."""
    line = {"benchmark": f"ablation/{setting}", "row": row, "seeds": SEEDS.value}
    compared, others = SHOWN[setting]
    for name in compared + others:
        last, begun, other = (
            [each.get(name, math.nan) for each in found]  # what is accepted has fewer figures
            for found in (own["last"], own["pretrain_generator"], default["last"])
        )
        found = {"value": last}
        if name in compared:
            found["from_start"] = [a - b for a, b in zip(last, begun, strict=True)]
            found["from_default"] = [a - b for a, b in zip(last, other, strict=True)]
        for what, values in found.items():
            line[f"{name}/{what}"] = [np.mean(values), np.std(values, ddof=1) / len(values) ** 0.5]
    draws = [each["draws_per_sample"] for each in own["last"] if "draws_per_sample" in each]
    return line | ({"draws_per_sample": np.mean(draws)} if draws else {})


def table(lines):
    """The rows in Markdown: how figures that are compared differ, and the values of others."""
    compared = {key.partition("/")[0] for key in lines[0] if key.endswith("/from_start")}
    columns = [key for key in lines[0] if "/" in key and key.replace("/value", "") not in compared]
    said = {"value": "", "from_start": ": change from its start", "from_default": ": vs default"}
    titles = [name + said[what] for name, _, what in (key.partition("/") for key in columns)]
    rows = [f"| row | {' | '.join(titles)} |", "| --- " * (1 + len(columns)) + "|"]
    for line in lines:
        cells = []
        for key in columns:
            value, error = line[key]
            sign = "" if key.endswith("value") else "+"
            cells.append(f"{value:{sign}.3f} ± {error:.3f}" if math.isfinite(value) else "")
        rows.append(f"| `{line['row']}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def picture(setting, lines, path):
    """Every row's changes from its start, with their standard errors, beside the default's."""
    compared = SHOWN[setting][0]
    figure = Figure(figsize=(4 * len(compared) + 2, 0.26 * len(lines) + 1.2), layout="constrained")
    axes = figure.subplots(1, len(compared), sharey=True)
    for axis, name in zip(axes, compared, strict=True):
        values, errors = zip(*(line[f"{name}/from_start"] for line in lines), strict=True)
        axis.errorbar(values, range(len(lines)), xerr=errors, fmt="o", markersize=4, capsize=2)
        axis.axvline(values[0], linestyle=":", label="the default")
        axis.axvline(0, color="gray", linewidth=0.8)
        axis.set_xlabel(f"change of {name} from the start")
    axes[0].set_yticks(range(len(lines)), [line["row"] for line in lines])
    axes[0].invert_yaxis()
    axes[0].legend()
    figure.savefig(path, dpi=100)


def ablation():
    for setting in SETTING.value:
        if setting not in ROWS:
            raise UserError(f"--setting: no {setting}; choose from {', '.join(ROWS)}")
        unknown = sorted(set(ROWS_CHOSEN.value) - ROWS[setting].keys())
        if unknown:
            known = ", ".join(ROWS[setting])
            raise UserError(f"--rows: no row {unknown[0]} of {setting}; choose from {known}")
        default, lines = judged(setting, "default"), []
        for row in ROWS_CHOSEN.value or ROWS[setting]:
            found = judged(setting, row)
            lines.append(told(setting, row, found, default))
            if row == "default":
                lines.append(told(setting, "default, accepted", accepted(found), default))
            print(*map(json.dumps, lines[-1 - (row == "default") :]), sep="\n", flush=True)
        print(table(lines))
        picture(setting, lines, Path(FOLDER.value) / f"{setting}.png")


def main(argv):
    del argv
    start.main(ablation)


if __name__ == "__main__":
    app.run(main)
