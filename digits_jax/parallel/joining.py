"""How the processes of a job find each other, before JAX connects them.

JAX retries for minutes what can't succeed, then ends the process with a stack trace. What a
resolver or a plain connection shows is looked at first, and becomes one line. Gloo, through which
CPUs talk, would offer the other hosts whatever address this host's own name has: on Debian and
Ubuntu a loopback address. It gets the address of the route to process 0 instead.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
import time

# Public, as of JAX 0.12, is ``jax.distributed.initialize`` alone: it takes no address for Gloo, and
# neither says what it detects nor lends its client. A factory of devices can be given publicly, but
# not be made: hence JAX's own modules, here only.
from jax._src import clusters, distributed, lib, xla_bridge
from jax.extend.backend import register_backend_factory

from digits_jax.parallel.processes import NotJoined

CONNECT_SECONDS = 5  # for one try
RETRY_SECONDS = 0.5
DETECT_SECONDS = 300  # for a cluster's own service to answer JAX, as by JAX's default
EXCHANGE_SECONDS = 60  # for addresses, between processes that are there


def detect(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> tuple[str, int, int, list[int] | None]:
    """What JAX is to be told: address, number of processes, this process, its local devices.

    Raises:
        ValueError: nothing is given, and JAX finds no cluster here.
    """
    if coordinator_address is not None:
        assert num_processes is not None and process_id is not None
        return coordinator_address, num_processes, process_id, None
    address, count, index, local_devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, DETECT_SECONDS
    )
    if address is None or count is None or index is None:
        raise ValueError(
            "JAX finds no cluster here (SLURM, Open MPI, Kubernetes, Cloud TPU); give "
            "coordinator_address, num_processes and process_id"
        )
    return address, count, index, None if local_devices is None else list(local_devices)


def reach(address: str, process_id: int, *, seconds: float) -> tuple[str, str]:
    """Waits until process 0 answers at its address.

    Args:
        address: ``host:port`` of process 0.
        process_id: of this process; 0 only asks what the name means.
        seconds: to wait.

    Returns:
        The numeric addresses of this host and of process 0, on the route between them.

    Raises:
        NotJoined: the name has no address, or nothing answers there.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    end = time.monotonic() + seconds
    while True:
        begin = time.monotonic()
        try:
            return _route(host, int(port), connect=process_id > 0)
        except OSError as error:
            now = time.monotonic()
            if now + max(RETRY_SECONDS, now - begin) > end:  # a resolver may take half a minute
                why = _in_words(error, address, host, (process_id, 0), seconds)
                raise NotJoined(why) from error
        time.sleep(RETRY_SECONDS)


def _route(host: str, port: int, *, connect: bool) -> tuple[str, str]:
    """The numeric addresses of both ends; without ``connect``, nothing is sent."""
    if connect:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as connection:
            return connection.getsockname()[0], connection.getpeername()[0]
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as route:
        route.connect(address)
        return route.getsockname()[0], route.getpeername()[0]


def _in_words(
    error: OSError, address: str, host: str, pair: tuple[int, int], seconds: float
) -> str:
    """Cause and remedy where one process of a pair can't reach the other."""
    who = f"process {pair[0]} can't reach process {pair[1]} at {address}"
    if isinstance(error, socket.gaierror):
        return (
            f"{who}: the name {host} has no address here ({error.strerror}); give an IP address, "
            "in coordinator_address or JAX_COORDINATOR_ADDRESS, or add the name to /etc/hosts"
        )
    if isinstance(error, ConnectionRefusedError):
        return (
            f"{who}: nothing listens there for {seconds:.0f} s; start process {pair[1]} on that "
            "host, with the same address"
        )
    return (
        f"{who}: no answer ({error.strerror or error}); let firewalls pass TCP between the hosts "
        "of the job, this port and the others, or give an address in a network that they share"
    )


def choose_gloo_address(own: str, coordinator: str) -> None:
    """Has Gloo offer the other processes an address of this host at which they can reach it.

    That is the address of its route to process 0. On the host of process 0 this may be a loopback
    address; then it is the one at which other hosts have reached process 0. Each process tries the
    next one's, since Gloo would wait for minutes where a firewall is between them.

    Args:
        own: numeric address of this host on the route to process 0; see ``reach``.
        coordinator: numeric address of process 0 on that route.

    Raises:
        NotJoined: in all processes, where one can't reach the next.
    """
    state = distributed.global_state
    index, count = state.process_id, state.num_processes
    seen = _exchange("coordinators", coordinator)
    if _is_loopback(own):
        own = next((address for address in seen if not _is_loopback(address)), own)
    family = socket.AF_INET6 if ":" in own else socket.AF_INET
    with socket.create_server((own, 0), family=family) as listener:
        addresses = _exchange("addresses", f"{own}:{listener.getsockname()[1]}")
        other = (index + 1) % count
        host, _, port = addresses[other].rpartition(":")
        problem = ""
        try:
            _route(host, int(port), connect=True)
        except OSError as error:
            problem = _in_words(error, addresses[other], host, (index, other), CONNECT_SECONDS)
        problems = [each for each in _exchange("problems", problem) if each]
    if problems:
        raise NotJoined(problems[0])
    make_collectives = lib._jax.make_gloo_tcp_collectives  # type: ignore[attr-defined]
    collectives = make_collectives(distributed_client=state.client, hostname=own)
    make_client = functools.partial(xla_bridge.make_cpu_client, collectives)
    register_backend_factory("cpu", make_client, priority=0, fail_quietly=False)


def _exchange(name: str, text: str) -> list[str]:
    """What each process gives, by its number; through JAX's coordinator."""
    state = distributed.global_state
    assert state.client is not None
    state.client.key_value_set(f"digits_jax/{name}/{state.process_id}", text)
    state.client.wait_at_barrier(f"digits_jax/{name}", 1000 * EXCHANGE_SECONDS)
    given = dict(state.client.key_value_dir_get(f"digits_jax/{name}"))
    return [given[f"digits_jax/{name}/{number}"] for number in range(state.num_processes)]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
