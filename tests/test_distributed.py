"""Jobs of several real processes on this machine, which talk through Gloo, as a user starts them.

The processes of a job share one core or two, and the programs that they compile are kept between
the tests; each job takes some seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits_jax.parallel.startup import initialize_distributed

pytestmark = pytest.mark.slow  # processes of a job

SCRIPTS = Path(__file__).parents[1] / "experiments"
EPOCHS = 12
HANGS = 1200  # seconds after which a job counts as hanging, however busy the machine is
VALIDATE = ["cross_validate.py", "--data", "bundled", "--folds", "2", "--epochs", str(EPOCHS)]
VALIDATE += ["--checkpoint-every", "2"]
SWEEP = ["sweep.py", "--data", "bundled", "--folds", "2", "--inner-folds", "2", "--nested"]
SWEEP += ["--vary", "network.width=0.125", "learning_rate=3e-4,1e-2", "--epochs", "20"]


class Processes:
    """The processes of one job, each with some CPU devices, all in one folder."""

    def __init__(
        self,
        folder: Path,
        count: int,
        devices: int,
        *options: str,
        slurm: bool,
        each: Sequence[Sequence[str]] | None = None,
        base: Sequence[str] = VALIDATE,
    ) -> None:
        each = [()] * count if each is None else each
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.running = [
            subprocess.Popen(
                _command(
                    *base,
                    *options,
                    *each[i],
                    *([] if slurm or count == 1 else _flags(port, count, i)),
                ),
                cwd=folder,
                env=_environment(folder, devices, _slurm(port, count, i) if slurm else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(count)
        ]

    def wait_for(self, text: str) -> None:
        """Reads what process 0 prints until a line begins with a text."""
        stdout = self.running[0].stdout
        assert stdout is not None
        if not any(line.startswith(text) for line in stdout):
            pytest.fail(f"process 0 never printed {text!r}: {self.end()}")

    def end(self) -> list[tuple[int, str, str]]:
        """Exit code and what is left of both streams, of each process, once all have ended."""
        try:
            told = [process.communicate(timeout=HANGS) for process in self.running]
        finally:
            for process in self.running:
                with process:  # closes its pipes and waits
                    process.kill()
        return [(p.returncode, *text) for p, text in zip(self.running, told, strict=True)]


def _command(script: str, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / script), *options]


def _flags(port: int, count: int, i: int) -> list[str]:
    flags = f"--distributed --coordinator-address 127.0.0.1:{port} --num-processes {count}"
    return [*flags.split(), "--process-id", str(i)]


def _slurm(port: int, count: int, i: int) -> dict[str, str]:
    """What srun tells the tasks of a step on one node, and a port that is free."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(i),
        "SLURM_LOCALID": str(i),
        "JAX_COORDINATOR_PORT": str(port),
    }


def _environment(folder: Path, devices: int, more: Mapping[str, str]) -> dict[str, str]:
    ours = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    # Without the tests' own flags: processes of other sizes would have other bits by them.
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return {**inherited, **ours, **more}


def _run(
    folder: Path, count: int, devices: int, *options: str, base: Sequence[str] = VALIDATE
) -> list[tuple[int, str, str]]:
    ended = Processes(folder, count, devices, *options, slurm=False, base=base).end()
    assert [code for code, *_ in ended] == [0] * count, ended
    return ended


def _but_gloo(printed: str) -> str:
    """Return what was printed beside Gloo's greeting, whose threads interleave its pieces."""
    said = r"\[Gloo\] Rank|is connected to|(Expected number of connected )?peer ranks"
    return re.sub(rf"{said}|is :|[\d\s.]", "", printed)


