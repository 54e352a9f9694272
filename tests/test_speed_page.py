"""docs/speed.md: its programs print what the page says that they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/speed.md").read_text(encoding="utf-8")


def test_its_programs_print_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    programs = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    shown = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(programs) == len(shown) == 2
    names: dict[str, object] = {}
    for program, output in zip(programs, shown, strict=True):
        exec(program, names)
        assert capsys.readouterr().out == output
