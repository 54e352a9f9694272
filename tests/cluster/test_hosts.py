"""Jobs of two hosts with names, addresses, firewalls and a link of their own."""

from __future__ import annotations

import re
import subprocess
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
    script: str = "cross_validate.py",
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
                script=script,
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


def test_latency_adds_round_trips_to_an_epoch_and_none_to_a_step(jobs: Jobs) -> None:
    """An epoch has 12 steps, which would wait for 1.2 s if they talked."""
    steps, delay = 12, 0.05

    def seconds_of_an_epoch(delay: float) -> float:
        output = f"delay-{delay}"
        options = ["--seeds", "2", "--verbose", "--checkpoint-every", "1000", *PATIENT]
        with Network(delay=delay) as network:
            ended = end(start(network, jobs, output, *options, script="train.py", epochs=30))
        assert [code for code, *_ in ended] == [0, 0], ended
        lines = re.findall(r"^Epoch (\d+)/30 - ([\d.]+)s", ended[0][1], re.MULTILINE)
        seconds = sorted(float(each) for number, each in lines if 1 < int(number) < 30)
        return seconds[len(seconds) // 2]

    added = seconds_of_an_epoch(delay) - seconds_of_an_epoch(0.0)
    assert added > 2 * delay, "the link is slow"
    assert added < 0.75 * steps * 2 * delay
    print(f"{added / (2 * delay):.1f} round trips an epoch")
