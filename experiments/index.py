"""All finished runs below a folder on one page: sorted, marked, and compared by a command.

    python experiments/index.py
    python experiments/index.py runs/cross_validate --open

The runs are in tables by their data and script, with date, recipe, result, a thumbnail and links.
A click on the name of a column sorts. Marked runs give the command that compares them. It writes
``index.html`` to the folder.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import io
import json
import os
import shlex
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.markup import escape

from common import command_line, console
from common.options import require
from common.scores import ACCURACY, CROSS_ENTROPY, Score, counted
from digits_jax.storage.files import whole_file
from report import Report, Run

THUMBNAIL = (192, 128)  # pixels at most, of twice the size at which it is shown
RESULTS = ("results.json", "benchmark.json")
# The figure that says most of a run, where it has it.
FIGURES = ("accuracy", "folds", "training_curves", "learning_curves", "confusion")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of the command line."""

    folder: tyro.conf.Positional[Path] = Path("runs")
    """Folder of the runs, however deep they lie in it."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The page in the browser, at the end."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Nothing printed but the result."""


def main(config: Config) -> None:
    """Finds, lists and writes."""
    require(config.folder.is_dir(), f"{config.folder} is not a folder")
    groups: dict[str, list[Run]] = {}
    for file in finished(config.folder):
        try:
            name, run = read(file, config.folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{file} can't be read ({type(error).__name__}: {error}); it is left out"
            console.say(f"[yellow]warning:[/] {escape(why)}", console.errors)
            continue
        groups.setdefault(name, []).append(run)
    count = sum(map(len, groups.values()))
    require(count > 0, f"{config.folder} holds no results.json of a finished run")
    page = Report("Runs", f"{counted(count, 'finished run')} below {config.folder}.")
    for name in sorted(groups):
        newest_first = sorted(groups[name], key=lambda run: run.date, reverse=True)
        page.runs(name, newest_first)
    index = config.folder / "index.html"
    with whole_file(index) as path:
        path.write_text(page.html({}), encoding="utf-8")
    console.say(f"{counted(count, 'run')} in {counted(len(groups), 'table')}", console.notes)
    console.show_path(index)
    if config.open:
        webbrowser.open(index.absolute().as_uri())


def finished(folder: Path) -> Iterator[Path]:
    """The files of results below a folder; ``latest`` and other links are not followed."""
    for place, inside, files in os.walk(folder):
        inside.sort()
        yield from (Path(place, name) for name in RESULTS if name in files)


def read(file: Path, folder: Path) -> tuple[str, Run]:
    """The title of the table that a run belongs to, and its line.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the file is no run's, or is damaged.
    """
    results = json.loads(file.read_text(encoding="utf-8"))
    script, config, data = results["experiment"], results.get("config", {}), results.get("data", {})
    date = results.get("date") or _modified(file)  # of results of an earlier version
    place = file.parent
    rows = f"{data['source']}, {data['rows']} rows" if data.get("rows") else "no rows of its own"
    recipe = config.get("recipe") or config.get("methods") or ""
    report = place / "report.html"
    score, value = headline(results)
    run = Run(
        name=place.relative_to(folder).as_posix(),
        date=date,
        recipe=recipe if isinstance(recipe, str) else ", ".join(recipe),
        options=", ".join(given(config)),
        result=value,
        order=score,
        thumbnail=thumbnail(place),
        links={
            each.name: each.relative_to(folder).as_posix()
            for each in (report, file)
            if each.is_file()
        },
        argument=shlex.quote(place.as_posix())
        if "accuracy" in results or "loss" in results
        else "",
    )
    return f"{rows}: {script}", run


def given(config: Mapping[str, Any]) -> Iterator[str]:
    """The numbers that most often differ between runs of one script."""
    for name in ("epochs", "batch_size", "learning_rate", "members", "folds", "repeats", "seed"):
        value = config.get(name)
        if value is not None and (name not in ("members", "repeats") or value > 1):
            yield f"{name.replace('_', ' ')} {value}"
    yield from config.get("set", ())


def headline(results: Mapping[str, Any]) -> tuple[float | None, str]:
    """The number that sorts, and the words that are shown; nothing where there is no summary."""
    for score in (ACCURACY, CROSS_ENTROPY):
        if isinstance(found := results.get(score.name), Mapping):
            return score.scale * found["mean"], _worded(score, found)
    methods = results.get("methods")
    if isinstance(methods, Mapping):
        known = {each["title"]: each["accuracy"] for each in methods.values() if "accuracy" in each}
        if known:
            best = max(known, key=lambda title: known[title]["mean"])
            return 100 * known[best]["mean"], f"{best}: {_worded(ACCURACY, known[best])}"
    return None, ""


def _worded(score: Score, summary: Mapping[str, Any]) -> str:
    return f"{score.name} {score.with_unit(score.mean(summary))}"


def thumbnail(place: Path) -> str:
    """A run's figure, small, as a data URI; "" where it has none."""
    from PIL import Image

    known = [place / f"{name}.png" for name in FIGURES]
    files = [*(file for file in known if file.is_file()), *sorted(place.glob("*.png"))]
    for file in files:
        try:
            with Image.open(file) as image:
                small = image.convert("RGB")
                small.thumbnail(THUMBNAIL)
        except (OSError, ValueError):  # damaged
            continue
        written = io.BytesIO()
        small.quantize(32).save(written, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    return ""


def _modified(file: Path) -> str:
    moment = datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
