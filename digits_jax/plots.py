"""Every figure: each function takes arrays and returns a matplotlib `Figure`; `save` writes it.

No function touches pyplot or global settings; each raises ValueError where an array is empty or
hasn't the shape given, and TypeError where labels are not integers. Figures are as wide as one or
two columns of a paper, their colours stay apart for colour-blind readers. N is the number of rows,
R of runs, E of epochs, K of classes; pixels are ink counts, 0..16, drawn dark on light.
"""

from __future__ import annotations

import io
import itertools
import re
import tempfile
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from digits_jax.metrics import Reliability, RocCurve
from digits_jax.statistics import wilson_interval

_COLUMN, _PAGE = 3.5, 7.0  # inches
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#737373"  # the colours: of Okabe and Ito (2008)
# Black and white but for a bit, so that a page can tell them in an SVG, and give its own instead.
_INK_COLOR, _PAPER, _RULE = "#000001", "#fffffe", "#e5e5e6"
_DARK = "#010101"  # on a light cell, whatever the page is
# Ten that stay apart under colour-vision deficiency: Petroff (2021), arXiv:2107.02270.
_TEN = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()
_ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
# Ticks are made late, when the settings below have gone: they are given theirs outright.
_TICKS: dict[str, Any] = {"which": "both", "labelsize": 7, "width": 0.6, "length": 2.5}
_TICKS |= {"color": _INK_COLOR, "labelcolor": _INK_COLOR}
_INK: dict[str, Any] = {"cmap": "gray_r", "vmin": 0, "vmax": 16, "interpolation": "nearest"}
_PITCH = 1.14  # from tile to tile, in widths of a tile
_STYLE: Any = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7}
_STYLE |= {"lines.linewidth": 1, "lines.markersize": 4, "axes.linewidth": 0.6}
_STYLE |= {"text.color": _INK_COLOR, "axes.labelcolor": _INK_COLOR, "axes.edgecolor": _INK_COLOR}
_STYLE |= {"xtick.color": _INK_COLOR, "ytick.color": _INK_COLOR}
_STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
# A decorator for functions that make a figure: their callers keep their own settings.
styled = matplotlib.rc_context(_STYLE)


