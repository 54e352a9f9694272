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

import costs
from common import command_line, console, options, origin, progress, startup, tasks
from common.drawing import styled
from common.output import Output
from common.parts import Parts
from costs import Trial
from report import growth

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
            f"{growth.in_waves(point, ', ')}: {statistics.mean(costs.milliseconds(point)):.1f} ms "
            f"an epoch of a run, {point['bytes']['peak'] / 1e6:.0f} MB",
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
    figure = styled(growth.figure, measured, model, config, most)
    page = growth.page(results, figure, config.epochs)
    output.finish(results, {"scaling": figure}, page, data=dataset.provenance)


def trials(config: Config, most: int, size: int) -> list[Trial]:
    """What is measured: by runs, rows and width; what the fit doesn't see; in waves."""
    return [
        *(Trial(runs=runs, rows=most) for runs in config.runs),
        *(Trial(runs=10, rows=rows) for rows in config.rows),
        *(Trial(runs=10, rows=most, width=width) for width in config.widths),
        *(Trial(runs=runs, rows=most) for runs in config.held_out),
        *(Trial(runs=waves * size, rows=most, wave_size=size) for waves in config.waves),
    ]


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
