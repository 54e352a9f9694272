"""Cross-validation: all folds, and a refit on all rows, train at once.

    python experiments/cross_validate.py
    python experiments/cross_validate.py --recipe strong
    python experiments/cross_validate.py --data mine.npz --recipe mine.py:recipe --validation 0.1

It writes ``report.html``, ``results.json`` (last, and whole), ``history.npz``, ``predictions.npz``,
figures and checkpoints to the output folder.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import tyro

from common import command_line, console, options, startup, tasks, tracking, training
from common.output import Output, describe, summary_json
from common.scores import scores_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from common.tasks import Plan, Task
    from digits_jax import CrossValidation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.ResumableOut, options.Training):
    """The options of the command line."""

    folds: int = 5
    """Parts of the rows; each is the test set of one run."""
    repeats: int = 1
    """Times that the rows are split anew; all repeats train at once."""
    members: int = 1
    """Networks for each fold, whose outputs are combined; all train at once."""
    stratified: bool = True
    """Keep the fractions of the classes equal in all folds, where there are classes."""
    refit: bool = True
    """Also train one model on all rows: the one to deploy. With --patience or --keep best it trains
    afterwards, for the mean best epoch of the folds."""
    job: tyro.conf.OmitArgPrefixes[options.Job] = options.Job()
    """Several processes, on one host or many."""


def main(config: Config) -> None:
    """Trains, evaluates, shows and writes."""
    config.check()
    options.positive(repeats=config.repeats, members=config.members)
    options.require(config.folds >= 2, f"--folds must be at least 2, not {config.folds}")
    options.few_enough(config.folds * config.repeats, "--folds times --repeats")
    options.few_enough(config.members, "--members")
    output = Output(
        config.output_dir, script="cross_validate", resume=config.resume, job=config.job
    )
    startup.start_jax(compilation_cache=config.compilation_cache, job=config.job)
    import digits_jax as dj

    task = tasks.load_task(config.data)
    console.show_data(task.provenance)
    plan = tasks.load_plan(
        config.recipe,
        task,
        epochs=config.epochs,
        batch_size=config.batch_size,
        set_=config.settings,
    )
    config = dataclasses.replace(config, **tasks.numbers_of(plan))
    splits = tasks.fold_splits(
        task, config.folds, repeats=config.repeats, seed=config.seed, stratified=config.stratified
    )
    splits = tasks.with_validation(task, splits, config.validation, seed=config.seed)
    with_refit = dj.stack_splits(splits, dj.refit_split(task.targets))
    watched = config.patience is not None or config.keep == "best"
    at_once = config.refit and not watched
    output.claim()
    runs = dj.make_runs(
        with_refit if at_once else splits,
        plan.hyperparameters,
        members=config.members,
        seed=config.seed,
    )
    names = run_names(config, refit=at_once)
    options_of_training: Any = {
        "seed": config.seed,
        "resume": config.resume,
        "checkpoint_every": config.checkpoint_every,
        "about": options.identifying(config),
    }
    result = training.train(
        task.data,
        runs,
        names,
        output,
        plan,
        patience=config.patience,
        keep=config.keep,
        tensorboard=config.tensorboard,
        **options_of_training,
    )
    if config.refit and watched:
        epochs = max(1, round(float(result.best_epochs.mean())))
        console.notes.print(f"refit on all rows, {epochs} epochs", highlight=False)
        alone = dj.make_runs(with_refit, plan.hyperparameters, seed=config.seed)
        training.train(
            task.data,
            dj.take_runs(alone, [-1]),
            ["refit"],
            output,
            plan._replace(epochs=epochs),
            part="refit",
            **options_of_training,
        )
    if startup.reports():
        report(config, task, plan, result, names, output)


def run_names(config: Config, *, refit: bool) -> list[str]:
    """One for each run, in their order on the runs axis: member by member."""
    folds = [
        f"fold {fold}" + (f", repeat {repeat}" if config.repeats > 1 else "")
        for repeat in range(1, config.repeats + 1)
        for fold in range(1, config.folds + 1)
    ]
    folds += ["refit"] * refit
    if config.members == 1:
        return folds
    return [f"{name}, member {m}" for m in range(1, config.members + 1) for name in folds]


def report(
    config: Config,
    task: Task,
    plan: Plan,
    result: CrossValidation,
    names: list[str],
    output: Output,
) -> None:
    """The table of folds, the summary, the files; ``results.json`` last."""
    import numpy as np
    from rich.table import Table

    from digits_jax import plots
    from report import pages

    scores = scores_of(plan.recipe)
    tested = np.flatnonzero((result.test_rows >= 0).any(axis=1))
    first_names = [names[i] for i in tested]
    diverged = training.name_diverged(result, names)
    finite = result.diverged[tested] == 0
    options.require(bool(finite.any()), "every fold diverged; try a smaller --learning-rate")
    folds = [
        {
            "fold": j % config.folds + 1,
            "repeat": j // config.folds % config.repeats + 1,
            "member": j // (config.folds * config.repeats) + 1,
            **{score.name: float(result.scores[score.name][i]) for score in scores},
        }
        for j, i in enumerate(tested)
    ]
    found = {score.name: result.summary(score.name, diverged="exclude") for score in scores}
    votes = {}
    if result.votes is not None:
        votes = {score.name: result.summary(score.name, votes=True) for score in scores}

    table = Table(title=f"{config.folds}-fold cross-validation, {config.epochs} epochs")
    loss_first = scores[::-1]
    for column in ("run", *(_plain(score.title) for score in loss_first)):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, fold in zip(first_names, folds, strict=True):
        cells = (score.text(fold[score.name]) for score in loss_first)
        table.add_row(f"{name}, diverged" if name in diverged else name, *cells)
    for title, of in {"": found, "vote, ": votes}.items():
        if of:
            table.add_section()
            spreads = (s.spread(of[s.name].mean, of[s.name].sd) for s in loss_first)
            of_all = f" of {int(finite.sum())} of {len(finite)}" if not finite.all() else ""
            table.add_row(f"{title}mean ± sd{of_all}", *spreads)
            ends = [_interval(of[s.name], s) if s.name != "loss" else "" for s in loss_first]
            if any(ends):  # one fold has no interval
                table.add_row(f"{title}95 % interval", *ends)
    console.results.print(table)

    figures = {
        "folds": plots.fold_scores(
            {
                s.title: np.where(finite, s.scale * result.scores[s.name][tested], np.nan)
                for s in loss_first
            },
            name="Fold" if len(tested) == config.folds else "Run",
        ),
    }
    curves = training.curves(result, scores)
    figures["learning_curves"] = plots.learning_curves(
        curves["training"], names, validation=curves["validation"]
    )
    pooled, missed = None, None
    if task.has_logits(result.outputs):
        pooled, missed, figures["confusion"], sheet = errors(
            task, result, tested[finite], "every repeat" if config.repeats > 1 else "its fold"
        )
        figures |= sheet
    output.arrays("history.npz", **result.history, runs=names)
    arrays = training.named_outputs(result.outputs, "outputs" if pooled is None else "logits")
    arrays = {name: array[tested] for name, array in arrays.items()}
    output.arrays("predictions.npz", rows=result.test_rows[tested], **arrays)
    results = {
        "experiment": "cross_validate",
        **describe(config, task.provenance),
        "trained": {"runs": len(names), "epochs": result.history["loss"].shape[1]},
        "epochs_of_runs": result.epochs,
        "best_epochs": result.best_epochs,
        "folds": folds,
        **{name: summary_json(name, each) for name, each in found.items()},
        "summary_note": next((each.note for each in found.values() if each.note), None),
        "diverged": diverged,
        "seconds": result.seconds,
    }
    if votes:
        results["votes"] = {name: summary_json(name, each) for name, each in votes.items()}
    if missed is not None:
        results["missed_rows"] = missed
    page = pages.cross_validation(
        results,
        result=result,
        scores=scores,
        names=names,
        figures=figures,
        classes=task.class_names,
        labels=task.labels,
        images=task.images,
        pooled=pooled,
    )

    def track() -> None:
        of_runs = {
            name: {score.name: fold[score.name] for score in scores}
            for name, fold in zip(first_names, folds, strict=True)
        }
        tracking.finish(output.folder, config=vars(config), scores=of_runs, figures=figures)

    output.finish(
        results,
        figures,
        page,
        svg=config.svg,
        also=[
            "history.npz",
            "predictions.npz",
            "checkpoints/",
            *["tensorboard/"] * config.tensorboard,
        ],
        track=track if config.tensorboard else None,
    )


def _plain(title: str) -> str:
    return title[0].lower() + title[1:]


def _interval(summary: Any, score: Any) -> str:
    ends = summary_json(score.name, summary)["ci95"]
    return "" if math.isnan(ends[0]) else " to ".join(map(score.text, ends))


def errors(task: Task, result: CrossValidation, runs: npt.NDArray[Any], who: str) -> Any:
    """Of a classification: pooled predictions, rows always missed, and figures of both.

    Args:
        task: with classes.
        result: of ``cross_validate``.
        runs: which were tested, and did not diverge.
        who: gets such a row wrong.
    """
    from digits_jax import metrics, plots

    assert task.class_names is not None
    rows, probabilities = metrics.pooled_predictions(result.test_rows[runs], result.outputs[runs])
    labels, predicted = task.targets[rows], probabilities.argmax(1)
    missed = metrics.always_wrong(rows, labels, predicted)
    confusion = plots.confusion_matrix(
        metrics.confusion(labels, predicted, len(task.class_names)), task.class_names
    )
    sheet = {}
    images = task.images
    if images is not None and images.ndim == 3:
        sure = {
            row: probabilities[rows == row, task.targets[row]].mean() for row in missed.tolist()
        }
        worst = sorted(sure, key=sure.__getitem__)[:64]  # a sheet of more is no longer looked at
        answers = {row: sorted(set(predicted[rows == row].tolist())) for row in worst}
        name = task.class_names
        titles = [
            f"row {row}\n{name[task.targets[row]]} as {', '.join(name[k] for k in answers[row])}"
            for row in worst
        ]
        title = f"{len(worst)} of {len(missed)} rows that {who} gets wrong, the surest first"
        black = float(images.max())
        sheet["missed"] = plots.digit_sheet(images[worst], titles, title=title, black=black)
    return (rows, probabilities), missed, confusion, sheet


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
