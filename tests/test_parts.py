"""Parts of results that --resume takes from the output folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.options import Resumable, UsageError
from common.output import Output
from common.parts import Parts


def _parts(folder: Path, **identity: object) -> Parts:
    return Parts(Output(Resumable(output_dir=folder, resume=True), script="s"), identity)


def test_a_part_is_made_once(tmp_path: Path) -> None:
    made = []

    def make() -> object:
        made.append(1)
        return {"x": np.float64(0.1), "rows": (1, 2)}

    for _ in range(2):
        part = _parts(tmp_path, epochs=3).get("10 runs, width 0.5", make)
        assert part == {"x": 0.1, "rows": [1, 2]}
    assert len(made) == 1
    assert (tmp_path / "parts" / "10-runs-width-0.5.json").is_file()


def test_a_part_of_something_else_or_damaged_is_named(tmp_path: Path) -> None:
    _parts(tmp_path, **{"--epochs": 3, "commit": "a"}).get("a", lambda: 1)
    with pytest.raises(UsageError, match=r"parts.a\.json is of .*: --epochs was 3, now 4; delete"):
        _parts(tmp_path, **{"--epochs": 4, "commit": "a"}).get("a", lambda: 1)
    for text in ("", "[]", '{"identity": {}}'):
        (tmp_path / "parts" / "a.json").write_text(text)
        with pytest.raises(UsageError, match=r"parts.a\.json is damaged"):
            _parts(tmp_path).get("a", lambda: 1)


def test_a_folder_with_parts_is_refused_without_resume(tmp_path: Path) -> None:
    _parts(tmp_path).get("a", lambda: 1)
    with pytest.raises(UsageError, match=r"holds a run already \(parts\); add --resume"):
        Output(Resumable(output_dir=tmp_path), script="s")
