"""Where the variance of a score comes from: components of a crossed design, with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Component(NamedTuple):
    """What one source, or what several do together, adds to the variance.

    Attributes:
        factors: the names of the sources: one of a main effect, more of an interaction; all of them
            are the interaction that nothing tells from chance.
        variance: estimate, in the score's unit squared; negative where the estimate is below 0.
        sd: its square root, 0 where it is negative.
        fraction: of the sum of all components, negative ones taken as 0.
        ci95: 95 % interval of the fraction, (low, high).
    """

    factors: tuple[str, ...]
    variance: float
    sd: float
    fraction: float
    ci95: tuple[float, float]


def variance_components(
    scores: npt.ArrayLike, factors: Sequence[str], *, draws: int = 20_000, seed: int = 0
) -> list[Component]:
    """Splits the variance of scores into those of the factors of a balanced crossed design.

    The score of a cell is a mean plus one random effect for each set of factors, all independent.
    With n_i levels of factor i, N cells, and MS_S the mean square of the set S of factors, whose
    expectation is the sum over the sets T that contain S of (N / prod of n_i, i in T) variance_T:

        variance_S = (prod of n_i, i in S) / N * sum over T of (-1)^(|T| - |S|) MS_T.

    Intervals are generalized confidence intervals: each mean square is divided by a draw of
    chi-square / df, and the fractions are computed anew.

    Args:
        scores: [n_1, ..., n_F], one for each cell: every level of a factor with every other.
        factors: the F names, in the order of the axes.
        draws: of the intervals.
        seed: of the intervals.

    Returns:
        A Component for each non-empty set of factors, single ones first.

    Raises:
        ValueError: a factor has fewer than two levels, the names don't fit the axes, or a score is
            not finite.

    Reference:
        Searle, Casella and McCulloch (1992), Variance Components, Wiley, chapter 4. Weerahandi
        (1993), Generalized Confidence Intervals, JASA 88:899-905. For trainings: Bouthillier et
        al. (2021), Accounting for Variance in Machine Learning Benchmarks, MLSys.

    Examples:
        >>> scores = [[3.0, 5.0, 4.0], [7.0, 9.0, 9.0]]
        >>> for each in variance_components(scores, ["split", "weights"]):
        ...     print(each.factors, round(each.variance, 3))
        ('split',) 9.333
        ('weights',) 1.0
        ('split', 'weights') 0.167
    """
    values = np.asarray(scores, np.float64)
    names = tuple(factors)
    if values.ndim != len(names) or not names or len(set(names)) != len(names):
        raise ValueError(
            f"factors must name each axis of scores once, got {names} for shape {values.shape}"
        )
    if min(values.shape) < 2:
        raise ValueError(f"each factor needs at least two levels, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite: a run diverged, or was left out")
    sets = [
        chosen
        for size in range(1, len(names) + 1)
        for chosen in itertools.combinations(range(len(names)), size)
    ]
    freedom = np.array([math.prod(values.shape[i] - 1 for i in each) for each in sets])
    squares = np.array([_sum_of_squares(values, each) for each in sets]) / freedom
    # [sets, sets]: variances = weights @ mean squares
    weights = np.array(
        [
            [
                (-1) ** (len(t) - len(s)) * math.prod(values.shape[i] for i in s) / values.size
                if set(s) <= set(t)
                else 0.0
                for t in sets
            ]
            for s in sets
        ]
    )
    variances = weights @ squares
    chance = np.random.default_rng(seed).chisquare(freedom, (draws, len(sets)))
    fractions = _fractions((squares * freedom / chance) @ weights.T)
    low, high = np.nanquantile(fractions, (0.025, 0.975), axis=0)
    return [
        Component(
            tuple(names[i] for i in each),
            float(variances[k]),
            math.sqrt(max(variances[k], 0.0)),
            float(_fractions(variances[np.newaxis])[0, k]),
            (float(low[k]), float(high[k])),
        )
        for k, each in enumerate(sets)
    ]


def _sum_of_squares(values: npt.NDArray[np.float64], chosen: tuple[int, ...]) -> float:
    """Of the effects of a set of factors: marginal means, less those of all smaller sets."""
    others = tuple(i for i in range(values.ndim) if i not in chosen)
    effect = values.mean(axis=others, keepdims=True)
    for axis in chosen:
        effect = effect - effect.mean(axis=axis, keepdims=True)
    repeated = math.prod(values.shape[i] for i in others)
    return float((effect**2).sum() * repeated)


def _fractions(variances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    positive = np.maximum(variances, 0)
    total = positive.sum(axis=1, keepdims=True)
    return np.asarray(positive / np.where(total > 0, total, np.nan))
