"""Every source of digits, good and broken; UCI is a loopback server that speaks its API."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import ucimlrepo

from digits_jax import data
from digits_jax.data import (
    BUNDLED_SHA256,
    FULL_SHA256,
    TRAIN_WRITERS_ROWS,
    DataError,
    Dataset,
    DataWarning,
    load_digits,
)

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
    started = time.perf_counter()
    digits = load_digits(full_data)
    assert time.perf_counter() - started < 0.5
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
    ],
    ids="header no-newline blank-end crlf cr bom headerless case spaces quotes zeros".split(),
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
        (CSV.replace(LINES[3], ""), "line 5: 1 columns, no Attribute2"),
        (CSV.replace(",", ";"), "line 1: 1 columns"),
        (edited(1, 4, "pixel"), "line 1, column Attribute5: header 'pixel'"),
        (CSV.replace("Attribute64,class", "class,Attribute64"), "column Attribute64: header"),
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


@pytest.mark.parametrize("content", [b"0," * 5_000_000, b"\n" * 10_000_000 + b"x"])
def test_memory_stays_bounded(load, content: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match="line 1"):
        load(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(content)


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


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="not int"):
        load_digits(5)  # type: ignore[arg-type]
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive number of seconds"):
            load_digits("bundled", timeout=timeout)


# --- UCI -----------------------------------------------------------------------------------------


class Uci(ThreadingHTTPServer):
    """UCI's API on the loopback: /api answers with metadata, /data.csv with `csv`."""

    daemon_threads = True
    csv = CSV
    mode = "good"
    requests = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()

    def handle_error(self, request, client_address) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's mode says."""

    server: Uci

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # the name that http.server asks for
        server = self.server
        server.requests += 1
        api = self.path == "/api?id=80"
        names = HEADER.split(",")
        roles = ["Feature"] * 64 + ["Target"]
        metadata = {
            "uci_id": 80,
            "name": "Optical Recognition of Handwritten Digits",
            "data_url": "file:///etc/passwd" if server.mode == "file" else server.url + "/data.csv",
            "additional_info": {"summary": "43 people"},
            "intro_paper": None,
            "variables": [
                {"name": n, "role": r, "type": "Integer", "units": None}
                for n, r in zip(names, roles, strict=True)
            ],
        }
        body = json.dumps({"status": 200, "data": metadata}) if api else server.csv
        status = 200
        if server.mode in ("404", "500") or (server.mode == "csv 404" and not api):
            status = int(server.mode[-3:])
        if server.mode == "garbage" or (server.mode == "csv garbage" and not api):
            body = "\0\x01[["
        self.send_response(status)
        if server.mode == "endless" and not api:
            self.end_headers()
            while not server.over.is_set():
                self.wfile.write(b"0," * 2**16)
        truncated = server.mode == "truncated" and not api
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[: len(body) // 2] if truncated else body
        if server.mode == "slow" and not api:
            for character in body:
                self.wfile.write(character.encode())
                if server.over.wait(0.02):
                    return
        self.wfile.write(body.encode())


@pytest.fixture
def uci(monkeypatch: pytest.MonkeyPatch) -> Iterator[Uci]:
    """A running server that ucimlrepo takes for UCI."""
    with Uci() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(ucimlrepo.fetch, "API_BASE_URL", server.url + "/api")
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def down(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(ucimlrepo.fetch, "API_BASE_URL", f"http://127.0.0.1:{port}/api")


def load_small(cache: Path, source: str = "uci", **kwargs: float) -> Dataset:
    """UCI's table of 12 rows, which isn't the known one."""
    with pytest.warns(DataWarning, match="5620 rows: it has 12 rows .* delete .*optdigits.npz"):
        return load_digits(source, cache_dir=cache, **kwargs)


@pytest.mark.parametrize("source", ["uci", "auto"])
def test_uci_is_downloaded_once(
    uci: Uci, tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str
) -> None:
    caplog.set_level(logging.INFO, "digits_jax")
    fresh = load_small(tmp_path / "new" / "folder", source)
    assert uci.requests == 2
    uci.mode = "500"
    cached = load_small(tmp_path / "new" / "folder", source)
    assert uci.requests == 2
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["optdigits.npz"]
    for digits, origin in (fresh, "uci"), (cached, "cache"):
        np.testing.assert_array_equal(rows_of(digits), ROWS)
        assert digits.provenance.source == origin
        assert f"{origin}: the 12 rows downloaded from UCI" in digits.provenance.note
        assert digits.provenance.note in caplog.messages
        assert digits.metadata is not None and digits.variables is not None
        assert digits.metadata["additional_info"] == {"summary": "43 people"}
        assert type(digits.metadata["additional_info"]) is dict
        assert [v["role"] for v in digits.variables] == ["Feature"] * 64 + ["Target"]
        assert digits.variables[4]["name"] == "Attribute5" and digits.variables[4]["units"] is None
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_full_set_from_uci_warns_of_nothing(uci: Uci, tmp_path: Path, full_data: Path) -> None:
    uci.csv = full_data.read_text()
    for origin in "uci", "cache":
        digits = load_digits("uci", cache_dir=tmp_path)
        assert (digits.provenance.source, digits.provenance.sha256) == (origin, FULL_SHA256)


def test_whole_floats_from_uci_are_integers(uci: Uci, tmp_path: Path) -> None:
    uci.csv = "\n".join([HEADER, *(line.replace(",", ".0,") for line in LINES)])
    np.testing.assert_array_equal(rows_of(load_small(tmp_path)), ROWS)


@pytest.mark.parametrize(
    ("mode", "csv", "message"),
    [
        ("404", CSV, "/api?id=80: HTTP Error 404: Not Found"),
        ("500", CSV, "/api?id=80: HTTP Error 500"),
        ("csv 404", CSV, "/data.csv: HTTP Error 404"),
        ("garbage", CSV, "JSONDecodeError"),
        ("csv garbage", CSV, "Error reading data csv"),
        ("truncated", CSV, f"/data.csv broke off after {len(CSV) // 2} bytes"),
        ("file", CSV, "file:///etc/passwd led to file:///etc/passwd, which is not http"),
        ("good", CSV[: len(CSV) // 2], "missing value"),
        ("good", edited(5, 4, ""), "data.csv, line 5, column Attribute5: missing value"),
        ("good", edited(5, 4, "0.5"), "data.csv, line 5, column Attribute5: '0.5' is no integer"),
        ("good", edited(5, 64, "11"), "data.csv, line 5, column class: '11' is not 0..9"),
        ("good", edited(1, 4, "pixel5"), "Attribute5"),
        ("good", CSV.replace("class", "class,more"), "line 1: 66 columns"),
        ("good", HEADER + "".join(f"\n1,{line}" for line in LINES), "line 1: 66 columns"),
        ("good", HEADER, "Error reading data csv"),
        ("good", "", "No columns to parse"),
    ],
)
def test_broken_uci_is_refused_and_not_kept(
    uci: Uci, tmp_path: Path, mode: str, csv: str, message: str
) -> None:
    uci.mode, uci.csv = mode, csv
    with pytest.raises(DataError) as caught:
        load_digits("uci", cache_dir=tmp_path)
    assert message in str(caught.value)
    assert "give --data" in str(caught.value) and "bundled" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_slow_uci_ends_at_the_timeout(uci: Uci, tmp_path: Path) -> None:
    uci.mode = "slow"
    started = time.perf_counter()
    with pytest.raises(DataError, match=r"no complete answer within 0\.3 s.*longer timeout"):
        load_digits("uci", timeout=0.3, cache_dir=tmp_path)
    assert time.perf_counter() - started < 5
    for thread in threading.enumerate():  # the download itself ends too, before the server does
        if thread.name == "digits_jax-uci":
            thread.join(5)
            assert not thread.is_alive()


def test_endless_uci_is_cut_off(uci: Uci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uci.mode = "endless"
    monkeypatch.setattr(data, "MAX_BYTES", 2**20)
    with pytest.raises(DataError, match="sent more than 1048576 bytes"):
        load_digits("uci", cache_dir=tmp_path)


@pytest.mark.usefixtures("down")
def test_down_uci(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"refused.*give --data .* or bundled"):
        load_digits("uci", cache_dir=tmp_path)
    assert not caplog.records
    digits = load_digits("auto", cache_dir=tmp_path)
    assert digits.provenance.sha256 == BUNDLED_SHA256
    [record] = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "digits_jax")
    assert record.getMessage() == digits.provenance.note
    assert "bundled: the 1797 rows that come with scikit-learn, because UCI's" in record.message


def test_ucimlrepo_is_left_as_it_was(uci: Uci, tmp_path: Path) -> None:
    before = dict(vars(ucimlrepo.fetch))
    load_small(tmp_path)
    assert dict(vars(ucimlrepo.fetch)) == before


# --- the cache -----------------------------------------------------------------------------------


def test_damaged_cache_is_named_and_downloaded_again(
    uci: Uci, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_small(tmp_path)
    cache = tmp_path / "optdigits.npz"
    good = cache.read_bytes()
    flipped = bytearray(good)
    flipped[good.index(ROWS.tobytes()) + 100] ^= 1
    other = ROWS.copy()
    other[0, 0] ^= 1
    np.savez(tmp_path / "other.npz", rows=other, sha256=data._sha256(ROWS), about="[null, null]")
    np.savez(tmp_path / "pickle.npz", rows=np.array([{}]), sha256="", about="")
    forged = [(tmp_path / name).read_bytes() for name in ("other.npz", "pickle.npz")]
    for damaged in bytes(flipped), good[:-1], good[: len(good) // 2], b"", b"garbage", *forged:
        cache.write_bytes(damaged)
        requests = uci.requests
        caplog.clear()
        digits = load_small(tmp_path)
        assert digits.provenance.source == "uci" and uci.requests == requests + 2
        np.testing.assert_array_equal(rows_of(digits), ROWS)
        assert f"the cache {cache} is damaged" in caplog.messages[0]
        assert load_small(tmp_path).provenance.source == "cache"


def test_no_flipped_bit_of_the_cache_gives_wrong_rows(uci: Uci, tmp_path: Path) -> None:
    fresh = load_small(tmp_path)
    cache = tmp_path / "optdigits.npz"
    good = cache.read_bytes()
    table = data._read_cache(cache)
    assert table is not None
    for at in range(0, len(good), 23):
        cache.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        flipped = data._read_cache(cache)
        if flipped is not None:  # a bit that says nothing about the rows: a date, for example
            np.testing.assert_array_equal(flipped.rows, ROWS)
            assert flipped[3:] == (fresh.metadata, list(fresh.variables or ()))


def test_cache_that_cannot_be_written(
    uci: Uci, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    digits = load_small(tmp_path / "file")  # root may write to any folder, but not to a file
    np.testing.assert_array_equal(rows_of(digits), ROWS)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"can't be kept in {tmp_path / 'file' / 'optdigits.npz'}" in record.message
    assert "give cache_dir" in record.message

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data.os, "fsync", full_disk)
    load_small(tmp_path / "full")
    assert "No space left on device" in caplog.messages[-1]
    assert not list((tmp_path / "full").iterdir())


def test_default_cache_is_in_the_users_cache_folder(
    uci: Uci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, **_: tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        load_digits("uci")
    assert (tmp_path / "digits_jax" / "optdigits.npz").is_file()
