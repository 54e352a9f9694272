"""The Python of README and docs/ runs, page by page, and prints what the pages say.

The blocks of a page share their names, as in a notebook. A ``text`` block right below a Python
block is what that one prints: words and integers must be equal, decimals within 0.05 or a
tenth, because the last bits of a training depend on the machine. A block that begins with
``# NAME.py`` is also a file of that name, for the blocks and commands below it.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbclient
import pytest
import sklearn.datasets
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ["own-network", "own-loop"]
SLOW = {
    "docs/xla_convolutions_in_loops.md",  # times a program that is slow, and says so
    *(f"docs/tutorials/{name}.md" for name in NOTEBOOKS),  # run as notebooks
    *(
        f"docs/{name}.md"
        for name in ("how-to/nnx-equinox", "tutorials/own-data", "tutorials/compare")
    ),
}
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[+-]\d+)?")


def _pages() -> Iterator[Path]:
    """Pages with Python in them; ``test_docs.py`` runs README's and the one on notebooks."""
    for page in sorted(ROOT.glob("docs/**/*.md")):
        if "```python" in page.read_text(encoding="utf-8") and page.name != "notebooks.md":
            yield page


def _outputs(document: Document) -> Iterator[Region]:
    """A parser: the text blocks that say what the Python block right above them prints."""
    for match in re.finditer(r"(?<=\n```\n\n)```text\n(.*?)^```$", document.text, re.M | re.S):
        fences = re.findall(r"^```(\w+)$", document.text[: match.start()], re.M)
        if fences[-1] == "python":
            yield Region(match.start(), match.end(), match[1], _differs)


def _differs(example: Example) -> str | None:
    printed, said = example.namespace["__printed__"], example.parsed
    if DECIMAL.sub("#.#", printed) == DECIMAL.sub("#.#", said):
        pairs = zip(DECIMAL.findall(printed), DECIMAL.findall(said), strict=True)
        if all(math.isclose(float(a), float(b), rel_tol=0.1, abs_tol=0.05) for a, b in pairs):
            return None
    return f"the block prints\n{printed}\nand the page says\n{said}"


PARSERS = [PythonCodeBlockParser(), SkipParser(), _outputs]


def _evaluate(page: Path) -> str:
    """Runs a page in the current folder; why blocks were skipped, if some were."""
    document = Sybil(parsers=PARSERS).parse(page)
    document.namespace["mnist_is_here"] = (
        Path(sklearn.datasets.get_data_home()) / "openml"
    ).is_dir()
    document.namespace["run_is_here"] = Path("runs/mine").is_dir()
    skipped = ""
    for example in document.examples():
        if isinstance(example.parsed, str) and (name := re.match(r"# (\w+\.py)\n", example.parsed)):
            Path(name[1]).write_text(example.parsed)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                example.evaluate()
        except unittest.SkipTest as reason:
            skipped = str(reason)
        example.namespace["__printed__"] = printed.getvalue()
    return skipped


@pytest.fixture(autouse=True)
def modules_of_other_tests_are_forgotten(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several write a ``mine.py``."""
    written = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(written):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in (str(page.relative_to(ROOT)) for page in _pages())
    ],
)
def test_the_programs_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("digits_jax.use_all_cpu_cores", lambda: None)  # JAX has started here
    if skipped := _evaluate(ROOT / page):
        pytest.skip(f"all but a block of {page} ran: {skipped}")


@pytest.mark.parametrize(
    ("block", "output", "passes"),
    [
        ("print('3 runs', 0.961)", "3 runs 0.973", True),
        ("print('3 runs', 0.961)", "3 runs 0.773", False),
        ("print('3 runs', 0.961)", "4 runs 0.961", False),
        ("print('3 runs', 0.961)", "3 runs 0.961 0.961", False),
        ("x = 1 / 0", "", False),
    ],
)
def test_a_page_that_says_otherwise_is_found(
    tmp_path: Path, block: str, output: str, passes: bool
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```python\n{block}\n```\n\n```text\n{output}\n```\n")
    with contextlib.nullcontext() if passes else pytest.raises(Exception):
        _evaluate(page)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_tutorial_runs_as_a_notebook(name: str, tmp_path: Path) -> None:
    notebook = jupytext.read(ROOT / f"docs/tutorials/{name}.md")
    assert sum(cell.cell_type == "code" for cell in notebook.cells) > 3
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own-data", "sweep"])
def test_the_commands_of_a_tutorial_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word by word, from an empty folder; but for rows that have to be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    _evaluate(ROOT / f"docs/tutorials/{name}.md")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    text = (ROOT / f"docs/tutorials/{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    assert blocks
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for block in blocks:
        command = block.replace("python ", f"{shlex.quote(sys.executable)} ")
        done = subprocess.run(
            ["sh", "-ec", command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, block + done.stderr
    if "run_is_here" in text:
        assert "has not run" not in _evaluate(ROOT / f"docs/tutorials/{name}.md")
    explained = (ROOT / "docs/scripts/files.md").read_text(encoding="utf-8")
    written = list(tmp_path.glob("runs/**/results.json"))
    assert written
    for path in written:
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["experiment"] in ("cross_validate", "train"):
            assert [key for key in results if f"`{key}`" not in explained] == []
