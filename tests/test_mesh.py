"""The mesh over the runs axis, and lifting a function of one run to it."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.parallel.mesh import over_runs, runs_mesh, runs_sharding
from digits_jax.parallel.processes import spans_job


@pytest.mark.parametrize(
    ("runs", "devices", "used"), [(6, 8, 6), (6, 4, 3), (5, 2, 2), (1, 8, 1), (16, 8, 8), (9, 8, 5)]
)
def test_the_mesh_takes_the_fewest_devices_that_do(runs: int, devices: int, used: int) -> None:
    assert runs_mesh(runs, jax.devices()[:devices]).size == used


def test_no_runs_or_no_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="0 runs on 8 devices"):
        runs_mesh(0)
    with pytest.raises(ValueError, match="2 runs on 0 devices"):
        runs_mesh(2, [])


def test_devices_are_of_this_process_or_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not spans_job(jax.devices()[:2])
    monkeypatch.setattr(jax, "process_count", lambda: 3)

    def of(*processes: int) -> Any:
        return [types.SimpleNamespace(process_index=i) for i in processes]

    assert spans_job(of(0, 0, 1, 2)) and not spans_job(of(0, 0))
    for some in ((0, 1), (1,), (1, 2)):
        with pytest.raises(ValueError, match=r"of all 3 processes of the job, or of this one"):
            spans_job(of(*some))


@pytest.mark.parametrize("vmap_size", [None, 1, 2, 3])
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_lifted_equals_a_loop(devices: int, vmap_size: int | None) -> None:
    mesh = runs_mesh(8, jax.devices()[:devices])
    xs = jax.device_put(jnp.arange(24.0).reshape(8, 3), runs_sharding(mesh))
    lifted = over_runs(
        lambda x, shared: {"sum": (x * shared).sum()}, mesh=mesh, vmap_size=vmap_size
    )
    got = jax.jit(lifted)(xs, jnp.float32(2))["sum"]
    np.testing.assert_array_equal(got, 2 * np.arange(24.0).reshape(8, 3).sum(1))
    assert len(got.sharding.device_set) == devices


def _python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_every_core_becomes_a_device_unless_the_user_says_otherwise() -> None:
    code = "import digits_jax, jax; digits_jax.use_all_cpu_cores(); print(jax.device_count())"
    cores = _python("import os; print(len(os.sched_getaffinity(0)))")
    assert _python(code, JAX_PLATFORMS="cpu") == cores
    assert _python(code, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="3") == "3"


def test_importing_the_library_starts_no_device_and_imports_no_heavy_library() -> None:
    code = """
import sys, digits_jax
from jax._src import xla_bridge
for name in set(dir(digits_jax)) - {"plots", "Classifier", "Regressor"}:
    getattr(digits_jax, name)
assert not xla_bridge.backends_are_initialized()
heavy = {"matplotlib", "orbax", "pandas", "sklearn", "scipy.stats", "ucimlrepo"}
print(sorted(heavy & set(sys.modules)))
"""
    assert _python(code) == "[]"
