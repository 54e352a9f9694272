"""Round-robin scheduling of runs on CPU devices.

Used when the number of runs is not a multiple of the number of devices. Five runs on two CPU cores
would be three on one and two on the other, which then idles for a third of the time. Here every
device trains one run for some epochs, and the run that is due next goes to the next device. Only a
run's state moves with it, about a megabyte.

Shapes: R runs, D devices; E epochs of a call.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from digits_jax.parallel.mesh import runs_sharding

# Fraction of the devices' time; moving a run costs 2 to 4 % of the notebook's epoch.
MIN_IDLE_FRACTION = 0.08

States = TypeVar("States")
History = TypeVar("History")


def is_faster(runs: int, devices: int) -> bool:
    """True if round robin is faster than equal blocks of runs."""
    most = -(-runs // devices)  # runs of the device that has the most
    return runs > devices and 1 - runs / (most * devices) >= MIN_IDLE_FRACTION


def train_round_robin(
    train: Callable[[States, tuple[int, ...]], tuple[States, History]],
    states: States,
    *,
    mesh: Mesh,
    calls: int,
    is_done: Callable[[States], bool] | None = None,
    blank: History | None = None,
) -> Iterator[tuple[Callable[[], States], History]]:
    """Gives each of R runs ``calls`` calls of ``train``, in the order call by call, run by run.

    The devices work ahead of the caller, so that they don't wait for it.

    Args:
        train: takes the states of D runs, sharded over ``mesh``, and the runs' indices; it must not
            consume the states. The index R stands for a blank run, which fills up the last round.
        states: a pytree of NumPy arrays [R, ...].
        mesh: of the D devices, fewer than R.
        calls: of each run.
        is_done: of one run's state [1, ...], whether it needs no more calls; it gets none then.
        blank: the history [1, E] of a call that a run no longer gets.

    Yields:
        When all runs have had another call: a function that gives their states then, NumPy arrays
        [R, ...], and that call's history, NumPy arrays [R, E].
    """
    places, shard = list(mesh.devices.flat), runs_sharding(mesh)
    count = jax.tree.leaves(states)[0].shape[0]

    def join(*pieces: jax.Array) -> jax.Array:
        shape = (len(pieces), *pieces[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, shard, pieces)

    latest = [
        jax.tree.map(lambda leaf, run=run: leaf[run : run + 1], states) for run in range(count)
    ]
    due = deque(list(range(count)) * calls)
    trained: list[deque[Any]] = [deque() for _ in range(count)]  # (state, history) of each run
    done: set[int] = set()

    def next_group() -> list[int]:
        """The runs of the next round; those that are done are passed over."""
        group: list[int] = []
        while due and len(group) < len(places):
            if due[0] in group:  # its next call needs the result of this one
                break
            run = due.popleft()
            if is_done is not None and run not in done and is_done(latest[run]):
                done.add(run)
            if run in done:
                trained[run].append((latest[run], blank))
            else:
                group.append(run)
        return group

    for _ in range(calls):
        while due and sum(map(len, trained)) < count + len(places):
            group = next_group()
            if not group:
                continue
            blanks = [count] * (len(places) - len(group))
            given = [latest[run] for run in group] + [latest[0]] * len(blanks)
            moved = [jax.device_put(each, place) for each, place in zip(given, places, strict=True)]
            result = train(jax.tree.map(join, *moved), (*group, *blanks))
            for place, run in enumerate(group):
                trained[run].append(_on_device(result, place))
                latest[run] = trained[run][-1][0]
        ready = [each.popleft() for each in trained]
        states_of = functools.partial(_stack, [state for state, _ in ready])
        yield states_of, _stack([history for _, history in ready])


def _on_device(tree: Any, index: int) -> Any:
    """What the device of that index holds, leaves [1, ...]."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(index), tree)


def _stack(trees: list[Any]) -> Any:
    """Trees of arrays [1, ...], on any devices, as one of NumPy arrays [R, ...]."""
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(x) for x in leaves]), *trees)
