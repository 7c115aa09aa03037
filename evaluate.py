"""Judges a trained model on held-out data: python evaluate.py --workdir=RUN --split=test"""

from absl import app, flags

from seqgan_jax import program

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
SPLIT = flags.DEFINE_string("split", "test", "Which held-out data.")
CHECKPOINT = flags.DEFINE_list(
    "checkpoint", ["last"], "last, best or phases' names; several are shown side by side."
)
SWEEP = flags.DEFINE_enum(
    "sweep", None, ["temperature"], "Figures at every temperature of 0.5 to 1.5, and a picture."
)
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Samples for each source; the task's own number by default.", lower_bound=1
)
NUM_NOISE = flags.DEFINE_integer(
    "num_noise", 16, "Noise samples of the likelihood's bound.", lower_bound=1
)
BEAM_SIZE = flags.DEFINE_integer(
    "beam_size", None, "Width of the beam search; 3 by default.", lower_bound=1
)
RERANK = flags.DEFINE_integer(
    "rerank", 1, "Also judge the best of N times as many, by the discriminator.", lower_bound=1
)
LIMIT = flags.DEFINE_integer("limit", None, "Only so many sources.", lower_bound=2)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 100, "Sources at once.", lower_bound=2)
SEED = flags.DEFINE_integer("seed", 0, "Equal seeds give equal figures.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of a user's error.")


def main(argv):
    del argv
    program.main(
        lambda: program.evaluate(
            WORKDIR.value,
            split=SPLIT.value,
            checkpoints=CHECKPOINT.value,
            swept=SWEEP.value,
            num_samples=NUM_SAMPLES.value,
            num_noise=NUM_NOISE.value,
            beam_size=BEAM_SIZE.value,
            rerank=RERANK.value,
            limit=LIMIT.value,
            seed=SEED.value,
            batch_size=BATCH_SIZE.value,
        ),
        debug=DEBUG.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=program.parse_flags)
