"""Where the runs live: one mesh axis, ``runs``, over all devices of a machine or of a job.

A job of several processes is JAX's: each process runs the same program, owns some of the devices
and trains the runs on them. What every process must know is gathered here.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RUNS = "runs"
HEARTBEAT_SECONDS = 60  # a process of a job that is silent for longer counts as dead


class ProcessLost(RuntimeError):
    """Another process of the job ended or can't be reached, so that this one can't go on."""


class ProcessesDiffer(ValueError):
    """The processes of a job were not given the same to do."""


def use_all_cpu_cores() -> None:
    """Gives JAX one CPU device for each core, so that runs spread over cores as over any devices.

    Call it before anything starts JAX's devices. It changes nothing where JAX_NUM_CPU_DEVICES is
    set, or on other kinds of devices.

    Raises:
        RuntimeError: JAX has started its devices already.
    """
    if not os.environ.get("JAX_NUM_CPU_DEVICES"):
        affinity = getattr(os, "sched_getaffinity", None)  # what a container or taskset leaves us
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        jax.config.update("jax_num_cpu_devices", cores)


def initialize_distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process with the others of a job; ``jax.devices()`` are then those of all.

    Call it in each process, before anything starts JAX's devices; it returns once all are there.
    CPUs talk through Gloo. Where a process dies, the others get a ``ProcessLost``, or JAX ends them
    after ``HEARTBEAT_SECONDS``.

    Args:
        coordinator_address: ``host:port`` of process 0, any free port of it.
        num_processes: in all.
        process_id: of this one, from 0. Give all three, or none where JAX can find them out: under
            SLURM, Open MPI or Kubernetes, and on Cloud TPUs.

    Raises:
        ValueError: they don't fit together, or JAX can't find them out.
        RuntimeError: JAX has started its devices already.
        ProcessLost: another process ended.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(value is None for value in given):
        if any(value is not None for value in given):
            raise ValueError("coordinator_address, num_processes and process_id need each other")
    else:
        host, _, port = str(coordinator_address).rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise ValueError(f"coordinator_address must be host:port, not {coordinator_address}")
        if not 0 <= int(process_id or 0) < int(num_processes or 0):
            raise ValueError(
                f"process_id must be in 0 to num_processes - 1, not {process_id} of {num_processes}"
            )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # Its handler would swallow SIGTERM; ``cross_validate`` stops all processes at the same epoch.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            cluster_detection_method=None if None in given else "deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            "JAX finds no cluster here (SLURM, Open MPI, Kubernetes, Cloud TPU); give "
            "coordinator_address, num_processes and process_id"
        ) from error
    # Now that all are here: Gloo waits 30 s for a first meeting, and compiling may part them more.
    mesh = Mesh(np.asarray(jax.devices()), (RUNS,))
    gather(place(np.zeros(mesh.size), runs_sharding(mesh)), mesh)
    gather_values(np.zeros(()))


def use_compilation_cache(folder: str | os.PathLike[str] | None = None) -> None:
    """Keeps compiled programs on disk, so that the next start of the same program skips compiling.

    Args:
        folder: default: ``digits_jax/compiled`` in the user's cache folder.
    """
    if folder is None:
        import platformdirs

        folder = Path(platformdirs.user_cache_dir("digits_jax")) / "compiled"
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def runs_mesh(runs: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis ``runs``.

    Of D devices it takes the fewest that leave no device more than ceil(runs / D) runs: 6 runs on
    4 devices go to 3 of them, two each. Of several processes it takes all devices, because each
    process must own a part of every array.

    Args:
        runs: the number of runs, at least 1.
        devices: default: all of ``jax.devices()``.

    Raises:
        TypeError: `runs` is no integer.
        ValueError: no runs or no devices.
    """
    if devices is None:
        devices = jax.devices()
    try:
        runs = operator.index(runs)
    except TypeError:
        raise TypeError(f"runs must be an integer, not {runs!r}") from None
    if runs < 1 or not devices:
        raise ValueError(f"{runs} runs on {len(devices)} devices: at least one of each is needed")
    lanes = -(-runs // len(devices))
    mesh = Mesh(np.asarray(devices), (RUNS,))
    return mesh if mesh.is_multi_process else Mesh(mesh.devices[: -(-runs // lanes)], (RUNS,))


def runs_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays with a leading runs axis."""
    return NamedSharding(mesh, PartitionSpec(RUNS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what all runs share."""
    return NamedSharding(mesh, PartitionSpec())


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Host arrays as JAX arrays of a sharding.

    Every process gives the same whole arrays; only what its own devices hold is copied. An array
    over several processes is left as it is.
    """

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        leaf = np.asarray(leaf)
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(one, tree)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Arrays over ``mesh`` as whole NumPy arrays, in each process.

    Raises:
        ProcessLost: another process ended.
    """
    if mesh.is_multi_process:
        jax.block_until_ready(tree)  # so that errors below are those of the communication
        with told_of_lost_processes():
            tree = jax.jit(_identity, out_shardings=replicated(mesh))(tree)
            return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), tree)
    return jax.tree.map(np.asarray, tree)


def gather_values(values: np.ndarray) -> np.ndarray:
    """The arrays that the processes of the job give, equal in shape, on a new leading axis.

    Raises:
        ProcessLost: another process ended.
    """
    with told_of_lost_processes():
        return np.asarray(multihost_utils.process_allgather(values))


def from_first(content: bytes) -> bytes:
    """What process 0 of the job gives, in each process; what the others give counts for nothing.

    Raises:
        ProcessLost: another process ended.
    """
    with told_of_lost_processes():
        length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.int32)))
        mine = np.zeros(length, np.uint8)  # bytes: JAX would make a float64 a float32
        if jax.process_index() == 0:
            mine[:] = np.frombuffer(content, np.uint8)
        return bytes(multihost_utils.broadcast_one_to_all(mine))


