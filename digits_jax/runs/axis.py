"""The runs axis: making runs, filling their number up, bringing them to the host."""

from __future__ import annotations

import operator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from digits_jax.parallel.processes import gather
from digits_jax.splits import Split, check_stacked
from digits_jax.optimizers import Hyperparameters
from digits_jax.train import Run

# Upper limits of hyperparameters that have one; all are 0 or more.
UPPER_LIMITS = {
    "beta_1": 1,
    "beta_2": 1,
    "label_smoothing": 1,
    "dropout_rate": 1,
    "average_decay": 1,
}


def make_runs(
    splits: Split, *, hyperparameters: Hyperparameters | None = None, seed: int = 0
) -> Run:
    """Stacked runs: one for each stacked split.

    Args:
        splits: leading axis R.
        hyperparameters: each number a scalar, for all runs, or an array [R], one for each.
            Default: ``Hyperparameters()``.
        seed: run r draws from ``fold_in(key(seed), r)``, whatever R is.

    Returns:
        A ``Run`` whose leaves are [R, ...].

    Raises:
        TypeError: `splits` is no Split, or `seed` no integer.
        ValueError: the splits are not stacked, a number has another length than R or is out of
            its range, or the seed is not 0 to 2**32 - 1.
    """
    check_stacked(splits)
    runs = len(splits.train_rows)
    if not 0 <= operator.index(seed) < 2**32:
        raise ValueError(f"seed must be 0 to 2**32 - 1, not {seed}")

    def spread(name: str, value: Any) -> Any:
        if value is None:
            return None
        value = np.asarray(value, np.float64)
        if value.shape not in ((), (runs,)):
            raise ValueError(f"{name} must be a number or have shape ({runs},), not {value.shape}")
        if not ((value >= 0) & (value < UPPER_LIMITS.get(name, np.finfo(np.float32).max))).all():
            least = f"at least 0 and below {UPPER_LIMITS[name]}" if name in UPPER_LIMITS else "finite and >= 0"
            raise ValueError(f"{name} must be {least}, not {value}")
        return np.array(np.broadcast_to(value, (runs,)), np.float32)

    if hyperparameters is None:
        hyperparameters = Hyperparameters()
    numbers = {name: spread(name, value) for name, value in hyperparameters._asdict().items()}
    keys = fold_keys(*jax.device_put((np.uint32(seed), np.arange(runs, dtype=np.uint32))))
    return Run(splits, Hyperparameters(**numbers), keys)


@jax.jit
def fold_keys(seed: jax.Array, numbers: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def pad_runs(tree: Any, multiple: int) -> Any:
    """Leaves [R, ...] filled up to a multiple of R with copies of the last run."""
    count = jax.tree.leaves(tree)[0].shape[0]
    missing = -count % multiple
    if not missing:
        return tree
    index = np.minimum(np.arange(count + missing), count - 1)
    padded = jax.tree.map(lambda leaf: take_runs(leaf, index), tree)
    if isinstance(padded, Run):  # a padding run has no rows, so that it trains nothing
        real = (np.arange(count + missing) < count)[:, None]
        split = padded.split
        padded = padded._replace(
            split=split._replace(
                train_weights=np.where(real, split.train_weights, 0).astype(np.float32),
                test_weights=np.where(real, split.test_weights, 0).astype(np.float32),
            )
        )
    return padded


def take_runs(leaf: Any, index: np.ndarray) -> Any:
    """Entries of the runs axis; keys are on a device: they are moved, but not unasked."""
    if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf[index]
    words = jax.device_get(jax.random.key_data(leaf))[index]
    return jax.random.wrap_key_data(jax.device_put(words), impl=jax.random.key_impl(leaf))


def to_host(tree: Any, mesh: Mesh, count: int) -> Any:
    """The first ``count`` runs as NumPy arrays, in each process."""
    return jax.tree.map(lambda leaf: leaf[:count], gather(tree, mesh))
