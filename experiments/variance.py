"""Where does the variance of the accuracy come from, and how many repeats does a question need?

    python experiments/variance.py
    python experiments/variance.py --recipe strong --splits 4 --weights 3 --order 1 --augment 3

A crossed design on the runs axis: every random split into training and test rows with every draw of
the initial weights, of the order of the rows, of dropout and of augmentation; all train at once. A
source of one level is held fixed. The analysis of variance gives each source's fraction of the
variance, with an interval (Bouthillier et al. 2021 ask for this; the methods are those of
``dj.statistics.variance_components``). A split's component holds which rows test, too: what chance
in the test rows alone would make, p (1 - p) / rows, is given beside it.

The second table says what more repeats of a cross-validation of five folds buy, with the standard
deviation found: the half-width of the corrected interval, which falls as t sqrt(1/J + n_test /
n_train), and the smallest difference to a fixed value that the test finds with 80 % power. It
writes ``report.html``, ``results.json`` (whole), ``scores.csv`` and two figures.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common import command_line, console, options, plans, startup, tasks, training
from common.drawing import plots
from common.output import Output
from common.tables import Table
from common.tasks import Task
from report import Report

SOURCES = ("weights", "order", "dropout", "augment")
REPEATS = (1, 2, 3, 5, 10, 20, 50, 100)
FOLDS = 5  # of the cross-validation that is planned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.ResumableOut, options.Data):
    """The options of the command line."""

    recipe: str = "notebook"
    """Recipe: notebook, strong, or FILE.py:FUNCTION of yours; see cross_validate.py."""
    epochs: int | None = None
    """Passes over the training rows. Default: the recipe's."""
    splits: int = 6
    """Random splits, each with test rows drawn anew."""
    weights: int = 3
    """Draws of the initial weights."""
    order: int = 3
    """Draws of the rows' order."""
    dropout: int = 2
    """Draws of dropout."""
    augment: int = 1
    """Draws of the augmentation."""
    test_size: float = 0.2
    """Fraction of the rows that test."""
    seed: int = 0
    """Seed of the splits and of all draws."""


def main(config: Config) -> None:
    """Trains the design, divides the variance, writes."""
    levels = {"split": config.splits, **{name: getattr(config, name) for name in SOURCES}}
    sources = {name: levels[name] for name in SOURCES}
    options.positive(epochs=config.epochs, splits=config.splits, **sources)
    within = f"--test-size must be between 0 and 1, not {config.test_size}"
    options.require(0 < config.test_size < 1, within)
    options.at_least(2, splits=config.splits)
    options.require(
        sum(count > 1 for count in levels.values()) >= 2,
        "one source alone has nothing to be told from: give another one two levels or more",
    )
    options.seed(seed=config.seed)
    output = Output(config, script="variance")
    startup.start_jax(compilation_cache=config.compilation_cache)
    task = tasks.load_task(config.data)
    options.require(task.class_names is not None, "accuracy needs classes: --data must hold them")
    plan = plans.load_plan(config.recipe, task, epochs=config.epochs)
    counts = "accuracy" in plan.recipe.names
    options.require(counts, f"--recipe {config.recipe}: its metrics must have accuracy")
    splits = dj.stack_splits(
        *(
            tasks.one_split(task, config.test_size, seed=config.seed + i)
            for i in range(config.splits)
        )
    )
    design = dj.crossed(**levels)
    runs = dj.make_runs(
        dj.take_runs(splits, design["split"]),
        plan.hyperparameters,
        seed=config.seed,
        draws={name: design[name] for name in SOURCES},
    )
    output.claim()
    names = [
        ", ".join(f"{name} {level + 1}" for name, level in zip(levels, cell, strict=True))
        for cell in zip(*design.values(), strict=True)
    ]
    result = training.train(config, task.data, plan, runs, names, output)
    lost = training.name_diverged(result, names)
    options.require(not lost, f"{len(lost)} of {len(names)} runs diverged: no cell may be empty")
    varied = [name for name, count in levels.items() if count > 1]
    cells: npt.NDArray[Any] = result.scores["accuracy"].reshape([levels[name] for name in varied])
    components = dj.statistics.variance_components(cells, varied, seed=config.seed)
    rows = [
        {**{name: int(each[i]) for name, each in design.items()}, "accuracy": float(accuracy)}
        for i, accuracy in enumerate(result.scores["accuracy"])
    ]
    output.table("scores.csv", rows)
    report(config, task, cells, components, float(dj.test_sizes(splits).mean()), output)


