"""One method against each of the others: tests, equivalence, probabilities, and their wording."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from methods import Predictions

COLUMNS = (
    "pair",
    "difference (points)",
    "95 % interval",
    "p",
    "p, Holm",
    "better / equal / worse (%)",
    "would find (points)",
    "McNemar p < 0.05",
)


def against_each(
    reference: str,
    others: Sequence[str],
    accuracies: Mapping[str, np.ndarray],
    wrong: Mapping[str, np.ndarray],
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
    import numpy as np

    import digits_jax as dj
    from digits_jax.statistics import (
        bayesian_correlated_ttest,
        holm_correction,
        smallest_difference,
    )

    pairs: list[dict[str, Any]] = []
    for other in others:
        scores = accuracies[reference], accuracies[other]
        test = dj.corrected_resampled_ttest(*scores, **sizes)
        bayes = bayesian_correlated_ttest(*scores, **sizes, rope=rope)
        each = zip(wrong[reference], wrong[other], strict=True)
        rows = [dj.mcnemar_test(~a, ~b) for a, b in each]
        sd, count = float(np.std(scores[0] - scores[1], ddof=1)), len(scores[0])
        has_spread = not math.isnan(test.ci95[0])
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
                "finds_80": smallest_difference(sd, count, **sizes) if has_spread else math.nan,
                "only_a_right": sum(row.only_a for row in rows) / len(rows),
                "only_b_right": sum(row.only_b for row in rows) / len(rows),
                "mcnemar_repeats": len(rows),
                "mcnemar_below_5_percent": sum(row.p_value < 0.05 for row in rows),
            }
        )
    adjusted = holm_correction([pair["p"] for pair in pairs]).tolist() if pairs else []
    return [{**pair, "p_holm": p} for pair, p in zip(pairs, adjusted, strict=True)]


def cells(pair: Mapping[str, Any], titles: Mapping[str, str]) -> tuple[str, ...]:
    """A pair's cells of the table with ``COLUMNS``."""
    shares = [pair[f"p_{name}"] for name in ("better", "equal", "worse")]
    return (
        f"{titles[pair['a']]} – {titles[pair['b']]}",
        f"{100 * pair['difference']:+.2f}",
        f"{100 * pair['low']:+.2f} to {100 * pair['high']:+.2f}",
        p_text(pair["p"]),
        p_text(pair["p_holm"]),
        "–" if math.isnan(shares[0]) else " / ".join(f"{100 * share:.1f}" for share in shares),
        "–" if math.isnan(pair["finds_80"]) else f"{100 * pair['finds_80']:.2f}",
        f"{pair['mcnemar_below_5_percent']} of {pair['mcnemar_repeats']}",
    )


def note(pairs: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """What the table's columns mean."""
    return (
        f"One family of {len(pairs)} tests: {titles[pairs[0]['a']]} against each other method. "
        "p: corrected resampled t-test (Nadeau and Bengio 2003); Holm: corrected for the family. "
        "Better, equal, worse: probabilities of the Bayesian correlated t-test (Corani and "
        f"Benavoli 2015), equal being within {100 * pairs[0]['rope']:g} points. Would find: the "
        "smallest true difference that so many folds find with 80 % power. McNemar's exact "
        "test is of the rows of one repeat: in how many repeats its p is below 0.05."
    )


def p_text(p: float) -> str:
    """A p-value in words that claim no more than a t distribution's tail can say."""
    if math.isnan(p):
        return "–"
    return "< 10⁻⁶" if p < 1e-6 else f"{p:.2g}"


def probability_scores(
    done: Predictions, labels: np.ndarray, repeats: int
) -> dict[str, float] | None:
    """NLL (nats), Brier score and expected calibration error, means over the repeats.

    None of a method that gives no probabilities.
    """
    import numpy as np

    from digits_jax import metrics
    from digits_jax.calibration import brier_score

    if not done.logits.shape[-1]:
        return None
    found = []
    for rows, logits in zip(
        np.split(done.rows, repeats), np.split(done.logits, repeats), strict=True
    ):
        tested, shares = metrics.pooled_predictions(rows, logits)
        truth = labels[tested]
        found.append(
            (
                metrics.classification_scores(truth, shares).log_loss,
                brier_score(truth, shares),
                metrics.reliability(truth, shares).expected_calibration_error,
            )
        )
    names = ("nll", "brier", "calibration_error")
    return dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))


def probability_cells(scores: Mapping[str, float] | None) -> tuple[str, ...]:
    """NLL, Brier score and calibration error as cells of a table."""
    if scores is None:
        return ("–", "–", "–")
    return (f"{scores['nll']:.3f}", f"{scores['brier']:.4f}", f"{scores['calibration_error']:.4f}")
