"""Losses and metrics: one value a row.

Shapes: B rows of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike


def cross_entropy(outputs: jax.Array, targets: ArrayLike, h: Any = None) -> jax.Array:
    """Categorical cross-entropy of each row, from logits, in nats.

    Args:
        outputs: logits, float [B, K], K at least 2.
        targets: integers [B], 0 to K - 1; or probabilities of the classes, float [B, K].
        h: hyperparameters. If they have a ``label_smoothing`` (an attribute or a key), that
            fraction of each target is spread over all classes. None (evaluation) smooths nothing.

    Returns:
        float [B].

    Raises:
        TypeError: the targets are neither integers nor floats.
        ValueError: the shapes don't fit, or an integer has no logit (checked where values are
            known, that is outside of ``jit``).
    """
    probabilities = _class_probabilities(outputs, targets)
    smoothing = h.get("label_smoothing") if isinstance(h, Mapping) else None
    smoothing = getattr(h, "label_smoothing", smoothing)
    if smoothing is not None:
        probabilities = optax.smooth_labels(probabilities, smoothing)
    losses: jax.Array = optax.softmax_cross_entropy(outputs, probabilities)
    return losses


def accuracy(outputs: jax.Array, targets: ArrayLike) -> jax.Array:
    """1.0 for each row whose largest logit is its target's, else 0.0.

    Args:
        outputs: logits, float [B, K], K at least 2.
        targets: integers [B], or probabilities [B, K], of which the largest counts.

    Returns:
        float32 [B].

    Raises:
        TypeError: as ``cross_entropy``.
        ValueError: as ``cross_entropy``.
    """
    check_class_targets(outputs, targets)
    labels = jnp.asarray(targets)
    if labels.ndim == 2:
        labels = jnp.argmax(labels, axis=-1)
    return (jnp.argmax(outputs, axis=-1) == labels).astype(jnp.float32)


def squared_error(outputs: jax.Array, targets: ArrayLike, h: Any = None) -> jax.Array:
    """The squared error of each row, the mean over its numbers where it has several.

    Args:
        outputs: float [B, ...].
        targets: numbers [B, ...], of the outputs' shape.
        h: hyperparameters; none is read.

    Returns:
        float [B].

    Raises:
        ValueError: the shapes differ.
    """
    del h
    targets = jnp.asarray(targets)
    if outputs.shape != targets.shape:
        raise ValueError(
            f"squared_error needs outputs and targets of one shape, not {list(outputs.shape)} and "
            f"{list(targets.shape)}"
        )
    errors: jax.Array = jnp.square(outputs - targets)
    return jnp.mean(errors.reshape(len(errors), -1), axis=1)


def check_class_targets(outputs: Any, targets: Any) -> None:
    """Checks targets of classes against logits.

    Args:
        outputs: anything with a shape, [B, K].
        targets: an array [B] or [B, K]; values are checked unless they are traced.

    Raises:
        TypeError: the targets are neither integers nor floats.
        ValueError: the shapes don't fit, or an integer has no logit.
    """
    shape, given = tuple(np.shape(outputs)), tuple(np.shape(targets))
    dtype = targets.dtype if hasattr(targets, "dtype") else np.asarray(targets).dtype
    floats = jnp.issubdtype(dtype, jnp.floating)
    numbers = "; for numbers give loss=dj.squared_error" if floats else ""
    if len(shape) != 2 or given not in ((shape[0],), shape):
        raise ValueError(
            "class targets need logits [B, K] and integers [B] or probabilities [B, K], "
            f"not outputs {list(shape)} and targets {list(given)}{numbers}"
        )
    if shape[1] < 2:
        raise ValueError(
            "the network gives one logit, and class scores need one for each class; "
            "give it two outputs, or take a loss for one (sigmoid cross-entropy, squared error)"
        )
    if len(given) == 2:
        if not floats:
            raise TypeError(f"targets [B, K] must be probabilities (floats), not {dtype}")
        return
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"targets [B] must be integers 0 to {shape[1] - 1}, not {dtype}; give probabilities as "
            f"[B, K]{numbers}"
        )
    if isinstance(targets, jax.core.Tracer) or not given[0]:
        return
    labels = np.asarray(targets)
    if not 0 <= labels.min() <= labels.max() < shape[1]:
        raise ValueError(
            f"labels {labels.min()} to {labels.max()}, but the network gives {shape[1]} logits, "
            f"for the labels 0 to {shape[1] - 1}"
        )


def _class_probabilities(outputs: jax.Array, targets: ArrayLike) -> jax.Array:
    """Targets as probabilities [B, K] of the logits' dtype."""
    check_class_targets(outputs, targets)
    targets = jnp.asarray(targets)
    if targets.ndim == 2:
        return targets.astype(outputs.dtype)
    return jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
