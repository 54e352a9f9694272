"""Successive halving: survivors train as without it, groups decide for themselves, jobs resume."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from digits_jax.data import load_digits
from digits_jax.model import DigitsCNN
from digits_jax.optimizers import Hyperparameters, OneCycleAdam
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import make_runs, take_runs
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.search import grids, halving
from digits_jax.search.spaces import grid
from digits_jax.splits import inner_splits, kfold_splits
from digits_jax.wave_files import WavesInterrupted

RECIPE = Recipe(
    network=DigitsCNN(conv_features=(2,), dense_features=()),
    batch_size=32,
    monitor=("accuracy", "max"),
)
RATES = np.array([1e-4, 3e-2, 1e-3, 1e-2, 3e-3], np.float32)
EPOCHS = 4
Arrays = tuple[np.ndarray, np.ndarray]  # images [N, 8, 8] and labels [N]


@pytest.fixture(scope="module")
def data() -> Arrays:
    digits = load_digits("bundled")
    return digits.images[:199], digits.labels[:199]


def test_rungs_cost_the_same() -> None:
    assert halving.halving_rungs(16, 16) == [2, 4, 8, 16]
    assert halving.halving_rungs(100, 8) == [25, 50, 100]
    assert halving.halving_rungs(10, 2) == halving.halving_rungs(10, 1) == [10]
    assert halving.halving_rungs(1, 8) == [1]
    with pytest.raises(ValueError, match="at least 1"):
        halving.halving_rungs(0, 3)


@pytest.fixture(scope="module")
def groups(data: Arrays) -> Any:
    """Runs by outer split (2), configuration (5) and inner fold (2)."""
    inner = inner_splits(data[1], kfold_splits(data[1], 2), 2)
    pick = grids.run_picker(inner, grid(Hyperparameters(learning_rate=RATES)))

    def make_groups(start: int, stop: int) -> Any:
        o, c, i = np.meshgrid(np.arange(start, stop), range(5), range(2), indexing="ij")
        return pick(c.ravel(), (2 * o + i).ravel())

    return make_groups


@pytest.fixture(scope="module")
def halved(data: Arrays, groups: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _halve(data, groups, tmp_path_factory.mktemp("halved"))


def _halve(data: Arrays, groups: Any, folder: Path, **options: Any) -> halving.Halving:
    options = {"wave_size": 10, "devices": jax.devices()[:2], **options}
    return halving.halve_in_waves(
        data, groups, 2, 5, [1, 2, EPOCHS], folder=folder, recipe=RECIPE, **options
    )


def test_survivors_are_trained_as_without_halving(
    data: Arrays, groups: Any, halved: halving.Halving
) -> None:
    """Each rung's scores are those of all runs at that epoch; the worse half goes."""
    train = functools.partial(cross_validate, recipe=RECIPE, devices=jax.devices()[:2])
    for g in range(2):
        runs = groups(g, g + 1)
        states, done, alive = None, 0, list(range(5))
        for epoch, keep in ((1, 3), (2, 2), (EPOCHS, 1)):
            result = train(data, runs, epochs=epoch - done, states=states)
            states, done = result.states, epoch
            accuracy, loss = (result.scores[name].reshape(5, 2) for name in ("accuracy", "loss"))
            alive.sort(key=lambda c: (-round(accuracy[c].mean(), 12), loss[c].mean()))
            dropped = alive[keep:]
            alive = alive[:keep]
            assert halved.epochs[g][dropped].tolist() == [epoch] * len(dropped)
            np.testing.assert_allclose(halved.scores["loss"][g][dropped], loss[dropped], rtol=1e-4)
            np.testing.assert_allclose(halved.scores["accuracy"][g][dropped], accuracy[dropped])
        assert alive == [halved.winner[g]] and halved.epochs[g, alive[0]] == EPOCHS
        whole = train(data, runs, epochs=EPOCHS)
        np.testing.assert_array_equal(whole.scores["loss"], result.scores["loss"])
        jax.tree.map(np.testing.assert_array_equal, whole.states, result.states)
    assert sorted(halved.epochs[0].tolist()) == [1, 1, 2, 4, 4]


