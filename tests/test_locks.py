"""One writer for each folder, whatever happened to the one before."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from digits_jax.storage.locks import FolderInUse, FolderLock

HOLD = """
import sys, time
from digits_jax.storage.locks import FolderLock
lock = FolderLock(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process, which holds the lock of ``tmp_path``."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_by_name(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    who = f"{tmp_path} is in use by process {other.pid} on {socket.gethostname()} since 2"
    for _ in range(2):  # a refusal takes nothing from the holder
        with pytest.raises(FolderInUse, match=who):
            FolderLock(tmp_path)


def test_the_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert f'"pid": {other.pid},' in (tmp_path / ".lock.holder").read_text()
    lock = FolderLock(tmp_path)
    assert f'"pid": {os.getpid()},' in (tmp_path / ".lock.holder").read_text()
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"], "nobody is named any more"


def test_it_is_given_back(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "new")
    with pytest.raises(FolderInUse, match=f"process {os.getpid()} on"):
        FolderLock(tmp_path / "new")
    lock.release()
    lock.release()
    assert not lock.held
    second = FolderLock(tmp_path / "new")
    del second
    assert FolderLock(tmp_path / "new").release.alive
    with FolderLock(tmp_path / "new") as third:
        assert third.held
    assert not third.held


def test_it_knows_when_its_folder_was_removed(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "a")
    assert lock.held
    shutil.rmtree(tmp_path / "a")
    assert not lock.held
    other = FolderLock(tmp_path / "a")
    lock.release()  # not the other's
    assert other.held
    with pytest.raises(FolderInUse, match=f"process {os.getpid()} on"):
        FolderLock(tmp_path / "a")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        FolderLock(tmp_path / "file" / "a")


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with FolderLock(tmp_path) as lock:
        assert f"{tmp_path}: no locks here" in caplog.text
        assert lock.held


def test_a_line_that_names_nobody(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    (tmp_path / ".lock.holder").write_text("{")
    with pytest.raises(FolderInUse, match="is in use by another process; wait"):
        FolderLock(tmp_path)
