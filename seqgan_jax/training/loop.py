"""Trains through all phases: batches in, checkpoints, metrics and pictures out."""

import collections
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax.core.rejection import Calibration
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import calibration, held_out
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.files import remove_leftovers
from seqgan_jax.reporting import html_report
from seqgan_jax.reporting.compile_time import CompileTime
from seqgan_jax.reporting.metrics_log import MetricsLog
from seqgan_jax.reporting.profile import Profile
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.reporting.watch import StallWatch, StepTimes
from seqgan_jax.training import processes, replicas
from seqgan_jax.training.checkpoint import Checkpoints, shapes
from seqgan_jax.training.external import Reward
from seqgan_jax.training.origin import Start
from seqgan_jax.training.phases import NETWORKS, Guard, Phase, parse_rejection
from seqgan_jax.training.preemption import PreemptionNotice
from seqgan_jax.training.state import TrainState, path
from seqgan_jax.training.steps import Steps

VALIDATION = "validation"
# Figures of every task.
_FALLING = ("nll", "nll_reverse", "discriminator_loss")
_SHOWN = ("nll", "nll_shuffled", "discriminator_accuracy")
# Seconds of an update from which on the device waits for its figures to be read.
_LONG = 1.0


class Interrupted(Exception):
    """The run was asked to stop, has saved its state and can be resumed.

    Attributes:
      signal: the number of the signal that asked.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class _Diverged(Exception):
    """So many updates in a row were not finite that the run goes back to its last checkpoint.

    Attributes:
      state: the newest, which may be of an update more.
      what: how many updates these were, and when.
    """

    def __init__(self, state: TrainState, what: str):
        super().__init__()
        self.state = state
        self.what = what


class _Given(NamedTuple):
    """An update that the device was given.

    Attributes:
      done: updates of the phase with it.
      step: updates of the run with it.
      found: what it gives beside the state, perhaps not computed yet.
      tokens: that it learns from.
      began: when its batch was asked for, a monotonic clock's seconds.
      waiting: for how long it waited for that while the device had nothing to do, seconds.
      timed: whether its time counts: not with its compilation.
    """

    done: int
    step: int
    found: dict
    tokens: int
    began: float
    waiting: float
    timed: bool


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
      figures: by name.
      samples: what was written for the first sources, as many as are shown.
      attention: where the first of them looked at each token, [T, S], or None.
      distinct: share of different sequences among all that were written.
    """

    figures: dict[str, Metric]
    samples: list[held_out.Sample]
    attention: np.ndarray | None
    distinct: float


