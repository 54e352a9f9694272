"""The figures of comparisons, for a screen: methods, configurations and costs side by side.

Plain dictionaries as in ``figures.py``. M is the number of methods, C of configurations, R of runs.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from report.figures import BLUE, BLUES, GREY, TEN, Figure, short

MARGIN = {"l": 60, "r": 10, "t": 10, "b": 50}


def method_scores(
    names: Sequence[str],
    scores: Mapping[str, Sequence[npt.ArrayLike]],
    intervals: Mapping[str, Sequence[tuple[float, float]]],
    runs: Mapping[str, Sequence[str]],
) -> Figure:
    """Accuracies of methods [M]: a dot for each run, and their mean with an interval.

    All mappings have the same series, whose names are the legend: scores [M, R] and intervals
    [M, 2], fractions, and names of the runs [R].
    """
    labels, step = [html.escape(name) for name in names], 0.7 / len(scores)
    traces: list[Figure] = []
    for i, (label, values) in enumerate(scores.items()):
        color, shift = TEN[6 * (i % 2)], (i - (len(scores) - 1) / 2) * step
        percents = 100 * np.asarray(values, float)
        means, lines = percents.mean(1), np.arange(len(names)) + shift
        low, high = 100 * np.asarray(intervals[label], float).T
        shared = {"type": "scatter", "mode": "markers", "name": label, "legendgroup": label}
        dots = {
            "x": short(percents.ravel()),
            "y": short(np.repeat(lines, percents.shape[1])),
            "text": [f"{name}, {run}" for name in labels for run in runs[label]],
            "hovertemplate": "%{text}: %{x:.2f} %<extra></extra>",
            "marker": {"color": color, "size": 5, "opacity": 0.3},
            "showlegend": False,
        }
        mean = {
            "x": short(means),
            "y": short(lines),
            "text": [
                f"{name}: {a:.2f} to {b:.2f}" for name, a, b in zip(labels, low, high, strict=True)
            ],
            "hovertemplate": "%{text}, mean %{x:.2f} %<extra></extra>",
            "error_x": {"array": short(high - means), "arrayminus": short(means - low)},
            "marker": {"color": color, "size": 9},
        }
        traces += [shared | dots, shared | mean]
    layout = {
        "height": 130 + len(names) * (14 + 16 * len(scores)),
        "margin": {**MARGIN, "l": 10, "t": 65},
        "xaxis": {"title": {"text": "Accuracy (%)"}, "zeroline": False},
        "yaxis": {
            "tickvals": list(range(len(names))),
            "ticktext": labels,
            "range": [len(names) - 0.5, -0.5],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
        },
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"},
        "hovermode": "closest",
    }
    return {"data": traces, "layout": layout}


def common_errors(counts: npt.ArrayLike, names: Sequence[str]) -> Figure:
    """Errors that two methods share [M, M]; on the diagonal each method's own.

    The colour, and the lower number, is the fraction of the line's errors that the column
    makes too.
    """
    shared = np.asarray(counts, float)
    fractions = shared / np.maximum(np.diag(shared)[:, None], 1e-9)
    labels = [html.escape(name) for name in names]
    trace = {
        "type": "heatmap",
        "z": np.round(fractions, 4).tolist(),
        "x": labels,
        "y": labels,
        "text": [
            [
                f"{n:.{int(n < 100)}f}<br>{100 * fraction:.0f} %"
                for n, fraction in zip(*each, strict=True)
            ]
            for each in zip(shared, fractions, strict=True)
        ],
        "texttemplate": "%{text}",
        "hovertemplate": "of the errors of %{y}, %{x} makes %{text} too<extra></extra>",
        "colorscale": BLUES,
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
    }
    axis = {"type": "category", "showgrid": False, "automargin": True}
    wrapped = [html.escape(textwrap.fill(name, 12)).replace("\n", "<br>") for name in names]
    layout = {
        "height": 170 + 44 * len(names),
        "margin": {**MARGIN, "l": 10, "t": 35},
        "xaxis": {
            **axis,
            "title": {"text": "… that this method makes too"},
            "tickvals": labels,
            "ticktext": wrapped,
        },
        "yaxis": {
            **axis,
            "title": {"text": "Of this method's errors …", "standoff": 8},
            "autorange": "reversed",
        },
    }
    return {"data": [trace], "layout": layout}


def effects(
    values: Mapping[str, Sequence[Any]],
    scores: npt.NDArray[Any],
    label: str,
    *,
    log: Collection[str] = (),
) -> Figure:
    """What each hyperparameter does: values [C] by name, against scores [C, R], fractions.

    A panel for each name: a grey dot is a configuration's mean; where configurations share values,
    the blue line is the median of all runs of a value, with its quartiles. NaN is left out.
    """
    means = [_mean(each) for each in scores]
    words = _in_words(values)
    traces: list[Figure] = []
    axes = []
    for i, (name, column) in enumerate(values.items()):
        dots: Figure = {"x": list(column), "y": short(means), "text": words, "mode": "markers"}
        dots |= {"name": "configuration, mean", "marker": {"color": GREY, "size": 6}}
        dots |= {"hovertemplate": "%{text}: %{y:.2f} %<extra></extra>"}
        new = [dots]
        places = sorted(set(column))
        if len(places) < len(column):
            chosen = [scores[[value == place for value in column]] for place in places]
            low, middle, high = np.transpose([_quartiles(each) for each in chosen])
            words_between = isinstance(places[0], str)  # there is nothing between two words
            line: Figure = {"x": places, "y": short(middle), "line": {"color": BLUE}}
            line |= {"name": "all runs at a value: median, quartiles"}
            line |= {"mode": "markers" if words_between else "lines+markers"}
            line |= {"error_y": {"array": short(high - middle), "arrayminus": short(middle - low)}}
            new.append(line)
        known = {trace["name"] for trace in traces}
        traces += [
            {"type": "scatter", "showlegend": trace["name"] not in known, **trace, **_place(i)}
            for trace in new
        ]
        axes.append((_axis(name, column, log), {"title": {"text": f"{label} (%)"}, "matches": "y"}))
    return {"data": traces, "layout": _panels(axes)}


def pair(
    x: Sequence[Any],
    y: Sequence[Any],
    scores: npt.NDArray[Any],
    names: Sequence[str],
    label: str,
    *,
    log: Collection[str] = (),
) -> Figure:
    """Two hyperparameters: values x and y [C], scores [C], fractions, as colours.

    Configurations that share both values are one mark, their mean.
    """
    groups: dict[tuple[Any, Any], list[float]] = {}
    for a, b, score in zip(x, y, scores, strict=True):
        if np.isfinite(score):
            groups.setdefault((a, b), []).append(100 * score)
    means = [float(np.mean(group)) for group in groups.values()]
    marks = {
        "type": "scatter",
        "mode": "markers",
        "x": [a for a, _ in groups],
        "y": [b for _, b in groups],
        "text": [f"{mean:.2f} %" for mean in means],
        "hovertemplate": "%{x:.4g}, %{y:.4g}: %{text}<extra></extra>",
        "marker": {
            "symbol": "square",
            "size": 24 if len(groups) < 60 else 10,
            "color": short(means),
            "colorscale": "Viridis",
            "colorbar": {"title": {"text": f"{label} (%)", "side": "right"}},
        },
    }
    layout = {
        "height": 420,
        "margin": {**MARGIN, "l": 80, "t": 35},
        "xaxis": _axis(names[0], x, log),
        "yaxis": _axis(names[1], y, log),
        "hovermode": "closest",
    }
    return {"data": [marks], "layout": layout}


def costs(panels: Sequence[tuple[str, str, Mapping[str, Mapping[Any, Sequence[float]]]]]) -> Figure:
    """Means with ranges of costs, on a logarithmic x axis.

    Args:
        panels: what is on both axes, and by the name of a series, the values at each x.
    """
    traces: list[Figure] = []
    axes = []
    names: list[str] = []
    for i, (across, up, series) in enumerate(panels):
        for name, points in series.items():
            known = name in names
            names += [] if known else [name]
            middle = np.array([np.mean(each) for each in points.values()])
            low, high = np.array([[min(each), max(each)] for each in points.values()]).T
            trace = {"type": "scatter", "mode": "lines+markers", "name": name, **_place(i)}
            trace |= {"x": list(points), "y": short(middle), "legendgroup": name}
            trace |= {"showlegend": not known, "line": {"color": TEN[6 * (names.index(name) % 2)]}}
            spread = {"array": short(high - middle), "arrayminus": short(middle - low)}
            traces.append({**trace, "error_y": spread})
        ticks = sorted(next(iter(series.values())))  # those of all would overlap
        x_axis = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
        y_axis = {"title": {"text": up}, "rangemode": "tozero"}
        axes.append(({**x_axis, "title": {"text": across}}, y_axis))
    return {"data": traces, "layout": _panels(axes, columns=2)}


def _axis(name: str, values: Sequence[Any], log: Collection[str]) -> Figure:
    """The axis of a hyperparameter; words are categories."""
    axis: Figure = {"title": {"text": name.replace("_", " ").capitalize()}, "zeroline": False}
    numeric = [value for value in values if not isinstance(value, str)]
    if len(numeric) < len(values):
        return axis | {"type": "category"}
    distinct = sorted(set(numeric))
    if len(distinct) <= 6:  # each value has its tick
        axis |= {"tickvals": distinct, "ticktext": [f"{value:.3g}" for value in distinct]}
    logarithmic = name in log and distinct[0] > 0
    return axis | ({"type": "log", "exponentformat": "power"} if logarithmic else {})


def _place(i: int) -> Figure:
    """The axes of panel i."""
    number = str(i + 1) if i else ""
    return {"xaxis": f"x{number}", "yaxis": f"y{number}"}


def _panels(axes: Sequence[tuple[Figure, Figure]], columns: int = 3) -> Figure:
    """The layout of panels, line by line, from their axes."""
    columns = min(columns, len(axes))
    rows = -(-len(axes) // columns)
    layout: Figure = {
        "height": 90 + 270 * rows,
        "margin": {**MARGIN, "t": 40},
        "grid": {"rows": rows, "columns": columns, "pattern": "independent", "ygap": 0.35},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom"},
        "hovermode": "closest",
    }
    for i, (x, y) in enumerate(axes):
        number = str(i + 1) if i else ""
        y = {key: value for key, value in y.items() if i or key != "matches"}  # not with itself
        layout |= {f"xaxis{number}": x, f"yaxis{number}": y}
    return layout


def _in_words(values: Mapping[str, Sequence[Any]]) -> list[str]:
    """Each configuration [C] in words."""
    names = [name.replace("_", " ") for name in values]
    return [
        ", ".join(
            f"{name} {value if isinstance(value, str) else format(value, '.4g')}"
            for name, value in zip(names, row, strict=True)
        )
        for row in zip(*values.values(), strict=True)
    ]


def _mean(scores: npt.NDArray[Any]) -> float:
    """In percent, of the finite scores."""
    finite = scores[np.isfinite(scores)]
    return 100 * float(finite.mean()) if finite.size else np.nan


def _quartiles(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The three, in percent, of the finite scores."""
    finite = scores[np.isfinite(scores)]
    return 100 * np.quantile(finite, [0.25, 0.5, 0.75]) if finite.size else np.full(3, np.nan)
