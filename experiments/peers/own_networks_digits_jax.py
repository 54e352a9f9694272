"""The networks of ``own_networks_flax.py``, unchanged, trained by this project on all devices.

Variants: a network's name, and perhaps ``none`` for ``Recipe(lowering="none")``.
"""

from __future__ import annotations

import numpy as np
import optax
import protocol
from digits_jax_folds import PACKAGES, train_all
from own_networks_flax import NETWORKS

from digits_jax import Recipe, use_all_cpu_cores


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the runs through the same function that everybody calls."""
    use_all_cpu_cores()
    name, *lowering = variant.split()
    recipe = Recipe(
        network=NETWORKS[name](),
        optimizer=lambda h: optax.adam(h["learning_rate"], *protocol.BETAS, eps=protocol.EPSILON),
        batch_size=protocol.BATCH_SIZE,
        remainder="dropped",  # each run has full batches only, so nothing is
        lowering="none" if lowering else "auto",
    )
    images = task.images.astype(np.float32) / 255
    train_all(task, clock, images, {"learning_rate": protocol.LEARNING_RATE}, recipe=recipe)


if __name__ == "__main__":
    protocol.run_peer(train, packages=PACKAGES)
