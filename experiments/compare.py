"""Methods on equal repeated folds: accuracies with intervals, and a test of every pair.

    python experiments/compare.py
    python experiments/compare.py --methods svm knn1 --repeats 1
    python experiments/compare.py --data mine.npz --methods mine.py:recipe svm knn1

The networks train all folds of all repeats at once; scikit-learn's methods take a process on each
core. These get images from 0 to 1, and other inputs scaled to the mean 0 and sd 1 of the training
rows. It writes ``report.html``, ``results.json`` (whole), ``scores.csv``, ``pairs.csv``,
figures, and the predictions of each method as soon as they are whole. ``--resume`` takes these and
adds the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
import methods
from common import command_line, options, startup, tasks
from common.drawing import plots
from common.output import Output, describe, summary_json
from common.scores import ACCURACY
from common.tables import Table
from common.tasks import Task
from methods import Predictions, title
from report import NADEAU, Report, pages

Arrays = dict[str, npt.NDArray[Any]]  # by method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folds, methods.Options):
    """The options of the command line."""

    repeats: int = 10
    """Times that the rows are split anew."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    config.check()
    config.check_folds()
    output = Output(config.output_dir, script="compare", resume=config.resume)
    startup.start_jax(compilation_cache=config.compilation_cache)
    import predicting  # which imports JAX and scikit-learn

    task = tasks.load_task(config.data)
    classes = "the methods are classifiers: --data must hold classes, integers"
    options.require(task.class_names is not None, classes)
    found = np.unique(task.targets)
    of_one = f"all rows of --data are of class {found[0]}; the methods tell two or more apart"
    options.require(len(found) > 1, of_one)
    splits = tasks.fold_splits(task, config.folds, repeats=config.repeats, seed=config.seed)
    done = predicting.predict_all(config, task, splits, config.fold_names(), output)
    report(config, task, done, tasks.mean_sizes(splits), output)


def report(
    config: Config,
    task: Task,
    done: dict[str, Predictions],
    sizes: dict[str, float],
    output: Output,
) -> None:
    """The tables, the figures, the files."""
    accuracies = {name: each.accuracies(task.targets) for name, each in done.items()}
    order = sorted(done, key=lambda name: -accuracies[name].mean())
    answers = {name: methods.by_row(done[name], config.repeats, task.rows) for name in order}
    wrong = {name: each != task.targets for name, each in answers.items()}  # [repeats, N]
    summaries = {
        name: summary_json("accuracy", dj.summarize(accuracies[name], **sizes)) for name in order
    }
    times = f"{config.repeats} repeat{'s' * (config.repeats > 1)}"
    scored = Table(
        f"Accuracy in {config.folds} folds, {times}",
        ("method", "mean ± sd (%)", "95 % interval", "errors a repeat", "seconds"),
        [
            (
                title(name),
                ACCURACY.mean(summaries[name]),
                ACCURACY.interval(summaries[name]),
                f"{wrong[name].sum(axis=1).mean():.1f}",
                f"{done[name].seconds:.0f}",
            )
            for name in order
        ],
        f"± is the standard deviation between test folds (ddof 0). {NADEAU} Seconds are of "
        "training and predicting, all folds together.",
    )
    scored.show()
    pairs = compare_pairs(order, accuracies, wrong, sizes)
    tested = pairs_table(pairs)
    shared = [[(wrong[a] & wrong[b]).sum(axis=1).mean() for b in order] for a in order]
    missed = np.flatnonzero(np.all([each.all(axis=0) for each in wrong.values()], axis=0))
    results = {
        "experiment": "compare",
        **describe(config, task.provenance),
        "methods": {
            name: {
                "title": title(name),
                "accuracy": summaries[name],
                "accuracies": accuracies[name],
                "errors_a_repeat": wrong[name].sum(axis=1).mean(),
                "seconds": done[name].seconds,
                "chosen": done[name].chosen if any(done[name].chosen) else None,
            }
            for name in order
        },
        "pairs": pairs,
        "common_errors_a_repeat": {"methods": order, "counts": shared},
        "missed_by_all": missed,
    }
    rows = [
        {
            "method": name,
            "repeat": i // config.folds + 1,
            "fold": i % config.folds + 1,
            "accuracy": a,
        }
        for name in order
        for i, a in enumerate(accuracies[name].tolist())
    ]
    output.table("scores.csv", rows)
    titles = [title(name) for name in order]
    count = config.folds * config.repeats
    label = f"a dot for each of {count} test folds, mean and its 95 % interval"
    intervals = {label: [summaries[name]["ci95"] for name in order]}
    of_folds = {label: [accuracies[name] for name in order]}
    figures = {
        "accuracy": plots.method_scores(titles, of_folds, intervals),
        "common_errors": plots.common_errors(shared, titles),
    }

    page = Report(
        "Methods side by side",
        f"{len(order)} methods on the same {config.folds} stratified folds of all rows, {times}.",
    )
    label = f"Best: {titles[0]}, mean ± sd of {count} test folds"
    page.score(label, ACCURACY, summaries[order[0]])
    if pairs:
        output.table("pairs.csv", pairs)
        tested.show()
        test = pairs[0]
        page.headline(
            f"Its lead over the next, {titles[1]}",
            pages.points(test["difference"]),
            f"95 % interval {tested.rows[0][2]}; p = {test['p']:.2g}, {test['p_holm']:.2g} after "
            f"Holm's correction for {len(pairs)} pair{'s' * (len(pairs) > 1)}",
        )
    page.headline("Rows that all miss in every repeat", str(len(missed)), f"of {task.rows}")
    page.table(*scored)
    means = (f"{title(name)} {100 * summaries[name]['mean']:.2f} %" for name in order)
    page.figure(
        "Each test fold",
        figures["accuracy"],
        "Accuracies of each method in each test fold, with mean and interval; means: "
        + ", ".join(means),
    )
    if pairs:
        page.table(*tested)
        page.figure(
            "Errors in common",
            figures["common_errors"],
            "How many errors of each method each other one makes too, mean of the repeats.",
            "On the diagonal are a method's own errors in a repeat.",
        )
    by_title = {title(name): each for name, each in answers.items()}
    pages.mistakes_of_methods(page, task, np.arange(task.rows), by_title)
    output.finish(
        results,
        figures,
        page,
        svg=config.svg,
        also=["scores.csv", *["pairs.csv"] * bool(pairs), "predictions"],
        says=f"{_rows(len(missed))} wrong for every method in every repeat.",
    )


