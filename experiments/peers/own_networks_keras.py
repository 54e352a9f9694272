"""The networks of ``own_networks_flax.py`` in Keras; the variant is a network's name.

As its users train them: a new model for each run, ``fit`` with its defaults.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import protocol
from keras import layers
from keras_folds import fit_each


def lenet(x: Any) -> Any:
    """5x5 convolutions and average pools."""
    for features in (6, 16):
        x = layers.Conv2D(features, 5, padding="same", activation="tanh")(x)
        x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)
    for features in (120, 84):
        x = layers.Dense(features, activation="tanh")(x)
    return layers.Dense(10)(x)


def vgg(x: Any) -> Any:
    """Pairs of 3x3 convolutions, a max-pool after each, dropout."""
    for features in (16, 32, 64):
        for _ in range(2):
            x = layers.Conv2D(features, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    return layers.Dense(10)(layers.Dropout(0.5)(x))


def resnet(x: Any) -> Any:
    """Residual blocks with batch normalisation, two of them with strides."""

    def normed(x: Any, features: int, taps: int, stride: int = 1) -> Any:
        x = layers.Conv2D(features, taps, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    x = layers.ReLU()(normed(x, 16, 3))
    for features, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(normed(x, features, 3, stride))
        y = normed(y, features, 3)
        x = layers.ReLU()(y + (x if stride == 1 else normed(x, features, 1, stride)))
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


def separable(x: Any) -> Any:
    """Depthwise and 1x1 convolutions."""
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    for features, stride in ((32, 2), (64, 2), (64, 1)):
        x = layers.DepthwiseConv2D(3, stride, padding="same", activation="relu")(x)
        x = layers.Conv2D(features, 1, activation="relu")(x)
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


def unet(x: Any) -> Any:
    """Down and up again with transposed convolutions."""
    seen = []
    for features in (16, 32):
        x = layers.Conv2D(features, 3, padding="same", activation="relu")(x)
        seen.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    for features in (32, 16):
        x = layers.Conv2DTranspose(features, 2, 2)(x)
        x = layers.Concatenate()([x, seen.pop()])
        x = layers.Conv2D(features, 3, padding="same", activation="relu")(x)
    return layers.GlobalAveragePooling2D()(layers.Conv2D(10, 1)(x))


def wavenet(x: Any) -> Any:
    """Gated, dilated, causal convolutions over the pixels in a row."""
    x = layers.Conv1D(16, 1)(layers.Reshape((-1, x.shape[-1]))(x))
    for dilation in (1, 2, 4, 8, 16, 32):
        gates = layers.Conv1D(32, 2, dilation_rate=dilation, padding="causal")(x)
        a, b = keras.ops.split(gates, 2, axis=-1)
        x = x + layers.Conv1D(16, 1)(keras.ops.tanh(a) * keras.ops.sigmoid(b))
    return layers.Dense(10)(layers.GlobalAveragePooling1D()(layers.ReLU()(x)))


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "lenet": lenet,
    "vgg": vgg,
    "resnet": resnet,
    "separable": separable,
    "unet": unet,
    "wavenet": wavenet,
}


def make_model(name: str, shape: tuple[int, ...]) -> Any:
    """A network of images of this shape; it gives logits [B, 10]."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, NETWORKS[name](inputs))


def train(task: protocol.Task, clock: protocol.Clock, variant: str) -> None:
    """Trains the runs one by one, each in one call of ``fit``."""
    images = task.images.astype(np.float32) / 255
    make = functools.partial(make_model, variant, images.shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fit_each(task, clock, images, task.labels, make, loss)


if __name__ == "__main__":
    protocol.run_peer(train, packages=("keras", "tensorflow", "tensorflow-cpu"))
