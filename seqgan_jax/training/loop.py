"""Trains through all phases: batches in, checkpoints, metrics and pictures out."""

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import held_out
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.reporting.metrics_log import MetricsLog
from seqgan_jax.reporting.profile import Profile
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import parallel
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.phases import Phase
from seqgan_jax.training.state import TrainState
from seqgan_jax.training.steps import Steps

VALIDATION = "validation"
# Figures of every task.
_FALLING = ("nll",)
_SHOWN = ("nll", "nll_shuffled", "discriminator_accuracy")


class Interrupted(Exception):
    """The run was asked to stop, has saved its state and can be resumed."""


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
      figures: by name.
      samples: what was written for the first sources, as many as are shown.
      attention: where the first of them looked at each token, [T, S], or None.
    """

    figures: dict[str, Metric]
    samples: list[held_out.Sample]
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
      profile: how many steps of every phase to trace, once they are compiled.
    """

    def __init__(
        self,
        config,
        workdir: Path,
        task,
        steps: Steps,
        phases: tuple[Phase, ...],
        progress: Progress,
        profile: int = 0,
    ):
        self.config = config
        self.workdir = workdir
        self.task = task
        self.steps = steps
        self.phases = phases
        self.progress = progress
        self.profile = profile
        self.mesh = parallel.mesh()
        self._stop = threading.Event()
        self._newest: Evaluation | None = None

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
        """The state at a phase's start."""
        self._newest = None
        return parallel.replicate(
            self.steps.begin_phase(state, index, self.phases[index]), self.mesh
        )

    def _on_signal(self, number, frame):
        del frame
        if self._stop.is_set():  # asked twice: end at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._stop.set()

    def batches(self, phase: Phase, index: int, network: str, start: int) -> Iterator[dict]:
        """A network's batches in a phase, from its number `start` on."""
        batches = self.task.training_batches(
            batch_size=phase.sources(network),
            targets=phase.targets,
            # Another order of the data in every phase and for each network.
            seed=self.config.seed * 1000 + 2 * index + (network == "discriminator"),
            start=start,
        )
        return (parallel.shard(batch, self.mesh) for batch in batches)

    def _run_phase(
        self, state: TrainState, index: int, checkpoints: Checkpoints, log: MetricsLog
    ) -> TrainState:
        phase = self.phases[index]
        done = int(state.phase_step)
        if done >= phase.steps:
            return state
        self.progress.start_phase(phase.name, index + 1, len(self.phases), done, phase.steps)
        batches = {
            network: self.batches(phase, index, network, int(phase.updates_before(network, done)))
            for network in phase.networks
        }
        cycle = phase.cycle
        profile = Profile(self.workdir / "profile" / phase.name, done + cycle, self.profile)
        while done < phase.steps:
            profile.before(done)
            network = phase.network(done)
            state, scalars = self.steps.train_step(
                state, next(batches[network]), phase=phase, network=network
            )
            done += 1
            ended = done == phase.steps
            step = int(state.step)
            scalars = {name: float(x) for name, x in jax.device_get(scalars).items()}
            tokens = phase.sources(network) * phase.targets * self.task.length
            self.progress.update(done, {name: scalars[name] for name in _headline(scalars)}, tokens)
            if phase.first_in_window(done - 1, self.config.logging.every) or ended:
                log.scalars(step, phase.name, scalars)
            score = None
            due = done % phase.evaluate_every == 0 or ended
            if due:
                score = self._evaluate(state, phase, log)
            stopping = self._stop.is_set()
            if due or stopping or done % self.config.logging.checkpoint_every == 0:
                checkpoints.save(state, phase=phase.name, ended=ended, score=score)
            if stopping and not (ended and index == len(self.phases) - 1):
                profile.stop()
                raise Interrupted(f"saved at step {step}; the same command goes on from there")
        profile.stop()
        return state

    def _evaluate(self, state: TrainState, phase: Phase, log: MetricsLog) -> float:
        """Logs held-out figures, samples and pictures; returns the phase's own metric."""
        began = time.monotonic()
        step = int(state.step)
        self._newest = found = self.evaluate(state)
        figures = found.figures
        values = {f"{VALIDATION}/{name}": metric.value for name, metric in figures.items()}
        seconds = time.monotonic() - began
        log.scalars(step, phase.name, {**values, f"{VALIDATION}/seconds": seconds})
        folder = self.workdir / "samples" / f"{step:08d}-{phase.name}"
        drawn = self.task.illustrate(folder, VALIDATION, found.samples, found.attention)
        for name, image in drawn.items():
            log.image(step, f"{VALIDATION}/{name}", image)
        texts = [self.task.decode(sample.tokens[0]) for sample in found.samples]
        log.text(step, f"{VALIDATION}/samples", "\n".join(texts))
        self.progress.sample(texts[0])
        shown = _SHOWN + self.task.shown
        self.progress.evaluated({name: m.value for name, m in figures.items() if name in shown})
        if phase.select not in figures:
            raise UserError(
                f"config.phases.{phase.name}.select: no figure '{phase.select}'; choose from "
                f"{', '.join(figures)}"
            )
        value = figures[phase.select].value
        return -value if phase.select in _FALLING + self.task.falling else value

    def newest(self, state: TrainState) -> Evaluation:
        """The evaluation of the state that `run` gave, made if the run had ended before."""
        return self._newest or self.evaluate(state)

    def evaluate(self, state: TrainState) -> Evaluation:
        """Held-out figures on a part of the validation data, and what to show of it."""
        options = self.config.evaluation
        figures, samples = held_out.figures(
            self.steps,
            state,
            self.task,
            VALIDATION,
            batch_size=options.batch_size,
            limit=options.validation_limit,
            seed=self.config.seed,
            num_samples=options.num_samples,
            num_noise=1,
            thorough=False,
        )
        attention = self.steps.attention(
            state.generator.params,
            next(iter(self.task.sources(VALIDATION, batch_size=1, limit=1))),
            jax.random.key(self.config.seed),
            samples[0].tokens[:1],
        )
        return Evaluation(
            figures,
            samples[: options.num_pictures],
            None if attention is None else np.asarray(attention[0]),
        )


def _headline(scalars: dict[str, float]) -> list[str]:
    wanted = ("loss", "reward", "accuracy_generated")
    return [name for name in scalars if name.partition("/")[2] in wanted]
