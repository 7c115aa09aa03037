"""Placement of states and batches on the devices, and one program for all of them.

The devices stand in a mesh of two axes. Over 'data' a batch's rows are split: `Layout.compile`
runs a step on each device's rows by `shard_map`, or by `pmap`, so that nothing is exchanged but
what the step itself asks `Rows` for: the gradient, the scalars, and a few numbers for each row
where a batch is normalised. Over 'model' the matrices of the vocabulary's size are split. Then the
compiler places the whole program, over both axes: a loop that each device leaves when its own rows
are done has no room for exchanges over 'model', since the devices that share a matrix may have
rows of different lengths.

Shapes: B rows of the whole batch, on n devices with B / n each.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.random import threefry_2x32
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqgan_jax.errors import UserError

DATA, MODEL = "data", "model"
MODES = ("jit", "pmap")
# How matrix products are computed, in JAX's words; sums, and all that is kept, are float32.
PRECISIONS = {
    "default": None,
    "float32": "highest",
    "bfloat16": "BF16_BF16_F32",
}
# Which dimension is the vocabulary's, by the ends of parameters' paths.
_VOCABULARY = ((r"(^|/)embedding$", 0), (r"(^|/)(output|words)/(kernel|bias)$", -1))


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run uses its devices, `config.parallel`.

    Attributes:
      data: devices that share a batch's rows; 0 for as many as there are.
      model: devices that share the embeddings and the output layers.
      mode: 'jit', or 'pmap' for the same step on the axis 'data' alone.
      accumulate: A; the gradient of a batch is summed over A parts of it, one after the other, so
        that the activations of one part are kept at a time.
      remat: whether layers are computed again for their gradient, so that only what they read is
        kept; see `models.build`, which tells the networks.
      shard_above: arrays of the state with more entries than this are split over 'data' too; 0 for
        none.
      precision: what the factors of matrix products are rounded to, of `PRECISIONS`; 'default' is
        the device's own choice. CPUs compute in float32 whatever this says, and convolutions follow
        'default' and 'float32' alone.
    """

    data: int = 0
    model: int = 1
    mode: str = "jit"
    accumulate: int = 1
    remat: bool = False
    shard_above: int = 0
    precision: str = "default"


def parse(config: Mapping[str, Any]) -> Options:
    """`config.parallel` as options.

    Raises:
      UserError: for values that make no sense, or not together.
    """
    options = Options(**config)
    for name, least in (("data", 0), ("model", 1), ("accumulate", 1), ("shard_above", 0)):
        if getattr(options, name) < least:
            raise UserError(
                f"config.parallel.{name}: {getattr(options, name)} is too small; set {least} or "
                "more"
            )
    for name, known in (("mode", MODES), ("precision", PRECISIONS)):
        value = getattr(options, name)
        if value not in known:
            raise UserError(
                f"config.parallel.{name}: no {name} '{value}'; choose from {', '.join(known)}"
            )
    if options.mode == "pmap" and (options.model > 1 or options.shard_above):
        raise UserError(
            "config.parallel.mode: pmap splits nothing but batches; set model to 1 and "
            "shard_above to 0, or choose jit"
        )
    return options


