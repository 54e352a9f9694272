"""One writer for each folder: filelock's lock, and a line beside it that names the writer."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
import weakref
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

LOCK = ".lock"  # stays in the folder: removing it would race with who opens it
HOLDER = ".lock.holder"  # a line of JSON, there while the lock is held

logger: logging.Logger = logging.getLogger("digits_jax")


class FolderInUse(Exception):
    """Another process writes to the folder; the message says which."""


class FolderLock:
    """The right to write to a folder, for one process at a time.

    It is filelock's lock of ``<folder>/.lock``. The system releases it when the process ends,
    however it ends, so the next writer takes over from a dead one. On Linux it also holds between
    machines that share the folder by NFS. Where a file system has no such locks, filelock or this
    class warns. ``release()`` gives the lock back, as does the end of a ``with`` block, of the
    process or of the object.

    Args:
        folder: made if it is missing.

    Raises:
        FolderInUse: another process, or another lock of this one, holds it.
        OSError: the folder can't be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder).expanduser() / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)  # any thread may release it
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise FolderInUse(
                f"{path.parent} is in use by {_holder(path)}; wait until it ends, or choose "
                "another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            logger.warning("%s: no locks here, so that two writers go unseen", path.parent)
            path.touch()
        self._path, self._file = path, path.stat()
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        try:
            path.with_name(HOLDER).write_text(json.dumps(holder) + "\n", encoding="utf-8")
        except OSError:
            lock.release()
            raise
        self.release = weakref.finalize(self, _release, path, self._file, lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """True until it is released, or the folder is removed or replaced."""
        return self.release.alive and _is(self._path, self._file)


def _is(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except FileNotFoundError:
        return False


def _release(path: Path, file: os.stat_result, lock: FileLock) -> None:
    with contextlib.suppress(OSError):  # the folder may be gone
        if _is(path, file):  # else the line is another holder's
            path.with_name(HOLDER).unlink()
    lock.release()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.with_name(HOLDER).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):  # it has only just been taken
        return "another process"
