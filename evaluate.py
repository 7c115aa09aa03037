"""Judges a trained model on held-out data, or anybody's samples beside real text.

python evaluate.py --workdir=runs/captions-default --split=heldout
python evaluate.py --samples=FILE --references=FILE
python evaluate.py --compare A B C [--references=FILE]
"""

from absl import app, flags

from seqgan_jax.programs import start
from seqgan_jax.programs.compare import evaluate_or_compare

WORKDIR = flags.DEFINE_string("workdir", None, "The run.")
SPLIT = flags.DEFINE_string("split", "test", "Which held-out data.")
CHECKPOINT = flags.DEFINE_list("checkpoint", ["last"], "last, best or phases' names, side by side.")
REPLICA = flags.DEFINE_integer(
    "replica", None, "Which of a run of several seeds; all of them by default."
)
SWEEP = flags.DEFINE_enum("sweep", None, ["temperature"], "Figures at temperatures of 0.5 to 1.5.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Samples for each source; else the task's number.", lower_bound=1
)
NUM_NOISE = flags.DEFINE_integer(
    "num_noise", 16, "Noise samples of the likelihood's bound.", lower_bound=1
)
BEAM_SIZE = flags.DEFINE_integer(
    "beam_size", None, "Width of the beam search; 3 by default.", lower_bound=1
)
RERANK = flags.DEFINE_integer(
    "rerank", 1, "Also judge the discriminator's choice of N times more.", lower_bound=1
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 1.0, "Also judge what is drawn at this temperature.", lower_bound=0.01
)
REJECT = flags.DEFINE_bool("reject", False, "Also judge what the discriminator accepts.")
LIMIT = flags.DEFINE_integer("limit", None, "Only so many sources.", lower_bound=2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Sources at once.", lower_bound=2)
SEED = flags.DEFINE_integer(
    "seed", 0, "Equal seeds give equal figures.", lower_bound=0, upper_bound=2**32 - 1
)
QUIET = flags.DEFINE_bool("quiet", False, "No progress, the table alone.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of a user's error.")

SAMPLES = flags.DEFINE_string(
    "samples", None, "A file of samples, one a line (or .jsonl; also .gz)."
)
COMPARE = flags.DEFINE_list(
    "compare", [], "Runs or files of samples, side by side: --compare A B C"
)
REFERENCES = flags.DEFINE_string("references", None, "A file of real text kept out of training.")
TRAINING = flags.DEFINE_string("training", None, "A file of the training text, for novelty.")
TOKENIZER = flags.DEFINE_enum(
    "tokenizer", "word", ["word", "whitespace", "character"], "What a token is."
)
EMBEDDER = flags.DEFINE_string(
    "embedder", None, "Sentences as vectors: wordllama, lsa or module:function."
)
CALIBRATE = flags.DEFINE_bool(
    "calibrate", True, "Judge half of the references against the other half."
)
OUTPUT = flags.DEFINE_string("output", None, "The JSON file to write; --compare: comparison.json.")


def main(argv):
    start.main(
        lambda: evaluate_or_compare(
            WORKDIR.value,
            SAMPLES.value,
            [*COMPARE.value, *argv[1:]],
            run={
                "split": SPLIT.value,
                "checkpoints": CHECKPOINT.value,
                "num_samples": NUM_SAMPLES.value,
                "num_noise": NUM_NOISE.value,
                "beam_size": BEAM_SIZE.value,
                "rerank": RERANK.value,
                "reject": REJECT.value,
                "temperature": TEMPERATURE.value,
                "limit": LIMIT.value,
                "batch_size": BATCH_SIZE.value,
                "replica": REPLICA.value,
            },
            text={
                "references": REFERENCES.value,
                "training": TRAINING.value,
                "tokenizer": TOKENIZER.value,
                "embedder": EMBEDDER.value,
                "calibrate": CALIBRATE.value,
            },
            swept=SWEEP.value,
            seed=SEED.value,
            output=OUTPUT.value,
            quiet=QUIET.value,
        ),
        debug=DEBUG.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=start.parse_flags)
