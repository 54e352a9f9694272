"""What ``speedrun.py`` and the programs that aim at its goal exchange."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NOTEBOOK_EPOCHS = 100  # of the notebook's protocol


class Task(NamedTuple):
    """Cross-validations to train: S repeats of F folds of N images.

    Attributes:
        images: float32 [N, 8, 8], 0..1.
        labels: int32 [N], 0..9.
        train_rows: int32 [S, F, T], -1 where a fold has fewer.
        test_rows: int32 [S, F, U], -1 where a fold has fewer.
        epochs: of each training.
        batch_size: rows of a step; the last of an epoch has what is left.
        learning_rate: peak of Adam's.
        label_smoothing: fraction of a label that is spread over all classes.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    train_rows: npt.NDArray[np.int32]
    test_rows: npt.NDArray[np.int32]
    epochs: int
    batch_size: int
    learning_rate: float
    label_smoothing: float

    @property
    def folds(self) -> int:
        """F."""
        return int(self.train_rows.shape[1])

    def fold(self, repeat: int, fold: int) -> list[npt.NDArray[np.int32]]:
        """The rows that train, and those that test."""
        both = self.train_rows[repeat, fold], self.test_rows[repeat, fold]
        return [rows[rows >= 0] for rows in both]


def write(path: Path, task: Task) -> None:
    """Writes a task file."""
    np.savez(path, **task._asdict())


def read(path: Path) -> Task:
    """Reads a task file."""
    with np.load(path, allow_pickle=False) as arrays:
        values = {name: arrays[name] for name in Task._fields}
    return Task(**{name: each.item() if each.ndim == 0 else each for name, each in values.items()})


def timed(task: Task, cross_validate: Callable[[int], list[float]]) -> dict[str, Any]:
    """Trains all repeats; the seconds of each, from initial weights to test accuracies [S, F]."""
    accuracies, seconds = [], []
    for repeat in range(len(task.train_rows)):
        began = time.perf_counter()
        accuracies.append(cross_validate(repeat))
        seconds.append(time.perf_counter() - began)
    return {"accuracies": accuracies, "seconds": seconds}
