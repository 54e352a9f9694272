"""Several runs side by side, from folders as the scripts leave them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compare_runs
import finished
from common import options
from digits_jax import corrected_resampled_ttest

ACCURACIES = {"a": [0.99, 0.98, 0.99, 0.97, 0.98], "b": [0.97, 0.96, 0.97, 0.97, 0.965]}


def _write(folder: Path, accuracies: list[float], epochs: int, **config: Any) -> Path:
    folder.mkdir()
    mean, sd = float(np.mean(accuracies)), float(np.std(accuracies))
    summary = {"mean": mean, "std": sd, "ci95": [mean - sd, mean + sd]}
    options = {"folds": 5, "repeats": 1, "seed": 0, "stratified": True, "epochs": epochs}
    results = {
        "experiment": "cross_validate",
        "data": {"source": "source-a", "rows": 100, "sha256": "a" * 64},
        "config": {**options, "quiet": folder.name == "a", **config},
        "versions": {"jax": "1"},
        "folds": [{"fold": i + 1, "accuracy": each} for i, each in enumerate(accuracies)],
        "accuracy": summary,
        "loss": summary,
        "seconds": {"total": 12.5},
    }
    (folder / "results.json").write_text(json.dumps(results))
    shares = np.linspace(0.1, 0.9, epochs) * np.ones((6, 1))
    np.savez(folder / "history.npz", loss=1 - shares, accuracy=shares, runs=["x"] * 6)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return _write(tmp_path / "a", ACCURACIES["a"], 4), _write(tmp_path / "b", ACCURACIES["b"], 6)


def _compare(*folders: Path) -> tuple[dict[str, Any], str]:
    output = folders[0].parent / "out"
    compare_runs.main(compare_runs.Config(runs=folders, output_dir=output))
    results: dict[str, Any] = json.loads((output / "results.json").read_text())
    return results, (output / "report.html").read_text()


def test_scores_differences_curves_and_a_paired_test(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results, page = _compare(*runs)
    assert [run["accuracy"]["mean"] for run in results["runs"]] == pytest.approx([0.982, 0.967])
    assert results["differences"] == {"config.epochs": [4, 6]}  # quiet changes nothing
    (test,) = results["tests"]
    expected = corrected_resampled_ttest(*ACCURACIES.values(), train_rows=80, test_rows=20)
    assert (test["a"], test["b"]) == ("epochs 4", "epochs 6")  # by what differs
    assert test["p_value"] == pytest.approx(expected.p_value)
    assert test["mean_difference"] == pytest.approx(0.015)
    shown = capsys.readouterr().out
    for text in (
        "98.20 ± 0.75",
        "96.70 ± 0.40",
        "epochs 4 is +1.50 percentage points from epochs 6",
    ):
        assert text in page and text in shown
    (values,) = re.findall(r"<details>.*?</details>", page, flags=re.DOTALL)
    epochs = [re.findall(r"<td>(.*?)</td>", line) for line in values.split("<tr>")[2:]]
    assert [each[2] for each in epochs] == [
        "10.0000",
        "36.6667",
        "63.3333",
        "90.0000",
        "nan",
        "nan",
    ]
    assert [each[3] for each in epochs][::5] == ["10.0000", "90.0000"]


def test_other_folds_and_other_rows_are_not_paired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _write(tmp_path / "a", ACCURACIES["a"], 4)
    seeded = _write(tmp_path / "b", ACCURACIES["b"], 4, seed=1)
    other = _write(tmp_path / "c", ACCURACIES["b"], 4)
    text = (other / "results.json").read_text()
    (other / "results.json").write_text(text.replace("a" * 64, "b" * 64).replace("e-a", "e-b"))
    results, page = _compare(first, seeded, other)
    assert results["tests"] == []
    assert set(results["differences"]) == {"config.seed", "data.sha256", "data.source"}
    assert "saw different rows" in page
    shown = capsys.readouterr().out
    names = ["source-a, seed 0", "source-a, seed 1", "source-b, seed 0"]
    for name, why in ((names[1], "seed"), (names[2], "data")):
        sentence = (
            f"{names[0]} and {name} were not tested by fold: their folds are not the same ({why})"
        )
        assert sentence in results["untested"] and sentence in shown and sentence in page


def test_a_fold_that_diverged_is_not_paired(runs: tuple[Path, Path]) -> None:
    file = runs[1] / "results.json"
    file.write_text(file.read_text().replace('"accuracy": 0.96}', '"accuracy": null}'))
    results, _ = _compare(*runs)
    assert results["tests"] == []
    assert results["untested"] == ["epochs 4 and epochs 6 were not tested by fold: a fold diverged"]


def test_an_experiment_without_curves(runs: tuple[Path, Path]) -> None:
    quick = runs[0].parent / "<b>"
    quick.mkdir()
    summary = json.loads((runs[0] / "results.json").read_text())["accuracy"]
    (quick / "results.json").write_text(json.dumps({"experiment": "speedrun", "accuracy": summary}))
    results, page = _compare(runs[0], quick)
    assert results["runs"][1]["loss"] is None
    assert results["tests"] == results["untested"] == []  # not both are cross-validations
    assert "&lt;b&gt;" in page and "<b>" not in page.split("<script")[0]


def test_an_experiment_without_scores_is_refused(runs: tuple[Path, Path]) -> None:
    (runs[1] / "results.json").write_text('{"experiment": "explore"}')
    with pytest.raises(options.UsageError, match=r"b has no scores to .* a run of explore"):
        _compare(*runs)
    assert not (runs[0].parent / "out").exists()


def test_names_are_what_the_folders_do_not_share(tmp_path: Path) -> None:
    folders = [tmp_path / "x" / "1" / "run", tmp_path / "x" / "2" / "run"]
    assert compare_runs.short(folders) == ["1/run", "2/run"]
    assert compare_runs.short([tmp_path, tmp_path / "x"]) == [tmp_path.name, f"{tmp_path.name}/x"]


def test_runs_are_named_by_what_differs(tmp_path: Path) -> None:
    def named(*configs: dict[str, Any]) -> list[str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        runs = [_write(folder / str(i), ACCURACIES["a"], 4, **c) for i, c in enumerate(configs)]
        return compare_runs.telling([finished.read(run, run.name) for run in runs])

    assert named({"recipe": "strong", "members": 1}, {"recipe": "mine.py:r", "members": 3}) == [
        "strong, members 1",
        "mine.py:r, members 3",
    ]
    assert named({"set": ["a=1", "b=2"], "refit": True}, {"set": [], "refit": False}) == [
        "set a=1 b=2, refit on",
        "set –, refit off",
    ]
    assert named({}, {}, {"seed": 5}) == ["0: seed 0", "1: seed 0", "2: seed 5"]
    assert named({}, {}) == ["0", "1"]


def test_machines_are_compared_where_all_runs_name_them(runs: tuple[Path, Path]) -> None:
    """Results of an earlier version don't."""
    first, second = (run / "results.json" for run in runs)
    known = json.loads(first.read_text())
    first.write_text(json.dumps({**known, "machine": {"host": "x", "xla_flags": ""}}))
    assert "machine.host" not in _compare(*runs)[0]["differences"]
    (runs[0].parent / "out" / "results.json").unlink()
    other = json.loads(second.read_text())
    second.write_text(json.dumps({**other, "machine": {"host": "y", "xla_flags": ""}}))
    assert _compare(*runs)[0]["differences"]["machine.host"] == ["x", "y"]


