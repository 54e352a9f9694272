"""TensorBoard's files, read back."""

from __future__ import annotations

import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import digits_jax as dj
from common import command_line, tracking

pytest.importorskip("tensorboardX")
EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def _values(folder: Path) -> list[tuple[str, int, Any]]:
    """(tag, step, value) of all event files in a folder; they are TFRecords of protobufs."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.glob("events.*")):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value) for value in event.summary.value]
            at += 12 + length + 4
    return found


def _history(epochs: int) -> dict[str, np.ndarray]:
    loss = np.arange(2 * epochs, dtype=np.float32).reshape(2, epochs, order="F")
    return {"loss": loss, "accuracy": loss / 100}


def test_scalars_of_each_run_epoch_by_epoch(tmp_path: Path) -> None:
    rates = np.asarray([[0.5, 0.25, 0.125], [1.0, 2.0, 4.0]])
    with tracking.TensorBoard(tmp_path, ["fold 1", "refit"], rates) as tracker:
        tracker.write(_history(1))
        tracker.write(_history(3))
        tracker.write(_history(3))
    for r, name in enumerate(("fold 1", "refit")):
        values = _values(tmp_path / "tensorboard" / name)
        scalars = {(tag, step): value.simple_value for tag, step, value in values}
        assert len(scalars) == len(values) == 9  # each epoch once
        for epoch in (1, 2, 3):
            assert scalars["train/loss", epoch] == 2 * (epoch - 1) + r
            share = scalars["train/accuracy", epoch]
            assert share == pytest.approx((2 * (epoch - 1) + r) / 100)
            assert scalars["learning_rate", epoch] == rates[r, epoch - 1]


def test_the_learning_rate_is_the_one_that_was_used() -> None:
    """The schedule's, against the size of Adam's first steps: a constant gradient moves by it."""
    splits = dj.kfold_splits(np.arange(40, dtype=np.int32) % 10, 2)
    runs = dj.make_runs(splits, dj.Hyperparameters(learning_rate=0.5))
    constant = tracking.learning_rates(runs, dj.Recipe(batch_size=8), 4)
    np.testing.assert_array_equal(constant, np.full((2, 4), 0.5))

    epochs, steps = 3, 3  # 20 rows in batches of 8
    named = dj.recipe_by_name("strong", epochs=epochs, batch_size=8)
    runs = dj.make_runs(splits, named.hyperparameters)._replace(
        steps=np.full(2, epochs * steps, np.int32)
    )
    found = tracking.learning_rates(runs, named.recipe, epochs)
    numbers = jax.tree.map(lambda leaf: leaf[0], runs.hyperparameters)
    optimizer = named.recipe.optimizer(numbers._replace(weight_decay=np.float32(0)), epochs * steps)
    params = {"kernel": np.zeros((1, 1), np.float32)}
    gradients = {"kernel": np.ones((1, 1), np.float32)}

    def step(state: Any, _: None) -> tuple[Any, Any]:
        updates, state = optimizer.update(gradients, state, params)
        return state, -updates["kernel"][0, 0]

    def moves() -> Any:
        return jax.lax.scan(step, optimizer.init(params), length=epochs * steps)[1]

    moved = jax.jit(moves)()
    np.testing.assert_allclose(found, np.tile(moved[steps - 1 :: steps], (2, 1)), rtol=1e-4)


def test_validation_curves_are_beside_those_of_training(tmp_path: Path) -> None:
    history = _history(2) | {"validation_loss": np.full((2, 2), 0.5, np.float32)}
    with tracking.TensorBoard(tmp_path, ["a", "b"], np.ones((2, 2))) as tracker:
        tracker.write(history)
    tags = {tag for tag, _, _ in _values(tmp_path / "tensorboard" / "a")}
    assert tags == {"train/loss", "train/accuracy", "validation/loss", "learning_rate"}


def test_a_search_has_a_line_of_hyperparameters_for_each_configuration(tmp_path: Path) -> None:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    rows = [
        ({"learning_rate": 0.1, "recipe": "strong"}, {"chosen_by/accuracy": 0.5}, 3),
        ({"learning_rate": 0.2, "recipe": "strong"}, {"chosen_by/accuracy": 0.75}, 2),
    ]
    for _ in range(2):  # a second attempt replaces the first
        tracking.write_search(tmp_path, rows, tensorboard=True, module=None)
    for number, (h, metrics, epoch) in enumerate(rows, 1):
        found = _values(tmp_path / "tensorboard" / f"configuration {number}")
        values = {tag: (step, value) for tag, step, value in found}
        step, value = values["chosen_by/accuracy"]
        assert (step, value.simple_value) == (epoch, metrics["chosen_by/accuracy"])
        started = values["_hparams_/session_start_info"][1].metadata.plugin_data
        session = HParamsPluginData.FromString(started.content).session_start_info
        assert session.hparams["learning_rate"].number_value == h["learning_rate"]
        assert session.hparams["recipe"].string_value == "strong"
        assert len(found) == 4


TRACKED = """
import numpy as np
from pathlib import Path
from common import tracking
from trackio.sqlite_storage import SQLiteStorage

