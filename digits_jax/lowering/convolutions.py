"""Convolutions as the operations that XLA's CPU compiler is fast in, inside of loops too."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from digits_jax.lowering.geometry import Geometry, Pairs
from digits_jax.lowering.products import multiply

PATCH_BYTES = 64 << 20  # the most memory that a convolution's windows may take
ROW_PIXELS = 8  # the most pixels of a row of one channel that is taken as a whole
BESIDE = {4: 64, 16: 32}  # up to so many channels, results beside one another times features
MOST_BESIDE = 4  # of such results
FEWEST_BESIDE = 8  # features above which two are faster for the gradient to a kernel, too
EVEN = 64  # features up to which an odd number of channels takes two to ten times as long
KERNEL_IMAGES = 8  # the most at once in the gradient to a kernel: they then stay in the cache
KERNEL_PIXELS = 32  # of a result, from which on that is faster
GROUPS_APART = 8  # groups up to which each is a convolution of its own


@dataclasses.dataclass(frozen=True)
class Convolution(Geometry):
    """A convolution of [B, *space, C] with [*window, C / G, F]: [B, *space', F]."""

    pads_odd_channels: ClassVar[bool] = True  # where XLA's convolution is slow without

    def of(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution, with the gradients below."""
        return multiply(x, kernel, self)

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution, [B, *space', F]."""
        channels = kernel.shape[-2]
        if max(self.x_dilation) > 1 and max(self.strides) == 1:
            return self._phases(x, kernel)
        if self.groups > 1 and channels == 1:
            return self._depthwise(x, kernel)
        if self.groups > 1:
            return self._grouped(x, kernel)
        return self._direct(x, kernel) if max(self.x_dilation) > 1 else self._plain(x, kernel)

    def _plain(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution without groups and without zeros between the image's pixels."""
        channels, features = kernel.shape[-2:]
        slid = self._slid(x, channels)
        if slid is None:
            count = self._beside(channels, features)
            return self._direct(x, kernel) if count == 1 else self._together(x, kernel, count)
        places = jnp.asarray(self.places(slid), kernel.dtype)
        kernel = kernel.reshape(*self.window[:slid], -1, channels, features)
        matrix = jnp.einsum("iot,...tcf->...icof", places, kernel, precision=self.precision)
        matrix = matrix.reshape(-1, places.shape[1] * features)
        y = jnp.dot(self._windows(x, slid), matrix, precision=self.precision)
        return y.reshape(len(x), *self.output, features)

    def to_image(self, dy: jax.Array, kernel: jax.Array) -> jax.Array:
        """The gradient of the image: a convolution with the kernel turned round."""
        channels, features = kernel.shape[-2:]
        kernel = jnp.flip(kernel, range(len(self.window)))
        kernel = kernel.reshape(*self.window, channels, self.groups, features // self.groups)
        kernel = kernel.swapaxes(-1, -3).reshape(*self.window, -1, channels * self.groups)
        return multiply(dy, kernel, self.of_image())

    def to_kernel(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        """The gradient of the kernel: the image's windows times the result's gradient."""
        channels, features = x.shape[-1] // self.groups, dy.shape[-1]
        if self.groups > 1:
            if channels == 1 and max(self.x_dilation) == 1:
                return self._depthwise_kernel(dy, x)
            parts = zip(jnp.split(dy, self.groups, -1), jnp.split(x, self.groups, -1), strict=True)
            alone = dataclasses.replace(self, groups=1)
            return jnp.concatenate([alone.to_kernel(*part) for part in parts], -1)
        if max(self.x_dilation) > 1 and max(self.strides) == 1:
            return self._phases_kernel(dy, x)
        slid = self._slid(x, channels)
        if slid is not None:
            places = jnp.asarray(self.places(slid), dy.dtype)
            windows = self._windows(x, slid)
            dy = dy.reshape(len(windows), -1)
            dmatrix = jnp.dot(windows.T, dy, precision=self.precision)
            dmatrix = dmatrix.reshape(
                *self.window[:slid], len(places), channels, places.shape[1], features
            )
            dkernel = jnp.einsum("iot,...icof->...tcf", places, dmatrix, precision=self.precision)
            return dkernel.reshape(*self.window, channels, features)
        if 1 < self._beside(channels, features) and features > FEWEST_BESIDE:
            return self._kernel_together(dy, x, 2)
        backward = self.of_kernel()

        def of_images(dy: jax.Array, x: jax.Array) -> jax.Array:
            x = jnp.moveaxis(jnp.moveaxis(x, 0, -1), -2, 0)  # [C, *space, B]
            # The barrier keeps XLA from folding the transpositions into the convolution.
            x, dy = lax.optimization_barrier((x, jnp.moveaxis(dy, 0, -2)))
            return jnp.moveaxis(backward._direct(x, dy), 0, -2)

        count = max(n for n in range(1, KERNEL_IMAGES + 1) if len(x) % n == 0)
        few_pixels = math.prod(self.output) < KERNEL_PIXELS
        if few_pixels or count < KERNEL_IMAGES // 2 or len(x) == count:
            return of_images(dy, x)
        x, dy = (a.reshape(-1, count, *a.shape[1:]) for a in (x, dy))

        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            part = (lax.dynamic_index_in_dim(a, i, keepdims=False) for a in (dy, x))
            return total + of_images(*part)

        total: jax.Array = lax.fori_loop(1, len(x), add, of_images(dy[0], x[0]))
        return total

    def _slid(self, x: jax.Array, channels: int) -> int | None:
        """How many of the axes the windows of a product slide along; None: no product.

        Along the others the product covers all pixels at once, and its matrix is zero where a
        pixel is outside of a window.
        """
        axes, taps = len(self.window), math.prod(self.window)
        if max(self.x_dilation) > 1:
            return None
        if taps == 1 or self.strides == self.window:  # each pixel is seen once
            return axes
        if 1 < math.prod(self.space) <= taps and math.prod(self.output) <= taps:
            return 0
        if channels == 1 and max(self.space[-1], self.output[-1]) <= ROW_PIXELS:
            slid = axes - 1
        elif x.dtype == jnp.float64:  # XLA's convolution has no fast code
            slid = axes
        else:
            return None
        entries = math.prod((*self.window[:slid], *self.space[slid:])) * channels
        size = len(x) * math.prod(self.output[:slid]) * entries * x.dtype.itemsize
        return slid if size <= PATCH_BYTES else None

    def _beside(self, channels: int, features: int) -> int:
        """How many results beside one another are computed as features of one."""
        if self.strides[-1] * self.kernel_dilation[-1] * max(self.x_dilation) > 1:
            return 1
        most = next((n for few, n in BESIDE.items() if channels <= few), 0)
        count = 1
        while 2 * count * features <= most and 2 * count <= min(MOST_BESIDE, self.output[-1] // 2):
            count *= 2
        return count

    def _together(self, x: jax.Array, kernel: jax.Array, count: int) -> jax.Array:
        """XLA's convolution, whose features are so many results beside one another."""
        axis = len(self.window) - 1
        kernel = _pad(kernel[None], (*[(0, 0)] * axis, (0, count - 1), (0, 0)))[0]
        kernel = jnp.stack([jnp.roll(kernel, i, axis) for i in range(count)], -2)
        y = self.wide(count)._direct(x, kernel.reshape(*kernel.shape[:-2], -1))
        y = y.reshape(*y.shape[:-2], -1, kernel.shape[-1])
        return y[..., : self.output[-1], :]

    def _kernel_together(self, dy: jax.Array, x: jax.Array, count: int) -> jax.Array:
        """The gradient of the kernel, by that of ``_together``."""
        axes, features, taps = len(self.window), dy.shape[-1], self.window[-1]
        dy = _pad(dy, (*[(0, 0)] * (axes - 1), (0, -self.output[-1] % count)))
        dy = dy.reshape(*dy.shape[:-2], -1, count * features)
        wide = self.wide(count).to_kernel(dy, x)
        wide = wide.reshape(*wide.shape[:-1], count, features)
        parts = [wide[..., i : i + taps, :, i, :] for i in range(count)]
        return functools.reduce(jnp.add, parts)

    def _windows(self, x: jax.Array, slid: int) -> jax.Array:
        """The windows along the first axes, the whole of the others: [windows, pixels * C]."""
        windows = jnp.concatenate(
            [seen.reshape(*seen.shape[: 1 + slid], -1) for seen in self._slices(x, slid)], -1
        )
        return windows.reshape(-1, windows.shape[-1])

    def _direct(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """XLA's convolution, with its dimensions in the order that has fast code."""
        channels, features = kernel.shape[-2:]
        odd = 1 < channels and channels % 2 and features < EVEN and self.groups == 1
        if odd and self.pads_odd_channels:
            x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 1)])
            kernel = jnp.pad(kernel, [(0, 0)] * (kernel.ndim - 2) + [(0, 1), (0, 0)])
        cut = [(min(low, 0), min(high, 0), 0) for low, high in self.padding]
        if any(low or high for low, high, _ in cut) and max(self.x_dilation) == 1:
            x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *cut, (0, 0, 0)))
            padding: Pairs = tuple((max(low, 0), max(high, 0)) for low, high in self.padding)
        else:
            padding = self.padding
        space = "HWD"[: len(self.window)]
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            padding,
            self.x_dilation,
            self.kernel_dilation,
            (f"N{space}C", f"{space}IO", f"N{space}C"),
            self.groups,
            precision=self.precision,
        )

    def _slices(self, x: jax.Array, slid: int) -> list[jax.Array]:
        """What each tap along the first axes sees, in the order of the kernel's taps."""
        x = _pad(x, (*self.padding[:slid], *[(0, 0)] * (len(self.window) - slid)))
        slices = []
        for tap in itertools.product(*map(range, self.window[:slid])):
            index = [slice(None)]
            for i, apart, m, stride in zip(
                tap, self.kernel_dilation, self.output, self.strides, strict=False
            ):
                index.append(slice(i * apart, i * apart + (m - 1) * stride + 1, stride))
            slices.append(x[tuple(index)])
        return slices

    def _depthwise(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Each channel by itself: the sum over the taps of shifted images."""
        multiplier = kernel.shape[-1] // self.groups
        kernel = kernel.reshape(-1, self.groups, multiplier)
        terms = [
            seen[..., None] * kernel[i].reshape(*[1] * (x.ndim - 1), self.groups, multiplier)
            for i, seen in enumerate(self._slices(x, len(self.window)))
        ]
        y = functools.reduce(jnp.add, terms)
        return y.reshape(*y.shape[:-2], -1)

    def _depthwise_kernel(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        """Sums over batch and pixels: fast code for the first, then a product for the rest.

        XLA joins a product of shifted images with a sum that follows it, to code that takes four
        times as long.
        """
        parts, multiplier = math.gcd(len(x), 16), dy.shape[-1] // self.groups
        dy = dy.reshape(parts, -1, *dy.shape[1:-1], self.groups, multiplier)
        padded = lax.optimization_barrier(_pad(x, self.padding))
        plain = dataclasses.replace(
            self, padding=((0, 0),) * len(self.window), space=padded.shape[1:-1]
        )
        each = [plain._slices(part, len(self.window)) for part in jnp.split(padded, parts)]
        taps = []
        for t in range(math.prod(self.window)):
            terms = [seen[t][..., None] * dy[i] for i, seen in enumerate(each)]
            rows = functools.reduce(jnp.add, terms).reshape(-1, dy.shape[-2] * multiplier)
            ones = lax.optimization_barrier(jnp.ones(len(rows), rows.dtype))
            taps.append(jnp.dot(ones, rows, precision=self.precision))
        return jnp.stack(taps).reshape(*self.window, 1, -1)

    def _grouped(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Each group as a convolution of its own."""
        alone = dataclasses.replace(self, groups=1)
        parts = zip(jnp.split(x, self.groups, -1), jnp.split(kernel, self.groups, -1), strict=True)
        return jnp.concatenate([alone.apply(*part) for part in parts], -1)

    def _phases(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """A transposed convolution without its zeros: each phase of the output sees some taps."""
        phases, count = self.x_dilation, self.phase_pixels()
        images = []
        for taps, product in self.phases():
            if product is None:
                images.append(jnp.zeros((x.shape[0], *count, kernel.shape[-1]), x.dtype))
            else:
                images.append(product.apply(x, kernel[taps]))
        y = jnp.stack(images, -2).reshape(x.shape[0], *count, *phases, kernel.shape[-1])
        axes = [axis for i in range(len(phases)) for axis in (1 + i, 1 + len(phases) + i)]
        y = y.transpose(0, *axes, y.ndim - 1)
        y = y.reshape(x.shape[0], *(n * d for n, d in zip(count, phases, strict=True)), -1)
        return y[(slice(None), *(slice(m) for m in self.output))]

    def _phases_kernel(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        """The gradient of a transposed convolution's kernel: each tap is in one phase."""
        phases, count = self.x_dilation, self.phase_pixels()
        sizes = zip(count, phases, self.output, strict=True)
        dy = _pad(dy, tuple((0, n * d - m) for n, d, m in sizes))
        dkernel = jnp.zeros((*self.window, x.shape[-1], dy.shape[-1]), dy.dtype)
        for phase, (taps, product) in zip(
            itertools.product(*map(range, phases)), self.phases(), strict=True
        ):
            if product is not None:
                steps = (slice(place, None, d) for place, d in zip(phase, phases, strict=True))
                dkernel = dkernel.at[taps].add(product.to_kernel(dy[(slice(None), *steps)], x))
        return dkernel


def _pad(x: jax.Array, padding: Pairs, value: float = 0.0) -> jax.Array:
    """[B, *space, C] with so many more pixels, or fewer, before and after each axis."""
    if not any(map(any, padding)):
        return x
    config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    *,
    window_strides: tuple[int, ...],
    padding: Pairs,
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    precision: Any,
    preferred_element_type: Any,
    kind: type[Convolution] = Convolution,
    **_: Any,
) -> jax.Array | None:
    """The rule for ``conv_general_dilated``, whose arguments it takes; None where it has none.

    ``kind`` says how it is computed.
    """
    axes = len(window_strides)
    other_type = preferred_element_type not in (None, x.dtype)
    if axes not in (1, 2, 3) or batch_group_count != 1 or x.dtype != kernel.dtype or other_type:
        return None
    if not jnp.issubdtype(x.dtype, jnp.floating) or 0 in x.shape + kernel.shape:
        return None
    if max(lhs_dilation) > 1 and max(window_strides) > 1:
        return None
    channels = kernel.shape[dimension_numbers.rhs_spec[1]]
    if feature_group_count > GROUPS_APART and channels > 1:
        return None
    batch, channel, *space = dimension_numbers.lhs_spec
    out, into, *window = dimension_numbers.rhs_spec
    x, kernel = x.transpose(batch, *space, channel), kernel.transpose(*window, into, out)
    product = kind(
        x.shape[1:-1],
        kernel.shape[:-2],
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        feature_group_count,
        precision,
    )
    if min(product.output) < 1:
        return None
    y = product.of(x, kernel)
    order = np.argsort([dimension_numbers.out_spec[i] for i in (0, *range(2, 2 + axes), 1)])
    return y.transpose(order)
