"""Are arrays bitwise the same? NaN is equal to a NaN of the same bits, and 0 is not -0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Leaves = Mapping[str, npt.NDArray[Any]]  # by name, in order


class Difference(NamedTuple):
    """What differs in one part.

    Attributes:
        part: e.g. ``notebook, folds: params``.
        text: says it, in a line.
        values: number of values that differ; 0 where the part can't be compared.
        absolute: the largest absolute difference; infinite if a value that differs is not finite,
            NaN if the values are no real numbers.
        relative: the largest difference as a fraction of the larger of the two values.
    """

    part: str
    text: str
    values: int = 0
    absolute: float = 0.0
    relative: float = 0.0


def compare_bits(here: Mapping[str, Leaves], there: Mapping[str, Leaves]) -> list[Difference]:
    """The parts that are not bitwise the same, in order.

    Args:
        here: for each part its leaves. Their order counts, not their names.
        there: the same of the other revision.

    Returns:
        A Difference for each part that differs, or that can't be compared: a part without leaves on
        one side, another number of leaves, another shape or dtype.
    """
    differences = []
    for part in dict.fromkeys([*here, *there]):
        ours, theirs = here.get(part, {}), there.get(part, {})
        if len(ours) != len(theirs):
            text = f"not compared, {_leaves(len(ours))} here and {_leaves(len(theirs))} there"
            differences.append(Difference(part, text))
            continue
        pairs = zip(ours.items(), theirs.values(), strict=True)
        compared = [_compare_leaf(name, mine, other) for (name, mine), other in pairs]
        found = [difference for difference in compared if difference is not None]
        if found:
            values = sum(each.values for each in found)
            absolute = max(each.absolute for each in found)
            relative = max(each.relative for each in found)
            text = f"first {found[0].text}"
            if values:
                size = sum(leaf.size for leaf in ours.values())
                text = (
                    f"{values} of {size} values differ, by at most {absolute:.3g} absolute and "
                    f"{relative:.3g} relative; {text}"
                )
            differences.append(Difference(part, text, values, absolute, relative))
    return differences


def _leaves(count: int) -> str:
    return f"{count or 'no'} {'leaf' if count == 1 else 'leaves'}"


def _compare_leaf(name: str, here: npt.NDArray[Any], there: npt.NDArray[Any]) -> Difference | None:
    if (here.shape, here.dtype) != (there.shape, there.dtype):
        kinds = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in (here, there)]
        return Difference(name, f"{name or 'it'} is {kinds[0]} here and {kinds[1]} there")
    if here.tobytes() == there.tobytes():
        return None
    bits = [
        np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).reshape(leaf.size, -1)
        for leaf in (here, there)
    ]
    differs = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    index = [int(i) for i in np.unravel_index(differs[0], here.shape)]
    first = [str(leaf.reshape(-1)[differs[0]]) for leaf in (here, there)]
    text = f"{name}{index}: {first[0]} here, {first[1]} there"
    absolute = relative = math.nan  # of what is no number
    if here.dtype.kind == "f":
        a, b = (leaf.reshape(-1)[differs].astype(np.float64) for leaf in (here, there))
        absolute = relative = math.inf
        if np.isfinite(a).all() and np.isfinite(b).all():
            larger = np.maximum(np.abs(a), np.abs(b))
            absolute = float(np.abs(a - b).max())
            relative = float((np.abs(a - b) / np.where(larger > 0, larger, 1)).max())
    return Difference(name, text, differs.size, absolute, relative)
