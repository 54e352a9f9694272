"""The figures of a report: plain dictionaries, ``data`` and ``layout``, that Plotly draws.

The counterparts of ``digits_jax.plots``, for a screen. Text and grid get the page's colours when
they are drawn. R is the number of runs, E of epochs, K of classes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from digits_jax.metrics import Reliability, RocCurve

Figure = dict[str, Any]
BLUE, ORANGE, GREY = "#3f90da", "#e76300", "#94a4a2"
# Ten that stay apart under colour-vision deficiency: Petroff (2021), arXiv:2107.02270.
TEN = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #717581 #92dadd".split()
BLUES = [[0, "#eef3f8"], [0.35, "#9ecae1"], [1, "#08519c"]]
LINES = 12  # runs of which each has a curve; more are a band and their mean


def learning_curves(loss: Any, accuracy: Any, names: Sequence[str]) -> Figure:
    """Training loss, in nats, and accuracy, a fraction, by epoch.

    Both are [R, E], or, for at most LINES runs, R curves of any lengths.
    """
    panels = (("x", "y", loss, 1), ("x2", "y2", accuracy, 100))
    traces: list[Figure] = []
    for x, y, curves, scale in panels:
        if len(names) <= LINES:
            for r, (curve, name) in enumerate(zip(curves, names, strict=True)):
                line = {"color": TEN[r % 10], "dash": "solid" if r < 10 else "dash", "width": 1.5}
                traces.append(_curve(scale * np.asarray(curve), name, line, x, y))
            continue
        values = scale * np.asarray(curves)
        edge = {"color": BLUE, "width": 0}
        lowest = _curve(values.min(0), "lowest to highest", edge, x, y)
        highest = _curve(values.max(0), "lowest to highest", edge, x, y)
        traces += [lowest | {"showlegend": False}, highest | {"fill": "tonexty"}]
        traces.append(_curve(values.mean(0), f"mean of {len(names)}", {"color": BLUE}, x, y))
    known = np.concatenate([np.asarray(curve, float) for curve in loss])
    known = known[np.isfinite(known)]
    spread = known.max() / known.min() if known.size and known.min() > 0 else 1.0
    shared: Figure = {"title": {"text": "Epoch"}, "rangemode": "normal"}
    if max(map(len, loss)) <= 10:
        shared["dtick"] = 1  # else the axis of a short run has halves of epochs
    layout = {
        "height": 400,
        "margin": {"l": 60, "r": 10, "t": 15, "b": 50},
        "xaxis": {**shared, "domain": [0, 0.45]},
        "xaxis2": {**shared, "domain": [0.55, 1], "anchor": "y2", "matches": "x"},
        "yaxis": {
            "title": {"text": "Training loss (nats)"},
            "type": "log" if spread > 10 else "linear",
            "exponentformat": "power",
            "dtick": None if spread <= 10 else "D2" if spread < 300 else 1,  # 1, 2, 5 or powers
        },
        "yaxis2": {"title": {"text": "Training accuracy (%)"}, "anchor": "x2"},
        "legend": {"orientation": "h", "y": -0.2},
        "showlegend": True,
        "hovermode": "x unified" if len(names) <= LINES else "closest",
    }
    return {"data": traces, "layout": layout}


def _curve(values: npt.NDArray[Any], name: str, line: Figure, x: str, y: str) -> Figure:
    """A line by epoch; one entry of the legend switches it in both panels."""
    label = html.escape(name)
    return {
        "type": "scatter",
        "mode": "lines" if len(values) > 1 else "markers",
        "x": list(range(1, len(values) + 1)),
        "y": short(values),
        "name": label,
        "legendgroup": label,
        "showlegend": x == "x",
        "line": line,
        "marker": {"color": line["color"]},
        "xaxis": x,
        "yaxis": y,
    }


def scores(panels: Mapping[str, Sequence[float]], names: Sequence[str], axis: str) -> Figure:
    """Scores [R] of each run, a panel for each name of a score, with mean ± sd (ddof 0)."""
    traces: list[Figure] = []
    layout: Figure = {
        "height": 60 + 150 * len(panels),
        "margin": {"l": 70, "r": 10, "t": 25, "b": 50},
        "showlegend": False,
        "grid": {"rows": len(panels), "columns": 1, "pattern": "coupled", "ygap": 0.25},
        "xaxis": {"title": {"text": axis}, "type": "category"},
        "shapes": [],
        "annotations": [],
    }
    for i, (title, each) in enumerate(panels.items()):
        values, number = np.asarray(each), str(i + 1) if i else ""
        color = (BLUE, ORANGE)[i % 2]
        healthy = values[np.isfinite(values)]
        mean, sd = float(healthy.mean()), float(healthy.std())
        band = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": f"y{number}"}
        band |= {"y0": mean - sd, "y1": mean + sd, "fillcolor": color, "opacity": 0.15}
        line = {**band, "type": "line", "y0": mean, "y1": mean, "opacity": 1}
        layout["shapes"] += [
            {**band, "line": {"width": 0}},
            {**line, "line": {"color": color, "dash": "dash", "width": 1}},
        ]
        text = f"{title}: mean {mean:.4g} ± {sd:.2g} (sd)"
        place = {"xref": "paper", "x": 0, "yref": f"y{number} domain", "y": 1.02}
        layout["annotations"].append(
            {**place, "text": text, "showarrow": False, "yanchor": "bottom", "font": {"size": 11}}
        )
        low, high = min(mean - sd, healthy.min()), max(mean + sd, healthy.max())
        room = 0.08 * (high - low) or 1e-3  # equal scores have no spread
        layout[f"yaxis{number}"] = {"title": {"text": title}, "range": [low - room, high + room]}
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [html.escape(name) for name in names],
                "y": short(values),
                "name": title,
                "marker": {"color": color, "size": 9},
                "yaxis": f"y{number}",
            }
        )
    return {"data": traces, "layout": layout}


def confusion(matrix: npt.NDArray[Any], names: Sequence[str]) -> Figure:
    """Counts [K, K], rows true and columns predicted; colours are the root of a row's fractions."""
    fractions = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    labels = [html.escape(name) for name in names]
    cells = [
        [[a, b, f"{100 * fractions[i, j]:.2f}"] for j, b in enumerate(labels)]
        for i, a in enumerate(labels)
    ]
    trace = {
        "type": "heatmap",
        "meta": "confusion",  # a click on a cell filters the sheet
        "z": np.round(np.sqrt(fractions), 4).tolist(),
        "x": labels,
        "y": labels,
        "text": [[str(count) if count else "" for count in row] for row in matrix.tolist()],
        "texttemplate": "%{text}",
        "customdata": cells,
        "hovertemplate": "true %{customdata[0]}, predicted %{customdata[1]}: %{text} rows, "
        "%{customdata[2]} % of the class<extra></extra>",
        "colorscale": BLUES,
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    axis = {"type": "category", "showgrid": False, "constrain": "domain"}
    layout = {
        "height": 520,
        "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
        "xaxis": {**axis, "title": {"text": "Predicted class"}},
        "yaxis": {
            **axis,
            "title": {"text": "True class"},
            "autorange": "reversed",
            "scaleanchor": "x",
        },
    }
    return {"data": [trace], "layout": layout}


def roc(curves: Sequence[RocCurve], names: Sequence[str]) -> Figure:
    """ROC curves [K] of one class against the rest; the false positive rate is logarithmic."""
    rates = np.concatenate([np.ones(1), *(curve.false_positive_rate for curve in curves)])
    lowest = min(rates[rates > 0].min(), 0.01)
    chance = np.geomspace(lowest, 1, 50)
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": short(np.maximum(curve.false_positive_rate, lowest)),
            "y": short(curve.true_positive_rate),
            "name": f"{html.escape(name)}: AUC {curve.auc:.5f}",
            "line": {"shape": "hv", "color": TEN[k % 10], "dash": ("solid", "dash")[k % 2]},
        }
        for k, (curve, name) in enumerate(zip(curves, names, strict=True))
    ]
    dotted = {"color": GREY, "dash": "dot"}
    diagonal = {"x": short(chance), "y": short(chance), "name": "chance", "line": dotted}
    traces.append({"type": "scatter", "mode": "lines", **diagonal})
    bottom = min(
        [0.99, *(c.true_positive_rate[c.false_positive_rate <= lowest].max() for c in curves
                 if len(c.true_positive_rate))]
    )  # fmt: skip
    layout = {
        "height": 430,
        "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
        "xaxis": {
            "type": "log",
            "title": {"text": "False positive rate (0 at the left edge)"},
            "range": [float(np.log10(lowest)), 0],
        },
        "yaxis": {
            "title": {"text": "True positive rate"},
            "range": [bottom - 0.05 * (1 - bottom), 1 + 0.05 * (1 - bottom)],
        },
        "legend": {"title": {"text": "Class against rest"}},
    }
    return {"data": traces, "layout": layout}


