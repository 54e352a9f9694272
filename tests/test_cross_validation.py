"""Many runs at once equal each run alone, on any number of devices, compiled once."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from digits_jax import evaluation, load_digits, train
from digits_jax.model import DigitsCNN
from digits_jax.networks import NetworkWithHyperparameters
from digits_jax.optimizers import Hyperparameters
from digits_jax.parallel import mesh as meshes
from digits_jax.parallel import processes, round_robin
from digits_jax.recipe import Recipe
from digits_jax.runs import axis, programs
from digits_jax.runs.axis import make_runs, take_run, take_runs
from digits_jax.runs.checks import check_data
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.results import CrossValidation, Interrupted, Progress
from digits_jax.runs.saved import load_states
from digits_jax.splits import index_runs, kfold_splits, refit_split, stack_splits
from digits_jax.storage.errors import CheckpointError
from digits_jax.structures import Data, Run

RECIPE = Recipe(network=DigitsCNN(conv_features=(4,), dense_features=(16,)))
EPOCHS = 2
Arrays = tuple[np.ndarray, np.ndarray]  # images [N, 8, 8] and labels [N]

slow = pytest.mark.slow  # other numbers of devices


@pytest.fixture(scope="module")
def data() -> Arrays:
    """The first 399 bundled rows: five folds of 80 and 79."""
    digits = load_digits("bundled")
    return digits.images[:399], digits.labels[:399]


@pytest.fixture(scope="module")
def runs(data: Arrays) -> Run:
    """Five folds, unequal by a row, and a refit on all rows."""
    labels = data[1]
    return make_runs(stack_splits(kfold_splits(labels, 5), refit_split(labels)), seed=3)


@pytest.fixture(scope="module")
def reference(data: Arrays, runs: Run) -> CrossValidation:
    """The runs on one device, one after another."""
    return _cross_validate(data, runs, devices=jax.devices()[:1])


def _cross_validate(data: Arrays, runs: Run, **options: Any) -> CrossValidation:
    return cross_validate(data, runs, **{"recipe": RECIPE, "epochs": EPOCHS, **options})


def _assert_close(got: CrossValidation, expected: CrossValidation) -> None:
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, got.states, expected.states)
    jax.tree.map(close, got.history, expected.history)
    close(got.outputs, expected.outputs)
    close(got.scores["loss"], expected.scores["loss"])


def _assert_equal(got: CrossValidation, expected: CrossValidation) -> None:
    left_out = ("runs", "seconds")
    fields = [
        {name: value for name, value in vars(each).items() if name not in left_out}
        for each in (got, expected)
    ]
    assert len(jax.tree.leaves(fields[0])) > 20
    jax.tree.map(np.testing.assert_array_equal, *fields)


def test_each_run_equals_the_same_run_trained_alone(
    data: Arrays, runs: Run, reference: CrossValidation
) -> None:
    init = jax.jit(functools.partial(train.init_state, recipe=RECIPE))
    epochs = jax.jit(functools.partial(train.train_epochs, recipe=RECIPE, epochs=EPOCHS))
    evaluate = jax.jit(functools.partial(evaluation.evaluate, recipe=RECIPE))
    together = _cross_validate(data, runs, devices=jax.devices()[:1], vmap_size=6)
    rows = Data(*data)
    for i in (0, 4, 5):
        run = take_run(runs, i)
        state, history = epochs(init(run, rows), run, rows)
        sums, logits = evaluate(state, run, rows)
        for result in (together, reference):
            close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
            jax.tree.map(close, result.state(i), state)
            close(result.history["loss"][i], history["loss"])
            close(result.outputs[i], logits)
            if i < 5:
                close(result.scores["loss"][i], sums.means()["loss"])
                close(result.scores["accuracy"][i], sums.means()["accuracy"])


@pytest.mark.parametrize("devices", [2, pytest.param(4, marks=slow), pytest.param(8, marks=slow)])
def test_devices_do_not_change_the_results(
    data: Arrays, runs: Run, reference: CrossValidation, devices: int
) -> None:
    assert jax.device_count() == 8
    _assert_close(_cross_validate(data, runs, devices=jax.devices()[:devices]), reference)


@pytest.mark.parametrize(("count", "devices"), [(5, 2), (5, 4), (1, 8)])
def test_a_count_of_runs_that_the_devices_do_not_divide(
    data: Arrays, runs: Run, reference: CrossValidation, count: int, devices: int
) -> None:
    some = take_runs(runs, np.arange(count))
    got = _cross_validate(data, some, devices=jax.devices()[:devices])
    assert got.outputs.shape == (count, 80, 10)
    np.testing.assert_allclose(got.scores["loss"], reference.scores["loss"][:count], rtol=1e-3)
    expected = reference.history["loss"][:count]
    np.testing.assert_allclose(got.history["loss"], expected, rtol=1e-3)


def test_nothing_but_the_history_is_gathered_before_the_end(
    data: Arrays, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathered: list[str] = []
    gather = processes.gather

    def recorded(tree: Any, mesh: Any) -> Any:
        shapes = {leaf.shape for leaf in jax.tree.leaves(tree)} if len(tree) == 2 else ""
        gathered.append(f"{type(tree).__name__} {shapes}".strip())
        return gather(tree, mesh)

    monkeypatch.setattr(axis, "gather", recorded)
    _cross_validate(data, runs, epochs=4, epochs_per_call=2, devices=jax.devices()[:2])
    assert gathered[:2] == ["dict {(6, 2)}"] * 2
    assert [each.split()[0] for each in gathered[2:]] == ["tuple", "tuple", "TrainState"]


def test_round_robin_gives_what_runs_side_by_side_give(
    data: Arrays, runs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 3, "devices": jax.devices()[:4]}
    dealt = _cross_validate(data, runs, **options)
    monkeypatch.setattr(round_robin, "is_faster", lambda runs, devices: False)
    side_by_side = _cross_validate(data, runs, **options)
    _assert_close(dealt, side_by_side)
    assert dealt.states.params["logits"]["kernel"].shape == (6, 16, 10)


def test_scores_are_those_of_the_logits(data: Arrays, reference: CrossValidation) -> None:
    labels, scores = data[1], reference.scores
    assert np.isnan(scores["loss"][5]) and np.isnan(scores["accuracy"][5])
    seen = []
    for i in range(5):
        real = reference.test_rows[i] >= 0
        rows, logits = reference.test_rows[i][real], reference.outputs[i][real].astype(np.float64)
        seen += list(rows)
        assert scores["accuracy"][i] == pytest.approx((logits.argmax(1) == labels[rows]).mean())
        log_sum = np.log(np.exp(logits).sum(1))
        losses = log_sum - logits[np.arange(len(rows)), labels[rows]]
        assert scores["loss"][i] == pytest.approx(losses.mean(), rel=1e-5)
    assert sorted(seen) == list(range(399))


def test_a_held_out_row_never_reaches_its_folds_training(data: Arrays, runs: Run) -> None:
    """Whatever trains on a poisoned row becomes NaN; so only the fold that tests it stays sound."""

    def poison(key: jax.Array, images: jax.Array, labels: jax.Array, h: Any) -> Any:
        return jax.numpy.where(images == 99, np.nan, images), labels

    row = int(runs.split.test_rows[2][0])
    images = data[0].copy()
    images[row] = 99
    recipe = Recipe(network=RECIPE.network, augment=poison)
    states = _cross_validate((images, data[1]), runs, recipe=recipe).states
    sound = [
        all(np.isfinite(leaf[i]).all() for leaf in jax.tree.leaves(states.params)) for i in range(6)
    ]
    assert sound == [False, False, True, False, False, False]


@pytest.mark.parametrize(  # devices: in round robin, and one run on each
    "count", [4, pytest.param(8, marks=slow)]
)
def test_one_compilation_for_the_whole_training(data: Arrays, runs: Run, count: int) -> None:
    compiled: list[str] = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    recipe = Recipe(network=DigitsCNN(conv_features=(2,), dense_features=()))
    options: dict[str, Any] = {"recipe": recipe, "devices": jax.devices()[:count]}
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        cross_validate(data, runs, epochs=5, **options)
        first = len(compiled)
        cross_validate(data, runs, epochs=7, **options)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert first == 3, "initial weights, an epoch, the evaluation"
    assert len(compiled) == first, "other epochs, the same programs"


@pytest.mark.parametrize(
    ("count", "vmap_size", "round_robin"), [(2, None, False), (3, 1, False), (4, 1, True)]
)
def test_no_communication_between_devices(
    data: Arrays, runs: Run, count: int, vmap_size: int | None, round_robin: bool
) -> None:
    mesh = meshes.runs_mesh(count, jax.devices()[:count])
    padded = axis.pad_runs(runs, mesh.size)
    program = programs.compile_programs(
        meshes.place(padded, meshes.runs_sharding(mesh)),
        meshes.place(check_data(data), meshes.replicated(mesh)),
        recipe=RECIPE,
        mesh=mesh,
        vmap_size=vmap_size,
        epochs_per_call=1,
        round_robin=round_robin,
    )
    text = program.train.executable().as_text()  # type: ignore[attr-defined]
    assert "while" in text
    collective = re.compile(
        r"\b(all-reduce|all-gather|all-to-all|collective-\w+|reduce-scatter|send|recv)(-start)?\("
    )
    assert not collective.search(text)
    whole = jax.jit(lambda runs: runs, out_shardings=meshes.replicated(mesh))
    assert collective.search(whole.lower(program.states).compile().as_text())


def test_hyperparameters_may_differ_between_runs(data: Arrays, runs: Run) -> None:
    splits = index_runs(runs.split, [0, 0, 0])
    h = Hyperparameters(learning_rate=np.array([0.0, 1e-3, 1e-2]), dropout_rate=0.1)
    recipe = Recipe(network=NetworkWithHyperparameters(RECIPE.network))
    loss = _cross_validate(data, make_runs(splits, h), recipe=recipe, epochs=4).history["loss"]
    learned = loss[:, 0] - loss[:, -1]
    assert abs(learned[0]) < 0.05 < learned[1] < learned[2]


def test_runs_that_diverge_are_marked_and_leave_the_others_alone(
    data: Arrays, runs: Run, reference: CrossValidation
) -> None:
    """1e3 blows the loss up, but saturated sigmoids keep it finite; 3e38 overflows to NaN."""
    rates = np.array([1e-3, 1e-3, 1e3, 3e38, 1e-3, 1e-3])
    mixed = make_runs(runs.split, Hyperparameters(learning_rate=rates), seed=3)
    got = _cross_validate(data, mixed, devices=jax.devices()[:1])
    assert got.diverged.dtype == np.int32
    assert got.diverged.tolist() == [0, 0, 1, 1, 0, 0]
    loss = got.history["loss"]
    assert np.isfinite(loss[2]).all() and np.isnan(loss[3]).all()
    sound = got.diverged == 0
    for name in ("loss", "accuracy"):
        np.testing.assert_array_equal(got.scores[name][sound], reference.scores[name][sound])
        np.testing.assert_array_equal(got.history[name][sound], reference.history[name][sound])
    np.testing.assert_array_equal(got.outputs[sound], reference.outputs[sound])
    assert not reference.diverged.any()


@pytest.mark.parametrize(
    ("initial", "loss", "logit", "epoch"),
    [
        (2.3, [2.3, 1.0, 0.5], 0.0, 0),
        (2.3, [2.3, np.nan, np.nan], 0.0, 2),
        (2.3, [2.3, 1.0, np.inf], 0.0, 3),
        (2.3, [2.3, 4.7, np.nan], 0.0, 2),  # twice the first is 4.6
        (2.3, [2.3, 50.0, 0.5], 0.0, 0),  # it came back
        (2.3, [4.5, 4.5, 4.5], 0.0, 0),
        (2.3, [2.3, 1.0, 0.5], np.nan, 3),
        (2.3, [2.3, 1.0, 0.5], -np.inf, 3),
        (2.3, [99.0, 99.0, 99.0], 0.0, 1),
        (-1.0, [-2.0, -0.5, -3.0], 0.0, 0),
        (-1.0, [-2.0, 0.5, 0.5], 0.0, 2),
    ],
)
def test_the_epoch_of_divergence(
    reference: CrossValidation, initial: float, loss: list[float], logit: float, epoch: int
) -> None:
    losses = np.float32([[2.3, 1.0, 0.5], loss])
    logits = np.zeros((2, 4, 10), np.float32)
    logits[1, 2, 3] = logit
    changed = dataclasses.replace(
        reference,
        history={"loss": losses, "accuracy": losses},
        outputs=logits,
        initial_loss=np.float32([2.3, initial]),
        epochs=np.full(2, 3, np.int32),
    )
    assert changed.diverged.tolist() == [0, epoch]


def test_run_r_draws_the_same_whatever_the_number_of_runs(runs: Run) -> None:
    fewer = make_runs(index_runs(runs.split, [0, 1]), seed=3)
    data = jax.random.key_data
    np.testing.assert_array_equal(data(fewer.key), data(runs.key)[:2])
    assert len(np.unique(data(runs.key), axis=0)) == 6


def test_progress_is_told_each_epoch(data: Arrays, runs: Run, reference: CrossValidation) -> None:
    told: list[Progress] = []
    _cross_validate(data, runs, devices=jax.devices()[:1], on_epoch=told.append)
    assert [(each.epoch, each.epochs) for each in told] == [(1, 2), (2, 2)]
    assert told[0].history["loss"].shape == (6, 1)
    np.testing.assert_array_equal(told[1].history["loss"], reference.history["loss"])


@pytest.mark.parametrize(  # devices: in round robin, and one run on each
    "count", [4, pytest.param(8, marks=slow)]
)
def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(
    tmp_path: Path, data: Arrays, runs: Run, count: int
) -> None:
    whole = _cross_validate(data, runs, epochs=5, devices=jax.devices()[:count])
    options: dict[str, Any] = {"epochs": 5, "checkpoints": tmp_path / "saved", "resume": True}
    options["devices"] = jax.devices()[:count]
    for epoch in (1, 3):
        with pytest.raises(Interrupted, match=f"stopped after {epoch} of 5 epochs"):
            _cross_validate(data, runs, **options, on_epoch=lambda p, e=epoch: p.epoch == e)
    told: list[int] = []
    resumed = _cross_validate(data, runs, **options, on_epoch=lambda p: told.append(p.epoch))
    assert told == [4, 5]
    _assert_equal(resumed, whole)
    finished = _cross_validate(data, runs, **options)  # which has no epoch left to train
    _assert_equal(finished, whole)
    assert [*finished.history] == [
        *whole.history
    ]  # the order, too: so files are equal, byte by byte
    assert {p.name for p in (tmp_path / "saved").iterdir() if p.is_dir()} == {"4", "5"}
    again = _cross_validate(data, runs, **options)
    _assert_equal(again, whole)


@pytest.mark.parametrize("count", [1, 4])  # devices: one after another, and in round robin
def test_what_is_trained_after_a_save_does_not_touch_it(
    tmp_path: Path, data: Arrays, runs: Run, count: int
) -> None:
    """The compiled program may write over the states that it is given, or be ahead of the save."""
    devices = jax.devices()[:count]
    options: dict[str, Any] = {"checkpoints": tmp_path, "checkpoint_every": 1, "devices": devices}
    _cross_validate(data, runs, epochs=4, **options)
    (tmp_path / "4").rename(tmp_path / "aside")
    states = load_states(tmp_path, recipe=RECIPE).states
    expected = _cross_validate(data, runs, epochs=3, devices=devices).states
    jax.tree.map(np.testing.assert_array_equal, states, expected)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=slow), 2, pytest.param(8, marks=slow)])
def test_a_checkpoint_resumes_on_another_number_of_devices(
    tmp_path: Path, data: Arrays, runs: Run, devices: int
) -> None:
    options: dict[str, Any] = {"epochs": 2, "checkpoints": tmp_path / "saved", "resume": True}
    whole = _cross_validate(data, runs)
    with pytest.raises(Interrupted):
        _cross_validate(
            data, runs, **options, devices=jax.devices()[:4], on_epoch=lambda p: p.epoch == 1
        )
    resumed = _cross_validate(data, runs, **options, devices=jax.devices()[:devices])
    _assert_close(resumed, whole)


def test_a_checkpoint_of_another_training_is_refused_by_name(
    tmp_path: Path, data: Arrays, runs: Run
) -> None:
    options: dict[str, Any] = {"epochs": 1, "checkpoints": tmp_path / "saved", "resume": True}
    _cross_validate(data, runs, **options, identity={"seed": 3})
    refused = functools.partial(_cross_validate, **options)
    for name, change in {
        "started with recipe.batch_size 128, now 64": {
            "recipe": Recipe(network=RECIPE.network, batch_size=64)
        },
        r"another network in training \(recipe.network.dropout_rate 0.25, now 0.5\)": {
            "recipe": Recipe(network=RECIPE.network.clone(dropout_rate=0.5))
        },
        "hyperparameters.learning_rate 0.00.* of run 1, now 0.1": {
            "runs": runs._replace(
                hyperparameters=runs.hyperparameters._replace(
                    learning_rate=np.full(6, 0.1, np.float32)
                )
            )
        },
        "started with other data": {"data": (data[0] + 1, data[1])},
        "started with other random keys": {"runs": make_runs(runs.split, seed=4)},
        "started with seed 3, now 4": {"identity": {"seed": 4}},
    }.items():
        arguments = {"data": data, "runs": runs, "identity": {"seed": 3}, **change}
        with pytest.raises(CheckpointError, match=name):
            refused(**arguments)


def test_states_of_a_network_that_needs_its_inputs_dtype_load(tmp_path: Path) -> None:
    class Correlation(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool = False, mask: Any = None) -> Any:
            kernel = self.param("kernel", nn.initializers.normal(), (10, 1, 4, 4))
            return jax.lax.conv(images[:, None], kernel, (1, 1), "VALID")[:, :, 0, 0]

    images = np.random.default_rng(0).normal(size=(20, 4, 4)).astype(np.float32)
    labels = np.arange(20) % 2
    recipe = Recipe(network=Correlation())
    runs = make_runs(kfold_splits(labels, 2))
    result = cross_validate((images, labels), runs, recipe=recipe, epochs=1, checkpoints=tmp_path)
    saved = load_states(tmp_path, recipe=recipe)
    jax.tree.map(np.testing.assert_array_equal, saved.states, result.states)


def test_saved_states_load_to_predict_with(tmp_path: Path, data: Arrays, runs: Run) -> None:
    result = _cross_validate(data, runs, checkpoints=tmp_path, identity={"seed": 3})
    saved = load_states(tmp_path, recipe=RECIPE)
    jax.tree.map(np.testing.assert_array_equal, saved.states, result.states)
    assert saved.identity["seed"] == 3
    jax.tree.map(np.testing.assert_array_equal, saved.hyperparameters, runs.hyperparameters)
    state, h = saved.run(2)
    predict = jax.jit(functools.partial(evaluation.predict, recipe=RECIPE))
    logits = predict(state, data[0][result.test_rows[2]], h)
    np.testing.assert_allclose(logits, result.outputs[2], rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="of no recipe by name .*: give .* recipe="):
        load_states(tmp_path)
    with pytest.raises(CheckpointError, match="no folder of checkpoints at .*nowhere"):
        load_states(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    give = r"no checkpoint in .*empty; give the folder that cross_validate\(checkpoints=\) wrote"
    with pytest.raises(CheckpointError, match=give):
        load_states(tmp_path / "empty")


def test_states_load_from_an_output_folder(tmp_path: Path) -> None:
    inputs, labels = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    recipe, runs = Recipe(network=nn.Dense(2)), make_runs(kfold_splits(labels, 2))
    folder = tmp_path / "checkpoints"
    result = cross_validate((inputs, labels), runs, recipe=recipe, epochs=1, checkpoints=folder)
    for where in (tmp_path, folder):
        states = load_states(where, recipe=recipe).states
        jax.tree.map(np.testing.assert_array_equal, states, result.states)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 3, "epochs_per_call": 2}, "epochs_per_call=2 must divide epochs=3"),
        ({"data": (np.zeros((399, 64)), np.zeros(399, int))}, r"images must be \[B, H, W\]"),
        ({"data": (np.zeros((4, 8, 8)), np.zeros(4, int))}, "names rows 0 to 398"),
        (
            {"data": (np.zeros((399, 8, 8)), np.zeros(399))},
            r"targets \[B\] must be integers 0 to 9",
        ),
        (
            {
                "data": (
                    np.where(np.arange(399) == 7, np.nan, 1.0)[:, None, None]
                    * np.ones((399, 8, 8)),
                    np.zeros(399, int),
                )
            },
            "inputs must be finite; row 7 is not, the first of 1",
        ),
    ],
)
def test_wrong_arguments_are_refused(
    data: Arrays, runs: Run, change: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        cross_validate(**{"data": data, "runs": runs, **change})


def test_runs_of_the_wrong_shape_are_refused(runs: Run) -> None:
    one = take_run(runs, 0).split
    with pytest.raises(ValueError, match="splits must be stacked"):
        make_runs(one)
    h = Hyperparameters(learning_rate=np.ones(4))
    message = r"learning_rate must be a number or have shape \(6, \.\.\.\), .* not \(4,\)"
    with pytest.raises(ValueError, match=message):
        make_runs(runs.split, h)
