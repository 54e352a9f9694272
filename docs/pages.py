"""Hooks of mkdocs: a page for each module of the package."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; mkdocstrings fills them from the docstrings."""
    package = Path(config.config_file_path).parent / "digits_jax"
    for path in sorted(package.rglob("[!_]*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        content = f"---\ntitle: {name}\n---\n\n::: digits_jax.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files
