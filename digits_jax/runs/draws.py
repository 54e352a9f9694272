"""Which draw of each source of chance a run takes, and designs that cross them.

Shapes: R runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from digits_jax.structures import Keys


@jax.jit
def fold_keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    """``fold_in(key(seed), n)`` of numbers n, uint32 [R]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def keys_of_draws(draws: Mapping[str, Any], own: jax.Array, seed: int) -> Keys:
    """The keys [R] of each source, by the number of its draw; else the runs' own."""
    runs = len(own)
    unknown = set(draws) - set(Keys._fields)
    if unknown:
        raise ValueError(
            f"draws: there is no source {sorted(unknown)[0]!r}; there are {', '.join(Keys._fields)}"
        )

    def one(name: str) -> jax.Array:
        if name not in draws:
            return own
        numbers = np.asarray(draws[name])
        if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (runs,)):
            raise ValueError(
                f"draws[{name!r}] must be integers [{runs}], one for each run, or one for all; got "
                f"{numbers.dtype} {list(numbers.shape)}"
            )
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < 2**32:
            raise ValueError(f"draws[{name!r}] must be 0 to 2**32 - 1")
        each = np.broadcast_to(numbers, runs).astype(np.uint32)
        keys: jax.Array = fold_keys(*jax.device_put((np.uint32(seed), each)))
        return keys

    return Keys(*map(one, Keys._fields))


def crossed(**levels: int) -> dict[str, np.ndarray]:
    """The level of each factor in each run of a full crossed design: every level with every other.

    Args:
        levels: how many levels each factor has, at least 1.

    Returns:
        int32 [R] by name, R the product of all numbers; the last factor varies fastest, so that
        scores [R] reshape to the numbers of levels.

    Raises:
        ValueError: there is no factor, or one without levels.

    Examples:
        Three splits, each with two initial weights, whose orders are all the same:

        >>> design = crossed(split=3, weights=2)
        >>> design["split"].tolist(), design["weights"].tolist()
        ([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1])
        >>> from digits_jax import holdout_split, make_runs, stack_splits
        >>> splits = [holdout_split([0, 1] * 9, test_size=0.5, seed=s) for s in design["split"]]
        >>> draws = {"weights": design["weights"], "order": 0, "dropout": 0, "augment": 0}
        >>> make_runs(stack_splits(*splits), draws=draws).keys.weights.shape
        (6,)
    """
    if not levels or min(levels.values()) < 1:
        raise ValueError(f"a design needs factors of at least one level, got {levels}")
    indices = np.indices(tuple(levels.values())).reshape(len(levels), -1)
    return {name: each.astype(np.int32) for name, each in zip(levels, indices, strict=True)}
