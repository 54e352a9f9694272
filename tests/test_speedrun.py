"""The script speedrun.py, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "speedrun.py"


@pytest.mark.slow
def test_it_reports_each_repeat(tmp_path: Path) -> None:
    options = ["--data", "bundled", "--repeats", "2", "--epochs", "3", "--output-dir", "out"]
    options += ["--quiet"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "seconds a cross-validation" in done.stdout and "scikit-learn" not in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(results["accuracies"]) == len(results["seconds"]["each"]) == 2
    assert results["accuracies"][0] != results["accuracies"][1]
    assert results["accuracy"]["mean"] == pytest.approx(np.mean(results["accuracies"]))
    assert min(results["accuracies"]) > 0.85
    assert results["seconds"]["with_compilation"] > results["seconds"]["median_without_compilation"]
    low, high = results["accuracy"]["ci95"]
    assert high <= 1  # two repeats are few: Student's interval would end above
    assert results["reached"] == (low >= 0.9908)
    assert high - low > 0.005  # of 10 folds that share rows, not of independent ones
    mean = f"{100 * results['accuracy']['mean']:.2f} %"
    assert "Five-fold cross-validation to 99.08 %" in page and mean in page and mean in done.stdout
    assert ("the goal is reached" in page) == results["reached"]
    assert "0 of 2 repeats diverged" in page
    share = np.mean([accuracy >= 0.9908 for accuracy in results["accuracies"]])
    assert results["share_at_goal"] == share and f"{100 * share:.0f} %" in page


@pytest.mark.slow
def test_other_programs_aim_at_the_goal_on_the_same_folds(tmp_path: Path) -> None:
    for module in ("torch", "keras", "tensorflow"):
        pytest.importorskip(module)
    options = ["--data", "bundled", "--repeats", "2", "--peers", "2", "--output-dir", "out"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options, "--quiet"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    own = results["accuracies"]
    for name in ("torch", "keras"):  # the same recipe: within what chance moves a mean
        np.testing.assert_allclose(results["peers"][name]["accuracies"], own, atol=0.01)
    notebook = results["peers"]["keras-notebook"]
    assert len(notebook["accuracies"]) == len(notebook["seconds"]) == 100
    assert notebook["accuracies"][-1] > 0.97
    assert f"Keras, TensorFlow: {100 * np.mean(results['peers']['keras']['accuracies']):.2f} %" in (
        done.stdout
    )
