"""How unlike the known digits an image is, whatever a network says of it.

N is the number of images.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from digits_jax.data import load_digits

# 99 % of the rows 0 to 1911 of UCI's set, whose writers are others than those of the bundled rows,
# are at most this far from the nearest bundled row of their own class.
FAMILIAR = 30.4


def distances(images: npt.ArrayLike, digits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """How far images are from the nearest bundled row that has the class which was answered.

    A digit that was read right is near to others of its class; what is no digit is far from those
    of any class. See ``FAMILIAR``.

    Args:
        images: [N, 8, 8], counts 0..16.
        digits: integers [N], 0..9, the answers.

    Returns:
        float64 [N], Euclidean distances of the 64 counts.

    Examples:
        >>> rows = load_digits("bundled")
        >>> distances(rows.images[:2], rows.labels[:2]).tolist()
        [0.0, 0.0]
        >>> distances(16 - rows.images[:1], [0]).item() > FAMILIAR
        True
    """
    asked = np.asarray(images, np.float64).reshape(-1, 64)
    answers = np.asarray(digits)
    rows, classes = _rows()
    found = np.zeros(len(asked))
    for digit in np.unique(answers):
        own, chosen = rows[classes == digit], answers == digit
        products = asked[chosen] @ own.T
        squares = (asked[chosen] ** 2).sum(1)[:, None] + (own**2).sum(1) - 2 * products
        found[chosen] = np.sqrt(squares.min(1).clip(0))
    return found


@functools.cache
def _rows() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    bundled = load_digits("bundled")
    return bundled.images.reshape(-1, 64).astype(np.float64), bundled.labels
