"""The script architecture.py, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from digits_jax import DigitsCNN

pytestmark = pytest.mark.slow  # processes of their own

SCRIPT = Path(__file__).parents[1] / "experiments" / "architecture.py"


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_it_prints_and_writes_the_layer_table(tmp_path: Path) -> None:
    done = _run(tmp_path, "--data", "bundled", "--seed", "1", "--output-dir", "out")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("│")}
    for name, cells in {
        "conv_1": ("(Conv)", "(None, 8, 8, 16)", " 160 ", " 18,432 "),
        "pool_3": ("(MaxPool)", "(None, 1, 1, 64)", " 0 "),
        "dense_2": ("(Dense)", "(None, 512)", " 66,048 ", " 131,072 "),
        "logits": ("(Dense)", "(None, 10)", " 5,130 ", " 10,240 "),
        "total": (" 102,794 ", " 471,040 "),
    }.items():
        assert all(cell in lines[name] for cell in cells), lines[name]
    assert len(lines) == 16
    assert "parameters 102,794 (401.54 KiB): trainable 102,794, others 0" in done.stdout

    written = {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."}
    assert written == {"report.html", "results.json"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["data"]["source"] == "bundled"
    assert results["parameters"] == {"total": 102_794, "trainable": 102_794, "others": 0}
    assert (results["bytes"], results["flops"]) == (4 * 102_794, 471_040)
    layers = results["layers"]
    assert sum(layer["parameters"] for layer in layers) == 102_794
    assert sum(layer["flops"] for layer in layers) == 471_040
    init = jax.jit(DigitsCNN().init, compiler_options={"xla_backend_optimization_level": 0})
    params = init(jax.random.key(1), jnp.zeros((1, 8, 8)))["params"]
    for layer in layers:
        if layer["name"] in params:
            expected = np.asarray(params[layer["name"]]["kernel"]).std()
            assert layer["initial_sd"] == pytest.approx(expected, rel=1e-5)
        else:
            assert layer["initial_sd"] is None


def test_a_users_mistake_gets_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["--width", "0"], "--width must be a positive number, not 0"),
        (["--width", "0.01"], "--width 0.01 leaves a layer of 16 features with none"),
        (["--data", "no.csv"], "no.csv can't be read"),
    ):
        done = _run(tmp_path, *arguments)
        assert done.returncode == 2
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_jax() -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--width" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported and not imported & {"jax", "sklearn", "matplotlib"}
