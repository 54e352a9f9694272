"""Which rows train, validate and test a run: row numbers, padded so that splits stack.

Everything here is NumPy on the host. Every function that makes splits returns *stacked* ones
(leading axis R, even where R = 1), so that the results of several calls concatenate with
`stack_splits`. Shapes: R runs, N rows of the data set, T training rows, V validation rows, S test
rows. Splits of other splitters, and validation rows, are made in `splitters`.
"""

from __future__ import annotations

import enum
import operator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.data import TRAIN_WRITERS_ROWS, UCI_ROWS

_WRITER_TRAIN_COUNTS = (376, 389, 380, 389, 387, 376, 377, 387, 380, 382)  # UCI's optdigits.names


class SplitKind(enum.IntEnum):
    """How a split was made. It decides which validation rows and which intervals are right."""

    UNKNOWN = 0
    """Nobody said."""
    RANDOM = 1
    """Shuffled rows: k-fold, hold-out."""
    GROUPED = 2
    """No group of rows is on two sides."""
    TIME = 3
    """Every training row comes before every test row."""
    LEAVE_ONE_OUT = 4
    """One test row a run."""
    OVERLAPPING = 5
    """Test rows may train too: a bootstrap."""
    PREDEFINED = 6
    """Fixed by whoever made the data."""
    REFIT = 7
    """No test rows: the model that one deploys."""


class Split(NamedTuple):
    """The rows that train, validate and test one run; stacked on a leading axis R to make many.

    A row of weight 1 is real, a row of weight 0 is padding: it touches nothing, neither a loss nor
    a metric. Padding comes last and repeats the run's own last row (row 0 where the run has
    none), so it is always a valid index, and never a tested row among those that train.

    Attributes:
        train_rows: int32 [T], indices into the data set.
        train_weights: float32 [T], 1 for a real row, 0 for padding.
        test_rows: int32 [S], indices into the data set.
        test_weights: float32 [S], 1 for a real row, 0 for padding.
        validation_rows: int32 [V], indices into the data set; None: no run of the stack has any.
        validation_weights: float32 [V], 1 for a real row, 0 for padding; None with the rows.
        kind: int32 scalar, the code of a ``SplitKind``; None stands for UNKNOWN.
    """

    train_rows: npt.NDArray[np.int32]
    train_weights: npt.NDArray[np.float32]
    test_rows: npt.NDArray[np.int32]
    test_weights: npt.NDArray[np.float32]
    validation_rows: npt.NDArray[np.int32] | None = None
    validation_weights: npt.NDArray[np.float32] | None = None
    kind: npt.NDArray[np.int32] | None = None


def one_split(
    train: npt.ArrayLike,
    test: npt.ArrayLike,
    validation: npt.ArrayLike | None = None,
    *,
    kind: SplitKind = SplitKind.UNKNOWN,
) -> Split:
    """The Split [1, ...] of these rows, all of weight 1. They are taken as they are, unchecked.

    Args:
        train: integers [T].
        test: integers [S].
        validation: integers [V]; None: no validation rows.
        kind: how the split was made.

    Returns:
        A Split [1, ...].

    Examples:
        >>> one_split([0, 1, 2], [3]).train_rows.tolist()
        [[0, 1, 2]]
    """
    train_rows, test_rows = np.asarray(train, np.int32)[None], np.asarray(test, np.int32)[None]
    rows = None if validation is None else np.asarray(validation, np.int32)[None]
    return Split(
        train_rows=train_rows,
        train_weights=np.ones(train_rows.shape, np.float32),
        test_rows=test_rows,
        test_weights=np.ones(test_rows.shape, np.float32),
        validation_rows=rows,
        validation_weights=None if rows is None else np.ones(rows.shape, np.float32),
        kind=np.array([kind], np.int32),
    )


def stack_splits(*splits: Split) -> Split:
    """Concatenates stacked splits along R, padded to the largest T, V and S among them.

    Args:
        *splits: at least one stacked Split; their numbers of runs and lengths may differ. Where one
            has validation rows, those without get padding for theirs.

    Returns:
        One Split [R1 + R2 + ...], its runs in the order given. A kind of None becomes UNKNOWN.

    Raises:
        TypeError: an argument is no Split, or its row numbers or kinds are not integers.
        ValueError: no split is given, or one is not stacked, or its arrays don't fit together.

    Examples:
        >>> labels = np.arange(100) % 10
        >>> runs = stack_splits(kfold_splits(labels, 5), refit_split(labels))
        >>> runs.train_rows.shape, runs.test_rows.shape
        ((6, 100), (6, 20))
        >>> train_sizes(runs).tolist(), test_sizes(runs).tolist()
        ([80.0, 80.0, 80.0, 80.0, 80.0, 100.0], [20.0, 20.0, 20.0, 20.0, 20.0, 0.0])
    """
    if not splits:
        raise ValueError("stack_splits needs at least one split")
    for split in splits:
        check_stacked(split)
    validated = any(split.validation_rows is not None for split in splits)
    fields: dict[str, npt.NDArray[Any]] = {
        "kind": np.concatenate([kinds(split) for split in splits])
    }
    for part in ("train", "test", "validation") if validated else ("train", "test"):
        pairs = [_rows_and_weights(split, part) for split in splits]
        length = max(rows.shape[1] for rows, _ in pairs)
        padded = [_pad(rows, weights, length) for rows, weights in pairs]
        fields[f"{part}_rows"] = np.concatenate([rows for rows, _ in padded])
        fields[f"{part}_weights"] = np.concatenate([weights for _, weights in padded])
    return Split(**fields)


