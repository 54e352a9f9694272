"""Tables of 8x8 digits as UCI, OpenML, scikit-learn, pandas, NumPy and csv write them.

A row is 64 pixels, 0..16, and mostly a class, 0..9; `layouts.py` knows which column is which.
N is the number of rows.
"""

from __future__ import annotations

import csv
import itertools
import operator
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from digits_jax.layouts import (
    COLUMNS,
    UCI_LAYOUT,
    UNKNOWN,
    DataError,
    Layout,
    Rows,
    as_rows,
    check_columns,
    is_known,
    known_elsewhere,
    layout_by_names,
    layout_by_position,
    suspicion,
)

MAX_BYTES = 64 * 2**20  # of a file or a download; the full set takes 0.8 MB

_MISSING = frozenset(["", "?", "na", "nan", "null", "none"])
_MOST_COLUMNS = 80  # that a line is split into
_LONGEST_LINE = 2**16  # bytes
_OUT_OF_RANGE_ROWS = 10_000  # that are read on, to see whether they are UCI's in another layout
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_BINARY = re.compile(rb"[^\t -~]")  # NUL, or a letter that no number has
_BINARY_IN_HEADER = re.compile(rb"[^\t -~\x80-\xff]")


def read_table(file: BinaryIO, where: str, *, class_needed: bool = True) -> Rows:
    """The rows of an open file or pipe, plain or gzipped, of at most ``MAX_BYTES``.

    Args:
        file: read from where it is to its end.
        where: its name, for messages.
        class_needed: whether each row must have a class.

    Raises:
        DataError: it is too large, no table of digits, or a cell of it is wrong.
    """
    raw = file.read(MAX_BYTES + 1)
    if raw[:2] == b"\x1f\x8b" and len(raw) <= MAX_BYTES:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            raw = unpacker.decompress(raw, MAX_BYTES + 1)
        except zlib.error as error:
            raise DataError(f"{where} is damaged ({error}); make it again with gzip") from error
        if len(raw) <= MAX_BYTES and (not unpacker.eof or unpacker.unused_data):
            raise DataError(f"{where} is no single whole gzip; make it again with gzip")
    if len(raw) > MAX_BYTES:
        raise DataError(f"{where} isn't a file of at most {MAX_BYTES} bytes; give fewer rows")
    return parse_table(raw, where, class_needed=class_needed)


def parse_table(raw: bytes, where: str, *, class_needed: bool = True) -> Rows:
    """The rows of a table's text.

    Cells are separated by commas, semicolons, tabs or spaces, and may be quoted. 5.0 is 5. Blank
    lines are skipped.

    Args:
        raw: the text in UTF-8.
        where: its name, for messages.
        class_needed: whether each row must have a class. If not, a class that is missing or
            negative gives ``UNKNOWN``, and so does a table without classes.

    Raises:
        DataError: it is no table of digits, or a cell of it is wrong.
    """
    lines = _lines(raw, where)
    if (first := next(lines, None)) is None:
        raise DataError(f"{where} is empty; {UCI_LAYOUT}")
    number, line = first
    at, layout = f"{where}, line {number}", None
    if line.startswith(b"#") or _is_header(line):
        layout = layout_by_names(_names(line.lstrip(b"# "), at), at)
        if (first := next(lines, None)) is None:
            raise DataError(f"{where} has a header and no rows after line {number}; {UCI_LAYOUT}")
        number, line = first
    if layout is None:
        _check_is_text(line, at)
        layout = layout_by_position(len(_cells(line, _delimiter(line))), at)
    if class_needed and len(layout.take) == 64:
        raise DataError(f"{at}: {layout.columns} columns, no class; {UCI_LAYOUT}")

    values, problem = _values(itertools.chain([first], lines), layout, where, class_needed)
    rows = None if problem else as_rows(values)
    if not layout.is_named and not is_known(rows):
        if (elsewhere := known_elsewhere(values)) is not None:
            return elsewhere
        if why := suspicion(values):
            raise DataError(f"{where}: {why}")
    if rows is None:
        raise DataError(problem)
    if rows.pixels.max() == 1:
        raise DataError(
            f"{where}: the largest pixel is 1; write integers 0..16 there, how many pixels of each"
            " 4x4 block of a bitmap are ink"
        )
    return rows


