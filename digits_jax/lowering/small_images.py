"""Convolutions and dense layers of arrays whose last axis is the batch; see ``batch_last``.

Shapes: B batch, H and W pixels, C channels, F features, P products. Images are [H, W, C, B] and
kernels [taps, taps, C, F].
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from digits_jax.lowering.batch_last import FEWEST, SMALL, Convolved, Last
from digits_jax.lowering.convolutions import PATCH_BYTES
from digits_jax.lowering.pools import pool
from digits_jax.lowering.products import Product, multiply

LANES = 8  # channels from which on XLA's convolution of a larger image is faster


@dataclasses.dataclass(frozen=True)
class _Matrix(Product):
    """``kernel.T @ x`` over leading axes: [..., C, F] and [..., C, B] give [..., F, B].

    XLA's CPU backend has slow code for products whose first factor is transposed (measured: 20 to
    100 GFLOP/s instead of 150 on one core). So the kernel is transposed as a step of its own, which
    the barrier keeps XLA from folding back, and the two products of the backward pass are
    spelled out in the forms that are fast.
    """

    takes_leading_axes = True

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        transposed: jax.Array = lax.optimization_barrier(jnp.swapaxes(kernel, -1, -2))
        return transposed @ x

    def to_image(self, dy: jax.Array, kernel: jax.Array) -> jax.Array:
        return kernel @ dy

    def to_kernel(self, dy: jax.Array, x: jax.Array) -> jax.Array:
        if x.shape[-2] < 32:  # the product's longer side comes first
            dkernel = lax.optimization_barrier(dy @ jnp.swapaxes(x, -1, -2))
            return jnp.swapaxes(dkernel, -1, -2)
        return x @ jnp.swapaxes(dy, -1, -2)


def matmul(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """``kernel.T @ x`` over leading axes: [..., C, F] and [..., C, B] give [..., F, B]."""
    return multiply(x, kernel, _Matrix())


def dense(x: Last, kernel: jax.Array, *, dimension_numbers: Any, **params: Any) -> Last | None:
    """The rule for ``dot_general`` of [B, C] and [C, F]."""
    plain = isinstance(x, Last) and not isinstance(kernel, Last)
    if not plain or dimension_numbers != (((1,), (0,)), ((), ())) or len(x.shape) != 2:
        return None
    if kernel.ndim != 2 or kernel.dtype != x.array.dtype or not _is_plain(params.get("precision")):
        return None
    if params.get("preferred_element_type") not in (None, kernel.dtype):
        return None
    return Last(matmul(kernel, x.array))


def convolution(
    x: Any,
    kernel: jax.Array,
    pooled: Callable[[], bool],
    *,
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    lhs_dilation: tuple[int, ...],
    rhs_dilation: tuple[int, ...],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    precision: Any,
    preferred_element_type: Any,
    **_: Any,
) -> Last | None:
    """The rule for ``conv_general_dilated`` of small images; None where it has none."""
    if len(window_strides) != 2 or isinstance(kernel, Last) or feature_group_count > 1:
        return None
    if set((*window_strides, *lhs_dilation, *rhs_dilation, batch_group_count)) != {1}:
        return None
    order = tuple(map(tuple, (dimension_numbers.lhs_spec, dimension_numbers.out_spec)))
    if order != ((0, 3, 1, 2),) * 2 or not _is_plain(precision):
        return None
    if kernel.dtype != jnp.float32 or preferred_element_type not in (None, kernel.dtype):
        return None
    batch, height, width, _ = x.shape
    out, into, *window = dimension_numbers.rhs_spec
    kernel = kernel.transpose(*window, into, out)
    taps = kernel.shape[:2]
    space = tuple(
        n + sum(pad) - t + 1 for n, pad, t in zip((height, width), padding, taps, strict=True)
    )
    negative = min(map(min, padding)) < 0
    if batch < FEWEST or max(height, width, *space) > SMALL or min(space) < 1 or negative:
        return None
    # The filtered form's windows are smaller.
    if window_bytes(x.shape, taps, space) > PATCH_BYTES:
        return None
    filtered = taps == (3, 3) and set(padding) == {(1, 1)} and max(space) <= 4
    few = kernel.shape[2] < LANES
    if not isinstance(x, Last):
        if x.dtype != kernel.dtype or not few or not pooled():
            return None
        x = Last(jnp.moveaxis(x, 0, -1))
    if x.array.dtype != kernel.dtype or not (filtered or few):
        return None
    form = _filtered if filtered else _by_cells
    return form(x.array, kernel, padding, space)


def _is_plain(precision: Any) -> bool:
    """Whether a CPU's product is the same as without: each ``lax.Precision`` is float32 there."""
    each = precision if isinstance(precision, tuple) else (precision,)
    return all(one is None or isinstance(one, lax.Precision) for one in each)


