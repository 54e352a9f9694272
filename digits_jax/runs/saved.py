"""Reading what ``cross_validate`` saved: states to predict with, and the recipe that trained."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from digits_jax import train
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.recipes.by_name import RECIPES, recipe_by_name
from digits_jax.runs.axis import take_run
from digits_jax.runs.identity import (
    flatten_configuration,
    named_leaves,
    row_structs,
    unflattened,
)
from digits_jax.storage.errors import CheckpointError
from digits_jax.structures import Data, Run, TrainState


class Saved(NamedTuple):
    """A checkpoint of R runs.

    Attributes:
        states: every leaf a NumPy array [R, ...].
        hyperparameters: h, every leaf [R, ...]: ``Hyperparameters`` where they have its names, else
            nested dicts, or what ``h`` of ``load_states`` gave the structure of.
        identity: of what was trained, names and JSON values.
    """

    states: TrainState
    hyperparameters: Any
    identity: dict[str, Any]

    def run(self, index: int) -> tuple[TrainState, Any]:
        """State and hyperparameters of one run, for ``predict(state, inputs, h, recipe=...)``."""
        return take_run(self.states, index), take_run(self.hyperparameters, index)


def load_states(
    folder: str | os.PathLike[str],
    *,
    recipe: Recipe | None = None,
    h: Any = None,
    inputs: Any = None,
) -> Saved:
    """The newest checkpoint that ``cross_validate`` wrote, to predict with.

    Args:
        folder: its ``checkpoints``.
        recipe: that was trained. Default: see ``trained_recipe``.
        h: hyperparameters of any values, for their structure, where the recipe needs another one
            than ``Hyperparameters`` or nested dicts.
        inputs: some inputs, for their structure, where they are neither an array nor nested dicts.

    Raises:
        CheckpointError: there is none, it can't be read, or it is of another network.
    """
    from digits_jax.storage.checkpoints import Checkpoints

    if not os.path.isdir(folder):
        raise CheckpointError(f"no folder of checkpoints at {os.fspath(folder)}")

    def read(epoch: int) -> Saved:
        identity, shapes = saved.saved_identity(epoch), saved.shapes(epoch)
        if "history/loss" not in shapes or "inputs" not in identity:
            raise CheckpointError(f"the checkpoints in {saved.folder} are not cross_validate's")
        count, epochs = json.loads(shapes["history/loss"].removeprefix("float32"))
        names = tuple(
            name.removeprefix("history/") for name in shapes if name.startswith("history/")
        )
        numbers = _hyperparameters(shapes, h)
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), numbers)
        trained = trained_recipe(identity) if recipe is None else recipe
        key = jax.eval_shape(lambda: jax.random.key(0))
        no_split: Any = ()
        rows = row_structs(identity["inputs"])
        if inputs is not None:
            rows = jax.tree.unflatten(jax.tree.structure(inputs), jax.tree.leaves(rows))
        one = train.state_shapes(Run(no_split, first, key), Data(rows, ()), recipe=trained)
        restored = saved.restore(saved_like(one, numbers, names, count, epochs), epoch)
        leaves = restored["hyperparameters"]
        structure = jax.tree.structure(numbers)
        values = jax.tree.unflatten(structure, [leaves[name] for name in named_leaves(numbers)])
        return Saved(restored["states"], values, identity)

    with Checkpoints(folder, {}, read_only=True) as saved:
        return saved.newest(read)


def _hyperparameters(shapes: Mapping[str, str], h: Any) -> Any:
    """Shapes and dtypes of the saved hyperparameters, [R, ...]."""
    leaves: dict[str, Any] = {}
    for path, text in shapes.items():
        name = path.removeprefix("hyperparameters/")
        found = re.fullmatch(r"(\w+)(\[.*\])", text)
        if name != path and found:
            leaves[name] = jax.ShapeDtypeStruct(tuple(json.loads(found[2])), np.dtype(found[1]))
    if h is not None:
        names = list(named_leaves(h))
        if sorted(names) != sorted(leaves):
            raise CheckpointError(
                f"h has the leaves {', '.join(names)}, the checkpoint {', '.join(leaves)}"
            )
        return jax.tree.unflatten(jax.tree.structure(h), [leaves[name] for name in names])
    if leaves and set(leaves) <= set(Hyperparameters._fields):
        fields: dict[str, Any] = {name: leaves.get(name) for name in Hyperparameters._fields}
        return Hyperparameters(**fields)
    return (
        unflattened({name.removeprefix("h"): leaf for name, leaf in leaves.items()})
        if (list(leaves) == ["h"])
        else unflattened(leaves)
    )


def trained_recipe(identity: Mapping[str, Any]) -> Recipe:
    """The named recipe whose network and optimizer an identity describes.

    ``predict`` needs it. It is the notebook's where no recipe fits.
    """
    for name in RECIPES:
        recipe = recipe_by_name(name).recipe
        described = {
            **flatten_configuration(recipe.network, "network"),
            **flatten_configuration(recipe.optimizer, "optimizer"),
        }
        if all(identity.get(f"recipe.{key}") == value for key, value in described.items()):
            return recipe
    return Recipe()


def saved_like(
    one: TrainState, h: Any, names: tuple[str, ...], count: int, epochs: int
) -> dict[str, Any]:
    """Shapes and dtypes of what is saved.

    Args:
        one: of one run's state.
        h: of the hyperparameters, [R, ...].
        names: of the history.
        count: R.
        epochs: E.
    """
    history = jax.ShapeDtypeStruct((count, epochs), np.float32)
    states = jax.tree.map(lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), one)
    hyperparameters = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype), named_leaves(h)
    )
    return {
        "states": states,
        "history": dict.fromkeys(names, history),
        "hyperparameters": hyperparameters,
    }