DAMAGE = {
    "": "is damaged: Expecting value",
    '{"experiment": "cross_validate", ': "is damaged: ",
    "[]": "is not the results of one of these scripts",
    '{"experiment": "train", "accuracy": {"mean": "x"}}': "its accuracy is no score",
    '{"experiment": "train", "config": 3}': "its config is not an object",
    '{"experiment": "cross_validate", "folds": [3]}': "its folds have no accuracy",
}


@pytest.mark.parametrize(("text", "message"), DAMAGE.items())
def test_damaged_results_are_named(runs: tuple[Path, Path], text: str, message: str) -> None:
    (runs[1] / "results.json").write_text(text)
    with pytest.raises(options.UsageError, match=r"b.results\.json") as error:
        _compare(*runs)
    assert message in str(error.value)
    assert not (runs[0].parent / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", None])
def test_a_damaged_history_is_named(runs: tuple[Path, Path], content: bytes | None) -> None:
    file = runs[1] / "history.npz"
    if content is None:
        np.savez(file, loss=np.ones(3), accuracy=np.ones(3))
    else:
        file.write_bytes(content)
    with pytest.raises(options.UsageError, match=r"history\.npz is damaged"):
        _compare(*runs)


def test_a_users_mistake_gets_one_line(runs: tuple[Path, Path]) -> None:
    (runs[0].parent / "empty").mkdir()
    for folders, message in (
        (["a"], "give two folders of runs, or more"),
        (["a", "none"], "none is not a folder"),
        (["a", "empty"], "empty holds no results.json"),
        (["a", "a"], "a folder is given twice"),
    ):
        with pytest.raises(options.UsageError, match=message):
            _compare(*(runs[0].parent / folder for folder in folders))
    script = str(Path(compare_runs.__file__))
    done = subprocess.run(
        [sys.executable, script, "a", "none"], cwd=runs[0].parent, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.strip() == "error: none is not a folder"
