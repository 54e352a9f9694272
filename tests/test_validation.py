"""Validation rows: their curve, the best epoch, early stopping; test rows never choose."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax import evaluation, train
from digits_jax.data import load_digits
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.runs import advancing, programs, training
from digits_jax.runs.axis import make_runs, take_run
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.results import CrossValidation, Interrupted
from digits_jax.splits import kfold_splits, refit_split, stack_splits, with_validation
from digits_jax.structures import Data

EPOCHS, PATIENCE = 30, 2


class Linear(nn.Module):
    """Logits of the pixels."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(10, name="logits")(images.reshape(len(images), -1) / 16.0)


RECIPE = Recipe(network=Linear(), batch_size=64)
init = jax.jit(functools.partial(train.init_state, recipe=RECIPE))
train_epoch = jax.jit(functools.partial(train.train_epoch, recipe=RECIPE))
validate = jax.jit(functools.partial(evaluation.evaluate, recipe=RECIPE, part="validation"))
predict = jax.jit(functools.partial(evaluation.predict, recipe=RECIPE))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """400 of the bundled rows; a fifth of the labels is wrong, so that there is a best epoch."""
    digits = load_digits("bundled")
    labels = np.array(digits.labels[:400])
    wrong = np.random.default_rng(0).permutation(400)[:80]
    labels[wrong] = (labels[wrong] + 3) % 10
    return digits.images[:400].astype(np.float32), labels


@pytest.fixture(scope="module")
def runs(data: tuple[np.ndarray, np.ndarray]) -> Any:
    """Three folds whose learning rates let them stop at different epochs."""
    splits = with_validation(kfold_splits(data[1], 3), 0.25, seed=1)
    return make_runs(splits, Hyperparameters(learning_rate=[0.05, 0.1, 0.3]))


@pytest.fixture(scope="module")
def stopped(data: Any, runs: Any) -> CrossValidation:
    """All three with patience, the best weights kept."""
    options: Any = {"patience": PATIENCE, "keep": "best", "devices": jax.devices()[:2]}
    return cross_validate(data, runs, recipe=RECIPE, epochs=EPOCHS, **options)


def _by_hand(data: Any, run: Any) -> tuple[int, int, Any, list[float]]:
    """Epochs, best epoch, its state and the validation losses of a loop that stops by hand."""
    data = Data(jnp.asarray(data[0]), jnp.asarray(data[1]))
    state = init(run, data)
    best, best_state, losses = np.inf, state, []
    best_epoch = 0
    for number in range(1, EPOCHS + 1):
        state, _ = train_epoch(state, run, data)
        losses.append(float(validate(state, run, data)[0].means()["loss"]))
        if losses[-1] < best:
            best, best_epoch, best_state = losses[-1], number, state
        if number - best_epoch >= PATIENCE:
            break
    return number, best_epoch, best_state, losses


def test_early_stopping_is_that_of_a_loop_by_hand(
    data: Any, runs: Any, stopped: CrossValidation
) -> None:
    assert len(set(stopped.epochs.tolist())) > 1  # the runs stop at different epochs
    for i in range(3):
        epochs, best_epoch, state, losses = _by_hand(data, take_run(runs, i))
        assert (stopped.epochs[i], stopped.best_epochs[i]) == (epochs, best_epoch)
        got = stopped.history["validation_loss"][i]
        np.testing.assert_allclose(got[:epochs], losses, rtol=1e-4)
        assert np.isnan(got[epochs:]).all() and np.isnan(stopped.history["loss"][i, epochs:]).all()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            stopped.state(i).params,
            state.params,
        )


def test_the_best_weights_are_scored(data: Any, runs: Any, stopped: CrossValidation) -> None:
    last = cross_validate(
        data, runs, recipe=RECIPE, epochs=EPOCHS, patience=PATIENCE, devices=jax.devices()[:2]
    )
    assert (last.epochs == stopped.epochs).all()
    assert not np.allclose(last.scores["loss"], stopped.scores["loss"])
    images, labels = data
    for i in range(3):
        rows = stopped.test_rows[i][stopped.test_rows[i] >= 0]
        logits = predict(stopped.state(i), images[rows])
        right = np.asarray(logits).argmax(1) == labels[rows]
        assert stopped.scores["accuracy"][i] == pytest.approx(right.mean())


