"""Finds the ink of one digit in grey values, or says what is there instead.

Paper is the side of Otsu's threshold on which most of the border lies, once a frame is peeled off.
Marks are connected pixels of ink; those that surround a digit or run along the edge are lines.

H and W are height and width in pixels.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from digits_jax.pictures import PreprocessingError

_LEAST_CONTRAST = 16  # of 255, between the means of ink and paper
_ROUGHEST_PAPER = 0.2  # of the contrast: the standard deviation of what is paper
_SPECK = 1 / 20  # of the largest mark's pixels; smaller ones are dirt
_THICKEST_FRAME = 0.2  # of the shorter side
_PIXELS_OF_SURFACE = 4000  # that a surface is fitted to
_SOFTEST = 0.55  # of its pixels: those between a quarter and three quarters of ink
_SMALLEST = 6  # pixels, of a digit's height
_MOST_PIECES = 3  # of a broken digit
_MOST_ENDS_AT_EDGE = 8  # of strokes; a tight crop of a digit has fewer

_Grey = npt.NDArray[np.float64]
_Mask = npt.NDArray[np.bool_]
_Value = TypeVar("_Value", np.float64, np.bool_)


class Ink(NamedTuple):
    """The ink of one digit.

    Attributes:
        amount: float32 [H, W], how much of each pixel is ink, 0..1.
        crop: uint8 [h, w], the grey values of the part that has ink.
    """

    amount: npt.NDArray[np.float32]
    crop: npt.NDArray[np.uint8]


class _Mark(NamedTuple):
    """Connected pixels of ink."""

    number: int  # its label
    area: int  # pixels
    top: int
    left: int
    bottom: int  # the row behind the last
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left


def border_median(grey: _Grey) -> float:
    """The median of the outermost pixels of [H, W]."""
    return float(np.median(_ring(grey, 0)))


def find_ink(grey: _Grey) -> Ink:
    """The ink of the one digit in an image.

    Args:
        grey: float64 [H, W], 0 is black and 255 white; more than 8 pixels a side.

    Returns:
        Its ink and its part of the image.

    Raises:
        PreprocessingError: the image is blank or too faint, its ground is not plain, or it holds
            something else than one digit.

    Reference:
        Otsu (1979), A Threshold Selection Method from Gray-Level Histograms, IEEE Transactions on
        Systems, Man, and Cybernetics 9:62-66.
    """
    whole, grey = grey, _inside_frame(grey)
    if min(grey.shape) <= 8 or not np.ptp(grey) > _LEAST_CONTRAST:
        grey = whole
    ink, rough = _ink(grey)
    if rough > _ROUGHEST_PAPER:  # light that falls unevenly varies slowly
        ink, rough = _ink(_even(grey))
    if rough > _ROUGHEST_PAPER:
        raise PreprocessingError(
            "the ground is not plain (uneven light, a pattern, or a photograph of something else);"
            " give a digit on plain paper"
        )
    solid = ink > 0.5
    labels, _ = ndimage.label(solid, structure=np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    marks = [
        _Mark(
            number, int(areas[number]), place[0].start, place[1].start, place[0].stop, place[1].stop
        )
        for number, place in enumerate(ndimage.find_objects(labels), start=1)
    ]
    marks = _without_lines(marks, labels)
    digit = _digit(marks, labels, solid)
    # A line's soft edge goes with it; a speck's may stay, for it is no ink.
    kept = np.isin(labels, [mark.number for mark in digit])
    near = ndimage.binary_dilation(kept, iterations=2) & ((labels == 0) | kept)
    if (near & (ink > 0.25) & (ink < 0.75)).sum() > _SOFTEST * kept.sum():
        raise PreprocessingError(
            "the edges are soft (out of focus, or too small); give a sharper or a larger image"
        )
    top, left = min(mark.top for mark in digit), min(mark.left for mark in digit)
    bottom, right = max(mark.bottom for mark in digit), max(mark.right for mark in digit)
    margin = max(1, (bottom - top) // 10)
    crop = grey[
        max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin
    ].clip(0, 255)
    return Ink(np.where(near, ink, 0).astype(np.float32), crop.astype(np.uint8))


def _ring(values: npt.NDArray[_Value], depth: int) -> npt.NDArray[_Value]:
    """The pixels that are `depth` from the edge."""
    inside = values[depth : values.shape[0] - depth, depth : values.shape[1] - depth]
    return np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])


def _around(values: _Mask) -> _Mask:
    """The outermost pixels in the order of a walk around the image."""
    return np.concatenate([values[0], values[1:, -1], values[-1, -2::-1], values[-2:0:-1, 0]])


def _inside_frame(grey: _Grey) -> _Grey:
    """Without what surrounds it along the edge: rings of one tone, and then of the other."""
    dark, light = _two_levels(grey)
    is_light = grey > (dark + light) / 2
    inside, tone = 0, None
    for depth in range(int(min(grey.shape) * _THICKEST_FRAME)):
        fraction = float(np.mean(_ring(is_light, depth)))
        if 0.2 < fraction < 0.8:
            continue
        if tone is not None and (fraction > 0.5) != tone:
            inside = depth + 1  # past the soft edge
        tone = fraction > 0.5
    return grey[inside : grey.shape[0] - inside, inside : grey.shape[1] - inside]


def _ink(grey: _Grey) -> tuple[_Grey, float]:
    """How much of each pixel is ink, and how rough the paper is, as a fraction of the contrast."""
    dark, light = _two_levels(grey)
    middle = (dark + light) / 2  # Otsu's threshold lies where the two means are equally far
    is_light = grey > middle
    border = float(np.mean(_ring(is_light, 0)))
    # Lines at two sides may take half of the border; then most of the image is paper.
    light_paper = float(is_light.mean()) > 0.5 if abs(border - 0.5) < 0.15 else border > 0.5
    paper, pen = (light, dark) if light_paper else (dark, light)
    ground = grey[is_light == light_paper]
    return ((grey - paper) / (pen - paper)).clip(0, 1), float(ground.std() / (light - dark))


def _two_levels(grey: _Grey) -> tuple[float, float]:
    """The means of the dark and of the light pixels, parted by Otsu's threshold."""
    levels = np.round(grey).clip(0, 255).astype(np.uint8)
    count = np.bincount(levels.ravel(), minlength=256).astype(np.float64)
    below, total = count.cumsum(), (count * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        dark, light = total / below, (total[-1] - total) / above
        between = np.nan_to_num(below * above * (light - dark) ** 2)
    best = int(between.argmax())
    if not light[best] - dark[best] >= _LEAST_CONTRAST:  # NaN: all pixels are equal
        raise PreprocessingError("the image is blank, or too faint; give one with a digit on it")
    return float(dark[best]), float(light[best])


def _even(grey: _Grey) -> _Grey:
    """Without what varies slowly: a quadratic surface that most pixels lie on."""
    y, x = (np.linspace(-1, 1, n) for n in grey.shape)
    powers = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)]
    step = max(1, int(np.sqrt(grey.size / _PIXELS_OF_SURFACE)))
    terms = np.stack([np.outer(y[::step] ** i, x[::step] ** j).ravel() for i, j in powers], axis=1)
    values = grey[::step, ::step].ravel()
    kept = np.ones(values.size, bool)
    for _ in range(6):
        factors = np.linalg.solve(terms[kept].T @ terms[kept], terms[kept].T @ values[kept])
        away = np.abs(values - terms @ factors)
        kept = away <= max(2.5 * float(np.median(away)), 1.0)
    surface = np.zeros_like(grey)
    for factor, (i, j) in zip(factors, powers, strict=True):
        surface += factor * np.outer(y**i, x**j)
    level: _Grey = (grey - surface + surface.mean()).clip(0, 255)
    return level


