"""The scripts on one's own work: --data mine.npz --recipe mine.py:function."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine

Run = Callable[..., str]

RECIPES = """
import flax.linen as nn
import jax.numpy as jnp
import optax

import digits_jax as dj


class MLP(nn.Module):
    outputs: int
    width: int = 8

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(nn.tanh(nn.Dense(self.width)(x)))


def optimizer(h):
    return optax.adam(h["learning_rate"])


def regression(data):
    def loss(outputs, targets, h):
        return (outputs[:, 0] - targets) ** 2

    def mae(outputs, targets):
        return jnp.abs(outputs[:, 0] - targets)

    recipe = dj.Recipe(
        network=MLP(1), loss=loss, metrics={"mae": mae}, optimizer=optimizer, batch_size=64
    )
    return recipe, {"learning_rate": 0.01}, 6


def classes(data):
    inputs, targets = data
    recipe = dj.Recipe(
        network=MLP(3), optimizer=optimizer, batch_size=32, monitor=("accuracy", "max")
    )
    return recipe, {"learning_rate": 0.01}, 12


def mean_loss(data):
    recipe, h, epochs = regression(data)
    return dj.Recipe(network=MLP(1), loss=lambda o, t, h: jnp.mean(o), optimizer=optimizer), h, 1


def key(data):
    return classes(data)[0], {"rate": 0.1}, 1


def nothing(data):
    return None


def failing(data):
    raise ValueError("no such thing")


def without_data():
    return None
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a script in this process, in a folder that holds data and recipes."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RECIPES)
    inputs, targets = load_diabetes(return_X_y=True)
    targets = (targets - targets.mean()) / targets.std()
    np.savez("diabetes.npz", inputs=np.float32(20 * inputs), targets=np.float32(targets))
    inputs, targets = load_wine(return_X_y=True)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    names = ["Barolo", "Grignolino", "Barbera"]
    np.savez("wine.npz", inputs=np.float32(inputs), targets=targets, class_names=names)

    def call(script: str, *arguments: object, code: int | None = None) -> str:
        module = importlib.import_module(script)
        monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        command_line = importlib.import_module("common.command_line")
        with joblib.parallel_config("sequential"):
            if code is None:
                command_line.run(module.Config, module.main, module.__doc__)
            else:
                with pytest.raises(SystemExit) as stopped:
                    command_line.run(module.Config, module.main, module.__doc__)
                assert stopped.value.code == code
        said = capfd.readouterr()
        return said.err if code else said.out

    return call


def _results(folder: str) -> Any:
    return json.loads(Path(folder, "results.json").read_text())


@pytest.mark.slow
def test_a_regression_is_cross_validated_with_members_and_early_stopping(run: Run) -> None:
    words = ("--data", "diabetes.npz", "--recipe", "mine.py:regression", "--folds", 3)
    watched = ("--validation", 0.2, "--patience", 2, "--keep", "best", "--members", 2)
    text = run("cross_validate", *words, *watched, "--epochs", 8, "--output-dir", "out")
    assert "vote, mean ± sd" in text and "refit on all rows, " in text
    results = _results("out")
    assert [fold["member"] for fold in results["folds"]] == [1, 1, 1, 2, 2, 2]
    means = [np.mean([f["mae"] for f in results["folds"] if f["fold"] == k]) for k in (1, 2, 3)]
    assert results["mae"]["mean"] == pytest.approx(np.mean(means))
    assert results["mae"]["std"] == pytest.approx(np.std(means))  # between folds, not networks
    # Two networks are never worse than their mean: squared errors are convex.
    assert results["votes"]["loss"]["mean"] <= results["loss"]["mean"]
    best, epochs = results["best_epochs"], results["epochs_of_runs"]
    assert all(b <= e <= min(8, b + 2) for b, e in zip(best, epochs, strict=True))
    history = np.load("out/history.npz")
    assert history["validation_mae"].shape == (6, 8)
    for r, end in enumerate(epochs):
        assert np.isfinite(history["validation_mae"][r, :end]).all()
        assert np.isnan(history["validation_mae"][r, end:]).all()
    page = Path("out/report.html").read_text()
    assert "on the validation rows after each epoch" in page and "Confusion" not in page
    assert np.load("out/predictions.npz")["outputs"].shape == (6, 148, 1)
    refit = Path("out/checkpoints/refit")
    assert (refit / str(max(1, round(np.mean(best))))).is_dir()
    # It goes on, where it is the same recipe, and has nothing left to do.
    again = run(
        "cross_validate", *words, *watched, "--epochs", 8, "--output-dir", "out", "--resume"
    )
    ends = [each.splitlines()[-2].split(" Written")[1] for each in (again, text)]
    assert ends[0] == ends[1]
    assert _results("out")["folds"] == results["folds"]


