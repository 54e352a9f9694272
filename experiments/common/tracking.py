"""What ``--tensorboard`` writes: TensorBoard's own files, in the folder ``tensorboard`` of a run.

    tensorboard --logdir runs/cross_validate/<date>-<time>/tensorboard

Every run (fold, seed, refit) is a run of TensorBoard's. Its scalars are there while it trains; the
figures, and the hyperparameters with the final scores (of TensorBoard's HParams page), at the end.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common.options import NOT_IN_IDENTITY
from common.plans import learning_rate_of

if TYPE_CHECKING:
    from digits_jax.runs.results import History

FOLDER = "tensorboard"
FIGURES = "figures"  # the run that holds them


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


class Tracker:
    """Writes training loss, accuracy and learning rate of each run, epoch by epoch.

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

    def __enter__(self) -> Tracker:
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
                    part = "validation" if name.startswith("validation_") else "train"
                    tag = f"{part}/{name.removeprefix('validation_')}"
                    writer.add_scalar(tag, float(values[r, epoch]), epoch + 1)
                if np.isfinite(self._rates[r, epoch]):
                    writer.add_scalar("learning_rate", float(self._rates[r, epoch]), epoch + 1)
        self._written = epochs


def finish(
    folder: Path,
    *,
    config: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, float]],
    figures: Iterable[str],
) -> None:
    """Adds the figures, and for each tested run its hyperparameters and final scores.

    Args:
        folder: the output folder.
        config: options by name; of them, those that change what is trained.
        scores: of the test rows, by the name of the run and of the score.
        figures: names of PNG files in the folder, without suffix.
    """
    from PIL import Image
    from tensorboardX import SummaryWriter

    root = folder / FOLDER
    hyperparameters = {
        name: value
        for name, value in config.items()
        if isinstance(value, bool | int | float | str) and name not in NOT_IN_IDENTITY
    }
    for run, values in scores.items():
        metrics = {f"test/{name}": float(value) for name, value in values.items()}
        with SummaryWriter(str(root / run)) as writer:
            writer.add_hparams(hyperparameters, metrics, name=".")  # in the run's own folder
    with SummaryWriter(str(root / FIGURES)) as writer:
        for name in figures:
            if not (folder / f"{name}.png").is_file():
                continue  # it could not be drawn
            image = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
            writer.add_image(name, image, dataformats="HWC")
