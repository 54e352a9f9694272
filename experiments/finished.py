"""Runs that have ended, as their output folders show them; what is damaged is named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common import options
from common.options import require, usage_errors
from digits_jax.storage.files import open_arrays


class Finished(NamedTuple):
    """A run that has ended, as its folder shows it."""

    name: str
    folder: str  # without what all begin with
    results: Mapping[str, Any]
    history: Mapping[str, Any] | None  # [R, E] by name; None for a run that trains none


def read(folder: Path, name: str) -> Finished:
    """A finished run.

    Raises:
        options.UsageError: the folder is no run's, or what it holds is damaged; says which file.
    """
    require(folder.is_dir(), f"{folder} is not a folder")
    file = folder / "results.json"
    none = f"{folder} holds no results.json: it is not the output folder of a finished run"
    require(file.is_file(), none)
    damaged = f"{file} is damaged: "
    with usage_errors(damaged):  # of JSON and of UTF-8
        results = json.loads(file.read_text(encoding="utf-8"))
    known = isinstance(results, dict) and isinstance(results.get("experiment"), str)
    require(known, f"{file} is not the results of one of these scripts")
    for key in ("config", "data", "devices", "machine", "versions"):
        require(isinstance(results.get(key, {}), dict), f"{damaged}its {key} is not an object")
    scores = [key for key in ("accuracy", "loss") if key in results]
    for key in scores:
        require(_is_summary(results[key]), f"{damaged}its {key} is no score")
    kind = results["experiment"]
    if kind == "cross_validate":
        folds = results.get("folds")
        fits = isinstance(folds, list) and all(
            isinstance(fold, dict) and isinstance(fold.get("accuracy"), int | float | None)
            for fold in folds
        )
        require(fits, f"{damaged}its folds have no accuracy")
    require(bool(scores), f"{folder} has no scores to compare: it is a run of {kind}")
    return Finished(name, name, results, _history(folder / "history.npz"))


def _is_summary(value: Any) -> bool:
    """Whether it is what ``summary_json`` gives."""
    if not isinstance(value, dict) or not isinstance(value.get("ci95"), list):
        return False
    values, ends = [value.get("mean"), value.get("std")], value["ci95"]
    known = all(isinstance(each, int | float) for each in values)
    return known and len(ends) == 2 and all(isinstance(end, int | float | None) for end in ends)


def _history(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        with file.open("rb") as opened, open_arrays(opened) as arrays:
            names = [name for name in arrays.files if name != "runs"]
            history = {name: np.asarray(arrays[name], np.float64) for name in names}
        if "loss" not in history or any(e.ndim != 2 or not e.size for e in history.values()):
            raise ValueError("each of the history must be [R, E]")
    except Exception as error:  # damage shows as any of a dozen exceptions of zipfile and numpy
        raise options.UsageError(f"{file} is damaged ({type(error).__name__})") from error
    return history