def compare_pairs(
    order: list[str], accuracies: Arrays, wrong: Arrays, sizes: dict[str, float]
) -> list[dict[str, Any]]:
    """Every pair, the better first: the corrected t-test of folds, McNemar's of rows.

    Repeats predict the same rows, so McNemar's test takes each repeat alone; the median is given.
    """
    pairs: list[dict[str, Any]] = []
    for a, b in itertools.combinations(order, 2):
        test = dj.corrected_resampled_ttest(accuracies[a], accuracies[b], **sizes)
        rows = [dj.mcnemar_test(~x, ~y) for x, y in zip(wrong[a], wrong[b], strict=True)]
        pairs.append(
            {
                "a": a,
                "b": b,
                "difference": test.mean_difference,
                "low": test.ci95[0],
                "high": test.ci95[1],
                "t": test.statistic,
                "p": test.p_value,
                "only_a_right": statistics.mean(row.only_a for row in rows),
                "only_b_right": statistics.mean(row.only_b for row in rows),
                "mcnemar_p": statistics.median(row.p_value for row in rows),
            }
        )
    adjusted = (
        dj.statistics.holm_correction([pair["p"] for pair in pairs]).tolist() if pairs else []
    )
    return [{**pair, "p_holm": p} for pair, p in zip(pairs, adjusted, strict=True)]


def pairs_table(pairs: list[dict[str, Any]]) -> Table:
    """The tests."""
    rows = [
        (
            f"{title(pair['a'])} – {title(pair['b'])}",
            f"{100 * pair['difference']:+.2f}",
            f"{100 * pair['low']:+.2f} to {100 * pair['high']:+.2f}",
            *(f"{pair[each]:.2g}" for each in ("p", "p_holm", "mcnemar_p")),
        )
        for pair in pairs
    ]
    columns = ("pair", "difference (points)", "95 % interval", "p", "p, Holm", "p, McNemar")
    note = f"{NADEAU} McNemar's exact test is of the rows of one repeat; the median is given."
    return Table("Every pair: corrected resampled t-test", columns, rows, note)


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
