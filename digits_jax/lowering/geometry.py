"""The shapes of a convolution: of its result, its gradients, its phases."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from digits_jax.lowering.products import Product

Pairs = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Geometry(Product):
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

    def of_image(self) -> Self:
        """The convolution of the result's gradient that gives the image's."""
        sizes = zip(self.space, self.window, self.padding, self.output, strict=True)
        steps = zip(self.strides, self.x_dilation, self.kernel_dilation, strict=True)
        padding = []
        for (n, taps, (low, _), m), (stride, dilation, apart) in zip(sizes, steps, strict=True):
            before = (taps - 1) * apart - low
            after = (n - 1) * dilation + (taps - 1) * apart - (m - 1) * stride - before
            padding.append((before, after))
        return dataclasses.replace(
            self,
            space=self.output,
            strides=self.x_dilation,
            padding=tuple(padding),
            x_dilation=self.strides,
        )

    def of_kernel(self) -> Self:
        """The convolution of the image with the result's gradient that gives the kernel's."""
        sizes = zip(self.space, self.window, self.padding, self.output, strict=True)
        steps = zip(self.strides, self.x_dilation, self.kernel_dilation, strict=True)
        padding = []
        for (n, taps, (low, _), m), (stride, dilation, apart) in zip(sizes, steps, strict=True):
            after = (taps - 1) * apart + (m - 1) * stride - (n - 1) * dilation - low
            padding.append((low, after))
        return dataclasses.replace(
            self,
            window=self.output,
            strides=self.kernel_dilation,
            padding=tuple(padding),
            kernel_dilation=self.strides,
        )

    def wide(self, count: int) -> Self:
        """With so many results beside one another as features: more taps, and as large a stride."""
        (*strides, _), (*window, taps), (*padding, (low, high)) = (
            self.strides,
            self.window,
            self.padding,
        )
        high += -self.output[-1] % count
        return dataclasses.replace(
            self,
            window=(*window, taps + count - 1),
            strides=(*strides, count),
            padding=(*padding, (low, high)),
        )

    def places(self, slid: int) -> np.ndarray:
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

    def phase_pixels(self) -> tuple[int, ...]:
        """Pixels of a phase of the output, along each axis."""
        return tuple(-(-m // d) for m, d in zip(self.output, self.x_dilation, strict=True))

    def phases(self) -> Iterator[tuple[tuple[slice, ...], Self | None]]:
        """For each phase of the output: its taps, and its convolution; None where it has no tap."""
        count = self.phase_pixels()
        for phase in itertools.product(*map(range, self.x_dilation)):
            taps: list[slice] = []
            padding: list[tuple[int, int]] = []
            dilation: list[int] = []
            window: list[int] = []
            for axis, (place, d) in enumerate(zip(phase, self.x_dilation, strict=True)):
                apart, (low, _) = self.kernel_dilation[axis], self.padding[axis]
                seen = [t for t in range(self.window[axis]) if (place + t * apart - low) % d == 0]
                step = d // math.gcd(d, apart)
                first = (place + seen[0] * apart - low) // d if seen else 0
                reach = (len(seen) - 1) * step * apart // d
                taps.append(slice(seen[0], None, step) if seen else slice(0, 0))
                padding.append((-first, count[axis] - self.space[axis] + first + reach))
                dilation.append(step * apart // d)
                window.append(len(seen))
            part = dataclasses.replace(
                self,
                window=tuple(window),
                padding=tuple(padding),
                x_dilation=(1,) * len(count),
                kernel_dilation=tuple(dilation),
            )
            yield tuple(taps), part if min(window) else None
