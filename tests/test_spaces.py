"""Search spaces: grids and random draws of any pytree of hyperparameters."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from digits_jax import Hyperparameters
from digits_jax.search.spaces import choice, decay, grid, log_uniform, random_search, uniform


class Own(NamedTuple):
    """Hyperparameters of one's own."""

    momentum: Any
    layers: dict[str, Any]


def test_a_grid_holds_every_combination_once() -> None:
    h = grid(
        Hyperparameters(learning_rate=[1e-3, 1e-2], beta_1=[0.9], dropout_rate=[0.0, 0.5, 0.7])
    )
    assert np.asarray(h.epsilon).tolist() == [1e-7] * 6
    found = np.stack([h.learning_rate, h.dropout_rate], axis=1)
    expected = [(a, b) for a in (1e-3, 1e-2) for b in (0.0, 0.5, 0.7)]
    np.testing.assert_array_equal(found, expected)
    assert grid(Hyperparameters(learning_rate=[1.0])).dropout_rate is None
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        grid(Hyperparameters(width=[1.0]))  # type: ignore[call-arg]
    for empty in ([], np.zeros(0)):
        with pytest.raises(ValueError, match="learning_rate must have at least one value"):
            grid(Hyperparameters(learning_rate=empty))
    with pytest.raises(ValueError, match="choice needs at least one value"):
        choice([])
    with pytest.raises(ValueError, match="momentum has a law without an end of values"):
        grid({"momentum": uniform(0, 1)})


def test_a_grid_of_any_pytree_keeps_its_form_and_its_integers() -> None:
    h = grid(Own(choice([0.0, 0.9]), {"width": np.array([3, 4, 5]), "rate": 0.1}))
    assert isinstance(h, Own) and set(h.layers) == {"width", "rate"}
    assert h.layers["width"].tolist() == [3, 4, 5] * 2 and h.layers["width"].dtype.kind == "i"
    assert h.momentum.tolist() == [0.0] * 3 + [0.9] * 3
    assert h.layers["rate"].tolist() == [0.1] * 6


def test_draws_are_spread_as_documented() -> None:
    space = Hyperparameters(
        learning_rate=log_uniform(1e-4, 1e-2),
        beta_2=decay(0.9, 0.999),
        dropout_rate=uniform(0.1, 0.5),
        weight_decay=choice([0.0, 0.1, 0.2, 0.3]),
        label_smoothing=[0.0, 0.1, 0.2, 0.3],
    )
    draw: Callable[..., Any] = functools.partial(random_search, space, 4000)
    h = draw(seed=1)
    for values, low, high in (
        (np.log10(h.learning_rate), -4, -2),
        (np.log10(1 - np.asarray(h.beta_2, np.float64)), -3, -1),
        (h.dropout_rate, 0.1, 0.5),
        (h.weight_decay, 0.0, 0.3),
        (h.label_smoothing, 0.0, 0.3),
    ):
        values = np.asarray(values)
        assert values.min() >= low - 1e-4 and values.max() <= high + 1e-4
        quarters = np.histogram(values, bins=4, range=(low, high))[0]
        assert abs(quarters - 1000).max() < 150  # five standard deviations
    assert np.unique(h.epsilon).tolist() == [1e-7] and h.average_decay is None
    jax.tree.map(np.testing.assert_array_equal, draw(seed=1), h)
    assert (draw(seed=2).learning_rate != h.learning_rate).all()
    for a, b in (("learning_rate", "dropout_rate"), ("weight_decay", "label_smoothing")):
        together = np.corrcoef(getattr(h, a), getattr(h, b))[0, 1]
        assert abs(together) < 0.08
    alone = random_search(Hyperparameters(learning_rate=log_uniform(1e-4, 1e-2)), 4000, seed=1)
    np.testing.assert_array_equal(alone.learning_rate, h.learning_rate)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda: log_uniform(0.0, 1.0), "log_uniform needs 0 < low <= high, not 0 to 1"),
        (lambda: log_uniform(2.0, 1.0), "log_uniform needs 0 < low <= high, not 2 to 1"),
        (lambda: uniform(0.5, 0.1), "uniform needs low <= high, not 0.5 to 0.1"),
        (lambda: uniform(float("nan"), 0.1), "uniform needs low <= high"),
        (lambda: decay(0.5, 1.0), "decay needs low <= high < 1, not 0.5 to 1"),
        (lambda: decay(0.9, 0.5), "decay needs low <= high < 1"),
        (lambda: choice(()), "choice needs at least one value"),
        (lambda: random_search({"rate": []}, 2), "choice needs at least one value"),
        (lambda: random_search({"rate": 1.0}, 0), "count must be at least 1, not 0"),
    ],
)
def test_laws_that_make_no_sense(law: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        law()
