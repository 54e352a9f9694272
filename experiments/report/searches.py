"""The reports of searches: hyperparameters, and what runs cost.

``results`` is what goes to ``results.json``; beside it come the arrays that are drawn. C is the
number of configurations, R of runs.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from report import Report
from report.comparisons import NADEAU
from report.pages import interval, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.scores import Score

Results = Mapping[str, Any]
LINES = 100  # of a table that may be endless


def sweep(
    results: Results,
    *,
    columns: Mapping[str, Sequence[Any]],
    scores: Sequence[Score],
    score: Score,
    figures: Mapping[str, Figure],
) -> Report:
    """The report of ``sweep.py``.

    Args:
        results: of ``results.json``.
        columns: the values [C] of what was varied, by name.
        scores: of the recipes.
        score: that chooses.
        figures: "effects", and of pairs of names, "a_b"; fewer where too little was varied.
    """
    config, table = results["config"], results["configurations"]
    nested = config["nested"]
    who = f"{config['inner_folds']} inner folds" if nested else "validation rows"
    times = f", {config['repeats']} times" if config["repeats"] > 1 else ""
    page = Report(
        "Search for hyperparameters",
        f"{len(table)} configurations on {config['folds']} folds{times}; {who} of each training "
        "set choose, and the test rows score the choice.",
    )
    page.headline(
        f"Test {score.name} of what is chosen, mean ± sd of the folds",
        f"{spread(results[score.name], score)} {score.unit}".strip(),
        f"95 % interval of the mean: {interval(results[score.name], score)} {score.unit}; without "
        "bias: no test row chose",
    )
    best = ", ".join(f"{_title(name)} {_cell(results['best'][name])}" for name in columns)
    page.headline("Best of all", best or str(results["best"]["recipe"]), results["best_command"])
    if results.get("halving"):
        halving = results["halving"]
        same = halving["same_winner"]
        page.headline(
            "Halving",
            f"{100 * halving['share_of_epochs_trained']:.0f} %",
            "of all the epochs of all runs were trained"
            + (f"; the same winner in {sum(same)} of {len(same)} splits" if same else ""),
        )
    page.table(
        "Chosen in each split",
        ("split", *map(_title, columns), f"{who}: {score.title}", f"test: {score.title}"),
        [
            (
                row["outer_split"],
                *(_cell(row[name]) for name in columns),
                score.text(row["chosen_by"]),
                score.text(row[score.name]) + ", diverged" * row["diverged"],
            )
            for row in results["outer_splits"]
        ],
        NADEAU,
    )
    label = f"{score.title} of the {who}"
    page.table(
        "Configurations, the best first",
        ("rank", *map(_title, columns), *(each.title for each in scores), "epochs", "diverged"),
        [
            (
                row["rank"],
                *(_cell(row[name]) for name in columns),
                *(each.spread(row[each.name], row[f"{each.name}_sd"]) for each in scores),
                f"{row['epochs']:g}",
                row["diverged"] or "",
            )
            for row in table[:LINES]
        ],
        f"Scores are of the {who}, mean ± sd."
        + (f" The other {len(table) - LINES} are in configurations.csv." * bool(table[LINES:])),
    )
    if "effects" in figures:
        page.figure(
            "What each does",
            figures["effects"],
            f"{label} by {', '.join(map(_title, columns))}, each configuration a dot.",
        )
    for x, y in itertools.combinations(columns, 2):
        if f"{x}_{y}" in figures:
            page.figure(
                f"{_title(x).capitalize()} and {_title(y)}",
                figures[f"{x}_{y}"],
                f"{label} by {_title(x)} and {_title(y)}, as colours.",
            )
    return page


def scaling(results: Results, *, figure: Figure) -> Report:
    """The report of ``scaling.py``."""
    points, model, predictions = (results[key] for key in ("points", "model", "predictions"))
    page = Report(
        "What a run costs",
        "The notebook's network on five folds; each point in a process of its own, "
        f"{points[0]['devices']} devices; means and ranges of {results['config']['epochs']} "
        "epochs.",
    )
    one = predictions[0]
    page.headline(
        f"{one['runs']:,} runs on {one['devices']} device{'s' * (one['devices'] > 1)}",
        f"{one['seconds'] / 86400:.1f} days",
        "predicted, of 100 epochs each, in waves"
        + f"; {results['warning']}" * bool(results["warning"]),
    )
    for each in results["held_out"]:
        in_waves = f" in waves of {each['wave_size']}" if each["wave_size"] else ""
        page.headline(
            f"Check: {each['runs']} runs{in_waves}",
            f"{each['ratio']:.2f}",
            "predicted seconds by measured ones, of an epoch that the fit did not see",
        )
    page.figure(
        "Time and memory",
        figure,
        "Milliseconds an epoch of one run, and the most memory that training took, compiling "
        "included, by runs, rows and width.",
    )
    page.table(
        "Points",
        ("runs", "rows", "width", "wave", "ms an epoch of one run", "memory (MB)"),
        [
            (
                point["runs"],
                point["rows"],
                f"{point['width']:g}",
                point["wave_size"] or "–",
                f"{statistics.mean(_milliseconds(point)):.1f}",
                f"{_megabytes(point)[0]:.0f}",
            )
            for point in points
        ],
        "In waves, evaluating and saving are counted; the first wave, which compiles, is left out.",
    )
    page.table(
        f"{one['runs']:,} runs, predicted",
        ("devices", "days", "waves (files)", "results (GB)", "memory of a wave (MB)"),
        [
            (
                each["devices"],
                f"{each['seconds'] / 86400:.2f}",
                f"{each['waves']:,.0f}",
                f"{each['results_bytes'] / 1e9:.2f}",
                f"{each['memory_bytes_of_a_wave'] / 1e6:,.0f}",
            )
            for each in predictions
        ],
        "Devices like those measured. An epoch takes "
        f"{1e3 * model['call_seconds']:.1f} ms + {1e3 * model['step_seconds']:.3f} ms for each "
        "step of each run on a device.",
    )
    return page


def _milliseconds(point: Results) -> list[float]:
    vmap_size = point["wave_size"] or point["runs"]
    return [1e3 * seconds / vmap_size for seconds in point["seconds"]["epoch"]]


def _megabytes(point: Results) -> list[float]:
    return [point["bytes"]["peak"] / 1e6]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