class Loop:
    """A run of training in a directory.

    Args:
      config: the run's configuration.
      workdir: its directory.
      task: see `tasks`.
      steps: the compiled steps.
      phases: the schedule.
      guard: what to do when training breaks.
      progress: the display.
      profile: how many steps of every phase to trace, once they are compiled.
      reward: what is mixed with the discriminator's rewards; or None.

    Attributes:
      start: gives what each replica's networks start with; None where that is nothing.
    """

    def __init__(
        self,
        config,
        workdir: Path,
        task,
        steps: Steps,
        phases: tuple[Phase, ...],
        guard: Guard,
        progress: Progress,
        profile: int = 0,
        reward: Reward | None = None,
    ):
        self.config = config
        self.workdir = workdir
        self.task = task
        self.steps = steps
        self.phases = phases
        self.guard = guard
        self.progress = progress
        self.profile = profile
        self.reward = reward
        self.layout = steps.layout
        self._seeds = [config.seed + replica for replica in range(steps.replicas)]
        # Only process 0 writes what all share; the others keep their records beside it.
        self._folder = processes.own_folder(workdir)
        self._compile_time = CompileTime()
        self._signal = 0  # the one that asked to stop
        self._notice = ""  # the one that said that this machine will go
        self._step_times = StepTimes()
        self._read_at = -math.inf  # when the figures of an update were read last
        self._took = 0.0  # seconds that it took
        self._watch = StallWatch(config.logging.stall_seconds)
        self._newest: Evaluation | None = None
        self.start: Callable[[], Sequence[Start]] | None = None

    def initial_state(self, starts: Sequence[Start] | None = None) -> TrainState:
        """A new run's state."""
        template = self.task.template()
        states = [self.steps.init(seed, template) for seed in self._seeds]
        if starts:
            states = [start(state) for start, state in zip(starts, states, strict=True)]
        return self.layout.place(replicas.stack(states))

    def parameters(self) -> list[str]:
        """The paths of all parameters, 'generator/...' and 'discriminator/...'."""
        state = jax.eval_shape(lambda: self.steps.init(self.config.seed, self.task.template()))
        return [
            f"{name}/{path(keys)}"
            for name in NETWORKS
            for keys, _ in jax.tree_util.tree_leaves_with_path(getattr(state, name).params)
        ]

    def run(self) -> TrainState:
        """Trains from the newest checkpoint, or from nothing, to the end.

        Returns:
          The final state.

        Raises:
          Interrupted: after an interrupt, a termination signal or a notice of preemption, once the
            state is saved.
          UserError: where training breaks again and again.
        """
        processes.from_first(lambda: remove_leftovers(self.workdir))
        checkpoints = Checkpoints(self.workdir, self.config.get("checkpoint_folder"))
        step = checkpoints.latest_step()
        state = self._newest_state(checkpoints, step)
        if step is not None:
            self.progress.message(f"resuming from step {step}")
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            while True:
                try:
                    notices = PreemptionNotice(self._on_notice)
                    with MetricsLog(self._folder, step) as log, self._watch, notices:
                        state = self._run_phases(state, checkpoints, log)
                    break
                except _Diverged as diverged:
                    step = checkpoints.latest_step()
                    state = self._back_to(step, diverged, checkpoints)
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
            checkpoints.close()
        return state

    def _newest_state(self, checkpoints: Checkpoints, step: int | None) -> TrainState:
        """The state of the newest checkpoint, or a new run's where there is none."""
        if step is None:
            return self.begin(self.initial_state(self.start and self.start()), 0)
        return checkpoints.restore(step, shapes(self.initial_state()))

    def _back_to(
        self, step: int | None, diverged: _Diverged, checkpoints: Checkpoints
    ) -> TrainState:
        """The last checkpoint's state in the phase that broke, with smaller learning rates.

        Raises:
          UserError: where the phase has gone back too often.
        """
        index = int(diverged.state.phase)
        name, safety = self.phases[index].name, diverged.state.safety
        times = int(safety.rollbacks.max()) + 1
        scale = float(safety.scale.min()) * self.guard.backoff
        what = f"phase {name}: {diverged.what} had a loss or a gradient that is not finite"
        if times > self.guard.limit:
            raise UserError(
                f"config.guard.limit: {what}, after going back {times - 1} times; the last "
                f"checkpoint is kept; lower config.phases.{name}.*.learning_rate in another "
                "--workdir, or raise the limit to go on here"
            )
        state = self._newest_state(checkpoints, step)
        for later in range(int(state.phase) + 1, index + 1):
            state = self.begin(state, later, checkpoints)
        self.progress.message(
            f"{what}; going back to step {int(state.step)} with learning rates times {scale:g}"
        )
        safety = state.safety.replace(
            skipped=safety.skipped,
            in_a_row=jnp.zeros_like(safety.in_a_row),
            rollbacks=jnp.full_like(safety.rollbacks, times),
            scale=jnp.full_like(safety.scale, scale),
        )
        return self.layout.place(state.replace(safety=safety))

    def begin(
        self, state: TrainState, index: int, checkpoints: Checkpoints | None = None
    ) -> TrainState:
        """The state at a phase's start, from the checkpoint that it names, if it names one."""
        phase = self.phases[index]
        self._newest = None
        if phase.start_from and checkpoints and phase.steps:
            found = checkpoints.restore(checkpoints.find(phase.start_from), shapes(state))
            state = state.replace(
                generator=found.generator,
                discriminator=found.discriminator,
                reverse=found.reverse,
            )
        return self.layout.place(self.steps.begin_phase(state, index, phase))

    def _on_signal(self, number, frame):
        del frame
        if self._signal:  # asked twice: end at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._signal = number

    def _on_notice(self, name: str) -> None:
        self._notice = name

    def batches(self, phase: Phase, index: int, network: str, start: int) -> Iterator[dict]:
        """A network's batches in a phase, from its number `start` on."""
        streams = [
            self.task.training_batches(
                batch_size=phase.sources(network),
                targets=phase.targets,
                # Another order of the data in every phase and for each network.
                seed=seed * 1000 + 2 * index + (network == "discriminator"),
                start=start,
                # Replicas' batches are of one length.
                cut=phase.only_likelihood and len(self._seeds) == 1,
                apart=network == "generator" and phase.generator.has("consistency"),
            )
            for seed in self._seeds
        ]
        return (self.layout.shard(batch) for batch in replicas.batches(streams))

    def _run_phases(
        self, state: TrainState, checkpoints: Checkpoints, log: MetricsLog
    ) -> TrainState:
        for index in range(int(state.phase), len(self.phases)):
            if index > int(state.phase):
                state = self.begin(state, index, checkpoints)
            phase = self.phases[index]
            first = int(state.phase_step) + phase.cycle
            profile = Profile(self._folder / "profile" / phase.name, first, self.profile)
            try:
                state = self._run_phase(state, index, checkpoints, log, profile)
            finally:
                profile.stop()
        return state

    def _run_phase(
        self,
        state: TrainState,
        index: int,
        checkpoints: Checkpoints,
        log: MetricsLog,
        profile: Profile,
    ) -> TrainState:
        phase = self.phases[index]
        done, over = int(state.phase_step), bool(state.stopping.stopped)
        if done >= phase.steps or over:
            return state
        self.progress.start_phase(phase.name, index + 1, len(self.phases), done, phase.steps)
        batches = {
            network: self.batches(phase, index, network, int(phase.updates_before(network, done)))
            for network in phase.networks
        }
        band = phase.discriminator.band if phase.discriminator else ()
        held = self._held_out_batch() if band else None
        programs = {network: phase.step_of(network) for network in phase.networks}
        collapsed, compiled, ahead, given = False, set(), {}, collections.deque()
        if phase.stop.regain and not done:
            state = self._remembered(state, phase)
        step = int(state.step)
        while done < phase.steps and not over:
            profile.before(done)
            network = None
            if phase.networks:
                network = phase.network(done)
                if network not in compiled:  # no other update's time has its compiling in it
                    self._told(given, 0, state)
                if band and done % phase.discriminator.band_every == 0:
                    state = self.steps.hold(state, held, band=band)
                self._watch.at(f"phase {phase.name}, its step {done + 1}, {network}")
                began = time.monotonic()
                batch = ahead.pop(network, None) or next(batches[network])
                if isinstance(batch, UserError):
                    raise batch
                program = programs[network]
                waiting = time.monotonic() - began
                rewarded = ()
                if self.reward and network == "generator" and phase.uses_rewards:
                    self._told(given, 0, state)
                    try:
                        rewarded = self._rewarded(state, batch, program)
                    except UserError:
                        # Several processes save together or not at all.
                        alone = processes.count() == 1
                        if alone and checkpoints.latest_step() != int(state.step):
                            checkpoints.save(state, phase=phase.name, ended=False, score=None)
                        raise
                state, found = self.steps.train_step(
                    state, batch, *rewarded, phase=program, network=network
                )
                tokens = phase.sources(network) * phase.targets * self.task.length
                tokens *= len(self._seeds)
                timed = network in compiled
                given.append(_Given(done + 1, step + 1, found, tokens, began, waiting, timed))
                compiled.add(network)
                if done + 1 < phase.steps:  # made while the device works
                    asked = time.monotonic()
                    try:
                        ahead[network] = next(batches[network])
                    except UserError as error:  # when it is needed, this step being saved
                        ahead[network] = error
                    if _ready(found):  # it stands still in the time of the update that is read next
                        waited = given[0].waiting + time.monotonic() - asked
                        given[0] = given[0]._replace(waiting=waited)
            else:
                state, scalars = self._calibrated(state)
                log.scalars(step + 1, phase.name, scalars)
            done, step = done + 1, step + 1
            due = done % phase.evaluate_every == 0 or done == phase.steps
            regular = due or done % self.config.logging.checkpoint_every == 0
            logged = network and phase.first_in_window(done - 1, self.config.logging.every)
            # The device has its next update before the figures of this one are read, unless they
            # are of use at once, or an update takes so long that nothing is gained; and several
            # processes have to agree after every update.
            at_once = regular or logged or self.guard.stop or done in profile.edges
            at_once = at_once or self._took > _LONG or processes.count() > 1
            told, scalars = self._told(given, 0 if at_once else 1, state)
            warning = self._collapse_of_entropy(told)
            due = due or (bool(warning) and self.guard.stop)
            if logged or (network and due):
                counted = {f"guard/{n}": told[n] for n in ("skipped", "rollbacks") if told[n]}
                log.scalars(step, phase.name, scalars | counted | self._spent())
            score = None
            if due:
                self._watch.at(f"phase {phase.name}, evaluation at step {step}")
                state, score, few = self._evaluate(state, phase, log)
                warning, over = warning or few, bool(state.stopping.stopped)
            if warning and not collapsed:
                collapsed = True
                self.progress.message(f"warning: phase {phase.name}, step {step}: {warning}")
            if warning and self.guard.stop and not over:
                state, over = self._stopped(state), True
            ended = over or done == phase.steps
            if ended and not over and phase.stop.regain:
                self.progress.message(
                    f"warning: phase {phase.name} ends with worse {_metrics(phase)} than it began "
                    f"with; raise config.phases.{phase.name}.steps"
                )
            if over and done < phase.steps:
                reason = warning if warning and self.guard.stop else _enough(phase, state)
                self.progress.message(f"phase {phase.name} ends at step {done:,}: {reason}")
            # A notice is no first signal: the one that may follow must not end the saving.
            own = self._signal or (signal.SIGTERM if self._notice else 0)
            asked = processes.stop_after(step, own)
            stopping = bool(asked)
            if stopping:
                self._told(given, 0, state)
            self._watch.at(f"phase {phase.name}, saving step {step}")
            checkpoints.check()
            # A checkpoint amid updates that were skipped would be no good one to go back to.
            if ended or stopping or ((due or regular) and not told.get("in_a_row")):
                checkpoints.save(state, phase=phase.name, ended=ended, score=score)
            if stopping and not (ended and index == len(self.phases) - 1):
                why = f"preemption notice ({self._notice}): " if self._notice else ""
                raise Interrupted(
                    f"{why}saved at step {step}; the same command goes on from there", asked
                )
        return state

    def _told(
        self, given: "collections.deque[_Given]", behind: int, state: TrainState
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Reads the figures of all updates but the last `behind`, as the device is done with them.

        Returns:
          What `_read` finds of the last of them; of none, nothing.

        Raises:
          _Diverged: too many updates in a row were skipped; `state` is the newest one.
        """
        told, scalars = {}, {}
        while len(given) > behind:
            update = given.popleft()
            told, scalars = _read(jax.device_get(update.found))
            now = time.monotonic()
            self._took, self._read_at = now - max(update.began, self._read_at), now
            if update.timed:
                self._step_times.add(self._took, update.waiting, update.tokens)
            shown = {name: scalars[name] for name in _headline(scalars)}
            self.progress.update(update.done, shown, update.tokens)
            if told["in_a_row"] >= self.guard.patience:
                many = f"{int(told['in_a_row'])} updates in a row up to step {update.step}"
                raise _Diverged(state, many)
        return told, scalars

    def _rewarded(self, state: TrainState, batch: dict, program: Phase) -> tuple:
        """What the generator draws for its next update, and its values by the external reward."""
        drawn = self.steps.draw(state, batch, phase=program)
        shown = drawn.sample.tokens, drawn.sample.mask, drawn.completions, drawn.example_id
        values = self.reward.values(*self.layout.local_rows(shown))
        return drawn, self.layout.shard(values)

    def _held_out_batch(self) -> dict:
        """The first validation pairs, by which the discriminator's accuracy is held in a band."""
        options = self.config.evaluation
        size = {"batch_size": options.batch_size, "limit": options.validation_limit}
        return next(iter(self.task.pairs(VALIDATION, **size)))

    def _calibrated(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
        """The state after the step of a phase in which both networks are frozen, and its record."""
        single = len(self._seeds) == 1
        states, records = [], []
        for replica, seed in enumerate(self._seeds):
            own = state if single else replicas.one(state, replica)
            found, values = self._calibrate(own, seed)
            states.append(own.replace(calibration=jax.tree.map(jnp.asarray, found)))
            records.append(found._asdict() | values)
        state = replicas.stack(states)
        state = state.replace(step=state.step + 1, phase_step=state.phase_step + 1)
        told = {
            f"calibration/{name}": records[0][name] if single else [r[name] for r in records]
            for name in records[0]
        }
        return self.layout.place(state), replicas.scalars(told)

    def _calibrate(self, state: TrainState, seed: int) -> tuple[Calibration, dict[str, float]]:
        options = self.config.evaluation
        found, figures = calibration.calibrate(
            self.steps,
            state,
            self.task,
            VALIDATION,
            rate=parse_rejection(self.config.get("rejection", {})).rate,
            batch_size=options.batch_size,
            limit=options.validation_limit,
            num_samples=options.num_samples,
            # Not the sequences that the evaluation draws for the same sources.
            seed=seed + 1,
        )
        if not found.scale:
            self.progress.message(
                "warning: on held-out data the discriminator finds generated sequences no less "
                "real than real ones; rejection sampling has nothing to go by"
            )
        return found, {name: metric.value for name, metric in figures.items()}

    def _stopped(self, state: TrainState) -> TrainState:
        stopping = state.stopping.replace(stopped=jnp.ones((), bool))
        return self.layout.place(state.replace(stopping=stopping))

    def _collapse_of_entropy(self, told: dict[str, float]) -> str:
        """What is wrong with the entropy of the samples that are trained on, or nothing."""
        share = told.get("entropy", math.nan)
        if not share < self.guard.entropy:  # NaN where nothing was sampled
            return ""
        return f"the entropy of samples has fallen to {share:.0%} of what the phase began with"

    def _waited(self, state: TrainState, phase: Phase, figures: dict[str, Metric]) -> TrainState:
        """The state with early stopping's count after an evaluation."""
        if not (phase.stop.patience or phase.stop.regain):
            return state
        new = self._stop_scores(phase, figures)
        best = np.array(state.stopping.best)
        start = np.asarray(state.stopping.start)[: len(new)]
        regained = phase.stop.regain and bool((new >= start).all())
        improved = new > best[: len(new)] + np.float32(phase.stop.min_change)
        best[: len(new)] = np.where(improved, new, best[: len(new)])
        waited = 0 if improved.any() else int(state.stopping.waited) + 1
        stopping = state.stopping.replace(
            best=jnp.asarray(best),
            waited=jnp.asarray(waited, jnp.int32),
            stopped=jnp.asarray(regained or 0 < phase.stop.patience <= waited),
        )
        return self.layout.place(state.replace(stopping=stopping))

    def _remembered(self, state: TrainState, phase: Phase) -> TrainState:
        """The state with what the phase has to regain: its figures before its first step."""
        new = self._stop_scores(phase, self.evaluate(state).figures)
        start = np.array(state.stopping.start)
        start[: len(new)] = new
        stopping = state.stopping.replace(start=jnp.asarray(start))
        return self.layout.place(state.replace(stopping=stopping))

    def _stop_scores(self, phase: Phase, figures: dict[str, Metric]) -> np.ndarray:
        names = phase.stop.metrics
        return np.float32([self._score(name, phase, "stop.metrics", figures) for name in names])

    def _score(self, name: str, phase: Phase, option: str, figures: dict[str, Metric]) -> float:
        """A held-out figure as a score: higher is better."""
        if name not in figures:
            raise UserError(
                f"config.phases.{phase.name}.{option}: no figure '{name}'; choose from "
                f"{', '.join(figures)}"
            )
        value = figures[name].value
        return -value if name in _FALLING + self.task.falling else value

    def _evaluate(
        self, state: TrainState, phase: Phase, log: MetricsLog
    ) -> tuple[TrainState, float, str]:
        """Logs held-out figures, samples and pictures.

        Returns:
          The state with early stopping's count, the phase's own metric, and what is wrong with the
          samples, or nothing.
        """
        began = time.monotonic()
        step = int(state.step)
        self._newest = found = self.evaluate(state)
        figures = found.figures
        values = {f"{VALIDATION}/{name}": metric.value for name, metric in figures.items()}
        if len(self._seeds) > 1:
            spreads = replicas.spreads(figures)
            values |= {f"spread/{VALIDATION}/{name}": value for name, value in spreads.items()}
        seconds = time.monotonic() - began
        log.scalars(step, phase.name, values | {f"{VALIDATION}/seconds": seconds} | self._spent())
        if processes.is_first():
            folder = self.workdir / "samples" / f"{step:08d}-{phase.name}"
            drawn = self.task.illustrate(folder, VALIDATION, found.samples, found.attention)
            for name, image in drawn.items():
                log.image(step, f"{VALIDATION}/{name}", image)
            html_report.write(self.workdir)
        texts = [self.task.decode(sample.tokens[0]) for sample in found.samples]
        log.text(step, f"{VALIDATION}/samples", "\n".join(texts))
        self.progress.sample(texts[0])
        shown = _SHOWN + self.task.shown
        self.progress.evaluated({name: m.value for name, m in figures.items() if name in shown})
        score = self._score(phase.select, phase, "select", figures)
        warning = ""
        if found.distinct < self.guard.distinct:
            warning = f"only {found.distinct:.1%} of the samples differ from each other"
        return self._waited(state, phase, figures), score, warning

    def _spent(self) -> dict[str, float]:
        """What steps took since this was last asked for, and compiling, where there was any."""
        compiling = self._compile_time.taken()
        return self._step_times.taken() | ({"compile/seconds": compiling} if compiling else {})

    def newest(self, state: TrainState) -> Evaluation:
        """The evaluation of the state that `run` gave, made if the run had ended before."""
        return self._newest or self.evaluate(state)

    def evaluate(self, state: TrainState) -> Evaluation:
        """Held-out figures on a part of the validation data, and what to show of it.

        Of replicas the means, and what the first of them wrote.
        """
        if len(self._seeds) == 1:
            return self._evaluate_one(state, self.config.seed)
        found = [
            self._evaluate_one(replicas.one(state, replica), seed)
            for replica, seed in enumerate(self._seeds)
        ]
        return found[0]._replace(
            figures=replicas.figures([each.figures for each in found]),
            distinct=min(each.distinct for each in found),
        )

    def _evaluate_one(self, state: TrainState, seed: int) -> Evaluation:
        options = self.config.evaluation
        figures, samples = held_out.figures(
            self.steps,
            state,
            self.task,
            VALIDATION,
            batch_size=options.batch_size,
            limit=options.validation_limit,
            seed=seed,
            num_samples=options.num_samples,
            num_noise=1,
            thorough=False,
        )
        attention = self.steps.attention(
            state.generator.params,
            next(iter(self.task.sources(VALIDATION, batch_size=1, limit=1))),
            jax.random.key(seed),
            samples[0].tokens[:1],
        )
        return Evaluation(
            figures,
            samples[: options.num_pictures],
            None if attention is None else np.asarray(attention[0]),
            _distinct(samples),
        )


def _ready(found: dict) -> bool:
    return all(x.is_ready() for x in jax.tree.leaves(found))


def _headline(scalars: dict[str, float]) -> list[str]:
    wanted = ("loss", "reward", "accuracy_generated")
    return [name for name in scalars if name.partition("/")[2] in wanted]


def _read(found: dict) -> tuple[dict[str, float], dict[str, float]]:
    """A step's scalars: what they tell of the guards, and the others.

    A turn that the discriminator didn't take has no figures but those that say why.
    """
    scalars = replicas.scalars(found)
    told = {n.partition("/")[2]: v for n, v in scalars.items() if n.startswith("guard/")}
    others = {n: v for n, v in scalars.items() if not n.startswith("guard/")}
    if others.get("discriminator/turn") == 0:
        known = ("discriminator/turn", "discriminator/held_out_accuracy")
        others = {name: others[name] for name in known}
    return told, others


def _distinct(samples: list[held_out.Sample]) -> float:
    """Share of different sequences."""
    rows = np.concatenate([sample.tokens * (sample.mask > 0) for sample in samples])
    return len(np.unique(rows, axis=0)) / len(rows)


def _enough(phase: Phase, state: TrainState) -> str:
    """Why early stopping has ended a phase."""
    names, stop = _metrics(phase), phase.stop
    if stop.regain and (not stop.patience or int(state.stopping.waited) < stop.patience):
        return f"{names} no worse than before it"
    return f"no improvement of {names} by {stop.min_change:g} in {stop.patience} evaluations"


def _metrics(phase: Phase) -> str:
    return " and ".join(phase.stop.metrics)
