"""How many runs fit in memory: what a run takes, and what devices and host have left."""

from __future__ import annotations

import functools
import math
import socket
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from digits_jax import environment, evaluation, train
from digits_jax.networks import Variables, as_network
from digits_jax.parallel.mesh import default_vmap_size, replicated, runs_mesh, runs_sharding
from digits_jax.parallel.processes import gather_values, spans_job
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import take_run, take_runs
from digits_jax.runs.checks import check_data
from digits_jax.runs.groups import device_limit, is_out_of_memory, needed_bytes
from digits_jax.runs.lifted import lifted_programs
from digits_jax.structures import Data, Run, TrainState

_SHARE = 0.5  # of the free memory, that a wave may take
_CERTAINLY = 3  # the estimate is at most so many times what is taken
_TRIAL_RUNS = 64  # see runs_by_xla


def fitting_wave_size(
    count: int,
    run: Run,
    data: Any,
    *,
    recipe: Recipe,
    devices: Sequence[jax.Device],
    vmap_size: int | None = None,
    free: int | None = None,
    rounds: int | None = 64,
    refuse: bool = False,
) -> int:
    """Runs of a wave that fit in half of the free memory, in waves as even as can be.

    A device that takes its runs one after another, or group by group, gets at most ``rounds`` of
    them: where a wave is saved as a whole, longer ones are no faster, and a kill costs more. Where
    a device has a memory of its own, and the estimate says that not all runs fit side by side, XLA
    says what training takes of it: of a program of a few runs, compiled for this.

    Args:
        count: number of runs in all.
        run: one or more of them, stacked: what counts are the shapes.
        data: see ``cross_validate``.
        recipe: see ``cross_validate``.
        devices: see ``cross_validate``.
        vmap_size: see ``cross_validate``.
        free: bytes that a device may still take. Default: see ``free_memory``.
        rounds: see above; None: any number.
        refuse: whether a MemoryError says it where not one run for each device fits, by far.

    Returns:
        A multiple of the number of devices; at least one run for each.

    Raises:
        MemoryError: see ``refuse``.
    """
    if vmap_size is None:
        vmap_size = default_vmap_size(runs_mesh(len(devices), devices))
    processes = len({device.process_index for device in devices})
    kept, step = _bytes_of(run, check_data(data), recipe, processes)
    free = free_memory(devices) if free is None else free
    if refuse and kept + step > _CERTAINLY * free:
        few = f"fewer devices (there are {len(devices)}; JAX_NUM_CPU_DEVICES=1), " * (
            len(devices) > 1
        )
        raise MemoryError(
            f"a run takes about {(kept + step) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are left for "
            f"each device: take {few}smaller batches, a smaller network or a larger machine"
        )
    budget = _SHARE * free
    if vmap_size is None:
        largest = budget / (kept + step)
        limit = device_limit(devices)
        if limit is not None and largest * len(devices) < count:
            host = _SHARE * host_share(devices) / kept
            by_xla = runs_by_xla(run, check_data(data), recipe, devices, limit)
            largest = min(host, max(largest, by_xla))
    else:
        largest = (budget - vmap_size * step) / kept
        largest = largest if rounds is None else min(largest, rounds * vmap_size)
    most = max(int(largest), 1) * len(devices)
    even = math.ceil(count / math.ceil(count / most))
    return math.ceil(even / len(devices)) * len(devices)


def runs_at_once(
    runs: Run, data: Any, *, recipe: Recipe, devices: Sequence[jax.Device] | None = None
) -> int | None:
    """The ``wave_size`` for ``cross_validate`` of these runs here; None where all of them fit.

    Raises:
        MemoryError: not one run for each device fits; the message has the numbers.
    """
    if jax.process_count() > 1:
        return None
    count, devices = len(runs.key), jax.devices() if devices is None else devices
    try:
        size = fitting_wave_size(
            count, runs, data, recipe=recipe, devices=devices, rounds=None, refuse=True
        )
    except MemoryError:
        raise
    except Exception:  # a part of the recipe that fails: cross_validate says which, and why
        return None
    return size if size < count else None


def runs_by_xla(
    run: Run, data: Data, recipe: Recipe, devices: Sequence[jax.Device], limit: int
) -> int:
    """Runs that train side by side within ``limit`` bytes of a device, by XLA's own count.

    What a program needs grows in proportion to the runs from some fifty on. 0 where XLA can't place
    so many at once.
    """
    some = take_runs(run, np.zeros(_TRIAL_RUNS * len(devices), int))
    mesh = runs_mesh(len(some.key), devices)
    shard, shared = runs_sharding(mesh), replicated(mesh)
    steps = np.full(len(some.key), 1, np.int32) if recipe.takes_steps else None
    some = some._replace(split=some.split._replace(kind=None), steps=steps, member=None)
    lifted = lifted_programs(recipe, mesh=mesh, vmap_size=None)
    runs, shapes = _placed(some, shard), _placed(data, shared)
    states = _placed(jax.eval_shape(lifted.init, runs, shapes, None), shard)
    lowered = jax.jit(lifted.train, donate_argnums=0).lower(states, runs, shapes)
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if is_out_of_memory(error):
            return 0
        raise
    fixed = _bytes(data)
    return int(_TRIAL_RUNS * (limit - fixed) / max(needed_bytes(program) - fixed, 1))


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    """Shapes and dtypes, as placed on the devices."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(lambda tree: tree, tree),
    )


def _bytes_of(run: Run, data: Data, recipe: Recipe, processes: int = 1) -> tuple[int, int]:
    """What a run keeps for its whole wave, and what it takes while it makes a step; an estimate."""
    one = jax.eval_shape(lambda run: take_run(run, 0), run)
    h = one.hyperparameters
    state = train.state_shapes(one, data, recipe=recipe)
    size = min(recipe.batch_size, one.split.train_rows.shape[0])
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

    Results come back to the host, so that its share is the limit even where a device has more. Of
    the devices of a job it is the least of any, which all processes must ask for at once; those on
    one host share its memory.
    """
    free = _share_of_host(devices)
    for device in devices:
        stats = (device.process_index == jax.process_index() and device.memory_stats()) or {}
        if "bytes_limit" in stats:
            free = min(free, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return _least_of_job(free, devices)


def host_share(devices: Sequence[jax.Device]) -> int:
    """Bytes of the host's memory that each device's runs may still take; see ``free_memory``."""
    return _least_of_job(_share_of_host(devices), devices)


def _share_of_host(devices: Sequence[jax.Device]) -> int:
    here = [device for device in devices if device.process_index == jax.process_index()]
    free = environment.free_memory() // len(here)
    if spans_job(devices):
        host = np.array(zlib.crc32(socket.gethostname().encode()) >> 1, np.int32)
        free //= int((gather_values(host) == host).sum())
    return free


def _least_of_job(free: int, devices: Sequence[jax.Device]) -> int:
    if not spans_job(devices):
        return free
    # In MiB, which an int32 counts.
    return int(gather_values(np.array(max(free, 0) >> 20, np.int32)).min()) << 20


def _bytes(tree: Any) -> int:
    """Of all its arrays; a key counts as the two words that it is made of."""
    return sum(
        leaf.size * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(tree)
    )
