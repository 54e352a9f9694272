"""Many configurations of the traced numbers: grids, random search, ranking.

A configuration is one ``Hyperparameters``; C of them are stacked as arrays [C]. Each is trained
on the same F splits, with the same draws, so that two configurations differ in their numbers
alone. What changes shapes or code (width, batch size) is an ``Recipe`` each, in a loop outside.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from digits_jax.optimizers import Hyperparameters
from digits_jax.runs.axis import make_runs
from digits_jax.splits import Split, stack_splits
from digits_jax.train import Examples, Run
from digits_jax.waves import train_in_waves

# How a number spreads in random search; the others are uniform.
LOG_UNIFORM = ("learning_rate", "epsilon", "weight_decay")
DECAYS = ("beta_1", "beta_2")  # 1 - beta is log-uniform: 0.9, 0.99 and 0.999 are as far apart


def grid(**values: Sequence[float]) -> Hyperparameters:
    """Every combination of the values given by name, the last name's running fastest.

    Returns:
        Hyperparameters whose numbers are float32 [C]; those not named keep their defaults.

    Raises:
        ValueError: a name is no hyperparameter's, or has no value.

    Examples:
        >>> numbers = grid(learning_rate=[1e-3, 1e-2], dropout_rate=[0.0, 0.25, 0.5])
        >>> numbers.dropout_rate.tolist()
        [0.0, 0.25, 0.5, 0.0, 0.25, 0.5]
    """
    for name, each in values.items():
        if name not in Hyperparameters._fields or not len(each):
            raise ValueError(f"{name} must be a hyperparameter with at least one value")
    columns = zip(*itertools.product(*values.values()), strict=True)
    return _spread(dict(zip(values, columns, strict=True)))


def random_search(count: int, *, seed: int = 0, **ranges: tuple[float, float]) -> Hyperparameters:
    """Draws configurations from ranges (low, high) given by name.

    Learning rate, epsilon and weight decay are log-uniform, and so is 1 - beta; the others are
    uniform. A range of equal ends is a constant. Random search needs fewer trials than a grid
    where few of the numbers matter: Bergstra and Bengio (2012), Random Search for Hyper-Parameter
    Optimization, JMLR 13:281-305.

    Returns:
        Hyperparameters whose numbers are float32 [C]; those not named keep their defaults.

    Raises:
        ValueError: a name is no hyperparameter's, or a range is empty or can't be log-uniform.

    Examples:
        >>> random_search(3, dropout_rate=(0.1, 0.1)).dropout_rate.tolist() == [np.float32(0.1)] * 3
        True
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    columns = {}
    for name, (low, high) in ranges.items():
        if name not in Hyperparameters._fields:
            raise ValueError(f"{name} is no hyperparameter")
        # A number's draws don't depend on which others are drawn beside it.
        stream = np.random.default_rng([seed, Hyperparameters._fields.index(name)])
        share = stream.uniform(size=count)
        if low == high:
            columns[name] = np.full(count, low)
            continue
        decay, log = name in DECAYS, name in (*LOG_UNIFORM, *DECAYS)
        first, last = (1 - high, 1 - low) if decay else (low, high)
        if not low < high or (log and not first > 0):
            bounds = "0 < low < high" if name in LOG_UNIFORM else "low < high"
            raise ValueError(
                f"{name} needs {bounds}{' < 1' if decay else ''}, not {low:g} to {high:g}"
            )
        drawn = first * (last / first) ** share if log else first + (last - first) * share
        columns[name] = 1 - drawn if decay else drawn
    return _spread(columns)


def _spread(columns: dict[str, Any]) -> Hyperparameters:
    """All numbers as float32 [C]; a dropout rate that is not given stays the network's own."""
    count = len(next(iter(columns.values()))) if columns else 1

    def spread(value: Any) -> np.ndarray:
        return np.array(np.broadcast_to(np.asarray(value, np.float32), (count,)))

    arrays = {name: np.asarray(column) for name, column in columns.items()}
    return jax.tree.map(spread, Hyperparameters(**arrays))  # type: ignore[no-any-return]


def run_picker(
    splits: Split, numbers: Hyperparameters, *, seed: int = 0
) -> Callable[[npt.ArrayLike, npt.ArrayLike], Run]:
    """A function that gives the runs of configurations [R] on splits [R], both by number.

    Args:
        splits: leading axis F. Each has a key of its own, which all configurations share.
        numbers: each [C], as from ``grid``.
        seed: see ``make_runs``.
    """
    base = make_runs(splits, seed=seed)
    keys = np.asarray(jax.random.key_data(base.key))

    def pick(configurations: npt.ArrayLike, chosen: npt.ArrayLike) -> Run:
        of_split = jax.tree.map(lambda leaf: np.asarray(leaf)[np.asarray(chosen)], splits)
        return Run(
            of_split,
            jax.tree.map(lambda leaf: leaf[np.asarray(configurations)], numbers),
            jax.random.wrap_key_data(keys[np.asarray(chosen)]),
        )

    return pick


