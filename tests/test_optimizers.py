"""The one-cycle learning rate: where it starts, peaks and ends, and that the steps follow it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import digits_jax as dj
from digits_jax.optimizers import Hyperparameters, OneCycleAdam, adam
from digits_jax.recipe import Recipe

CYCLE = OneCycleAdam(warmup=0.25, start=0.1, end=0.01)


def test_the_rate_starts_peaks_and_ends_where_it_says() -> None:
    rates = jax.jit(jax.vmap(lambda count: CYCLE.rate_fraction(count, 100)))
    fractions = np.asarray(rates(jnp.arange(121)))
    np.testing.assert_allclose(fractions[[0, 25, 100, 120]], [0.1, 1, 0.01, 0.01], 1e-5)
    assert (np.diff(fractions[:26]) > 0).all() and (np.diff(fractions[25:101]) < 0).all()
    np.testing.assert_allclose(OneCycleAdam(warmup=0).rate_fraction(0, 100), 1)


def test_it_is_optaxs_one_cycle() -> None:
    # Optax's halves of a cosine join at whole steps; ours are the same there.
    theirs = optax.cosine_onecycle_schedule(200, 1.0, 0.25, 1 / 0.1, 0.1 / 0.01)
    counts = jnp.arange(201)
    fractions = jax.jit(jax.vmap(lambda count: CYCLE.rate_fraction(count, 200)))(counts)
    np.testing.assert_allclose(fractions, jax.jit(jax.vmap(theirs))(counts), atol=2e-6)


def test_traced_steps_are_as_good() -> None:
    traced = jax.jit(CYCLE.rate_fraction)
    for count in (0, 3, 25, 99):
        np.testing.assert_allclose(
            traced(count, jnp.int32(100)), CYCLE.rate_fraction(count, 100), rtol=1e-6
        )


def test_each_step_has_the_schedules_learning_rate() -> None:
    h = Hyperparameters(learning_rate=0.5, weight_decay=0.1)
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0]])}
    scheduled, state = CYCLE(h, 4), CYCLE(h, 4).init(params)
    plain_state = adam(h).init(params)
    for count in range(5):
        grads = jax.tree.map(lambda p, c=count: p * (c + 1.0), params)
        updates, state = scheduled.update(grads, state, params)
        rate = 0.5 * float(CYCLE.rate_fraction(count, 4))
        plain = adam(h._replace(learning_rate=rate))
        expected, plain_state = plain.update(grads, plain_state, params)
        for got, want in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("make", [adam, lambda h: CYCLE(h, 4)])
def test_hyperparameters_may_be_any_attributes_or_keys(make: Callable[..., Any]) -> None:
    class Few(NamedTuple):
        learning_rate: float
        decay: float = 0.5  # none of Adam's

    def trained(h: Any) -> jax.Array:
        params = jnp.array([1.0, -2.0])
        optimizer = make(h)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(params**2, state, params)
            params = optax.apply_updates(params, updates)
        return params

    ours = trained(Hyperparameters(learning_rate=0.1))
    np.testing.assert_array_equal(trained({"learning_rate": 0.1}), ours)
    np.testing.assert_array_equal(trained(Few(0.1)), ours)
    decayed = trained(Hyperparameters(learning_rate=0.1, weight_decay=0.2))
    np.testing.assert_array_equal(trained({"learning_rate": 0.1, "weight_decay": 0.2}), decayed)
    assert (decayed != ours).all()
    with pytest.raises(TypeError, match="have no learning_rate; give one, as .* or an optimizer="):
        trained({"lr": 0.1})


def test_missing_or_impossible_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="takes \\(h, steps\\), but no number of steps is known"):
        Recipe(optimizer=CYCLE).make_optimizer(Hyperparameters())
    with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\), not 1"):
        OneCycleAdam(warmup=1)
    with pytest.raises(ValueError, match=r"start and end must be in \[0, 1\], not 2 and 0"):
        OneCycleAdam(start=2)


def test_a_dict_trains_with_the_default_optimizer() -> None:
    images = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    labels = np.arange(20) % 2
    recipe = dj.Recipe(network=nn.Dense(2))
    splits = dj.kfold_splits(labels, 2)

    def trained(h: Any) -> Any:
        runs = dj.make_runs(splits, h)
        return dj.cross_validate((images, labels), runs, recipe=recipe, epochs=2).states.params

    ours, of_dict = trained(Hyperparameters(learning_rate=1e-2)), trained({"learning_rate": 1e-2})
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)  # its betas are constants
    jax.tree.map(close, of_dict, ours)
