"""Images of single digits become what the data are: 8x8 counts of ink, 0..16.

The data's own preprocessing is NIST's (M. Garris et al., *NIST Form-Based Handprint Recognition
System*, NISTIR 5469, 1994; the routines that it calls second-generation normalization, and shear):
a digit is stretched to a bitmap of 20 by 32 pixels, whatever its proportions, in the middle of 32
by 32; its strokes are thinned or thickened; it is sheared until it stands upright. UCI's counts
are of its 4x4 blocks. The rows bear this out. In the 1797 bundled ones each digit reaches the first
and the last row; 99 % leave the first column empty and 88 % the last; half of them have 285 to 338
of the 1024 pixels ink, and the ten classes hardly differ in it.

So the proportions are not kept here either. Of 400 bundled rows that were enlarged, squeezed and
slanted, two networks trained on the full data (one of them with the row) read 92 to 98 % right this
way; keeping the proportions lost up to 30 points of that on narrow writing, and leaving out the
shear 13 points on slanted. Print is not handwriting: see the tests for how much of it is read.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from digits_jax.ink import border_median, find_ink
from digits_jax.pictures import Picture, PreprocessingError, picture, read_picture

__all__ = ["PreprocessingError", "Seen", "block_counts", "digit_from_image", "see"]

_WIDTH, _HEIGHT, _SIZE = 20, 32, 32  # of the box that ink is stretched to; of the bitmap
_LEAST_INK, _MOST_INK = 256, 412  # pixels that need no thickening or thinning
_VERY_LITTLE_INK, _VERY_MUCH_INK = 108, 560  # pixels that need it twice
_FAINT_COUNTS = 12  # the largest count of each of UCI's 5620 rows is 14 or more


class Seen(NamedTuple):
    """What is seen in an image.

    Attributes:
        counts: uint8 [8, 8], 0..16: what a network is given.
        crop: uint8 [h, w], grey: the part of the image that the digit is in.
    """

    counts: npt.NDArray[np.uint8]
    crop: npt.NDArray[np.uint8]


def block_counts(bitmap: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """How many pixels of each 4x4 block are ink.

    Args:
        bitmap: bool [32, 32], True where there is ink.

    Returns:
        uint8 [8, 8], 0..16.

    Raises:
        PreprocessingError: `bitmap` has another shape or dtype.

    Examples:
        >>> bitmap = np.zeros((32, 32), bool)
        >>> bitmap[0, :6] = True
        >>> block_counts(bitmap)[0].tolist()
        [4, 2, 0, 0, 0, 0, 0, 0]
    """
    ink = np.asarray(bitmap)
    if ink.shape != (_SIZE, _SIZE) or ink.dtype != np.bool_:
        raise PreprocessingError(f"a bitmap must be bool [32, 32], not {ink.dtype}{[*ink.shape]}")
    counts: npt.NDArray[np.uint8] = ink.reshape(8, 4, 8, 4).sum(axis=(1, 3), dtype=np.uint8)
    return counts


def digit_from_image(
    image: Image.Image | npt.NDArray[Any] | str | os.PathLike[str],
) -> npt.NDArray[np.uint8]:
    """The 8x8 counts of one digit on a plain ground, dark on light or light on dark.

    An image of 8x8 pixels is taken as it is. Whole numbers up to 16 are counts. Others are grey:
    black becomes 0 and white 16, or the reverse where the median of the 28 pixels at the border is
    light. What is faint is stretched to 0..16.

    A larger image goes through the data's own preprocessing. Otsu's threshold parts ink from paper;
    paper is the side on which most of the border lies. Frames and lines along the edge, and specks
    of less than a twentieth of the largest stroke, are left out. The rest is cropped, stretched to
    20x32, brought to 256..412 pixels of ink where one or two steps do it, and sheared upright.

    Args:
        image: a Pillow image in colour or grey (transparent parts are paper, and a camera's
            orientation is heeded), numbers [H, W] of any type (white is 1 where none is larger,
            else 255, or the largest number of 10, 12, 14, 16 or 32 bits), bytes [H, W, 3], or the
            path of an image file.

    Returns:
        uint8 [8, 8], 0..16; a valid input of every network of this library.

    Raises:
        PreprocessingError: no image, smaller than 8x8 pixels, blank or faint, on a ground that is
            not plain, or of something else than one digit: several marks, a line, a filled shape.

    Examples:
        >>> page = np.full((60, 40), 255, np.uint8)
        >>> page[10:50, 15:25] = 0  # a thick stroke: the digit 1
        >>> digit_from_image(page)[4].tolist()
        [0, 0, 16, 16, 16, 16, 0, 0]
    """
    return see(image).counts


def see(image: Image.Image | npt.NDArray[Any] | str | os.PathLike[str]) -> Seen:
    """``digit_from_image``'s counts, and the part of the image that they are of."""
    if isinstance(image, str | os.PathLike):
        try:
            return _seen(read_picture(image))
        except PreprocessingError as error:
            raise PreprocessingError(f"{os.fspath(image)}: {error}") from error
    return _seen(picture(image))


