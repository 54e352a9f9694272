"""How many repeats does a question need? What a design of splits can find, before it is run."""

from __future__ import annotations

import math

from digits_jax.statistics.corrected import size_ratio


def half_width(
    sd: float, runs: int, *, train_rows: float, test_rows: float, confidence: float = 0.95
) -> float:
    """Half of the width that the corrected interval of a mean of J scores will have.

        t sqrt(1/J + n_test/n_train) sd, with t Student's quantile of J - 1 degrees of freedom.

    More repeats shrink 1/J alone: with five folds, n_test/n_train is 1/4, and no number of repeats
    brings the interval below 1.96 sqrt(1/4) sd. Larger training sets or more rows would.

    Args:
        sd: standard deviation between the scores (ddof 1), or between differences of two methods.
        runs: J, folds times repeats, at least 2.
        train_rows: number of rows that train a run.
        test_rows: number of rows that test a run; 0 for independent scores.
        confidence: of the interval, between 0 and 1.

    Returns:
        The half-width, in sd's unit.

    Raises:
        ValueError: an argument is out of range.

    Reference:
        Nadeau and Bengio (2003), Inference for the Generalization Error, Machine Learning
        52:239-281.

    Examples:
        >>> [round(half_width(1, 5 * r, train_rows=80, test_rows=20), 2) for r in (1, 5, 20)]
        [1.86, 1.11, 1.01]
    """
    _check(sd, runs)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1 (exclusive), got {confidence}")
    from scipy.special import stdtrit

    reach = float(stdtrit(runs - 1, (1 + confidence) / 2))
    return reach * sd * math.sqrt(1 / runs + size_ratio(train_rows, test_rows))


def power(
    difference: float,
    sd: float,
    runs: int,
    *,
    train_rows: float,
    test_rows: float,
    alpha: float = 0.05,
) -> float:
    """How often the corrected resampled t-test will find a true difference of that size.

    Where the scores are as correlated as the correction takes them to be, its statistic has the
    noncentral t distribution of noncentrality difference / (sd sqrt(1/J + n_test/n_train)).

    Args:
        difference: between the two methods' means, in sd's unit.
        sd: standard deviation between the J differences (ddof 1).
        runs: J, folds times repeats, at least 2.
        train_rows: number of rows that train a run.
        test_rows: number of rows that test a run; 0 for independent scores.
        alpha: level of the two-sided test, between 0 and 1.

    Returns:
        A probability, at least alpha.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> round(power(0.5, 1.0, 34, train_rows=1, test_rows=0), 3)  # a plain paired t-test
        0.808
    """
    _check(sd, runs)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1 (exclusive), got {alpha}")
    if not math.isfinite(difference):
        raise ValueError(f"difference must be finite, not {difference}")
    from scipy.special import nctdtr, stdtrit

    shift = abs(difference) / (sd * math.sqrt(1 / runs + size_ratio(train_rows, test_rows)))
    critical = float(stdtrit(runs - 1, 1 - alpha / 2))
    far = float(nctdtr(runs - 1, shift, -critical))  # SciPy gives nan where it underflows
    return float(1 - nctdtr(runs - 1, shift, critical)) + (0.0 if math.isnan(far) else far)


def smallest_difference(
    sd: float,
    runs: int,
    *,
    train_rows: float,
    test_rows: float,
    alpha: float = 0.05,
    target: float = 0.8,
) -> float:
    """The smallest true difference that a design finds with a given power; see ``power``.

    Args:
        sd: standard deviation between the J differences (ddof 1).
        runs: J, folds times repeats, at least 2.
        train_rows: number of rows that train a run.
        test_rows: number of rows that test a run; 0 for independent scores.
        alpha: level of the two-sided test, between 0 and 1.
        target: the power, above alpha and below 1.

    Returns:
        A difference, in sd's unit.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> sizes = {"train_rows": 4496, "test_rows": 1124}
        >>> [round(smallest_difference(0.3, 5 * r, **sizes), 2) for r in (1, 5, 20)]
        [0.76, 0.47, 0.43]
    """
    if not alpha < target < 1:
        raise ValueError(f"target must be above alpha={alpha} and below 1, got {target}")
    from scipy.optimize import brentq

    sizes = {"train_rows": train_rows, "test_rows": test_rows, "alpha": alpha}

    def lacks(difference: float) -> float:
        return power(difference, sd, runs, **sizes) - target

    high = sd
    while lacks(high) < 0:
        high *= 2
    return float(brentq(lacks, 0, high, xtol=1e-10 * sd))


def _check(sd: float, runs: int) -> None:
    if not 0 < sd < math.inf:
        raise ValueError(f"sd must be positive and finite, not {sd}")
    if runs < 2:
        raise ValueError(f"runs must be at least 2, not {runs}")
