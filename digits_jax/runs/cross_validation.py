"""``cross_validate``: trains many runs at once and evaluates each on its own test rows.

Folds, repeats, seeds and grids of hyperparameters are all entries on the runs axis R.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from digits_jax import environment, train
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
    train_in_round_robin,
    train_shrinking,
    train_side_by_side,
)
from digits_jax.runs.axis import pad_runs, take_runs, to_host
from digits_jax.runs.checks import check_counts, check_data, check_runs
from digits_jax.runs.extension import as_of_all, in_waves, joined, saved_parts, without_states
from digits_jax.runs.identity import (
    PROGRAM,
    RUNS,
    describe,
    describe_program,
    digest_of,
    digest_of_values,
    named_leaves,
    require_agreement,
    run_digests,
)
from digits_jax.runs.preparation import equal_steps, prepare, refuse_unread, spread_params
from digits_jax.runs.programs import compile_programs, compile_train, identified
from digits_jax.runs.progress import progress_bar
from digits_jax.runs.refusals import refuse_old, refuse_other_training, warn_of_callbacks
from digits_jax.runs.results import CrossValidation, Interrupted, Progress, validation_scores
from digits_jax.runs.saved import saved_like
from digits_jax.runs.votes import vote
from digits_jax.storage.errors import CheckpointError, shortened_path
from digits_jax.structures import Best, Data, Run, TrainState


def cross_validate(
    data: Any,
    runs: Run,
    *,
    names: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    epochs: int = 100,
    total_epochs: int | None = None,
    params: Any = None,
    states: TrainState | None = None,
    devices: Sequence[jax.Device] | None = None,
    vmap_size: int | None = None,
    wave_size: int | None = None,
    epochs_per_call: int = 1,
    patience: int | None = None,
    keep: Literal["last", "best"] = "last",
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    identity: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_epoch: Callable[[Progress], bool | None] | None = None,
    progress: bool = False,
) -> CrossValidation:
    """Trains all runs at once and evaluates each on its own test rows.

    One program is compiled, whatever the number of runs, folds or epochs; R is sharded over the
    devices. Where the devices don't divide R, the last device gets runs that train nothing; CPU
    cores, which would wait for each other, take the runs in round robin.

    In a job of several processes (see ``initialize_distributed``) each calls this with the same
    arguments and trains the runs on its own devices. They meet after each call of the program, to
    gather the history and whether to stop, and to save to a folder that all can reach.

    Args:
        data: (inputs, targets) or (inputs, targets, weights): arrays or pytrees of arrays [N, ...],
            weights [N]. A row of weight 0 is as absent.
        runs: see ``make_runs``.
        names: of the runs, [R]; saved with them, for who reads the checkpoint.
        recipe: how a run trains. Default: the notebook's.
        epochs: passes over the training rows, at least 1.
        total_epochs: epochs of the whole training, of which these are a part, for an optimizer that
            asks for its steps. Default: ``epochs``.
        params: initial parameters to start from, as of the recipe's network: each leaf of its
            shape, for all runs, or [R, ...]. Default: those that the keys draw.
        states: of these runs after earlier epochs, [R, ...], to go on from; the history is that of
            the new epochs alone.
        devices: default: all of ``jax.devices()``, those of all processes.
        vmap_size: runs that a device advances side by side; default: all, but one on a CPU (see
            ``default_vmap_size``). Fewer where a device has a memory of its own and they don't fit.
            The results are the same to float tolerance.
        wave_size: runs that train at once; the others follow, wave by wave, to the same numbers,
            each wave with checkpoints of its own, where alone its states are kept. Needs
            ``checkpoints``, and one process. Default: all.
        epochs_per_call: epochs between two looks of Python at the runs; must divide ``epochs``,
            ``checkpoint_every`` and what is left to train.
        patience: epochs without a better one, by the recipe's monitor on the validation rows, after
            which a run stops; None: none does. Stopped runs cost nothing more on a CPU; on an
            accelerator the runs axis shrinks when at most half of the runs on it still train; with
            several processes they are masked. A run without validation rows never stops.
        keep: "best" gives each run the weights of its best epoch, by the recipe's monitor on the
            validation rows; "last" those of its last.
        checkpoints: a folder, or None to save nothing.
        checkpoint_every: epochs between two checkpoints; default: a tenth of ``epochs``. The last
            epoch is always saved.
        identity: names and JSON values that a checkpoint must share to be resumed, beside what
            this function sees for itself: data, splits, hyperparameters, keys, versions of the
            libraries, and what each part of the recipe computes, whatever its name or source.
        about: names and JSON values, say options of a command line, for the message where a
            checkpoint is refused; they refuse nothing by themselves.
        resume: go on from the newest checkpoint, if there is one, to the very numbers that an
            uninterrupted run gives on the same devices. More epochs may be asked for than at the
            start, if the optimizer doesn't ask for the number of steps. More runs, too, say repeats
            or values of a grid: those that are saved go on, and the others start. A recipe that
            calls Python while it runs (``jax.pure_callback``, ``jax.debug.print``) can't be
            resumed.
        on_epoch: called after each call of the program; True stops, after saving. Where it is
            True in one process, all stop.
        progress: shows a bar, in a terminal or a notebook.

    Returns:
        Scores, outputs, history and states of all runs, and the seconds that each part took.

    Raises:
        TypeError: an argument is of another type than said.
        ValueError: an argument is out of range, a split names a row that the data lack, a part of
            the recipe doesn't keep rows apart, or a hyperparameter varies that nothing reads.
        CheckpointError: the checkpoints to resume are damaged or of another training, the folder
            holds some and ``resume`` is False, or they can't be written.
        FolderInUse: another process writes to the folder of the checkpoints.
        Interrupted: ``on_epoch`` asked to stop.
        OutOfMemory: a device's memory is too small for the runs, in whatever groups; a MemoryError.
        ProcessLost: another process of the job ended.
        ProcessesDiffer: the processes of the job were given different arguments.

    Examples:
        >>> import digits_jax as dj
        >>> digits = dj.load_digits("bundled")
        >>> runs = dj.make_runs(dj.kfold_splits(digits.labels, folds=3))
        >>> result = dj.cross_validate(digits.data, runs, epochs=2)
        >>> result.scores["accuracy"].shape, result.history["loss"].shape, result.outputs.shape
        ((3,), (3, 2), (3, 599, 10))
    """
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, not {type(recipe).__name__}")
    check_counts(epochs=epochs, checkpoint_every=checkpoint_every, epochs_per_call=epochs_per_call)
    check_counts(vmap_size=vmap_size, total_epochs=total_epochs, patience=patience)
    check_counts(wave_size=wave_size)
    data = check_data(data)
    check_runs(runs, len(jax.tree.leaves(data.inputs)[0]))
    if states is not None and (params is not None or checkpoints is not None):
        raise ValueError("states exclude params and checkpoints: a checkpoint starts at epoch 0")
    every = checkpoint_every or max(1, epochs // (10 * epochs_per_call)) * epochs_per_call
    if epochs % epochs_per_call or every % epochs_per_call:
        raise ValueError(
            f"epochs_per_call={epochs_per_call} must divide epochs={epochs} and "
            f"checkpoint_every={every}"
        )
    devices = _checked_devices(devices)
    count = runs.key.shape[0]
    _check_states(states, count)
    watch = _watch(keep, patience, runs)
    with jax.transfer_guard("allow"):  # the trial moves a few rows
        runs, shapes = prepare(data, runs, recipe, total_epochs or epochs)
    params = spread_params(params, shapes.params, count)
    how: dict[str, Any] = {
        "recipe": recipe,
        "shapes": shapes,
        "epochs": epochs,
        "devices": devices,
        "vmap_size": vmap_size,
        "epochs_per_call": epochs_per_call,
        "watch": watch,
        "every": every,
        "identity": identity,
        "about": about,
        "resume": resume,
        "progress": progress,
    }
    names, parts = _checked_names(names, count), None
    if checkpoints is not None and resume and jax.process_count() == 1:
        parts = saved_parts(Path(checkpoints).expanduser(), run_digests(runs), _saved_digests)
    if wave_size is not None:
        if checkpoints is None or jax.process_count() > 1:
            raise ValueError("wave_size needs checkpoints, and one process")
        parts = in_waves(Path(checkpoints).expanduser(), parts, count, wave_size)
    if parts is None or len(parts) == 1:
        each: Any = {"params": params, "names": names, "on_epoch": on_epoch}
        return _cross_validate(data, runs, states=states, checkpoints=checkpoints, **each, **how)
    results, done, stop = [], 0, False

    def on_epoch_of_all(progress: Progress) -> bool:
        nonlocal stop
        stop = stop or (on_epoch is not None and bool(on_epoch(progress)))
        return stop

    for folder, index in parts:
        if stop:  # asked for in the last epoch of a part
            raise Interrupted(epochs, epochs, f" of {done} of {count} runs")
        each = {
            "params": None if params is None else take_runs(params, index),
            "names": None if names is None else [names[i] for i in index],
            "on_epoch": as_of_all(on_epoch_of_all, index, count),
        }
        of_part = take_runs(runs._replace(member=None), index)
        result = _cross_validate(data, of_part, checkpoints=folder, **each, **how)
        results.append(result if wave_size is None else without_states(result))
        del result
        environment.give_back_memory()  # of its states, for the next part
        done += len(index)
    return joined(results, [index for _, index in parts], runs, data, recipe)


def _cross_validate(
    data: Data,
    runs: Run,
    *,
    recipe: Recipe,
    shapes: TrainState,
    epochs: int,
    devices: Sequence[jax.Device],
    vmap_size: int | None,
    epochs_per_call: int,
    watch: train.Watch | None,
    every: int,
    identity: Mapping[str, Any] | None,
    about: Mapping[str, Any] | None,
    resume: bool,
    progress: bool,
    params: Any,
    names: Sequence[str] | None,
    on_epoch: Callable[[Progress], bool | None] | None,
    checkpoints: str | os.PathLike[str] | None,
    states: TrainState | None = None,
) -> CrossValidation:
    """``cross_validate`` of checked arguments, of runs that share a folder of checkpoints.

    Args beside its own:
        shapes: of one run's state.
        watch: from ``keep`` and ``patience``.
        every: ``checkpoint_every``.
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

    described: dict[str, Any] = {}
    if checkpoints is not None or mesh.is_multi_process:
        described = {**(identity or {}), **describe(data, runs, recipe)}
        if recipe.takes_steps:
            described["steps"] = np.asarray(runs.steps).tolist()
        if params is not None:
            described["params.sha256"] = digest_of(params)
        described |= describe_program(
            data,
            runs,
            recipe,
            shapes,
            device=mesh.local_devices[0],
            watch=watch,
            about=about,
            names=names,
        )
    if mesh.is_multi_process:
        require_agreement(described)
    elif checkpoints is not None and jax.process_count() > 1:
        raise ValueError("in a job of several processes, checkpoints need devices of all of them")
    if checkpoints is not None:
        warn_of_callbacks(described)
    with contextlib.ExitStack() as stack:
        if described:
            stack.enter_context(identified(digest_of_values(described[PROGRAM])))
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
            placed, placed_data, params=placed_params, round_robin=in_round_robin, **compiled_for
        )
        refuse_unread(runs.hyperparameters, programs.unread)
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
            history = {name: saved_history[name] for name in columns}  # in the order of a new run
        elif states is not None:
            states = place(pad_runs(_going_on(states, watch), mesh.size), shard)
        else:
            states = programs.init(placed, placed_data, placed_params)
        calls = (epochs - epoch) // epochs_per_call
        if in_round_robin:
            advance = train_in_round_robin(
                programs,
                states,
                trained_runs,
                placed_data,
                mesh,
                calls,
                is_done=None if watch is None else functools.partial(_is_done, watch=watch),
                blank={name: np.full((1, epochs_per_call), np.nan, np.float32) for name in columns},
            )
        elif watch is not None and watch.patience and not (mesh.is_multi_process or debugging()):
            of_fewer = functools.partial(compile_train, data=placed_data, **compiled_for)
            advance = train_shrinking(
                programs,
                states,
                trained_runs,
                placed_data,
                mesh,
                calls,
                is_done=jax.jit(functools.partial(train.has_stopped, watch=watch)),
                compile_train=of_fewer,
                blank={name: np.full((1, epochs_per_call), np.nan, np.float32) for name in columns},
            )
        else:
            advance = train_side_by_side(programs, states, placed, placed_data, mesh, count, calls)
        for now, new in advance:
            epoch += epochs_per_call
            history = {name: np.concatenate([history[name], new[name]], axis=1) for name in columns}
            now_at = Progress(epoch, epochs, history)
            show(now_at)
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

    states = train.with_best_weights(states)
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


