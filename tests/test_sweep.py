"""The sweep, as a user runs it."""

from __future__ import annotations

import csv
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "sweep.py"
COMMON = ["--data", "bundled", "--folds", "2"]
PLAIN = [*COMMON, "--epochs", "30", "--wave-size", "2", "--output-dir", "out", "--tensorboard"]
PLAIN += ["--vary", "learning_rate=3e-4,1e-2", "network.dense_activation=sigmoid,relu"]
PLAIN += ["network.width=0.125"]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPT), *arguments]


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*arguments), cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted sweep that validation rows decide."""
    folder = tmp_path_factory.mktemp("finished")
    done = _run(folder, *PLAIN)
    assert done.returncode == 0, done.stderr
    assert "Configurations on the validation rows of 2 splits" in done.stdout
    assert "epoch 30/30 of 2 runs, 4 of 4 runs done: training accuracy" in done.stdout
    assert "runs diverged" not in done.stdout  # none did
    assert "The best of all: python experiments/cross_validate.py --recipe notebook" in done.stdout
    return folder / "out"


def test_it_writes_what_it_says(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if path.name[0] != "."} == {
        "configurations.csv",
        "effects.png",
        "options.json",
        "report.html",
        "results.json",
        "scores.npz",
        "tensorboard",
        "waves",
    }
    tracked = sorted(path.name for path in (finished / "tensorboard").iterdir())
    assert tracked == [f"configuration {rank}" for rank in (1, 2, 3, 4)]
    results = json.loads((finished / "results.json").read_text())
    rows = results["configurations"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    means = [row["accuracy"] for row in rows]
    assert means == sorted(means, reverse=True) and means[0] > means[-1] + 0.1
    assert results["best"] == {name: rows[0][name] for name in results["best"]}
    assert (
        "--set learning_rate=" in results["best_command"]
        or "--set network" in (results["best_command"])
    )
    tested = [row["accuracy"] for row in results["outer_splits"]]
    assert results["accuracy"]["mean"] == pytest.approx(np.mean(tested))
    with (finished / "configurations.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in table] == pytest.approx(means)
    assert [row["network.dense_activation"] for row in table] == [
        row["network.dense_activation"] for row in rows
    ]
    assert {(row["network.dense_activation"], row["learning_rate"]) for row in rows} == {
        (activation, rate) for activation in ("sigmoid", "relu") for rate in (3e-4, 1e-2)
    }
    scores = np.load(finished / "scores.npz")
    assert scores["accuracy"].shape == scores["loss"].shape == (4, 2)
    for row in rows:
        here = (scores["network.dense_activation"] == row["network.dense_activation"]) & (
            scores["learning_rate"] == row["learning_rate"]
        )
        assert scores["accuracy"][here].mean() == pytest.approx(row["accuracy"])
        assert scores["loss"][here].mean() == pytest.approx(row["loss"])
    assert (scores["accuracy"] != scores["test_accuracy"]).any()  # of other rows
    # The test rows score what the validation rows of the same split have chosen, and no more.
    for o, row in enumerate(results["outer_splits"]):
        k = int(scores["accuracy"][:, o].argmax())
        assert row["chosen_by"] == pytest.approx(scores["accuracy"][k, o])
        assert row["learning_rate"] == scores["learning_rate"][k]
        assert row["accuracy"] == pytest.approx(scores["test_accuracy"][k, o])
    assert [wave["done"] for wave in results["waves"]] == [0, 2, 4] * 2
    assert all(wave["resident_bytes"] > 1e7 for wave in results["waves"])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_sweep_resumes_to_the_same_bits(
    finished: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        _command(*PLAIN), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    waves = tmp_path / "out" / "waves" / "folds-0"
    while not (waves / "wave-00000000.npz").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    assert not (tmp_path / "out" / "results.json").exists()
    if number == signal.SIGTERM:
        assert "stopped after 2 of 4 runs; all of it is saved. Go on with: " in stderr
        assert "--output-dir out" in stderr and stderr.strip().endswith(" --resume")
        refused = _run(tmp_path, *PLAIN)
        assert refused.returncode == 2 and "out holds a run already (waves)" in refused.stderr
    done = _run(tmp_path, *PLAIN, "--resume")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [wave["done"] for wave in results["waves"]] == [2, 4, 0, 2, 4]
    resumed, whole = (np.load(folder / "scores.npz") for folder in (tmp_path / "out", finished))
    for name in whole.files:
        np.testing.assert_array_equal(resumed[name], whole[name])


def test_a_signal_in_the_last_wave_of_a_stage_stops_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    sweep, stages = (importlib.import_module(name) for name in ("sweep", "stages"))
    config = sweep.Config(data="bundled", folds=2, output_dir=tmp_path / "out")
    output = sweep.Output(config, script="sweep")
    task = sweep.tasks.load_task("bundled")
    search = stages.Sweep(config, task, stages.make_structures(config, task), output)

    def last_wave(**options: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.5)  # a thread listens for it

    with pytest.raises(
        sweep.console.Stopped, match="stopped after 4 of 4 runs; all of it"
    ) as stopped:
        search.watched(last_wave, "folds-0", search.structures[0], 4)
    assert stopped.value.exit_code == 143


@pytest.mark.slow
def test_nested_with_halving(tmp_path: Path) -> None:
    done = _run(
        tmp_path,
        *(*COMMON, "--epochs", "6", "--wave-size", "12", "--output-dir", "out", "--nested"),
        *("--inner-folds", "2", "--halving", "--verify-halving"),
        *("--random", "3", "--vary", "learning_rate=1e-3:3e-2:log", "dropout_rate=0:0.5"),
        "network.width=0.125",
    )
    assert done.returncode == 0, done.stderr
    assert "Configurations on the inner folds of 2 splits" in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    scores = np.load(tmp_path / "out" / "scores.npz")
    assert scores["accuracy"].shape == (3, 4)
    epochs = scores["epochs"].reshape(3, 2, 2)
    np.testing.assert_array_equal(epochs[..., 0], epochs[..., 1])
    np.testing.assert_array_equal(np.sort(epochs[..., 0], axis=0).T, [[3, 6, 6]] * 2)
    assert results["halving"]["share_of_epochs_trained"] == pytest.approx(15 / 18)
    inner = scores["accuracy"].reshape(3, 2, 2).mean(axis=2)
    for o, row in enumerate(results["outer_splits"]):
        trained = np.where(epochs[:, o, 0] == 6, inner[:, o], -1)
        assert row["chosen_by"] == pytest.approx(trained.max())
        k = int(np.flatnonzero(scores["learning_rate"] == row["learning_rate"])[0])
        assert trained[k] == trained.max()
    tested = [row["accuracy"] for row in results["outer_splits"]]
    assert results["accuracy"]["mean"] == pytest.approx(np.mean(tested))
    assert len(results["halving"]["same_winner"]) == 2
    assert {
        path.name for path in (tmp_path / "out" / "waves").iterdir() if path.name[0] != "."
    } == {
        "halving-0",
        "inner-0",
        "outer-0",
    }
    figures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert figures == {"effects", "learning_rate_dropout_rate"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "learning_rate=-1"], "--vary: learning_rate must be"),
        (["--vary", "dropout_rate=0.1,1"], "--vary: dropout_rate must be"),
        (["--vary", "batch_size=0"], "--vary: batch_size must be 1 to"),
        (["--vary", "network.wdith=2"], "--vary network.wdith: the network's fields are"),
        (["--vary", "network.conv_activation=rellu"], "flax.linen has no rellu"),
        (
            ["--vary", "learning_rte=1"],
            "--vary: there is no hyperparameter 'learning_rte'; there are",
        ),
        (["--vary", "learning_rate"], "--vary learning_rate: write it as NAME=VALUE"),
        (["--vary", "learning_rate=high"], "--vary learning_rate=high: high is no number"),
        (["--vary", "learning_rate=1,1"], "--vary learning_rate names a value twice"),
        (["--vary", "learning_rate=1:2"], "is a range, which is drawn from: add --random"),
        (["--folds", "1"], "--folds must be at least 2, not 1"),
        (["--validation", "1"], "--validation must be between 0 and 1, not 1"),
        (["--verify-halving", "--nested"], "--verify-halving needs --halving"),
        (["--nested", "--halving", "--distributed"], "--halving moves runs from device to device"),
        (["--distributed"], "--distributed needs --output-dir, the same for all processes"),
        (["--random", "3"], "--random needs something to draw"),
        (
            ["--random", "3", "--vary", "weight_decay=0:1:log"],
            "--vary weight_decay=0:1:log: log_uniform needs 0 < low <= high",
        ),
        (["--random", "3", "--vary", "weight_decay=0:1:logg"], "write a range as LOW:HIGH"),
        (["--recipe", "nobody"], "--recipe nobody: give notebook, strong, or FILE.py:FUNCTION"),
        (["--recipe", "none.py:f"], "--recipe none.py:f: there is no file none.py"),
        (["--data", "none.npz"], "--data none.npz: there is no such file"),
        (["--resume"], "--resume needs --output-dir"),
    ],
)
def test_a_users_mistake_gets_one_line(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sweep = importlib.import_module("sweep")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)  # it has started
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--data", "bundled", "--epochs", "1", *arguments])
    with pytest.raises(SystemExit) as stopped:
        sweep.command_line.run(sweep.Config, sweep.main, sweep.__doc__)
    said = capfd.readouterr().err
    assert stopped.value.code == 2, said
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
