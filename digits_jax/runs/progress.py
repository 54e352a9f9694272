"""How far the training is: each run's last values, and a bar in a terminal or a notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
import numpy.typing as npt

from digits_jax.runs.results import History, Progress


def latest(history: History) -> dict[str, npt.NDArray[np.float32]]:
    """The values of each run's last epoch, float32 [R] by name, from a history [R, E].

    A run that has stopped has NaN in all of them since; so has one that diverged, if no metric
    stays finite.
    """
    known = [~np.isnan(values) for values in history.values()]
    trained = np.logical_or.reduce(known)
    runs, epochs = trained.shape
    last = epochs - 1 - trained[:, ::-1].argmax(axis=1)
    return {name: values[np.arange(runs), last] for name, values in history.items()}


@contextlib.contextmanager
def progress_bar(shown: bool, epochs: int) -> Iterator[Callable[[Progress], None]]:
    """A function to call after each call of the program; it draws where ``shown``.

    Of a job of several processes, process 0 draws.
    """
    if not shown or jax.process_index():
        yield lambda progress: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=epochs, unit="epoch") as bar:

        def show(progress: Progress) -> None:
            if not bar.n:  # what was resumed took no time, and compiling is over
                bar.initial = bar.n = progress.epoch
                bar.unpause()
            means = {name: float(each.mean()) for name, each in latest(progress.history).items()}
            bar.set_postfix(means, refresh=False)
            bar.update(progress.epoch - bar.n)

        yield show
