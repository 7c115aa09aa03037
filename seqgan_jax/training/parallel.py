"""Placement of states and batches on the devices."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def mesh() -> Mesh:
    """All devices in one row: batches are split over it, parameters are replicated."""
    return Mesh(np.array(jax.devices()), ("data",))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a pytree whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(batch: Any, mesh: Mesh) -> Any:
    """Splits a batch's rows over the devices; each process gives its own block of rows."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def local_rows(tree: Any, mesh: Mesh) -> Any:
    """The rows of this process of a pytree whose leaves lead with a batch's rows, on the host."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def own(x):
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(own, jax.device_put(tree, sharding))
