"""A job of several processes: what each must know of the others is gathered here.

Such a job is JAX's: each process runs the same program, owns some of the devices and trains the
runs on them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from digits_jax.parallel.mesh import replicated


class ProcessLost(RuntimeError):
    """Another process of the job ended or can't be reached, so that this one can't go on."""


class NotJoined(ProcessLost):
    """The processes of a job did not find each other at its start; nothing was trained."""


class ProcessesDiffer(ValueError):
    """The processes of a job were not given the same to do."""


def gather(tree: Any, mesh: Mesh) -> Any:
    """Arrays over ``mesh`` as whole NumPy arrays (keys as JAX arrays), in each process.

    Raises:
        ProcessLost: another process ended.
    """
    if mesh.is_multi_process:
        jax.block_until_ready(tree)  # so that errors below are those of the communication
        with reporting_lost_processes():
            tree = jax.jit(_identity, out_shardings=replicated(mesh))(tree)
            tree = jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)
    return jax.tree.map(_on_host, tree)


def _on_host(leaf: Any) -> Any:
    """As a NumPy array; random keys have none, and stay JAX arrays."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = jax.device_put(np.asarray(jax.random.key_data(leaf)))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    return np.asarray(leaf)


def gather_values(values: np.ndarray) -> np.ndarray:
    """The arrays that the processes of the job give, equal in shape, on a new leading axis.

    Raises:
        ProcessLost: another process ended.
    """
    with reporting_lost_processes():
        return np.asarray(multihost_utils.process_allgather(values))


def from_first(content: bytes) -> bytes:
    """What process 0 of the job gives, in each process; what the others give counts for nothing.

    Raises:
        ProcessLost: another process ended.
    """
    with reporting_lost_processes():
        length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.int32)))
        mine = np.zeros(length, np.uint8)  # bytes: JAX would make a float64 a float32
        if jax.process_index() == 0:
            mine[:] = np.frombuffer(content, np.uint8)
        return bytes(multihost_utils.broadcast_one_to_all(mine))


def spans_job(devices: Sequence[jax.Device]) -> bool:
    """Whether devices are those of all processes of a job, which then must do the same.

    Raises:
        ValueError: they are of some processes, but not of all, nor of this one alone.
    """
    owners = {device.process_index for device in devices}
    if owners == {jax.process_index()}:
        return False
    if len(owners) < jax.process_count():
        raise ValueError(
            f"devices must be of all {jax.process_count()} processes of the job, or of this one "
            f"alone; they are of the processes {sorted(owners)}"
        )
    return True


def own_device(devices: Sequence[jax.Device]) -> jax.Device:
    """The first of the devices that this process can use."""
    return next(each for each in devices if each.process_index == jax.process_index())


def _identity(tree: Any) -> Any:
    return tree


@contextlib.contextmanager
def reporting_lost_processes() -> Iterator[None]:
    """What JAX raises while processes talk becomes a ProcessLost."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # XLA's begin with a status, and are ValueErrors where a CPU has run the program at once.
        by_xla = re.match("[A-Z_]+: ", str(error)) or not isinstance(error, ValueError)
        if jax.process_count() == 1 or not by_xla:
            raise
        raise ProcessLost(
            f"process {jax.process_index()} of {jax.process_count()} lost another one: {error}"
        ) from error
