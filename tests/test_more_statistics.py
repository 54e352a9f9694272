"""Equivalence, planning, variance components, nested and clustered intervals.

Each against an independent package, published numbers, or the definition written as loops.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from digits_jax.statistics import (
    bayesian_correlated_ttest,
    cluster_interval,
    corrected_resampled_ttest,
    half_width,
    nested_interval,
    power,
    smallest_difference,
    summarize,
    variance_components,
    wilson_interval,
)

RANDOM = np.random.default_rng(1)


# --- equivalence ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("repeats", "rope"), [(1, 0.01), (10, 0.002), (3, 0.0), (4, 1e-4)])
def test_the_bayesian_test_is_baycomps(repeats: int, rope: float) -> None:
    baycomp = pytest.importorskip("baycomp", reason="baycomp is not installed (pip install it)")
    folds = 5
    a, b = RANDOM.normal([[0.991], [0.988]], 0.003, (2, folds * repeats))
    found = bayesian_correlated_ttest(a, b, train_rows=4, test_rows=1, rope=rope)
    expected = baycomp.CorrelatedTTest.probs(a, b, rope=rope, runs=repeats)  # left: a is larger
    if rope:
        assert found[:3] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    else:
        assert (found.better, found.worse) == pytest.approx(expected, rel=1e-9)
        assert found.equal == pytest.approx(0, abs=1e-12)


def test_the_bayesian_test_on_scikit_learns_published_numbers() -> None:
    """Corrected t 0.750 of 100 scores: rbf is better than linear with a probability of 0.773.

    "Statistical comparison of models using grid search", scikit-learn's gallery of examples; the
    region of equivalence there is in ``test_statistics.py``, beside the scores themselves.
    """
    scores = RANDOM.normal(size=100)
    scores = (scores - scores.mean()) / scores.std(ddof=1)
    spread = 1 / (0.750 * math.sqrt(1 / 100 + 1 / 9))  # so that t = 0.750 with a mean of 1
    a = 1 + spread * scores
    found = bayesian_correlated_ttest(a, np.zeros(100), train_rows=90, test_rows=10, rope=0)
    test = corrected_resampled_ttest(a, np.zeros(100), train_rows=90, test_rows=10)
    assert test.statistic == pytest.approx(0.750)
    assert found.better == pytest.approx(0.773, abs=1e-3)


def test_its_central_mass_is_the_interval_of_the_test() -> None:
    a, b = RANDOM.normal(size=(2, 10))
    sizes = {"train_rows": 80, "test_rows": 20}
    low, high = corrected_resampled_ttest(a, b, **sizes).ci95
    shifted = a - (low + high) / 2
    found = bayesian_correlated_ttest(shifted, b, **sizes, rope=(high - low) / 2)
    assert found[:3] == pytest.approx((0.025, 0.95, 0.025), rel=1e-9)
    turned = bayesian_correlated_ttest(b, a, **sizes, rope=0.1)
    straight = bayesian_correlated_ttest(a, b, **sizes, rope=0.1)
    assert (turned.better, turned.worse) == pytest.approx((straight.worse, straight.better))


def test_equal_differences_have_no_posterior_and_a_wrong_rope_is_refused() -> None:
    for b in ([0.5, 0.6, 0.7], [0.4, 0.5, 0.6]):
        found = bayesian_correlated_ttest([0.5, 0.6, 0.7], b, train_rows=4, test_rows=1, rope=0.1)
        assert all(math.isnan(each) for each in found[:3])
    for rope in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="^rope must be at least 0 and finite, not"):
            bayesian_correlated_ttest([1, 2], [2, 4], train_rows=4, test_rows=1, rope=rope)


# --- planning ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("difference", "pairs", "expected"), [(0.5, 34, 0.8078), (0.2, 199, 0.8)])
def test_power_of_the_paired_t_test_is_published(
    difference: float, pairs: int, expected: float
) -> None:
    """Cohen's d of 0.5 needs 34 pairs for 80 % (G*Power: 0.8078), one of 0.2 needs 199."""
    found = power(difference, 1, pairs, train_rows=1, test_rows=0)
    assert found == pytest.approx(expected, abs=2e-3)
    sizes = {"train_rows": 1, "test_rows": 0}
    assert smallest_difference(1, pairs, **sizes) <= difference
    assert smallest_difference(1, pairs - 1, **sizes) > difference
    assert power(9, 1, pairs, **sizes) == 1


