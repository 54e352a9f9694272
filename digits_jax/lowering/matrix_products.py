"""Convolutions as matrix products, which stay so when ``vmap`` gives each run its own kernel.

On a GPU, many runs' convolutions of small images are one batched product. XLA's own becomes a
convolution in groups there, for which cuDNN has slow code, some of it a launch for each group.
Milliseconds of an epoch, all 5620 rows, on an H200 (jax 0.11.2, TF32):

| recipe, runs | XLA's convolutions | matrix products |
|---|---|---|
| notebook, 5 | 24.0 | 7.5 |
| notebook, 500 | 329 | 129 |
| strong, 5 | 64 | 30 |
| strong, 50 | 350 | 81 |

With XLA's pools beside the products, 500 runs take 141. All were measured with ten launches more
a step, which put the matrices together. On an H100, 5000 larger images, five and fifty runs:

| network, images | XLA's convolutions | matrix products |
|---|---|---|
| LeNet, 28x28x1 | 34.8 and 268 | 20.8 and 155 |
| VGG, 28x28x1 | 92 and 626 | 75 and 550 |
| VGG, 32x32x3 | 155 and 1219 | 107 and 833 |

Those whose windows take more than ``PATCH_BYTES`` a run stay XLA's convolutions.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from digits_jax.lowering.convolutions import PATCH_BYTES, Convolution

FLOPS_A_BYTE = 15  # that a GPU computes while it moves a byte: 60 TFLOP/s and 4 TB/s
MOST_FLOPS = 3  # times those of the convolution: of what has been measured, the most that paid


@dataclasses.dataclass(frozen=True)
class MatrixProduct(Convolution):
    """A convolution whose windows' rows are multiplied with a matrix made of the kernel."""

    pads_odd_channels: ClassVar[bool] = False

    def of(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution, which ``vmap`` and ``grad`` take apart into products of their own."""
        return self.apply(x, kernel)

    def _plain(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        slid = self._cheapest(x, *kernel.shape[-2:])
        if slid is None:
            return self._direct(x, kernel)
        y = jnp.dot(self._windows(x, slid), self._matrix(kernel, slid), precision=self.precision)
        return y.reshape(len(x), *self.output, -1)

    def _matrix(self, kernel: jax.Array, slid: int) -> jax.Array:
        """What a window's row is multiplied with: [window's pixels * C, results * F].

        Each result sees the kernel at a place of its own. These are put together by padding, which
        is one launch forward and one backward, without rounding.
        """
        axes = range(slid, len(self.window))
        seen = []
        for place in itertools.product(*(range(self.output[axis]) for axis in axes)):
            config = [(0, 0, 0)] * kernel.ndim
            for axis, o in zip(axes, place, strict=True):
                apart = self.kernel_dilation[axis]
                before = o * self.strides[axis] - self.padding[axis][0]
                after = self.space[axis] - before - (self.window[axis] - 1) * apart - 1
                config[axis] = (before, after, apart - 1)
            seen.append(lax.pad(kernel, jnp.zeros((), kernel.dtype), config))
        return jnp.stack(seen, -2).reshape(-1, len(seen) * kernel.shape[-1])

    def _cheapest(self, x: jax.Array, channels: int, features: int) -> int | None:
        """Along how many axes windows slide, so that time is least; None: not as a product.

        Along the others the product covers all pixels at once, as in ``Convolution._slid``.
        """
        costs: dict[int, float] = {}
        fewest = 2 * len(x) * math.prod((*self.output, *self.window, channels, features))
        for slid in range(len(self.window) + 1):
            rows = len(x) * math.prod(self.output[:slid])
            inner = math.prod((*self.window[:slid], *self.space[slid:])) * channels
            columns = math.prod(self.output[slid:]) * features
            seen, matrix, result = (
                n * x.dtype.itemsize for n in (rows * inner, inner * columns, rows * columns)
            )
            made = matrix + (seen if slid else 0)  # beside image, kernel and result
            flops = 2 * rows * inner * columns
            if made <= PATCH_BYTES and flops <= MOST_FLOPS * fewest:
                costs[slid] = made + seen + result + flops / FLOPS_A_BYTE
        return min(costs, key=costs.__getitem__) if costs else None
