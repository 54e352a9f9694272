"""The recipes by name: the notebook's is the default, and the strong one learns and resumes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from digits_jax.data import load_digits
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.recipes.by_name import RECIPES, recipe_by_name
from digits_jax.runs.axis import make_runs
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.identity import describe
from digits_jax.runs.results import Interrupted
from digits_jax.runs.saved import load_states, trained_recipe
from digits_jax.splits import holdout_split, refit_split, stack_splits
from digits_jax.train import Examples, Run


@pytest.fixture(scope="module")
def data() -> Examples:
    """The first 600 bundled rows."""
    digits = load_digits("bundled")
    return Examples(digits.images[:600], digits.labels[:600])


def _strong(data: Examples, epochs: int) -> tuple[Run, Recipe]:
    """A hold-out run and a refit, of unequal numbers of steps."""
    labels = np.asarray(data.labels)
    splits = stack_splits(holdout_split(labels, stratified=True), refit_split(labels))
    named = recipe_by_name("strong", train_rows=splits.train_weights.sum(1), epochs=epochs)
    return make_runs(splits, hyperparameters=named.hyperparameters), named.recipe


def test_the_notebooks_recipe_is_the_default() -> None:
    assert recipe_by_name("notebook", train_rows=4496) == (Recipe(), Hyperparameters(), 100)
    named = recipe_by_name("notebook", train_rows=4496, epochs=3, batch_size=32)
    assert named == (Recipe(batch_size=32), Hyperparameters(), 3)


def test_a_schedule_has_the_steps_of_each_run() -> None:
    named = recipe_by_name("strong", train_rows=np.array([4496, 5620]), epochs=10, batch_size=128)
    assert np.asarray(named.hyperparameters.schedule_steps).tolist() == [360, 440]
    alone = recipe_by_name("strong", train_rows=4497, epochs=2, batch_size=128).hyperparameters
    assert float(np.asarray(alone.schedule_steps)) == 72


def test_recipes_are_hashable_equal_and_described_by_plain_values(data: Examples) -> None:
    for name in RECIPES:
        one, two = (recipe_by_name(name, train_rows=480).recipe for _ in range(2))
        assert one == two and hash(one) == hash(two)
    runs, recipe = _strong(data, epochs=2)
    described = describe(data, runs, recipe)
    assert described["recipe.augment.rotation"] == recipe.augment.rotation
    assert described["recipe.optimizer.warmup"] == recipe.optimizer.warmup
    assert not [value for value in described.values() if " at 0x" in str(value)]


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no recipe 'weak'; there are notebook, strong"):
        recipe_by_name("weak", train_rows=1)
    with pytest.raises(ValueError, match="train_rows must be at least 1, not 0"):
        recipe_by_name("strong", train_rows=0)
    with pytest.raises(ValueError, match="epochs must be at least 1, not 0"):
        recipe_by_name("strong", train_rows=10, epochs=0)


def test_the_strong_recipe_learns_and_resumes_bitwise(data: Examples, tmp_path: Path) -> None:
    runs, recipe = _strong(data, epochs=15)
    options = {"recipe": recipe, "epochs": 15}
    whole = cross_validate(data, runs, **options)
    assert whole.accuracy[0] > 0.9  # chance is 0.1
    saved = {**options, "checkpoints": tmp_path, "resume": True}
    with pytest.raises(Interrupted):
        cross_validate(data, runs, **saved, on_epoch=lambda progress: progress.epoch == 2)
    resumed = cross_validate(data, runs, **saved)
    assert set(resumed.states.average) == {"params", "batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, (resumed[:6]), (whole[:6]))
    states, identity = load_states(tmp_path)  # it finds out that the network is the strong one
    jax.tree.map(np.testing.assert_array_equal, states, whole.states)
    assert trained_recipe(identity).network == recipe.network
