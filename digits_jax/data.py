"""The 8x8 UCI handwritten digits, validated and with their provenance.

The rows are E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits* (1998), UCI
data set 80, https://doi.org/10.24432/C50P49. Below, N is the number of rows; a row is 64 pixels
(8x8, row-major, 0..16: how many pixels of a 4x4 block are ink) and a class, 0..9.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import os
import re
import ssl
import stat
import threading
import time
import types
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax import environment
from digits_jax.storage.files import whole_file

# Provenance.sha256 of UCI's 5620 rows, and of the 1797 that come with scikit-learn.
FULL_SHA256 = "a88fcce34a8912ee99fb04893ce831c603fcf73799df3c49e93ec05a736beef2"
BUNDLED_SHA256 = "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"
UCI_ROWS = 5620
TRAIN_WRITERS_ROWS = 3823  # optdigits.tra: 30 writers; the rows after it are 13 other writers'

_COLUMNS = (*(f"Attribute{i}" for i in range(1, 65)), "class")
_LAYOUT = "UCI's layout is 65 columns separated by commas: Attribute1 .. Attribute64, class"
MAX_BYTES = 64 * 2**20  # of a file or a download; the full set takes 0.8 MB
_VALUES = {str(value).encode(): value for value in range(17)}

logger: logging.Logger = logging.getLogger("digits_jax")


class DataError(ValueError):
    """Data that can't be used: names the file, the line, the column, and the remedy."""


class DataWarning(UserWarning):
    """Data that can be used but isn't what UCI published."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the rows came from; belongs in every result file.

    Attributes:
        source: "uci", "cache" (an earlier download), "bundled", or the path as given.
        rows: N.
        sha256: of the rows as uint8 [N, 65] in C order, 64 pixels and then the class.
        note: one sentence: which source, and why.
    """

    source: str
    rows: int
    sha256: str
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)  # arrays have no truth value for ==
class Dataset:
    """The digits, on the host, and what is known of them.

    Attributes:
        images: uint8 [N, 8, 8], ink counts 0..16.
        labels: int32 [N], classes 0..9.
        class_names: "0" .. "9".
        provenance: where the rows came from.
        metadata: UCI's description of the data set; None unless it came from UCI or its cache.
        variables: UCI's table of variables, a mapping for each column; None if there is none.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    class_names: tuple[str, ...]
    provenance: Provenance
    metadata: Mapping[str, Any] | None
    variables: tuple[Mapping[str, Any], ...] | None

    @property
    def data(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """(images, labels), as ``cross_validate`` takes them."""
        return self.images, self.labels

    def __repr__(self) -> str:  # a notebook would print all pixels
        source, digest = self.provenance.source, self.provenance.sha256[:12]
        return f"Dataset({len(self.labels)} rows, {source}, sha256 {digest}…)"


class _Table(NamedTuple):
    rows: npt.NDArray[np.uint8]  # [N, 65], 64 pixels and then the class
    origin: str  # Provenance.source
    reason: str  # the end of Provenance.note
    metadata: dict[str, Any] | None = None
    variables: list[dict[str, Any]] | None = None


def load_digits(
    source: str | os.PathLike[str] = "auto",
    *,
    timeout: float = 60.0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Load the digits and say where they came from.

    Args:
        source: "uci" (the cache of an earlier download, else a download), "bundled" (the 1797 rows
            that come with scikit-learn), "auto" ("uci", and "bundled" where that fails), or a path:
            a CSV in UCI's layout, an `optdigits.tra` or `.tes`, or a folder that holds both.
        timeout: Seconds that the whole download may take.
        cache_dir: The folder of the cache; by default `digits_jax` in the user's cache folder.

    Returns:
        The validated rows, in the order of the source. Their provenance's note is also logged to
        "digits_jax": as a warning where "auto" fell back to the bundled rows, else as info.

    Raises:
        DataError: The source can't be reached or read, or a cell of it is wrong.
        ValueError: `timeout` isn't a positive number of seconds.

    Warns:
        DataWarning: UCI's rows aren't the 5620 known ones.

    Examples:
        >>> digits = load_digits("bundled")
        >>> digits.images.shape, digits.images.dtype, digits.labels.dtype
        ((1797, 8, 8), dtype('uint8'), dtype('int32'))
        >>> digits.provenance.note
        'bundled: the 1797 rows that come with scikit-learn, as asked for'
    """
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout}")
    folder = environment.cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
    cache = None if folder is None else folder / "optdigits.npz"
    if source in ("auto", "uci"):
        table = _load_uci(str(source), timeout, cache)
    elif source == "bundled":
        table = _load_bundled("as asked for")
    else:
        table = _Table(_load_path(source), os.fspath(source), "read from the path given")

    rows, origin, reason, metadata, variables = table
    sha256, note = _sha256(rows), f"{origin}: the {len(rows)} rows {reason}"
    fell_back = source == "auto" and origin == "bundled"
    logger.log(logging.WARNING if fell_back else logging.INFO, "%s", note)
    if origin in ("uci", "cache") and sha256 != FULL_SHA256:
        warnings.warn(
            f"UCI's table isn't the known one of 5620 rows: it has {len(rows)} rows with SHA-256"
            f" {sha256}; to download it again, delete {cache}",
            DataWarning,
            stacklevel=2,
        )
    return Dataset(
        images=np.ascontiguousarray(rows[:, :64]).reshape(-1, 8, 8),
        labels=rows[:, 64].astype(np.int32),
        class_names=tuple("0123456789"),
        provenance=Provenance(source=origin, rows=len(rows), sha256=sha256, note=note),
        metadata=metadata,
        variables=None if variables is None else tuple(variables),
    )


