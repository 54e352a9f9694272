"""Hooks of mkdocs: pages that are made from the code.

- The API by topic: the public names first, then what else its modules have.
- A page for each script: its docstring, its picture, its ``--help``.
- Tutorials as notebooks, to download.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Each module is in one topic, by its own name or by that of its package.
TOPICS = {
    "data": ("Data", "data uci tables layouts familiarity forms"),
    "splits": ("Splits", "splits"),
    "recipe": (
        "Recipes, networks, losses",
        "recipe recipes networks model losses optimizers augment dropout",
    ),
    "runs": ("Many runs at once", "runs waves wave_files search"),
    "loop": ("One run, in your own loop", "train watch step_counts evaluation structures"),
    "estimators": ("scikit-learn's estimators", "estimators fitting"),
    "scores": ("Metrics and calibration", "metrics calibration label_errors"),
    "statistics": ("Intervals and tests", "statistics"),
    "plots": ("Figures", "plots"),
    "devices": ("Devices and processes", "parallel environment"),
    "lowering": ("Fast convolutions", "lowering"),
    "files": ("Files and own images", "storage preprocessing ink pictures uci_process"),
}
PUBLIC_PACKAGES = ("plots", "statistics")  # of which users name ``dj.plots.save``
PICTURES = {
    "benchmark": ["benchmark"],
    "compare": ["comparison"],
    "coverage": ["coverage"],
    "cross_validate": ["folds", "learning_curves"],
    "explore": ["samples", "class_means", "embedding"],
    "feature_maps": ["feature_maps"],
    "train": ["confusion", "roc", "reliability", "misclassified"],
    "variance": ["variance", "repeats"],
    "writers": ["writers"],
}
NOTEBOOKS = ("own-network", "own-loop")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages and notebooks."""
    root = Path(config.config_file_path).parent
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pages = dict(pool.map(script_page, scripts(root)))
    pages |= dict(api_pages(root / "digits_jax"))
    for name in NOTEBOOKS:
        notebook = jupytext.read(root / f"docs/tutorials/{name}.md")
        pages[f"tutorials/{name}.ipynb"] = jupytext.writes(notebook, fmt="ipynb")
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A tutorial that is a notebook, too, says so at its end."""
    del config, files
    path = Path(page.file.src_uri)
    if path.parent.name == "tutorials" and path.stem in NOTEBOOKS:
        markdown += f"\n\n[This page as a notebook]({path.stem}.ipynb)\n"
    return markdown


def api_pages(package: Path) -> Iterator[tuple[str, str]]:
    """The pages of ``TOPICS``."""
    public = public_names(package)
    left = {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("[!_]*.py")
    } | {path.parent.name for path in package.glob("*/__init__.py")}
    for name, (title, roots) in TOPICS.items():
        modules = sorted(m for m in left if m.split(".")[0] in roots.split())
        left -= set(modules)
        of_topic = {n: m for n, m in public.items() if m in modules}
        parts = [f"---\ntitle: {title}\n---\n\n# {title}\n"]
        parts += [block(f"digits_jax.{n}", level=2) for n in of_topic]
        parts.append("## In its modules\n")
        for module in modules:
            shown = [n.split(".")[-1] for n, m in of_topic.items() if m == module]
            is_package = (package / module.replace(".", "/")).is_dir()
            parts.append(block(f"digits_jax.{module}", level=3, without=shown, bare=is_package))
        yield f"reference/{name}.md", "\n".join(parts)
    if left:
        raise PluginError(f"docs/pages.py: no topic has the modules {', '.join(sorted(left))}")


def public_names(package: Path) -> dict[str, str]:
    """Where each public name is defined: those of ``digits_jax``, then of its public packages.

    ``Split`` is in ``splits.stacked``, ``plots.save`` in ``plots.files``.
    """
    names = imports(package)
    own = set(names)
    for path in sorted(package.glob("*/__init__.pyi")):
        inner = imports(path.parent)
        for name, module in inner.items():
            module = f"{path.parent.name}.{module}"
            if name in own:
                names[name] = module
            elif path.parent.name in PUBLIC_PACKAGES:
                names[f"{path.parent.name}.{name}"] = module
    return names


def imports(package: Path) -> dict[str, str]:
    """The module of each name in a package's ``__init__.pyi``, in its order."""
    names = {}
    for node in ast.parse((package / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.name: node.module for alias in node.names}
    return names


def block(name: str, *, level: int, without: Sequence[str] = (), bare: bool = False) -> str:
    """What mkdocstrings fills from docstrings: without some members, or bare of all."""
    lines = [f"::: {name}", "    options:", f"      heading_level: {level}"]
    if bare:
        lines.append("      members: false")
    elif without:
        filters = ["!^_(?!_call__$)", *(f"!^{each}$" for each in without)]
        lines.append(f"      filters: {filters}")
    return "\n".join([*lines, ""])


def scripts(root: Path) -> list[Path]:
    """Those with options; the examples last."""
    here = sorted((root / "experiments").glob("*.py"))
    with_options = [path for path in here if "\nclass Config" in path.read_text(encoding="utf-8")]
    return with_options + sorted((root / "experiments/examples").glob("*.py"))


def script_page(path: Path) -> tuple[str, str]:
    """A page: the docstring as it stands, pictures, and the options as ``--help`` shows them."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first, _, rest = docstring.partition("\n")
    said = subprocess.run(
        [sys.executable, path, "--help"],
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    if said.returncode:
        raise PluginError(f"{path.name} --help: {said.stderr}")
    options = said.stdout[said.stdout.index("╭") :].rstrip()
    pictures = [
        f"![{name.replace('_', ' ')}](../figures/{name}.png)"
        for name in PICTURES.get(path.stem, [])
    ]
    parts = [
        f"---\ntitle: {path.name}\n---",
        f"# {path.name}",
        re.sub("``", "`", first),
        re.sub("``", "`", inspect.cleandoc(rest)),
        *pictures,
        "## Options",
        f"```text\n{options}\n```",
    ]
    return f"scripts/{path.stem}.md", "\n\n".join(parts) + "\n"
