"""Trains on a part of the rows and tests on the rest; several seeds train at once.

    python experiments/train.py
    python experiments/train.py --seeds 10
    python experiments/train.py --data mine.npz --recipe mine.py:recipe

By default it is the notebook's training: 80 % of the rows train, 20 % test. With ``--seeds`` above
1, every score gets a mean and a spread. It writes ``report.html``, ``results.json`` (whole),
``history.npz``, ``predictions.npz``, figures and checkpoints to the output folder.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common import command_line, options, startup, tasks, training
from common.drawing import plots
from common.output import Output, summary_json
from common.plans import Plan
from common.scores import ACCURACY, MACRO, counted, scores_of
from common.tables import Table
from common.tasks import Task
from report import pages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(training.Options):
    """The options of the command line."""

    seeds: int = 1
    """Networks to train at once, each with draws of its own."""
    test_size: float = 0.2
    """Fraction of the rows that test."""
    split_seed: int = 42
    """Seed of the split; 42 gives the notebook's 1124 test rows on the full data."""
    verbose: bool = False
    """A line for each epoch instead of a bar."""


def main(config: Config) -> None:
    """Trains, evaluates, shows and writes."""
    config.check()
    options.positive(seeds=config.seeds)
    options.few_enough(config.seeds, "--seeds")
    outside = f"--test-size must be between 0 and 1 (exclusive), not {config.test_size}"
    options.require(0 < config.test_size < 1, outside)
    options.seed(split_seed=config.split_seed)
    config, output, task, plan = training.begin(config, "train")
    split = tasks.one_split(task, config.test_size, seed=config.split_seed)
    split = tasks.with_validation(task, split, config.validation, seed=config.split_seed)
    output.claim()
    splits = dj.stack_splits(*[split] * config.seeds)
    runs = dj.make_runs(splits, plan.hyperparameters, seed=config.seed)
    names = [f"run {i + 1}" for i in range(config.seeds)]
    result = training.train(config, task.data, plan, runs, names, output)
    if startup.reports():
        report(config, task, plan, result, names, output)


def report(
    config: Config,
    task: Task,
    plan: Plan,
    result: dj.CrossValidation,
    names: list[str],
    output: Output,
) -> None:
    """The scores and figures."""
    diverged = training.name_diverged(result, names)
    finite = np.flatnonzero(result.diverged == 0)
    options.require(len(finite) > 0, "every run diverged; try a smaller --learning-rate")
    first = names[finite[0]]  # the run that is shown in detail
    rows = result.test_rows[0]
    scores = scores_of(plan.recipe)
    values = {score.name: result.scores[score.name][finite].tolist() for score in scores}
    figures = {"training_curves": training.curves(result, scores, names)}
    about_classes: dict[str, Any] = {}
    probabilities, by_class = None, None
    more = []
    if task.has_logits(result.outputs):
        probabilities = dj.metrics.probabilities(result.outputs[finite])
        found = [dj.metrics.classification_scores(task.targets[rows], p) for p in probabilities]
        values |= {score.name: [getattr(each, score.name) for each in found] for score in MACRO}
        values |= {"loss": [each.log_loss for each in found]}
        scores = [*scores[:-1], *MACRO, scores[-1]]
        about_classes, by_class, of_classes = classes(task, rows, probabilities[0], first)
        figures |= of_classes
        wilson = ACCURACY.ends(about_classes["accuracy_wilson95"])
        error = f"{100 * about_classes['expected_calibration_error']:.2f}"
        more = [("accuracy, 95 % interval (Wilson)", wilson), ("calibration error (%)", error)]
    summaries = {name: summary_json(name, dj.summarize(each)) for name, each in values.items()}

    of_all = f" of {config.seeds}" if len(finite) < config.seeds else ""
    columns = ["score", first, f"mean ± sd of {len(finite)}{of_all} seeds"]
    cells = [
        (score.label, score.text(values[score.name][0]), score.mean(summaries[score.name]))
        for score in (scores[-1], *scores[:-1])
    ]
    shown = 3 if len(finite) > 1 else 2
    title = f"{len(rows)} test rows after {counted(config.epochs or 0, 'epoch')}"
    Table(title, columns[:shown], [*(each[:shown] for each in cells), *more]).show()
    if by_class is not None:
        by_class.show()

    output.arrays("history.npz", **result.history)
    arrays = training.named_outputs(result.outputs, "outputs" if by_class is None else "logits")
    output.arrays("predictions.npz", rows=rows, **arrays)
    of_runs = [{name: each[j] for name, each in values.items()} for j in range(len(finite))]
    numbered = zip(finite.tolist(), of_runs, strict=True)
    results = {
        **training.about(config, result),
        "runs": [{"run": i + 1, **each} for i, each in numbered],
        "diverged": diverged,
        **summaries,
        "test_rows": len(rows),
        **about_classes,
    }
    page = functools.partial(
        pages.train,
        task=task,
        result=result,
        scores=scores,
        figures=figures,
        probabilities=probabilities,
        by_class=by_class,
    )
    tracked = {names[i]: each for i, each in zip(finite, of_runs, strict=True)}
    training.finish(config, task, output, results, figures, page, tracked)


def classes(
    task: Task, rows: npt.NDArray[Any], probabilities: npt.NDArray[np.float64], run: str
) -> tuple[dict[str, Any], Table, dict[str, Any]]:
    """What a classification's first run has beside its scores.

    Args:
        task: with classes.
        rows: of the test [S].
        probabilities: [S, K].
        run: its name.

    Returns:
        What goes to ``results.json``, the scores by class, and figures.
    """
    from sklearn.metrics import precision_recall_fscore_support

    names, metrics = task.class_names, dj.metrics
    assert names is not None
    labels, predicted = task.targets[rows], probabilities.argmax(1)
    reliability = metrics.reliability(labels, probabilities)
    wrong = np.flatnonzero(predicted != labels)
    found = {
        "accuracy_wilson95": dj.wilson_interval(len(labels) - len(wrong), len(labels)),
        "expected_calibration_error": reliability.expected_calibration_error,
        "misclassified_rows": np.sort(rows[wrong]),
    }
    confusion = metrics.confusion(labels, predicted, len(names))
    figures = {
        "confusion": plots.confusion_matrix(confusion, names),
        "roc": plots.roc_curves(metrics.roc_curves(labels, probabilities), names),
        "reliability": plots.reliability_diagram(reliability),
    }
    wrong = wrong[np.argsort(probabilities[wrong, labels[wrong]])]  # the surest mistakes first
    answers = [f"{names[predicted[i]]}, {100 * probabilities[i].max():.0f} %" for i in wrong]
    title = "misclassified test rows: true as predicted, its probability"
    figures |= training.wrong_digits("misclassified", task, rows[wrong].tolist(), answers, title)
    *found_by_class, counts = precision_recall_fscore_support(
        labels, predicted, labels=range(len(names)), zero_division=0
    )
    percent = 100 * np.stack(found_by_class, axis=1)  # [K, 3]
    averages = {
        "macro avg": percent.mean(axis=0),
        "weighted avg": np.average(percent, axis=0, weights=counts),
    }
    by_class = Table(
        f"Scores by class, {run}",
        ("class", "precision (%)", "recall (%)", "F1 (%)", "rows"),
        [
            (name, *(f"{value:.2f}" for value in row), count)
            for name, row, count in zip(names, percent, counts, strict=True)
        ],
        totals=[
            (name, *(f"{value:.2f}" for value in row), counts.sum())
            for name, row in averages.items()
        ],
    )
    return found, by_class, figures


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