def test_power_and_the_corrected_test_agree_in_a_simulation() -> None:
    runs, sizes = 10, {"train_rows": 80, "test_rows": 20}
    rho = 0.2  # n_test / (n_train + n_test): what the correction takes the correlation to be
    shared = RANDOM.normal(size=(4000, 1)) * math.sqrt(rho)
    scores = shared + RANDOM.normal(size=(4000, runs)) * math.sqrt(1 - rho)
    within = math.sqrt(1 - rho)
    for difference in (0.0, smallest_difference(within, runs, **sizes)):
        tests = (corrected_resampled_ttest(s + difference, 0 * s, **sizes) for s in scores)
        found = float(np.mean([test.p_value < 0.05 for test in tests]))
        assert found == pytest.approx(power(difference, within, runs, **sizes), abs=0.026)
    assert power(0, within, runs, **sizes) == pytest.approx(0.05, rel=1e-6)


def test_half_width_is_that_of_the_interval_and_hardly_falls_after_five_repeats() -> None:
    sizes = {"train_rows": 4496, "test_rows": 1124}
    scores = RANDOM.normal(size=25)
    low, high = summarize(scores, **sizes).ci95
    assert half_width(scores.std(ddof=1), 25, **sizes) == pytest.approx((high - low) / 2, rel=1e-12)
    widths = [half_width(1, 5 * repeats, **sizes) for repeats in (1, 5, 100)]
    assert widths[0] - widths[1] > 5 * (widths[1] - widths[2]) > 0
    assert widths[2] > stats.norm.ppf(0.975) * math.sqrt(1124 / 4496)  # never below


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: half_width(0, 5, train_rows=4, test_rows=1), "sd must be positive and finite"),
        (lambda: half_width(1, 1, train_rows=4, test_rows=1), "runs must be at least 2, not 1"),
        (lambda: half_width(1, 2, train_rows=4, test_rows=1, confidence=95), "between 0 and 1"),
        (lambda: power(math.nan, 1, 5, train_rows=4, test_rows=1), "difference must be finite"),
        (lambda: power(1, 1, 5, train_rows=4, test_rows=1, alpha=0), "alpha must be between"),
        (lambda: smallest_difference(1, 5, train_rows=4, test_rows=1, target=1), "target must be"),
    ],
)
def test_planning_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- variance components -------------------------------------------------------------------------

# Diameters of growth of 6 samples of penicillin (rows) on 24 plates: Davies and Goldsmith (1972),
# Statistical Methods in Research and Production, table 6.6; lme4's data set Penicillin.
PENICILLIN = """27 27 25 26 25 24 24 26 24 24 26 25 26 26 26 25 25 25 24 26 25 25 24 24
23 23 21 23 22 22 20 22 21 21 23 22 24 23 23 22 21 22 21 23 21 22 21 21
26 26 25 25 26 25 23 26 24 24 26 26 26 26 25 25 24 24 23 26 24 25 24 24
23 23 24 23 22 23 21 24 22 23 24 24 24 23 24 23 23 23 21 24 22 22 22 22
23 23 24 23 23 22 22 24 22 22 24 24 25 23 24 23 23 23 21 24 22 22 24 21
21 21 20 20 20 19 19 21 20 19 21 20 22 20 22 20 20 19 19 21 18 20 19 18"""


def test_variance_components_on_a_published_example() -> None:
    """Bates et al., lme4: REML standard deviations of plate 0.8467, sample 1.9316, residual 0.5499.

    In a balanced design whose estimates are positive, REML is the analysis of variance.
    """
    diameters = np.array([line.split() for line in PENICILLIN.splitlines()], float)
    found = variance_components(diameters, ["sample", "plate"])
    assert [each.factors for each in found] == [("sample",), ("plate",), ("sample", "plate")]
    assert [each.sd for each in found] == pytest.approx([1.9316, 0.8467, 0.5499], abs=5e-5)
    assert sum(each.fraction for each in found) == pytest.approx(1)
    for each in found:
        assert each.ci95[0] < each.fraction < each.ci95[1]


