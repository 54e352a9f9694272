"""Statistics against published examples, definitions and other implementations."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from digits_jax.splits import SplitKind
from digits_jax.statistics import (
    bayesian_correlated_ttest,
    corrected_resampled_ttest,
    holm_correction,
    mcnemar_test,
    prediction_interval,
    summarize,
    wilson_interval,
)

NOTEBOOK = [
    0.9928825497627258,
    0.9902135133743286,
    0.9830960631370544,
    0.9893238544464111,
    0.9919928908348083,
]
RANDOM = np.random.default_rng(0)


def test_summary_of_the_notebooks_folds() -> None:
    summary = summarize(NOTEBOOK)
    assert summary.mean == pytest.approx(0.9895017743110657, rel=1e-12)
    assert summary.std == pytest.approx(0.0034411238805563847, rel=1e-12)  # ddof=0
    assert summary.size == 5


def test_plain_interval_is_scipys() -> None:
    scores = RANDOM.normal(size=7)
    interval = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert summarize(scores).ci95 == pytest.approx(tuple(interval), rel=1e-12)
    assert summarize(scores, train_rows=80, test_rows=0).ci95 == pytest.approx(tuple(interval))


def test_corrected_interval_by_hand() -> None:
    # J = 4, s² = 5/3, n_test/n_train = 1/4: error sqrt((1/4 + 1/4) 5/3); t(0.975, 3) = 3.182446.
    reach = 3.182446305284263 * math.sqrt(5 / 6)
    summary = summarize([1, 2, 3, 4], train_rows=80, test_rows=20)
    assert summary.ci95 == pytest.approx((2.5 - reach, 2.5 + reach), rel=1e-12)


def test_corrected_interval_covers_as_often_as_it_says() -> None:
    # Scores of correlation rho = n_test / (n_train + n_test): the model that the correction is for.
    rho, runs, trials = 0.2, 10, 4000
    shared = RANDOM.normal(size=(trials, 1)) * math.sqrt(rho)
    scores = shared + RANDOM.normal(size=(trials, runs)) * math.sqrt(1 - rho)

    def coverage(**sizes: float) -> float:
        intervals = [summarize(trial, **sizes).ci95 for trial in scores]
        return float(np.mean([low <= 0 <= high for low, high in intervals]))

    assert coverage(train_rows=80, test_rows=20) == pytest.approx(0.95, abs=0.015)  # 4 sigma
    assert coverage() < 0.8


def test_one_score_has_no_interval() -> None:
    summary = summarize([0.5], train_rows=80, test_rows=20)
    assert (summary.mean, summary.std, summary.size) == (0.5, 0, 1)
    assert all(math.isnan(bound) for bound in summary.ci95)
    assert summary.note == "a single score: no interval"


@pytest.mark.parametrize(
    ("score", "runs", "sizes", "right", "rows"),
    [
        (1.0, 5, (4496, 1124), 5620, 5620),  # five folds
        (0.0, 5, (80, 20), 0, 100),
        (0.95, 5, (80, 20), 95, 100),
        (np.float32(1110 / 1124), 5, (4496, 1124), 5550, 5620),  # as a network gives it
        (1.0, 5, (1437.6, 359.4), 1797, 1797),  # the mean of unequal folds
        (1.0, 100, (90, 10), 100, 100),  # ten folds ten times: 100 rows, not 1000
        (1.0, 3, (90, 10), 30, 30),  # three hold-outs
    ],
)
def test_equal_fractions_get_wilsons_interval_of_all_rows(
    score: float, runs: int, sizes: tuple[float, float], right: int, rows: int
) -> None:
    summary = summarize([score] * runs, train_rows=sizes[0], test_rows=sizes[1])
    test = stats.binomtest(right, rows)
    assert summary.ci95 == pytest.approx(tuple(test.proportion_ci(method="wilson")), rel=1e-9)
    assert summary.ci95[0] < summary.ci95[1]
    assert summary.mean == pytest.approx(score)
    assert summary.note == f"all scores are equal: Wilson's interval of {rows} rows"


@pytest.mark.parametrize(
    ("scores", "sizes"),
    [
        ([1.0] * 5, {}),  # no rows to count
        ([0.951] * 5, {"train_rows": 80, "test_rows": 20}),  # no fraction of 20 rows
        ([3.0] * 5, {"train_rows": 80, "test_rows": 20}),
        ([-1.0] * 5, {"train_rows": 80, "test_rows": 20}),
        ([1.0] * 5, {"train_rows": 80, "test_rows": 0}),
        ([0.1 + 0.2, 0.3], {}),  # equal but for rounding
        ([0.0, 1e-200], {}),  # its variance underflows
    ],
)
def test_other_equal_scores_have_no_interval(scores: list[float], sizes: dict[str, float]) -> None:
    summary = summarize(scores, **sizes)
    assert all(math.isnan(bound) for bound in summary.ci95)
    assert summary.note == "all scores are equal: no interval"


@pytest.mark.parametrize("kind", [SplitKind.TIME, SplitKind.LEAVE_ONE_OUT])
@pytest.mark.parametrize("scores", [NOTEBOOK, [1.0] * 5])
def test_kinds_of_splits_without_an_interval(kind: SplitKind, scores: list[float]) -> None:
    for kinds in (kind, [0, kind, kind, 1, 0]):
        summary = summarize(scores, train_rows=4496, test_rows=1124, kind=kinds)
        assert all(math.isnan(bound) for bound in summary.ci95)
        assert "no interval" in summary.note
        assert summary[:2] == summarize(scores)[:2] and summary.size == 5
    assert "time" in summary.note if kind == SplitKind.TIME else "wilson" in summary.note


def test_other_kinds_change_nothing() -> None:
    expected = summarize(NOTEBOOK, train_rows=80, test_rows=20)
    assert expected.note == ""
    for kind in set(SplitKind) - {SplitKind.TIME, SplitKind.LEAVE_ONE_OUT}:
        assert summarize(NOTEBOOK, train_rows=80, test_rows=20, kind=kind) == expected
    for wrong, message in (
        ([1] * 4, r"^kind must be one SplitKind or \[5\], got shape \(4,\)$"),
        (99, "^99 is not a valid SplitKind$"),
    ):
        with pytest.raises(ValueError, match=message):
            summarize(NOTEBOOK, kind=wrong)


def test_float32_scores_are_summed_in_float64() -> None:
    scores = np.full(100_000, 0.1, np.float32)
    assert summarize(scores).mean == pytest.approx(float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize(
    ("scores", "sizes", "message"),
    [
        ([], {}, "scores must be 1-D and not empty, got shape (0,)"),
        ([[1.0]], {}, "scores must be 1-D and not empty, got shape (1, 1)"),
        ([0.5, math.nan], {}, "scores must be finite, but scores[1] is nan"),
        ([math.inf, 0.5], {}, "scores must be finite, but scores[0] is inf"),
        ([1, 2], {"train_rows": 4}, "give both train_rows and test_rows, or neither"),
        ([1, 2], {"test_rows": 4}, "give both train_rows and test_rows, or neither"),
        (
            [1, 2],
            {"train_rows": 0, "test_rows": 4},
            "train_rows must be positive and test_rows not negative: 0, 4",
        ),
        (
            [1, 2],
            {"train_rows": 4, "test_rows": -1},
            "train_rows must be positive and test_rows not negative: 4, -1",
        ),
    ],
)
def test_summarize_errors(scores: Any, sizes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        summarize(scores, **sizes)
    assert str(raised.value) == message


def test_corrected_ttest_on_scikit_learns_published_example() -> None:
    """Corrected t 0.750, one-sided p 0.227, 43.2 % to be within 0.01; uncorrected t 2.611, p 0.005.

    "Statistical comparison of models using grid search", scikit-learn's gallery of examples.
    """
    points, labels = make_moons(noise=0.352, random_state=1, n_samples=100)
    splitter = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (
        cross_val_score(SVC(kernel=kernel), points, labels, cv=splitter, scoring="roc_auc")
        for kernel in ("rbf", "linear")
    )
    corrected = corrected_resampled_ttest(rbf, linear, train_rows=90, test_rows=10)
    assert corrected.statistic == pytest.approx(0.750, abs=5e-4)
    assert corrected.p_value / 2 == pytest.approx(0.227, abs=5e-4)
    bayes = bayesian_correlated_ttest(rbf, linear, train_rows=90, test_rows=10, rope=0.01)
    assert bayes.equal == pytest.approx(0.432, abs=5e-4)
    plain = corrected_resampled_ttest(rbf, linear, train_rows=90, test_rows=0)
    assert plain.statistic == pytest.approx(2.611, abs=5e-4)
    assert plain.p_value / 2 == pytest.approx(0.005, abs=5e-4)


def test_without_correction_it_is_scipys_paired_ttest() -> None:
    a, b = RANDOM.normal(0.3, 1, (2, 9))
    expected = stats.ttest_rel(a, b)
    result = corrected_resampled_ttest(a, b, train_rows=8, test_rows=0)
    assert result.statistic == pytest.approx(expected.statistic, rel=1e-12)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-12)
    assert result.mean_difference == pytest.approx(np.mean(a) - np.mean(b))
    assert result.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)


def test_corrected_ttest_by_hand_and_its_interval_ends_where_p_is_five_percent() -> None:
    # d = 1, 2, 3, 4 as in the interval above: t = 2.5 / sqrt(5/6).
    a, b = np.array([2.0, 4, 6, 8]), np.array([1.0, 2, 3, 4])
    result = corrected_resampled_ttest(a, b, train_rows=80, test_rows=20)
    assert result.statistic == pytest.approx(2.5 / math.sqrt(5 / 6), rel=1e-12)
    assert result.p_value == pytest.approx(2 * stats.t.sf(result.statistic, 3), rel=1e-12)
    assert result.ci95 == summarize(a - b, train_rows=80, test_rows=20).ci95
    for bound in result.ci95:
        at_bound = corrected_resampled_ttest(a - bound, b, train_rows=80, test_rows=20)
        assert at_bound.p_value == pytest.approx(0.05, rel=1e-9)


def test_swapping_the_methods_changes_only_the_sign() -> None:
    a, b = RANDOM.normal(size=(2, 5))
    one = corrected_resampled_ttest(a, b, train_rows=4, test_rows=1)
    two = corrected_resampled_ttest(b, a, train_rows=4, test_rows=1)
    assert one.p_value == two.p_value
    assert one.statistic == -two.statistic
    assert one.ci95 == pytest.approx((-two.ci95[1], -two.ci95[0]))


RIGHT = [1116, 1113, 1105, 1112, 1115, 1118]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 2, 3], [1, 2, 3]),
        (NOTEBOOK, NOTEBOOK),
        ([0.1 + 0.2, 0.5], [0.3, 0.5]),  # equal but for rounding
    ],
)
def test_methods_that_score_the_same_do_not_differ(a: list[float], b: list[float]) -> None:
    result = corrected_resampled_ttest(a, b, train_rows=2, test_rows=1)
    assert (result.statistic, result.p_value) == (0, 1)
    assert result.mean_difference == pytest.approx(0, abs=1e-15)
    assert all(math.isnan(bound) for bound in result.ci95)


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        ([1, 2, 3], [2, 3, 4], -1),
        ([0.9, 0.8, 0.7], [0.8, 0.7, 0.6], 0.1),  # 0.1 in three roundings
        (
            np.array(RIGHT, np.float32) / np.float32(1124),
            np.array(RIGHT, np.float32) / np.float32(1124) - np.float32(1 / 1124),
            1 / 1124,
        ),
        ([1e-200, 0.0], [0.0, 0.0], 5e-201),  # its variance underflows
    ],
)
def test_equal_differences_are_no_certainty(a: Any, b: Any, difference: float) -> None:
    result = corrected_resampled_ttest(a, b, train_rows=2, test_rows=1)
    assert math.isnan(result.statistic) and math.isnan(result.p_value)
    assert result.mean_difference == pytest.approx(difference, rel=1e-4)
    assert all(math.isnan(bound) for bound in result.ci95)


def test_one_row_of_a_large_test_set_is_a_spread() -> None:
    right = np.array([9000, 9001, 9002], np.float32) / np.float32(10_000)
    result = corrected_resampled_ttest(right, [0.9] * 3, train_rows=4, test_rows=1)
    assert 0 < result.p_value < 1 and result.ci95[0] < result.ci95[1]


def test_corrected_ttest_errors() -> None:
    with pytest.raises(ValueError, match="^scores_a has 2 scores and scores_b 3$"):
        corrected_resampled_ttest([1, 2], [1, 2, 3], train_rows=2, test_rows=1)
    with pytest.raises(ValueError, match="^a t-test needs at least two scores for each method"):
        corrected_resampled_ttest([1], [2], train_rows=2, test_rows=1)
    with pytest.raises(ValueError, match=r"^scores_b must be finite, but scores_b\[1\] is nan$"):
        corrected_resampled_ttest([1, 2], [2, math.nan], train_rows=2, test_rows=1)
    with pytest.raises(ValueError, match="^train_rows must be positive"):
        corrected_resampled_ttest([1, 2], [2, 4], train_rows=math.nan, test_rows=1)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """A hypothesis falls if Bonferroni's test rejects every set that holds it (Marcus 1976)."""
    for p in ([0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.5, 0.9], *RANDOM.beta(0.3, 2, (20, 5))):
        sets = [s for n in range(len(p)) for s in itertools.combinations(range(len(p)), n + 1)]
        bonferroni = {s: min(1.0, len(s) * min(p[i] for i in s)) for s in sets}
        expected = [max(bonferroni[s] for s in sets if i in s) for i in range(len(p))]
        np.testing.assert_allclose(holm_correction(p), expected, rtol=1e-12)


