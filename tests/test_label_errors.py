"""Confident learning against its definition, and on labels that were turned on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

import digits_jax as dj
from digits_jax.label_errors import find_label_issues


def test_the_confident_joint_by_its_definition() -> None:
    chance = np.random.default_rng(0)
    labels = np.concatenate([np.arange(4), chance.integers(0, 4, 200)])
    shares = (
        chance.dirichlet(np.ones(4), 204)
        + 0.8 * np.eye(4)[np.where(np.arange(204) % 9, labels, (labels + 1) % 4)]
    )
    shares /= shares.sum(axis=1, keepdims=True)
    thresholds = [shares[labels == k, k].mean() for k in range(4)]
    joint, suspects = np.zeros((4, 4), int), set()
    for row, label in enumerate(labels):
        reached = [k for k in range(4) if shares[row, k] >= thresholds[k]]
        if reached:
            best = max(reached, key=lambda k: shares[row, k])
            joint[label, best] += 1
            suspects |= {row} if best != label else set()
    found = find_label_issues(labels, shares)
    np.testing.assert_array_equal(found.joint, joint)
    assert set(found.suspects.tolist()) == suspects and len(suspects) > 5
    assert found.thresholds == pytest.approx(thresholds)
    assert (np.diff(found.margin[found.suspects]) >= 0).all()


def test_it_finds_turned_labels() -> None:
    digits = dj.load_digits("bundled")
    pixels, labels = digits.images[:900].reshape(900, -1) / 16, digits.labels[:900].copy()
    turned = np.arange(0, 900, 30)
    labels[turned] = (labels[turned] + 1 + turned // 30 % 9) % 10
    shares = cross_val_predict(
        LogisticRegression(max_iter=500), pixels, labels, cv=5, method="predict_proba"
    )
    found = find_label_issues(labels, shares)
    hits = np.isin(found.suspects, turned)
    assert np.isin(turned, found.suspects).mean() > 0.7 and hits.mean() > 0.6
    assert hits[:15].all()  # the ranking puts them first


@pytest.mark.parametrize(
    ("labels", "shares", "message"),
    [
        ([0, 1], [[0.5, 0.5]], r"there must be \[N, K\] probabilities"),
        ([0.0, 1.0], np.eye(2), "labels must be integers"),
        ([0, 0], np.eye(2), r"labels must be 0\.\.1, each at least once"),
        ([0, 2], np.eye(2), r"labels must be 0\.\.1, each at least once"),
        ([0, -1], np.eye(2), r"labels must be 0\.\.1, each at least once"),
        ([0, 1], [[3.0, 1.0], [0.0, 1.0]], "are these logits"),
    ],
)
def test_errors(labels: list[int], shares: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_label_issues(labels, shares)
