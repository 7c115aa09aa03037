"""What each part of the training procedure does: one change at a time, over several seeds.

    python benchmarks/ablation.py [--setting=oracle|scenes] [--rows=A,B] [--folder=FOLDER]

Every row is a run of its own, of all seeds at once (`config.seeds`), in a directory of its own:
interrupted, the same command goes on where it was. Each line is a JSON object of one row: its
figures on test data, with the standard error over the seeds, and by how much they differ from the
default's of the same seeds. The last line is the table, in Markdown.

The setting `oracle` is an oracle of 200 tokens and 16 units that writes sequences of 12 tokens,
2,000 of them to train on; `scenes` are captions of 2,000 rendered scenes. `--rows` chooses rows.
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

SETTING = flags.DEFINE_enum("setting", "oracle", ["oracle", "scenes"], "What is trained on.")
ROWS_CHOSEN = flags.DEFINE_list("rows", [], "Which rows; all by default. The default is needed.")
FOLDER = flags.DEFINE_string("folder", "runs/ablation", "Where the runs live.")
SEEDS = flags.DEFINE_integer("seeds", 3, "How many at once.", lower_bound=2)
LIMIT = flags.DEFINE_integer("limit", None, "Only so many test sources.", lower_bound=2)

_G, _D = "phases.adversarial.generator.", "phases.adversarial.discriminator."
ROWS = {
    "default": {},
    # Controls.
    "mle_only": {_G + "policy_gradient": 0.0},
    "twice_as_long": {"phases.adversarial.steps": 800},
    # The regulariser toward the data, and others.
    "no_mle": {_G + "mle": 0.0},
    "kl": {_G + "mle": 0.0, _G + "kl": 0.1},
    "entropy": {_G + "mle": 0.0, _G + "entropy": 0.02},
    "feature_matching": {_G + "feature_matching": 0.1},
    # Where a token's action value comes from.
    "dense": {_G + "estimator": "dense", _G + "reward": "log_ratio", _G + "baseline": "position"},
    "terminal": {_G + "estimator": "terminal", _G + "baseline": "position"},
    # The generator's updates to the discriminator's.
    "five_to_one": {_G + "updates": 5},
    "one_to_five": {_D + "updates": 5},
    "band": {_D + "band": (0.52, 0.6)},
    # What is frozen.
    "frozen_discriminator": {"phases.adversarial.freeze": "discriminator"},
    "alternate": {"phases.adversarial.freeze": "alternate", "phases.adversarial.freeze_turn": 50},
    # Labels.
    "no_smoothing": {_D + "smoothing": 1.0},
    "two_sided": {_D + "smoothing_generated": 0.1},
    # When it ends.
    "early_stopping": {
        "phases.adversarial.steps": 1600,
        "phases.adversarial.evaluate_every": 100,
        "phases.adversarial.stop.metrics": ("quality_diversity",),
        "phases.adversarial.stop.patience": 2,
    },
    # A tenth of the training data's tokens at random.
    "corrupted": {"data.corrupted": 0.1},
    "corrupted_mle_only": {"data.corrupted": 0.1, _G + "policy_gradient": 0.0},
}
SHOWN = {
    "oracle": ("reverse_kl", "forward_kl", "entropy", "discriminator_accuracy"),
    "scenes": ("true_captions", "nll", "self_bleu_4", "distinct_captions"),
}


def base(setting):
    """The configuration that a row changes."""
    config = {"oracle": oracle, "scenes": captions}[setting].get_config()
    config.seeds = SEEDS.value
    if setting == "oracle":
        config.oracle.update(vocabulary=200, size=16)
        config.data.update(length=12, train_size=2000, validation_size=1000, test_size=2000)
        config.evaluation.update(validation_limit=1000)
        for network in (config.generator, config.discriminator):
            network.update(embedding_size=32, hidden_size=32, num_layers=3, dropout=0.2)
        config.generator.update(output_size=32, attention_size=16)
        config.discriminator.update(kind="lstm", attention_size=16, feature_size=32)
        config.discriminator.update(num_heads=2, head_size=8)
        for key in ("members", "output_size"):
            del config.discriminator[key]
    else:
        config.data.update(train_size=2000)
        config.evaluation.update(validation_limit=200)
    order = ["pretrain_generator", "pretrain_discriminator", "adversarial"]
    config.phases.order = tuple(["pretrain_encoder"] * (setting == "scenes") + order)
    config.phases.pretrain_generator.update(steps=800, evaluate_every=200)
    if setting == "scenes":
        config.phases.pretrain_encoder.steps = 1000
        config.phases.pretrain_generator.update(steps=2500, evaluate_every=500)
    learning = {"learning_rate": 1e-3, "warmup": 20, "decay": 0.0}
    judged = {"classification": 1.0, "smoothing": 0.9, "smoothing_generated": 0.0, "updates": 1}
    both = learning | judged
    if setting == "oracle":
        both |= {"mle": 0.0, "mismatch": 0.0, "per_step": 0.5}
    start = {"steps": 100, "start_from": "best", "select": "discriminator_accuracy"}
    config.phases.pretrain_discriminator.update(start)
    config.phases.pretrain_discriminator.discriminator.update(both)
    config.phases.adversarial.update(steps=400, evaluate_every=1600, batch_size=64)
    config.phases.adversarial.discriminator.update(both | {"learning_rate": 3e-4})
    config.phases.adversarial.generator.update(
        learning | {"learning_rate": 3e-4, "updates": 1, "mle": 1.0, "policy_gradient": 1.0},
        reward="probability",
        estimator="rollout",
        baseline="prefix",
        num_rollouts=4,
    )
    return config


def judged(setting, row):
    """Trains and judges a row, or takes what was found before: metrics of each seed, by stage."""
    folder = Path(FOLDER.value) / setting / row
    found = {}
    config = base(setting)
    config.update_from_flattened_dict(ROWS[row])
    names = {"pretrain_generator": "evaluation-pretrain_generator.json", "last": "evaluation.json"}
    if not all((folder / name).exists() for name in names.values()):
        train(config.lock(), str(folder), quiet=True)
        evaluate(
            str(folder),
            split="test",
            checkpoints=list(names),
            swept=None,
            num_samples=None,
            num_noise=1,
            beam_size=None,
            rerank=1,
            reject=False,
            limit=LIMIT.value,
            seed=0,
            batch_size=100,
            quiet=True,
        )
    for stage, name in names.items():
        content = json.loads((folder / name).read_text())
        found[stage] = [
            {key: figure["value"] for key, figure in own.items()} for own in content["replicas"]
        ]
    return found


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
    setting = SETTING.value
    rows = ROWS_CHOSEN.value or [row for row in ROWS if setting == "oracle" or "corr" not in row]
    unknown = sorted(set(rows) - ROWS.keys())
    if unknown:
        raise app.UsageError(f"--rows: no row {unknown[0]}; choose from {', '.join(ROWS)}")
    default, lines = judged(setting, "default"), []
    for row in rows:
        lines.append(told(setting, row, judged(setting, row), default))
        print(json.dumps(lines[-1]), flush=True)
    print(table(setting, lines))


if __name__ == "__main__":
    app.run(main)
