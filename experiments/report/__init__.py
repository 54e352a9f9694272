"""A report to look at: one HTML file that holds all it needs, to read, zoom, filter and print.

``Report`` is the page itself: a script fills it part by part, and ``html`` gives the text. What
each recipe shows is in ``pages.py``, the interactive figures in ``figures.py``. Plotly draws
them in the browser from plain dictionaries, so that nothing is rendered here and its Python side is
hardly imported (0.05 s; Bokeh: 0.7 s); its script is 4.8 MB of each file. A policy in the page's
head forbids the browser to load anything from anywhere else.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.output import plain

if TYPE_CHECKING:
    import numpy.typing as npt

HERE = Path(__file__).parent
SHEET = 500  # digits of a sheet at most: a browser scrolls and filters them at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digit:
    """An image on a sheet, and what was read in it."""

    image: str  # a data URI
    row: int
    true: str
    answers: list[str]  # wrong ones, the most frequent first
    wrong: int  # predictions that are wrong
    count: int  # predictions in all
    probabilities: list[
        tuple[str, float]
    ]  # [K], each class and its mean probability, or fraction of the answers


class Report:
    """A page, filled part by part in the order in which it is read.

    Args:
        title: what was run.
        lead: a sentence on how, below the title.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._lead = lead
        self._headlines: list[dict[str, str]] = []
        self._parts: list[dict[str, Any]] = []

    def headline(self, label: str, value: str, note: str = "") -> None:
        """A number that answers the question, large, with what it rests on below it."""
        self._headlines.append({"label": label, "value": value, "note": note})

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = ""
    ) -> None:
        """A table; the cells of its first column are the names of the rows."""
        cells = [[str(cell) for cell in row] for row in rows]
        part = {"kind": "table", "title": title, "columns": columns, "rows": cells, "note": note}
        self._parts.append(part)

    def figure(self, title: str, figure: Mapping[str, Any], alt: str, note: str = "") -> None:
        """A Plotly figure, ``data`` and ``layout``; ``alt`` says what it shows to who can't see."""
        part = {"kind": "figure", "title": title, "figure": figure, "alt": alt, "note": note}
        self._parts.append(part)

    def image(self, title: str, path: Path, alt: str, note: str = "") -> None:
        """A PNG file, for what has nothing to zoom into but pixels."""
        uri = _data_uri(path.read_bytes())
        self._parts.append({"kind": "image", "title": title, "uri": uri, "alt": alt, "note": note})

    def sheet(
        self,
        title: str,
        digits: Sequence[Digit],
        classes: Sequence[str],
        note: str,
        bars: str,
    ) -> None:
        """Digits to be filtered by true and by predicted class; ``bars`` are what they show."""
        part = {"kind": "sheet", "title": title, "digits": digits, "classes": classes, "note": note}
        self._parts.append(part | {"bars": bars.capitalize()})

    def html(self, results: Mapping[str, Any]) -> str:
        """The whole page.

        Args:
            results: what ``results.json`` gets: its data, configuration, versions and command.
        """
        import jinja2
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs

        figures = [part["figure"] for part in self._parts if part["kind"] == "figure"]
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
            parts=self._parts,
            figures=plain(figures),
            tables=_about(plain(results)),
            command=results.get("command", ""),
            data=results.get("data", {}),
            style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
            plotly=Markup(get_plotlyjs()) if figures else "",
        )


def _about(results: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The tables at the end: names and values of the configuration and of what it ran on."""
    names = {name: name.capitalize() for name in ("data", "devices", "machine", "versions")}
    names = {"config": "Configuration", **names, "seconds": "Seconds"}
    return {
        title: {key: _word(value) for key, value in results[name].items()}
        for name, title in names.items()
        if isinstance(results.get(name), Mapping)
    }


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_word, value)) or "–"
    return "–" if value is None else str(value)


def misclassified(
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    rows: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    class_names: Sequence[str],
) -> list[Digit]:
    """The rows that at least one prediction gets wrong, those that most get wrong first.

    Args:
        images: ink counts 0..16 [N, H, W].
        labels: the classes [N].
        rows: row numbers [M]; a row may occur several times, once for each prediction.
        probabilities: of the classes [M, K].
        class_names: [K].
    """
    import numpy as np

    predicted = probabilities.argmax(1)
    found = []
    for row in np.unique(rows[predicted != labels[rows]]).tolist():
        here = rows == row
        answers = predicted[here]
        kinds, counts = np.unique(answers[answers != labels[row]], return_counts=True)
        digit = Digit(
            image=_ink(images[row]),
            row=row,
            true=class_names[labels[row]],
            answers=[class_names[k] for k in kinds[np.argsort(-counts, kind="stable")]],
            wrong=int(counts.sum()),
            count=len(answers),
            probabilities=list(zip(class_names, probabilities[here].mean(0).tolist(), strict=True)),
        )
        found.append((-digit.wrong / digit.count, digit.probabilities[labels[row]][1], row, digit))
    return [digit for *_, digit in sorted(found, key=lambda each: each[:3])]


def _ink(image: npt.NDArray[Any]) -> str:
    """Ink counts 0..16 as a PNG, dark on light."""
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    grey = np.clip(255 - np.asarray(image, np.float64) * 255 / 16, 0, 255).astype(np.uint8)
    Image.fromarray(grey).save(file, "PNG")
    return _data_uri(file.getvalue())


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
