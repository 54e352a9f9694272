"""Splits: exactly scikit-learn's rows, every row counted once, padding that touches nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split

from digits_jax.splits import (
    Split,
    holdout_split,
    inner_splits,
    kfold_splits,
    refit_split,
    stack_splits,
    writer_disjoint_split,
)

LABELS = np.random.default_rng(0).integers(0, 10, 1797).astype(np.int32)  # 5 folds are unequal


def real_rows(splits: Split) -> list[tuple[list[int], list[int]]]:
    """The rows of weight 1 of each lane, after checks of what holds for every stacked Split."""
    assert [field.dtype for field in splits] == [np.int32, np.float32, np.int32, np.float32]
    lanes = []
    for lane in zip(*splits, strict=True):
        train_rows, train_weights, test_rows, test_weights = lane
        for rows, weights in ((train_rows, train_weights), (test_rows, test_weights)):
            count = np.count_nonzero(weights)
            np.testing.assert_array_equal(weights, np.arange(len(rows)) < count)  # padding is last
            assert set(rows[count:]) <= set(rows[:count] if count else [0])  # and the lane's own
        train, test = train_rows[train_weights > 0], test_rows[test_weights > 0]
        assert not set(train) & set(test)
        lanes.append((train.tolist(), test.tolist()))
    return lanes


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("seed", [0, 7])
def test_kfold_has_exactly_scikit_learns_rows(stratified: bool, seed: int) -> None:
    splitter = (StratifiedKFold if stratified else KFold)(5, shuffle=True, random_state=seed)
    expected = [(a.tolist(), b.tolist()) for a, b in splitter.split(LABELS, LABELS)]
    assert real_rows(kfold_splits(LABELS, 5, seed=seed, stratified=stratified)) == expected


@pytest.mark.parametrize("stratified", [True, False])
def test_every_row_is_tested_once_and_trains_in_all_other_folds(stratified: bool) -> None:
    lanes = real_rows(kfold_splits(LABELS, 5, stratified=stratified))
    assert sorted(row for _, test in lanes for row in test) == list(range(1797))
    for train, test in lanes:
        assert sorted(train + test) == list(range(1797))


def test_unequal_folds_are_padded_to_the_largest_and_no_further() -> None:
    splits = kfold_splits(LABELS, 5, stratified=False)
    assert splits.train_rows.shape == splits.train_weights.shape == (5, 1438)
    assert splits.test_rows.shape == splits.test_weights.shape == (5, 360)
    assert splits.train_weights.sum(axis=1).tolist() == [1437, 1437, 1438, 1438, 1438]
    assert splits.test_weights.sum(axis=1).tolist() == [360, 360, 359, 359, 359]


def test_stratified_folds_have_each_class_in_proportion() -> None:
    for _, test in real_rows(kfold_splits(LABELS, 5)):
        np.testing.assert_allclose(np.bincount(LABELS[test]), np.bincount(LABELS) / 5, atol=1)


def test_each_repeat_is_the_single_one_of_its_own_seed() -> None:
    repeated = real_rows(kfold_splits(LABELS, 3, seed=4, repeats=3))
    assert len(repeated) == 9
    for repeat in range(3):
        alone = real_rows(kfold_splits(LABELS, 3, seed=4 + repeat))
        assert repeated[3 * repeat : 3 * repeat + 3] == alone
    assert repeated[:3] != repeated[3:6]


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize(("test_size", "seed"), [(0.2, 42), (0.35, 1)])
def test_holdout_has_scikit_learns_rows_in_its_order(
    stratified: bool, test_size: float, seed: int
) -> None:
    train, test = train_test_split(
        np.arange(1797),
        test_size=test_size,
        random_state=seed,
        stratify=LABELS if stratified else None,
    )
    split = holdout_split(LABELS, test_size=test_size, seed=seed, stratified=stratified)
    assert real_rows(split) == [(train.tolist(), test.tolist())]


def test_holdout_defaults_are_the_notebooks(full_data: Any) -> None:
    labels = np.loadtxt(full_data, delimiter=",", skiprows=1, usecols=64, dtype=np.int32)
    [(train, test)] = real_rows(holdout_split(labels))
    assert (len(train), len(test)) == (4496, 1124)
    counts = [108, 102, 107, 118, 117, 97, 123, 124, 105, 123]
    assert np.bincount(labels[test]).tolist() == counts


def test_writer_disjoint(full_data: Any) -> None:
    labels = np.loadtxt(full_data, delimiter=",", skiprows=1, usecols=64, dtype=np.int32)
    [(train, test)] = real_rows(writer_disjoint_split(labels))
    assert (train, test) == (list(range(3823)), list(range(3823, 5620)))
    for other_order in (labels[::-1], labels + 1, np.random.default_rng(0).permutation(labels)):
        with pytest.raises(ValueError, match=r"UCI's order: the first 3823 have other class cou"):
            writer_disjoint_split(other_order)


def test_refit_trains_on_all_rows_and_tests_none() -> None:
    assert real_rows(refit_split(LABELS)) == [(list(range(1797)), [])]


def test_stacked_splits_keep_their_rows() -> None:
    parts = [
        kfold_splits(LABELS, 5, stratified=False),
        refit_split(LABELS),
        holdout_split(LABELS, test_size=0.5),
    ]
    stacked = stack_splits(*parts)
    assert stacked.train_rows.shape == (7, 1797)
    assert stacked.test_rows.shape == (7, 899)
    assert real_rows(stacked) == [lane for part in parts for lane in real_rows(part)]
    for twice, once in zip(stack_splits(stacked, stacked), stacked, strict=True):
        np.testing.assert_array_equal(twice, np.concatenate([once, once]))


def test_padding_of_the_training_rows_is_never_a_row_that_is_tested() -> None:
    splits = stack_splits(kfold_splits(LABELS, 5), refit_split(LABELS))
    for train, test, weights in zip(
        splits.train_rows, splits.test_rows, splits.test_weights, strict=True
    ):
        assert not set(train) & set(test[weights > 0])


SMALL = [0] * 6 + [1] * 3


@pytest.mark.parametrize(
    ("labels", "arguments", "error", "message"),
    [
        (SMALL, {"folds": 1}, ValueError, "folds must be at least 2, got 1"),
        (SMALL, {"folds": 2.0}, TypeError, "folds must be an integer, got 2.0"),
        (SMALL, {"folds": 10}, ValueError, "10 folds need at least 10 rows, got 9"),
        (
            SMALL,
            {"folds": 4},
            ValueError,
            "class 1 has 3 row(s), fewer than the 4 that stratifying needs: "
            "use stratified=False or fewer folds",
        ),
        (SMALL, {"repeats": 0}, ValueError, "repeats must be at least 1, got 0"),
        (SMALL, {"repeats": None}, TypeError, "repeats must be an integer, got None"),
        (SMALL, {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (SMALL, {"seed": None}, TypeError, "seed must be an integer, got None"),
    ],
)
def test_kfold_errors(
    labels: list[int], arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        kfold_splits(labels, **arguments)
    assert str(raised.value) == message


def test_a_class_smaller_than_the_folds_is_fine_unstratified() -> None:
    assert len(real_rows(kfold_splits(SMALL, 4, stratified=False))) == 4


@pytest.mark.parametrize("test_size", [0, 1, -0.2, 1.5, float("nan")])
def test_holdout_refuses_a_test_size_that_is_no_fraction(test_size: float) -> None:
    with pytest.raises(ValueError, match=r"^test_size is a fraction between 0 and 1 \(exclusive\)"):
        holdout_split(SMALL, test_size=test_size)


def test_holdout_errors() -> None:
    with pytest.raises(ValueError, match=r"^class 2 has 1 row\(s\), .*: use stratified=False$"):
        holdout_split([*SMALL, 2], stratified=True)
    with pytest.raises(ValueError, match=r"^seed must be at least 0, got -1$"):
        holdout_split(SMALL, seed=-1)
    with pytest.raises(ValueError, match="train set will be empty"):
        holdout_split([0])


@pytest.mark.parametrize("split", [kfold_splits, holdout_split, writer_disjoint_split, refit_split])
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([], ValueError, "labels is empty"),
        ([[0, 1], [1, 0]], ValueError, "labels must be 1-D, got shape (2, 2)"),
        (3, ValueError, "labels must be 1-D, got shape ()"),
        ([0.0, 1.0], TypeError, "labels must be integers, got float64"),
        ([True, False], TypeError, "labels must be integers, got bool"),
        (
            ["a", "b"],
            TypeError,
            "labels must be integers, got <U1; "
            "np.unique(labels, return_inverse=True)[1] numbers them",
        ),
    ],
)
def test_labels_errors(split: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        split(labels)
    assert str(raised.value) == message


def test_writer_disjoint_needs_the_full_set() -> None:
    with pytest.raises(ValueError) as raised:
        writer_disjoint_split(LABELS)
    assert str(raised.value) == (
        "the writer-disjoint split needs all 5620 rows of UCI's set, got 1797: "
        "nothing else tells who wrote a row"
    )


def test_stacking_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="^stack_splits needs at least one split$"):
        stack_splits()


def test_inner_splits_are_scikit_learns_on_the_outer_training_rows() -> None:
    outer = kfold_splits(LABELS, 5, seed=3)
    inner = real_rows(inner_splits(LABELS, outer, 3, seed=7))
    assert len(inner) == 15
    for o, (train_rows, test_rows) in enumerate(real_rows(outer)):
        rows = np.array(train_rows)
        splitter = StratifiedKFold(3, shuffle=True, random_state=7 + o)
        expected = [
            (rows[train].tolist(), rows[test].tolist())
            for train, test in splitter.split(rows, LABELS[rows])
        ]
        assert inner[3 * o : 3 * o + 3] == expected
        for train, test in inner[3 * o : 3 * o + 3]:
            assert not set(test_rows) & {*train, *test}, "an outer test row was seen"
        assert sorted(row for _, test in inner[3 * o : 3 * o + 3] for row in test) == sorted(rows)


def test_inner_splits_need_stacked_splits_and_rows_enough() -> None:
    outer = kfold_splits(LABELS, 5)
    with pytest.raises(ValueError, match="splits must be stacked"):
        inner_splits(LABELS, Split(*(leaf[0] for leaf in outer)))
    with pytest.raises(ValueError, match="2000 folds need at least 2000 rows"):
        inner_splits(LABELS, outer, 2000)
