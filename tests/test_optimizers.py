"""The one-cycle learning rate: where it starts, peaks and ends, and that the steps follow it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


def test_missing_or_impossible_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="takes \\(h, steps\\), but no number of steps is known"):
        Recipe(optimizer=CYCLE).make_optimizer(Hyperparameters())
    with pytest.raises(ValueError, match=r"warmup must be in \[0, 1\), not 1"):
        OneCycleAdam(warmup=1)
    with pytest.raises(ValueError, match=r"start and end must be in \[0, 1\], not 2 and 0"):
        OneCycleAdam(start=2)
