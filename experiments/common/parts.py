"""Parts of a script's results, each kept in the output folder as soon as it is whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from rich.markup import escape

from common import console
from common.options import UsageError, require
from common.output import Output, plain


class Parts:
    """Parts that ``--resume`` takes from the folder instead of making them again.

    Args:
        output: claimed.
        identity: what parts of one result must have in common, by name.
    """

    def __init__(self, output: Output, identity: Mapping[str, Any]) -> None:
        self._output, self._identity = output, plain(identity)
        self._folder = output.folder / "parts"

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """A part in JSON's types: kept in the folder, or made now.

        Raises:
            UsageError: the one that is kept is of something else, or damaged.
        """
        file = self._folder / (re.sub(r"[^\w.]+", "-", name) + ".json")
        if not file.is_file():
            part = plain(make())
            self._folder.mkdir(exist_ok=True)
            kept = {"identity": self._identity, "part": part}
            self._output.json(f"parts/{file.name}", kept)
            return part
        remedy = "delete it, or choose another --output-dir"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            identity, part = dict(kept["identity"]), kept["part"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file} is damaged ({error}); {remedy}") from error
        names = [n for n, value in self._identity.items() if identity.get(n) != value]
        words = ", ".join(f"{n} was {identity.get(n)}, now {self._identity[n]}" for n in names)
        require(not names, f"{file} is of something else: {words}; {remedy}")
        console.say(escape(f"{name}: from {file}"), console.notes)
        return part
