"""Trains a run; the same command goes on with one that was stopped.

python train.py --config=configs/captions.py
python train.py --config=configs/captions.py:smoke --workdir=runs/trial
python train.py --config=configs/text.py --config.data.path=mine.txt --dry_run

Any value of the configuration can be set: --config.seed=1. docs/ explains them.
"""

from seqgan_jax.programs import watcher

if __name__ == "__main__":
    watcher.watch()  # before the libraries, which only its child needs

from absl import app, flags
from ml_collections import config_flags

from seqgan_jax.programs import distributed, start
from seqgan_jax.programs.dry_run import dry_run
from seqgan_jax.programs.train import train

CONFIG = config_flags.DEFINE_config_file("config", None, "The run's configuration: FILE:VARIANT.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; runs/TASK-VARIANT by default.")
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Train nothing; print configuration, sizes, memory and time."
)
QUIET = flags.DEFINE_bool("quiet", False, "Print errors only; with --dry_run: no progress.")
PROFILE = flags.DEFINE_integer(
    "profile", 0, "Trace so many steps of every phase (TensorBoard, Perfetto).", lower_bound=0
)
DISTRIBUTED = flags.DEFINE_enum("distributed", "off", ["off", "auto"], "auto: as the cluster says.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several.")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.", lower_bound=1)
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.", lower_bound=0)
PATIENCE = flags.DEFINE_integer(
    "patience", 100, "Seconds until a silent process is given up.", lower_bound=1
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of a user's error.")


def main(argv):
    del argv
    if DRY_RUN.value:
        program = lambda: dry_run(CONFIG.value, WORKDIR.value, quiet=QUIET.value)
    else:
        program = lambda: train(
            CONFIG.value, WORKDIR.value, quiet=QUIET.value, profile=PROFILE.value
        )
    asked = (DISTRIBUTED.value == "auto", COORDINATOR.value, PROCESSES.value, PROCESS.value)
    distributed.main(program, distributed.Options(*asked, PATIENCE.value), debug=DEBUG.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=start.parse_flags)
