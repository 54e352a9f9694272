"""What is set before JAX starts its devices: CPU cores, compilation cache, several processes."""

from __future__ import annotations

import math
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from digits_jax import environment
from digits_jax.parallel.mesh import RUNS, place, runs_sharding
from digits_jax.parallel.processes import NotJoined, ProcessLost, gather, gather_values

HEARTBEAT_SECONDS = 60  # a process of a job that is silent for longer counts as dead
LATE_SECONDS = 30  # that JAX waits for the others once the time to join is over


def use_all_cpu_cores() -> None:
    """Gives JAX one CPU device for each core, so that runs spread over cores as over any devices.

    Call it before anything starts JAX's devices. It counts the cores that the process may use, see
    ``environment.cpu_cores``, and changes nothing where the user has chosen a number, by
    JAX_NUM_CPU_DEVICES, ``jax.config`` or XLA_FLAGS, or on other kinds of devices.

    Raises:
        RuntimeError: JAX has started its devices already.
    """
    chosen = getattr(jax.config, "jax_num_cpu_devices") != -1  # noqa: B009, not in its annotations
    flag = "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and not flag:
        jax.config.update("jax_num_cpu_devices", environment.cpu_cores())


def initialize_distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    join_seconds: float = 300,
) -> None:
    """Joins this process with the others of a job; ``jax.devices()`` are then those of all.

    Call it in each process, before anything starts JAX's devices; it returns once all are there.
    CPUs talk through Gloo, at the address of each host's route to process 0. Where a process dies,
    the others get a ``ProcessLost``, or JAX ends them after ``HEARTBEAT_SECONDS``.

    Args:
        coordinator_address: ``host:port`` of process 0, any free port of it.
        num_processes: in all.
        process_id: of this one, from 0. Give all three, or none where JAX can find them out: under
            SLURM, Open MPI or Kubernetes, and on Cloud TPUs.
        join_seconds: to wait for process 0. Where another one does not come, JAX ends process 0
            itself, ``LATE_SECONDS`` later.

    Raises:
        ValueError: they don't fit together, or JAX can't find them out.
        RuntimeError: JAX has started its devices already.
        NotJoined: process 0 can't be reached: its name has no address, nothing answers there, or
            a firewall is between the hosts. The message says which, and what to do.
    """
    # It needs JAX's inner modules, on which nothing else here depends.
    from digits_jax.parallel import joining

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
    address, count, index, local_devices = joining.detect(*given)
    own, coordinator = joining.reach(address, index, seconds=join_seconds)
    jax.distributed.initialize(
        address,
        count,
        index,
        local_device_ids=local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=math.ceil(join_seconds) + LATE_SECONDS,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    try:
        joining.choose_gloo_address(own, coordinator)
        # Gloo waits 30 s for a first meeting, and compiling may part the processes for longer.
        mesh = Mesh(np.asarray(jax.devices()), (RUNS,))
        gather(place(np.zeros(mesh.size), runs_sharding(mesh)), mesh)
        gather_values(np.zeros(()))
    except NotJoined:
        raise
    except (ProcessLost, jax.errors.JaxRuntimeError) as error:
        raise NotJoined(
            f"process {index} of {count} found process 0, but not all can talk with each other: "
            "one ended, or a firewall is between them; let it pass TCP on all ports between the "
            "hosts of the job"
        ) from error


def use_compilation_cache(folder: str | os.PathLike[str] | None = None) -> None:
    """Keeps compiled programs on disk, so that the next start of the same program skips compiling.

    What the user has chosen by JAX_COMPILATION_CACHE_DIR, JAX's other variables or ``jax.config``
    stays as it is. Where there is no home folder for a cache, nothing is kept.

    Args:
        folder: ``~`` is expanded. Default: ``digits_jax/compiled`` in the user's cache folder.
    """
    if folder is None:
        own = environment.cache_folder()
        chosen: dict[str, Any] = {"jax_compilation_cache_dir": own and os.fspath(own / "compiled")}
    else:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))
        chosen = {}
    chosen |= {
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in chosen.items():
        if name.upper() not in os.environ and getattr(jax.config, name) == _JAX_DEFAULTS[name]:
            jax.config.update(name, value)


_JAX_DEFAULTS = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 1.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}
