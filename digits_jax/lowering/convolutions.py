"""Convolutions as the operations that XLA's CPU compiler is fast in, inside of loops too."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from digits_jax.lowering.products import Product, multiply

Pairs = tuple[tuple[int, int], ...]

PATCH_BYTES = 64 << 20  # the most memory that a convolution's windows may take
LANES = 16  # channels and features from which on XLA's convolution is at full speed
ROW_GAIN = 1.25  # how much faster a product of whole rows is, for each multiplication
ROW_PIXELS = 64  # the most pixels of such a row
KERNEL_IMAGES = 8  # the most at once in the gradient to a kernel: they then stay in the cache
KERNEL_PIXELS = 32  # of a result, from which on that is faster
GROUPS_APART = 8  # groups up to which each is a convolution of its own


@dataclasses.dataclass(frozen=True)
class _Convolution(Product):
    """A convolution of [B, *space, C] with [*window, C / G, F]: [B, *space', F].

    Attributes:
        space: the image's pixels along each axis.
        window: the kernel's.
        strides: step between windows, in pixels.
        padding: pixels of zero before and after; below zero: pixels left out.
        x_dilation: distance of the image's pixels; above 1 there are zeros between them.
        kernel_dilation: distance of the kernel's taps.
        groups: G, each of which sees its part of the channels.
        precision: of the products, as ``lax.dot_general`` takes it.
    """

    space: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs
    x_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]
    groups: int
    precision: Any

    @property
    def output(self) -> tuple[int, ...]:
        """Pixels of the result, along each axis."""
        sizes = zip(self.space, self.window, self.strides, self.padding, strict=True)
        spread = zip(self.x_dilation, self.kernel_dilation, strict=True)
        return tuple(
            ((n - 1) * dilation + sum(pad) - (taps - 1) * apart) // stride + 1
            for (n, taps, stride, pad), (dilation, apart) in zip(sizes, spread, strict=True)
        )

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        channels, features = kernel.shape[-2:]
        if max(self.x_dilation) > 1 and max(self.strides) == 1:
            return self._phases(x, kernel)
        if self.groups > 1 and channels == 1:
            return self._depthwise(x, kernel)
        if self.groups > 1:
            return self._grouped(x, kernel)
        if max(self.x_dilation) > 1:
            return self._direct(x, kernel)
        slid = self._slid(x, channels, features)
        if slid is None:
            return self._direct(x, kernel)
        places = jnp.asarray(self._places(slid), kernel.dtype)
        kernel = kernel.reshape(*self.window[:slid], -1, channels, features)
        matrix = jnp.einsum("iot,...tcf->...icof", places, kernel, precision=self.precision)
        matrix = matrix.reshape(-1, places.shape[1] * features)
        y = jnp.dot(self._windows(x, slid), matrix, precision=self.precision)
        return y.reshape(len(x), *self.output, features)

    def to_image(self, dy: jax.Array, kernel: jax.Array) -> jax.Array:
        sizes = zip(self.space, self.window, self.padding, self.output, strict=True)
        steps = zip(self.strides, self.x_dilation, self.kernel_dilation, strict=True)
        padding = []
        for (n, taps, (low, _), m), (stride, dilation, apart) in zip(sizes, steps, strict=True):
            before = (taps - 1) * apart - low
            after = (n - 1) * dilation + (taps - 1) * apart - (m - 1) * stride - before
            padding.append((before, after))
        backward = dataclasses.replace(
            self,
            space=self.output,
            strides=self.x_dilation,
            padding=tuple(padding),
            x_dilation=self.strides,
        )
        channels, features = kernel.shape[-2:]
        kernel = jnp.flip(kernel, range(len(self.window)))
        kernel = kernel.reshape(*self.window, channels, self.groups, features // self.groups)
        kernel = kernel.swapaxes(-1, -3).reshape(*self.window, -1, channels * self.groups)
        return multiply(dy, kernel, backward)

    def to_kernel(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        channels, features = x.shape[-1] // self.groups, dy.shape[-1]
        if self.groups > 1:
            if channels == 1 and max(self.x_dilation) == 1:
                return self._depthwise_kernel(dy, x)
            parts = zip(jnp.split(dy, self.groups, -1), jnp.split(x, self.groups, -1), strict=True)
            alone = dataclasses.replace(self, groups=1)
            return jnp.concatenate([alone.to_kernel(*part) for part in parts], -1)
        slid = self._slid(x, channels, features)
        if slid is not None:
            places = jnp.asarray(self._places(slid), dy.dtype)
            windows = self._windows(x, slid)
            dy = dy.reshape(len(windows), -1)
            dmatrix = jnp.dot(windows.T, dy, precision=self.precision)
            dmatrix = dmatrix.reshape(
                *self.window[:slid], len(places), channels, places.shape[1], features
            )
            dkernel = jnp.einsum("iot,...icof->...tcf", places, dmatrix, precision=self.precision)
            return dkernel.reshape(*self.window, channels, features)
        sizes = zip(self.space, self.window, self.padding, self.output, strict=True)
        steps = zip(self.strides, self.x_dilation, self.kernel_dilation, strict=True)
        padding = []
        for (n, taps, (low, _), m), (stride, dilation, apart) in zip(sizes, steps, strict=True):
            after = (taps - 1) * apart + (m - 1) * stride - (n - 1) * dilation - low
            padding.append((low, after))
        backward = dataclasses.replace(
            self,
            window=self.output,
            strides=self.kernel_dilation,
            padding=tuple(padding),
            kernel_dilation=self.strides,
        )

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
        first, rest = of_images(dy[0], x[0]), (dy[1:], x[1:])
        dkernel, _ = lax.scan(lambda sums, part: (sums + of_images(*part), None), first, rest)
        return dkernel

    def _slid(self, x: jax.Array, channels: int, features: int) -> int | None:
        """How many of the axes the windows of a product slide along; None: no product.

        Along the others the product covers all pixels at once, and its matrix is zero where a
        pixel is outside of a window.
        """
        axes, taps = len(self.window), math.prod(self.window)
        if max(self.x_dilation) > 1:
            return None
        if taps == 1:
            return axes
        if 1 < math.prod(self.space) <= taps and math.prod(self.output) <= taps:
            return 0
        row = max(self.space[-1], self.output[-1])
        filled = min(channels / LANES, 1) * min(features / LANES, 1)
        if row <= ROW_PIXELS and row / self.window[-1] * filled < ROW_GAIN:
            slid = axes - 1
        elif x.dtype == jnp.float64:  # XLA's convolution has no fast code
            slid = axes
        else:
            return None
        entries = math.prod((*self.window[:slid], *self.space[slid:])) * channels
        size = len(x) * math.prod(self.output[:slid]) * entries * x.dtype.itemsize
        return slid if size <= PATCH_BYTES else None

    def _places(self, slid: int) -> np.ndarray:
        """1 where a pixel of the image meets one of the result at a tap: [pixels, pixels', T]."""
        axes = zip(
            *(self.space, self.output, self.window, self.strides),
            *(self.padding, self.kernel_dilation),
            strict=True,
        )
        places = np.ones((1, 1, 1))
        for n, m, taps, stride, (low, _), apart in list(axes)[slid:]:
            i, o, t = np.ogrid[:n, :m, :taps]
            places = np.kron(places, i == o * stride + t * apart - low)
        return places

    def _windows(self, x: jax.Array, slid: int) -> jax.Array:
        """The windows along the first axes, the whole of the others: [windows, pixels * C]."""
        windows = jnp.concatenate(
            [seen.reshape(*seen.shape[: 1 + slid], -1) for seen in self._slices(x, slid)], -1
        )
        return windows.reshape(-1, windows.shape[-1])

    def _direct(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """XLA's convolution, with its dimensions in the order that has fast code."""
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
        taps = []
        for seen in self._slices(x, len(self.window)):
            seen = seen.reshape(parts, -1, *seen.shape[1:], 1)
            terms = [seen[i] * dy[i] for i in range(parts)]
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
        output, phases = self.output, self.x_dilation
        count = tuple(-(-m // phase) for m, phase in zip(output, phases, strict=True))
        images = []
        for phase in itertools.product(*map(range, phases)):
            taps: list[slice] = []
            padding: list[tuple[int, int]] = []
            dilation: list[int] = []
            for axis, (place, d) in enumerate(zip(phase, phases, strict=True)):
                apart, (low, _) = self.kernel_dilation[axis], self.padding[axis]
                seen = [t for t in range(self.window[axis]) if (place + t * apart - low) % d == 0]
                step = d // math.gcd(d, apart)
                first = (place + seen[0] * apart - low) // d if seen else 0
                reach = (len(seen) - 1) * step * apart // d
                taps.append(slice(seen[0], None, step) if seen else slice(0, 0))
                padding.append((-first, count[axis] - self.space[axis] + first + reach))
                dilation.append(step * apart // d)
            part = kernel[tuple(taps)]
            if part.size == 0:
                shape = (x.shape[0], *count, kernel.shape[-1])
                images.append(jnp.zeros(shape, x.dtype))
                continue
            product = dataclasses.replace(
                self,
                window=part.shape[:-2],
                padding=tuple(padding),
                x_dilation=(1,) * len(phases),
                kernel_dilation=tuple(dilation),
            )
            images.append(product.apply(x, part))
        y = jnp.stack(images, -2).reshape(x.shape[0], *count, *phases, kernel.shape[-1])
        axes = [axis for i in range(len(phases)) for axis in (1 + i, 1 + len(phases) + i)]
        y = y.transpose(0, *axes, y.ndim - 1)
        y = y.reshape(x.shape[0], *(n * d for n, d in zip(count, phases, strict=True)), -1)
        return y[(slice(None), *(slice(m) for m in output))]


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
    **_: Any,
) -> jax.Array | None:
    """The rule for ``conv_general_dilated``, whose arguments it takes; None where it has none."""
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
    product = _Convolution(
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
    y = multiply(x, kernel, product)
    order = np.argsort([dimension_numbers.out_spec[i] for i in (0, *range(2, 2 + axes), 1)])
    return y.transpose(order)
