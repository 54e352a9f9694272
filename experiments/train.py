"""Trains on a part of the rows and tests on the rest; several seeds train at once.

    python experiments/train.py
    python experiments/train.py --seeds 10
    python experiments/train.py --data mine.npz --recipe mine.py:recipe

By default it is the notebook's training: 80 % of the rows train, 20 % test. With ``--seeds`` above
1, every score gets a mean and a spread. It writes ``report.html``, ``results.json`` (last, and
whole), ``history.npz``, ``predictions.npz``, figures and checkpoints to the output folder.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import tyro

from common import command_line, console, options, startup, tasks, tracking, training
from common.output import Output, describe, summary_json
from common.scores import Score, scores_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from common.tasks import Plan, Task
    from digits_jax import CrossValidation

MACRO = [Score(name, f"Macro {name} (%)", 100, "%", 2) for name in ("precision", "recall", "f1")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.ResumableOut, options.Training):
    """The options of the command line."""

    seeds: int = 1
    """Networks to train at once, each with draws of its own."""
    test_size: float = 0.2
    """Fraction of the rows that test."""
    split_seed: int = 42
    """Of the split; 42 gives the notebook's 1124 test rows on the full data."""
    verbose: bool = False
    """Print a line for each epoch instead of a bar."""
    job: tyro.conf.OmitArgPrefixes[options.Job] = options.Job()
    """Several processes, on one host or many."""


def main(config: Config) -> None:
    """Trains, evaluates, shows and writes."""
    config.check()
    options.positive(seeds=config.seeds)
    options.few_enough(config.seeds, "--seeds")
    options.require(
        0 < config.test_size < 1,
        f"--test-size must be between 0 and 1 (exclusive), not {config.test_size}",
    )
    options.seed(split_seed=config.split_seed)
    output = Output(config.output_dir, script="train", resume=config.resume, job=config.job)
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
    split = tasks.one_split(task, config.test_size, seed=config.split_seed)
    split = tasks.with_validation(task, split, config.validation, seed=config.split_seed)
    output.claim()
    runs = dj.make_runs(
        dj.stack_splits(*[split] * config.seeds), plan.hyperparameters, seed=config.seed
    )
    result = training.train(
        task.data,
        runs,
        [f"run {i + 1}" for i in range(config.seeds)],
        output,
        plan,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        patience=config.patience,
        keep=config.keep,
        resume=config.resume,
        verbose=config.verbose,
        tensorboard=config.tensorboard,
        about=options.identifying(config),
    )
    if startup.reports():
        report(config, task, plan, result, output)