def reliability(found: Reliability) -> Figure:
    """Accuracy by confidence with 95 % Wilson intervals, and below it how many rows a bin has."""
    from digits_jax import wilson_interval

    filled = found.count > 0
    x, y, rows = (each[filled] for each in (found.confidence, found.accuracy, found.count))
    ends = np.asarray([wilson_interval(round(a * n), int(n)) for a, n in zip(y, rows, strict=True)])
    bins = len(found.count)
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "name": "perfect calibration",
            "line": {"color": GREY, "dash": "dot"},
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": short(x),
            "y": short(y),
            "error_y": {
                "type": "data",
                "array": short(ends[:, 1] - y),
                "arrayminus": short(y - ends[:, 0]),
                "thickness": 1,
            },
            "name": "bin, 95 % interval",
            "marker": {"color": BLUE, "size": 8},
        },
        {
            "type": "bar",
            "x": short((np.arange(bins) + 0.5) / bins),
            "y": found.count.tolist(),
            "width": 1 / bins,
            "name": "rows",
            "marker": {"color": BLUE},
            "yaxis": "y2",
        },
    ]
    layout = {
        "height": 480,
        "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
        "xaxis": {
            "title": {"text": "Confidence (probability of the predicted class)"},
            "range": [0, 1],
            "anchor": "y2",
        },
        "yaxis": {"title": {"text": "Accuracy"}, "domain": [0.34, 1], "range": [-0.03, 1.03]},
        "yaxis2": {"title": {"text": "Rows"}, "domain": [0, 0.26], "type": "log", "dtick": 1},
        "legend": {"orientation": "h", "y": 1.08},
    }
    return {"data": traces, "layout": layout}