def test_holm_limits_the_chance_of_any_false_alarm() -> None:
    trials = RANDOM.uniform(size=(4000, 10))  # ten true null hypotheses
    alarms = float(np.mean([holm_correction(p).min() < 0.05 for p in trials]))
    assert alarms == pytest.approx(1 - (1 - 0.005) ** 10, abs=0.014)  # 4 sigma; 0.4 uncorrected


def test_holm_keeps_a_test_that_could_not_be_made_and_counts_it() -> None:
    adjusted = holm_correction([0.04, math.nan, 0.01, math.nan])
    assert np.isnan(adjusted).tolist() == [False, True, False, True]
    expected = holm_correction([0.04, 1, 0.01, 1])
    np.testing.assert_array_equal(adjusted[[0, 2]], expected[[0, 2]])


def test_holm_errors() -> None:
    with pytest.raises(ValueError, match=r"^p_values must be in 0\.\.1$"):
        holm_correction([0.5, 1.5, math.nan])
    with pytest.raises(ValueError, match=r"^p_values must be in 0\.\.1$"):
        holm_correction([0.5, -math.inf])
    with pytest.raises(ValueError, match=r"^p_values must be 1-D and not empty, got shape \(0,\)$"):
        holm_correction([])


def test_prediction_interval_on_a_published_example() -> None:
    """Montgomery and Runger, example 8-8: n = 22, mean 13.71, s = 3.55 give 6.16 to 21.26."""
    scores = RANDOM.normal(size=22)
    scores = 13.71 + 3.55 * (scores - scores.mean()) / scores.std(ddof=1)
    assert prediction_interval(scores) == pytest.approx((6.16, 21.26), abs=5e-3)


