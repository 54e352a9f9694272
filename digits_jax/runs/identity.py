"""What identifies a training: program, data, splits and keys, as names and JSON values.

Functions are identified by what they compute, see ``parts.py``, and not by their names or source.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jaxlib
import numpy as np
import optax

from digits_jax.parallel.processes import ProcessesDiffer, gather_values
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import leaf_name
from digits_jax.runs.parts import program_digests
from digits_jax.structures import Data, Run, TrainState
from digits_jax.watch import Watch


def describe(data: Data, runs: Run, recipe: Recipe) -> dict[str, Any]:
    """What is trained on what, as flat names and JSON values; all but the recipe's program.

    Args:
        data: host arrays, as of ``check_data``.
        runs: stacked.
        recipe: the static part.
    """
    described: dict[str, Any] = {"number of runs": len(runs.key), RUNS: run_digests(runs)}
    described |= {f"recipe.{name}": getattr(recipe, name) for name in ("batch_size", "remainder")}
    for path, leaf in jax.tree_util.tree_leaves_with_path(runs.hyperparameters):
        described[f"hyperparameters.{leaf_name(path)}"] = np.asarray(leaf).tolist()
    described["inputs"] = _row_shapes(data.inputs)
    described["targets"] = _row_shapes(data.targets)
    described["h"] = _row_shapes(runs.hyperparameters)
    keys = _words_of_keys(runs)
    splits = runs.split._replace(kind=None)
    for name, tree in {"data": data, "splits": splits, "keys": keys}.items():
        described[f"{name}.sha256"] = digest_of(tree)
    return described


def describe_program(
    data: Data,
    runs: Run,
    recipe: Recipe,
    state: TrainState,
    *,
    device: jax.Device,
    watch: Watch | None = None,
    about: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """By which program it is trained, as names and JSON values; see ``program_digests``.

    Args:
        data: host arrays, as of ``check_data``.
        runs: stacked, as of ``prepare``.
        recipe: the static part.
        state: shapes and dtypes of one run's.
        device: one of those that train.
        watch: see ``train_epochs``.
        about: what a refusal may name, and what refuses nothing by itself, by the words that people
            know it by: options of a command line.
        names: of the runs.
    """
    watched: dict[str, Any] = {}
    if watch is not None:
        monitor = [recipe.monitor] if isinstance(recipe.monitor, str) else list(recipe.monitor)
        keep = "best" if watch.keep_best else "last"
        watched = {"keep": keep, "patience": watch.patience, "monitor": monitor}
    steps = None if runs.steps is None else max(int(np.asarray(runs.steps)[0]), 1)
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), runs)
    digests = program_digests(recipe, first, data, state, device=device, steps=steps, watch=watch)
    return {
        **watched,
        "versions": {
            name: module.__version__
            for name, module in {"JAX": jax, "jaxlib": jaxlib, "Flax": flax, "optax": optax}.items()
        },
        "platform": device.platform,
        PROGRAM: digests,
        ABOUT: {
            "options": dict(about or {}),
            "names": names,
            "recipe": _configuration(recipe, "recipe"),
            "settings": {name: getattr(jax.config, name, None) for name in _SETTINGS},
        },
    }


PROGRAM, RUNS = "program", "runs.sha256"
ABOUT = "about"  # explains a difference, and is none

# Of JAX, which change what a program computes.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_disable_jit",
)


def run_digests(runs: Run) -> list[str]:
    """What each run is: its split, hyperparameters and keys, as 16 hexadecimal digits, [R]."""
    split = runs.split._replace(kind=None)
    keys = _words_of_keys(runs)
    leaves = [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves((split, keys))]
    leaves += [np.ascontiguousarray(leaf) for leaf in jax.tree.leaves(runs.hyperparameters)]
    digests = []
    for run in range(len(runs.key)):
        digest = hashlib.sha256()
        for leaf in leaves:
            digest.update(f"{leaf.dtype}{leaf.shape[1:]}".encode() + leaf[run].tobytes())
        digests.append(digest.hexdigest()[:16])
    return digests


def _words_of_keys(runs: Run) -> list[Any]:
    """Of the runs' keys, and of those for each source of chance where there are any."""
    return [np.asarray(jax.random.key_data(each)) for each in (runs.key, *(runs.keys or ()))]


def digest_of(tree: Any) -> str:
    """The SHA-256 of a tree's host arrays, their dtypes and shapes."""
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, jax.tree.leaves(tree)):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def digest_of_values(described: Any) -> str:
    """The SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their dotted names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): leaf for path, leaf in leaves}


def _row_shapes(tree: Any) -> dict[str, list[Any]]:
    """The dtype and the shape of a row, by the leaf's name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        leaf_name(path) if path else "": [str(leaf.dtype), list(leaf.shape[1:])]
        for path, leaf in leaves
    }


def row_structs(shapes: Mapping[str, Any]) -> Any:
    """One row's shapes and dtypes [1, ...] from what ``describe`` says; nested dicts by name."""

    def one(dtype: str, shape: list[int]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *shape), np.dtype(dtype))

    return unflattened({name: one(*each) for name, each in shapes.items()})


def unflattened(leaves: Mapping[str, Any]) -> Any:
    """Nested dicts from dotted names; a single leaf of the empty name is itself."""
    if list(leaves) == [""]:
        return leaves[""]
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _configuration(value: Any, name: str) -> dict[str, Any]:
    """Fields of dataclasses, by dotted name; functions by their names. For people to read."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described = {name: type(value).__qualname__}
        for field in dataclasses.fields(value):
            if field.name not in ("parent", "name"):  # a Flax module's place, not its configuration
                described |= _configuration(getattr(value, field.name), f"{name}.{field.name}")
        return described
    if isinstance(value, str | int | float | bool | None):
        return {name: value}
    if isinstance(value, Mapping):
        described = {}
        for key, each in value.items():
            described |= _configuration(each, f"{name}.{key}")
        return described
    if isinstance(value, list | tuple):
        return {name: _without_addresses(repr(value))}
    return {name: getattr(value, "__qualname__", type(value).__qualname__)}


def _without_addresses(text: str) -> str:
    return re.sub(" at 0x[0-9a-f]+", "", text)


def require_agreement(described: Mapping[str, Any]) -> None:
    """Raises ProcessesDiffer unless all processes of the job were given the same to train."""
    hashes = ("data.sha256", "splits.sha256", "keys.sha256")
    configuration = {name: value for name, value in described.items() if name not in hashes}
    texts = [*(described[name] for name in hashes), json.dumps(configuration, sort_keys=True)]
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    by_process = gather_values(np.array([list(digest) for digest in digests], np.uint8))
    for i, name in enumerate(("data", "splits", "keys", "configuration")):
        if (by_process[:, i] != by_process[0, i]).any():
            raise ProcessesDiffer(
                f"the processes of the job have different {name}; start all with the same "
                "arguments and data"
            )