def _without_lines(marks: list[_Mark], labels: npt.NDArray[np.integer]) -> list[_Mark]:
    """Without frames around other marks, and lines along the image's edges."""
    height, width = labels.shape
    while len(marks) > 1:
        outer = max(marks, key=lambda mark: mark.height * mark.width)
        rest = [mark for mark in marks if mark is not outer]
        largest = max(rest, key=lambda mark: mark.area)
        inside = (
            outer.top < largest.top
            and outer.left < largest.left
            and largest.bottom < outer.bottom
            and largest.right < outer.right
        )
        # A zero may hold a dot; what surrounds a larger mark is a ring or a box.
        around = inside and (
            largest.height > 0.33 * outer.height
            or (largest.height > 0.2 * outer.height and _straight_sides(outer, labels) == 4)
        )
        at_edge = [mark for mark in marks if _is_line_at_edge(mark, height, width, largest)]
        if around:
            marks = rest
        elif at_edge and len(at_edge) < len(marks):
            marks = [mark for mark in marks if mark not in at_edge]
        else:
            break
    return marks


def _is_line_at_edge(mark: _Mark, height: int, width: int, digit: _Mark) -> bool:
    """A thin line that runs along the whole image, or most of it from the edge."""
    touches_sides = mark.left == 0 or mark.right == width
    touches_ends = mark.top == 0 or mark.bottom == height
    thin = 0.2 * max(digit.height, digit.width)
    if (touches_sides or touches_ends) and mark.width > 0.7 * width and mark.height > 0.7 * height:
        return mark.area < 0.15 * mark.width * mark.height  # lines at several sides
    level = touches_sides and mark.width > 0.7 * width and mark.height < thin
    upright = touches_ends and mark.height > 0.7 * height and mark.width < thin
    return level or upright