history = {"loss": np.array([[1.0, 0.5], [3.0, np.nan]]), "accuracy": np.full((2, 2), 0.5)}
rates = np.full((2, 2), 0.25)
about = {"config": {"epochs": 2, "seed": 0, "quiet": True}, "names": ["fold 1", "fold 2"]}
tracking.require_module("trackio")
with tracking.Module("trackio", "20260101-000000", learning_rates=rates, **about) as tracker:
    tracker.write({name: values[:, :1] for name, values in history.items()})
    tracker.write(history)
scores = {"fold 1": {"accuracy": 0.75}, "fold 2": {"accuracy": 0.25}}
tracking.finish_module("trackio", scores, 2)
search = [({"dropout_rate": 0.5}, {"chosen_by/loss": 0.125}, 3)]
tracking.write_search(Path("s"), search, tensorboard=False, module="trackio")

logs = SQLiteStorage.get_logs(tracking.PROJECT, "20260101-000000")
by_step = {}
for each in logs:
    by_step.setdefault(each["step"], {}).update(each)
first, last = by_step[1], by_step[2]
assert first["train/loss"] == 2.0 and first["fold 1/train/loss"] == 1.0, first
assert first["learning_rate"] == 0.25 and first["train/accuracy"] == 0.5
assert last["train/loss"] == 0.5 and "fold 2/train/loss" not in last, last  # it diverged
assert last["test/accuracy"] == 0.5 and last["fold 2/test/accuracy"] == 0.25
config = SQLiteStorage.get_run_config(tracking.PROJECT, "20260101-000000")
assert (config["epochs"], config["seed"]) == (2, 0) and "quiet" not in config, config
(row,) = SQLiteStorage.get_logs(tracking.PROJECT, "s, configuration 1")
assert (row["step"], row["chosen_by/loss"]) == (3, 0.125)
print("all is there")
"""


def test_a_module_with_wandbs_interface_gets_curves_and_scores(tmp_path: Path) -> None:
    """trackio, in a process of its own: it keeps what it is given in a file, and threads."""
    pytest.importorskip("trackio", reason="not installed: pip install trackio")
    done = subprocess.run(
        [sys.executable, "-c", TRACKED],
        cwd=EXPERIMENTS,
        capture_output=True,
        text=True,
        env={**os.environ, "TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all is there"


def test_of_many_runs_a_module_gets_the_mean_alone() -> None:
    names = [f"run {i}" for i in range(30)]
    assert tracking._of_runs({"train/loss": np.arange(30.0)}, names) == {"train/loss": 14.5}
    assert tracking._of_runs({"train/loss": np.ones(1)}, ["run 1"]) == {"train/loss": 1.0}
    assert tracking._of_runs({"train/loss": np.full(2, np.nan)}, ["a", "b"]) == {}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no_such_module", "--track no_such_module needs a package: pip install no_such_module"),
        ("json", "--track json: the module has no init, log, finish; give wandb, trackio or one"),
    ],
)
def test_what_is_no_tracker_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, message: str
) -> None:
    import sweep

    monkeypatch.setattr("sys.argv", ["sweep.py", "--track", module])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as stop:
        command_line.run(sweep.Config, lambda config: pytest.fail("started"), "")
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_new_attempt_replaces_an_earlier_one(tmp_path: Path) -> None:
    for epochs in (3, 2):
        with tracking.TensorBoard(tmp_path, ["a", "b"], np.ones((2, 3))) as tracker:
            tracker.write(_history(epochs))
    steps = [step for tag, step, _ in _values(tmp_path / "tensorboard" / "a") if "loss" in tag]
    assert steps == [1, 2]


def test_hyperparameters_scores_and_figures(tmp_path: Path) -> None:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    pixels = np.zeros((3, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "confusion.png")
    config = {"epochs": 5, "refit": True, "data": "auto", "output_dir": "x", "quiet": True}
    scores = {"fold 1": {"accuracy": 0.75}}
    config |= {"none": None}
    figures = ["confusion"]
    tracking.finish_tensorboard(tmp_path, config=config, scores=scores, epoch=5, figures=figures)
    found = _values(tmp_path / "tensorboard" / "fold 1")
    values = {tag: value for tag, _, value in found}
    assert values["test/accuracy"].simple_value == 0.75
    assert ("test/accuracy", 5) in [(tag, step) for tag, step, _ in found]  # of the last epoch
    started = values["_hparams_/session_start_info"].metadata.plugin_data
    assert started.plugin_name == "hparams"
    session = HParamsPluginData.FromString(started.content).session_start_info
    assert set(session.hparams) == {"epochs", "refit", "data"}
    assert session.hparams["epochs"].number_value == 5
    ((tag, _, value),) = _values(tmp_path / "tensorboard" / tracking.FIGURES)
    assert (tag, value.image.height, value.image.width) == ("confusion", 3, 5)


def test_a_missing_writer_is_said_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import cross_validate

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["cross_validate.py", "--tensorboard"])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as stop:
        command_line.run(cross_validate.Config, lambda config: pytest.fail("started"), "")
    assert stop.value.code == 2
    assert "pip install '.[tensorboard]'" in capsys.readouterr().err
