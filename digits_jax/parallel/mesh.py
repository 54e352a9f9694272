"""One mesh axis, ``runs``, over all devices: placing arrays on it, and lifting a function to it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RUNS = "runs"


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


def default_vmap_size(mesh: Mesh) -> int | None:
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
    function: Callable[..., Any], *, mesh: Mesh, vmap_size: int | None
) -> Callable[..., Any]:
    """Lifts ``function(per_run, shared)`` of one run to a leading runs axis, sharded over ``mesh``.

    Args:
        function: pure; of one run's pytree and of what all runs share.
        mesh: see ``runs_mesh``; its size must divide the number of runs.
        vmap_size: runs that a device advances side by side under ``vmap``; None for all. It walks
            through the others group by group.

    Returns:
        A function of ``(per_run [R, ...], shared)`` whose results are [R, ...]. It holds no
        communication between devices.
    """

    def on_one_device(per_run: Any, shared: Any) -> Any:
        def one(run: Any) -> Any:
            return function(run, shared)

        lanes = jax.tree.leaves(per_run)[0].shape[0]
        if vmap_size is None or vmap_size >= lanes > 1:
            return jax.vmap(one)(per_run)
        # Without batch_size, and so without vmap, skipped steps are really skipped.
        return lax.map(one, per_run, batch_size=vmap_size if vmap_size > 1 else None)

    if debugging():  # shard_map would hide where a NaN is, and compile each operation without jit
        return lambda per_run, shared: jax.vmap(lambda run: function(run, shared))(per_run)
    return jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(PartitionSpec(RUNS), PartitionSpec()),
        out_specs=PartitionSpec(RUNS),
        check_vma=False,  # it would have constants inside the loops marked by hand
    )
