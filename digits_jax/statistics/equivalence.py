"""Is a method better, worse, or as good for all practical purposes? The Bayesian t-test."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy.typing as npt

from digits_jax.statistics.comparisons import corrected_resampled_ttest
from digits_jax.statistics.corrected import check_scores, size_ratio, standard_error


class Equivalence(NamedTuple):
    """Probabilities that add up to 1, given the scores; nan where all differences are equal.

    Attributes:
        better: that the mean difference a - b is above the rope.
        equal: that it is within -rope to rope.
        worse: that it is below -rope.
        rope: half-width of the region of practical equivalence, in the scores' unit.
    """

    better: float
    equal: float
    worse: float
    rope: float


def bayesian_correlated_ttest(
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    *,
    train_rows: float,
    test_rows: float,
    rope: float,
) -> Equivalence:
    """How probable is it that method a is better than b, as good as b, or worse?

    A p-value says how surprising the scores are if the methods are equal; it can't say that they
    are. With a flat prior, the mean difference has, given the J scores, a Student distribution with
    J - 1 degrees of freedom around their mean, scaled by the corrected standard error of
    ``corrected_resampled_ttest``. Its mass above, within and below the rope is returned. So the
    95 % interval of that test is this distribution's central 95 %.

    Args:
        scores_a: [J], scores of method a, split by split.
        scores_b: [J], scores of method b on the same splits in the same order.
        train_rows: number of rows that train a run (the mean, where folds differ by a row).
        test_rows: number of rows that test a run (the mean, where folds differ by a row).
        rope: differences up to this size count as none, in the scores' unit; chosen before the
            scores are seen. 0 leaves better and worse alone.

    Returns:
        An Equivalence. Differences that are all equal say nothing of their spread: nan.

    Raises:
        ValueError: ``rope`` is negative or not finite; else see ``corrected_resampled_ttest``.

    Reference:
        Corani and Benavoli (2015), A Bayesian approach for comparing cross-validated algorithms on
        multiple data sets, Machine Learning 100:285-304, section 2; Benavoli, Corani, Demšar and
        Zaffalon (2017), Time for a Change, JMLR 18(77):1-36.

    Examples:
        >>> a, b = [0.99, 0.98, 0.99, 0.97, 0.98], [0.97, 0.97, 0.97, 0.97, 0.97]
        >>> found = bayesian_correlated_ttest(a, b, train_rows=80, test_rows=20, rope=0.005)
        >>> print(f"{found.better:.3f} {found.equal:.3f} {found.worse:.3f}")
        0.860 0.121 0.019
    """
    if not 0 <= rope < math.inf:
        raise ValueError(f"rope must be at least 0 and finite, not {rope}")
    sizes = {"train_rows": train_rows, "test_rows": test_rows}
    test = corrected_resampled_ttest(scores_a, scores_b, **sizes)
    if math.isnan(test.ci95[0]):  # a spread of zero
        return Equivalence(math.nan, math.nan, math.nan, rope)
    from scipy.special import stdtr

    differences = check_scores("scores_a", scores_a) - check_scores("scores_b", scores_b)
    error = standard_error(differences, size_ratio(**sizes))
    freedom = len(differences) - 1
    better = float(stdtr(freedom, (test.mean_difference - rope) / error))
    worse = float(stdtr(freedom, (-rope - test.mean_difference) / error))
    return Equivalence(better, max(0.0, 1 - better - worse), worse, rope)
