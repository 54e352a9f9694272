"""Configurations: grids, draws, the runs that they make, their ranking, successive halving."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from digits_jax.data import load_digits
from digits_jax.model import DigitsCNN
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import make_runs
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.search import grids, halving
from digits_jax.splits import inner_splits, kfold_splits, stack_splits
from digits_jax.train import Examples
from digits_jax.waves import WavesInterrupted

RECIPE = Recipe(network=DigitsCNN(conv_features=(2,), dense_features=()), batch_size=32)
RATES = np.array([1e-4, 3e-2, 1e-3, 1e-2, 3e-3], np.float32)
EPOCHS = 4


@pytest.fixture(scope="module")
def data() -> Examples:
    digits = load_digits("bundled")
    return Examples(digits.images[:199], digits.labels[:199].astype(np.int32))


def test_a_grid_holds_every_combination_once() -> None:
    numbers = grids.grid(learning_rate=[1e-3, 1e-2], beta_1=[0.9], dropout_rate=[0.0, 0.5, 0.7])
    assert numbers.epsilon.tolist() == [np.float32(1e-7)] * 6  # type: ignore[union-attr]
    found = np.stack([numbers.learning_rate, numbers.dropout_rate], axis=1)
    expected = [(a, b) for a in (1e-3, 1e-2) for b in (0.0, 0.5, 0.7)]
    np.testing.assert_array_equal(found, np.float32(expected))
    assert grids.grid(learning_rate=[1.0]).dropout_rate is None
    with pytest.raises(ValueError, match="width must be a hyperparameter"):
        grids.grid(width=[1.0])
    with pytest.raises(ValueError, match="with at least one value"):
        grids.grid(learning_rate=[])


def test_draws_are_spread_as_documented() -> None:
    draw = functools.partial(
        grids.random_search,
        4000,
        learning_rate=(1e-4, 1e-2),
        beta_2=(0.9, 0.999),
        dropout_rate=(0.1, 0.5),
        epsilon=(1e-7, 1e-7),
    )
    numbers = draw(seed=1)
    for values, low, high in (
        (np.log10(numbers.learning_rate), -4, -2),
        (np.log10(1 - np.asarray(numbers.beta_2, np.float64)), -3, -1),
        (numbers.dropout_rate, 0.1, 0.5),
    ):
        values = np.asarray(values)
        assert values.min() >= low - 1e-4 and values.max() <= high + 1e-4
        quarters = np.histogram(values, bins=4, range=(low, high))[0]
        assert abs(quarters - 1000).max() < 150  # five standard deviations
    assert np.unique(numbers.epsilon).tolist() == [np.float32(1e-7)]
    jax.tree.map(np.testing.assert_array_equal, draw(seed=1), numbers)
    assert (np.asarray(draw(seed=2).learning_rate) != numbers.learning_rate).all()
    shared = np.corrcoef(np.log(numbers.learning_rate), numbers.dropout_rate)[0, 1]
    assert abs(shared) < 0.08


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"learning_rate": (0.0, 1.0)}, "learning_rate needs 0 < low < high, not 0 to 1"),
        ({"dropout_rate": (0.5, 0.1)}, "dropout_rate needs low < high"),
        ({"beta_1": (0.5, 1.0)}, "beta_1 needs low < high < 1"),
        ({"width": (1.0, 2.0)}, "width is no hyperparameter"),
    ],
)
def test_ranges_that_make_no_sense(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grids.random_search(3, **ranges)


def test_configurations_share_the_draws_of_a_split(data: Examples) -> None:
    splits = kfold_splits(data.labels, 3)
    numbers = grids.grid(learning_rate=RATES)
    pick = grids.run_picker(splits, numbers, seed=5)
    runs = pick([4, 0, 4], [2, 2, 1])
    assert np.asarray(runs.hyperparameters.learning_rate).tolist() == RATES[[4, 0, 4]].tolist()
    np.testing.assert_array_equal(runs.split.test_rows, splits.test_rows[[2, 2, 1]])
    keys = jax.random.key_data(make_runs(splits, seed=5).key)
    np.testing.assert_array_equal(jax.random.key_data(runs.key), keys[np.array([2, 2, 1])])


def test_ranking() -> None:
    nan = np.nan
    accuracy = np.array([[[0.9], [0.8], [0.9], [1.0]], [[0.1], [0.2], [0.3], [0.4]]])
    loss = np.array([[[0.3], [0.1], [0.2], [nan]], [[1.0], [1.0], [1.0], [1.0]]])
    np.testing.assert_array_equal(grids.rank(accuracy, loss), [[2, 0, 1, 3], [3, 2, 1, 0]])
    # Equal means, whose sums differ in the last bit.
    scores = [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]
    assert grids.rank(scores, [[1.0] * 3, [0.5] * 3]).tolist() == [1, 0]


def test_rungs_cost_the_same() -> None:
    assert halving.halving_rungs(16, 16) == [2, 4, 8, 16]
    assert halving.halving_rungs(100, 8) == [25, 50, 100]
    assert halving.halving_rungs(10, 2) == halving.halving_rungs(10, 1) == [10]
    assert halving.halving_rungs(1, 8) == [1]
    with pytest.raises(ValueError, match="at least 1"):
        halving.halving_rungs(0, 3)


@pytest.fixture(scope="module")
def groups(data: Examples) -> Any:
    """Runs by outer split (2), configuration (5) and inner fold (2)."""
    inner = inner_splits(data.labels, kfold_splits(data.labels, 2), 2)
    pick = grids.run_picker(inner, grids.grid(learning_rate=RATES))

    def make_groups(start: int, stop: int) -> Any:
        o, c, i = np.meshgrid(np.arange(start, stop), range(5), range(2), indexing="ij")
        return pick(c.ravel(), (2 * o + i).ravel())

    return make_groups


@pytest.fixture(scope="module")
def halved(data: Examples, groups: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _halve(data, groups, tmp_path_factory.mktemp("halved"))


def _halve(data: Examples, groups: Any, folder: Path, **options: Any) -> halving.Halving:
    options = {"wave_size": 10, "devices": jax.devices()[:2], **options}
    return halving.halve_in_waves(
        data, groups, 2, 5, [1, 2, EPOCHS], folder=folder, recipe=RECIPE, **options
    )


def test_survivors_are_trained_as_without_halving(
    data: Examples, groups: Any, halved: halving.Halving
) -> None:
    """Each rung's scores are those of all runs at that epoch; the worse half goes."""
    train = functools.partial(cross_validate, recipe=RECIPE, devices=jax.devices()[:2])
    for g in range(2):
        runs = groups(g, g + 1)
        states, done, alive = None, 0, list(range(5))
        for epoch, keep in ((1, 3), (2, 2), (EPOCHS, 1)):
            result = train(data, runs, epochs=epoch - done, states=states)
            states, done = result.states, epoch
            accuracy, loss = result.accuracy.reshape(5, 2), result.loss.reshape(5, 2)
            alive.sort(key=lambda c: (-round(accuracy[c].mean(), 12), loss[c].mean()))
            dropped = alive[keep:]
            alive = alive[:keep]
            assert halved.epochs[g][dropped].tolist() == [epoch] * len(dropped)
            np.testing.assert_allclose(halved.loss[g][dropped], loss[dropped], rtol=1e-4)
            np.testing.assert_allclose(halved.accuracy[g][dropped], accuracy[dropped])
        assert alive == [halved.winner[g]] and halved.epochs[g, alive[0]] == EPOCHS
        whole = train(data, runs, epochs=EPOCHS)
        np.testing.assert_array_equal(whole.loss, result.loss)
        jax.tree.map(np.testing.assert_array_equal, whole.states, result.states)
    assert sorted(halved.epochs[0].tolist()) == [1, 1, 2, 4, 4]


