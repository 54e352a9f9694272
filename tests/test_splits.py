"""Splits: exactly scikit-learn's rows, every row counted once, padding that touches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    train_test_split,
)

from digits_jax.splits import (
    Split,
    SplitKind,
    check_stacked,
    holdout_split,
    index_splits,
    inner_splits,
    kfold_splits,
    refit_split,
    stack_splits,
    test_sizes,
    train_sizes,
    with_validation,
    writer_disjoint_split,
)

LABELS = np.random.default_rng(0).integers(0, 10, 1797).astype(np.int32)  # 5 folds are unequal


def parts(splits: Split) -> list[tuple[list[int], list[int], list[int]]]:
    """Each run's training, validation and test rows, after checks of what holds for any splits."""
    check_stacked(splits)
    runs = len(splits.train_rows)
    assert splits.kind is not None and splits.kind.dtype == np.int32
    columns: list[list[list[int]]] = []
    for part in ("train", "validation", "test"):
        all_rows, all_weights = (getattr(splits, f"{part}_{x}") for x in ("rows", "weights"))
        if all_rows is None:
            assert part == "validation" and all_weights is None
            columns.append([[]] * runs)
            continue
        assert (all_rows.dtype, all_weights.dtype) == (np.int32, np.float32)
        column = []
        for rows, weights in zip(all_rows, all_weights, strict=True):
            count = np.count_nonzero(weights)
            np.testing.assert_array_equal(weights, np.arange(len(rows)) < count)  # padding is last
            padding = rows[count - 1] if count else 0  # and the run's own last row
            assert (rows[count:] == padding).all()
            column.append(rows[:count].tolist())
        longest = max(map(len, column))
        assert part == "test" or all_rows.shape[1] == longest, "no padding that no run needs"
        columns.append(column)
    return list(zip(*columns, strict=True))


def real_rows(splits: Split) -> list[tuple[list[int], list[int]]]:
    """Each run's training and test rows, which have none in common; no validation rows."""
    for train, validation, test in parts(splits):
        assert not set(train) & set(test) and not validation
    return [(train, test) for train, _, test in parts(splits)]


def kinds_of(splits: Split) -> set[SplitKind]:
    assert splits.kind is not None
    return {SplitKind(code) for code in splits.kind.tolist()}


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("seed", [0, 7])
def test_kfold_has_exactly_scikit_learns_rows(stratified: bool, seed: int) -> None:
    splitter = (StratifiedKFold if stratified else KFold)(5, shuffle=True, random_state=seed)
    expected = [(a.tolist(), b.tolist()) for a, b in splitter.split(LABELS, LABELS)]
    assert real_rows(kfold_splits(LABELS, 5, seed=seed, stratified=stratified)) == expected


@pytest.mark.parametrize("stratified", [True, False])
def test_every_row_is_tested_once_and_trains_in_all_other_folds(stratified: bool) -> None:
    runs = real_rows(kfold_splits(LABELS, 5, stratified=stratified))
    assert sorted(row for _, test in runs for row in test) == list(range(1797))
    for train, test in runs:
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
    assert kinds_of(writer_disjoint_split(labels)) == {SplitKind.PREDEFINED}
    for other_order in (labels[::-1], labels + 1, np.random.default_rng(0).permutation(labels)):
        with pytest.raises(ValueError, match=r"UCI's order: the first 3823 have other class cou"):
            writer_disjoint_split(other_order)


def test_refit_trains_on_all_rows_and_tests_none() -> None:
    assert real_rows(refit_split(LABELS)) == [(list(range(1797)), [])]


