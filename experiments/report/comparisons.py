"""The reports of comparisons: methods, writers, and what is left of their errors.

``results`` is what goes to ``results.json``; beside it come the arrays that are drawn. M is the
number of methods, R of runs, S of test rows, N of all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from common.scores import ACCURACY
from report import Report
from report.pages import interval, mistakes, spread
from verdicts import COLUMNS, cells, note, p_text, probability_cells

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from common.tasks import Task
    from digits_jax import Dataset

Results = Mapping[str, Any]
NADEAU = "Intervals and p after Nadeau and Bengio (2003): folds share training rows."


def compare(
    results: Results,
    *,
    task: Task,
    answers: Mapping[str, npt.NDArray[np.integer]],
    figures: Mapping[str, Figure],
) -> Report:
    """The report of ``compare.py``.

    Args:
        results: of ``results.json``.
        task: the rows.
        answers: the classes predicted [repeats, N], by name.
        figures: "accuracy" and "common_errors".
    """
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
        f"{spread(found[first]['accuracy'], ACCURACY)} %",
        f"95 % interval of the mean: {interval(found[first]['accuracy'], ACCURACY)} %",
    )
    if pairs:
        test = pairs[0]
        page.headline(
            f"{titles[test['a']]} beside {titles[test['b']]}",
            difference(test["difference"]),
            f"95 % interval {_points(test)}; p {p_text(test['p'])}, {p_text(test['p_holm'])} after "
            f"Holm's correction for {len(pairs)} test{'s' * (len(pairs) > 1)}",
        )
    missed = len(results["missed_by_all"])
    page.headline("Rows that all miss in every repeat", str(missed), f"of {task.rows}")
    page.table(
        "Accuracy",
        (
            "method",
            "mean ± sd (%)",
            "95 % interval",
            "errors a repeat",
            "NLL (nats)",
            "Brier",
            "ECE",
            "seconds",
        ),
        [
            (
                each["title"],
                spread(each["accuracy"], ACCURACY),
                interval(each["accuracy"], ACCURACY),
                f"{each['errors_a_repeat']:.1f}",
                *probability_cells(each["probabilities"]),
                f"{each['seconds']:.0f}",
            )
            for each in found.values()
        ],
        f"± is the standard deviation between test folds (ddof 0). {NADEAU} NLL, Brier "
        "score and expected calibration error are means over the repeats. Seconds are of training "
        "and predicting, all folds together.",
    )
    page.figure(
        "Each test fold",
        figures["accuracy"],
        "Accuracies of each method in each test fold, with mean and interval; means: "
        + ", ".join(f"{m['title']} {100 * m['accuracy']['mean']:.2f} %" for m in found.values()),
    )
    if pairs:
        page.table(
            "One against each other",
            COLUMNS,
            [cells(each, titles) for each in pairs],
            note(pairs, titles),
        )
        page.figure(
            "Errors in common",
            figures["common_errors"],
            "How many errors of each method each other one makes too, mean of the repeats.",
            "On the diagonal are a method's own errors in a repeat.",
        )
    by_title = {titles[name]: each for name, each in answers.items()}
    _pooled(page, task, np.arange(task.rows), by_title)
    return page


def writers(
    results: Results,
    *,
    dataset: Dataset,
    rows: npt.NDArray[np.integer],
    answers: Mapping[str, npt.NDArray[np.integer]],
    figure: Figure,
) -> Report:
    """The report of ``writers.py``.

    Args:
        results: of ``results.json``.
        dataset: the rows.
        rows: row numbers [S] of the new writers.
        answers: the classes predicted for them [seeds, S], by name.
        figure: the accuracies of each method on each kind of split.
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
        f"{spread(best['new_writers'], ACCURACY)} %",
        f"mean ± sd of {seeds} trainings; chance in the test rows: {low:.2f} to {high:.2f} % "
        "(95 %, Wilson)",
    )
    page.headline(
        "Against random splits",
        difference(best["difference"]),
        f"random: {spread(best['random'], ACCURACY)} %",
    )
    cells = []
    for each in found.values():
        new, votes = each["new_writers"], each["new_writers"]["votes_of_five"]
        low, high = (100 * end for end in new["wilson95"])
        vote = f"{100 * sum(votes) / len(votes):.2f}" if votes else "–"
        points = f"{100 * each['difference']:+.2f}"
        ends = f"{low:.2f} to {high:.2f}"
        random = spread(each["random"], ACCURACY)
        cells.append((each["title"], spread(new, ACCURACY), ends, vote, random, points))
    page.table(
        "Accuracy",
        ("method", "new writers (%)", "Wilson 95 %", "vote of five (%)", "random (%)", "points"),
        cells,
        "± is the standard deviation between trainings (ddof 0). The vote is the mean of five "
        "networks' probabilities.",
    )
    page.figure(
        "Each training",
        figure,
        "Accuracies of each training of each method on new writers and on random splits.",
    )
    by_title = {found[name]["title"]: each for name, each in answers.items()}
    _pooled(page, dataset, rows, by_title)
    return page


def leftovers(
    results: Results, *, dataset: Dataset, answers: npt.NDArray[np.integer], figure: Figure
) -> Report:
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
        "Rows that some method gets",
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
    page.table(
        "Labels that probabilities contradict",
        ("rank", "row", "label", "likely", "methods", "margin"),
        [
            (
                *(s[key] for key in ("rank", "row", "label", "likely", "methods")),
                f"{s['margin']:.3f}",
            )
            for s in results["suspects"][:40]
        ],
        "Confident learning on each method's out-of-fold probabilities, the first 40 ranks.",
    )
    if left:
        page.figure(
            "Each beside the rows nearest to it",
            figure,
            "Each row that is left (framed), and the four other rows nearest to it.",
            "Below each neighbour: its label, and its distance in ink counts.",
        )
        rows = np.array([each["row"] for each in left])
        _pooled(page, dataset, rows, dict(zip(names, answers[..., rows], strict=True)))
    return page


def _pooled(
    page: Report,
    task: Task | Dataset,
    rows: npt.NDArray[np.integer],
    answers: Mapping[str, npt.NDArray[np.integer]],
) -> None:
    """The confusion matrix and the sheet of rows [S], with the answers [R, S] of all methods."""
    import numpy as np

    together = np.concatenate([*answers.values()])
    assert task.class_names is not None and task.labels is not None
    votes = np.eye(len(task.class_names), dtype=np.int8)[together.ravel()]
    names = np.repeat([*answers], [each.size for each in answers.values()])
    mistakes(
        page,
        task.images,
        task.labels,
        task.class_names,
        np.tile(rows, len(together)),
        votes,
        whose="all methods",
        methods=names,
    )


def difference(fraction: float) -> str:
    """A difference of accuracies in points; one that rounds to nothing is a tie."""
    text = f"{100 * fraction:+.2f}"
    return "tied" if float(text) == 0 else f"{text} points"


def _points(test: Results) -> str:
    return f"{100 * test['low']:+.2f} to {100 * test['high']:+.2f}"
