"""What one process alone gives, beside which every job must be equal, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_jobs import Jobs


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """A folder in which jobs run, with the compiled programs that they share."""
    folder = tmp_path_factory.mktemp("cluster")
    for path in [folder, *folder.parents]:  # of users that tests run jobs as
        if path.is_relative_to(Path(tmp_path_factory.getbasetemp()).parent):
            path.chmod(0o755)
    return Jobs(folder)


@pytest.fixture(scope="session")
def alone(jobs: Jobs) -> Path:
    """The output folder of one process that nothing disturbed."""
    jobs.run("alone")
    return jobs.folder / "alone"
