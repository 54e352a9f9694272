"""How many runs fit in memory: what a run takes, and what devices and host have left."""

from __future__ import annotations

import contextlib
import functools
import math
import socket
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from digits_jax import evaluation, train
from digits_jax.networks import Variables, as_network
from digits_jax.parallel.mesh import default_vmap_size, runs_mesh
from digits_jax.parallel.processes import gather_values, spans_job
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import take_run
from digits_jax.runs.checks import check_data
from digits_jax.structures import Data, Run, TrainState

_ROUNDS = 64  # see fitting_wave_size
_SHARE = 0.5  # of the free memory, that a wave may take
_GROUPS = Path("/sys/fs/cgroup")


def fitting_wave_size(
    count: int,
    run: Run,
    data: Any,
    *,
    recipe: Recipe,
    devices: Sequence[jax.Device],
    vmap_size: int | None = None,
    free: int | None = None,
) -> int:
    """Runs of a wave that fit in half of the free memory, in waves as even as can be.

    A device that takes its runs one after another, or group by group, gets at most 64 such rounds:
    longer waves are no faster, and a kill costs more.

    Args:
        count: number of runs in all.
        run: one or more of them, stacked: what counts are the shapes.
        data: see ``cross_validate``.
        recipe: see ``cross_validate``.
        devices: see ``cross_validate``.
        vmap_size: see ``cross_validate``.
        free: bytes that a device may still take. Default: see ``free_memory``.

    Returns:
        A multiple of the number of devices; at least one run for each.
    """
    if vmap_size is None:
        vmap_size = default_vmap_size(runs_mesh(len(devices), devices))
    processes = len({device.process_index for device in devices})
    kept, step = _bytes_of(run, check_data(data), recipe, processes)
    budget = _SHARE * (free_memory(devices) if free is None else free)
    if vmap_size is None:
        largest = budget / (kept + step)
    else:
        largest = min((budget - vmap_size * step) / kept, _ROUNDS * vmap_size)
    most = max(int(largest), 1) * len(devices)
    even = math.ceil(count / math.ceil(count / most))
    return math.ceil(even / len(devices)) * len(devices)


def _bytes_of(run: Run, data: Data, recipe: Recipe, processes: int = 1) -> tuple[int, int]:
    """What a run keeps for its whole wave, and what it takes while it makes a step; an estimate."""
    one = jax.eval_shape(lambda run: take_run(run, 0), run)
    h = one.hyperparameters
    state = train.state_shapes(one, data, recipe=recipe)
    size = recipe.batch_size
    inputs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *np.shape(leaf)[1:]), leaf.dtype), data.inputs
    )

    def backward(state: TrainState, inputs: Any, h: Any, key: jax.Array) -> Any:
        """The function that has all that the backward pass needs."""

        def forward(params: Any) -> Any:
            network = as_network(recipe.network, h)
            variables = Variables(params, state.collections)
            mask = jnp.ones(size, bool)
            return network.apply(variables, inputs, h, train=True, mask=mask, key=key)[0]

        return jax.vjp(forward, state.params)[1]

    activations = _bytes(jax.eval_shape(backward, state, inputs, h, one.key))
    evaluate = functools.partial(evaluation.evaluate, recipe=recipe)
    _, outputs = jax.eval_shape(evaluate, state, one, data)
    # The state: on the device before and after a call of the program, and as a copy on the host.
    # Of a job, each process has the splits and the outputs of all runs.
    kept = 3 * _bytes(state) + 2 * processes * (_bytes(one) + _bytes(outputs))
    # Activations and their gradients; the weights' gradients and the optimizer's update.
    return kept, 2 * activations + 2 * _bytes(state.params)


def free_memory(devices: Sequence[jax.Device]) -> int:
    """Bytes that each device may still take: of its own memory, or of the host's in equal shares.

    Results come back to the host, so that its share is the limit even where a device has more. On
    Linux the host's memory is what the process's control groups (a container's, or a batch
    system's limits) still leave it. Of the devices of a job it is the least of any, which all
    processes must ask for at once; those on one host share its memory.
    """
    shared = spans_job(devices)
    here = [device for device in devices if device.process_index == jax.process_index()]
    free = _host_memory() // len(here)
    if shared:
        host = np.array(zlib.crc32(socket.gethostname().encode()) >> 1, np.int32)
        free //= int((gather_values(host) == host).sum())
    for device in here:
        stats = device.memory_stats() or {}
        if "bytes_limit" in stats:
            free = min(free, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    if shared:  # in MiB, which an int32 counts
        free = int(gather_values(np.array(max(free, 0) >> 20, np.int32)).min()) << 20
    return free


def _host_memory() -> int:
    """Bytes that this process may still take of the host's memory."""
    return min([int(psutil.virtual_memory().available), *_left_by_control_groups()])


def _left_by_control_groups(process: Path = Path("/proc/self"), root: Path = _GROUPS) -> list[int]:
    """What each control group above a process leaves it; none where the system has none."""
    left = []
    with contextlib.suppress(OSError):
        for line in (process / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):  # version 1
                files, top = ("limit_in_bytes", "usage_in_bytes", "total_"), root / "memory"
            elif not controllers:  # version 2
                files, top = ("max", "current", ""), root
            else:
                continue
            group = top / path.strip("/")
            for each in (group, *group.parents):
                if each.is_relative_to(top):
                    left += _left_by_control_group(each, *files)
    return left


def _left_by_control_group(group: Path, limit: str, usage: str, prefix: str) -> list[int]:
    try:
        most = (group / f"memory.{limit}").read_text().strip()
        used = int((group / f"memory.{usage}").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # no such group, or none with a limit
        return []
    if most == "max":
        return []
    # Cached files count as used, and make way.
    return [max(int(most) - used + int(stat.get(f"{prefix}inactive_file", 0)), 0)]


def _bytes(tree: Any) -> int:
    """Of all its arrays; a key counts as the two words that it is made of."""
    return sum(
        leaf.size * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(tree)
    )
