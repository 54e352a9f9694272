"""What the fault tests share: a script that can be killed at a moment, and a tally of the cases."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

import digits_jax as dj
from digits_jax.storage.checkpoints import Checkpoints

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
EPOCHS = 12
PROGRESS = re.compile(r"epoch (\d+)/(\d+)(?: of (\d+) runs?)?(?:, (\d+) of \d+ runs done)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoOptions:
    """The command line of a script that takes none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A command line that can be killed and resumed, and how to look at its output folder."""

    words: list[str]
    counts: str  # epochs, or the runs of which its lines of progress say how many are done
    total: int  # what they count to
    arrays: tuple[str, ...]  # files that must be the same to the byte
    saving: str  # glob of what is there while it saves
    saved: Callable[[Path], int]  # how much of the work is on the disk
    promised: Callable[[int], int]  # how much must be there, from the last line of progress


class Tally:
    """Cases tried, survived and lost, by kind; printed at the end of a test session."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.lost: list[str] = []

    def survived(self, kind: str) -> None:
        """Counts a case that came out well; one that did not raises, and is counted as lost."""
        self.tried[kind] += 1

    def lose(self, kind: str, why: str) -> None:
        """Counts a case that lost something, and ends its test."""
        self.tried[kind] += 1
        self.lost.append(f"{kind}: {why}")
        raise AssertionError(self.lost[-1])


class Script:
    """A script of ``experiments/`` as a process of its own, whose lines are heard as they come."""

    def __init__(
        self,
        words: list[str],
        folder: Path,
        cache: Path,
        *,
        limit: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self.lines: list[tuple[float, str]] = []  # seconds since the start, line
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(EXPERIMENTS / words[0]), *words[1:], "--output-dir", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"XDG_CACHE_HOME": str(cache), "MPLCONFIGDIR": matplotlib.get_configdir()},
            preexec_fn=limit,
        )
        self._errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.lines.append((time.monotonic() - self.started, line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            self._errors.append(stderr.read())

    def said(self, beginning: str) -> float | None:
        """When it printed a line that begins so, in seconds since its start."""
        return next((at for at, line in self.lines if line.startswith(beginning)), None)

    def progress(self, counts: str = "epoch") -> int:
        """The last epoch (or run) that it told of."""
        told = [found for _, line in self.lines if (found := PROGRESS.match(line))]
        if not told:
            return 0
        epoch, epochs, here, done = (int(each or 0) for each in told[-1].groups())
        if counts == "epoch":
            return epoch
        return done + (here * epoch // epochs if epoch < epochs else 0)

    def until(self, happened: Callable[[], object], timeout: float = 600) -> bool:
        """Waits for a condition; False if the process ended first."""
        end = time.monotonic() + timeout
        while not happened():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.001)
        return True

    def end(self, timeout: float = 600) -> tuple[int, str]:
        """Waits for the end: exit code and standard error."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join()
        return code, self._errors[0]


def uninterrupted(job: Job, folder: Path, cache: Path, *, timed: bool) -> Script:
    """A job that nobody kills, whose compiled programs are in the cache afterwards.

    Args:
        job: what runs.
        folder: where its output folder goes.
        cache: of compiled programs.
        timed: run it once more, to see how long each phase takes with a filled cache.
    """
    for name in ("first", "timed")[: 1 + timed]:
        script = Script(job.words, folder / name, cache)
        code, errors = script.end()
        assert code == 0, errors
    return script


def kill_at(script: Script, job: Job, phase: str, rng: random.Random, reference: Script) -> bool:
    """SIGKILL at a random moment of a phase; False if the process had ended before."""
    folder = script.folder
    data = reference.said("data ")
    told = [at for at, line in reference.lines if PROGRESS.match(line)]
    assert data is not None and told

    def progress() -> int:
        return script.progress(job.counts)

    moments: dict[str, tuple[Callable[[], object], float]] = {
        "start-up": (lambda: True, data),
        "compile": (lambda: script.said("data "), told[0] - data),
        "training": (progress, (told[-1] - told[0]) / 4),
        "saving": (lambda: any(folder.glob(job.saving)) or progress() >= job.total - 1, 0.1),
        "results": (
            lambda: any(folder.glob(".*.partial")) or any(folder.glob("*.png")),
            (reference.lines[-1][0] - told[-1]) / 2,
        ),
    }
    happened, length = moments[phase]
    script.until(happened)
    time.sleep(rng.uniform(0, length))
    script.process.send_signal(signal.SIGKILL)
    code, errors = script.end()
    assert code in (0, -signal.SIGKILL), errors
    return code != 0


def newest_epoch(folder: Path) -> int:
    """The newest checkpoint that is sound, as predict.py would read it; 0 if there is none."""
    with Checkpoints(folder / "checkpoints", {}, read_only=True) as checkpoints:
        if checkpoints.latest is None:
            return 0
    return int(dj.load_states(folder / "checkpoints").states.epoch[0])


def finished_runs(folder: Path) -> int:
    """The runs of a sweep in waves that are whole."""
    from digits_jax.storage.files import read_arrays

    waves = [read_arrays(path)[0] for path in folder.glob("waves/*/wave-*.npz")]
    return sum(len(wave["score.loss"]) for wave in waves)


def differences(folder: Path, expected: Path, arrays: Sequence[str]) -> list[str]:
    """The names of what differs from an uninterrupted run, down to the bit."""
    results, whole = (
        json.loads((each / "results.json").read_text()) for each in (folder, expected)
    )
    for each in (results, whole):
        for name in ("seconds", "date", "command", "waves"):  # times, and how it was started
            each.pop(name, None)
        for name in ("resume", "output_dir"):
            del each["config"][name]
    different = [name for name in {**results, **whole} if results.get(name) != whole.get(name)]
    for name in arrays:
        if (folder / name).read_bytes() != (expected / name).read_bytes():
            different.append(name)
    return different


CROSS_VALIDATE = Job(
    words=[
        "cross_validate.py",
        *("--data", "bundled", "--folds", "3", "--no-refit"),
        *("--epochs", str(EPOCHS), "--checkpoint-every", "1"),
    ],
    counts="epoch",
    total=EPOCHS,
    arrays=("history.npz", "predictions.npz"),
    saving="checkpoints/*tmp*",
    saved=newest_epoch,
    promised=lambda epoch: epoch - 2,  # a save is waited for before the next epoch's
)
SWEEP = Job(
    words=[
        "sweep.py",
        *("--data", "bundled", "--folds", "2", "--epochs", "2", "--wave-size", "2"),
        *("--vary", "learning_rate=3e-4,1e-3,3e-3,1e-2"),
    ],
    counts="run",
    total=8,
    arrays=("scores.npz", "configurations.csv"),
    saving="waves/*/.*.tmp",
    saved=finished_runs,
    promised=lambda run: (run - 1) // 2 * 2,  # a wave of two is saved before the next begins
)
