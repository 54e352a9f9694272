"""What appears on the terminal: consoles, signals, and warnings in plain words."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.style import Style
from rich.text import Text

from common.streams import ScriptConsole

if TYPE_CHECKING:
    from digits_jax import Provenance

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