def report(
    config: Config,
    task: Task,
    cells: npt.NDArray[Any],
    components: Any,
    test_rows: float,
    output: Output,
) -> None:
    """The tables, the figures, the files."""
    mean, sd = float(cells.mean()), float(np.sqrt(sum(each.sd**2 for each in components)))
    chance = float(np.sqrt(mean * (1 - mean) / test_rows))
    names = [" x ".join(each.factors) for each in components]
    names[-1] += " and what is left"
    shares = [
        (
            name,
            f"{100 * each.sd:.3f}",
            f"{100 * each.fraction:.0f}",
            f"{100 * each.ci95[0]:.0f} to {100 * each.ci95[1]:.0f}",
        )
        for name, each in zip(names, components, strict=True)
    ]
    divided = Table(
        "Components",
        ("source", "sd (points)", "of the variance (%)", "95 % interval"),
        shares,
        "Estimates of the analysis of variance of a crossed design; negative ones are taken as 0. "
        "Intervals are generalized confidence intervals.",
    )
    sizes = {"train_rows": task.rows * (1 - 1 / FOLDS), "test_rows": task.rows / FOLDS}
    planned = [
        {
            "repeats": repeats,
            "half_width": dj.statistics.half_width(sd, FOLDS * repeats, **sizes),
            "smallest_difference": dj.statistics.smallest_difference(sd, FOLDS * repeats, **sizes),
        }
        for repeats in REPEATS
    ]
    bought = Table(
        "What more repeats buy",
        ("repeats of five folds", "half-width (points)", "found with 80 % (points)"),
        [
            (
                each["repeats"],
                f"{100 * each['half_width']:.3f}",
                f"{100 * each['smallest_difference']:.3f}",
            )
            for each in planned
        ],
    )
    divided.show()
    bought.show()
    said = (
        f"mean accuracy {100 * mean:.2f} % of {cells.size} runs, sd of a single run {100 * sd:.3f} "
        f"points; chance in {test_rows:.0f} test rows alone: {100 * chance:.3f}"
    )
    console.say(said)
    fraction = "fraction of the variance"
    figures = {
        "variance": plots.estimates(
            names,
            {fraction: [100 * each.fraction for each in components]},
            {fraction: [100 * np.array(each.ci95) for each in components]},
            label="Fraction of the variance (%), 95 % interval",
        ),
        "repeats": plots.series(
            {
                "Repeats of five folds": (
                    REPEATS,
                    {
                        "half-width of the interval": [[100 * p["half_width"]] for p in planned],
                        "found with 80 % power": [
                            [100 * p["smallest_difference"]] for p in planned
                        ],
                    },
                )
            },
            label="Points of accuracy",
            log=["Repeats of five folds"],
        ),
    }
    page = Report("Where the variance comes from", said)
    page.table(*divided)
    page.figure("Fractions", figures["variance"], "Each source's fraction of the variance.")
    page.table(*bought)
    page.figure("Repeats", figures["repeats"], "Half-width and smallest difference by repeats.")
    results = {
        "components": [each._asdict() for each in components],
        "mean": mean,
        "sd": sd,
        "chance_in_test_rows": chance,
        "planned": planned,
    }
    output.finish(results, figures, page, data=task.provenance, also=["scores.csv"])


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