def test_stacked_splits_keep_their_rows() -> None:
    made = [
        kfold_splits(LABELS, 5, stratified=False),
        refit_split(LABELS),
        holdout_split(LABELS, test_size=0.5),
    ]
    stacked = stack_splits(*made)
    assert stacked.train_rows.shape == (7, 1797)
    assert stacked.test_rows.shape == (7, 899)
    assert real_rows(stacked) == [run for part in made for run in real_rows(part)]
    again = stack_splits(stacked, stacked)
    assert real_rows(again) == 2 * real_rows(stacked)
    assert again.kind is not None and again.kind.tolist() == [1] * 5 + [7, 1] + [1] * 5 + [7, 1]


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
    with pytest.raises(ValueError, match="leaves none to train on; give more rows"):
        holdout_split([0])


STRATIFIED: dict[str, Callable[[Any], Split]] = {
    "kfold": lambda labels: kfold_splits(labels, 2),
    "holdout": lambda labels: holdout_split(labels, stratified=True),
    "inner": lambda labels: inner_splits(labels, refit_split(range(4)), 2),
}
ANY_TARGETS: dict[str, Callable[[Any], Split]] = {
    "kfold": lambda targets: kfold_splits(targets, 2, stratified=False),
    "holdout": holdout_split,
    "refit": refit_split,
    "inner": lambda targets: inner_splits(targets, refit_split(range(9)), 2, stratified=False),
}


