"""Which labels are probably wrong? Confident learning, from out-of-fold probabilities.

N is the number of rows, K of classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class LabelIssues(NamedTuple):
    """What confident learning finds.

    Attributes:
        joint: int64 [K, K], the confident joint: rows labelled i that are counted as class j. A row
            that is confidently of no class is in none.
        thresholds: float64 [K], the mean probability of each class over the rows labelled so.
        suspects: int64 [M], the rows off the diagonal, the least plausible label first.
        margin: float64 [N], each row's probability of its label, less that of the likeliest other
            class: -1 to 1; ``suspects`` are ranked by it.
    """

    joint: npt.NDArray[np.int64]
    thresholds: npt.NDArray[np.float64]
    suspects: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float64]


def find_label_issues(labels: npt.ArrayLike, shares: npt.ArrayLike) -> LabelIssues:
    """Rows whose label models that never saw them confidently contradict.

    A row counts as class j if its probability of j reaches the mean probability of j over the rows
    labelled j (a model's own confidence in that class); of several such classes the likeliest. Rows
    that count as another class than their label's are the suspects. It needs no threshold of its
    own, and a model that is unsure of a class throughout raises no alarm by it.

    Args:
        labels: integers [N], the classes as given, each at least once.
        shares: probabilities [N, K], each row's by models trained without it.

    Returns:
        LabelIssues.

    Raises:
        ValueError: the shapes don't fit, a label is out of range, a class has no row, or a
            probability is out of 0..1.

    Reference:
        Northcutt, Jiang and Chuang (2021), Confident Learning: Estimating Uncertainty in Dataset
        Labels, JAIR 70:1373-1411, equations 1 and 2; the rank is by normalized margin.

    Examples:
        >>> shares = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.05, 0.95]]
        >>> found = find_label_issues([0, 0, 0, 1, 1, 1], shares)
        >>> found.joint.tolist(), found.suspects.tolist()
        ([[2, 1], [0, 1]], [2])
    """
    given, values = np.asarray(labels), np.asarray(shares, np.float64)
    if values.ndim != 2 or given.shape != values.shape[:1] or not len(given):
        raise ValueError(
            f"there must be [N, K] probabilities and [N] labels, got {values.shape} and "
            f"{given.shape}"
        )
    if not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {given.dtype}")
    rows, classes = values.shape
    counts = np.bincount(given, minlength=classes) if given.min() >= 0 else np.zeros(classes)
    if len(counts) != classes or not counts.all():
        raise ValueError(f"labels must be 0..{classes - 1}, each at least once")
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError("probabilities must be 0..1: are these logits?")
    own = values[np.arange(rows), given]
    thresholds = np.bincount(given, own, classes) / counts
    confident = values >= thresholds - 1e-12  # a class whose rows are all equally sure is reached
    taken_for = np.where(confident, values, -1).argmax(axis=1)
    counted = confident.any(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (given[counted], taken_for[counted]), 1)
    others = values.copy()
    others[np.arange(rows), given] = -1
    margin = own - others.max(axis=1)
    suspects = np.flatnonzero(counted & (taken_for != given))
    return LabelIssues(
        joint, thresholds, suspects[np.argsort(margin[suspects], kind="stable")], margin
    )
