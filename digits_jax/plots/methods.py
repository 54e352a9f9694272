"""Figures that compare methods: their scores, the errors they share, how they differ."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from digits_jax.plots.arrays import array_of, names_of
from digits_jax.plots.style import (
    ABOVE,
    BLUE,
    DARK,
    GREY,
    PAGE,
    colorbar,
    new_figure,
    styled,
    with_intervals,
)


@styled
def method_scores(
    names: Sequence[str],
    scores: Mapping[str, npt.ArrayLike],
    intervals: Mapping[str, npt.ArrayLike],
) -> Figure:
    """Accuracies of methods: their mean, its interval and, below, a dot for each run.

    Args:
        names: [M]. The first method is on top.
        scores: [M, R] by series, as fractions. A series is, for example, a kind of splits; R may
            differ. Its name is in the legend and should say what the interval is.
        intervals: [M, 2] by the same series, as fractions; NaN draws none.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape, or the series differ.
    """
    if list(scores) != list(intervals) or not scores:
        raise ValueError(f"scores and intervals differ: {list(scores)} and {list(intervals)}")
    height = 0.16 + 0.16 * len(scores)  # inches of a method
    below = 0.06 / height  # the interval's line would hide the dots
    figure, (panel,) = new_figure(PAGE, 0.7 + len(names) * height)
    runs, ends = (
        {name: 100 * array_of(f"{what}[{name!r}]", v, len(names), width) for name, v in of.items()}
        for what, of, width in (("scores", scores, "R"), ("intervals", intervals, 2))
    )
    means = {name: values.mean(axis=1) for name, values in runs.items()}
    for name, (y, color) in with_intervals(panel, names, means, ends, apart=0.8).items():
        dots = {"color": color, "alpha": 0.5, "linewidths": 0, "s": 10, "zorder": 1}
        panel.scatter(runs[name], np.repeat(y + below, runs[name].shape[1]), **dots)
        for mean, low, high, at in zip(means[name], *ends[name].T, y, strict=True):
            ends_text = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
            place = {"transform": panel.get_yaxis_transform(), "va": "center", "size": 7}
            panel.text(1.01, at, f"{mean:.2f}{ends_text}", color=color, **place)
    panel.set_xlabel("Accuracy (%)")
    panel.legend(**ABOVE, ncols=1)
    return figure


@styled
def common_errors(counts: npt.ArrayLike, names: Sequence[str]) -> Figure:
    """Errors that two methods share.

    The colour, and the number below each count, is the share of the line's errors that the column's
    method makes as well.

    Args:
        counts: [M, M], rows that both have wrong; on the diagonal each method's own errors.
        names: [M].

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape, or names are not [M].
    """
    shared = array_of("counts", counts, "M", *np.shape(counts)[:1])
    names = names_of(names, range(len(shared)))
    shares = 100 * shared / np.maximum(np.diag(shared)[:, None], 1e-9)
    figure, (panel,) = new_figure(PAGE, max(0.35 * len(names) + 0.9, 2.4))
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (line, column), count in np.ndenumerate(shared):
        ink = "white" if shares[line, column] > 55 else DARK
        text = f"{count:.{int(count < 100)}f}\n{shares[line, column]:.0f} %"
        panel.text(column, line, text, ha="center", va="center", size=6, color=ink)
    panel.set_xticks(range(len(names)), [textwrap.fill(name, 12) for name in names])
    panel.set_yticks(range(len(names)), names)
    panel.set(xlabel="… that this method makes, too", ylabel="Of this method's errors …")
    colorbar(panel, "Share of the line's errors (%)")
    return figure


@styled
def differences(
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    label: str = "Difference of accuracy (points)",
) -> Figure:
    """Differences of accuracy from a base, a panel for each base, a row for each method.

    Panels have axes of their own: their spans may differ much.

    Args:
        panels: of each base, by its title, and each method, by its name: the mean difference and
            the two ends of its interval, as fractions. They are drawn in percentage points.
        label: below each panel; it should say what the interval is.

    Returns:
        The figure.

    Raises:
        ValueError: there is no base, or one without methods.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels must hold at least one panel, each with at least one method")
    rows = max(map(len, panels.values()))
    figure, axes = new_figure(PAGE, 0.7 + 0.2 * rows, ncols=len(panels))
    for panel, (title, methods) in zip(axes, panels.items(), strict=True):
        values = 100 * array_of("methods", list(methods.values()), len(methods), 3)
        below = np.arange(len(methods))
        panel.axvline(0, color=GREY, linewidth=0.6)
        panel.hlines(below, values[:, 1], values[:, 2], color=BLUE)
        panel.plot(values[:, 0], below, "o", color=BLUE)
        panel.set_yticks(below, list(methods))
        panel.set(title=title, xlabel=label, ylim=(rows - 0.5, -0.5))
    return figure
