"""Reading what ``cross_validate`` saved: states to predict with, and the recipe that trained."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from digits_jax import train
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.recipes.by_name import RECIPES, recipe_by_name
from digits_jax.runs.axis import take_run
from digits_jax.runs.extension import folders_of
from digits_jax.runs.identity import ABOUT, PROGRAM, named_leaves, row_structs, unflattened
from digits_jax.runs.parts import PREDICTING, reading_digests
from digits_jax.runs.refusals import refuse_old
from digits_jax.storage.errors import CheckpointError, shortened_path
from digits_jax.structures import Data, Run, TrainState


class Saved(NamedTuple):
    """A checkpoint of R runs.

    Attributes:
        states: every leaf a NumPy array [R, ...].
        hyperparameters: h, every leaf [R, ...]: ``Hyperparameters`` where they have its names, else
            nested dicts, or what ``h`` of ``load_states`` gave the structure of.
        names: of the runs, [R], as they were given to ``cross_validate``, or run 1, run 2, ….
        identity: of what was trained, names and JSON values.
        recipe: that predicts as the one that was trained.
    """

    states: TrainState
    hyperparameters: Any
    names: list[str]
    identity: dict[str, Any]
    recipe: Recipe

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

    Runs that were added later, when more were asked for, come last.

    Args:
        folder: its ``checkpoints``, or the output folder of a script, which holds a folder
            ``checkpoints``.
        recipe: that was trained, on whatever platform: its network, views and ``eval_params`` must
            compute the same. Default: see ``trained_recipe``.
        h: hyperparameters of any values, for their structure, where the recipe needs another one
            than ``Hyperparameters`` or nested dicts.
        inputs: some inputs, for their structure, where they are neither an array nor nested dicts.

    Raises:
        CheckpointError: there is none, it can't be read, or it is of another network.
        ValueError: the recipe can't be applied to such inputs or hyperparameters.
    """
    where = Path(folder).expanduser()
    if not where.is_dir():
        raise CheckpointError(f"no folder of checkpoints at {os.fspath(folder)}")
    inside = where / "checkpoints"
    where = inside if inside.is_dir() else where
    saved = [_load(each, recipe, h, inputs) for each in folders_of(where)]
    names = [name for each in saved for name in each.names or [""] * len(each.states.step)]
    return saved[0]._replace(
        states=_stacked([each.states for each in saved]),
        hyperparameters=_stacked([each.hyperparameters for each in saved]),
        names=[name or f"run {i + 1}" for i, name in enumerate(names)],
    )


def _stacked(trees: list[Any]) -> Any:
    """Trees of host arrays [R, ...] as one."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *x: np.concatenate(x), *trees)


def _load(folder: Path, recipe: Recipe | None, h: Any, inputs: Any) -> Saved:
    """Of one folder; ``names`` are empty where none were given."""
    from digits_jax.storage.checkpoints import Checkpoints

    def read(epoch: int) -> Saved:
        identity, shapes = saved.saved_identity(epoch), saved.shapes(epoch)
        if "history/loss" not in shapes or "inputs" not in identity:
            raise CheckpointError(
                f"the checkpoints in {shortened_path(saved.folder)} are not cross_validate's"
            )
        refuse_old(saved.folder, identity)
        count, epochs = json.loads(shapes["history/loss"].removeprefix("float32"))
        names = tuple(
            name.removeprefix("history/") for name in shapes if name.startswith("history/")
        )
        numbers = _hyperparameters(shapes, h)
        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), numbers)
        rows = row_structs(identity["inputs"])
        if inputs is not None:
            rows = jax.tree.unflatten(jax.tree.structure(inputs), jax.tree.leaves(rows))
        if recipe is None:
            trained = trained_recipe(identity)
        else:
            trained = recipe
            differs = _other_part(trained, _run_of(first), rows, identity)
            if differs is not None:
                raise CheckpointError(
                    f"checkpoint {shortened_path(saved.folder / str(epoch))} is of another recipe: "
                    f"the {differs} of the one given computes something else; give the one that "
                    "was trained, recipe="
                )
        one = train.state_shapes(_run_of(first), Data(rows, ()), recipe=trained)
        restored = saved.restore(saved_like(one, numbers, names, count, epochs), epoch)
        leaves = restored["hyperparameters"]
        structure = jax.tree.structure(numbers)
        values = jax.tree.unflatten(structure, [leaves[name] for name in named_leaves(numbers)])
        names_of_runs = identity[ABOUT].get("names") or []
        return Saved(restored["states"], values, names_of_runs, identity, trained)

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
    return _with_names(leaves)


def _with_names(leaves: dict[str, Any]) -> Any:
    """``Hyperparameters`` where they have its names, else nested dicts."""
    if leaves and set(leaves) <= set(Hyperparameters._fields):
        fields: dict[str, Any] = {name: leaves.get(name) for name in Hyperparameters._fields}
        return Hyperparameters(**fields)
    if list(leaves) == ["h"]:  # a single leaf has no name of its own
        return leaves["h"]
    return unflattened(leaves)


def trained_recipe(identity: Mapping[str, Any]) -> Recipe:
    """The recipe by name that predicts as the one that an identity describes.

    ``predict`` needs it. Its network, views and what combines them compute the same; how it trains
    may differ.

    Args:
        identity: of a checkpoint; see ``load_states``.

    Raises:
        CheckpointError: no recipe by name does.
    """
    refuse_old("the checkpoint", identity)
    h = _with_names(_rows_of(identity["h"]))
    rows = row_structs(identity["inputs"])
    for name in RECIPES if isinstance(h, Hyperparameters) else ():
        recipe = recipe_by_name(name).recipe
        with contextlib.suppress(Exception):  # whatever a network raises at inputs of another form
            if _other_part(recipe, _run_of(h), rows, identity) is None:
                return recipe
    raise CheckpointError(
        f"the checkpoint is of no recipe by name ({', '.join(RECIPES)}): give the one that was "
        "trained, recipe="
    )


def _other_part(recipe: Recipe, run: Run, rows: Any, identity: Mapping[str, Any]) -> str | None:
    """The first part that predicts and computes something else than the one that was trained."""
    saved = identity[PROGRAM]["jaxpr"]
    # Under the setting that trained: with 64 bits JAX counts in int64, and the programs differ.
    with jax.enable_x64(bool(identity[ABOUT]["settings"]["jax_enable_x64"])):
        found = reading_digests(recipe, run, rows)
    predicting = [*found, *(part for part in PREDICTING if part in saved and part not in found)]
    for part in predicting:
        if found.get(part) != saved.get(part):
            return part
    return None


def _run_of(h: Any) -> Run:
    """A run of those hyperparameters' shapes, without rows."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    no_split: Any = ()
    return Run(no_split, h, key)


def _rows_of(shapes: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of one run's hyperparameters, by name."""
    return {
        name: jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        for name, (dtype, shape) in shapes.items()
    }


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
