"""What can be wrong with what is saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class CheckpointError(Exception):
    """A checkpoint can't be used; the message says which, why, and what to do."""


class DamagedError(CheckpointError):
    """A checkpoint is not what was saved: a file is missing, cut or changed."""


class SaveError(CheckpointError):
    """A checkpoint can't be written; those before it are as they were."""


def refuse_difference(
    where: Path, kind: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
    """Raises CheckpointError that names the first difference between two mappings."""
    for name in [*wanted, *(name for name in saved if name not in wanted)]:
        if saved.get(name) != wanted.get(name):
            raise CheckpointError(
                f"checkpoint {where} is of another training: {kind} {name} is "
                f"{saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} here; "
                "resume with the same configuration and data, or choose another folder"
            )
