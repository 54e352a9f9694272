"""The look of all figures: colours, sizes, tiles, colour bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

COLUMN, PAGE = 3.5, 7.0  # inches
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#737373"  # the colours: of Okabe and Ito (2008)
# Black and white but for a bit, so that `svg` can replace them by the colours of a page.
INK, PAPER, RULE = "#000001", "#fffffe", "#e5e5e6"
DARK = "#010101"  # on a light cell, whatever the page is
# Ten that stay apart under colour-vision deficiency: Petroff (2021), arXiv:2107.02270.
TEN = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()
ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
# Ticks are made late, when the settings below no longer hold: they get theirs directly.
TICKS: dict[str, Any] = {"which": "both", "labelsize": 7, "width": 0.6, "length": 2.5}
TICKS |= {"color": INK, "labelcolor": INK}
_GRAY_SCALE: dict[str, Any] = {"cmap": "gray_r", "vmin": 0, "vmax": 16, "interpolation": "nearest"}
PITCH = 1.14  # from tile to tile, in widths of a tile
_STYLE: Any = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7}
_STYLE |= {"lines.linewidth": 1, "lines.markersize": 4, "axes.linewidth": 0.6}
_STYLE |= {"text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}
_STYLE |= {"xtick.color": INK, "ytick.color": INK}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
# A decorator for functions that make a figure: their callers keep their own settings.
styled = matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure of that many inches, and its panels [nrows * ncols]; `grid` is for `subplots`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(squeeze=False, **grid).ravel()
    for panel in panels:
        panel.tick_params(**TICKS)
    return figure, panels


def colorbar(panel: Axes, label: str, **options: Any) -> None:
    """A colour bar for the panel's last image, by default marked at both ends and in the middle."""
    image = panel.images[-1]
    options = {"ticks": np.linspace(*image.get_clim(), 3), "format": "{x:.3g}", **options}
    bar = panel.figure.colorbar(image, ax=panel, label=label, panchor=False, **options)
    bar.ax.tick_params(**TICKS)


def with_intervals(
    panel: Axes, names: Sequence[str], middles: Any, ends: Any, *, apart: float
) -> dict[str, tuple[Any, str]]:
    """Draws estimates [M] with intervals [M, 2] by series, the first of M names on top.

    `apart` is the part of a line that all series take. Gives the height [M] and colour of each.
    """
    drawn, step = {}, apart / len(middles)
    for i, (series, middle) in enumerate(middles.items()):
        color, marker = (BLUE, ORANGE, GREY)[i % 3], "osD"[i // 3 % 3]
        y = np.arange(len(names)) + (i - (len(middles) - 1) / 2) * step
        panel.hlines(y, *ends[series].T, color=color, linewidth=1.4)
        look: Any = {"color": color, "markeredgecolor": PAPER, "markersize": 5}
        panel.plot(middle, y, marker, label=series, **look)
        drawn[series] = y, color
    panel.set(ylim=(len(names) - 0.5, -0.5), axisbelow=True)
    panel.set_yticks(range(len(names)), names)
    panel.grid(axis="x", color=RULE, linewidth=0.6)
    return drawn


def tiles(
    panel: Axes, images: Any, columns: int, titles: Sequence[str] = (), above: float = 0, **ink: Any
) -> None:
    """Images one unit wide, `columns` in a row, with a title in so much room above each."""
    ink = _GRAY_SCALE | ink
    for i, image in enumerate(images):
        x, y = (i % columns) * PITCH, (i // columns) * (PITCH + above) + above
        panel.imshow(image, extent=(x, x + 1, y + 1, y), **ink)
        panel.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="0.6", linewidth=0.4))
        if titles:
            panel.text(x + 0.5, y - 0.06, titles[i], ha="center", va="bottom")
    right, bottom = columns * PITCH - 0.12, -(-len(images) // columns) * (PITCH + above) - 0.12
    panel.set(xlim=(-0.02, right), ylim=(max(bottom, 0.1), -0.02), aspect="equal", anchor="W")
    panel.axis("off")
