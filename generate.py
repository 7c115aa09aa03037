"""Writes with a trained model: python generate.py --workdir=RUN --image=photo.jpg"""

from absl import app, flags

from seqgan_jax import program
from seqgan_jax.core.sampling import Truncation

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
IMAGE = flags.DEFINE_multi_string("image", None, "For captions: an image, or a folder of them.")
TEXT = flags.DEFINE_multi_string("text", None, "For translation and speech: a text.")
SPEAKER = flags.DEFINE_string("speaker", None, "For speech: whose voice; else the first.")
INPUT = flags.DEFINE_string("input", None, "A file of sources: lines, -: standard input, or .npz.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Sequences for each source: 5 if printed, 1 to a sound file."
)
SEED = flags.DEFINE_integer("seed", 0, "Equal seeds give equal sequences.")
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Below 1: more probable sequences.")
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw from the k most probable tokens; 0: from all.")
TOP_P = flags.DEFINE_float("top_p", 1.0, "Draw from the most probable tokens of this mass.")
BEAM_SIZE = flags.DEFINE_integer("beam_size", 0, "The N most probable sequences; 0: draw instead.")
RERANK = flags.DEFINE_integer(
    "rerank", 1, "Draw N times as many; the discriminator keeps the best.", lower_bound=1
)
REJECT = flags.DEFINE_bool(
    "reject", False, "Draw until the discriminator accepts; see docs/sampling.md."
)
PREFIX = flags.DEFINE_string("prefix", "", "How each sequence begins.")
LENGTH = flags.DEFINE_integer("length", None, "Most tokens of a sequence, its end included.")
BAN = flags.DEFINE_list("ban", [], "Tokens that are never written, with commas between.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "last", "last, best, or a phase's name.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "json"], "What to print.")
OUTPUT = flags.DEFINE_string("output", None, "Write to this file (.wav: speech), don't print.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of a user's error.")


def main(argv):
    del argv
    program.main(
        lambda: program.generate(
            WORKDIR.value,
            {
                "image": IMAGE.value,
                "text": TEXT.value,
                "input": INPUT.value,
                "speaker": SPEAKER.value,
            },
            num_samples=NUM_SAMPLES.value,
            seed=SEED.value,
            truncation=Truncation(TEMPERATURE.value, TOP_K.value, TOP_P.value),
            beam_size=BEAM_SIZE.value,
            rerank=RERANK.value,
            reject=REJECT.value,
            prefix=PREFIX.value,
            length=LENGTH.value,
            banned=BAN.value,
            checkpoint=CHECKPOINT.value,
            form=FORMAT.value,
            output=OUTPUT.value,
        ),
        debug=DEBUG.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=program.parse_flags)
