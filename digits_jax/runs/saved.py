"""Reading what ``cross_validate`` saved: states to predict with, and the recipe that trained."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from digits_jax import train
from digits_jax.recipes.by_name import RECIPES, recipe_by_name
from digits_jax.runs.identity import flatten_configuration
from digits_jax.runs.results import host_history
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.train import Examples, Run, TrainState


def load_states(
    folder: str | os.PathLike[str], *, recipe: Recipe | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """The newest checkpoint that ``cross_validate`` wrote, to predict with.

    Args:
        folder: its ``checkpoints``.
        recipe: with the network that was trained. Default: see ``trained_recipe``.

    Returns:
        The states, every leaf a NumPy array [R, ...], and the identity of what was trained. Run i
        predicts with ``predict(jax.tree.map(lambda leaf: leaf[i], states), images,
        recipe=...)``.

    Raises:
        CheckpointError: there is none, it can't be read, or it is of another network.
    """
    from digits_jax.storage.checkpoints import Checkpoints
    from digits_jax.storage.errors import CheckpointError

    if not os.path.isdir(folder):
        raise CheckpointError(f"no folder of checkpoints at {os.fspath(folder)}")

    def read(epoch: int) -> tuple[TrainState, dict[str, Any]]:
        identity, shapes = saved.saved_identity(epoch), saved.shapes(epoch)
        if "history/loss" not in shapes or "image_shape" not in identity:
            raise CheckpointError(f"the checkpoints in {saved.folder} are not cross_validate's")
        count, epochs = json.loads(shapes["history/loss"].removeprefix("float32"))
        dtype = np.dtype(identity.get("image_dtype", "uint8"))
        image: Any = jax.ShapeDtypeStruct((1, *identity["image_shape"]), dtype)
        no_split: Any = ()
        given = [n for n in Hyperparameters._fields if identity.get(f"hyperparameters.{n}")]
        numbers = Hyperparameters()._replace(**dict.fromkeys(given, 0.0))
        run = jax.eval_shape(lambda: Run(no_split, numbers, jax.random.key(0)))
        trained = trained_recipe(identity) if recipe is None else recipe
        init = functools.partial(train.init_state, recipe=trained)
        one = jax.eval_shape(init, run, Examples(image, 0))
        return saved.restore(saved_like(one, count, epochs), epoch)["states"], identity

    with Checkpoints(folder, {}, read_only=True) as saved:
        return saved.newest(read)


def trained_recipe(identity: Mapping[str, Any]) -> Recipe:
    """The named recipe whose network and optimizer an identity tells of.

    ``predict`` needs it. It is the notebook's where no recipe fits.
    """
    for name in RECIPES:
        recipe = recipe_by_name(name, train_rows=1).recipe
        described = {
            **flatten_configuration(recipe.network, "network"),
            **flatten_configuration(recipe.optimizer, "optimizer"),
        }
        if all(identity.get(f"recipe.{key}") == value for key, value in described.items()):
            return recipe
    return Recipe()


def saved_like(one: TrainState, count: int, epochs: int) -> dict[str, Any]:
    """Shapes and dtypes of what is saved, from those of one run's state."""
    history = jax.ShapeDtypeStruct((count, epochs), np.float32)
    states = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
    return {"states": states, "history": host_history(history, history)}
