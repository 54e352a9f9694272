"""The networks of ``own_networks_flax.py``, unchanged, trained by this project on all devices.

Variants: a network's name, and perhaps ``none`` for ``Recipe(lowering="none")``.
"""

from __future__ import annotations

import jax
import numpy as np
import optax
import protocol
from own_networks_flax import NETWORKS

from digits_jax import Progress, Recipe, Split, cross_validate, make_runs, use_all_cpu_cores


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
    splits = Split(task.train_rows, task.train_weights, task.test_rows, task.test_weights)
    clock.fold()
    result = cross_validate(
        (task.images.astype(np.float32) / 255, task.labels),
        make_runs(splits, {"learning_rate": protocol.LEARNING_RATE}),
        recipe=recipe,
        epochs=task.epochs,
        on_epoch=lambda progress: _tell(clock, progress),
    )
    clock.parameters(sum(np.size(leaf[0]) for leaf in jax.tree.leaves(result.states.params)))
    steps = optax.tree_utils.tree_get(result.states.opt_state, "count")
    clock.note(compile_seconds=result.seconds["compile"], steps=int(steps[0]))


def _tell(clock: protocol.Clock, progress: Progress) -> None:
    clock.epoch(float(np.mean(progress.history["accuracy"][:, -1])))


if __name__ == "__main__":
    protocol.run_peer(train, packages=("digits_jax", "jax", "jaxlib", "flax", "optax"))
