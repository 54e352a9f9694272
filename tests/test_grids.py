"""Configurations: the runs that they make, their ranking, and training them in waves."""

from __future__ import annotations

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
from digits_jax.search.spaces import grid
from digits_jax.splits import inner_splits, kfold_splits, stack_splits

RECIPE = Recipe(network=DigitsCNN(conv_features=(2,), dense_features=()), batch_size=32)
RATES = np.array([1e-4, 3e-2, 1e-3, 1e-2, 3e-3], np.float32)
Arrays = tuple[np.ndarray, np.ndarray]  # images [N, 8, 8] and labels [N]


@pytest.fixture(scope="module")
def data() -> Arrays:
    digits = load_digits("bundled")
    return digits.images[:199], digits.labels[:199]


def test_configurations_share_the_draws_of_a_split(data: Arrays) -> None:
    splits = kfold_splits(data[1], 3)
    h = grid(Hyperparameters(learning_rate=RATES))
    pick = grids.run_picker(splits, h, seed=5)
    runs = pick([4, 0, 4], [2, 2, 1])
    assert np.asarray(runs.hyperparameters.learning_rate).tolist() == RATES[[4, 0, 4]].tolist()
    np.testing.assert_array_equal(runs.split.test_rows, splits.test_rows[[2, 2, 1]])
    keys = jax.random.key_data(make_runs(splits, seed=5).key)
    np.testing.assert_array_equal(jax.random.key_data(runs.key), keys[np.array([2, 2, 1])])


def test_ranking() -> None:
    nan = np.nan
    accuracy = np.array([[[0.9], [0.8], [0.9], [1.0]], [[0.1], [0.2], [0.3], [0.4]]])
    loss = np.array([[[0.3], [0.1], [0.2], [nan]], [[1.0], [1.0], [1.0], [1.0]]])
    scores = {"accuracy": accuracy, "loss": loss}
    np.testing.assert_array_equal(grids.rank(scores), [[2, 0, 1, 3], [3, 2, 1, 0]])
    worst_first = [[1, 2, 0, 3], [0, 1, 2, 3]]
    np.testing.assert_array_equal(grids.rank(scores, ("accuracy", "min")), worst_first)
    by_loss = [[1, 2, 0, 3], [0, 1, 2, 3]]
    np.testing.assert_array_equal(grids.rank(scores, "loss"), by_loss)
    # Equal means, whose sums differ in the last bit.
    equal = {"accuracy": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]], "loss": [[1.0] * 3, [0.5] * 3]}
    assert grids.rank(equal).tolist() == [1, 0]


@pytest.mark.slow
def test_scores_belong_to_their_configuration_split_and_seed(data: Arrays, tmp_path: Path) -> None:
    """Each run made by hand, in loops; in one program, the waves of the others in two."""
    splits = inner_splits(data[1], kfold_splits(data[1], 2), 2)
    h = grid(Hyperparameters(learning_rate=[1e-2, 1e-3], weight_decay=0.1))
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
            runs = make_runs(splits, Hyperparameters(rate, weight_decay=0.1))
            runs = runs._replace(key=keys[4 * repeat : 4 * repeat + 4])
            result = cross_validate(data, runs, epochs=1, recipe=RECIPE, devices=jax.devices()[:2])
            accuracy[c] += result.scores["accuracy"] / 2
            loss[c] += result.scores["loss"] / 2
    scores = grids.train_grid(data, h, splits, folder=tmp_path / "grid", **options)
    np.testing.assert_allclose(scores.scores["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(scores.scores["accuracy"], accuracy)
    assert len(np.unique(loss)) == 8 and scores.epochs.tolist() == [[1] * 4] * 2

    # Of two configurations none is dropped.
    halved = halving.halve_grid(data, h, splits, 2, folder=tmp_path / "halved", **options)
    np.testing.assert_allclose(halved.scores["loss"], loss, rtol=1e-5)
    np.testing.assert_array_equal(halved.epochs, scores.epochs)

    chosen = [1, -1, 0, 1]
    of_chosen = grids.train_chosen(data, h, splits, chosen, folder=tmp_path / "chosen", **options)
    expected = [loss[1, 0], np.nan, loss[0, 2], loss[1, 3]]
    np.testing.assert_allclose(of_chosen.scores["loss"], expected, rtol=1e-5)
    assert np.isnan(of_chosen.scores["accuracy"]).tolist() == [False, True, False, False]
