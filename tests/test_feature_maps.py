"""The script feature_maps.py, as a user runs it."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import matplotlib.image
import numpy as np
import pytest

import digits_jax as dj
import feature_maps

pytestmark = pytest.mark.slow  # trains and draws

SCRIPT = Path(__file__).parents[1] / "experiments" / "feature_maps.py"
SHAPES = {
    "conv_1": (8, 8, 16),
    "pool_1": (4, 4, 16),
    "conv_2": (4, 4, 32),
    "pool_2": (2, 2, 32),
    "conv_3": (2, 2, 64),
    "pool_3": (1, 1, 64),
}
FIGURES = {"feature_maps", "filters", "saliency"}
UNTRAINED = {"feature_maps_untrained", "feature_maps_compared"}


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--data", "bundled", "--no-compilation-cache"]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)


def _results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dj.TrainState]:
    """As cross_validate.py writes it: two folds that learn nothing, and a refit that does."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    digits = dj.load_digits("bundled")
    splits = dj.stack_splits(dj.kfold_splits(digits.labels, 2), dj.refit_split(digits.labels))
    rates = np.array([0, 0, 3e-3], np.float32)
    runs = dj.make_runs(splits, dj.Hyperparameters(learning_rate=rates), seed=5)
    result = dj.cross_validate(
        digits.data,
        runs,
        epochs=5,
        checkpoints=folder,
        checkpoint_every=5,
        names=["fold 1", "fold 2", "refit"],
        identity={"seed": 5},
    )
    return folder, result.states


