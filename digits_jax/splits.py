"""Which rows train and which rows test a run: row numbers, padded so that splits stack.

Everything here is NumPy on the host. Every function returns *stacked* splits (leading axis R, even
where R = 1), so that the results of several calls concatenate with `stack_splits`.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.data import TRAIN_WRITERS_ROWS, UCI_ROWS

_WRITER_TRAIN_COUNTS = (376, 389, 380, 389, 387, 376, 377, 387, 380, 382)  # UCI's optdigits.names


class Split(NamedTuple):
    """The rows that train and that test one run; stacked on a leading axis R to make many.

    A row of weight 1 is real, a row of weight 0 is padding: it touches nothing, neither a loss nor
    a metric. Padding comes last and repeats the run's own last row (row 0 where the run has
    none), so it is always a valid index, and never a tested row among those that train.

    Attributes:
        train_rows: int32 [T], indices into the data set.
        train_weights: float32 [T], 1 for a real row, 0 for padding.
        test_rows: int32 [S], indices into the data set.
        test_weights: float32 [S], 1 for a real row, 0 for padding.
    """

    train_rows: npt.NDArray[np.int32]
    train_weights: npt.NDArray[np.float32]
    test_rows: npt.NDArray[np.int32]
    test_weights: npt.NDArray[np.float32]


def stack_splits(*splits: Split) -> Split:
    """Concatenates stacked splits along R, padded to the largest T and the largest S among them.

    Args:
        *splits: at least one stacked Split; their numbers of runs and lengths may differ.

    Returns:
        One Split [R1 + R2 + ...], its runs in the order given.

    Raises:
        TypeError: an argument is no Split, or its row numbers are not integers.
        ValueError: no split is given, or one is not stacked, or its arrays don't fit together.

    Examples:
        >>> labels = np.arange(100) % 10
        >>> runs = stack_splits(kfold_splits(labels, 5), refit_split(labels))
        >>> runs.train_rows.shape, runs.test_rows.shape
        ((6, 100), (6, 20))
        >>> runs.train_weights.sum(axis=1).tolist(), runs.test_weights.sum(axis=1).tolist()
        ([80.0, 80.0, 80.0, 80.0, 80.0, 100.0], [20.0, 20.0, 20.0, 20.0, 20.0, 0.0])
    """
    if not splits:
        raise ValueError("stack_splits needs at least one split")
    for split in splits:
        check_stacked(split)
    train_length = max(split.train_rows.shape[1] for split in splits)
    test_length = max(split.test_rows.shape[1] for split in splits)
    padded = [
        Split(
            *_pad(split.train_rows, split.train_weights, train_length),
            *_pad(split.test_rows, split.test_weights, test_length),
        )
        for split in splits
    ]
    return Split(*(np.concatenate(field) for field in zip(*padded, strict=True)))


def check_stacked(splits: Split) -> None:
    """Raises TypeError or ValueError unless all arrays are [R, T] and [R, S], R at least 1."""
    if not isinstance(splits, Split):
        raise TypeError(f"splits must be a Split, got {type(splits).__name__}")
    for part in ("train", "test"):
        rows, weights = (np.asarray(getattr(splits, f"{part}_{x}")) for x in ("rows", "weights"))
        runs = len(splits.train_rows) if np.ndim(splits.train_rows) else 0
        if rows.ndim != 2 or rows.shape != weights.shape or not rows.shape[0] == runs >= 1:
            raise ValueError(
                f"splits must be stacked, {part}_rows and {part}_weights [R, rows] with R at least "
                f"1; their shapes are {rows.shape} and {weights.shape}"
            )
        if not np.issubdtype(rows.dtype, np.integer):
            raise TypeError(f"{part}_rows must be integers, got {rows.dtype}")


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
        labels: integers [N], the classes.
        folds: number of folds k, from 2 to N.
        seed: of the first repeat's shuffle, 0 to 2**32 - repeats.
        stratified: whether each fold has the classes in the whole set's proportions.
        repeats: number of repeats r.

    Returns:
        A Split [r * k, ...], repeat by repeat, fold by fold; T and S are those of the largest fold.

    Raises:
        TypeError: `labels`, `folds`, `seed` or `repeats` are not integers.
        ValueError: `labels` is empty or not 1-D, `folds` is not in 2..N, `repeats` is below 1,
            `seed` is out of range, or a class has fewer rows than folds to stratify it over.

    Examples:
        >>> splits = kfold_splits([0, 1] * 5, folds=3, stratified=False)
        >>> splits.test_rows.shape, splits.test_weights.sum(axis=1).tolist()
        ((3, 4), [4.0, 3.0, 3.0])
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    labels = _check_labels(labels)
    folds = _check_integer("folds", folds, minimum=2)
    repeats = _check_integer("repeats", repeats, minimum=1)
    seed = _check_integer("seed", seed, minimum=0, maximum=2**32 - repeats)
    if folds > len(labels):
        raise ValueError(f"{folds} folds need at least {folds} rows, got {len(labels)}")
    if stratified:
        _check_class_counts(labels, folds, "use stratified=False or fewer folds")
    splitter = StratifiedKFold if stratified else KFold
    return stack_splits(
        *(
            _one_split(train, test)
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
    are split as `kfold_splits` does it, with the seed `seed + o`.

    Args:
        labels: integers [N], the classes.
        outer: stacked [R, ...]; each has at least `folds` training rows.
        folds: number of inner folds k, at least 2.
        seed: 0 or more.
        stratified: see `kfold_splits`.

    Returns:
        A Split [R * k, ...], outer split by outer split, fold by fold.

    Raises:
        TypeError: see `kfold_splits`.
        ValueError: `outer` is not stacked; else see `kfold_splits`.

    Examples:
        >>> outer = kfold_splits([0, 1] * 9, folds=3)
        >>> inner = inner_splits([0, 1] * 9, outer, folds=2)
        >>> inner.train_rows.shape, inner.test_rows.shape
        ((6, 6), (6, 6))
        >>> set(outer.test_rows[0]) & set(inner.train_rows[:2].ravel())
        set()
    """
    labels = _check_labels(labels)
    check_stacked(outer)
    splits = []
    for i, (padded, weights) in enumerate(zip(outer.train_rows, outer.train_weights, strict=True)):
        rows = padded[weights > 0]
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
        labels: integers [N], the classes.
        test_size: fraction of the rows that test, between 0 and 1, rounded up to whole rows.
        seed: scikit-learn's `random_state`, 0 to 2**32 - 1.
        stratified: whether both parts have the classes in the whole set's proportions.

    Returns:
        A Split [1, ...].

    Raises:
        TypeError: `labels` or `seed` are not integers.
        ValueError: `labels` is empty or not 1-D, `test_size` is not between 0 and 1 or leaves a
            part without rows, `seed` is out of range, or a class is too small to stratify.

    Examples:
        >>> holdout_split([0, 1] * 5).test_rows.tolist()
        [[8, 1]]
    """
    from sklearn.model_selection import train_test_split

    labels = _check_labels(labels)
    seed = _check_integer("seed", seed, minimum=0, maximum=2**32 - 1)
    if not 0 < float(test_size) < 1:
        raise ValueError(f"test_size is a fraction between 0 and 1 (exclusive), got {test_size}")
    if stratified:
        _check_class_counts(labels, 2, "use stratified=False")
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=float(test_size),
        random_state=seed,
        stratify=labels if stratified else None,
    )
    return _one_split(train, test)


def writer_disjoint_split(labels: npt.ArrayLike) -> Split:
    """UCI's own split, which the data's authors call the actual quality measure: new writers test.

    Rows 0..3822 (`optdigits.tra`, 30 writers) train, rows 3823..5619 (`optdigits.tes`, 13 other
    writers) test. It exists only for the full set in UCI's order, which is checked by the number of
    rows and by the class counts of those that train.

    Args:
        labels: integers [5620], the classes of the full set in UCI's order.

    Returns:
        A Split [1, ...] with T = 3823 and S = 1797.

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
    return _one_split(np.arange(TRAIN_WRITERS_ROWS), np.arange(TRAIN_WRITERS_ROWS, UCI_ROWS))


