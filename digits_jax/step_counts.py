"""Which batches of an epoch are steps of the optimizer, and how many there are."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from digits_jax.networks import Callee
from digits_jax.recipe import Recipe
from digits_jax.splits import Split


def fewest_rows(recipe: Recipe, network: Callee, collections: Any, size: int) -> int:
    """Rows that a batch of ``size`` must have to be a step.

    One, if padding is masked. A sixteenth of the batch, and two, if there are batch statistics:
    those of one row would spoil the running ones. All of them if remainders are dropped: because
    the recipe says so, or because the network has batch statistics and takes no mask, so that it
    would see the padding.
    """
    if recipe.remainder == "dropped" or drops_remainder(network, collections):
        return size
    return min(size, max(2, -(-size // 16))) if jax.tree.leaves(collections) else 1


def drops_remainder(network: Callee, collections: Any) -> bool:
    """True if the network would see padding: it has collections and takes no mask."""
    return bool(jax.tree.leaves(collections)) and not network.takes_mask


def steps_in_all(split: Split, *, recipe: Recipe, network: Callee, collections: Any) -> bool:
    """Whether every batch of an epoch is a step in each of some runs; see ``train_epoch``.

    Args:
        split: stacked, [R, T].
        recipe: the static part.
        network: the recipe's.
        collections: of a state; see ``fewest_rows``.
    """
    padded = split.train_rows.shape[1]
    size = max(1, min(recipe.batch_size, padded))
    fewest = fewest_rows(recipe, network, collections, size)
    rows = (np.asarray(split.train_weights) > 0).sum(axis=1)
    steps = steps_per_epoch(rows, size, fewest)
    return bool((rows > 0).all() and (steps == -(-padded // size)).all())


def steps_per_epoch(rows: ArrayLike, size: int, fewest: int) -> np.ndarray:
    """Optimizer steps of an epoch, int64 [...], for numbers of training rows [...].

    Args:
        rows: real training rows.
        size: rows of a batch.
        fewest: rows that a batch must have; see ``fewest_rows``.
    """
    full, rest = np.divmod(np.asarray(rows, np.int64), size)
    is_step = (rest > 0) & (rest >= np.minimum(fewest, np.asarray(rows)))
    return np.asarray(full + is_step)
