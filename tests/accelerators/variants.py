"""The library with one thing changed, to see what a change is worth before it is made.

Each changes the imported library in place; call it before anything is compiled.

    lax-conv  a plain ``lax.conv_general_dilated`` for every 3x3 convolution
    pixels    every 3x3 convolution as one product of nine taps for each pixel
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import library
from jax import lax


def apply(names: Iterable[str]) -> None:
    """Makes the changes of those names."""
    for name in names:
        CHANGES[name]()


def lax_conv(x: jax.Array, kernel: jax.Array, *, pool: bool = False) -> jax.Array:
    """The function of the library's ``conv3x3``, as XLA's own convolution.

    Args:
        x: images, [H, W, C, B].
        kernel: [3, 3, C, F].
        pool: also take the largest of each 2x2 cell.

    Returns:
        [H, W, F, B]; with ``pool`` [H/2, W/2, F, B].
    """
    h, w, _, batch = x.shape
    numbers = ("HWCN", "HWIO", "HWCN")
    y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    if not pool:
        return y
    cells = y[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, -1, batch)
    return library.max_of_cells(cells.transpose(1, 3, 0, 2, 4, 5))


CHANGES: dict[str, Callable[[], None]] = {
    "lax-conv": functools.partial(library.replace_convolutions, lax_conv),
    "pixels": functools.partial(library.replace_convolutions, library.conv3x3_by_pixels),
}
