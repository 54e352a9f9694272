"""What one run consists of: a data set, batches, a run, its state, what a step sums.

Shapes: N rows of the data set, B rows of a batch. Inputs, targets and outputs are arrays or pytrees
of arrays with these as their leading axis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from digits_jax.splits import Split

Params = Any  # a pytree of arrays


class Data(NamedTuple):
    """A data set, which all runs of a program share.

    Attributes:
        inputs: [N, ...], an array or a pytree of arrays.
        targets: [N] or [N, ...], an array or a pytree of arrays.
        weights: float32 [N], or None: 1 for each row.
    """

    inputs: Any
    targets: Any
    weights: Any = None


class Batch(NamedTuple):
    """The rows of one step. Rows of weight 0 are padding, and change nothing.

    Attributes:
        inputs: [B, ...].
        targets: [B] or [B, ...].
        weights: float32 [B].
    """

    inputs: Any
    targets: Any
    weights: jax.Array


class Sums(NamedTuple):
    """What a step or an evaluation summed over rows, to be divided once at the end.

    Attributes:
        totals: float32 scalars by name, "loss" and the recipe's metrics: sums of weight * value.
        weight: float32 scalar, the sum of the weights.
    """

    totals: dict[str, jax.Array]
    weight: jax.Array

    def means(self) -> dict[str, jax.Array]:
        """Weighted means by name; 0 where there is no weight."""
        weight = jnp.where(self.weight > 0, self.weight, 1)
        return {name: total / weight for name, total in self.totals.items()}


class TrainState(NamedTuple):
    """All that training changes. It carries no random key: see ``epoch_keys``.

    Attributes:
        params: the network's parameters, a pytree of arrays.
        collections: what else a forward pass in training changes, e.g. batch_stats; {} for none.
        opt_state: optax's, a pytree of arrays.
        step: int32 scalar, optimizer steps taken.
        epoch: int32 scalar, epochs trained.
        average: averaged params and collections; {} without ``Recipe.average``.
        initial_loss: float32 scalar, the training loss of the first batch of all, before any step.
        best: the best epoch so far; () unless training watches for it.
    """

    params: Params
    collections: Any
    opt_state: optax.OptState
    step: jax.Array
    epoch: jax.Array
    average: Any = {}
    initial_loss: Any = ()
    best: Any = ()


class Best(NamedTuple):
    """The best epoch of a run so far, by the recipe's monitor on the validation rows.

    Attributes:
        value: float32 scalar, of the monitor; smaller is better (the sign of a "max" is turned).
        epoch: int32 scalar, from 1.
        weights: params, collections and average of that epoch; {} unless they are kept.
    """

    value: jax.Array
    epoch: jax.Array
    weights: dict[str, Any]


class Keys(NamedTuple):
    """Typed PRNG keys of a run, one for each source of chance; see ``make_runs(draws=)``.

    Attributes:
        weights: of the initial weights.
        order: of the rows in each epoch.
        dropout: of what a network draws in training.
        augment: of the augmentation.
    """

    weights: jax.Array
    order: jax.Array
    dropout: jax.Array
    augment: jax.Array


class Run(NamedTuple):
    """One training run; stacked on a leading axis R to make many.

    Attributes:
        split: the rows that train, validate and test.
        hyperparameters: any pytree of numbers, h.
        key: typed PRNG key: initial weights, shuffles, dropout, augmentation.
        steps: int32 scalar, optimizer steps of the whole training, for an optimizer that asks for
            them; None where it does not.
        member: int32 scalar, which of the networks that vote together; None: none do.
        keys: a key for each source of chance, instead of ``key`` for all; None: ``key``.
    """

    split: Split
    hyperparameters: Any
    key: jax.Array
    steps: Any = None
    member: Any = None
    keys: Keys | None = None

    def sources(self) -> Keys:
        """The key of each source of chance: its own, or the run's."""
        return Keys(self.key, self.key, self.key, self.key) if self.keys is None else self.keys


def check_batch(batch: Batch) -> None:
    """What is wrong with shapes; values may be traced."""
    leaves = jax.tree.leaves((batch.inputs, batch.targets))
    shapes = [jnp.shape(leaf) for leaf in leaves]
    rows = jnp.shape(batch.weights)
    if len(rows) != 1 or any(shape[:1] != rows for shape in shapes):
        raise ValueError(
            "a batch must be inputs [B, ...], targets [B, ...] and weights [B]; the shapes are "
            f"{', '.join(str(list(shape)) for shape in shapes)} and {list(rows)}"
        )


def check_run(run: Run) -> None:
    """Raises ValueError if the run is stacked."""
    for name in ("train_rows", "train_weights", "test_rows", "test_weights"):
        shape = jnp.shape(getattr(run.split, name))
        if len(shape) != 1:
            raise ValueError(
                f"one run's split has {name} [rows], not {list(shape)}; take one of stacked runs "
                "with take_run(runs, i)"
            )


def in_batches(rows: jax.Array, weights: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Rows and weights cut into batches; the last is filled up with its last row at weight 0.

    A size above the number of rows gives one batch of all rows, and no padding to that size.
    """
    size = max(1, min(size, rows.shape[0]))
    missing = -rows.shape[0] % size
    shape = (-(-rows.shape[0] // size), size)
    rows = jnp.pad(rows, (0, missing), mode="edge").reshape(shape)
    return rows, jnp.pad(weights, (0, missing)).reshape(shape)


def gather(data: Data, rows: jax.Array, weights: jax.Array) -> Batch:
    """The rows [B] of a data set as a batch; the data's own weights multiply ``weights``."""
    inputs, targets = jax.tree.map(lambda x: jnp.asarray(x)[rows], (data.inputs, data.targets))
    if data.weights is not None:
        weights = weights * jnp.asarray(data.weights)[rows]
    return Batch(inputs, targets, weights)


def without_absent(batch: Batch) -> Batch:
    """The batch with zeros in rows of weight 0: what these hold, even a NaN, does not count."""

    def zeroed(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        present = (batch.weights > 0).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(present, leaf, jnp.zeros((), leaf.dtype))

    inputs, targets = jax.tree.map(zeroed, (batch.inputs, batch.targets))
    return batch._replace(inputs=inputs, targets=targets)
