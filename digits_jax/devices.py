"""Where the runs live: one mesh axis, ``runs``, over all devices of a machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RUNS = "runs"


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
    4 devices go to 3 of them, two each.

    Args:
        runs: the number of runs, at least 1.
        devices: default: all of ``jax.devices()``.

    Raises:
        ValueError: no runs or no devices.
    """
    if devices is None:
        devices = jax.devices()
    if runs < 1 or not devices:
        raise ValueError(f"{runs} runs on {len(devices)} devices: at least one of each is needed")
    lanes = -(-runs // len(devices))
    return Mesh(np.asarray(devices[: -(-runs // lanes)]), (RUNS,))


def runs_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays with a leading runs axis."""
    return NamedSharding(mesh, PartitionSpec(RUNS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what all runs share."""
    return NamedSharding(mesh, PartitionSpec())


def lanes_at_once(mesh: Mesh) -> int | None:
    """How many of its runs a device trains side by side: None for all, 1 on a CPU.

    A CPU core that takes its runs one after another keeps one run's weights in its cache, where
    three side by side would not fit: a step costs 0.77 of the time.
    """
    return 1 if mesh.devices.flat[0].platform == "cpu" else None


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

    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(PartitionSpec(RUNS), PartitionSpec()),
        out_specs=PartitionSpec(RUNS),
        check_vma=False,  # it would have constants inside the loops marked by hand
    )
