"""What runs take is estimated within bounds, and what is left is read off the system."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest

from digits_jax import environment, train
from digits_jax.data import load_digits
from digits_jax.model import DigitsCNN
from digits_jax.parallel import mesh as meshes
from digits_jax.recipe import Recipe
from digits_jax.runs import memory
from digits_jax.runs.axis import make_runs
from digits_jax.splits import kfold_splits
from digits_jax.structures import Data


@pytest.fixture(scope="module")
def data() -> Data:
    digits = load_digits("bundled")
    return Data(*digits.data)


@pytest.mark.slow
def test_the_estimate_covers_what_the_compiled_program_takes(data: Data) -> None:
    runs = make_runs(kfold_splits(data.targets, 6))
    network = DigitsCNN(conv_features=(16, 32), dense_features=(256,))
    recipe = Recipe(network=network)
    kept, step = memory._bytes_of(runs, data, recipe)
    mesh = meshes.runs_mesh(1, jax.devices("cpu")[:1])
    init = jax.vmap(functools.partial(train.init_state, recipe=recipe), (0, None))
    states = jax.eval_shape(init, runs, data)
    epoch = functools.partial(train.train_epochs, recipe=recipe, epochs=1)
    for vmap_size in (1, 6):
        lifted = meshes.over_runs(
            lambda one, data: epoch(one[0], one[1], data), mesh=mesh, vmap_size=vmap_size
        )
        jitted = jax.jit(lambda states, runs, data, f=lifted: f((states, runs), data))
        used = jitted.lower(states, runs, data).compile().memory_analysis()
        arguments = used.argument_size_in_bytes
        taken = used.temp_size_in_bytes + arguments + memory._bytes(states)  # on the host
        assert taken < 6 * kept + vmap_size * step + memory._bytes(data) < 3 * taken


def test_waves_are_even_multiples_of_the_devices_that_fit(data: Data) -> None:
    runs = make_runs(kfold_splits(data.targets, 2))
    kept, step = memory._bytes_of(runs, data, Recipe())
    two = jax.devices("cpu")[:2]
    size = functools.partial(
        memory.fitting_wave_size, run=runs, data=data, recipe=Recipe(), devices=two
    )
    room = 2 * (step + 10.5 * kept)  # twice: a wave takes half of what is free
    assert size(1000, vmap_size=1, free=room) == 20
    assert size(41, vmap_size=1, free=room) == 14  # three waves, of 14, 14 and 13
    assert size(7, vmap_size=1, free=room) == 8
    assert size(1000, vmap_size=1, free=0) == 2
    assert size(1000, vmap_size=1, free=1e12) == 126  # 64 rounds at the most, 8 even waves
    assert size(1000, vmap_size=4, free=1e12) == 500
    assert size(1000, vmap_size=8, free=2 * (8 * step + 300.5 * kept)) == 500
    assert size(1000, free=room) == 20  # one at a time, on a CPU


class Device:
    """Of some process, with memory of its own where stats tell of it."""

    def __init__(self, process_index: int = 0, **stats: int) -> None:
        self.process_index = process_index
        self.stats = stats

    def memory_stats(self) -> dict[str, int] | None:
        return self.stats or None


def test_a_device_has_its_own_limit_or_a_share_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "free_memory", lambda: 1000)
    assert memory.free_memory([Device(), Device()]) == 500  # type: ignore[list-item]
    limited = [Device(bytes_limit=300, bytes_in_use=100), Device(bytes_limit=300)]
    assert memory.free_memory(limited) == 200  # type: ignore[arg-type]
    assert memory.free_memory([Device(bytes_limit=5000)]) == 1000  # type: ignore[list-item]


def test_processes_of_a_job_share_a_host_and_take_the_least_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []

    def gather_values(mine: np.ndarray) -> np.ndarray:
        """This process, a second on its host, and a third on another, which has 7 MiB."""
        told.append(int(mine))
        return np.array([mine, mine, mine - 1 if len(told) == 1 else 7])

    monkeypatch.setattr(memory, "gather_values", gather_values)
    monkeypatch.setattr(memory, "spans_job", lambda devices: True)
    monkeypatch.setattr(environment, "free_memory", lambda: 80 << 20)
    job: Any = [Device(), Device(), Device(1), Device(1), Device(2), Device(2)]
    assert memory.free_memory(job) == 7 << 20
    assert told[1] == 20  # MiB: the host's, in halves for two processes of two devices each


def test_a_job_counts_the_outputs_of_all_runs_in_each_process(data: Data) -> None:
    runs = make_runs(kfold_splits(data.targets, 2))
    (alone, step), (of_four, same) = (memory._bytes_of(runs, data, Recipe(), n) for n in (1, 4))
    logits = 899 * 10 * 4  # of ceil(1797 / 2) test rows
    assert same == step and 3 * 2 * logits < of_four - alone < 3 * 2 * (logits + 2 * 8 * 899 + 100)


def test_this_host_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1e6 < memory.free_memory(jax.devices("cpu")) < 1e15
    monkeypatch.setattr(environment, "free_memory", lambda: 4000)
    assert memory.free_memory(jax.devices("cpu")[:4]) == 1000


def test_a_device_with_its_own_memory_is_asked_through_xla(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is a CPU that says so; what the compiled program needs is XLA's."""
    network = DigitsCNN(conv_features=(4,), dense_features=(8,))
    recipe, device = Recipe(network=network), jax.devices()[:1]
    few = data._replace(inputs=data.inputs[:200], targets=data.targets[:200])
    runs = make_runs(kfold_splits(few.targets, 2))
    kept, step = memory._bytes_of(runs, few, recipe)
    limit = 100 * (kept + step)
    monkeypatch.setattr(memory, "device_limit", lambda devices: limit)
    monkeypatch.setattr(memory, "default_vmap_size", lambda mesh: None)
    size = functools.partial(
        memory.fitting_wave_size, run=runs, data=few, recipe=recipe, devices=device
    )
    assert 100 < size(10**6, free=limit) < 1000  # by the estimate alone it would be 50
    monkeypatch.setattr(memory, "host_share", lambda devices: 2 * 50 * kept)
    assert size(10**6, free=limit) == 50  # their states come back to the host