def test_states_to_go_on_from_are_left_as_they_are(data: Arrays, groups: Any) -> None:
    train = functools.partial(
        cross_validate, data, groups(0, 1), recipe=RECIPE, devices=jax.devices()[:2]
    )
    states = train(epochs=1).states
    before = jax.tree.map(np.copy, states)
    after = train(epochs=1, states=states)
    jax.tree.map(np.testing.assert_array_equal, states, before)
    assert after.states.step.tolist() == (2 * before.step).tolist()
    with pytest.raises(ValueError, match="states exclude params and checkpoints"):
        train(states=states, checkpoints="nowhere")


def test_halving_in_waves_resumes(
    data: Arrays, groups: Any, halved: halving.Halving, tmp_path: Path
) -> None:
    with pytest.raises(WavesInterrupted, match="stopped after 1 of 2 groups of runs"):
        _halve(data, groups, tmp_path, on_wave=lambda done: done == 1)
    told: list[int] = []
    resumed = _halve(data, groups, tmp_path, resume=True, wave_size=None, on_wave=told.append)
    assert told == [1, 2]
    jax.tree.map(np.testing.assert_array_equal, resumed, halved)


def test_a_diverged_configuration_is_dropped_first(data: Arrays, groups: Any) -> None:
    runs = groups(0, 1)
    rates = runs.hyperparameters.learning_rate.copy()
    rates[2:4] = 1e38
    runs = runs._replace(hyperparameters=runs.hyperparameters._replace(learning_rate=rates))
    halve = functools.partial(
        halving.successive_halving,
        data,
        runs,
        recipe=RECIPE,
        devices=jax.devices()[:2],
    )
    result = halve(1, 5, [1, 2, EPOCHS])
    assert not np.isfinite(result.scores["loss"][0, 1]).any()
    assert result.epochs[0].tolist()[1] == 1 and result.winner[0] != 1
    with pytest.raises(ValueError, match="10 runs are not 1 groups of 3 configurations"):
        halve(1, 3, [1])
    for rungs in ([], [0, 1], [2, 2], [2, 1]):
        with pytest.raises(ValueError, match="rungs must be ascending"):
            halve(1, 5, rungs)


def test_halving_refuses_the_devices_of_several_processes(
    data: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halving, "spans_job", lambda devices: True)
    runs = make_runs(kfold_splits(data[1], 2))
    with pytest.raises(ValueError, match="needs the devices of one process"):
        halving.successive_halving(data, runs, 1, 1, [1])
    with pytest.raises(ValueError, match="needs the devices of one process"):
        halving.halve_in_waves(data, lambda *_: runs, 1, 1, [1], folder=tmp_path)


def test_the_recipes_monitor_or_the_one_given_ranks(data: Arrays, groups: Any) -> None:
    """The scores of all five after one epoch tell who must stay for the second."""
    by_loss = Recipe(network=RECIPE.network, batch_size=32)
    halve = functools.partial(
        halving.successive_halving, data, groups(0, 1), 1, 5, [1, 2], devices=jax.devices()[:2]
    )
    worst = ("accuracy", "min")
    for recipe, monitor, sign, name in (
        (by_loss, None, 1, "loss"),
        (RECIPE, None, -1, "accuracy"),
        (RECIPE, "loss", 1, "loss"),
        (by_loss, worst, 1, "accuracy"),
    ):
        options = {} if monitor is None else {"monitor": monitor}
        result = halve(recipe=recipe, **options)
        first = cross_validate(
            data, groups(0, 1), recipe=recipe, epochs=1, devices=jax.devices()[:2]
        )
        score = sign * first.scores[name].reshape(5, 2).mean(axis=1).round(12)
        loss = first.scores["loss"].reshape(5, 2).mean(axis=1)
        stay = np.lexsort((loss, score))[:3]
        assert sorted(np.flatnonzero(result.epochs[0] == 2)) == sorted(stay), (name, monitor)


@pytest.mark.slow
def test_a_schedule_spans_the_whole_training_not_a_rung(data: Arrays, groups: Any) -> None:
    recipe = Recipe(network=RECIPE.network, batch_size=32, optimizer=OneCycleAdam())
    runs, devices = groups(0, 1), jax.devices()[:2]
    result = halving.successive_halving(
        data, runs, 1, 5, [1, 2, EPOCHS], recipe=recipe, devices=devices
    )
    winner = take_runs(runs, 2 * result.winner[0] + np.arange(2))
    whole = cross_validate(data, winner, recipe=recipe, epochs=EPOCHS, devices=devices)
    got = result.scores["loss"][0, result.winner[0]]
    np.testing.assert_allclose(got, whole.scores["loss"], rtol=1e-4)
