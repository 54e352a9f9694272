"""Every source of digits, and what is known of their rows."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from digits_jax.data import (
    BUNDLED_SHA256,
    FULL_SHA256,
    TRAIN_WRITERS_ROWS,
    DataError,
    Dataset,
    load_digits,
    read_rows,
)

RNG = np.random.default_rng(0)
ROWS = np.column_stack([RNG.integers(0, 17, (12, 64)), RNG.integers(0, 10, 12)]).astype(np.uint8)
LINES = [",".join(map(str, row)) for row in ROWS]


def rows_of(digits: Dataset) -> np.ndarray:
    return np.column_stack([digits.images.reshape(-1, 64), digits.labels])


# --- the known sets ------------------------------------------------------------------------------


def test_bundled_rows_have_the_known_hash() -> None:
    digits = load_digits("bundled")
    assert digits.provenance.sha256 == BUNDLED_SHA256
    assert (digits.provenance.source, digits.provenance.rows) == ("bundled", 1797)
    assert digits.images.dtype == np.uint8 and digits.images.shape == (1797, 8, 8)
    assert digits.images.flags.c_contiguous
    assert digits.labels.dtype == np.int32 and digits.labels.shape == (1797,)
    assert repr(digits) == "Dataset(1797 rows, bundled, sha256 68aea062d35a…)"  # no pixels
    assert digits.class_names == tuple("0123456789")
    assert digits.metadata is None and digits.variables is None
    np.testing.assert_array_equal(digits.images, sklearn.datasets.load_digits().images)


def test_full_set_has_the_known_hash_and_ends_with_the_bundled_rows(full_data: Path) -> None:
    started = time.process_time()
    digits = load_digits(full_data)
    assert time.process_time() - started < 0.5
    assert digits.provenance.sha256 == FULL_SHA256
    assert (digits.provenance.source, digits.provenance.rows) == (str(full_data), 5620)
    np.testing.assert_array_equal(
        rows_of(digits)[TRAIN_WRITERS_ROWS:], rows_of(load_digits("bundled"))
    )


def test_folder_gives_tra_before_tes(full_data: Path, tmp_path: Path) -> None:
    lines = full_data.read_text().splitlines(keepends=True)[1:]
    (tmp_path / "optdigits.tra").write_text("".join(lines[:TRAIN_WRITERS_ROWS]))
    (tmp_path / "optdigits.tes").write_text("".join(lines[TRAIN_WRITERS_ROWS:]))
    assert load_digits(tmp_path).provenance.sha256 == FULL_SHA256
    assert load_digits(tmp_path / "optdigits.tra").provenance.rows == TRAIN_WRITERS_ROWS
    assert load_digits(tmp_path / "optdigits.tes").provenance.sha256 == BUNDLED_SHA256


# --- paths ---


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "large.csv").open("wb") as file:
        file.truncate(2**31)  # sparse
    with pytest.raises(DataError, match=r"large\.csv isn't a file of at most 67108864 bytes"):
        load_digits(tmp_path / "large.csv")


def test_paths_that_hold_no_rows(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.csv", "none.csv can't be read (No such file"),
        (tmp_path, "optdigits.tra can't be read (No such file"),
        ("Auto", "one of the words auto, uci, bundled"),
        ("optdigits.CSV", "one of the words auto, uci, bundled"),
        ("nul\0byte", "can't be read"),
        ("x" * 5000, "can't be read"),
        ("/dev/null", "isn't a file"),
    ]:
        with pytest.raises(DataError) as caught:
            load_digits(path)
        assert message in str(caught.value)
        assert "give the path of a CSV" in str(caught.value)
    (tmp_path / "optdigits.tra").write_text("\n".join(LINES))
    with pytest.raises(DataError, match=r"optdigits\.tes can't be read"):
        load_digits(tmp_path)


def test_an_address_is_no_path() -> None:
    with pytest.raises(DataError, match="^https://x.org/a.csv is an address; download it"):
        load_digits("https://x.org/a.csv")


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    """Process substitution gives one; so does /dev/stdin."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for content, message in (("\n".join(LINES), None), ("x", "pipe, line 1: 1 column")):
        writer = threading.Thread(target=pipe.write_text, args=[content])
        writer.start()
        if message is None:
            np.testing.assert_array_equal(rows_of(load_digits(pipe)), ROWS)
        else:
            with pytest.raises(DataError, match=message):
                load_digits(pipe)
        writer.join()


def test_rows_without_classes_are_read_where_none_are_needed(tmp_path: Path) -> None:
    for end in ("tra", "tes"):
        text = "\n".join(line.rsplit(",", 1)[0] for line in LINES)
        (tmp_path / f"optdigits.{end}").write_text(text)
    found = read_rows(tmp_path, class_needed=False)
    np.testing.assert_array_equal(found.pixels, np.tile(ROWS[:, :64], (2, 1)))
    assert (found.classes == -1).all()
    with pytest.raises(DataError, match="64 columns, no class"):
        load_digits(tmp_path)


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="not int"):
        load_digits(5)  # type: ignore[arg-type]
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive number of seconds"):
            load_digits("bundled", timeout=timeout)
