"""How often does a 95 % interval of cross-validation hold what it is said to hold? A simulation.

    python experiments/coverage.py

Data sets are drawn whose truth is known: normal features, two classes whose log-odds are linear in
four of them. A linear classifier (least squares, which can be fitted thousands of times a second)
is cross-validated on each, and three intervals are made: the plain one of Student's t over the
folds of one cross-validation, as if these were independent; Nadeau and Bengio's corrected one over
repeated folds; and that of nested cross-validation (Bates et al. 2024). Counted is how often each
holds the accuracy, on new rows, of the classifier fitted to all rows, and how often the mean
accuracy of classifiers fitted to as many rows as a fold trains on, which is what the corrected
interval is made for. It writes ``report.html``, ``results.json`` (whole) and a figure.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common import command_line, console, options, progress, startup
from common.drawing import plots
from common.output import Output
from common.scores import counted
from common.tables import Table
from report import Report

KINDS = ("plain", "corrected", "nested")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Figures):
    """The options of the command line."""

    rows: tuple[int, ...] = (50, 100, 200, 400)
    """Rows of the data sets, one setting each."""
    features: int = 20
    """Features of a row; the first four tell the classes."""
    folds: int = 5
    """Folds of each cross-validation."""
    repeats: int = 50
    """Repeats of the corrected and the nested one."""
    trials: int = 1000
    """Data sets of each setting."""
    seed: int = 0
    """Seed of all draws."""


def main(config: Config) -> None:
    """Simulates, counts, writes."""
    options.positive(repeats=config.repeats, trials=config.trials, folds=config.folds)
    options.positive(features=config.features, rows=min(config.rows, default=1))
    options.at_least(3, folds=config.folds)
    options.at_least(4, features=config.features)
    least = config.features * config.folds // (config.folds - 2) + config.folds
    for rows in config.rows:
        fits = f"--rows must be above {least} for {config.features} --features, not {rows}"
        options.require(rows > least, fits)
    options.seed(seed=config.seed)
    output = Output(config, script="coverage")
    startup.start_jax(compilation_cache=False)
    output.claim()
    console.say(options.ALL_OR_NOTHING, console.notes)
    found = {}
    for rows in config.rows:
        with progress.waiting(f"{rows} rows: {counted(config.trials, 'data set')}") as now:
            found[rows] = simulate(config, rows, now)
    report(config, found, output)


def simulate(config: Config, rows: int, now: Callable[[str], None]) -> dict[str, Any]:
    """Of data sets of so many rows: coverage and mean width by kind of interval.

    ``now`` is told how many are done.
    """
    chance = np.random.default_rng([config.seed, rows])
    sizes = {"train_rows": rows * (1 - 1 / config.folds), "test_rows": rows / config.folds}
    intervals = np.zeros((config.trials, len(KINDS), 2))
    of_all, of_fewer = np.zeros(config.trials), np.zeros(config.trials)
    for trial in range(config.trials):
        now(f"{rows} rows: {trial} of {counted(config.trials, 'data set')}")
        x, y = draw(chance, rows, config.features)
        outer, inner, fold = cross_validated(chance, x, y, config.folds, config.repeats)
        by_fold = [[outer[r, fold[r] == k].mean() for k in range(config.folds)]
                   for r in range(config.repeats)]  # fmt: skip
        intervals[trial] = [
            dj.summarize(by_fold[0]).ci95,
            dj.summarize(np.ravel(by_fold), **sizes).ci95,
            dj.statistics.nested_interval(outer, inner, fold).ci95,
        ]
        of_all[trial] = accuracy(fitted(x, y))
        fewer = fold[0] != 0
        of_fewer[trial] = accuracy(fitted(x[fewer], y[fewer]))
    inside = {"fitted to all": of_all, "mean of folds' size": np.full_like(of_all, of_fewer.mean())}
    counts = {
        name: [
            int(((intervals[:, i, 0] <= truth) & (truth <= intervals[:, i, 1])).sum())
            for i in range(len(KINDS))
        ]
        for name, truth in inside.items()
    }
    return {
        "held": counts,
        "width": (intervals[..., 1] - intervals[..., 0]).mean(axis=0),
        "accuracy": {"fitted to all": of_all.mean(), "mean of folds' size": of_fewer.mean()},
    }


def draw(
    chance: np.random.Generator, rows: int, features: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows [N, features + 1], a constant first, and classes -1 and 1 [N]."""
    x = chance.normal(size=(rows, features))
    odds = x[:, :4].sum(axis=1)
    y = np.where(chance.random(rows) < 1 / (1 + np.exp(-odds)), 1.0, -1.0)
    return np.concatenate([np.ones((rows, 1)), x], axis=1), y


