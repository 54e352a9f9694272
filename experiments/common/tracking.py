"""What ``--tensorboard`` and ``--track`` show of a training, while it trains and at its end.

    tensorboard --logdir runs/cross_validate/<date>-<time>/tensorboard

Of TensorBoard's, every run (fold, seed, refit) is a run: curves of the training and validation
rows and the learning rate, epoch by epoch; at the end the test scores, the hyperparameters (of the
HParams page) and the figures. A module with wandb's interface, such as wandb or trackio, has one
run for each start of a script, with the mean of all runs, and each of a few.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common.options import NOT_IN_IDENTITY, Tracked, require
from common.plans import learning_rate_of

if TYPE_CHECKING:
    from digits_jax.runs.results import History

FOLDER = "tensorboard"
FIGURES = "figures"  # the run that holds them
PROJECT = "digits_jax"  # of a module with wandb's interface
FEW = 20  # runs, each of which such a module gets; of more, their mean alone


def learning_rates(runs: dj.Run, recipe: dj.Recipe, epochs: int) -> npt.NDArray[Any]:
    """The learning rate [R, E] of the last step of each epoch.

    The rate of an optimizer with a method ``rate_fraction``, such as ``OneCycleAdam``, follows it;
    that of any other stays as it is. NaN where the hyperparameters have no ``learning_rate``.

    Args:
        runs: with their steps, if the optimizer asks for them.
        recipe: whose optimizer it is.
        epochs: E.
    """
    peak = learning_rate_of(runs.hyperparameters)
    if np.ndim(peak) != 1:  # none, or one that is no number
        return np.full((len(runs.key), epochs), np.nan)
    peaks = np.asarray(peak)[:, np.newaxis]
    fraction = getattr(recipe.optimizer, "rate_fraction", None)
    if fraction is None:
        return np.repeat(peaks, epochs, axis=1)
    steps = np.asarray(runs.steps)[:, np.newaxis]
    done = steps * np.arange(1, epochs + 1) / epochs - 1  # before that step
    return np.asarray(peaks * fraction(done, steps))


class TensorBoard:
    """Writes the history and learning rate of each run, epoch by epoch.

    Args:
        folder: the output folder. What an earlier attempt tracked is replaced: a resumed run knows
            all of its history.
        names: of the runs [R].
        learning_rates: [R, E], see ``learning_rates``.
    """

    def __init__(self, folder: Path, names: Sequence[str], learning_rates: npt.ArrayLike) -> None:
        from tensorboardX import SummaryWriter

        root = folder / FOLDER
        shutil.rmtree(root, ignore_errors=True)
        self._writers = [SummaryWriter(str(root / name)) for name in names]
        self._rates = np.asarray(learning_rates)
        self._written = 0

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *error: object) -> None:
        for writer in self._writers:
            writer.close()

    def write(self, history: History) -> None:
        """Writes the epochs of a history [R, E] that are new."""
        epochs = history["loss"].shape[1]
        for r, writer in enumerate(self._writers):
            for epoch in range(self._written, epochs):
                for name, values in history.items():
                    writer.add_scalar(_tag(name), float(values[r, epoch]), epoch + 1)
                if np.isfinite(self._rates[r, epoch]):
                    writer.add_scalar("learning_rate", float(self._rates[r, epoch]), epoch + 1)
        self._written = epochs


class Module:
    """Logs the same to a module with wandb's interface: ``init``, ``log``, ``finish``.

    Its run stays open for ``finish`` of this module, unless training fails.

    Args:
        module: its name.
        run: the name of the run there.
        config: options by name; of them, those that change what is trained.
        names: of the runs [R].
        learning_rates: [R, E], see ``learning_rates``.
    """

    def __init__(
        self,
        module: str,
        run: str,
        *,
        config: Mapping[str, Any],
        names: Sequence[str],
        learning_rates: npt.NDArray[Any],
    ) -> None:
        self._module = importlib.import_module(module)
        self._names, self._rates, self._written = names, learning_rates, 0
        self._module.init(project=PROJECT, name=run, config=hyperparameters(config))

    def __enter__(self) -> Module:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:
            self._module.finish()

    def write(self, history: History) -> None:
        """Logs the epochs of a history [R, E] that are new; where runs diverged, of the others."""
        epochs = history["loss"].shape[1]
        for epoch in range(self._written, epochs):
            now = {_tag(name): values[:, epoch] for name, values in history.items()}
            now["learning_rate"] = self._rates[:, epoch]
            self._module.log(_of_runs(now, self._names), step=epoch + 1)
        self._written = epochs


def trackers(
    tracked: Tracked,
    folder: Path,
    names: Sequence[str],
    data: Any,
    runs: dj.Run,
    recipe: dj.Recipe,
    epochs: int,
) -> list[TensorBoard | Module]:
    """What shows the epochs of ``cross_validate`` beside the terminal, as the options say."""
    if not (tracked.tensorboard or tracked.track):
        return []
    from digits_jax.runs.checks import check_data
    from digits_jax.runs.preparation import prepare

    complete, _ = prepare(check_data(data), runs, recipe, epochs)
    rates = learning_rates(complete, recipe, epochs)
    made: list[TensorBoard | Module] = []
    if tracked.tensorboard:
        made.append(TensorBoard(folder, names, rates))
    if tracked.track:
        about: Any = {"config": vars(tracked), "names": names, "learning_rates": rates}
        made.append(Module(tracked.track, folder.name, **about))
    return made


def require_module(name: str) -> None:
    """Raises UsageError where ``--track`` names no module with wandb's interface."""
    found = None
    with contextlib.suppress(ModuleNotFoundError, ValueError):
        found = importlib.util.find_spec(name)
    require(found is not None, f"--track {name} needs a package: pip install {name}")
    module = importlib.import_module(name)
    lacks = [each for each in ("init", "log", "finish") if not callable(getattr(module, each, 0))]
    other = f"--track {name}: the module has no {', '.join(lacks)}; give wandb, trackio or one like"
    require(not lacks, f"{other} them")


