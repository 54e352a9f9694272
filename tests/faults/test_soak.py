"""Many cross-validations and saves in one process: memory, files, threads and disk stay flat."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from fault_runner import Tally

import digits_jax as dj
from digits_jax.storage.checkpoints import Checkpoints

PROC = Path("/proc/self")
pytestmark = [
    pytest.mark.slow,  # many saves
    pytest.mark.skipif(not PROC.is_dir(), reason="what a process uses is read from /proc"),
]


class Use(NamedTuple):
    """What a process and a folder use."""

    memory: float  # MB, resident
    handles: int
    threads: int  # of Python and of the libraries
    python_threads: int
    disk: float  # kB

    @classmethod
    def now(cls, folder: Path) -> Use:
        """Measures, after a collection of garbage."""
        gc.collect()
        pages = int((PROC / "statm").read_text().split()[1])
        files = [path for path in folder.rglob("*") if path.is_file()]
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            len(os.listdir(PROC / "fd")),
            len(os.listdir(PROC / "task")),
            threading.active_count(),
            sum(path.stat().st_size for path in files) / 1e3,
        )


def _assert_flat(before: Use, after: Use, rounds: int, megabytes: float) -> None:
    print(f"{rounds} rounds: {before} -> {after}")
    assert after.handles <= before.handles + 3
    assert after.threads <= before.threads + 3  # pools of the libraries start threads as they need
    assert after.python_threads <= before.python_threads
    assert after.disk <= before.disk * 1.01
    assert after.memory <= before.memory + megabytes


def test_cross_validations(tmp_path: Path, tally: Tally, all_faults: bool) -> None:
    digits = dj.load_digits("bundled")
    data = digits.images[:200], digits.labels[:200]
    splits = dj.kfold_splits(digits.labels[:200], 2)
    recipe = dj.Recipe(network=dj.DigitsCNN(conv_features=(2,), dense_features=()))
    options: dict[str, Any] = {"recipe": recipe, "epochs": 2, "resume": True}
    rounds = 200 if all_faults else 15

    def cross_validate(seed: int) -> None:
        folder = tmp_path / "run"
        dj.cross_validate(data, dj.make_runs(splits, seed=seed), checkpoints=folder, **options)
        (folder).rename(tmp_path / "old") if seed == 0 else _remove(folder)

    for seed in range(5):
        cross_validate(seed)
    before = Use.now(tmp_path)
    for seed in range(5, rounds):
        cross_validate(seed)
    _assert_flat(before, Use.now(tmp_path), rounds, megabytes=20)
    for _ in range(rounds):
        tally.survived("cross-validations in one process")


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_checkpoint_saves(tmp_path: Path, tally: Tally, all_faults: bool) -> None:
    tree = {"states": np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32)}
    rounds = 1000 if all_faults else 60
    with Checkpoints(tmp_path, {}) as checkpoints:
        for epoch in range(1, rounds + 1):
            checkpoints.save(epoch, tree)
            if epoch == 20:
                checkpoints.wait()
                before = Use.now(tmp_path)
        checkpoints.wait()
        _assert_flat(before, Use.now(tmp_path), rounds, megabytes=20)
        assert checkpoints.epochs == [rounds, rounds - 1]
    for _ in range(rounds):
        tally.survived("checkpoint saves in one process")
