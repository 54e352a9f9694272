"""Tables in every layout that other programs write, and those that are refused."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from digits_jax.data import DataError, Dataset, load_digits
from digits_jax.layouts import BUNDLED_SHA256, FULL_SHA256, TRAIN_SHA256, UNKNOWN, rows_sha256
from digits_jax.tables import MAX_BYTES, parse_table, read_table

HEADER = ",".join([*(f"Attribute{i}" for i in range(1, 65)), "class"])
RNG = np.random.default_rng(0)
ROWS = np.column_stack([RNG.integers(0, 17, (12, 64)), RNG.integers(0, 10, 12)]).astype(np.uint8)
LINES = [",".join(map(str, row)) for row in ROWS]
CSV = "\n".join([HEADER, *LINES, ""])


def rows_of(digits: Dataset) -> np.ndarray:
    return np.column_stack([digits.images.reshape(-1, 64), digits.labels])


def edited(line: int, column: int, text: str) -> str:
    """CSV with one cell replaced; line 1 is the header, column 0 is Attribute1."""
    lines = CSV.split("\n")
    cells = lines[line - 1].split(",")
    cells[column] = text
    lines[line - 1] = ",".join(cells)
    return "\n".join(lines)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str | bytes], Dataset]:
    """Load a file of the given content."""

    def write_and_load(content: str | bytes) -> Dataset:
        path = tmp_path / "digits.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_digits(path)

    return write_and_load


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.rstrip("\n"),
        CSV + "\n \n",
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\r"),
        CSV.encode("utf-8-sig"),
        "\n".join(LINES),
        CSV.lower(),
        CSV.replace(",", ", "),
        "\n".join('"' + line.replace(",", '","') + '"' for line in CSV.split()),
        "\n".join([HEADER, *(line.replace(",5,", ",+05,") for line in LINES)]),
        CSV.replace(LINES[3], " \n\n" + LINES[3]),
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        "\n".join(LINES).replace(",", "  "),
        "# " + CSV,
        CSV.replace(LINES[3], LINES[3].replace(",", ".0,")),
        CSV.replace(LINES[3], LINES[3].replace(",16", ",1.6e1")),
        gzip.compress(CSV.encode()),
    ],
    ids=(
        "header no-newline blank-end crlf cr bom headerless case spaces quotes zeros blank-lines"
        " semicolons tabs white-space comment floats exponents gzip"
    ).split(),
)
def test_layouts_that_hold_the_same_rows(load, content: str | bytes) -> None:
    np.testing.assert_array_equal(rows_of(load(content)), ROWS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (edited(3, 4, "17"), "line 3, column Attribute5: '17' is not 0..16"),
        (edited(2, 0, "-1"), "line 2, column Attribute1: '-1' is not 0..16"),
        (edited(13, 64, "10"), "line 13, column class: '10' is not 0..9; write an integer 0..9"),
        (edited(4, 63, "9" * 5000), "line 4, column Attribute64: '99"),
        (edited(3, 4, "2.5"), "line 3, column Attribute5: '2.5' is no integer"),
        (edited(3, 4, "1_0"), "line 3, column Attribute5: '1_0' is no integer"),
        (edited(3, 4, "x"), "line 3, column Attribute5: 'x' is no integer; write an integer 0..16"),
        (edited(3, 4, ""), "line 3, column Attribute5: missing value"),
        (edited(3, 64, "NaN"), "line 3, column class: missing value"),
        (edited(3, 4, "\0"), "line 3, column Attribute5: byte 0x00"),
        (edited(3, 4, "٣"), "line 3, column Attribute5: byte 0xd9"),
        (edited(3, 64, "1").encode() + b"\xff", "line 14, column Attribute1: byte 0xff"),
        (edited(3, 64, "1,2"), "line 3: 66 columns, too many; UCI's layout is 65 columns"),
        (edited(3, 64, "1")[:-4], "line 13: 64 columns, no class"),
        (CSV.replace(LINES[3], "1,2"), "line 5: 2 columns, no Attribute3"),
        ("\n".join(line.rsplit(",", 1)[0] for line in LINES), "line 1: 64 columns, no class"),
        ("\n".join(f"1,{line}" for line in LINES), "line 1: 66 columns, too many; leave out"),
        (CSV.replace(",", "|"), "line 1: 1 column, and no names of 64 pixels"),
        (edited(1, 4, "pixel"), "line 1: 65 columns, no column attribute5"),
        (edited(1, 4, "Attribute4"), "line 1: two columns are named 'Attribute4'"),
        (edited(1, 64, "writer"), "line 1, column 65: 'writer' names neither a pixel nor the cla"),
        (edited(1, 64, "class,label"), "line 1, column 66: 'label' names neither a pixel nor"),
        (edited(1, 64, "id"), "line 1: 65 columns, no class"),
        (
            edited(3, 64, "-1"),
            "line 3, column class: '-1' is not 0..9; write an integer",
        ),
        (edited(3, 4, "0.25"), "'0.25' is no integer; write an integer 0..16 there (of fr"),
        (edited(3, 4, "255"), "'255' is not 0..16; write an integer 0..16 there (of grey"),
        (edited(3, 4, "1e400"), "line 3, column Attribute5: '1e400' is not 0..16"),
        ("\n".join(["0," * 63 + "1,0", "1," * 64 + "1"]), "the largest pixel is 1"),
        (gzip.compress(CSV.encode())[:-9], "is no single whole gzip"),
        (gzip.compress(CSV.encode()) * 2, "is no single whole gzip"),
        (b"\x1f\x8b" + CSV.encode(), "is damaged (Error -3"),
        ("\n".join(LINES[:2] + [HEADER]), "line 3, column Attribute1: 'Attribute1' is no integer"),
        ("\n".join([edited(3, 4, "x").split("\n")[2], *LINES]), "line 1, column Attribute5: 'x'"),
        ("0," * 1_000_000, "line 1: 1000001 columns"),
        (HEADER + "\n", "a header and no rows"),
        ("", "is empty"),
        (" \r\n\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1, column Attribute1: byte 0x89"),
        (CSV.encode("utf-16"), "line 1, column Attribute1: byte 0xff"),
    ],
    ids=lambda value: value[-40:] if isinstance(value, str) and value.isascii() else "bytes",
)
def test_error_names_file_line_column_and_remedy(load, content: str | bytes, message: str) -> None:
    if isinstance(content, str) and content.endswith(","):
        content += "0"
    with pytest.raises(DataError) as caught:
        load(content)
    assert message in str(caught.value)
    assert "digits.csv" in str(caught.value) and "; " in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(caught.value).split("digits.csv")[0])


def test_any_bytes_give_rows_or_a_data_error(load) -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for case in range(400):
        raw = bytearray(CSV.encode())
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(raw)))
            insert = rng.choice([b"", b",", b"\n", b"\0", b"7", b"\xc3", rng.bytes(3)])
            raw[at : at + int(rng.integers(0, 3))] = insert
        content = bytes(raw) if case % 4 else rng.bytes(int(rng.integers(0, 300)))
        try:
            rows = rows_of(load(content))
        except DataError:
            refused += 1
        else:
            assert rows.shape[1] == 65 and rows[:, :64].max() <= 16 and rows[:, 64].max() <= 9
    assert 200 < refused < 400


# --- other layouts -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> np.ndarray:
    """The bundled rows [1797, 65]: 64 pixels and the class."""
    return rows_of(load_digits("bundled"))


def written(rows: np.ndarray, header: object = None) -> bytes:
    lines = [] if header is None else [",".join(map(str, header))]  # type: ignore[call-overload]
    return "\n".join([*lines, *(",".join(map(str, row)) for row in rows.tolist())]).encode()


@pytest.mark.parametrize(
    "header",
    [
        [*(f"input{i}" for i in range(1, 65)), "class"],
        [*(f"pixel_{i}" for i in range(64)), "digit"],
        [*(f"pixel_{i}_{j}" for i in range(8) for j in range(8)), "target"],
        [*(f"{i}x{j}" for i in range(1, 9) for j in range(1, 9)), "label"],
        [*(f"V{i}" for i in range(1, 66))],
        [*(f"f{i}" for i in range(65))],
        [*range(65)],
        [*range(64), "class"],
        ['"pixel (0,0)"', *(f'"pixel ({i // 8},{i % 8})"' for i in range(1, 64)), '"Class"'],
    ],
    ids=lambda header: str(header[1]),
)
def test_names_of_others_are_read_in_any_order(bundled: np.ndarray, header: list[str]) -> None:
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(65) if seed else np.arange(65)
        content = written(bundled[:, order], [header[i] for i in order])
        assert rows_sha256(parse_table(content, "x")) == BUNDLED_SHA256
    indexed = np.column_stack([np.arange(1797), bundled])
    for name in ("", '""', "Unnamed: 0", "id"):
        assert rows_sha256(parse_table(written(indexed, [name, *header]), "x")) == BUNDLED_SHA256


def test_a_column_that_is_no_pixel_is_recognised_by_its_values(bundled: np.ndarray) -> None:
    """Where no names say it; 12 rows are enough."""
    rows = bundled[100:112]
    class_first = np.column_stack([rows[:, 64], rows[:, :64]])
    index_first = np.column_stack([np.arange(12), rows[:, :64]])
    pixels = rows[:, :64].reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    by_column = np.column_stack([pixels, rows[:, 64]])
    for table, message in (
        (class_first, "column 1 looks like the class, and columns 2 to 65 like the pixels"),
        (index_first, "column 1 looks like row numbers, and columns 2 to 65 like the pixels"),
        (index_first + 5 * np.eye(12, 65, dtype=int)[:, ::-1], "column 1 looks like row numbers"),
        (by_column, "the pixels seem to be stored column by column; store them row by row"),
        (by_column[:1], "the pixels seem to be stored column by column"),
    ):
        for header in (None, range(65)):
            with pytest.raises(DataError, match=f"^x: {message}"):
                parse_table(written(table, header), "x")
    long = np.column_stack([np.arange(300), bundled[:300, :64]])  # beyond what a pixel can be
    with pytest.raises(DataError, match="column 1 looks like row numbers"):
        parse_table(written(long), "x")
    # The remedy: names.
    names = ["class", *(f"Attribute{i}" for i in range(1, 65))]
    found = parse_table(written(class_first, names), "x")
    np.testing.assert_array_equal(np.column_stack(found), rows)


def test_no_right_row_is_suspected(full_data: Path) -> None:
    rows = rows_of(load_digits(full_data))
    for row in rows[::3]:
        parse_table(written(row[None]), "x")
    for k in range(10):
        parse_table(written(rows[rows[:, 64] == k][:40]), "x")
    # Of one row with its class in front, four of five are; most others are of the class 0.
    first = np.column_stack([rows[::20, 64], rows[::20, :64]])
    suspected = 0
    for row in first:
        try:
            parse_table(written(row[None]), "x")
        except DataError:
            suspected += 1
    assert suspected / len(first) > 0.75  # measured: 0.80


@pytest.mark.parametrize("part", ["tra", "tes", "all"])
def test_ucis_rows_are_known_in_any_layout(full_data: Path, part: str) -> None:
    known = {"tra": TRAIN_SHA256, "tes": BUNDLED_SHA256, "all": FULL_SHA256}[part]
    start, stop = {"tra": (0, 3823), "tes": (3823, None), "all": (0, None)}[part]
    rows = rows_of(load_digits(full_data))[start:stop]
    turned = rows[:, :64].reshape(-1, 8, 8).transpose(0, 2, 1).reshape(-1, 64)
    for table in (rows, np.roll(rows, 1, axis=1), np.column_stack([turned, rows[:, 64]])):
        assert rows_sha256(parse_table(written(table), "x")) == known
    text = io.BytesIO()
    np.savetxt(text, np.roll(rows, 1, axis=1))
    assert rows_sha256(parse_table(text.getvalue(), "x")) == known


def test_a_class_may_be_unknown_where_none_is_needed(bundled: np.ndarray) -> None:
    rows = bundled[:6].astype(object)
    rows[:, 64] = [0, -1, "?", "", "NaN", "-1.0"]
    found = parse_table(written(rows), "x", class_needed=False)
    np.testing.assert_array_equal(found.pixels, bundled[:6, :64])
    assert found.classes.tolist() == [0, *[UNKNOWN] * 5]
    with pytest.raises(DataError, match="line 2, column class: '-1' is not 0..9; .*predict.py"):
        parse_table(written(rows), "x")
    bare = parse_table(written(bundled[:6, :64]), "x", class_needed=False)
    np.testing.assert_array_equal(bare.pixels, bundled[:6, :64])
    assert (bare.classes == UNKNOWN).all()
    with pytest.raises(DataError, match="line 2, column class: 'x' is no integer"):
        rows[1, 64] = "x"
        parse_table(written(rows), "x", class_needed=False)


# --- bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"0," * 5_000_000, b"\n" * 10_000_000 + b"x"])
def test_memory_stays_bounded(load, content: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match="line 1"):
        load(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(content)


def test_a_bomb_is_refused_in_bounded_memory() -> None:
    bomb = gzip.compress(b"0," * 2**26 + b"0")  # 128 MB in 0.1
    tracemalloc.start()
    with pytest.raises(DataError, match="bomb isn't a file of at most 67108864 bytes"):
        read_table(io.BytesIO(bomb), "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_BYTES


def test_spellings_that_differ_do_not_fill_the_memory() -> None:
    lines = [",".join(f"1.{'0' * (1 + i * 64 + j)}" for j in range(65)) for i in range(20)]
    assert parse_table(b"2" + "\n".join(lines).encode()[1:], "x").pixels.sum() == 20 * 64 + 1
