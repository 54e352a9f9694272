"""``cross_validate``: trains many runs at once and evaluates each on its own test rows.

Folds, repeats, seeds and grids of hyperparameters are all entries on the runs axis R.
"""

from __future__ import annotations

import contextlib
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from digits_jax.parallel.mesh import (
    debugging,
    default_vmap_size,
    place,
    replicated,
    runs_mesh,
    runs_sharding,
)
from digits_jax.parallel.processes import gather_values
from digits_jax.parallel import round_robin
from digits_jax.runs.axis import pad_runs, to_host
from digits_jax.runs.identity import describe, require_agreement
from digits_jax.runs.programs import compile_programs, train_in_round_robin, train_side_by_side
from digits_jax.runs.results import CrossValidation, Interrupted, Progress, host_history
from digits_jax.runs.saved import saved_like
from digits_jax.splits import check_stacked
from digits_jax.recipe import Recipe
from digits_jax.train import Examples, History, Run, TrainState


def cross_validate(
    data: Examples,
    runs: Run,
    *,
    recipe: Recipe | None = None,
    epochs: int = 100,
    states: TrainState | None = None,
    devices: Sequence[jax.Device] | None = None,
    vmap_size: int | None = None,
    epochs_per_call: int = 1,
    checkpoints: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    identity: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_epoch: Callable[[Progress], bool | None] | None = None,
) -> CrossValidation:
    """Trains all runs at once and evaluates each on its own test rows.

    One program is compiled, whatever the number of runs, folds or epochs; R is sharded over the
    devices. Where the devices don't divide R, the last device gets runs that train nothing; CPU
    cores, which would wait for each other, take the runs in turns (see ``turns.py``).

    In a job of several processes (see ``devices.initialize_distributed``) each calls this with the
    same arguments and trains the runs on its own devices. They meet after each call of the
    program, to tell the history and whether to stop, and to save to a folder that all can reach.

    Args:
        data: images [N, H, W] or [N, H, W, C] and labels int [N].
        runs: see ``make_runs``.
        recipe: network, optimizer, loss, augmentation, views, batch size. Default: the
            notebook's.
        epochs: passes over the training rows, at least 1.
        states: of these runs after earlier epochs, [R, ...], to go on from; the history is that of
            the new epochs alone. Default: the initial weights that the keys draw.
        devices: default: all of ``jax.devices()``, those of all processes.
        vmap_size: runs that a device advances side by side; default: all, but one on a CPU (see
            ``devices.default_vmap_size``). The results are the same to float tolerance.
        epochs_per_call: epochs between two looks of Python at the runs; must divide ``epochs`` and
            ``checkpoint_every``.
        checkpoints: a folder, or None to save nothing.
        checkpoint_every: epochs between two checkpoints; default: a tenth of ``epochs``. The last
            epoch is always saved.
        identity: names and JSON values that a checkpoint must share to be resumed, beside what
            this function sees for itself (data, splits, numbers, keys, recipe).
        resume: go on from the newest checkpoint, if there is one, to the very numbers that an
            uninterrupted run gives on the same devices.
        on_epoch: called after each call of the program; True stops, after saving. Where it is
            True in one process, all stop.

    Returns:
        Scores, logits, history and states of all runs, and the seconds that each part took.

    Raises:
        TypeError: an argument is of another type than said.
        ValueError: an argument is out of range, or a split names a row that the data lack.
        CheckpointError: the checkpoints to resume are damaged or of another training, the folder
            holds some and ``resume`` is False, or they can't be written.
        FolderInUse: another process writes to the folder of the checkpoints.
        Interrupted: ``on_epoch`` asked to stop.
        ProcessLost: another process of the job ended.
        ProcessesDiffer: the processes of the job were given different arguments.

    Examples:
        >>> from digits_jax import kfold_splits, load_digits
        >>> digits = load_digits("bundled")
        >>> runs = make_runs(kfold_splits(digits.labels, folds=3))
        >>> data = Examples(digits.images, digits.labels)
        >>> result = cross_validate(data, runs, epochs=2)
        >>> result.accuracy.shape, result.history.loss.shape, result.logits.shape
        ((3,), (3, 2), (3, 599, 10))
    """
    recipe = Recipe() if recipe is None else recipe
    data = _checked(data, runs, recipe)
    _check_counts(epochs=epochs, checkpoint_every=checkpoint_every, epochs_per_call=epochs_per_call)
    _check_counts(vmap_size=vmap_size)
    every = checkpoint_every or max(1, epochs // (10 * epochs_per_call)) * epochs_per_call
    steps = epochs * -(-np.shape(runs.split.train_rows)[1] // recipe.batch_size)
    if steps >= 2**31:
        raise ValueError(f"{epochs} epochs make {steps} steps; an int32 counts to 2**31 - 1")
    if states is not None and checkpoints is not None:
        raise ValueError(
            "states and checkpoints exclude each other: a checkpoint starts at epoch 0"
        )
    if epochs % epochs_per_call or every % epochs_per_call:
        raise ValueError(
            f"epochs_per_call={epochs_per_call} must divide epochs={epochs} and "
            f"checkpoint_every={every}"
        )
    count = runs.key.shape[0]
    mesh = runs_mesh(count, devices)
    vmap_size = default_vmap_size(mesh) if vmap_size is None else vmap_size
    in_round_robin = _uses_round_robin(count, devices, vmap_size)
    if in_round_robin:
        mesh = runs_mesh(len(devices or jax.devices()), devices)

    described = {**describe(data, runs, recipe), **(identity or {})}
    if mesh.is_multi_process:
        require_agreement(described)
    elif checkpoints is not None and jax.process_count() > 1:
        raise ValueError("in a job of several processes, checkpoints need devices of all of them")
    with _open(checkpoints, described) as saved:
        resume = _resumes(saved, resume)  # or refuses, before anything is compiled

        started = time.perf_counter()
        shard, replicate = runs_sharding(mesh), replicated(mesh)
        placed = place(pad_runs(runs, mesh.size), shard)
        placed_data = place(data, replicate)
        program = compile_programs(
            placed,
            placed_data,
            recipe=recipe,
            mesh=mesh,
            vmap_size=vmap_size,
            epochs_per_call=epochs_per_call,
            round_robin=in_round_robin,
        )
        compiled = time.perf_counter()

        epoch, history = 0, host_history(*(np.zeros((count, 0), np.float32) for _ in History._fields))
        if resume:
            one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), program.states)
            epoch, restored = saved.newest(
                lambda epoch: (epoch, saved.restore(saved_like(one, count, epoch), epoch, shard))
            )
            states, history = restored["states"], to_host(restored["history"], mesh, count)
        elif states is not None:
            states = place(pad_runs(states, mesh.size), shard)
        else:
            states = program.init(placed, placed_data)
        calls = (epochs - epoch) // epochs_per_call
        if in_round_robin:
            advance = train_in_round_robin(program, states, runs, placed_data, mesh, calls)
        else:
            advance = train_side_by_side(program, states, placed, placed_data, mesh, count, calls)
        for now, new in advance:
            epoch += epochs_per_call
            history = jax.tree.map(
                lambda old, part: np.concatenate([old, part], axis=1), history, new
            )
            stop = on_epoch is not None and bool(on_epoch(Progress(epoch, epochs, history)))
            if mesh.is_multi_process:
                stop = bool(gather_values(np.asarray(stop)).any())
            if saved is not None and (stop or epoch % every == 0 or epoch == epochs):
                kept = place(pad_runs(history, mesh.size), shard)
                saved.save(epoch, {"states": now(), "history": kept}, runs=count)
            if stop and epoch < epochs:
                raise Interrupted(epoch, epochs)
            if epoch == epochs:
                states = now()
    trained = time.perf_counter()

    sums, logits = to_host(program.evaluate(states, placed, placed_data), mesh, count)
    rows = sums.rows.astype(np.float64)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN for a run without test rows, as documented
        loss, accuracy = sums.loss / rows, sums.correct / rows
    return CrossValidation(
        states=states if mesh.is_multi_process else to_host(states, mesh, count),
        history=history,
        loss=loss,
        accuracy=accuracy,
        test_rows=np.where(np.asarray(runs.split.test_weights) > 0, runs.split.test_rows, -1),
        logits=logits,
        seconds={
            "compile": compiled - started,
            "train": trained - compiled,
            "evaluate": time.perf_counter() - trained,
        },
    )


