"""Parts: files of arrays that are whole or absent, know what they are of, and notice damage.

A part is a NumPy ``.npz`` whose zip comment is the SHA-256 of every byte before it; so
``numpy.load`` reads it as it is, and ``read_part`` looks into it only if no byte has changed.

What a kill can do: until ``os.replace`` the part is absent (a ``.tmp`` of the same name may stay
behind, and is overwritten by the next attempt), from then on it is whole. That holds for a killed
process without any fsync. The two fsyncs are for a machine that loses its power: of the file
before the rename, or the new name could point to a file without its bytes; of the folder after it,
or the name itself could be lost. Neither loss would go unnoticed: the checksum fails, or the part
is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_DIGEST = 64  # bytes: a SHA-256 in hexadecimal digits


class DamagedPart(Exception):
    """A part whose bytes are not those that were written."""


def write_part(path: Path, arrays: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
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

    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    with contextlib.suppress(OSError):  # not every system can open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_part(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a part and what they are of.

    Raises:
        DamagedPart: its bytes are not those that were written.
        OSError: it can't be read at all.
    """
    content = path.read_bytes()
    digest = hashlib.sha256(content[:-_DIGEST]).hexdigest().encode()
    if len(content) <= _DIGEST or content[-_DIGEST:] != digest:
        raise DamagedPart(f"{path} is damaged: its bytes are not those that were written")
    with np.load(io.BytesIO(content), allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    return arrays, json.loads(str(arrays.pop("identity")))
