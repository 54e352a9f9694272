"""Several runs side by side on one page: scores, learning curves, and what was set differently.

    python experiments/compare_runs.py runs/cross_validate/DATE runs/cross_validate/ANOTHER

Each argument is the output folder of a finished run. Where two cross-validations trained and tested
on the very same folds, their accuracies are compared fold by fold, by the corrected resampled
t-test; where they didn't, it says what differs. It writes ``report.html`` and ``results.json``
(whole) to the output folder.
"""

from __future__ import annotations

import dataclasses
import json
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
from common.options import require, usage_errors
from common.output import Output, plain
from common.scores import ACCURACY, CROSS_ENTROPY
from common.tables import Table
from digits_jax.storage.files import open_arrays
from report import Report

MOST_WORDS = 3  # of what differs, in the name of a run
SPLIT = ("folds", "repeats", "seed", "stratified")  # what gives the folds of cross_validate.py


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folder):
    """The options of the command line."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Output folders of finished runs, two or more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """A run that has ended, as its folder shows it."""

    name: str
    folder: str  # without what all begin with
    results: Mapping[str, Any]
    history: Mapping[str, Any] | None  # [R, E] by name; None for a run that trains none


def main(config: Config) -> None:
    """Reads, compares, shows and writes."""
    require(len(config.runs) > 1, "give two folders of runs, or more")
    folders = short(config.runs)
    found = [read(folder, name) for folder, name in zip(config.runs, folders, strict=True)]
    names = telling(found)
    found = [dataclasses.replace(run, name=name) for run, name in zip(found, names, strict=True)]
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
    scores = score_table(found, notes, "data.sha256" in differences)
    narrow = [scores.columns.index(name) for name in NARROW]
    Table(scores.title, NARROW, [[row[i] for i in narrow] for row in scores.rows]).show()
    for note in notes:
        console.say(escape(note))

    page = Report(scores.title)
    for run in found:
        if accuracy := run.results.get("accuracy"):
            page.score(run.name, ACCURACY, accuracy)
    page.table(*scores)
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


def read(folder: Path, name: str) -> Finished:
    """A finished run.

    Raises:
        options.UsageError: the folder is no run's, or what it holds is damaged; says which file.
    """
    require(folder.is_dir(), f"{folder} is not a folder")
    file = folder / "results.json"
    none = f"{folder} holds no results.json: it is not the output folder of a finished run"
    require(file.is_file(), none)
    damaged = f"{file} is damaged: "
    with usage_errors(damaged):  # of JSON and of UTF-8
        results = json.loads(file.read_text(encoding="utf-8"))
    known = isinstance(results, dict) and isinstance(results.get("experiment"), str)
    require(known, f"{file} is not the results of one of these scripts")
    for key in ("config", "data", "devices", "machine", "versions"):
        require(isinstance(results.get(key, {}), dict), f"{damaged}its {key} is not an object")
    scores = [key for key in ("accuracy", "loss") if key in results]
    for key in scores:
        require(_is_summary(results[key]), f"{damaged}its {key} is no score")
    kind = results["experiment"]
    if kind == "cross_validate":
        folds = results.get("folds")
        fits = isinstance(folds, list) and all(
            isinstance(fold, dict) and isinstance(fold.get("accuracy"), int | float | None)
            for fold in folds
        )
        require(fits, f"{damaged}its folds have no accuracy")
    require(bool(scores), f"{folder} has no scores to compare: it is a run of {kind}")
    return Finished(
        name=name, folder=name, results=results, history=_history(folder / "history.npz")
    )


def _is_summary(value: Any) -> bool:
    """Whether it is what ``summary_json`` gives."""
    if not isinstance(value, dict) or not isinstance(value.get("ci95"), list):
        return False
    values, ends = [value.get("mean"), value.get("std")], value["ci95"]
    known = all(isinstance(each, int | float) for each in values)
    return known and len(ends) == 2 and all(isinstance(end, int | float | None) for end in ends)


def _history(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        with file.open("rb") as opened, open_arrays(opened) as arrays:
            names = [name for name in arrays.files if name != "runs"]
            history = {name: np.asarray(arrays[name], np.float64) for name in names}
        if "loss" not in history or any(e.ndim != 2 or not e.size for e in history.values()):
            raise ValueError("each of the history must be [R, E]")
    except Exception as error:  # damage shows as any of a dozen exceptions of zipfile and numpy
        raise options.UsageError(f"{file} is damaged ({type(error).__name__})") from error
    return history


COLUMNS = (
    "run",
    "experiment",
    "rows",
    "accuracy (%)",
    "95 % interval",
    "loss (nats)",
    "seconds",
    "folder",
)
NARROW = ("run", "accuracy (%)", "95 % interval", "loss (nats)")  # on the console


def score_table(runs: Sequence[Finished], notes: Sequence[str], other_rows: bool) -> Table:
    """The scores; a dash for what a recipe doesn't measure."""
    rows = []
    for run in runs:
        results, data = run.results, run.results.get("data", {})
        accuracy, loss, seconds = (results.get(key) for key in ("accuracy", "loss", "seconds"))
        total = seconds.get("total") if isinstance(seconds, dict) else None
        rows.append(
            (
                run.name,
                str(results["experiment"]),
                str(data.get("rows", "–")),
                ACCURACY.mean(accuracy) if accuracy else "–",
                ACCURACY.interval(accuracy) if accuracy else "–",
                CROSS_ENTROPY.mean(loss) if loss else "–",
                f"{total:.1f}" if isinstance(total, int | float) else "–",
                run.folder,
            )
        )
    said = [f"{note}." for note in notes]
    if other_rows:
        said.append("These runs saw different rows: their scores are not of the same test.")
    return Table(f"{len(runs)} runs side by side", COLUMNS, rows, " ".join(said))


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
        mean = history[name].mean(axis=0) if name in history else np.zeros(0)
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
        f"{name} ends at {history['loss'].mean(axis=0)[-1]:.4g}" for name, history in found
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
