"""The cost model of ``scaling.py``: fitted to points, checked against others, used to predict.

A point is what was trained, and its cost: a dictionary, as ``measuring.measure`` gives it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

EPOCHS = 100  # of the protocol whose cost is predicted
MANY = 1_000_000  # runs
FAR = 1.25  # a ratio of model and measurement from which on it is said

Point = dict[str, Any]
Model = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What is trained to measure its cost."""

    runs: int
    rows: int
    width: float = 1.0
    wave_size: int | None = None  # None: all runs at once


def vmap_size(point: Point) -> int:
    """Runs that train together: all, or those of a wave."""
    return int(point["wave_size"] or point["runs"])


def epoch_seconds(point: Point) -> float:
    """The mean, since in round robin long epochs alternate with short ones."""
    return float(statistics.mean(point["seconds"]["epoch"]))


def milliseconds(point: Point) -> list[float]:
    """Of each timed epoch, of one run."""
    return [1e3 * seconds / vmap_size(point) for seconds in point["seconds"]["epoch"]]


def busiest_steps(point: Point) -> float:
    """Steps that the busiest device takes in an epoch."""
    from digits_jax.parallel import round_robin

    runs, devices = vmap_size(point), point["devices"]
    evenly = point["platform"] == "cpu" and round_robin.is_faster(runs, devices)
    return float((runs / devices if evenly else -(-runs // devices)) * point["steps"])


def fit(points: Sequence[Point]) -> Model:
    """The cost model of width 1, by least squares of relative errors, no cost below zero."""
    runs = [float(point["runs"]) for point in points]
    call, step = _line(map(busiest_steps, points), map(epoch_seconds, points))
    checkpoint, of_run = _line(runs, (point["bytes"]["checkpoint"] for point in points))
    memory, memory_of_run = _line(runs, (point["bytes"]["peak"] for point in points))
    return {
        "call_seconds": call,
        "step_seconds": step,
        "checkpoint_bytes": checkpoint,
        "checkpoint_bytes_a_run": of_run,
        "memory_bytes": memory,
        "memory_bytes_a_run": memory_of_run,
        "start_seconds": statistics.median(point["seconds"]["compile"] for point in points),
    }


def _line(x: Iterable[float], y: Iterable[float]) -> tuple[float, float]:
    """Both coefficients of y = constant + slope * x."""
    from scipy.optimize import nnls

    values = np.array([*y])
    terms = np.stack([np.ones(len(values)), [*x]], axis=1)
    # Scaled to relative errors, so that the largest point does not decide alone.
    (constant, slope), _ = nnls(terms / values[:, None], np.ones(len(values)))
    return float(constant), float(slope)


def model_seconds(model: Model, point: Point) -> float:
    """What an epoch of all runs that train together takes, on paper."""
    return model["call_seconds"] + model["step_seconds"] * busiest_steps(point)


def check(model: Model, point: Point) -> dict[str, Any]:
    """The model beside a point that it was not fitted to."""
    predicted, measured = model_seconds(model, point), epoch_seconds(point)
    return {
        "runs": point["runs"],
        "wave_size": point["wave_size"],
        "predicted_seconds": predicted,
        "measured_seconds": measured,
        "ratio": predicted / measured,
    }


def far_off(checks: Sequence[Point]) -> str:
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


def predict(model: Model, devices: int, steps: int, wave: Point, logits: float) -> Model:
    """The notebook's protocol for a million runs in waves, on devices like those measured.

    Args:
        model: of the costs.
        devices: how many.
        steps: of an epoch.
        wave: a measured point in waves.
        logits: bytes of a run's.
    """
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
