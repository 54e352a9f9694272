"""The tally of all fault tests, and what they compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_runner import CROSS_VALIDATE, Script, Tally

TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    """Counts cases; they are printed at the end."""
    return TALLY


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for compiled programs, so that all but the first start are quick."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, cache: Path, all_faults: bool) -> Script:
    """An uninterrupted cross-validation, whose compiled programs are now in the cache."""
    for _ in range(1 + all_faults):  # the second one shows how long each phase takes from now on
        script = Script(CROSS_VALIDATE.words, tmp_path_factory.mktemp("reference") / "run", cache)
        code, errors = script.end()
        assert code == 0, errors
    return script


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the tally."""
    if TALLY.tried:
        terminalreporter.section("faults")
        for line in TALLY.lines():
            terminalreporter.write_line(line)
