"""The tally of each fault test, and what they compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_runner import CROSS_VALIDATE, Script, Tally, uninterrupted


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts cases; tests/conftest.py prints them at the end, of all of pytest's workers."""
    counted = Tally()
    yield counted
    request.node.user_properties.append(("faults", [dict(counted.tried), counted.lost]))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for compiled programs, so that all but the first start are quick."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, cache: Path, all_faults: bool) -> Script:
    """An uninterrupted cross-validation, whose compiled programs are now in the cache."""
    return uninterrupted(
        CROSS_VALIDATE, tmp_path_factory.mktemp("reference"), cache, timed=all_faults
    )
