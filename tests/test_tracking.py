"""TensorBoard's files, read back."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import digits_jax as dj
from common import command_line, tracking

pytest.importorskip("tensorboardX")


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
    with tracking.Tracker(tmp_path, ["fold 1", "refit"], rates) as tracker:
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


def test_a_new_attempt_replaces_an_earlier_one(tmp_path: Path) -> None:
    for epochs in (3, 2):
        with tracking.Tracker(tmp_path, ["a", "b"], np.ones((2, 3))) as tracker:
            tracker.write(_history(epochs))
    steps = [step for tag, step, _ in _values(tmp_path / "tensorboard" / "a") if "loss" in tag]
    assert steps == [1, 2]


def test_hyperparameters_scores_and_figures(tmp_path: Path) -> None:
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    pixels = np.zeros((3, 5, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "confusion.png")
    config = {"epochs": 5, "refit": True, "data": "auto", "output_dir": "x", "quiet": True}
    scores = {"fold 1": {"accuracy": 0.75}}
    tracking.finish(tmp_path, config={**config, "none": None}, scores=scores, figures=["confusion"])
    values = {tag: value for tag, _, value in _values(tmp_path / "tensorboard" / "fold 1")}
    assert values["test/accuracy"].simple_value == 0.75
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