@pytest.mark.parametrize("name", STRATIFIED)
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([], ValueError, "labels is empty"),
        (
            [[0, 1], [1, 0]],
            ValueError,
            "labels must be 1-D, got shape (2, 2); stratified=False takes any targets",
        ),
        (
            [0.0, 1.0],
            TypeError,
            "labels must be integers, got float64; stratified=False takes any targets",
        ),
        (
            ["a", "b"],
            TypeError,
            "labels must be integers, got <U1; "
            "np.unique(labels, return_inverse=True)[1] numbers them",
        ),
    ],
)
def test_what_can_not_be_stratified(
    name: str, labels: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        STRATIFIED[name](labels)
    assert str(raised.value) == message


@pytest.mark.parametrize("name", ANY_TARGETS)
def test_of_targets_that_are_not_stratified_only_the_number_counts(name: str) -> None:
    expected = real_rows(ANY_TARGETS[name](np.zeros(9, int)))
    for targets in (
        np.linspace(0, 1, 9),
        np.zeros((9, 2)),
        np.zeros((9, 8, 8, 3)),
        list("abcdefghi"),
    ):
        assert real_rows(ANY_TARGETS[name](targets)) == expected
    with pytest.raises(ValueError, match=r"^labels is empty$"):
        ANY_TARGETS[name](np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"^labels must be \[N\] or \[N, ...\], got a scalar$"):
        ANY_TARGETS[name](3.5)


def test_splits_say_how_they_were_made() -> None:
    assert kinds_of(kfold_splits(LABELS, 5)) == {SplitKind.RANDOM}
    assert kinds_of(kfold_splits(np.arange(5), 5, stratified=False)) == {SplitKind.LEAVE_ONE_OUT}
    assert kinds_of(holdout_split(LABELS)) == {SplitKind.RANDOM}
    assert kinds_of(refit_split(LABELS)) == {SplitKind.REFIT}
    assert kinds_of(inner_splits(LABELS, kfold_splits(LABELS, 5), 2)) == {SplitKind.RANDOM}


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
        inner_splits(LABELS, jax.tree.map(lambda leaf: leaf[0], outer))
    with pytest.raises(ValueError, match="2000 folds need at least 2000 rows"):
        inner_splits(LABELS, outer, 2000)


def test_inner_splits_of_shuffled_rows_are_refused_where_they_would_leak() -> None:
    grouped = index_splits([([0, 1, 2], [3])], groups=[0, 0, 1, 2])
    with pytest.raises(ValueError) as raised:
        inner_splits(range(4), grouped, 2, stratified=False)
    assert str(raised.value) == (
        "outer split 0 is GROUPED and inner_splits shuffles: split its training rows with "
        "scikit-learn's GroupKFold, and give them to index_splits"
    )
    in_time = index_splits(TimeSeriesSplit(2).split(np.zeros(9)))
    with pytest.raises(
        ValueError, match="^outer split 0 is TIME .* scikit-learn's TimeSeriesSplit"
    ):
        inner_splits(range(9), in_time, 2, stratified=False)
    bootstrap = index_splits([([0, 1], [3]), ([2, 0, 2], [3])])
    with pytest.raises(ValueError) as raised:
        inner_splits(range(4), bootstrap, 2, stratified=False)
    assert str(raised.value) == (
        "outer split 1 trains on row 2 more than once: an inner fold would test a row that it "
        "trains on"
    )


def test_inner_splits_leave_the_outer_validation_rows_alone() -> None:
    outer = with_validation(kfold_splits(LABELS, 3), 0.2)
    inner = real_rows(inner_splits(LABELS, outer, 2))
    for o, (train, validation, test) in enumerate(parts(outer)):
        for rows in inner[2 * o : 2 * o + 2]:
            assert sorted(rows[0] + rows[1]) == sorted(train)
            assert not set(rows[0] + rows[1]) & {*validation, *test}


def test_sizes_count_real_rows() -> None:
    splits = stack_splits(kfold_splits(np.arange(10), 3, stratified=False), refit_split(range(10)))
    for sizes, expected in (
        (train_sizes(splits), [6, 7, 7, 10]),
        (test_sizes(splits), [4, 3, 3, 0]),
    ):
        assert sizes.dtype == np.float64 and sizes.tolist() == expected
    with pytest.raises(ValueError, match="^splits must be stacked"):
        train_sizes(jax.tree.map(lambda leaf: leaf[0], splits))


# --- index_splits --------------------------------------------------------------------------------

X = np.zeros((24, 2))
Y = np.arange(24) % 3
GROUPS = np.repeat(np.arange(8), 3)
BOOTSTRAP = [np.random.default_rng(i).integers(0, 24, 24) for i in range(3)]


@pytest.mark.parametrize(
    ("splitter", "groups", "kind"),
    [
        (KFold(4), None, "UNKNOWN"),
        (KFold(4, shuffle=True, random_state=0), None, "UNKNOWN"),
        (ShuffleSplit(3, test_size=0.3, random_state=0), None, "UNKNOWN"),
        (RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=0), None, "UNKNOWN"),
        (PredefinedSplit(np.r_[[-1] * 12, GROUPS[:12]]), None, "UNKNOWN"),
        (GroupKFold(4), None, "UNKNOWN"),
        (GroupKFold(4), GROUPS, "GROUPED"),
        (GroupShuffleSplit(3, random_state=0), GROUPS, "GROUPED"),
        (StratifiedGroupKFold(4), GROUPS, "GROUPED"),
        (LeaveOneGroupOut(), GROUPS, "GROUPED"),
        (LeaveOneGroupOut(), np.array(list("abcdefgh"))[GROUPS], "GROUPED"),
        (TimeSeriesSplit(5), None, "TIME"),
        (TimeSeriesSplit(5, gap=2, max_train_size=4), None, "TIME"),
        (TimeSeriesSplit(5, test_size=1), None, "TIME"),
        (LeaveOneOut(), None, "LEAVE_ONE_OUT"),
    ],
    ids=lambda value: None if isinstance(value, str | None) else type(value).__name__,
)
def test_index_splits_are_any_splitters_rows(splitter: Any, groups: Any, kind: str) -> None:
    given = GROUPS if isinstance(splitter, GroupKFold) else groups
    pairs = [(a.tolist(), b.tolist()) for a, b in splitter.split(X, Y, given)]
    splits = index_splits(splitter.split(X, Y, given), groups=groups)
    assert real_rows(splits) == pairs
    assert splits.validation_rows is None
    assert kinds_of(splits) == {SplitKind[kind]}
    forced = index_splits(iter(pairs), groups=groups, kind=SplitKind.UNKNOWN)
    assert real_rows(forced) == pairs and kinds_of(forced) == {SplitKind.UNKNOWN}


