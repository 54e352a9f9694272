"""One writer for each folder, by a lock that ends with its process."""

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
from typing import Self, TextIO

try:
    import fcntl
except ImportError:  # Windows: no protection
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

logger: logging.Logger = logging.getLogger("digits_jax")


class FolderInUse(Exception):
    """Another process writes to the folder; the message says which."""


class FolderLock:
    """The right to write to a folder, for one process at a time.

    It is a ``flock(2)`` on ``<folder>/.lock``, which the system gives up when the process ends,
    however it ends; so what a dead process left is simply taken over. The file names the process
    that holds the lock. ``release()`` gives it back, as do the end of a ``with`` block, of the
    process and of the object.

    Args:
        folder: made if it is missing.

    Raises:
        FolderInUse: another process, or another lock of this one, holds it.
        OSError: the folder can't be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder) / LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
        while not _is(path, file):  # removed by its holder after we had opened it
            file.close()
            file = _locked(path)
        file.truncate(0)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        file.write(json.dumps(holder) + "\n")
        file.flush()
        self._path, self._file = path, file
        self.release = weakref.finalize(self, _release, path, file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    @property
    def held(self) -> bool:
        """Whether the lock is still in its place: not after the folder was removed."""
        return self.release.alive and _is(self._path, self._file)


def _locked(path: Path) -> TextIO:
    file = path.open("a+", encoding="utf-8")  # not "w", which would wipe the holder's name
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise FolderInUse(
            f"{path.parent} is in use by {_holder(path)}; wait until it ends, or choose another "
            "folder"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            file.close()
            raise
        logger.warning("%s: a file system without locks; two writers would go unseen", path.parent)
    return file


def _is(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _release(path: Path, file: TextIO) -> None:
    with contextlib.suppress(OSError):  # the folder may be gone, and the lock with it
        if _is(path, file):
            path.unlink()
    file.close()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):  # it has only just been taken
        return "another process"
