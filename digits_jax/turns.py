"""Runs dealt to the devices in turns, where their number would leave some devices idle.

Five runs on two CPU cores are three on one and two on the other, which then waits for a third of
the time; on four cores, two each on two, and one on a third. So here the runs take turns, as cards
are dealt: in each turn every device trains one run for some epochs, and the run that is due next
goes to the next device. Only a run's state moves with it, about a megabyte.

Shapes: R runs, D devices; E epochs of a call.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from digits_jax import devices as _devices
from digits_jax.train import History, TrainState

LEAST_IDLE = (
    0.08  # share of the devices' time; a turn itself costs 2 to 4 % of the notebook's epoch
)


def pay(runs: int, devices: int) -> bool:
    """Whether turns pay: devices that walk equal shares of the runs would idle for long enough."""
    share = -(-runs // devices)  # of the device that has the most
    return runs > devices and 1 - runs / (share * devices) >= LEAST_IDLE


def train_in_turns(
    train: Callable[[TrainState, tuple[int, ...]], tuple[TrainState, History]],
    states: TrainState,
    *,
    mesh: Mesh,
    calls: int,
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """Gives each of R runs ``calls`` calls of ``train``, in the order call by call, run by run.

    The devices are always some turns ahead of who iterates, so that they don't wait for it either.

    Args:
        train: of the states of D runs, sharded over ``mesh``, and the runs' numbers; it must not
            consume the states. The number R stands for a blank run, which fills up the last turn.
        states: NumPy arrays [R, ...].
        mesh: of the D devices, fewer than R.
        calls: of each run.

    Yields:
        When all runs have had another call: how to get their states then, NumPy arrays [R, ...],
        and that call's history, NumPy arrays [R, E].
    """
    places, shard = list(mesh.devices.flat), _devices.runs_sharding(mesh)
    count = jax.tree.leaves(states)[0].shape[0]

    def join(*pieces: jax.Array) -> jax.Array:
        shape = (len(pieces), *pieces[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, shard, pieces)

    latest = [
        jax.tree.map(lambda leaf, run=run: leaf[run : run + 1], states) for run in range(count)
    ]
    due = deque(list(range(count)) * calls)
    trained: deque[Any] = deque()  # (state, history) of a run, in the order in which they were due
    for _ in range(calls):
        while due and len(trained) < count + len(places):
            turn = [due.popleft() for _ in places[: len(due)]]
            blanks = [count] * (len(places) - len(turn))
            given = [latest[run] for run in turn] + [latest[0]] * len(blanks)
            moved = [jax.device_put(each, place) for each, place in zip(given, places, strict=True)]
            result = train(jax.tree.map(join, *moved), (*turn, *blanks))
            for place, run in enumerate(turn):
                trained.append(_piece(result, place))
                latest[run] = trained[-1][0]
        done = [trained.popleft() for _ in range(count)]
        states_of = functools.partial(_stacked, [state for state, _ in done])
        yield states_of, _stacked([history for _, history in done])


def _piece(tree: Any, place: int) -> Any:
    """What the device of that place holds, leaves [1, ...]."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(place), tree)


def _stacked(parts: list[Any]) -> Any:
    """Trees of arrays [1, ...], on any devices, as one of NumPy arrays [R, ...]."""
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves]), *parts)