def _reml(scores: np.ndarray, sets: list[tuple[int, ...]]) -> np.ndarray:
    """Components by maximizing the restricted likelihood, of a small design."""
    from scipy.optimize import minimize

    cells = np.array(list(np.ndindex(scores.shape)))
    designs = []
    for chosen in sets:
        level = np.unique(cells[:, chosen], axis=0, return_inverse=True)[1].reshape(-1)
        z = np.eye(level.max() + 1)[level]
        designs.append(z @ z.T)
    y, ones = scores.ravel(), np.ones(scores.size)

    def negative(log_variances: np.ndarray) -> float:
        v = sum(np.exp(s) * d for s, d in zip(log_variances, designs, strict=True))
        inverse = np.linalg.inv(v)
        mean = (ones @ inverse @ y) / (ones @ inverse @ ones)
        rest = y - mean
        determinants = np.linalg.slogdet(v)[1] + math.log(ones @ inverse @ ones)
        return float(determinants + rest @ inverse @ rest)

    start = np.zeros(len(sets))
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 20_000, "maxfev": 20_000}
    best = minimize(negative, start, method="Nelder-Mead", options=options)
    return np.exp(best.x)


def test_three_factors_are_reml() -> None:
    chance = np.random.default_rng(3)
    a, b, c = (chance.normal(0, s, n) for s, n in ((2, 4), (1.5, 3), (1, 3)))
    scores = a[:, None, None] + b[:, None] + c + chance.normal(0, 1, (4, 3, 1))
    scores = scores + chance.normal(0, 1, (4, 1, 3)) + chance.normal(0, 1, (1, 3, 3))
    scores = scores + chance.normal(0, 0.5, (4, 3, 3))
    found = variance_components(scores, ["a", "b", "c"])
    assert min(each.variance for each in found) > 0  # else REML differs
    sets = [s for n in (1, 2, 3) for s in itertools.combinations(range(3), n)]
    expected = _reml(scores, sets)
    np.testing.assert_allclose([each.variance for each in found], expected, rtol=1e-3)


def test_intervals_of_fractions_hold_their_level() -> None:
    chance, inside = np.random.default_rng(4), []
    for trial in range(300):
        scores = chance.normal(0, 2, (6, 1)) + chance.normal(0, 1, 6) + chance.normal(size=(6, 6))
        first = variance_components(scores, ["a", "b"], draws=500, seed=trial)[0]
        inside.append(first.ci95[0] <= 4 / 6 <= first.ci95[1])
    assert np.mean(inside) == pytest.approx(0.95, abs=0.05)  # 4 sigma


def test_a_factor_without_effect_has_none() -> None:
    scores = np.tile([[1.0], [2.0], [4.0]], (1, 5))
    a, b, both = variance_components(scores, ["a", "b"])
    assert a.fraction == 1 and b.fraction == both.fraction == 0
    with pytest.raises(ValueError, match="^scores must be finite"):
        variance_components([[1, math.nan], [2, 3]], ["a", "b"])
    with pytest.raises(ValueError, match="^factors must name each axis of scores once"):
        variance_components(scores, ["a"])
    with pytest.raises(ValueError, match="^each factor needs at least two levels"):
        variance_components([[1, 2]], ["a", "b"])


# --- nested cross-validation ---------------------------------------------------------------------


