"""The shipped Slurm job on a cluster of two nodes, whose names no resolver knows."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cluster_slurm
import numpy as np
import pytest
from cluster_jobs import ENDLESS, EPOCHS, HANGS, OPTIONS, ROOT, Jobs, assert_same_results, until
from cluster_slurm import NODES, Slurm

reason = cluster_slurm.missing()
pytestmark = [
    pytest.mark.slow,  # processes of a job
    pytest.mark.skipif(reason is not None, reason=reason or ""),
]

CPU_FORM = ["--gpus-per-node=0", "--ntasks-per-node=1", "--cpus-per-task=2"]  # as the file says
LONG = 60  # epochs, in the middle of which a job can be stopped
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    # Slurm keeps its sockets in there, whose paths must be short.
    with Slurm(tmp_path_factory.mktemp("slurm") / "s") as cluster:
        yield cluster


def submit(
    slurm: Slurm, jobs: Jobs, output: str, *flags: str, epochs: int, more: tuple[str, ...] = ()
) -> str:
    """Submits the shipped file, as README says, and gives the id of the job."""
    words = [*OPTIONS, "--folds", "2", "--epochs", str(epochs), "--join-seconds", "300", *more]
    done = subprocess.run(
        ["sbatch", "--parsable", *flags, "experiments/cross_validate.sbatch", *words],
        env={**slurm.environment, **jobs.environment, "OUTPUT_DIR": output},
        cwd=jobs.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def log(jobs: Jobs, job: str) -> str:
    return (jobs.folder / f"digits-{job}.out").read_text()


def wait_for(slurm: Slurm, jobs: Jobs, job: str, output: str, epoch: int) -> None:
    """Until a checkpoint of an epoch is there."""
    until(
        lambda: jobs.epoch(output) >= epoch or slurm.state(job) in ENDED, f"epoch {epoch} of {job}"
    )
    assert slurm.state(job) == "RUNNING", log(jobs, job)


def finish(slurm: Slurm, job: str) -> str:
    until(lambda: slurm.state(job) in ENDED, f"the end of job {job}")
    return slurm.state(job)


def test_the_shipped_file_gives_what_one_process_gives(
    slurm: Slurm, jobs: Jobs, alone: Path
) -> None:
    """Eight tasks on two nodes, one for each GPU that Slurm counts; JAX is told to use CPUs."""
    job = submit(slurm, jobs, "gpu-form", epochs=EPOCHS)
    assert finish(slurm, job) == "COMPLETED", log(jobs, job)
    assert_same_results(jobs.folder / "gpu-form", alone)
    assert '"processes": 8' in (jobs.folder / "gpu-form/results.json").read_text()
    assert slurm.show(job, "NumNodes") == "2"


def test_a_requeued_job_goes_on_by_itself_to_what_one_process_gives(
    slurm: Slurm, jobs: Jobs
) -> None:
    """In the form for CPU nodes, by options alone."""
    job = submit(slurm, jobs, "requeued", *CPU_FORM, epochs=LONG)
    wait_for(slurm, jobs, job, "requeued", 2)
    slurm.call("scontrol", "requeue", job)
    assert finish(slurm, job) == "COMPLETED", log(jobs, job)
    assert slurm.show(job, "Restarts") == "1"
    assert f"of {LONG} epochs; all of it is saved" in log(jobs, job)
    jobs.run("alone-long", epochs=LONG)
    assert_same_results(jobs.folder / "requeued", jobs.folder / "alone-long")


def test_scancel_saves(slurm: Slurm, jobs: Jobs) -> None:
    job = submit(slurm, jobs, "cancelled", *CPU_FORM, epochs=ENDLESS)
    wait_for(slurm, jobs, job, "cancelled", 2)
    slurm.call("scancel", job)
    assert finish(slurm, job) == "CANCELLED"
    assert f"of {ENDLESS} epochs; all of it is saved" in log(jobs, job)


@pytest.mark.parametrize("name", ["HUP", "USR2"])
def test_a_signal_to_the_tasks_of_srun_saves(slurm: Slurm, jobs: Jobs, name: str) -> None:
    """The others that users send; TERM and USR1 come with the time limit."""
    output = f"srun-{name}"
    job = submit(slurm, jobs, output, *CPU_FORM, epochs=ENDLESS)
    wait_for(slurm, jobs, job, output, 2)
    slurm.call("scancel", f"--signal={name}", job)
    assert finish(slurm, job) == "FAILED"
    assert f"of {ENDLESS} epochs; all of it is saved" in log(jobs, job)
    code = int(slurm.show(job, "ExitCode").partition(":")[0])
    assert code in (128 + getattr(signal, f"SIG{name}"), 128 + signal.SIGTERM)


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_the_time_limit_warns_and_all_is_saved(slurm: Slurm, jobs: Jobs, name: str) -> None:
    """TERM as the file has it, or another signal by an option; then the job goes on."""
    output = f"limit-{name}"
    flags = [*CPU_FORM, "--time=2", f"--signal={name}@60"]
    job = submit(slurm, jobs, output, *flags, epochs=ENDLESS)
    wait_for(slurm, jobs, job, output, 2)
    assert finish(slurm, job) in ("FAILED", "TIMEOUT")
    assert "all of it is saved. Go on with: " in log(jobs, job)
    # Of the tasks' codes the highest: SLURM may end with TERM those that are not yet gone.
    code = int(slurm.show(job, "ExitCode").partition(":")[0])
    assert code in (128 + getattr(signal, f"SIG{name}"), 128 + signal.SIGTERM)


def test_a_node_dies_and_the_job_goes_on_once_it_is_back(slurm: Slurm, jobs: Jobs) -> None:
    """The daemon of the second node and its task are killed, as by a power cut."""
    job = submit(slurm, jobs, "died", *CPU_FORM, epochs=ENDLESS)
    wait_for(slurm, jobs, job, "died", 2)
    slurm.kill_node(NODES[1])
    until(lambda: slurm.show(job, "Restarts") == "1", "the requeue of a job whose node died")
    saved = jobs.epoch("died")
    slurm.start_node(NODES[1])
    wait_for(slurm, jobs, job, "died", saved + 2)
    slurm.call("scancel", job)
    assert finish(slurm, job) == "CANCELLED"


def test_an_array_of_sweep_parts(slurm: Slurm, jobs: Jobs) -> None:
    """Each part is a sweep of its own, with results bitwise those of the same sweep outside."""
    command = (
        f"set -- 1e-3 1e-2; shift $SLURM_ARRAY_TASK_ID; .venv/bin/python {ROOT}/experiments/"
        "sweep.py --data bundled --folds 2 --epochs 2 --vary learning_rate=$1 "
        "network.width=0.125 --output-dir parts/$SLURM_ARRAY_TASK_ID"
    )
    done = subprocess.run(
        ["sbatch", "--parsable", "--array=0-1", "--output=part-%a.out", "--wrap", command],
        env={**slurm.environment, **jobs.environment},
        cwd=jobs.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    until(lambda: set(slurm.state(job).split()) <= ENDED, "the end of the array")
    assert set(slurm.state(job).split()) == {"COMPLETED"}
    outside = command.replace("parts/", "outside/")
    subprocess.run(
        ["sh", "-c", outside],
        env={**jobs.environment, "SLURM_ARRAY_TASK_ID": "1"},
        cwd=jobs.folder,
        check=True,
        timeout=HANGS,
    )
    got, expected = (np.load(jobs.folder / each / "1/scores.npz") for each in ("parts", "outside"))
    for name in expected.files:
        np.testing.assert_array_equal(got[name], expected[name])
    assert os.path.exists(jobs.folder / "parts/0/results.json")
