"""Successive halving on the runs axis: drop the worse half of the configurations on the way.

Karnin, Koren and Somekh (2013), Almost Optimal Exploration in Multi-Armed Bandits, ICML; Jamieson
and Talwalkar (2016), Non-stochastic Best Arm Identification and Hyperparameter Optimization,
AISTATS, arXiv:1502.07943.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from digits_jax.parallel.processes import own_device, spans_job
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import take_runs
from digits_jax.runs.checks import check_data
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.identity import PROGRAM, describe, describe_program, digest_of_values
from digits_jax.runs.memory import fitting_wave_size
from digits_jax.runs.preparation import prepare
from digits_jax.runs.programs import identified
from digits_jax.runs.refusals import warn_of_callbacks
from digits_jax.runs.results import Progress
from digits_jax.search.grids import (
    Monitor,
    Scores,
    configurations_count,
    monitor_of,
    rank,
    repeated,
    run_picker,
)
from digits_jax.splits import Split
from digits_jax.structures import Run, TrainState
from digits_jax.wave_files import in_waves, load_waves, of_kind, saved_wave_size


class Halving(NamedTuple):
    """What successive halving found, for G groups of C configurations on F splits each.

    Attributes:
        winner: int64 [G].
        epochs: int64 [G, C], that each configuration was trained for.
        scores: float64 [G, C, F] by name, on the splits' test rows, when it was last scored.
        validation: the same on their validation rows; {} without such rows.
        diverged: bool [G, C, F], whether a run had diverged by then.
    """

    winner: np.ndarray
    epochs: np.ndarray
    scores: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    diverged: np.ndarray


def halving_rungs(epochs: int, configurations: int) -> list[int]:
    """Epochs after which half of the configurations is dropped, and at last ``epochs`` itself.

    Each rung is twice as long as the one before, for half as many: each costs the same.

    Examples:
        >>> halving_rungs(10, 15)
        [2, 3, 5, 10]
    """
    if epochs < 1 or configurations < 1:
        raise ValueError("epochs and configurations must be at least 1")
    halvings = math.ceil(math.log2(configurations))
    longest = {math.ceil(epochs / 2**i) for i in range(halvings)}
    return sorted(longest | {epochs})


def successive_halving(
    data: Any,
    runs: Run,
    groups: int,
    configurations: int,
    rungs: Sequence[int],
    *,
    recipe: Recipe | None = None,
    devices: Sequence[jax.Device] | None = None,
    vmap_size: int | None = None,
    monitor: Monitor | None = None,
    on_epoch: Callable[[Progress], bool | None] | None = None,
) -> Halving:
    """Trains all configurations for a rung, drops the worse half, and goes on with the others.

    The runs axis is compacted, so that the next rung trains half as many, from the states that the
    last one left: a survivor's training is the same as without the dropping. Each group, say an
    outer split of nested cross-validation, decides for itself. An optimizer that asks for the steps
    of the whole training gets those of the last rung.

    Args:
        data: see ``cross_validate``.
        runs: [G * C * F], by group, configuration and split. The splits' validation rows decide;
            where they have none, their test rows, which must not be those of a figure that is
            reported: the inner folds of nested cross-validation.
        groups: G.
        configurations: C.
        rungs: ascending numbers of epochs, as from ``halving_rungs``.
        recipe: see ``cross_validate``.
        devices: see ``cross_validate``.
        vmap_size: see ``cross_validate``.
        monitor: what ranks; see ``rank``. Default: the recipe's.
        on_epoch: see ``cross_validate``; ``Progress`` is of one rung.

    Raises:
        ValueError: the number of runs or the rungs don't fit, or the devices are of several
            processes: a survivor's state would have to move to another one.
        Interrupted: ``on_epoch`` asked to stop.
    """
    _refuse_a_job(devices)
    splits, rest = divmod(runs.key.shape[0], groups * configurations)
    if rest or not splits:
        raise ValueError(
            f"{runs.key.shape[0]} runs are not {groups} groups of {configurations} configurations"
        )
    _check_rungs(rungs)
    numbers = np.arange(runs.key.shape[0]).reshape(groups, configurations, splits)
    scores: dict[str, np.ndarray] = {}
    validation: dict[str, np.ndarray] = {}
    diverged = np.zeros(numbers.shape, bool)
    monitor = monitor_of(recipe, monitor)
    epochs = np.zeros((groups, configurations), np.int64)
    group = np.arange(groups)[:, None]
    alive = np.tile(np.arange(configurations), (groups, 1))
    states: TrainState | None = None
    trained = 0
    for rung in rungs:
        here = numbers[group, alive].ravel()
        result = cross_validate(
            data,
            take_runs(runs, here),
            recipe=recipe,
            epochs=rung - trained,
            total_epochs=rungs[-1],
            states=states,
            devices=devices,
            vmap_size=vmap_size,
            on_epoch=on_epoch,
        )
        trained = rung
        shape = (*alive.shape, splits)
        chosen_by = result.validation or result.scores
        now = {name: values.reshape(shape) for name, values in chosen_by.items()}
        for into, each in ((scores, result.scores), (validation, result.validation)):
            for name, values in each.items():
                whole = into.setdefault(name, np.full(numbers.shape, np.nan))
                whole[group, alive] = values.reshape(shape)
        epochs[group, alive] = rung
        failed = (result.diverged > 0).reshape(shape)
        diverged[group, alive] = failed
        kept = rank(now, monitor, diverged=failed)[
            :, : 1 if rung == rungs[-1] else math.ceil(alive.shape[1] / 2)
        ]
        survivors = np.arange(alive.size * splits).reshape(shape)[group, kept].ravel()
        states = take_runs(result.states, survivors)
        alive = np.take_along_axis(alive, kept, axis=1)
    return Halving(alive[:, 0], epochs, scores, validation, diverged)


def _check_rungs(rungs: Sequence[int]) -> None:
    if not rungs or list(rungs) != sorted(set(rungs)) or rungs[0] < 1:
        raise ValueError(f"rungs must be ascending numbers of epochs, not {list(rungs)}")


def _refuse_a_job(devices: Sequence[jax.Device] | None) -> None:
    if spans_job(jax.devices() if devices is None else devices):
        raise ValueError(
            "successive halving needs the devices of one process; give jax.local_devices()"
        )


def halve_in_waves(
    data: Any,
    make_groups: Callable[[int, int], Run],
    groups: int,
    configurations: int,
    rungs: Sequence[int],
    *,
    folder: str | os.PathLike[str],
    wave_size: int | None = None,
    recipe: Recipe | None = None,
    devices: Sequence[jax.Device] | None = None,
    vmap_size: int | None = None,
    monitor: Monitor | None = None,
    identity: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_epoch: Callable[[Progress], bool | None] | None = None,
    on_wave: Callable[[int], bool | None] | None = None,
) -> Halving:
    """``successive_halving`` of as many groups at once as fit in memory, saved as they end.

    Args:
        data: see ``cross_validate``.
        make_groups: ``make_groups(start, stop)`` gives the runs of those groups, by group,
            configuration and split; see ``make_wave`` of ``train_in_waves``.
        groups: number of groups in all.
        configurations: see ``successive_halving``, as the next.
        rungs: see ``successive_halving``.
        folder: see ``train_in_waves``.
        wave_size: runs that train at once in the first rung, rounded down to whole groups, of
            which there is at least one. Default: see ``train_in_waves``.
        recipe: see ``train_in_waves``.
        devices: see ``train_in_waves``.
        vmap_size: see ``train_in_waves``.
        monitor: see ``successive_halving``.
        identity: see ``train_in_waves``.
        about: see ``train_in_waves``.
        resume: see ``train_in_waves``.
        on_epoch: see ``train_in_waves``.
        on_wave: see ``train_in_waves``; it counts groups.

    Raises:
        ValueError: see ``successive_halving``.
        CheckpointError: see ``train_in_waves``.
        FolderInUse: see ``train_in_waves``.
        WavesInterrupted: see ``train_in_waves``.
    """
    _refuse_a_job(devices)
    _check_rungs(rungs)
    recipe = Recipe() if recipe is None else recipe
    devices = jax.devices() if devices is None else devices
    data = check_data(data)
    first = make_groups(0, 1)
    size = saved_wave_size(folder) if resume and wave_size is None else None
    if size is None:
        runs = len(first.key)
        fitting = wave_size or fitting_wave_size(
            groups * runs, first, data, recipe=recipe, devices=devices, vmap_size=vmap_size
        )
        size = min(max(fitting // runs, 1), groups)
    groups_of = functools.lru_cache(maxsize=1)(make_groups)

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        halved = successive_halving(
            data,
            groups_of(start, stop),
            stop - start,
            configurations,
            rungs,
            recipe=recipe,
            devices=devices,
            vmap_size=vmap_size,
            monitor=monitor,
            on_epoch=on_epoch,
        )
        scores = {f"score.{name}": values for name, values in halved.scores.items()}
        scores |= {f"validation.{name}": values for name, values in halved.validation.items()}
        others = {name: getattr(halved, name) for name in ("winner", "epochs", "diverged")}
        return {**others, **scores}

    with jax.transfer_guard("allow"):  # the trial moves a few rows
        prepared, state = prepare(data, first, recipe, rungs[-1])
    program = describe_program(
        data, prepared, recipe, state, device=own_device(devices), about=about
    )
    warn_of_callbacks(program)

    def identity_of(start: int, stop: int) -> dict[str, Any]:
        described = describe(data, groups_of(start, stop), recipe)
        ranked_by = {"rungs": list(rungs), "monitor": list(monitor_of(recipe, monitor))}
        return {**(identity or {}), **ranked_by, **described, **program}

    with identified(digest_of_values(program[PROGRAM])):
        in_waves(
            compute,
            groups,
            size,
            folder=folder,
            identity_of=identity_of,
            resume=resume,
            on_wave=on_wave,
            unit="groups of runs",
        )
    arrays = load_waves(folder)
    scores, validation = (of_kind(kind, arrays) for kind in ("score", "validation"))
    return Halving(arrays["winner"], arrays["epochs"], scores, validation, arrays["diverged"])


def halve_grid(
    data: Any,
    h: Any,
    inner: Split,
    groups: int,
    *,
    folder: str | os.PathLike[str],
    epochs: int = 100,
    seeds: int = 1,
    seed: int = 0,
    **options: Any,
) -> Scores:
    """``train_grid`` with successive halving, for each group of splits by itself.

    Args:
        data: see ``train_grid``.
        h: see ``train_grid``.
        inner: splits [G * F]: those of ``inner_splits`` of G outer splits, whose test rows decide,
            or splits with validation rows, which then do.
        groups: G.
        folder: see ``train_in_waves``.
        epochs: of those that are not dropped; see ``halving_rungs``.
        seeds: see ``train_grid``.
        seed: see ``train_grid``.
        **options: of ``halve_in_waves``, to which they go.
    """
    count, folds = configurations_count(h), len(inner.train_rows) // groups
    pick = run_picker(repeated(seeds, inner), h, seed=seed)
    shape = (groups, count, seeds, folds)
    runs = count * seeds * folds

    def make_groups(start: int, stop: int) -> Run:
        g, c, repeat, fold = np.unravel_index(np.arange(start * runs, stop * runs), shape)
        return pick(c, (repeat * groups + g) * folds + fold)

    rungs = halving_rungs(epochs, count)
    halved = halve_in_waves(data, make_groups, groups, count, rungs, folder=folder, **options)
    scores, validation = (
        {
            name: values.reshape(shape).mean(axis=2).swapaxes(0, 1).reshape(count, -1)
            for name, values in each.items()
        }
        for each in (halved.scores, halved.validation)
    )
    diverged = np.asarray(halved.diverged.reshape(shape).any(axis=2))
    diverged = diverged.swapaxes(0, 1).reshape(count, -1)
    return Scores(scores, validation, np.repeat(halved.epochs.T, folds, axis=1), diverged)
