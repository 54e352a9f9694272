"""Figures of a network's inside: activations, filters, gradients."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from digits_jax.plots.arrays import array_of
from digits_jax.plots.style import COLUMN, PAGE, colorbar, new_figure, styled, tiles


@styled
def feature_maps(image: npt.ArrayLike, layers: Mapping[str, npt.ArrayLike]) -> Figure:
    """What each layer makes of an image.

    All maps of a layer share one colour scale, from the least of its activations to the largest.

    Args:
        image: [H, W].
        layers: activations [H', W', maps] by name.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape.
    """
    maps = {k: np.moveaxis(array_of(k, v, "H", "W", "F"), -1, 0) for k, v in layers.items()}
    rows = [1, *(-(-len(each) // 16) for each in maps.values())]
    height = sum(rows) * 0.43 + len(rows) * 0.25
    figure, panels = new_figure(PAGE, height, nrows=len(rows), height_ratios=rows)
    panels[0].set_title("image", loc="left")
    tiles(panels[0], array_of("image", image, "H", "W")[None], 16)
    colorbar(panels[0], "Ink count")
    for panel, (name, each) in zip(panels[1:], maps.items(), strict=True):
        panel.set_title(f"{name}: {len(each)} maps, {each.shape[1]}×{each.shape[2]}", loc="left")
        scale = {"vmin": each.min(), "vmax": each.max() + (not np.ptp(each))}
        tiles(panel, each, 16, cmap="viridis", **scale)
        colorbar(panel, "Activation")
    return figure


@styled
def filters(kernel: npt.ArrayLike) -> Figure:
    """A first layer's filters, on one colour scale that is white at 0.

    Args:
        kernel: [h, w, 1, F].

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape.
    """
    maps = np.moveaxis(array_of("kernel", kernel, "h", "w", 1, "F")[:, :, 0], -1, 0)
    figure, (panel,) = new_figure(COLUMN, 0.2 + 0.36 * -(-len(maps) // 8))
    reach = np.abs(maps).max() or 1.0
    tiles(panel, maps, 8, vmin=-reach, vmax=reach, cmap="RdBu_r")
    colorbar(panel, "Weight")
    return figure


@styled
def saliency(image: npt.ArrayLike, gradient: npt.ArrayLike, *, name: str = "logit") -> Figure:
    """An image, and the gradient of an output by its pixels.

    Args:
        image: [H, W].
        gradient: [H, W].
        name: of the output.

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape.
    """
    pixels = array_of("image", image, "H", "W")
    slopes = array_of("gradient", gradient, *pixels.shape)
    figure, panels = new_figure(COLUMN, 2.1, ncols=2)
    reach = np.abs(slopes).max() or 1.0
    tiles(panels[0], pixels[None], 1)
    colorbar(panels[0], "Ink count", location="bottom")
    tiles(panels[1], slopes[None], 1, vmin=-reach, vmax=reach, cmap="RdBu_r")
    colorbar(panels[1], f"d {name} / d ink count", location="bottom")
    return figure