def test_the_nested_interval_by_the_algorithm_of_the_paper() -> None:
    """Algorithm 1, in its own order: lists of a, b and errors, on an unequal number of rows."""
    repeats, rows, count = 3, 32, 5
    inner = RANDOM.normal(0.2, 1, (repeats, rows, count))
    inner += RANDOM.normal(0, 2, (repeats, 1, count))  # so that the inflation is within its limits
    outer = RANDOM.normal(0.1, 1, (repeats, rows))
    folds = np.stack([RANDOM.permutation(rows) % count for _ in range(repeats)])
    a_list, b_list, errors = [], [], []
    for r in range(repeats):
        for k in range(count):
            e_in = [inner[r, i, k] for i in range(rows) if folds[r, i] != k]
            e_out = [outer[r, i] for i in range(rows) if folds[r, i] == k]
            a_list.append((np.mean(e_in) - np.mean(e_out)) ** 2)
            b_list.append(stats.sem(e_out) ** 2)
            errors += e_in
    mse = np.mean(a_list) - np.mean(b_list)
    bias = (1 + (3 / 5) ** 1.5) * (np.mean(errors) - outer.mean())
    found = nested_interval(outer, inner, folds)
    assert found.bias == pytest.approx(bias) and found.mean == pytest.approx(np.mean(errors) - bias)
    plain = np.std(errors, ddof=1) / math.sqrt(rows)
    inflation = math.sqrt(mse * 25 / 32) / plain
    assert found.inflation == pytest.approx(min(max(inflation, 1), math.sqrt(count)))
    reach = stats.norm.ppf(0.975) * plain * found.inflation
    assert found.ci95 == pytest.approx((found.mean - reach, found.mean + reach))
    normal = stats.norm.interval(0.95, outer[0].mean(), stats.sem(outer[0]))
    assert found.plain95 == pytest.approx(normal)


def test_the_inflation_is_held_between_1_and_sqrt_k() -> None:
    folds = np.arange(30)[np.newaxis] % 3
    same = np.tile((np.arange(30) % 2)[np.newaxis, :, np.newaxis], (1, 1, 3)).astype(float)
    assert nested_interval(same[..., 0], same, folds).inflation == 1
    far = nested_interval(same[..., 0] + 9 * (folds == 1), same, folds)
    assert far.inflation == pytest.approx(math.sqrt(3))
    assert nested_interval(0 * same[..., 0], 0 * same, folds).ci95 == (0, 0)


def test_nested_errors() -> None:
    with pytest.raises(ValueError, match="^outer must be "):
        nested_interval(np.zeros((1, 5)), np.zeros((1, 4, 3)), np.zeros((1, 5), int))
    with pytest.raises(ValueError, match="^nested cross-validation needs at least three folds"):
        nested_interval(np.zeros((1, 4)), np.zeros((1, 4, 2)), np.zeros((1, 4), int))
    with pytest.raises(ValueError, match="^scores must be finite"):
        nested_interval(np.full((1, 6), math.nan), np.zeros((1, 6, 3)), [np.arange(6) % 3])


# --- clusters ------------------------------------------------------------------------------------


def test_the_cluster_interval_is_that_of_all_samples() -> None:
    """Of three clusters there are 27 samples; the quantiles of their means are exact."""
    scores = np.array([1, 1, 0, 1, 0, 0, 0.5, 1, 1, 1])
    clusters = np.array(["a", "a", "a", "b", "b", "b", "b", "c", "c", "c"])
    means = []
    for drawn in itertools.product("abc", repeat=3):
        rows = np.concatenate([scores[clusters == each] for each in drawn])
        means.append(rows.mean())
    # A level whose quantiles don't fall between two of the 27 means.
    found = cluster_interval(scores, clusters, confidence=0.8, resamples=200_000)
    expected = np.quantile(means, (0.1, 0.9), method="inverted_cdf")
    assert found == pytest.approx(expected, abs=1e-9)


def test_clusters_of_one_row_are_a_plain_bootstrap() -> None:
    scores = (np.arange(300) < 285).astype(float)
    found = cluster_interval(scores, np.arange(300))
    plain = stats.bootstrap((scores,), np.mean, method="percentile", rng=np.random.default_rng(0))
    assert found == pytest.approx(tuple(plain.confidence_interval), abs=0.004)
    assert found == pytest.approx(wilson_interval(285, 300), abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], [0, 0]), "a bootstrap of clusters needs at least two"),
        (([1, 0], [0, 1, 2]), r"clusters must be \[2\] as scores, got shape \(3,\)"),
        (([1, math.nan], [0, 1]), "scores must be finite"),
    ],
)
def test_cluster_errors(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        cluster_interval(*arguments)
    with pytest.raises(ValueError, match="^confidence must be between 0 and 1"):
        cluster_interval([1, 0], [0, 1], confidence=95)
    with pytest.raises(ValueError, match="^resamples must be at least 1"):
        cluster_interval([1, 0], [0, 1], resamples=0)
