"""A part is whole and as it was written, or it is refused by name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from digits_jax.storage import files
from digits_jax.storage.files import (
    DamagedFile,
    read_arrays,
    remove_partial_files,
    write_arrays,
)

ARRAYS = {"loss": np.linspace(0, 1, 7), "rows": np.arange(6, dtype=np.int32).reshape(2, 3)}
IDENTITY = {"epochs": 3, "name": "ä", "rates": [0.1, None]}


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / "wave-0.npz"
    write_arrays(path, ARRAYS, IDENTITY)
    return path


def test_what_is_written_is_read(part: Path) -> None:
    arrays, identity = read_arrays(part)
    assert identity == IDENTITY and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert [path.name for path in part.parent.iterdir()] == ["wave-0.npz"]


def test_numpy_reads_it_too(part: Path) -> None:
    with np.load(part, allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["loss"], ARRAYS["loss"])


def test_any_changed_byte_is_noticed(part: Path) -> None:
    whole = part.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        part.write_bytes(changed)
        with pytest.raises(DamagedFile, match=r"wave-0\.npz is damaged"):
            read_arrays(part)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, -1, -64])
def test_a_cut_is_noticed(part: Path, length: int) -> None:
    part.write_bytes(part.read_bytes()[:length])
    with pytest.raises(DamagedFile):
        read_arrays(part)


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="array a must be of numbers"):
        write_arrays(tmp_path / "a.npz", {"a": np.array([object()])}, {})
    assert [*tmp_path.iterdir()] == []


def test_a_kill_while_it_is_written_leaves_the_old_one(part: Path) -> None:
    """The process is killed at the last moment before the rename."""
    code = (
        "import os, signal, sys, pathlib, digits_jax.storage.files as parts;"
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL);"
        "parts.write_arrays(pathlib.Path(sys.argv[1]), {'loss': [1, 2]}, {})"
    )
    done = subprocess.run([sys.executable, "-c", code, os.fspath(part)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    left, whole = sorted(path.name for path in part.parent.iterdir())
    assert left.startswith(".wave-0.npz.") and left.endswith(".partial") and whole == "wave-0.npz"
    np.testing.assert_array_equal(read_arrays(part)[0]["loss"], ARRAYS["loss"])
    remove_partial_files(part.parent)
    write_arrays(part, {"loss": np.zeros(3)}, {})
    assert [path.name for path in part.parent.iterdir()] == ["wave-0.npz"]
    assert len(read_arrays(part)[0]["loss"]) == 3


def test_an_archive_that_unpacks_to_more_than_is_free_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(10**7))
    assert (tmp_path / "bomb.npz").stat().st_size < 10**5
    with files.open_arrays(tmp_path / "bomb.npz") as opened:
        assert opened["zeros"].shape == (10**7,)
    monkeypatch.setattr(files, "free_memory", lambda: 10**7)
    with pytest.raises(ValueError, match=r"unpacks to 0\.1 GB, and 0\.0 GB are free"):
        files.open_arrays(tmp_path / "bomb.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match="no .npz"):
        files.open_arrays(tmp_path / "one.npy")
