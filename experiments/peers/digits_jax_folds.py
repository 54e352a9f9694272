"""This project: all folds in one program. Variants: ``1`` (one device) and ``all``."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import protocol

from digits_jax import Progress, Split, cross_validate, make_runs, use_all_cpu_cores

PACKAGES = ("digits_jax", "jax", "jaxlib", "flax", "optax")


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the folds through the same function that everybody calls."""
    if variant == "all":
        use_all_cpu_cores()
    devices = jax.devices() if variant == "all" else jax.devices()[:1]
    train_all(task, clock, task.images, devices=devices)


def train_all(
    task: protocol.Task, clock: protocol.Clock, images: Any, h: Any = None, **options: Any
) -> None:
    """Trains all runs; ``options`` are of ``cross_validate``."""

    def on_epoch(progress: Progress) -> None:
        clock.epoch(float(np.mean(progress.history["accuracy"][:, -1])))

    splits = Split(task.train_rows, task.train_weights, task.test_rows, task.test_weights)
    clock.fold()
    result = cross_validate(
        (images, task.labels),
        make_runs(splits, h),
        epochs=task.epochs,
        on_epoch=on_epoch,
        **options,
    )
    clock.parameters(sum(np.size(leaf[0]) for leaf in jax.tree.leaves(result.states.params)))
    steps = optax.tree_utils.tree_get(result.states.opt_state, "count")
    clock.note(compile_seconds=result.seconds["compile"], steps=int(steps[0]))


if __name__ == "__main__":
    protocol.run_peer(train, packages=PACKAGES)
