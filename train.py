"""Trains a run: python train.py --config=configs/captions.py --workdir=RUN

The same command goes on with a run that was stopped.
"""

from absl import app, flags
from ml_collections import config_flags

from seqgan_jax.programs import start
from seqgan_jax.programs.train import train

CONFIG = config_flags.DEFINE_config_file("config", None, "The run's configuration.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/TASK-VARIANT by default.")
QUIET = flags.DEFINE_bool("quiet", False, "Print errors only.")
PROFILE = flags.DEFINE_integer(
    "profile", 0, "Trace so many steps of every phase for TensorBoard or Perfetto.", lower_bound=0
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of a user's error.")


def main(argv):
    del argv
    start.main(
        lambda: train(CONFIG.value, WORKDIR.value, quiet=QUIET.value, profile=PROFILE.value),
        debug=DEBUG.value,
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=start.parse_flags)
