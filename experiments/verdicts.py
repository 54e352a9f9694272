"""One method against each of the others: tests, equivalence, probabilities, and their wording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common.tables import Table
from digits_jax.calibration import brier_score
from methods import Predictions, title
from report import NADEAU


def against_each(
    reference: str,
    others: Sequence[str],
    accuracies: Mapping[str, npt.NDArray[Any]],
    wrong: Mapping[str, npt.NDArray[Any]],
    sizes: Mapping[str, float],
    *,
    rope: float,
) -> list[dict[str, Any]]:
    """The reference against each other method, one family of tests.

    Of the folds' accuracies: the corrected resampled t-test, Holm's correction for the family, and
    the Bayesian correlated t-test. Of the rows: McNemar's exact test of each repeat alone, since
    repeats predict the same rows; no one number sums up their p-values.

    Args:
        reference: the method of the family's question, chosen before the scores are seen.
        others: whom it is compared with, in the order of the answer.
        accuracies: [J] of each method, on the same splits.
        wrong: bool [repeats, N] of each method.
        sizes: ``train_rows`` and ``test_rows``.
        rope: differences of accuracy up to this count as none.
    """
    pairs: list[dict[str, Any]] = []
    for other in others:
        scores = accuracies[reference], accuracies[other]
        test = dj.corrected_resampled_ttest(*scores, **sizes)
        bayes = dj.statistics.bayesian_correlated_ttest(*scores, **sizes, rope=rope)
        each = zip(wrong[reference], wrong[other], strict=True)
        rows = [dj.mcnemar_test(~a, ~b) for a, b in each]
        sd = float(np.std(scores[0] - scores[1], ddof=1))
        finds = math.nan  # where all differences are equal
        if not math.isnan(test.ci95[0]):
            finds = dj.statistics.smallest_difference(sd, len(scores[0]), **sizes)
        pairs.append(
            {
                "a": reference,
                "b": other,
                "difference": test.mean_difference,
                "low": test.ci95[0],
                "high": test.ci95[1],
                "t": test.statistic,
                "p": test.p_value,
                **{f"p_{name}": getattr(bayes, name) for name in ("better", "equal", "worse")},
                "rope": rope,
                "finds_80": finds,
                "only_a_right": sum(row.only_a for row in rows) / len(rows),
                "only_b_right": sum(row.only_b for row in rows) / len(rows),
                "mcnemar_repeats": len(rows),
                "mcnemar_below_5_percent": sum(row.p_value < 0.05 for row in rows),
            }
        )
    p_values = [pair["p"] for pair in pairs]
    adjusted = dj.statistics.holm_correction(p_values).tolist() if pairs else []
    return [{**pair, "p_holm": p} for pair, p in zip(pairs, adjusted, strict=True)]


def pairs_tables(pairs: Sequence[Mapping[str, Any]]) -> tuple[Table, Table]:
    """The tests of ``against_each``, at least one; and what else is known of each pair."""
    rope = f"{100 * pairs[0]['rope']:g}"
    names = [f"{title(pair['a'])} – {title(pair['b'])}" for pair in pairs]
    tested = Table(
        "One against each other",
        ("pair", "difference (points)", "95 % interval", "p", "p, Holm"),
        [
            (
                name,
                f"{100 * pair['difference']:+.2f}",
                f"{100 * pair['low']:+.2f} to {100 * pair['high']:+.2f}",
                p_text(pair["p"]),
                p_text(pair["p_holm"]),
            )
            for name, pair in zip(names, pairs, strict=True)
        ],
        f"One family of {len(pairs)} tests: {title(pairs[0]['a'])} against each other method. "
        f"{NADEAU} Holm: p corrected for the family.",
    )
    more = Table(
        "Better, equal or worse",
        ("pair", "better (%)", "equal", "worse", "would find (points)", "McNemar p < 0.05"),
        [
            (
                name,
                *(_share(pair[f"p_{which}"]) for which in ("better", "equal", "worse")),
                "–" if math.isnan(pair["finds_80"]) else f"{100 * pair['finds_80']:.2f}",
                f"{pair['mcnemar_below_5_percent']} of {pair['mcnemar_repeats']}",
            )
            for name, pair in zip(names, pairs, strict=True)
        ],
        "Probabilities of the Bayesian correlated t-test (Corani and Benavoli 2015), equal being "
        f"within {rope} points. Would find: the smallest true difference that so many folds find "
        "with 80 % power. McNemar's exact test is of the rows of one repeat: in how many repeats "
        "its p is below 0.05.",
    )
    return tested, more


def _share(probability: float) -> str:
    return "–" if math.isnan(probability) else f"{100 * probability:.1f}"


def p_text(p: float) -> str:
    """A p-value in words that claim no more than a t distribution's tail can say."""
    if math.isnan(p):
        return "–"
    return "< 10⁻⁶" if p < 1e-6 else f"{p:.2g}"


def probability_scores(
    done: Predictions, labels: npt.NDArray[Any], repeats: int
) -> dict[str, float] | None:
    """NLL (nats), Brier score and expected calibration error, means over the repeats.

    None of a method that gives no probabilities.
    """
    if not done.logits.shape[-1]:
        return None
    found = []
    for rows, logits in zip(
        np.split(done.rows, repeats), np.split(done.logits, repeats), strict=True
    ):
        tested, shares = dj.metrics.pooled_predictions(rows, logits)
        truth = labels[tested]
        found.append(
            (
                dj.metrics.classification_scores(truth, shares).log_loss,
                brier_score(truth, shares),
                dj.metrics.reliability(truth, shares).expected_calibration_error,
            )
        )
    names = ("nll", "brier", "calibration_error")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def probability_table(scores: Mapping[str, Mapping[str, float] | None]) -> Table:
    """NLL, Brier score and calibration error of methods, by name; a dash where there is none."""
    return Table(
        "Probabilities",
        ("method", "NLL (nats)", "Brier score", "calibration error"),
        [
            (
                title(name),
                *(
                    "–" if each is None else f"{each[score]:.{digits}f}"
                    for score, digits in {"nll": 3, "brier": 4, "calibration_error": 4}.items()
                ),
            )
            for name, each in scores.items()
        ],
        "Means over the repeats of negative log-likelihood, Brier score and expected calibration "
        "error.",
    )
