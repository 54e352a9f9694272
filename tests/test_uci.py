"""UCI's download and its cache; UCI is a loopback server that speaks its API."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
import pytest

from digits_jax import uci as uci_module
from digits_jax.data import (
    BUNDLED_SHA256,
    FULL_SHA256,
    DataError,
    Dataset,
    DataWarning,
    load_digits,
)
from digits_jax.layouts import Rows, rows_sha256

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


# --- UCI -----------------------------------------------------------------------------------------


class Uci(ThreadingHTTPServer):
    """UCI's API on the loopback: /api answers with metadata, /data.csv with `csv`."""

    daemon_threads = True
    csv = CSV
    mode = "good"
    path: Path
    requests = 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.over = threading.Event()

    def data_url(self) -> str:
        if self.mode == "file":
            return self.path.as_uri()
        return self.url + "/data.csv"

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
            "data_url": server.data_url(),
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
        monkeypatch.setattr(uci_module, "API_URL", server.url + "/api")
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
    monkeypatch.setattr(uci_module, "API_URL", f"http://127.0.0.1:{port}/api")


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
    header, _, rows = full_data.read_text().partition("\n")
    uci.csv = header + "\n" + rows.replace(",", ".0,")  # 5.0 is 5
    for origin in "uci", "cache":
        digits = load_digits("uci", cache_dir=tmp_path)
        assert (digits.provenance.source, digits.provenance.sha256) == (origin, FULL_SHA256)


@pytest.mark.parametrize(
    ("mode", "csv", "message"),
    [
        ("404", CSV, "Error connecting to server: HTTPError: HTTP Error 404: Not Found"),
        ("csv 404", CSV, "Error reading data csv file .*: HTTPError: HTTP Error 404"),
        ("garbage", CSV, "JSONDecodeError"),
        ("truncated", CSV, "IncompleteRead"),
        ("good", edited(5, 4, "0.5"), "data.csv, line 5, column Attribute5: '0.5' is no integer"),
        ("good", CSV.replace("class", "class,more"), "column 66: 'more' names neither a pixel"),
        ("good", HEADER + "".join(f"\n1,{line}" for line in LINES), "column 1: 'surplus' names"),
        ("good", HEADER, "Error reading data csv"),
    ],
)
def test_broken_uci_is_refused_and_not_kept(
    uci: Uci, tmp_path: Path, mode: str, csv: str, message: str
) -> None:
    uci.mode, uci.csv = mode, csv
    with pytest.raises(DataError, match=message) as caught:
        load_digits("uci", cache_dir=tmp_path)
    assert "give --data" in str(caught.value) and "bundled" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_way_than_the_services_own_is_refused(uci: Uci, tmp_path: Path) -> None:
    uci.mode = "file"
    uci.path = tmp_path / "local.csv"
    uci.path.write_text(CSV)
    with pytest.raises(DataError, match=r"UCI names file://.*local\.csv, which is not http"):
        load_digits("uci", cache_dir=tmp_path / "cache")


def _children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_slow_uci_ends_at_the_timeout(uci: Uci, tmp_path: Path) -> None:
    uci.mode = "slow"
    before = _children()
    started = time.perf_counter()
    with pytest.raises(DataError, match=r"no complete answer within 0\.3 s.*longer timeout"):
        load_digits("uci", timeout=0.3, cache_dir=tmp_path)
    assert time.perf_counter() - started < 5
    assert _children() == before, "the download itself ends too"


def test_endless_uci_is_cut_off(uci: Uci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uci.mode = "endless"
    monkeypatch.setattr(uci_module, "MAX_PROCESS_BYTES", 2**28)
    with pytest.raises(DataError, match="takes more than 268435456 bytes"):
        load_digits("uci", cache_dir=tmp_path)


def test_a_large_table_is_refused(
    uci: Uci, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uci_module, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="UCI's answer has more than 1000 bytes"):
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
    sha256 = rows_sha256(Rows(ROWS[:, :64], ROWS[:, 64].astype(np.int32)))
    np.savez(tmp_path / "other.npz", rows=other, sha256=sha256, about="[null, null]")
    np.savez(tmp_path / "pickle.npz", rows=np.array([{}]), sha256="", about="")
    forged = [(tmp_path / name).read_bytes() for name in ("other.npz", "pickle.npz")]
    for damaged in good[:-1], good[: len(good) // 2], b"", b"garbage", *forged, bytes(flipped):
        cache.write_bytes(damaged)
        caplog.clear()
        assert uci_module.read_cache(cache) is None
        assert f"the cache {cache} is damaged" in caplog.messages[0]
    requests = uci.requests
    digits = load_small(tmp_path)
    assert digits.provenance.source == "uci" and uci.requests == requests + 2
    np.testing.assert_array_equal(rows_of(digits), ROWS)
    assert load_small(tmp_path).provenance.source == "cache"


def test_no_flipped_bit_of_the_cache_gives_wrong_rows(tmp_path: Path) -> None:
    rows = Rows(ROWS[:, :64], ROWS[:, 64].astype(np.int32))
    fresh = uci_module.UciTable(rows, {"name": "digits"}, [{"name": "Attribute1"}])
    cache = tmp_path / "optdigits.npz"
    uci_module.write_cache(cache, fresh)
    good = cache.read_bytes()
    table = uci_module.read_cache(cache)
    assert table is not None
    for at in range(0, len(good), 23):
        cache.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        flipped = uci_module.read_cache(cache)
        if flipped is not None:  # a bit that says nothing about the rows: a date, for example
            np.testing.assert_array_equal(np.column_stack(flipped.rows), ROWS)
            assert flipped[1:] == fresh[1:]


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

    monkeypatch.setattr("os.fsync", full_disk)
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
