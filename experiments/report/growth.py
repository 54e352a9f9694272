"""The report of ``scaling.py``: what it prints, its page and its figure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import costs
from common import console
from common.scores import counted
from common.tables import Table
from costs import EPOCHS, MANY, Model, Point
from report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.drawing import Drawing
    from scaling import Config

Results = Mapping[str, Any]


def in_waves(point: Point, before: str = " ") -> str:
    """How a point was trained, where it was in waves."""
    return f"{before}in waves of {point['wave_size']}" if point["wave_size"] else ""


def page(results: Results, figure: Drawing, epochs: int) -> Report:
    """Prints the model, how well it predicts, and a million runs; gives the page."""
    points, model = results["points"], results["model"]
    first = results["predictions"][0]
    epoch = (
        f"An epoch takes {1e3 * model['call_seconds']:.1f} ms + {1e3 * model['step_seconds']:.3f} "
        "ms for each step of each run on a device."
    )
    console.say(
        f"{epoch} Starting takes {model['start_seconds']:.1f} s. A run adds "
        f"{model['memory_bytes_a_run'] / 1e6:.1f} MB of memory and "
        f"{model['checkpoint_bytes_a_run'] / 1e6:.2f} MB of checkpoint."
    )
    many = Table(
        f"{MANY:,} runs of {EPOCHS} epochs, in waves, predicted",
        ("devices", "days", "waves (files)", "results (GB)", "memory of a wave (MB)"),
        [
            (
                each["devices"],
                f"{each['seconds'] / 86400:.2f}",
                f"{each['waves']:,.0f}",
                f"{each['results_bytes'] / 1e9:.2f}",
                f"{each['memory_bytes_of_a_wave'] / 1e6:,.0f}",
            )
            for each in results["predictions"]
        ],
        f"Devices like those measured. {epoch}",
    )
    page = Report(
        "What a run costs",
        "The notebook's network on five folds; each point in a process of its own, "
        f"{points[0]['devices']} devices; means and ranges of {epochs} "
        "epochs.",
    )
    page.headline(
        f"{first['runs']:,} runs on {counted(first['devices'], 'device')}",
        f"{first['seconds'] / 86400:.1f} days",
        "predicted, of 100 epochs each, in waves"
        + f"; {results['warning']}" * bool(results["warning"]),
    )
    for each in results["held_out"]:
        runs = f"{counted(each['runs'], 'run')}{in_waves(each)}"
        console.say(
            f"held out, {runs}: predicted {each['predicted_seconds']:.2f} s an epoch, measured "
            f"{each['measured_seconds']:.2f} (ratio {each['ratio']:.2f})"
        )
        page.headline(
            f"Check: {runs}",
            f"{each['ratio']:.2f}",
            "predicted seconds by measured ones, of an epoch that the fit did not see",
        )
    if results["warning"]:
        console.say(f"[yellow]warning:[/] {results['warning']}", console.errors)
    many.show()
    console.say(
        f"What breaks first is memory: all at once, one device would need "
        f"{first['memory_bytes_at_once'] / 1e12:.1f} TB. Then the checkpoint of all states, "
        f"{first['checkpoint_bytes'] / 1e12:.1f} TB, and all logits, "
        f"{first['logits_bytes'] / 1e9:.0f} GB. So runs go in waves, whose states are not kept, "
        "nor logits unless asked for. A file for each run would be a million small files: there "
        "is one for each wave."
    )
    page.figure(
        "Time and memory",
        figure,
        "Milliseconds an epoch of one run, and the most memory that training took, compiling "
        "included, by runs, rows and width.",
    )
    page.table(
        "Points",
        ("runs", "rows", "width", "wave", "ms an epoch of one run", "memory (MB)"),
        [
            (
                point["runs"],
                point["rows"],
                f"{point['width']:g}",
                point["wave_size"] or "–",
                f"{statistics.mean(costs.milliseconds(point)):.1f}",
                f"{point['bytes']['peak'] / 1e6:.0f}",
            )
            for point in points
        ],
        "In waves, evaluating and saving are counted; the first wave, which compiles, is left out.",
    )
    page.table(*many)
    return page


def figure(points: Sequence[Point], model: Model, config: Config, most: int) -> Figure:
    """Seconds of a run's epoch, and memory, by runs, rows and width."""
    from matplotlib.figure import Figure

    waved = [point for point in points if point["wave_size"]]
    held_out = [p for p in points if p["runs"] in config.held_out and p not in waved]
    seen = [point for point in points if point not in waved + held_out]
    plain = [point for point in seen if point["width"] == 1]
    by_runs = {
        "all at once": [point for point in plain if point["rows"] == most],
        "held out of the fit": held_out,
        f"in waves of {waved[0]['wave_size']}": waved,
    }
    by_rows = {"all at once": [point for point in plain if point["runs"] == 10]}
    by_width = {"all at once": [p for p in seen if p["rows"] == most and p["runs"] == 10]}

    drawn = Figure(figsize=(10, 5.6), dpi=150, layout="constrained")
    panels = drawn.subplots(2, 3, sharex="col")
    draw(panels[:, 0], "runs", by_runs, model)
    draw(panels[:, 1], "rows", by_rows, model)
    draw(panels[:, 2], "width", by_width, None)  # the model is of width 1
    labels = (f"runs, of {most} rows", "rows, ten runs", "width: times the features, ten runs")
    for panel, label in zip(panels[1], labels, strict=True):
        panel.set_xlabel(label)
    panels[0, 0].set_ylabel("ms an epoch of one run")
    panels[1, 0].set_ylabel("peak memory (MB)")
    panels[0, 0].legend(frameon=False, fontsize=8)
    devices = f"{points[0]['devices']} {points[0]['platform'].upper()} devices"
    title = (
        f"{devices}. Time: means and ranges of {config.epochs} epochs. "
        "Memory: the most that a process grew by, compiling included"
    )
    drawn.suptitle(title, fontsize=9, x=0.01, ha="left")
    return drawn


def draw(panels: Any, x: str, groups: dict[str, list[Point]], model: Model | None) -> None:
    """Time in the upper panel, memory in the lower; what ``model`` says of the first group."""
    upper, lower = panels
    colors = ("#0072B2", "#009E73", "#D55E00")
    for (name, group), marker, color in zip(groups.items(), "oDs", colors, strict=False):
        style: dict[str, Any] = {"marker": marker, "color": color, "ms": 4, "ls": "none"}
        for point in group:
            each = costs.milliseconds(point)
            middle = statistics.mean(each)
            ends = [[middle - min(each)], [max(each) - middle]]
            upper.errorbar(point[x], middle, yerr=ends, capsize=2, label=name, **style)
            lower.plot(point[x], point["bytes"]["peak"] / 1e6, **style)
            name = "_nolegend_"  # once is enough
    if model is not None:
        group = sorted(next(iter(groups.values())), key=lambda point: point[x])
        xs = [point[x] for point in group]
        on_paper = [1e3 * costs.model_seconds(model, p) / costs.vmap_size(p) for p in group]
        upper.plot(xs, on_paper, color="0.6", lw=1, zorder=0, label="fitted model")
    ticks = sorted({point[x] for point in next(iter(groups.values()))})  # of all, they overlap
    lower.set_xscale("log")
    lower.set_xticks(ticks, [f"{value:g}" for value in ticks])
    lower.minorticks_off()
    for panel in panels:
        panel.set_ylim(0, 1.05 * panel.get_ylim()[1])
        panel.spines[["top", "right"]].set_visible(False)
