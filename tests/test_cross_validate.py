"""The main script, as a user runs it."""

from __future__ import annotations

import datetime
import importlib
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "cross_validate.py"
BUNDLED_SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"
COMMON = ["--data", "bundled", "--folds", "3", "--epochs", "6", "--checkpoint-every", "2"]
Refused = Callable[..., str]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPT), *arguments]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*arguments), cwd=folder, capture_output=True, text=True)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What the script says, in one line, to arguments that it refuses: called in this process."""
    command_line, script = map(importlib.import_module, ("common.command_line", "cross_validate"))
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)  # it has started

    def call(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as stop:
            command_line.run(script.Config, script.main, script.__doc__)
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished")
    done = _run(folder, *COMMON, "--output-dir", "out", "--svg")
    assert done.returncode == 0, done.stderr
    assert "bundled: the 1797 rows that come with scikit-learn" in done.stdout
    assert "mean ± sd" in done.stdout and "epoch 6/6" in done.stdout
    assert done.stderr == ""
    return folder / "out"


def test_it_writes_what_it_says(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if path.name[0] != "."} == {
        "checkpoints",
        "confusion.png",
        "confusion.svg",
        "folds.png",
        "folds.svg",
        "history.npz",
        "learning_curves.png",
        "learning_curves.svg",
        "missed.png",
        "missed.svg",
        "options.json",
        "predictions.npz",
        "report.html",
        "results.json",
    }
    results = json.loads((finished / "results.json").read_text())
    assert results["data"]["source"] == "bundled"
    assert (results["data"]["rows"], results["data"]["sha256"]) == (1797, BUNDLED_SHA256)
    assert results["config"]["folds"] == 3 and results["config"]["learning_rate"] == 1e-3
    assert [fold["fold"] for fold in results["folds"]] == [1, 2, 3]
    for name in ("accuracy", "loss"):
        scores = [fold[name] for fold in results["folds"]]
        assert results[name]["mean"] == pytest.approx(np.mean(scores))
        assert results[name]["std"] == pytest.approx(np.std(scores))
        low, high = results[name]["ci95"]
        assert low < results[name]["mean"] < high
    assert set(results["seconds"]) >= {"compile", "train", "total"}
    assert results["seconds"]["total"] > results["seconds"]["train"] > 0
    assert results["devices"]["platform"] and results["versions"]["jax"]
    assert results["schema"] == 1
    started = datetime.datetime.fromisoformat(results["date"])
    age = datetime.datetime.now(datetime.UTC) - started
    assert datetime.timedelta(0) < age < datetime.timedelta(hours=1)
    assert results["machine"]["host"] == platform.node() and results["machine"]["cores"] >= 1
    assert "xla_gpu_enable_command_buffer" in results["machine"]["xla_flags"]  # start_jax's own
    if (SCRIPT.parents[1] / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", results["commit"])
    history = np.load(finished / "history.npz")
    assert history["loss"].shape == history["accuracy"].shape == (4, 6)
    assert list(history["runs"]) == ["fold 1", "fold 2", "fold 3", "refit"]
    predictions = np.load(finished / "predictions.npz")
    assert sorted(predictions["rows"].ravel()) == list(range(1797))
    assert predictions["logits"].shape == (3, 599, 10)


def test_the_table_says_when_each_fold_was_best() -> None:
    script = importlib.import_module("cross_validate")
    tables = importlib.import_module("common.tables")
    totals = [("mean ± sd", "0.2"), ("95 % interval", "0 to 1")]
    table = tables.Table("x", ("run", "loss"), [("fold 1", "0.1"), ("fold 2", "0.3")], "", totals)
    said = script.with_best_epochs(table, np.array([9, 12]), np.array([14, 17]))
    assert said.columns == ("run", "loss", "best epoch")
    assert [row[-1] for row in said.rows] == ["9 of 14", "12 of 17"]
    assert [row[-1] for row in said.totals] == ["10.5 ± 1.5", ""]


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_bits(finished: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        _command(*COMMON, "--epochs", "6", "--output-dir", "out"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 143, message
    assert "of 6 epochs; all of it is saved. Go on with: " in message
    assert not (tmp_path / "out" / "results.json").exists()
    (command,) = [line for line in message.splitlines() if "Go on with: " in line]
    words = command.split("Go on with: ")[1].split()
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    for name in ("history.npz", "predictions.npz"):
        whole, resumed = np.load(finished / name), np.load(tmp_path / "out" / name)
        for array in whole.files:
            np.testing.assert_array_equal(resumed[array], whole[array])


@pytest.mark.slow
def test_the_strong_recipe_brings_its_own_numbers(tmp_path: Path) -> None:
    options = ["--recipe", "strong", "--epochs", "2", "--learning-rate", "0.01", "--folds", "2"]
    done = _run(tmp_path, "--data", "bundled", *options, "--no-refit", "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    config = {name: results["config"][name] for name in ("recipe", "epochs", "learning_rate")}
    assert config == {"recipe": "strong", "epochs": 2, "learning_rate": 0.01}


def test_help_is_quick_and_names_defaults() -> None:
    started = time.perf_counter()
    done = subprocess.run(_command("--help"), capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 5  # measured: 0.35 s; importing JAX alone takes 0.7 s
    for text in ("--learning-rate", "0.001", "--no-refit", "--resume"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be a positive number, not 0"),
        (["--learning-rate", "nan"], "--learning-rate must be a positive number, not nan"),
        (["--data", "no/such.csv"], "no/such.csv can't be read"),
        (["--data", "bundled", "--folds", "2000"], "2000 folds need at least 2000 rows"),
        (["--resume"], "--resume needs --output-dir"),
    ],
)
def test_a_users_mistake_gets_one_line(
    tmp_path: Path, refused: Refused, arguments: list[str], message: str
) -> None:
    assert message in refused(tmp_path, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_the_process_with_2(tmp_path: Path) -> None:
    done = _run(tmp_path, "--folds", "1")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("--folds must be at least 2, not 1")
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused(finished: Path, refused: Refused) -> None:
    before = (finished / "results.json").read_bytes()
    said = refused(finished.parent, *COMMON, "--output-dir", "out")
    assert "out holds a run already" in said
    assert (finished / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--batch-size", "64"], "started with --batch-size 128, now 64"),
        (["--epochs", "5"], "was trained for 6 epochs already, more than the 5 asked for"),
        pytest.param(["--seed", "1"], "started with --seed 0, now 1", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_name(
    finished: Path, change: list[str], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    done = _run(finished.parent, *COMMON, "--output-dir", "out", "--resume", *change)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after == before, "the finished run is as it was"


@pytest.mark.slow
def test_a_run_that_goes_on_is_not_complete_until_it_ends(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    options = [*COMMON, "--epochs", "600", "--output-dir", "out", "--resume"]
    process = subprocess.Popen(
        _command(*options), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch "):
            break
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 143, message
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.slow
def test_divergence_is_named_and_left_out(tmp_path: Path) -> None:
    done = _run(tmp_path, *COMMON, "--epochs", "2", "--learning-rate", "1e3", "--output-dir", "o")
    assert done.returncode == 2
    assert "fold 1 diverged in epoch 1" in done.stderr
    assert "every fold diverged; try a smaller --learning-rate" in done.stderr
