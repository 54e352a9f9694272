"""Figures of a search: what hyperparameters do, one by one and in pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from digits_jax.plots.arrays import array_of, mean_of_known, names_of
from digits_jax.plots.style import (
    BLUE,
    COLUMN,
    DARK,
    GREY,
    ORANGE,
    PAGE,
    TICKS,
    colorbar,
    new_figure,
    styled,
)

MOST_CELLS = 400  # of a heat map: each has its number in it


@styled
def effects(
    values: Mapping[str, npt.ArrayLike],
    scores: npt.ArrayLike,
    *,
    label: str = "Accuracy (%)",
    log: Collection[str] = (),
) -> Figure:
    """What each hyperparameter does to the score, a panel for each.

    Where configurations share values, as in a grid, the line is the median of all runs of a value,
    whatever the other hyperparameters; the bar goes from the lower to the upper quartile, and a
    grey point is a configuration's mean. Else median and quartiles are of each configuration's
    runs.

    Args:
        values: [C] by hyperparameter, numbers or words.
        scores: [C, R], in the unit of `label`; NaN is left out.
        label: of the scores.
        log: hyperparameters that get a logarithmic axis, if all their values are positive.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape.
    """
    shares = array_of("scores", scores, "C", "R")
    kinds = {name: np.unique(each) for name, each in values.items() if _is_text(each)}
    columns = {
        name: array_of(
            name, np.searchsorted(kinds[name], each) if name in kinds else each, len(shares)
        )
        for name, each in values.items()
    }
    ncols = min(3, len(columns))
    nrows = -(-len(columns) // 3)
    width = COLUMN if ncols == 1 else PAGE
    figure, panels = new_figure(width, 0.4 + 2.0 * nrows, nrows=nrows, ncols=ncols, sharey=True)
    means = mean_of_known(shares)
    for panel, (name, x) in zip(panels, columns.items(), strict=False):
        places, which = np.unique(x, return_inverse=True)
        groups = [shares[which == i].ravel() for i in range(len(places))]
        ends = [_quartiles(group[~np.isnan(group)]) for group in groups]
        low, middle, high = np.transpose(ends)
        style: dict[str, Any] = {"fmt": "o", "color": BLUE, "elinewidth": 0.8}
        label_of = "runs of a configuration (median, quartiles)"
        if len(places) < len(x):
            panel.plot(x, means, ".", color=GREY, label="configuration (mean)", alpha=0.5)
            style["fmt"], label_of = "o-", "all runs at this value (median, quartiles)"
        panel.errorbar(places, middle, (middle - low, high - middle), **style, label=label_of)
        if name in log and x.min() > 0:
            panel.set_xscale("log")
        if name not in kinds and len(places) <= 5:  # too few to be read off round numbers
            panel.set_xticks(places, [f"{place:.3g}" for place in places])
        panel.set_xlabel(name.replace("_", " ").capitalize())
        panel.xaxis.set_minor_formatter(NullFormatter())
        if name in kinds:
            panel.set_xticks(range(len(kinds[name])), kinds[name])
            panel.set_xlim(-0.5, len(kinds[name]) - 0.5)
    for panel in panels[::ncols]:
        panel.set_ylabel(label)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=min(2, ncols)
    )
    for panel in panels[len(columns) :]:
        panel.set_axis_off()
    return figure


@styled
def pair(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    *,
    label: str = "Accuracy (%)",
    log: Collection[str] = (),
) -> Figure:
    """A heat map of two hyperparameters.

    A cell is the mean over all configurations of a pair of values, whatever the others; the best
    is framed. Where most pairs of values are missing, as in random search, or where there are more
    than a page holds, the configurations are points instead.

    Args:
        x: values [C] of one hyperparameter.
        y: values [C] of the other.
        scores: [C], in the unit of `label`.
        names: [2], of x and y.
        label: of the scores.
        log: hyperparameters that get a logarithmic axis where points are drawn.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape, or names are not two.
    """
    shares = array_of("scores", scores, "C")
    columns, rows = array_of("x", x, len(shares)), array_of("y", y, len(shares))
    xs, ys = np.unique(columns), np.unique(rows)
    cells = np.full((len(ys), len(xs)), np.nan)
    for i, j in np.ndindex(cells.shape) if cells.size <= MOST_CELLS else ():
        here = shares[(columns == xs[j]) & (rows == ys[i])]
        cells[i, j] = mean_of_known(here) if here.size else np.nan
    labels = [names_of(names, range(2))[i].replace("_", " ").capitalize() for i in (0, 1)]
    if np.isnan(cells).mean() > 0.5:
        figure, (panel,) = new_figure(COLUMN, 2.8)
        points = panel.scatter(columns, rows, c=shares, cmap="viridis", s=16)
        for axis, name, values in zip("xy", names, (columns, rows), strict=True):
            if name in log and values.min() > 0:
                panel.set(**{f"{axis}scale": "log"})
        bar = figure.colorbar(points, ax=panel, label=label)
        bar.ax.tick_params(**TICKS)
    else:
        width = COLUMN if len(xs) <= 5 else PAGE
        figure, (panel,) = new_figure(width, 0.9 + max(0.28 * len(ys), 0.8))
        low, high = np.nanmin(cells), np.nanmax(cells)
        scale = {"vmin": low, "vmax": max(high, low + 0.02)}
        panel.imshow(cells, cmap="viridis", origin="lower", aspect="auto", **scale)
        form = ".2f" if label.endswith("(%)") else ".4g"
        colorbar(panel, label, format=f"{{x:{form}}}")
        for (i, j), cell in np.ndenumerate(cells):
            color = "white" if cell < (low + scale["vmax"]) / 2 else DARK
            if not np.isnan(cell):
                panel.text(j, i, f"{cell:{form}}", ha="center", va="center", color=color, size=6)
        i, j = np.unravel_index(np.nanargmax(cells), cells.shape)
        frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=1.5)
        panel.add_patch(frame)
        rotation = 90 if len(xs) > 8 else 0
        panel.set_xticks(range(len(xs)), [f"{value:.3g}" for value in xs], rotation=rotation)
        panel.set_yticks(range(len(ys)), [f"{value:.3g}" for value in ys])
    panel.set(xlabel=labels[0], ylabel=labels[1])
    return figure


def _quartiles(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lower quartile, median, upper quartile; NaN where there is no value."""
    return np.quantile(values, [0.25, 0.5, 0.75]) if values.size else np.full(3, np.nan)


def _is_text(values: npt.ArrayLike) -> bool:
    return np.asarray(values).dtype.kind == "U"
