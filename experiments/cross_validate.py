"""Five-fold cross-validation of the notebook's CNN: all folds, and a refit on all rows, at once.

    python experiments/cross_validate.py
    python experiments/cross_validate.py --recipe strong

It writes ``report.html``, ``results.json`` (last, and whole), ``history.npz``, ``predictions.npz``,
figures and checkpoints to the output folder.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from common import command_line, console, options, startup, tracking, training
from common.output import Output, describe, summary_json

if TYPE_CHECKING:
    from digits_jax import CrossValidation, Dataset
    from digits_jax.splits import Split

STARTED = time.perf_counter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of the command line."""

    data: str = "auto"
    """Rows: auto (the cached download, else UCI, else bundled), uci, bundled, or the path of a
    CSV in UCI's layout."""
    folds: int = 5
    """Parts of the rows; each is the test set of one run."""
    repeats: int = 1
    """Times that the rows are split anew; all repeats train at once."""
    recipe: Literal["notebook", "strong"] = "notebook"
    """The named: the notebook's network and protocol, or the most accurate one here."""
    epochs: int | None = None
    """Passes over the training rows. Default: the recipe's, of the notebook's 100."""
    batch_size: int | None = None
    """Rows of an optimizer step; the last of an epoch takes what is left. Default: the recipe's, of
    the notebook's 128."""
    learning_rate: float | None = None
    """Of Adam, a step; where the recipe has a schedule, its peak. Default: the recipe's, of the
    notebook's 0.001."""
    seed: int = 0
    """Of the splits, initial weights, shuffles and dropout."""
    stratified: bool = True
    """Keep the fractions of the classes equal in all folds."""
    refit: bool = True
    """Also train one model on all rows: the one to deploy."""
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/cross_validate/<date>-<time>."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints. Default: a tenth of the run."""
    resume: bool = False
    """Go on from the newest checkpoint in --output-dir."""
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
        repeats=config.repeats,
        checkpoint_every=config.checkpoint_every,
    )
    options.require(config.folds >= 2, f"--folds must be at least 2, not {config.folds}")
    options.few_enough(config.folds * config.repeats, "--folds times --repeats")
    options.seed(seed=config.seed)
    output = Output(
        config.output_dir, script="cross_validate", resume=config.resume, job=config.job
    )
    startup.start_jax(compilation_cache=config.compilation_cache, job=config.job)
    import digits_jax as dj

    dataset = dj.load_digits(config.data)
    console.show_data(dataset.provenance)
    try:
        splits = dj.kfold_splits(
            dataset.labels,
            config.folds,
            seed=config.seed,
            stratified=config.stratified,
            repeats=config.repeats,
        )
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    tested = config.folds * config.repeats
    if config.refit:
        splits = dj.stack_splits(splits, dj.refit_split(dataset.labels))
    names = run_names(config)
    named = dj.recipe_by_name(config.recipe, epochs=config.epochs, batch_size=config.batch_size)
    hyperparameters: Any = named.hyperparameters
    if config.learning_rate is not None:
        hyperparameters = hyperparameters._replace(learning_rate=config.learning_rate)
    config = dataclasses.replace(
        config,
        epochs=named.epochs,
        batch_size=named.recipe.batch_size,
        learning_rate=hyperparameters.learning_rate,
    )
    options.countable(named.epochs, len(dataset.labels), named.recipe.batch_size)
    output.claim()
    runs = dj.make_runs(splits, hyperparameters, seed=config.seed)
    result = training.train(
        dataset,
        runs,
        names,
        output,
        recipe=named.recipe,
        epochs=named.epochs,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        resume=config.resume,
        tensorboard=config.tensorboard,
        about=options.identifying(config),
    )
    if startup.reports():
        report(config, dataset, splits, result, tested, output)


def run_names(config: Config) -> list[str]:
    """One for each run, in their order on the runs axis."""
    names = [
        f"fold {fold}" + (f", repeat {repeat}" if config.repeats > 1 else "")
        for repeat in range(1, config.repeats + 1)
        for fold in range(1, config.folds + 1)
    ]
    return names + ["refit"] * config.refit