class Scores(NamedTuple):
    """Of C configurations on F splits, on the test rows; means over seeds.

    Attributes:
        accuracy: float64 [C, F].
        loss: float64 [C, F], nats; not finite where a run diverged.
        epochs: int64 [C, F], that they were trained for.
    """

    accuracy: np.ndarray
    loss: np.ndarray
    epochs: np.ndarray


def train_grid(
    data: Examples,
    numbers: Hyperparameters,
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
        numbers: each [C], as from ``grid`` or ``random_search``.
        splits: leading axis F.
        folder: see ``train_in_waves``.
        epochs: likewise.
        seeds: networks for each configuration and split, whose scores are averaged.
        seed: of their draws; all configurations of a split share them.
        **options: of ``train_in_waves``, to which they go.
    """
    count, folds = _count(numbers), len(splits.train_rows)
    pick = run_picker(_for_each(seeds, splits), numbers, seed=seed)

    def make_wave(start: int, stop: int) -> Run:
        return pick(*np.divmod(np.arange(start, stop), seeds * folds))

    result = train_in_waves(
        data, make_wave, count * seeds * folds, folder=folder, epochs=epochs, **options
    )
    accuracy, loss = (
        each.reshape(count, seeds, folds).mean(axis=1) for each in (result.accuracy, result.loss)
    )
    return Scores(accuracy, loss, np.full((count, folds), epochs))


def train_chosen(
    data: Examples,
    numbers: Hyperparameters,
    splits: Split,
    chosen: npt.ArrayLike,
    *,
    folder: str | os.PathLike[str],
    seeds: int = 1,
    seed: int = 0,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains on each split the configuration that was chosen for it; see ``train_grid``.

    Args:
        data: see ``train_grid``.
        numbers: likewise.
        splits: likewise.
        chosen: int [F], a configuration each; -1 leaves out a split.
        folder: see ``train_grid``.
        seeds: likewise.
        seed: likewise.
        **options: likewise.

    Returns:
        Accuracy and loss, float64 [F]; NaN for what was left out.
    """
    configurations = np.asarray(chosen)
    folds, at = len(configurations), np.flatnonzero(configurations >= 0)
    pick = run_picker(_for_each(seeds, splits), numbers, seed=seed)

    def make_wave(start: int, stop: int) -> Run:
        repeat, i = np.divmod(np.arange(start, stop), len(at))
        return pick(configurations[at[i]], repeat * folds + at[i])

    result = train_in_waves(data, make_wave, seeds * len(at), folder=folder, **options)
    accuracy, loss = np.full((2, folds), np.nan)
    accuracy[at] = result.accuracy.reshape(seeds, -1).mean(axis=0)
    loss[at] = result.loss.reshape(seeds, -1).mean(axis=0)
    return accuracy, loss


def _for_each(seeds: int, splits: Split) -> Split:
    """The splits [seeds * F], once for each seed, so that each time they get other keys."""
    return stack_splits(*[splits] * seeds)


def _count(numbers: Hyperparameters) -> int:
    return int(np.size(numbers.learning_rate))


def rank(accuracy: npt.ArrayLike, loss: npt.ArrayLike) -> np.ndarray:
    """Configurations from best to worst: by mean accuracy, among equals by mean loss.

    One of which a run diverged (its loss is not finite) is behind all that did not.

    Args:
        accuracy: [..., C, F], of each configuration on each split.
        loss: [..., C, F].

    Returns:
        int64 [..., C], the configurations' numbers.

    Examples:
        >>> rank([[0.9, 0.9], [0.9, 0.8], [0.9, 0.9], [1.0, 1.0]],
        ...      [[0.5, 0.5], [0.1, 0.1], [0.5, 0.4], [0.1, np.nan]]).tolist()
        [2, 0, 1, 3]
    """
    accuracies, losses = np.asarray(accuracy, np.float64), np.asarray(loss, np.float64)
    sound = np.isfinite(losses).all(axis=-1)
    mean_loss = np.where(sound, losses.mean(axis=-1), np.inf)
    # Means of equal scores may differ in the last bit.
    means = np.where(sound, np.round(accuracies.mean(axis=-1), 12), -np.inf)
    return np.lexsort((mean_loss, -means), axis=-1)
