"""UCI's table of the digits: its download, and the cache of an earlier one.

ucimlrepo runs as it is, in a process of its own that is ended when its time is up or its memory is
too large. What it gives is read like any other table, and `load_digits` compares its SHA-256 with
that of the known rows: ucimlrepo itself checks the server's certificate, but not where it is sent.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from digits_jax.layouts import Rows, as_rows, rows_sha256
from digits_jax.storage.files import whole_file
from digits_jax.tables import MAX_BYTES, parse_table

API_URL = "https://archive.ics.uci.edu/api/dataset"
MAX_PROCESS_BYTES = 2**30  # of memory; with UCI's table the process takes 0.15 GB

logger: logging.Logger = logging.getLogger("digits_jax")


class UciTable(NamedTuple):
    """UCI's rows, and what UCI says of them.

    Attributes:
        rows: pixels [N, 64] and classes [N].
        metadata: UCI's description of the data set.
        variables: UCI's table of variables, a mapping for each column.
    """

    rows: Rows
    metadata: dict[str, Any] | None
    variables: list[dict[str, Any]] | None


def download(timeout: float) -> UciTable:
    """UCI's table.

    Args:
        timeout: Seconds that it may take, to start the process included.

    Raises:
        TimeoutError: there is no complete answer by then.
        ConnectionError: the answer is none, or too large.
        DataError: the answer's table is none of digits.
    """
    with tempfile.TemporaryDirectory(prefix="digits_jax-") as name:
        folder = Path(name)
        command = [sys.executable, "-P", "-m", "digits_jax.uci_process"]
        with subprocess.Popen(
            [*command, API_URL, name, str(timeout)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                _wait(process, timeout)
            finally:
                process.kill()
        if (folder / "error.txt").is_file():
            raise ConnectionError(_text(folder / "error.txt"))
        if process.returncode:
            raise ConnectionError(f"the download's process ended with {process.returncode}")
        about = json.loads(_text(folder / "about.json"))
        url, scheme = about["metadata"]["data_url"], urllib.parse.urlsplit(API_URL).scheme
        if urllib.parse.urlsplit(url).scheme != scheme:
            raise ConnectionError(f"UCI names {url}, which is not {scheme}")
        rows = parse_table(_text(folder / "table.csv").encode(), f"UCI's table {url}")
    return UciTable(rows, about["metadata"], about["variables"])


def _wait(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Until the process has ended; raises where it takes too long or too much memory."""
    deadline = time.monotonic() + timeout
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no complete answer within {timeout:g} s")
        try:
            used = watched.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # it ended just now
        if used > MAX_PROCESS_BYTES:
            raise ConnectionError(f"the answer takes more than {MAX_PROCESS_BYTES} bytes")
        time.sleep(0.02)


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ConnectionError(f"UCI's answer has more than {MAX_BYTES} bytes")
    return path.read_text(encoding="utf-8")


def read_cache(path: Path) -> UciTable | None:
    """The cached table; None where there is none or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as cache:
            if sum(member.file_size for member in cache.zip.infolist()) > MAX_BYTES:
                raise ValueError("it is too large")
            table, sha256, about = cache["rows"], str(cache["sha256"]), str(cache["about"])
        if table.dtype != np.uint8 or table.shape[1:] != (65,) or not len(table):
            raise ValueError("it holds no rows of digits")
        rows = as_rows(table.astype(np.int16))
        if rows is None or rows_sha256(rows) != sha256:
            raise ValueError("its rows don't have the SHA-256 that they were stored with")
        return UciTable(rows, *json.loads(about))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damage shows as any of a dozen exceptions of zipfile and numpy
        why = type(error).__name__  # not its text: numpy's advises to trust the file
        logger.warning("the cache %s is damaged or unreadable, and not used (%s)", path, why)
        return None


def write_cache(path: Path, table: UciTable) -> None:
    """Keep the table for later loads: the whole file or nothing, whenever it is interrupted."""
    rows = np.column_stack([table.rows.pixels, table.rows.classes]).astype(np.uint8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, partial.open("wb") as file:
            about = json.dumps([table.metadata, table.variables])
            np.savez(file, rows=rows, sha256=rows_sha256(table.rows), about=about)
    except OSError as error:
        logger.warning(
            f"UCI's digits can't be kept in {path} ({error}), so each load downloads them; give"
            " cache_dir or XDG_CACHE_HOME a folder that can be written"
        )
