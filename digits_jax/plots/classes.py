"""Figures of a classifier's answers: confusion, ROC curves, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from digits_jax.metrics import Reliability, RocCurve
from digits_jax.plots.arrays import array_of, names_of
from digits_jax.plots.style import (
    ABOVE,
    BLUE,
    COLUMN,
    DARK,
    GREY,
    PAGE,
    TEN,
    colorbar,
    new_figure,
    styled,
)
from digits_jax.statistics import wilson_interval


@styled
def confusion_matrix(matrix: npt.ArrayLike, class_names: Sequence[str] | None = None) -> Figure:
    """How often each class was taken for each. A square-root scale of colours shows rare mistakes.

    Args:
        matrix: counts [K, K], rows true and columns predicted, as from `metrics.confusion`.
        class_names: [K]. Default: "0", "1", ...

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape, or names are not [K].
    """
    counts = array_of("matrix", matrix, "K", *np.shape(matrix)[:1])
    names = names_of(class_names, range(len(counts)))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (panel,) = new_figure(COLUMN, 3.0)
    panel.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    size = min(7.0, 220 / len(counts) / len(f"{counts.max():.0f}"))  # points, to fit a cell
    for (row, column), count in np.ndenumerate(counts):
        if count:
            style = {"size": size, "color": "white" if shares[row, column] > 40 else DARK}
            panel.text(column, row, f"{count:.0f}", ha="center", va="center", **style)
    panel.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    panel.set_yticks(range(len(names)), names)
    panel.set(xlabel="Predicted class", ylabel="True class")
    colorbar(panel, "Share of the true class (%)", ticks=[0, 1, 5, 10, 25, 50, 100])
    return figure


@styled
def roc_curves(curves: Sequence[RocCurve], class_names: Sequence[str] | None = None) -> Figure:
    """ROC curves of each class against the rest. The axes show the corner of near-perfect curves.

    Args:
        curves: [K], as from `metrics.roc_curves`.
        class_names: [K]. Default: "0", "1", ...

    Returns:
        The figure.

    Raises:
        ValueError: names are not [K].
    """
    names = names_of(class_names, range(len(curves)))
    rates = np.concatenate([np.ones(1), *(curve.false_positive_rate for curve in curves)])
    lowest, bottom = min(rates[rates > 0].min(), 0.01), 0.99
    figure, (panel,) = new_figure(PAGE, 2.8)
    for k, (curve, name) in enumerate(zip(curves, names, strict=True)):
        x, y = np.maximum(curve.false_positive_rate, lowest), curve.true_positive_rate
        bottom = min(bottom, max(y[x == lowest], default=1.0))
        style: dict[str, Any] = {"color": TEN[k % 10], "linestyle": ("-", (0, (4, 1)))[k % 2]}
        panel.plot(x, y, drawstyle="steps-post", **style, label=f"{name}: AUC {curve.auc:.5f}")
    chance, margin = np.geomspace(lowest, 1, 99), 0.05 * (1 - bottom)
    panel.plot(chance, chance, ":", color=GREY, label="chance")
    panel.set(xscale="log", xlim=(lowest, 1), ylim=(bottom - margin, 1 + margin))
    panel.set(xlabel="False positive rate (0 at the left edge)", ylabel="True positive rate")
    figure.legend(loc="outside right center", title="Class against rest", handlelength=3)
    return figure


@styled
def reliability_diagram(reliability: Reliability) -> Figure:
    """Accuracy by confidence with 95 % Wilson intervals; below it the number of rows of each bin.

    Args:
        reliability: as from `metrics.reliability`. ECE is the expected calibration error.

    Returns:
        The figure.
    """
    *means, count, error = reliability
    x, y, rows = (values[count > 0] for values in (*means, count))
    ends = [wilson_interval(round(a * n), int(n)) for a, n in zip(y, rows, strict=True)]
    reach = np.abs(np.transpose(ends) - y)
    figure, panels = new_figure(COLUMN, 3.6, nrows=2, sharex=True, height_ratios=[3, 1])
    panels[0].plot([0, 1], [0, 1], ":", color=GREY, label="perfect calibration")
    label = f"bin, 95 % interval (ECE {100 * error:.2f} %)"
    panels[0].errorbar(x, y, reach, fmt="o", color=BLUE, elinewidth=0.8, label=label)
    panels[0].set(ylabel="Accuracy", xlim=(0, 1), ylim=(-0.03, 1.03))
    panels[0].legend(**ABOVE)
    panels[1].stairs(count, np.linspace(0, 1, len(count) + 1), fill=True, color=BLUE, baseline=0.5)
    panels[1].set(xlabel="Confidence (probability of the predicted class)", ylabel="Rows")
    panels[1].set(yscale="log", ylim=(0.5, 2 * count.max()))
    panels[1].minorticks_off()
    figure.align_ylabels(panels)
    return figure