def test_a_bootstrap_trains_on_a_row_as_often_as_it_was_drawn() -> None:
    out_of_bag = [(rows, np.setdiff1d(np.arange(24), rows)) for rows in BOOTSTRAP]
    splits = index_splits(out_of_bag)
    assert real_rows(splits) == [(a.tolist(), b.tolist()) for a, b in out_of_bag]
    assert kinds_of(splits) == {SplitKind.UNKNOWN}, "no row trains and tests"

    overlapping = [(rows, np.arange(24)) for rows in BOOTSTRAP]
    splits = index_splits(overlapping, allow_overlap=True)
    assert parts(splits) == [(a.tolist(), [], b.tolist()) for a, b in overlapping]
    assert kinds_of(splits) == {SplitKind.OVERLAPPING}
    assert kinds_of(index_splits(out_of_bag, allow_overlap=True)) == {SplitKind.UNKNOWN}


def test_one_pair_shows_no_kind_and_a_run_without_test_rows_is_a_refit() -> None:
    assert kinds_of(index_splits([([0, 1, 2], [3])])) == {SplitKind.UNKNOWN}
    splits = index_splits([([0, 1, 3], [2]), ([0, 1, 2, 3], [])])
    assert parts(splits) == [([0, 1, 3], [], [2]), ([0, 1, 2, 3], [], [])]
    assert splits.kind is not None and splits.kind.tolist() == [0, 7]
    grouped = index_splits([([0, 1, 3], [2]), ([0, 1, 2, 3], [])], groups=[0, 0, 1, 2])
    assert kinds_of(grouped) == {SplitKind.GROUPED}


def test_time_is_found_by_validation_rows_too_and_needs_later_and_later_tests() -> None:
    in_time = [([0, 1], [2], [3, 4]), ([0, 1, 2], [3], [4, 5])]
    assert kinds_of(index_splits(in_time)) == {SplitKind.TIME}
    assert kinds_of(index_splits([([0, 1], [5], [3, 4]), in_time[1]])) == {SplitKind.UNKNOWN}
    assert kinds_of(index_splits(reversed(in_time))) == {SplitKind.UNKNOWN}
    assert kinds_of(index_splits(in_time + in_time)) == {SplitKind.UNKNOWN}


def test_triples_have_validation_rows_and_may_stand_beside_pairs() -> None:
    splits = index_splits([([4, 1, 2], [3], [0]), ([3, 4], [0])])
    assert parts(splits) == [([4, 1, 2], [3], [0]), ([3, 4], [], [0])]
    assert splits.validation_rows is not None and splits.validation_rows.shape == (2, 1)


