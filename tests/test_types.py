"""Types, as a user's checker sees them after README's own installation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBE = """
import digits_jax as dj

digits = dj.load_digits("bundled")
result = dj.cross_validate(digits.data, dj.make_runs(dj.kfold_splits(digits.labels)), epochs=1)
reveal_type(result)
reveal_type(result.summary("accuracy").mean)
reveal_type(dj.recipe_by_name("strong"))
reveal_type(dj.Classifier())
"""


def _check(folder: Path, name: str, code: str) -> str:
    """What mypy says of a program, strictly, but of what other libraries leave untyped."""
    (folder / name).write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(folder), name]
    untyped = ["--disable-error-code=import-untyped", "--disable-error-code=no-untyped-call"]
    done = subprocess.run([*command, *untyped], cwd=folder, capture_output=True, text=True)
    if 'stub for module named "digits_jax"' in done.stdout:
        pytest.skip("digits_jax is not installed as README says: pip install --editable .")
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_types_are_precise(tmp_path: Path) -> None:
    said = _check(tmp_path, "probe.py", PROBE)
    names = re.findall(r'type is "(.*)"', said)
    assert [names[0], names[1], names[3]] == [
        "digits_jax.runs.results.CrossValidation",
        "float",
        "digits_jax.estimators.Classifier",
    ]
    assert "fallback=digits_jax.recipes.by_name.NamedRecipe" in names[2]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/own-data.md"])
def test_examples_pass_strict_checking(tmp_path: Path, page: str) -> None:
    """Whole programs: the blocks that import what they use."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    whole = [block for block in blocks if "import digits_jax" in block]
    assert whole
    for i, block in enumerate(whole):
        name = re.match(r"# (\w+\.py)\n", block)
        _check(tmp_path, name[1] if name else f"example_{i}.py", block)