def test_prediction_interval_holds_one_more_correlated_score_as_often_as_it_says() -> None:
    shared, own = RANDOM.normal(size=(4000, 1)), RANDOM.normal(size=(4000, 6))
    intervals = [(prediction_interval(s[:5]), s[5]) for s in shared + own]
    inside = float(np.mean([low <= new <= high for (low, high), new in intervals]))
    assert inside == pytest.approx(0.95, abs=0.014)  # 4 sigma
    for none in ([0.5], [1.0] * 5):
        assert all(math.isnan(bound) for bound in prediction_interval(none))


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[bool], list[bool]]:
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


def test_mcnemar_on_a_published_example() -> None:
    """The vignette "Exact McNemar's Test" of R's exact2x2: b = 2, c = 9, p-value = 0.06543."""
    result = mcnemar_test(*outcomes(21, 2, 9, 12))
    assert (result.only_a, result.only_b) == (2, 9)
    assert result.p_value == pytest.approx(0.06543, abs=5e-6)


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 1), (3, 3), (5, 0), (86, 150), (40, 41), (1200, 1300)]
)
def test_mcnemar_is_twice_the_smaller_tail(only_a: int, only_b: int) -> None:
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    expected = min(1.0, 2 * tail / 2**discordant)  # of integers, so exact
    assert mcnemar_test(*outcomes(7, only_a, only_b, 0)) == pytest.approx(
        (only_a, only_b, expected), rel=1e-12
    )


