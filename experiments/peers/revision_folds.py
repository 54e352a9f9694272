"""One revision of this project trains its own recipes: the program of ``benchmark.py --against``.

It is run with the PYTHONPATH of a revision's tree, and lies in the newer tree for both. So it knows
each interface that the package has had: see ``train``. What was trained goes to an ``.npz`` that
the task names, one array for each leaf, ``<part>/<number of the leaf>``.
"""

from __future__ import annotations

import importlib
import inspect
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
import protocol

dj: Any = importlib.import_module("digits_jax")  # of any revision, so it has no types here
make_runs, cross_validate = dj.make_runs, dj.cross_validate  # loads them: that counts as importing

SPLIT_FIELDS = ("train_rows", "train_weights", "test_rows", "test_weights")
STATE_FIELDS = ("params", "collections", "opt_state", "average")


class Trained(NamedTuple):
    """The result of one ``cross_validate``, under the same names for every revision."""

    history: dict[str, Any]  # loss and accuracy, float32 [R, E]
    states: Any  # has some of STATE_FIELDS; leaves [R, ...]
    outputs: Any  # float32 [R, S, K], of the test rows
    scores: dict[str, Any]  # loss and accuracy, float64 [R]; a revision may have one of them
    compile_seconds: float


def train(
    name: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    split: Any,
    *,
    epochs: int,
    on_epoch: Callable[[], None] | None = None,
) -> Trained:
    """Trains a recipe. The only place that knows how the interface differs between revisions.

    What is asked for depends on what the package offers, not on its version:

    - ``recipe_by_name``, before that ``preset``; with ``train_rows`` as long as it takes them.
    - ``make_runs`` takes the hyperparameters as a keyword only, later by position.
    - The data are ``Examples``, later a plain pair.
    - ``cross_validate`` takes a ``recipe``, before that an ``experiment``.
    - ``history`` has attributes, later keys.
    - ``outputs`` and ``scores`` were ``logits``, ``loss`` and ``accuracy``.

    Args:
        name: of the recipe.
        images: [N, 8, 8].
        labels: [N].
        split: a stacked ``Split``, R runs.
        epochs: to train; the recipe's learning-rate schedule ends with them.
        on_epoch: called after each epoch of all runs.
    """

    def takes(function: Callable[..., Any], argument: str) -> bool:
        return argument in inspect.signature(function).parameters

    make = dj.recipe_by_name if hasattr(dj, "recipe_by_name") else dj.preset
    rows = {"train_rows": split.train_weights.sum(-1)} if takes(make, "train_rows") else {}
    recipe, hyperparameters, *_ = make(name, epochs=epochs, **rows)

    argument = inspect.signature(make_runs).parameters.get("hyperparameters")
    if argument is not None and argument.kind is argument.KEYWORD_ONLY:
        runs = make_runs(split, hyperparameters=hyperparameters, seed=0)
    else:
        runs = make_runs(split, hyperparameters, seed=0)

    result = cross_validate(
        dj.Examples(images, labels) if hasattr(dj, "Examples") else (images, labels),
        runs,
        **{"recipe" if takes(cross_validate, "recipe") else "experiment": recipe},
        epochs=epochs,
        on_epoch=None if on_epoch is None else lambda _: on_epoch(),
    )

    history, scores = result.history, getattr(result, "scores", None)
    if not isinstance(history, Mapping):
        history = {"loss": history.loss, "accuracy": history.accuracy}
    if scores is None:
        scores = {"loss": result.loss, "accuracy": result.accuracy}
    return Trained(
        {metric: history[metric] for metric in ("loss", "accuracy")},
        result.states,
        result.outputs if hasattr(result, "outputs") else result.logits,
        {metric: scores[metric] for metric in ("loss", "accuracy") if metric in scores},
        result.seconds["compile"],
    )


def parts_of(trained: Trained) -> dict[str, dict[str, Any]]:
    """What is compared: parts in the order in which a difference arises, leaves by name."""
    parts = {f"history.{metric}": {"": values} for metric, values in trained.history.items()}
    for field in STATE_FIELDS:
        parts[field] = {}
        leaves, _ = jax.tree_util.tree_flatten_with_path(getattr(trained.states, field, None))
        for path, leaf in leaves:
            if np.asarray(leaf).dtype.kind not in "iub":  # a counter
                parts[field][jax.tree_util.keystr(path)] = leaf
    parts["outputs"] = {"": trained.outputs}
    return parts | {f"scores.{metric}": {"": values} for metric, values in trained.scores.items()}


def run(path: Path) -> dict[str, Any]:
    """Trains what the task says.

    Returns:
        ``leaves`` (the names of each part's leaves, in order), ``absent`` (the STATE_FIELDS that
        the states of this revision lack), and in ``times`` for each recipe that is timed its
        ``compile_seconds`` and ``epoch_seconds``.

    Raises:
        RuntimeError: the package is not that of the revision's tree, or there are other devices.
    """
    with np.load(path, allow_pickle=False) as file:
        task = dict(file)
    tree, package = Path(str(task["tree"])).resolve(), Path(dj.__file__).resolve()
    if not package.is_relative_to(tree):
        raise RuntimeError(f"digits_jax is {package}, not in {tree}")
    devices = [device.platform for device in jax.devices()]
    if devices != ["cpu"] * int(task["devices"]):
        raise RuntimeError(f"there must be {task['devices']} CPU devices, not {devices}")

    epochs = int(task["epochs"])
    arrays: dict[str, Any] = {}
    leaves: dict[str, list[str]] = {}
    absent: set[str] = set()
    times: dict[str, dict[str, float]] = {}
    for name, rows, warm_up, timed in json.loads(str(task["plan"])):
        split = dj.Split(*(task[f"{rows}.{field}"] for field in SPLIT_FIELDS))
        arguments = (name, task["images"], task["labels"], split)
        trained = train(*arguments, epochs=epochs)
        for part, named in parts_of(trained).items():
            part = f"{name}, {rows}: {part}"
            leaves[part] = list(named)
            arrays |= {f"{part}/{i}": leaf for i, leaf in enumerate(named.values())}
        absent |= {field for field in STATE_FIELDS if not hasattr(trained.states, field)}
        if timed:
            ends: list[float] = []
            train(
                *arguments,
                epochs=warm_up + timed,
                on_epoch=lambda ends=ends: ends.append(time.perf_counter()),  # type: ignore[misc]
            )
            times[name] = {
                "compile_seconds": trained.compile_seconds,
                "epoch_seconds": (ends[-1] - ends[-1 - timed]) / timed,
            }
    np.savez(str(task["trained"]), allow_pickle=False, **arrays)
    return {"leaves": leaves, "absent": sorted(absent), "times": times}


if __name__ == "__main__":
    protocol.run_task(run, packages=("jax", "jaxlib", "flax", "optax", "numpy"))
