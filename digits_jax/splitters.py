"""Splits of any splitter's rows, and validation rows taken out of those that train.

Test rows score a run; validation rows choose: a best epoch, when to stop, hyperparameters. Shapes:
R runs, N rows of the data set, T training rows, V validation rows, S test rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.splits import (
    Split,
    SplitKind,
    check_integer,
    check_stacked,
    kinds,
    one_split,
    stack_splits,
)

Rows = npt.NDArray[np.int32]

_INT32_MAX = 2**31 - 1


class _Run(NamedTuple):
    """The real rows of one run; of each kind there may be none."""

    train: Rows
    validation: Rows
    test: Rows


class _Names(NamedTuple):
    """Labels or groups [N]: their distinct names, and which of them each row has."""

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
    names = None if groups is None else _numbered("groups", groups)
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
        return _split_of(runs, [given] * len(runs))
    found = SplitKind.GROUPED if groups is not None else _found_kind(runs)
    # A run without test rows is a refit, unless more is known of it.
    refit = SplitKind.REFIT if found is SplitKind.UNKNOWN else found
    return _split_of(runs, [found if run.test.size else refit for run in runs])


def with_validation(
    splits: Split,
    fraction: float,
    *,
    seed: int = 0,
    stratify: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    last: bool = False,
) -> Split:
    """Takes validation rows out of each run's training rows. Test rows stay as they are.

    Run r draws from (`seed`, r) alone, so repeats differ, and the same training rows in the same
    place give the same validation rows in every call. The order of the training rows doesn't count.

    Splits that are known to be GROUPED need `groups`, and those in TIME need `last`: random rows
    would be too much like the ones that train. To draw at random all the same, say that the kind is
    not known: `splits._replace(kind=None)`.

    Args:
        splits: stacked [R, ...], with or without test rows.
        fraction: of each run's distinct training rows, between 0 and 1; rounded, at least one row.
            With `stratify` the fraction of each class; with `groups` as near as whole groups get.
        seed: 0 or more; `last` needs none.
        stratify: integers or strings [N], the classes of all rows of the data set, whose
            proportions the validation rows keep. At least one row of each class stays in training.
        groups: integers or strings [N]; each group of training rows stays whole.
        last: whether to take the latest rows, those of the largest row numbers, instead of drawing.

    Returns:
        A Split [R, ...] with `validation_rows`, in ascending order, and what is left of the
        training rows in the order that they had. A row that trained several times (a bootstrap)
        validates once. Each kind stays.

    Raises:
        TypeError: `splits` is no Split, `fraction` no number, `seed` no integer, or `stratify` are
            numbers but no integers.
        ValueError: `splits` is not stacked or has validation rows already, `fraction` or `seed` is
            out of range, more than one of `stratify`, `groups` and `last` is given or not the one
            that the splits need, `stratify` or `groups` has too few entries, a run tests rows that
            it trains on, or no training row would be left to a run.

    Examples:
        >>> from digits_jax.splits import kfold_splits
        >>> splits = with_validation(kfold_splits([0, 1] * 10, 2), 0.2, stratify=[0, 1] * 10)
        >>> splits.train_rows.shape, splits.validation_rows.shape, splits.test_rows.shape
        ((2, 8), (2, 2), (2, 10))
        >>> (splits.validation_rows % 2).sum(axis=1).tolist()  # one row of each class
        [1, 1]
    """
    check_stacked(splits)
    try:
        inside = 0 < float(fraction) < 1
    except (TypeError, ValueError):
        raise TypeError(f"fraction must be a number, got {fraction!r}") from None
    if not inside:
        raise ValueError(f"fraction must be between 0 and 1 (exclusive), got {fraction}")
    seed = check_integer("seed", seed, minimum=0)
    if (stratify is not None) + (groups is not None) + bool(last) > 1:
        raise ValueError("give only one of stratify, groups and last")
    by, names = "stratify", None
    if stratify is not None:
        names = _numbered("stratify", stratify)
        if np.issubdtype(np.asarray(stratify).dtype, np.inexact):
            raise TypeError(
                f"stratify must be classes, got {np.asarray(stratify).dtype}; "
                "np.digitize(stratify, edges) makes classes of numbers"
            )
    elif groups is not None:
        by, names = "groups", _numbered("groups", groups)
    runs = []
    for i, (run, kind) in enumerate(zip(_real_rows(splits), kinds(splits), strict=True)):
        _check_takes_validation(i, run, kind, grouped=groups is not None, last=last)
        rows = np.unique(run.train)
        random = np.random.default_rng([seed, i])
        if names is None:
            count = max(1, round(fraction * len(rows)))
            if count >= len(rows):
                raise ValueError(
                    f"run {i} has {len(rows)} training row(s): a fraction of {fraction} for "
                    "validation leaves none"
                )
            validation = rows[-count:] if last else random.permutation(rows)[:count]
        else:
            codes = _of_rows(f"run {i}", by, names, rows)
            draw = _stratified if by == "stratify" else _whole_groups
            taken = draw(codes, fraction, random)
            if not taken.any():
                lack = "class of two training rows" if by == "stratify" else "two training groups"
                raise ValueError(f"run {i} has no {lack}, so that none can validate")
            validation = rows[taken]
        train = run.train[~np.isin(run.train, validation)]
        runs.append(_Run(train, np.sort(validation), run.test))
    return _split_of(runs, kinds(splits))


def _split_of(runs: Sequence[_Run], codes: Iterable[int]) -> Split:
    return stack_splits(
        *(
            one_split(train, test, validation if validation.size else None, kind=SplitKind(code))
            for (train, validation, test), code in zip(runs, codes, strict=True)
        )
    )


def _check_pair(where: str, pair: Sequence[npt.ArrayLike], allow_overlap: bool) -> _Run:
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
    return _Run(train, validation, test)


def _check_rows(where: str, rows: npt.ArrayLike) -> Rows:
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


def _check_groups(where: str, run: _Run, groups: _Names) -> None:
    sides = {"trains": run.train, "validates": run.validation, "tests": run.test}
    codes = {verb: _of_rows(where, "groups", groups, rows) for verb, rows in sides.items()}
    for one, other in itertools.combinations(codes, 2):
        shared = np.intersect1d(codes[one], codes[other])
        if shared.size:
            name = groups.names[shared[0]]
            raise ValueError(f"group {name!r} both {one} and {other} in {where}")


def _found_kind(runs: Sequence[_Run]) -> SplitKind:
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


def _real_rows(splits: Split) -> list[_Run]:
    none = np.zeros((len(splits.train_rows), 0))
    validated = splits.validation_rows is not None
    parts = (
        (splits.train_rows, splits.train_weights),
        (splits.validation_rows, splits.validation_weights) if validated else (none, none),
        (splits.test_rows, splits.test_weights),
    )
    arrays = [(np.asarray(rows, np.int32), np.asarray(weights) > 0) for rows, weights in parts]
    return [_Run(*(rows[i][real[i]] for rows, real in arrays)) for i in range(len(none))]


def _check_takes_validation(
    i: int, run: _Run, kind: np.int32, *, grouped: bool, last: bool
) -> None:
    if run.validation.size:
        raise ValueError(f"run {i} has validation rows already")
    if kind == SplitKind.GROUPED and not grouped:
        raise ValueError(f"run {i} is GROUPED: give groups, so that none trains and validates")
    if kind == SplitKind.TIME and not last:
        raise ValueError(f"run {i} is in TIME: give last=True, so that later rows validate")
    if np.isin(run.test, run.train).any():
        raise ValueError(
            f"run {i} tests rows that it trains on, and they must not validate: give index_splits "
            "validation rows"
        )


def _numbered(name: str, values: npt.ArrayLike) -> _Names:
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {values.shape}")
    try:
        names, codes = np.unique(values, return_inverse=True)
    except TypeError:  # of several types that don't compare
        raise TypeError(f"{name} must be all integers or all strings") from None
    return _Names(names.tolist(), codes)


def _of_rows(where: str, name: str, values: _Names, rows: Rows) -> npt.NDArray[np.intp]:
    if rows.size and rows.max() >= len(values.codes):
        raise ValueError(
            f"{name} has {len(values.codes)} entries, but {where} has row {rows.max()}"
        )
    return values.codes[rows]


def _stratified(
    codes: npt.NDArray[np.intp], fraction: float, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Which rows to take: of each class its fraction, rounded so that their sum is right."""
    _, codes, counts = np.unique(codes, return_inverse=True, return_counts=True)
    exact = fraction * np.where(counts > 1, counts, 0)
    if not exact.any():
        return np.zeros(len(codes), np.bool_)
    room = np.maximum(counts - 1, 0)
    take = np.minimum(np.floor(exact).astype(int), room)
    missing = max(1, round(exact.sum())) - take.sum()
    # Largest remainders first, equal ones at random, so that no class is always the one left out.
    order = np.lexsort((random.random(len(counts)), np.round(take - exact, 9)))
    order = order[(take < room)[order]]
    take[order[:missing]] += 1
    # Class after class, each in a random order: the first ones of each are taken.
    shuffled = random.permutation(len(codes))
    by_class = shuffled[np.argsort(codes[shuffled], kind="stable")]
    taken = np.zeros(len(codes), np.bool_)
    ranks = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken[by_class] = ranks < np.repeat(take, counts)
    return taken


def _whole_groups(
    codes: npt.NDArray[np.intp], fraction: float, random: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Which rows to take: groups in a random order, each that brings their number nearer."""
    names, codes, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    missing = fraction * len(codes)
    order = random.permutation(len(names))
    taken: list[int] = []
    for group in order if len(names) > 1 else ():
        if len(taken) < len(names) - 1 and abs(missing - sizes[group]) < missing:
            taken.append(group)
            missing -= sizes[group]
    if not taken and len(names) > 1:
        taken = [order[sizes[order].argmin()]]
    return np.isin(codes, taken)
