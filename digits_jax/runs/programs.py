"""The compiled programs of the runs axis, and the two ways to advance the runs with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh

from digits_jax import train
from digits_jax.parallel.mesh import debugging, over_runs, place, runs_sharding
from digits_jax.parallel.round_robin import train_round_robin
from digits_jax.runs.axis import pad_runs, take_runs, to_host
from digits_jax.recipe import Recipe
from digits_jax.train import Examples, History, Run, Sums, TrainState


class Programs(NamedTuple):
    """The compiled programs of an recipe, of the whole runs axis."""

    init: Callable[..., TrainState]  # (runs, data)
    # (states, runs, data); it consumes the states, but for runs in turns, of one lane a device
    train: Callable[..., tuple[TrainState, History]]
    evaluate: Callable[..., tuple[Sums, jax.Array]]  # (states, runs, data)
    states: TrainState  # shapes and dtypes, with the runs axis


def compile_programs(
    runs: Run,
    data: Examples,
    *,
    recipe: Recipe,
    mesh: Mesh,
    vmap_size: int | None,
    epochs_per_call: int,
    round_robin: bool = False,
) -> Programs:
    """The programs for arrays like these; compiled once for each shape and configuration."""
    leaves, structure = jax.tree.flatten((runs, data))
    arrays = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
    make = _compile_for.__wrapped__ if debugging() else _compile_for
    return make(arrays, structure, recipe, mesh, vmap_size, epochs_per_call, round_robin)


@functools.lru_cache(maxsize=16)
def _compile_for(
    arrays: tuple[Any, ...],
    structure: Any,
    recipe: Recipe,
    mesh: Mesh,
    vmap_size: int | None,
    epochs_per_call: int,
    round_robin: bool,
) -> Programs:
    leaves = [jax.ShapeDtypeStruct(shape, dtype, sharding=s) for shape, dtype, s in arrays]
    runs, data = jax.tree.unflatten(structure, leaves)
    lift = functools.partial(over_runs, mesh=mesh, vmap_size=vmap_size)

    def init(runs: Run, data: Examples) -> TrainState:
        lifted = lift(functools.partial(train.init_state, recipe=recipe))
        return cast(TrainState, lifted(runs, data))

    def train_(states: TrainState, runs: Run, data: Examples) -> tuple[TrainState, History]:
        one = functools.partial(train.train_epochs, recipe=recipe, epochs=epochs_per_call)
        lifted = lift(lambda lane, data: one(lane[0], lane[1], data))
        return cast(tuple[TrainState, History], lifted((states, runs), data))

    def evaluate(states: TrainState, runs: Run, data: Examples) -> tuple[Sums, jax.Array]:
        one = functools.partial(train.evaluate, recipe=recipe)
        lifted = lift(lambda lane, data: one(lane[0], lane[1], data))
        return cast(tuple[Sums, jax.Array], lifted((states, runs), data))

    sharding = runs_sharding(mesh)

    def lanes(tree: Any, lanes: int | None = None) -> Any:
        """The same arrays with another number of lanes, sharded."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (lanes or leaf.shape[0], *leaf.shape[1:]), leaf.dtype, sharding=sharding
            ),
            tree,
        )

    if debugging():  # programs compiled ahead of time don't take part
        states = lanes(jax.eval_shape(init, runs, data))
        return Programs(jax.jit(init), jax.jit(train_), jax.jit(evaluate), states)
    traced_init = jax.jit(init).trace(runs, data)
    states = lanes(traced_init.out_info)
    if round_robin:
        turn = jax.jit(train_).lower(lanes(states, mesh.size), lanes(runs, mesh.size), data)
    else:
        turn = jax.jit(train_, donate_argnums=0).lower(states, runs, data)
    pool = ThreadPoolExecutor(2)  # XLA compiles outside Python's lock
    compiled_train = pool.submit(turn.compile)
    # Initial weights are drawn once: on a CPU their program is not worth 2 s of optimizing.
    cpu = mesh.devices.flat[0].platform == "cpu"
    quickly: Any = {"xla_backend_optimization_level": 0} if cpu else None
    compiled_init = pool.submit(traced_init.lower().compile, quickly)
    lowered_evaluate = jax.jit(evaluate).lower(states, runs, data)
    programs = cast(Any, compiled_init.result()), cast(Any, compiled_train.result())
    later = pool.submit(lowered_evaluate.compile)  # while the first epochs train

    def evaluate_(*arguments: Any) -> Any:
        return later.result()(*arguments)

    pool.shutdown(wait=False)
    return Programs(*programs, evaluate_, states)


def train_side_by_side(
    program: Programs,
    states: TrainState,
    runs: Run,
    data: Examples,
    mesh: Mesh,
    count: int,
    calls: int,
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """After each call: how to get the states, until the next one, and the call's history.

    ``states``, ``runs`` and ``data`` lie on the devices, padded; ``count`` runs are real.
    """
    for _ in range(calls):
        states, new = program.train(states, runs, data)
        yield (lambda now=states: now), to_host(new, mesh, count)  # type: ignore[misc]


def train_in_round_robin(
    program: Programs, states: TrainState, runs: Run, data: Examples, mesh: Mesh, calls: int
) -> Iterator[tuple[Callable[[], TrainState], History]]:
    """As ``_side_by_side``, but each device trains whichever run is due; ``runs`` are as given."""
    count, shard = len(runs.key), runs_sharding(mesh)
    with_a_blank = pad_runs(runs, count + 1)

    @functools.cache
    def dealt(turn: tuple[int, ...]) -> Run:
        of_turn = jax.tree.map(lambda leaf: take_runs(leaf, np.array(turn)), with_a_blank)
        return cast(Run, place(of_turn, shard))

    def train(states: TrainState, turn: tuple[int, ...]) -> tuple[TrainState, History]:
        return program.train(states, dealt(turn), data)

    first = to_host(states, mesh, count)
    for states_of, new in train_round_robin(train, first, mesh=mesh, calls=calls):
        yield functools.partial(lambda get: place(pad_runs(get(), mesh.size), shard), states_of), new
