"""What identifies a training: configuration, data, splits and keys, as names and JSON values."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from digits_jax.parallel.processes import ProcessesDiffer, gather_values
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import leaf_name
from digits_jax.structures import Data, Run


def describe(data: Data, runs: Run, recipe: Recipe) -> dict[str, Any]:
    """What is trained on what, as flat names and JSON values: the identity of its checkpoints.

    Args:
        data: host arrays, as of ``check_data``.
        runs: stacked.
        recipe: the static part.
    """
    described = {f"recipe.{name}": value for name, value in flatten_configuration(recipe).items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(runs.hyperparameters):
        described[f"hyperparameters.{leaf_name(path)}"] = np.asarray(leaf).tolist()
    described["inputs"] = _row_shapes(data.inputs)
    described["targets"] = _row_shapes(data.targets)
    keys = np.asarray(jax.random.key_data(runs.key))
    splits = runs.split._replace(kind=None)
    for name, tree in {"data": data, "splits": splits, "keys": keys}.items():
        described[f"{name}.sha256"] = digest_of(tree)
    return described


def digest_of(tree: Any) -> str:
    """The SHA-256 of a tree's host arrays, their dtypes and shapes."""
    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, jax.tree.leaves(tree)):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


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


def flatten_configuration(value: Any, name: str = "") -> dict[str, Any]:
    """Fields of dataclasses, by dotted name; functions by where they are defined."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described = {name or "type": type(value).__qualname__}
        for field in dataclasses.fields(value):
            if field.name not in ("parent", "name"):  # a Flax module's place, not its configuration
                inner = f"{name}.{field.name}" if name else field.name
                described |= flatten_configuration(getattr(value, field.name), inner)
        return described
    if isinstance(value, str | int | float | bool | None):
        return {name: value}
    if isinstance(value, Mapping):
        described = {}
        for key, each in value.items():
            described |= flatten_configuration(each, f"{name}.{key}")
        return described
    return {name: _text(value)}


def _text(value: Any, within: tuple[int, ...] = ()) -> str:
    """A value in words that are the same in every process: no address in memory.

    A function is identified by where it is defined, its closure and its bound arguments.
    """
    if id(value) in within:  # a function that calls itself
        return "..."
    text = functools.partial(_text, within=(*within, id(value)))

    def named(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{name}={text(each)}" for name, each in values.items())

    if isinstance(value, functools.partial):
        bound = ", ".join([*map(text, value.args), named(value.keywords)])
        return f"{text(value.func)}({bound})"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(text, value))})"
    if isinstance(value, np.ndarray | jax.Array) and isinstance(value.dtype, np.dtype):
        return f"{value.dtype}{list(value.shape)} {hashlib.sha256(bytes(value)).hexdigest()}"
    if callable(value) and hasattr(value, "__qualname__"):
        inner = inspect.getclosurevars(value).nonlocals if inspect.isfunction(value) else {}
        return f"{value.__module__}.{value.__qualname__}" + (f"[{named(inner)}]" if inner else "")
    if callable(value):
        return f"{type(value).__qualname__}({named(getattr(value, '__dict__', {}))})"
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


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
