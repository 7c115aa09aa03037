"""What a run would be, without making it: configuration, sizes, memory and time."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from seqgan_jax.programs.run import Run, refuse_another
from seqgan_jax.programs.start import compilation_cache
from seqgan_jax.reporting.compile_time import CompileTime
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.reporting.record import flat
from seqgan_jax.training.phases import NETWORKS, Phase

# Timed updates of one kind, of which the shortest counts; one is enough where it takes long.
_REPEATS, _LONG = 3, 2.0


class Measured(NamedTuple):
    """What updates of one network in one phase cost.

    Attributes:
      phase: its name.
      network: 'generator' or 'discriminator'.
      updates: how many the phase has at most.
      seconds: of one of them, once it is compiled.
      memory: bytes that its program needs at its peak, by XLA's own analysis of the compiled
        program: arguments, results and temporary arrays; None where it tells nothing.
    """

    phase: str
    network: str
    updates: int
    seconds: float
    memory: int | None


def dry_run(config: ml_collections.ConfigDict, workdir: str | None, *, quiet: bool = False) -> None:
    """Checks a configuration as training would, and prints what training would be.

    Everything is built as for training, in a temporary folder that is gone afterwards: data (whose
    cache is filled as training would fill it), codec and networks. Every kind of update is compiled
    and run a few times on its first batch, and one evaluation is made; what they took, times how
    often the phases ask for them, is the estimate.

    Args:
      config: the run's.
      workdir: where it would live, see `train`; neither made nor changed.
      quiet: no progress on the terminal.

    Raises:
      UserError: what training would be refused for.
    """
    compilation_cache()
    directory = Path(workdir or f"runs/{config.task}-{config.variant}")
    refuse_another(directory, config)
    with tempfile.TemporaryDirectory() as scratch, Progress(quiet=quiet) as progress:
        run = Run(Path(scratch) / "run", config, progress)
        print("configuration, by the names that the command line takes:")
        print(*(f"  --config.{name}={value}" for name, value in flat(config).items()), sep="\n")
        print("data:", *_data(run), "networks:", *_networks(run), sep="\n")
        print(*_costs(run), sep="\n")
    print(f"nothing was trained, and nothing written to {directory}")


def _data(run: Run) -> Iterator[str]:
    """How much there is of each split, and of what shape."""
    template, rows = run.task.template(), []
    for name, split in run.task.splits.items():
        rows.append((name, "without end" if split.unlimited else f"{len(split):,} examples"))
    rows.append(("target", f"up to {run.task.length} of {run.task.codec.vocabulary.size:,} tokens"))
    source = template["source"]
    rows += [
        ("source", f"{leaf.dtype} {list(leaf.shape[1:])}") for leaf in jax.tree.leaves(source)
    ] or [("source", "none")]
    return _aligned(rows)


def _networks(run: Run) -> Iterator[str]:
    """How many parameters each network has, and the bytes of all that is kept of them."""
    state = jax.eval_shape(lambda: run.steps.init(run.config.seed, run.task.template()))
    rows = []
    for name in (*NETWORKS, *(("reverse",) if state.reverse else ())):
        parameters = jax.tree.leaves(getattr(state, name).params)
        count = sum(x.size for x in parameters)
        rows.append((name, f"{count:,} parameters", _size(_bytes(parameters))))
    rows.append(("training state", "with optimisers' moments and copies", _size(_bytes(state))))
    return _aligned(rows)


def _costs(run: Run) -> Iterator[str]:
    """What updates and evaluations take in time and memory, and all of them together."""
    compiling = CompileTime()
    compiling.taken()
    found = measure(run)
    state = run.loop.initial_state()
    jax.block_until_ready(state)
    evaluations = sum(-(-phase.steps // phase.evaluate_every) for phase in run.phases)
    began = time.monotonic()
    run.loop.evaluate(state)
    spent = time.monotonic() - began
    compiled = compiling.taken()
    yield (
        f"updates, each kind compiled and run on its first batch here ({jax.device_count()} "
        f"{jax.devices()[0].device_kind}):"
    )
    yield from _aligned(
        (
            f"{each.phase}/{each.network}",
            f"{each.updates:,} updates",
            f"{1000 * each.seconds:.1f} ms each",
            _duration(each.updates * each.seconds),
            "" if each.memory is None else _size(each.memory),
        )
        for each in found
    )
    updates = sum(each.updates * each.seconds for each in found)
    total = updates + evaluations * spent + compiled
    yield (
        f"time: about {_duration(total)}: updates {_duration(updates)}, evaluations "
        f"{evaluations} of {_duration(spent)}, compilation {_duration(compiled)}; data, "
        "checkpoints and phases that end early are not in it"
    )
    known = [each.memory for each in found if each.memory is not None]
    if known:
        yield (
            f"memory: {_size(max(known))} for the largest update, by XLA's analysis of its program "
            "(the training state included); the process and its data need more"
        )


def measure(run: Run) -> list[Measured]:
    """Compiles and times every kind of update of a run; kinds that are alike are done once."""
    kinds: dict[Any, tuple[float, int | None]] = {}
    asked = []
    for index, phase in enumerate(run.phases):
        for network in phase.networks if phase.steps else ():
            key = (phase.step_of(network), phase.sources(network), phase.targets)
            asked.append((index, phase, network, key))
    # Which batch lengths there are is the phase's own, but only maximum likelihood cuts batches.
    distinct = {key: (index, phase, network) for index, phase, network, key in reversed(asked)}
    todo = run.progress.track(distinct.items(), len(distinct), "compiling and timing updates")
    for key, (index, phase, network) in todo:
        kinds[key] = _time(run, index, phase, network)
    return [
        Measured(phase.name, network, int(phase.updates_before(network, phase.steps)), *kinds[key])
        for _, phase, network, key in asked
    ]


def _time(run: Run, index: int, phase: Phase, network: str) -> tuple[float, int | None]:
    """Seconds of one update, and the bytes that its program needs at its peak."""
    state = run.loop.begin(run.loop.initial_state(), index)
    batch = next(run.loop.batches(phase, index, network, 0))
    program = phase.step_of(network)
    rewarded = run.loop.reward and network == "generator" and phase.uses_rewards

    def given(state):
        """What comes before the update where there are external rewards; not the rewards."""
        if not rewarded:
            return ()
        drawn = run.steps.draw(state, batch, phase=program)
        return drawn, jnp.zeros_like(drawn.values)

    step: Callable = run.steps.train_step
    static, memory = {"phase": program, "network": network}, None
    if hasattr(step, "lower"):
        step = step.lower(state, batch, *given(state), **static).compile()
        static, memory = {}, _peak(step.memory_analysis())
    update = lambda state: step(state, batch, *given(state), **static)[0]
    state = jax.block_until_ready(update(state))
    fastest = float("inf")
    for _ in range(_REPEATS):
        began = time.monotonic()
        state = jax.block_until_ready(update(state))
        fastest = min(fastest, time.monotonic() - began)
        if fastest > _LONG:
            break
    return fastest, memory


def _peak(analysis: Any) -> int | None:
    """Bytes of arguments, results and temporary arrays; what is donated counts once."""
    if analysis is None:
        return None
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return held - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _size(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