@pytest.mark.parametrize(
    ("pairs", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "index_splits needs at least one pair of (train, test) rows"),
        (
            KFold(3),
            {},
            TypeError,
            "pairs must be an iterable of (train, test), got KFold; a splitter gives one by "
            "split(X, y, groups)",
        ),
        (
            (np.arange(3), np.arange(3, 5)),
            {},
            ValueError,
            "pair 0 must be a tuple (train, test) or (train, validation, test), got a ndarray",
        ),
        (
            [([0], [1]), ([0],)],
            {},
            ValueError,
            "pair 1 must be a tuple (train, test) or (train, validation, test), got a tuple of 1",
        ),
        (
            [(np.array([True, False]), np.array([False, True]))],
            {},
            TypeError,
            "pair 0's training rows are a boolean mask: give np.flatnonzero(mask)",
        ),
        (
            [([0], [1]), ([0], [True])],
            {},
            TypeError,
            "pair 1's test rows are a boolean mask: give np.flatnonzero(mask)",
        ),
        ([([0, -1], [1])], {}, ValueError, "pair 0's training rows must not be negative, got -1"),
        (
            [([0, 1.0], [1])],
            {},
            TypeError,
            "pair 0's training rows must be integers, got float64",
        ),
        ([([[0]], [1])], {}, ValueError, "pair 0's training rows must be 1-D, got shape (1, 1)"),
        (
            [([0], [2**31])],
            {},
            ValueError,
            "pair 0's test rows must be at most 2147483647, got 2147483648",
        ),
        ([([], [1])], {}, ValueError, "pair 0 has no training rows"),
        (
            [([0, 1], [2]), ([0, 5], [4, 5])],
            {},
            ValueError,
            "pair 1 tests row 5, which also trains; give allow_overlap=True for a bootstrap",
        ),
        (
            [([0, 1], [1], [2])],
            {},
            ValueError,
            "pair 0 validates row 1, which also trains; give allow_overlap=True for a bootstrap",
        ),
        (
            [([0, 1], [2], [2])],
            {"allow_overlap": True},
            ValueError,
            "pair 0 validates row 2, which also tests",
        ),
        ([([0], [2, 1, 2])], {}, ValueError, "pair 0 tests row 2 more than once"),
        ([([0], [3, 3], [2])], {}, ValueError, "pair 0 validates row 3 more than once"),
        (
            [([0, 1], [2]), ([0, 3], [1, 2])],
            {"groups": ["a", "b", "c", "b"]},
            ValueError,
            "group 'b' both trains and tests in pair 1",
        ),
        (
            [([0], [1], [2])],
            {"groups": [0, 7, 7]},
            ValueError,
            "group 7 both validates and tests in pair 0",
        ),
        (
            [([0], [1], [2])],
            {"groups": [7, 7, 0], "kind": SplitKind.RANDOM},
            ValueError,
            "group 7 both trains and validates in pair 0",
        ),
        (
            [([0, 3], [1])],
            {"groups": [0, 1, 2]},
            ValueError,
            "groups has 3 entries, but pair 0 has row 3",
        ),
        ([([0], [1])], {"groups": [[0], [1]]}, ValueError, "groups must be 1-D, got shape (2, 1)"),
        (
            [([0], [1])],
            {"groups": np.array([0, "a"], object)},
            TypeError,
            "groups must be all integers or all strings",
        ),
        ([([0], [1])], {"kind": 99}, ValueError, "99 is not a valid SplitKind"),
    ],
)
def test_index_splits_errors(
    pairs: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        index_splits(pairs, **arguments)
    assert str(raised.value) == message


# --- validation rows -----------------------------------------------------------------------------


@st.composite
def any_splits(draw: st.DrawFn) -> Split:
    """Runs of distinct training rows, some of them without test rows."""
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        rows = draw(st.permutations(range(draw(st.integers(2, 40)))))
        tested = draw(st.integers(0, len(rows) - 2))
        pairs.append((rows[tested:], rows[:tested]))
    return index_splits(pairs, kind=SplitKind.UNKNOWN)


def taken_from(splits: Split, before: Split) -> Iterable[tuple[list[int], list[int], list[int]]]:
    """Training rows now, validation rows, training rows before, after checks of all three."""
    assert splits.kind is before.kind or (splits.kind == before.kind).all()  # type: ignore[union-attr]
    for now, old in zip(parts(splits), parts(before), strict=True):
        (train, validation, test), (old_train, _, old_test) = now, old
        assert test == old_test
        assert train and validation and not set(train) & set(validation)
        assert sorted(train + validation) == sorted(old_train)
        assert train == [row for row in old_train if row not in validation], "their order stays"
        assert validation == sorted(validation)
        yield train, validation, old_train


@given(any_splits(), st.floats(0.001, 0.999), st.integers(0, 2**40), st.booleans())
def test_validation_rows_are_taken_out_of_the_training_rows(
    before: Split, fraction: float, seed: int, last: bool
) -> None:
    sizes = train_sizes(before)
    counts = [max(1, round(fraction * size)) for size in sizes]
    short = [i for i, count in enumerate(counts) if count >= sizes[i]]
    if short:
        with pytest.raises(ValueError) as raised:
            with_validation(before, fraction, seed=seed, last=last)
        assert str(raised.value) == (
            f"run {short[0]} has {sizes[short[0]]:.0f} training row(s): a fraction of {fraction} "
            "for validation leaves none"
        )
        return
    splits = with_validation(before, fraction, seed=seed, last=last)
    for count, (train, validation, _) in zip(counts, taken_from(splits, before), strict=True):
        assert len(validation) == count
        assert not last or max(train) < min(validation)


@given(any_splits(), st.floats(0.001, 0.999), st.integers(0, 99), st.data())
def test_groups_stay_whole(before: Split, fraction: float, seed: int, data: st.DataObject) -> None:
    groups = np.array(data.draw(st.lists(st.integers(0, 5), min_size=40, max_size=40)))
    alone = [i for i, (train, _, _) in enumerate(parts(before)) if len(set(groups[train])) == 1]
    if alone:
        with pytest.raises(ValueError) as raised:
            with_validation(before, fraction, seed=seed, groups=groups)
        message = f"run {alone[0]} has no two training groups, so that none can validate"
        assert str(raised.value) == message
        return
    splits = with_validation(before, fraction, seed=seed, groups=groups)
    for train, validation, old in taken_from(splits, before):
        assert not set(groups[train]) & set(groups[validation])
        missed = abs(len(validation) - fraction * len(old))
        sizes = Counter(groups[old].tolist())
        # Each group brought the number nearer; or the smallest is taken, which is more.
        assert missed < fraction * len(old) or len(validation) == min(sizes.values())


def test_groups_of_equal_size_give_the_fraction_to_half_a_group() -> None:
    groups = np.repeat(np.arange(30), 4)
    for fraction in (0.1, 0.25, 0.5, 0.8):
        splits = with_validation(refit_split(groups), fraction, groups=groups)
        [(_, validation, _)] = taken_from(splits, refit_split(groups))
        assert abs(len(validation) - fraction * 120) <= 2


@given(any_splits(), st.floats(0.001, 0.999), st.integers(0, 99), st.data())
def test_classes_keep_their_proportions(
    before: Split, fraction: float, seed: int, data: st.DataObject
) -> None:
    labels = np.array(data.draw(st.lists(st.sampled_from("aaabbc"), min_size=40, max_size=40)))
    classes = [Counter(labels[train]) for train, _, _ in parts(before)]
    single = [i for i, counts in enumerate(classes) if max(counts.values()) == 1]
    if single:
        with pytest.raises(ValueError) as raised:
            with_validation(before, fraction, seed=seed, stratify=labels)
        assert str(raised.value) == (
            f"run {single[0]} has no class of two training rows, so that none can validate"
        )
        return
    splits = with_validation(before, fraction, seed=seed, stratify=labels)
    for counts, (train, validation, _) in zip(classes, taken_from(splits, before), strict=True):
        assert set(labels[train]) == set(counts), "no class leaves the training rows"
        taken = Counter(labels[validation])
        for name, count in counts.items():
            assert (taken[name] == 0) if count == 1 else abs(taken[name] - fraction * count) < 1
        eligible = sum(count for count in counts.values() if count > 1)
        wanted = max(1, round(fraction * eligible))
        room = sum(count - 1 for count in counts.values())
        assert len(validation) in range(max(1, min(wanted - 3, room)), wanted + 1)


def test_a_tenth_of_stratified_folds_has_each_class_in_proportion() -> None:
    before = kfold_splits(LABELS, 5)
    for train, validation, old in taken_from(with_validation(before, 0.1, stratify=LABELS), before):
        assert len(validation) == round(0.1 * len(old))
        np.testing.assert_allclose(
            np.bincount(LABELS[validation]), 0.1 * np.bincount(LABELS[old]), atol=1
        )
        assert len(np.unique(LABELS[train])) == 10


def test_each_run_draws_from_the_seed_and_its_place() -> None:
    repeats = stack_splits(*[refit_split(LABELS)] * 3)
    drawn = [validation for _, validation, _ in parts(with_validation(repeats, 0.1, seed=4))]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    [(_, alone, _)] = parts(with_validation(refit_split(LABELS), 0.1, seed=4))
    assert alone == drawn[0]
    backwards = index_splits([(range(5), [5]), (np.arange(1797)[::-1], [])], kind=0)
    assert parts(with_validation(backwards, 0.1, seed=4))[1][1] == drawn[1]
    [(_, other, _)] = parts(with_validation(refit_split(LABELS), 0.1, seed=5))
    assert other != drawn[0]
    for by in ({"stratify": LABELS}, {"groups": np.arange(1797) // 3}):
        first, again = (parts(with_validation(repeats, 0.1, **by)) for _ in range(2))
        assert first == again and first[0] != first[1]


def test_every_row_of_a_class_or_of_equal_groups_has_the_same_chance_to_validate() -> None:
    labels = np.array([0] * 12 + [1] * 6 + [2] * 2)
    repeats = stack_splits(*[refit_split(labels)] * 1500)
    # 4 of 20 rows. Classes 0 and 2 have 2.4 and 0.4 rows to give: one of them gives one more.
    stratified = np.repeat([2.5 / 12, 1 / 6, 0.5 / 2], [12, 6, 2])
    choices: list[tuple[dict[str, Any], Any]] = [
        ({}, 0.2),
        ({"stratify": labels}, stratified),
        ({"groups": np.arange(20) // 2}, 0.2),
    ]
    for by, expected in choices:
        drawn = [rows for _, rows, _ in parts(with_validation(repeats, 0.2, **by))]
        times = np.bincount(np.concatenate(drawn), minlength=20) / 1500
        np.testing.assert_allclose(times, np.full(20, expected), atol=0.045)  # 4 sigma


def test_a_bootstrapped_row_validates_once_and_trains_no_more() -> None:
    rows = BOOTSTRAP[0]
    before = index_splits([(rows, np.setdiff1d(np.arange(24), rows))])
    [(train, validation, _)] = parts(with_validation(before, 0.3))
    assert len(validation) == len(set(validation)) == round(0.3 * len(set(rows)))
    assert train == [row for row in rows if row not in validation]


def test_known_kinds_need_their_own_validation_rows() -> None:
    grouped = index_splits(LeaveOneGroupOut().split(X, Y, GROUPS), groups=GROUPS)
    with_validation(grouped, 0.3, groups=GROUPS)
    for arguments in ({}, {"stratify": Y}, {"last": True}):
        with pytest.raises(ValueError) as raised:
            with_validation(grouped, 0.3, **arguments)
        assert str(raised.value) == (
            "run 0 is GROUPED: give groups, so that none trains and validates"
        )
    with_validation(grouped._replace(kind=None), 0.3)

    in_time = index_splits(TimeSeriesSplit(3).split(X))
    for train, validation, test in parts(with_validation(in_time, 0.3, last=True)):
        assert max(train) < min(validation) and max(validation) < min(test)
    for arguments in ({}, {"stratify": Y}, {"groups": GROUPS}):
        with pytest.raises(ValueError) as raised:
            with_validation(stack_splits(refit_split(Y), in_time), 0.3, **arguments)  # type: ignore[arg-type]
        assert str(raised.value) == (
            "run 1 is in TIME: give last=True, so that later rows validate"
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fraction": 0}, ValueError, "fraction must be between 0 and 1 (exclusive), got 0"),
        ({"fraction": 100}, ValueError, "fraction must be between 0 and 1 (exclusive), got 100"),
        (
            {"fraction": np.nan},
            ValueError,
            "fraction must be between 0 and 1 (exclusive), got nan",
        ),
        ({"fraction": "all"}, TypeError, "fraction must be a number, got 'all'"),
        ({"fraction": None}, TypeError, "fraction must be a number, got None"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 0.5}, TypeError, "seed must be an integer, got 0.5"),
        (
            {"stratify": Y, "groups": GROUPS},
            ValueError,
            "give only one of stratify, groups and last",
        ),
        (
            {"groups": GROUPS, "last": True},
            ValueError,
            "give only one of stratify, groups and last",
        ),
        (
            {"stratify": Y / 2},
            TypeError,
            "stratify must be classes, got float64; np.digitize(stratify, edges) makes classes of "
            "numbers",
        ),
        ({"stratify": X}, ValueError, "stratify must be 1-D, got shape (24, 2)"),
        ({"groups": GROUPS[:9]}, ValueError, "groups has 9 entries, but run 0 has row 22"),
        (
            {"splits": with_validation(kfold_splits(Y, 2), 0.2)},
            ValueError,
            "run 0 has validation rows already",
        ),
        (
            {"splits": index_splits([([0, 1], [1])], allow_overlap=True)},
            ValueError,
            "run 0 tests rows that it trains on, and they must not validate: give index_splits "
            "validation rows",
        ),
        ({"splits": [1]}, TypeError, "splits must be a Split, got list"),
    ],
)
def test_with_validation_errors(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        with_validation(**{"splits": kfold_splits(Y, 2), "fraction": 0.2, **arguments})
    assert str(raised.value) == message


# --- stacking ------------------------------------------------------------------------------------


def test_stacking_carries_validation_rows_and_kinds() -> None:
    plain = kfold_splits(LABELS, 3)
    tenth, third = (with_validation(refit_split(LABELS), f) for f in (0.1, 1 / 3))
    by_hand = Split(*plain[:4])  # as made by hand: no kind
    stacked = stack_splits(tenth, plain, third, by_hand)
    assert parts(stacked) == [run for each in (tenth, plain, third, plain) for run in parts(each)]
    assert stacked.validation_rows is not None and stacked.validation_weights is not None
    assert stacked.validation_rows.shape == stacked.validation_weights.shape == (8, 599)
    assert stacked.validation_weights.sum(axis=1).tolist() == [180, 0, 0, 0, 599, 0, 0, 0]
    assert stacked.kind is not None and stacked.kind.tolist() == [7, 1, 1, 1, 7, 0, 0, 0]
    assert stack_splits(by_hand).validation_rows is None


def test_runs_are_picked_by_jax_tree_map() -> None:
    splits = with_validation(kfold_splits(LABELS, 3), 0.1)
    picked = jax.tree.map(lambda leaf: leaf[[2, 0]], splits)
    assert [parts(picked)[i] for i in (1, 0)] == [parts(splits)[i] for i in (0, 2)]
    assert picked.kind.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"validation_rows": np.zeros((3, 2), int)},
            ValueError,
            "splits must be stacked, validation_rows and validation_weights [R, rows] with R at "
            "least 1; their shapes are (3, 2) and ()",
        ),
        (
            {"validation_rows": np.zeros((2, 2), int), "validation_weights": np.zeros((2, 2))},
            ValueError,
            "splits must be stacked, validation_rows and validation_weights [R, rows] with R at "
            "least 1; their shapes are (2, 2) and (2, 2)",
        ),
        (
            {"validation_rows": np.zeros((3, 2)), "validation_weights": np.zeros((3, 2))},
            TypeError,
            "validation_rows must be integers, got float64",
        ),
        ({"kind": 3}, ValueError, "kind must be [R], here (3,), got shape ()"),
        ({"kind": np.ones(3)}, TypeError, "kind must be integers, got float64"),
        ({"kind": [1, 9, 1]}, ValueError, "kind holds 9, which is no SplitKind"),
    ],
)
def test_what_does_not_fit_is_not_stacked(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        stack_splits(kfold_splits(LABELS, 3)._replace(**changes))
    assert str(raised.value) == message
