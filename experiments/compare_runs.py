"""Several runs side by side on one page: scores, learning curves, and what was set differently.

    python experiments/compare_runs.py runs/cross_validate/DATE runs/cross_validate/ANOTHER

Each argument is the output folder of a finished run. Where two cross-validations trained and tested
on the very same folds, their accuracies are compared fold by fold, by the corrected resampled
t-test; where they didn't, it says what differs. It writes ``report.html`` and ``results.json``
(whole) to the output folder.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.markup import escape

import digits_jax as dj
from common import command_line, console, options
from common.drawing import plots
from common.options import require
from common.output import Output, plain
from common.scores import ACCURACY, CROSS_ENTROPY
from common.tables import Table
from digits_jax.plots.arrays import mean_of_known
from digits_jax.runs.progress import latest
from finished import Finished, read
from report import Report

MOST_WORDS = 3  # of what differs, in the name of a run
SPLIT = ("folds", "repeats", "seed", "stratified")  # what gives the folds of cross_validate.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folder):
    """The options of the command line."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Output folders of finished runs, two or more."""


def main(config: Config) -> None:
    """Reads, compares, shows and writes."""
    require(len(config.runs) > 1, "give two folders of runs, or more")
    folders = short(config.runs)
    found = [read(folder, name) for folder, name in zip(config.runs, folders, strict=True)]
    names = telling(found)
    found = [run._replace(name=name) for run, name in zip(found, names, strict=True)]
    output = Output(config, script="compare_runs")
    output.claim()
    differences = differing(found)
    tests, untested = paired(found)
    results = {
        "runs": [
            {
                "folder": folder,
                "experiment": run.results["experiment"],
                **{name: run.results.get(name) for name in ("accuracy", "loss")},
            }
            for folder, run in zip(config.runs, found, strict=True)
        ],
        "differences": differences,
        "tests": tests,
        "untested": untested,
    }
    notes = [*map(in_words, tests), *untested]
    title, cells = f"{len(found)} runs side by side", [score_cells(run) for run in found]
    Table(title, NARROW, [[each[column] for column in NARROW] for each in cells]).show()
    for note in notes:
        console.say(escape(note))

    said = [f"{note}." for note in notes]
    if "data.sha256" in differences:
        said.append("These runs saw different rows: their scores are not of the same test.")
    page = Report(title)
    for run in found:
        if accuracy := run.results.get("accuracy"):
            page.score(run.name, ACCURACY, accuracy)
    page.table(title, list(cells[0]), [[*each.values()] for each in cells], " ".join(said))
    lines = [(name, *("–" if v is None else v for v in vs)) for name, vs in differences.items()]
    nothing = [("nothing that matters", *[""] * len(names))]
    page.table("What differs", ("setting", *names), lines or nothing)
    learning_curves(page, found)
    output.finish(results, {}, page)


def short(folders: Sequence[Path]) -> list[str]:
    """The folders without what they all begin with."""
    whole = [folder.absolute() for folder in folders]
    shared = os.path.commonpath([folder.parent for folder in whole])
    names = [str(folder.relative_to(shared)) for folder in whole]
    require(len(set(names)) == len(names), "a folder is given twice")
    return names


def telling(runs: Sequence[Finished]) -> list[str]:
    """The runs by what differs: script, recipe, options; and by folder where that is not enough."""
    differ = differing(runs)
    scripts = [run.results["experiment"] for run in runs]
    names = []
    for i, run in enumerate(runs):
        words = [scripts[i]] if len(set(scripts)) > 1 else []
        if "data.sha256" in differ:
            words.append(str(run.results.get("data", {}).get("source", "unknown rows")))
        for key, values in differ.items():
            part, _, name = key.partition(".")
            if part == "config" and name != "data" and values[i] is not None:
                of_itself = name in ("recipe", "methods")  # what it is shows without its name
                words.append(f"{'' if of_itself else name} {worded(values[i])}".strip())
        names.append(", ".join(words[:MOST_WORDS]))
    if len(set(names)) == len(names) and all(names):
        return names
    return [
        f"{run.name}: {name}" if name else run.name for run, name in zip(runs, names, strict=True)
    ]


def worded(value: Any) -> str:
    """An option's value, in a name."""
    if isinstance(value, list):
        return " ".join(map(worded, value)) or "–"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


NARROW = ("run", "accuracy (%)", "95 % interval", "loss (nats)")  # columns on the console


