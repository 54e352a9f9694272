"""Figures of an experiment: estimates with intervals, and scores against what was varied."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from digits_jax.plots.arrays import array_of
from digits_jax.plots.style import (
    ABOVE,
    BLUE,
    COLUMN,
    GREY,
    INK,
    ORANGE,
    PAGE,
    new_figure,
    styled,
    with_intervals,
)


@styled
def estimates(
    names: Sequence[str],
    values: Mapping[str, npt.ArrayLike],
    intervals: Mapping[str, npt.ArrayLike],
    *,
    label: str,
    line: float | None = None,
    log: bool = False,
) -> Figure:
    """Estimates with intervals, a line for each of M names.

    Args:
        names: [M]. The first is on top.
        values: [M] by series, in the unit of `label`; NaN draws none. Several series get a legend.
        intervals: [M, 2] by the same series, in the same unit; NaN draws none.
        label: of the values.
        line: a value that is marked, such as what they should be.
        log: whether the axis is logarithmic.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape, or the series differ.
    """
    if list(values) != list(intervals) or not values:
        raise ValueError(f"values and intervals differ: {list(values)} and {list(intervals)}")
    figure, (panel,) = new_figure(PAGE, 0.7 + len(names) * (0.12 + 0.14 * len(values)))
    middles = {name: array_of(f"values[{name!r}]", v, len(names)) for name, v in values.items()}
    ends = {
        name: array_of(f"intervals[{name!r}]", v, len(names), 2) for name, v in intervals.items()
    }
    with_intervals(panel, names, middles, ends, apart=0.7)
    if log:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    if line is not None:
        panel.axvline(line, color=INK, linewidth=0.8, linestyle=":", zorder=0)
    panel.set_xlabel(label)
    if len(values) > 1:
        panel.legend(**ABOVE, ncols=1)
    return figure


@styled
def series(
    panels: Mapping[str, tuple[npt.ArrayLike, Mapping[str, npt.ArrayLike]]],
    *,
    label: str,
    log: Collection[str] = (),
) -> Figure:
    """Scores against what was varied, a panel for each thing varied.

    A line is the mean of the R runs, the band their range.

    Args:
        panels: of each thing varied, by its name, the places [X] and, by the names of the legend,
            scores [X, R] in the unit of `label`; R may differ.
        label: of the scores.
        log: panels that get a logarithmic axis.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape.
    """
    ncols = 2 if len(panels) == 4 else min(3, len(panels))
    nrows = -(-len(panels) // ncols)
    width, fit = (COLUMN, 2) if ncols == 1 else (PAGE, 4)  # names of the legend beside each other
    styles = itertools.product(("-", "--", ":"), (BLUE, ORANGE, GREY))
    looks = dict(
        zip(dict.fromkeys(n for _, of in panels.values() for n in of), styles, strict=False)
    )
    height = 0.3 + 0.15 * -(-len(looks) // fit) + 2.0 * nrows
    figure, axes = new_figure(width, height, nrows=nrows, ncols=ncols, sharey=True)
    for panel, (title, (places, of)) in zip(axes, panels.items(), strict=False):
        x = array_of(title, places, "X")
        for name, values in of.items():
            scores = array_of(name, values, len(x), "R")
            line, color = looks[name]
            panel.plot(x, scores.mean(axis=1), line, color=color, label=name, marker=".")
            panel.fill_between(x, scores.min(1), scores.max(1), color=color, alpha=0.15, lw=0)
        if title in log:
            panel.set_xscale("log")
            panel.set_xticks(x, [f"{place:g}" for place in x])
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel(title)
    for panel in axes[::ncols]:
        panel.set_ylabel(label)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    handles = {n: h for p in axes for h, n in zip(*p.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=min(fit, len(handles)))
    return figure