def test_states_to_go_on_from_are_left_as_they_are(data: Examples, groups: Any) -> None:
    train = functools.partial(
        cross_validate, data, groups(0, 1), recipe=RECIPE, devices=jax.devices()[:2]
    )
    states = train(epochs=1).states
    before = jax.tree.map(np.copy, states)
    after = train(epochs=1, states=states)
    jax.tree.map(np.testing.assert_array_equal, states, before)
    assert after.states.step.tolist() == (2 * before.step).tolist()
    with pytest.raises(ValueError, match="states and checkpoints exclude each other"):
        train(states=states, checkpoints="nowhere")


def test_halving_in_waves_resumes(
    data: Examples, groups: Any, halved: halving.Halving, tmp_path: Path
) -> None:
    with pytest.raises(WavesInterrupted, match="stopped after 1 of 2 groups of runs"):
        _halve(data, groups, tmp_path, on_wave=lambda done: done == 1)
    told: list[int] = []
    resumed = _halve(data, groups, tmp_path, resume=True, wave_size=None, on_wave=told.append)
    assert told == [1, 2]
    jax.tree.map(np.testing.assert_array_equal, resumed, halved)


def test_a_diverged_configuration_is_dropped_first(data: Examples, groups: Any) -> None:
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
    assert not np.isfinite(result.loss[0, 1]).any()
    assert result.epochs[0].tolist()[1] == 1 and result.winner[0] != 1
    with pytest.raises(ValueError, match="10 runs are not 1 groups of 3 configurations"):
        halve(1, 3, [1])
    for rungs in ([], [0, 1], [2, 2], [2, 1]):
        with pytest.raises(ValueError, match="rungs must be ascending"):
            halve(1, 5, rungs)


