"""SIGKILL at random moments, then --resume: the results are bitwise those of a run left alone."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from fault_runner import CROSS_VALIDATE, EPOCHS, Script, Tally, differences, kill_at, newest_epoch

PHASES = ("start-up", "compile", "epoch", "checkpoint", "results")


def test_kills_lose_nothing(
    tmp_path: Path, cache: Path, reference: Script, tally: Tally, all_faults: bool
) -> None:
    """Each process goes on where the one before was killed, until one comes to its end."""
    rng = random.Random(0)
    kills = 55 if all_faults else 8
    phases = [PHASES[i % len(PHASES)] for i in range(kills)]
    rng.shuffle(phases)
    folder, resume = tmp_path / "run", list[str]()
    while phases:
        before = newest_epoch(folder)
        if before >= EPOCHS - 2:  # too late for some phases: first what suits
            phases.sort(key=lambda phase: phase not in ("epoch", "checkpoint"))
        phase = phases.pop()
        script = Script([*CROSS_VALIDATE, *resume], folder, cache)
        if kill_at(script, phase, rng, reference):
            # The save of an epoch is waited for before the next one's begins.
            least = max(before, script.epoch() - 2)
            if newest_epoch(folder) < least:
                tally.lose(f"kills in {phase}", f"epoch {newest_epoch(folder)}, not {least}")
            tally.survived(f"kills in {phase}")
            resume = ["--resume"]
        else:
            phases.insert(0, phase)
            _ends_as(folder, reference, tally)
            shutil.rmtree(folder)
            resume = []
    code, errors = Script([*CROSS_VALIDATE, "--resume"], folder, cache).end()
    assert code == 0 and not errors, errors
    _ends_as(folder, reference, tally)


def _ends_as(folder: Path, reference: Script, tally: Tally) -> None:
    different = differences(folder, reference.folder)
    if different:
        tally.lose("runs after kills", f"{', '.join(different)} differ")
    tally.survived("runs after kills")
    assert not list(folder.glob(".*.partial")), "what a kill left is cleaned up"