def report(config: Config, task: Task, plan: Plan, result: CrossValidation, output: Output) -> None:
    """The scores and figures; ``results.json`` last."""
    import numpy as np
    from rich.table import Table

    from digits_jax import metrics, plots, summarize
    from report import pages

    run_names = [f"run {i + 1}" for i in range(config.seeds)]
    diverged = training.name_diverged(result, run_names)
    finite = np.flatnonzero(result.diverged == 0)
    options.require(len(finite) > 0, "every run diverged; try a smaller --learning-rate")
    first = run_names[finite[0]]  # the run that is shown in detail
    rows = result.test_rows[0]
    scores = scores_of(plan.recipe)
    values = {score.name: result.scores[score.name][finite].tolist() for score in scores}
    probabilities = None
    if task.has_logits(result.outputs):
        probabilities = metrics.probabilities(result.outputs[finite])
        found = [metrics.classification_scores(task.targets[rows], each) for each in probabilities]
        values |= {score.name: [getattr(each, score.name) for each in found] for score in MACRO}
        values |= {"loss": [each.log_loss for each in found]}
        scores = [*scores[:-1], *MACRO, scores[-1]]
    summaries = {score.name: summarize(values[score.name]) for score in scores}

    table = Table(title=f"{len(rows)} test rows after {config.epochs} epochs")
    table.add_column("score")
    table.add_column(first, justify="right")
    if len(finite) > 1:
        of_all = f" of {config.seeds}" if len(finite) < config.seeds else ""
        table.add_column(f"mean ± sd of {len(finite)}{of_all} seeds", justify="right")
    for score in (scores[-1], *scores[:-1]):
        cells = [score.title[0].lower() + score.title[1:], score.text(values[score.name][0])]
        if len(finite) > 1:
            summary = summaries[score.name]
            cells.append(score.spread(summary.mean, summary.std))
        table.add_row(*cells)
    curves = training.curves(result, scores_of(plan.recipe))
    figures = {
        "training_curves": plots.learning_curves(
            curves["training"], run_names, validation=curves["validation"]
        )
    }
    about_classes: dict[str, Any] = {}
    by_class = None
    if probabilities is not None:
        about_classes, by_class, more = classes(task, rows, probabilities)
        figures |= more
        low, high = (100 * bound for bound in about_classes["accuracy_wilson95"])
        table.add_row("accuracy, 95 % interval (Wilson)", f"{low:.2f} to {high:.2f}")
        error = 100 * about_classes["expected_calibration_error"]
        table.add_row("calibration error (%)", f"{error:.2f}")
    console.results.print(table)
    if by_class is not None:
        if len(run_names) > 1:
            console.results.print(f"scores by class, of {first} alone", highlight=False)
        console.results.print(by_class(digits=4), highlight=False)

    output.arrays("history.npz", **result.history)
    arrays = training.named_outputs(result.outputs, "outputs" if by_class is None else "logits")
    output.arrays("predictions.npz", rows=rows, **arrays)
    runs = [
        {"run": int(i) + 1, **{name: each[j] for name, each in values.items()}}
        for j, i in enumerate(finite)
    ]
    results = {
        "experiment": "train",
        **describe(config, task.provenance),
        "trained": {"runs": config.seeds, "epochs": result.history["loss"].shape[1]},
        "epochs_of_runs": result.epochs,
        "best_epochs": result.best_epochs,
        "runs": runs,
        "diverged": diverged,
        **{name: summary_json(name, each) for name, each in summaries.items()},
        "test_rows": len(rows),
        **about_classes,
        "seconds": result.seconds,
    }
    page = pages.train(
        results,
        result=result,
        scores=scores,
        figures=figures,
        classes=task.class_names,
        labels=task.labels,
        images=task.images,
        rows=rows,
        probabilities=probabilities,
        by_class=None if by_class is None else by_class(output_dict=True),
    )

    def track() -> None:
        of_runs = {
            run_names[i]: {name: each[j] for name, each in values.items()}
            for j, i in enumerate(finite)
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


def classes(task: Task, rows: npt.NDArray[Any], probabilities: npt.NDArray[np.float64]) -> Any:
    """What a classification's first run has beside its scores.

    Args:
        task: with classes.
        rows: of the test [S].
        probabilities: [R, S, K].

    Returns:
        What goes to ``results.json``, a function that gives scikit-learn's report, and figures.
    """
    import numpy as np
    from sklearn.metrics import classification_report

    from digits_jax import metrics, plots, wilson_interval

    names = task.class_names
    assert names is not None
    labels, predicted = task.targets[rows], probabilities[0].argmax(1)
    reliability = metrics.reliability(labels, probabilities[0])
    wrong = np.flatnonzero(predicted != labels)
    found = {
        "accuracy_wilson95": wilson_interval(len(labels) - len(wrong), len(labels)),
        "expected_calibration_error": reliability.expected_calibration_error,
        "misclassified_rows": np.sort(rows[wrong]),
    }
    figures = {
        "confusion": plots.confusion_matrix(
            metrics.confusion(labels, predicted, len(names)), names
        ),
        "roc": plots.roc_curves(metrics.roc_curves(labels, probabilities[0]), names),
        "reliability": plots.reliability_diagram(reliability),
    }
    wrong = wrong[np.argsort(probabilities[0][wrong, labels[wrong]])]  # the surest mistakes first
    images = task.images
    if images is not None and images.ndim == 3:
        shown = wrong[:64]  # a sheet of more is no longer looked at
        titles = [
            f"row {rows[i]}\n{names[labels[i]]} as {names[predicted[i]]}, "
            f"{100 * probabilities[0][i].max():.0f} %"
            for i in shown
        ]
        title = f"{len(shown)} of {len(wrong)} misclassified test rows: true as predicted, "
        figures["misclassified"] = plots.digit_sheet(
            images[rows[shown]],
            titles,
            title=f"{title}its probability",
            black=float(images.max()),
        )
    by_class = functools.partial(
        classification_report,
        labels,
        predicted,
        labels=range(len(names)),
        target_names=names,
        zero_division=0,
    )
    return found, by_class, figures


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
