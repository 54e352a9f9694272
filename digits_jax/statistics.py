"""What is computed from scores: summaries with intervals, and tests of two methods on equal splits.

Scores of cross-validation are not independent, because their training sets overlap. The variance of
their mean is therefore taken as (1/J + n_test/n_train) s^2 instead of s^2/J, for J scores of sample
variance s^2: the correction of Nadeau and Bengio (2003), which Bouckaert and Frank (2004) recommend
for repeated cross-validation, with J = folds * repeats.

Scores that are all equal are no certainty: a spread of zero estimates nothing, so that neither an
interval nor a test rests on it.

References:
    Nadeau and Bengio (2003), Inference for the Generalization Error, Machine Learning 52:239-281.
    Bouckaert and Frank (2004), Evaluating the Replicability of Significance Tests for Comparing
    Learning Algorithms, PAKDD 2004, LNCS 3056:3-12.
"""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax.splits import SplitKind

_NO_INTERVAL = {
    SplitKind.TIME: "splits in time: no interval, since the variance of their mean is not known",
    SplitKind.LEAVE_ONE_OUT: "leave-one-out: no interval, since each score is one row's; take "
    "wilson_interval of all rows for an accuracy",
}
_ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of scores, relative: networks give float32


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
    values = _check_scores("scores", scores)
    if (train_rows is None) != (test_rows is None):
        raise ValueError("give both train_rows and test_rows, or neither")
    ratio = 0.0
    if train_rows is not None and test_rows is not None:
        ratio = _test_train_ratio(train_rows, test_rows)
    made = _check_kinds(kind, len(values))
    mean, spread = float(values.mean()), float(values.std())
    ci95, note = (math.nan, math.nan), ""
    if without := [text for each, text in _NO_INTERVAL.items() if each in made]:
        note = "; ".join(without)
    elif len(values) == 1:
        note = "a single score: no interval"
    elif not _all_equal(values):
        ci95 = _t_interval(mean, _standard_error(values, ratio), len(values) - 1)
    elif train_rows is None or test_rows is None or not _is_fraction(mean, test_rows):
        note = "all scores are equal: no interval"
    else:
        rows = round(min(len(values) * test_rows, train_rows + test_rows))
        ci95 = wilson_interval(round(mean * rows), rows)
        note = f"all scores are equal: Wilson's interval of {rows} rows"
    return Summary(mean, spread, ci95, len(values), note)


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
    first, second = _check_scores("scores_a", scores_a), _check_scores("scores_b", scores_b)
    if len(first) != len(second):
        raise ValueError(f"scores_a has {len(first)} scores and scores_b {len(second)}")
    if len(first) < 2:
        raise ValueError("a t-test needs at least two scores for each method, got 1")
    differences = first - second
    mean = float(differences.mean())
    error = _standard_error(differences, _test_train_ratio(train_rows, test_rows))
    freedom = len(differences) - 1
    rounding = _ROUNDING * max(np.abs(first).max(), np.abs(second).max())
    if np.ptp(differences) <= rounding or not error:
        equal = bool(np.abs(differences).max() <= rounding)
        statistic, p_value = (0.0, 1.0) if equal else (math.nan, math.nan)
        return TTestResult(statistic, p_value, mean, (math.nan, math.nan))
    from scipy.special import stdtr

    statistic = mean / error
    p_value = 2 * float(stdtr(freedom, -abs(statistic)))
    return TTestResult(statistic, p_value, mean, _t_interval(mean, error, freedom))


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
    values = _check_vector("p_values", p_values)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("p_values must be in 0..1")
    order = np.argsort(values, kind="stable")  # nan comes last
    adjusted = np.empty_like(values)
    steps = np.arange(len(values), 0, -1) * values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


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
    values = _check_scores("scores", scores)
    if _all_equal(values):
        return math.nan, math.nan
    error = _standard_error(values, 1.0)  # (1/J + 1) s^2
    return _t_interval(float(values.mean()), error, len(values) - 1)


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


def _all_equal(values: npt.NDArray[np.float64]) -> bool:
    """Equal but for the rounding of float64, or for what underflows."""
    rounding = 4 * np.finfo(np.float64).eps * np.abs(values).max()
    return bool(np.ptp(values) <= rounding or values.std() == 0)


def _is_fraction(score: float, rows: float) -> bool:
    """Whether a score can be a number of rows divided by `rows`, to float32's precision."""
    if score in (0, 1):
        return rows >= 1  # of any number of rows, though folds differ by one
    count = score * rows
    return 0 < score < 1 and math.isclose(count, round(count), rel_tol=_ROUNDING)


def _standard_error(values: npt.NDArray[np.float64], ratio: float) -> float:
    """Standard error of the mean of J values, corrected for n_test / n_train; nan where J = 1."""
    if len(values) < 2:
        return math.nan
    return math.sqrt((1 / len(values) + ratio) * float(values.var(ddof=1)))


def _t_interval(mean: float, error: float, freedom: int) -> tuple[float, float]:
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, 0.975)) * error
    return mean - reach, mean + reach


def _test_train_ratio(train_rows: float, test_rows: float) -> float:
    if not (0 < train_rows < math.inf and 0 <= test_rows < math.inf):
        raise ValueError(
            f"train_rows must be positive and test_rows not negative: {train_rows}, {test_rows}"
        )
    return test_rows / train_rows


def _check_kinds(kind: npt.ArrayLike | None, count: int) -> set[SplitKind]:
    codes = np.asarray([] if kind is None else kind)
    if kind is not None and codes.ndim and codes.shape != (count,):
        raise ValueError(f"kind must be one SplitKind or [{count}], got shape {codes.shape}")
    return {SplitKind(code) for code in np.unique(codes).tolist()}


def _check_scores(name: str, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = _check_vector(name, scores)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{name} must be finite, but {name}[{bad}] is {values[bad]}")
    return values


def _check_vector(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{name} must be 1-D and not empty, got shape {vector.shape}")
    return vector