def _lines(raw: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """The lines that aren't blank, with their numbers."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    number, counted = 1, 0
    for match in re.finditer(rb"\S[^\n]*", raw):
        number += raw.count(b"\n", counted, match.start())
        counted = match.start()
        if match.end() - match.start() > _LONGEST_LINE:  # before anything copies it again
            line, at = match[0], f"{where}, line {number}"
            _check_is_text(line, at)
            check_columns(line.count(_delimiter(line) or b" ") + 1, len(COLUMNS), at)
        yield number, raw[raw.rfind(b"\n", 0, match.start()) + 1 : match.end()]


def _delimiter(line: bytes) -> bytes | None:
    """What separates the cells; None for white space."""
    counts = {byte: line.count(byte) for byte in (b",", b";", b"\t")}
    most = max(counts, key=lambda byte: counts[byte])
    return most if counts[most] else None


def _cells(line: bytes, delimiter: bytes | None) -> list[bytes]:
    """At most ``_MOST_COLUMNS``, and the rest of the line."""
    return line.split(delimiter, _MOST_COLUMNS)


def _text(cell: bytes) -> str:
    return cell.decode(errors="replace").strip(" \t\"'")


def _is_header(line: bytes) -> bool:
    """Whether most cells are words, or they differ as pixels can't: pandas' 0 .. 64."""
    cells = [_text(cell) for cell in _cells(line, _delimiter(line))]
    numbers = [cell for cell in cells if _NUMBER.fullmatch(cell)]
    words = sum(cell.lower() not in _MISSING for cell in cells) - len(numbers)
    return words > len(numbers) or len({float(n) for n in numbers}) >= 64


def _names(line: bytes, where: str) -> list[str]:
    """The cells of a header."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        _check_is_text(line, where)
        raise
    _check_is_text(line, where, _BINARY_IN_HEADER)
    if (delimiter := _delimiter(line)) is None:
        cells = text.split(None, _MOST_COLUMNS)
    else:
        cells = next(csv.reader([text], delimiter=delimiter.decode(), skipinitialspace=True))
    return [cell.strip(" \t\"'") for cell in cells]


def _check_is_text(line: bytes, where: str, binary: re.Pattern[bytes] = _BINARY) -> None:
    if odd := binary.search(line):
        index = line.count(b",", 0, odd.start())
        raise DataError(
            f"{where}, column {COLUMNS[index] if index < len(COLUMNS) else index + 1}: byte"
            f" 0x{odd[0].hex()} is not of a number; give plain text, no archive or spreadsheet"
        )


def _values(
    lines: Iterator[tuple[int, bytes]], layout: Layout, where: str, class_needed: bool
) -> tuple[npt.NDArray[np.int16], str]:
    """The columns [N, 64 or 65] that are read, and what is wrong with the first out of range.

    That is not raised yet: another layout may explain it better.
    """
    values, problem, delimiter = array("h"), "", None
    pixels = {str(value).encode(): value for value in range(17)}
    classes = {str(value).encode(): value for value in range(10)}
    take = operator.itemgetter(*layout.take)
    in_order = layout.take == tuple(range(layout.columns))
    for count, (number, line) in enumerate(lines):
        delimiter = _delimiter(line) if count == 0 else delimiter
        cells: Sequence[bytes] = _cells(line, delimiter)
        if len(cells) != layout.columns:
            at = f"{where}, line {number}"
            _check_is_text(line, at)
            check_columns(len(line.split(delimiter)), layout.columns, at)
        cells = cells if in_order else take(cells)
        try:
            row = [pixels[cell] for cell in cells[:64]]
            row += [classes[cell] for cell in cells[64:]]
        except KeyError:
            at = f"{where}, line {number}"
            _check_is_text(line, at)
            try:
                row, wrong = _row(cells, layout.names, at, (pixels, classes), class_needed)
            except DataError:
                if problem:  # what came first is named
                    break
                raise
            problem = problem or wrong
        values.extend(row)
        if problem and count >= _OUT_OF_RANGE_ROWS:
            break
    return np.frombuffer(values, np.int16).reshape(-1, len(layout.take)), problem


def _row(
    cells: Sequence[bytes],
    names: Sequence[str],
    where: str,
    spellings: tuple[dict[bytes, int], dict[bytes, int]],
    class_needed: bool,
) -> tuple[list[int], str]:
    """The numbers of cells that aren't all plain digits, and what is wrong with them.

    ``spellings``, of a pixel and of a class, learn from it.
    """
    row, problem = [], ""
    for index, (name, cell) in enumerate(zip(names, cells, strict=True)):
        highest, known = (16, spellings[0]) if index < 64 else (9, spellings[1])
        text, number = _text(cell), _number(cell)
        unknown = text.lower() in _MISSING
        if index == 64 and not class_needed and (unknown or number is not None and number < 0):
            row.append(UNKNOWN)
            continue
        remedy = f"write an integer 0..{highest} there"
        if number is not None and number == int(number) and 0 <= number <= highest:
            row.append(int(number))
            if len(known) < 1000:
                known[cell] = int(number)
            continue
        if index == 64 and (unknown or number == -1):
            remedy += ", or leave the row out; only predict.py reads rows without a class"
        if number is None or number != int(number):
            wrong = "missing value" if unknown else f"{text[:40]!r} is no integer"
            if number is not None and index < 64 and 0 < number < 1:
                remedy += " (of fractions of 16: 16 times each)"
            raise DataError(f"{where}, column {name}: {wrong}; {remedy}")
        if index < 64 and 16 < number < 256:
            remedy += " (of grey values 0..255: 16/255 of each, rounded)"
        row.append(int(np.clip(number, -2, 1000)))
        problem = problem or f"{where}, column {name}: {text[:40]!r} is not 0..{highest}; {remedy}"
    return row, problem


def _number(cell: bytes) -> float | None:
    """The number that a cell holds, if it holds one; 1e999 is a large number."""
    text = _text(cell) if len(cell) < 2000 else ""
    return min(max(float(text), -1e9), 1e9) if _NUMBER.fullmatch(text) else None
