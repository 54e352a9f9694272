"""Consoles that never end finished work, and that can wait until the results are written."""

from __future__ import annotations

import contextlib
import os
from typing import Any, ClassVar

from rich.console import Console


class Stream:
    """A stream whose errors wait: what it can't encode is replaced, what it can't write is lost.

    ``failures`` has the first error of each stream by its name, for the end of the script.
    """

    failures: ClassVar[dict[str, OSError]] = {}

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As a file's."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # not UTF-8
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "replace").decode(encoding))
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """As a file's."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """The disk is full, or who read has gone: the rest goes nowhere, also at Python's end."""
        self.failures.setdefault(str(getattr(self._stream, "name", "output")), error)
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class ScriptConsole(Console):
    """A console on a ``Stream``. A colon in a user's text, as in FILE.py:key, is no emoji."""

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)
        self._held: list[tuple[Any, Any]] | None = None

    @property
    def file(self) -> Any:
        """The stream that is Python's at the moment."""
        return Stream(super().file)

    @file.setter
    def file(self, new: Any) -> None:
        self._file = new

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's; what is held appears with ``release``."""
        if self._held is None:
            super().print(*objects, **options)
        else:
            self._held.append((objects, options))

    def hold(self) -> None:
        """Keeps back what is printed from now on."""
        self._held = [] if self._held is None else self._held

    def release(self) -> None:
        """Prints what was held, and what comes."""
        held, self._held = self._held or [], None
        for objects, options in held:
            self.print(*objects, **options)