def embedding(points: npt.NDArray[Any], labels: npt.NDArray[Any], axis: str) -> Figure:
    """Points [N, 2] by class: labels [N]; the hover text is the row."""
    symbols = ("circle", "square", "triangle-up", "diamond", "triangle-down")
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": short(points[labels == k, 0]),
            "y": short(points[labels == k, 1]),
            "text": [f"row {row}" for row in np.flatnonzero(labels == k)],
            "name": str(k),
            "marker": {"color": TEN[i % 10], "symbol": symbols[i % 5], "size": 5, "opacity": 0.7},
        }
        for i, k in enumerate(np.unique(labels))
    ]
    layout = {
        "height": 600,
        "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
        "xaxis": {"title": {"text": f"{axis} 1"}, "zeroline": False},
        "yaxis": {"title": {"text": f"{axis} 2"}, "zeroline": False},
        "legend": {"title": {"text": "Class"}, "itemsizing": "constant"},
        "hovermode": "closest",
    }
    return {"data": traces, "layout": layout}


def bars(
    spreads: Mapping[str, Sequence[float]], axis: str, *, mark: tuple[str, float] | None = None
) -> Figure:
    """A bar for each name: [median, least, greatest]; ``mark`` is a named line across them."""
    names = [html.escape(name) for name in spreads]
    median, least, greatest = np.asarray(list(spreads.values()), float).T
    own = [name.startswith("digits_jax") for name in spreads]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": short(median),
        "y": names,
        "error_x": {
            "type": "data",
            "array": short(greatest - median),
            "arrayminus": short(median - least),
            "thickness": 1,
        },
        "marker": {"color": [BLUE if each else GREY for each in own]},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }
    layout: Figure = {
        "height": 120 + 34 * len(names),
        "margin": {"l": 10, "r": 20, "t": 40, "b": 50},
        "xaxis": {"title": {"text": axis}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    if mark is not None:
        text, x = mark
        line = {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}
        layout["shapes"] = [{**line, "line": {"color": ORANGE, "dash": "dash", "width": 1.5}}]
        place = {"x": x, "yref": "paper", "y": 1, "yanchor": "bottom", "xanchor": "left"}
        layout["annotations"] = [{**place, "text": html.escape(text), "showarrow": False}]
    return {"data": [trace], "layout": layout}


def short(values: npt.ArrayLike) -> list[float | None]:
    """Six significant digits are more than a screen shows; NaN and infinity become gaps."""
    array = np.asarray(values, float)
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in array]
