"""Means of scores and fractions of rows, with their intervals."""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.splits import SplitKind
from digits_jax.statistics.corrected import (
    ROUNDING,
    all_equal,
    check_scores,
    size_ratio,
    standard_error,
    t_interval,
)

_NO_INTERVAL = {
    SplitKind.TIME: "splits in time: no interval, since the variance of their mean is not known",
    SplitKind.LEAVE_ONE_OUT: "leave-one-out: no interval, since each score is one row's; take "
    "wilson_interval of all rows for an accuracy",
}


class Summary(NamedTuple):
    """A set of scores, in their unit.

    Attributes:
        mean: arithmetic mean.
        std: population standard deviation (ddof=0): the spread of these scores.
        ci95: 95 % confidence interval of the mean, (low, high); (nan, nan) where there is none.
        size: number of scores.
        note: why the interval is missing, or is not Student's; empty where it is.
    """

    mean: float
    std: float
    ci95: tuple[float, float]
    size: int
    note: str = ""


def summarize(
    scores: npt.ArrayLike,
    *,
    train_rows: float | None = None,
    test_rows: float | None = None,
    kind: npt.ArrayLike | None = None,
) -> Summary:
    """Mean, spread and 95 % interval of scores, one for each run.

    The interval is Student's t with J - 1 degrees of freedom. Give the sizes of the splits
    when the runs share training rows, as in cross-validation: the interval then has the corrected
    variance (see the module), without which it is too narrow. Leave them out for independent
    scores.

    Where all scores are equal, as when every fold is 100 % right, Student's interval would have no
    width. If the sizes are given, and the score can be a fraction of `test_rows` rows, the interval
    is Wilson's for all tested rows instead; else there is none. Rows are counted once, however
    often repeats test them: n = min(J n_test, n_train + n_test).

    Args:
        scores: [J], one score for each run, in any unit; computed with in float64.
        train_rows: number of rows that train a run (the mean, where folds differ by a row).
        test_rows: number of rows that test a run (the mean, where folds differ by a row).
        kind: a ``SplitKind``, or integers [J] as in ``Split.kind``: where a run's is TIME or
            LEAVE_ONE_OUT, the corrected variance does not hold, and there is no interval.

    Returns:
        A Summary. Its `std` divides by J, as `np.std` and the notebook do; its `ci95` rests on the
        sample variance, which divides by J - 1. `ci95` is (nan, nan) where there is no interval,
        and `note` says why.

    Raises:
        ValueError: `scores` is empty, not 1-D or not finite; one size is given without the other,
            or is out of range; `kind` is no ``SplitKind`` or of another number than the scores.

    Examples:
        The notebook's five folds:

        >>> scores = [0.9928825497627258, 0.9902135133743286, 0.9830960631370544,
        ...           0.9893238544464111, 0.9919928908348083]
        >>> notebook = summarize(scores, train_rows=4496, test_rows=1124)
        >>> f"{notebook.mean:.4f} ± {notebook.std:.4f}"
        '0.9895 ± 0.0034'
        >>> [round(bound, 4) for bound in notebook.ci95]
        [0.9823, 0.9967]
        >>> [round(bound, 4) for bound in summarize(scores).ci95]  # as if independent
        [0.9847, 0.9943]

        Every fold right:

        >>> perfect = summarize([1.0] * 5, train_rows=80, test_rows=20)
        >>> [round(bound, 4) for bound in perfect.ci95], perfect.note
        ([0.963, 1.0], "all scores are equal: Wilson's interval of 100 rows")
    """
    values = check_scores("scores", scores)
    if (train_rows is None) != (test_rows is None):
        raise ValueError("give both train_rows and test_rows, or neither")
    ratio = 0.0
    if train_rows is not None and test_rows is not None:
        ratio = size_ratio(train_rows, test_rows)
    made = _check_kinds(kind, len(values))
    mean, spread = float(values.mean()), float(values.std())
    ci95, note = (math.nan, math.nan), ""
    if without := [text for each, text in _NO_INTERVAL.items() if each in made]:
        note = "; ".join(without)
    elif len(values) == 1:
        note = "a single score: no interval"
    elif not all_equal(values):
        ci95 = t_interval(mean, standard_error(values, ratio), len(values) - 1)
    elif train_rows is None or test_rows is None or not _is_fraction(mean, test_rows):
        note = "all scores are equal: no interval"
    else:
        rows = round(min(len(values) * test_rows, train_rows + test_rows))
        ci95 = wilson_interval(round(mean * rows), rows)
        note = f"all scores are equal: Wilson's interval of {rows} rows"
    return Summary(mean, spread, ci95, len(values), note)


