"""What is computed from predictions: probabilities, scores, confusion, ROC curves, calibration.

Everything here is NumPy float64 on the host, on scikit-learn's metrics. Below, R is the number of
runs, S of a run's test rows, N of predictions and K of classes; classes are the integers 0..K-1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Scores(NamedTuple):
    """How good a set of predictions is; fractions in 0..1, but the loss.

    Attributes:
        accuracy: share of the rows whose most probable class is theirs.
        precision: macro average: the mean over classes, each class counting the same.
        recall: macro average.
        f1: macro average.
        log_loss: mean of -log(probability of the row's own class), nats: the cross-entropy.
            scikit-learn's, which takes a probability below 2^-52 as 2^-52, 36 nats.
    """

    accuracy: float
    precision: float
    recall: float
    f1: float
    log_loss: float


class RocCurve(NamedTuple):
    """One class against the rest, as the threshold on its probability falls.

    Attributes:
        false_positive_rate: [T], rising from 0 to 1.
        true_positive_rate: [T], rising from 0 to 1.
        auc: area under the curve, 0..1; NaN (and T = 0) for a class that has no row, or all.
    """

    false_positive_rate: npt.NDArray[np.float64]
    true_positive_rate: npt.NDArray[np.float64]
    auc: float


class Reliability(NamedTuple):
    """Whether predictions of confidence p are right in p of all cases, bin by bin of equal width.

    Attributes:
        confidence: [bins], mean confidence in the bin; NaN where it is empty.
        accuracy: [bins], share of the bin's rows that are right; NaN where it is empty.
        count: [bins], the bin's rows.
        expected_calibration_error: mean of |accuracy - confidence| over rows, 0..1.
    """

    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]  # type: ignore[assignment]  # hides tuple.count
    expected_calibration_error: float


def probabilities(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Softmax over the last axis, in float64, whatever the logits' size.

    Args:
        logits: numbers [..., K].

    Returns:
        float64 [..., K], each row of sum 1.

    Raises:
        ValueError: `logits` has no classes, or is not finite: a network that diverged.

    Examples:
        >>> probabilities([[1000.0, 1000.0], [0.0, np.log(3)]]).round(3).tolist()
        [[0.5, 0.5], [0.25, 0.75]]
    """
    from scipy.special import softmax  # a third of a second, which only some need

    values = np.asarray(logits, np.float64)
    if values.ndim < 1 or not values.shape[-1]:
        raise ValueError(f"logits must be [..., K], got shape {values.shape}")
    if bad := int(np.sum(~np.isfinite(values))):
        raise ValueError(f"logits must be finite, but {bad} of {values.size} are not")
    return np.asarray(softmax(values, axis=-1))


def classification_scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> Scores:
    """The scores that the notebook prints, and the loss.

    Args:
        labels: integers [N], the classes.
        probabilities: [N, K]; the first of equally probable classes is the prediction.

    Returns:
        Scores. Macro averages are scikit-learn's: over the classes that occur as a label or as a
        prediction, a precision or recall of 0/0 counting as 0.

    Raises:
        TypeError: `labels` are not integers.
        ValueError: a shape, a label or a probability is out of range.

    Examples:
        >>> shares = [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0, 1]]
        >>> scores = classification_scores([0, 0, 1, 1], shares)
        >>> print(f"{scores.accuracy}, {scores.precision:.3f}, {scores.recall}, {scores.f1:.3f}")
        0.75, 0.833, 0.75, 0.733
    """
    classes, shares = _check_predictions(labels, probabilities)
    from sklearn.metrics import log_loss, precision_recall_fscore_support

    predicted = shares.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        classes, predicted, average="macro", zero_division=0
    )
    return Scores(
        accuracy=float(np.mean(predicted == classes)),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        log_loss=float(log_loss(classes, shares, labels=range(shares.shape[1]))),
    )