def test_stopped_runs_are_no_longer_scheduled(
    data: Any, runs: Any, stopped: CrossValidation, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    compile_programs = programs.compile_programs

    def counting(*args: Any, **options: Any) -> Any:
        made = compile_programs(*args, **options)

        def train_(*arguments: Any) -> Any:
            trained.append(len(arguments[1].key))
            return made.train(*arguments)

        return made._replace(train=train_)

    module = __import__("digits_jax.runs.training", fromlist=["x"])
    monkeypatch.setattr(module, "compile_programs", counting)
    again = cross_validate(
        data,
        runs,
        recipe=RECIPE,
        epochs=EPOCHS,
        patience=PATIENCE,
        keep="best",
        devices=jax.devices()[:2],
    )
    np.testing.assert_array_equal(again.epochs, stopped.epochs)
    # Two runs a call; at most one blank a call, and a call ahead for what was under way.
    assert sum(trained) <= stopped.epochs.sum() + len(trained)
    assert len(trained) < EPOCHS * 2


def test_a_stopped_training_resumes_bitwise(
    data: Any, runs: Any, stopped: CrossValidation, tmp_path: Path
) -> None:
    options: Any = {
        "recipe": RECIPE,
        "epochs": EPOCHS,
        "patience": PATIENCE,
        "keep": "best",
        "devices": jax.devices()[:2],
        "checkpoints": tmp_path,
        "checkpoint_every": 1,
    }
    for epoch in (3, int(stopped.epochs.min()) + 1):
        with pytest.raises(Interrupted):
            cross_validate(
                data, runs, **options, resume=epoch > 3, on_epoch=lambda p, e=epoch: p.epoch == e
            )
    resumed = cross_validate(data, runs, **options, resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.states, stopped.states)
    for name, values in stopped.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    np.testing.assert_array_equal(resumed.scores["loss"], stopped.scores["loss"])


def test_side_by_side_runs_stop_at_the_same_epochs(
    data: Any, runs: Any, stopped: CrossValidation
) -> None:
    options: Any = {"patience": PATIENCE, "keep": "best", "devices": jax.devices()[:1]}
    together = cross_validate(data, runs, recipe=RECIPE, epochs=EPOCHS, vmap_size=3, **options)
    np.testing.assert_array_equal(together.epochs, stopped.epochs)
    np.testing.assert_allclose(together.scores["loss"], stopped.scores["loss"], rtol=1e-4)


@pytest.mark.slow
def test_the_runs_axis_shrinks_by_halves(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs side by side, as on an accelerator: the same as one after another, and resumed."""
    splits = with_validation(kfold_splits(data[1], 5), 0.25, seed=1)
    runs = make_runs(splits, Hyperparameters(learning_rate=[2.0, 1.0, 0.5, 0.02, 0.01]))
    options: Any = {"recipe": RECIPE, "epochs": EPOCHS, "patience": PATIENCE, "keep": "best"}
    alone = cross_validate(data, runs, devices=jax.devices()[:2], **options)
    assert sorted(alone.epochs)[2] < EPOCHS - advancing.FEWEST_CALLS  # three stop early
    widths: list[int] = []
    whole = training.compile_train

    def counted(states: Any, runs: Any, **more: Any) -> Any:
        widths.append(len(runs.key))
        return whole(states, runs, **more)

    monkeypatch.setattr(training, "compile_train", counted)
    options |= {"devices": jax.devices()[:1], "vmap_size": 5}
    shrunk = cross_validate(data, runs, **options)
    assert widths and widths == sorted(widths, reverse=True) and widths[0] <= 2
    np.testing.assert_array_equal(shrunk.epochs, alone.epochs)
    np.testing.assert_array_equal(shrunk.best_epochs, alone.best_epochs)
    np.testing.assert_allclose(shrunk.scores["loss"], alone.scores["loss"], rtol=1e-4)
    assert (np.isnan(shrunk.history["loss"]) == np.isnan(alone.history["loss"])).all()
    first = int(sorted(alone.epochs)[2])  # after this epoch the axis has shrunk
    with pytest.raises(Interrupted):
        cross_validate(
            data,
            runs,
            checkpoints=tmp_path,
            on_epoch=lambda progress: progress.epoch == first + 2,
            **options,
        )
    resumed = cross_validate(data, runs, checkpoints=tmp_path, resume=True, **options)
    for name, values in shrunk.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    jax.tree.map(np.testing.assert_array_equal, resumed.states, shrunk.states)


def test_many_runs_that_stop_are_dealt_to_the_devices_anew(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 runs, the quick ones first, where the first of three devices would soon idle."""
    splits = with_validation(kfold_splits(data[1], 25), 0.25, seed=1)
    rates = np.where(np.arange(25) < 9, 1.0, 0.02).astype(np.float32)
    runs = make_runs(splits, Hyperparameters(learning_rate=rates))
    options: Any = {
        "recipe": RECIPE,
        "epochs": EPOCHS,
        "epochs_per_call": 2,
        "patience": PATIENCE,
        "keep": "best",
        "devices": jax.devices()[:3],
    }
    moved: list[int] = []  # after how many epochs states or runs moved
    epoch, take_runs = 0, advancing.take_runs

    def noted(tree: Any, index: Any) -> Any:
        moved.append(epoch)
        return take_runs(tree, index)

    def look(progress: Any) -> bool:
        nonlocal epoch
        epoch = progress.epoch
        return False

    with monkeypatch.context() as patch:
        patch.setattr(advancing, "take_runs", noted)
        dealt = cross_validate(data, runs, **options, on_epoch=look)
    assert moved and len(set(moved)) <= 6
    at = moved[0] + 2  # a checkpoint of states that lie in another order
    assert at < EPOCHS
    options |= {"checkpoints": tmp_path, "checkpoint_every": 2}
    with pytest.raises(Interrupted):
        cross_validate(data, runs, **options, on_epoch=lambda progress: progress.epoch == at)
    resumed = cross_validate(data, runs, **options, resume=True)
    monkeypatch.setattr(advancing, "DEALING", np.inf)
    del options["checkpoints"], options["checkpoint_every"]
    left = cross_validate(data, runs, **options)
    for other in (resumed, left):
        np.testing.assert_array_equal(other.epochs, dealt.epochs)
        jax.tree.map(np.testing.assert_array_equal, other.history, dealt.history)
        jax.tree.map(np.testing.assert_array_equal, other.states, dealt.states)
        np.testing.assert_array_equal(other.scores["loss"], dealt.scores["loss"])


def test_a_refit_without_validation_rows_never_stops(data: Any) -> None:
    splits = stack_splits(with_validation(kfold_splits(data[1], 2), 0.2), refit_split(data[1]))
    result = cross_validate(
        data,
        make_runs(splits, Hyperparameters(learning_rate=0.3)),
        recipe=RECIPE,
        epochs=EPOCHS,
        patience=1,
        keep="best",
    )
    assert (result.epochs[:2] < EPOCHS).all()
    assert result.epochs[2] == result.best_epochs[2] == EPOCHS


def test_a_metric_is_watched_in_its_direction(data: Any, runs: Any) -> None:
    recipe = Recipe(network=Linear(), batch_size=64, monitor=("accuracy", "max"))
    result = cross_validate(data, runs, recipe=recipe, epochs=12, keep="best")
    validation = result.history["validation_accuracy"]
    np.testing.assert_array_equal(result.best_epochs, validation.argmax(axis=1) + 1)


def test_without_validation_rows_nothing_chooses(data: Any) -> None:
    runs = make_runs(kfold_splits(data[1], 2))
    for options in ({"patience": 2}, {"keep": "best"}):
        with pytest.raises(ValueError, match="need validation rows: with_validation"):
            cross_validate(data, runs, recipe=RECIPE, epochs=2, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='keep must be "last" or "best"'):
        cross_validate(data, runs, recipe=RECIPE, epochs=2, keep="first")  # type: ignore[arg-type]


def test_validation_rows_neither_train_nor_test(data: Any, runs: Any) -> None:
    """Poisoned: whatever the validation rows hold, the last weights stay."""
    images, labels = data
    rows = np.unique(runs.split.validation_rows[0])
    poisoned = images.copy()
    poisoned[rows] = 99.0
    first = jax.tree.map(lambda leaf: leaf[:1], runs._replace(key=runs.key[:1]))
    plain, changed = (
        cross_validate((each, labels), first, recipe=RECIPE, epochs=3)
        for each in (images, poisoned)
    )
    jax.tree.map(np.testing.assert_array_equal, plain.states.params, changed.states.params)
    np.testing.assert_array_equal(plain.scores["loss"], changed.scores["loss"])
    assert not np.allclose(plain.history["validation_loss"], changed.history["validation_loss"])


@pytest.mark.slow
def test_on_random_labels_validation_rows_choose_by_chance_and_test_rows_flatter() -> None:
    """The best of 12 networks by validation rows tests as any other; by test rows, better."""
    draw = np.random.default_rng(0)
    rows, splits_count, networks = 80, 20, 12
    data = draw.normal(size=(rows, 8)).astype(np.float32), draw.permutation(rows) % 2
    splits = with_validation(kfold_splits(data[1], 4, repeats=splits_count // 4), 0.4)
    runs = make_runs(splits, Hyperparameters(learning_rate=0.05), members=networks)
    # Networks that differ in what they draw alone, so that none is better than another.
    recipe = Recipe(network=nn.Dense(2), batch_size=16)
    result = cross_validate(data, runs, recipe=recipe, epochs=2, devices=jax.devices()[:2])
    tested, validated = (
        each["accuracy"].reshape(networks, splits_count)
        for each in (result.scores, result.validation)
    )
    chosen = tested[validated.argmax(0), np.arange(splits_count)]
    error = 0.5 / np.sqrt(rows)  # each row is tested five times: no more than these are apart
    assert abs(chosen.mean() - 0.5) < 2 * error
    assert tested.max(0).mean() > max(0.5, chosen.mean()) + 1.5 * error
