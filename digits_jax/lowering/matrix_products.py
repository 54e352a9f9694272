"""Convolutions as matrix products, which stay so when ``vmap`` gives each run its own kernel.

On a GPU, many runs' convolutions of small images are one batched product. XLA's own becomes a
convolution in groups there, for which cuDNN has slow code, some of it a launch for each group.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from digits_jax.lowering.convolutions import PATCH_BYTES, Convolution, in_order

FLOPS_A_BYTE = 15  # that a GPU computes while it moves a byte: 60 TFLOP/s and 4 TB/s


@dataclasses.dataclass(frozen=True)
class _MatrixProduct(Convolution):
    """A convolution whose windows' rows are multiplied with a matrix made of the kernel."""

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        channels, features = kernel.shape[-2:]
        plain = self.groups == 1 and max(self.x_dilation) == 1
        slid = self._cheapest(x, channels, features) if plain else None
        if slid is None:
            return super().apply(x, kernel)
        if slid < len(self.window):
            places = jnp.asarray(self.places(slid), kernel.dtype)
            kernel = kernel.reshape(*self.window[:slid], -1, channels, features)
            kernel = jnp.einsum("iot,...tcf->...icof", places, kernel, precision=self.precision)
        features *= math.prod(self.output[slid:])
        matrix = kernel.reshape(-1, features)
        y = jnp.dot(self._windows(x, slid), matrix, precision=self.precision)
        return y.reshape(len(x), *self.output, -1)

    def _slid(self, x: jax.Array, channels: int) -> None:
        return None

    def _beside(self, channels: int, features: int) -> int:
        return 1

    def _cheapest(self, x: jax.Array, channels: int, features: int) -> int | None:
        """Along how many axes windows slide, so that time is least; None: not as a product."""
        best: tuple[float, int] | None = None
        for slid in range(len(self.window) + 1):
            rows = len(x) * math.prod(self.output[:slid])
            inner = math.prod((*self.window[:slid], *self.space[slid:])) * channels
            columns = math.prod(self.output[slid:]) * features
            windows = rows * inner * x.dtype.itemsize
            written = windows if slid else 0
            moved = windows + written + (rows + inner) * columns * x.dtype.itemsize
            cost = moved + 2 * rows * inner * columns / FLOPS_A_BYTE
            if written <= PATCH_BYTES and (best is None or cost < best[0]):
                best = cost, slid
        return None if best is None else best[1]


def convolution(x: jax.Array, kernel: jax.Array, **params: Any) -> jax.Array | None:
    """The rule for ``conv_general_dilated``, whose arguments it takes; None where it has none."""

    def compute(x: jax.Array, kernel: jax.Array, product: Convolution) -> jax.Array:
        fields = {each.name: getattr(product, each.name) for each in dataclasses.fields(product)}
        return _MatrixProduct(**fields).apply(x, kernel)

    return in_order(x, kernel, compute, **params)
