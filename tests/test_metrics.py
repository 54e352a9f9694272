"""Metrics against scikit-learn, against numbers by hand, and against their own definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from sklearn.calibration import calibration_curve

from digits_jax.metrics import (
    always_wrong,
    classification_scores,
    confusion,
    pooled_predictions,
    probabilities,
    reliability,
    roc_curves,
)

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 10, 400)
SHARES = probabilities(RANDOM.normal(size=(400, 10)) + 2 * np.eye(10)[LABELS])
PREDICTED = SHARES.argmax(axis=1)


def test_probabilities_are_the_softmax_in_float64() -> None:
    logits = RANDOM.normal(size=(3, 5, 10)).astype(np.float32)
    found = probabilities(logits)
    assert found.dtype == np.float64
    exponentials = np.exp(logits.astype(np.float64))
    expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(probabilities([-1e4, 1e4]), [0, 1], rtol=0, atol=0)


def test_scores_are_scikit_learns() -> None:
    scores = classification_scores(LABELS, SHARES)
    average: dict[str, Any] = {"average": "macro"}
    assert scores.accuracy == sklearn.metrics.accuracy_score(LABELS, PREDICTED)
    assert scores.precision == sklearn.metrics.precision_score(LABELS, PREDICTED, **average)
    assert scores.recall == sklearn.metrics.recall_score(LABELS, PREDICTED, **average)
    assert scores.f1 == sklearn.metrics.f1_score(LABELS, PREDICTED, **average)
    by_hand = -np.log(SHARES[np.arange(400), LABELS]).mean()
    assert scores.log_loss == pytest.approx(by_hand, rel=1e-12)
    assert 0.3 < scores.accuracy < 0.9  # or the comparisons above prove little
    assert len({*scores}) == 5


def test_scores_by_hand() -> None:
    # True 0 0 1 1, predicted 0 1 1 1: precision 1 and 2/3, recall 1/2 and 1, F1 2/3 and 4/5.
    shares = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.5, 0.25], [0.0, 1.0, 0.0]]
    scores = classification_scores([0, 0, 1, 1], shares)
    assert scores.accuracy == 0.75
    assert scores.precision == pytest.approx((1 + 2 / 3) / 2)
    assert scores.recall == pytest.approx(0.75)
    assert scores.f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert scores.log_loss == pytest.approx((2 * np.log(2) + np.log(4)) / 4)


def test_a_class_that_is_never_predicted_counts_as_zero_without_a_warning() -> None:
    scores = classification_scores([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    assert (scores.precision, scores.recall) == (0.25, 0.5)


def test_float32_probabilities_do_not_warn_and_change_nothing() -> None:
    found = classification_scores(LABELS, SHARES.astype(np.float32))
    np.testing.assert_allclose(found, classification_scores(LABELS, SHARES), rtol=1e-6)


def test_the_loss_of_an_impossible_row_is_finite() -> None:
    scores = classification_scores([0], [[0.0, 1.0]])
    assert scores.log_loss == pytest.approx(52 * np.log(2))


def test_confusion_is_ordered_by_class_and_true_by_row() -> None:
    labels, predicted = [7, 0, 4, 7, 7], [1, 0, 4, 7, 1]  # not the order of first appearance
    matrix = confusion(labels, predicted)
    assert matrix.shape == (10, 10) and matrix.dtype == np.int64 and matrix.sum() == 5
    assert matrix[7, 1] == 2 and matrix[1, 7] == 0
    assert (matrix[0, 0], matrix[4, 4], matrix[7, 7]) == (1, 1, 1)


def test_confusion_counts_every_pair() -> None:
    matrix = confusion(LABELS, PREDICTED)
    expected = [[np.sum((LABELS == i) & (PREDICTED == j)) for j in range(10)] for i in range(10)]
    np.testing.assert_array_equal(matrix, expected)


def test_roc_areas_are_the_share_of_pairs_in_the_right_order() -> None:
    curves = roc_curves(LABELS, SHARES)
    assert len(curves) == 10
    for k, curve in enumerate(curves):
        own, others = SHARES[LABELS == k, k], SHARES[LABELS != k, k]
        assert curve.auc == pytest.approx(np.mean(own[:, None] > others[None, :]), rel=1e-12)
        assert (curve.false_positive_rate[0], curve.true_positive_rate[0]) == (0, 0)
        assert (curve.false_positive_rate[-1], curve.true_positive_rate[-1]) == (1, 1)
    mean = sklearn.metrics.roc_auc_score(LABELS, SHARES, multi_class="ovr")
    assert np.mean([curve.auc for curve in curves]) == pytest.approx(mean)


def test_a_class_without_rows_has_no_curve() -> None:
    curves = roc_curves([0, 0, 1], [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.3, 0.4, 0.3]])
    assert [curve.auc for curve in curves[:2]] == [1, 1]
    assert np.isnan(curves[2].auc) and not len(curves[2].false_positive_rate)
    assert np.isnan(roc_curves([0], [[0.8, 0.2]])[0].auc)


def test_reliability_by_hand() -> None:
    # Confidences 0.6 0.7 | 0.9 1.0 in two of four bins, right: yes no | yes yes.
    shares = [[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [1.0, 0.0]]
    found = reliability([0, 0, 0, 0], shares, bins=4)
    assert found.count.tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.65, 0.95])
    np.testing.assert_allclose(found.accuracy, [np.nan, np.nan, 0.5, 1.0])
    assert found.expected_calibration_error == pytest.approx((2 * 0.15 + 2 * 0.05) / 4)


def test_a_bin_holds_its_upper_edge_and_not_its_lower() -> None:
    found = reliability([0, 0], [[0.75, 0.25], [0.5, 0.5]], bins=4)
    assert found.count.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("bins", [1, 2, 15])
def test_reliability_is_scikit_learns_calibration_curve(bins: int) -> None:
    found = reliability(LABELS, SHARES, bins)
    filled = found.count > 0
    right = PREDICTED == LABELS
    accuracy, confidence = calibration_curve(right, SHARES.max(axis=1), n_bins=bins)
    np.testing.assert_allclose(found.accuracy[filled], accuracy, rtol=1e-12)
    np.testing.assert_allclose(found.confidence[filled], confidence, rtol=1e-12)
    gaps = np.abs(accuracy - confidence) * found.count[filled] / 400
    assert found.expected_calibration_error == pytest.approx(gaps.sum(), rel=1e-12)
    assert found.count.sum() == 400 and found.expected_calibration_error > 0.01


def test_calibrated_predictions_have_nearly_no_calibration_error() -> None:
    shares = scipy.special.softmax(RANDOM.normal(size=(20_000, 4)), axis=1)
    labels = (RANDOM.random((20_000, 1)) > shares.cumsum(axis=1)).sum(axis=1)
    assert reliability(labels, shares).expected_calibration_error < 0.02
    sharper = shares**3 / (shares**3).sum(axis=1, keepdims=True)
    assert reliability(labels, sharper).expected_calibration_error > 0.1


def test_pooled_predictions_are_each_rows_own() -> None:
    # Two repeats of three uneven folds of ten rows, and a refit without test rows.
    test_rows = np.full((7, 4), -1)
    for repeat in range(2):
        folds = np.array_split(RANDOM.permutation(10), 3)
        for fold, rows in enumerate(folds):
            test_rows[3 * repeat + fold, : len(rows)] = rows
    logits = RANDOM.normal(size=(7, 4, 10)).astype(np.float32)
    logits[test_rows < 0] = np.nan  # whatever padding gave
    rows, shares = pooled_predictions(test_rows, logits)
    assert rows.tolist() == sorted([*range(10)] * 2)
    for row in range(10):
        expected = probabilities(logits[test_rows == row])  # in the order of the runs
        np.testing.assert_array_equal(shares[rows == row], expected)


def test_always_wrong_needs_every_repeat_to_be_wrong() -> None:
    rows = np.array([5, 3, 9, 3, 5, 9])
    labels = np.array([1, 2, 3, 2, 1, 3])
    predicted = np.array([0, 2, 8, 7, 4, 4])
    assert always_wrong(rows, labels, predicted).tolist() == [5, 9]
    assert always_wrong(rows, labels, labels).tolist() == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: probabilities([1.0, np.nan]), ValueError, "finite, but 1 of 2 are not"),
        (lambda: probabilities(3.0), ValueError, r"must be \[..., K\], got shape \(\)"),
        (lambda: classification_scores([], np.empty((0, 10))), ValueError, "labels .* not empty"),
        (lambda: classification_scores([0.0], [[1, 0]]), TypeError, "integers, got float64"),
        (lambda: classification_scores([0, 2], [[1, 0], [1, 0]]), ValueError, r"labels\[1\] is 2"),
        (lambda: classification_scores([0], [[1, 0]] * 2), ValueError, "labels 1, probabilities 2"),
        (lambda: classification_scores([0], [[3.0, -2.0]]), ValueError, "are these logits"),
        (lambda: roc_curves([0], [[0.5, 0.4]]), ValueError, "sum 1"),
        (lambda: reliability([0], [[np.nan, 0.5]]), ValueError, "sum 1"),
        (lambda: reliability([0], [[1.0]]), ValueError, "K >= 2"),
        (lambda: reliability([0], [[1.0, 0.0]], bins=0), ValueError, "bins .* got 0"),
        (lambda: confusion([0], [10]), ValueError, r"in 0..9, but predicted\[0\] is 10"),
        (lambda: confusion([0, -1], [0, 0]), ValueError, r"labels\[1\] is -1"),
        (lambda: confusion([0, 1], [0]), ValueError, "labels 2, predicted 1"),
        (lambda: pooled_predictions([[0, 1]], np.zeros((1, 3, 10))), ValueError, r"\(1, 3, 10\)"),
        (lambda: pooled_predictions([[0.0]], np.zeros((1, 1, 10))), TypeError, "got float64"),
        (lambda: pooled_predictions([[0, -2]], np.zeros((1, 2, 10))), ValueError, "-1 for"),
        (lambda: pooled_predictions([[-1]], np.zeros((1, 1, 10))), ValueError, "hold row numbers"),
        (lambda: pooled_predictions([[0]], [[[np.inf, 0]]]), ValueError, "finite"),
        (lambda: always_wrong([0, 1], [0, 1], [0]), ValueError, "labels 2, predicted 1"),
        (lambda: always_wrong([-1], [0], [0]), ValueError, "rows must be 0 or more"),
    ],
)
def test_bad_arguments_are_named(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
