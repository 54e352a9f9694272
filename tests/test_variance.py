"""variance.py: its design is the one it says, and its fractions are those of its scores."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from digits_jax.statistics import half_width, variance_components

SCRIPT = Path(__file__).parents[1] / "experiments" / "variance.py"


def _run(patch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The script in this process, which has started JAX already."""
    patch.syspath_prepend(SCRIPT.parent)
    variance = importlib.import_module("variance")
    patch.setattr("common.startup.start_jax", lambda **_: None)
    patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    try:
        variance.command_line.run(variance.Config, variance.main, variance.__doc__)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.slow
def test_a_small_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--data", "bundled", "--epochs", 2, "--splits", 2, "--weights", 2, "--order", 1]
    assert _run(monkeypatch, *small, "--dropout", 1, "--output-dir", tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["split"], row["weights"]) for row in rows] == [
        ("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")
    ]  # fmt: skip
    assert {row["order"] for row in rows} == {"0"}
    scores = np.array([float(row["accuracy"]) for row in rows]).reshape(2, 2)
    expected = variance_components(scores, ["split", "weights"])
    for found, each in zip(results["components"], expected, strict=True):
        assert found["factors"] == list(each.factors)
        assert found["variance"] == pytest.approx(each.variance)
        assert found["ci95"] == pytest.approx(each.ci95)
    five = {"train_rows": 1797 * 0.8, "test_rows": 1797 * 0.2}
    assert results["planned"][0]["half_width"] == pytest.approx(
        half_width(results["sd"], 5, **five)
    )
    assert {"variance.png", "repeats.png", "report.html"} < {p.name for p in tmp_path.iterdir()}


def test_one_source_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--weights", 1, "--order", 1, "--dropout", 1, "--output-dir", tmp_path / "out"]
    assert _run(monkeypatch, *words) == 2
    assert "one source alone has nothing to be told from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
