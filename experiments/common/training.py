"""Training with a progress bar and checkpoints, and what scripts read of the runs."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from common import console, tracking
from common.options import require
from common.output import Output
from common.startup import reports

if TYPE_CHECKING:
    from digits_jax import CrossValidation, Dataset, Recipe, Run, TrainState
    from digits_jax.runs.results import Progress


def train(
    dataset: Dataset,
    runs: Run,
    names: list[str],
    output: Output,
    *,
    recipe: Recipe,
    epochs: int,
    seed: int,
    checkpoint_every: int | None,
    resume: bool,
    verbose: bool = False,
    part: str = "",
    tensorboard: bool = False,
    about: Mapping[str, Any] | None = None,
) -> CrossValidation:
    """``cross_validate`` with a progress bar, checkpoints, and a clean stop at a signal.

    ``part`` is the checkpoints' own folder, where a script trains more than once; ``about`` are the
    options that a refusal names, see ``options.identifying``.
    """
    import numpy as np

    import digits_jax as dj

    rows = float(np.sum(runs.split.train_weights))
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(console.Watch(epochs, len(names), rows=rows, verbose=verbose))
        tracker = None
        if tensorboard and reports():
            from digits_jax.runs.checks import check_data
            from digits_jax.runs.preparation import prepare

            complete, _ = prepare(check_data(dataset.data), runs, recipe, epochs)
            rates = tracking.learning_rates(complete, recipe, epochs)
            tracker = stack.enter_context(tracking.Tracker(output.folder, names, rates))

        def on_epoch(progress: Progress) -> bool:
            output.begin()
            if tracker is not None:
                tracker.write(progress.history)
            return watch.on_epoch(progress)

        try:
            result = dj.cross_validate(
                dataset.data,
                runs,
                recipe=recipe,
                epochs=epochs,
                checkpoints=output.checkpoints / part,
                checkpoint_every=checkpoint_every,
                identity={"runs": names, "seed": seed},
                about=about,
                resume=resume,
                on_epoch=on_epoch,
            )
        except dj.Interrupted as stop:
            raise stopped(stop, watch, output) from stop
        if tracker is not None:
            tracker.write(result.history)  # a resumed run may have had no epoch left to train
        return result


def stopped(stop: Exception, watch: console.Watch, output: Output) -> BaseException:
    """What to raise when a signal has ended the run, with the command that goes on with it."""
    if not reports():
        return SystemExit(128 + (watch.signal or signal.SIGINT))  # process 0 says it
    words = [word for word in sys.argv if word != "--resume"]
    if not any(word.startswith("--output-dir") for word in words):
        words += ["--output-dir", str(output.folder)]
    command = shlex.join(["python", *words, "--resume"])
    message = f"{stop}; all of it is saved. Go on with: {command}"
    return console.Stopped(message, watch.signal or signal.SIGINT)


def name_diverged(result: CrossValidation, names: list[str]) -> dict[str, int]:
    """The epochs since which runs diverged, by name; each also gets a line on standard error."""
    epochs = zip(names, result.diverged.tolist(), strict=True)
    diverged = {name: epoch for name, epoch in epochs if epoch}
    for name, epoch in diverged.items():
        console.errors.print(
            f"[yellow]{escape(name)} diverged in epoch {epoch}[/]; it is left out of the means. "
            "Try a smaller --learning-rate.",
            highlight=False,
            soft_wrap=True,
        )
    return diverged


def curves(result: CrossValidation) -> tuple[Any, Any]:
    """Training loss and accuracy [R, E], NaN from where a run diverged on: for a figure."""
    import numpy as np

    epochs = np.arange(1, result.history["loss"].shape[1] + 1)
    failed = (result.diverged[:, None] > 0) & (epochs[None] >= result.diverged[:, None])
    loss, accuracy = (
        np.where(failed, np.nan, result.history[name]) for name in ("loss", "accuracy")
    )
    return loss, accuracy


def run_names(states: TrainState, identity: Mapping[str, Any]) -> list[str]:
    """The names of the runs of a checkpoint, as its script gave them, or run 1, run 2, …."""
    count = len(states.step)
    names = identity.get("runs")
    if isinstance(names, list) and len(names) == count:
        return [str(name) for name in names]
    return [f"run {i + 1}" for i in range(count)]


def find_run(names: Sequence[str], run: str) -> int:
    """Which of the runs --run means: by its name, or by its number from 1."""
    if run in names:
        return names.index(run)
    known = f"--run {run}: the checkpoint has {', '.join(names)}, or 1 to {len(names)}"
    require(run.isdecimal() and 1 <= int(run) <= len(names), known)
    return int(run) - 1


def checkpoints_in(folder: Path) -> Path:
    """The folder of checkpoints that --checkpoint means: itself, or that of an output folder."""
    inside = folder / "checkpoints"
    folder = inside if inside.is_dir() else folder
    # Of a folder that isn't there, or whose checkpoints are damaged, the library speaks.
    held = not folder.is_dir() or any(each.name.isdecimal() for each in folder.iterdir())
    give = "give the output folder of train.py or cross_validate.py"
    require(held, f"no checkpoint in {folder}; {give}")
    return folder
