"""The methods that ``compare.py`` and its like set beside each other, on equal splits.

The networks train all splits at once, on the runs axis; scikit-learn's methods take one split after
another, in a process on each core. What a method predicts is written to the output folder as soon
as it is whole, and read from there on ``--resume``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common import options, startup, tasks
from common.output import Output
from common.tasks import Task
from digits_jax.storage.files import open_arrays

TITLES: dict[str, str] = {
    "strong": "CNN, strong",
    "notebook": "CNN, notebook",
    "svm": "SVM, RBF kernel",
    "svm_jitter": "SVM, RBF kernel, jittered rows",
    "knn1": "1 nearest neighbour",
    "knn3": "3 nearest neighbours",
    "mlp": "MLP, one layer of 100",
    "forest": "random forest",
    "logistic": "logistic regression",
    "realmlp": "RealMLP, 5 votes",
}
SLOW = ("svm_jitter", "realmlp")  # only where they are asked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.ResumableOut, options.Data):
    """The options of the command line that both scripts have."""

    methods: tuple[str, ...] = ()
    """Methods to compare: strong, notebook, svm, svm_jitter (which has the strong recipe's jitter
    of its training rows, and takes long), knn1, knn3, mlp, forest, logistic, realmlp (an
    ensemble of pytabkit's, to be installed, which takes long, too), and recipes of yours,
    FILE.py:FUNCTION (see cross_validate.py). A recipe's name with a number, strong*5, is so many
    networks on each split that vote. Default: the first, but svm_jitter and realmlp, of the
    digits; of other data without strong and notebook, too."""
    seed: int = 0
    """Seed of the splits and of every method's draws."""
    epochs: int | None = None
    """Passes over the training rows of the networks, for a quick trial. Default: the recipes'."""

    def check(self) -> None:
        """Raises UsageError."""
        options.positive(epochs=self.epochs)
        options.seed(seed=self.seed)
        once = len(self.methods) == len(set(self.methods))
        options.require(once, "--methods must name each method once")
        for name in self.methods:
            base, members = voters(name)
            known = name in TITLES or ((".py:" in base or base in dj.RECIPES) and members > 0)
            there = f"--methods {name}: there are {', '.join(TITLES)}, and FILE.py:FUNCTION"
            options.require(known, there)

    def chosen(self, task: Task) -> list[str]:
        """The methods to compare, by name."""
        if self.methods:
            return list(self.methods)
        named = [name for name in TITLES if name not in SLOW]
        return [name for name in named if task.dataset is not None or name not in dj.RECIPES]


def begin(config: Options, script: str, *, digits_for: str = "") -> tuple[Output, Task]:
    """Starts JAX; gives the folder, and rows of two classes or more.

    ``digits_for`` says why the rows must be the digits, where they must.
    """
    config.check()
    output = Output(config, script=script)
    startup.start_jax(compilation_cache=config.compilation_cache)
    task = tasks.load_task(config.data)
    only = f"--data must be the digits: {digits_for}"
    options.require(task.dataset is not None or not digits_for, only)
    classes = "the methods are classifiers: --data must hold classes, integers"
    options.require(task.class_names is not None, classes)
    found = np.unique(task.targets)
    of_one = f"all rows of --data are of class {found[0]}; the methods tell two or more apart"
    options.require(len(found) > 1, of_one)
    return output, task


def title(name: str) -> str:
    """What a method is called."""
    base, members = voters(name)
    return TITLES.get(base, base) + (f", {members} votes" if members > 1 else "")


def voters(name: str) -> tuple[str, int]:
    """A recipe's name, and how many networks of it vote on each split; 0: no number."""
    base, star, number = name.rpartition("*")
    if not star:
        return name, 1
    return base, int(number) if number.isdecimal() else 0


def is_network(name: str) -> bool:
    """Whether it is a recipe; these vote."""
    base, _ = voters(name)
    return base not in TITLES or base in dj.RECIPES


def file_name(name: str) -> str:
    """A method's name, for a file."""
    return re.sub(r"\W+", "_", name)


class Predictions(NamedTuple):
    """What a method makes of the test rows of R splits."""

    rows: npt.NDArray[Any]  # int32 [R, S], row numbers; -1 is padding
    predicted: npt.NDArray[Any]  # int32 [R, S], classes; -1 is padding
    logits: npt.NDArray[Any]  # float32 [R, S, K], or logarithms of probabilities; [R, S, 0]: none
    seconds: float  # of training and predicting, all splits together
    chosen: list[dict[str, Any]]  # [R], what a method tuned inside the training rows; else empty

    def accuracies(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Fraction of the test rows that are right, float64 [R]; labels int [N]."""
        right = (self.predicted == labels[self.rows]) & (self.rows >= 0)
        accuracies: npt.NDArray[Any] = right.sum(axis=1) / (self.rows >= 0).sum(axis=1)
        return accuracies


def load(path: Path) -> tuple[Predictions, dict[str, Any]]:
    """The predictions that a script wrote, and the identity of what made them."""
    try:
        with open_arrays(path) as file:
            about = json.loads(str(file["about"]))
            arrays = (file["rows"], file["predicted"], file["logits"])
            done = Predictions(*arrays, about["seconds"], about["chosen"])
            return done, about["identity"]
    except Exception as error:  # zipfile, NumPy and json have some ten ways to say so
        raise options.UsageError(
            f"{path} is damaged, or not of this script ({error}); delete it to have it made again"
        ) from error


def by_row(done: Predictions, repeats: int, rows: int) -> npt.NDArray[np.int32]:
    """The class predicted for each row in each repeat of k folds, int32 [repeats, N]."""
    answers = np.full((repeats, rows), -1, np.int32)
    tested, predicted = (each.reshape(repeats, -1) for each in (done.rows, done.predicted))
    for repeat in range(repeats):
        real = tested[repeat] >= 0
        answers[repeat, tested[repeat][real]] = predicted[repeat][real]
    return answers