def _assert_same_results(folder: Path, whole: Path, *names: str) -> None:
    assert (folder / "results.json").exists()
    for name in names or ("history.npz", "predictions.npz"):
        got, expected = np.load(folder / name), np.load(whole / name)
        for array in expected.files:
            np.testing.assert_array_equal(got[array], expected[array])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all jobs run; it holds the compiled programs."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """The results of one uninterrupted process with one device."""
    _run(folder, 1, 1, "--output-dir", "whole")
    return folder / "whole"


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[Path, list[tuple[int, str, str]]]:
    """The folder of 2 processes with 2 devices each, of which the second got SIGTERM."""
    job = Processes(folder, 2, 2, "--distributed", "--output-dir", "stopped", slurm=True)
    job.wait_for("epoch 1/")
    job.running[1].send_signal(signal.SIGTERM)
    return folder / "stopped", job.end()


def test_a_signal_to_one_process_stops_all_at_one_epoch(
    stopped: tuple[Path, list[tuple[int, str, str]]],
) -> None:
    path, ((code, _, message), (code_1, printed_1, message_1)) = stopped
    assert (code, code_1) == (130, 143), (message, message_1)
    assert "all of it is saved. Go on with: " in message
    epoch = int(message.split("stopped after ")[1].split()[0])
    assert 1 <= epoch < EPOCHS
    assert str(epoch) in os.listdir(path / "checkpoints")
    assert not (path / "results.json").exists()
    # The second process is silent but for the answer to its signal, and Gloo.
    assert message_1.strip() == "stopping after this epoch; once more to end at once"
    assert _but_gloo(printed_1) == ""


@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (1, 4), (4, 1)])
def test_its_checkpoint_resumes_on_other_processes_and_devices(
    folder: Path,
    whole: Path,
    stopped: tuple[Path, list[tuple[int, str, str]]],
    processes: int,
    devices: int,
) -> None:
    output = f"resumed-{processes}-{devices}"
    shutil.copytree(stopped[0], folder / output)
    ended = _run(folder, processes, devices, "--output-dir", output, "--resume")
    assert "epoch 1/" not in ended[0][1]
    _assert_same_results(folder / output, whole)


def test_a_killed_process_ends_the_others_and_the_job_resumes(folder: Path, whole: Path) -> None:
    job = Processes(folder, 2, 2, "--output-dir", "killed", slurm=False)
    job.wait_for("epoch 5/")  # so that epoch 2 is on the disk
    job.running[1].kill()
    killed = time.monotonic()
    (code, _, message), _ = job.end()
    assert time.monotonic() - killed < 100  # measured: 10 s
    assert code == 1
    assert "process 0 of 2 lost another one" in message
    assert "start all again, with --resume to go on from what was saved" in message
    assert "Traceback" not in message
    assert not (folder / "killed" / "results.json").exists()

    (_, printed, _), (_, printed_1, message_1) = _run(
        folder, 2, 2, "--output-dir", "killed", "--resume"
    )
    assert "mean ± sd" in printed and "epoch 1/" not in printed
    assert message_1 == ""
    assert _but_gloo(printed_1) == ""
    _assert_same_results(folder / "killed", whole)


def test_processes_with_other_arguments_are_refused(folder: Path) -> None:
    options = ["--distributed", "--output-dir", "other", "--seed"]
    job = Processes(folder, 2, 1, *options, each=[["0"], ["1"]], slurm=True)
    for code, _, message in job.end():
        assert code == 2
        assert "the processes of the job have different splits; start all with the same" in message
        assert "Traceback" not in message


def test_a_sweep_stopped_then_killed_gives_the_results_of_one_process(folder: Path) -> None:
    _run(folder, 1, 1, "--output-dir", "sweep-whole", base=SWEEP)
    output = ["--output-dir", "sweep"]
    waves = folder / "sweep" / "waves" / "inner-0"

    def job(*options: str) -> Processes:
        return Processes(folder, 2, 2, *output, *options, slurm=False, base=SWEEP)

    def wait_for(wave: str, running: Processes) -> None:
        while not (waves / wave).exists():
            if running.running[0].poll() is not None:
                pytest.fail(f"the job ended before {wave}: {running.end()}")
            time.sleep(0.005)

    first = job("--wave-size", "2")
    wait_for("wave-00000000.npz", first)
    first.running[1].send_signal(signal.SIGTERM)
    (code, _, message), (code_1, printed_1, message_1) = first.end()
    assert (code, code_1) == (130, 143), (message, message_1)
    assert "of 8 runs; all of it is saved. Go on with: " in message
    assert "wave-00000006.npz" not in os.listdir(waves)

    second = job("--resume")  # in waves of the size that the first had
    wait_for("wave-00000004.npz", second)
    second.running[1].kill()
    killed = time.monotonic()
    (code, _, message), _ = second.end()
    assert time.monotonic() - killed < 100
    assert code == 1 and "process 0 of 2 lost another one" in message
    assert "Traceback" not in message

    (_, printed, _), (_, printed_1, message_1) = _run(folder, 2, 2, *output, "--resume", base=SWEEP)
    assert "Configurations on the inner folds" in printed
    assert message_1 == ""
    assert _but_gloo(printed_1) == ""
    _assert_same_results(folder / "sweep", folder / "sweep-whole", "scores.npz")
    results, whole = (
        json.loads((folder / name / "results.json").read_text())
        for name in ("sweep", "sweep-whole")
    )
    assert results["outer_splits"] == whole["outer_splits"]
    done = [wave["done"] for wave in results["waves"] if wave["stage"] == "inner-0"]
    assert done[0] >= 6 and done[-1] == 8, "finished waves were not done again"
    assert results["devices"]["processes"] == 2 and results["devices"]["count"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distributed"], "--distributed needs --output-dir, the same for all processes"),
        (["--process-id", "0"], "--process-id need --distributed"),
        (["--distributed", "--output-dir", "o", "--num-processes", "2"], "need each other"),
        (["--distributed", "--output-dir", "o"], "JAX finds no cluster here"),
    ],
)
def test_a_mistake_gets_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    done = subprocess.run(
        _command(*VALIDATE, *options), cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator_address": "here:1", "num_processes": 2}, "need each other"),
        (
            {"coordinator_address": "here", "num_processes": 2, "process_id": 0},
            "must be host:port, not here",
        ),
        (
            {"coordinator_address": "here:99999", "num_processes": 2, "process_id": 0},
            "must be host:port",
        ),
        (
            {"coordinator_address": "here:1", "num_processes": 2, "process_id": 2},
            "process_id must be in 0 to num_processes - 1, not 2 of 2",
        ),
    ],
)
def test_a_job_that_does_not_fit_together_is_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        initialize_distributed(**arguments)
