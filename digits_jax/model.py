"""The network of the notebook, and its variants, in plain Flax.

Nothing here is laid out for speed: ``lowering`` brings any network's convolutions, pools and dense
layers into the form that a platform is fast in. Shapes: B rows of a batch, H and W pixels, C
channels, F features, K classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

Activation = Callable[[jax.Array], jax.Array]


class MaxPool(nn.Module):
    """2x2 max-pooling with stride 2; an odd last row or column is left out."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H // 2, W // 2, C]."""
        pooled: jax.Array = nn.max_pool(x, (2, 2), (2, 2))
        return pooled


class Flatten(nn.Module):
    """[B, H, W, C] to [B, H * W * C], in the order of Keras."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """No parameters."""
        return x.reshape(x.shape[0], -1)


class ByteDropout(nn.Module):
    """Sets a fraction of the units to zero, and scales the others so that the mean stays.

    The rate may be traced. It is rounded to a 256th, so that one random byte decides a unit (0.25
    is exact).
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """``train``: whether it is on; it then needs the random stream ``dropout``."""
        never = isinstance(self.rate, float) and self.rate == 0  # not if traced
        if never or not train:
            return x
        dropped = jnp.clip(jnp.round(jnp.asarray(self.rate, x.dtype) * 256), 0, 255)
        drawn = jax.random.bits(self.make_rng("dropout"), x.shape, jnp.uint8)
        kept = drawn >= dropped.astype(jnp.uint8)
        return jnp.where(kept, x * (256 / (256 - dropped)), 0)


class DigitsCNN(nn.Module):
    """The notebook's network: 3 x (3x3 conv, pool, dropout), 2 x (dense, dropout), logits.

    With its defaults it has 102,794 parameters (see ``layer_table``). The pool comes before the
    activation: for one that never decreases, like relu or sigmoid, the values are the same.

    Attributes:
        classes: K, the number of logits.
        conv_features: each entry is a stage that ends in a pool, so at most three for 8x8 pixels:
            the features of its one convolution, or a tuple with those of several.
        dense_features: of each dense layer before the logits.
        width: multiplies the number of features of every layer but the last.
        dropout_rate: fraction of units set to zero in training; in [0, 1).
        conv_activation: after each convolution (its pool and normalisation).
        dense_activation: after each dense layer but the last.
        pixel_scale: multiplies the pixels; 1/16 brings the counts 0..16 to 0..1.
        batch_norm: after each convolution (and its pool), before the activation.

    Examples:
        >>> import jax
        >>> images = jax.numpy.zeros((2, 8, 8), jax.numpy.uint8)
        >>> network = DigitsCNN()
        >>> variables = network.init(jax.random.key(0), images)
        >>> network.apply(variables, images).shape
        (2, 10)
    """

    classes: int = 10
    conv_features: tuple[int | tuple[int, ...], ...] = (16, 32, 64)
    dense_features: tuple[int, ...] = (128, 512)
    width: float = 1.0
    dropout_rate: float | jax.Array = 0.25
    conv_activation: Activation = nn.relu
    dense_activation: Activation = nn.sigmoid
    pixel_scale: float = 1.0
    batch_norm: bool = False

    @property
    def stages(self) -> list[tuple[int, ...]]:
        """The features of each convolution, stage by stage, before ``width``."""
        return [(stage,) if isinstance(stage, int) else stage for stage in self.conv_features]

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> jax.Array:
        """Logits of the classes.

        Args:
            images: [B, H, W] or [B, H, W, C], any number type; times ``pixel_scale`` (the notebook
                feeds the raw counts, 0 to 16).
            train: whether dropout is on; it then needs the random stream ``dropout``.
            mask: [B] bool, False for padding rows. Only layers that mix rows need it, which here
                is batch normalisation.

        Returns:
            float32 [B, K].

        Raises:
            ValueError: the images have another number of axes, or the pools leave nothing of them.
        """
        pools = len(self.conv_features)
        if images.ndim not in (3, 4) or min(images.shape[1:3]) < 2**pools:
            raise ValueError(
                "images must be [B, H, W] or [B, H, W, C], with H and W at least "
                f"{2**pools} for {pools} pools, not {images.shape}"
            )
        glorot = nn.initializers.glorot_uniform()
        dense = functools.partial(nn.Dense, kernel_init=glorot)
        x = images.astype(jnp.float32) * self.pixel_scale
        x = x[..., jnp.newaxis] if x.ndim == 3 else x
        layer = 0
        for layer, stage in enumerate(self.stages, 1):
            for i, features in enumerate(stage, 1):
                n = f"{layer}" if len(stage) == 1 else f"{layer}_{i}"
                conv = functools.partial(nn.Conv, kernel_init=glorot, use_bias=not self.batch_norm)
                x = conv(round(self.width * features), (3, 3), name=f"conv_{n}")(x)
                x = MaxPool(name=f"pool_{n}")(x) if i == len(stage) else x
                if self.batch_norm:
                    norm = nn.BatchNorm(not train, momentum=0.9, name=f"norm_{n}")
                    x = norm(x, mask=None if mask is None else mask[:, None, None, None])
                x = self.conv_activation(x)
            x = ByteDropout(self.dropout_rate, name=f"dropout_{layer}")(x, train=train)
        x = Flatten(name="flatten")(x)
        for i, features in enumerate(self.dense_features, 1):
            x = self.dense_activation(dense(round(self.width * features), name=f"dense_{i}")(x))
            x = ByteDropout(self.dropout_rate, name=f"dropout_{layer + i}")(x, train=train)
        return dense(self.classes, name="logits")(x)


class Layer(NamedTuple):
    """A row of the layer table.

    Attributes:
        name: the layer's.
        kind: its class.
        output_shape: of one image, without the batch.
        parameters: their number.
        flops: of one image's forward pass; see ``layer_table``.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    flops: int


def layer_table(network: DigitsCNN, image_shape: tuple[int, ...] = (8, 8)) -> list[Layer]:
    """The network's layers in the order in which they run, read off the module itself.

    A layer's FLOPs are twice the multiply-adds of its plain form: each weight of its ``kernel``, at
    each pixel of the output, zero padding included. Biases, activations, pools and dropout count
    nothing, and neither does it count in which form a platform computes it.

    Args:
        network: the module; nothing is computed, its shapes are traced.
        image_shape: shape of one image, (H, W) or (H, W, C).

    Examples:
        >>> table = layer_table(DigitsCNN())
        >>> table[0].name, table[0].kind, table[0].output_shape
        ('conv_1', 'Conv', (8, 8, 16))
        >>> sum(layer.parameters for layer in table), sum(layer.flops for layer in table)
        (102794, 471040)
    """
    calls: list[tuple[str, str, tuple[int, ...]]] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        named = (
            context.method_name == "__call__" and module.name is not None
        )  # the network has none
        if named and not isinstance(module, nn.BatchNorm):  # counted with its convolution
            calls.append((module.name, type(module).__name__, output.shape[1:]))
        return output

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
        params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    table = []
    for name, kind, shape in calls:
        leaves = params.get(name, {})
        norm = params.get(name.replace("conv", "norm"), {}) if kind == "Conv" else {}
        parameters = sum(leaf.size for leaf in jax.tree.leaves((leaves, norm)))
        flops = 2 * leaves["kernel"].size * math.prod(shape[:-1]) if "kernel" in leaves else 0
        table.append(Layer(name, kind, shape, parameters, flops))
    return table