def _saved_digests(folder: Path) -> Sequence[str]:
    """Of the runs in a folder of checkpoints; see ``run_digests``."""
    from digits_jax.storage.checkpoints import Checkpoints

    with Checkpoints(folder, {}, read_only=True) as saved:
        identity = saved.saved_identity()
    refuse_old(folder, identity)
    digests: Sequence[str] = identity[RUNS]
    return digests


def _checked_names(names: Sequence[str] | None, count: int) -> list[str] | None:
    if names is not None and len(names) != count:
        raise ValueError(f"names must be {count}, one for each run, not {len(names)}")
    return None if names is None else [str(name) for name in names]


def _means(sums: Any, names: Sequence[str]) -> dict[str, Any]:
    """Scores, float64 [R] by name; NaN for a run without rows."""
    weight = sums.weight.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return {name: sums.totals[name] / weight for name in names}


def _watch(keep: str, patience: int | None, runs: Run) -> train.Watch | None:
    """What the programs watch on the validation rows, or None."""
    if keep not in ("last", "best"):
        raise ValueError(f'keep must be "last" or "best", not {keep!r}')
    if keep == "last" and patience is None:
        return None
    if runs.split.validation_rows is None:
        raise ValueError(
            'patience and keep="best" need validation rows: with_validation(splits, 0.1) takes '
            "them out of the training rows; test rows never choose"
        )
    return train.Watch(keep == "best", patience)


