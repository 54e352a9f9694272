"""Row numbers that train, validate and test a run, padded so that the splits of many runs stack.

Everything here is NumPy on the host. Shapes: R runs, T training rows, V validation rows, S test
rows.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


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
        >>> runs = stack_splits(one_split([0, 1], [2]), one_split([0, 1, 2], []))
        >>> runs.train_rows.tolist(), runs.train_weights.tolist()
        ([[0, 1, 1], [0, 1, 2]], [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
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
    """Number of real training rows of each run.

    Args:
        splits: stacked [R, ...].

    Returns:
        float64 [R].

    Raises:
        TypeError: `splits` is no Split.
        ValueError: `splits` is not stacked.

    Examples:
        >>> train_sizes(stack_splits(one_split([0, 1], [2]), one_split([0, 1, 2], []))).tolist()
        [2.0, 3.0]
    """
    check_stacked(splits)
    return _counts(splits.train_weights)


def test_sizes(splits: Split) -> npt.NDArray[np.float64]:
    """Number of real test rows of each run, 0 for a refit; called as `train_sizes`."""
    check_stacked(splits)
    return _counts(splits.test_weights)


# pytest would take it for a test wherever a test imports it.
test_sizes.__test__ = False  # type: ignore[attr-defined]


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


class RunRows(NamedTuple):
    """The real rows of one run, int32 [rows]; of each kind there may be none.

    Attributes:
        train: rows that train.
        validation: rows that validate.
        test: rows that test.
    """

    train: npt.NDArray[np.int32]
    validation: npt.NDArray[np.int32]
    test: npt.NDArray[np.int32]


def real_rows(splits: Split) -> list[RunRows]:
    """The rows of each run of stacked splits, without padding."""
    pairs = [_rows_and_weights(splits, part) for part in ("train", "validation", "test")]
    return [
        RunRows(*(rows[i][weights[i] > 0] for rows, weights in pairs))
        for i in range(len(splits.train_rows))
    ]


def split_of_rows(runs: Sequence[RunRows], codes: Iterable[int]) -> Split:
    """The Split [R, ...] of these runs, given the code of each one's ``SplitKind``."""
    return stack_splits(
        *(
            one_split(train, test, validation if validation.size else None, kind=SplitKind(code))
            for (train, validation, test), code in zip(runs, codes, strict=True)
        )
    )


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
