"""Augmentation for an ``Recipe``: its ``augment`` in training, its ``views`` in testing.

Shapes: B images of a batch, H and W pixels, V views of an image.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jitter:
    """Turns, scales, shears, shifts, bends and inks each image anew, at random.

    Each number is the largest change to either side; each image draws its own, uniformly. Images
    are turned and scaled about their centre and read bilinearly; what comes in from outside is 0,
    the white of the paper.

    Attributes:
        rotation: degrees.
        scale: 0.1 is 0.9 to 1.1 of the size, the same for height and width.
        shear: pixels across a pixel down.
        shift: pixels, down and across.
        elastic: pixels, down and across, that differ from place to place: drawn for 3x3 points
            spread over the image, linear between them.
        ink: pixels below an image's darkest, as a fraction of it, are raised to the power exp(ink)
            at most, exp(-ink) at least: thinner and bolder strokes.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    ink: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} must be a number of at least 0, not {value}")
        if self.scale >= 1:
            raise ValueError(f"scale must be below 1, not {self.scale}")

    def __call__(
        self, key: jax.Array, inputs: jax.Array, targets: Any, h: Any = None
    ) -> tuple[jax.Array, Any]:
        """Changed images, float32 [B, H, W] or [B, H, W, C], and the targets as they are.

        Pixels stay between 0 and the image's darkest (of each channel).

        Args:
            key: typed PRNG key.
            inputs: images [B, H, W] or [B, H, W, C], any number type, not negative.
            targets: of the rows; not changed.
            h: not used.
        """
        del h
        return self.changed(key, inputs), targets

    def changed(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """The images alone; see ``__call__``. All channels of an image move together."""
        if images.ndim == 4:
            by_channel = jax.vmap(lambda each: self.changed(key, each), in_axes=-1, out_axes=-1)
            return by_channel(images)
        draws = jax.random.uniform(key, (6 + 18, images.shape[0]), jnp.float32, minval=-1.0)
        angle = draws[0] * math.radians(self.rotation)
        size = 1 + draws[1] * self.scale
        shear = draws[2] * self.shear
        # From an output pixel to where it comes from: turned back, then sheared, then scaled.
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        matrix = jnp.stack([cosine, sine, shear * cosine - sine, shear * sine + cosine], axis=-1)
        matrix = (matrix / size[:, None]).reshape(-1, 2, 2)
        shift = (draws[3:5].T * self.shift)[:, None, None]
        if self.elastic:
            grid = draws[6:].T.reshape(-1, 3, 3, 2) * self.elastic
            shift = shift + jax.image.resize(grid, (*images.shape, 2), "linear")
        warped = warp(images, matrix, shift)
        if not self.ink:
            return warped
        darkest = jnp.maximum(jnp.max(warped, axis=(1, 2), keepdims=True), 1e-6)
        power = jnp.exp(draws[5] * self.ink).reshape(-1, 1, 1)
        return darkest * (warped / darkest) ** power


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShiftedViews:
    """Five views of an image: as it is, and shifted up, down, left and right.

    Attributes:
        distance: of each shift, in pixels; read bilinearly, 0 comes in from outside.
    """

    distance: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.distance) and self.distance > 0):
            raise ValueError(f"distance must be a number above 0, not {self.distance}")

    def __call__(self, images: jax.Array) -> jax.Array:
        """The views, float32 [5, B, H, W] or [5, B, H, W, C].

        Args:
            images: [B, H, W] or [B, H, W, C], any number type.
        """
        if images.ndim == 4:
            return jax.vmap(self, in_axes=-1, out_axes=-1)(images)
        still = jnp.broadcast_to(jnp.eye(2), (images.shape[0], 2, 2))
        shifts = self.distance * jnp.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], jnp.float32)
        shifts = jnp.broadcast_to(shifts[:, None, None, None], (5, images.shape[0], 1, 1, 2))
        return jnp.stack([warp(images, still, shift) for shift in shifts])


def warp(images: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """Each image read at ``matrix @ (pixel - centre) + centre - shift``, bilinearly, 0 outside.

    The weights of bilinear interpolation are written out as products of two hat functions, so that
    it is arithmetic without a gather.

    Args:
        images: [B, H, W], any number type.
        matrix: float32 [B, 2, 2], of (row, column).
        shift: float32 [B, H, W, 2] or [B, 1, 1, 2], in pixels: where the image goes, down and
            across.

    Returns:
        float32 [B, H, W].
    """
    h, w = images.shape[1:]
    centre = jnp.array([(h - 1) / 2, (w - 1) / 2], jnp.float32)
    pixels = jnp.stack(jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij"), axis=-1)
    away = pixels.reshape(1, h * w, 2) - centre.reshape(1, 1, 2)
    read = jnp.einsum("bij,bpj->bpi", matrix, jnp.broadcast_to(away, (images.shape[0], h * w, 2)))
    read = read + centre.reshape(1, 1, 2) - shift.reshape(images.shape[0], -1, 2)

    def hats(positions: jax.Array, size: int) -> jax.Array:
        """[B, P] to [B, P, size]: how much of each row (or column) a position takes."""
        away = positions[..., None] - jnp.arange(size, dtype=jnp.float32).reshape(1, 1, -1)
        return jnp.maximum(0, 1 - jnp.abs(away))

    rows, columns = hats(read[..., 0], h), hats(read[..., 1], w)
    by_column = jnp.einsum("bpi,bij->bpj", rows, images.astype(jnp.float32))
    return jnp.sum(by_column * columns, axis=-1).reshape(images.shape)
