"""The reports of comparisons: methods, writers, and what is left of their errors.

``results`` is what goes to ``results.json``; beside it come the arrays that are drawn. M is the
number of methods, R of runs, S of test rows, N of all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from report import Report
from report import comparison_figures as figures
from report.pages import interval, mistakes, spread

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from digits_jax import Dataset

Results = Mapping[str, Any]
NADEAU = "Intervals and p after Nadeau and Bengio (2003): folds share training rows."


def compare(
    results: Results, *, dataset: Dataset, answers: Mapping[str, npt.NDArray[np.integer]]
) -> str:
    """The report of ``compare.py``; ``answers`` are the classes predicted [repeats, N], by name."""
    import numpy as np

    config, found, pairs = results["config"], results["methods"], results["pairs"]
    titles = {name: each["title"] for name, each in found.items()}
    folds, repeats = config["folds"], config["repeats"]
    times = f", {repeats} times" if repeats > 1 else ""
    page = Report(
        "Methods side by side",
        f"{len(found)} methods on the same {folds} stratified folds of all rows{times}.",
    )
    first = next(iter(found))
    page.headline(
        f"Best: {titles[first]}, mean ± sd of {folds * repeats} test folds",
        f"{spread(found[first]['accuracy'], 100, 2)} %",
        f"95 % interval of the mean: {interval(found[first]['accuracy'], 100, 2)} %",
    )
    if pairs:
        test = pairs[0]
        page.headline(
            f"Its lead over the next, {titles[test['b']]}",
            f"{100 * test['difference']:+.2f} points",
            f"95 % interval {_points(test)}; p = {test['p']:.2g}, {test['p_holm']:.2g} after "
            f"Holm's correction for {len(pairs)} pair{'s' * (len(pairs) > 1)}",
        )
    missed = len(results["missed_by_all"])
    page.headline("Rows that all miss in every repeat", str(missed), f"of {len(dataset.labels)}")
    page.table(
        "Accuracy",
        ("method", "mean ± sd (%)", "95 % interval", "errors a repeat", "seconds"),
        [
            (
                each["title"],
                spread(each["accuracy"], 100, 2),
                interval(each["accuracy"], 100, 2),
                f"{each['errors_a_repeat']:.1f}",
                f"{each['seconds']:.0f}",
            )
            for each in found.values()
        ],
        f"± is the standard deviation between test folds (ddof 0). {NADEAU} Seconds are of "
        "training and predicting, all folds together.",
    )
    label = "a test fold; mean and its 95 % interval"
    page.figure(
        "Each test fold",
        figures.method_scores(
            list(titles.values()),
            {label: [each["accuracies"] for each in found.values()]},
            {label: [each["accuracy"]["ci95"] for each in found.values()]},
            {label: _folds(folds, repeats)},
        ),
        "Accuracies of each method in each test fold, with mean and interval; means: "
        + ", ".join(f"{m['title']} {100 * m['accuracy']['mean']:.2f} %" for m in found.values()),
    )
    if pairs:
        page.table(
            "Every pair",
            ("pair", "difference (points)", "95 % interval", "p", "p, Holm", "p, McNemar"),
            [
                (
                    f"{titles[each['a']]} – {titles[each['b']]}",
                    f"{100 * each['difference']:+.2f}",
                    _points(each),
                    *(f"{each[name]:.2g}" for name in ("p", "p_holm", "mcnemar_p")),
                )
                for each in pairs
            ],
            f"{NADEAU} McNemar's exact test is of the rows of one repeat; the median over the "
            "repeats is given.",
        )
        page.figure(
            "Errors in common",
            figures.common_errors(
                results["common_errors_a_repeat"]["counts"], list(titles.values())
            ),
            "How many errors of each method each other one makes too, mean of the repeats.",
            "On the diagonal are a method's own errors in a repeat.",
        )
    _pooled(page, dataset, np.arange(len(dataset.labels)), answers.values())
    return page.html(results)


def writers(
    results: Results,
    *,
    dataset: Dataset,
    rows: npt.NDArray[np.integer],
    answers: Mapping[str, npt.NDArray[np.integer]],
    accuracies: Mapping[str, Sequence[npt.NDArray[np.floating]]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
) -> str:
    """The report of ``writers.py``.

    Args:
        results: of ``results.json``.
        dataset: the rows.
        rows: row numbers [S] of the new writers.
        answers: the classes predicted for them [seeds, S], by name.
        accuracies: of each method on each kind of split [M, seeds], by what a dot and its interval
            are.
        intervals: of each of them [M, 2].
    """
    found, seeds = results["methods"], results["config"]["seeds"]
    page = Report(
        "Digits of new writers",
        f"{seeds} trainings of each method on the rows of 30 writers, tested on the {len(rows)} "
        "rows of 13 others; and as many on random splits of the same sizes.",
    )
    best = next(iter(found.values()))
    low, high = (100 * end for end in best["new_writers"]["wilson95"])
    page.headline(
        f"Best on new writers: {best['title']}",
        f"{spread(best['new_writers'], 100, 2)} %",
        f"mean ± sd of {seeds} trainings; chance in the test rows: {low:.2f} to {high:.2f} % "
        "(95 %, Wilson)",
    )
    page.headline(
        "Against random splits",
        f"{100 * best['difference']:+.2f} points",
        f"random: {spread(best['random'], 100, 2)} %",
    )
    cells = []
    for each in found.values():
        new, votes = each["new_writers"], each["new_writers"]["votes_of_five"]
        low, high = (100 * end for end in new["wilson95"])
        vote = f"{100 * sum(votes) / len(votes):.2f}" if votes else "–"
        points = f"{100 * each['difference']:+.2f}"
        ends = f"{low:.2f} to {high:.2f}"
        random = spread(each["random"], 100, 2)
        cells.append((each["title"], spread(new, 100, 2), ends, vote, random, points))
    page.table(
        "Accuracy",
        ("method", "new writers (%)", "Wilson 95 %", "vote of five (%)", "random (%)", "points"),
        cells,
        "± is the standard deviation between trainings (ddof 0). The vote is the mean of five "
        "networks' probabilities.",
    )
    runs = [f"seed {results['config']['seed'] + i}" for i in range(seeds)]
    page.figure(
        "Each training",
        figures.method_scores(
            [each["title"] for each in found.values()],
            accuracies,
            intervals,
            dict.fromkeys(accuracies, runs),
        ),
        "Accuracies of each training of each method on new writers and on random splits.",
    )
    _pooled(page, dataset, rows, answers.values())
    return page.html(results)


def leftovers(
    results: Results, *, dataset: Dataset, answers: npt.NDArray[np.integer], folder: Path
) -> str:
    """The report of ``leftovers.py``; ``answers`` are the classes predicted [M, repeats, N]."""
    import numpy as np

    left, names = results["left"], results["methods"]
    share = results["config"]["share"]
    page = Report(
        "What is left",
        f"Rows that at least {100 * share:g} % of the predictions get wrong; {len(names)} methods "
        f"({', '.join(names)}), {results['repeats']} repeats, each method counting the same.",
    )
    page.headline("Rows left", str(len(left)), f"of {len(dataset.labels)}")
    ceiling = results["ceiling"]
    low, high = (100 * end for end in ceiling["wilson95"])
    page.headline(
        "A ceiling of accuracy",
        f"{100 * ceiling['share']:.2f} %",
        f"95 % interval (Wilson) {low:.2f} to {high:.2f} %; lost are the {results['lost']} rows "
        "that every method misses in most repeats",
    )
    page.table(
        "Rows by how often they are wrong",
        ("wrong in at least", "rows"),
        [
            (f"{each.replace('%', ' %')} of the predictions", n)
            for each, n in results["rows_wrong_in"].items()
        ],
    )
    if left:
        page.image(
            "Each beside the rows nearest to it",
            folder / "leftovers.png",
            "Each row that is left (framed), and the four other rows nearest to it.",
            "Below each neighbour: its label, and its distance in ink counts.",
        )
        rows = np.array([each["row"] for each in left])
        _pooled(page, dataset, rows, answers[..., rows])
    return page.html(results)


def _pooled(
    page: Report,
    dataset: Dataset,
    rows: npt.NDArray[np.integer],
    answers: Iterable[npt.NDArray[np.integer]],
) -> None:
    """The confusion matrix and the sheet of rows [S], with all methods' answers [R, S] together."""
    import numpy as np

    together = np.concatenate([*answers])
    votes = np.eye(len(dataset.class_names), dtype=np.int8)[together.ravel()]
    mistakes(page, dataset, np.tile(rows, len(together)), votes, whose="all methods")


def _points(test: Results) -> str:
    return f"{100 * test['low']:+.2f} to {100 * test['high']:+.2f}"


def _folds(folds: int, repeats: int) -> list[str]:
    return [f"fold {i % folds + 1}, repeat {i // folds + 1}" for i in range(folds * repeats)]
