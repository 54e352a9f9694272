"""What the points of ``scaling.py`` cost: each is trained in a process of its own."""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np

import digits_jax as dj
from common import startup
from costs import MANY, Point, Trial
from digits_jax.runs.memory import fitting_wave_size, free_memory
from digits_jax.splits import index_runs
from digits_jax.storage.checkpoints import Checkpoints

FOLDS = 5
WAVED_EPOCHS = 2


def devices() -> tuple[int, int]:
    """Their number, and the bytes that each has free."""
    return jax.device_count(), free_memory(jax.devices())


def chosen_wave_size(dataset: dj.Dataset, free: int) -> int:
    """Runs of a wave of very many, where each device has so many bytes free."""
    return fitting_wave_size(
        MANY,
        dj.make_runs(dj.kfold_splits(dataset.labels, FOLDS)),
        dataset.data,
        recipe=dj.Recipe(),
        devices=jax.devices(),
        free=free,
    )


def measure_alone(trial: Trial, data: str, epochs: int) -> Point:
    """``measure`` in a process of its own, which ends with it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, trial, data, epochs).result()


def measure(trial: Trial, data: str, epochs: int) -> Point:
    """Seconds and bytes of a trial."""
    startup.start_jax(compilation_cache=False)
    dataset = dj.load_digits(data)
    # The rows are ordered by writer; a sample keeps all classes.
    rows = np.random.default_rng(0).permutation(len(dataset.labels))[: trial.rows]
    examples = dataset.images[rows], dataset.labels[rows]
    network = dj.DigitsCNN(width=trial.width)
    recipe = dj.Recipe(network=dj.NetworkWithHyperparameters(network))
    jax.devices()
    before = resident()
    splits = dj.kfold_splits(dataset.labels[rows], FOLDS)

    def runs_of(start: int, stop: int) -> dj.Run:
        indices = np.arange(start, stop)
        runs = dj.make_runs(index_runs(splits, indices % FOLDS))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), indices)
        return runs._replace(key=keys)

    moments: list[float] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if trial.wave_size is None:
            runs = runs_of(0, trial.runs)
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
            saved = {"checkpoint": tree_bytes(Path(folder)), "logits": result.outputs.nbytes}
        else:
            dj.train_in_waves(
                examples,
                runs_of,
                trial.runs,
                folder=folder,
                wave_size=trial.wave_size,
                recipe=recipe,
                epochs=WAVED_EPOCHS,
                on_wave=lambda runs: moments.append(time.perf_counter()),
            )
            peak = resident("VmHWM") - before
            waves = np.diff(moments)[1:]  # the first compiles
            timing = {"epoch": (waves / WAVED_EPOCHS).tolist()}
            saved = {"results": tree_bytes(Path(folder))}
    forward: int = sum(layer.flops for layer in dj.layer_table(network))
    return {
        **dataclasses.asdict(trial),
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "epochs": 1 + epochs if trial.wave_size is None else WAVED_EPOCHS,
        "steps": -(-(trial.rows * (FOLDS - 1) // FOLDS) // recipe.batch_size),
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
