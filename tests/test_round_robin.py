"""Round robin: every run gets its calls in order, on whichever device, and nothing is mixed up."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax.parallel.mesh import runs_mesh
from digits_jax.parallel.round_robin import is_faster, train_round_robin


@pytest.mark.parametrize(
    ("runs", "devices", "wanted"),
    [
        (5, 2, True),  # 3 and 2: idle for 1/6
        (6, 2, False),
        (5, 4, True),
        (6, 4, True),
        (4, 4, False),
        (3, 8, False),  # one each
        (13, 2, False),  # idle for 1/14
        (9, 2, True),
        (100, 8, False),
        (1, 1, False),
        (7, 1, False),
    ],
)
def test_it_is_faster_where_devices_would_idle(runs: int, devices: int, wanted: bool) -> None:
    assert is_faster(runs, devices) == wanted


@pytest.mark.parametrize(("runs", "devices"), [(5, 2), (5, 4), (7, 3), (9, 8)])
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_each_run_gets_each_of_its_calls_once_and_in_order(
    runs: int, devices: int, calls: int
) -> None:
    rounds: list[tuple[int, ...]] = []

    @jax.jit
    def step(state: Any, factor: Any) -> tuple[Any, dict[str, Any]]:
        new = {"x": state["x"] * factor + 1.0, "calls": state["calls"] + 1}
        return new, {"loss": new["x"], "accuracy": -new["x"]}

    def train(states: Any, group: tuple[int, ...]) -> Any:
        rounds.append(group)
        assert len(states["calls"].sharding.device_set) == devices
        factor = jnp.array([[2.0 + run] for run in group])
        return step(states, jax.device_put(factor, states["x"].sharding))

    first = {
        "x": np.arange(runs, dtype=np.float32)[:, None],
        "calls": np.zeros(runs, np.int32),
    }
    mesh = runs_mesh(devices, jax.devices()[:devices])
    expected = first["x"]
    done = 0
    for states_of, history in train_round_robin(train, cast(Any, first), mesh=mesh, calls=calls):
        done += 1
        expected = expected * (2.0 + np.arange(runs, dtype=np.float32)[:, None]) + 1
        states = cast(Any, states_of())
        np.testing.assert_array_equal(states["x"], expected)
        np.testing.assert_array_equal(states["calls"], np.full(runs, done))
        np.testing.assert_array_equal(history["loss"], expected)
        np.testing.assert_array_equal(history["accuracy"], -expected)
    assert done == calls
    dealt = [run for group in rounds for run in group]
    assert dealt[: runs * calls] == list(range(runs)) * calls
    assert set(dealt[runs * calls :]) <= {runs}, "the last round is filled up with blanks"
    assert len(rounds) == -(-runs * calls // devices)
