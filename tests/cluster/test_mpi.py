"""Open MPI and nohup: what starts a job elsewhere, and the signals that they pass on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from cluster_jobs import ENDLESS, EPOCHS, HANGS, Jobs, assert_same_results, until

pytestmark = pytest.mark.slow  # processes of a job

MPIRUN = ["mpirun", "--oversubscribe", "-n", "2"]
JOINED = ["--distributed", "--join-seconds", "300"]
needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="no mpirun: apt install openmpi-bin"
)


def start(jobs: Jobs, command: list[str]) -> subprocess.Popen[str]:
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    # Ctrl-C and HUP as on a terminal: whoever started the tests may have ignored them.
    return subprocess.Popen(
        ["env", "--default-signal=INT,HUP", *command],
        env={**jobs.environment, **as_root},
        cwd=jobs.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        printed, errors = process.communicate(timeout=HANGS)
    finally:
        with process:
            process.kill()
    return process.returncode, printed, errors


@needs_mpirun
def test_two_processes_of_mpirun_give_what_one_gives(jobs: Jobs, alone: Path) -> None:
    code, _, errors = end(start(jobs, [*MPIRUN, *jobs.command("mpi", *JOINED)]))
    assert code == 0, errors
    assert_same_results(jobs.folder / "mpi", alone)
    assert '"processes": 2' in (jobs.folder / "mpi/results.json").read_text()


@needs_mpirun
@pytest.mark.parametrize("name", ["USR1", "USR2", "TERM"])
def test_a_signal_to_mpirun_saves(jobs: Jobs, name: str) -> None:
    """It passes USR1 and USR2 on; TERM too, and kills after a time, which must be long enough."""
    output = f"mpi-{name}"
    patient = ["--mca", "odls_base_sigkill_timeout", "15"]
    command = [*MPIRUN, *patient, *jobs.command(output, *JOINED, epochs=ENDLESS)]
    process = start(jobs, command)
    until(lambda: jobs.epoch(output) >= 2 or process.poll() is not None, "the second epoch")
    process.send_signal(getattr(signal, f"SIG{name}"))
    code, _, errors = end(process)
    assert code != 0
    saved = re.search(r"stopped after (\d+) of \d+ epochs; all of it is saved", errors)
    assert saved, errors
    assert jobs.epoch(output) == int(saved[1])


@needs_mpirun
def test_a_killed_process_of_mpirun_and_the_job_goes_on(jobs: Jobs, alone: Path) -> None:
    process = start(jobs, [*MPIRUN, *jobs.command("mpi-killed", *JOINED, epochs=ENDLESS)])
    until(lambda: jobs.epoch("mpi-killed") >= 2 or process.poll() is not None, "the second epoch")
    script = str(jobs.folder / "mpi-killed")
    tasks = subprocess.run(
        ["pgrep", "--parent", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    tasks = [each for each in tasks if script in Path(f"/proc/{each}/cmdline").read_text()]
    assert len(tasks) == 2
    os.kill(int(tasks[1]), signal.SIGKILL)
    code, _, errors = end(process)
    assert code != 0
    assert "--resume" in errors
    saved = jobs.epoch("mpi-killed")
    command = jobs.command("mpi-killed", *JOINED, "--resume", epochs=saved + EPOCHS)
    code, printed, errors = end(start(jobs, [*MPIRUN, *command]))
    assert code == 0, errors
    assert "mean ± sd" in printed


@pytest.mark.parametrize("name", ["HUP", "USR1", "USR2", "TERM", "INT"])
def test_a_signal_saves(jobs: Jobs, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    output = f"signal-{name}"
    process = start(jobs, jobs.command(output, epochs=ENDLESS))
    until(lambda: jobs.epoch(output) >= 2 or process.poll() is not None, "the second epoch")
    process.send_signal(number)
    code, _, errors = end(process)
    assert code == 128 + number
    assert "all of it is saved" in errors


def test_under_nohup_a_hangup_is_nothing_and_usr1_saves(jobs: Jobs) -> None:
    process = start(jobs, ["nohup", *jobs.command("nohup", epochs=ENDLESS)])
    until(lambda: jobs.epoch("nohup") >= 2 or process.poll() is not None, "the second epoch")
    process.send_signal(signal.SIGHUP)
    before = jobs.epoch("nohup")
    until(lambda: jobs.epoch("nohup") > before or process.poll() is not None, "a later epoch")
    process.send_signal(signal.SIGUSR1)
    code, _, errors = end(process)
    assert code == 128 + signal.SIGUSR1
    assert "all of it is saved" in errors