def confusion(
    labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: int = 10
) -> npt.NDArray[np.int64]:
    """How often each class is taken for each: rows true, columns predicted, both in order 0..K-1.

    Args:
        labels: integers [N], the classes.
        predicted: integers [N], the classes predicted.
        classes: K; a class that does not occur keeps its row and column, of zeros.

    Returns:
        int64 [K, K], of sum N.

    Raises:
        TypeError: `labels`, `predicted` or `classes` are not integers.
        ValueError: a shape or a class is out of range.

    Examples:
        >>> confusion([2, 0, 2, 2], [2, 0, 1, 2], classes=3).tolist()
        [[1, 0, 0], [0, 0, 0], [0, 1, 2]]
    """
    _check_count("classes", classes)
    true = _check_classes("labels", labels, classes)
    answers = _check_classes("predicted", predicted, classes)
    _check_lengths(labels=true, predicted=answers)
    from sklearn.metrics import confusion_matrix

    return np.asarray(confusion_matrix(true, answers, labels=range(classes)), np.int64)


def roc_curves(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[RocCurve, ...]:
    """The ROC curve of each class against the rest.

    Args:
        labels: integers [N], the classes.
        probabilities: [N, K].

    Returns:
        K curves, class by class.

    Raises:
        TypeError: `labels` are not integers.
        ValueError: a shape, a label or a probability is out of range.

    Examples:
        >>> curve, _ = roc_curves([0, 1, 0, 1], [[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
        >>> curve.auc, curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist()
        (0.75, [0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    classes, shares = _check_predictions(labels, probabilities)
    from sklearn.metrics import auc, roc_curve

    def curve(is_class: npt.NDArray[np.bool_], share: npt.NDArray[np.float64]) -> RocCurve:
        if is_class.all() or not is_class.any():
            return RocCurve(np.empty(0), np.empty(0), float("nan"))
        false_positive_rate, true_positive_rate, _ = roc_curve(is_class, share)
        area = float(auc(false_positive_rate, true_positive_rate))
        return RocCurve(false_positive_rate, true_positive_rate, area)

    return tuple(curve(classes == k, shares[:, k]) for k in range(shares.shape[1]))


def reliability(labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = 15) -> Reliability:
    """Calibration of the predicted class's probability, the confidence.

    With B_m the rows whose confidence is in ((m - 1)/M, m/M], m = 1..M:

        ECE = sum over m of |B_m|/N |accuracy(B_m) - mean confidence(B_m)|.

    Args:
        labels: integers [N], the classes.
        probabilities: [N, K]; the first of equally probable classes is the prediction.
        bins: M, at least 1; the default is Guo et al.'s.

    Returns:
        A Reliability.

    Raises:
        TypeError: `labels` or `bins` are not integers.
        ValueError: a shape, a label or a probability is out of range, or `bins` is below 1.

    Reference:
        Naeini, Cooper and Hauskrecht (2015), Obtaining Well Calibrated Probabilities Using Bayesian
        Binning, AAAI 29:2901-2907. Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern
        Neural Networks, ICML 34, section 2.

    Examples:
        >>> found = reliability([0, 0, 1], [[1.0, 0.0], [0.8, 0.2], [0.7, 0.3]], bins=2)
        >>> found.count.tolist(), round(found.expected_calibration_error, 4)
        ([0, 3], 0.1667)
    """
    classes, shares = _check_predictions(labels, probabilities)
    _check_count("bins", bins)
    confidences, right = shares.max(axis=1), shares.argmax(axis=1) == classes
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.digitize(confidences, inner_edges, right=True)
    count = np.bincount(bin_of, minlength=bins)
    sums = [np.bincount(bin_of, weights, bins) for weights in (confidences, right)]
    confidence, accuracy = (np.where(count, s / np.maximum(count, 1), np.nan) for s in sums)
    error = float(np.abs(sums[1] - sums[0]).sum() / len(classes))
    return Reliability(confidence, accuracy, count, error)


def pooled_predictions(
    test_rows: npt.ArrayLike, logits: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Out-of-fold predictions of all runs as one list: each by a run that did not train on the row.

    Args:
        test_rows: integers [R, S], row numbers; -1 is padding, of any logits. A run without test
            rows, such as the refit, adds nothing.
        logits: [R, S, K], of the test rows.

    Returns:
        The row numbers int64 [M], rising, and their probabilities float64 [M, K]. M is the number
        of rows that are not padding: N of one cross-validation, repeats * N of a repeated one, in
        which the predictions of a row follow the order of the runs.

    Raises:
        TypeError: `test_rows` are not integers.
        ValueError: the shapes don't fit, a row number is below -1, all is padding, or a logit that
            is not padding's is not finite.

    Examples:
        >>> logits = [[[0, 0], [0, 9]], [[9, 0], [5, 5]]]
        >>> rows, shares = pooled_predictions([[2, 0], [1, -1]], logits)
        >>> rows.tolist(), shares.argmax(axis=1).tolist()
        ([0, 1, 2], [1, 0, 0])
    """
    rows, values = np.asarray(test_rows), np.asarray(logits)
    if rows.ndim != 2 or values.ndim != 3 or values.shape[:2] != rows.shape:
        raise ValueError(
            f"test_rows must be [R, S] and logits [R, S, K], got {rows.shape} and {values.shape}"
        )
    if not np.issubdtype(rows.dtype, np.integer):
        raise TypeError(f"test_rows must be integers, got {rows.dtype}")
    if not (rows >= 0).any() or rows.min() < -1:
        raise ValueError("test_rows must hold row numbers, and -1 for nothing but padding")
    real = rows >= 0
    order = np.argsort(rows[real], kind="stable")
    return rows[real][order].astype(np.int64), probabilities(values[real][order])


def always_wrong(
    rows: npt.ArrayLike, labels: npt.ArrayLike, predicted: npt.ArrayLike
) -> npt.NDArray[np.int64]:
    """The rows that every prediction of them gets wrong: hard digits, or mislabelled ones.

    Args:
        rows: integers [M], row numbers, such as `pooled_predictions` gives; a row occurs once for
            each repeat, in any order.
        labels: integers [M], the class of each: `dataset.labels[rows]`.
        predicted: integers [M], the class predicted for each.

    Returns:
        Row numbers int64, rising, each once; empty where every row is got right at least once.

    Raises:
        TypeError: an argument is not integers.
        ValueError: an argument is empty, not 1-D or negative, or the lengths differ.

    Examples:
        >>> always_wrong([0, 1, 2, 0, 1, 2], [7, 8, 9, 7, 8, 9], [7, 3, 3, 1, 2, 9]).tolist()
        [1]
    """
    numbers = _check_classes("rows", rows)
    true, answers = _check_classes("labels", labels), _check_classes("predicted", predicted)
    _check_lengths(rows=numbers, labels=true, predicted=answers)
    return np.setdiff1d(numbers, numbers[true == answers])


def _check_predictions(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Labels and probabilities, the latter freed of float32's rounding: each row has sum 1."""
    shares = np.asarray(probabilities, np.float64)
    if shares.ndim != 2 or shares.shape[1] < 2:
        raise ValueError(f"probabilities must be [N, K] with K >= 2, got shape {shares.shape}")
    classes = _check_classes("labels", labels, shares.shape[1])
    _check_lengths(labels=classes, probabilities=shares)
    sums = shares.sum(axis=1, keepdims=True)
    if not ((shares >= 0).all() and (np.abs(sums - 1) < 1e-4).all()):  # NaN fails, too
        raise ValueError("probabilities must be 0..1, each row of sum 1: are these logits?")
    return classes, shares / sums


def _check_classes(
    name: str, values: npt.ArrayLike, classes: int | None = None
) -> npt.NDArray[np.int64]:
    integers = np.asarray(values)
    if integers.ndim != 1 or not integers.size:
        raise ValueError(f"{name} must be 1-D and not empty, got shape {integers.shape}")
    if not np.issubdtype(integers.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {integers.dtype}")
    outside = (integers < 0) | (False if classes is None else integers >= classes)
    if outside.any():
        allowed = "0 or more" if classes is None else f"in 0..{classes - 1}"
        at = int(outside.argmax())
        raise ValueError(f"{name} must be {allowed}, but {name}[{at}] is {integers[at]}")
    return integers.astype(np.int64)


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_lengths(**arrays: npt.NDArray[np.generic]) -> None:
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise ValueError(f"lengths differ: {lengths}")