def _for_programs(runs: Run, steps: int | None) -> Run:
    """The runs without what no program reads."""
    split = runs.split._replace(kind=None)
    return runs._replace(split=split, steps=runs.steps if steps is None else None, member=None)


def _is_done(state: TrainState, watch: train.Watch) -> bool:
    """Whether one run, its leaves [1, ...], has stopped."""
    if watch.patience is None:
        return False
    return bool(np.asarray(train.has_stopped(state, watch)).all())


def _going_on(states: TrainState, watch: train.Watch | None) -> TrainState:
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


def _checked_devices(devices: Any) -> Sequence[jax.Device]:
    if devices is None:
        return jax.devices()
    if not isinstance(devices, Sequence) or not all(isinstance(d, jax.Device) for d in devices):
        raise TypeError(
            f'devices must be a list of JAX devices, as of jax.devices("cpu"), not {devices!r}'
        )
    return devices


def _check_states(states: TrainState | None, count: int) -> None:
    if states is None:
        return
    if not isinstance(states, TrainState):
        raise TypeError(f"states must be a TrainState, not {type(states).__name__}")
    wrong = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(states)} - {(count,)}
    if wrong:
        raise ValueError(
            f"states must be those of these {count} runs, every leaf [{count}, ...]; there are "
            f"leaves of {sorted(wrong)[0]}"
        )


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
def _open(folder: str | os.PathLike[str] | None, described: dict[str, Any]) -> Iterator[Any]:
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
            "resume, or choose another folder"
        )

    def check(epoch: int) -> None:
        saved.check_identity(epoch)
        _check_resumed(epoch, epochs, epochs_per_call, saved.folder)

    saved.newest(check)
    return True


def _uses_round_robin(
    count: int, devices: Sequence[jax.Device], vmap_size: int | None, runs_stop: bool
) -> bool:
    """Whether runs are scheduled in round robin: on CPU cores that would idle otherwise."""
    return (
        vmap_size == 1
        and devices[0].platform == "cpu"
        and jax.process_count() == 1
        and not debugging()
        and (round_robin.is_faster(count, len(devices)) or (runs_stop and count > len(devices)))
    )
