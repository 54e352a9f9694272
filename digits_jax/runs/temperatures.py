"""The temperature of each run, fitted on its validation rows.

Shapes: R runs, V validation rows of a run, K classes.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from digits_jax.calibration import fit_temperature
from digits_jax.evaluation import evaluate
from digits_jax.recipe import Recipe
from digits_jax.runs.checks import check_data
from digits_jax.runs.results import CrossValidation
from digits_jax.structures import Data, Run, TrainState


def fit_temperatures(
    result: CrossValidation, data: Any, *, recipe: Recipe
) -> npt.NDArray[np.float64]:
    """A temperature for each run whose logits are class logits; see ``fit_temperature``.

    Divide the run's logits by it before the softmax. Test rows have no part in it.

    Args:
        result: of runs with validation rows (``with_validation``).
        data: that they were trained on.
        recipe: that trained them.

    Returns:
        float64 [R]; NaN for a run without validation rows, such as a refit.

    Raises:
        ValueError: no run has validation rows, or the targets are no classes.

    Examples:
        >>> import digits_jax as dj
        >>> digits = dj.load_digits("bundled")
        >>> splits = dj.kfold_splits(digits.labels, folds=3)
        >>> splits = dj.with_validation(splits, 0.2, stratify=digits.labels)
        >>> result = dj.cross_validate(digits.data, dj.make_runs(splits), epochs=1)
        >>> fit_temperatures(result, digits.data, recipe=dj.Recipe()).shape
        (3,)
    """
    split = result.runs.split
    if split.validation_rows is None:
        raise ValueError(
            "temperatures are fitted on validation rows: with_validation(splits, 0.1) takes them "
            "out of the training rows"
        )
    checked = check_data(data)
    labels = np.asarray(checked.targets)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"targets must be classes, integers [N], not {labels.dtype}{labels.shape}")
    logits = np.asarray(_validation_outputs(result.states, result.runs, checked, recipe))
    rows, weights = np.asarray(split.validation_rows), np.asarray(split.validation_weights)
    found = np.full(len(rows), np.nan)
    for run, real in enumerate(weights > 0):
        if real.any():
            found[run] = fit_temperature(logits[run][real], labels[rows[run][real]])
    return found


@functools.partial(jax.jit, static_argnames="recipe")
def _validation_outputs(states: TrainState, runs: Run, data: Data, recipe: Recipe) -> Any:
    """Of one run after another, [R, V, K]: side by side they would fill the memory."""

    def one(pair: tuple[TrainState, Run]) -> Any:
        return evaluate(*pair, data, recipe=recipe, part="validation")[1]

    return jax.lax.map(one, (states, runs))
