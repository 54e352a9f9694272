"""pytabkit's RealMLP, its five folds in one vectorised program: no convolutions, for scale."""

from __future__ import annotations

import time

import numpy as np
import protocol
from pytabkit import RealMLP_TD_Classifier


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Fits five folds of its own, as large as the task's, for fewer and for more epochs.

    The difference is that of the epochs: what a fit takes beside them is in both, and what the
    process's first one takes, in one before.
    """
    images = task.images.reshape(len(task.images), -1).astype(np.float32) / 16
    seconds = []
    for epochs in (1, task.warm_up, task.epochs):
        network = RealMLP_TD_Classifier(
            device="cpu",
            n_cv=len(task.train_rows),
            n_epochs=epochs,
            n_threads=protocol.cores(),
            hidden_sizes=[128, 512],  # the notebook's dense layers
            batch_size=protocol.BATCH_SIZE,
            random_state=0,
        )
        started = time.perf_counter()
        network.fit(images, task.labels)
        seconds.append(time.perf_counter() - started)
    each = (seconds[2] - seconds[1]) / (task.epochs - task.warm_up)
    clock.fold()
    clock.spent(
        [seconds[0]] + [each] * (task.epochs - 1),
        network.score(images, task.labels),
    )


if __name__ == "__main__":
    protocol.run_peer(train, packages=("pytabkit", "torch"))
