"""The network: a Flax module that reads as the notebook's, and runs fast under ``vmap``.

Shapes: B rows of a batch, H and W pixels, C channels in, F features out, K classes. Inside the
network the batch is the *last* axis, [H, W, C, B]. Every slice that a convolution or a pool takes
is then a block of contiguous memory, and every layer is a matrix product; on a CPU that makes a
training step 1.7 times as fast as batch-first patches. Callers never see it: images come in as
[B, H, W], and logits go out as [B, K].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Activation = Callable[[jax.Array], jax.Array]


@jax.custom_vjp
def matmul(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """``kernel.T @ x`` over leading axes: [..., C, F] and [..., C, B] give [..., F, B].

    XLA's CPU backend has slow code for products whose first factor is transposed (measured: 20 to
    100 GFLOP/s instead of 150 on one core). So the kernel is transposed as a step of its own, which
    the barrier keeps XLA from folding back, and the two products of the backward pass are
    spelled out in the forms that are fast.
    """
    transposed: jax.Array = lax.optimization_barrier(jnp.swapaxes(kernel, -1, -2))
    return transposed @ x


def _matmul_forward(kernel: jax.Array, x: jax.Array) -> tuple[jax.Array, Any]:
    return matmul(kernel, x), (kernel, x)


def _matmul_backward(saved: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    kernel, x = saved
    if (
        kernel.shape[-2] < 32
    ):  # the product's longer side comes first: four times as fast for conv_1
        dkernel = lax.optimization_barrier(dy @ jnp.swapaxes(x, -1, -2))
        return jnp.swapaxes(dkernel, -1, -2), kernel @ dy
    return x @ jnp.swapaxes(dy, -1, -2), kernel @ dy


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def max_of_cells(cells: jax.Array) -> jax.Array:
    """The largest of the four values of each 2x2 cell: [2, 2, ...] gives [...].

    As in Keras, the gradient goes to the first of equal values, row by row. It is spelled out
    because XLA's own gradient of a pool (select-and-scatter) is slow on a CPU.
    """
    (a, b), (c, d) = cells
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _max_of_cells_forward(cells: jax.Array) -> tuple[jax.Array, jax.Array]:
    return max_of_cells(cells), cells


def _max_of_cells_backward(cells: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    (a, b), (c, d) = cells
    upper = jnp.maximum(a, b) >= jnp.maximum(c, d)
    zero = jnp.zeros_like(dy)
    winners = (upper & (a >= b), upper & (a < b), ~upper & (c >= d), ~upper & (c < d))
    dx = jnp.stack([jnp.where(winner, dy, zero) for winner in winners])
    return (dx.reshape(cells.shape),)


max_of_cells.defvjp(_max_of_cells_forward, _max_of_cells_backward)


def conv3x3(x: jax.Array, kernel: jax.Array, *, pool: bool = False) -> jax.Array:
    """A 3x3 convolution with zero padding, as matrix products: the function of ``nn.Conv``.

    The image is cut into 2x2 cells of outputs. All four outputs of a cell, and all their features,
    come from one product of the cell's window of inputs with a matrix that holds the kernel's taps
    at their places. Images of up to 4x4 pixels do so along their columns alone, with windows that
    leave the padding out; down their rows the taps become fewer products (see ``_Filtering``). An
    image of 4x4 pixels then needs 1/2 of the plain form's arithmetic, one of 2x2 needs 1/3; five
    folds of the notebook's protocol take 0.85 to 0.90 of the time that they take with cells alone
    (three pairs of 24 epochs in turn, 2 cores with AVX-512).

    Args:
        x: images, [H, W, C, B], float.
        kernel: [3, 3, C, F], float.
        pool: also take the largest of each cell, 2x2 max-pooling with stride 2, while a cell's four
            outputs still lie apart; an odd last row or column is then left out.

    Returns:
        [H, W, F, B]; with ``pool`` [H/2, W/2, F, B].

    Raises:
        ValueError: a shape is another.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[:3] != (3, 3, x.shape[2]):
        raise ValueError(
            f"x must be [H, W, C, B] and kernel [3, 3, C, F], not {x.shape} and {kernel.shape}"
        )
    h, w, channels, batch = x.shape
    features = kernel.shape[-1]
    x = jnp.pad(x, ((0, h % 2), (0, w % 2), (0, 0), (0, 0)))
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    if rows <= 2 and columns <= 2:
        # One matrix for each cell along the columns and each of the P products down the rows,
        # [columns * P, ...].
        filtering = _FILTERINGS[rows]
        rows_in = jnp.stack(filtering.inputs(*x))  # [P, W, C, B]
        kernels = jnp.stack(filtering.taps(*kernel))  # [P, 3, C, F]
        windows, matrices = [], []
        for j, (left, width) in enumerate(_spans(columns)):
            window = rows_in[:, left : left + width]
            windows.append(window.reshape(len(window), -1, batch))
            matrices.append(_row_matrix(kernels, left - 2 * j, width))
        y = matmul(jnp.concatenate(matrices), jnp.concatenate(windows))
        y = y.reshape(columns, -1, 2, features, batch)
        y = jnp.stack(filtering.outputs(*(y[:, product] for product in range(y.shape[1]))))
        cells = y.reshape(rows, 2, columns, 2, features, batch).transpose(1, 3, 0, 2, 4, 5)
        to_images = (0, 1, 2, 3)
    else:
        # All cells share one matrix, so they line up beside the batch: [16 * C, cells * B].
        x = jnp.pad(x, ((1, 1), (1, 1), (0, 0), (0, 0)))
        window = jnp.stack(
            [
                x[i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
                for i in range(4)
                for j in range(4)
            ]
        )
        window = window.transpose(0, 3, 1, 2, 4).reshape(16 * channels, -1)
        y = matmul(_cell_matrix(kernel), window)
        cells, to_images = y.reshape(2, 2, features, rows, columns, batch), (1, 2, 0, 3)
    if pool:
        return max_of_cells(cells).transpose(to_images)[: h // 2, : w // 2]
    cells = cells.transpose(0, 1, *(2 + axis for axis in to_images))
    y = cells.transpose(2, 0, 3, 1, 4, 5).reshape(2 * rows, 2 * columns, features, batch)
    return y[:h, :w]


_Lines = tuple[jax.Array, ...]


class _Filtering(NamedTuple):
    """A filter of three taps along a zero-padded line, with few products.

    Sums of the line's points, times sums of the taps, are P products; and sums of these are the
    line's outputs. The sums cost half a digit: with four points the error is 1e-6 of the largest
    output in float32, where the plain form's is 3e-7; where an accelerator rounds what it
    multiplies, it is three times the plain form's too (root mean square 9e-4 and 3e-4 of the
    outputs' with TF32, 7e-3 and 2e-3 with bfloat16, both emulated).

    Winograd's filtering; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR
    2016, arXiv:1509.09308.
    """

    inputs: Callable[..., _Lines]  # of as many arrays as the line has points, to P
    taps: Callable[..., _Lines]  # of three arrays, to P
    outputs: Callable[..., _Lines]  # of P arrays, to as many as the line has points


def _inputs_of_four(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> _Lines:
    even, odd = d - 4 * b, c - 4 * a
    even_2, odd_2 = d - b, 2 * (c - a)
    return d - 5 * b, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, 4 * a - 5 * c


def _taps_of_four(a: jax.Array, b: jax.Array, c: jax.Array) -> _Lines:
    even, odd = (a + c) / -6, b / -6
    even_2, odd_2 = a / 24 + c / 6, b / 12
    return a / 4, even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, c


def _outputs_of_four(
    a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array, e: jax.Array, f: jax.Array
) -> _Lines:
    even, odd, even_2, odd_2 = b + c, b - c, d + e, d - e
    return a + even + even_2, odd + 2 * odd_2, even + 4 * even_2, odd + 8 * odd_2 + f


# By the number of 2x2 cells that lie along the line.
_FILTERINGS = {
    # Two points: three products instead of four, as in Karatsuba's multiplication.
    1: _Filtering(
        inputs=lambda a, b: (a, a + b, b),
        taps=lambda a, b, c: (a - b, b, c - b),
        outputs=lambda a, b, c: (b + c, a + b),
    ),
    # Four points: six products instead of ten, F(4, 3) without the two inputs that are padding.
    2: _Filtering(_inputs_of_four, _taps_of_four, _outputs_of_four),
}


def _spans(cells: int) -> tuple[tuple[int, int], ...]:
    """The first input row and the number of rows that each of one or two cells sees."""
    return ((0, 2),) if cells == 1 else ((0, 3), (1, 3))


def _cell_matrix(kernel: jax.Array) -> jax.Array:
    """The taps at their places in a 4x4 window: [16 * C, 2 * 2 * F]."""
    taps = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))  # zero where a tap leaves the kernel
    blocks = [taps[1 - i : 5 - i, 1 - j : 5 - j] for i in (0, 1) for j in (0, 1)]
    return jnp.stack(blocks, axis=3).reshape(-1, 4 * kernel.shape[-1])


def _row_matrix(kernels: jax.Array, start: int, width: int) -> jax.Array:
    """The taps of rows [P, 3, C, F] at their places: [P, width * C, 2 * F].

    ``start`` is the first input pixel of the window, counted from the first of two outputs.
    """
    taps = jnp.pad(kernels, ((0, 0), (1, 1), (0, 0), (0, 0)))  # zero where a tap leaves the kernel
    blocks = [taps[:, start + 2 - j : start + 2 - j + width] for j in (0, 1)]
    return jnp.stack(blocks, axis=3).reshape(len(kernels), -1, 2 * kernels.shape[-1])


def conv3x3_by_pixels(x: jax.Array, kernel: jax.Array, *, pool: bool = False) -> jax.Array:
    """The same function as ``conv3x3``, as one product of nine taps for each pixel.

    It spends no product on the cells' zeros (they do 16/9 of its arithmetic) and moves nothing
    about: taps and outputs lie pixel by pixel. On 8x8 images with 32 channels, forward and backward
    take 0.5 of the cells' time, and 0.8 with a pool; on images of 4x4 the cells are faster.

    Args:
        x: images, [H, W, C, B], float.
        kernel: [3, 3, C, F], float.
        pool: as in ``conv3x3``.

    Returns:
        [H, W, F, B]; with ``pool`` [H/2, W/2, F, B].
    """
    h, w, channels, batch = x.shape
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0), (0, 0)))
    taps = jnp.stack([x[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=2)
    kernels = jnp.broadcast_to(
        kernel.reshape(9 * channels, -1), (h * w, 9 * channels, kernel.shape[-1])
    )
    y = matmul(kernels, taps.reshape(h * w, 9 * channels, batch)).reshape(h, w, -1, batch)
    if not pool:
        return y
    cells = y[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, -1, batch)
    return max_of_cells(cells.transpose(1, 3, 0, 2, 4, 5))


class Conv3x3(nn.Module):
    """3x3 convolution with 'same' padding, bias, activation, and 2x2 max-pooling if asked for.

    [H, W, C, B] to [H, W, F, B], or [H/2, W/2, F, B]. The pool is taken before the bias and the
    activation: for one that never decreases, like relu or sigmoid, the values are the same for a
    quarter of the work. Where Flax captures intermediates, it gets the activations before the pool
    too, as ``before_pool``.
    """

    features: int
    activation: Activation
    pool: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Parameters: ``kernel`` (3, 3, C, F), Glorot-uniform, and ``bias`` (F,), zero."""
        shape = (3, 3, x.shape[2], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).reshape(1, 1, -1, 1)
        if self.pool and self.is_mutable_collection("intermediates"):
            before_pool = self.activation(conv3x3(x, kernel) + bias)
            self.sow("intermediates", "before_pool", before_pool)
        return self.activation(conv3x3(x, kernel, pool=self.pool) + bias)


class NormedConv3x3(nn.Module):
    """3x3 convolution, 2x2 max-pooling if asked for, batch normalisation, activation.

    [H, W, C, B] to [H, W, F, B], or [H/2, W/2, F, B]. The normalisation's ``bias`` is the only one.
    """

    features: int
    activation: Activation
    pool: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Parameters: ``kernel`` (3, 3, C, F), Glorot-uniform, and those of ``BatchNorm``."""
        shape = (3, 3, x.shape[2], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        convolution = conv3x3 if max(x.shape[:2]) <= 4 else conv3x3_by_pixels
        x = convolution(x, kernel, pool=self.pool)
        return self.activation(BatchNorm(name="norm")(x, train=train, mask=mask))


class BatchNorm(nn.Module):
    """Batch normalisation of [H, W, C, B] over H, W and the rows of B that are not padding.

    In training each channel is brought to mean 0 and variance 1 of the batch, and the running mean
    and variance in the collection ``batch_stats`` follow; in evaluation those are used. The same
    function as ``nn.BatchNorm(axis=2)`` with its ``mask``, whose sums over all three axes at once
    take 1.6 times as long on a CPU, and whose results there differed between equal runs on 8
    devices, in 29 of 117 repeats (jax 0.10.2); these sums did in none of 59.

    Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift", ICML 2015, arXiv:1502.03167.
    """

    momentum: float = 0.9  # share of the running statistics that stays, a step
    epsilon: float = 1e-5  # added to the variance

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None) -> jax.Array:
        """Parameters: ``scale`` (C,), one, and ``bias`` (C,), zero. ``mask`` is [B] bool."""
        height, width, channels, batch = x.shape
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        mean, var = running_mean.value, running_var.value
        if train:
            weights = jnp.ones(batch) if mask is None else mask.astype(x.dtype)
            weights = weights / (height * width * jnp.sum(weights))
            mean = jnp.sum(x, axis=(0, 1)) @ weights
            var = jnp.maximum(jnp.sum(jnp.square(x), axis=(0, 1)) @ weights - jnp.square(mean), 0)
            for running, new in ((running_mean, mean), (running_var, var)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        factor = scale * lax.rsqrt(var + self.epsilon)
        shift = bias - mean * factor
        return x * factor.reshape(1, 1, -1, 1) + shift.reshape(1, 1, -1, 1)


class Dense(nn.Module):
    """A fully connected layer with bias and activation: [C, B] to [F, B]."""

    features: int
    activation: Activation | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Parameters: ``kernel`` (C, F), Glorot-uniform, and ``bias`` (F,), zero."""
        shape = (x.shape[0], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = matmul(kernel, x) + bias.reshape(-1, 1)
        return y if self.activation is None else self.activation(y)


class Flatten(nn.Module):
    """[H, W, C, B] to [H * W * C, B], in the order of Keras."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """No parameters."""
        return x.reshape(-1, x.shape[-1])


class Dropout(nn.Module):
    """Sets a share of the units to zero, and scales the others so that the mean stays.

    The rate is rounded to a 256th, so that one random byte decides a unit (0.25 is exact).
    """

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array, random_bytes: jax.Array | None) -> jax.Array:
        """``random_bytes``: uint8, as many as x has units; None leaves x as it is."""
        if random_bytes is None:
            return x
        dropped = jnp.clip(jnp.round(jnp.asarray(self.rate, x.dtype) * 256), 0, 255)
        keep = random_bytes.reshape(x.shape) >= dropped.astype(jnp.uint8)
        return jnp.where(keep, x * (256 / (256 - dropped)), 0)


def _random_words(key: jax.Array, count: int) -> jax.Array:
    """``count`` random uint32: those of ``jax.random.bits``, for an even number of them.

    On a CPU, JAX rolls the 20 rounds of Threefry-2x32 into a loop. Written out, they are one pass
    over the words, in 0.4 of the time. Both words of each hash are used, which JAX does where
    ``jax_threefry_partitionable`` is off: half the hashes.

    Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
    """
    if jax.random.key_impl(key) != "threefry2x32":
        return jax.random.bits(key, (count,), jnp.uint32)
    half = -(-count // 2)
    first, second = jax.random.key_data(key)
    keys = first, second, first ^ second ^ jnp.uint32(0x1BD11BDA)
    a = lax.iota(jnp.uint32, half)
    a, b = a + keys[0], a + jnp.uint32(half) + keys[1]
    for i in range(5):
        for left in ((13, 15, 26, 6), (17, 29, 16, 24))[i % 2]:
            a = a + b
            b = a ^ ((b << left) | (b >> (32 - left)))
        a, b = a + keys[(i + 1) % 3], b + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return jnp.concatenate([a, b])[:count]


def _random_bytes(key: jax.Array, sizes: list[int], batch: int) -> list[jax.Array]:
    """One random draw, dealt to all dropout layers: uint8 [size, batch] for each size.

    A draw has a fixed cost, above all in compile time; and four bytes come from each random word.
    """
    words = _random_words(key, -(-sum(sizes) // 4) * batch).reshape(-1, batch)
    drawn = jnp.concatenate([(words >> shift).astype(jnp.uint8) for shift in (0, 8, 16, 24)])
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [drawn[end - size : end] for size, end in zip(sizes, ends, strict=True)]


class DigitsCNN(nn.Module):
    """The notebook's network: 3 x (3x3 conv, pool, dropout), 2 x (dense, dropout), logits.

    With its defaults it has 102,794 parameters (see ``layer_table``).

    Attributes:
        classes: K, the number of logits.
        conv_features: each entry is a stage that ends in a pool, so at most three for 8x8 pixels:
            the features of its one convolution, or a tuple with those of several.
        dense_features: of each dense layer before the logits.
        width: multiplies the number of features of every layer but the last.
        dropout_rate: share of units set to zero in training; in [0, 1).
        conv_activation: after each convolution.
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
        halvings = len(self.conv_features)
        if images.ndim not in (3, 4) or min(images.shape[1:3]) < 2**halvings:
            raise ValueError(
                "images must be [B, H, W] or [B, H, W, C], with H and W at least "
                f"{2**halvings} for {halvings} pools, not {images.shape}"
            )
        x = images.astype(jnp.float32)
        if self.pixel_scale != 1.0:
            x = x * self.pixel_scale
        if x.ndim == 3:
            x = x[..., jnp.newaxis]
        batch, h, w, _ = x.shape
        x = jnp.moveaxis(x, 0, -1)
        stages = [[round(self.width * features) for features in stage] for stage in self.stages]
        dense_features = [round(self.width * features) for features in self.dense_features]

        random_bytes: list[Any] = [None] * (len(stages) + len(dense_features))
        never = isinstance(self.dropout_rate, float) and self.dropout_rate == 0  # not if traced
        if train and not never:
            sizes = [(h >> i) * (w >> i) * features[-1] for i, features in enumerate(stages, 1)]
            random_bytes = _random_bytes(self.make_rng("dropout"), sizes + dense_features, batch)
        layer = 0
        for layer, stage in enumerate(stages, 1):
            for i, features in enumerate(stage, 1):
                name = f"conv_{layer}" if len(stage) == 1 else f"conv_{layer}_{i}"
                pool = i == len(stage)
                if self.batch_norm:
                    normed = NormedConv3x3(features, self.conv_activation, pool=pool, name=name)
                    x = normed(x, train=train, mask=mask)
                else:
                    x = Conv3x3(features, self.conv_activation, pool=pool, name=name)(x)
            x = Dropout(self.dropout_rate, name=f"dropout_{layer}")(x, random_bytes[layer - 1])
        x = Flatten(name="flatten")(x)
        for i, features in enumerate(dense_features, 1):
            x = Dense(features, self.dense_activation, name=f"dense_{i}")(x)
            x = Dropout(self.dropout_rate, name=f"dropout_{layer + i}")(
                x, random_bytes[layer + i - 1]
            )
        return Dense(self.classes, name="logits")(x).T


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
    nothing, and neither does it count that ``conv3x3`` arranges the product otherwise.

    Args:
        network: the module; nothing is computed, its shapes are traced.
        image_shape: shape of one image, (H, W) or (H, W, C).

    Examples:
        >>> table = layer_table(DigitsCNN())
        >>> table[0].name, table[0].kind, table[0].output_shape
        ('conv_1', 'Conv3x3', (8, 8, 16))
        >>> sum(layer.parameters for layer in table), sum(layer.flops for layer in table)
        (102794, 471040)
    """
    calls: list[tuple[str, str, tuple[int, ...]]] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and module.name is not None:  # the network has none
            name, shape = module.name, output.shape[:-1]
            if isinstance(module, Conv3x3 | NormedConv3x3) and module.pool:
                calls.append((name, type(module).__name__, (*args[0].shape[:2], module.features)))
                calls.append((name.replace("conv", "pool"), "MaxPool2x2", shape))
            elif isinstance(module, BatchNorm):
                pass  # counted with its convolution
            else:
                calls.append((name, type(module).__name__, shape))
        return output

    with nn.intercept_methods(record):
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
        params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    table = []
    for name, kind, shape in calls:
        leaves = params.get(name, {})
        parameters = sum(leaf.size for leaf in jax.tree.leaves(leaves))
        flops = 2 * leaves["kernel"].size * math.prod(shape[:-1]) if "kernel" in leaves else 0
        table.append(Layer(name, kind, shape, parameters, flops))
    return table