def test_halving_refuses_the_devices_of_several_processes(
    data: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halving, "spans_job", lambda devices: True)
    runs = make_runs(kfold_splits(data.labels, 2))
    with pytest.raises(ValueError, match="needs the devices of one process"):
        halving.successive_halving(data, runs, 1, 1, [1])
    with pytest.raises(ValueError, match="needs the devices of one process"):
        halving.halve_in_waves(data, lambda *_: runs, 1, 1, [1], folder=tmp_path)


def test_scores_belong_to_their_configuration_split_and_seed(
    data: Examples, tmp_path: Path
) -> None:
    """Each run made by hand, in loops; in one program, the waves of the others in two."""
    splits = inner_splits(data.labels, kfold_splits(data.labels, 2), 2)
    numbers = grids.grid(learning_rate=[1e-2, 1e-3])
    options: dict[str, Any] = {
        "epochs": 1,
        "seeds": 2,
        "seed": 9,
        "recipe": RECIPE,
        "devices": jax.devices()[:2],
        "wave_size": 10,
    }
    keys = make_runs(stack_splits(splits, splits), seed=9).key
    accuracy, loss = np.zeros((2, 2, 4))
    for c, rate in enumerate((1e-2, 1e-3)):
        for repeat in range(2):
            runs = make_runs(splits, hyperparameters=Hyperparameters(rate, dropout_rate=0.25))
            runs = runs._replace(key=keys[4 * repeat : 4 * repeat + 4])
            result = cross_validate(data, runs, epochs=1, recipe=RECIPE, devices=jax.devices()[:2])
            accuracy[c] += result.accuracy / 2
            loss[c] += result.loss / 2
    scores = grids.train_grid(data, numbers, splits, folder=tmp_path / "grid", **options)
    np.testing.assert_allclose(scores.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(scores.accuracy, accuracy)
    assert len(np.unique(loss)) == 8 and scores.epochs.tolist() == [[1] * 4] * 2

    # Of two configurations none is dropped.
    halved = halving.halve_grid(data, numbers, splits, 2, folder=tmp_path / "halved", **options)
    np.testing.assert_allclose(halved.loss, loss, rtol=1e-5)
    np.testing.assert_array_equal(halved.epochs, scores.epochs)

    chosen = [1, -1, 0, 1]
    accuracy, loss_of_chosen = grids.train_chosen(
        data, numbers, splits, chosen, folder=tmp_path / "chosen", **options
    )
    expected = [loss[1, 0], np.nan, loss[0, 2], loss[1, 3]]
    np.testing.assert_allclose(loss_of_chosen, expected, rtol=1e-5)
    assert np.isnan(accuracy).tolist() == [False, True, False, False]
