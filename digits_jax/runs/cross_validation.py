"""``cross_validate``: trains many runs at once and evaluates each on its own test rows.

Folds, repeats, seeds and grids of hyperparameters are all entries on the runs axis R.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from digits_jax import environment
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import take_runs
from digits_jax.runs.checks import check_counts, check_data, check_runs
from digits_jax.runs.extension import as_of_all, in_waves, joined, saved_parts, without_states
from digits_jax.runs.identity import (
    RUNS,
    run_digests,
)
from digits_jax.runs.preparation import prepare, spread_params
from digits_jax.runs.refusals import refuse_old
from digits_jax.runs.results import CrossValidation, Interrupted, Progress
from digits_jax.runs.training import train_and_test
from digits_jax.structures import Run, TrainState
from digits_jax.watch import Watch


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
            which a run stops; None: none does. Stopped runs take no steps on a CPU; where runs
            train side by side, as on an accelerator, the runs axis shrinks when at most half of
            those on it still train; with several processes they are masked. A run without
            validation rows never stops.
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
        "h_of_all": runs.hyperparameters,
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
        return train_and_test(data, runs, states=states, checkpoints=checkpoints, **each, **how)
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
        result = train_and_test(data, of_part, checkpoints=folder, **each, **how)
        results.append(result if wave_size is None else without_states(result))
        del result
        environment.give_back_memory()  # of its states, for the next part
        done += len(index)
    return joined(results, [index for _, index in parts], runs, data, recipe)


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


def _watch(keep: str, patience: int | None, runs: Run) -> Watch | None:
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
    return Watch(keep == "best", patience)


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
