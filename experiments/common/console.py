"""What appears on the terminal: consoles, progress, signals, and warnings in plain words."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.style import Style
from rich.text import Text

from common.scores import ACCURACY, Score
from common.streams import ScriptConsole

if TYPE_CHECKING:
    from digits_jax import Provenance
    from digits_jax.runs.results import Progress as Epochs

# Signals that stop a run once it is saved: of a terminal, and those that batch systems send before
# the time is up. One that was ignored at the start, as SIGHUP under nohup, stays so.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has the first two
]


# All three go without colours where NO_COLOR is set, and without control codes in a file or pipe.
results = ScriptConsole()
notes = ScriptConsole()  # what is going on; --quiet keeps it back
errors = ScriptConsole(stderr=True)

# What JAX says of an accelerator that it can't use, and what the user can do about it.
JAX_SAYS = {
    "NVIDIA GPU may be present": "there is an NVIDIA GPU, but this JAX can't use it and takes the "
    "CPU; for the GPU: pip install '.[cuda13]', or '.[cuda12]' with a driver below 580",
    "Google TPU may be present": "there is a TPU, but this JAX can't use it and takes the CPU; for "
    "the TPU: pip install '.[tpu]'",
    "CUDA backend failed to initialize": "the GPU could not be started, and JAX takes the CPU; "
    "JAX_LOGGING_LEVEL=WARNING shows why. Often another program holds the GPU's memory: nvidia-smi",
}


def say(text: str, on: Console = results) -> None:
    """A line as it is: no word of it coloured, none of it wrapped."""
    on.print(text, highlight=False, soft_wrap=True)


def show_path(path: Path) -> None:
    """The path alone on a line: a link where a terminal follows links."""
    if results.is_terminal:
        results.print(Text(str(path), Style(link=path.absolute().as_uri())), soft_wrap=True)
    else:
        say(escape(str(path)))


def say_in_plain_words() -> None:
    """Warnings that a user can act on get one plain line, once; those of libraries are dropped.

    Libraries' warnings come back with Python's ``-W`` and JAX's ``JAX_LOGGING_LEVEL``.
    """
    said: set[str] = set()

    def once(message: str) -> bool:
        new = message not in said
        said.add(message)
        return new

    def in_our_words(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        ours = [words for theirs, words in JAX_SAYS.items() if theirs in message]
        if ours:
            record.msg, record.args = ours[0], None
        return (bool(ours) or record.levelno >= logging.ERROR) and once(record.getMessage())

    def not_shown_yet(record: logging.LogRecord) -> bool:  # show_data shows the bundled rows
        message = record.getMessage()
        return not message.startswith("bundled:") and once(message)

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no folder for its cache, say
    listened = {"digits_jax": not_shown_yet}
    if "JAX_LOGGING_LEVEL" not in os.environ:
        listened["jax"] = in_our_words
    for name, wanted in listened.items():
        handler = RichHandler(console=errors, show_time=False, show_path=False)
        handler.addFilter(wanted)
        library = logging.getLogger(name)
        library.handlers = [handler]
        library.setLevel(logging.WARNING)
        library.propagate = False

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category.__module__.startswith("digits_jax") and once(str(message)):
            errors.print(f"[yellow]warning:[/] {escape(str(message))}", soft_wrap=True)

    if not sys.warnoptions:
        warnings.showwarning = show


def show_data(provenance: Provenance) -> None:
    """One line: which rows these are and why."""
    note = escape(provenance.note)
    fallback = "because" in note  # not the rows that one would wish for
    if fallback:
        note = f"[yellow]{note}[/]"
    line = f"[bold]data[/] {note} ({provenance.rows} rows, sha256 {provenance.sha256[:12]}…)"
    say(line, errors if fallback and notes.quiet else notes)


class Stopped(Exception):
    """A signal ended the run after it was saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Stop:
    """Keeps the first of ``SIGNALS`` for whoever asks; a second one ends the process at once.

    Use it in a ``with`` block. A thread of its own listens, because Python's handlers wait until
    XLA has compiled or trained, which may take a minute. Outside the main thread, where Python
    hears no signals, it does nothing.
    """

    signal: int | None = None

    def __enter__(self) -> Stop:
        self._hears = threading.current_thread() is threading.main_thread()
        if not self._hears:
            return self
        ours, self._systems = socket.socketpair()
        self._systems.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._systems.fileno(), warn_on_full_buffer=False)
        self._handlers = {
            number: signal.signal(number, lambda *_: None)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        threading.Thread(target=self._listen, args=[ours], daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._hears:
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._systems.close()  # ends the thread

    def _listen(self, ours: socket.socket) -> None:
        with ours:
            while number := ours.recv(1):
                if number[0] not in self._handlers:
                    continue
                if self.signal is not None:
                    results.show_cursor()
                    os._exit(128 + number[0])
                self.signal = number[0]
                errors.print("stopping after this epoch; once more to end at once")


def _latest(history: Any) -> Any:
    """The last value of each run [R, E] that there is: a run that has stopped has NaN since."""
    known = np.isfinite(history)
    last = history.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return history[np.arange(len(history)), last]


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
        if not (notes.quiet or notes.is_interactive):
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
                say(self._news or f"{self._doing}: {passed:.0f} s so far", notes)
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
        if notes.quiet or not notes.is_interactive:
            if at_once:
                say(escape(doing), notes)
            yield lambda words: beat.doing(doing, news=words)
            return
        words = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), words, TimeElapsedColumn())
        with Progress(*columns, console=notes, transient=True) as bar:
            task = bar.add_task(doing, total=None)
            yield lambda now: bar.update(task, description=now)