@contextlib.contextmanager
def _open(folder: str | os.PathLike[str] | None, described: dict[str, Any]) -> Iterator[Any]:
    """The folder's ``Checkpoints``, or None; orbax is imported only where it is needed."""
    if folder is None:
        yield None
        return
    from digits_jax.storage.checkpoints import Checkpoints

    with Checkpoints(folder, described) as checkpoints:
        yield checkpoints


def _resumes(saved: Any, resume: bool) -> bool:
    """Whether there is a checkpoint to go on from; one that is in the way is refused."""
    if saved is None or saved.latest is None:
        return False
    if not resume:
        from digits_jax.storage.errors import CheckpointError

        raise CheckpointError(
            f"{saved.folder} holds checkpoints of epoch {saved.latest} already; resume, or choose "
            "another folder"
        )
    saved.check_identity()
    return True


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is None:
            continue
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} must be an integer, not {value!r}") from None
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def _checked(data: Examples, runs: Run, recipe: Recipe) -> Examples:
    """The data as host arrays that fit together and hold every row that the splits name."""
    if not isinstance(runs, Run) or not isinstance(recipe, Recipe):
        raise TypeError("runs must be a Run, as of make_runs, and recipe an Recipe")
    check_stacked(runs.split)
    for name, leaf in {**runs.hyperparameters._asdict(), "key": runs.key}.items():
        if leaf is not None and np.shape(leaf) != runs.split.train_rows.shape[:1]:
            raise ValueError(
                f"{name} must be [R], R = {len(runs.split.train_rows)} as in the splits, not "
                f"{list(np.shape(leaf))}"
            )
    images, labels = np.asarray(data.images), np.asarray(data.labels)
    if (
        images.ndim not in (3, 4)
        or labels.shape != images.shape[:1]
        or labels.dtype.kind not in "iu"
        or images.dtype.kind in "OSUMm"
        or not len(labels)
    ):
        raise ValueError(
            "data must be images [N, H, W] or [N, H, W, C] and integer labels [N], not "
            f"{images.dtype}{list(images.shape)} and {labels.dtype}{list(labels.shape)}"
        )
    if images.dtype.kind in "fc":
        bad = np.flatnonzero(~np.isfinite(images).all(axis=tuple(range(1, images.ndim))))
        if bad.size:
            raise ValueError(
                f"images must be finite; row {bad[0]} is not, the first of {bad.size}: leave these "
                "rows out, or fill in their pixels"
            )
    classes = getattr(recipe.network, "classes", np.inf)
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels must be 0 to the network's classes - 1, {classes - 1}; they are "
            f"{labels.min()} to {labels.max()}"
        )
    for name in ("train_rows", "test_rows"):
        rows = np.asarray(getattr(runs.split, name))
        if rows.size and not 0 <= rows.min() <= rows.max() < len(labels):
            raise ValueError(
                f"{name} names rows {rows.min()} to {rows.max()}, but the data have rows 0 to "
                f"{len(labels) - 1}"
            )
    return Examples(images, labels.astype(np.int32))


def _uses_round_robin(count: int, devices: Sequence[jax.Device] | None, vmap_size: int | None) -> bool:
    """Whether the runs are dealt to the devices in turns: to CPU cores that would idle else."""
    devices = jax.devices() if devices is None else devices
    return (
        vmap_size == 1
        and devices[0].platform == "cpu"
        and jax.process_count() == 1
        and not debugging()
        and round_robin.is_faster(count, len(devices))
    )