def test_an_edited_recipe_is_not_resumed(run: Run) -> None:
    words = ("--data", "diabetes.npz", "--recipe", "mine.py:regression", "--folds", 2, "--quiet")
    run("cross_validate", *words, "--epochs", 1, "--output-dir", "out", "--no-refit")
    before = Path("out/results.json").read_bytes()
    Path("mine.py").write_text(RECIPES.replace("- targets) ** 2", "- targets) ** 4"))
    more = ("--epochs", 2, "--output-dir", "out", "--no-refit", "--resume")
    said = run("cross_validate", *words, *more, code=2)
    assert "loss" in said and len(said.strip().splitlines()) == 1
    assert Path("out/results.json").read_bytes() == before


@pytest.mark.slow
def test_classes_are_trained_swept_and_compared(run: Run) -> None:
    words = ("--data", "wine.npz", "--recipe", "mine.py:classes")
    text = run("train", *words, "--output-dir", "t", "--seeds", 2, "--set", "network.width=16")
    assert "Grignolino" in text and "macro f1 (%)" in text
    assert _results("t")["accuracy"]["mean"] > 0.8
    assert "Barbera" in Path("t/report.html").read_text()

    vary = ("--vary", "learning_rate=1e-4,1e-2", "network.width=4,8")
    text = run("sweep", *words, *vary, "--folds", 2, "--output-dir", "s")
    results = _results("s")
    assert results["best"]["learning_rate"] == 0.01 and len(results["configurations"]) == 4
    # What it names can be run as it is printed.
    command = results["best_command"].split()
    assert command[:2] == ["python", "experiments/cross_validate.py"]
    run("cross_validate", *command[2:], "--output-dir", "c", "--no-refit")
    config = _results("c")["config"]
    assert config["set"][-1] == "learning_rate=0.01"
    assert config["folds"] == 2  # those of the search

    methods = ("--methods", "mine.py:classes", "knn3", "logistic", "--repeats", 1)
    run("compare", "--data", "wine.npz", *methods, "--folds", 2, "--output-dir", "m")
    found = _results("m")["methods"]
    assert list(found) == sorted(found, key=lambda name: -found[name]["accuracy"]["mean"])
    assert set(found) == {"mine.py:classes", "knn3", "logistic"}
    assert "Confusion matrix" in Path("m/report.html").read_text()


def test_groups_stay_together(run: Run) -> None:
    with np.load("wine.npz") as file:
        arrays = dict(file)
    groups = np.arange(len(arrays["targets"])) // 3
    np.savez("grouped.npz", groups=groups, **arrays)
    words = ("--data", "grouped.npz", "--recipe", "mine.py:classes", "--epochs", 1, "--quiet")
    more = ("--validation", 0.2, "--folds", 3, "--output-dir", "out", "--no-refit")
    run("cross_validate", *words, *more)
    rows = np.load("out/predictions.npz")["rows"]
    tested = [set(groups[each[each >= 0]]) for each in rows]
    assert set.union(*tested) == set(groups)
    assert sum(map(len, tested)) == len(set(groups))  # no group is in two folds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "mine.py:missing"), "mine.py has no function missing"),
        (("--recipe", "mine.py"), "give notebook, strong, or FILE.py:FUNCTION"),
        (("--recipe", "mine.py:nothing"), "must give (Recipe, hyperparameters, epochs)"),
        (("--recipe", "mine.py:failing"), "failing failed: no such thing"),
        (("--recipe", "mine.py:without_data"), "must take one argument, the data"),
        (
            ("--recipe", "mine.py:mean_loss"),
            "mine.py:mean_loss: loss gives [] for a trial batch",
        ),
        (("--recipe", "broken.py:f"), "broken.py can't be run: SyntaxError"),
        (("--recipe", "mine.py:classes", "--set", "depth=2"), "--set: there is no hyperparameter"),
        (("--recipe", "notebook"), "--recipe notebook: images must be [B, H, W]"),
        (("--recipe", "mine.py:key"), "mine.py:key: mine.py, line 19: KeyError: 'learning_rate'"),
        (("--data", "words.npz", "--recipe", "mine.py:classes"), "targets must be numbers, not"),
        (("--recipe", "mine.py:classes", "--set", "network.depth=2"), "the network's fields are"),
        (("--recipe", "mine.py:classes", "--learning-rate", "0"), "--learning-rate must be"),
        (("--recipe", "mine.py:classes", "--patience", "2"), "add --validation 0.1"),
        (("--data", "text.npz"), "text.npz can't be read"),
        (("--data", "half.npz"), "half.npz holds inputs; it must hold inputs and targets"),
        (("--data", "unequal.npz"), "unequal.npz: targets has 3 rows, and inputs have 4"),
    ],
)
def test_a_users_mistake_gets_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    Path("broken.py").write_text("def f(:")
    Path("text.npz").write_text("no archive")
    np.savez("half.npz", inputs=np.zeros(4))
    np.savez("words.npz", inputs=np.zeros((20, 3)), targets=np.array(["a", "b"] * 10))
    np.savez("unequal.npz", inputs=np.zeros(4), targets=np.zeros(3))
    said = run("cross_validate", "--data", "wine.npz", *arguments, "--output-dir", "out", code=2)
    assert message in said and len(said.strip().splitlines()) == 1
    assert not Path("out/results.json").exists()
