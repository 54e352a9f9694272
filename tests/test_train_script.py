"""The script train.py, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, precision_score, recall_score
from sklearn.model_selection import train_test_split

from digits_jax import load_digits

SCRIPT = Path(__file__).parents[1] / "experiments" / "train.py"


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The output folder of two seeds at once on the bundled rows, and what was printed."""
    folder = tmp_path_factory.mktemp("train")
    options = ["--data", "bundled", "--epochs", "8", "--learning-rate", "3e-3", "--seeds", "2"]
    done = _run(folder, *options, "--verbose", "--output-dir", "out", "--tensorboard")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "out", done.stdout


def test_it_prints_what_the_notebook_prints(finished: tuple[Path, str]) -> None:
    _, printed = finished
    for text in ("Epoch 1/8 - ", "Epoch 8/8 - ", "loss: ", "macro precision (%)", "weighted avg"):
        assert text in printed
    assert printed.index("Scores by class, run 1") < printed.index("weighted avg")


def test_its_scores_are_those_of_scikit_learn(finished: tuple[Path, str]) -> None:
    out, _ = finished
    results = json.loads((out / "results.json").read_text())
    predictions = np.load(out / "predictions.npz")
    digits = load_digits("bundled")
    _, rows = train_test_split(np.arange(1797), test_size=0.2, random_state=42)
    np.testing.assert_array_equal(predictions["rows"], rows)
    assert results["test_rows"] == 360
    labels = digits.labels[rows]
    for run, logits in zip(results["runs"], predictions["logits"].astype(float), strict=True):
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        predicted = logits.argmax(1)
        macro = {"average": "macro", "zero_division": 0}
        assert run["accuracy"] == pytest.approx((predicted == labels).mean())
        assert run["precision"] == pytest.approx(precision_score(labels, predicted, **macro))
        assert run["recall"] == pytest.approx(recall_score(labels, predicted, **macro))
        assert run["f1"] == pytest.approx(f1_score(labels, predicted, **macro))
        assert run["loss"] == pytest.approx(log_loss(labels, shares), rel=1e-4)
    first, second = (run["accuracy"] for run in results["runs"])
    assert results["accuracy"]["mean"] == pytest.approx((first + second) / 2)
    assert min(first, second) > 0.5
    wrong = rows[predictions["logits"][0].argmax(1) != labels]
    assert results["misclassified_rows"] == sorted(wrong.tolist())
    assert not np.array_equal(predictions["logits"][0], predictions["logits"][1])


def test_it_writes_history_figures_and_a_checkpoint(finished: tuple[Path, str]) -> None:
    out, _ = finished
    assert np.load(out / "history.npz")["loss"].shape == (2, 8)
    names = ("training_curves", "confusion", "roc", "reliability", "misclassified")
    for name in names:
        assert (out / f"{name}.png").stat().st_size > 5000
    saved = {path.name for path in (out / "checkpoints").iterdir() if path.is_dir()}
    assert saved == {"7", "8"}
    page = (out / "report.html").read_text()
    assert page.count('class="plot"') == 3 and "Scores by class, run 1" in page
    assert "Confusion matrix, sum of 2 runs" in page
    tracked = {path.name for path in (out / "tensorboard").iterdir()}
    assert tracked == {"run 1", "run 2", "figures"}


def test_a_users_mistake_gets_one_line(tmp_path: Path) -> None:
    for options, message in {
        ("--seeds", "0"): "--seeds must be a positive number, not 0",
        ("--data", "bundled", "--test-size", "1.5"): "--test-size",
        ("--split-seed", "-1"): "--split-seed must be in 0 to 2^32 - 1, not -1",
    }.items():
        done = _run(tmp_path, *options)
        assert done.returncode == 2 and message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
