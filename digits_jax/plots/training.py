"""Figures of training: a score of each run, and curves over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from digits_jax.plots.arrays import arrays_by_label, mean_of_known, names_of
from digits_jax.plots.style import ABOVE, BLUE, COLUMN, INK, ORANGE, PAGE, TEN, new_figure, styled


@styled
def fold_scores(scores: Mapping[str, npt.ArrayLike], *, name: str = "Fold") -> Figure:
    """The score of each run on its test rows, a panel for each kind of score.

    The band is mean ± sd with divisor R, as in `statistics.summarize`.

    Args:
        scores: [R] by label. A label is "Loss (nats)" or "Accuracy (%)", its unit in parentheses.
            NaN, of a run that diverged, is left out and counted in the legend.
        name: what a run is.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape, or there is no label.
    """
    panels = arrays_by_label(scores, "R")
    if not panels:
        raise ValueError("scores must have at least one label")
    count = len(next(iter(panels.values())))
    figure, axes = new_figure(COLUMN, 0.4 + 1.4 * len(panels), nrows=len(panels), sharex=True)
    numbers = np.arange(1, count + 1)
    for i, (panel, (label, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        color = (ORANGE, BLUE)[i % 2]
        known = values[np.isfinite(values)]
        mean, std = (known.mean(), known.std()) if known.size else (np.nan, np.nan)
        lost = f", without {count - known.size}" if known.size < count else ""
        unit = label.partition("(")[2].rstrip(")")
        digits = ".2f" if unit == "%" else ".4f" if abs(mean) < 10 else ".4g"
        text = f"mean {mean:{digits}} ± {std:{digits}}{' ' * bool(unit)}{unit} (sd)"
        panel.axhspan(mean - std, mean + std, color=color, alpha=0.12, linewidth=0)
        panel.axhline(mean, color=color, linestyle="--", label=text + lost)
        panel.plot(numbers, values, "o", color=color)
        panel.set_ylabel(label)
        panel.legend(**ABOVE)
    axes[-1].set(xlabel=name, xticks=numbers[:: -(-count // 10)])
    axes[-1].set_xlim(0.5, count + 0.5)
    figure.align_ylabels(axes)
    return figure


@styled
def learning_curves(
    curves: Mapping[str, npt.ArrayLike],
    names: Sequence[str] | None = None,
    *,
    validation: Mapping[str, npt.ArrayLike] | None = None,
) -> Figure:
    """Curves of training, a panel for each kind, a line for each run.

    More than 12 runs are a band, from the lowest to the highest, and their mean. A positive curve
    that spans a decade has a logarithmic axis, unless it is in %.

    Args:
        curves: [R, E] by label. A label is "Loss (nats)" or "Accuracy (%)"; without `validation`,
            the axis says "Training loss (nats)". NaN, of a run that stopped or diverged, is a gap.
        names: [R]. Default: "run 1", "run 2", ...
        validation: the same of the validation rows, by the same labels, dotted.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape, there is no label, or names are not [R].
    """
    panels, dotted = arrays_by_label(curves, "R", "E"), arrays_by_label(validation or {}, "R", "E")
    if not panels:
        raise ValueError("curves must have at least one label")
    runs, epochs = next(iter(panels.values())).shape
    names = names_of(names, [f"run {r + 1}" for r in range(runs)])
    figure, axes = new_figure(PAGE, 2.4, ncols=max(2, len(panels)))
    kinds = [(panels, "-", "training"), (dotted, ":", "validation")][: 1 + bool(dotted)]
    for panel, label in zip(axes, panels, strict=False):
        for each, line, kind in kinds:
            if label not in each:
                continue
            if runs <= 12:
                for r, curve in enumerate(each[label]):
                    _curve(panel, curve, r, line, names[r] if kind == "training" else "")
            else:
                _band(panel, each[label], line, kind if dotted else "")
        what = label if dotted else f"Training {label[0].lower()}{label[1:]}"
        panel.set(xlabel="Epoch", ylabel=what, xlim=(1, epochs) if epochs > 1 else None)
        panel.locator_params(axis="x", integer=True)
        known = np.concatenate([each[label].ravel() for each, *_ in kinds if label in each])
        known = known[np.isfinite(known)]
        spans = known.size and known.min() > 0 and known.max() > 10 * known.min()
        if spans and not label.endswith("(%)"):  # of percent, what matters is near 100
            panel.set_yscale("log")
            _readable_log(panel, known.min(), known.max())
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    handles = axes[0].get_legend_handles_labels()[0]
    if dotted and runs <= 12:
        for _, line, kind in kinds:
            style: dict[str, Any] = {"color": INK, "linestyle": line}
            handles.append(Line2D([], [], **style, label=kind))
    if runs > 1 or dotted:
        figure.legend(handles=handles, loc="outside right center")
    return figure


def _curve(panel: Axes, curve: npt.NDArray[np.float64], r: int, line: str, label: str) -> None:
    """A run's line; its marker tells it apart where its colour doesn't."""
    epochs = len(curve)
    every = max(1, epochs // 5)
    start = (r * every // 6) % every if epochs > 1 else 0
    panel.plot(
        np.arange(1, epochs + 1),
        curve,
        color=TEN[r % 10],
        linestyle=line,
        marker="os^DvP*X<>hd"[r % 12],
        markersize=3 if label else 0,
        markevery=(start, every),
        label=label or "_validation",
    )


def _band(panel: Axes, curves: npt.NDArray[np.float64], line: str, kind: str) -> None:
    """The lowest, mean and highest of many runs, epoch by epoch."""
    numbers = np.arange(1, curves.shape[1] + 1)
    known = np.isfinite(curves)
    some = known.any(axis=0)
    if not some.any():
        return
    low = np.where(known, curves, np.inf).min(axis=0)[some]
    high = np.where(known, curves, -np.inf).max(axis=0)[some]
    color = BLUE if line == "-" else ORANGE
    panel.fill_between(
        numbers[some],
        low,
        high,
        color=color,
        alpha=0.25,
        linewidth=0,
        label=f"{kind} range".strip(),
    )
    words = f"{kind} mean of {len(curves)}".strip()
    marker = "." if len(numbers) == 1 else ""
    style: dict[str, Any] = {"color": color, "linestyle": line, "marker": marker}
    panel.plot(numbers, mean_of_known(curves.T), **style, label=words)


def _readable_log(panel: Axes, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers, each once: powers of ten, 2 and 5 if few."""
    powers = np.log10(high / low)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if powers < 2.5 else (1.0,)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
