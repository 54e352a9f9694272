"""A recipe by its name."""

from __future__ import annotations

import operator
from typing import NamedTuple

from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.recipes import notebook, strong

_MAKERS = {"notebook": (notebook, notebook.notebook), "strong": (strong, strong.strong)}
RECIPES = tuple(_MAKERS)


class NamedRecipe(NamedTuple):
    """What trains, with which numbers, for how long.

    Attributes:
        recipe: network, optimizer, loss, augmentation, views, batch size.
        hyperparameters: numbers.
        epochs: passes over the training rows.
    """

    recipe: Recipe
    hyperparameters: Hyperparameters
    epochs: int


def recipe_by_name(
    name: str, *, epochs: int | None = None, batch_size: int | None = None
) -> NamedRecipe:
    """The recipe of a name.

    Args:
        name: ``notebook``, the notebook's network and protocol; or ``strong``.
        epochs: passes over the training rows. Default: the recipe's.
        batch_size: rows of a step. Default: the recipe's.

    Raises:
        ValueError: there is no such recipe, or a number is below 1.

    Examples:
        >>> recipe, hyperparameters, epochs = recipe_by_name("notebook")
        >>> recipe == Recipe(), hyperparameters == Hyperparameters(), epochs
        (True, True, 100)
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    for what, value in {"epochs": epochs, "batch_size": batch_size}.items():
        if value is not None and operator.index(value) < 1:
            raise ValueError(f"{what} must be at least 1, not {value}")
    module, make = _MAKERS[name]
    recipe, hyperparameters = make(
        batch_size=module.BATCH_SIZE if batch_size is None else batch_size
    )
    return NamedRecipe(recipe, hyperparameters, module.EPOCHS if epochs is None else epochs)