def prediction_interval(scores: npt.ArrayLike) -> tuple[float, float]:
    """Where one more score like these falls, with 95 % confidence.

    With m the mean of J scores and s^2 their sample variance, and t Student's 97.5 % quantile with
    J - 1 degrees of freedom:

        m ± t s sqrt(1 + 1/J).

    It holds for scores that are all equally correlated with each other and with the new one, as
    those of random splits of one set are: what they share cancels. So it needs no correction.

    Args:
        scores: [J], in any unit.

    Returns:
        (low, high); (nan, nan) where J = 1 or all scores are equal.

    Raises:
        ValueError: `scores` is empty, not 1-D or not finite.

    Reference:
        Montgomery and Runger (2003), Applied Statistics and Probability for Engineers, third
        edition, Wiley, section 8-6.

    Examples:
        >>> low, high = prediction_interval([0.98, 0.99, 0.97])
        >>> print(f"{low:.3f} to {high:.3f}")
        0.930 to 1.030
    """
    values = check_scores("scores", scores)
    if all_equal(values):
        return math.nan, math.nan
    error = standard_error(values, 1.0)  # (1/J + 1) s^2
    return t_interval(float(values.mean()), error, len(values) - 1)


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, such as the accuracy on a single test set.

    With p = successes / count, z the normal quantile of (1 + confidence) / 2, and h = z / 2n:

        (p + zh ± z sqrt(p(1 - p)/n + h²)) / (1 + 2zh)

    It says how far chance in the test rows reaches, not chance in training.

    Args:
        successes: number of rows that are right.
        count: number of rows n, at least 1.
        confidence: of the interval, between 0 and 1.

    Returns:
        (low, high), fractions in [0, 1].

    Raises:
        TypeError: `successes` or `count` is not an integer.
        ValueError: `successes` is not in 0..count, or another argument is out of range.

    Reference:
        Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference, Journal
        of the American Statistical Association 22:209-212.

    Examples:
        >>> low, high = wilson_interval(81, 263)
        >>> print(f"{low:.4f} to {high:.4f}")
        0.2553 to 0.3662
    """
    try:
        successes, count = operator.index(successes), operator.index(count)
    except TypeError:
        raise TypeError(
            f"successes and count must be integers, got {successes!r} and {count!r}"
        ) from None
    if not (count >= 1 and 0 <= successes <= count):
        raise ValueError(f"successes must be in 0..count, count at least 1: {successes} of {count}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1 (exclusive), got {confidence}")
    from scipy.stats import binomtest

    low, high = binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(low), float(high)


def _is_fraction(score: float, rows: float) -> bool:
    """Whether a score can be a number of rows divided by `rows`, to float32's precision."""
    if score in (0, 1):
        return rows >= 1  # of any number of rows, though folds differ by one
    count = score * rows
    return 0 < score < 1 and math.isclose(count, round(count), rel_tol=ROUNDING)


def _check_kinds(kind: npt.ArrayLike | None, count: int) -> set[SplitKind]:
    codes = np.asarray([] if kind is None else kind)
    if kind is not None and codes.ndim and codes.shape != (count,):
        raise ValueError(f"kind must be one SplitKind or [{count}], got shape {codes.shape}")
    return {SplitKind(code) for code in np.unique(codes).tolist()}
