"""Intervals of rows that come in clusters, such as the digits of one form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from digits_jax.statistics.corrected import check_scores


def cluster_interval(
    scores: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    resamples: int = 20_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of a mean over rows, where whole clusters are drawn.

    Rows of one writer's form share a hand, so that errors come together. Clusters are drawn with
    replacement, as many as there are, and the mean of all their rows is taken; the interval is that
    of the central ``confidence`` of these means. ``wilson_interval`` of the same rows takes them as
    independent. Few clusters give an interval that is too narrow, as any bootstrap of few does.

    Args:
        scores: [N], one for each row: 0 or 1 of an accuracy, or a mean over several trainings.
        clusters: integers or strings [N], the cluster of each row; at least two.
        resamples: bootstrap samples.
        confidence: of the interval, between 0 and 1.
        seed: of the draws.

    Returns:
        (low, high), in the scores' unit.

    Raises:
        ValueError: the lengths differ, there is but one cluster, or an argument is out of range.

    Reference:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, Chapman and Hall, chapter 13;
        of clusters: Field and Welsh (2007), Bootstrapping clustered data, JRSS B 69:369-390.

    Examples:
        >>> right = [1] * 9 + [0] + [1] * 10 + [0] * 3 + [1] * 7
        >>> forms = [0] * 10 + [1] * 10 + [2] * 10
        >>> low, high = cluster_interval(right, forms)
        >>> print(f"{low:.2f} to {high:.2f}")
        0.70 to 1.00
    """
    values = check_scores("scores", scores)
    names, number = np.unique(np.asarray(clusters), return_inverse=True)
    if number.shape != values.shape:
        raise ValueError(f"clusters must be [{len(values)}] as scores, got shape {number.shape}")
    if len(names) < 2:
        raise ValueError("a bootstrap of clusters needs at least two")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1 (exclusive), got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    sums, sizes = np.bincount(number, values), np.bincount(number)
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    means = (drawn @ sums) / (drawn @ sizes)
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)
