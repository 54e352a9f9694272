"""Training with a progress bar and checkpoints, and what scripts read of the runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import tyro
from rich.markup import escape

import digits_jax as dj
from common import console, options, plans, progress, startup, tasks, tracking
from common.drawing import plots
from common.options import require
from common.output import Output
from common.plans import Plan
from common.scores import Score, counted, scores_of
from common.tasks import Task
from digits_jax import calibration

if TYPE_CHECKING:
    from common.drawing import Drawing
    from report import Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.ResumableOut, options.Training):
    """The options of a script that trains one recipe; the base of its ``Config``."""

    job: tyro.conf.OmitArgPrefixes[options.Job] = options.Job()
    """Several processes, on one host or many."""


Config = TypeVar("Config", bound=Options)


def begin(config: Config, script: str) -> tuple[Config, Output, Task, Plan]:
    """Starts JAX; gives the options with what the recipe decides, the folder, rows and recipe."""
    output = Output(config, script=script)
    startup.start_jax(compilation_cache=config.compilation_cache, job=config.job)
    task = tasks.load_task(config.data)
    plan = plans.load_plan(
        config.recipe,
        task,
        epochs=config.epochs,
        batch_size=config.batch_size,
        set_=config.settings,
    )
    return dataclasses.replace(config, **plans.numbers_of(plan)), output, task, plan


class Seeded(Protocol):
    """What all scripts that train have among their options."""

    @property
    def seed(self) -> int:
        """Of all draws."""

    @property
    def resume(self) -> bool:
        """Whether to go on from the checkpoints."""


def train(
    config: Seeded,
    data: Any,
    plan: Plan,
    runs: dj.Run,
    names: list[str],
    output: Output,
    *,
    what: str | None = None,
    part: str = "",
    watched: bool = True,
) -> dj.CrossValidation:
    """``cross_validate`` with a progress bar, checkpoints, and a clean stop at a signal.

    ``config`` are a script's options, of which those of ``options.Training`` are heeded, too; not
    ``watched``: but for those that are of validation rows, and what else shows the epochs.
    ``what`` trains, in words: "5 folds + refit"; ``part`` is the checkpoints' own folder, where a
    script trains more than once.
    """
    from digits_jax.runs.memory import runs_at_once

    given = config if isinstance(config, options.Training) else options.Training()
    if not watched:
        given = dataclasses.replace(
            given, patience=None, keep="last", tensorboard=False, track=None
        )
    verbose: bool = getattr(config, "verbose", False)
    recipe, epochs, count = plan.recipe, plan.epochs, len(names)
    score, done = scores_of(recipe)[0], 0
    what = (counted(count, "run") if count > 1 else "") if what is None else what
    folder = output.checkpoints / part
    saved = _saved_epochs(folder)
    per_call = 1 if verbose else _epochs_per_call(epochs, given.checkpoint_every, saved)
    if config.resume and saved:
        going_on = f"going on after epoch {max(saved)} of {epochs}, from {folder}"
        console.say(escape(going_on), console.notes)
    with contextlib.ExitStack() as stack:
        trackers: list[tracking.TensorBoard | tracking.Module] = []
        if startup.reports():
            trackers = tracking.trackers(given, output.folder, names, data, runs, recipe, epochs)
        for each in trackers:
            stack.enter_context(each)
        with progress.waiting("finding how many runs fit in memory", at_once=False):
            size = runs_at_once(runs, data, recipe=recipe)
        rows = float(np.sum(runs.split.train_weights)) if size is None else None
        if size is not None:
            few = f"{counted(count, 'run')} are more than memory holds: {size} train at once"
            console.say(few, console.notes)
        by_line = verbose and size is None
        watch = progress.Watch(count, what=what, rows=rows, verbose=by_line, score=score)
        stack.enter_context(watch)

        def on_epoch(progress: dj.Progress) -> bool:
            nonlocal done
            output.begin()
            if size is None:
                for tracker in trackers:
                    tracker.write(progress.history)
                return watch.on_epoch(progress)
            here = np.isfinite(progress.history["loss"][:, 0])  # the others are of other waves
            trained = int(here.sum())
            history = {name: values[here] for name, values in progress.history.items()}
            before, now = done, progress._replace(history=history)
            done += trained if progress.epoch == progress.epochs else 0
            these = counted(trained, "run")
            return watch.on_epoch(now, what=these, done=before, part=trained / count)

        try:
            with plan.naming_mistakes():
                result = dj.cross_validate(
                    data,
                    runs,
                    recipe=recipe,
                    epochs=epochs,
                    wave_size=size,
                    patience=given.patience,
                    keep=given.keep,
                    epochs_per_call=per_call,
                    checkpoints=folder,
                    checkpoint_every=given.checkpoint_every,
                    names=names,
                    identity={"seed": config.seed},
                    about=options.identifying(config),
                    resume=config.resume,
                    on_epoch=on_epoch,
                )
        except dj.Interrupted as stop:
            raise stopped(stop, watch, output) from stop
        for tracker in trackers:
            tracker.write(result.history)  # a resumed run may have had no epoch left to train
        save_temperatures(data, names, folder, plan, result)
        return result


def save_temperatures(
    data: Any, names: list[str], folder: Path, plan: Plan, result: dj.CrossValidation
) -> None:
    """Saves, beside the checkpoints, what makes probabilities of the runs' logits honest.

    Where there are validation rows to fit it on, and classes; not in a job of several processes,
    whose states lie apart, nor where runs trained in waves, whose states are in files.
    """
    import jax

    from digits_jax.runs.temperatures import fit_temperatures

    if result.runs.split.validation_rows is None or jax.process_count() > 1:
        return
    if not jax.tree.leaves(result.states):
        return
    if plan.recipe.loss is not dj.cross_entropy or np.ndim(data[1]) != 1 or result.diverged.any():
        return
    found = fit_temperatures(result, data, recipe=plan.recipe)
    by_name = {name: float(t) for name, t in zip(names, found, strict=True) if np.isfinite(t)}
    calibration.save_temperatures(folder, by_name, epoch=int(np.max(result.epochs)))


def _saved_epochs(folder: Path) -> list[int]:
    """The epochs of all checkpoints in a folder."""
    from digits_jax.runs.extension import folders_of

    inside = [each for part in folders_of(folder) for each in part.glob("*")]
    return [int(each.name) for each in inside if each.name.isdecimal()]


def _epochs_per_call(epochs: int, checkpoint_every: int | None, saved: Sequence[int]) -> int:
    """Epochs between two looks at the runs: 1 on a CPU, up to 10 on an accelerator.

    Its epochs may take milliseconds, as long as a look. The number divides the epochs between two
    checkpoints, and those of the checkpoints to resume, so that a resumed run has the program of an
    uninterrupted one.
    """
    import jax

    if jax.default_backend() == "cpu":
        return 1
    looks = math.gcd(epochs, checkpoint_every or max(1, epochs // 10), *saved)
    return next(count for count in range(10, 0, -1) if looks % count == 0)


def stopped(stop: Exception, watch: progress.Watch, output: Output) -> BaseException:
    """What to raise when a signal has ended the run, with the command that goes on with it."""
    if not startup.reports():
        return SystemExit(128 + (watch.signal or signal.SIGINT))  # process 0 says it
    # The folder has the options of the run, but not those of each process of a job.
    words = [word for word in sys.argv[1:] if word != "--resume"]
    if startup.process_index() is None:
        words = ["--output-dir", str(output.folder)]
    command = shlex.join(["python", sys.argv[0], *words, "--resume"])
    message = f"{stop}; all of it is saved. Go on with: {command}"
    return console.Stopped(message, watch.signal or signal.SIGINT)


def name_diverged(result: dj.CrossValidation, names: list[str]) -> dict[str, int]:
    """The epochs since which runs diverged, by name; each also gets a line on standard error."""
    epochs = zip(names, result.diverged.tolist(), strict=True)
    diverged = {name: epoch for name, epoch in epochs if epoch}
    for name, epoch in diverged.items():
        console.say(
            f"[yellow]{escape(name)} diverged in epoch {epoch}[/]; it is left out of the means. "
            "Try a smaller --learning-rate.",
            console.errors,
        )
    return diverged


def about(config: Options, result: dj.CrossValidation) -> dict[str, Any]:
    """What ``results.json`` holds of every training."""
    runs, epochs = result.history["loss"].shape
    return {
        "config": dataclasses.asdict(config),  # with what the recipe has decided
        "trained": {"runs": runs, "epochs": epochs},
        "epochs_of_runs": result.epochs,
        "best_epochs": result.best_epochs,
        "seconds": result.seconds,
    }


def finish(
    config: Options,
    task: Task,
    output: Output,
    results: Mapping[str, Any],
    figures: Mapping[str, Drawing],
    page: Callable[[Mapping[str, Any]], Report],
    scores: Mapping[str, Mapping[str, float]],
) -> None:
    """``output.finish``; the scores of each tested run are for what tracks it."""
    epoch = int(np.max(results["epochs_of_runs"]))
    track = functools.partial(tracking.finish, config, output.folder, scores, epoch, figures)
    also = ["history.npz", "predictions.npz", "checkpoints/"]
    also += ["tensorboard/"] * config.tensorboard
    output.finish(results, figures, page, data=task.provenance, also=also, track=track)


def curves(result: dj.CrossValidation, scores: Sequence[Score], names: Sequence[str]) -> Drawing:
    """The figure of the history, up to where a run diverged."""
    epochs = np.arange(1, result.history["loss"].shape[1] + 1)
    failed = (result.diverged[:, None] > 0) & (epochs[None] >= result.diverged[:, None])
    found: dict[str, dict[str, Any]] = {"training": {}, "validation": {}}
    for kind, prefix in {"training": "", "validation": "validation_"}.items():
        for score in reversed(scores):  # the loss first
            values = result.history.get(f"{prefix}{score.name}")
            if values is not None:
                found[kind][score.title] = np.where(failed, np.nan, score.scale * values)
    return plots.learning_curves(found["training"], names, validation=found["validation"])


def wrong_digits(
    name: str, task: Task, rows: Sequence[int], answers: Sequence[str], title: str
) -> dict[str, Drawing]:
    """The figure of that name: rows [M] that were read wrong, with what was read [M].

    None of them, where the task has no images of one channel; the first 64 of more.
    """
    images, names = task.images, task.class_names
    if images is None or images.ndim != 3 or names is None:
        return {}
    shown = list(zip(rows, answers, strict=True))[:64]  # a sheet of more is no longer looked at
    titles = [f"row {row}\n{names[task.targets[row]]} as {answer}" for row, answer in shown]
    sheet = plots.digit_sheet(
        images[[row for row, _ in shown]],
        titles,
        title=f"{len(shown)} of {len(rows)} {title}",
        black=float(images.max()),
    )
    return {name: sheet}


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
