"""Jobs of two hosts with names, addresses, firewalls and a link of their own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cluster_network
import pytest
from cluster_jobs import ENDLESS, EPOCHS, HANGS, Jobs, assert_same_results, until
from cluster_network import ADDRESSES, HOSTS, PORT, Network

reason = cluster_network.missing()
pytestmark = [
    pytest.mark.slow,  # processes of a job
    pytest.mark.skipif(reason is not None, reason=reason or ""),
]

PATIENT = ["--join-seconds", "300"]  # where the test is of what follows


def start(
    network: Network,
    jobs: Jobs,
    output: str,
    *options: str,
    at: Sequence[str] = ADDRESSES[:1] * 2,
    epochs: int = EPOCHS,
) -> list[subprocess.Popen[str]]:
    """A process on each host, each told an address of process 0."""
    return [
        network.start(
            host,
            jobs.command(
                output,
                *["--distributed", "--coordinator-address", f"{at[host]}:{PORT}"],
                *["--num-processes", "2", "--process-id", str(host), *options],
                epochs=epochs,
            ),
            env=jobs.environment,
        )
        for host in range(2)
    ]


def end(job: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code and both streams of each process."""
    try:
        streams = [process.communicate(timeout=HANGS) for process in job]
    finally:
        for process in job:
            with process:
                process.kill()
    return [(p.returncode, *texts) for p, texts in zip(job, streams, strict=True)]


@pytest.mark.parametrize("loopback_names", [False, True])
@pytest.mark.parametrize("coordinator", [ADDRESSES[0], HOSTS[0]])
def test_two_hosts_give_what_one_process_gives(
    jobs: Jobs, alone: Path, loopback_names: bool, coordinator: str
) -> None:
    """By address and by name; also where each host's own name means 127.0.1.1, as on Debian."""
    output = f"hosts-{coordinator}-{loopback_names}"
    with Network(loopback_names=loopback_names) as network:
        ended = end(start(network, jobs, output, *PATIENT, at=[coordinator] * 2))
    assert [code for code, *_ in ended] == [0, 0], ended
    assert_same_results(jobs.folder / output, alone)


@pytest.mark.parametrize(
    ("wall", "at", "message", "message_0"),
    [
        (
            None,
            [ADDRESSES[0], "nowhere"],
            "process 1 can't reach process 0 at nowhere:6006: the name nowhere has no address here",
            "not all processes of the job came to 10.77.0.1:6006 within",
        ),
        (
            None,
            ["nowhere", "nowhere"],
            "process 1 can't reach process 0 at nowhere:6006: the name nowhere has no address here",
            "process 0 can't reach process 0 at nowhere:6006: the name nowhere has no address here",
        ),
        (
            ["tcp", "dport", str(PORT)],
            ADDRESSES[:1] * 2,
            "process 1 can't reach process 0 at 10.77.0.1:6006: no answer (timed out); let "
            "firewalls pass TCP between the hosts",
            "not all processes of the job came to 10.77.0.1:6006 within",
        ),
        (
            ["ct", "state", "new", "tcp", "dport", "!=", str(PORT)],
            ADDRESSES[:1] * 2,
            "process 0 can't reach process 1 at 10.77.0.2:",
            "process 0 can't reach process 1 at 10.77.0.2:",
        ),
    ],
    ids=["no name", "no name at all", "port dropped", "other ports dropped"],
)
def test_hosts_that_cannot_meet_say_why_within_a_minute(
    jobs: Jobs, wall: list[str] | None, at: list[str], message: str, message_0: str
) -> None:
    with Network() as network:
        for host in range(2):
            if wall is not None:
                network.drop(host, *wall)
        began = time.monotonic()
        ended = end(start(network, jobs, "apart", at=at))
        seconds = time.monotonic() - began
    assert [code for code, *_ in ended] == [1, 1], ended
    for (_, printed, errors), expected in zip(ended, [message_0, message], strict=True):
        *before, line = errors.strip().splitlines()
        assert expected in line and "error:" in line
        assert [each for each in before if not each.startswith("waiting:")] == []
        assert "data bundled" not in printed, "nothing was trained"
    assert not (jobs.folder / "apart").exists()
    assert seconds < 60


def test_a_link_that_goes_down_ends_all_with_the_way_to_go_on(jobs: Jobs) -> None:
    with Network() as network:
        job = start(network, jobs, "cut", *PATIENT, epochs=ENDLESS)
        until(lambda: jobs.epoch("cut") >= 2 or job[0].poll() is not None, "the second epoch")
        network.cut()
        began = time.monotonic()
        ended = end(job)
        assert time.monotonic() - began < 120
    for host, (code, _, errors) in enumerate(ended):
        assert code != 0
        line = errors.strip().splitlines()[-1]
        assert re.search(r"error: .*(go on|with): .*cross_validate\.py .*--resume$", line), errors
        assert f"--process-id {host}" in line
    saved = jobs.epoch("cut")
    assert saved >= 2
    shown = jobs.run("cut", "--resume", epochs=saved + 1)
    assert "mean ± sd" in shown


# Prints the median seconds between two looks of Python at the runs, of 1 and of 10 epochs a call.
LOOKS = """
import statistics, sys, time
import digits_jax as dj
from digits_jax.parallel.startup import initialize_distributed

initialize_distributed(sys.argv[1], 2, int(sys.argv[2]))
digits = dj.load_digits("bundled")
runs = dj.make_runs(dj.kfold_splits(digits.labels, folds=2))
recipe = dj.Recipe(network=dj.DigitsCNN(conv_features=(), dense_features=(32,)))
for epochs in (1, 10):
    looks = []
    dj.cross_validate(
        digits.data,
        runs,
        recipe=recipe,
        epochs=21 * epochs,
        epochs_per_call=epochs,
        on_epoch=lambda _: looks.append(time.perf_counter()),
    )
    print("seconds", statistics.median(b - a for a, b in zip(looks, looks[1:])))
"""


def test_latency_adds_to_a_call_of_the_program_and_not_to_its_epochs(jobs: Jobs) -> None:
    """Ten epochs in a call wait as long for a slow link as one: training holds no communication."""
    delay = 0.05

    def seconds_of_a_call(delay: float) -> list[float]:
        command = [sys.executable, "-c", LOOKS, f"{ADDRESSES[0]}:{PORT}"]
        with Network(delay=delay) as network:
            job = [network.start(i, [*command, str(i)], env=jobs.environment) for i in range(2)]
            ended = end(job)
        assert [code for code, *_ in ended] == [0, 0], ended
        return [float(each) for each in re.findall(r"^seconds (\S+)", ended[0][1], re.MULTILINE)]

    slow, quick = seconds_of_a_call(delay), seconds_of_a_call(0.0)
    added = [a - b for a, b in zip(slow, quick, strict=True)]
    print(f"added to a call of 1 and of 10 epochs: {added[0]:.3f} and {added[1]:.3f} s")
    assert added[0] > 2 * delay, "the link is slow"
    assert abs(added[1] - added[0]) < 2 * delay, "not a round trip in 9 epochs more"
