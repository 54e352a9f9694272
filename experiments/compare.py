"""Methods on equal repeated folds: accuracies with intervals, and a test of every pair.

    python experiments/compare.py
    python experiments/compare.py --methods svm knn1 --repeats 1
    python experiments/compare.py --data mine.npz --methods mine.py:recipe svm knn1

The networks train all folds of all repeats at once; scikit-learn's methods take a process on each
core. These get images from 0 to 1, and other inputs scaled to the mean 0 and sd 1 of the training
rows. It writes ``report.html``, ``results.json`` (last, and whole), ``scores.csv``, ``pairs.csv``,
figures, and the predictions of each method as soon as they are whole: ``--resume`` takes these and
adds the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from typing import TYPE_CHECKING, Any

import methods
from common import command_line, console, options, startup, tasks
from common.output import Output, describe, summary_json

if TYPE_CHECKING:
    import numpy as np

    from common.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(methods.Options):
    """The options of the command line."""

    folds: int = 5
    """Parts of the rows; each is the test set of one split."""
    repeats: int = 10
    """Times that the rows are split anew."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    config.check()
    options.positive(repeats=config.repeats)
    options.require(config.folds >= 2, f"--folds must be at least 2, not {config.folds}")
    options.few_enough(config.folds * config.repeats, "--folds times --repeats")
    output = Output(config.output_dir, script="compare", resume=config.resume)
    startup.start_jax(compilation_cache=config.compilation_cache)
    task = tasks.load_task(config.data)
    console.show_data(task.provenance)
    classes = "the methods are classifiers: --data must hold classes, integers"
    options.require(task.class_names is not None, classes)
    splits = tasks.fold_splits(task, config.folds, repeats=config.repeats, seed=config.seed)
    names = [
        f"fold {fold}, repeat {repeat}"
        for repeat in range(1, config.repeats + 1)
        for fold in range(1, config.folds + 1)
    ]
    done = methods.predict_all(config, task, splits, names, output)
    sizes = {
        "train_rows": float(splits.train_weights.sum(axis=1).mean()),
        "test_rows": float(splits.test_weights.sum(axis=1).mean()),
    }
    report(config, task, done, sizes, output)


def report(
    config: Config,
    task: Task,
    done: dict[str, methods.Predictions],
    sizes: dict[str, float],
    output: Output,
) -> None:
    """The tables, the figures, the files; ``results.json`` last."""
    import numpy as np
    from rich.table import Table

    from digits_jax import plots, summarize
    from report import comparisons

    accuracies = {name: each.accuracies(task.targets) for name, each in done.items()}
    order = sorted(done, key=lambda name: -accuracies[name].mean())
    answers = {
        name: methods.by_row(done[name], config.repeats, len(task.targets)) for name in order
    }
    wrong = {name: each != task.targets for name, each in answers.items()}  # [repeats, N]
    summaries = {
        name: summary_json("accuracy", summarize(accuracies[name], **sizes)) for name in order
    }
    times = f"{config.repeats} repeat{'s' * (config.repeats > 1)}"
    table = Table(title=f"{config.folds} folds, {times}: accuracy (%), errors a repeat")
    for column in ("method", "mean ± sd", "95 % interval", "errors", "seconds"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name in order:
        low, high = (100 * bound for bound in summaries[name]["ci95"])
        table.add_row(
            methods.title(name),
            f"{100 * summaries[name]['mean']:.2f} ± {100 * summaries[name]['std']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{wrong[name].sum(axis=1).mean():.1f}",
            f"{done[name].seconds:.0f}",
        )
    console.results.print(table)

    pairs = compare_pairs(order, accuracies, wrong, sizes)
    if pairs:
        show_pairs(pairs)
    shared = [[(wrong[a] & wrong[b]).sum(axis=1).mean() for b in order] for a in order]
    titles = [methods.title(name) for name in order]
    label = f"a dot for each of {len(accuracies[order[0]])} test folds, mean and its 95 % interval"
    scores = {label: [accuracies[name] for name in order]}
    intervals = {label: [summaries[name]["ci95"] for name in order]}
    figures = {
        "accuracy": plots.method_scores(titles, scores, intervals),
        "common_errors": plots.common_errors(shared, titles),
    }
    output.table(
        "scores.csv",
        [
            {
                "method": name,
                "repeat": i // config.folds + 1,
                "fold": i % config.folds + 1,
                "accuracy": accuracy,
            }
            for name in order
            for i, accuracy in enumerate(accuracies[name].tolist())
        ],
    )
    if pairs:
        output.table("pairs.csv", pairs)
    missed = np.flatnonzero(np.all([each.all(axis=0) for each in wrong.values()], axis=0))
    results = {
        "experiment": "compare",
        **describe(config, task.provenance),
        "methods": {
            name: {
                "title": methods.title(name),
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
    page = comparisons.compare(results, task=task, answers=answers, figures=figures)
    output.finish(
        results,
        figures,
        page,
        svg=config.svg,
        also=["scores.csv", "pairs.csv", "predictions"],
        says=f"{_rows(len(missed))} wrong for every method in every repeat.",
    )


def compare_pairs(
    order: list[str],
    accuracies: dict[str, np.ndarray],
    wrong: dict[str, np.ndarray],
    sizes: dict[str, float],
) -> list[dict[str, Any]]:
    """Every pair, the better first: the corrected t-test of folds, McNemar's of rows.

    Repeats predict the same rows, so McNemar's test takes each repeat alone; the median is given.
    """
    from digits_jax import corrected_resampled_ttest, mcnemar_test
    from digits_jax.statistics import holm_correction

    pairs: list[dict[str, Any]] = []
    for a, b in itertools.combinations(order, 2):
        test = corrected_resampled_ttest(accuracies[a], accuracies[b], **sizes)
        rows = [mcnemar_test(~x, ~y) for x, y in zip(wrong[a], wrong[b], strict=True)]
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
    adjusted = holm_correction([pair["p"] for pair in pairs]).tolist() if pairs else []
    return [{**pair, "p_holm": p} for pair, p in zip(pairs, adjusted, strict=True)]


def show_pairs(pairs: list[dict[str, Any]]) -> None:
    """The table of tests."""
    from rich.table import Table

    table = Table(
        title="Difference in points: corrected resampled t-test, Holm: of all pairs; McNemar's "
        "exact test of a repeat's rows, median of the repeats",
    )
    for column in ("a – b", "points (95 % interval)", "p", "Holm", "McNemar"):
        table.add_column(column, justify="left" if column == "a – b" else "right")
    for pair in pairs:
        difference, low, high = (100 * pair[each] for each in ("difference", "low", "high"))
        table.add_row(
            f"{pair['a']} – {pair['b']}",
            f"{difference:+.2f} ({low:+.2f} to {high:+.2f})",
            *(f"{pair[each]:.2g}" for each in ("p", "p_holm", "mcnemar_p")),
        )
    console.results.print(table)


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
