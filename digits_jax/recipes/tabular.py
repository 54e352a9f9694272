"""A small network for tables, where a user names none: what the estimators train by default."""

from __future__ import annotations

import flax.linen as nn
import jax

from digits_jax.losses import cross_entropy, squared_error
from digits_jax.recipe import Recipe

BATCH_SIZE = 32


class MLP(nn.Module):
    """Flattened inputs, one hidden layer of rectified linear units.

    Attributes:
        outputs: numbers of each row; None: one, and the outputs are [B].
        hidden: units.
    """

    outputs: int | None
    hidden: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Numbers [B, ...] give float [B, outputs], or [B]."""
        x = nn.relu(nn.Dense(self.hidden)(x.reshape(len(x), -1)))
        outputs: jax.Array = nn.Dense(1 if self.outputs is None else self.outputs)(x)
        return outputs[:, 0] if self.outputs is None else outputs


def for_classes(classes: int) -> Recipe:
    """A recipe for integers 0 to ``classes`` - 1. Its hyperparameters: ``Hyperparameters``."""
    return Recipe(network=MLP(classes), loss=cross_entropy, batch_size=BATCH_SIZE)


def for_numbers(outputs: int | None) -> Recipe:
    """A recipe for targets [N, outputs], or [N]. Its hyperparameters: ``Hyperparameters``."""
    return Recipe(network=MLP(outputs), loss=squared_error, batch_size=BATCH_SIZE)
