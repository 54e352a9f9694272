"""The 8x8 UCI handwritten digits, validated and with their provenance.

The rows are E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits* (1998), UCI
data set 80, https://doi.org/10.24432/C50P49. Below, N is the number of rows; a row is 64 pixels
(8x8, row-major, 0..16: how many pixels of a 4x4 block are ink) and a class, 0..9.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits_jax import environment, uci
from digits_jax.layouts import BUNDLED_SHA256, FULL_SHA256, DataError, Rows, rows_sha256
from digits_jax.tables import MAX_BYTES, read_table

__all__ = [
    "BUNDLED_SHA256",
    "FULL_SHA256",
    "DataError",
    "DataWarning",
    "Dataset",
    "Provenance",
    "load_digits",
    "read_rows",
]

UCI_ROWS = 5620
TRAIN_WRITERS_ROWS = 3823  # optdigits.tra: 30 writers; the rows after it are 13 other writers'

logger: logging.Logger = logging.getLogger("digits_jax")


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
    rows: Rows
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
            a CSV, an `optdigits.tra` or `.tes`, a pipe, each plain or gzipped, or a folder that
            holds both of UCI's files. Columns are found by their names, or by UCI's order.
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
        table = _Table(read_rows(source), os.fspath(source), "read from the path given")

    rows, origin, reason, metadata, variables = table
    sha256, note = rows_sha256(rows), f"{origin}: the {len(rows.classes)} rows {reason}"
    fell_back = source == "auto" and origin == "bundled"
    logger.log(logging.WARNING if fell_back else logging.INFO, "%s", note)
    if origin in ("uci", "cache") and sha256 != FULL_SHA256:
        warnings.warn(
            f"UCI's table isn't the known one of {UCI_ROWS} rows: it has {len(rows.classes)} rows"
            f" with SHA-256 {sha256}; to download it again, delete {cache}",
            DataWarning,
            stacklevel=2,
        )
    return Dataset(
        images=rows.pixels.reshape(-1, 8, 8),
        labels=rows.classes,
        class_names=tuple("0123456789"),
        provenance=Provenance(source=origin, rows=len(rows.classes), sha256=sha256, note=note),
        metadata=metadata,
        variables=None if variables is None else tuple(variables),
    )


def read_rows(source: str | os.PathLike[str], *, class_needed: bool = True) -> Rows:
    """The rows of a table of digits.

    Args:
        source: the path of a table, plain or gzipped, or of a pipe; or of a folder that holds
            `optdigits.tra` and `optdigits.tes`, whose rows come in that order, which is UCI's.
        class_needed: whether each row must have a class.

    Returns:
        Pixels uint8 [N, 64], 0..16, and classes int32 [N], 0..9, or -1 where it is unknown.

    Raises:
        DataError: it can't be read, or a cell of it is wrong.
    """
    path = Path(os.path.expanduser(source))
    remedy = (
        "give the path of a CSV in UCI's layout, of a folder that holds optdigits.tra and"
        " optdigits.tes, or one of the words auto, uci, bundled"
    )
    if re.match("[a-z]{2,}://", os.fspath(source)):
        raise DataError(f"{os.fspath(source)} is an address; download it, and give its path")
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            parts = [
                read_rows(path / f"optdigits.{end}", class_needed=class_needed)
                for end in ("tra", "tes")
            ]
            return Rows(*map(np.concatenate, zip(*parts, strict=True)))
        large = stat.S_ISREG(status.st_mode) and status.st_size > MAX_BYTES
        if large or not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise DataError(f"{path} isn't a file of at most {MAX_BYTES} bytes; {remedy}")
        with path.open("rb") as file:
            return read_table(file, str(path), class_needed=class_needed)
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that no system call takes
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{path} can't be read ({cause}); {remedy}") from error


def _load_bundled(why: str) -> _Table:
    import sklearn.datasets

    pixels, classes = sklearn.datasets.load_digits(return_X_y=True)
    rows = Rows(pixels.astype(np.uint8), classes.astype(np.int32))
    return _Table(rows, "bundled", f"that come with scikit-learn, {why}")


def _load_uci(source: str, timeout: float, cache: Path | None) -> _Table:
    """The cache, if there is one, else UCI, else (if "auto") bundled."""
    if cache is not None and (table := uci.read_cache(cache)) is not None:
        return _Table(table.rows, "cache", f"downloaded from UCI earlier, in {cache}", *table[1:])
    logger.info("asking UCI for the digits, for at most %g s", timeout)
    try:
        table = uci.download(timeout)
    except Exception as error:  # whatever a foreign server's answer makes of it
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        if source == "auto":
            return _load_bundled(f"because UCI's table could not be loaded ({cause})")
        raise DataError(
            f"UCI's digits could not be loaded ({cause}); give --data (load_digits' source) the"
            " path of a CSV, or bundled for scikit-learn's 1797 rows, or try a longer timeout"
        ) from error
    if cache is not None:
        uci.write_cache(cache, table)
    return _Table(table.rows, "uci", "downloaded from UCI", *table[1:])