def report(
    config: Config,
    dataset: Dataset,
    splits: Split,
    result: CrossValidation,
    tested: int,
    output: Output,
) -> None:
    """The table of folds, the summary, the files; ``results.json`` last."""
    import numpy as np
    from rich.table import Table

    from digits_jax import metrics, plots, summarize
    from report import pages

    loss, accuracy = result.scores["loss"][:tested], result.scores["accuracy"][:tested]
    folds = [
        {"fold": i % config.folds + 1, "repeat": i // config.folds + 1, "loss": a, "accuracy": b}
        for i, (a, b) in enumerate(zip(loss.tolist(), accuracy.tolist(), strict=True))
    ]
    names = run_names(config)
    sizes: dict[str, Any] = {
        "train_rows": float(splits.train_weights[:tested].sum(1).mean()),
        "test_rows": float(splits.test_weights[:tested].sum(1).mean()),
    }
    diverged = training.name_diverged(result, names)
    finite = result.diverged[:tested] == 0
    options.require(bool(finite.any()), "every fold diverged; try a smaller --learning-rate")
    scores = {
        "accuracy": summarize(accuracy[finite], **sizes),
        "loss": summarize(loss[finite], **sizes),
    }

    table = Table(title=f"{config.folds}-fold cross-validation, {config.epochs} epochs")
    for column in ("run", "loss (nats)", "accuracy (%)"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, fold in zip(names, folds, strict=False):
        title = f"{name}, diverged" if name in diverged else name
        table.add_row(title, f"{fold['loss']:.4f}", f"{100 * fold['accuracy']:.2f}")
    table.add_section()
    table.add_row(
        "mean ± sd",
        f"{scores['loss'].mean:.4f} ± {scores['loss'].std:.4f}",
        f"{100 * scores['accuracy'].mean:.2f} ± {100 * scores['accuracy'].std:.2f}",
    )
    summaries = {name: summary_json(name, each) for name, each in scores.items()}
    low, high = summaries["accuracy"]["ci95"]
    if not np.isnan(low):  # one fold has no interval
        table.add_row("95 % interval", "", f"{100 * low:.2f} to {100 * high:.2f}")
    console.results.print(table)

    rows, probabilities = metrics.pooled_predictions(
        result.test_rows[:tested][finite], result.outputs[:tested][finite]
    )
    labels, predicted = dataset.labels[rows], probabilities.argmax(1)
    missed = metrics.always_wrong(rows, labels, predicted)
    sure = {row: probabilities[rows == row, dataset.labels[row]].mean() for row in missed.tolist()}
    worst = sorted(sure, key=sure.__getitem__)[:64]  # a sheet of more is no longer looked at
    answers = {row: sorted(set(predicted[rows == row].tolist())) for row in worst}
    titles = [
        f"row {row}\n{dataset.labels[row]} as {', '.join(map(str, answers[row]))}" for row in worst
    ]
    who = "every repeat" if config.repeats > 1 else "its fold"
    figures = {
        "folds": plots.fold_scores(
            np.where(finite, loss, np.nan), np.where(finite, accuracy, np.nan)
        ),
        "learning_curves": plots.learning_curves(*training.curves(result), names),
        "confusion": plots.confusion_matrix(metrics.confusion(labels, predicted)),
        "missed": plots.digit_sheet(
            dataset.images[worst],
            titles,
            title=f"{len(worst)} of {len(missed)} rows that {who} gets wrong, the surest first",
        ),
    }
    for name, figure in figures.items():
        plots.save(figure, output.folder / name, ("png", "svg") if config.svg else ("png",))
    output.arrays(
        "history.npz", loss=result.history["loss"], accuracy=result.history["accuracy"], runs=names
    )
    output.arrays("predictions.npz", rows=result.test_rows[:tested], logits=result.outputs[:tested])
    results = {
        "experiment": "cross_validate",
        **describe(config, dataset.provenance),
        "folds": folds,
        **summaries,
        "diverged": diverged,
        "missed_rows": missed,
        "seconds": result.seconds,
    }
    page = pages.cross_validation(
        results,
        dataset=dataset,
        history=result.history,
        names=names,
        rows=rows,
        probabilities=probabilities,
    )
    output.text("report.html", page)
    if config.tensorboard:
        tested_scores = {
            name: {"loss": fold["loss"], "accuracy": fold["accuracy"]}
            for name, fold in zip(names, folds, strict=False)
        }
        tracking.finish(output.folder, config=vars(config), scores=tested_scores, figures=figures)
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
