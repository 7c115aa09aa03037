"""Trains through all phases: batches in, checkpoints, metrics and pictures out."""

import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import held_out
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.reporting.metrics_log import MetricsLog
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import parallel
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.phases import Phase
from seqgan_jax.training.state import TrainState
from seqgan_jax.training.steps import Steps

VALIDATION = "validation"
# Phases whose metric falls as the network improves.
_FALLING = ("nll",)


class Interrupted(Exception):
    """The run was asked to stop, has saved its state and can be resumed."""


class Picture(NamedTuple):
    """What is drawn at an evaluation; see `Task.illustrate`."""

    captions: list[str]
    scores: list[float]
    tokens: np.ndarray
    attention: np.ndarray | None


class Loop:
    """A run of training in a directory.

    Args:
      config: the run's configuration.
      workdir: its directory.
      task: see `tasks`.
      steps: the compiled steps.
      phases: the schedule.
      progress: the display.
    """

    def __init__(
        self,
        config,
        workdir: Path,
        task,
        steps: Steps,
        phases: tuple[Phase, ...],
        progress: Progress,
    ):
        self.config = config
        self.workdir = workdir
        self.task = task
        self.steps = steps
        self.phases = phases
        self.progress = progress
        self.mesh = parallel.mesh()
        self._stop = threading.Event()

    def initial_state(self) -> TrainState:
        """A new run's state."""
        state = self.steps.init(self.config.seed, self.task.template())
        return parallel.replicate(state, self.mesh)

    def run(self) -> TrainState:
        """Trains from the newest checkpoint, or from nothing, to the end.

        Returns:
          The final state.

        Raises:
          Interrupted: after an interrupt or a termination signal, once the state is saved.
        """
        checkpoints = Checkpoints(self.workdir)
        state = self.initial_state()
        step = checkpoints.latest_step()
        if step is None:
            state = self.begin(state, 0)
        else:
            state = checkpoints.restore(step, shapes(state))
            self.progress.message(f"resuming from step {step}")
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            with MetricsLog(self.workdir, step) as log:
                for index in range(int(state.phase), len(self.phases)):
                    if index > int(state.phase):
                        state = self.begin(state, index)
                    state = self._run_phase(state, index, checkpoints, log)
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
            checkpoints.close()
        return state

    def begin(self, state: TrainState, index: int) -> TrainState:
        return parallel.replicate(
            self.steps.begin_phase(state, index, self.phases[index]), self.mesh
        )

    def _on_signal(self, number, frame):
        del frame
        if self._stop.is_set():  # asked twice: end at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stop.set()

    def batches(self, phase: Phase, index: int, start: int):
        batches = self.task.training_batches(
            batch_size=phase.batch_size,
            targets=phase.targets,
            seed=self._seed(index),
            start=start,
        )
        return (parallel.shard(batch, self.mesh) for batch in batches)

    def _seed(self, index: int) -> int:
        """Another order of the data in every phase."""
        return self.config.seed * 1000 + index

    def _run_phase(
        self, state: TrainState, index: int, checkpoints: Checkpoints, log: MetricsLog
    ) -> TrainState:
        phase = self.phases[index]
        done = int(state.phase_step)
        if done >= phase.steps:
            return state
        self.progress.start_phase(phase.name, index + 1, len(self.phases), done, phase.steps)
        batches = self.batches(phase, index, done)
        cycle = phase.cycle
        while done < phase.steps:
            batch = next(batches)
            state, scalars = self.steps.train_step(
                state, batch, phase=phase, network=phase.network(done)
            )
            done += 1
            ended = done == phase.steps
            step = int(state.step)
            scalars = {name: float(x) for name, x in jax.device_get(scalars).items()}
            tokens = phase.batch_size * phase.targets * self.task.length
            self.progress.update(done, {name: scalars[name] for name in _headline(scalars)}, tokens)
            if (done - 1) // cycle % self.config.logging.every == 0 or ended:
                log.scalars(step, phase.name, scalars)
            score = None
            due = done % phase.evaluate_every == 0 or ended
            if due:
                score = self._evaluate(state, phase, log)
            stopping = self._stop.is_set()
            if due or stopping or done % self.config.logging.checkpoint_every == 0:
                checkpoints.save(state, phase=phase.name, ended=ended, score=score)
            if stopping and not (ended and index == len(self.phases) - 1):
                raise Interrupted(f"saved at step {step}; the same command goes on from there")
        return state

    def _evaluate(self, state: TrainState, phase: Phase, log: MetricsLog) -> float:
        """Logs held-out figures, samples and pictures; returns the phase's own metric."""
        began = time.monotonic()
        step = int(state.step)
        figures, picture = self.figures(state)
        values = {f"{VALIDATION}/{name}": metric.value for name, metric in figures.items()}
        seconds = time.monotonic() - began
        log.scalars(step, phase.name, {**values, f"{VALIDATION}/seconds": seconds})
        folder = self.workdir / "samples" / f"{step:08d}-{phase.name}"
        drawn = self.task.illustrate(folder, VALIDATION, *picture)
        for name, image in drawn.items():
            log.image(step, f"{VALIDATION}/{name}", image)
        log.text(step, f"{VALIDATION}/samples", "\n".join(picture.captions))
        self.progress.sample(picture.captions[0])
        self.progress.evaluated({name: m.value for name, m in figures.items() if name in _SHOWN})
        if phase.select not in figures:
            raise UserError(
                f"config.phases.{phase.name}.select: no figure '{phase.select}'; choose from "
                f"{', '.join(figures)}"
            )
        value = figures[phase.select].value
        return -value if phase.select in _FALLING else value

    def figures(self, state: TrainState) -> tuple[dict[str, Metric], Picture]:
        """Held-out figures on a part of the validation data, and what to draw of it."""
        options = self.config.evaluation
        size = {"batch_size": options.batch_size, "limit": options.validation_limit}
        pairs = lambda: self.task.pairs(VALIDATION, **size)
        seed = self.config.seed
        figures = {
            "nll": held_out.likelihood(self.steps, state, pairs(), seed=seed, num_noise=1),
            "nll_shuffled": held_out.likelihood(
                self.steps, state, pairs(), seed=seed, num_noise=1, shuffled=True
            ),
        }
        figures |= held_out.discrimination(self.steps, state, pairs(), seed=seed)
        samples = list(
            held_out.write(
                self.steps,
                state,
                self.task.sources(VALIDATION, **size),
                seed=seed,
                num_samples=options.num_samples,
            )
        )
        texts = [[self.task.decode(tokens) for tokens in sample.tokens] for sample in samples]
        figures |= self.task.evaluate(VALIDATION, texts, thorough=False)
        shown = min(options.num_pictures, len(samples))
        batch = next(iter(self.task.sources(VALIDATION, batch_size=1, limit=1)))
        attention = self.steps.attention(
            state.generator.params, batch, jax.random.key(seed), samples[0].tokens[:1]
        )
        return figures, Picture(
            [captions[0] for captions in texts[:shown]],
            [float(sample.scores[0]) for sample in samples[:shown]],
            samples[0].tokens[0],
            None if attention is None else np.asarray(attention[0]),
        )


def _headline(scalars: dict[str, float]) -> list[str]:
    wanted = ("loss", "reward", "accuracy_generated")
    return [name for name in scalars if name.partition("/")[2] in wanted]


_SHOWN = (
    "nll",
    "nll_shuffled",
    "discriminator_accuracy",
    "true_captions",
    "cider_d",
    "distinct_captions",
)
