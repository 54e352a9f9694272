"""Keras towards ``speedrun.py``'s goal. Variants: ``recipe``, the script's own, and ``notebook``.

``recipe`` has the same network, batches, one-cycle Adam, label smoothing and folds. ``notebook`` is
the notebook's protocol, whose folds are scored after each epoch: how many does it need?
"""

from __future__ import annotations

import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

import goal
import keras
import numpy as np
import protocol
from keras.layers import Conv2D, Dense, Flatten, MaxPooling2D
from keras_folds import compiled, create_cnn_model


def make_network() -> Any:
    """[B, 8, 8, 1], scaled to 0..1, to probabilities [B, 10]."""
    layers: list[Any] = [keras.Input((8, 8, 1))]
    for filters in (16, 32, 64):
        layers += [Conv2D(filters, 3, activation="relu", padding="same"), MaxPooling2D()]
    return keras.Sequential([*layers, Flatten(), Dense(10, activation="softmax")])


class OneCycle(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """From a tenth of the peak to the peak in 30 % of the steps, then to a thousandth; cosines."""

    def __init__(self, peak: float, steps: int) -> None:
        self.peak, self.steps = peak, steps

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step."""
        ops, first = keras.ops, 0.3 * self.steps
        step = ops.cast(step, "float32")

        def cosine(start: float, end: float, share: Any) -> Any:
            return end + (start - end) * (1 + ops.cos(math.pi * share)) / 2

        up = cosine(self.peak / 10, self.peak, step / first)
        down = cosine(self.peak, self.peak / 1000, (step - first) / (self.steps - first))
        return ops.where(step < first, up, down)


def cross_validate(task: goal.Task, seed: int) -> list[float]:
    """The test accuracy of each fold of a repeat, trained one by one."""
    images, one_hot = task.images[..., None], np.eye(10, dtype=np.float32)[task.labels]
    accuracies = []
    for fold in range(task.folds):
        keras.utils.set_random_seed(1000 * seed + fold)
        rows, test = task.fold(seed, fold)
        steps = task.epochs * -(-len(rows) // task.batch_size)
        model = make_network()
        loss = keras.losses.CategoricalCrossentropy(label_smoothing=task.label_smoothing)
        adam = keras.optimizers.Adam(OneCycle(task.learning_rate, steps), epsilon=protocol.EPSILON)
        model.compile(optimizer=adam, loss=loss)
        model.fit(
            images[rows], one_hot[rows], epochs=task.epochs, batch_size=task.batch_size, verbose=0
        )
        answers = model.predict(images[test], batch_size=1024, verbose=0).argmax(1)
        accuracies.append(float((answers == task.labels[test]).mean()))
    return accuracies


class Scored(keras.callbacks.Callback):  # type: ignore[misc]
    """After each epoch the accuracy on rows that test; the seconds are of the training alone."""

    def __init__(self, images: Any, labels: Any) -> None:
        super().__init__()
        self.accuracies: list[float] = []
        self.seconds: list[float] = []
        self._images, self._labels, self._began = images, labels, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The epoch's clock starts."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """The clock stops, and the rows are scored."""
        self.seconds.append(time.perf_counter() - self._began)
        answers = np.asarray(self.model(self._images, training=False)).argmax(1)
        self.accuracies.append(float((answers == self._labels).mean()))


def notebook_to_goal(task: goal.Task) -> dict[str, Any]:
    """Accuracies and training seconds of each epoch of the notebook's protocol, [folds, epochs]."""
    images, one_hot = 16 * task.images[..., None], np.eye(10, dtype=np.float32)[task.labels]
    scored = []
    for fold in range(task.folds):
        keras.utils.set_random_seed(fold)
        rows, test = task.fold(0, fold)
        model = compiled(create_cnn_model, "categorical_crossentropy")
        scored.append(Scored(images[test], task.labels[test]))
        model.fit(
            images[rows],
            one_hot[rows],
            epochs=goal.NOTEBOOK_EPOCHS,
            batch_size=protocol.BATCH_SIZE,
            verbose=0,
            callbacks=[scored[-1]],
        )
    return {
        "accuracies": [each.accuracies for each in scored],
        "seconds": [each.seconds for each in scored],
    }


def main(path: Path) -> dict[str, Any]:
    """Trains what the variant says."""
    task = goal.read(path)
    if "notebook" in sys.argv:
        return notebook_to_goal(task)
    return goal.timed(task, functools.partial(cross_validate, task))


if __name__ == "__main__":
    protocol.run_task(main, packages=("keras", "tensorflow"))
