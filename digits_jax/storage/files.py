"""Files that are whole or absent, and files of arrays that notice damage.

What a kill can do: until ``os.replace`` the file is as it was before (a ``.*.partial`` may stay
behind), from then on it is the new one. That holds for a killed process without any fsync. The two
fsyncs are for a machine that loses its power: of the file before the rename, or the new name could
point to a file without its bytes; of the folder after it, or the name itself could be lost.

A file of arrays is a NumPy ``.npz`` whose zip comment is the SHA-256 of every byte before it; so
``numpy.load`` reads it as it is, and ``read_arrays`` uses it only if no byte has changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from digits_jax.environment import free_memory

_DIGEST = 64  # bytes: a SHA-256 in hexadecimal digits


class DamagedFile(Exception):
    """A file of arrays whose bytes are not those that were written."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path to write to, which becomes ``path`` if the block ends without an error.

    Args:
        path: its folder exists. A file of that name is replaced; after an error it is as it was.

    Raises:
        OSError: the disk refuses.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not every system can open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_partial_files(folder: Path) -> None:
    """Removes what killed processes left of files and folders; call it under the folder's lock."""
    for left in folder.glob(".*.partial"):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def open_arrays(file: Path | BinaryIO) -> np.lib.npyio.NpzFile:
    """An ``.npz`` of somebody else's, for use in a ``with`` block; it holds no Python objects.

    No more is read than the archive's own list says, so one that unpacks to more than there is room
    for is refused before.

    Raises:
        ValueError: it is no ``.npz``, or too large.
        OSError: it can't be read.
        zipfile.BadZipFile: it is damaged.
    """
    opened = np.load(file, allow_pickle=False)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise ValueError("it is no .npz of several arrays")
    members = opened.zip.infolist() if opened.zip is not None else []
    size: int = sum((each.file_size for each in members), 0)
    free = free_memory()
    if size > free:
        opened.close()
        raise ValueError(f"it unpacks to {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    return opened


def write_arrays(path: Path, arrays: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Writes arrays and what they are of; the file appears whole, once all of it is on the disk.

    Args:
        path: ends in ``.npz``; its folder exists. A file of that name is replaced.
        arrays: of numbers, by name.
        identity: names and JSON values.

    Raises:
        TypeError: an array is of Python objects, which only a pickle could hold.
        OSError: the disk refuses.
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"array {name} must be of numbers, not of Python objects")
    memory = io.BytesIO()
    np.savez(memory, **arrays, identity=np.array(json.dumps(dict(identity))))
    content = bytearray(memory.getvalue())
    content[-2:] = _DIGEST.to_bytes(2, "little")  # the length of the zip comment to come
    content += hashlib.sha256(content).hexdigest().encode()
    with whole_file(path) as partial:
        partial.write_bytes(content)


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file and what they are of.

    Raises:
        DamagedFile: its bytes are not those that were written.
        OSError: it can't be read at all.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content[:-_DIGEST]).hexdigest().encode()
    if len(content) <= _DIGEST or content[-_DIGEST:] != digest:
        raise DamagedFile(f"{path} is damaged: its bytes are not those that were written")
    with np.load(io.BytesIO(content), allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    return arrays, json.loads(str(arrays.pop("identity")))