def mesh(data: int = 0, model: int = 1, devices: Sequence[Any] = ()) -> Mesh:
    """Devices in `data` rows of `model`; by default all of them, one in each row.

    Args:
      data: rows; 0 for as many as there are devices for.
      model: devices of a row.
      devices: of these; by default of those that JAX has.

    Raises:
      UserError: if there are fewer, or if some would be left out on a run of several processes.
    """
    devices = devices or jax.devices()
    there = f"the {len(devices)} devices that there are"
    if not data:
        if len(devices) % model:
            raise UserError(
                f"config.parallel.model: {model} doesn't divide {there}; set a divisor, or "
                "config.parallel.data as well"
            )
        data = len(devices) // model
    if data * model > len(devices):
        raise UserError(
            f"config.parallel: data x model is {data} x {model}, more than {there}; set less"
        )
    if data * model < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"config.parallel: data x model is {data} x {model}, fewer than {there}; several "
            "processes must use all of them; set data to 0"
        )
    return Mesh(np.array(devices[: data * model]).reshape(data, model), (DATA, MODEL))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a pytree whole on every device."""
    return jax.tree.map(lambda x: _put(x, NamedSharding(mesh, PartitionSpec())), tree)


def shard(batch: Any, mesh: Mesh) -> Any:
    """Splits a batch's rows over the devices; each process gives its own block of rows."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA))
    if jax.process_count() == 1:  # all arrays at once, in half of the time
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def local_rows(tree: Any, mesh: Mesh) -> Any:
    """The rows of this process of a pytree whose leaves lead with a batch's rows, on the host."""
    sharding = NamedSharding(mesh, PartitionSpec(DATA))

    def own(x):
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        # Devices that differ in 'model' alone hold the same rows.
        rows = {shard.index[0].start: shard.data for shard in shards}
        return np.concatenate([np.asarray(data) for data in rows.values()])

    return jax.tree.map(own, jax.device_put(tree, sharding))


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
    """An array, which every process has, placed; each process fills its own devices."""
    if jax.process_count() == 1 or not getattr(x, "is_fully_addressable", True):
        return jax.device_put(x, sharding)
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


class Rows(NamedTuple):
    """Which of a batch's rows a program has before it: piece `index` of `count` equal ones.

    Attributes:
      index: an integer, traced where it differs between devices.
      count: a multiple of the number of devices.
      axis: the name of the axis along which the other devices' rows are found; None for one device.
    """

    index: chex.Array | int = 0
    count: int = 1
    axis: str | None = None

    def numbers(self, size: int) -> chex.Array:
        """The numbers that `size` rows of this piece have in the whole batch, [size]."""
        return jnp.arange(size) + self.index * size

    def total(self, tree: Any) -> Any:
        """The sums over all devices of a pytree's leaves."""
        return tree if self.axis is None else jax.lax.psum(tree, self.axis)

    def whole(self, x: chex.Array) -> chex.Array:
        """The rows of all devices: [B / n, ...] -> [B, ...]."""
        return x if self.axis is None else jax.lax.all_gather(x, self.axis, tiled=True)

    def own(self, x: chex.Array) -> chex.Array:
        """This piece of what every device has all rows of: [B, ...] -> [B / count, ...]."""
        size = len(x) // self.count
        return x if self.count == 1 else _slice(x, self.index * size, size, 0)

    def previous(self, x: chex.Array) -> chex.Array:
        """The row before each, before the first the batch's last: [B / n, ...] -> the same."""
        if self.axis is None:
            return jnp.roll(x, 1, axis=0)
        pairs = [(i, (i + 1) % self.count) for i in range(self.count)]
        return jnp.concatenate([jax.lax.ppermute(x[-1:], self.axis, pairs), x[:-1]])

    @contextlib.contextmanager
    def dropout(self) -> Iterator[None]:
        """Gives the Linen modules applied in it the dropout of these rows in the whole batch.

        So that it depends on neither the number of devices nor that of parts.
        """
        if self.count == 1:
            yield
            return

        def intercept(call, args, kwargs, context):
            module = context.module
            if not isinstance(module, nn.Dropout) or context.method_name != "__call__":
                return call(*args, **kwargs)
            silent = kwargs.get("deterministic", module.deterministic)
            if silent or not module.rate:
                return call(*args, **kwargs)
            (x,), keep = args, 1 - module.rate
            kept = self._bernoulli(module.make_rng(module.rng_collection), keep, x.shape)
            return jnp.where(kept, x / keep, 0)

        with nn.intercept_methods(intercept):
            yield

    def _bernoulli(self, key: chex.PRNGKey, p: float, shape: Sequence[int]) -> chex.Array:
        """These rows of `jax.random.bernoulli(key, p, [B, ...])`, and nothing but them.

        Threefry's bits of an entry are a function of the key and the entry's number alone.
        """
        size = math.prod(shape)
        number = jnp.arange(size, dtype=jnp.uint32)
        number += jnp.asarray(self.index, jnp.uint32) * np.uint32(size)
        both = jnp.concatenate([jnp.zeros_like(number), number])
        high, low = jnp.split(threefry_2x32(jax.random.key_data(key), both), 2)
        mantissa = jnp.right_shift(high ^ low, np.uint32(9)) | np.uint32(0x3F800000)
        uniform = jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1
        return (uniform < p).reshape(shape)


