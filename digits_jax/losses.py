"""Losses: one value a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from digits_jax.optimizers import Hyperparameters


def cross_entropy(
    logits: jax.Array, labels: jax.Array, hyperparameters: Hyperparameters | None
) -> jax.Array:
    """Categorical cross-entropy of each row, from logits, in nats.

    Args:
        logits: float32 [B, K].
        labels: int32 [B], 0 to K - 1.
        hyperparameters: gives the label smoothing of training; None (evaluation) smooths nothing.

    Returns:
        float32 [B].

    Raises:
        TypeError: `labels` are not integers.
        ValueError: the shapes don't fit.
    """
    if jnp.ndim(logits) != 2 or jnp.shape(labels) != jnp.shape(logits)[:1]:
        raise ValueError(
            f"logits must be [B, K] and labels [B], not {jnp.shape(logits)} and {jnp.shape(labels)}"
        )
    check_labels(labels)
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if hyperparameters is not None:
        targets = optax.smooth_labels(targets, hyperparameters.label_smoothing)
    losses: jax.Array = optax.softmax_cross_entropy(logits, targets)
    return losses


def check_labels(labels: ArrayLike) -> None:
    """Raises TypeError unless the labels are integers."""
    if not jnp.issubdtype(jnp.asarray(labels).dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {jnp.asarray(labels).dtype}")
