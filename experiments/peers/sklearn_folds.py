"""scikit-learn's multilayer perceptron, fold after fold: no convolutions, for scale."""

from __future__ import annotations

import numpy as np
import protocol
from sklearn.neural_network import MLPClassifier


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the folds one by one, an epoch a call."""
    images = task.images.reshape(len(task.images), -1).astype(np.float32) / 16
    for seed, rows in enumerate(task.folds()):
        clock.fold()
        network = MLPClassifier(
            (128, 512),  # the notebook's dense layers
            batch_size=protocol.BATCH_SIZE,
            learning_rate_init=protocol.LEARNING_RATE,
            epsilon=protocol.EPSILON,
            random_state=seed,
        )
        x, y = images[rows], task.labels[rows]
        for _ in range(task.epochs):
            network.partial_fit(x, y, classes=np.arange(10))
            clock.epoch(network.score(x, y))
        weights = (*network.coefs_, *network.intercepts_)
        clock.parameters(sum(each.size for each in weights))


if __name__ == "__main__":
    protocol.run_peer(train, packages=("scikit-learn",))
