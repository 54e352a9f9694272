"""What goes on: a bar on a terminal, lines in a log or pipe."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from common import console
from common.scores import ACCURACY, Score

if TYPE_CHECKING:
    from digits_jax.runs.results import Progress as Epochs


class Heartbeat:
    """Lines in a log or pipe while nothing else is said; nothing on a terminal, which has a bar.

    A line comes after ``SILENCE`` seconds, of work that takes over ten minutes every minute. A
    ``with`` block.

    Args:
        doing: what is going on.
    """

    SILENCE, LONG = 8.0, 600.0  # seconds

    def __init__(self, doing: str) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.doing(doing)

    def __enter__(self) -> Heartbeat:
        if not (console.notes.quiet or console.notes.is_interactive):
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def doing(self, what: str, *, news: str = "") -> None:
        """What goes on from now; ``news`` are for the next line, where they were not said."""
        self._doing, self._news, self._since = what, news, time.monotonic()
        if not news:
            self._spoke = self._since

    def _beat(self) -> None:
        while not self._over.wait(0.5):
            now = time.monotonic()
            passed = now - self._since
            if now - self._spoke >= (self.SILENCE if passed < self.LONG else 60):
                words = self._news or f"{self._doing}: {passed:.0f} s so far"
                console.say(escape(words), console.notes)
                self._news, self._spoke = "", now


@contextlib.contextmanager
def waiting(doing: str, *, at_once: bool = True) -> Iterator[Callable[[str], None]]:
    """Says what takes long: a spinner with its time on a terminal, lines elsewhere.

    Args:
        doing: what is going on.
        at_once: or only once it has taken some seconds, where it seldom does.

    Yields:
        A function that changes the words, as in "3 of 50 splits".
    """
    with Heartbeat(doing) as beat:
        if console.notes.quiet or not console.notes.is_interactive:
            if at_once:
                console.say(escape(doing), console.notes)
            yield lambda words: beat.doing(doing, news=words)
            return
        words = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), words, TimeElapsedColumn())
        with Progress(*columns, console=console.notes, transient=True) as bar:
            task = bar.add_task(doing, total=None)
            yield lambda now: bar.update(task, description=now)


class Watch:
    """Shows the epochs of ``cross_validate``, and turns the first signal into a stop.

    Use it in a ``with`` block, and its ``on_epoch`` as the callback. A second signal ends the
    process at once. On a terminal there is a bar; elsewhere, as in a notebook or a log, a line for
    the first epoch and each tenth of all, and more where they would be far apart; verbose, a line
    an epoch. With several runs, the score is their mean ± sd.

    Args:
        count: of runs, or of what else ``unit`` says is done part by part.
        what: trains, as in "5 folds + refit"; nothing for a single run.
        rows: training rows of an epoch of all runs together; without it, no rows a second.
        verbose: a line an epoch.
        unit: what ``count`` counts.
        score: of the history, to show; default: the accuracy.
    """

    def __init__(
        self,
        count: int,
        *,
        what: str = "",
        rows: float | None = None,
        verbose: bool = False,
        unit: str = "run",
        score: Score | None = None,
    ) -> None:
        self._stop = console.Stop()
        self._count = count
        self._what = f" of {what}" if what else ""
        self._rows = rows
        self._verbose = verbose
        self._unit = unit
        self._score = score or ACCURACY
        self._next = 0.1  # part of all at which the next line comes
        self._first: tuple[float, float] | None = None  # part that is done, and time
        self._compiling = f"compiling the program{self._what}"
        self._beat = Heartbeat(self._compiling)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[now]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[left]}"),
            console=console.notes,
            transient=True,
            expand=True,
            disable=verbose or console.notes.quiet or not console.notes.is_interactive,
        )
        self._task = self._bar.add_task(self._compiling, total=None, now="", left="")

    @property
    def signal(self) -> int | None:
        """The signal that came, if one did."""
        return self._stop.signal

    def __enter__(self) -> Watch:
        self._stop.__enter__()
        if self._verbose or not console.notes.is_interactive:
            console.say(self._compiling, console.notes)
        self._bar.start()
        self._beat.__enter__()
        self._before_epoch = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._beat.__exit__()
        self._bar.stop()
        self._stop.__exit__()

    def on_epoch(
        self, progress: Epochs, *, what: str | None = None, done: float = 0.0, part: float = 1.0
    ) -> bool:
        """Shows an epoch; True once a signal came.

        Args:
            progress: of the runs that train now.
            what: trains now, where that is not all.
            done: how many of ``count`` are done before.
            part: of all that trains now.
        """
        from digits_jax.runs.progress import latest  # it loads JAX

        now = time.perf_counter()
        reached = done / self._count + part * progress.epoch / progress.epochs
        first = self._first is None
        if self._first is None:  # its time includes compiling
            self._first = reached, now
        since, passed = reached - self._first[0], now - self._first[1]
        rate = since / passed if since > 0 else None  # of all, a second
        now_at = latest(progress.history)
        values = now_at[self._score.name]
        mean = f"training {self._score.name} {self._score.text(float(values.mean()))}"
        spread = f" ± {self._score.text(float(values.std()))}" if len(values) > 1 else ""
        text = self._score.with_unit(mean + spread)
        epoch = f"epoch {progress.epoch}/{progress.epochs}"
        where = epoch + (self._what if what is None else f" of {what}")
        if part < 1:
            whole = done + part * self._count * (progress.epoch == progress.epochs)
            where += f", {whole:.0f} of {self._count} {self._unit}s done"
        speed = ""
        if rate and self._rows:
            speed = f"{rate * progress.epochs * self._rows:,.0f} rows/s"
        self._show(reached, (where, epoch), text, speed)
        line = f"{where}: {text}" + f", {speed}" * bool(speed)
        if rate and reached < 1:
            line += f", {(1 - reached) / rate:.0f} s left"
        if self._verbose:
            means = " - ".join(f"{name}: {each.mean():.4f}" for name, each in now_at.items())
            seconds = f"{now - self._before_epoch:.2f}s"
            console.notes.print(
                f"Epoch {progress.epoch}/{progress.epochs} - {seconds} - {means}", highlight=False
            )
            self._before_epoch, line = now, ""
        elif not console.notes.is_interactive and (first or reached >= self._next - 1e-9):
            self._next = 0.1 + math.floor(10 * reached + 1e-9) / 10
            console.say(line, console.notes)
            line = ""
        after = f"after {where}" if reached < 1 - 1e-9 else "evaluating"
        self._beat.doing(after, news=line)
        return self.signal is not None

    def _show(self, reached: float, where: tuple[str, str], text: str, speed: str) -> None:
        """On the bar, whose own columns take 19, what fits: in long, or in short."""
        free = console.notes.width - 19 - len(text)
        place = where[0] if len(where[0]) <= free else where[1]
        now = f"{text}  {speed}" if speed and len(place) + len(speed) + 2 <= free else text
        shown: Any = {"description": place, "now": now, "left": "left"}
        self._bar.update(self._task, total=1.0, completed=reached, **shown)