def window_bytes(shape: Sequence[int], taps: Sequence[int], space: Sequence[int]) -> int:
    """Memory of the windows of all 2x2 cells of a result, of images [B, H, W, C] in float32."""
    cells = math.prod(-(-n // 2) for n in space)
    return 4 * shape[0] * shape[3] * cells * math.prod(t + 1 for t in taps)


def _by_cells(x: jax.Array, kernel: jax.Array, padding: Any, space: Any) -> Convolved:
    """One product for each 2x2 cell of results: all cells line up beside the batch."""
    channels, features = kernel.shape[2:]
    rows, columns = (-(-n // 2) for n in space)
    (top, _), (left, _) = padding
    window = tuple(taps + 1 for taps in kernel.shape[:2])
    reach = (2 * rows + window[0] - 2, 2 * columns + window[1] - 2)
    below, right = reach[0] - x.shape[0] - top, reach[1] - x.shape[1] - left
    x = jnp.pad(x, ((top, below), (left, right), (0, 0), (0, 0)))
    seen = [
        x[i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
        for i, j in itertools.product(*map(range, window))
    ]
    windows = jnp.stack(seen).transpose(0, 3, 1, 2, 4).reshape(len(seen) * channels, -1)
    taps = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))  # zero where a tap leaves the kernel
    blocks = [
        taps[1 - i : 1 - i + window[0], 1 - j : 1 - j + window[1]] for i in (0, 1) for j in (0, 1)
    ]
    matrix = jnp.stack(blocks, axis=3).reshape(-1, 4 * features)
    y = matmul(matrix, windows).reshape(2, 2, features, rows, columns, -1)
    return _convolved(y, space, (1, 2, 0, 3))


def _convolved(cells: jax.Array, space: Any, order: tuple[int, ...]) -> Convolved:
    """Of cells [2, 2, ...]; ``order`` brings the other axes to [H / 2, W / 2, F, B]."""
    height, width = space

    def whole() -> jax.Array:
        each = cells.transpose(0, 1, *(2 + axis for axis in order))
        _, _, rows, columns, features, batch = each.shape
        each = each.transpose(2, 0, 3, 1, 4, 5).reshape(2 * rows, 2 * columns, features, batch)
        return each[:height, :width]

    def best() -> jax.Array:
        return best_of_cells(cells).transpose(order)[: height // 2, : width // 2]

    features = cells.shape[2 + order[2]]
    return Convolved(whole, best, (cells.shape[-1], height, width, features))


def best_of_cells(cells: jax.Array) -> jax.Array:
    """The largest of [2, 2, ...]; of equal values the first gets the gradient."""
    best = pool(
        cells,
        window_dimensions=(2, 2) + (1,) * (cells.ndim - 2),
        window_strides=(2, 2) + (1,) * (cells.ndim - 2),
        padding=((0, 0),) * cells.ndim,
        base_dilation=(1,) * cells.ndim,
        window_dilation=(1,) * cells.ndim,
        kind="max",
    )
    assert best is not None
    return best[0, 0]


_Lines = tuple[jax.Array, ...]


class _Filtering(NamedTuple):
    """A filter of three taps along a zero-padded line, with few products.

    Sums of the line's points, times sums of the taps, are P products; and sums of these are the
    line's outputs. The sums cost half a digit: with four points the error is 1e-6 of the largest
    output in float32, where the plain form's is 3e-7.

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


def _filtered(x: jax.Array, kernel: jax.Array, padding: Any, space: Any) -> Convolved:
    """3x3 taps with zero padding, of at most 4x4 pixels: cells along the columns, filtered rows.

    The windows leave the padding out. An image of 4x4 pixels needs 1/2 of the plain form's
    arithmetic, one of 2x2 needs 1/3.
    """
    (h, w), batch = space, x.shape[-1]
    features = kernel.shape[-1]
    x = jnp.pad(x, ((0, h % 2), (0, w % 2), (0, 0), (0, 0)))
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    filtering = _FILTERINGS[rows]
    rows_in = jnp.stack(filtering.inputs(*x))  # [P, W, C, B]
    kernels = jnp.stack(filtering.taps(*kernel))  # [P, 3, C, F]
    windows, matrices = [], []
    for j, (left, width) in enumerate(((0, 2),) if columns == 1 else ((0, 3), (1, 3))):
        window = rows_in[:, left : left + width]
        windows.append(window.reshape(len(window), -1, batch))
        matrices.append(_row_matrix(kernels, left - 2 * j, width))
    # One matrix for each cell along the columns and each of the P products down the rows.
    y = matmul(jnp.concatenate(matrices), jnp.concatenate(windows))
    y = y.reshape(columns, -1, 2, features, batch)
    y = jnp.stack(filtering.outputs(*(y[:, product] for product in range(y.shape[1]))))
    cells = y.reshape(rows, 2, columns, 2, features, batch).transpose(1, 3, 0, 2, 4, 5)
    return _convolved(cells, (h, w), (0, 1, 2, 3))


def _row_matrix(kernels: jax.Array, start: int, width: int) -> jax.Array:
    """The taps of rows [P, 3, C, F] at their places: [P, width * C, 2 * F].

    ``start`` is the first input pixel of the window, counted from the first of two outputs.
    """
    taps = jnp.pad(kernels, ((0, 0), (1, 1), (0, 0), (0, 0)))  # zero where a tap leaves the kernel
    blocks = [taps[:, start + 2 - j : start + 2 - j + width] for j in (0, 1)]
    return jnp.stack(blocks, axis=3).reshape(len(kernels), -1, 2 * kernels.shape[-1])
