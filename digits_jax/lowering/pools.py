"""Pools, whose windows are unrolled; of equal values the first gets the gradient."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Pairs = tuple[tuple[int, int], ...]

POOLS = ("max", "min", "sum")
POOL_TAPS = 16  # up to which a pool's window is unrolled


def pool(
    x: jax.Array,
    *,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: Pairs,
    base_dilation: tuple[int, ...],
    window_dilation: tuple[int, ...],
    kind: str,
    **_: Any,
) -> jax.Array | None:
    """A pool of windows, one axis after the other; a maximum is the first of equal values."""
    if not jnp.issubdtype(x.dtype, jnp.floating) or max(base_dilation) > 1 or 0 in x.shape:
        return None
    windows = list(zip(window_dimensions, window_strides, padding, window_dilation, strict=True))
    apart = all(w == s and d == 1 for w, s, pad, d in windows)
    if not apart and max(window_dimensions) > POOL_TAPS:
        return None
    value, combine = _COMBINE[kind]
    shape = [
        (n + sum(pad) - (w - 1) * d - 1) // s + 1
        for n, (w, s, pad, d) in zip(x.shape, windows, strict=True)
    ]
    if min(shape) < 1:
        return None
    # Exactly the pixels that the windows cover: others are cut off.
    reach = [
        (m - 1) * s + (w - 1) * d + 1 for m, (w, s, pad, d) in zip(shape, windows, strict=True)
    ]
    config = [
        (pad[0], end - n - pad[0], 0) for n, end, pad in zip(x.shape, reach, padding, strict=True)
    ]
    if any(map(any, config)):
        x = lax.pad(x, jnp.asarray(value, x.dtype), config)
    if apart and math.prod(window_dimensions) <= POOL_TAPS:
        return _pool_apart(x, window_dimensions, kind)
    for axis in reversed(range(x.ndim)):  # the last axis first: then the first of equals wins
        w, s, pad, d = windows[axis]
        if w == 1 and s == 1:
            continue
        taps = [
            lax.slice_in_dim(x, i * d, i * d + (shape[axis] - 1) * s + 1, s, axis) for i in range(w)
        ]
        x = functools.reduce(combine, taps)
    return x


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _pool_apart(x: jax.Array, window: tuple[int, ...], kind: str) -> jax.Array:
    """The pool of windows that don't overlap and cover the image."""
    if kind == "sum":
        return functools.reduce(jnp.add, _taps(x, window))
    return _winners(x, window, kind)[0]


@_pool_apart.defjvp
def _pool_apart_jvp(
    window: tuple[int, ...], kind: str, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The gradient, too, is one pass: a byte for each window says who gets it."""
    (x,), (dx,) = primals, tangents
    cells, axes = _cells(dx, window), tuple(range(1, 2 * x.ndim, 2))
    if kind != "sum":
        winners = jnp.expand_dims(_winners(x, window, kind)[1], axes)
        places = np.arange(math.prod(window), dtype=np.uint8)
        places = places.reshape([part for taps in window for part in (1, taps)])
        cells = jnp.where(winners == places, cells, 0)
    return _pool_apart(x, window, kind), jnp.sum(cells, axes)


def _cells(x: jax.Array, window: tuple[int, ...]) -> jax.Array:
    """Each axis split into windows and taps."""
    return x.reshape([part for n, w in zip(x.shape, window, strict=True) for part in (n // w, w)])


def _taps(x: jax.Array, window: tuple[int, ...]) -> list[jax.Array]:
    """The first pixel of each window, the second, ..., row by row."""
    cells = _cells(x, window)
    taps = [tuple(part for t in tap for part in (slice(None), t)) for tap in np.ndindex(window)]
    return [cells[tap] for tap in taps]


def _winners(x: jax.Array, window: tuple[int, ...], kind: str) -> tuple[jax.Array, jax.Array]:
    """The largest or least value of each window, and its place there, uint8."""
    best, *others = _taps(x, window)
    winner = jnp.zeros(best.shape, jnp.uint8)
    for i, seen in enumerate(others, 1):
        better = (seen > best if kind == "max" else seen < best) | (seen != seen)  # or NaN
        best, winner = jnp.where(better, seen, best), jnp.where(better, jnp.uint8(i), winner)
    return best, winner


def _first_max(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where((b > a) | (b != b), b, a)  # b != b: not a number


def _first_min(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where((b < a) | (b != b), b, a)


# What padding is worth, and how two values of a window become one.
_COMBINE: dict[str, tuple[float, Callable[[jax.Array, jax.Array], jax.Array]]] = {
    "sum": (0.0, lambda a, b: a + b),
    "max": (-math.inf, _first_max),
    "min": (math.inf, _first_min),
}
