"""The report of ``sweep.py``: its tables and figures, and the page."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from common.drawing import plots
from common.scores import counted
from common.tables import Table
from report import NADEAU, Report

if TYPE_CHECKING:
    from common.drawing import Drawing
    from stages import Sweep

Results = Mapping[str, Any]
LINES = 100  # of a table that may be endless


def chosen(results: Results, sweep: Sweep, who: str) -> Table:
    """What was chosen in each split, and its scores; below, the test scores' mean and interval."""
    score, names = sweep.score, sweep.varied
    rows = [
        (
            row["outer_split"],
            *(cell(row.get(name)) for name in names),
            score.text(row["chosen_by"]),
            score.text(row[score.name]) + ", diverged" * row["diverged"],
        )
        for row in results["outer_splits"]
    ]
    blank = [""] * (len(names) + 1)
    totals = [
        ("mean ± sd", *blank, score.mean(results[score.name])),
        ("95 % interval", *blank, score.interval(results[score.name])),
    ]
    title = "Chosen for each split by its training rows, scored on its test rows"
    columns = ("split", *map(heading, names), f"{who}: {score.title}", f"test: {score.title}")
    return Table(title, columns, rows, NADEAU, totals)


def configurations(results: Results, sweep: Sweep, who: str) -> Table:
    """The configurations by the rows that choose, the best first."""
    rows = [
        (
            row["rank"],
            *(cell(row.get(name)) for name in sweep.varied),
            *(each.spread(row[each.name], row[f"{each.name}_sd"]) for each in sweep.scores),
            f"{row['epochs']:g}",
            row["diverged"] or "",
        )
        for row in results["configurations"][:LINES]
    ]
    columns = ["rank", *map(heading, sweep.varied), *(each.title for each in sweep.scores)]
    title = f"Configurations on the {who} of {len(results['outer_splits'])} splits"
    others = len(results["configurations"]) - LINES
    more = f" The other {others} are in configurations.csv." if others > 0 else ""
    note = f"The best first; mean ± sd.{more}"
    return Table(title, [*columns, "epochs", "runs diverged"], rows, note)


def page(
    results: Results,
    sweep: Sweep,
    tables: tuple[Table, Table],
    figures: Mapping[str, Drawing],
    who: str,
) -> Report:
    """The report."""
    config, score, halving = sweep.config, sweep.score, results["halving"]
    many = f"{config.inner_folds} {who}" if config.nested else who
    times = f", {config.repeats} times" if config.repeats > 1 else ""
    report = Report(
        "Search for hyperparameters",
        f"{counted(len(sweep.table), 'configuration')} on {config.folds} folds{times}; {many} of "
        "each training set choose, and the test rows score the choice.",
    )
    label = f"Test {score.name} of what is chosen, mean ± sd of the folds"
    report.score(label, score, results[score.name], "; without bias: no test row chose")
    best = ", ".join(f"{heading(name)} {cell(results['best'].get(name))}" for name in sweep.varied)
    report.headline("Best of all", best or str(results["best"]["recipe"]), results["best_command"])
    if halving:
        same = halving["same_winner"]
        report.headline(
            "Halving",
            f"{100 * halving['share_of_epochs_trained']:.0f} %",
            "of all the epochs of all runs were trained"
            + (f"; the same winner in {sum(same)} of {len(same)} splits" if same else ""),
        )
    for table in tables:
        report.table(*table)
    pairs = {
        f"{x}_{y}": f"{heading(x)} and {heading(y)}"
        for x, y in itertools.combinations(sweep.varied, 2)
    }
    for name, figure in figures.items():
        varied = pairs.get(name, ", ".join(map(heading, sweep.varied)))
        alt = f"{score.title} of the {who} by {varied}, of each configuration."
        report.figure(f"The effect of {varied}", figure, alt)
    return report


def figures(sweep: Sweep, values: npt.NDArray[Any]) -> dict[str, Drawing]:
    """What each name does, and each pair of numbers: of values [K, F] of the score that chooses.

    Without those that not every recipe has.
    """
    columns: dict[str, list[Any]] = {}
    for name in sweep.varied:
        if all(name in row for row in sweep.table):
            columns[name] = [row[name] for row in sweep.table]
    found: dict[str, Drawing] = {}
    if not columns or np.isnan(values).all():
        return found
    scaled, label = sweep.score.scale * values, f"Validation {sweep.score.label}"
    numeric = {
        name: each for name, each in columns.items() if not any(isinstance(v, str) for v in each)
    }
    # A logarithmic axis, where positive values are far enough apart.
    log = [name for name, each in numeric.items() if min(each) > 0 and max(each) >= 5 * min(each)]
    found["effects"] = plots.effects(columns, scaled, label=label, log=log)
    means = scaled.mean(axis=1)
    for x, y in itertools.combinations(numeric, 2):
        if not np.isnan(means).all():
            drawn = plots.pair(columns[x], columns[y], means, (x, y), label=label, log=log)
            found[f"{x}_{y}"] = drawn
    return found


def heading(name: str) -> str:
    """A name, in a heading."""
    return name.replace("_", " ")


def cell(value: Any) -> str:
    """A value of a configuration, in a table."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.4g}"
