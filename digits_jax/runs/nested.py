"""Nested cross-validation of one recipe in one call: an interval that holds its level.

Shapes: N rows, K folds. A repeat trains K (K + 1) / 2 runs: one without each fold, and one without
each two; the latter serves both of its folds.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from digits_jax.networks import with_mask
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import make_runs
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.results import CrossValidation
from digits_jax.splits import Split, SplitKind, kfold_splits, one_split, stack_splits
from digits_jax.statistics import NestedInterval, nested_interval


def nested_cross_validate(
    data: Any,
    h: Any = None,
    *,
    recipe: Recipe | None = None,
    epochs: int = 100,
    folds: int = 5,
    repeats: int = 10,
    stratified: bool = True,
    metric: str = "accuracy",
    seed: int = 0,
    **options: Any,
) -> NestedInterval:
    """What a recipe scores on new rows when it is trained on all of these, with a 95 % interval.

    Intervals of cross-validation's folds are too narrow for that question, and centred on what
    fewer rows give. Here every fold's score is set against that of the other folds by models that
    saw neither, which measures how far such estimates are from what they estimate; see
    ``statistics.nested_interval``. All repeats * K (K + 1) / 2 runs train at once.

    Args:
        data: as of ``cross_validate``; targets are classes, integers [N], to stratify.
        h: hyperparameters, one for all runs; see ``make_runs``.
        recipe: default: the notebook's.
        epochs: passes over the training rows.
        folds: K, at least 3.
        repeats: times that the rows are split anew; more make the interval depend less on the
            draw of the splits.
        stratified: whether each fold has the classes in the whole set's proportions.
        metric: of the recipe's, or "loss".
        seed: of the splits and the runs.
        options: of ``cross_validate``, such as ``checkpoints``, ``resume`` and ``progress``.

    Returns:
        A NestedInterval.

    Raises:
        ValueError: there are fewer than three folds, no such metric, or a run diverged; else see
            ``cross_validate``.

    Examples:
        >>> import digits_jax as dj
        >>> digits = dj.load_digits("bundled")
        >>> data = (digits.images[:300], digits.labels[:300])
        >>> found = nested_cross_validate(data, epochs=1, folds=3, repeats=1)
        >>> 1 <= found.inflation <= 3**0.5
        True
    """
    recipe = Recipe() if recipe is None else recipe
    if metric not in recipe.names:
        raise ValueError(f"there is no score {metric!r}; there are {', '.join(recipe.names)}")
    if folds < 3:
        raise ValueError(f"nested cross-validation needs at least three folds, got {folds}")
    targets = data[1]
    splits, fold = leave_two_out(targets, folds, repeats=repeats, seed=seed, stratified=stratified)
    runs = make_runs(splits, h, seed=seed)
    result = cross_validate(data, runs, recipe=recipe, epochs=epochs, **options)
    if (result.diverged > 0).any():
        raise ValueError(
            f"{int((result.diverged > 0).sum())} of {len(runs.key)} runs diverged: their scores "
            "would be neither left out nor kept"
        )
    scores = _row_scores(result, recipe, metric)
    outer = np.zeros(fold.shape)
    inner = np.zeros((*fold.shape, folds))
    combinations = [(k,) for k in range(folds)] + list(itertools.combinations(range(folds), 2))
    for run, (rows, values) in enumerate(zip(result.test_rows, scores, strict=True)):
        repeat, which = divmod(run, len(combinations))
        rows, values = rows[rows >= 0], values[rows >= 0]
        left_out = combinations[which]
        if len(left_out) == 1:
            outer[repeat, rows] = values
            continue
        first = fold[repeat, rows] == left_out[0]
        inner[repeat, rows[first], left_out[1]] = values[first]
        inner[repeat, rows[~first], left_out[0]] = values[~first]
    return nested_interval(outer, inner, fold)


def leave_two_out(
    targets: npt.ArrayLike, folds: int, *, repeats: int, seed: int, stratified: bool
) -> tuple[Split, npt.NDArray[np.int32]]:
    """Splits of nested cross-validation: one without each fold, then one without each two.

    Args:
        targets: [N], see ``kfold_splits``.
        folds: K.
        repeats: r; repeat i has the folds of ``kfold_splits(seed=seed + i)``.
        seed: of the first repeat.
        stratified: see ``kfold_splits``.

    Returns:
        A Split [r * K (K + 1) / 2, ...], repeat by repeat, pairs (0, 1), (0, 2), ... last, and the
        fold of each row, int32 [r, N].
    """
    rows = np.arange(len(np.asarray(targets)))
    made, fold = [], np.zeros((repeats, len(rows)), np.int32)
    for repeat in range(repeats):
        one = kfold_splits(targets, folds, seed=seed + repeat, stratified=stratified)
        for k, (tested, weights) in enumerate(zip(one.test_rows, one.test_weights, strict=True)):
            fold[repeat, tested[weights > 0]] = k
        for count in (1, 2):
            for left_out in itertools.combinations(range(folds), count):
                tests = np.isin(fold[repeat], left_out)
                made.append(one_split(rows[~tests], rows[tests], kind=SplitKind.RANDOM))
    return stack_splits(*made), fold


def _row_scores(result: CrossValidation, recipe: Recipe, metric: str) -> npt.NDArray[np.float64]:
    """The score of each test row of each run, float64 [R, S]; padding holds anything."""
    found = []
    for run, rows in enumerate(result.test_rows):
        outputs, targets = jnp.asarray(result.outputs[run]), jnp.asarray(result.targets[run])
        mask = jnp.asarray(rows >= 0)
        if metric == "loss":
            values = recipe.loss(outputs, targets, None, **with_mask(recipe.loss, mask))
        else:
            assert recipe.metrics is not None
            function = recipe.metrics[metric]
            values = function(outputs, targets, **with_mask(function, mask))
        found.append(np.asarray(values, np.float64))
    return np.stack(found)
