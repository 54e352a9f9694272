"""A report to look at: one HTML file that holds all it needs, to read, filter and print.

``Report`` is the page itself: a script fills it part by part, and ``html`` gives the text. What
each script shows is in ``pages.py`` and its neighbours. Figures are those of ``digits_jax.plots``,
as SVG elements whose colours are the page's. A policy in the page's head forbids the browser to
load anything from anywhere else.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

import digits_jax as dj
from common.output import plain

if TYPE_CHECKING:
    import numpy.typing as npt

    from common.drawing import Drawing
    from common.scores import Score

HERE = Path(__file__).parent
PIXELS = 124  # of an inch of a figure, at most
LEAST = 544  # pixels of a figure that is wider than a column
SHEET = (
    300  # digits of a sheet at most: a page stays under 600 KB, and a browser filters them at once
)
NADEAU = "Intervals and p after Nadeau and Bengio (2003): folds share training rows."
SHOWN = 40  # of them, before a click on "show all"
Values = tuple[Sequence[str], Iterable[Sequence[Any]]]  # names of columns, and rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digit:
    """An image on a sheet, and what was read in it."""

    image: str  # a data URI
    row: int
    true: str
    answers: list[str]  # wrong ones, the most frequent first
    wrong: int  # predictions that are wrong
    count: int  # predictions in all
    methods: list[str]  # that are wrong, where there are several
    probabilities: list[
        tuple[str, float]
    ]  # [K], each class and its mean probability, or fraction of the answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run, in a table of runs."""

    name: str  # its folder, below that of the page
    date: str  # ISO, UTC
    recipe: str
    options: str
    result: str
    order: float | None  # the number in the result
    thumbnail: str  # a data URI, or nothing
    links: Mapping[str, str]  # addresses below the page's folder, by what they lead to
    argument: str  # of compare_runs.py; nothing for a run that it doesn't take


