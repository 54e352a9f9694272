"""Advancing many runs with their compiled programs: side by side, or each when it is due.

Each way is an iterator over the calls of the training program. It gives a function that gives the
states, and the history of that call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh

from digits_jax.parallel.mesh import place, runs_sharding
from digits_jax.parallel.round_robin import train_round_robin
from digits_jax.runs.axis import pad_runs, put_runs, take_runs, to_host
from digits_jax.runs.lifted import History
from digits_jax.runs.programs import Programs
from digits_jax.structures import Data, Run, TrainState


def train_side_by_side(
    programs: Programs,
    states: TrainState,
    runs: Run,
    data: Data,
    mesh: Mesh,
    count: int,
    calls: int,
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """After each call: a function that gives the states, until the next one; and its history.

    ``states``, ``runs`` and ``data`` lie on the devices, padded; ``count`` runs are real.
    """
    train = _guarded(programs, mesh)
    for _ in range(calls):
        states, new = train(states, runs, data)
        yield functools.partial(_same, states), to_host(new, mesh, count)


def _guarded(
    programs: Programs, mesh: Mesh
) -> Callable[[TrainState, Run, Data], tuple[TrainState, History]]:
    """The training program, whose first call shows whether a device's memory suffices.

    The program consumes the states. Before the first call on devices with a memory of their own
    they are copied to the host; if memory runs out, training goes on from the copy, in groups of
    half the size. Later calls need what the first needed.
    """
    groups = programs.groups
    if groups is None or mesh.is_multi_process:
        return programs.train
    proven = False

    def train(states: TrainState, runs: Run, data: Data) -> tuple[TrainState, History]:
        nonlocal proven
        if proven:
            return programs.train(states, runs, data)
        kept = to_host(states, mesh, len(states.step))
        results: tuple[TrainState, History] = groups(
            states, runs, data, again=lambda: (place(kept, runs_sharding(mesh)),)
        )
        proven = True
        return results

    return train


def _same(states: TrainState) -> TrainState:
    return states


FEWEST_CALLS = 10  # that must be left for a smaller program to be worth its compilation


def train_shrinking(
    programs: Programs,
    states: TrainState,
    runs: Run,
    data: Data,
    mesh: Mesh,
    calls: int,
    *,
    is_done: Callable[[TrainState], jax.Array],
    compile_train: Callable[[TrainState, Run], Any],
    blank: History,
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """As ``train_side_by_side``, but runs that have stopped leave the runs axis, by halves.

    When at most half of the runs on the axis still train, a program of these alone is compiled. The
    rule knows the states and the calls that are left, and no clock: a resumed training has programs
    of the same widths as an uninterrupted one.

    Args:
        programs: of all runs.
        states: placed and padded.
        runs: as given, neither placed nor padded.
        data: placed.
        mesh: of the devices.
        calls: of the program.
        is_done: bool [R + padding], which of the placed states have stopped.
        compile_train: the training program of fewer runs, from placed states and runs.
        blank: history [1, epochs of a call] of a run that has stopped.
    """
    count, shard = len(runs.key), runs_sharding(mesh)
    alive = np.arange(count)
    parked: Any = None  # the states of all runs on the host, once some have left
    placed = cast(Run, place(pad_runs(runs, mesh.size), shard))
    program = _guarded(programs, mesh)

    def merged() -> TrainState:
        if parked is None:
            return states
        whole = put_runs(parked, alive, to_host(states, mesh, len(alive)))
        return cast(TrainState, place(pad_runs(whole, mesh.size), shard))

    for left in range(calls, 0, -1):
        running = alive[~np.asarray(to_host(is_done(states), mesh, len(alive)))]
        if 0 < len(running) <= len(alive) // 2 and left >= FEWEST_CALLS:
            here = to_host(states, mesh, len(alive))
            parked = here if parked is None else put_runs(parked, alive, here)
            alive = running
            states = cast(TrainState, place(pad_runs(take_runs(parked, alive), mesh.size), shard))
            placed = cast(Run, place(pad_runs(take_runs(runs, alive), mesh.size), shard))
            program = compile_train(states, placed)
        history = {name: np.repeat(value, count, axis=0) for name, value in blank.items()}
        if len(running):
            states, new = program(states, placed, data)
            for name, values in to_host(new, mesh, len(alive)).items():
                history[name][alive] = values
        yield merged, history


DEALING = 0.1  # epochs of a short run that moving its state takes


def train_dealt(
    programs: Programs,
    states: TrainState,
    runs: Run,
    data: Data,
    mesh: Mesh,
    calls: int,
    *,
    is_done: Callable[[TrainState], jax.Array],
    blank: History,
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """As ``train_side_by_side``, of runs that a device takes one after another, and that may stop.

    A run that has stopped takes no steps, so all that is left to do is to keep the devices equally
    busy. Once they have waited for the busiest one for as long as moving all states takes, the
    running runs are dealt out anew. What a run computes doesn't depend on where it lies.

    Args:
        programs: of all runs.
        states: placed and padded.
        runs: as given, neither placed nor padded.
        data: placed.
        mesh: of the devices.
        calls: of the program.
        is_done: bool [R + padding], which of the placed states have stopped.
        blank: history [1, epochs of a call] of a run that has stopped.
    """
    count, shard = len(runs.key), runs_sharding(mesh)
    padded = cast(Run, pad_runs(runs, mesh.size))
    placed = cast(Run, place(padded, shard))
    order = np.arange(len(padded.key))  # the run at each place
    train = _guarded(programs, mesh)
    epochs = next(iter(blank.values())).shape[1]
    waited = 0  # epochs of a run

    def to_places(tree: Any, index: np.ndarray) -> Any:
        return place(take_runs(tree, index), shard)

    def in_order() -> TrainState:
        if (order == np.arange(len(order))).all():
            return states
        return cast(TrainState, to_places(to_host(states, mesh, len(order)), np.argsort(order)))

    for _ in range(calls):
        real = order < count  # the others have no rows
        running = ~np.asarray(to_host(is_done(states), mesh, len(order))) & real
        each = running.reshape(mesh.size, -1).sum(axis=1)
        waited += epochs * int(each.max() - -(-each.sum() // mesh.size))
        if waited >= DEALING * len(order) and each.max() - each.min() > 1:
            # Running ones first, one after another to each device.
            dealt = np.argsort(~running, kind="stable").reshape(-1, mesh.size).T.ravel()
            states = to_places(to_host(states, mesh, len(order)), dealt)
            order, real, waited = order[dealt], real[dealt], 0
            placed = to_places(padded, order)
        history = {name: np.repeat(value, count, axis=0) for name, value in blank.items()}
        if running.any():
            states, new = train(states, placed, data)
            for name, values in to_host(new, mesh, len(order)).items():
                history[name][order[real]] = values[real]
        yield in_order, history


def train_in_round_robin(
    programs: Programs,
    states: TrainState,
    runs: Run,
    data: Data,
    mesh: Mesh,
    calls: int,
    *,
    is_done: Callable[[TrainState], bool] | None = None,
    blank: History | None = None,
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """As ``train_side_by_side``, but each device trains whichever run is due.

    ``runs`` are as given, not placed and not padded. See ``train_round_robin`` for the last two.
    """
    count, shard = len(runs.key), runs_sharding(mesh)
    with_a_blank = pad_runs(runs, count + 1)

    @functools.cache
    def placed(group: tuple[int, ...]) -> Run:
        return cast(Run, place(take_runs(with_a_blank, group), shard))

    def train(states: TrainState, group: tuple[int, ...]) -> tuple[TrainState, History]:
        return programs.train(states, placed(group), data)

    first = to_host(states, mesh, count)
    advance = train_round_robin(train, first, mesh=mesh, calls=calls, is_done=is_done, blank=blank)
    for states_of, new in advance:
        yield (
            functools.partial(lambda get: place(pad_runs(get(), mesh.size), shard), states_of),
            new,
        )