def _sha256(rows: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _load_bundled(why: str) -> _Table:
    import sklearn.datasets

    pixels, classes = sklearn.datasets.load_digits(return_X_y=True)
    rows = np.column_stack([pixels, classes]).astype(np.uint8)
    return _Table(rows, "bundled", f"that come with scikit-learn, {why}")


def _load_path(source: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """The rows of a file, or of a folder that holds both of UCI's files."""
    path = Path(os.path.expanduser(source))
    remedy = (
        "give the path of a CSV in UCI's layout, of a folder that holds optdigits.tra and"
        " optdigits.tes, or one of the words auto, uci, bundled"
    )
    raw = None
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)  # whatever stat said: it may have grown
    except (OSError, ValueError) as error:  # ValueError: a path that no system call takes
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{path} can't be read ({cause}); {remedy}") from error
    if stat.S_ISDIR(status.st_mode):
        # In the order of UCI's own table.
        return np.concatenate([_load_path(path / f"optdigits.{end}") for end in ("tra", "tes")])
    if raw is None or len(raw) > MAX_BYTES:
        raise DataError(f"{path} isn't a file of at most {MAX_BYTES} bytes; {remedy}")
    return _parse(raw, str(path))


def _parse(raw: bytes, where: str) -> npt.NDArray[np.uint8]:
    """The rows [N, 65] of a table in UCI's layout, with or without its header."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").rstrip()
    raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not raw:
        raise DataError(f"{where} is empty; {_LAYOUT}")
    rows = bytearray()
    for number, line in enumerate(io.BytesIO(raw), start=1):
        line = line.rstrip(b"\n")
        cells = line.split(b",", len(_COLUMNS))  # a line of a million columns stays one string
        row = bytes([_VALUES.get(cell, 255) for cell in cells])
        if len(row) != len(_COLUMNS) or max(row) > 16 or row[-1] > 9:
            row = _parse_line(line, f"{where}, line {number}", may_be_header=number == 1)
        rows += row
    if not rows:
        raise DataError(f"{where} has a header and no rows after line 1; {_LAYOUT}")
    return np.frombuffer(rows, np.uint8).reshape(-1, len(_COLUMNS))


def _parse_line(line: bytes, where: str, *, may_be_header: bool) -> bytes:
    """The row [65] of a line that isn't plain digits and commas; b"" for a header."""
    if odd := re.search(rb"[^\t -~]", line):  # NUL, not UTF-8, or a letter that no number has
        index = line.count(b",", 0, odd.start())
        raise DataError(
            f"{where}, column {_COLUMNS[index] if index < len(_COLUMNS) else index + 1}: byte"
            f" 0x{odd[0].hex()} is not of a number; give plain text, no archive or spreadsheet"
        )
    if (columns := line.count(b",") + 1) != len(_COLUMNS):
        wrong = f"no {_COLUMNS[columns]}" if columns < len(_COLUMNS) else "too many"
        raise DataError(f"{where}: {columns} columns, {wrong}; {_LAYOUT}")
    cells = [cell.strip(' \t"') for cell in line.decode().split(",")]
    if may_be_header and not any(cell.isdigit() for cell in cells):
        for name, cell in zip(_COLUMNS, cells, strict=True):
            if cell.lower() != name.lower():
                raise DataError(f"{where}, column {name}: header {cell[:40]!r}; {_LAYOUT}")
        return b""
    row = []
    for name, cell in zip(_COLUMNS, cells, strict=True):
        highest = 9 if name == "class" else 16
        value = int(cell) if re.fullmatch("[+-]?[0-9]{1,1000}", cell) else None
        if value is not None and 0 <= value <= highest:
            row.append(value)
            continue
        problem = f"{cell[:40]!r} is " + ("no integer" if value is None else f"not 0..{highest}")
        if cell.lower() in ("", "?", "na", "nan", "null", "none"):
            problem = "missing value"
        raise DataError(f"{where}, column {name}: {problem}; write an integer 0..{highest} there")
    return bytes(row)


def _load_uci(source: str, timeout: float, cache: Path | None) -> _Table:
    """The cache, if there is one, else UCI, else (if "auto") bundled."""
    if cache is not None and (table := _read_cache(cache)) is not None:
        return table
    logger.info("asking UCI for the digits, for at most %g s", timeout)
    try:
        table = _download(timeout)
    except Exception as error:  # whatever a foreign server makes ucimlrepo and pandas raise
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        if source == "auto":
            return _load_bundled(f"because UCI's table could not be loaded ({cause})")
        raise DataError(
            f"UCI's digits could not be loaded ({cause}); give --data (load_digits' source) the"
            " path of a CSV, or bundled for scikit-learn's 1797 rows, or try a longer timeout"
        ) from error
    if cache is not None:
        _write_cache(cache, table)
    return table


def _download(timeout: float) -> _Table:
    """UCI's table, or TimeoutError, whatever the server does: ucimlrepo has no time-out."""
    from ucimlrepo import fetch_ucirepo  # imports pandas: before the clock starts

    future: Future[_Table] = Future()
    deadline = time.monotonic() + timeout

    def work() -> None:
        try:
            future.set_result(_fetch(fetch_ucirepo, deadline))
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    # Not an executor: the interpreter waits for its threads at exit, and this one may hang.
    threading.Thread(target=work, name="digits_jax-uci", daemon=True).start()
    try:
        return future.result(timeout)
    except TimeoutError as error:
        raise TimeoutError(f"no complete answer within {timeout:g} s") from error


def _fetch(fetch_ucirepo: types.FunctionType, deadline: float) -> _Table:
    """The table that `fetch_ucirepo(id=80)` gives, of downloads bounded in bytes and in time."""
    import certifi
    import pandas

    scheme = urllib.parse.urlsplit(fetch_ucirepo.__globals__["API_BASE_URL"]).scheme
    context = ssl.create_default_context(cafile=certifi.where())

    def urlopen(url: str, **_: object) -> io.BytesIO:
        body = bytearray()
        try:
            left = max(deadline - time.monotonic(), 1e-3)
            with urllib.request.urlopen(url, timeout=left, context=context) as response:
                if urllib.parse.urlsplit(response.url).scheme != scheme:
                    raise ConnectionError(f"{url} led to {response.url}, which is not {scheme}")
                while chunk := response.read1(2**16):
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise ConnectionError(f"{url} sent more than {MAX_BYTES} bytes")
                    if time.monotonic() > deadline:
                        raise TimeoutError
                if response.length:
                    raise ConnectionError(f"{url} broke off after {len(body)} bytes")
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise ConnectionError(f"{url}: {error}") from error
        return io.BytesIO(body)

    # ucimlrepo has no hook for this, so its function runs on a copy of its globals in which both
    # ways to the network lead through urlopen above; nobody else's ucimlrepo changes.
    simple = types.SimpleNamespace
    scope = fetch_ucirepo.__globals__ | {
        "urllib": simple(request=simple(urlopen=urlopen), error=urllib.error, parse=urllib.parse),
        "pd": simple(read_csv=lambda u: pandas.read_csv(urlopen(u)), DataFrame=pandas.DataFrame),
    }
    code, defaults = fetch_ucirepo.__code__, fetch_ucirepo.__defaults__
    result = types.FunctionType(code, scope, argdefs=defaults)(id=80)

    # As text again, the table passes the same checks as a file; 5.0 becomes 5. An index means that
    # pandas took a surplus first column for one: written too, so that it is refused.
    frame = result["data"]["original"]
    indexed = not isinstance(frame.index, pandas.RangeIndex)
    text = frame.to_csv(index=indexed, float_format="%.17g")
    return _Table(
        _parse(text.encode(errors="replace"), f"UCI's table {result['metadata']['data_url']}"),
        "uci",
        "downloaded from UCI",
        json.loads(json.dumps(result["metadata"])),
        json.loads(result["variables"].to_json(orient="records")),
    )


def _read_cache(path: Path) -> _Table | None:
    """The cached table; None where there is none or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as cache:
            if sum(member.file_size for member in cache.zip.infolist()) > MAX_BYTES:
                raise ValueError("it is too large")
            rows, sha256, about = cache["rows"], str(cache["sha256"]), str(cache["about"])
        if rows.dtype != np.uint8 or rows.shape[1:] != (65,) or _sha256(rows) != sha256:
            raise ValueError("its rows don't have the SHA-256 that they were stored with")
        return _Table(rows, "cache", f"downloaded from UCI earlier, in {path}", *json.loads(about))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damage shows as any of a dozen exceptions of zipfile and numpy
        why = type(error).__name__  # not its text: numpy's advises to trust the file
        logger.warning("the cache %s is damaged or unreadable, and not used (%s)", path, why)
        return None


def _write_cache(path: Path, table: _Table) -> None:
    """Keep the table for later loads: the whole file or nothing, whenever it is interrupted."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, partial.open("wb") as file:
            about = json.dumps([table.metadata, table.variables])
            np.savez(file, rows=table.rows, sha256=_sha256(table.rows), about=about)
    except OSError as error:
        logger.warning(
            f"UCI's digits can't be kept in {path} ({error}), so each load downloads them; give"
            " cache_dir or XDG_CACHE_HOME a folder that can be written"
        )
