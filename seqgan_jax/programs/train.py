"""Training a run."""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections

from seqgan_jax.core.sampling import Truncation
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import held_out
from seqgan_jax.evaluation.report import table, write_evaluation
from seqgan_jax.programs.documents import document
from seqgan_jax.programs.run import Run, trained_elsewhere
from seqgan_jax.programs.start import compilation_cache
from seqgan_jax.reporting import html_report
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import phases as schedule
from seqgan_jax.training import processes, replicas
from seqgan_jax.training.loop import VALIDATION, Evaluation
from seqgan_jax.training.state import TrainState


def train(
    config: ml_collections.ConfigDict,
    workdir: str | None,
    *,
    quiet: bool = False,
    profile: int = 0,
) -> None:
    """Trains a run to its end, from wherever it stands, and shows what it has learned."""
    compilation_cache()
    directory = Path(workdir or f"runs/{config.task}-{config.variant}")
    work = [phase.work for phase in schedule.parse(config.phases, trained_elsewhere(config))]
    silent = quiet or not processes.is_first()
    with Progress(work=work, quiet=silent) as progress, _writing(directory):
        run = Run(directory, config, progress, profile)
        if run.task.message:
            progress.message(run.task.message)
        state = run.loop.run()
        if int(state.phase_step) == 0:
            progress.message("nothing to train: all phases have no steps")
        found = run.loop.newest(state)
        folder = directory / "samples" / "final"
        drawn = processes.from_first(lambda: _write_end(run, folder, found))
        shown = state if run.steps.replicas == 1 else replicas.one(state, 0)
        closing = [] if quiet else list(_closing(run, shown, found.samples))
        progress.finish()
    if not silent:
        print(f"this run is finished; on {found.figures['nll'].n} held-out {run.task.items}:")
        print(table({VALIDATION: found.figures}))
        for title, samples in closing:
            print(title)
            for sample in samples:
                print(f"  {run.task.decode(sample.tokens[0])}")
        files = [folder / f"{name}.png" for name in drawn]
        if files:
            print(f"pictures: {', '.join(map(str, files))}")
        print(f"report: {directory / html_report.FILE_NAME}")
        if profile:
            print(f"traces of {profile} steps a phase: {directory / 'profile'}")


def _write_end(run: Run, folder: Path, found: Evaluation) -> list[str]:
    """Writes what a finished run leaves behind; the names of the pictures of its samples."""
    directory, config = run.workdir, run.config
    drawn = run.task.illustrate(folder, VALIDATION, found.samples, found.attention)
    write_evaluation(
        directory / "validation.json",
        task=config.task,
        split=VALIDATION,
        checkpoint="last",
        seed=config.seed,
        metrics=found.figures,
    )
    document(run)
    return list(drawn)


@contextlib.contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Turns a full disk, and files that can't be written any more, into one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise UserError(
            f"{error.filename or directory}: can't be read or written ({error.strerror}); make "
            "room or make it accessible; the same command then goes on from the last checkpoint"
        ) from error


_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
)  # fmt: skip


def _closing(
    run: Run, state: TrainState, samples: Sequence[held_out.Sample]
) -> Iterator[tuple[str, Sequence[held_out.Sample]]]:
    """What a finished run shows of what it writes: titles, and samples below them.

    Those of the last evaluation, or new ones at each of `config.evaluation.temperatures`.
    """
    temperatures = run.config.evaluation.get("temperatures", ())
    if not temperatures:
        yield f"{run.task.items} that it writes for data that it never saw:", samples
    for temperature in temperatures:
        count = len(samples)
        batches = run.task.sources(VALIDATION, batch_size=count, limit=count)
        truncation = Truncation(temperature, banned=run.task.banned)
        written = held_out.write(
            run.steps, state, batches, seed=run.config.seed, num_samples=1, truncation=truncation
        )
        yield f"{run.task.items} that it writes at temperature {temperature:g}:", list(written)
