"""The compiled programs of the runs axis, and the two ways to advance the runs with them."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import primitives
from jax.sharding import Mesh

from digits_jax import evaluation, train
from digits_jax.parallel.mesh import debugging, over_runs, runs_sharding
from digits_jax.recipe import Recipe, on_platform
from digits_jax.runs.groups import Groups, device_limit
from digits_jax.runs.preparation import runs_take_all_steps, unread_leaves
from digits_jax.structures import Data, Run, Sums, TrainState
from digits_jax.watch import Watch

History = dict[str, Any]


class Programs(NamedTuple):
    """The compiled programs of a recipe, of the whole runs axis.

    Attributes:
        init: of (runs, data, params).
        train: of (states, runs, data); it consumes the states, but in round robin.
        evaluate: of (states, runs, data).
        states: shapes and dtypes, with the runs axis.
        unread: names of those leaves of the hyperparameters that no program reads.
        groups: of ``train``, on devices with a memory of their own; see ``groups.py``. Called, they
            run it and wait, in smaller groups where memory runs out.
    """

    init: Callable[..., TrainState]
    train: Callable[..., tuple[TrainState, History]]
    evaluate: Callable[..., tuple[Sums, Any]]
    states: TrainState
    unread: tuple[str, ...]
    groups: Groups | None = None


def compile_programs(
    runs: Run,
    data: Data,
    *,
    recipe: Recipe,
    mesh: Mesh,
    vmap_size: int | None,
    epochs_per_call: int,
    params: Any = None,
    steps: int | None = None,
    watch: Watch | None = None,
    round_robin: bool = False,
) -> Programs:
    """The programs for arrays like these; compiled once for each shape and configuration.

    Args:
        runs: placed on the devices, [R + padding, ...].
        data: placed on the devices.
        recipe: the static part.
        mesh: of the devices.
        vmap_size: runs that a device advances side by side; fewer where these don't fit in a memory
            of its own.
        epochs_per_call: epochs of a call of ``train``.
        params: initial parameters, placed, [R + padding, ...]; None: drawn.
        steps: optimizer steps of the whole training if all runs take equally many.
        watch: see ``train_epochs``.
        round_robin: whether ``train`` gets one run a device at a time, and must not consume it.
    """
    leaves, structure = jax.tree.flatten((runs, data, params))
    arrays = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
    make = _compile_for.__wrapped__ if debugging() else _compile_for
    all_steps = not round_robin and runs_take_all_steps(runs, data, recipe, mesh)
    settings = tuple(  # the attributes also know what holds in a ``with`` block alone
        sorted(
            (name, repr(getattr(jax.config, name, value)))
            for name, value in jax.config.values.items()
        )
    )
    return make(
        arrays,
        structure,
        recipe,
        mesh,
        vmap_size,
        epochs_per_call,
        steps,
        watch,
        round_robin,
        all_steps,
        settings,
        _IDENTITY.get(),
    )


@contextlib.contextmanager
def identified(program: Any) -> Iterator[None]:
    """In this block recipes compute what ``program``, any hashable value, identifies.

    Programs are traced once for each recipe, as JAX does it. So a function is not traced again
    after a global constant that it reads has changed, unless its digest shows that it computes
    something else.
    """
    token = _IDENTITY.set(program)
    try:
        yield
    finally:
        _IDENTITY.reset(token)


_IDENTITY: contextvars.ContextVar[Any] = contextvars.ContextVar("identity", default=None)


@functools.lru_cache(maxsize=16)
def _compile_for(
    arrays: tuple[Any, ...],
    structure: Any,
    recipe: Recipe,
    mesh: Mesh,
    vmap_size: int | None,
    epochs_per_call: int,
    steps: int | None,
    watch: Watch | None,
    round_robin: bool,
    all_steps: bool,
    settings: Any,  # of JAX, which a program may depend on
    identity: Any,
) -> Programs:
    del settings, identity
    leaves = [jax.ShapeDtypeStruct(shape, dtype, sharding=s) for shape, dtype, s in arrays]
    runs, data, params = jax.tree.unflatten(structure, leaves)
    how: dict[str, Any] = {
        "recipe": recipe,
        "mesh": mesh,
        "epochs_per_call": epochs_per_call,
        "steps": steps,
        "watch": watch,
        "all_steps": all_steps,
    }
    init, train_, evaluate = lifted_programs(vmap_size=vmap_size, **how)
    sharding = runs_sharding(mesh)

    def with_runs(tree: Any, count: int | None = None) -> Any:
        """The same arrays with another number of runs, sharded."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (count or leaf.shape[0], *leaf.shape[1:]), leaf.dtype, sharding=sharding
            ),
            tree,
        )

    platform = mesh.devices.flat[0].platform
    if debugging():  # programs compiled ahead of time don't take part
        states = with_runs(jax.eval_shape(init, runs, data, params))
        return Programs(jax.jit(init), jax.jit(train_), jax.jit(evaluate), states, ())
    traced_init = jax.jit(init).trace(runs, data, params)
    states = with_runs(traced_init.out_info)
    if round_robin:
        arguments = with_runs(states, mesh.size), with_runs(runs, mesh.size), data
        traced_train = jax.jit(train_).trace(*arguments)
    else:
        traced_train = jax.jit(train_, donate_argnums=0).trace(states, runs, data)
    compiled_train = _compiled(traced_train.lower(), mesh)
    # Initial weights are drawn once: on a CPU their program is not worth 2 s of optimizing.
    quickly: Any = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    compiled_init = _compiled(traced_init.lower(), mesh, quickly)
    traced_evaluate = jax.jit(evaluate).trace(states, runs, data)
    lowered_evaluate = traced_evaluate.lower()
    unread = unread_leaves(
        runs,
        (traced_init, (runs, data, params)),
        (traced_train, (states, runs, data)),
        (traced_evaluate, (states, runs, data)),
    )
    if device_limit(list(mesh.devices.flat)) is not None:
        arguments = states, runs, data
        sized = functools.partial(_in_groups, arguments=arguments, vmap_size=vmap_size, how=how)
        groups = sized("train", compiled_train, donated=(0,))
        groups.program()  # what can't fit is said before anything is trained
        evaluate_in_groups = sized("evaluate", _compiled(lowered_evaluate, mesh))
        drawing = cast(Any, compiled_init.result())

        def train_in_groups(*arguments: Any) -> Any:
            return groups.program()(*arguments)

        return Programs(drawing, train_in_groups, evaluate_in_groups, states, unread, groups)
    programs = cast(Any, compiled_init.result()), cast(Any, compiled_train.result())
    # Not before: it would take the cores from the two that the first epoch waits for.
    evaluates = _compiled(lowered_evaluate, mesh)

    def evaluate_(*arguments: Any) -> Any:
        return evaluates.result()(*arguments)

    return Programs(*programs, evaluate_, states, unread)


