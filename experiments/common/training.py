"""Training with a progress bar and checkpoints, and what scripts read of the runs."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape

from common import console, tracking
from common.options import require
from common.output import Output
from common.scores import Score, scores_of
from common.startup import reports
from common.tasks import Plan

if TYPE_CHECKING:
    from digits_jax import CrossValidation, Run
    from digits_jax.runs.results import Progress


def train(
    data: Any,
    runs: Run,
    names: list[str],
    output: Output,
    plan: Plan,
    *,
    seed: int,
    resume: bool,
    checkpoint_every: int | None = None,
    patience: int | None = None,
    keep: Literal["last", "best"] = "last",
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
    recipe, epochs = plan.recipe, plan.epochs
    with contextlib.ExitStack() as stack:
        score = scores_of(recipe)[0]
        watch = stack.enter_context(
            console.Watch(epochs, len(names), rows=rows, verbose=verbose, score=score)
        )
        tracker = None
        if tensorboard and reports():
            from digits_jax.runs.checks import check_data
            from digits_jax.runs.preparation import prepare

            complete, _ = prepare(check_data(data), runs, recipe, epochs)
            rates = tracking.learning_rates(complete, recipe, epochs)
            tracker = stack.enter_context(tracking.Tracker(output.folder, names, rates))

        def on_epoch(progress: Progress) -> bool:
            output.begin()
            if tracker is not None:
                tracker.write(progress.history)
            return watch.on_epoch(progress)

        try:
            result = dj.cross_validate(
                data,
                runs,
                recipe=recipe,
                epochs=epochs,
                patience=patience,
                keep=keep,
                checkpoints=output.checkpoints / part,
                checkpoint_every=checkpoint_every,
                names=names,
                identity={"seed": seed},
                about=about,
                resume=resume,
                on_epoch=on_epoch,
            )
        except dj.Interrupted as stop:
            raise stopped(stop, watch, output) from stop
        except Exception as error:
            mistake = plan.mistake(error)
            if mistake is None:
                raise
            raise mistake from error
        if tracker is not None:
            tracker.write(result.history)  # a resumed run may have had no epoch left to train
        save_temperatures(data, names, output.checkpoints / part, plan, result)
        return result


def save_temperatures(
    data: Any, names: list[str], folder: Path, plan: Plan, result: CrossValidation
) -> None:
    """Saves, beside the checkpoints, what makes probabilities of the runs' logits honest.

    Where there are validation rows to fit it on, and classes; not in a job of several processes,
    whose states lie apart.
    """
    import jax
    import numpy as np

    import digits_jax as dj
    from digits_jax.calibration import save_temperatures
    from digits_jax.runs.temperatures import fit_temperatures

    if result.runs.split.validation_rows is None or jax.process_count() > 1:
        return
    if plan.recipe.loss is not dj.cross_entropy or np.ndim(data[1]) != 1 or result.diverged.any():
        return
    found = fit_temperatures(result, data, recipe=plan.recipe)
    by_name = {name: float(t) for name, t in zip(names, found, strict=True) if np.isfinite(t)}
    save_temperatures(folder, by_name, epoch=int(np.max(result.epochs)))


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


def curves(result: CrossValidation, scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    """Curves [R, E] for a figure, in the scores' units, by "training" and "validation" and title.

    NaN from where a run diverged on.
    """
    import numpy as np

    epochs = np.arange(1, result.history["loss"].shape[1] + 1)
    failed = (result.diverged[:, None] > 0) & (epochs[None] >= result.diverged[:, None])
    found: dict[str, dict[str, Any]] = {"training": {}, "validation": {}}
    for kind, prefix in {"training": "", "validation": "validation_"}.items():
        for score in reversed(scores):  # the loss first
            values = result.history.get(f"{prefix}{score.name}")
            if values is not None:
                found[kind][score.title] = np.where(failed, np.nan, score.scale * values)
    return found


def named_outputs(outputs: Any, name: str) -> dict[str, Any]:
    """Outputs [R, S, ...], an array or a pytree of arrays, as arrays by name."""
    from digits_jax.runs.identity import named_leaves

    leaves = named_leaves(outputs)
    if len(leaves) == 1:
        return {name: next(iter(leaves.values()))}
    return {f"{name}.{key}": leaf for key, leaf in leaves.items()}


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
