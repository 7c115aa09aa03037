"""Writes with a trained model.

python generate.py --workdir=runs/captions-default --image=photo.jpg
python generate.py --workdir=runs/translation-default --text="one" --beam_size=3
python generate.py --workdir=runs/text-default --top_p=0.9 --output=samples.txt
"""

from absl import app, flags

from seqgan_jax.programs import start
from seqgan_jax.programs.generate import generate

WORKDIR = flags.DEFINE_string("workdir", None, "The run.", required=True)
IMAGE = flags.DEFINE_multi_string("image", None, "For captions: an image, or a folder.")
TEXT = flags.DEFINE_multi_string("text", None, "For translation and speech: a text.")
SPEAKER = flags.DEFINE_string("speaker", None, "For speech: whose voice; else the first.")
VIDEO = flags.DEFINE_string("video", None, "For video: a clip, or a folder of its frames.")
MASK = flags.DEFINE_string("mask", None, "For video: x,y,w,h[,t0,t1] to fill, pixels and frames.")
INPUT = flags.DEFINE_string("input", None, "A file of sources: lines, -: standard input, or .npz.")
NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Sequences for each source: 5 if printed, 1 to a sound file."
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Equal seeds give equal sequences.", lower_bound=0, upper_bound=2**63 - 1
)
TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Below 1: more probable sequences.")
TOP_K = flags.DEFINE_integer("top_k", 0, "Draw from the k most probable tokens; 0: from all.")
TOP_P = flags.DEFINE_float("top_p", 1.0, "Draw from the most probable tokens of this mass.")
BEAM_SIZE = flags.DEFINE_integer("beam_size", 0, "The N most probable sequences; 0: draw instead.")
LENGTH_PENALTY = flags.DEFINE_float(
    "length_penalty", 0.0, "Of the beam search: above 0, longer sequences."
)
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
REPLICA = flags.DEFINE_integer("replica", 0, "Which of a run of several seeds.")
FORMAT = flags.DEFINE_enum("format", "text", ["text", "lines", "json"], "What to print.")
OUTPUT = flags.DEFINE_string("output", None, "The file to write to, don't print (.wav, .mp4).")
QUIET = flags.DEFINE_bool("quiet", False, "Nothing on the terminal but what was written.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of a user's error.")

# What `Model.generate` takes by the same names.
OPTIONS = (
    IMAGE,
    TEXT,
    SPEAKER,
    VIDEO,
    MASK,
    INPUT,
    SEED,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    BEAM_SIZE,
    LENGTH_PENALTY,
    RERANK,
    REJECT,
    PREFIX,
    LENGTH,
    BAN,
)


def main(argv):
    del argv
    start.main(
        lambda: generate(
            WORKDIR.value,
            {option.name: option.value for option in OPTIONS},
            num_samples=NUM_SAMPLES.value,
            checkpoint=CHECKPOINT.value,
            replica=REPLICA.value,
            form=FORMAT.value,
            output=OUTPUT.value,
            quiet=QUIET.value,
        ),
        debug=DEBUG.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=start.parse_flags)
