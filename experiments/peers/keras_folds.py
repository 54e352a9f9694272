"""The notebook's Keras code, on the backend that KERAS_BACKEND names.

Kept as it is: a new model for each fold, ``fit`` with its defaults. Its Adam has Keras's epsilon,
1e-7.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import protocol
from keras.callbacks import LambdaCallback
from keras.layers import Conv2D, Dense, Dropout, Flatten, MaxPooling2D
from keras.models import Sequential
from keras.optimizers import Adam


def create_cnn_model() -> Any:
    """The notebook's function of this name."""
    model = Sequential()
    model.add(keras.Input((8, 8, 1)))
    for filters in (16, 32, 64):
        model.add(Conv2D(filters, kernel_size=(3, 3), activation="relu", padding="same"))
        model.add(MaxPooling2D(pool_size=(2, 2), strides=2, padding="valid"))
        model.add(Dropout(protocol.DROPOUT_RATE))
    model.add(Flatten())
    for units in (128, 512):
        model.add(Dense(units, activation="sigmoid"))
        model.add(Dropout(protocol.DROPOUT_RATE))
    model.add(Dense(10, activation="softmax"))
    return model


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the folds one by one, each in one call of ``fit``."""
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(protocol.cores())
    images = task.images.astype(np.float32)[..., None]
    labels = keras.utils.to_categorical(task.labels, num_classes=10)
    fit_each(task, clock, images, labels, create_cnn_model, "categorical_crossentropy")


def compiled(make: Callable[[], Any], loss: Any) -> Any:
    """A new model with the notebook's Adam."""
    model = make()
    adam = Adam(protocol.LEARNING_RATE, *protocol.BETAS, protocol.EPSILON)
    model.compile(optimizer=adam, loss=loss, metrics=["accuracy"])
    return model


def fit_each(
    task: protocol.Task,
    clock: protocol.Clock,
    images: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    make: Callable[[], Any],
    loss: Any,
) -> None:
    """A new model for each fold, and one call of ``fit``."""
    keras.utils.set_random_seed(0)
    report = LambdaCallback(on_epoch_end=lambda _, logs: clock.epoch(logs["accuracy"]))
    for rows in task.folds():
        clock.fold()
        model = compiled(make, loss)
        model.fit(
            images[rows],
            labels[rows],
            epochs=task.epochs,
            batch_size=protocol.BATCH_SIZE,
            verbose=0,
            callbacks=[report],
        )
    clock.parameters(sum(int(np.prod(weight.shape)) for weight in model.trainable_weights))
    clock.note(steps=int(keras.ops.convert_to_numpy(model.optimizer.iterations)))


if __name__ == "__main__":
    packages = {
        "tensorflow": ("tensorflow", "tensorflow-cpu"),
        "jax": ("jax", "jaxlib"),
        "torch": ("torch",),
    }
    protocol.run_peer(train, packages=("keras", *packages[keras.backend.backend()]))
