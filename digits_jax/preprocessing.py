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
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from digits_jax.data import DataError

_WIDTH, _HEIGHT, _SIZE = 20, 32, 32  # of the box that ink is stretched to; of the bitmap
_LEAST_INK, _MOST_INK = 256, 412  # pixels that need no thickening or thinning
_VERY_LITTLE_INK, _VERY_MUCH_INK = 108, 560  # pixels that need it twice
_LONGEST_SIDE = 1024  # pixels; larger images are reduced first
_LEAST_CONTRAST = 16  # of 255, between the means of ink and paper
_SPECK = 1 / 20  # of the largest connected stroke's pixels; smaller ones are dirt


class PreprocessingError(DataError):
    """An image that holds no digit that can be found; one line with the cause and the remedy."""


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
    """The 8x8 counts of one digit on a plain background, dark on light or light on dark.

    An image of 8x8 pixels is taken as it is. Values up to 16 are counts. If one is above 16, the
    values are grey, 0..255: black becomes 0 and white 16, or the reverse where the median of the
    28 pixels at the border is above 127.

    A larger image goes through the data's own preprocessing. Otsu's threshold parts ink from paper;
    paper is the side on which the median of the border's pixels lies. Specks of less than a
    twentieth of the largest stroke are left out, and the rest is cropped, stretched to 20x32,
    brought to 256..412 pixels of ink where one or two steps do it, and sheared upright.

    Args:
        image: a Pillow image in colour or grey (transparent parts count as white, and a camera's
            orientation is heeded), whole numbers 0..255 [H, W], or the path of an image file.

    Returns:
        uint8 [8, 8], 0..16; a valid input of every network of this library.

    Raises:
        PreprocessingError: no image, smaller than 8x8 pixels, blank, or of scattered dots.

    Reference:
        Otsu (1979), A Threshold Selection Method from Gray-Level Histograms, IEEE Transactions on
        Systems, Man, and Cybernetics 9:62-66.

    Examples:
        >>> page = np.full((60, 40), 255, np.uint8)
        >>> page[10:50, 15:25] = 0  # a thick stroke: the digit 1
        >>> digit_from_image(page)[4].tolist()
        [0, 0, 16, 16, 16, 16, 0, 0]
    """
    if isinstance(image, str | os.PathLike):
        try:
            with _open(image) as opened:
                return digit_from_image(opened)
        except PreprocessingError as error:
            raise PreprocessingError(f"{os.fspath(image)}: {error}") from error
    grey = _grey(image) if isinstance(image, Image.Image) else _checked(image)
    if min(grey.shape) < 8:
        height, width = grey.shape
        raise PreprocessingError(
            f"{width}x{height} pixels are too small for a digit; give 8x8 or more"
        )
    return _taken_as_it_is(grey) if grey.shape == (8, 8) else block_counts(_normalized(_ink(grey)))


def _open(path: str | os.PathLike[str]) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        raise PreprocessingError("not an image that Pillow can read; give PNG or JPEG") from error
    except Exception as error:  # OSError, or whatever a damaged file makes Pillow raise
        cause = getattr(error, "strerror", None) or error
        raise PreprocessingError(f"can't be read ({cause})") from error


def _grey(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Grey [H, W], 0..255, of at most _LONGEST_SIDE pixels a side."""
    if image.mode == "F":
        raise PreprocessingError("floating-point pixels have no fixed white; save it as 8-bit grey")
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, or 32
            values = np.asarray(image, np.float64).clip(0, 65535)
            image = Image.fromarray((values / (257 if values.max() > 255 else 1)).astype(np.uint8))
        elif image.has_transparency_data:
            page = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(page, image.convert("RGBA"))
        image = image.convert("L")
    except Exception as error:  # whatever a damaged file makes Pillow raise
        raise PreprocessingError(f"the image is damaged ({error}); save it again") from error
    return _reduced(image)


def _reduced(image: Image.Image) -> npt.NDArray[np.uint8]:
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.BOX)
    return np.asarray(image)


def _checked(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "uif":
        raise PreprocessingError(
            f"an array must be numbers [H, W], not {array.dtype}{[*array.shape]}"
        )
    if not ((array >= 0) & (array <= 255) & (array == np.round(array))).all():  # NaN fails, too
        raise PreprocessingError("an array must hold whole numbers 0..255")
    if 0 in array.shape:
        raise PreprocessingError("an array must not be empty")
    return _reduced(Image.fromarray(array.astype(np.uint8)))


def _border(grey: npt.NDArray[np.uint8]) -> float:
    """The median of the outermost pixels."""
    return float(np.median(np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])))


def _taken_as_it_is(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """An 8x8 image's counts; see digit_from_image."""
    counts = grey
    if grey.max() > 16:
        light = 255 - grey if _border(grey) > 127 else grey
        counts = np.round(light * (16 / 255)).astype(np.uint8)
    if counts.min() == counts.max():
        raise PreprocessingError("the image is blank; give one with a digit on it")
    return counts.copy()


def _ink(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """How much of each pixel is ink, 0..1 [H, W]; 0 where there are only specks."""
    dark, light = _two_levels(grey)
    middle = (dark + light) / 2  # Otsu's threshold lies where the two means are equally far
    paper, pen = (light, dark) if _border(grey) > middle else (dark, light)
    ink: npt.NDArray[np.float32] = ((grey - paper) / (pen - paper)).clip(0, 1).astype(np.float32)
    strokes, _ = ndimage.label(ink > 0.5, structure=np.ones((3, 3)))
    sizes = np.bincount(strokes.ravel())
    sizes[0] = 0
    # A speck's soft edge may stay: it is no ink, and outside of the strokes' box or beside them.
    ink[(strokes > 0) & (sizes < _SPECK * sizes.max())[strokes]] = 0
    return ink


def _two_levels(grey: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """The means of the dark and of the light pixels, parted by Otsu's threshold."""
    count = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
    below, total = count.cumsum(), (count * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        dark, light = total / below, (total[-1] - total) / above
        between = np.nan_to_num(below * above * (light - dark) ** 2)
    best = int(between.argmax())
    if not light[best] - dark[best] >= _LEAST_CONTRAST:  # NaN: all pixels are equal
        raise PreprocessingError("the image is blank, or too faint; give one with a digit on it")
    return float(dark[best]), float(light[best])


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
