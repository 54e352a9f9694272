"""Methods on equal repeated folds: accuracies with intervals, and one method against each other.

    python experiments/compare.py
    python experiments/compare.py --methods svm knn1 --repeats 1
    python experiments/compare.py --data mine.npz --methods mine.py:recipe svm knn1

The networks train all folds of all repeats at once; scikit-learn's methods take a process on each
core. These get images from 0 to 1, and other inputs scaled to the mean 0 and sd 1 of the training
rows. The first of --methods is tested against each of the others: one family of tests, chosen
before the run. It writes ``report.html``, ``results.json`` (last, and whole), ``scores.csv``,
``pairs.csv``, figures, and the predictions of each method as soon as they are whole: ``--resume``
takes these and adds the others.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import methods
import verdicts
from common import command_line, console, options, startup, tasks
from common.output import Output, describe, summary_json

if TYPE_CHECKING:
    from common.tasks import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(methods.Options):
    """The options of the command line."""

    folds: int = 5
    """Parts of the rows; each is the test set of one split."""
    repeats: int = 10
    """Times that the rows are split anew."""
    rope: float = 0.1
    """Points of accuracy up to which a difference counts as none, in the Bayesian test."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    config.check()
    options.positive(repeats=config.repeats, rope=config.rope)
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
    probabilities = {
        name: verdicts.probability_scores(done[name], task.targets, config.repeats)
        for name in order
    }
    times = f"{config.repeats} repeat{'s' * (config.repeats > 1)}"
    table = Table(title=f"{config.folds} folds, {times}: accuracy (%), errors a repeat")
    columns = ("method", "mean ± sd", "95 % interval", "errors", "NLL", "Brier", "ECE", "seconds")
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right")
    for name in order:
        low, high = (100 * bound for bound in summaries[name]["ci95"])
        table.add_row(
            methods.title(name),
            f"{100 * summaries[name]['mean']:.2f} ± {100 * summaries[name]['std']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{wrong[name].sum(axis=1).mean():.1f}",
            *verdicts.probability_cells(probabilities[name]),
            f"{done[name].seconds:.0f}",
        )
    console.results.print(table)

    first = config.chosen(task)[0]
    others = [name for name in order if name != first]
    pairs = verdicts.against_each(first, others, accuracies, wrong, sizes, rope=config.rope / 100)
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
                "probabilities": probabilities[name],
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


def show_pairs(pairs: list[dict[str, Any]]) -> None:
    """The table of tests."""
    from rich.table import Table

    titles = {name: name for pair in pairs for name in (pair["a"], pair["b"])}
    table = Table(caption=verdicts.note(pairs, titles))
    for column in verdicts.COLUMNS:
        table.add_column(column, justify="left" if column == "pair" else "right")
    for pair in pairs:
        table.add_row(*verdicts.cells(pair, titles))
    console.results.print(table)


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