def _tag(name: str) -> str:
    """Where a score of the history is shown."""
    part = "validation" if name.startswith("validation_") else "train"
    return f"{part}/{name.removeprefix('validation_')}"


def _of_runs(values: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> dict[str, float]:
    """Values [R] by tag as numbers: their mean, and of a few runs each."""
    found: dict[str, float] = {}
    for tag, each in values.items():
        known = {name: float(v) for name, v in zip(names, each, strict=True) if np.isfinite(v)}
        if known:
            found[tag] = float(np.mean(list(known.values())))
        if 1 < len(names) <= FEW:
            found |= {f"{name}/{tag}": value for name, value in known.items()}
    return found


def hyperparameters(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Of options, those that change what is trained, as far as trackers can show them."""
    return {
        name: value
        for name, value in config.items()
        if isinstance(value, bool | int | float | str) and name not in NOT_IN_IDENTITY
    }


def finish(
    tracked: Tracked,
    folder: Path,
    scores: Mapping[str, Mapping[str, float]],
    epoch: int,
    figures: Iterable[str],
) -> None:
    """Adds what the end of a training has to show, as the options say."""
    if tracked.tensorboard:
        about: Any = {"config": vars(tracked), "scores": scores, "epoch": epoch}
        finish_tensorboard(folder, figures=figures, **about)
    if tracked.track:
        finish_module(tracked.track, scores, epoch)


def finish_tensorboard(
    folder: Path,
    *,
    config: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, float]],
    epoch: int,
    figures: Iterable[str],
) -> None:
    """Adds the figures, and for each tested run its hyperparameters and test scores.

    Args:
        folder: the output folder.
        config: options by name; of them, those that change what is trained.
        scores: of the test rows, by the name of the run and of the score.
        epoch: the last one.
        figures: names of PNG files in the folder, without suffix.
    """
    from PIL import Image
    from tensorboardX import SummaryWriter

    root = folder / FOLDER
    for run, values in scores.items():
        _hparams(root / run, hyperparameters(config), _test(values), epoch)
    with SummaryWriter(str(root / FIGURES)) as writer:
        for name in figures:
            if not (folder / f"{name}.png").is_file():
                continue  # it could not be drawn
            image = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
            writer.add_image(name, image, dataformats="HWC")


def _test(values: Mapping[str, float]) -> dict[str, float]:
    return {f"test/{name}": float(value) for name, value in values.items()}


def _hparams(folder: Path, h: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
    """A line of the HParams page; its metrics are scalars of the run, at that step."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:  # a name would be a folder in the run's
        writer.add_hparams(dict(h), dict(metrics), name=".", global_step=step)


def finish_module(module: str, scores: Mapping[str, Mapping[str, float]], epoch: int) -> None:
    """Logs the test scores at the last epoch, and ends the run that ``Module`` began."""
    tracker = importlib.import_module(module)
    names = list(scores)
    tags = dict.fromkeys(tag for each in scores.values() for tag in _test(each))
    by_tag = {
        tag: np.array([_test(each).get(tag, np.nan) for each in scores.values()]) for tag in tags
    }
    tracker.log(_of_runs(by_tag, names), step=epoch)
    tracker.finish()


def write_search(
    folder: Path,
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, float], int]],
    *,
    tensorboard: bool,
    module: str | None,
) -> None:
    """The configurations of a search, each a run with its hyperparameters and final scores.

    Args:
        folder: the output folder, whose earlier files of TensorBoard are replaced.
        rows: hyperparameters, final scores and last epoch of each configuration.
        tensorboard: whether to write TensorBoard's files.
        module: with wandb's interface, or None.
    """
    if tensorboard:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    for number, (h, metrics, epoch) in enumerate(rows, 1):
        shown, name = hyperparameters(h), f"configuration {number}"
        if tensorboard:
            _hparams(folder / FOLDER / name, shown, metrics, epoch)
        if module is not None:
            tracker = importlib.import_module(module)
            tracker.init(project=PROJECT, name=f"{folder.name}, {name}", config=shown)
            tracker.log(dict(metrics), step=epoch)
            tracker.finish()
