"""A table that both the console and the report show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import rich.table
from rich.markup import escape
from rich.text import Text

from common import console

Row = Sequence[object]


class Table(NamedTuple):
    """A table; ``page.table(*table)`` puts it into a report.

    Attributes:
        title: above it.
        columns: their names. The first column names the rows.
        rows: cells.
        note: below it, in the report.
        totals: rows of all the others, such as a mean.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    totals: Sequence[Row] = ()

    def show(self, most: int | None = None, *, narrow: bool = False) -> None:
        """Prints it, or the first so many rows of it; ``narrow``: without lines."""
        style: Any = {"box": None, "padding": (0, 1, 0, 0), "pad_edge": False} if narrow else {}
        table = rich.table.Table(title=escape(self.title), **style)
        for i, column in enumerate(self.columns):
            table.add_column(escape(column), justify="right" if i else "left", no_wrap=narrow)
        for row in self.rows[:most]:
            table.add_row(*(Text(str(cell)) for cell in row))
        table.add_section()
        for row in self.totals:
            table.add_row(*(Text(str(cell)) for cell in row))
        console.results.print(table)
