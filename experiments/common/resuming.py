"""The options that a run began with, which ``--resume`` takes from its output folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from common.options import UsageError, require

FILE = "options.json"  # in the output folder
NOT_KEPT = ("output_dir", "resume", "quiet", "open", "job")  # they are of a start, not of a run

Config = TypeVar("Config")


def options_text(config: Any, script: str) -> str:
    """What the file says: the script, and its options by name."""
    fields = [field.name for field in dataclasses.fields(config) if field.name not in NOT_KEPT]
    kept = {name: getattr(config, name) for name in fields}
    return json.dumps({"script": script, "options": kept}, indent=2) + "\n"


def resumed(config: Config, script: str) -> Config | None:
    """The options that the run in ``--output-dir`` began with; None where nothing says them.

    Args:
        config: what the command line says, with ``resume`` and ``output_dir``.
        script: that reads it.

    Raises:
        UsageError: the run is of another script, or the file is damaged.
    """
    folder: Path | None = getattr(config, "output_dir", None)
    file = None if folder is None else folder.expanduser() / FILE
    if not getattr(config, "resume", False) or file is None or not file.is_file():
        return None
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        begun_by = saved["script"]
        kept = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in saved["options"].items()
        }
        if begun_by == script:
            return dataclasses.replace(config, **kept)  # type: ignore[type-var]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "delete it, and give --resume all options of the run"
        why = f"{file} is damaged, or of another version ({error}); {remedy}"
        raise UsageError(why) from error
    require(False, f"{folder} is of {begun_by}.py, not of {script}.py; give another --output-dir")
    return None
