"""The recipes by name: the notebook's is the default, and the strong one learns and resumes."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from digits_jax.data import load_digits
from digits_jax.evaluation import predict
from digits_jax.model import DigitsCNN
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.recipes.by_name import RECIPES, recipe_by_name
from digits_jax.runs.axis import make_runs, take_run, take_runs
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.identity import describe_program
from digits_jax.runs.preparation import prepare
from digits_jax.runs.results import Interrupted
from digits_jax.runs.saved import load_states, trained_recipe
from digits_jax.splits import holdout_split, kfold_splits, refit_split, stack_splits
from digits_jax.structures import Data, Run
from digits_jax.train import init_state
from digits_jax.waves import train_in_waves


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """The first 600 bundled rows."""
    digits = load_digits("bundled")
    return digits.images[:600], digits.labels[:600]


def _strong(data: Any, epochs: int) -> tuple[Run, Recipe]:
    """A hold-out run and a refit, of unequal numbers of steps."""
    splits = stack_splits(holdout_split(data[1], stratified=True), refit_split(data[1]))
    named = recipe_by_name("strong", epochs=epochs)
    return make_runs(splits, named.hyperparameters), named.recipe


def test_the_notebooks_recipe_is_the_default() -> None:
    assert recipe_by_name("notebook") == (Recipe(), Hyperparameters(), 100)
    named = recipe_by_name("notebook", epochs=3, batch_size=32)
    assert named == (Recipe(batch_size=32), Hyperparameters(), 3)


def test_an_optimizer_that_asks_gets_the_steps_of_each_runs_whole_training(data: Any) -> None:
    """480 and 600 rows, in batches of 64: 8 and 10 steps an epoch, the last ones not full."""

    def remembering(h: Any, steps: Any) -> optax.GradientTransformation:
        def init(params: Any) -> Any:
            return jnp.asarray(steps, jnp.int32)

        return optax.GradientTransformation(init, lambda grads, state, params: (grads, state))

    splits = stack_splits(holdout_split(data[1], stratified=True), refit_split(data[1]))
    network = DigitsCNN(conv_features=(), dense_features=())
    train = functools.partial(
        cross_validate, data, recipe=Recipe(network=network, optimizer=remembering, batch_size=64)
    )
    states = train(make_runs(splits, {}), epochs=3).states
    assert states.opt_state.tolist() == states.step.tolist() == [24, 30]
    of_ten = train(make_runs(splits, {}), epochs=3, total_epochs=10).states
    assert of_ten.opt_state.tolist() == [80, 100] and of_ten.step.tolist() == [24, 30]
    seen: list[type] = []

    def adam_of(h: Any, steps: Any) -> optax.GradientTransformation:
        seen.append(type(steps))
        return remembering(h, steps)

    recipe = Recipe(network=network, optimizer=adam_of, batch_size=64)
    cross_validate(data, make_runs(refit_split(data[1]), {}), recipe=recipe, epochs=2)
    assert int in seen, "where all runs take equally many, they are a plain number"


def test_a_schedule_of_optax_takes_the_steps_where_all_runs_agree(
    data: Any, tmp_path: Path
) -> None:
    """It tests them in Python, so they must be a plain int, in waves and checkpoints as well."""

    def cosine(h: Any, steps: Any) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(0.1, steps))

    network = DigitsCNN(conv_features=(), dense_features=())
    recipe = Recipe(network=network, optimizer=cosine, batch_size=64)
    runs = make_runs(kfold_splits(data[1], 2), {})
    result = cross_validate(data, runs, recipe=recipe, epochs=2, checkpoints=tmp_path / "saved")
    fixed = Recipe(network=network, optimizer=lambda h: cosine(h, 10), batch_size=64)
    expected = cross_validate(data, runs, recipe=fixed, epochs=2)
    jax.tree.map(np.testing.assert_array_equal, result.states, expected.states)
    saved = load_states(tmp_path / "saved", recipe=recipe)
    jax.tree.map(np.testing.assert_array_equal, saved.states, result.states)
    waves = train_in_waves(
        data,
        lambda start, stop: take_runs(runs, np.arange(start, stop)),
        2,
        folder=tmp_path / "waves",
        recipe=recipe,
        epochs=2,
    )
    np.testing.assert_allclose(waves.scores["loss"], result.scores["loss"], rtol=1e-5)
    unequal = stack_splits(holdout_split(data[1]), refit_split(data[1]))
    with pytest.raises(TypeError, match="only where all runs take equally many"):
        cross_validate(data, make_runs(unequal, {}), recipe=recipe, epochs=2)


def test_recipes_are_hashable_equal_and_described_by_plain_values(data: Any) -> None:
    for name in RECIPES:
        one, two = (recipe_by_name(name).recipe for _ in range(2))
        assert one == two and hash(one) == hash(two)
    runs, recipe = _strong(data, epochs=2)
    runs, state = prepare(Data(*data), runs, recipe, 2)
    described = describe_program(Data(*data), runs, recipe, state, device=jax.devices()[0])
    configuration = described["about"]["recipe"]
    assert configuration["recipe.augment.rotation"] == recipe.augment.rotation
    assert configuration["recipe.optimizer.warmup"] == recipe.optimizer.warmup
    assert " at 0x" not in json.dumps(described)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_network_is_exported_for_any_number_of_rows(name: str) -> None:
    recipe, h, _ = recipe_by_name(name)
    recipe = dataclasses.replace(recipe, lowering="none")
    images = load_digits("bundled").images[:5]
    run = take_run(make_runs(refit_split(np.zeros(5, np.int32)), h), 0)._replace(steps=9)
    state = init_state(run, Data(images, np.zeros(5, np.int32)), recipe=recipe)
    function = jax.jit(lambda images: predict(state, images, h, recipe=recipe))
    rows = jax.ShapeDtypeStruct(jax.export.symbolic_shape("rows, 8, 8"), images.dtype)
    exported = jax.export.export(function, platforms=["cpu", "cuda", "tpu"])(rows)
    np.testing.assert_allclose(exported.call(images), function(images), atol=1e-5)


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no recipe 'weak'; there are notebook, strong"):
        recipe_by_name("weak")
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        recipe_by_name("strong", batch_size=0)
    with pytest.raises(ValueError, match="epochs must be at least 1, not 0"):
        recipe_by_name("strong", epochs=0)


@pytest.mark.slow
def test_the_strong_recipe_learns_and_resumes_bitwise(data: Any, tmp_path: Path) -> None:
    runs, recipe = _strong(data, epochs=15)
    options = {"recipe": recipe, "epochs": 15}
    whole = cross_validate(data, runs, **options)
    assert whole.scores["accuracy"][0] > 0.9  # chance is 0.1
    saved = {**options, "checkpoints": tmp_path, "resume": True}
    with pytest.raises(Interrupted):
        cross_validate(data, runs, **saved, on_epoch=lambda progress: progress.epoch == 2)
    resumed = cross_validate(data, runs, **saved)
    assert set(resumed.states.average) == {"params", "collections"}
    assert set(resumed.states.average["collections"]) == {"batch_stats"}
    left_out = ("runs", "seconds")
    both = [
        {name: value for name, value in vars(each).items() if name not in left_out}
        for each in (resumed, whole)
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)
    saved = load_states(tmp_path)  # it finds out that the network is the strong one
    jax.tree.map(np.testing.assert_array_equal, saved.states, whole.states)
    assert trained_recipe(saved.identity).network == recipe.network
