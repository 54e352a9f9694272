"""A recipe by its name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.recipes import notebook, strong

RECIPES = ("notebook", "strong")


class NamedRecipe(NamedTuple):
    """A recipe: the arguments of ``cross_validate`` and ``make_runs`` that make it up.

    Attributes:
        recipe: network, optimizer, loss, augmentation, views, batch size.
        hyperparameters: numbers, or arrays [R].
        epochs: passes over the training rows.
    """

    recipe: Recipe
    hyperparameters: Hyperparameters
    epochs: int


def recipe_by_name(
    name: str,
    *,
    train_rows: ArrayLike,
    epochs: int | None = None,
    batch_size: int | None = None,
) -> NamedRecipe:
    """The recipe of a name.

    Args:
        name: ``notebook``, the notebook's network and protocol; or ``strong``.
        train_rows: rows that train a run, or an array [R], one number for each: a learning-rate
            schedule ends with the run's last step. ``splits.train_weights.sum(-1)`` has them.
        epochs: passes over the training rows. Default: the recipe's.
        batch_size: rows of a step. Default: the recipe's.

    Returns:
        A NamedRecipe; ``hyperparameters`` holds arrays [R] where ``train_rows`` is one.

    Raises:
        ValueError: there is no such recipe, or a number is below 1.

    Examples:
        >>> recipe, hyperparameters, epochs = recipe_by_name("notebook", train_rows=4496)
        >>> recipe == Recipe(), hyperparameters == Hyperparameters(), epochs
        (True, True, 100)
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    for what, value in {
        "train_rows": train_rows,
        "epochs": epochs,
        "batch_size": batch_size,
    }.items():
        if value is not None and np.min(value) < 1:
            raise ValueError(f"{what} must be at least 1, not {value}")
    if name == "notebook":
        batch_size = notebook.BATCH_SIZE if batch_size is None else batch_size
        recipe, hyperparameters = notebook.notebook(batch_size=batch_size)
        return NamedRecipe(recipe, hyperparameters, notebook.EPOCHS if epochs is None else epochs)
    batch_size = strong.BATCH_SIZE if batch_size is None else batch_size
    epochs = strong.EPOCHS if epochs is None else epochs
    recipe, hyperparameters = strong.strong(
        train_rows=train_rows, epochs=epochs, batch_size=batch_size
    )
    return NamedRecipe(recipe, hyperparameters, epochs)
