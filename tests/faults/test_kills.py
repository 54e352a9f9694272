"""SIGKILL at random moments, then --resume: the results are bitwise those of a run left alone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from fault_runner import (
    CROSS_VALIDATE,
    SWEEP,
    Job,
    Script,
    Tally,
    differences,
    kill_at,
    uninterrupted,
)

pytestmark = pytest.mark.slow  # kills at random moments

PHASES = ("start-up", "compile", "training", "saving", "results")


def test_kills_of_a_cross_validation_lose_nothing(
    tmp_path: Path, cache: Path, reference: Script, tally: Tally, all_faults: bool
) -> None:
    _kill(CROSS_VALIDATE, 55 if all_faults else 8, tmp_path / "run", cache, reference, tally)


def test_kills_of_a_sweep_lose_nothing(
    tmp_path: Path, cache: Path, tally: Tally, all_faults: bool
) -> None:
    reference = uninterrupted(SWEEP, tmp_path, cache, timed=all_faults)
    _kill(SWEEP, 55 if all_faults else 3, tmp_path / "run", cache, reference, tally)


def _kill(job: Job, kills: int, folder: Path, cache: Path, reference: Script, tally: Tally) -> None:
    """Each process goes on where the one before was killed, until one comes to its end."""
    kind = job.words[0]
    rng = random.Random(0)
    phases = [PHASES[i % len(PHASES)] for i in range(kills)]
    rng.shuffle(phases)
    while phases:
        before = job.saved(folder)
        if before >= job.total - 2:  # too late for some phases: first what suits
            phases.sort(key=lambda phase: phase not in ("training", "saving"))
        phase = phases.pop()
        resume = ["--resume"] if folder.exists() else []
        script = Script([*job.words, *resume], folder, cache)
        if not kill_at(script, job, phase, rng, reference):
            phases.insert(0, phase)
            _ends_as(job, folder, reference, tally)
            shutil.rmtree(folder)
            continue
        least = max(before, job.promised(script.progress(job.counts)))
        if job.saved(folder) < least:
            tally.lose(f"{kind} killed in {phase}", f"{job.saved(folder)} are saved, not {least}")
        tally.survived(f"{kind} killed in {phase}")
    code, errors = Script([*job.words, "--resume"], folder, cache).end()
    assert code == 0 and "Traceback" not in errors, errors
    _ends_as(job, folder, reference, tally)


def _ends_as(job: Job, folder: Path, reference: Script, tally: Tally) -> None:
    kind = f"{job.words[0]} after kills"
    different = differences(folder, reference.folder, job.arrays)
    if different:
        tally.lose(kind, f"{', '.join(different)} differ")
    tally.survived(kind)
    assert not list(folder.glob(".*.partial")), "what a kill left is cleaned up"
