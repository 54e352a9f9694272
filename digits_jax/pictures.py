"""An image of any file, depth, colour or orientation becomes grey values of one kind.

H and W are its height and width in pixels.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from digits_jax.layouts import DataError

LONGEST_SIDE = 1024  # pixels; larger images are reduced

_WHITES = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16, 32)))  # of bitmaps, screens, cameras


class PreprocessingError(DataError):
    """An image that holds no digit that can be found; one line with the cause and the remedy."""


class Picture(NamedTuple):
    """An image in grey.

    Attributes:
        values: float64 [H, W], 0 (black) to `white`.
        white: the value that is white.
    """

    values: npt.NDArray[np.float64]
    white: int


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """The grey values of an image file.

    Raises:
        PreprocessingError: it can't be read, or holds several images.
    """
    try:
        with Image.open(path) as image:
            return picture(image)
    except PreprocessingError:
        raise
    except UnidentifiedImageError as error:
        raise PreprocessingError("not an image that Pillow can read; give PNG or JPEG") from error
    except Exception as error:  # OSError, or whatever a damaged file makes Pillow raise
        cause = getattr(error, "strerror", None) or error
        raise PreprocessingError(f"can't be read ({cause})") from error


def picture(image: Image.Image | npt.ArrayLike) -> Picture:
    """The grey values of a Pillow image or an array, of at most ``LONGEST_SIDE`` pixels a side.

    Raises:
        PreprocessingError: it is damaged, holds several images, or numbers that are no grey values.
    """
    if isinstance(image, Image.Image):
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # of a telephone: the others are previews
            raise PreprocessingError(f"it holds {frames} images; give one of them")
        try:
            values = _values(ImageOps.exif_transpose(image))
        except PreprocessingError:
            raise
        except Exception as error:  # whatever a damaged file makes Pillow raise
            raise PreprocessingError(f"the image is damaged ({error}); save it again") from error
    else:
        values = _array(image)
    if 0 in values.shape:
        raise PreprocessingError("an array must not be empty")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise PreprocessingError("it holds values that are negative or not finite; give 0..255")
    white = next((white for white in _WHITES if values.max() <= white), None)
    if white is None:
        raise PreprocessingError(f"it holds the value {values.max():g}; give grey values 0..255")
    if max(values.shape) > LONGEST_SIDE:
        reduced = Image.fromarray(values.astype(np.float32))
        reduced.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
        values = np.asarray(reduced, np.float64)
    return Picture(values, white)


def _values(image: Image.Image) -> npt.NDArray[np.float64]:
    """[H, W] of a Pillow image; transparent parts are paper."""
    if image.mode == "F" or image.mode.startswith("I"):  # floats, 16 bits, or 32
        return np.asarray(image, np.float64)
    if image.has_transparency_data:
        drawn = np.asarray(image.convert("RGBA").getchannel("A"), np.float64) / 255
        grey = np.asarray(image.convert("RGBA").convert("L"), np.float64)
        # Light ink on nothing, as a canvas in dark colours saves it, is on black.
        light = float((grey * drawn).sum()) > 127.5 * drawn.sum() > 0 and drawn.min() < 0.5
        return grey * drawn + (0 if light else 255) * (1 - drawn)
    if image.mode == "LAB":  # Pillow converts it to nothing
        image = image.getchannel("L")
    return np.asarray(image.convert("L"), np.float64)


def _array(image: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array: npt.NDArray[Any] = np.asarray(image)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4) and array.dtype == np.uint8:
        return _values(Image.fromarray(array[..., 0] if array.shape[2] == 1 else array))
    if array.ndim != 2 or array.dtype.kind not in "buif":
        raise PreprocessingError(
            f"an array must be numbers [H, W] or uint8 [H, W, 3], not {array.dtype}{[*array.shape]}"
        )
    return array.astype(np.float64)
