"""Cross-validation: all folds, and a refit on all rows, train at once.

    python experiments/cross_validate.py
    python experiments/cross_validate.py --recipe strong
    python experiments/cross_validate.py --data mine.npz --recipe mine.py:recipe --validation 0.1

It writes ``report.html``, ``results.json`` (whole), ``history.npz``, ``predictions.npz``,
figures and checkpoints to the output folder.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common import command_line, console, options, startup, tasks, training
from common.drawing import plots
from common.output import Output, summary_json
from common.plans import Plan
from common.scores import Score, counted, scores_of
from common.tables import Table
from common.tasks import Task
from report import pages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folds, training.Options):
    """The options of the command line."""

    members: int = 1
    """Networks for each fold, whose outputs are combined; all train at once."""
    stratified: bool = True
    """Fractions of the classes equal in all folds, where there are classes."""
    refit: bool = True
    """A model trained on all rows, too: the one to deploy. With --patience or --keep best it trains
    afterwards, for the mean best epoch of the folds."""


def main(config: Config) -> None:
    """Trains, evaluates, shows and writes."""
    config.check()
    config.check_folds()
    options.positive(members=config.members)
    options.few_enough(config.members, "--members")
    config, output, task, plan = training.begin(config, "cross_validate")
    splits = tasks.fold_splits(
        task, config.folds, repeats=config.repeats, seed=config.seed, stratified=config.stratified
    )
    splits = tasks.with_validation(task, splits, config.validation, seed=config.seed)
    with_refit = dj.stack_splits(splits, dj.refit_split(task.targets))
    at_once = config.refit and not config.watched
    output.claim()
    runs = dj.make_runs(
        with_refit if at_once else splits,
        plan.hyperparameters,
        members=config.members,
        seed=config.seed,
    )
    names = [*config.fold_names(), *["refit"] * at_once]  # of the runs axis: member by member
    if config.members > 1:
        names = [f"{name}, member {m}" for m in range(1, config.members + 1) for name in names]
    what = counted(config.folds * config.repeats, "fold")
    what += f" of {config.members} networks" * (config.members > 1) + " + refit" * at_once
    result = training.train(config, task.data, plan, runs, names, output, what=what)
    seconds = dict(result.seconds)
    if config.refit and config.watched:
        epochs = max(1, round(float(result.best_epochs.mean())))
        why = f"{counted(epochs, 'epoch')} (mean best epoch of the folds)"
        console.say(f"refit on all rows, {why}", console.notes)
        alone = dj.make_runs(with_refit, plan.hyperparameters, seed=config.seed)
        alone, plan_of_refit = dj.take_runs(alone, [-1]), plan._replace(epochs=epochs)
        also: Any = {"what": "the refit", "part": "refit", "watched": False}
        refit = training.train(config, task.data, plan_of_refit, alone, ["refit"], output, **also)
        seconds["refit"] = sum(refit.seconds.values())
    if startup.reports():
        report(config, task, plan, result, names, output, seconds)


def report(
    config: Config,
    task: Task,
    plan: Plan,
    result: dj.CrossValidation,
    names: list[str],
    output: Output,
    seconds: dict[str, float],
) -> None:
    """The table of folds, the summary, the files."""
    scores = scores_of(plan.recipe)
    tested = np.flatnonzero((result.test_rows >= 0).any(axis=1))
    diverged = training.name_diverged(result, names)
    finite = result.diverged[tested] == 0
    options.require(bool(finite.any()), "every fold diverged; try a smaller --learning-rate")
    of_runs = {
        names[i]: {score.name: float(result.scores[score.name][i]) for score in scores}
        for i in tested
    }
    found = {score.name: result.summary(score.name, diverged="exclude") for score in scores}
    summaries = {name: summary_json(name, each) for name, each in found.items()}
    votes = {}
    if result.votes is not None:
        votes = {s.name: summary_json(s.name, result.summary(s.name, votes=True)) for s in scores}
    table = fold_table(config, of_runs, diverged, scores[::-1], summaries, votes)
    if config.watched:
        table = with_best_epochs(table, result.best_epochs[tested], result.epochs[tested])
    table.show()

    by_fold = {
        s.title: np.where(finite, s.scale * result.scores[s.name][tested], np.nan)
        for s in scores[::-1]
    }
    figures = {
        "folds": plots.fold_scores(by_fold, name="Fold" if len(tested) == config.folds else "Run"),
        "learning_curves": training.curves(result, scores, names),
    }
    pooled, missed = None, None
    if task.has_logits(result.outputs):
        pooled = dj.metrics.pooled_predictions(
            result.test_rows[tested[finite]], result.outputs[tested[finite]]
        )
        who = "every repeat" if config.repeats > 1 else "its fold"
        missed, of_classes = errors(task, *pooled, who)
        figures |= of_classes
    output.arrays("history.npz", **result.history, runs=names)
    arrays = training.named_outputs(result.outputs, "outputs" if pooled is None else "logits")
    arrays = {name: array[tested] for name, array in arrays.items()}
    output.arrays("predictions.npz", rows=result.test_rows[tested], **arrays)
    results = {
        **training.about(config, result),
        "seconds": seconds,
        "folds": [
            {
                "fold": j % config.folds + 1,
                "repeat": j // config.folds % config.repeats + 1,
                "member": j // (config.folds * config.repeats) + 1,
                **each,
            }
            for j, each in enumerate(of_runs.values())
        ],
        **summaries,
        "summary_note": next((each.note for each in found.values() if each.note), None),
        "diverged": diverged,
        **({"votes": votes} if votes else {}),
        **({} if missed is None else {"missed_rows": missed}),
    }
    page = functools.partial(
        pages.cross_validation,
        task=task,
        result=result,
        table=table,
        scores=scores,
        names=names,
        figures=figures,
        pooled=pooled,
    )
    training.finish(config, task, output, results, figures, page, of_runs)


def fold_table(
    config: Config,
    of_runs: dict[str, dict[str, float]],
    diverged: dict[str, int],
    scores: list[Score],
    summaries: dict[str, Any],
    votes: dict[str, Any],
) -> Table:
    """A line for each tested run; below, means and intervals of the runs, and of the votes."""
    rows = [
        (name + ", diverged" * (name in diverged), *(s.text(values[s.name]) for s in scores))
        for name, values in of_runs.items()
    ]
    totals, healthy = [], len(of_runs) - sum(name in diverged for name in of_runs)
    of_all = f" of {healthy} of {len(of_runs)}" if healthy < len(of_runs) else ""
    for title, summary in {"": summaries, "vote, ": votes}.items():
        if summary:
            totals.append((f"{title}mean ± sd{of_all}", *(s.mean(summary[s.name]) for s in scores)))
            ends = [s.interval(summary[s.name]) for s in scores]
            totals.append((f"{title}95 % interval", *ends))
    title = f"{config.folds}-fold cross-validation, {counted(config.epochs or 0, 'epoch')}"
    return Table(title, ("run", *(s.label for s in scores)), rows, totals=totals)


def with_best_epochs(
    table: Table, best: npt.NDArray[np.integer], trained: npt.NDArray[np.integer]
) -> Table:
    """The table of folds, and which epoch of those trained was the best by the validation rows.

    Args:
        table: of R tested runs.
        best: epochs, integers [R].
        trained: epochs, integers [R].
    """
    cells = [f"{epoch} of {last}" for epoch, last in zip(best, trained, strict=True)]
    rows = [(*row, cell) for row, cell in zip(table.rows, cells, strict=True)]
    mean, *others = table.totals
    totals = [(*mean, f"{best.mean():.1f} ± {best.std():.1f}"), *((*row, "") for row in others)]
    return table._replace(columns=(*table.columns, "best epoch"), rows=rows, totals=totals)


def errors(
    task: Task, rows: npt.NDArray[Any], probabilities: npt.NDArray[Any], who: str
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """Of a classification: the rows always missed, and figures.

    Args:
        task: with classes.
        rows: row numbers [M] of all runs' predictions.
        probabilities: of the predictions [M, K].
        who: gets such a row wrong.
    """
    names = task.class_names
    assert names is not None
    labels, predicted = task.targets[rows], probabilities.argmax(1)
    missed = dj.metrics.always_wrong(rows, labels, predicted)
    confusion = dj.metrics.confusion(labels, predicted, len(names))
    sure = {row: probabilities[rows == row, task.targets[row]].mean() for row in missed.tolist()}
    worst = sorted(sure, key=sure.__getitem__)
    answers = [", ".join(names[k] for k in np.unique(predicted[rows == row])) for row in worst]
    title = f"rows that {who} gets wrong, the surest first"
    sheet = training.wrong_digits("missed", task, worst, answers, title)
    return missed, {"confusion": plots.confusion_matrix(confusion, names), **sheet}


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