def score_cells(run: Finished) -> dict[str, str]:
    """The scores by column; a dash for what a recipe doesn't measure."""
    results, data = run.results, run.results.get("data", {})
    accuracy, loss, seconds = (results.get(key) for key in ("accuracy", "loss", "seconds"))
    total = seconds.get("total") if isinstance(seconds, dict) else None
    return {
        "run": run.name,
        "experiment": str(results["experiment"]),
        "rows": str(data.get("rows", "–")),
        "accuracy (%)": ACCURACY.mean(accuracy) if accuracy else "–",
        "95 % interval": ACCURACY.interval(accuracy) if accuracy else "–",
        "loss (nats)": CROSS_ENTROPY.mean(loss) if loss else "–",
        "seconds": f"{total:.1f}" if isinstance(total, int | float) else "–",
        "folder": run.folder,
    }


def differing(runs: Sequence[Finished]) -> dict[str, list[Any]]:
    """Values [runs] of what isn't the same in all: data, options that matter, machine, versions."""
    table: dict[str, list[Any]] = {}
    for part in ("data", "config", "devices", "machine", "versions"):
        each = [run.results.get(part, {}) for run in runs]
        if part == "machine" and not all(each):
            continue  # a run of an earlier version doesn't say where it ran
        names = dict.fromkeys(name for values in each for name in values)
        for name in names:
            values = [plain(run.get(name)) for run in each]
            aside = part == "config" and name in options.NOT_IN_IDENTITY
            if not aside and any(value != values[0] for value in values):
                table[f"{part}.{name}"] = values
    return table


def paired(runs: Sequence[Finished]) -> tuple[list[dict[str, Any]], list[str]]:
    """The first run against each other one that was tested on the very same folds.

    And a sentence for each other cross-validation that can't be tested so: why.
    """
    first = runs[0]
    tests: list[dict[str, Any]] = []
    untested: list[str] = []
    for other in runs[1:]:
        own, others = _folds(first), _folds(other)
        if own is None or others is None:
            continue
        pair = [run.results["folds"] for run in (first, other)]
        scores = [[fold["accuracy"] for fold in folds] for folds in pair]
        differs = [name for name, value in own.items() if value != others[name]]
        why = f"their folds are not the same ({', '.join(differs)})" if differs else ""
        if any(score is None for each in scores for score in each):
            why = why or "a fold diverged"
        if why:
            untested.append(f"{first.name} and {other.name} were not tested by fold: {why}")
            continue
        count = first.results["config"]["folds"]
        rows = first.results["data"]["rows"]
        result = dj.corrected_resampled_ttest(
            *scores, train_rows=rows * (count - 1) / count, test_rows=rows / count
        )
        tests.append({"a": first.name, "b": other.name, **result._asdict()})
    return tests, untested


def _folds(run: Finished) -> dict[str, Any] | None:
    """What two runs must share to have the same folds; None for another training."""
    results = run.results
    if results["experiment"] != "cross_validate":
        return None
    config, data = results.get("config", {}), results.get("data", {})
    rows = data.get("sha256"), data.get("rows")
    return {"data": rows, **{name: config.get(name) for name in SPLIT}}


def in_words(test: Mapping[str, Any]) -> str:
    """A paired test in a sentence."""
    low, high = (100 * end for end in test["ci95"])
    return (
        f"{test['a']} is {100 * test['mean_difference']:+.2f} percentage points from {test['b']} "
        f"on the same folds, 95 % interval {low:+.2f} to {high:+.2f}, p = {test['p_value']:.3g} "
        "(corrected resampled t-test)"
    )


def learning_curves(report: Report, runs: Sequence[Finished]) -> None:
    """The mean curves of those runs that were trained, with their values."""
    found = [(run.name, run.history) for run in runs if run.history is not None]
    if not found:
        return
    longest = max(history["loss"].shape[1] for _, history in found)

    def curve(history: Mapping[str, Any], name: str) -> Any:
        mean = mean_of_known(history[name].T) if name in history else np.zeros(0)
        return np.pad(mean, (0, longest - len(mean)), constant_values=np.nan)

    scores = [
        score
        for score in (CROSS_ENTROPY, ACCURACY)
        if any(score.name in history for _, history in found)
    ]
    panels = {
        score.title: np.stack([score.scale * curve(history, score.name) for _, history in found])
        for score in scores
    }
    names = [name for name, _ in found]
    ends = ", ".join(
        f"{name} ends at {latest(history)['loss'].mean():.4g}" for name, history in found
    )
    columns = ["epoch", *(f"{name}: {title}" for title in panels for name in names)]
    lines = [line for each in panels.values() for line in each]
    values = [(e + 1, *(f"{line[e]:.4f}" for line in lines)) for e in range(longest)]
    report.figure(
        "Learning curves, means over the runs of each",
        plots.learning_curves(panels, names),
        f"Mean training curves by epoch; the loss of {ends}.",
        values=(columns, values),
    )


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
