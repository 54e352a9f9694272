"""The report of ``sweep.py``: its tables, its files, its figures, and the page."""

from __future__ import annotations

import functools
import itertools
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.markup import escape

import digits_jax as dj
from common import console, tasks, tracking
from common.drawing import plots
from common.output import summary_json
from common.scores import counted
from common.tables import Table
from report import NADEAU, Report

if TYPE_CHECKING:
    from common.drawing import Drawing
    from digits_jax.search.grids import Scores
    from stages import Sweep
    from sweep import Config

Results = Mapping[str, Any]
LINES = 100  # of a table that may be endless
SHOWN = 10  # configurations in the table on the console
_MEAN_AND_SD: dict[str, Callable[[Any], Any]] = {"": np.mean, "_sd": np.std}  # by a name's end


def report(
    sweep: Sweep,
    outer: dj.Split,
    scores: Scores,
    chosen: npt.NDArray[Any],
    final: Scores,
    halved: dict[str, Any] | None,
) -> None:
    """The tables, the arrays and the figures.

    Args:
        sweep: the configurations [K].
        outer: the outer splits, O.
        scores: of all configurations, [K, F].
        chosen: the configuration [O] of each outer split.
        final: its scores [O].
        halved: what halving spared.
    """
    config, output = sweep.config, sweep.output
    found = scores.validation or scores.scores  # that chose
    splits, order = len(chosen), sweep.rank(scores)
    rows = [
        {
            "rank": i + 1,
            **sweep.table[k],
            **{
                f"{each.name}{end}": float(of(found[each.name][k]))
                for each in sweep.scores
                for end, of in _MEAN_AND_SD.items()
            },
            "epochs": scores.epochs[k].mean(),
            "diverged": int(scores.diverged[k].sum()),
        }
        for i, k in enumerate(order)
    ]
    of_split = found[sweep.score.name].reshape(len(order), splits, -1).mean(axis=2)
    by_split = [
        {
            "outer_split": o + 1,
            **sweep.table[k],
            "chosen_by": float(of_split[k, o]),
            **{each.name: float(final.scores[each.name][o]) for each in sweep.scores},
            "diverged": bool(final.diverged[o]),
        }
        for o, k in enumerate(chosen.tolist())
    ]
    sizes = tasks.mean_sizes(outer)
    summaries = {
        name: summary_json(name, dj.summarize(each, **sizes)) for name, each in final.scores.items()
    }
    best = sweep.table[order[0]]
    command = command_of(config, best)
    results = {
        "configurations": rows,
        "outer_splits": by_split,
        **summaries,
        "best": best,
        "best_command": command,
        "halving": halved,
        "waves": sweep.waves,
    }
    who = "inner folds" if config.nested else "validation rows"
    best_first = configurations(results, sweep, who)
    chosen_ones = choices(results, sweep, who)
    best_first.show(SHOWN)
    if len(rows) > SHOWN:
        console.say(f"({len(rows) - SHOWN} more in configurations.csv)")
    chosen_ones.show()
    console.say(f"The best of all: {escape(command)}")

    output.table("configurations.csv", rows)
    names = dict.fromkeys(name for row in sweep.table for name in row)
    output.arrays(
        "scores.npz",
        **found,
        **{f"test_{name}": each for name, each in scores.scores.items() if scores.validation},
        epochs=scores.epochs,
        diverged=scores.diverged,
        **{name: np.array([row.get(name, np.nan) for row in sweep.table]) for name in names},
    )
    drawn = figures(sweep, np.where(scores.diverged, np.nan, found[sweep.score.name]))
    shown = (chosen_ones, best_first)
    filled = functools.partial(page, sweep=sweep, tables=shown, figures=drawn, who=who)
    also = ["configurations.csv", "scores.npz", "waves/", *["tensorboard/"] * config.tensorboard]
    track = functools.partial(_track, sweep, rows, found)
    output.finish(results, drawn, filled, data=sweep.task.provenance, also=also, track=track)


def choices(results: Results, sweep: Sweep, who: str) -> Table:
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
    lost = any(row["diverged"] for row in results["configurations"])
    rows = [
        (
            row["rank"],
            *(cell(row.get(name)) for name in sweep.varied),
            *(each.spread(row[each.name], row[f"{each.name}_sd"]) for each in sweep.scores),
            f"{round(row['epochs'], 1):g}",
            *([row["diverged"] or ""] if lost else []),
        )
        for row in results["configurations"][:LINES]
    ]
    columns = ["rank", *map(heading, sweep.varied), *(each.title for each in sweep.scores)]
    title = f"Configurations on the {who} of {len(results['outer_splits'])} splits"
    others = len(results["configurations"]) - LINES
    more = f" The other {others} are in configurations.csv." if others > 0 else ""
    note = f"The best first; mean ± sd.{more}"
    return Table(title, [*columns, "epochs", *["runs diverged"] * lost], rows, note)


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


def _track(sweep: Sweep, rows: list[dict[str, Any]], found: dict[str, npt.NDArray[Any]]) -> None:
    """Each configuration as a run with hyperparameters: the scores that choose, never test ones."""
    config = sweep.config
    shown = [
        (
            {name: row[name] for name in sweep.table[0] | row if name in sweep.varied},
            {f"chosen_by/{name}": row[name] for name in found},
            round(row["epochs"]),
        )
        for row in rows
    ]
    tracking.write_search(
        sweep.output.folder, shown, tensorboard=config.tensorboard, module=config.track
    )


def command_of(config: Config, row: dict[str, Any]) -> str:
    """What trains a configuration, on the command line; on the folds of the search."""
    words = ["python", "experiments/cross_validate.py", "--recipe", str(row["recipe"])]
    if config.data != "auto":
        words += ["--data", config.data]
    for name, plain in {"folds": 5, "repeats": 1, "seed": 0}.items():  # cross_validate.py's own
        if getattr(config, name) != plain:
            words += [f"--{name}", str(getattr(config, name))]
    if config.epochs is not None:
        words += ["--epochs", str(config.epochs)]
    if "batch_size" in row:
        words += ["--batch-size", str(row["batch_size"])]
    others = {name: v for name, v in row.items() if name not in ("recipe", "batch_size")}
    settings = [f"{name}={value}" for name, value in others.items()]
    return shlex.join([*words, *(["--set", *settings] if settings else [])])