def check_stacked(splits: Split) -> None:
    """Raises TypeError or ValueError unless all arrays are [R, rows] and kind [R], R at least 1."""
    if not isinstance(splits, Split):
        raise TypeError(f"splits must be a Split, got {type(splits).__name__}")
    runs = len(splits.train_rows) if np.ndim(splits.train_rows) else 0
    validated = splits.validation_rows is not None or splits.validation_weights is not None
    for part in ("train", "test", "validation") if validated else ("train", "test"):
        rows, weights = (np.asarray(getattr(splits, f"{part}_{x}")) for x in ("rows", "weights"))
        if rows.ndim != 2 or rows.shape != weights.shape or not rows.shape[0] == runs >= 1:
            raise ValueError(
                f"splits must be stacked, {part}_rows and {part}_weights [R, rows] with R at least "
                f"1; their shapes are {rows.shape} and {weights.shape}"
            )
        if not np.issubdtype(rows.dtype, np.integer):
            raise TypeError(f"{part}_rows must be integers, got {rows.dtype}")
    if splits.kind is not None:
        codes = np.asarray(splits.kind)
        if codes.shape != (runs,):
            raise ValueError(f"kind must be [R], here ({runs},), got shape {codes.shape}")
        if not np.issubdtype(codes.dtype, np.integer):
            raise TypeError(f"kind must be integers, got {codes.dtype}")
        unknown = codes[~np.isin(codes, list(SplitKind))]
        if unknown.size:
            raise ValueError(f"kind holds {unknown[0]}, which is no SplitKind")


def kinds(splits: Split) -> npt.NDArray[np.int32]:
    """int32 [R]. Codes of ``SplitKind``, UNKNOWN where the splits hold none."""
    if splits.kind is None:
        return np.full(len(splits.train_rows), SplitKind.UNKNOWN, np.int32)
    return np.asarray(splits.kind, np.int32)


def train_sizes(splits: Split) -> npt.NDArray[np.float64]:
    """float64 [R]. Number of real training rows of each run.

    Args:
        splits: stacked [R, ...].

    Returns:
        float64 [R].

    Raises:
        TypeError: `splits` is no Split.
        ValueError: `splits` is not stacked.

    Examples:
        >>> train_sizes(kfold_splits(np.arange(10), folds=3, stratified=False)).tolist()
        [6.0, 7.0, 7.0]
    """
    check_stacked(splits)
    return _counts(splits.train_weights)


def test_sizes(splits: Split) -> npt.NDArray[np.float64]:
    """float64 [R]. Number of real test rows of each run; 0 for a refit.

    Args:
        splits: stacked [R, ...].

    Returns:
        float64 [R].

    Raises:
        TypeError: `splits` is no Split.
        ValueError: `splits` is not stacked.

    Examples:
        >>> test_sizes(kfold_splits(np.arange(10), folds=3, stratified=False)).tolist()
        [4.0, 3.0, 3.0]
    """
    check_stacked(splits)
    return _counts(splits.test_weights)


# pytest would take it for a test wherever a test imports it.
test_sizes.__test__ = False  # type: ignore[attr-defined]


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
    for i, (padded, weights) in enumerate(zip(outer.train_rows, outer.train_weights, strict=True)):
        rows = padded[weights > 0]
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


def _counts(weights: npt.ArrayLike) -> npt.NDArray[np.float64]:
    real: npt.NDArray[np.bool_] = np.asarray(weights) > 0
    return np.asarray(real.sum(axis=1), np.float64)


def _rows_and_weights(
    split: Split, part: str
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    rows, weights = getattr(split, f"{part}_rows"), getattr(split, f"{part}_weights")
    if rows is None:
        empty = (len(split.train_rows), 0)
        return np.zeros(empty, np.int32), np.zeros(empty, np.float32)
    return np.asarray(rows), np.asarray(weights)


def _pad(
    rows: npt.NDArray[np.int32], weights: npt.NDArray[np.float32], length: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Rows and weights [R, n] as [R, length]."""
    missing = length - rows.shape[1]
    last = rows[:, -1:] if rows.shape[1] else np.zeros((len(rows), 1), rows.dtype)
    nothing = np.zeros((len(rows), missing), weights.dtype)
    padded = np.concatenate([rows, np.repeat(last, missing, axis=1)], axis=1)
    return padded, np.concatenate([weights, nothing], axis=1)


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


def index_runs(splits: Split, index: npt.ArrayLike) -> Split:
    """Some of stacked splits, in the order of ``index``, int [r]."""
    chosen = np.asarray(index)
    fields: Any = (None if leaf is None else np.asarray(leaf)[chosen] for leaf in splits)
    return Split(*fields)


def without_absent_rows(splits: Split, weights: npt.NDArray[np.float32]) -> Split:
    """Stacked splits whose rows of weight 0 in the data [N] have become padding."""
    fields = splits._asdict()
    for part in ("train", "test", "validation"):
        rows, held = fields[f"{part}_rows"], fields[f"{part}_weights"]
        if rows is None:
            continue
        kept = (np.asarray(held) > 0) & (weights[np.asarray(rows)] > 0)
        # Stable: real rows first, in their order; padding repeats the last of them.
        order = np.argsort(~kept, axis=1, kind="stable")
        count = kept.sum(axis=1, keepdims=True)
        place = np.arange(kept.shape[1])[None]
        taken = np.take_along_axis(order, np.clip(np.minimum(place, count - 1), 0, None), axis=1)
        packed = np.take_along_axis(np.asarray(rows), taken, axis=1)
        fields[f"{part}_rows"] = np.where(count > 0, packed, 0).astype(np.int32)
        fields[f"{part}_weights"] = (place < count).astype(np.float32)
    return Split(**fields)
