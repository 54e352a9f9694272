"""What holds of any input: files of any bytes, splits of any labels, intervals of any scores."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file

from digits_jax import kfold_splits, refit_split, stack_splits, summarize, wilson_interval
from digits_jax.data import MAX_BYTES, DataError, load_digits
from digits_jax.splits import holdout_split

NAMES = [*(f"Attribute{i}" for i in range(1, 65)), "class"]
HEADER = ",".join(NAMES)
Read = Callable[[bytes], np.ndarray]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """The rows [N, 65] of a file of these bytes."""
    path = tmp_path_factory.mktemp("data") / "digits.csv"

    def write_and_read(content: bytes) -> np.ndarray:
        path.write_bytes(content)
        digits = load_digits(path)
        rows = np.column_stack([digits.images.reshape(-1, 64), digits.labels])
        assert digits.images.dtype == np.uint8 and digits.labels.dtype == np.int32
        assert len(rows) == digits.provenance.rows >= 1
        assert rows[:, :64].max() <= 16 and 0 <= rows[:, 64].min() <= rows[:, 64].max() <= 9
        return rows

    return write_and_read


def _check_message(message: str, lines: int) -> None:
    """It is one short line that names the file, the line where there is one, and a remedy."""
    assert "digits.csv" in message and "\n" not in message and len(message) < 600
    line = re.search(r"line (\d+)", message)
    assert line is None or 1 <= int(line[1]) <= lines
    assert (
        line
        or "is empty" in message
        or re.search("gzip|is damaged|the pixels|the largest pixel", message)
    )
    remedies = "UCI's layout is 65 columns|give plain text|write an integer|make it again|leave out"
    assert re.search(f"; ({remedies}|put the class last|store them)", message)


rows_of_numbers = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 9)), min_size=1, max_size=4
).map(
    lambda rows: [
        [*np.random.default_rng(seed).integers(0, 17, 64).tolist(), label] for seed, label in rows
    ]
)
junk = st.one_of(
    st.sampled_from(["", "17", "-1", "1e3", "0x1", "NaN", "1.5", "١", "\0", "é", "1_0", "--1"]),
    st.text(st.characters(codec="utf-8", exclude_characters=",\n\r"), max_size=12),
)


@settings(max_examples=150)
@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf\xef\xbb\xbf")
@example(b"\r\r\n\r")
@example(b'"' * 65)
@example(HEADER.encode() + b"\n" + HEADER.encode())
def test_any_bytes_are_rows_or_a_data_error(read: Read, content: bytes) -> None:
    try:
        read(content)
    except DataError as error:
        _check_message(str(error), 1 + max(content.count(b"\n"), content.count(b"\r")))


@settings(max_examples=100)
@given(
    rows_of_numbers,
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([",", ", ", ' ,"']),
    st.sampled_from(["", "\n", " \n\n"]),
)
def test_what_is_written_is_read(
    read: Read, rows: list[list[int]], header: bool, newline: str, comma: str, end: str
) -> None:
    quote = '"' if '"' in comma else ""
    lines = [HEADER] * header + [(quote + comma).join(map(str, row)) + quote for row in rows]
    lines[header:] = [line if not quote else '"' + line for line in lines[header:]]
    content = newline.join(lines) + end
    np.testing.assert_array_equal(read(content.encode()), rows)


@settings(max_examples=150)
@given(rows_of_numbers, st.booleans(), junk, st.data())
def test_a_wrong_cell_is_named(
    read: Read, rows: list[list[int]], header: bool, cell: str, data: st.DataObject
) -> None:
    row, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 64))
    cells: list[list[object]] = [list(each) for each in rows]
    cells[row][column] = cell
    lines = [HEADER] * header + [",".join(map(str, each)) for each in cells]
    stripped = cell.strip(' \t"')
    highest = 9 if column == 64 else 16
    if re.fullmatch(r"[+-]?[0-9]+", stripped, re.ASCII) and 0 <= int(stripped) <= highest:
        assert read("\n".join(lines).encode())[row, column] == int(stripped)
        return
    with pytest.raises(DataError) as caught:
        read("\n".join(lines).encode())
    message = str(caught.value)
    _check_message(message, len(lines))
    if column == 64 and row == len(rows) - 1 and not cell.strip():
        return  # at the file's end, white space is none of its cells
    assert f"line {row + header + 1}, column {NAMES[column]}: " in message


@settings(max_examples=150)
@given(rows_of_numbers, st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=4))
def test_a_file_that_was_changed_is_rows_or_a_data_error(
    read: Read, rows: list[list[int]], changes: list[tuple[float, bytes]]
) -> None:
    content = "\n".join([HEADER, *(",".join(map(str, row)) for row in rows)]).encode()
    for place, bytes_ in changes:
        at = int(place * len(content))
        content = content[:at] + bytes_ + content[at + 1 :]
    try:
        read(content)
    except DataError as error:
        _check_message(str(error), 1 + content.count(b"\n") + content.count(b"\r"))


@pytest.mark.parametrize(
    ("size", "line", "most", "message"),
    [
        (2**30, b"", 10**6, "isn't a file of at most 67108864 bytes"),
        (0, b"0," * 10_000_000 + b"0", 100 * 10**6, "line 1: 10000001 columns, too many"),
        (0, b"9" * MAX_BYTES, 2 * MAX_BYTES, "line 1: 1 columns, no Attribute2"),
    ],
    ids=["a gigabyte", "ten million columns", "one long number"],
)
def test_large_files_are_refused_in_bounded_memory(
    tmp_path: Path, size: int, line: bytes, most: int, message: str
) -> None:
    """Measured on Python 3.11: 0.3 MB, 67 MB and 67 MB."""
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.write(line)
        file.truncate(size or len(line))  # sparse
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            load_digits(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, peak


# --- what other programs write -------------------------------------------------------------------

BUNDLED = load_digits("bundled")
ROWS = np.column_stack([BUNDLED.images.reshape(-1, 64), BUNDLED.labels]).astype(np.int64)
NAMES_OF_OTHERS = {
    "uci": NAMES,
    "openml": [*(f"input{i}" for i in range(1, 65)), "class"],
    "scikit-learn": [*(f"pixel_{i}_{j}" for i in range(8) for j in range(8)), "target"],
    "pandas": list(range(65)),
    "r": [f"V{i}" for i in range(1, 66)],
}


def _by_pandas(rows: np.ndarray, names: list[str], options: dict[str, Any]) -> bytes:
    frame = pandas.DataFrame(rows, columns=names)
    if options["first"]:  # the class in front
        frame = frame[[names[64], *names[:64]]]
    frame = frame.astype(float) if options["floats"] else frame
    chosen = {"index": options["index"], "header": options["header"], "sep": options["delimiter"]}
    return frame.to_csv(None, **chosen).encode()


def _by_numpy(rows: np.ndarray, names: list[str], options: dict[str, Any]) -> bytes:
    file, delimiter = io.BytesIO(), options["delimiter"]
    rows = np.roll(rows, 1, axis=1) if options["first"] else rows
    names = names[-1:] + names[:-1] if options["first"] else names
    header = delimiter.join(map(str, names)) if options["header"] else ""
    chosen = {"fmt": "%.18e"} if options["floats"] else {"fmt": "%d"}
    np.savetxt(file, rows, delimiter=delimiter, header=header, **chosen)
    return file.getvalue()


def _by_csv(rows: np.ndarray, names: list[str], options: dict[str, Any]) -> bytes:
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if options["index"] else csv.QUOTE_MINIMAL
    dialect = "unix" if options["floats"] else "excel"
    writer = csv.writer(file, dialect, delimiter=options["delimiter"], quoting=quoting)
    rows = np.roll(rows, 1, axis=1) if options["first"] else rows
    names = names[-1:] + names[:-1] if options["first"] else names
    writer.writerows([*([names] if options["header"] else []), *rows.tolist()])
    return file.getvalue().encode()


def _by_scikit_learn(rows: np.ndarray, names: list[str], options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    dump_svmlight_file(rows[:, :64], rows[:, 64], file)
    return file.getvalue()


@settings(max_examples=120)
@given(
    st.sampled_from([_by_pandas, _by_numpy, _by_csv, _by_scikit_learn]),
    st.sampled_from(sorted(NAMES_OF_OTHERS)),
    st.integers(0, 1700),
    st.integers(3, 40),
    st.fixed_dictionaries(
        {name: st.booleans() for name in ("first", "floats", "index", "header", "gzip")}
        | {"delimiter": st.sampled_from(",;\t")}
    ),
)
def test_what_others_write_of_the_same_rows_is_read_as_the_same_or_refused(
    read: Read,
    write: Callable[..., bytes],
    whose: str,
    start: int,
    count: int,
    options: dict[str, Any],
) -> None:
    rows = ROWS[start : start + count]
    content = write(rows, NAMES_OF_OTHERS[whose], options)
    try:
        found = read(gzip.compress(content) if options["gzip"] else content)
    except DataError as error:
        _check_message(str(error), 1 + content.count(b"\n"))
        # Where names say which column is which, or all is as usual, there is nothing to refuse.
        named = options["header"] and whose not in ("pandas", "r")
        indexed = options["index"] and not options["header"] and write is _by_pandas
        assert write is _by_scikit_learn or indexed or (options["first"] and not named)
    else:
        np.testing.assert_array_equal(found, rows)


# --- splits --------------------------------------------------------------------------------------

labels_of_rows = st.lists(st.integers(0, 9), min_size=4, max_size=60)


@settings(max_examples=80)
@given(
    labels_of_rows,
    st.integers(2, 6),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 2**32 - 3),
)
def test_every_row_is_tested_once_a_repeat_and_never_by_a_run_that_trained_on_it(
    labels: list[int], folds: int, repeats: int, stratified: bool, seed: int
) -> None:
    smallest = min(np.unique(labels, return_counts=True)[1])
    if folds > len(labels) or (stratified and smallest < folds):
        with pytest.raises(ValueError, match="row"):
            kfold_splits(labels, folds, seed=seed, stratified=stratified, repeats=repeats)
        return
    kfold = kfold_splits(labels, folds, seed=seed, stratified=stratified, repeats=repeats)
    splits = stack_splits(kfold, refit_split(labels))
    assert splits.train_rows.shape[0] == folds * repeats + 1
    tested = np.zeros((repeats, len(labels)), int)
    assert splits.validation_rows is None and splits.validation_weights is None
    for run, split in enumerate(zip(*splits[:4], strict=True)):
        train_rows, train_weights, test_rows, test_weights = split
        for rows, weights in ((train_rows, train_weights), (test_rows, test_weights)):
            assert set(weights.tolist()) <= {0.0, 1.0}
            assert (np.diff(weights) <= 0).all(), "padding is last"
            assert ((0 <= rows) & (rows < len(labels))).all(), "padding names rows that exist"
            assert len(set(rows[weights > 0])) == weights.sum(), "no row twice"
        train, test = set(train_rows[train_weights > 0]), set(test_rows[test_weights > 0])
        assert train | test == set(range(len(labels))) and not train & test
        assert not set(train_rows) & test, "not even as padding"
        if run < folds * repeats:
            tested[run // folds, list(test)] += 1
        else:
            assert not test
    assert (tested == 1).all()


@settings(max_examples=60)
@given(labels_of_rows, st.floats(0.001, 0.999), st.integers(0, 2**32 - 1))
def test_a_holdout_parts_all_rows(labels: list[int], test_size: float, seed: int) -> None:
    rows = math.ceil(test_size * len(labels))
    if rows >= len(labels):
        with pytest.raises(ValueError):
            holdout_split(labels, test_size=test_size, seed=seed)
        return
    split = holdout_split(labels, test_size=test_size, seed=seed)
    assert sorted([*split.train_rows[0], *split.test_rows[0]]) == list(range(len(labels)))
    assert split.test_rows.shape == (1, rows)
    assert split.train_weights.all() and split.test_weights.all()


# --- statistics ----------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    st.floats(-1e3, 1e3),
    st.floats(0.01, 100),
)
def test_a_summary_moves_and_scales_with_its_scores(
    scores: list[float], shift: float, scale: float
) -> None:
    assume(np.ptp(scores) > 1e-3)  # equal scores have no such interval
    a = summarize(scores, train_rows=80, test_rows=20)
    b = summarize([scale * score + shift for score in scores], train_rows=80, test_rows=20)
    close = 1e-9 * (abs(shift) + scale * max(map(abs, scores)) + 1)
    assert math.isclose(b.mean, scale * a.mean + shift, abs_tol=close)
    assert math.isclose(b.std, scale * a.std, abs_tol=close)
    for got, before in zip(b.ci95, a.ci95, strict=True):
        assert math.isclose(got, scale * before + shift, abs_tol=100 * close)
    assert min(scores) - close <= a.mean <= max(scores) + close
    naive = summarize(scores).ci95
    assert a.ci95[0] <= naive[0] + close and naive[1] <= a.ci95[1] + close


@settings(max_examples=100)
@given(st.integers(1, 10**6), st.data())
def test_wilson_holds_the_share_and_is_symmetric(count: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, count))
    low, high = wilson_interval(right, count)
    assert 0 <= low <= right / count <= high <= 1 and low < high
    other = wilson_interval(count - right, count)
    assert math.isclose(low, 1 - other[1], abs_tol=1e-12)
    assert math.isclose(high, 1 - other[0], abs_tol=1e-12)
    assert wilson_interval(right, count, 0.5)[0] >= low
