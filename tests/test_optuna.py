"""Two processes share a study of Optuna's in SQLite, and each trains its waves at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments/examples/optuna_waves.py"


@pytest.mark.slow
def test_two_processes_ask_and_tell_one_study(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="no Optuna: pip install optuna")
    storage = f"sqlite:///{tmp_path}/study.db"
    size = ["--waves", "2", "--wave-size", "3", "--epochs", "6"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "--storage", storage, *size],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    study = optuna.load_study(study_name="digits", storage=storage)
    values = [trial.value for trial in study.trials]
    assert len(values) == 2 * 2 * 3
    assert {trial.state.name for trial in study.trials} == {"COMPLETE"}
    assert 0.3 < study.best_value == max(values) <= 1  # most rates learn in 48 steps
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 12
    # What was told is what a single training of the best configuration gives.
    import digits_jax as dj

    digits = dj.load_digits("bundled")
    splits = dj.with_validation(dj.kfold_splits(digits.labels, folds=3), 0.2)
    runs = dj.make_runs(splits, dj.Hyperparameters(**study.best_params))
    alone = dj.cross_validate(digits.data, runs, epochs=6)
    assert np.mean(alone.validation["accuracy"]) == pytest.approx(study.best_value, abs=0.005)