def _seen(image: Picture) -> Seen:
    values, white = image
    height, width = values.shape
    if min(height, width) < 8:
        raise PreprocessingError(
            f"{width}x{height} pixels are too small for a digit; give 8x8 or more"
        )
    if values.shape == (8, 8):
        counts = _taken_as_it_is(values, white)
        return Seen(counts, np.round(counts * (255 / 16)).astype(np.uint8))
    ink, crop = find_ink(values * (255 / white))
    return Seen(block_counts(_normalized(ink)), crop)


def _taken_as_it_is(values: npt.NDArray[np.float64], white: int) -> npt.NDArray[np.uint8]:
    """An 8x8 image's counts; see digit_from_image."""
    if (values == np.round(values)).all() and _FAINT_COUNTS <= values.max() <= 16:
        white = 16
    if np.ptp(values) < white / 16:
        raise PreprocessingError("the image is blank, or too faint; give one with a digit on it")
    if border_median(values) > values.mean() and border_median(values) > white / 2:
        values = white - values
    if np.ptp(values) < 0.7 * white:  # faint
        values = (values - values.min()) * (white / np.ptp(values))
    return np.round(values * (16 / white)).astype(np.uint8)


def _normalized(ink: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """NIST's bitmap [32, 32]: stretched, of a middling stroke width, upright."""
    rows, columns = (np.flatnonzero((ink > 0.5).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bitmap = _stretched(ink, 0.5)
    if bitmap.sum() < _LEAST_INK:  # thin strokes
        bitmap = _stretched(ink, 0.25)
    if bitmap.sum() < _VERY_LITTLE_INK:  # and broken ones: thicken them by a pixel of the bitmap
        pixel = (-(-ink.shape[0] // _HEIGHT), -(-ink.shape[1] // _WIDTH))
        bitmap = _stretched(ndimage.maximum_filter(ink, pixel), 0.5)
    if bitmap.any():
        bitmap = _upright(_middling(bitmap))
    if not bitmap.any():
        raise PreprocessingError("only scattered dots are found; give an image of one digit")
    return bitmap


def _stretched(ink: npt.NDArray[np.float32], least: float) -> npt.NDArray[np.bool_]:
    """The bitmap [32, 32] whose middle 20 columns ink [H, W] fills, where its share is enough."""
    share = Image.fromarray(ink).resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR)
    margin = (_SIZE - _WIDTH) // 2
    return np.pad(np.asarray(share) >= least, ((0, 0), (margin, margin)))


def _middling(bitmap: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Strokes thinned or thickened by a pixel on each side, or by two, where NIST does so."""
    ink = int(bitmap.sum())
    changed = bitmap
    if ink > _MOST_INK:
        changed = ndimage.binary_erosion(bitmap, iterations=2 if ink > _VERY_MUCH_INK else 1)
    elif ink < _LEAST_INK:
        changed = ndimage.binary_dilation(bitmap, iterations=2 if ink < _VERY_LITTLE_INK else 1)
    return changed if changed.any() else bitmap


def _upright(bitmap: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Sheared about the middle row, so that the top and the bottom begin at the same column.

    Two rows at each end are skipped, for they are noisy.
    """
    rows = np.flatnonzero(bitmap.any(axis=1))
    top, bottom = rows[0] + 2, rows[-1] - 2
    if bottom <= top or not (bitmap[top].any() and bitmap[bottom].any()):
        return bitmap
    slope = (int(bitmap[top].argmax()) - int(bitmap[bottom].argmax())) / (bottom - top)
    index = np.arange(_SIZE)
    shift = np.floor((index - _SIZE // 2) * slope + 0.5).astype(np.int64)
    source = index - shift[:, None]
    inside = (source >= 0) & (source < _SIZE)
    return np.where(inside, np.take_along_axis(bitmap, source.clip(0, _SIZE - 1), axis=1), False)
