"""Completes runs before training, and checks what only the whole training can tell."""

from __future__ import annotations

import logging
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval
from jax.sharding import Mesh

from digits_jax import train
from digits_jax.networks import as_network
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import leaf_name, take_run
from digits_jax.runs.checks import check_parts
from digits_jax.runs.identity import named_leaves
from digits_jax.splits import without_absent_rows
from digits_jax.step_counts import drops_remainder, fewest_rows, steps_in_all, steps_per_epoch
from digits_jax.structures import Data, Run, TrainState

logger: logging.Logger = logging.getLogger("digits_jax")


def prepare(data: Data, runs: Run, recipe: Recipe, epochs: int) -> tuple[Run, TrainState]:
    """Checks the recipe's parts on these data, and completes the runs.

    Args:
        data: host arrays, as of ``check_data``.
        runs: stacked.
        recipe: the static part.
        epochs: of the whole training.

    Returns:
        The runs, whose splits name no row of weight 0 and which know their steps where the
        optimizer asks for them; and the shapes and dtypes of one run's state.
    """
    if data.weights is not None:
        runs = runs._replace(split=without_absent_rows(runs.split, data.weights))
    size = max(1, min(recipe.batch_size, runs.split.train_rows.shape[1]))
    trained_rows = (np.asarray(runs.split.train_weights) > 0).sum(axis=1)
    first = take_run(runs, 0)
    shapes = train.state_shapes(first, data, recipe=recipe)
    network = as_network(recipe.network, first.hyperparameters)
    fewest = fewest_rows(recipe, network, shapes.collections, size)
    sees_padding = drops_remainder(network, shapes.collections)
    if recipe.remainder == "masked" and sees_padding:
        logger.warning(
            "the network has batch statistics and takes no mask, so that they would see padding: "
            'it is trained on full batches only, as with remainder="dropped"'
        )
    none = (trained_rows > 0) & (trained_rows < recipe.batch_size)
    if none.any() and (recipe.remainder == "dropped" or sees_padding):
        raise ValueError(
            f"run {np.argmax(none)} trains on {trained_rows[np.argmax(none)]} rows, fewer than a "
            f"batch of {recipe.batch_size}, and only full batches train: give a smaller batch_size"
        )
    steps = steps_per_epoch(trained_rows, size, fewest) * epochs
    if steps.max() >= 2**31:
        raise ValueError(f"{epochs} epochs make {steps.max()} steps; an int32 counts to 2**31 - 1")
    if recipe.takes_steps:
        runs = runs._replace(steps=steps.astype(np.int32))
    check_parts(recipe, data, runs, shapes)
    return runs, shapes


def equal_steps(runs: Run, recipe: Recipe) -> int | None:
    """The steps of the whole training as an int, where an optimizer asks and all runs agree."""
    if not recipe.takes_steps:
        return None
    steps = np.unique(runs.steps[runs.steps > 0])
    return int(steps[0]) if len(steps) == 1 else None


def runs_take_all_steps(runs: Run, data: Data, recipe: Recipe, mesh: Mesh) -> bool:
    """Whether a training step needs no condition, as every batch is one in all runs.

    Asked for accelerators alone, which train runs side by side. A CPU trains one at a time, and
    skips what is no step.
    """
    if mesh.devices.flat[0].platform == "cpu" or mesh.is_multi_process:
        return False
    first = jax.eval_shape(lambda runs: take_run(runs, 0), runs)
    network = as_network(recipe.network, first.hyperparameters)
    collections = train.state_shapes(first, data, recipe=recipe).collections
    return steps_in_all(runs.split, recipe=recipe, network=network, collections=collections)


def unread_leaves(runs: Run, *programs: tuple[Any, Any]) -> tuple[str, ...]:
    """The names of those leaves of the hyperparameters that none of the traced programs reads."""
    names = [
        leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(runs.hyperparameters)
    ]
    read = np.zeros(len(names), bool)
    of_h = jax.tree_util.GetAttrKey("hyperparameters")
    for traced, arguments in programs:
        jaxpr = traced.jaxpr.jaxpr
        _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(arguments)]
        uses = [use for use, path in zip(used, paths, strict=True) if path[1:2] == (of_h,)]
        read |= np.array(uses, bool)
    return tuple(name for name, is_read in zip(names, read, strict=True) if not is_read)


def refuse_unread(h: Any, unread: tuple[str, ...]) -> None:
    """A hyperparameter that says something and that nothing reads is a mistake, say in its name."""
    defaults = Hyperparameters()
    for path, leaf in jax.tree_util.tree_leaves_with_path(h):
        name, values = leaf_name(path), np.asarray(leaf)
        if name not in unread:
            continue
        if (values != values[:1]).any():
            raise ValueError(
                f"the hyperparameter {name} varies between the runs, but nothing in the recipe "
                "reads it: all runs would be equal. Read it in the network, loss or optimizer, or "
                "leave it out"
            )
        if isinstance(h, Hyperparameters):
            default = getattr(defaults, name)
            if default is None or (values != np.asarray(default, values.dtype)).any():
                raise ValueError(
                    f"the hyperparameter {name} is set, but nothing in the recipe reads it; for a "
                    "field of the network, give network=NetworkWithHyperparameters(network, "
                    f'("{name}",))'
                )


def spread_params(params: Any, shapes: Any, count: int) -> Any:
    """Initial parameters [R, ...], from one for all runs or one for each."""
    if params is None:
        return None
    given, wanted = list(named_leaves(params)), list(named_leaves(shapes))
    if given != wanted:
        raise ValueError(
            f"params must have the leaves of the network's, {', '.join(wanted)}; they have "
            f"{', '.join(given)}"
        )
    params = jax.tree.unflatten(jax.tree.structure(shapes), jax.tree.leaves(params))

    def one(path: Any, leaf: Any, wanted: Any) -> np.ndarray:
        array = np.asarray(leaf)
        if array.shape == (count, *wanted.shape):
            return array.astype(wanted.dtype)
        if array.shape == wanted.shape:
            return np.array(np.broadcast_to(array, (count, *array.shape)), wanted.dtype)
        raise ValueError(
            f"params: {leaf_name(path)} must be {list(wanted.shape)} or "
            f"{[count, *wanted.shape]}, not {list(array.shape)}"
        )

    return jax.tree_util.tree_map_with_path(one, params, shapes)
