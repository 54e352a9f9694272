"""The notebook's network and protocol."""

from __future__ import annotations

from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe

EPOCHS = 100
BATCH_SIZE = 128


def notebook(*, batch_size: int = BATCH_SIZE) -> tuple[Recipe, Hyperparameters]:
    """The recipe and its hyperparameters: all defaults but the batch size."""
    return Recipe(batch_size=batch_size), Hyperparameters()
