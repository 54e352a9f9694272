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
from digits_jax.train import Examples, Run


def describe(data: Examples, runs: Run, recipe: Recipe) -> dict[str, Any]:
    """What is trained on what, as flat names and JSON values: the identity of its checkpoints."""
    described = {f"recipe.{name}": value for name, value in flatten_configuration(recipe).items()}
    for name, value in runs.hyperparameters._asdict().items():
        described[f"hyperparameters.{name}"] = None if value is None else np.asarray(value).tolist()
    described["image_shape"] = list(np.shape(data.images)[1:])
    described["image_dtype"] = str(np.asarray(data.images).dtype)
    keys = np.asarray(jax.random.key_data(runs.key))
    for name, arrays in {"data": data, "splits": runs.split, "keys": [keys]}.items():
        digest = hashlib.sha256()
        for array in map(np.ascontiguousarray, arrays):
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        described[f"{name}.sha256"] = digest.hexdigest()
    return described


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
    return {name: _text(value)}


def _text(value: Any, within: tuple[int, ...] = ()) -> str:
    """A value in words that every process finds for an equal one: no address in memory.

    A function is told by where it is defined, and by what it is bound to or has closed over.
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
    told = gather_values(np.array([list(digest) for digest in digests], np.uint8))
    for i, name in enumerate(("data", "splits", "keys", "configuration")):
        if (told[:, i] != told[0, i]).any():
            raise ProcessesDiffer(
                f"the processes of the job have different {name}; start all with the same "
                "arguments and data"
            )