class Report:
    """A page, filled part by part in the order in which it is read.

    Args:
        title: what was run.
        lead: a sentence on how, below the title.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._lead = lead
        self._headlines: list[dict[str, str | bool]] = []
        self._parts: list[dict[str, Any]] = []

    def headline(self, label: str, value: str, note: str = "", *, whole: bool = False) -> None:
        """A number that answers the question, large, with what it rests on below it.

        ``whole``: on one line, with its unit.
        """
        self._headlines.append({"label": label, "value": value, "note": note, "whole": whole})

    def score(self, label: str, score: Score, summary: Mapping[str, Any], note: str = "") -> None:
        """A headline of a summary of ``results.json``: mean ± sd, and the interval of the mean."""
        ends = score.with_unit(score.interval(summary))
        note = f"95 % interval of the mean: {ends}{note}"
        self.headline(label, score.with_unit(score.mean(summary)), note, whole=True)

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        note: str = "",
        totals: Iterable[Sequence[Any]] = (),
    ) -> None:
        """A table; the cells of its first column are the names of the rows."""
        part = {"kind": "table", "title": title, "note": note}
        self._parts.append(part | _cells((columns, [*rows, *totals])))

    def figure(
        self,
        title: str,
        figure: Drawing,
        alt: str,
        note: str = "",
        *,
        values: Values | None = None,
        points: tuple[npt.ArrayLike, Sequence[str]] | None = None,
    ) -> None:
        """A figure, as SVG.

        Args:
            title: above it.
            figure: drawn when the page is written; one that fails is left out.
            alt: what it shows, to who can't see it.
            note: below it.
            values: what is drawn, as a table to unfold: names of its columns, and its rows.
            points: of its first panel [N, 2], and what each is called when it is pointed at.
        """
        part: dict[str, Any] = {"kind": "figure", "title": title, "alt": alt, "note": note}
        part["values"] = None if values is None else _cells(values)
        part |= {"drawing": figure, "points": points}
        self._parts.append(part)

    def confusion(
        self, title: str, matrix: npt.NDArray[Any], classes: Sequence[str], note: str = ""
    ) -> None:
        """A confusion matrix, int [K, K], rows true; a click on a cell filters the sheet below."""
        totals = matrix.sum(1).tolist()
        rows = [
            {
                "true": classes[i],
                "total": total,
                "cells": [
                    {
                        "predicted": classes[j],
                        "count": count,
                        "root": math.sqrt(count / total) if total else 0.0,
                    }
                    for j, count in enumerate(line)
                ],
            }
            for i, (line, total) in enumerate(zip(matrix.tolist(), totals, strict=True))
        ]
        part = {"kind": "confusion", "title": title, "rows": rows, "classes": classes}
        self._parts.append(part | {"note": note})

    def sheet(
        self,
        title: str,
        digits: Sequence[Digit],
        classes: Sequence[str],
        note: str,
        bars: str,
    ) -> None:
        """Digits to be filtered by true and by predicted class; ``bars`` are what they show."""
        methods = list(dict.fromkeys(name for digit in digits for name in digit.methods))
        part = {"kind": "sheet", "title": title, "digits": digits, "classes": classes, "note": note}
        self._parts.append(part | {"bars": bars.capitalize(), "methods": methods, "shown": SHOWN})

    def runs(self, title: str, runs: Sequence[Run]) -> None:
        """Finished runs, to be sorted by a click, and to be marked for ``compare_runs.py``."""
        self._parts.append({"kind": "runs", "title": title, "runs": runs, "note": ""})

    def html(self, results: Mapping[str, Any]) -> str:
        """The whole page.

        Args:
            results: what ``results.json`` gets: its data, configuration, versions and command.
        """
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("template.html.j2").render(
            title=self._title,
            lead=self._lead,
            headlines=self._headlines,
            parts=[_drawn(part) for part in self._parts if _can_be_shown(part)],
            tables=_about(plain(results)),
            command=results.get("command", ""),
            data=results.get("data", {}),
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
        )


def _can_be_shown(part: Mapping[str, Any]) -> bool:
    return part["kind"] != "figure" or part["drawing"].figure is not None


def _drawn(part: dict[str, Any]) -> dict[str, Any]:
    """A part whose figure, if it is one, is an SVG."""
    if part["kind"] != "figure":
        return part
    figure, points = part["drawing"].figure, part["points"]
    part = part | {"svg": Markup(dj.plots.svg(figure))}
    part["width"] = round(PIXELS * figure.get_figwidth())
    # A figure as wide as a column stays legible on a telephone; a wider one is scrolled.
    part["least"] = 0 if part["width"] <= LEAST else LEAST
    if points is not None:
        fractions = dj.plots.places(figure, points[0]).round(4).tolist()
        part["points"] = {"places": fractions, "names": list(points[1])}
    return part


def _cells(table: Values) -> dict[str, Any]:
    """The columns and rows of a table, as text."""
    columns, rows = table
    return {"columns": list(columns), "rows": [[str(cell) for cell in row] for row in rows]}


def _about(results: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The tables at the end: names and values of the configuration and of what it ran on."""
    names = {name: name.capitalize() for name in ("data", "devices", "machine", "versions")}
    names = {"config": "Configuration", "made": "Made", **names, "seconds": "Seconds"}
    made = {name: results[name] for name in ("date", "commit") if results.get(name)}
    results = {**results, "made": made or None}
    return {
        title: {key: _word(value) for key, value in _flat(results[name]).items()}
        for name, title in names.items()
        if isinstance(results.get(name), Mapping)
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options within options, such as those of a job, beside the others."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {name: value}
    return flat


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "–"
    return "–" if value is None else str(value)


def misclassified(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    class_names: Sequence[str],
    *,
    methods: npt.NDArray[Any] | None = None,
) -> list[Digit]:
    """The rows that at least one prediction gets wrong, those that most get wrong first.

    Args:
        images: [N, H, W] or [N, H, W, 3], 0 the darkest of a photograph or the paper of a drawing.
        labels: the classes [N].
        rows: row numbers [M]; a row may occur several times, once for each prediction.
        probabilities: of the classes [M, K].
        class_names: [K].
        methods: the name of the method of each prediction [M], where there are several.
    """
    predicted = probabilities.argmax(1)
    white = float(np.max(images, initial=0)) or 1.0
    found = []
    for row in np.unique(rows[predicted != labels[rows]]).tolist():
        here = rows == row
        answers = predicted[here]
        wrong = answers != labels[row]
        kinds, counts = np.unique(answers[wrong], return_counts=True)
        digit = Digit(
            image=_picture(images[row], white),
            row=row,
            true=class_names[labels[row]],
            answers=[class_names[k] for k in kinds[np.argsort(-counts, kind="stable")]],
            wrong=int(counts.sum()),
            count=len(answers),
            methods=[] if methods is None else list(dict.fromkeys(methods[here][wrong].tolist())),
            probabilities=list(zip(class_names, probabilities[here].mean(0).tolist(), strict=True)),
        )
        found.append((-digit.wrong / digit.count, digit.probabilities[labels[row]][1], row, digit))
    return [digit for *_, digit in sorted(found, key=lambda each: each[:3])]


def _picture(image: npt.NDArray[Any], white: float) -> str:
    """Ink as dark on light; three channels as they are."""
    from PIL import Image

    file = io.BytesIO()
    levels = np.asarray(image, np.float64) * 255 / white
    levels = levels if levels.ndim == 3 else 255 - levels
    Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)).save(file, "PNG")
    return _data_uri(file.getvalue())


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
