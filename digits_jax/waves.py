"""Any number of runs: waves of equal shape, one after another, each saved whole as it ends.

A wave is one call of ``cross_validate``. All waves have the same shapes, so one compilation serves
them all, and only one is in memory.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from digits_jax.parallel.processes import own_device, spans_job
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import pad_runs
from digits_jax.runs.checks import check_data
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.identity import (
    PROGRAM,
    describe,
    describe_program,
    digest_of_values,
    named_leaves,
    require_agreement,
)
from digits_jax.runs.memory import fitting_wave_size
from digits_jax.runs.preparation import prepare
from digits_jax.runs.programs import identified
from digits_jax.runs.refusals import warn_of_callbacks
from digits_jax.runs.results import Progress
from digits_jax.structures import Run
from digits_jax.wave_files import by_first, in_waves, load_waves, of_kind, saved_wave_size


class WaveResults(NamedTuple):
    """What finished waves have saved, in the order of the runs. R counts finished runs only.

    Attributes:
        runs: int64 [R], the runs' numbers, 0 to count - 1.
        scores: float64 [R] by name, as in CrossValidation.
        validation: float64 [R] by name, as in CrossValidation; {} without validation rows.
        history: float32 [R, E] by name.
        diverged: int32 [R], the epoch since which a run has failed, as in CrossValidation; 0: none.
        test_rows: int32 [R, S]; None unless outputs were kept and asked for.
        outputs: [R, S, ...], an array or the leaves of a pytree by name; None as ``test_rows``.
    """

    runs: np.ndarray
    scores: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    history: dict[str, np.ndarray]
    diverged: np.ndarray
    test_rows: np.ndarray | None
    outputs: Any


def train_in_waves(
    data: Any,
    make_wave: Callable[[int, int], Run],
    count: int,
    *,
    folder: str | os.PathLike[str],
    wave_size: int | None = None,
    recipe: Recipe | None = None,
    epochs: int = 100,
    devices: Sequence[jax.Device] | None = None,
    vmap_size: int | None = None,
    identity: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    resume: bool = False,
    keep_outputs: bool = False,
    on_epoch: Callable[[Progress], bool | None] | None = None,
    on_wave: Callable[[int], bool | None] | None = None,
) -> WaveResults:
    """Trains any number of runs and evaluates each on its test rows, with one wave in memory.

    In a job of several processes (see ``initialize_distributed``) each calls this with the
    same arguments and trains its part of every wave. Process 0 alone reads and writes the folder,
    and gives the others what it found. With ``jax.local_devices()`` each process is on its own
    instead, in a folder of its own.

    Args:
        data: see ``cross_validate``.
        make_wave: ``make_wave(start, stop)`` gives the runs of those numbers, stacked. What it
            gives for a run must not depend on the wave that the run is in, and all waves must have
            the same numbers T and S of padded rows. On resuming it is called for finished waves
            too, to see that they are of the same runs.
        count: number of runs.
        folder: made if it is missing; gets one file a wave, ``wave-START.npz``. One process (or
            job) at a time writes to it, under a ``FolderLock``.
        wave_size: runs of a wave; the last is filled up with runs that train nothing. Default: that
            of the waves to resume, else see ``fitting_wave_size``.
        recipe: see ``cross_validate``.
        epochs: see ``cross_validate``.
        devices: see ``cross_validate``.
        vmap_size: see ``cross_validate``.
        identity: names and JSON values that waves must share to be resumed, beside what this
            function sees for itself; see ``cross_validate``.
        about: see ``cross_validate``.
        resume: keep the waves that the folder holds, and go on with the others. The results are
            bitwise those of an uninterrupted job on the same devices. There may be more runs than
            before: then the last wave is computed again, if it was not full.
        keep_outputs: also save the outputs of the test rows, 4 * S * K bytes a run if class logits.
        on_epoch: see ``cross_validate``; ``Progress`` is of one wave. True gives up that wave.
        on_wave: called with the number of finished runs at the start and after each wave; True
            stops. Where it is True in one process of a job, all stop.

    Returns:
        What ``read_waves`` reads from the folder, without outputs.

    Raises:
        ValueError: an argument is out of range, or two waves differ in shape.
        CheckpointError: the folder holds waves and ``resume`` is False, or they are of other runs.
        FolderInUse: another process writes to the folder. (In a job, process 0 raises it, and the
            others a CheckpointError of the same message.)
        WavesInterrupted: a callback asked to stop.
        ProcessLost: another process of the job ended.
        ProcessesDiffer: the processes of the job were given different arguments.

    Examples:
        >>> import tempfile
        >>> from digits_jax import kfold_splits, load_digits, make_runs
        >>> digits = load_digits("bundled")
        >>> def one_repeat_a_wave(start, stop):
        ...     splits = kfold_splits(digits.labels, folds=2, seed=start)
        ...     return make_runs(splits, seed=start)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train_in_waves(
        ...         digits.data, one_repeat_a_wave, 4, wave_size=2, epochs=1, folder=folder
        ...     )
        >>> result.runs.tolist(), result.history["loss"].shape
        ([0, 1, 2, 3], (4, 1))
    """
    recipe = Recipe() if recipe is None else recipe
    devices = jax.devices() if devices is None else devices
    data = check_data(data)
    if count < 1 or epochs < 1 or (wave_size is not None and wave_size < 1):
        raise ValueError("count, epochs and wave_size must be at least 1")
    together = spans_job(devices)
    first = make_wave(0, 1 if wave_size is None else min(wave_size, count))
    shared = {**(identity or {}), "epochs": epochs, "keep_outputs": keep_outputs}
    with jax.transfer_guard("allow"):  # the trial moves a few rows
        prepared, state = prepare(data, first, recipe, epochs)
    program = describe_program(
        data, prepared, recipe, state, device=own_device(devices), about=about
    )
    warn_of_callbacks(program)
    if together:
        asked = {"count": count, "wave_size": wave_size, "resume": resume}
        require_agreement({**shared, **describe(data, first, recipe), **program, **asked})
    if wave_size is None and resume:
        saved = by_first(lambda: {"size": np.array(saved_wave_size(folder) or 0)}, together)
        wave_size = int(saved["size"]) or None
    if wave_size is None:
        wave_size = fitting_wave_size(
            count, first, data, recipe=recipe, devices=devices, vmap_size=vmap_size
        )

    @functools.lru_cache(maxsize=1)  # the wave that is looked at, computed and saved in turn
    def wave_of(start: int, stop: int) -> Run:
        runs = make_wave(start, stop)
        if runs.key.shape != (stop - start,) or _shapes(runs) != _shapes(first):
            raise ValueError(
                f"make_wave({start}, {stop}) must give {stop - start} runs of {_shapes(first)} "
                f"rows, as the first wave; it gave {len(runs.key)} of {_shapes(runs)}"
            )
        return runs

    def identity_of(start: int, stop: int) -> dict[str, Any]:
        return {**shared, **describe(data, wave_of(start, stop), recipe), **program}

    def compute(start: int, stop: int) -> dict[str, np.ndarray]:
        real = stop - start

        def real_runs(progress: Progress) -> bool | None:
            history = {name: leaf[:real] for name, leaf in progress.history.items()}
            return on_epoch(progress._replace(history=history)) if on_epoch is not None else None

        result = cross_validate(
            data,
            pad_runs(wave_of(start, stop), wave_size),
            recipe=recipe,
            epochs=epochs,
            devices=devices,
            vmap_size=vmap_size,
            on_epoch=real_runs,
        )
        arrays: dict[str, Any] = {f"score.{name}": value for name, value in result.scores.items()}
        arrays |= {f"validation.{name}": value for name, value in result.validation.items()}
        arrays |= {f"history.{name}": value for name, value in result.history.items()}
        arrays["diverged"] = result.diverged
        if keep_outputs:
            outputs = {
                f"output.{name}": leaf for name, leaf in named_leaves(result.outputs).items()
            }
            arrays |= {"test_rows": result.test_rows, **outputs}
        return {name: np.asarray(array)[:real] for name, array in arrays.items()}

    with identified(digest_of_values(program[PROGRAM])):
        in_waves(
            compute,
            count,
            wave_size,
            folder=folder,
            identity_of=identity_of,
            resume=resume,
            on_wave=on_wave,
            together=together,
        )
    return _results(by_first(lambda: load_waves(folder, _without_outputs), together))


def read_waves(folder: str | os.PathLike[str], *, outputs: bool = False) -> WaveResults:
    """What the finished waves in a folder hold; of an unfinished job, the waves that are there.

    Args:
        folder: of ``train_in_waves``.
        outputs: also the outputs and their rows.

    Raises:
        CheckpointError: there is no wave, or one is damaged (it is named).
        ValueError: outputs are asked for and were not kept.
    """
    arrays = load_waves(folder, (lambda name: True) if outputs else _without_outputs)
    if outputs and "test_rows" not in arrays:
        raise ValueError(f"the waves in {os.fspath(folder)} were saved without outputs")
    return _results(arrays)


def _results(arrays: Mapping[str, np.ndarray]) -> WaveResults:
    outputs: Any = of_kind("output", arrays) or None
    if outputs is not None and list(outputs) == ["h"]:  # a single array has no name of its own
        outputs = outputs["h"]
    scores, validation, history = (
        of_kind(kind, arrays) for kind in ("score", "validation", "history")
    )
    rows = arrays.get("test_rows")
    return WaveResults(
        arrays["runs"], scores, validation, history, arrays["diverged"], rows, outputs
    )


def _without_outputs(name: str) -> bool:
    return name != "test_rows" and not name.startswith("output.")


def _shapes(runs: Run) -> tuple[int, int]:
    """T and S."""
    return runs.split.train_rows.shape[1], runs.split.test_rows.shape[1]
