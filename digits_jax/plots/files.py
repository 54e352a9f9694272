"""A figure as a file, as part of a page, and where its points lie."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from digits_jax.plots.arrays import array_of
from digits_jax.plots.style import INK, PAPER, RULE


def save(
    figure: Figure, path: str | Path, formats: Iterable[str] = ("png",), dpi: float = 200
) -> tuple[Path, ...]:
    """Writes a figure, each file whole or not at all.

    Args:
        figure: of any function here.
        path: without suffix; a missing folder is made.
        formats: "png", "svg", "pdf" and others of matplotlib.
        dpi: pixels per inch.

    Returns:
        The paths of the files.

    Raises:
        TypeError: `formats` is one string.
        ValueError: matplotlib has no such format.
        OSError: the disk refuses; the error names `path`.
    """
    if isinstance(formats, str):
        raise TypeError(f"formats must be a sequence such as ({formats!r},), got {formats!r}")
    path = Path(path).expanduser()
    paths = tuple(Path(f"{path}.{suffix}") for suffix in formats)
    try:
        folder = path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".partial", prefix=".", dir=folder) as temporary:
            for each in paths:
                figure.savefig(Path(temporary) / each.name, dpi=dpi)
            for each in paths:
                (Path(temporary) / each.name).replace(each)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return paths


def svg(figure: Figure) -> str:
    """A figure as an SVG element for a page.

    Args:
        figure: of any function here.

    Returns:
        The element, its text as text. Black, white and the lines of a grid are the CSS variables
        `--ink`, `--page` and `--line`.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "digits_jax"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z]+\d?d?_\d+"', "", text)  # which a page with two figures has twice
    for color, variable in {INK: "ink", PAPER: "page", RULE: "line"}.items():
        text = text.replace(color, f"var(--{variable})")
    return text


def places(figure: Figure, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Where points lie in a figure.

    Args:
        figure: whose first panel holds them.
        points: [N, 2], in the panel's units.

    Returns:
        float64 [N, 2], fractions of the figure's width and height from its top left.

    Raises:
        ValueError: an array is empty or hasn't that shape.
    """
    figure.draw_without_rendering()  # the layout moves the panel
    pixels = figure.axes[0].transData.transform(array_of("points", points, "N", 2))
    fractions: npt.NDArray[np.float64] = pixels / figure.bbox.size
    return np.stack([fractions[:, 0], 1 - fractions[:, 1]], axis=1)
