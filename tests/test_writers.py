"""writers.py: the right rows on both sides, figures that hold by hand, and only the full set."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import joblib
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import digits_jax as dj

SCRIPT = Path(__file__).parents[1] / "experiments" / "writers.py"


@pytest.fixture(scope="module")
def writers() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("writers")


def _run(writers: ModuleType, patch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The script in this process, which has started JAX already."""
    patch.setattr("common.startup.start_jax", lambda **_: None)
    patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    try:
        with joblib.parallel_config("sequential"):
            writers.command_line.run(writers.Config, writers.main, writers.__doc__)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_splits_are_ucis_and_random_ones_of_their_sizes(
    writers: ModuleType, full_data: Path
) -> None:
    splits = writers.make_splits(dj.load_digits(str(full_data)).labels, seeds=3, seed=5)
    assert splits.train_rows.shape == (6, 3823) and splits.test_rows.shape == (6, 1797)
    assert (splits.train_weights == 1).all() and (splits.test_weights == 1).all()
    for lane in range(6):
        rows = np.concatenate([splits.train_rows[lane], splits.test_rows[lane]])
        np.testing.assert_array_equal(np.sort(rows), np.arange(5620))
    assert (splits.train_rows[:3] < 3823).all() and (splits.test_rows[:3] >= 3823).all()
    shares = (splits.test_rows[3:] >= 3823).mean(axis=1)
    np.testing.assert_allclose(shares, 1797 / 5620, atol=0.05)  # all writers on both sides
    assert len({tuple(np.sort(rows)) for rows in splits.test_rows[3:]}) == 3


def test_a_run_on_the_full_set(
    writers: ModuleType, full_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", full_data, "--methods", "knn1", "--seeds", "2", "--output-dir", tmp_path]
    assert _run(writers, monkeypatch, *words) == 0
    digits = dj.load_digits(str(full_data))
    pixels = digits.images.reshape(5620, -1)
    model = KNeighborsClassifier(1).fit(pixels[:3823], digits.labels[:3823])
    expected = model.score(pixels[3823:], digits.labels[3823:])
    score = json.loads((tmp_path / "results.json").read_text())["methods"]["knn1"]
    assert score["new_writers"]["accuracies"] == [expected, expected]
    assert score["random"]["mean"] - expected == pytest.approx(-score["difference"])
    assert score["new_writers"]["votes_of_five"] == []
    names = {path.name for path in tmp_path.iterdir() if path.name[0] != "."}
    assert names == {
        "options.json",
        "predictions_knn1.npz",
        "report.html",
        "results.json",
        "scores.csv",
        "writers.png",
    }
    page = (tmp_path / "report.html").read_text()
    assert f"{100 * expected:.2f} ± 0.00 %" in page
    wrong = 1797 - round(1797 * expected)
    assert f"{wrong} of 1797 test rows are wrong at least once" in page


def test_figures_by_hand(writers: ModuleType) -> None:
    labels = np.arange(3850) % 10
    rows = np.tile(np.arange(3830, 3840), (14, 1))
    logits = np.zeros((14, 10, 10), np.float32)
    logits[:, np.arange(10), np.arange(10)] = 4  # right, but ...
    logits[:3, 0, 1] = 5  # ... three of the first five seeds lean to a wrong class,
    logits[3, 2, 4] = 90  # ... one is wrong and surer than four others, in the first five
    logits[6, 3, 5] = 5  # ... and one of the second five
    logits[7:, 9, 8] = np.arange(6, 13)  # ... and the random splits all
    done = writers.methods.Predictions(rows, logits.argmax(-1), logits, 2.0, [{}] * 14)
    # Votes: row 0 of the first five is 3 x 0.69 for 1 against 2 x 0.85 and 3 x 0.25 for 0: right.
    assert writers.votes(done, labels, 7) == [1.0]
    score = writers.score(done, labels, 7)
    assert score["new_writers"]["accuracies"].tolist() == [0.9, 0.9, 0.9, 0.9, 1, 1, 0.9]
    assert score["random"]["accuracies"].tolist() == [0.9] * 7
    assert np.isnan(score["random"]["prediction95"]).all()  # equal scores have no spread
    assert score["difference"] == pytest.approx(6.5 / 7 - 0.9)
    assert score["new_writers"]["wilson95"] == dj.wilson_interval(9, 10)
    logits[:5, 0, 1] = 6
    assert writers.votes(done, labels, 7) == [0.9]


def test_the_control_counts_rows_of_the_second_file_alone(writers: ModuleType) -> None:
    labels = np.zeros(3825, int)
    rows = np.array([[3823, 3824], [5, 3824], [5, 6]])
    predicted = np.array([[0, 1], [1, 0], [0, 0]])
    done = writers.methods.Predictions(rows, predicted, np.zeros((3, 2, 0)), 0.0, [{}] * 3)
    assert writers.second_file(done, labels).tolist() == [0.5, 1, 0]


def test_the_bundled_rows_are_refused(
    writers: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--data", "bundled", "--output-dir", tmp_path / "out"]
    assert _run(writers, monkeypatch, *words) == 2
    assert "needs all 5620 rows" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
