"""An interval of the prediction error that holds its level: nested cross-validation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class NestedInterval(NamedTuple):
    """What a method scores on new rows, trained on all rows there are.

    Attributes:
        mean: of the score, corrected for training on fewer rows than there are.
        ci95: 95 % interval of it, (low, high).
        inflation: how many times as wide as the plain interval of N independent rows; 1 to sqrt(K).
        bias: that was taken off the nested mean.
        plain95: the plain interval beside it: of the outer folds' rows as if independent.
    """

    mean: float
    ci95: tuple[float, float]
    inflation: float
    bias: float
    plain95: tuple[float, float]


def nested_interval(
    outer: npt.ArrayLike, inner: npt.ArrayLike, folds: npt.ArrayLike
) -> NestedInterval:
    """The interval of nested cross-validation, from the scores of single rows.

    A row's score is 0 or 1 of an accuracy, or a loss. For fold k of a repeat let e_out be the
    scores of its rows by a model trained on the K - 1 others, and e_in the scores of all other
    rows by models trained without fold k and without the row's own fold. Then

        MSE = mean over k and repeats of (mean(e_in) - mean(e_out))^2 - var(e_out) / size of fold k

    estimates the mean squared error of a cross-validation of K - 1 folds, and with s the standard
    deviation of all e_in, the interval is

        mean(e_in) - bias ± 1.96 s / sqrt(N) * inflation,
        inflation = sqrt(MSE) sqrt(N (K - 1) / K) / s, held between 1 and sqrt(K),
        bias = (mean(e_in) - mean(e_out)) (1 + ((K - 2) / K)^1.5).

    Args:
        outer: [repeats, N], e_out of each row.
        inner: [repeats, N, K], the score of each row by the model trained without the row's fold
            and without fold k; whatever stands at its own fold is not read.
        folds: integers [repeats, N], the fold of each row, 0..K-1. Many repeats are needed (the
            authors take hundreds) before the interval no longer depends on their draw.

    Returns:
        A NestedInterval.

    Raises:
        ValueError: the shapes don't fit, there are fewer than three folds, or a score is not
            finite.

    Reference:
        Bates, Hastie and Tibshirani (2024), Cross-Validation: What Does It Estimate and How Well
        Does It Do It?, JASA 119:1434-1445, algorithm 1; the limits of the inflation and the bias as
        in the authors' R package ``nestedcv``.
    """
    e_out, e_in = np.asarray(outer, np.float64), np.asarray(inner, np.float64)
    fold = np.asarray(folds)
    if e_out.ndim != 2 or e_in.ndim != 3 or not (e_out.shape == e_in.shape[:2] == fold.shape):
        raise ValueError(
            "outer must be [repeats, N], inner [repeats, N, K] and folds [repeats, N], got "
            f"{e_out.shape}, {e_in.shape} and {fold.shape}"
        )
    rows, count = e_in.shape[1:]
    if count < 3:
        raise ValueError(f"nested cross-validation needs at least three folds, got {count}")
    others = fold[..., np.newaxis] != np.arange(count)  # [repeats, N, K]
    if not (np.isfinite(e_out).all() and np.isfinite(e_in[others]).all()):
        raise ValueError("scores must be finite: a run diverged, or a row was not tested")
    squared = []
    for r in range(len(e_out)):
        for k in range(count):
            own = e_out[r, fold[r] == k]
            a = (e_in[r, others[r, :, k], k].mean() - own.mean()) ** 2
            squared.append(a - own.var(ddof=1) / len(own))
    scores = e_in[others]
    plain = float(scores.std(ddof=1)) / math.sqrt(rows)
    train = rows * (count - 1) // count
    mse = max(0.0, float(np.mean(squared)))
    inflation = math.sqrt(mse * train / rows) / plain if plain else 1.0
    inflation = min(max(inflation, 1.0), math.sqrt(count))
    bias = float(scores.mean() - e_out.mean()) * (1 + ((count - 2) / count) ** 1.5)
    mean = float(scores.mean()) - bias
    from scipy.special import ndtri

    z = float(ndtri(0.975))
    first = e_out[0]
    around, reach = float(first.mean()), z * float(first.std(ddof=1)) / math.sqrt(rows)
    return NestedInterval(
        mean,
        (mean - z * plain * inflation, mean + z * plain * inflation),
        inflation,
        bias,
        (around - reach, around + reach),
    )
