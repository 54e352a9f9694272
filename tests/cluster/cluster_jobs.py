"""How the jobs of these tests are started, wherever they run, and compared."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
EPOCHS = 12
ENDLESS = 100_000  # epochs of what is stopped
HANGS = 900  # seconds after which a job counts as hanging, however busy the machine is
OPTIONS = ["--data", "bundled", "--checkpoint-every", "2"]


class Jobs:
    """A folder with the scripts, a .venv as README makes it, and all outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "experiments").symlink_to(ROOT / "experiments")
        (folder / ".venv/bin").mkdir(parents=True)
        python = folder / ".venv/bin/python"
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        python.chmod(0o755)
        # Without the tests' own flags: processes of other sizes would have other bits by them.
        inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        self.environment = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def command(self, output: str, *options: str, epochs: int = EPOCHS) -> list[str]:
        """Of one process."""
        words = [str(self.folder / ".venv/bin/python"), str(ROOT / "experiments/cross_validate.py")]
        common = [*OPTIONS, "--epochs", str(epochs), "--output-dir", str(self.folder / output)]
        return [*words, *common, "--folds", "2", *options]

    def run(self, output: str, *options: str, epochs: int = EPOCHS) -> str:
        """Runs one process to its end, and gives what it printed."""
        done = subprocess.run(
            self.command(output, *options, epochs=epochs),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=HANGS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def epoch(self, output: str) -> int:
        """The newest checkpoint of an output folder, or 0."""
        folder = self.folder / output / "checkpoints"
        names = os.listdir(folder) if folder.exists() else []
        return max((int(name) for name in names if name.isdecimal()), default=0)


def until(so: Callable[[], bool], what: str, seconds: float = HANGS) -> None:
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.2)


def assert_same_results(folder: Path, whole: Path) -> None:
    """Both hold the same histories and predictions, bit for bit."""
    assert (folder / "results.json").exists()
    for name in ("history.npz", "predictions.npz"):
        got, expected = np.load(folder / name), np.load(whole / name)
        assert got.files == expected.files
        for array in expected.files:
            np.testing.assert_array_equal(got[array], expected[array])
