"""Eight CPU devices and strict JAX settings for every test, set before JAX starts."""

from __future__ import annotations

import gc
import itertools
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import jax
import pytest

# Most of the suite's time is XLA's: programs that run for a moment are not worth optimizing, and
# the older of its code generators for CPUs takes half the time. What XLA_FLAGS says instead counts.
_flags = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # later XLAs have lost it, and stop at a flag that is unknown
    _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _flags)
gc.set_threshold(50_000)  # tracing makes many objects, few of them garbage
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("same")  # the same examples in every run

collect_ignore = ["accelerators/gpu_peers.py"]  # no test: it needs PyTorch

FULL_DATA = Path(
    os.environ.get("DIGITS_JAX_DATA", Path(__file__).parents[2] / "shared/data/optdigits.csv")
)


@pytest.fixture(autouse=True)
def _plain_logger() -> None:
    """Undoes what a script that an earlier test ran in this process did to the library's logger."""
    logger = logging.getLogger("digits_jax")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def full_data() -> Path:
    """The path of all 5620 rows, or a skip that says how to provide them."""
    if not FULL_DATA.is_file():
        pytest.skip(f"no full data at {FULL_DATA}; set DIGITS_JAX_DATA to the path of a UCI CSV")
    return FULL_DATA


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--all-faults``: tests/faults in full, which takes the better part of an hour."""
    parser.addoption("--all-faults", action="store_true", help="run the fault tests in full")


@pytest.fixture(scope="session")
def all_faults(pytestconfig: pytest.Config) -> bool:
    """Whether the fault tests run in full."""
    return bool(pytestconfig.getoption("--all-faults"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the tally of tests/faults: cases tried, survived and lost."""
    tried: Counter[str] = Counter()
    lost: list[str] = []
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if getattr(report, "when", "") == "teardown":
            for name, counted in report.user_properties:
                if name == "faults":
                    tried.update(counted[0])
                    lost += counted[1]
    if tried:
        terminalreporter.section("faults")
        kinds = Counter(each.split(":")[0] for each in lost)
        for kind, count in sorted(tried.items()):
            survived = count - kinds[kind]
            line = f"{kind}: {count} tried, {survived} survived, {kinds[kind]} lost"
            terminalreporter.write_line(line)
        for each in lost:
            terminalreporter.write_line(each)


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder in which the jobs of tests/cluster run, with the compiled programs that they share.

    It stands here because pytest, collecting doctests, takes a second conftest for this one.
    """
    from cluster_jobs import Jobs  # beside the tests that ask for it

    folder = tmp_path_factory.mktemp("cluster")
    folder.chmod(0o755)  # a test runs jobs as another user
    return Jobs(folder)


@pytest.fixture(scope="session")
def alone(jobs: Any) -> Path:
    """The output folder of one process that nothing disturbed: jobs must equal it bit for bit."""
    jobs.run("alone")
    folder: Path = jobs.folder / "alone"
    return folder