def fitted(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weights of the least-squares classifier."""
    weights: npt.NDArray[Any] = np.linalg.solve(x.T @ x, x.T @ y)
    return weights


def accuracy(weights: npt.NDArray[Any]) -> float:
    """On new rows: an integral over the two directions that count, by 4001 quantiles of one.

    With s the log-odds, normal with variance 4, and the score given s normal too, it is the mean
    over s of P(score > 0 | s) p(s) + P(score <= 0 | s) (1 - p(s)).
    """
    from scipy.special import expit, ndtr, ndtri

    s = 2 * ndtri((np.arange(4001) + 0.5) / 4001)
    slope = weights[1:5].sum() / 4
    rest = max(float((weights[1:] ** 2).sum()) - 4 * slope**2, 1e-12)
    positive = ndtr((weights[0] + slope * s) / np.sqrt(rest))
    return float((positive * expit(s) + (1 - positive) * expit(-s)).mean())


def cross_validated(
    chance: np.random.Generator,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    folds: int,
    repeats: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Whether each row is right, as ``nested_interval`` takes it: outer, inner, folds."""
    rows = len(x)
    fold = np.stack([chance.permutation(rows) % folds for _ in range(repeats)])
    member = fold[..., np.newaxis] == np.arange(folds)  # [repeats, N, K]
    gram = np.einsum("rnk,ni,nj->rkij", member, x, x, optimize=True)
    moment = np.einsum("rnk,ni->rki", member, x * y[:, np.newaxis], optimize=True)
    whole, whole_moment = x.T @ x, x.T @ y

    def right(left_out: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Of models without these folds: [repeats, N]."""
        some = list(left_out)
        a, b = whole - gram[:, some].sum(axis=1), whole_moment - moment[:, some].sum(axis=1)
        weights = np.linalg.solve(a, b[..., np.newaxis])[..., 0]
        answer: npt.NDArray[np.bool_] = (weights @ x.T > 0) == (y > 0)
        return answer

    outer, inner = np.zeros((repeats, rows)), np.zeros((repeats, rows, folds))
    for k in range(folds):
        outer = np.where(fold == k, right((k,)), outer)
    for j, k in itertools.combinations(range(folds), 2):
        answers = right((j, k))
        inner[..., k] = np.where(fold == j, answers, inner[..., k])
        inner[..., j] = np.where(fold == k, answers, inner[..., j])
    return outer, inner, fold


def report(config: Config, found: dict[int, dict[str, Any]], output: Output) -> None:
    """The table, the figure, the files."""
    columns = ("rows", "interval", "fitted to all (%)", "mean of folds' size (%)", "mean width")
    rows = []
    for count, each in found.items():
        for i, kind in enumerate(KINDS):
            held = [100 * each["held"][name][i] / config.trials for name in each["held"]]
            rows.append((str(count), kind, *(f"{h:.1f}" for h in held), f"{each['width'][i]:.3f}"))
    table = Table("Coverage of 95 % intervals", columns, rows)
    table.show()
    drawn = dj.Provenance(
        source="simulation", rows=config.trials, sha256="", note="drawn, not read"
    )
    counts_of = {
        kind: [each["held"]["fitted to all"][i] for each in found.values()]
        for i, kind in enumerate(KINDS)
    }
    figure = plots.estimates(
        [f"{count} rows" for count in found],
        {kind: [100 * n / config.trials for n in counts] for kind, counts in counts_of.items()},
        {
            kind: [[100 * end for end in dj.wilson_interval(n, config.trials)] for n in counts]
            for kind, counts in counts_of.items()
        },
        label="Intervals that hold the accuracy on new rows (%)",
        line=95,
    )
    page = Report(
        "Do intervals hold what they say?",
        f"{counted(config.trials, 'data set')} of each size, "
        f"{counted(config.features, 'feature')}, {config.folds} folds, "
        f"{counted(config.repeats, 'repeat')}.",
    )
    page.table(*table)
    page.figure(
        "Coverage", figure, "How often each interval holds the accuracy on new rows; 95 % is meant."
    )
    results = {"settings": {str(count): each for count, each in found.items()}}
    output.finish(results, {"coverage": figure}, page, data=drawn)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
