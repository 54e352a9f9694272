"""The most accurate recipe here: two stages of normalised convolutions on jittered images.

It was chosen on rows 0 to 3822 alone: how, is in ``docs/results.md``.

The forward pass takes 2.4 MFLOP for a view, five times the notebook's, and so 12 for an image.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from digits_jax.augment import Jitter, ShiftedViews
from digits_jax.model import DigitsCNN
from digits_jax.optimizers import Hyperparameters, OneCycleAdam
from digits_jax.recipe import Recipe

EPOCHS = 40
BATCH_SIZE = 64


def strong(*, batch_size: int = BATCH_SIZE) -> tuple[Recipe, Hyperparameters]:
    """The recipe and its hyperparameters."""
    recipe = Recipe(
        network=DigitsCNN(
            conv_features=((16, 32), (64, 64)),
            batch_norm=True,
            dense_features=(),
            conv_activation=nn.gelu,
            dropout_rate=0.0,
            pixel_scale=1 / 16,
        ),
        optimizer=OneCycleAdam(),
        augment=Jitter(rotation=10.0, scale=0.1, shift=0.7, elastic=0.4, ink=0.4),
        views=ShiftedViews(distance=0.3),
        average=average_decay,
        batch_size=batch_size,
    )
    hyperparameters = Hyperparameters(
        learning_rate=1e-2, weight_decay=0.2, label_smoothing=0.15, average_decay=0.99
    )
    return recipe, hyperparameters


def average_decay(h: Hyperparameters) -> Any:
    """The decay of the averaged weights, a step."""
    return h.average_decay
