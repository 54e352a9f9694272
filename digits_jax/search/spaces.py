"""Search spaces: hyperparameters whose leaves are laws; grids and random draws of them.

A space is a pytree as h itself: a leaf is a number (fixed), a list of values, or a law. C
configurations are the same pytree with leaves [C].
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from digits_jax.runs.axis import leaf_name

Space = TypeVar("Space")


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number between ``low`` and ``high``, uniform."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"uniform needs low <= high, not {self.low:g} to {self.high:g}")

    def draw(self, fractions: np.ndarray) -> np.ndarray:
        """Draws [C] from uniform numbers [C] in [0, 1)."""
        return self.low + (self.high - self.low) * fractions


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A positive number whose logarithm is uniform, such as a learning rate."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(
                f"log_uniform needs 0 < low <= high, not {self.low:g} to {self.high:g}"
            )

    def draw(self, fractions: np.ndarray) -> np.ndarray:
        """Draws [C] from uniform numbers [C] in [0, 1)."""
        return np.asarray(self.low * (self.high / self.low) ** fractions)


@dataclasses.dataclass(frozen=True)
class DecayUniform:
    """A decay below 1 whose distance to 1 is log-uniform: 0.9, 0.99, 0.999 are as far apart."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high < 1:
            raise ValueError(f"decay needs low <= high < 1, not {self.low:g} to {self.high:g}")

    def draw(self, fractions: np.ndarray) -> np.ndarray:
        """Draws [C] from uniform numbers [C] in [0, 1)."""
        return 1 - LogUniform(1 - self.high, 1 - self.low).draw(fractions)


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, each equally likely."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("choice needs at least one value")

    def draw(self, fractions: np.ndarray) -> np.ndarray:
        """Draws [C] from uniform numbers [C] in [0, 1)."""
        return np.asarray(np.asarray(self.values)[(fractions * len(self.values)).astype(int)])


def uniform(low: float, high: float) -> Any:
    """A law for a space: uniform between ``low`` and ``high``."""
    return Uniform(low, high)


def log_uniform(low: float, high: float) -> Any:
    """A law for a space: log-uniform between ``low`` and ``high``, both positive."""
    return LogUniform(low, high)


def decay(low: float, high: float) -> Any:
    """A law for a space: 1 minus a log-uniform number, between ``low`` and ``high`` below 1."""
    return DecayUniform(low, high)


def choice(values: Sequence[Any]) -> Any:
    """A law for a space: one of the values."""
    return Choice(tuple(values))


_LAWS = (Uniform, LogUniform, DecayUniform, Choice)


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (list, *_LAWS))


def grid(space: Space) -> Space:
    """Every combination of a space's lists and choices, the last leaf's values running fastest.

    Args:
        space: h whose leaves are numbers (fixed), or lists, 1-D arrays or ``choice(...)`` of
            values.

    Returns:
        The same pytree with leaves [C].

    Raises:
        ValueError: a leaf has no value, or is a law without an end of values.

    Examples:
        >>> import digits_jax as dj
        >>> h = grid(dj.Hyperparameters(learning_rate=[1e-3, 1e-2], dropout_rate=[0.0, 0.25, 0.5]))
        >>> h.dropout_rate.tolist()
        [0.0, 0.25, 0.5, 0.0, 0.25, 0.5]
    """

    def values(path: Any, leaf: Any) -> list[Any]:
        name = leaf_name(path)
        if isinstance(leaf, Choice):
            return list(leaf.values)
        if isinstance(leaf, _LAWS):
            raise ValueError(f"{name} has a law without an end of values; see random_search")
        if np.ndim(leaf) == 0:
            return [leaf]
        if np.ndim(leaf) > 1 or not len(leaf):
            raise ValueError(f"{name} must have at least one value, in a list")
        return list(leaf)

    paths = jax.tree_util.tree_leaves_with_path(space, is_leaf=_is_leaf)
    structure = jax.tree.structure(space, is_leaf=_is_leaf)
    columns = zip(*itertools.product(*(values(*each) for each in paths)), strict=True)
    made: Space = jax.tree.unflatten(structure, [np.asarray(column) for column in columns])
    return made


def random_search(space: Space, count: int, *, seed: int = 0) -> Space:
    """Draws configurations from a space.

    Random search needs fewer trials than a grid where few of the numbers matter: Bergstra and
    Bengio (2012), Random Search for Hyper-Parameter Optimization, JMLR 13:281-305.

    Args:
        space: h whose leaves are numbers (fixed), laws, or lists (one of whose values is drawn).
        count: C.
        seed: 0 or more. A leaf's draws don't depend on the other leaves.

    Returns:
        The same pytree with leaves [C].

    Raises:
        ValueError: the count is below 1, or a list is empty.

    Examples:
        >>> random_search({"rate": log_uniform(0.1, 0.1), "width": 3}, 2)
        {'rate': array([0.1, 0.1]), 'width': array([3, 3])}
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")

    def one(path: Any, leaf: Any) -> np.ndarray:
        law = Choice(tuple(leaf)) if isinstance(leaf, list) else leaf
        if not isinstance(law, _LAWS):
            return np.full(count, law)
        stream = np.random.default_rng([seed, zlib.crc32(leaf_name(path).encode())])
        return law.draw(stream.uniform(size=count))

    made: Space = jax.tree_util.tree_map_with_path(one, space, is_leaf=_is_leaf)
    return made
