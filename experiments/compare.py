"""Methods on equal repeated folds: accuracies with intervals, and one method against each other.

    python experiments/compare.py
    python experiments/compare.py --methods svm knn1 --repeats 1
    python experiments/compare.py --data mine.npz --methods mine.py:recipe svm knn1

The networks train all folds of all repeats at once; scikit-learn's methods take a process on each
core. These get images from 0 to 1, and other inputs scaled to the mean 0 and sd 1 of the training
rows. The first of --methods is tested against each of the others: one family of tests, chosen
before the run. It writes ``report.html``, ``results.json`` (whole), ``scores.csv``, ``pairs.csv``,
figures, and the predictions of each method as soon as they are whole. ``--resume`` takes these and
adds the others.
"""

from __future__ import annotations

import dataclasses

import numpy as np

import digits_jax as dj
import methods
import verdicts
from common import command_line, options, tasks
from common.drawing import plots
from common.output import Output, summary_json
from common.scores import ACCURACY
from common.tables import Table
from common.tasks import Task
from methods import Predictions, title
from report import NADEAU, Report, pages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folds, methods.Options):
    """The options of the command line."""

    repeats: int = 10
    """Times that the rows are split anew."""
    rope: float = 0.1
    """Points of accuracy up to which a difference counts as none, in the Bayesian test."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    config.check_folds()
    options.positive(rope=config.rope)
    output, task = methods.begin(config, "compare")
    import predicting  # which imports JAX and scikit-learn

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
    probabilities = {
        name: verdicts.probability_scores(done[name], task.targets, config.repeats)
        for name in order
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
    of_probabilities = verdicts.probability_table(probabilities)
    of_probabilities.show()
    first = config.chosen(task)[0]
    others = [name for name in order if name != first]
    pairs = verdicts.against_each(first, others, accuracies, wrong, sizes, rope=config.rope / 100)
    shared = [[(wrong[a] & wrong[b]).sum(axis=1).mean() for b in order] for a in order]
    missed = np.flatnonzero(np.all([each.all(axis=0) for each in wrong.values()], axis=0))
    results = {
        "methods": {
            name: {
                "title": title(name),
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
        tested, more = verdicts.pairs_tables(pairs)
        tested.show()
        more.show()
        test, p_texts = pairs[0], tested.rows[0][3:5]
        page.headline(
            f"{title(first)} beside {title(others[0])}",
            pages.points(test["difference"]),
            f"95 % interval {tested.rows[0][2]}; p {p_texts[0]}, {p_texts[1]} after Holm's "
            f"correction for {len(pairs)} test{'s' * (len(pairs) > 1)}",
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
    page.table(*of_probabilities)
    if pairs:
        page.table(*tested)
        page.table(*more)
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
        data=task.provenance,
        also=["scores.csv", *["pairs.csv"] * bool(pairs), "predictions"],
        says=f"{_rows(len(missed))} wrong for every method in every repeat.",
    )


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
