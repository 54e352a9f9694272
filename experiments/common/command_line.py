"""The command line of a script: its options, its help, its exit codes, its errors in one line.

Nothing slower than tyro, rich and NumPy is imported before the arguments are parsed, so that
``--help`` answers at once; ``digits_jax`` loads each name at its first use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.util
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
from rich.markup import escape

import digits_jax as dj
from common import console, help, jobs, options, resuming, startup, tracking
from common.startup import process_index
from common.streams import Stream
from digits_jax.storage.errors import CheckpointError, SaveError
from digits_jax.storage.locks import FolderInUse

Config = TypeVar("Config")

EXIT_GRACE_SECONDS = 10  # that a process which fails waits for the others of its job


def run(config: type[Config], main: Callable[[Config], None], description: str | None) -> None:
    """Parses the command line and calls ``main``; a user's mistake becomes one line, no traceback.

    Exit codes: 0 done, 1 could not be done, or not all of it (the results are whole, and list what
    failed), 2 a wrong argument, 128 + N stopped by signal N. The process is left as it was found.
    """
    try:
        parsed = _parse(config, description or "")  # none with python -OO
    except BrokenPipeError:  # --help | head
        os._exit(1)
    with startup.left_as_found():
        console.notes.quiet = getattr(parsed, "quiet", False)
        if threading.current_thread() is threading.main_thread():
            for number in console.SIGNALS:
                heard = signal.getsignal(number) is not signal.SIG_IGN
                if heard and number != signal.SIGINT:  # which raises KeyboardInterrupt by itself
                    signal.signal(number, terminated)
        try:
            _run(main, parsed)
        except BaseException as error:
            if process_index() is not None:  # others may wait for this one, and this one for them
                code = error.code if isinstance(error, SystemExit) else 1
                timer = threading.Timer(EXIT_GRACE_SECONDS, jobs.leave, [code])
                timer.daemon = True
                timer.start()
            raise


def terminated(number: int, frame: object) -> None:
    """The handler of a signal while no ``Stop`` listens."""
    raise KeyboardInterrupt(number)


def _run(main: Callable[[Config], None], parsed: Config) -> None:
    try:
        _call(main, parsed)
    finally:
        console.results.release()  # what was found before something failed
    for error in Stream.failures.values():  # all else is done
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # who read our output has seen enough
        _fail(f"output: {error.strerror or error}; all else is done", 1)


def _call(main: Callable[[Config], None], parsed: Config) -> None:
    try:
        if getattr(parsed, "tensorboard", False):
            found = importlib.util.find_spec("tensorboardX") is not None
            options.require(found, "--tensorboard needs a package: pip install '.[tensorboard]'")
        if track := getattr(parsed, "track", None):
            tracking.require_module(track)
        main(_at_home(parsed))
    except options.UsageError as error:
        _fail(error, 2)
    except console.Stopped as error:
        _fail(error, error.exit_code)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        _fail("stopped; nothing was saved since the last checkpoint", 128 + number)
    except BrokenPipeError:
        os._exit(1)  # who read our output is gone, and Python would complain about it at exit
    except MemoryError as error:
        _fail(str(error) or "there is not enough memory; take fewer runs or smaller batches", 1)
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}{_remedy(error)}", 1)
    except Exception as error:
        # Imported by main already, if it came that far.
        from digits_jax.parallel.processes import NotJoined, ProcessesDiffer, ProcessLost

        if isinstance(error, NotJoined):
            _fail(jobs.with_flags(str(error)), 1)
        if isinstance(error, ProcessLost):
            why = str(error).splitlines()[0]
            _fail(f"{why}; start all again, with --resume to go on from what was saved", 1)
        if not isinstance(error, CheckpointError | dj.DataError | FolderInUse | ProcessesDiffer):
            raise
        _fail(error, 1 if isinstance(error, SaveError) else 2)


def _at_home(config: Config) -> Config:
    """The options with ``~`` expanded, which a shell leaves as it is in --output-dir=~/digits."""

    def one(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(one, value))
        if not isinstance(value, Path):
            return value
        try:
            return value.expanduser()
        except RuntimeError as error:
            raise options.UsageError(f"{value}: there is no home folder; write it out") from error

    fields = dataclasses.fields(config)  # type: ignore[arg-type]
    values = {field.name: getattr(config, field.name) for field in fields}
    expanded = {name: one(value) for name, value in values.items()}
    changed = {name: value for name, value in expanded.items() if value is not values[name]}
    return dataclasses.replace(config, **changed)  # type: ignore[type-var]


def _remedy(error: OSError) -> str:
    """What to do about an error of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "; make room, then run it again, with --resume if it was training"
    no_place = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
    if error.errno == errno.ENOENT:
        if not Path(error.filename or "output").parent.is_dir():
            return "; was the folder removed? Run it again"
        no_place = True  # as in /proc, which is there and takes nothing new
    return "; choose an --output-dir that you can write to" if no_place else ""


def _fail(message: object, code: int) -> NoReturn:
    who = f"process {process_index()}: " if process_index() else ""
    text = f"{who}[bold red]error:[/] {escape(str(message))}"
    console.say(text, console.errors)
    sys.exit(code)


def _parse(config: type[Config], description: str) -> Config:
    """The command line; of what tyro says of a mistake, the first paragraph as one line."""
    said = io.StringIO()
    if {"-h", "--help"} & set(sys.argv):
        shown = ""
        with contextlib.suppress(OSError):  # no source: then in tyro's own form
            shown = help.text(config, description)
        if shown:
            print(shown, flush=True)
            sys.exit(0)
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(config, description=description)
            begun_with = resuming.resumed(parsed, Path(sys.argv[0]).stem)
            if begun_with is None:
                return parsed
            # A switch that is on has no flag to turn it on.
            every = vars(begun_with) | vars(getattr(begun_with, "job", options.Job()))
            on = {options.flag(name) for name, value in every.items() if value is True}
            words = [word for word in sys.argv[1:] if word not in on]
            return tyro.cli(config, args=words, default=begun_with)
    except options.UsageError as error:
        _fail(error, 2)
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.flush()
            raise
        text = said.getvalue()
        parts = re.split(r"\n[ │]*[-─]{5,}[ │]*\n", text)
        title_apart = "╭" not in text and len(parts) > 1  # where the output isn't UTF-8
        problem = " ".join(re.sub("╭.*╮|│|╰.*╯", " ", parts[title_apart]).split())
        word = r"""Error parsing (--\S+): .*(int\(\)|to float).*?: (".*?"|'.*?')"""
        if no := re.match(word, problem):  # tyro lists all types that it tried, None too
            kind = "an integer" if no[2] == "int()" else "a number"
            problem = f"{no[1]}: {no[3]} is not {kind}"
        _fail(f"{problem} (--help lists all options)", 2)
