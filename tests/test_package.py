"""What ``import digits_jax`` gives, what it costs, and that all files tell the same version."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import digits_jax

ROOT = Path(__file__).parents[1]
MODULES = [each.name for each in pkgutil.walk_packages(digits_jax.__path__, "digits_jax.")]


def test_public_names_exist_and_are_documented() -> None:
    assert dir(digits_jax) == sorted(digits_jax.__all__)
    assert len(set(digits_jax.__all__)) == len(digits_jax.__all__)
    for name in digits_jax.__all__:
        public = getattr(digits_jax, name)
        if callable(public) or isinstance(public, types.ModuleType):
            assert inspect.getdoc(public), name
            # A NamedTuple without a docstring has its signature for one.
            assert not (public.__doc__ or "").startswith(f"{name}("), name
    with pytest.raises(AttributeError, match="digits_jax attribute plot"):
        digits_jax.plot  # noqa: B018


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_shows_fields_and_doctests(name: str) -> None:
    module = importlib.import_module(name)
    for public in vars(module).values():
        fields = getattr(public, "_fields", ())
        if fields and public.__module__ == module.__name__ and public.__name__[0] != "_":
            documented = re.findall(r"^ {4}(\w+): ", inspect.getdoc(public) or "", re.MULTILINE)
            assert documented == list(fields), f"{public.__name__}: Attributes"
    bare = re.findall("^ {4}>>> .*", inspect.getsource(module), re.MULTILINE)
    assert not bare, "a doctest stands in a section Examples"


def test_names_load_at_their_first_use_and_nothing_that_only_some_need() -> None:
    """Scikit-learn, say, would add its second to every start."""
    code = """
import sys, digits_jax
print(*sys.modules)
for name in set(dir(digits_jax)) - {"plots", "Classifier", "Regressor"}:
    getattr(digits_jax, name)
print(*sys.modules)
digits_jax.plots.save
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, used = (set(line.split()) for line in done.stdout.splitlines())
    assert first & {"jax", "flax", "optax", "numpy"} == set()
    assert {"jax", "flax", "optax"} <= used
    slow = {"matplotlib", "orbax", "pandas", "PIL", "scipy", "sklearn", "tyro"}
    assert used & (slow | {"digits_jax.plots", "digits_jax.storage.checkpoints"}) == set()


def test_all_files_tell_the_same_version() -> None:
    version = digits_jax.__version__
    assert importlib.metadata.version("digits_jax") == version
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall("^version: (.*)$", citation, re.MULTILINE) == [version]
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[:1] in ([], [version])
