"""This project: all folds in one program. Variants: ``1`` (one device) and ``all``."""

from __future__ import annotations

import jax
import numpy as np
import optax
import protocol

from digits_jax import Progress, Split, cross_validate, make_runs, use_all_cpu_cores


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the folds through the same function that everybody calls."""
    if variant == "all":
        use_all_cpu_cores()
    splits = Split(task.train_rows, task.train_weights, task.test_rows, task.test_weights)
    clock.fold()
    result = cross_validate(
        (task.images, task.labels),
        make_runs(splits),
        epochs=task.epochs,
        devices=jax.devices() if variant == "all" else jax.devices()[:1],
        on_epoch=lambda progress: _tell(clock, progress),
    )
    clock.parameters(sum(np.size(leaf[0]) for leaf in jax.tree.leaves(result.states.params)))
    steps = optax.tree_utils.tree_get(result.states.opt_state, "count")
    clock.note(steps=int(steps[0]))


def _tell(clock: protocol.Clock, progress: Progress) -> None:
    clock.epoch(float(np.mean(progress.history["accuracy"][:, -1])))


if __name__ == "__main__":
    protocol.run_peer(train, packages=("digits_jax", "jax", "jaxlib", "flax", "optax"))