def together(devices: Sequence[jax.Device]) -> bool:
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


def _identity(tree: Any) -> Any:
    return tree


@contextlib.contextmanager
def told_of_lost_processes() -> Iterator[None]:
    """What JAX raises while processes talk becomes a ProcessLost."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise ProcessLost(
            f"process {jax.process_index()} of {jax.process_count()} lost another one: {error}"
        ) from error


def lanes_at_once(mesh: Mesh) -> int | None:
    """How many of its runs a device trains side by side: None for all, 1 on a CPU.

    A CPU core that takes its runs one after another keeps one run's weights in its cache, where
    three side by side would not fit: a step costs 0.77 of the time.
    """
    return 1 if mesh.devices.flat[0].platform == "cpu" else None


def debugging() -> bool:
    """Whether one of JAX's switches asks to see each operation, or to find the first NaN."""
    switches = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")
    return any(getattr(jax.config, switch) for switch in switches)


def over_runs(
    function: Callable[..., Any], *, mesh: Mesh, at_once: int | None
) -> Callable[..., Any]:
    """Lifts ``function(per_run, shared)`` of one run to a leading runs axis, sharded over ``mesh``.

    Args:
        function: pure; of one run's pytree and of what all runs share.
        mesh: see ``runs_mesh``; its size must divide the number of runs.
        at_once: runs that a device advances side by side under ``vmap``; None for all. It walks
            through the others group by group.

    Returns:
        A function of ``(per_run [R, ...], shared)`` whose results are [R, ...]. It holds no
        communication between devices.
    """

    def on_one_device(per_run: Any, shared: Any) -> Any:
        def one(run: Any) -> Any:
            return function(run, shared)

        lanes = jax.tree.leaves(per_run)[0].shape[0]
        if at_once is None or at_once >= lanes > 1:
            return jax.vmap(one)(per_run)
        # Without batch_size, and so without vmap, skipped steps are really skipped.
        return lax.map(one, per_run, batch_size=at_once if at_once > 1 else None)

    if debugging():  # shard_map would hide where a NaN is, and compile each operation without jit
        return lambda per_run, shared: jax.vmap(lambda run: function(run, shared))(per_run)
    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(PartitionSpec(RUNS), PartitionSpec()),
        out_specs=PartitionSpec(RUNS),
        check_vma=False,  # it would have constants inside the loops marked by hand
    )
