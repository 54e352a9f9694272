"""What can be wrong with what is saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


class CheckpointError(Exception):
    """A checkpoint can't be used; the message says which, why, and what to do."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was saved: a file is missing, cut or changed."""


class SaveError(CheckpointError):
    """A checkpoint can't be written; those before it are as they were."""


def refuse_difference(
    where: str | os.PathLike[str], kind: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Raises CheckpointError that names the first difference between two mappings."""
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        if saved.get(name) != wanted.get(name):
            there, here = (str(each.get(name, "missing")) for each in (saved, wanted))
            raise CheckpointError(
                f"checkpoint {shortened_path(where)} is of another training: {kind} "
                f"{shortened(name, 60)} is {shortened(there, 40)} there and {shortened(here, 40)} "
                "here"
            )


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and an ellipsis: at most so many characters, in one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def shortened_path(path: str | os.PathLike[str], most: int = 80) -> str:
    """A path, or an ellipsis and its end: at most so many characters."""
    text = os.fspath(path)
    return text if len(text) <= most else f"…{text[1 - most :]}"
