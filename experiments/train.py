"""The notebook's training and evaluation: 80 % of the rows train, the other 20 % test.

    python experiments/train.py
    python experiments/train.py --seeds 10

With ``--seeds`` above 1, as many networks train at once on the same split, and every score gets
a mean and a spread. It writes ``report.html``, ``results.json`` (last, and whole),
``history.npz``, ``predictions.npz``, figures and checkpoints to the output folder.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from common import command_line, console, options, startup, tracking, training
from common.output import Output, describe, summary_json

if TYPE_CHECKING:
    from digits_jax import CrossValidation, Dataset

STARTED = time.perf_counter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of the command line."""

    data: str = "auto"
    """Rows: auto (the cached download, else UCI, else bundled), uci, bundled, or the path of a
    CSV in UCI's layout."""
    epochs: int = 100
    """Passes over the training rows."""
    batch_size: int = 128
    """Rows of an optimizer step; the last of an epoch takes what is left."""
    learning_rate: float = 1e-3
    """Of Adam, a step."""
    seed: int = 0
    """Of the initial weights, shuffles and dropout."""
    seeds: int = 1
    """Networks to train at once, each with draws of its own."""
    test_size: float = 0.2
    """Fraction of the rows that test."""
    split_seed: int = 42
    """Of the split; 42 gives the notebook's 1124 test rows on the full data."""
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/train/<date>-<time>."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints. Default: a tenth of the run."""
    resume: bool = False
    """Go on from the newest checkpoint in --output-dir."""
    verbose: bool = False
    """Print a line for each epoch instead of a bar."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is quick."""
    svg: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write the figures as SVG."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write what TensorBoard shows, to the folder tensorboard of the output."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but the result."""
    job: tyro.conf.OmitArgPrefixes[options.Job] = options.Job()
    """Several processes, on one host or many."""


def main(config: Config) -> None:
    """Trains, evaluates, shows and writes."""
    options.positive(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seeds=config.seeds,
        checkpoint_every=config.checkpoint_every,
    )
    options.few_enough(config.seeds, "--seeds")
    options.require(
        0 < config.test_size < 1,
        f"--test-size must be between 0 and 1 (exclusive), not {config.test_size}",
    )
    options.seed(seed=config.seed, split_seed=config.split_seed)
    output = Output(config.output_dir, script="train", resume=config.resume, job=config.job)
    startup.start_jax(compilation_cache=config.compilation_cache, job=config.job)
    import digits_jax as dj

    dataset = dj.load_digits(config.data)
    console.show_data(dataset.provenance)
    try:
        split = dj.holdout_split(dataset.labels, test_size=config.test_size, seed=config.split_seed)
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    options.countable(config.epochs, len(dataset.labels), config.batch_size)
    output.claim()
    runs = dj.make_runs(
        dj.stack_splits(*[split] * config.seeds),
        dj.Hyperparameters(learning_rate=config.learning_rate),
        seed=config.seed,
    )
    result = training.train(
        dataset,
        runs,
        [f"run {i + 1}" for i in range(config.seeds)],
        output,
        recipe=dj.Recipe(batch_size=config.batch_size),
        epochs=config.epochs,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        resume=config.resume,
        verbose=config.verbose,
        tensorboard=config.tensorboard,
        about=options.identifying(config),
    )
    if startup.reports():
        report(config, dataset, result, output)


def report(config: Config, dataset: Dataset, result: CrossValidation, output: Output) -> None:
    """The scores and figures; ``results.json`` last."""
    import numpy as np
    from rich.table import Table
    from sklearn.metrics import classification_report

    from digits_jax import metrics, plots, summarize, wilson_interval
    from report import pages

    run_names = [f"run {i + 1}" for i in range(config.seeds)]
    diverged = training.name_diverged(result, run_names)
    finite = np.flatnonzero(result.diverged == 0)
    options.require(len(finite) > 0, "every run diverged; try a smaller --learning-rate")
    first = run_names[finite[0]]  # the run that is shown in detail
    rows = result.test_rows[0]
    labels = dataset.labels[rows]
    probabilities = metrics.probabilities(result.outputs[finite])
    scores = [metrics.classification_scores(labels, each) for each in probabilities]
    values = {
        "loss": [score.log_loss for score in scores],
        "accuracy": [score.accuracy for score in scores],
        "precision": [score.precision for score in scores],
        "recall": [score.recall for score in scores],
        "f1": [score.f1 for score in scores],
    }
    summaries = {name: summarize(each) for name, each in values.items()}
    reliability = metrics.reliability(labels, probabilities[0])
    correct = round(scores[0].accuracy * len(labels))
    wilson = wilson_interval(correct, len(labels))

    table = Table(title=f"{len(labels)} test rows after {config.epochs} epochs")
    table.add_column("score")
    table.add_column(first, justify="right")
    if len(finite) > 1:
        table.add_column(f"mean ± sd of {len(finite)} runs", justify="right")
    for name, summary in summaries.items():
        unit, scale, digits = ("nats", 1, 4) if name == "loss" else ("%", 100, 2)
        title = name if name in ("loss", "accuracy") else f"macro {name}"
        cells = [f"{title} ({unit})", f"{scale * values[name][0]:.{digits}f}"]
        if len(finite) > 1:
            mean, sd = scale * summary.mean, scale * summary.std
            cells.append(f"{mean:.{digits}f} ± {sd:.{digits}f}")
        table.add_row(*cells)
    low, high = (100 * bound for bound in wilson)
    table.add_row("accuracy, 95 % interval (Wilson)", f"{low:.2f} to {high:.2f}")
    table.add_row("calibration error (%)", f"{100 * reliability.expected_calibration_error:.2f}")
    console.results.print(table)
    predicted = probabilities[0].argmax(1)
    names = dataset.class_names
    by_class = functools.partial(
        classification_report,
        labels,
        predicted,
        labels=range(10),
        target_names=names,
        zero_division=0,
    )
    if len(run_names) > 1:
        console.results.print(f"scores by class, of {first} alone", highlight=False)
    console.results.print(by_class(digits=4), highlight=False)

    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(probabilities[0][wrong, labels[wrong]])]  # the surest mistakes first
    shown = wrong[:64]  # a sheet of more is no longer looked at
    titles = [
        f"row {rows[i]}\n{labels[i]} as {predicted[i]}, {100 * probabilities[0][i].max():.0f} %"
        for i in shown
    ]
    curves = metrics.roc_curves(labels, probabilities[0])
    figures = {
        "training_curves": plots.learning_curves(*training.curves(result), run_names),
        "confusion": plots.confusion_matrix(metrics.confusion(labels, predicted), names),
        "roc": plots.roc_curves(curves, names),
        "reliability": plots.reliability_diagram(reliability),
        "misclassified": plots.digit_sheet(
            dataset.images[rows[shown]],
            titles,
            title=f"{len(shown)} of {len(wrong)} misclassified test rows: true as predicted, "
            "its probability",
        ),
    }
    for name, figure in figures.items():
        plots.save(figure, output.folder / name, ("png", "svg") if config.svg else ("png",))
    output.arrays("history.npz", loss=result.history["loss"], accuracy=result.history["accuracy"])
    output.arrays("predictions.npz", rows=rows, logits=result.outputs)
    runs = [
        {"run": int(i) + 1, **{name: each[j] for name, each in values.items()}}
        for j, i in enumerate(finite)
    ]
    results = {
        "experiment": "train",
        **describe(config, dataset.provenance),
        "runs": runs,
        "diverged": diverged,
        **{name: summary_json(name, each) for name, each in summaries.items()},
        "test_rows": len(labels),
        "accuracy_wilson95": wilson,
        "expected_calibration_error": reliability.expected_calibration_error,
        "misclassified_rows": np.sort(rows[wrong]),
        "seconds": result.seconds,
    }
    page = pages.train(
        results,
        dataset=dataset,
        history={name: each[finite] for name, each in result.history.items()},
        rows=rows,
        probabilities=probabilities,
        curves=curves,
        reliability=reliability,
        classes=by_class(output_dict=True),
    )
    output.text("report.html", page)
    if config.tensorboard:
        scores_of = {
            run_names[i]: {name: each[j] for name, each in values.items()}
            for j, i in enumerate(finite)
        }
        tracking.finish(output.folder, config=vars(config), scores=scores_of, figures=figures)
    total = time.perf_counter() - STARTED
    output.json("results.json", {**results, "seconds": {**result.seconds, "total": total}})
    tracked = ", tensorboard/" if config.tensorboard else ""
    console.results.print(
        f"{total:.1f} s: compiling {result.seconds['compile']:.1f}, training "
        f"{result.seconds['train']:.1f}. Written to {output.folder}/: report.html, results.json, "
        f"history.npz, predictions.npz, figures, checkpoints/{tracked}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
