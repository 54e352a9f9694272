"""Splits of any splitter's rows, such as all of scikit-learn's."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.splits.stacked import RunRows, Split, SplitKind, split_of_rows

_INT32_MAX = 2**31 - 1


class NumberedNames(NamedTuple):
    """Labels or groups [N].

    Attributes:
        names: the distinct ones, sorted.
        codes: int [N], the number of each row's name among them.
    """

    names: list[Any]
    codes: npt.NDArray[np.intp]


def index_splits(
    pairs: Iterable[Sequence[npt.ArrayLike]],
    *,
    groups: npt.ArrayLike | None = None,
    allow_overlap: bool = False,
    kind: SplitKind | int | None = None,
) -> Split:
    """The splits of any splitter that gives row numbers, such as all of scikit-learn's.

    The splits remember their kind, by the first of these that applies:

    1. `kind`, where it is given.
    2. GROUPED where `groups` are given; no group is then on two sides of a split, or it is refused.
    3. OVERLAPPING where `allow_overlap` lets a row train and test.
    4. TIME where there are at least two splits, every test row comes after all rows that train or
       validate in its split, and each split's first test row comes after that of the split before.
    5. LEAVE_ONE_OUT where there are at least two splits and each tests one row.
    6. REFIT for a run without test rows.
    7. UNKNOWN. Row numbers don't show groups: give `groups` again, though the splitter had them.

    Args:
        pairs: (train, test) or (train, validation, test) of each run; each integers [rows], row
            numbers. A training row may stand there several times, as in a bootstrap; a test or
            validation row may not. Test rows may be none: `[]`.
        groups: integers or strings [N], the group of each row of the data set.
        allow_overlap: whether rows that test or validate may train too.
        kind: overrides the kind that was found; with `groups`, they are checked all the same.

    Returns:
        A Split [R, ...], its runs in the order given. It has validation rows if one run has.

    Raises:
        TypeError: `pairs` can't be iterated over, or row numbers are a boolean mask or no integers.
        ValueError: there are no pairs, or a pair has no training rows, a negative row, or a test or
            validation row that stands there twice or on another side; a group is on two sides, or
            `groups` has too few entries; `kind` is no SplitKind.

    Examples:
        >>> from sklearn.model_selection import GroupKFold, TimeSeriesSplit
        >>> index_splits(TimeSeriesSplit(3).split(np.zeros(8))).test_rows.tolist()
        [[2, 3], [4, 5], [6, 7]]
        >>> groups = ["a", "a", "b", "b", "c", "c"]
        >>> splits = index_splits(GroupKFold(3).split(groups, groups=groups), groups=groups)
        >>> [SplitKind(code).name for code in splits.kind]
        ['GROUPED', 'GROUPED', 'GROUPED']
    """
    given = None if kind is None else SplitKind(kind)
    names = None if groups is None else number_names("groups", groups)
    try:
        pairs = iter(pairs)
    except TypeError:
        raise TypeError(
            f"pairs must be an iterable of (train, test), got {type(pairs).__name__}; a splitter "
            "gives one by split(X, y, groups)"
        ) from None
    runs = []
    for i, pair in enumerate(pairs):
        run = _check_pair(f"pair {i}", pair, allow_overlap)
        if names is not None:
            _check_groups(f"pair {i}", run, names)
        runs.append(run)
    if not runs:
        raise ValueError("index_splits needs at least one pair of (train, test) rows")
    if given is not None:
        return split_of_rows(runs, [given] * len(runs))
    found = SplitKind.GROUPED if groups is not None else _found_kind(runs)
    # A run without test rows is a refit, unless more is known of it.
    refit = SplitKind.REFIT if found is SplitKind.UNKNOWN else found
    return split_of_rows(runs, [found if run.test.size else refit for run in runs])


def number_names(name: str, values: npt.ArrayLike) -> NumberedNames:
    """The distinct values [N], and which of them each row has; `name` is for messages."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {values.shape}")
    try:
        names, codes = np.unique(values, return_inverse=True)
    except TypeError:  # of several types that don't compare
        raise TypeError(f"{name} must be all integers or all strings") from None
    return NumberedNames(names.tolist(), codes)


