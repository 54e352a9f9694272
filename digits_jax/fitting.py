"""Trains one model on all rows, again and again on data of about the same size; and predicts.

Shapes: N rows, M members that vote, B rows of a batch.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
from jax import lax

from digits_jax.evaluation import predict
from digits_jax.recipe import Recipe, on_platform
from digits_jax.runs.axis import make_runs, shared, take_run
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.results import CrossValidation
from digits_jax.splits import Split, SplitKind, one_split, with_validation
from digits_jax.structures import Data

ROWS_PER_CALL = 512  # of a prediction


def fit(
    data: Data,
    h: Any,
    *,
    recipe: Recipe,
    epochs: int,
    members: int = 1,
    seed: int = 0,
    validation_fraction: float = 0.0,
    stratify: npt.ArrayLike | None = None,
    patience: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> CrossValidation:
    """Trains one model, or members that vote, on all rows but those that validate.

    Shapes are rounded up to whole batches, by padding of weight 0: so the folds of a
    cross-validation, whose sizes differ by a row or two, share a compiled program.

    Args:
        data: host arrays, as of ``check_data``.
        h: the hyperparameters, of one run; an array or a list is one value.
        recipe: how the model trains.
        epochs: passes over the training rows.
        members: M.
        seed: see ``make_runs``; validation rows are drawn from it too.
        validation_fraction: see ``with_validation``. Above 0, the weights of the best epoch are
            kept. 0: no row validates.
        stratify: see ``with_validation``.
        patience: see ``cross_validate``.
        devices: see ``cross_validate``.

    Returns:
        The result; it has no test rows.

    Raises:
        ValueError: there is patience, and no row validates; else see ``cross_validate``.
    """
    if patience is not None and not validation_fraction:
        raise ValueError(
            "patience needs validation rows: validation_fraction=0.1 takes a tenth of the rows"
        )
    rows = len(jax.tree.leaves(data.inputs)[0])
    splits = one_split(np.arange(rows), [], kind=SplitKind.REFIT)
    if validation_fraction:
        splits = with_validation(splits, validation_fraction, seed=seed, stratify=stratify)
    size = min(recipe.batch_size, _power_of_two(rows))
    padded = jax.tree.map(functools.partial(_zeros_after, size=size), data)
    one = jax.tree.map(_as_shared, h, is_leaf=_is_list)
    return cross_validate(
        padded if data.weights is not None else padded[:2],
        make_runs(_whole_batches(splits, size), one, members=members, seed=seed),
        recipe=recipe,
        epochs=epochs,
        epochs_per_call=_epochs_per_call(epochs),
        patience=patience,
        keep="best" if validation_fraction else "last",
        devices=devices,
        # One run alone is not vmapped, so that skipped steps are skipped on every platform.
        vmap_size=1 if members == 1 else None,
    )


def outputs_of(
    states: Any, inputs: npt.NDArray[Any], h: Any, *, recipe: Recipe, device: jax.Device
) -> npt.NDArray[Any]:
    """The outputs of a model in evaluation, those of its members combined.

    Args:
        states: every leaf [M, ...].
        inputs: a host array [N, ...], of any number of rows; they are taken in batches.
        h: the hyperparameters, of one run.
        recipe: that trained it.
        device: that predicts.

    Returns:
        A host array [N, ...].

    Raises:
        TypeError: the network gives several arrays.
    """
    states, h = jax.device_put((states, h), device)
    outputs = []
    for start in range(0, len(inputs), ROWS_PER_CALL):
        rows = inputs[start : start + ROWS_PER_CALL]
        # So that a handful of programs serves all numbers of rows.
        placed = jax.device_put(_zeros_after(rows, size=_power_of_two(len(rows))), device)
        given = _predicted(states, placed, h, recipe=recipe, platform=device.platform)
        if not isinstance(given, jax.Array):
            raise TypeError("an estimator's network must give one array, [B, ...]")
        outputs.append((given, len(rows)))
    return np.concatenate([np.asarray(given)[:count] for given, count in outputs])


@functools.partial(jax.jit, static_argnames=("recipe", "platform"))
def _predicted(states: Any, inputs: Any, h: Any, *, recipe: Recipe, platform: str) -> Any:
    """The combined outputs of members [M, ...]. Compiled once for each recipe and shape."""

    def one(state: Any) -> Any:
        return predict(state, inputs, h, recipe=recipe)

    with on_platform(platform):
        if len(states.step) == 1:
            return one(take_run(states, 0))
        return recipe.combined(lax.map(one, states))


def _power_of_two(rows: int) -> int:
    """The next power of two that is not below the number of rows; at least 32."""
    return max(32, 1 << math.ceil(math.log2(rows)))


def _zeros_after(array: npt.NDArray[Any], *, size: int) -> npt.NDArray[Any]:
    """The array with rows of zeros after its own, up to a multiple of ``size`` rows."""
    return np.pad(array, [(0, -len(array) % size), *[(0, 0)] * (array.ndim - 1)])


def _whole_batches(splits: Split, size: int) -> Split:
    """Splits whose training and validation rows are padded up to a multiple of ``size``."""
    fields: dict[str, Any] = {}
    for part in ("train", "validation"):
        rows = getattr(splits, f"{part}_rows")
        if rows is not None:
            missing = ((0, 0), (0, -rows.shape[1] % size))
            fields[f"{part}_rows"] = np.pad(rows, missing, mode="edge")
            fields[f"{part}_weights"] = np.pad(getattr(splits, f"{part}_weights"), missing)
    return splits._replace(**fields)


def _epochs_per_call(epochs: int) -> int:
    """A divisor of the epochs, so that there are about ten calls of the program."""
    count = operator.index(epochs)
    return next((n for n in range(count // 10, 0, -1) if count % n == 0), 1)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _as_shared(leaf: Any) -> Any:
    """An array is one value here, where ``make_runs`` would take one entry for each run."""
    return shared(leaf) if np.ndim(leaf) else leaf