def _in_groups(
    name: str,
    first: Future[Any],
    arguments: tuple[Any, Any, Any],
    vmap_size: int | None,
    how: Mapping[str, Any],
    donated: tuple[int, ...] = (),
) -> Groups:
    """A program of ``Lifted`` in groups that fit; ``first`` is that of ``vmap_size``."""
    mesh, (_, runs, _) = how["mesh"], arguments
    devices = list(mesh.devices.flat)

    def compile(size: int | None) -> Any:
        if size == vmap_size:
            return first.result()
        function = getattr(lifted_programs(vmap_size=size, **how), name)
        traced = jax.jit(function, donate_argnums=donated).trace(*arguments)
        return _compiled(traced.lower(), mesh).result()

    return Groups(
        compile,
        size=vmap_size,
        lanes=len(runs.key) // mesh.size,
        limit=device_limit(devices),
        what={"train": "training", "evaluate": "evaluation"}[name],
        together=mesh.is_multi_process,
    )


def compile_train(
    states: TrainState, runs: Run, data: Data, *, vmap_size: int | None, **how: Any
) -> Callable[..., tuple[TrainState, History]]:
    """The training program alone, of other runs; arguments as of ``compile_programs``, placed."""
    lifted = lifted_programs(vmap_size=vmap_size, **how)
    traced = jax.jit(lifted.train, donate_argnums=0).trace(states, runs, data)
    compiled = _compiled(traced.lower(), how["mesh"])
    if device_limit(list(how["mesh"].devices.flat)) is None:
        return cast(Callable[..., tuple[TrainState, History]], compiled.result())
    groups = _in_groups("train", compiled, (states, runs, data), vmap_size, how, donated=(0,))
    return cast(Callable[..., tuple[TrainState, History]], groups.program())


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


_EXECUTABLES: dict[Any, Future[Any]] = {}  # by digest and tree of the program, the oldest first
_KEPT = 48  # of them
_COMPILERS = ThreadPoolExecutor(3, "compile")  # XLA compiles outside of Python's lock


def _compiled(lowered: Any, mesh: Mesh, options: dict[str, Any] | None = None) -> Future[Any]:
    """The executable of a lowered program; an equal program is compiled once.

    So a lambda that is made anew, whose recipe is another one for Python, compiles nothing anew.
    """
    devices = [(device.platform, device.id) for device in mesh.devices.flat]
    content = f"{devices} {options}\n{lowered.as_text()}"
    digest = hashlib.sha256(content.encode()).hexdigest()
    # An argument that the program does not use is not in its text, but is checked at each call.
    arguments = tuple(map(str, jax.tree.leaves(lowered.in_avals)))
    key = digest, arguments, lowered.in_tree, lowered.out_tree
    if key not in _EXECUTABLES:
        while len(_EXECUTABLES) >= _KEPT:
            _EXECUTABLES.pop(next(iter(_EXECUTABLES)))
        _EXECUTABLES[key] = _COMPILERS.submit(lowered.compile, options)
    return _EXECUTABLES[key]


def _weakly_typed(h: Any) -> Any:
    """Scalar floats of h as weakly typed as Python's, so that they widen no bfloat16 parameter."""

    def one(leaf: Any) -> Any:
        if jnp.ndim(leaf) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return primitives.convert_element_type_p.bind(
            leaf, new_dtype=np.dtype(leaf.dtype), weak_type=True, sharding=None
        )

    return jax.tree.map(one, h)
