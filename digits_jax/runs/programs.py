"""The programs of the runs axis: traced, compiled while their caller goes on, and kept."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
from jax.sharding import Mesh

from digits_jax.parallel.mesh import debugging, runs_sharding
from digits_jax.recipe import Recipe
from digits_jax.runs.compiling import Compiling, compiled
from digits_jax.runs.groups import Groups, device_limit
from digits_jax.runs.lifted import History, lifted_programs
from digits_jax.runs.preparation import runs_take_all_steps, unread_leaves
from digits_jax.structures import Data, Run, Sums, TrainState
from digits_jax.watch import Watch


def _nothing() -> None:
    pass


class Programs(NamedTuple):
    """The programs of a recipe, of the whole runs axis; XLA may still be compiling them.

    Attributes:
        init: of (runs, data, params).
        train: of (states, runs, data); it consumes the states, but in round robin.
        evaluate: of (states, runs, data).
        states: shapes and dtypes, with the runs axis.
        unread: names of those leaves of the hyperparameters that no program reads.
        groups: of ``train``, on devices with a memory of their own; see ``groups.py``. Called, they
            run it and wait, in smaller groups where memory runs out.
        wait: until ``init`` and ``train`` are compiled. Raises what XLA raises, and OutOfMemory.
        compile_evaluation: begins to compile ``evaluate``, unless that has begun. Not before the
            first epoch: it would take the cores from what that waits for.
    """

    init: Callable[..., TrainState]
    train: Callable[..., tuple[TrainState, History]]
    evaluate: Callable[..., tuple[Sums, Any]]
    states: TrainState
    unread: tuple[str, ...]
    groups: Groups | None = None
    wait: Callable[[], object] = _nothing
    compile_evaluation: Callable[[], object] = _nothing


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
    identify: Callable[[], Any] | None = None,
) -> Programs:
    """The programs for arrays like these; compiled once for each shape and configuration.

    Programs are traced once for each recipe, as JAX does it. So a function is not traced again
    after a global constant that it reads has changed, unless what ``identify`` gives shows that it
    computes something else.

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
        identify: gives what identifies the programs beside the configuration, any hashable value.
            It is called while XLA compiles, where nothing with this configuration is kept. Default:
            what ``identified`` says.
    """
    identify = _IDENTITY.get if identify is None else identify
    leaves, structure = jax.tree.flatten((runs, data, params))
    settings = tuple(  # the attributes also know what holds in a ``with`` block alone
        sorted(
            (name, repr(getattr(jax.config, name, value)))
            for name, value in jax.config.values.items()
        )
    )
    how: dict[str, Any] = {
        "recipe": recipe,
        "mesh": mesh,
        "epochs_per_call": epochs_per_call,
        "steps": steps,
        "watch": watch,
        "all_steps": not round_robin and runs_take_all_steps(runs, data, recipe, mesh),
    }
    shapes = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for leaf in leaves
    ]

    def begin() -> Programs:
        return _begin(jax.tree.unflatten(structure, shapes), vmap_size, round_robin, how)

    if debugging():
        return begin()
    arrays = tuple((leaf.shape, leaf.dtype, leaf.sharding) for leaf in leaves)
    key = arrays, structure, vmap_size, round_robin, tuple(how.values()), settings
    identity, programs = _PROGRAMS.pop(key, (None, None))
    if programs is None or identity != identify():
        programs = begin()
    _PROGRAMS[key] = identify(), programs
    while len(_PROGRAMS) > _KEPT_PROGRAMS:
        _PROGRAMS.pop(next(iter(_PROGRAMS)))
    return programs


_PROGRAMS: dict[Any, tuple[Any, Programs]] = {}  # with their identity, by configuration
_KEPT_PROGRAMS = 16  # the latest


def forget_programs() -> None:
    """Programs are traced again, say since something else of the library was exchanged."""
    _PROGRAMS.clear()


@contextlib.contextmanager
def identified(program: Any) -> Iterator[None]:
    """In this block recipes compute what ``program``, any hashable value, identifies."""
    token = _IDENTITY.set(program)
    try:
        yield
    finally:
        _IDENTITY.reset(token)


_IDENTITY: contextvars.ContextVar[Any] = contextvars.ContextVar("identity", default=None)


def _begin(
    arguments: tuple[Run, Data, Any], vmap_size: int | None, round_robin: bool, how: dict[str, Any]
) -> Programs:
    """The programs, traced and handed to XLA, of runs, data and params that are shapes alone.

    What the first epoch needs comes first.
    """
    (runs, data, params), mesh = arguments, how["mesh"]
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
        of_devices = with_runs(states, mesh.size), with_runs(runs, mesh.size), data
        traced_train = jax.jit(train_).trace(*of_devices)
    else:
        traced_train = jax.jit(train_, donate_argnums=0).trace(states, runs, data)
    compiled_train = compiled(traced_train.lower(), mesh)
    # Initial weights are drawn once: on a CPU their program is not worth 2 s of optimizing.
    quickly: Any = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    compiled_init = compiled(traced_init.lower(), mesh, quickly)

    @functools.cache
    def traced_evaluate() -> Any:
        return jax.jit(evaluate).trace(states, runs, data)

    @functools.cache
    def compiled_evaluate() -> Compiling:
        return compiled(traced_evaluate().lower(), mesh)

    unread = unread_leaves(runs, (traced_train, (states, runs, data)))
    if unread:
        unread = unread_leaves(
            runs,
            (traced_init, (runs, data, params)),
            (traced_train, (states, runs, data)),
            (traced_evaluate(), (states, runs, data)),
        )
    if device_limit(list(mesh.devices.flat)) is not None:
        sized = functools.partial(
            _in_groups, arguments=(states, runs, data), vmap_size=vmap_size, how=how
        )
        groups = sized("train", compiled_train, donated=(0,))
        evaluate_in_groups = sized("evaluate", compiled_evaluate())

        def train_in_groups(*arguments: Any) -> Any:
            return groups.program()(*arguments)

        return Programs(
            compiled_init,
            train_in_groups,
            evaluate_in_groups,
            states,
            unread,
            groups,
            wait=groups.program,  # what can't fit is said before anything is trained
        )

    def wait() -> None:
        compiled_init.executable()
        compiled_train.executable()

    return Programs(
        compiled_init,
        compiled_train,
        lambda *arguments: compiled_evaluate()(*arguments),
        states,
        unread,
        wait=wait,
        compile_evaluation=compiled_evaluate,
    )


def _in_groups(
    name: str,
    first: Compiling,
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
            return first.executable()
        function = getattr(lifted_programs(vmap_size=size, **how), name)
        traced = jax.jit(function, donate_argnums=donated).trace(*arguments)
        return compiled(traced.lower(), mesh).executable()

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
    program = compiled(traced.lower(), how["mesh"])
    if device_limit(list(how["mesh"].devices.flat)) is None:
        return program
    groups = _in_groups("train", program, (states, runs, data), vmap_size, how, donated=(0,))
    return cast(Callable[..., tuple[TrainState, History]], groups.program())