@styled
def fold_scores(scores: Mapping[str, npt.ArrayLike], *, name: str = "Fold") -> Figure:
    """Scores [R] of each run over its test rows, by label: a panel for each.

    A label is "Loss (nats)" or "Accuracy (%)", its unit in parentheses. The band is mean ± sd, with
    divisor R, as in `statistics.summarize`; `name` is what a run is. A score that is NaN, of a run
    that diverged, is left out and counted in the legend.
    """
    panels = _labelled(scores, "R")
    if not panels:
        raise ValueError("scores must have at least one label")
    count = len(next(iter(panels.values())))
    figure, axes = _figure(_COLUMN, 0.4 + 1.4 * len(panels), nrows=len(panels), sharex=True)
    numbers = np.arange(1, count + 1)
    for i, (panel, (label, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        color = (_ORANGE, _BLUE)[i % 2]
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
        panel.legend(**_ABOVE)
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
    """Curves [R, E] of training, by label: a panel for each, a line for each run.

    A label is "Loss (nats)" or "Accuracy (%)"; without `validation`, the axis says "Training loss
    (nats)". `validation` has the same of the validation rows, by the same labels, dotted. A
    positive curve that spans a decade has a logarithmic axis. Names [R] are "run 1" .. by default.
    More than 12 runs are a band, from the lowest to the highest, and their mean. NaN, of a run that
    stopped or diverged, is a gap.
    """
    panels, dotted = _labelled(curves, "R", "E"), _labelled(validation or {}, "R", "E")
    if not panels:
        raise ValueError("curves must have at least one label")
    runs, epochs = next(iter(panels.values())).shape
    names = _names(names, [f"run {r + 1}" for r in range(runs)])
    figure, axes = _figure(_PAGE, 2.4, ncols=max(2, len(panels)))
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
        if known.size and known.min() > 0 and known.max() > 10 * known.min():
            panel.set_yscale("log")
            _readable_log(panel, known.min(), known.max())
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    handles = axes[0].get_legend_handles_labels()[0]
    if dotted and runs <= 12:
        for _, line, kind in kinds:
            style: dict[str, Any] = {"color": _INK_COLOR, "linestyle": line}
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
        color=_TEN[r % 10],
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
    color = _BLUE if line == "-" else _ORANGE
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
    panel.plot(numbers, _mean(curves.T), **style, label=words)


def _readable_log(panel: Axes, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers, each once: powers of ten, 2 and 5 if few."""
    powers = np.log10(high / low)
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if powers < 2.5 else (1.0,)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())


def _labelled(
    values: Mapping[str, npt.ArrayLike], *shape: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Arrays by label, all of one shape; none is fine where there need be none."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    wanted: tuple[int | str, ...] = shape
    for label, each in values.items():
        found[label] = _array(label, each, *wanted)
        wanted = found[label].shape
    return found


@styled
def method_scores(
    names: Sequence[str],
    scores: Mapping[str, npt.ArrayLike],
    intervals: Mapping[str, npt.ArrayLike],
) -> Figure:
    """Accuracies of methods [M]: their mean, its interval and, below, a dot for each run.

    Both mappings have the same one or more series, such as two kinds of splits, whose names are the
    legend and should say what the interval is: scores [M, R], whose R may differ, and intervals
    [M, 2] (NaN draws none), fractions. The first method is on top.
    """
    if list(scores) != list(intervals) or not scores:
        raise ValueError(f"scores and intervals differ: {list(scores)} and {list(intervals)}")
    lines, step = np.arange(len(names)), 0.8 / len(scores)
    height = 0.16 + 0.16 * len(scores)  # inches of a method
    below = 0.06 / height  # the interval's line would hide the dots
    figure, (panel,) = _figure(_PAGE, 0.7 + len(names) * height)
    for i, (name, values) in enumerate(scores.items()):
        runs = 100 * _array(f"scores[{name!r}]", values, len(names), "R")
        ends = 100 * _array(f"intervals[{name!r}]", intervals[name], len(names), 2)
        color, y = (_BLUE, _ORANGE, _GREY)[i % 3], lines + (i - (len(scores) - 1) / 2) * step
        dots = {"color": color, "alpha": 0.5, "linewidths": 0, "s": 10, "zorder": 1}
        panel.scatter(runs, np.repeat(y + below, runs.shape[1]), **dots)
        means = runs.mean(axis=1)
        panel.hlines(y, *ends.T, color=color, linewidth=1.4)
        panel.plot(means, y, "o", color=color, markeredgecolor=_PAPER, label=name, markersize=5)
        for mean, low, high, at in zip(means, *ends.T, y, strict=True):
            ends_text = "" if np.isnan(low) else f" ({low:.2f} to {high:.2f})"
            place = {"transform": panel.get_yaxis_transform(), "va": "center", "size": 7}
            panel.text(1.01, at, f"{mean:.2f}{ends_text}", color=color, **place)
    panel.set(xlabel="Accuracy (%)", ylim=(len(names) - 0.5, -0.5), axisbelow=True)
    panel.set_yticks(lines, names)
    panel.grid(axis="x", color=_RULE, linewidth=0.6)
    panel.legend(**_ABOVE, ncols=1)
    return figure


@styled
def common_errors(counts: npt.ArrayLike, names: Sequence[str]) -> Figure:
    """Errors that two methods share: counts [M, M], on the diagonal each method's own errors.

    The colour, and the number below each count, is the share of the line's errors that the column's
    method makes as well.
    """
    shared = _array("counts", counts, "M", *np.shape(counts)[:1])
    names = _names(names, range(len(shared)))
    shares = 100 * shared / np.maximum(np.diag(shared)[:, None], 1e-9)
    figure, (panel,) = _figure(_PAGE, max(0.35 * len(names) + 0.9, 2.4))
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (line, column), count in np.ndenumerate(shared):
        ink = "white" if shares[line, column] > 55 else _DARK
        text = f"{count:.{int(count < 100)}f}\n{shares[line, column]:.0f} %"
        panel.text(column, line, text, ha="center", va="center", size=6, color=ink)
    panel.set_xticks(range(len(names)), [textwrap.fill(name, 12) for name in names])
    panel.set_yticks(range(len(names)), names)
    panel.set(xlabel="… that this method makes, too", ylabel="Of this method's errors …")
    _colorbar(panel, "Share of the line's errors (%)")
    return figure


@styled
def confusion_matrix(matrix: npt.ArrayLike, class_names: Sequence[str] | None = None) -> Figure:
    """Counts [K, K], rows true and columns predicted, as from `metrics.confusion`.

    Names [K] are "0" .. by default. The square-root scale of the colours shows rare mistakes.
    """
    counts = _array("matrix", matrix, "K", *np.shape(matrix)[:1])
    names = _names(class_names, range(len(counts)))
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (panel,) = _figure(_COLUMN, 3.0)
    panel.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    size = min(7.0, 220 / len(counts) / len(f"{counts.max():.0f}"))  # points, to fit a cell
    for (row, column), count in np.ndenumerate(counts):
        if count:
            style = {"size": size, "color": "white" if shares[row, column] > 40 else _DARK}
            panel.text(column, row, f"{count:.0f}", ha="center", va="center", **style)
    panel.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    panel.set_yticks(range(len(names)), names)
    panel.set(xlabel="Predicted class", ylabel="True class")
    _colorbar(panel, "Share of the true class (%)", ticks=[0, 1, 5, 10, 25, 50, 100])
    return figure


@styled
def roc_curves(curves: Sequence[RocCurve], class_names: Sequence[str] | None = None) -> Figure:
    """ROC curves [K] of one class against the rest, as from `metrics.roc_curves`.

    Names [K] are "0" .. by default. The axes zoom in on the corner of near-perfect curves.
    """
    names = _names(class_names, range(len(curves)))
    rates = np.concatenate([np.ones(1), *(curve.false_positive_rate for curve in curves)])
    lowest, bottom = min(rates[rates > 0].min(), 0.01), 0.99
    figure, (panel,) = _figure(_PAGE, 2.8)
    for k, (curve, name) in enumerate(zip(curves, names, strict=True)):
        x, y = np.maximum(curve.false_positive_rate, lowest), curve.true_positive_rate
        bottom = min(bottom, max(y[x == lowest], default=1.0))
        style: dict[str, Any] = {"color": _TEN[k % 10], "linestyle": ("-", (0, (4, 1)))[k % 2]}
        panel.plot(x, y, drawstyle="steps-post", **style, label=f"{name}: AUC {curve.auc:.5f}")
    chance, margin = np.geomspace(lowest, 1, 99), 0.05 * (1 - bottom)
    panel.plot(chance, chance, ":", color=_GREY, label="chance")
    panel.set(xscale="log", xlim=(lowest, 1), ylim=(bottom - margin, 1 + margin))
    panel.set(xlabel="False positive rate (0 at the left edge)", ylabel="True positive rate")
    figure.legend(loc="outside right center", title="Class against rest", handlelength=3)
    return figure


@styled
def reliability_diagram(reliability: Reliability) -> Figure:
    """Accuracy by confidence, as from `metrics.reliability`, with 95 % Wilson intervals.

    Below it, how many rows each bin holds. ECE is the expected calibration error.
    """
    *means, count, error = reliability
    x, y, rows = (values[count > 0] for values in (*means, count))
    ends = [wilson_interval(round(a * n), int(n)) for a, n in zip(y, rows, strict=True)]
    reach = np.abs(np.transpose(ends) - y)
    figure, panels = _figure(_COLUMN, 3.6, nrows=2, sharex=True, height_ratios=[3, 1])
    panels[0].plot([0, 1], [0, 1], ":", color=_GREY, label="perfect calibration")
    label = f"bin, 95 % interval (ECE {100 * error:.2f} %)"
    panels[0].errorbar(x, y, reach, fmt="o", color=_BLUE, elinewidth=0.8, label=label)
    panels[0].set(ylabel="Accuracy", xlim=(0, 1), ylim=(-0.03, 1.03))
    panels[0].legend(**_ABOVE)
    panels[1].stairs(count, np.linspace(0, 1, len(count) + 1), fill=True, color=_BLUE, baseline=0.5)
    panels[1].set(xlabel="Confidence (probability of the predicted class)", ylabel="Rows")
    panels[1].set(yscale="log", ylim=(0.5, 2 * count.max()))
    panels[1].minorticks_off()
    figure.align_ylabels(panels)
    return figure


@styled
def digit_sheet(
    images: npt.ArrayLike,
    titles: Sequence[str],
    *,
    columns: int = 8,
    title: str = "",
    framed: Iterable[int] = (),
    black: float = 16,
) -> Figure:
    """A sheet of images [N, H, W], `columns` side by side, under a common title; N may be 0.

    Each has its own of the titles [N], of one or more lines; where one is long, all are smaller.
    The images whose numbers are `framed` stand out.
    0 is white and `black` black: 1 or 255 for images of other data.
    """
    digits = _array("images", images, "N", "H", "W") if np.size(images) else np.empty(0)
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    titles, columns = _names(titles, range(len(digits))), min(columns, max(len(digits), 4))
    cell = min(_PAGE / columns, 0.875)  # inches, from digit to digit
    lines = [each.split("\n") for each in titles]
    size = min(7.0, 110 * cell / max((len(line) for each in lines for line in each), default=1))
    above = max(map(len, lines), default=0) * size / 58 + 0.06  # inches, for a digit's title
    height = -(-len(digits) // columns) * (cell + above) + (0.3 if title else 0.1)
    figure, (panel,) = _figure(columns * cell, height)
    _tiles(panel, digits, columns, titles, above * _PITCH / cell, vmax=black)
    for text in panel.texts:
        text.set_size(size)
    for i in framed:
        panel.patches[i].set(edgecolor=_ORANGE, linewidth=1.6)
    figure.suptitle(title, x=0.05 / (columns * cell), ha="left", fontsize=8)
    return figure


@styled
def class_means(images: npt.ArrayLike, labels: npt.ArrayLike) -> Figure:
    """Mean and standard deviation of each pixel of images [N, H, W], by class: labels int [N]."""
    pixels = _array("images", images, "N", "H", "W")
    classes = _labels(labels, len(pixels))
    groups = {str(k): pixels[classes == k] for k in np.unique(classes)}
    figure, panels = _figure(_PAGE, 1.7, nrows=2, height_ratios=[1.35, 1.14])
    means, sds = (np.stack([f(g, axis=0) for g in groups.values()]) for f in (np.mean, np.std))
    _tiles(panels[0], means, len(groups), titles=[*groups], above=0.25)
    _tiles(panels[1], sds, len(groups), vmax=8, cmap="cividis")
    _colorbar(panels[0], "Mean\n(ink count)")
    _colorbar(panels[1], "Sd\n(ink count)")
    return figure


@styled
def pixel_statistics(images: npt.ArrayLike) -> Figure:
    """Mean and variance of each pixel of images [N, H, W] over all rows."""
    pixels = _array("images", images, "N", "H", "W")
    figure, panels = _figure(_COLUMN, 2.1, ncols=2, sharey=True)
    maps = ((pixels.mean(axis=0), "Mean (ink count)"), (pixels.var(axis=0), "Variance (count²)"))
    for panel, (values, label) in zip(panels, maps, strict=True):
        panel.imshow(values, cmap="cividis", vmin=0, vmax=values.max() or 1.0)
        panel.set(xticks=range(values.shape[1]), yticks=range(len(values)), xlabel="Column")
        _colorbar(panel, label, location="top")
    panels[0].set_ylabel("Row")
    return figure


@styled
def embedding(points: npt.ArrayLike, labels: npt.ArrayLike, *, name: str = "Dimension") -> Figure:
    """Points [N, 2] by class: labels int [N]; `name` is the axes', as "Principal component"."""
    places = _array("points", points, "N", 2)
    classes = _labels(labels, len(places))
    figure, (panel,) = _figure(_COLUMN, 3.1)
    for i, k in enumerate(np.unique(classes)):
        x, y = places[classes == k].T
        style: dict[str, Any] = {"color": _TEN[i % 10], "marker": "os^Dv"[i % 5], "linewidths": 0}
        panel.scatter(x, y, s=6, alpha=0.7, rasterized=True, label=str(k), **style)
        box = {"facecolor": _PAPER, "alpha": 0.7, "linewidth": 0, "pad": 0.6}
        panel.text(np.median(x), np.median(y), str(k), ha="center", va="center", bbox=box)
    panel.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
    figure.legend(loc="outside right center", title="Class", handletextpad=0, markerscale=1.8)
    return figure


@styled
def feature_maps(image: npt.ArrayLike, layers: Mapping[str, npt.ArrayLike]) -> Figure:
    """What the layers, activations [H', W', maps] by name, make of an image [H, W].

    All maps of a layer share one colour scale, from the least of its activations to the largest.
    """
    maps = {k: np.moveaxis(_array(k, v, "H", "W", "F"), -1, 0) for k, v in layers.items()}
    rows = [1, *(-(-len(each) // 16) for each in maps.values())]
    height = sum(rows) * 0.43 + len(rows) * 0.25
    figure, panels = _figure(_PAGE, height, nrows=len(rows), height_ratios=rows)
    panels[0].set_title("image", loc="left")
    _tiles(panels[0], _array("image", image, "H", "W")[None], 16)
    _colorbar(panels[0], "Ink count")
    for panel, (name, each) in zip(panels[1:], maps.items(), strict=True):
        panel.set_title(f"{name}: {len(each)} maps, {each.shape[1]}×{each.shape[2]}", loc="left")
        scale = {"vmin": each.min(), "vmax": each.max() + (not np.ptp(each))}
        _tiles(panel, each, 16, cmap="viridis", **scale)
        _colorbar(panel, "Activation")
    return figure


@styled
def filters(kernel: npt.ArrayLike) -> Figure:
    """A first layer's filters [h, w, 1, F], on one colour scale that is white at 0."""
    maps = np.moveaxis(_array("kernel", kernel, "h", "w", 1, "F")[:, :, 0], -1, 0)
    figure, (panel,) = _figure(_COLUMN, 0.2 + 0.36 * -(-len(maps) // 8))
    reach = np.abs(maps).max() or 1.0
    _tiles(panel, maps, 8, vmin=-reach, vmax=reach, cmap="RdBu_r")
    _colorbar(panel, "Weight")
    return figure


@styled
def saliency(image: npt.ArrayLike, gradient: npt.ArrayLike, *, name: str = "logit") -> Figure:
    """An image [H, W], and the gradient [H, W] of an output, called `name`, by its pixels."""
    pixels = _array("image", image, "H", "W")
    slopes = _array("gradient", gradient, *pixels.shape)
    figure, panels = _figure(_COLUMN, 2.1, ncols=2)
    reach = np.abs(slopes).max() or 1.0
    _tiles(panels[0], pixels[None], 1)
    _colorbar(panels[0], "Ink count", location="bottom")
    _tiles(panels[1], slopes[None], 1, vmin=-reach, vmax=reach, cmap="RdBu_r")
    _colorbar(panels[1], f"d {name} / d ink count", location="bottom")
    return figure


@styled
def differences(
    panels: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    label: str = "Difference of accuracy (points)",
) -> Figure:
    """Differences of accuracy from a base, a panel for each base, a row for each method.

    Each method has its mean difference and the two ends of its interval, as fractions; they are
    drawn in percentage points. `label`, below each panel, should say what the interval is.
    Panels have axes of their own: their spans may differ much.
    """
    if not panels or not all(panels.values()):
        raise ValueError("panels must hold at least one panel, each with at least one method")
    rows = max(map(len, panels.values()))
    figure, axes = _figure(_PAGE, 0.7 + 0.2 * rows, ncols=len(panels))
    for panel, (title, methods) in zip(axes, panels.items(), strict=True):
        values = 100 * _array("methods", list(methods.values()), len(methods), 3)
        below = np.arange(len(methods))
        panel.axvline(0, color=_GREY, linewidth=0.6)
        panel.hlines(below, values[:, 1], values[:, 2], color=_BLUE)
        panel.plot(values[:, 0], below, "o", color=_BLUE)
        panel.set_yticks(below, list(methods))
        panel.set(title=title, xlabel=label, ylim=(rows - 0.5, -0.5))
    return figure


@styled
def effects(
    values: Mapping[str, npt.ArrayLike],
    scores: npt.ArrayLike,
    *,
    label: str = "Accuracy (%)",
    log: Collection[str] = (),
) -> Figure:
    """What each hyperparameter does: values [C] by name, against scores [C, R], in `label`'s unit.

    Where configurations share values, as in a grid, the line is the median and the bar goes from
    the lower to the upper quartile of all runs of a value, whatever the other hyperparameters, and
    a grey point is a configuration's mean; else median and quartiles are of each configuration's
    runs. Values may be words. Names in `log` get a logarithmic axis, if their values allow; scores
    that are NaN are left out.
    """
    shares = _array("scores", scores, "C", "R")
    kinds = {name: np.unique(each) for name, each in values.items() if _is_text(each)}
    columns = {
        name: _array(
            name, np.searchsorted(kinds[name], each) if name in kinds else each, len(shares)
        )
        for name, each in values.items()
    }
    ncols = min(3, len(columns))
    nrows = -(-len(columns) // 3)
    width = _COLUMN if ncols == 1 else _PAGE
    figure, panels = _figure(width, 0.4 + 2.0 * nrows, nrows=nrows, ncols=ncols, sharey=True)
    means = _mean(shares)
    for panel, (name, x) in zip(panels, columns.items(), strict=False):
        places, which = np.unique(x, return_inverse=True)
        groups = [shares[which == i].ravel() for i in range(len(places))]
        ends = [_quartiles(group[~np.isnan(group)]) for group in groups]
        low, middle, high = np.transpose(ends)
        style: dict[str, Any] = {"fmt": "o", "color": _BLUE, "elinewidth": 0.8}
        label_of = "runs of a configuration (median, quartiles)"
        if len(places) < len(x):
            panel.plot(x, means, ".", color=_GREY, label="configuration (mean)", alpha=0.5)
            style["fmt"], label_of = "o-", "all runs at this value (median, quartiles)"
        panel.errorbar(places, middle, (middle - low, high - middle), **style, label=label_of)
        if name in log and x.min() > 0:
            panel.set_xscale("log")
            if len(places) <= 5:  # too few to be read off powers of ten
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
def estimates(
    names: Sequence[str],
    values: Mapping[str, npt.ArrayLike],
    intervals: Mapping[str, npt.ArrayLike],
    *,
    label: str,
    line: float | None = None,
) -> Figure:
    """Estimates with intervals, a line for each of M names, the first on top.

    Both mappings have the same one or more series, the legend where there are several: values [M]
    and intervals [M, 2] (NaN draws none), in the unit of `label`. `line` marks what they should be.
    """
    if list(values) != list(intervals) or not values:
        raise ValueError(f"values and intervals differ: {list(values)} and {list(intervals)}")
    lines, step = np.arange(len(names)), 0.7 / len(values)
    figure, (panel,) = _figure(_PAGE, 0.7 + len(names) * (0.12 + 0.14 * len(values)))
    for i, (name, each) in enumerate(values.items()):
        middle = _array(f"values[{name!r}]", each, len(names))
        ends = _array(f"intervals[{name!r}]", intervals[name], len(names), 2)
        color, y = (_BLUE, _ORANGE, _GREY)[i % 3], lines + (i - (len(values) - 1) / 2) * step
        panel.hlines(y, *ends.T, color=color, linewidth=1.4)
        panel.plot(middle, y, "o", color=color, markeredgecolor=_PAPER, label=name, markersize=5)
    if line is not None:
        panel.axvline(line, color=_INK_COLOR, linewidth=0.8, linestyle=":", zorder=0)
    panel.set(xlabel=label, ylim=(len(names) - 0.5, -0.5), axisbelow=True)
    panel.set_yticks(lines, names)
    panel.grid(axis="x", color=_RULE, linewidth=0.6)
    if len(values) > 1:
        panel.legend(**_ABOVE, ncols=1)
    return figure


@styled
def series(
    panels: Mapping[str, tuple[npt.ArrayLike, Mapping[str, npt.ArrayLike]]],
    *,
    label: str,
    log: Collection[str] = (),
) -> Figure:
    """Scores against what was varied, a panel for each thing varied.

    By a panel's name there are its places [X] and, by the names of the legend, scores [X, R] in the
    unit of `label`. A line is the mean of the R runs, the band their range. Panels in `log` get a
    logarithmic axis.
    """
    ncols = 2 if len(panels) == 4 else min(3, len(panels))
    nrows = -(-len(panels) // ncols)
    width = _COLUMN if ncols == 1 else _PAGE
    figure, axes = _figure(width, 0.6 + 2.0 * nrows, nrows=nrows, ncols=ncols, sharey=True)
    styles = itertools.product(("-", "--", ":"), (_BLUE, _ORANGE, _GREY))
    looks = dict(
        zip(dict.fromkeys(n for _, of in panels.values() for n in of), styles, strict=False)
    )
    for panel, (title, (places, of)) in zip(axes, panels.items(), strict=False):
        x = _array(title, places, "X")
        for name, values in of.items():
            scores = _array(name, values, len(x), "R")
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
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=min(4, len(handles)))
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
    """A heat map of two hyperparameters: values x [C], y [C], names [2]; scores [C], as `label`.

    A cell is the mean over all configurations of a pair of values, whatever the others; the best
    is framed. Where most pairs of values are missing, as in random search, the configurations are
    points instead, and names in `log` get a logarithmic axis.
    """
    shares = _array("scores", scores, "C")
    columns, rows = _array("x", x, len(shares)), _array("y", y, len(shares))
    xs, ys = np.unique(columns), np.unique(rows)
    cells = np.full((len(ys), len(xs)), np.nan)
    for i, j in np.ndindex(cells.shape):
        here = shares[(columns == xs[j]) & (rows == ys[i])]
        cells[i, j] = _mean(here) if here.size else np.nan
    labels = [_names(names, range(2))[i].replace("_", " ").capitalize() for i in (0, 1)]
    if np.isnan(cells).mean() > 0.5:
        figure, (panel,) = _figure(_COLUMN, 2.8)
        points = panel.scatter(columns, rows, c=shares, cmap="viridis", s=16)
        for axis, name, values in zip("xy", names, (columns, rows), strict=True):
            if name in log and values.min() > 0:
                panel.set(**{f"{axis}scale": "log"})
        bar = figure.colorbar(points, ax=panel, label=label)
        bar.ax.tick_params(**_TICKS)
    else:
        width = _COLUMN if len(xs) <= 5 else _PAGE
        figure, (panel,) = _figure(width, 0.9 + max(0.28 * len(ys), 0.8))
        low, high = np.nanmin(cells), np.nanmax(cells)
        scale = {"vmin": low, "vmax": max(high, low + 0.02)}
        panel.imshow(cells, cmap="viridis", origin="lower", aspect="auto", **scale)
        form = ".2f" if label.endswith("(%)") else ".4g"
        _colorbar(panel, label, format=f"{{x:{form}}}")
        for (i, j), cell in np.ndenumerate(cells):
            color = "white" if cell < (low + scale["vmax"]) / 2 else _DARK
            if not np.isnan(cell):
                panel.text(j, i, f"{cell:{form}}", ha="center", va="center", color=color, size=6)
        i, j = np.unravel_index(np.nanargmax(cells), cells.shape)
        frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=_ORANGE, linewidth=1.5)
        panel.add_patch(frame)
        rotation = 90 if len(xs) > 8 else 0
        panel.set_xticks(range(len(xs)), [f"{value:.3g}" for value in xs], rotation=rotation)
        panel.set_yticks(range(len(ys)), [f"{value:.3g}" for value in ys])
    panel.set(xlabel=labels[0], ylabel=labels[1])
    return figure


def save(
    figure: Figure, path: str | Path, formats: Iterable[str] = ("png",), dpi: float = 200
) -> tuple[Path, ...]:
    """Writes a figure, each file whole or not at all, and returns the files' paths.

    Give `path` without suffix, formats like "png", "svg", "pdf"; a missing folder is made. An
    OSError names `path`.
    """
    if isinstance(formats, str):
        raise TypeError(f"formats must be a sequence such as ({formats!r},), got {formats!r}")
    paths = tuple(Path(f"{path}.{suffix}") for suffix in formats)
    try:
        folder = Path(path).parent
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
    """A figure as an SVG element to stand in a page: its text is text, in the page's colours.

    Black, white and the lines of a grid become the CSS variables `--ink`, `--page` and `--line`.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "digits_jax"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' id="[a-zA-Z]+\d?d?_\d+"', "", text)  # which a page with two figures has twice
    for color, variable in {_INK_COLOR: "ink", _PAPER: "page", _RULE: "line"}.items():
        text = text.replace(color, f"var(--{variable})")
    return text


def places(figure: Figure, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Where points [N, 2] of a figure's first panel lie, as fractions [N, 2] from the top left."""
    figure.draw_without_rendering()  # the layout moves the panel
    pixels = figure.axes[0].transData.transform(_array("points", points, "N", 2))
    fractions: npt.NDArray[np.float64] = pixels / figure.bbox.size
    return np.stack([fractions[:, 0], 1 - fractions[:, 1]], axis=1)


def _figure(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure of that many inches, and its panels [nrows * ncols]."""
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(squeeze=False, **grid).ravel()
    for panel in panels:
        panel.tick_params(**_TICKS)
    return figure, panels


def _colorbar(panel: Axes, label: str, **options: Any) -> None:
    """A colour bar for the panel's last image, by default marked at both ends and in the middle."""
    image = panel.images[-1]
    options = {"ticks": np.linspace(*image.get_clim(), 3), "format": "{x:.3g}", **options}
    bar = panel.figure.colorbar(image, ax=panel, label=label, panchor=False, **options)
    bar.ax.tick_params(**_TICKS)


def _tiles(
    panel: Axes, images: Any, columns: int, titles: Sequence[str] = (), above: float = 0, **ink: Any
) -> None:
    """Images one unit wide, `columns` in a row, with a title in so much room above each."""
    ink = _INK | ink
    for i, image in enumerate(images):
        x, y = (i % columns) * _PITCH, (i // columns) * (_PITCH + above) + above
        panel.imshow(image, extent=(x, x + 1, y + 1, y), **ink)
        panel.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="0.6", linewidth=0.4))
        if titles:
            panel.text(x + 0.5, y - 0.06, titles[i], ha="center", va="bottom")
    right, bottom = columns * _PITCH - 0.12, -(-len(images) // columns) * (_PITCH + above) - 0.12
    panel.set(xlim=(-0.02, right), ylim=(max(bottom, 0.1), -0.02), aspect="equal", anchor="W")
    panel.axis("off")


def _array(name: str, values: npt.ArrayLike, *shape: int | str) -> npt.NDArray[np.float64]:
    """The values; `shape` has a number for a given length, a letter for a free one."""
    array = np.asarray(values, np.float64)
    pairs = zip(array.shape, shape, strict=False)  # their number is compared first
    fits = array.ndim == len(shape) and all(n == m or isinstance(m, str) for n, m in pairs)
    if not fits or not array.size:
        raise ValueError(f"{name} must be [{', '.join(map(str, shape))}], got shape {array.shape}")
    return array


def _is_text(values: npt.ArrayLike) -> bool:
    return np.asarray(values).dtype.kind == "U"


def _quartiles(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lower quartile, median, upper quartile; NaN where there is no value."""
    return np.quantile(values, [0.25, 0.5, 0.75]) if values.size else np.full(3, np.nan)


def _mean(values: npt.NDArray[np.float64]) -> Any:
    """Over the last axis, without NaN; NaN where nothing else is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count, np.where(known, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def _labels(labels: npt.ArrayLike, length: int) -> npt.NDArray[np.int64]:
    if not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise TypeError(f"labels must be integers, got {np.asarray(labels).dtype}")
    return _array("labels", labels, length).astype(np.int64)


def _names(names: Sequence[str] | None, default: Sequence[object]) -> Sequence[str]:
    if names is not None and len(names) != len(default):
        raise ValueError(f"{len(default)} names are needed, got {len(names)}")
    return [str(each) for each in default] if names is None else names
