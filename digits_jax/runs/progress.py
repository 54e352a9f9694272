"""A bar that shows how far the training is, in a terminal and in a notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax

from digits_jax.runs.results import Progress


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
            means = {name: float(each[:, -1].mean()) for name, each in progress.history.items()}
            bar.set_postfix(means, refresh=False)
            bar.update(progress.epoch - bar.n)

        yield show
