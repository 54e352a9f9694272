"""What a run costs as runs, rows and width grow; and, on paper, what a million runs would cost.

    python experiments/scaling.py --data optdigits.csv

Each point trains the notebook's network in a process of its own, so that its memory is its own.
A cost model is fitted to the points, checked against points that it has not seen (other numbers of
runs, and jobs in waves of the size that was chosen from the free memory), and used to predict what
the notebook's protocol (100 epochs) costs for a million runs on 1, 8 and 256 devices:

    seconds of an epoch = call + step * steps of an epoch * runs a device
    bytes of memory, of a checkpoint, of results = a constant + so much a run

Runs a device are those of the device that has the most, or the mean where runs go round robin over
the devices (see ``digits_jax/parallel/round_robin.py``).
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import command_line, console, options, startup
from common.output import Output, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.figure import Figure

    from digits_jax import Dataset

FOLDS = 5
EPOCHS = 100  # of the protocol whose cost is predicted
MANY = 1_000_000  # runs
DEVICES = (1, 8, 256)
FAR = 1.25  # a ratio of the model to a measurement, or of that to the model, which is said
WAVED_EPOCHS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Digits):
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
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/scaling/<date>-<time>."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """What is trained to measure its cost."""

    runs: int
    rows: int
    width: float = 1.0
    wave_size: int | None = None  # None: all runs at once


def main(config: Config) -> None:
    """Measures, fits, shows and writes."""
    options.positive(epochs=config.epochs, wave_size=config.wave_size)
    for name in ("runs", "rows", "widths", "held_out", "waves"):
        values = getattr(config, name)
        flag = "--" + name.replace("_", "-")
        inside = bool(values) and all(0 < value <= 10**6 for value in values)
        options.require(inside, f"{flag} must be positive numbers of at most a million")
    options.require(len(set(config.runs)) > 1, "--runs must name two numbers, to fit a line")
    options.require(min(config.waves) > 1, "--waves must be at least 2, for the first one compiles")
    output = Output(config.output_dir, script="scaling")
    startup.start_jax(compilation_cache=False)
    import jax

    import digits_jax as dj
    from digits_jax.runs.memory import free_memory

    dataset = dj.load_digits(config.data)
    console.show_data(dataset.provenance)
    most = len(dataset.labels)
    options.require(
        min(config.rows) >= 100, "--rows must be at least 100, for five folds of ten classes"
    )
    options.require(max(config.rows) <= most, f"--rows must be at most {most}, what the data have")
    output.claim()
    free = free_memory(jax.devices())
    size = config.wave_size or chosen_wave_size(dataset, free)
    console.results.print(
        f"waves of {size} runs; each of {jax.device_count()} devices has {free / 1e9:.1f} GB free",
        highlight=False,
    )
    points = [Point(runs=runs, rows=most) for runs in config.runs]
    points += [Point(runs=10, rows=rows) for rows in config.rows]
    points += [Point(runs=10, rows=most, width=width) for width in config.widths]
    points += [Point(runs=runs, rows=most) for runs in config.held_out]
    points += [Point(runs=waves * size, rows=most, wave_size=size) for waves in config.waves]
    measured = []
    for point in dict.fromkeys(points):
        with console.results.status(f"{point}"):
            measured.append(measure_alone(point, config))
        console.results.print(_in_words(measured[-1]), highlight=False, soft_wrap=True)
    waved = [each for each in measured if each["wave_size"]]
    plain = [each for each in measured if each["width"] == 1 and not each["wave_size"]]
    model = fit([each for each in plain if each["runs"] not in config.held_out])
    unseen = [each for each in plain if each["runs"] in config.held_out]
    checks = [check(model, each) for each in unseen + waved]
    steps = next(each["steps"] for each in plain if each["rows"] == most)
    logits = max(plain, key=_runs)["bytes"]["logits"] / max(map(_runs, plain))
    predictions = [predict(model, devices, steps, waved[-1], logits) for devices in DEVICES]
    report(model, checks, predictions)

    from report import searches

    figure = make_figure(measured, model, config, most)
    results = {
        "experiment": "scaling",
        **describe(config, dataset.provenance),
        "wave_size": size,
        "free_bytes_a_device": free,
        "points": measured,
        "model": model,
        "held_out": checks,
        "warning": far_off(checks),
        "predictions": predictions,
    }
    page = searches.scaling(results, figure=figure)
    output.finish(results, {"scaling": figure}, page)


def chosen_wave_size(dataset: Dataset, free: int) -> int:
    """Runs of a wave of very many, where each device has so many bytes free."""
    import jax

    import digits_jax as dj
    from digits_jax.runs.memory import fitting_wave_size

    return fitting_wave_size(
        MANY,
        dj.make_runs(dj.kfold_splits(dataset.labels, FOLDS)),
        dataset.data,
        recipe=dj.Recipe(),
        devices=jax.devices(),
        free=free,
    )


def measure_alone(point: Point, config: Config) -> dict[str, Any]:
    """``measure`` in a process of its own, which ends with it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, point, config.data, config.epochs).result()


