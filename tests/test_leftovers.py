"""leftovers.py: the rows that nearly all predictions miss, and the rows most like them."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

import digits_jax as dj

SCRIPT = Path(__file__).parents[1] / "experiments" / "leftovers.py"
Run = Callable[..., tuple[int, str, str]]
# Wrong in: every prediction, one of four, three of four (each with its method's share below).
# Only the first is missed by both methods in more than half of the repeats.
MISSED = {17: [[1, 1], [1, 1]], 40: [[1, 0], [0, 0]], 1796: [[1, 1], [0, 1]]}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The script in this process, which has started JAX already: exit code, stdout, stderr."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    command_line = importlib.import_module("common.command_line")
    leftovers = importlib.import_module("leftovers")
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        code = 0
        try:
            command_line.run(leftovers.Config, leftovers.main, leftovers.__doc__)
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    """What compare.py writes of two methods that miss MISSED, in two repeats of two folds."""
    digits = dj.load_digits("bundled")
    splits = dj.kfold_splits(digits.labels, 2, repeats=2)
    rows = np.where(splits.test_weights > 0, splits.test_rows, -1)
    folder = tmp_path / "compared"
    folder.mkdir()
    for m, name in enumerate(("svm", "knn1")):
        answers = np.tile(digits.labels, (2, 1)).astype(np.int32)
        for row, misses in MISSED.items():
            answers[:, row] = (answers[:, row] + np.array(misses[m])) % 10
        predicted = np.stack([answers[lane // 2, rows[lane]] for lane in range(4)])
        np.savez(
            folder / f"predictions_{name}.npz",
            rows=rows,
            predicted=predicted,
            logits=3 * np.eye(10, dtype=np.float32)[predicted] * (rows >= 0)[..., np.newaxis],
            about=json.dumps({"identity": {}, "seconds": 1.0, "chosen": [{}] * 4}),
        )
    results = {
        "experiment": "compare",
        "data": {"sha256": digits.provenance.sha256, "note": "bundled"},
        "config": {"repeats": 2},
        "methods": {"svm": {}, "knn1": {}},
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize(
    ("share", "left"), [(1.0, [17]), (0.75, [17, 1796]), (0.2, [17, 1796, 40])]
)
def test_it_finds_the_rows(
    compared: Path, run: Run, tmp_path: Path, share: float, left: list[int]
) -> None:
    out = tmp_path / "out"
    words = ["--run", compared, "--data", "bundled", "--share", share, "--output-dir", out]
    code, _, errors = run(*words)
    assert code == 0, errors
    results = json.loads((out / "results.json").read_text())
    assert [each["row"] for each in results["left"]] == left
    assert results["rows_wrong_in"] == {"50%": 2, "90%": 1, "100%": 1}
    assert results["lost"] == 1 and results["ceiling"]["share"] == 1 - 1 / 1797
    low, high = results["ceiling"]["wilson95"]
    assert low < results["ceiling"]["share"] < high
    with (out / "rows.csv").open() as file:
        first = next(csv.DictReader(file))
    label = dj.load_digits("bundled").labels[17]
    assert first["label"] == str(label) and first["read_as"] == str((label + 1) % 10)
    assert (out / "leftovers.png").stat().st_size > 5000
    with (out / "suspects.csv").open() as file:
        suspects = [(int(line["row"]), line["methods"]) for line in csv.DictReader(file)]
    # 17 is wrong in every prediction of both; 1796 in both of one method, one of the other's two.
    assert suspects == [(17, "svm knn1"), (1796, "svm")]


def test_every_prediction_as_a_csv(compared: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--run", compared, "--data", "bundled", "--output-dir", out, "--predictions"]
    code, _, errors = run(*words)
    assert code == 0, errors
    with (out / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 2 * 1797
    wrong = [line for line in lines if line["label"] != line["predicted"]]
    assert {(int(line["row"]), line["method"]) for line in wrong} == {
        (17, "svm"), (17, "knn1"), (40, "svm"), (1796, "svm"), (1796, "knn1")
    }  # fmt: skip
    assert float(wrong[0]["probability_of_label"]) == pytest.approx(1 / (9 + np.exp(3)), rel=1e-4)


def test_methods_can_be_left_out_and_none_may_be_left(
    compared: Path, run: Run, tmp_path: Path
) -> None:
    words = ["--run", compared, "--data", "bundled", "--output-dir", tmp_path / "out"]
    code, _, errors = run(*words, "--methods", "svm")
    assert code == 0, errors
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [each["row"] for each in results["left"]] == [17, 1796]
    assert results["lost"] == 2


def test_neighbours_are_the_nearest_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    leftovers = importlib.import_module("leftovers")
    digits = dj.load_digits("bundled")
    shown = [{"row": row, "label": int(digits.labels[row]), "read_as": 3} for row in MISSED]
    images, titles = leftovers.sheet(digits.images, digits.labels, shown)
    pixels = digits.images.reshape(1797, -1).astype(float)
    distances, nearest = NearestNeighbors(n_neighbors=5).fit(pixels).kneighbors(pixels[[*MISSED]])
    np.testing.assert_array_equal(images, digits.images[nearest.ravel()])
    assert titles[0] == f"row 17\n{digits.labels[17]}, read as 3"
    for i in (1, 4, 6, 14):
        row, distance = nearest.ravel()[i], distances.ravel()[i]
        assert titles[i] == f"{digits.labels[row]}\n{distance:.1f}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--share", "0"], "--share must be above 0, to 1, not 0.0"),
        (["--methods", "mlp"], "has no mlp"),
        (["--run", "no/such"], "no/such/results.json can't be read"),
    ],
)
def test_a_users_mistake_gets_one_line(
    compared: Path, run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    code, _, errors = run("--run", compared, "--data", "bundled", "--output-dir", out, *arguments)
    assert code == 2 and message in errors.replace("\n", " ")
    assert not out.exists()


def test_other_rows_are_refused(compared: Path, run: Run, tmp_path: Path) -> None:
    results = json.loads((compared / "results.json").read_text())
    results["data"]["sha256"] = "0"
    (compared / "results.json").write_text(json.dumps(results))
    words = ["--run", compared, "--data", "bundled", "--output-dir", tmp_path / "out"]
    code, _, errors = run(*words)
    assert code == 2 and "is of other rows (bundled); give the same --data" in errors