@pytest.fixture(scope="module")
def refit(
    checkpoint: tuple[Path, dj.TrainState], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("refit")
    done = _run(folder, "--checkpoint", str(checkpoint[0]), "--output-dir", "out", "--svg")
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "out", done.stdout


def test_the_refit_is_taken_and_predicts(
    refit: tuple[Path, str], checkpoint: tuple[Path, dj.TrainState]
) -> None:
    folder, text = refit
    results, digits = _results(folder), dj.load_digits("bundled")
    state = jax.tree.map(lambda leaf: leaf[2], checkpoint[1])
    predict = jax.jit(functools.partial(dj.predict, recipe=dj.Recipe()))
    logits = np.asarray(predict(state, digits.images[59:60])[0], np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(results["probabilities"], probabilities, rtol=1e-4)
    assert (results["index"], results["class"]) == (59, digits.labels[59])
    assert results["predicted"] == probabilities.argmax()
    assert results["probability"] == max(results["probabilities"])
    assert results["network"]["run"] == "refit"
    assert f"refit of {checkpoint[0]}, 75 optimizer steps" in text  # 5 epochs of 15
    line = f"class {digits.labels[59]}, predicted {results['predicted']} with probability "
    assert f"row 59 {line}{results['probability']:.4f}" in text


def test_the_arrays_are_of_the_network_and_the_row(
    refit: tuple[Path, str], checkpoint: tuple[Path, dj.TrainState]
) -> None:
    arrays = np.load(refit[0] / "feature_maps.npz")
    assert set(arrays) == {*SHAPES, "image", "filters", "gradient"}
    assert {name: arrays[name].shape for name in SHAPES} == SHAPES
    np.testing.assert_array_equal(arrays["image"], dj.load_digits("bundled").images[59])
    params = jax.tree.map(lambda leaf: leaf[2], checkpoint[1].params)
    np.testing.assert_array_equal(arrays["filters"], params["conv_1"]["kernel"])
    for i in (1, 2, 3):
        conv, pool = arrays[f"conv_{i}"], arrays[f"pool_{i}"]
        cells = conv.reshape(len(pool), 2, len(pool), 2, -1)
        np.testing.assert_allclose(cells.max((1, 3)), pool, rtol=1e-5, atol=1e-5)
    hidden = arrays["pool_3"].ravel()  # from here on the dense layers give the logits
    for name in ("dense_1", "dense_2"):
        hidden = 1 / (1 + np.exp(-(hidden @ params[name]["kernel"] + params[name]["bias"])))
    logits = hidden @ params["logits"]["kernel"] + params["logits"]["bias"]
    probabilities = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(probabilities, _results(refit[0])["probabilities"], rtol=1e-3)


def test_the_saliency_is_the_slope_of_the_predicted_logit(
    refit: tuple[Path, str], checkpoint: tuple[Path, dj.TrainState]
) -> None:
    with np.load(refit[0] / "feature_maps.npz") as file:
        arrays, k = dict(file), _results(refit[0])["predicted"]
    state = jax.tree.map(lambda leaf: leaf[2], checkpoint[1])
    predict = jax.jit(functools.partial(dj.predict, recipe=dj.Recipe()))
    gradient = arrays["gradient"].ravel()
    steps = 0.002 * np.eye(64, dtype=np.float32).reshape(64, 8, 8)
    both = np.concatenate([arrays["image"] + steps, arrays["image"] - steps])
    upper, lower = np.split(np.asarray(predict(state, both))[:, k], 2)
    slopes = (upper - lower) / 0.004
    # At a kink (equal values in a pool, as in blank corners) a central difference and a gradient
    # are both right, and differ; how many pixels that hits depends on the weights.
    wrong = np.abs(slopes - gradient) > 0.02 * np.abs(gradient).max()
    assert wrong.mean() < 0.4, (slopes, gradient)
    assert np.corrcoef(slopes, gradient)[0, 1] > 0.9
    assert np.abs(gradient).max() > 0


def test_figures_are_written_and_not_blank(refit: tuple[Path, str]) -> None:
    names = {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    written = {path.name for path in refit[0].iterdir() if path.name[0] != "."}
    assert written == {*names, "feature_maps.npz", "report.html", "results.json"}
    for name in FIGURES:
        assert matplotlib.image.imread(refit[0] / f"{name}.png").std() > 0.02, name


@pytest.mark.slow
def test_the_untrained_network_is_the_run_as_it_began(
    checkpoint: tuple[Path, dj.TrainState], tmp_path: Path
) -> None:
    # Fold 2 learned at rate 0: where it ended is where it began.
    arguments = ("--run", "fold 2", "--index", "1796", "--untrained", "--output-dir", "out")
    done = _run(tmp_path, "--checkpoint", str(checkpoint[0].parent), *arguments)
    assert done.returncode == 0, done.stderr
    assert "fold 2 of " in done.stdout and "row 1796" in done.stdout
    arrays = np.load(tmp_path / "out" / "feature_maps.npz")
    for name in SHAPES:
        untrained = arrays[f"untrained_{name}"]
        np.testing.assert_allclose(untrained, arrays[name], rtol=1e-5, atol=1e-5)
        assert untrained.max() > 0
    for name in UNTRAINED:
        assert matplotlib.image.imread(tmp_path / "out" / f"{name}.png").std() > 0.02, name


def test_every_run_of_a_checkpoint_begins_where_it_began(tmp_path: Path) -> None:
    """Those that learn at rate 0 end there."""
    digits = dj.load_digits("bundled")
    recipe = dj.Recipe(network=dj.DigitsCNN(width=0.125))
    splits = dj.stack_splits(dj.kfold_splits(digits.labels, 2), dj.refit_split(digits.labels))
    runs = dj.make_runs(splits, dj.Hyperparameters(learning_rate=0.0), members=2, seed=5)
    names = [f"{name}, member {m}" for m in (1, 2) for name in ("fold 1", "fold 2", "refit")]
    folder = tmp_path / "checkpoints"
    identity = {"seed": 5}
    dj.cross_validate(
        digits.data,
        runs,
        recipe=recipe,
        epochs=1,
        checkpoints=folder,
        names=names,
        identity=identity,
    )
    data = dj.Data(digits.images[:1], digits.labels[:1])
    begun = set()
    for name in names:
        config = feature_maps.Config(checkpoint=folder, run=name)
        state, run, _ = feature_maps.load(config, digits, recipe)
        start = dj.init_state(run, data, recipe=recipe)
        kernel = np.asarray(start.params["conv_1"]["kernel"])
        np.testing.assert_allclose(kernel, state.params["conv_1"]["kernel"], rtol=1e-6)
        begun.add(kernel.tobytes())
    assert len(begun) == len(names)


@pytest.mark.slow
def test_without_a_checkpoint_it_trains_one_and_says_so(tmp_path: Path) -> None:
    done = _run(tmp_path, "--epochs", "1", "--index", "0", "--output-dir", "out", "--untrained")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no --checkpoint given: training a network quickly" in done.stdout
    assert "trained now on all 1797 rows, epochs: 1" in done.stdout
    folder = tmp_path / "out"
    assert {path.stem for path in folder.glob("*.png")} == FIGURES | UNTRAINED
    assert _results(folder)["layers"] == {name: list(shape) for name, shape in SHAPES.items()}
    arrays = np.load(folder / "feature_maps.npz")
    assert np.abs(arrays["conv_1"] - arrays["untrained_conv_1"]).max() > 0.01, "nothing learned"


def test_a_users_mistake_gets_one_line(
    checkpoint: tuple[Path, dj.TrainState], tmp_path: Path
) -> None:
    for arguments, message in (
        (["--index", "1797"], "--index 1797 is out of range: the rows are 0 to 1796"),
        (["--run", "0"], "--run needs --checkpoint"),
        (["--checkpoint", "no"], "no folder of checkpoints at no"),
        (["--checkpoint", str(checkpoint[0]), "--run", "4"], "fold 1, fold 2, refit, or 1 to 3"),
        (["--checkpoint", str(checkpoint[0]), "--run", "0"], "fold 1, fold 2, refit, or 1 to 3"),
    ):
        done = _run(tmp_path, *arguments)
        assert done.returncode == 2
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_jax() -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--checkpoint" in done.stdout and "59" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported and not imported & {"jax", "sklearn", "matplotlib"}