def refit_split(labels: npt.ArrayLike) -> Split:
    """The split of the model that one deploys: every row trains, none tests.

    Args:
        labels: integers [N], the classes.

    Returns:
        A Split [1, ...] with T = N and S = 0; `stack_splits` pads it to stand beside others, with
        test weights 0.

    Raises:
        TypeError: `labels` are not integers.
        ValueError: `labels` is empty or not 1-D.
    """
    return _one_split(np.arange(len(_check_labels(labels))), np.arange(0))


def _one_split(train: npt.ArrayLike, test: npt.ArrayLike) -> Split:
    """A Split [1, ...] of real rows."""
    train_rows = np.asarray(train, np.int32)[None]
    test_rows = np.asarray(test, np.int32)[None]
    train_weights = np.ones(train_rows.shape, np.float32)
    return Split(train_rows, train_weights, test_rows, np.ones(test_rows.shape, np.float32))


def _pad(
    rows: npt.NDArray[np.int32], weights: npt.NDArray[np.float32], length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Rows and weights [R, n] as [R, length]."""
    width = ((0, 0), (0, length - rows.shape[1]))
    padded = np.pad(rows, width, mode="edge") if rows.shape[1] else np.pad(rows, width)
    return padded, np.pad(weights, width)


def _check_labels(labels: npt.ArrayLike) -> npt.NDArray[np.integer]:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must be 1-D, got shape {labels.shape}")
    if not labels.size:
        raise ValueError("labels is empty")
    if not np.issubdtype(labels.dtype, np.integer):
        names = np.issubdtype(labels.dtype, np.str_) or labels.dtype == object
        remedy = "; np.unique(labels, return_inverse=True)[1] numbers them" if names else ""
        raise TypeError(f"labels must be integers, got {labels.dtype}{remedy}")
    return labels


def _check_integer(name: str, value: int, *, minimum: int, maximum: int | None = None) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")
    return value


def _check_class_counts(labels: npt.NDArray[np.integer], minimum: int, remedy: str) -> None:
    """Scikit-learn only warns of some classes that are too small to stratify."""
    classes, counts = np.unique(labels, return_counts=True)
    smallest = counts.argmin()
    if counts[smallest] < minimum:
        raise ValueError(
            f"class {classes[smallest]} has {counts[smallest]} row(s), fewer than the {minimum} "
            f"that stratifying needs: {remedy}"
        )
