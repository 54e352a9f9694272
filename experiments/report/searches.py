"""The reports of searches: hyperparameters, and what runs cost.

``results`` is what goes to ``results.json``; beside it come the arrays that are drawn. C is the
number of configurations, R of runs.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from report import Report
from report import comparison_figures as figures
from report.comparisons import NADEAU
from report.pages import interval, spread

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Results = Mapping[str, Any]
LINES = 100  # of a table that may be endless


def sweep(
    results: Results,
    *,
    columns: Mapping[str, Sequence[Any]],
    scores: npt.NDArray[np.floating],
    label: str,
    log: Collection[str],
) -> str:
    """The report of ``sweep.py``.

    Args:
        results: of ``results.json``.
        columns: the values [C] of what was varied, by name.
        scores: accuracies [C, R], fractions, NaN where a run diverged.
        label: what the scores are.
        log: names whose axis is logarithmic.
    """
    import numpy as np

    config, table = results["config"], results["configurations"]
    nested = config["nested"]
    times = f", {config['repeats']} times" if config["repeats"] > 1 else ""
    page = Report(
        "Search for hyperparameters",
        f"{len(table)} configurations, {config['epochs']} epochs, {config['folds']} "
        f"{'outer ' if nested else ''}folds{times}"
        + (f", each with {config['inner_folds']} inner folds that choose." if nested else "."),
    )
    summary = results["accuracy"] if nested else results["best"]["accuracy"]
    page.headline(
        "Tune, then train" if nested else "Best configuration, mean ± sd of its folds",
        f"{spread(summary, 100, 2)} %",
        f"95 % interval of the mean: {interval(summary, 100, 2)} %"
        + ("; without bias: the outer test rows chose nothing" if nested else ""),
    )
    if results.get("warning"):
        page.headline("Take care", "optimistic", results["warning"])
    if results.get("halving"):
        halving = results["halving"]
        same = halving["same_winner"]
        page.headline(
            "Halving",
            f"{100 * halving['share_of_epochs_trained']:.0f} %",
            "of all the epochs of all runs were trained"
            + (f"; the same winner in {sum(same)} of {len(same)} splits" if same else ""),
        )
    if nested:
        page.table(
            "Chosen in each outer split",
            ("outer split", *map(_title, columns), "validation (%)", "test (%)"),
            [
                (
                    row["outer_split"],
                    *(_cell(row[name]) for name in columns),
                    f"{100 * row['validation_accuracy']:.2f}",
                    f"{100 * row['accuracy']:.2f}" + ", diverged" * row["diverged"],
                )
                for row in results["outer_splits"]
            ],
            NADEAU,
        )
    page.table(
        "Configurations, the best first",
        (
            "rank",
            *map(_title, columns),
            "loss (nats)",
            f"{label} (%)",
            "epochs",
            "diverged",
        ),
        [
            (
                row["rank"],
                *(_cell(row[name]) for name in columns),
                f"{row['loss']:.4f}",
                f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_sd']:.2f}",
                f"{row['epochs']:g}",
                row["diverged"] or "",
            )
            for row in table[:LINES]
        ],
        f"The other {len(table) - LINES} are in configurations.csv." if table[LINES:] else "",
    )
    shown = {name: values for name, values in columns.items() if np.isfinite(scores).any()}
    if shown:
        page.figure(
            "What each does",
            figures.effects(shown, scores, label, log=log),
            f"{label} by {', '.join(map(_title, shown))}, each configuration a dot.",
        )
    means = np.array([each.mean() for each in scores])
    numeric = [name for name, values in shown.items() if not isinstance(values[0], str)]
    for x, y in itertools.combinations(numeric if np.isfinite(means).any() else [], 2):
        page.figure(
            f"{_title(x).capitalize()} and {_title(y)}",
            figures.pair(columns[x], columns[y], means, (x, y), label, log=log),
            f"{label} by {_title(x)} and {_title(y)}, as colours.",
        )
    return page.html(results)


def scaling(results: Results) -> str:
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
        "predicted, of 100 epochs each, in waves",
    )
    for each in results["held_out"]:
        in_waves = f" in waves of {each['wave_size']}" if each["wave_size"] else ""
        page.headline(
            f"Check: {each['runs']} runs{in_waves}",
            f"{each['ratio']:.2f}",
            "predicted seconds by measured ones, of an epoch that the fit did not see",
        )
    whole = [point for point in points if point["wave_size"] is None]
    most, usual = max(p["rows"] for p in whole), [p for p in whole if p["width"] == 1]
    waved = [point for point in points if point["wave_size"] is not None]
    series = {
        "runs": {"all at once": [p for p in usual if p["rows"] == most], "in waves": waved},
        "rows of the data set": {"all at once": [p for p in usual if p["runs"] == 10]},
        "width": {"all at once": [p for p in whole if p["rows"] == most and p["runs"] == 10]},
    }
    panels = [
        (across, label, {name: _by(chosen, across, value) for name, chosen in groups.items()})
        for across, groups in series.items()
        if groups["all at once"]
        for label, value in (
            ("ms an epoch of one run", _milliseconds),
            ("peak memory (MB)", _megabytes),
        )
    ]
    page.figure(
        "Time and memory",
        figures.costs(panels),
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
    return page.html(results)


def _by(
    points: Iterable[Results], across: str, value: Callable[[Results], list[float]]
) -> dict[float, list[float]]:
    """The values of points by their runs, rows or width, in that order."""
    key = across.split()[0]
    return {point[key]: value(point) for point in sorted(points, key=lambda point: point[key])}


def _milliseconds(point: Results) -> list[float]:
    vmap_size = point["wave_size"] or point["runs"]
    return [1e3 * seconds / vmap_size for seconds in point["seconds"]["epoch"]]


def _megabytes(point: Results) -> list[float]:
    return [point["bytes"]["peak"] / 1e6]


def _title(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