def _straight_sides(mark: _Mark, labels: npt.NDArray[np.integer]) -> int:
    """How many sides of a mark's box it fills for the most part."""
    own = labels[mark.top : mark.bottom, mark.left : mark.right] == mark.number
    rows, columns = max(1, mark.height // 12), max(1, mark.width // 12)
    sides = (
        own[:rows].any(axis=0),
        own[-rows:].any(axis=0),
        own[:, :columns].any(axis=1),
        own[:, -columns:].any(axis=1),
    )
    return sum(bool(side.mean() > 0.85) for side in sides)


def _digit(marks: list[_Mark], labels: npt.NDArray[np.integer], solid: _Mask) -> list[_Mark]:
    """The marks that make up one digit."""
    largest = max(marks, key=lambda mark: mark.area)
    specks = [mark for mark in marks if mark.area < _SPECK * largest.area]
    marks = [mark for mark in marks if mark.area >= _SPECK * largest.area]
    if max(largest.height, largest.width) < _SMALLEST:
        raise PreprocessingError(
            "only scattered dots are found; give an image of one digit"
            if len(marks) > 1
            else f"the digit is only {largest.height} pixels high; give a larger image of it"
        )
    if sum(mark.area for mark in specks) > largest.area:
        raise PreprocessingError("too many scattered dots are found; give an image of one digit")
    digit = [largest]
    for mark in sorted(marks, key=lambda mark: -mark.area):
        if mark is largest:
            continue
        if not any(_belongs(mark, part) for part in digit):
            raise PreprocessingError(
                f"more than one mark is found ({len(marks)}); give an image of one digit"
            )
        digit.append(mark)
    if len(digit) > _MOST_PIECES:
        raise PreprocessingError(
            f"more than one mark is found ({len(digit)}); give an image of one digit"
        )
    top, left = min(mark.top for mark in digit), min(mark.left for mark in digit)
    bottom, right = max(mark.bottom for mark in digit), max(mark.right for mark in digit)
    _check_shape(labels.shape, (top, left, bottom, right), solid)
    # A bar that is filled may be a 1.
    bar = (
        largest.width < 0.4 * largest.height and largest.area > 0.8 * largest.width * largest.height
    )
    if len(digit) == 1 and _straight_sides(largest, labels) == 4 and not bar:
        raise PreprocessingError("a box is found; give an image of a digit without lines")
    return digit


def _belongs(mark: _Mark, part: _Mark) -> bool:
    """Whether two marks are pieces of one broken digit: one above the other, or interlocking."""
    across = min(mark.right, part.right) - max(mark.left, part.left)
    down = min(mark.bottom, part.bottom) - max(mark.top, part.top)
    if across < 0.5 * min(mark.width, part.width):
        return False
    return down > 0 or (-down < 0.15 * part.height and mark.height < 0.25 * part.height)


def _check_shape(shape: tuple[int, ...], box: tuple[int, int, int, int], solid: _Mask) -> None:
    """Refuses what no digit is: too wide, cut off at the edge, a line across, a filled shape."""
    top, left, bottom, right = box
    height, width = bottom - top, right - left
    if width > 1.5 * height:
        raise PreprocessingError(
            f"what is found is {width} pixels wide and {height} high: a line, or more than one"
            " digit; give an image of one digit"
        )
    before, after = (top, left), (shape[0] - bottom, shape[1] - right)
    sizes, edges = (height, width), ((solid[0], solid[-1]), (solid[:, 0], solid[:, -1]))
    for start, end, size, (first, last) in zip(before, after, sizes, edges, strict=True):
        room = max(start, end) > 0.15 * size
        if room and min(start, end) == 0 and (first if start == 0 else last).sum() > 0.1 * size:
            raise PreprocessingError("the digit is cut off at the edge; give the whole digit")
    ends = np.count_nonzero(np.diff(_around(solid).astype(np.int8)) == 1)
    if ends > _MOST_ENDS_AT_EDGE:
        raise PreprocessingError("lines run to the edge; give an image of a digit without lines")
    if before[0] == after[0] == 0 and width < 0.2 * height and shape[1] > 0.6 * shape[0]:
        raise PreprocessingError("a line across the image is found; give an image of one digit")
    ground, count = ndimage.label(~np.pad(solid[top:bottom, left:right], 1))
    holes = np.bincount(ground.ravel(), minlength=count + 1)[2:]  # 0 is ink, 1 is around it
    if (holes > 0.01 * height * width).sum() > 2:
        raise PreprocessingError("more holes than an 8 has are found; give an image of one digit")
    thickness = ndimage.distance_transform_edt(np.pad(solid[top:bottom, left:right], 1)).max()
    if thickness > 0.3 * height:
        raise PreprocessingError("a filled shape is found; give an image of a digit's strokes")
