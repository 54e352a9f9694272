"""Training many configurations of the hyperparameters, and ranking them.

C configurations are a pytree with leaves [C], as from ``grid`` or ``random_search``. Each is
trained on the same F splits, with the same draws, so that two configurations differ in their
hyperparameters alone. What changes shapes or code (width, batch size) is a ``Recipe`` each, in a
loop outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from digits_jax.recipe import Recipe
from digits_jax.runs.axis import make_runs, take
from digits_jax.splits import Split, index_runs, stack_splits
from digits_jax.structures import Run
from digits_jax.waves import train_in_waves

Monitor = str | tuple[str, str]


def configurations_count(h: Any) -> int:
    """C of a pytree whose leaves are [C]."""
    return len(jax.tree.leaves(h)[0])


def run_picker(
    splits: Split, h: Any, *, seed: int = 0
) -> Callable[[npt.ArrayLike, npt.ArrayLike], Run]:
    """A function that gives the runs of configurations [R] on splits [R], both by number.

    Args:
        splits: leading axis F. Each has a key of its own, which all configurations share.
        h: configurations, leaves [C], as from ``grid``.
        seed: see ``make_runs``.
    """
    keys = make_runs(splits, {}, seed=seed).key
    each = make_runs(index_runs(splits, np.zeros(configurations_count(h), int)), h).hyperparameters

    def pick(configurations: npt.ArrayLike, chosen: npt.ArrayLike) -> Run:
        chosen, configuration = np.asarray(chosen), np.asarray(configurations)
        of_configuration = jax.tree.map(lambda leaf: leaf[configuration], each)
        return Run(index_runs(splits, chosen), of_configuration, take(keys, chosen))

    return pick


class Scores(NamedTuple):
    """Scores of C configurations on F splits; means over seeds.

    Attributes:
        scores: float64 [C, F] by name: "loss" and the recipe's metrics.
        validation: the same on the validation rows, which may choose; {} without such rows.
        epochs: int64 [C, F], that they were trained for.
        diverged: bool [C, F], whether a run diverged; see ``CrossValidation.diverged``.
    """

    scores: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    epochs: np.ndarray
    diverged: np.ndarray


def train_grid(
    data: Any,
    h: Any,
    splits: Split,
    *,
    folder: str | os.PathLike[str],
    epochs: int = 100,
    seeds: int = 1,
    seed: int = 0,
    **options: Any,
) -> Scores:
    """Trains every configuration on every split, in waves.

    Args:
        data: see ``cross_validate``.
        h: configurations, leaves [C], as from ``grid`` or ``random_search``.
        splits: leading axis F.
        folder: see ``train_in_waves``.
        epochs: see ``cross_validate``.
        seeds: networks for each configuration and split, whose scores are averaged.
        seed: of their draws; all configurations of a split share them.
        **options: of ``train_in_waves``, to which they go.
    """
    count, folds = configurations_count(h), len(splits.train_rows)
    pick = run_picker(repeated(seeds, splits), h, seed=seed)

    def make_wave(start: int, stop: int) -> Run:
        return pick(*np.divmod(np.arange(start, stop), seeds * folds))

    result = train_in_waves(
        data, make_wave, count * seeds * folds, folder=folder, epochs=epochs, **options
    )
    scores, validation = (
        {name: values.reshape(count, seeds, folds).mean(axis=1) for name, values in each.items()}
        for each in (result.scores, result.validation)
    )
    diverged = np.asarray((result.diverged > 0).reshape(count, seeds, folds).any(axis=1))
    return Scores(scores, validation, np.full((count, folds), epochs), diverged)


def train_chosen(
    data: Any,
    h: Any,
    splits: Split,
    chosen: npt.ArrayLike,
    *,
    folder: str | os.PathLike[str],
    seeds: int = 1,
    seed: int = 0,
    **options: Any,
) -> Scores:
    """Trains on each split the configuration that was chosen for it.

    Args:
        data: see ``train_grid``.
        h: see ``train_grid``.
        splits: see ``train_grid``.
        chosen: int [F], a configuration each; -1 leaves out a split.
        folder: see ``train_in_waves``.
        seeds: see ``train_grid``.
        seed: see ``train_grid``.
        **options: of ``train_in_waves``, to which they go.

    Returns:
        Scores whose arrays are [F]; NaN for what was left out.
    """
    configurations = np.asarray(chosen)
    folds, at = len(configurations), np.flatnonzero(configurations >= 0)
    pick = run_picker(repeated(seeds, splits), h, seed=seed)

    def make_wave(start: int, stop: int) -> Run:
        repeat, i = np.divmod(np.arange(start, stop), len(at))
        return pick(configurations[at[i]], repeat * folds + at[i])

    result = train_in_waves(data, make_wave, seeds * len(at), folder=folder, **options)
    scores: dict[str, np.ndarray] = {}
    validation: dict[str, np.ndarray] = {}
    for into, each in ((scores, result.scores), (validation, result.validation)):
        for name, values in each.items():
            into[name] = np.full(folds, np.nan)
            into[name][at] = values.reshape(seeds, -1).mean(axis=0)
    diverged, epochs = np.zeros(folds, bool), np.zeros(folds, np.int64)
    diverged[at] = (result.diverged > 0).reshape(seeds, -1).any(axis=0)
    epochs[at] = next(iter(result.history.values())).shape[1]
    return Scores(scores, validation, epochs, diverged)


def repeated(seeds: int, splits: Split) -> Split:
    """The splits [seeds * F], once for each seed, so that each time they get other keys."""
    return stack_splits(*[splits] * seeds)


def rank(
    scores: Mapping[str, npt.ArrayLike],
    monitor: Monitor = ("accuracy", "max"),
    *,
    diverged: npt.ArrayLike = False,
) -> np.ndarray:
    """Configurations from best to worst: by the monitor's mean score, among equals by mean loss.

    One of which a run diverged, or has a score that is not finite, is behind all others.

    Args:
        scores: [..., C, F] by name, of each configuration on each split.
        monitor: "loss", or (name, "max" or "min"); see ``Recipe``.
        diverged: bool [..., C, F], whether a run diverged.

    Returns:
        int64 [..., C], the configurations' numbers.

    Examples:
        >>> rank({"accuracy": [[0.9, 0.9], [0.9, 0.8], [0.9, 0.9], [1.0, 1.0]],
        ...       "loss": [[0.5, 0.5], [0.1, 0.1], [0.5, 0.4], [0.1, np.nan]]}).tolist()
        [2, 0, 1, 3]
    """
    name, best = (monitor, "min") if isinstance(monitor, str) else monitor
    values = np.asarray(scores[name], np.float64)
    losses = np.asarray(scores["loss"], np.float64)
    failed = ~np.isfinite(losses) | ~np.isfinite(values) | np.asarray(diverged, bool)
    finite = ~failed.any(axis=-1)
    mean_loss = np.where(finite, losses.mean(axis=-1), np.inf)
    # Means of equal scores may differ in the last bit.
    cost = np.round(values.mean(axis=-1), 12) * (-1 if best == "max" else 1)
    return np.lexsort((mean_loss, np.where(finite, cost, np.inf)), axis=-1)


def monitor_of(recipe: Recipe | None, monitor: Monitor | None) -> Monitor:
    """What ranks: the monitor given, else the recipe's."""
    if monitor is not None:
        return monitor
    return (Recipe() if recipe is None else recipe).monitor
