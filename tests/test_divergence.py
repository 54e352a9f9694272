"""The scripts, where some runs diverge: named, marked, and in no mean."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import digits_jax as dj

pytestmark = pytest.mark.slow  # whole scripts

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SMALL = dj.DigitsCNN(conv_features=(4,), dense_features=(), pixel_scale=1 / 16)
Script = Callable[..., tuple[int, str, dict[str, Any]]]


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Script:
    """A script with a small network, whose runs of the seeds and numbers given diverge.

    Gives the exit code, standard error, and the results.
    """
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    command_line = importlib.import_module("common.command_line")
    monkeypatch.setattr(command_line, "terminated", signal.getsignal(signal.SIGTERM))
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
    make_runs, make_recipe, by_name = dj.make_runs, dj.Recipe, dj.recipe_by_name

    def small_recipe(name: str, **options: Any) -> dj.NamedRecipe:
        named = by_name(name, **options)
        return named._replace(recipe=dataclasses.replace(named.recipe, network=SMALL))

    def call(name: str, wild: dict[int, list[int]], *words: str) -> Any:
        def some_diverge(splits: Any, hyperparameters: Any, *, seed: int, **more: Any) -> dj.Run:
            rates = np.full(len(splits.train_rows), hyperparameters.learning_rate)
            rates[wild.get(seed, [])] = 1e3
            changed = hyperparameters._replace(learning_rate=rates)
            return make_runs(splits, changed, seed=seed, **more)

        module = importlib.import_module(name)
        monkeypatch.setattr(dj, "make_runs", some_diverge)
        monkeypatch.setattr(dj, "recipe_by_name", small_recipe)
        monkeypatch.setattr(
            dj, "Recipe", lambda **kw: functools.partial(make_recipe, **kw)(network=SMALL)
        )
        words = (f"{name}.py", "--data", "bundled", "--output-dir", str(tmp_path / "out"), *words)
        monkeypatch.setattr(sys, "argv", list(words))
        code = 0
        try:
            command_line.run(module.Config, module.main, module.__doc__)
        except SystemExit as stop:
            code = int(stop.code or 0)
        file = tmp_path / "out" / "results.json"
        return code, capsys.readouterr().err, json.loads(file.read_text()) if file.exists() else {}

    return call


def test_cross_validate_keeps_the_sound_folds(script: Script, tmp_path: Path) -> None:
    code, said, results = script("cross_validate", {0: [1, 3]}, "--folds", "3", "--epochs", "8")
    assert code == 0
    for name in ("fold 2", "refit"):
        assert f"{name} diverged in epoch 1; it is left out of the means." in said
    assert "fold 1" not in said and "fold 3" not in said
    assert results["diverged"] == {"fold 2": 1, "refit": 1}
    folds = [results["folds"][i]["accuracy"] for i in (0, 2)]
    assert results["accuracy"]["mean"] == pytest.approx(np.mean(folds))
    assert min(folds) > 0.3 > results["folds"][1]["accuracy"]
    assert np.isfinite([*results["loss"]["ci95"], results["loss"]["mean"]]).all()
    assert results["loss"]["mean"] < 3 < results["folds"][1]["loss"]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".png", ".npz"}
    tested = set(np.load(tmp_path / "out" / "predictions.npz")["rows"][1].tolist())
    assert not tested & set(results["missed_rows"]), "a diverged fold's rows are not judged"


def test_train_shows_the_first_sound_run(script: Script, tmp_path: Path) -> None:
    code, said, results = script("train", {0: [0]}, "--seeds", "3", "--epochs", "8")
    assert code == 0
    assert "run 1 diverged in epoch 1; it is left out of the means." in said
    assert results["diverged"] == {"run 1": 1}
    assert [run["run"] for run in results["runs"]] == [2, 3]
    accuracies = [run["accuracy"] for run in results["runs"]]
    assert results["accuracy"]["mean"] == pytest.approx(np.mean(accuracies)) and accuracies[0] > 0.3
    low, high = results["accuracy_wilson95"]
    assert low < accuracies[0] < high
    page = (tmp_path / "out" / "report.html").read_text()
    for title in ("Scores by class, run 2", "(Wilson) of run 2", "Confusion matrix, sum of 2 runs"):
        assert title in page


def test_speedrun_leaves_out_a_repeat(script: Script) -> None:
    words = ["--repeats", "3", "--epochs", "1", "--seed", "5"]
    code, said, results = script("speedrun", {6: [4]}, *words)
    assert code == 0
    assert "fold 5 of seed 6 diverged in epoch 1" in said
    assert results["diverged"] == {"fold 5 of seed 6": 1}
    assert len(results["accuracies"]) == 2
    assert results["accuracy"]["mean"] == pytest.approx(np.mean(results["accuracies"]))


@pytest.mark.parametrize("name", ["train", "speedrun"])
def test_nothing_sound_is_no_result(script: Script, name: str) -> None:
    words = {"train": ["--epochs", "1"], "speedrun": ["--epochs", "1", "--repeats", "2"]}
    code, said, results = script(name, {0: [0], 1: [0]}, *words[name])
    assert code == 2 and not results
    assert said.splitlines()[-1].startswith("error: ")
    assert "diverged; try a smaller --learning-rate" in said
