"""Trains runs that share a folder of checkpoints, and evaluates each on its own test rows."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from digits_jax import train
from digits_jax.parallel import round_robin
from digits_jax.parallel.mesh import (
    debugging,
    default_vmap_size,
    place,
    replicated,
    runs_mesh,
    runs_sharding,
)
from digits_jax.parallel.processes import gather_values
from digits_jax.recipe import Recipe
from digits_jax.runs.advancing import (
    train_dealt,
    train_in_round_robin,
    train_shrinking,
    train_side_by_side,
)
from digits_jax.runs.axis import pad_runs, to_host
from digits_jax.runs.identity import (
    PROGRAM,
    describe,
    describe_program,
    digest_of,
    digest_of_values,
    named_leaves,
    require_agreement,
)
from digits_jax.runs.preparation import equal_steps, refuse_unread
from digits_jax.runs.programs import compile_programs, compile_train
from digits_jax.runs.progress import progress_bar
from digits_jax.runs.refusals import refuse_other_training, warn_of_callbacks
from digits_jax.runs.results import CrossValidation, Interrupted, Progress, validation_scores
from digits_jax.runs.saved import saved_like
from digits_jax.runs.votes import vote
from digits_jax.storage.errors import CheckpointError, shortened_path
from digits_jax.structures import Best, Data, Run, TrainState
from digits_jax.watch import Watch, has_stopped, with_best_weights


def train_and_test(
    data: Data,
    runs: Run,
    *,
    recipe: Recipe,
    shapes: TrainState,
    epochs: int,
    devices: Sequence[jax.Device],
    vmap_size: int | None,
    epochs_per_call: int,
    watch: Watch | None,
    every: int,
    identity: Mapping[str, Any] | None,
    about: Mapping[str, Any] | None,
    resume: bool,
    progress: bool,
    params: Any,
    names: Sequence[str] | None,
    h_of_all: Any,
    on_epoch: Callable[[Progress], bool | None] | None,
    checkpoints: str | os.PathLike[str] | None,
    states: TrainState | None = None,
) -> CrossValidation:
    """``cross_validate`` of checked arguments, of runs that share a folder of checkpoints.

    Args beside its own:
        shapes: of one run's state.
        watch: from ``keep`` and ``patience``.
        every: ``checkpoint_every``.
        h_of_all: hyperparameters of all runs, of which these may be a part.
    """
    count = len(runs.key)
    steps = equal_steps(runs, recipe)
    mesh = runs_mesh(count, devices)
    vmap_size = default_vmap_size(mesh) if vmap_size is None else vmap_size
    in_round_robin = _uses_round_robin(
        count, devices, vmap_size, watch is not None and watch.patience is not None
    )
    if in_round_robin:
        mesh = runs_mesh(len(devices), devices)

    @functools.cache
    def described() -> dict[str, Any]:
        """What identifies the training; it takes a while."""
        what = {**(identity or {}), **describe(data, runs, recipe)}
        if recipe.takes_steps:
            what["steps"] = np.asarray(runs.steps).tolist()
        if params is not None:
            what["params.sha256"] = digest_of(params)
        return what | describe_program(
            data,
            runs,
            recipe,
            shapes,
            device=mesh.local_devices[0],
            watch=watch,
            about=about,
            names=names,
        )

    def identify() -> str:
        return digest_of_values(described()[PROGRAM])

    if mesh.is_multi_process:
        require_agreement(described())
    elif checkpoints is not None and jax.process_count() > 1:
        raise ValueError("in a job of several processes, checkpoints need devices of all of them")
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(progress_bar(progress, epochs))
        saved = stack.enter_context(_open(checkpoints, described))
        # What can't be resumed is refused before anything is compiled.
        resume = _resumes(saved, resume, epochs, epochs_per_call)

        started = time.perf_counter()
        shard, replicate = runs_sharding(mesh), replicated(mesh)
        trained_runs = _for_programs(runs, steps)
        placed = place(pad_runs(trained_runs, mesh.size), shard)
        placed_data = place(data, replicate)
        placed_params = None if params is None else place(pad_runs(params, mesh.size), shard)
        compiled_for: Any = {
            "recipe": recipe,
            "mesh": mesh,
            "vmap_size": vmap_size,
            "epochs_per_call": epochs_per_call,
            "steps": steps,
            "watch": watch,
        }
        programs = compile_programs(
            placed,
            placed_data,
            params=placed_params,
            round_robin=in_round_robin,
            identify=identify if checkpoints is not None or mesh.is_multi_process else None,
            **compiled_for,
        )
        refuse_unread(h_of_all, programs.unread)
        if checkpoints is not None:
            warn_of_callbacks(described())
        programs.wait()
        compiled = time.perf_counter()

        columns = train.history_names(recipe, runs.split)
        first = 0 if states is None else np.asarray(states.epoch)  # epochs before the history
        epoch, history = 0, {name: np.zeros((count, 0), np.float32) for name in columns}
        if resume:
            one = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), programs.states
            )
            like = functools.partial(saved_like, one, runs.hyperparameters, columns, count)
            epoch, restored = saved.newest(
                lambda epoch: (epoch, saved.restore(like(epoch), epoch, shard))
            )
            _check_resumed(epoch, epochs, epochs_per_call, saved.folder)
            states, saved_history = restored["states"], to_host(restored["history"], mesh, count)
            del restored
            history = {name: saved_history[name] for name in columns}  # in the order of a new run
        elif states is not None:
            states = place(pad_runs(_going_on(states, watch), mesh.size), shard)
        else:
            states = programs.init(placed, placed_data, placed_params)
        calls = (epochs - epoch) // epochs_per_call
        if calls <= 1:
            programs.compile_evaluation()
        blank = {name: np.full((1, epochs_per_call), np.nan, np.float32) for name in columns}
        given = (programs, states, trained_runs, placed_data, mesh, calls)
        if in_round_robin:
            is_done = None if watch is None else functools.partial(_is_done, watch=watch)
            advance = train_in_round_robin(*given, is_done=is_done, blank=blank)
        elif watch is not None and watch.patience and not (mesh.is_multi_process or debugging()):
            stopped = jax.jit(functools.partial(has_stopped, watch=watch))
            if vmap_size == 1:
                advance = train_dealt(*given, is_done=stopped, blank=blank)
            else:
                compile_fewer = functools.partial(compile_train, data=placed_data, **compiled_for)
                advance = train_shrinking(
                    *given, is_done=stopped, compile_train=compile_fewer, blank=blank
                )
        else:
            advance = train_side_by_side(programs, states, placed, placed_data, mesh, count, calls)
        del given
        if calls:
            states = None  # what trains holds them, or what has become of them
        for now, new in advance:
            epoch += epochs_per_call
            history = {name: np.concatenate([history[name], new[name]], axis=1) for name in columns}
            now_at = Progress(epoch, epochs, history)
            show(now_at)
            programs.compile_evaluation()
            stop = on_epoch is not None and bool(on_epoch(now_at))
            if mesh.is_multi_process:
                stop = bool(gather_values(np.asarray(stop)).any())
            if saved is not None and (stop or epoch % every == 0 or epoch == epochs):
                h = place(pad_runs(runs.hyperparameters, mesh.size), shard)
                kept = place(pad_runs(history, mesh.size), shard)
                tree = {"states": now(), "history": kept, "hyperparameters": named_leaves(h)}
                saved.save(epoch, tree, runs=count)
            if stop and epoch < epochs:
                raise Interrupted(epoch, epochs)
            if epoch == epochs:
                states = now()
    trained = time.perf_counter()

    states = with_best_weights(cast(TrainState, states))
    sums, outputs = to_host(programs.evaluate(states, placed, placed_data), mesh, count)
    ends = (states.epoch, states.initial_loss, getattr(states.best, "epoch", states.epoch))
    last, initial, best = to_host(ends, mesh, count)
    return CrossValidation(
        states=states if mesh.is_multi_process else to_host(states, mesh, count),
        history=history,
        scores=_means(sums, recipe.names),
        validation=validation_scores(
            history, (best if watch is not None and watch.keep_best else last) - 1 - first
        ),
        outputs=outputs,
        test_rows=np.where(np.asarray(runs.split.test_weights) > 0, runs.split.test_rows, -1),
        targets=jax.tree.map(lambda leaf: leaf[np.asarray(runs.split.test_rows)], data.targets),
        epochs=last,
        best_epochs=best,
        initial_loss=initial,
        runs=runs,
        votes=vote(outputs, data, runs, recipe),
        seconds={
            "compile": compiled - started,
            "train": trained - compiled,
            "evaluate": time.perf_counter() - trained,
        },
    )


def _means(sums: Any, names: Sequence[str]) -> dict[str, Any]:
    """Scores, float64 [R] by name; NaN for a run without rows."""
    weight = sums.weight.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return {name: sums.totals[name] / weight for name in names}


def _for_programs(runs: Run, steps: int | None) -> Run:
    """The runs without what no program reads."""
    split = runs.split._replace(kind=None)
    return runs._replace(split=split, steps=runs.steps if steps is None else None, member=None)


def _is_done(state: TrainState, watch: Watch) -> bool:
    """Whether one run, its leaves [1, ...], has stopped."""
    if watch.patience is None:
        return False
    return bool(np.asarray(has_stopped(state, watch)).all())


def _going_on(states: TrainState, watch: Watch | None) -> TrainState:
    """States to go on from, with a place for what is watched now."""
    if watch is None:
        return states._replace(best=())
    if isinstance(states.best, Best) and bool(states.best.weights) == watch.keep_best:
        return states
    count = len(states.step)
    weights = {name: getattr(states, name) for name in ("params", "collections", "average")}
    infinite: Any = np.full(count, np.inf, np.float32)
    best = Best(infinite, states.epoch, weights if watch.keep_best else {})
    return states._replace(best=best)


def _check_resumed(epoch: int, epochs: int, epochs_per_call: int, folder: Any) -> None:
    if epoch > epochs:
        raise CheckpointError(
            f"{shortened_path(folder)} was trained for {epoch} epochs already, more than the "
            f"{epochs} asked for; give at least {epoch}, or another folder"
        )
    if (epochs - epoch) % epochs_per_call:
        raise ValueError(
            f"epochs_per_call={epochs_per_call} must divide the {epochs - epoch} epochs that are "
            f"left after the {epoch} of {shortened_path(folder)}"
        )


@contextlib.contextmanager
def _open(
    folder: str | os.PathLike[str] | None, described: Callable[[], dict[str, Any]]
) -> Iterator[Any]:
    """The folder's ``Checkpoints``, or None; orbax is imported only where it is needed."""
    if folder is None:
        yield None
        return
    from digits_jax.storage.checkpoints import Checkpoints

    with Checkpoints(folder, described, refuse=refuse_other_training) as checkpoints:
        yield checkpoints


def _resumes(saved: Any, resume: bool, epochs: int, epochs_per_call: int) -> bool:
    """Whether there is a checkpoint to go on from; one that is in the way is refused."""
    if saved is None or saved.latest is None:
        return False
    if not resume:
        raise CheckpointError(
            f"{shortened_path(saved.folder)} holds checkpoints of epoch {saved.latest} already; "
            "give resume=True to go on with them, or another folder"
        )

    def check(epoch: int) -> None:
        saved.check_identity(epoch)
        _check_resumed(epoch, epochs, epochs_per_call, saved.folder)

    saved.newest(check)
    return True


def _uses_round_robin(
    count: int, devices: Sequence[jax.Device], vmap_size: int | None, runs_stop: bool
) -> bool:
    """Whether runs are scheduled in round robin: on CPU cores that would idle otherwise.

    Of a few runs that may stop, one alone would soon be left on a core. Many are dealt out anew.
    """
    few = len(devices) < count <= 8 * len(devices)
    pays = few if runs_stop else round_robin.is_faster(count, len(devices))
    return (
        vmap_size == 1
        and devices[0].platform == "cpu"
        and len(devices) > 1
        and jax.process_count() == 1
        and not debugging()
        and pays
    )