class Watch:
    """Shows the epochs of ``cross_validate``, and turns the first signal into a stop.

    Use it in a ``with`` block, and its ``on_epoch`` as the callback. A second signal ends the
    process at once. On a terminal there is a bar; elsewhere, as in a notebook or a log, ten plain
    lines, and more where they would be far apart; verbose, a line an epoch. With several runs, the
    score is their mean ± sd.

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
        self._stop = Stop()
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
            TextColumn("left"),
            console=notes,
            transient=True,
            expand=True,
            disable=verbose or notes.quiet or not notes.is_interactive,
        )
        self._task = self._bar.add_task(self._compiling, total=None, now="")

    @property
    def signal(self) -> int | None:
        """The signal that came, if one did."""
        return self._stop.signal

    def __enter__(self) -> Watch:
        self._stop.__enter__()
        if not notes.is_interactive:
            say(self._compiling, notes)
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
        now = time.perf_counter()
        reached = done / self._count + part * progress.epoch / progress.epochs
        if self._first is None:  # its time includes compiling
            self._first = reached, now
        since, passed = reached - self._first[0], now - self._first[1]
        rate = since / passed if since > 0 else None  # of all, a second
        values = _latest(progress.history[self._score.name])
        mean = f"training {self._score.name} {self._score.text(float(values.mean()))}"
        spread = f" ± {self._score.text(float(values.std()))}" if len(values) > 1 else ""
        text = self._score.with_unit(mean + spread)
        epoch = f"epoch {progress.epoch}/{progress.epochs}"
        where = epoch + (self._what if what is None else f" of {what}")
        if part < 1:
            where += f", {done:.0f} of {self._count} {self._unit}s done"
        speed = ""
        if rate and self._rows:
            speed = f"{rate * progress.epochs * self._rows:,.0f} rows/s"
        self._show(reached, epoch if notes.width < 80 else where, text, speed)
        line = f"{where}: {text}" + f", {speed}" * bool(speed)
        if rate and reached < 1:
            line += f", {(1 - reached) / rate:.0f} s left"
        if self._verbose:
            means = " - ".join(
                f"{name}: {each[:, -1].mean():.4f}" for name, each in progress.history.items()
            )
            seconds = f"{now - self._before_epoch:.2f}s"
            notes.print(
                f"Epoch {progress.epoch}/{progress.epochs} - {seconds} - {means}", highlight=False
            )
            self._before_epoch, line = now, ""
        elif not notes.is_interactive and reached >= self._next - 1e-9:
            self._next = 0.1 + math.floor(10 * reached + 1e-9) / 10
            say(line, notes)
            line = ""
        after = f"after {where}" if reached < 1 - 1e-9 else "evaluating"
        self._beat.doing(after, news=line)
        return self.signal is not None

    def _show(self, reached: float, where: str, text: str, speed: str) -> None:
        """On the bar, as far as the terminal is wide."""
        now = f"{text}  {speed}" if speed and notes.width >= 110 else text
        self._bar.update(self._task, description=where, total=1.0, completed=reached, now=now)
