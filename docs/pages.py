"""Hooks of mkdocs: a page for each module of the package."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages; mkdocstrings fills them from the docstrings."""
    root = Path(config.config_file_path).parent
    for path in sorted((root / "digits_jax").glob("[!_]*.py")):
        name = path.stem
        content = f"---\ntitle: {name}\n---\n\n::: digits_jax.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files