def codes_of_rows(
    where: str, name: str, values: NumberedNames, rows: npt.NDArray[np.int32]
) -> npt.NDArray[np.intp]:
    """The codes of these rows; ValueError where the values end before them."""
    if rows.size and rows.max() >= len(values.codes):
        raise ValueError(
            f"{name} has {len(values.codes)} entries, but {where} has row {rows.max()}"
        )
    return values.codes[rows]


def _check_pair(where: str, pair: Sequence[npt.ArrayLike], allow_overlap: bool) -> RunRows:
    if not isinstance(pair, tuple | list) or len(pair) not in (2, 3):
        size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise ValueError(
            f"{where} must be a tuple (train, test) or (train, validation, test), got a "
            f"{type(pair).__name__}{size}"
        )
    train = _check_rows(f"{where}'s training rows", pair[0])
    between = pair[1] if len(pair) == 3 else ()
    validation = _check_rows(f"{where}'s validation rows", between)
    test = _check_rows(f"{where}'s test rows", pair[-1])
    if not train.size:
        raise ValueError(f"{where} has no training rows")
    for verb, rows in (("validates", validation), ("tests", test)):
        values, counts = np.unique(rows, return_counts=True)
        if len(values) < len(rows):
            raise ValueError(f"{where} {verb} row {values[counts > 1][0]} more than once")
        if not allow_overlap and (both := np.isin(values, train)).any():
            raise ValueError(
                f"{where} {verb} row {values[both][0]}, which also trains; give "
                "allow_overlap=True for a bootstrap"
            )
    if (both := np.isin(validation, test)).any():
        raise ValueError(f"{where} validates row {validation[both][0]}, which also tests")
    return RunRows(train, validation, test)


def _check_rows(where: str, rows: npt.ArrayLike) -> npt.NDArray[np.int32]:
    rows = np.asarray(rows)
    if rows.dtype == np.bool_:
        raise TypeError(f"{where} are a boolean mask: give np.flatnonzero(mask)")
    if rows.ndim != 1:
        raise ValueError(f"{where} must be 1-D, got shape {rows.shape}")
    if not rows.size:
        return np.zeros(0, np.int32)  # NumPy makes floats of []
    if not np.issubdtype(rows.dtype, np.integer):
        raise TypeError(f"{where} must be integers, got {rows.dtype}")
    if rows.min() < 0:
        raise ValueError(f"{where} must not be negative, got {rows.min()}")
    if rows.max() > _INT32_MAX:
        raise ValueError(f"{where} must be at most {_INT32_MAX}, got {rows.max()}")
    return rows.astype(np.int32)


def _check_groups(where: str, run: RunRows, groups: NumberedNames) -> None:
    sides = {"trains": run.train, "validates": run.validation, "tests": run.test}
    codes = {verb: codes_of_rows(where, "groups", groups, rows) for verb, rows in sides.items()}
    for one, other in itertools.combinations(codes, 2):
        shared = np.intersect1d(codes[one], codes[other])
        if shared.size:
            name = groups.names[shared[0]]
            raise ValueError(f"group {name!r} both {one} and {other} in {where}")


def _found_kind(runs: Sequence[RunRows]) -> SplitKind:
    """What the row numbers show; see `index_splits`."""
    if any(np.isin(np.r_[run.validation, run.test], run.train).any() for run in runs):
        return SplitKind.OVERLAPPING
    tested = [run for run in runs if run.test.size]
    if len(tested) < 2:
        return SplitKind.UNKNOWN
    first = np.array([run.test.min() for run in tested])
    before = np.array([np.r_[run.train, run.validation].max() for run in tested])
    if (first > before).all() and (np.diff(first) > 0).all():
        return SplitKind.TIME
    if all(run.test.size == 1 for run in tested):
        return SplitKind.LEAVE_ONE_OUT
    return SplitKind.UNKNOWN