class Layout:
    """The devices of a run and what each of them holds.

    Args:
      options: see there.
      devices: these, to compile for; by default those that JAX has.

    Raises:
      UserError: where there are no such devices.
    """

    def __init__(self, options: Options, devices: Sequence[Any] = ()):
        self.options = options
        self.mesh = mesh(options.data, options.model, devices)
        self._axis = DATA if self.mesh.shape[DATA] > 1 and options.model == 1 else None
        self._pmap = options.mode == "pmap" and self._axis is not None

    @property
    def rows(self) -> Rows:
        """Which rows the device has on which the program that is being traced will run."""
        if self._axis is None:
            return Rows()
        return Rows(jax.lax.axis_index(DATA), self.mesh.shape[DATA], DATA)

    def check(self, name: str, size: int) -> None:
        """Refuses batches of `size` rows, `config.phases.NAME.batch_size`, that can't be split.

        Raises:
          UserError: for one that the devices and parts can't share equally.
        """
        devices, parts = self.mesh.shape[DATA], self.options.accumulate
        if size % (devices * parts):
            shares = f"{devices} devices" + (f" times {parts} parts" if parts > 1 else "")
            raise UserError(
                f"config.phases.{name}.batch_size: {size} rows can't be shared equally by "
                f"{shares}; set a multiple of {devices * parts}, or lower config.parallel.data"
            )

    # Placement.

    def place(self, state: Any) -> Any:
        """A training state, of which every process has the whole, on the devices.

        Raises:
          UserError: for a vocabulary that can't be split.
        """
        return jax.tree.map(_put, state, self.shardings(state))

    def shard(self, batch: Any) -> Any:
        """A batch of which each process gives its own block of rows, on the devices."""
        if not self._pmap:
            return shard(batch, self.mesh)
        return jax.tree.map(self._stacked, shard(batch, self.mesh))

    def local_rows(self, tree: Any) -> Any:
        """The rows of this process of what a compiled function found for all, on the host."""
        if not self._pmap:
            return local_rows(tree, self.mesh)
        return jax.tree.map(lambda x: np.concatenate([np.asarray(rows) for rows in x]), tree)

    def shardings(self, state: Any) -> Any:
        """Where the arrays of a training state, or of its shapes, are placed."""
        return jax.tree_util.tree_map_with_path(
            lambda keys, x: NamedSharding(self.mesh, self._spec(_path(keys), x.shape)), state
        )

    def _spec(self, path: str, shape: Sequence[int]) -> PartitionSpec:
        """How an array of the state is split, by its path and shape."""
        axes: list[str | None] = [None] * len(shape)
        model = self._model_dimension(path, shape)
        if model is not None:
            axes[model] = MODEL
        data = self._data_dimension(path, shape)
        if data is not None:
            axes[data] = DATA
        while axes and axes[-1] is None:  # as programs say it of what they give
            axes.pop()
        return PartitionSpec(*axes)

    def _model_dimension(self, path: str, shape: Sequence[int]) -> int | None:
        """The dimension that is split over 'model': the vocabulary's, or else another."""
        size = self.options.model
        vocabulary = next((d for ends, d in _VOCABULARY if re.search(ends, path)), None)
        if size == 1 or vocabulary is None or not shape:
            return None
        vocabulary %= len(shape)
        fitting = [d for d in range(len(shape)) if shape[d] % size == 0]
        if not fitting and len(shape) > 1:
            raise UserError(
                f"config.parallel.model: {size} devices can't share {path} of shape "
                f"{list(shape)}; set a divisor of the vocabulary's size or of the layer's"
            )
        return vocabulary if vocabulary in fitting else next(iter(fitting), None)

    def _data_dimension(self, path: str, shape: Sequence[int]) -> int | None:
        """The dimension that is split over 'data': the longest that can be."""
        above, devices = self.options.shard_above, self.mesh.shape[DATA]
        if not above or devices == 1 or math.prod(shape) <= above:
            return None
        taken = self._model_dimension(path, shape)
        fitting = [d for d in range(len(shape)) if d != taken and shape[d] % devices == 0]
        return max(fitting, key=lambda d: shape[d], default=None)

    # Programs.

    def compile(
        self,
        function: Callable,
        takes: Sequence[str],
        gives: Any,
        *,
        static: Sequence[str] = (),
        donate: bool = False,
    ) -> Callable:
        """Compiles a function of some rows for all devices.

        It may ask `rows` which rows it has. Rows that don't divide by the number of devices are
        filled up with copies of the last, of weight 0.

        Args:
          function: of positional arguments, which are arrays, and static keywords and scalars.
          takes: what its arguments are: 'state', which is placed; 'rows', leaves that lead with
            rows; or 'all', what every device has.
          gives: the same of what it gives, a prefix of its pytree; and 'gathered', rows of which
            every device gets those of all.
          static: names of keywords.
          donate: whether the first argument is donated.
        """
        function = _with_precision(function, self.options.precision)
        options = {"static_argnames": static} | ({"donate_argnums": 0} if donate else {})
        if self.options.remat and self.mesh.devices.flat[0].platform == "cpu":
            options["compiler_options"] = _IN_ORDER
        if self.mesh.size == 1:
            return jax.jit(function, **options)
        if self._pmap and takes[0] == "state" and gives != "state":
            return self._mapped(function, takes, gives, donate)

        @functools.wraps(function)
        def spread(*args, **kwargs):
            fixed = {name: kwargs.pop(name) for name in static if name in kwargs}
            run = lambda args, scalars: function(*args, **scalars, **fixed)
            args, rows, more = self._filled(args, takes)
            if self._axis is not None:
                state = self._inside(args[0]) if takes[0] == "state" else None
                specs = {"state": state, "rows": PartitionSpec(DATA), "all": PartitionSpec()}
                specs["gathered"] = specs["rows"]
                run = jax.shard_map(
                    run,
                    mesh=self.mesh,
                    in_specs=(tuple(specs[kind] for kind in takes[: len(args)]), PartitionSpec()),
                    out_specs=jax.tree.map(specs.get, gives),
                    check_vma=False,
                )
            found = run(args, kwargs)
            if more:
                found = jax.tree.map(lambda x: x[: len(x) // (rows + more) * rows], found)
            return self._constrained(found, gives)

        return jax.jit(spread, **options)

    def _inside(self, state: Any) -> Any:
        """How a state enters a program on one device's rows: the optimisers' moments in parts."""

        def spec(keys, x):
            path = _path(keys)
            if "/optimizer/" not in path:
                return PartitionSpec()
            split = self._data_dimension(path, x.shape)
            return PartitionSpec(*(DATA if d == split else None for d in range(len(x.shape))))

        return jax.tree_util.tree_map_with_path(spec, state)

    def _filled(self, args: Sequence[Any], takes: Sequence[str]) -> tuple[tuple, int, int]:
        """The arguments with rows for every device, how many there were, and how many are new."""
        leads = [
            len(x)
            for arg, kind in zip(args, takes, strict=False)
            if kind == "rows"
            for x in jax.tree.leaves(arg)
        ]
        rows = min(leads)
        more = -rows % self.mesh.shape[DATA]

        def fill(keys, x):
            if more:
                new = jnp.broadcast_to(x[-1:], (len(x) // rows * more, *x.shape[1:]))
                new = jnp.zeros_like(new) if _path(keys).endswith("weight") else new
                x = jnp.concatenate([jnp.asarray(x), new])
            sharding = NamedSharding(self.mesh, PartitionSpec(DATA))
            return jax.lax.with_sharding_constraint(x, sharding)

        filled = [
            jax.tree_util.tree_map_with_path(fill, arg) if kind == "rows" else arg
            for arg, kind in zip(args, takes, strict=False)
        ]
        return tuple(filled), rows, more

    def _constrained(self, found: Any, gives: Any) -> Any:
        """What a program gives, placed as the next one takes it."""

        def constrain(kind, part):
            if kind == "state":
                shardings = self.shardings(part)
            elif kind == "gathered" or kind == "all":
                shardings = NamedSharding(self.mesh, PartitionSpec())
            else:
                shardings = NamedSharding(self.mesh, PartitionSpec(DATA))
            return jax.lax.with_sharding_constraint(part, shardings)

        return jax.tree.map(constrain, gives, found)

    def _mapped(self, function, takes, gives, donate) -> Callable:
        """The same by `pmap`; rows are then [n, B / n, ...], as `shard` gives them."""
        axes = {"state": None, "all": None, "rows": 0}

        @functools.cache
        def program(number, fixed):
            return jax.pmap(
                lambda *args: function(*args, **dict(fixed)),
                axis_name=DATA,
                in_axes=tuple(axes[kind] for kind in takes[:number]),
                out_axes=jax.tree.map(axes.get, gives),
                devices=self.mesh.devices.flat,
                donate_argnums=(0,) if donate else (),
            )

        def call(*args, **static):
            given = [x for x in args if x is not None]
            found = program(len(given), tuple(static.items()))(*given)
            return jax.tree.map(
                lambda kind, part: jax.tree.map(self._global, part) if kind == "state" else part,
                gives,
                found,
            )

        return call

    def _stacked(self, x: jax.Array) -> jax.Array:
        """Rows over all devices, [B, ...] -> [n, B / n, ...]."""
        parts = [part.data[None] for part in x.addressable_shards]
        shape = (self.mesh.shape[DATA], *parts[0].shape[1:])
        sharding = NamedSharding(self.mesh, PartitionSpec(DATA))
        return jax.make_array_from_single_device_arrays(shape, sharding, parts)

    def _global(self, x: jax.Array) -> jax.Array:
        """What `pmap` gives of an array that is whole on each of this process's devices."""
        parts = [part.data for part in x.addressable_shards]
        sharding = NamedSharding(self.mesh, PartitionSpec())
        return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

    # Inside of programs.

    def sum(self, function: Callable[[Any, Rows], Any], given: Any) -> Any:
        """The sum of a function of some rows over all rows of a batch, on every device.

        The device's rows are taken in `options.accumulate` parts, one after the other.

        Args:
          function: of a pytree whose leaves lead with rows, and of which rows these are.
          given: this device's rows.
        """
        here, parts = self.rows, self.options.accumulate
        if parts == 1:
            return here.total(function(given, here))
        split = jax.tree.map(lambda x: x.reshape(parts, len(x) // parts, *x.shape[1:]), given)

        def add(total, numbered):
            number, part = numbered
            rows = Rows(here.index * parts + number, here.count * parts, here.axis)
            return jax.tree.map(jnp.add, total, function(part, rows)), None

        first = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(lambda part: function(part, here), first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), split))
        return here.total(total)

    def update(
        self,
        optimizer: optax.GradientTransformation,
        grads: Any,
        state: Any,
        params: Any,
    ) -> tuple[Any, Any]:
        """An optimiser's update of parameters from the whole gradient.

        Where its state is split over 'data', each device updates its own part. It treats each
        element by itself.
        """
        if not self.options.shard_above or self._axis is None:
            return optimizer.update(grads, state, params)
        here = self.rows

        def dimension(keys, x):
            found = self._data_dimension(_path(keys), x.shape)
            return -1 if found is None else found

        dimensions = jax.tree_util.tree_map_with_path(dimension, grads)

        def part(x, dimension):
            size = x.shape[dimension] // here.count if dimension >= 0 else 0
            return _slice(x, here.index * size, size, dimension) if dimension >= 0 else x

        def gather(x, dimension):
            if dimension < 0:
                return x
            return jax.lax.all_gather(x, here.axis, axis=dimension, tiled=True)

        grads, params = (jax.tree.map(part, tree, dimensions) for tree in (grads, params))
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(gather, updates, dimensions), state


_slice = jax.lax.dynamic_slice_in_dim
# On CPUs XLA begins all that it can at once, and would compute every layer again at the same time.
_IN_ORDER = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def _with_precision(function: Callable, name: str) -> Callable:
    """The function with its matrix products computed as `PRECISIONS` has it."""
    if PRECISIONS[name] is None:
        return function

    @functools.wraps(function)
    def precise(*args, **kwargs):
        with jax.default_matmul_precision(PRECISIONS[name]):
            return function(*args, **kwargs)

    return precise


def _path(keys: tuple) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")