def test_mcnemar_without_disagreement() -> None:
    assert mcnemar_test(*outcomes(3, 0, 0, 2)) == (0, 0, 1)


def test_mcnemar_errors() -> None:
    with pytest.raises(TypeError, match="^correct_b must be bool, got int64$"):
        mcnemar_test([True, False], np.array([1, 0], np.int64))
    with pytest.raises(ValueError, match="^correct_a has 1 rows and correct_b 2$"):
        mcnemar_test([True], [True, False])
    with pytest.raises(ValueError, match=r"^correct_a must be 1-D and not empty, got shape \(0,\)"):
        mcnemar_test([], [])


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_on_newcombes_table(successes: int, count: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3."""
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "count"), [(0, 1), (1, 1), (7, 9), (1780, 1797), (0, 1797), (10, 10)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_is_where_the_score_test_just_rejects(
    successes: int, count: int, confidence: float
) -> None:
    """Its definition: the p with |successes / count - p| = z sqrt(p (1 - p) / count)."""
    z = stats.norm.ppf((1 + confidence) / 2)
    interval = wilson_interval(successes, count, confidence)
    for p in interval:
        reach = z * math.sqrt(p * (1 - p) / count)
        assert abs(successes / count - p) == pytest.approx(reach, rel=1e-9, abs=1e-12)
    assert 0 <= interval[0] <= successes / count <= interval[1] <= 1
    assert interval[0] < interval[1]


def test_wilson_errors() -> None:
    with pytest.raises(TypeError, match="^successes and count must be integers, got 0.99 and 100$"):
        wilson_interval(0.99, 100)  # type: ignore[arg-type]
    for successes, count in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(ValueError, match=f"at least 1: {successes} of {count}$"):
            wilson_interval(successes, count)
    with pytest.raises(ValueError, match=r"^confidence must be between 0 and 1 \(exclusive\)"):
        wilson_interval(4, 5, 95)
