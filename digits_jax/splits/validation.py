"""Validation rows, taken out of those that train.

Test rows score a run; validation rows choose: a best epoch, when to stop, hyperparameters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from digits_jax.splits.folds import check_integer
from digits_jax.splits.splitters import codes_of_rows, number_names
from digits_jax.splits.stacked import (
    RunRows,
    Split,
    SplitKind,
    check_stacked,
    kinds,
    real_rows,
    split_of_rows,
)


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
        >>> from digits_jax.splits.folds import kfold_splits
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
        names = number_names("stratify", stratify)
        if np.issubdtype(np.asarray(stratify).dtype, np.inexact):
            raise TypeError(
                f"stratify must be classes, got {np.asarray(stratify).dtype}; "
                "np.digitize(stratify, edges) makes classes of numbers"
            )
    elif groups is not None:
        by, names = "groups", number_names("groups", groups)
    runs = []
    for i, (run, kind) in enumerate(zip(real_rows(splits), kinds(splits), strict=True)):
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
            codes = codes_of_rows(f"run {i}", by, names, rows)
            draw = _stratified if by == "stratify" else _whole_groups
            taken = draw(codes, fraction, random)
            if not taken.any():
                lack = "class of two training rows" if by == "stratify" else "two training groups"
                raise ValueError(f"run {i} has no {lack}, so that none can validate")
            validation = rows[taken]
        train = run.train[~np.isin(run.train, validation)]
        runs.append(RunRows(train, np.sort(validation), run.test))
    return split_of_rows(runs, kinds(splits))


def _check_takes_validation(
    i: int, run: RunRows, kind: np.int32, *, grouped: bool, last: bool
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