def measure(point: Point, data: str, epochs: int) -> dict[str, Any]:
    """Seconds and bytes of one point."""
    startup.start_jax(compilation_cache=False)
    import jax
    import numpy as np

    import digits_jax as dj
    from digits_jax.splits import index_runs
    from digits_jax.storage.checkpoints import Checkpoints

    dataset = dj.load_digits(data)
    # The rows are ordered by writer; a sample keeps all classes.
    rows = np.random.default_rng(0).permutation(len(dataset.labels))[: point.rows]
    examples = dataset.images[rows], dataset.labels[rows]
    network = dj.DigitsCNN(width=point.width)
    recipe = dj.Recipe(network=dj.NetworkWithHyperparameters(network))
    jax.devices()
    before = resident()
    moments: list[float] = []

    splits = dj.kfold_splits(dataset.labels[rows], FOLDS)

    def runs_of(start: int, stop: int) -> dj.Run:
        indices = np.arange(start, stop)
        runs = dj.make_runs(index_runs(splits, indices % FOLDS))
        return runs._replace(
            key=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), indices)
        )

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if point.wave_size is None:
            runs = runs_of(0, point.runs)
            # Once before the clock runs: the evaluation compiles beside the first epochs.
            first = dj.cross_validate(examples, runs, recipe=recipe, epochs=1)
            result = dj.cross_validate(
                examples,
                runs,
                recipe=recipe,
                epochs=1 + epochs,
                on_epoch=lambda progress: moments.append(time.perf_counter()),
            )
            epoch_seconds = np.diff(moments).tolist()
            timing = {"compile": first.seconds["compile"], "epoch": epoch_seconds}
            peak = resident("VmHWM") - before
            saving = time.perf_counter()
            with Checkpoints(Path(folder) / "checkpoints", {}) as checkpoints:
                checkpoints.save(1, {"states": result.states})
            timing["checkpoint"] = time.perf_counter() - saving
            saved = {"checkpoint": tree_bytes(Path(folder))}
            saved["logits"] = result.outputs.nbytes
        else:
            dj.train_in_waves(
                examples,
                runs_of,
                point.runs,
                folder=folder,
                wave_size=point.wave_size,
                recipe=recipe,
                epochs=WAVED_EPOCHS,
                on_wave=lambda runs: moments.append(time.perf_counter()),
            )
            peak = resident("VmHWM") - before
            waves = np.diff(moments)[1:]  # the first compiles
            timing = {"epoch": (waves / WAVED_EPOCHS).tolist()}
            saved = {"results": tree_bytes(Path(folder))}
    steps = -(-(point.rows * (FOLDS - 1) // FOLDS) // recipe.batch_size)
    forward: int = sum(layer.flops for layer in dj.layer_table(network))
    return {
        **dataclasses.asdict(point),
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "epochs": 1 + epochs if point.wave_size is None else WAVED_EPOCHS,
        "steps": steps,
        "flops_per_row": 3 * forward,  # backward costs twice as much
        "seconds": timing | {"total": time.perf_counter() - started},
        "bytes": saved | {"peak": peak},
    }


def resident(field: str = "VmRSS") -> int:
    """Bytes that this process has resident, or the most that it had (``VmHWM``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def tree_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _in_words(point: dict[str, Any]) -> str:
    waves = f", in waves of {point['wave_size']}" if point["wave_size"] else ""
    return (
        f"{point['runs']:4d} runs, {point['rows']:5d} rows, width {point['width']:g}{waves}: "
        f"{1e3 * _epoch_seconds(point) / runs_at_once(point):.1f} ms an epoch of a run, "
        f"{point['bytes']['peak'] / 1e6:.0f} MB"
    )


def fit(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The cost model of width 1, by least squares of relative errors, no cost below zero."""
    return {
        **_line("call_seconds", "step_seconds", points, busiest_steps, _epoch_seconds),
        **_line("checkpoint_bytes", "checkpoint_bytes_a_run", points, _runs, _bytes("checkpoint")),
        **_line("memory_bytes", "memory_bytes_a_run", points, _runs, _bytes("peak")),
        "start_seconds": statistics.median(p["seconds"]["compile"] for p in points),
    }


def _line(
    constant: str,
    slope: str,
    points: Sequence[dict[str, Any]],
    x: Callable[[dict[str, Any]], float],
    y: Callable[[dict[str, Any]], float],
) -> dict[str, float]:
    """Both coefficients of y = constant + slope * x."""
    import numpy as np
    from scipy.optimize import nnls

    values = np.array([y(point) for point in points])
    terms = np.array([[1.0, x(point)] for point in points])
    # Scaled to relative errors, so that the largest point does not decide alone.
    (a, b), _ = nnls(terms / values[:, None], np.ones(len(values)))
    return {constant: float(a), slope: float(b)}


def runs_at_once(point: dict[str, Any]) -> int:
    """Runs that train together: all, or those of a wave."""
    return int(point["wave_size"] or point["runs"])


def busiest_steps(point: dict[str, Any]) -> float:
    """Steps that the busiest device takes in an epoch."""
    from digits_jax.parallel import round_robin

    runs, devices = runs_at_once(point), point["devices"]
    evenly = point["platform"] == "cpu" and round_robin.is_faster(runs, devices)
    return float((runs / devices if evenly else -(-runs // devices)) * point["steps"])


def model_seconds(model: dict[str, float], point: dict[str, Any]) -> float:
    """What an epoch of all runs that train together takes, on paper."""
    return model["call_seconds"] + model["step_seconds"] * busiest_steps(point)


def _runs(point: dict[str, Any]) -> float:
    return float(point["runs"])


def _epoch_seconds(point: dict[str, Any]) -> float:
    seconds: list[float] = point["seconds"]["epoch"]
    return statistics.mean(seconds)  # in round robin, long epochs alternate with short ones


def _bytes(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda point: float(point["bytes"][name])


def check(model: dict[str, float], point: dict[str, Any]) -> dict[str, Any]:
    """The model beside a point that it was not fitted to."""
    predicted, measured = model_seconds(model, point), _epoch_seconds(point)
    return {
        "runs": point["runs"],
        "wave_size": point["wave_size"],
        "predicted_seconds": predicted,
        "measured_seconds": measured,
        "ratio": predicted / measured,
    }


def far_off(checks: Sequence[dict[str, Any]]) -> str:
    """What to say of checks in which model and measurement differ by more than a quarter."""
    far = [each for each in checks if not 1 / FAR <= each["ratio"] <= FAR]
    if not far:
        return ""
    ratios = ", ".join(f"{each['ratio']:.2f} for {each['runs']} runs" for each in far)
    return (
        f"the model differs from what was measured by more than a quarter ({ratios}), so what it "
        "says of a million runs is off by as much; was the machine busy? More --epochs give it "
        "better points"
    )


def predict(
    model: dict[str, float], devices: int, steps: int, wave: dict[str, Any], logits: float
) -> dict[str, float]:
    """The notebook's protocol for a million runs in waves, on devices like those measured."""
    runs = wave["wave_size"] / wave["devices"]  # runs of a wave on each device
    waves = MANY / (runs * devices)
    epoch = model["call_seconds"] + model["step_seconds"] * steps * runs
    history = 8 * (EPOCHS - wave["epochs"])  # bytes a run that the measured waves did not have
    return {
        "devices": devices,
        "runs": MANY,
        "seconds": model["start_seconds"] + waves * EPOCHS * epoch,
        "waves": waves,
        "results_bytes": MANY * (wave["bytes"]["results"] / wave["runs"] + history),
        "logits_bytes": MANY * logits,
        "checkpoint_bytes": MANY * model["checkpoint_bytes_a_run"],
        "memory_bytes_at_once": MANY / devices * model["memory_bytes_a_run"],
        "memory_bytes_of_a_wave": model["memory_bytes"] + runs * model["memory_bytes_a_run"],
    }


def report(
    model: dict[str, float],
    checks: Sequence[dict[str, Any]],
    predictions: Sequence[dict[str, float]],
) -> None:
    """The model, how well it foretells what it has not seen, and the table of a million runs."""
    from rich.table import Table

    console.results.print(
        f"an epoch takes {1e3 * model['call_seconds']:.1f} ms + {1e3 * model['step_seconds']:.3f} "
        f"ms * steps * runs a device; starting {model['start_seconds']:.1f} s; a run adds "
        f"{model['memory_bytes_a_run'] / 1e6:.1f} MB of memory and "
        f"{model['checkpoint_bytes_a_run'] / 1e6:.2f} MB of checkpoint",
        highlight=False,
        soft_wrap=True,
    )
    for each in checks:
        waves = f" in waves of {each['wave_size']}" if each["wave_size"] else ""
        console.results.print(
            f"held out, {each['runs']} runs{waves}: predicted {each['predicted_seconds']:.2f} s an "
            f"epoch, measured {each['measured_seconds']:.2f} (ratio {each['ratio']:.2f})",
            highlight=False,
            soft_wrap=True,
        )
    if far := far_off(checks):
        console.errors.print(f"[yellow]warning:[/] {far}", highlight=False, soft_wrap=True)
    table = Table(title=f"{MANY:,} runs of {EPOCHS} epochs, in waves")
    for column in ("devices", "days", "waves (files)", "results (GB)", "memory a device (MB)"):
        table.add_column(column, justify="right")
    for each in predictions:
        table.add_row(
            f"{each['devices']:.0f}",
            f"{each['seconds'] / 86400:.2f}",
            f"{each['waves']:,.0f}",
            f"{each['results_bytes'] / 1e9:.2f}",
            f"{each['memory_bytes_of_a_wave'] / 1e6:,.0f}",
        )
    console.results.print(table)
    first = predictions[0]
    console.results.print(
        f"What breaks first is memory: all at once, one device would need "
        f"{first['memory_bytes_at_once'] / 1e12:.1f} TB. Then the checkpoint of all states, "
        f"{first['checkpoint_bytes'] / 1e12:.1f} TB, and all logits, "
        f"{first['logits_bytes'] / 1e9:.0f} GB. So runs go in waves, whose states are not kept, "
        "nor logits unless asked for. A file for each run would be a million small files: there "
        "is one for each wave.",
        highlight=False,
        soft_wrap=True,
    )


def make_figure(
    points: Sequence[dict[str, Any]], model: dict[str, float], config: Config, most: int
) -> Figure:
    """Seconds of a run's epoch, and memory, by runs, rows and width."""
    from digits_jax import plots

    figure: Figure = plots.styled(_figure)(points, model, config, most)
    return figure


def _figure(
    points: Sequence[dict[str, Any]], model: dict[str, float], config: Config, most: int
) -> Figure:
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


def draw(
    panels: Any, x: str, groups: dict[str, list[dict[str, Any]]], model: dict[str, float] | None
) -> None:
    """Time in the upper panel, memory in the lower; what ``model`` says of the first group."""
    upper, lower = panels
    colors = ("#0072B2", "#009E73", "#D55E00")
    for (name, group), marker, color in zip(groups.items(), "oDs", colors, strict=False):
        style: dict[str, Any] = {"marker": marker, "color": color, "ms": 4, "ls": "none"}
        for point in group:
            each = [1e3 * seconds / runs_at_once(point) for seconds in point["seconds"]["epoch"]]
            middle = statistics.mean(each)
            ends = [[middle - min(each)], [max(each) - middle]]
            upper.errorbar(point[x], middle, yerr=ends, capsize=2, label=name, **style)
            lower.plot(point[x], point["bytes"]["peak"] / 1e6, **style)
            name = "_nolegend_"  # once is enough
    if model is not None:
        group = sorted(next(iter(groups.values())), key=lambda point: point[x])
        xs = [point[x] for point in group]
        on_paper = [1e3 * model_seconds(model, point) / runs_at_once(point) for point in group]
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
