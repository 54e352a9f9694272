"""A job of several processes: joining it, and a word for a process that JAX ends without one.

JAX ends a process itself where it loses another one, with a stack trace and no word of how to go
on. Nothing in the process can speak then, so a shell that waits for its end does.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from rich.markup import escape

from common import console
from common.options import Job, UsageError

NOTICE_SECONDS = 10  # of waiting for the other processes, before a line says so
GRACE_SECONDS = 2  # after the time to join, for what knows the cause better

# Ends at a line from the process, or speaks when its pipe closes without one.
WATCHER = """trap '' INT TERM HUP USR1 USR2; read -r line || printf '%s\\n' "$1" >&2"""

_watcher: subprocess.Popen[bytes] | None = None


def join(job: Job) -> None:
    """Waits for the other processes of the job.

    Raises:
        UsageError: the options don't fit together, or JAX finds no cluster.
        NotJoined: process 0 can't be reached, or not all can talk with each other.
    """
    from digits_jax.parallel.startup import initialize_distributed

    where = f" to {job.coordinator_address}" if job.coordinator_address else ""
    seconds = f"{job.join_seconds} s (--join-seconds)"
    waiting = f"waiting: the other processes have {seconds} to come{where}"
    notice = _after(NOTICE_SECONDS, lambda: _say(waiting))
    giving_up = _after(job.join_seconds + GRACE_SECONDS, lambda: _give_up(where, seconds))
    try:
        initialize_distributed(
            job.coordinator_address,
            job.num_processes,
            job.process_id,
            join_seconds=job.join_seconds,
        )
    except ValueError as error:
        raise UsageError(with_flags(str(error))) from error
    finally:
        notice.cancel()
        giving_up.cancel()


def speak_when_killed() -> None:
    """Starts what prints how to go on, should this process end without a word of its own.

    Called before JAX is imported, so that what JAX does at exit is watched too.
    """
    global _watcher
    go_on = shlex.join(["python", *(word for word in sys.argv if word != "--resume"), "--resume"])
    text = (
        "error: this process was ended from outside, or by JAX because it lost another one; what "
        f"was saved is whole. Start all processes again, this one with: {go_on}"
    )
    _watcher = subprocess.Popen(
        ["sh", "-c", WATCHER, "sh", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # signals to the job are not meant for it
    )
    atexit.register(dismiss)


def dismiss() -> None:
    """Tells the watcher that all has been said."""
    if _watcher is not None and _watcher.poll() is None:
        _watcher.communicate(b"\n")


def leave(code: int) -> None:
    """Ends this process at once; what had to be said is said."""
    dismiss()
    os._exit(code)


def with_flags(text: str) -> str:
    """The text with options by their flags, in place of arguments by their names."""
    for field in dataclasses.fields(Job):
        text = text.replace(field.name, "--" + field.name.replace("_", "-"))
    return text


def _after(seconds: float, call: Callable[[], Any]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer


def _say(text: str) -> None:
    console.errors.print(escape(text), highlight=False, soft_wrap=True)


def _give_up(where: str, seconds: str) -> None:
    """Ends this process where the others don't come; JAX would do it later, and at length."""
    _say(
        f"error: not all processes of the job came{where} within {seconds}; start all in that "
        "time, with the same address, and let firewalls pass TCP between their hosts"
    )
    leave(1)
