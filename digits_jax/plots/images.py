"""Figures of images: sheets of digits, means of pixels, points of an embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from digits_jax.plots.arrays import array_of, labels_of, names_of
from digits_jax.plots.style import (
    COLUMN,
    ORANGE,
    PAGE,
    PAPER,
    PITCH,
    TEN,
    colorbar,
    new_figure,
    styled,
    tiles,
)


@styled
def digit_sheet(
    images: npt.ArrayLike,
    titles: Sequence[str],
    *,
    columns: int = 8,
    title: str = "",
    framed: Iterable[int] = (),
    black: float = 16,
) -> Figure:
    """A sheet of images, each under its title.

    Args:
        images: [N, H, W]; N may be 0.
        titles: [N], each of one or more lines. Where one is long, all are smaller.
        columns: number of images side by side, at least 1.
        title: of the whole sheet.
        framed: numbers of the images that get a frame.
        black: the value that is black (0 is white): 1 or 255 for images of other data.

    Returns:
        The figure.

    Raises:
        ValueError: images, titles or `columns` are not so.
    """
    digits = array_of("images", images, "N", "H", "W") if np.size(images) else np.empty(0)
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    titles, columns = names_of(titles, range(len(digits))), min(columns, max(len(digits), 4))
    cell = min(PAGE / columns, 0.875)  # inches, from digit to digit
    lines = [each.split("\n") for each in titles]
    size = min(7.0, 110 * cell / max((len(line) for each in lines for line in each), default=1))
    above = max(map(len, lines), default=0) * size / 58 + 0.06  # inches, for a digit's title
    height = -(-len(digits) // columns) * (cell + above) + (0.3 if title else 0.1)
    figure, (panel,) = new_figure(columns * cell, height)
    tiles(panel, digits, columns, titles, above * PITCH / cell, vmax=black)
    for text in panel.texts:
        text.set_size(size)
    for i in framed:
        panel.patches[i].set(edgecolor=ORANGE, linewidth=1.6)
    figure.suptitle(title, x=0.05 / (columns * cell), ha="left", fontsize=8)
    return figure


@styled
def class_means(images: npt.ArrayLike, labels: npt.ArrayLike) -> Figure:
    """Mean and standard deviation of each pixel, by class.

    Args:
        images: [N, H, W].
        labels: integers [N].

    Returns:
        The figure.

    Raises:
        TypeError: labels are not integers.
        ValueError: an array is empty or hasn't that shape.
    """
    pixels = array_of("images", images, "N", "H", "W")
    classes = labels_of(labels, len(pixels))
    groups = {str(k): pixels[classes == k] for k in np.unique(classes)}
    figure, panels = new_figure(PAGE, 1.7, nrows=2, height_ratios=[1.35, 1.14])
    means, sds = (np.stack([f(g, axis=0) for g in groups.values()]) for f in (np.mean, np.std))
    tiles(panels[0], means, len(groups), titles=[*groups], above=0.25)
    tiles(panels[1], sds, len(groups), vmax=8, cmap="cividis")
    colorbar(panels[0], "Mean\n(ink count)")
    colorbar(panels[1], "Sd\n(ink count)")
    return figure


@styled
def pixel_statistics(images: npt.ArrayLike) -> Figure:
    """Mean and variance of each pixel over all rows.

    Args:
        images: [N, H, W].

    Returns:
        The figure.

    Raises:
        ValueError: an array is empty or hasn't that shape.
    """
    pixels = array_of("images", images, "N", "H", "W")
    figure, panels = new_figure(COLUMN, 2.1, ncols=2, sharey=True)
    maps = ((pixels.mean(axis=0), "Mean (ink count)"), (pixels.var(axis=0), "Variance (count²)"))
    for panel, (values, label) in zip(panels, maps, strict=True):
        panel.imshow(values, cmap="cividis", vmin=0, vmax=values.max() or 1.0)
        panel.set(xticks=range(values.shape[1]), yticks=range(len(values)), xlabel="Column")
        colorbar(panel, label, location="top")
    panels[0].set_ylabel("Row")
    return figure


@styled
def embedding(points: npt.ArrayLike, labels: npt.ArrayLike, *, name: str = "Dimension") -> Figure:
    """Points in a plane, in the colour of their class.

    Args:
        points: [N, 2].
        labels: integers [N].
        name: of both axes, such as "Principal component".

    Returns:
        The figure.

    Raises:
        TypeError: labels are not integers.
        ValueError: an array is empty or hasn't that shape.
    """
    places = array_of("points", points, "N", 2)
    classes = labels_of(labels, len(places))
    figure, (panel,) = new_figure(COLUMN, 3.1)
    for i, k in enumerate(np.unique(classes)):
        x, y = places[classes == k].T
        style: dict[str, Any] = {"color": TEN[i % 10], "marker": "os^Dv"[i % 5], "linewidths": 0}
        panel.scatter(x, y, s=6, alpha=0.7, rasterized=True, label=str(k), **style)
        box = {"facecolor": PAPER, "alpha": 0.7, "linewidth": 0, "pad": 0.6}
        panel.text(np.median(x), np.median(y), str(k), ha="center", va="center", bbox=box)
    panel.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
    figure.legend(loc="outside right center", title="Class", handletextpad=0, markerscale=1.8)
    return figure
