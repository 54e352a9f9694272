"""What the benchmark and the peers' programs exchange: a task file in, a result file out.

A peer is a plain program that trains all folds and reports to a clock each epoch that is done:

    python experiments/peers/torch_folds.py TASK.npz RESULT.json --variant eager

``experiments/benchmark.py`` writes the task, calls the peers, and reads their results. This file
needs nothing but NumPy, and sets what all peers have in common: the notebook's hyperparameters.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BATCH_SIZE = 128  # rows; the last batch of an epoch has what is left
DROPOUT_RATE = 0.25  # share of units, at all five places
LEARNING_RATE = 1e-3  # Adam's, as are the next two
BETAS = (0.9, 0.999)
EPSILON = 1e-7


class Task(NamedTuple):
    """What to train: R folds (training rows padded to the longest fold's T) of N images."""

    images: npt.NDArray[np.uint8]  # [N, 8, 8], 0..16; of own networks [N, S, S, C], 0..255
    labels: npt.NDArray[np.int32]  # [N], 0..9
    train_rows: npt.NDArray[np.int32]  # [R, T]
    train_weights: npt.NDArray[np.float32]  # [R, T], 1 for a row that counts, 0 for padding
    test_rows: npt.NDArray[np.int32]  # [R, S]; nothing is tested, but digits_jax asks for them
    test_weights: npt.NDArray[np.float32]  # [R, S]
    epochs: int  # in all
    warm_up: int  # of these, the first ones that are not timed; the very first compiles

    def folds(self) -> list[npt.NDArray[np.int32]]:
        """The training rows of each fold, without padding."""
        pairs = zip(self.train_rows, self.train_weights, strict=True)
        return [rows[weights > 0] for rows, weights in pairs]


class Clock:
    """Notes the seconds of each epoch of each fold, and what was reached at its end.

    A program that trains all folds together calls ``fold`` once, another one before each fold.
    The first epoch's seconds count from the end of what was timed before, so building and
    compiling belong to it.
    """

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._seconds: list[list[float]] = []
        self._accuracies: list[float] = []  # of the last epoch of each fold
        self._parameters: int | None = None  # not known
        self._other_bytes = 0
        self._notes: dict[str, float] = {}

    def fold(self) -> None:
        """From here on, another fold (or all of them) trains."""
        self._seconds.append([])
        self._accuracies.append(float("nan"))

    def epoch(self, accuracy: float) -> None:
        """An epoch is done. ``accuracy``: mean over its training rows, dropout on."""
        now = time.perf_counter()
        self._seconds[-1].append(now - self._last)
        self._last = now
        self._accuracies[-1] = float(accuracy)

    def spent(self, seconds: Sequence[float], accuracy: float) -> None:
        """All epochs of a fold that something else has timed, and ``accuracy`` at their end."""
        self._seconds[-1] = list(seconds)
        self._accuracies[-1] = float(accuracy)

    def parameters(self, count: int) -> None:
        """The number of weights of one fold's network, so that a reader sees it is the same."""
        self._parameters = int(count)

    def note(self, **values: float) -> None:
        """What else the result says, such as the ``steps`` that a run's optimizer has counted."""
        self._notes |= values

    def merge(self, workers: Sequence[Clock], peak_bytes: Sequence[int | None]) -> None:
        """The clocks of processes that trained side by side: the slowest counts, epoch by epoch."""
        slowest = np.max([np.sum(clock._seconds, axis=0) for clock in workers], axis=0)
        self._seconds = [slowest.tolist()]
        self._accuracies = [accuracy for clock in workers for accuracy in clock._accuracies]
        self._parameters, self._notes = workers[0]._parameters, workers[0]._notes
        self._other_bytes = sum(peak or 0 for peak in peak_bytes)

    def result(self, warm_up: int) -> dict[str, Any]:
        """The seconds of epochs of all folds, the memory of all processes."""
        epochs = np.sum(self._seconds, axis=0)  # [E]
        peak = peak_memory()
        return {
            "first_epoch_seconds": float(epochs[0]),
            "epoch_seconds": [float(seconds) for seconds in epochs[warm_up:]],
            "train_accuracy": float(np.mean(self._accuracies)),
            "parameters": self._parameters,
            "peak_bytes": None if peak is None else peak + self._other_bytes,
            **self._notes,
        }


def cores() -> int:
    """The number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # what a container or taskset leaves us
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def peak_memory() -> int | None:
    """The most memory that this process had resident, in bytes; None where that is not known."""
    try:  # on Linux, ru_maxrss starts at what the *parent* had; VmHWM starts anew
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_peer(train: Callable[[Task, Clock, str], None], *, packages: tuple[str, ...]) -> None:
    """Reads the task, trains, writes the result; called when all imports are done.

    Args:
        train: ``train(task, clock, variant)``.
        packages: distributions whose versions belong into the result, where they are installed.
    """
    imported = time.time()
    arguments = _parse()
    with np.load(arguments.task, allow_pickle=False) as arrays:
        task = Task(**{name: arrays[name] for name in Task._fields})
    task = task._replace(epochs=int(task.epochs), warm_up=int(task.warm_up))
    clock = Clock()
    train(task, clock, arguments.variant)
    _write(arguments, imported, clock.result(task.warm_up), packages)


def run_task(run: Callable[[Path], dict[str, Any]], *, packages: tuple[str, ...]) -> None:
    """As ``run_peer``, for a program that reads a task file of its own; gives its result."""
    imported = time.time()
    arguments = _parse()
    _write(arguments, imported, run(arguments.task), packages)


def run_measurement(measure: Callable[[], dict[str, Any]], *, packages: tuple[str, ...]) -> None:
    """As ``run_peer``, for a program that trains nothing."""
    imported = time.time()
    arguments = _parse()
    _write(arguments, imported, measure(), packages)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A peer of experiments/benchmark.py.")
    parser.add_argument("task", type=Path, help="file written by the benchmark (.npz)")
    parser.add_argument("result", type=Path, help="file to write (.json)")
    parser.add_argument("--variant", default="", help="which of the program's variants")
    parser.add_argument("--started", type=float, help="when it was started, in time.time()")
    return parser.parse_args()


def _write(
    arguments: argparse.Namespace,
    imported: float,
    result: dict[str, Any],
    packages: tuple[str, ...],
) -> None:
    # The clock of the wall is the one that two processes share.
    started = imported if arguments.started is None else arguments.started
    result |= {
        "import_seconds": imported - started,
        "versions": dict(_versions(packages)),
    }
    arguments.result.write_text(json.dumps(result))


def _versions(packages: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield package, metadata.version(package)
