"""How soon can five-fold cross-validation reach the accuracy of the notebook's protocol, 99.08 %?

    python experiments/speedrun.py

The recipe: the notebook's three convolutions with a linear layer on top, pixels scaled to 0..1, no
dropout, label smoothing, batches of 64, and a one-cycle learning rate. It was chosen on folds of
seeds 1000 and above; the report uses seeds 0 and above. Each repeat is a cross-validation of its
own, as a user would run it: five folds at once, from initial weights to test scores.

The goal is the mean of the notebook's protocol, as this project measures it over five seeds (99.00
to 99.15 %); the notebook's own 98.95 % is one draw of it. All repeats test the same rows, so that
the interval is the corrected one of all their folds. The goal is reached if the interval lies
above it and no repeat diverged: one that did is a failure, and is counted.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from common import command_line, console, options, startup, training
from common.output import Output, describe, summary_json

if TYPE_CHECKING:
    import numpy as np
    import optax

    from digits_jax import Hyperparameters

GOAL = 0.9908  # mean accuracy of the notebook's protocol: five seeds of five folds, 100 epochs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Digits):
    """The options of the command line."""

    repeats: int = 20
    """Cross-validations, each of other folds and weights."""
    epochs: int = 4
    """Passes over the training rows."""
    batch_size: int = 64
    """Rows of an optimizer step."""
    learning_rate: float = 0.03
    """Peak of the one-cycle schedule, of Adam, a step."""
    label_smoothing: float = 0.2
    """Fraction of a label that is spread over all classes."""
    seed: int = 0
    """Of the first repeat; repeat r uses seed + r. Seeds from 1000 on chose the recipe."""
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/speedrun/<date>-<time>."""
    compilation_cache: bool = False
    """Keep compiled programs in the user's cache folder; off, so that compiling is measured."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but the result."""


def main(config: Config) -> None:
    """Trains, shows and writes."""
    options.positive(
        repeats=config.repeats,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
    )
    options.require(config.repeats >= 2, "--repeats must be at least 2, for an interval")
    options.require(
        0 <= config.label_smoothing < 1,
        f"--label-smoothing must be at least 0 and below 1, not {config.label_smoothing}",
    )
    options.seed(seed=config.seed)
    options.require(
        config.seed + config.repeats <= 2**32,
        f"--seed {config.seed} leaves no seeds for {config.repeats} repeats: they end at 2^32 - 1",
    )
    output = Output(config.output_dir, script="speedrun")
    startup.start_jax(compilation_cache=config.compilation_cache)
    import numpy as np
    import optax

    import digits_jax as dj
    from digits_jax import plots
    from report import overviews

    dataset = dj.load_digits(config.data)
    console.show_data(dataset.provenance)
    folds = 5
    options.countable(config.epochs, len(dataset.labels), config.batch_size)
    try:
        dj.kfold_splits(dataset.labels, folds)  # whether there is one
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    output.claim()
    data = dataset.data
    hyperparameters = dj.Hyperparameters(
        learning_rate=config.learning_rate, label_smoothing=config.label_smoothing
    )
    steps = config.epochs * -(-len(dataset.labels) * (folds - 1) // folds // config.batch_size)
    schedule = optax.cosine_onecycle_schedule(steps, 1.0, 0.3, 10.0, 100.0)
    recipe = dj.Recipe(
        network=dj.DigitsCNN(dense_features=(), dropout_rate=0.0, pixel_scale=1 / 16),
        optimizer=functools.partial(one_cycle, schedule=schedule),
        batch_size=config.batch_size,
    )
    each: list[float] = []
    of_folds: list[np.ndarray] = []
    seconds: list[float] = []
    diverged: dict[str, int] = {}  # epochs by name
    for seed in range(config.seed, config.seed + config.repeats):
        started = time.perf_counter()
        result = dj.cross_validate(
            data,
            dj.make_runs(
                dj.kfold_splits(dataset.labels, folds, seed=seed),
                hyperparameters,
                seed=seed,
            ),
            recipe=recipe,
            epochs=config.epochs,
            epochs_per_call=config.epochs,
            checkpoint_every=config.epochs,
        )
        seconds.append(time.perf_counter() - started)
        names = [f"fold {fold} of seed {seed}" for fold in range(1, folds + 1)]
        if lost := training.name_diverged(result, names):
            diverged |= lost  # a repeat that lacks a fold has no mean
        each.append(np.nan if lost else float(result.scores["accuracy"].mean()))
        if not lost:
            of_folds.append(result.scores["accuracy"])
    accuracies = [accuracy for accuracy in each if not np.isnan(accuracy)]
    options.require(
        len(accuracies) >= 2,
        "folds of all repeats but one or none diverged; try a smaller --learning-rate",
    )
    rows = len(dataset.labels)
    scores = dj.summarize(
        np.ravel(of_folds), train_rows=rows * (1 - 1 / folds), test_rows=rows / folds
    )
    summary = summary_json("accuracy", scores)
    low, high = summary["ci95"]
    fast = float(np.median(seconds[1:]))
    console.results.print(
        f"{len(accuracies)} of {config.repeats} repeats of five-fold cross-validation, "
        f"{config.epochs} epochs: mean accuracy {100 * scores.mean:.2f} % (95 % interval, "
        f"corrected, {100 * low:.2f} to {100 * high:.2f}); the goal: {100 * GOAL:.2f} %\n"
        f"seconds a cross-validation: {seconds[0]:.2f} with compiling, then {fast:.2f} "
        f"({min(seconds[1:]):.2f} to {max(seconds[1:]):.2f})",
        highlight=False,
        soft_wrap=True,
    )
    results = {
        "experiment": "speedrun",
        **describe(config, dataset.provenance),
        "accuracies": accuracies,
        "diverged": diverged,
        "accuracy": summary,
        "reached": low >= GOAL and not diverged,
        "seconds": {
            "with_compilation": seconds[0],
            "each": seconds,
            "median_without_compilation": fast,
        },
    }
    panels: dict[str, Any] = {
        "Accuracy (%)": 100 * np.asarray(each),
        # The first one compiles: it would hide the others.
        "Seconds": [np.nan, *seconds[1:]],
    }
    figure = plots.fold_scores(panels, name="Repeat")
    page = overviews.speedrun(results, target=GOAL, figure=figure)
    output.finish(results, {"speedrun": figure}, page)


def one_cycle(
    hyperparameters: Hyperparameters, *, schedule: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Adam whose learning rate follows ``schedule`` (a fraction of the peak, by step)."""
    import optax

    return optax.chain(
        optax.scale_by_adam(
            hyperparameters.beta_1, hyperparameters.beta_2, hyperparameters.epsilon
        ),
        optax.scale_by_schedule(schedule),
        optax.scale_by_learning_rate(hyperparameters.learning_rate),
    )


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
