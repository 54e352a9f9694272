"""A sweep of many runs on two hosts, of which one is killed: as one that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import cluster_network
import numpy as np
import pytest
from cluster_jobs import HANGS, ROOT, Jobs, until
from cluster_network import ADDRESSES, PORT, Network

reason = cluster_network.missing()
pytestmark = [
    pytest.mark.slow,  # processes of a job
    pytest.mark.skipif(reason is not None, reason=reason or ""),
]


def test_a_killed_sweep_on_two_hosts_gives_what_one_process_gives(
    jobs: Jobs, all_faults: bool
) -> None:
    """With ``--all-faults``, README's 10,000 runs."""
    runs = 10_000 if all_faults else 640
    sweep = [str(jobs.folder / ".venv/bin/python"), str(ROOT / "experiments/sweep.py")]
    sweep += ["--data", "bundled", "--random", str(runs // 5), "--epochs", "2"]
    sweep += ["--wave-size", "128", "--vary", "learning_rate=1e-4:1e-2:log", "dropout_rate=0:0.5"]
    waves = jobs.folder / "sweep/waves/folds-0"

    def start(network: Network, *options: str) -> list[subprocess.Popen[str]]:
        together = ["--output-dir", str(jobs.folder / "sweep"), "--distributed"]
        together += ["--coordinator-address", f"{ADDRESSES[0]}:{PORT}", "--num-processes", "2"]
        together += ["--join-seconds", "300", *options]
        return [
            network.start(
                host,
                [*sweep, *together, "--process-id", str(host)],
                env=jobs.environment,
                stdout=subprocess.DEVNULL,
            )
            for host in range(2)
        ]

    def finished() -> int:
        return len(list(waves.glob("wave-*.npz")))

    with Network() as network:
        job = start(network)
        until(lambda: finished() >= 2 or job[0].poll() is not None, "the second wave")
        job[1].send_signal(signal.SIGKILL)
        errors = [process.communicate(timeout=HANGS)[1] for process in job]
        assert [process.returncode for process in job] == [1, -signal.SIGKILL], errors
        assert "Traceback" not in errors[0] and "lost another one" in errors[0], errors
        kept = finished()
        assert 2 <= kept < -(-runs // 128)
        before = {path: os.stat(path).st_mtime_ns for path in waves.glob("wave-*.npz")}
        job = start(network, "--resume")
        errors = [process.communicate(timeout=HANGS)[1] for process in job]
        assert [process.returncode for process in job] == [0, 0], errors
        assert all(os.stat(path).st_mtime_ns == then for path, then in before.items())
    alone = jobs.folder / "sweep-alone"
    subprocess.run(
        [*sweep, "--output-dir", str(alone)],
        env=jobs.environment,
        check=True,
        timeout=HANGS,
        stdout=subprocess.DEVNULL,
    )
    _assert_equal(jobs.folder / "sweep/scores.npz", alone / "scores.npz", runs)


def _assert_equal(got: Path, expected: Path, runs: int) -> None:
    arrays, others = np.load(expected), np.load(got)
    assert arrays["accuracy"].size == runs
    for name in arrays.files:
        np.testing.assert_array_equal(others[name], arrays[name])
