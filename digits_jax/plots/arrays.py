"""Checks of what is drawn, and a mean that leaves NaN out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def array_of(name: str, values: npt.ArrayLike, *shape: int | str) -> npt.NDArray[np.float64]:
    """The values as float64.

    Args:
        name: what a message calls them.
        values: numbers.
        *shape: of each axis a number for a given length, a letter for a free one.

    Raises:
        ValueError: there are none, or their shape is another one.
    """
    array = np.asarray(values, np.float64)
    pairs = zip(array.shape, shape, strict=False)  # their number is compared first
    fits = array.ndim == len(shape) and all(n == m or isinstance(m, str) for n, m in pairs)
    if not fits or not array.size:
        raise ValueError(f"{name} must be [{', '.join(map(str, shape))}], got shape {array.shape}")
    return array


def arrays_by_label(
    values: Mapping[str, npt.ArrayLike], *shape: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Arrays by label as float64, all of one shape; there may be none. See `array_of`."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    wanted: tuple[int | str, ...] = shape
    for label, each in values.items():
        found[label] = array_of(label, each, *wanted)
        wanted = found[label].shape
    return found


def labels_of(labels: npt.ArrayLike, length: int) -> npt.NDArray[np.int64]:
    """The labels of so many rows; TypeError unless they are integers."""
    if not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise TypeError(f"labels must be integers, got {np.asarray(labels).dtype}")
    return array_of("labels", labels, length).astype(np.int64)


def names_of(names: Sequence[str] | None, default: Sequence[object]) -> Sequence[str]:
    """The names, or the default as text; ValueError unless they are as many."""
    if names is not None and len(names) != len(default):
        raise ValueError(f"{len(default)} names are needed, got {len(names)}")
    return [str(each) for each in default] if names is None else names


def mean_of_known(values: npt.NDArray[np.float64]) -> Any:
    """The mean over the last axis without NaN; NaN where nothing else is."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return np.where(count, np.where(known, values, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)
