"""Do two methods differ on equal splits, or on equal rows? Tests, and what many of them need."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.statistics.corrected import (
    ROUNDING,
    check_scores,
    check_vector,
    size_ratio,
    standard_error,
    t_interval,
)


class TTestResult(NamedTuple):
    """A two-sided paired t-test of method a against method b.

    Attributes:
        statistic: Student's t; positive where a scores higher.
        p_value: two-sided; nan where all differences are equal, but not zero.
        mean_difference: mean of a - b, in the scores' unit.
        ci95: 95 % confidence interval of the mean difference, (low, high); (nan, nan) where all
            differences are equal.
    """

    statistic: float
    p_value: float
    mean_difference: float
    ci95: tuple[float, float]


class McNemarResult(NamedTuple):
    """The exact McNemar test; the smaller of the two counts is its statistic.

    Attributes:
        only_a: number of rows that a alone has right.
        only_b: number of rows that b alone has right.
        p_value: two-sided.
    """

    only_a: int
    only_b: int
    p_value: float


def corrected_resampled_ttest(
    scores_a: npt.ArrayLike, scores_b: npt.ArrayLike, *, train_rows: float, test_rows: float
) -> TTestResult:
    """The corrected resampled t-test: do two methods differ on the same splits?

    With d the J differences a - b, of mean m and sample variance s^2:

        t = m / sqrt((1/J + n_test/n_train) s^2),  J - 1 degrees of freedom.

    Where all differences are equal (to float32's precision, so that rounding makes no spread), they
    say nothing of the variance. If they are zero, the statistic is 0 and p is 1. If they are not,
    there is no test: statistic and p are nan; `mcnemar_test` compares the methods row by row.

    Args:
        scores_a: [J], scores of method a, split by split.
        scores_b: [J], scores of method b on the same splits in the same order.
        train_rows: number of rows that train a run (the mean, where folds differ by a row).
        test_rows: number of rows that test a run (the mean, where folds differ by a row); 0 gives
            the uncorrected paired t-test.

    Returns:
        A TTestResult.

    Raises:
        ValueError: the scores are fewer than two, not 1-D, not finite, or of unequal number; a size
            is out of range.

    Reference:
        Nadeau and Bengio (2003), section 5; for repeated folds Bouckaert and Frank (2004).

    Examples:
        >>> a, b = [0.99, 0.98, 0.99, 0.97, 0.98], [0.97, 0.97, 0.97, 0.97, 0.97]
        >>> result = corrected_resampled_ttest(a, b, train_rows=80, test_rows=20)
        >>> print(f"t = {result.statistic:.3f}, p = {result.p_value:.3f}")
        t = 2.138, p = 0.099
    """
    first, second = check_scores("scores_a", scores_a), check_scores("scores_b", scores_b)
    if len(first) != len(second):
        raise ValueError(f"scores_a has {len(first)} scores and scores_b {len(second)}")
    if len(first) < 2:
        raise ValueError("a t-test needs at least two scores for each method, got 1")
    differences = first - second
    mean = float(differences.mean())
    error = standard_error(differences, size_ratio(train_rows, test_rows))
    freedom = len(differences) - 1
    rounding = ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(differences) <= rounding or not error:
        equal = bool(np.abs(differences).max() <= rounding)
        statistic, p_value = (0.0, 1.0) if equal else (math.nan, math.nan)
        return TTestResult(statistic, p_value, mean, (math.nan, math.nan))
    from scipy.special import stdtr

    statistic = mean / error
    p_value = 2 * float(stdtr(freedom, -abs(statistic)))
    return TTestResult(statistic, p_value, mean, t_interval(mean, error, freedom))


def mcnemar_test(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> McNemarResult:
    """McNemar's exact test: do two classifiers err equally often on the same rows?

    Only rows that one classifier has right and the other wrong count; under the null hypothesis
    each falls to either side with probability 1/2. Pool the out-of-fold predictions of one
    cross-validation (each row once), or take those of a single test set.

    Args:
        correct_a: bool [N], whether a has the row right.
        correct_b: bool [N], whether b has the same row right.

    Returns:
        A McNemarResult; p is 1 where the two never disagree.

    Raises:
        TypeError: an argument is not bool.
        ValueError: an argument is empty or not 1-D, or their lengths differ.

    Reference:
        McNemar (1947), Note on the sampling error of the difference between correlated proportions
        or percentages, Psychometrika 12:153-157. Exact form: Fay (2010), Two-sided exact tests and
        matching confidence intervals for discrete data, The R Journal 2(1):53-58.

    Examples:
        >>> mcnemar_test([True] * 11 + [False] * 9, [True] * 9 + [False] * 2 + [True] * 9)
        McNemarResult(only_a=2, only_b=9, p_value=0.0654296875)
    """
    first, second = np.asarray(correct_a), np.asarray(correct_b)
    for name, correct in (("correct_a", first), ("correct_b", second)):
        if correct.ndim != 1 or not correct.size:
            raise ValueError(f"{name} must be 1-D and not empty, got shape {correct.shape}")
        if correct.dtype != np.bool_:
            raise TypeError(f"{name} must be bool, got {correct.dtype}")
    if len(first) != len(second):
        raise ValueError(f"correct_a has {len(first)} rows and correct_b {len(second)}")
    only_a = int(np.sum(first & ~second))
    only_b = int(np.sum(second & ~first))
    if not only_a + only_b:
        return McNemarResult(0, 0, 1.0)
    from scipy.stats import binomtest

    return McNemarResult(only_a, only_b, float(binomtest(only_a, only_a + only_b).pvalue))


def holm_correction(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """P-values of several tests, adjusted so that one number limits the chance of any false alarm.

    With p_(1) <= ... <= p_(m) the sorted p-values, the i-th becomes

        max over j <= i of min(1, (m - j + 1) p_(j)).

    Rejecting where the result is below alpha keeps the chance of even one false rejection below
    alpha, however the tests depend on each other.

    Args:
        p_values: [m], in any order; nan for a test that could not be made.

    Returns:
        float64 [m], in the same order, none smaller than it was. A nan stays one, and counts in m:
        the others are adjusted as if its p-value were 1.

    Raises:
        ValueError: `p_values` is empty, not 1-D or not in 0..1.

    Reference:
        Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal
        of Statistics 6:65-70.

    Examples:
        >>> holm_correction([0.01, 0.04, 0.03, 0.005]).round(9).tolist()
        [0.03, 0.06, 0.06, 0.02]
    """
    values = check_vector("p_values", p_values)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("p_values must be in 0..1")
    order = np.argsort(values, kind="stable")  # nan comes last
    adjusted = np.empty_like(values)
    steps = np.arange(len(values), 0, -1) * values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted
