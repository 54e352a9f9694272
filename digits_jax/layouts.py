"""Which columns of a table of 8x8 digits are the pixels, and which is the class.

A header says it: 64 names that differ by their numbers only (Attribute1 .. Attribute64, pixel_0 ..
pixel_63, pixel_0_0 .. pixel_7_7) are the pixels, in the order of their numbers. Without such names
the pixels come first, and the class, if there is one, is last. What the columns hold is then
compared with where digits have ink: the first and the last column of pixels are all but empty.

N is the number of rows, C the number of columns.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# rows_sha256 of UCI's 5620 rows, of optdigits.tra, and of optdigits.tes, which comes with
# scikit-learn.
FULL_SHA256 = "a88fcce34a8912ee99fb04893ce831c603fcf73799df3c49e93ec05a736beef2"
TRAIN_SHA256 = "028f5e244ee9135dbe3d8c684583e6518709a7b05293a4c5ecd652eafb9f4689"
BUNDLED_SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"

UNKNOWN = -1  # a class
COLUMNS = (*(f"Attribute{i}" for i in range(1, 65)), "class")
UCI_LAYOUT = "UCI's layout is 65 columns separated by commas: Attribute1 .. Attribute64, class"

_KNOWN = frozenset([FULL_SHA256, TRAIN_SHA256, BUNDLED_SHA256])
_CLASS_NAMES = frozenset("class classes label labels target targets digit digits y".split())
_INDEX_NAMES = frozenset(["", "unnamed: 0", "index", "idx", "id", "row", "row_id", "rownames"])
_NAMED = "name the columns in line 1: Attribute1 .. Attribute64, class"


class DataError(ValueError):
    """Data that can't be used: names the file, the line, the column, and the remedy."""


class Rows(NamedTuple):
    """The rows of a table.

    Attributes:
        pixels: uint8 [N, 64], 0..16, row-major.
        classes: int32 [N], 0..9, or ``UNKNOWN``.
    """

    pixels: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.int32]


class Layout(NamedTuple):
    """What of a line is read.

    Attributes:
        names: of what is read, for messages.
        take: its places in the line: 64 pixels, and then the class if there is one.
        columns: C.
        is_named: whether a header says which column is the class.
    """

    names: tuple[str, ...]
    take: tuple[int, ...]
    columns: int
    is_named: bool


def rows_sha256(rows: Rows) -> str:
    """SHA-256 of the rows as uint8 [N, 65] in C order, 64 pixels and then the class."""
    table = np.column_stack([rows.pixels, rows.classes.astype(np.uint8)])
    return hashlib.sha256(table.tobytes()).hexdigest()


def layout_by_names(names: Sequence[str], where: str) -> Layout:
    """The layout that a header's names say.

    Args:
        names: C, of all columns.
        where: the file and the line, for messages.

    Raises:
        DataError: there are no 64 names of pixels, or a column that is neither a pixel, nor the
            class, nor an index.
    """
    groups: dict[tuple[str, int], dict[tuple[int, ...], int]] = {}  # numbers -> place, by prefix
    others: list[int] = []
    for place, name in enumerate(names):
        match = re.fullmatch(r"(.*?)([0-9]{1,4})(?:[^0-9]+([0-9]{1,4}))?[^0-9]?", name.lower())
        if match is None:
            others.append(place)
            continue
        numbers = tuple(int(n) for n in match.groups()[1:] if n is not None)
        group = groups.setdefault((match[1], len(numbers)), {})
        if numbers in group:
            raise DataError(f"{where}: two columns are named {name[:40]!r}; {UCI_LAYOUT}")
        group[numbers] = place
    if not groups:
        count = f"{len(names)} column{'s' * (len(names) > 1)}"
        raise DataError(f"{where}: {count}, and no names of 64 pixels; {UCI_LAYOUT}")
    (prefix, dimensions), pixels = max(groups.items(), key=lambda item: len(item[1]))
    others += [p for group in groups.values() if group is not pixels for p in group.values()]
    classes = [place for place in others if names[place].lower() in _CLASS_NAMES]
    strange = [p for p in others if p not in classes and names[p].lower() not in _INDEX_NAMES]
    class_is_last = not classes and dimensions == 1 and len(pixels) == 65  # pandas' 0 .. 64
    first = 0 if not any(min(pixels)) else 1
    wanted: list[tuple[int, ...]]
    if dimensions == 1:
        wanted = [(first + i,) for i in range(65 if class_is_last else 64)]
    else:
        wanted = [(first + i, first + j) for i, j in np.ndindex(8, 8)]
    for numbers in [*wanted, *pixels]:
        if numbers not in pixels or numbers not in wanted:
            name = prefix[:40] + "_".join(map(str, numbers))
            what = "no column" if numbers not in pixels else "and the 64 pixels have no"
            raise DataError(f"{where}: {len(names)} columns, {what} {name}; {UCI_LAYOUT}")
    for odd in classes[1:] + strange:
        raise DataError(
            f"{where}, column {odd + 1}: {names[odd][:40]!r} names neither a pixel nor the class;"
            f" leave it out, or call the class class; {UCI_LAYOUT}"
        )
    take = [*(pixels[numbers] for numbers in wanted), *classes]
    called = [names[place][:40] for place in take]
    if class_is_last:
        called[64] = "class"
    return Layout(tuple(called), tuple(take), len(names), not class_is_last)


def layout_by_position(columns: int, where: str) -> Layout:
    """64 pixels, and a class if there is another column.

    Raises:
        DataError: there are fewer columns, or more.
    """
    if columns == 66:
        raise DataError(
            f"{where}: 66 columns, too many; leave out what is no pixel (pandas:"
            f" to_csv(index=False)), or {_NAMED}"
        )
    check_columns(columns, 64 if columns == 64 else 65, where)
    return Layout(COLUMNS[:columns], tuple(range(columns)), columns, is_named=False)


def check_columns(columns: int, wanted: int, where: str) -> None:
    """Raises DataError if a line has another number of columns than it should."""
    if columns == wanted:
        return
    wrong = "too many" if columns > wanted else "too few"
    if columns < wanted <= len(COLUMNS):
        wrong = f"no {COLUMNS[columns]}"
    raise DataError(f"{where}: {columns} columns, {wrong}; {UCI_LAYOUT}")


def as_rows(values: npt.NDArray[np.int16]) -> Rows | None:
    """64 pixels and the class, if there is one, of columns [N, 64 or 65]; None if out of range."""
    pixels, classes = values[:, :64], np.full(len(values), UNKNOWN, np.int32)
    if values.shape[1] == 65:
        classes = values[:, 64].astype(np.int32)
    ranges = (pixels.min(), pixels.max(), classes.min(), classes.max())
    if ranges[0] < 0 or ranges[1] > 16 or ranges[2] < UNKNOWN or ranges[3] > 9:
        return None
    return Rows(pixels.astype(np.uint8), classes)


def is_known(rows: Rows | None) -> bool:
    """Whether they are UCI's."""
    return rows is not None and rows_sha256(rows) in _KNOWN


def known_elsewhere(values: npt.NDArray[np.int16]) -> Rows | None:
    """UCI's rows, if the columns [N, 64 or 65] are UCI's in another order than usual."""
    found = (as_rows(other) for other, _ in _other_layouts(values))
    return next((rows for rows in found if is_known(rows)), None)


def suspicion(values: npt.NDArray[np.int16]) -> str | None:
    """Why columns [N, 64 or 65] seem to be no 64 pixels with the class behind them.

    The first and the last column of pixels hold 0.5 % of the ink of UCI's rows; 8 % where the class
    comes first, and 23 % where rows and columns are exchanged.
    """
    if not values[:, :64:8].any():  # whatever it is, the first column of pixels is as it should be
        return None
    here = _margin(values)
    for other, why in _other_layouts(values):
        if here > 0.02 and _margin(other) < here / 2:
            return why
    return None


def _margin(values: npt.NDArray[np.int16]) -> float:
    """The fraction of the ink in the first and the last column of pixels."""
    images = values[:, :64].clip(0, 16).reshape(-1, 8, 8)
    return float(images[:, :, [0, 7]].sum() / max(images.sum(), 1))


def _other_layouts(
    values: npt.NDArray[np.int16],
) -> Iterator[tuple[npt.NDArray[np.int16], str]]:
    """The columns in UCI's order if they were in another, and what that is."""
    if values.shape[1] == 65:
        first = values[:, 0]
        if len(first) > 2 and (np.diff(first) == 1).all():
            what = "looks like row numbers"
        else:
            what = "looks like the class" if first.max() <= 9 else "looks like no pixel"
        yield (
            np.roll(values, -1, axis=1),
            f"column 1 {what}, and columns 2 to 65 like the pixels; put the class last, or name the"
            " columns in line 1: class, Attribute1 .. Attribute64",
        )
    turned = values[:, :64].reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    yield (
        np.concatenate([turned, values[:, 64:]], axis=1),
        f"the pixels seem to be stored column by column; store them row by row, or {_NAMED}",
    )
