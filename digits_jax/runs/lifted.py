"""The functions of one run, lifted to the runs axis of a mesh of devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives
from jax.sharding import Mesh

from digits_jax import evaluation, train
from digits_jax.parallel.mesh import over_runs
from digits_jax.recipe import Recipe, on_platform
from digits_jax.structures import Data, Run, Sums, TrainState
from digits_jax.watch import Watch

History = dict[str, Any]


class Lifted(NamedTuple):
    """The functions of one run, lifted to the runs axis; neither traced nor compiled.

    Attributes:
        init: of (runs, data, params) gives the states; params may be None.
        train: of (states, runs, data) gives the states after a call's epochs, and their history.
        evaluate: of (states, runs, data) gives the sums over the test rows, and their outputs.
    """

    init: Callable[..., TrainState]
    train: Callable[..., tuple[TrainState, History]]
    evaluate: Callable[..., tuple[Sums, Any]]


def lifted_programs(
    recipe: Recipe,
    *,
    mesh: Mesh,
    vmap_size: int | None,
    epochs_per_call: int = 1,
    steps: int | None = None,
    watch: Watch | None = None,
    platform: str | None = None,
    all_steps: bool = False,
) -> Lifted:
    """What ``compile_programs`` compiles; see there for the arguments.

    ``platform`` is that which the programs are for, by default that of the mesh's devices; see
    ``runs_take_all_steps`` for the last.
    """
    lift = functools.partial(over_runs, mesh=mesh, vmap_size=vmap_size)
    platform = mesh.devices.flat[0].platform if platform is None else platform

    def of_run(run: Run) -> Run:
        run = run._replace(hyperparameters=_weakly_typed(run.hyperparameters))
        return run if steps is None else run._replace(steps=steps)

    def init(runs: Run, data: Data, params: Any) -> TrainState:
        def one(run_and_params: Any, data: Data) -> TrainState:
            run, params = run_and_params
            return train.init_state(of_run(run), data, recipe=recipe, params=params, watch=watch)

        return cast(TrainState, lift(one)((runs, params), data))

    def train_(states: TrainState, runs: Run, data: Data) -> tuple[TrainState, History]:
        def one(state_and_run: Any, data: Data) -> Any:
            state, run = state_and_run
            with on_platform(platform):
                return train.train_epochs(
                    state,
                    of_run(run),
                    data,
                    recipe=recipe,
                    epochs=epochs_per_call,
                    watch=watch,
                    all_steps=all_steps,
                )

        return cast(tuple[TrainState, History], lift(one)((states, runs), data))

    def evaluate(states: TrainState, runs: Run, data: Data) -> tuple[Sums, Any]:
        def one(state_and_run: Any, data: Data) -> Any:
            state, run = state_and_run
            with on_platform(platform):
                return evaluation.evaluate(state, of_run(run), data, recipe=recipe)

        return cast(tuple[Sums, Any], lift(one)((states, runs), data))

    return Lifted(init, train_, evaluate)


def _weakly_typed(h: Any) -> Any:
    """Scalar floats of h as weakly typed as Python's, so that they widen no bfloat16 parameter."""

    def one(leaf: Any) -> Any:
        if jnp.ndim(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return primitives.convert_element_type_p.bind(
            leaf, new_dtype=np.dtype(leaf.dtype), weak_type=True, sharding=None
        )

    return jax.tree.map(one, h)
