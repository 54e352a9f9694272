"""What a run costs as runs, rows and width grow; and, on paper, what a million runs would cost.

    python experiments/scaling.py --data optdigits.csv

Each point trains the notebook's network in a process of its own, so that its memory is its own.
A cost model is fitted to the points. It is checked against points that it has not seen: other
numbers of runs, and jobs in waves of the size that was chosen from the free memory. Then it
predicts what the notebook's protocol (100 epochs) costs for a million runs on 1, 8 and 256 devices.
Each point is kept as soon as it is measured: ``--resume`` takes these and adds the others.

    seconds of an epoch = call + step * steps of an epoch * runs a device
    bytes of memory, of a checkpoint, of results = a constant + so much a run

Runs a device are those of the device that has the most, or the mean where runs go round robin over
the devices (see ``digits_jax/parallel/round_robin.py``).
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import costs
from common import command_line, console, options, origin, progress, startup, tasks
from common.drawing import styled
from common.output import Output
from common.parts import Parts
from common.scores import counted
from common.tables import Table
from costs import EPOCHS, MANY, Model, Point, Trial
from report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.drawing import Drawing

DEVICES = (1, 8, 256)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Resumable, options.Digits):
    """The options of the command line."""

    runs: tuple[int, ...] = (1, 2, 5, 10, 50, 200)
    """Numbers of runs, at all rows and width 1."""
    rows: tuple[int, ...] = (500, 1000, 2000)
    """Numbers of rows of the data set, at ten runs and width 1; all rows are there anyway."""
    widths: tuple[float, ...] = (0.5, 2.0, 4.0)
    """Multiples of the layers' features, at ten runs and all rows; 1 is there anyway."""
    held_out: tuple[int, ...] = (20, 100)
    """Numbers of runs that the fit doesn't see, to check it."""
    waves: tuple[int, ...] = (2, 3)
    """Numbers of waves, which the fit doesn't see either."""
    epochs: int = 4
    """Timed epochs of each point, after one that warms up."""
    wave_size: int | None = None
    """Runs of a wave. Default: what fits in half of the free memory; on a CPU at most 64 runs for
    each core."""


def main(config: Config) -> None:
    """Measures, fits, shows and writes."""
    options.positive(epochs=config.epochs, wave_size=config.wave_size)
    for name in ("runs", "rows", "widths", "held_out", "waves"):
        values = getattr(config, name)
        inside = bool(values) and all(0 < value <= 10**6 for value in values)
        positive = f"{options.flag(name)} must be positive numbers of at most a million"
        options.require(inside, positive)
    options.require(len(set(config.runs)) > 1, "--runs must name two numbers, to fit a line")
    options.require(min(config.waves) > 1, "--waves must be at least 2, for the first one compiles")
    output = Output(config, script="scaling")
    startup.start_jax(compilation_cache=False)
    import measuring  # which imports JAX

    dataset = tasks.load_digits(config.data)
    most = len(dataset.labels)
    few = "--rows must be at least 100, for five folds of ten classes"
    options.require(min(config.rows) >= 100, few)
    options.require(max(config.rows) <= most, f"--rows must be at most {most}, what the data have")
    output.claim()
    devices, free = measuring.devices()
    parts = Parts(
        output,
        {"data": dataset.provenance.sha256, "--epochs": config.epochs, **origin.measured_by()},
    )
    chosen = functools.partial(measuring.chosen_wave_size, dataset, free)  # another one tomorrow
    size = config.wave_size or parts.get("wave size", chosen)
    free_each = f"each of {devices} devices has {free / 1e9:.1f} GB free"
    console.say(f"waves of {size} runs; {free_each}", console.notes)
    measured = []
    for trial in dict.fromkeys(trials(config, most, size)):
        measure = functools.partial(measuring.measure_alone, trial, config.data, config.epochs)
        with progress.waiting(f"{trial}"):
            point = parts.get(str(trial), measure)
        console.say(
            f"{point['runs']:4d} runs, {point['rows']:5d} rows, width {point['width']:g}"
            f"{in_waves(point, ', ')}: {statistics.mean(costs.milliseconds(point)):.1f} ms an "
            f"epoch of a run, {point['bytes']['peak'] / 1e6:.0f} MB",
            console.notes,
        )
        measured.append(point)
    waved = [each for each in measured if each["wave_size"]]
    plain = [each for each in measured if each["width"] == 1 and not each["wave_size"]]
    model = costs.fit([each for each in plain if each["runs"] not in config.held_out])
    unseen = [each for each in plain if each["runs"] in config.held_out]
    steps = next(each["steps"] for each in plain if each["rows"] == most)
    largest = max(plain, key=lambda point: point["runs"])
    logits = largest["bytes"]["logits"] / largest["runs"]
    checks = [costs.check(model, each) for each in unseen + waved]
    results = {
        "wave_size": size,
        "free_bytes_a_device": free,
        "points": measured,
        "model": model,
        "held_out": checks,
        "warning": costs.far_off(checks),
        "predictions": [costs.predict(model, n, steps, waved[-1], logits) for n in DEVICES],
    }
    figure = styled(make_figure, measured, model, config, most)
    output.finish(
        results, {"scaling": figure}, report(config, results, figure), data=dataset.provenance
    )


def trials(config: Config, most: int, size: int) -> list[Trial]:
    """What is measured: by runs, rows and width; what the fit doesn't see; in waves."""
    return [
        *(Trial(runs=runs, rows=most) for runs in config.runs),
        *(Trial(runs=10, rows=rows) for rows in config.rows),
        *(Trial(runs=10, rows=most, width=width) for width in config.widths),
        *(Trial(runs=runs, rows=most) for runs in config.held_out),
        *(Trial(runs=waves * size, rows=most, wave_size=size) for waves in config.waves),
    ]


def in_waves(point: Mapping[str, Any], before: str = " ") -> str:
    """How a point was trained, where it was in waves."""
    return f"{before}in waves of {point['wave_size']}" if point["wave_size"] else ""


def report(config: Config, results: Mapping[str, Any], figure: Drawing) -> Report:
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
        f"{points[0]['devices']} devices; means and ranges of {config.epochs} "
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


def make_figure(points: Sequence[Point], model: Model, config: Config, most: int) -> Figure:
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

    figure = Figure(figsize=(10, 5.6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 3, sharex="col")
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
    figure.suptitle(title, fontsize=9, x=0.01, ha="left")
    return figure


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


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
