"""Splits of k folds, for nesting, by chance, by writer, and for a refit.

Every function gives *stacked* splits (leading axis R, even where R = 1), so that the results of
several calls concatenate with `stack_splits`. N is the number of rows of the data set.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from digits_jax.data import TRAIN_WRITERS_ROWS, UCI_ROWS
from digits_jax.splits.stacked import (
    Split,
    SplitKind,
    check_stacked,
    kinds,
    one_split,
    real_rows,
    stack_splits,
)

_WRITER_TRAIN_COUNTS = (376, 389, 380, 389, 387, 376, 377, 387, 380, 382)  # UCI's optdigits.names


def kfold_splits(
    labels: npt.ArrayLike,
    folds: int = 5,
    *,
    seed: int = 0,
    stratified: bool = True,
    repeats: int = 1,
) -> Split:
    """Shuffled (stratified) k-fold cross-validation, repeated: every row is tested once a repeat.

    Repeat r has exactly the rows of scikit-learn's `StratifiedKFold(folds, shuffle=True,
    random_state=seed + r)`, or of `KFold` with the same arguments. So each repeat can be made
    again on its own, the first does not depend on how many follow, and seeds that differ by fewer
    than `repeats` share repeats.

    Args:
        labels: integers [N], the classes; if not stratified, any targets [N] or [N, ...], of which
            only the number counts.
        folds: number of folds k, from 2 to N.
        seed: of the first repeat's shuffle, 0 to 2**32 - repeats.
        stratified: whether each fold has the classes in the whole set's proportions.
        repeats: number of repeats r.

    Returns:
        A Split [r * k, ...], repeat by repeat, fold by fold; T and S are those of the largest fold.
        Its kind is RANDOM, or LEAVE_ONE_OUT where there are as many folds as rows.

    Raises:
        TypeError: `folds`, `seed` or `repeats` are not integers, or `labels` are not and stratify.
        ValueError: `labels` is empty, or not 1-D and stratifies; `folds` is not in 2..N, `repeats`
            is below 1, `seed` is out of range, or a class has fewer rows than folds to stratify it
            over.

    Examples:
        >>> splits = kfold_splits([0, 1] * 5, folds=3, stratified=False)
        >>> splits.test_rows.shape, splits.test_weights.sum(axis=1).tolist()
        ((3, 4), [4.0, 3.0, 3.0])
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    labels = _check_targets(labels, stratified)
    folds = check_integer("folds", folds, minimum=2)
    repeats = check_integer("repeats", repeats, minimum=1)
    seed = check_integer("seed", seed, minimum=0, maximum=2**32 - repeats)
    if folds > len(labels):
        raise ValueError(f"{folds} folds need at least {folds} rows, got {len(labels)}")
    if stratified:
        _check_class_counts(labels, folds, "use stratified=False or fewer folds")
    splitter = StratifiedKFold if stratified else KFold
    kind = SplitKind.LEAVE_ONE_OUT if folds == len(labels) else SplitKind.RANDOM
    return stack_splits(
        *(
            one_split(train, test, kind=kind)
            for repeat in range(repeats)
            for train, test in splitter(folds, shuffle=True, random_state=seed + repeat).split(
                labels, labels
            )
        )
    )


def inner_splits(
    labels: npt.ArrayLike, outer: Split, folds: int = 5, *, seed: int = 0, stratified: bool = True
) -> Split:
    """K-fold splits of the training rows of each outer split, for nested cross-validation.

    What is chosen by the inner test rows has not seen the outer ones. The rows of outer split o
    are split as `kfold_splits` does it, with the seed `seed + o`. Validation rows of the outer
    splits are in none of the inner ones.

    Args:
        labels: integers [N], the classes, or any targets: see `kfold_splits`.
        outer: stacked [R, ...]; each has at least `folds` training rows.
        folds: number of inner folds k, at least 2.
        seed: 0 or more.
        stratified: see `kfold_splits`.

    Returns:
        A Split [R * k, ...], outer split by outer split, fold by fold.

    Raises:
        TypeError: see `kfold_splits`.
        ValueError: `outer` is not stacked, is known to be grouped or in time, or trains on a row
            more than once; else see `kfold_splits`.

    Examples:
        >>> outer = kfold_splits([0, 1] * 9, folds=3)
        >>> inner = inner_splits([0, 1] * 9, outer, folds=2)
        >>> inner.train_rows.shape, inner.test_rows.shape
        ((6, 6), (6, 6))
        >>> set(outer.test_rows[0]) & set(inner.train_rows[:2].ravel())
        set()
    """
    labels = _check_targets(labels, stratified)
    check_stacked(outer)
    splits = []
    for i, (rows, *_) in enumerate(real_rows(outer)):
        _check_shuffles(i, rows, SplitKind(int(kinds(outer)[i])))
        inner = kfold_splits(labels[rows], folds, seed=seed + i, stratified=stratified)
        # Padding repeats a row, so it too becomes a number of the whole set.
        splits.append(
            inner._replace(train_rows=rows[inner.train_rows], test_rows=rows[inner.test_rows])
        )
    return stack_splits(*splits)


def holdout_split(
    labels: npt.ArrayLike, *, test_size: float = 0.2, seed: int = 42, stratified: bool = False
) -> Split:
    """One random split, with exactly the rows and order of scikit-learn's `train_test_split`.

    Args:
        labels: integers [N], the classes, or any targets: see `kfold_splits`.
        test_size: fraction of the rows that test, between 0 and 1, rounded up to whole rows.
        seed: scikit-learn's `random_state`, 0 to 2**32 - 1.
        stratified: whether both parts have the classes in the whole set's proportions.

    Returns:
        A Split [1, ...] of kind RANDOM.

    Raises:
        TypeError: `seed` is no integer, or `labels` are not and stratify.
        ValueError: `labels` is empty, or not 1-D and stratifies; `test_size` is not between 0 and 1
            or leaves a part without rows, `seed` is out of range, or a class is too small to
            stratify.

    Examples:
        >>> holdout_split([0, 1] * 5).test_rows.tolist()
        [[8, 1]]
    """
    from sklearn.model_selection import train_test_split

    labels = _check_targets(labels, stratified)
    seed = check_integer("seed", seed, minimum=0, maximum=2**32 - 1)
    if not 0 < float(test_size) < 1:
        raise ValueError(f"test_size is a fraction between 0 and 1 (exclusive), got {test_size}")
    if len(labels) - math.ceil(test_size * len(labels)) < 1:
        raise ValueError(
            f"test_size={test_size} of {len(labels)} row(s) leaves none to train on; give more rows"
        )
    if stratified:
        _check_class_counts(labels, 2, "use stratified=False")
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=float(test_size),
        random_state=seed,
        stratify=labels if stratified else None,
    )
    return one_split(train, test, kind=SplitKind.RANDOM)


def writer_disjoint_split(labels: npt.ArrayLike) -> Split:
    """UCI's own split, which the data's authors call the actual quality measure: new writers test.

    Rows 0..3822 (`optdigits.tra`, 30 writers) train, rows 3823..5619 (`optdigits.tes`, 13 other
    writers) test. It exists only for the full set in UCI's order, which is checked by the number of
    rows and by the class counts of those that train.

    Args:
        labels: integers [5620], the classes of the full set in UCI's order.

    Returns:
        A Split [1, ...] with T = 3823 and S = 1797, of kind PREDEFINED: nothing tells which of the
        writers wrote a row, so that validation rows can't keep them apart.

    Raises:
        TypeError: `labels` are not integers.
        ValueError: `labels` are not those of the full set in UCI's order.

    Reference:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
        Repository, https://doi.org/10.24432/C50P49.
    """
    labels = _check_labels(labels)
    if len(labels) != UCI_ROWS:
        raise ValueError(
            f"the writer-disjoint split needs all {UCI_ROWS} rows of UCI's set, got "
            f"{len(labels)}: nothing else tells who wrote a row"
        )
    classes, counts = np.unique(labels[:TRAIN_WRITERS_ROWS], return_counts=True)
    if classes.tolist() != list(range(10)) or tuple(counts.tolist()) != _WRITER_TRAIN_COUNTS:
        raise ValueError(
            f"the writer-disjoint split needs the rows in UCI's order: the first "
            f"{TRAIN_WRITERS_ROWS} have other class counts than optdigits.tra"
        )
    rows = np.arange(UCI_ROWS)
    return one_split(*np.split(rows, [TRAIN_WRITERS_ROWS]), kind=SplitKind.PREDEFINED)


def refit_split(labels: npt.ArrayLike) -> Split:
    """The split of the model that one deploys: every row trains, none tests.

    Args:
        labels: any targets [N] or [N, ...], of which only the number counts.

    Returns:
        A Split [1, ...] of kind REFIT with T = N and S = 0; `stack_splits` pads it to stand beside
        others, with test weights 0.

    Raises:
        ValueError: `labels` is empty or a scalar.
    """
    rows = np.arange(len(_check_targets(labels, stratified=False)))
    return one_split(rows, rows[:0], kind=SplitKind.REFIT)


def check_integer(name: str, value: int, *, minimum: int, maximum: int | None = None) -> int:
    """The value as an int; TypeError or ValueError unless it is an integer in these bounds."""
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")
    return value


def _check_targets(targets: npt.ArrayLike, stratified: bool) -> npt.NDArray[Any]:
    """Any array of at least one row, unless its classes are to be stratified."""
    if stratified:
        return _check_labels(targets, remedy="; stratified=False takes any targets")
    targets = np.asarray(targets)
    if not targets.ndim:
        raise ValueError("labels must be [N] or [N, ...], got a scalar")
    if not len(targets):
        raise ValueError("labels is empty")
    return targets


def _check_labels(labels: npt.ArrayLike, remedy: str = "") -> npt.NDArray[np.integer]:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must be 1-D, got shape {labels.shape}{remedy}")
    if not labels.size:
        raise ValueError("labels is empty")
    if not np.issubdtype(labels.dtype, np.integer):
        if np.issubdtype(labels.dtype, np.str_) or labels.dtype == object:
            remedy = "; np.unique(labels, return_inverse=True)[1] numbers them"
        raise TypeError(f"labels must be integers, got {labels.dtype}{remedy}")
    return labels


def _check_shuffles(run: int, rows: npt.NDArray[np.int32], kind: SplitKind) -> None:
    """Whether shuffled inner folds of these training rows keep apart what the outer split does."""
    splitters = {SplitKind.GROUPED: "GroupKFold", SplitKind.TIME: "TimeSeriesSplit"}
    if kind in splitters:
        raise ValueError(
            f"outer split {run} is {kind.name} and inner_splits shuffles: split its training rows "
            f"with scikit-learn's {splitters[kind]}, and give them to index_splits"
        )
    values, counts = np.unique(rows, return_counts=True)
    if len(values) < len(rows):
        raise ValueError(
            f"outer split {run} trains on row {values[counts > 1][0]} more than once: an inner "
            "fold would test a row that it trains on"
        )


def _check_class_counts(labels: npt.NDArray[np.integer], minimum: int, remedy: str) -> None:
    """Scikit-learn only warns of some classes that are too small to stratify."""
    classes, counts = np.unique(labels, return_counts=True)
    smallest = counts.argmin()
    if counts[smallest] < minimum:
        raise ValueError(
            f"class {classes[smallest]} has {counts[smallest]} row(s), fewer than the {minimum} "
            f"that stratifying needs: {remedy}"
        )
