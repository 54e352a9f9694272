"""Two hosts on one machine: network namespaces with addresses, names and a link of their own."""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HOSTS = ("host-a", "host-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 6006  # free: each host is new
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # of Linux's if_tun.h


def missing() -> str | None:
    """Why there can be no such hosts here, if so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    programs = [name for name in ("ip", "nft", "unshare") if shutil.which(name) is None]
    if programs:
        return f"no {', '.join(programs)}: apt install iproute2 nftables util-linux"
    tried = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no network namespaces here: {tried.stderr.strip()}"


class Network:
    """Two hosts, and a link between them; used in a ``with`` block.

    Args:
        names: of the hosts, for both to know.
        loopback_names: each host's own name means 127.0.1.1 on it, as Debian sets it up.
        delay: seconds that a packet takes from one host to the other.
    """

    def __init__(
        self, names: Sequence[str] = HOSTS, *, loopback_names: bool = False, delay: float = 0
    ) -> None:
        self._names = names
        self._spaces = [f"digits-{os.getpid()}-{side}" for side in "ab"]
        self._links = [f"dj{os.getpid()}{side}" for side in "ab"]
        self._loopback_names, self._delay = loopback_names, delay
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Network:
        with contextlib.ExitStack() as stack:
            for host in range(len(ADDRESSES)):
                self._make_host(host, stack)
            if self._delay:
                stack.enter_context(_slow_link(self._links, self._delay))
            else:
                first, second = self._links
                _run("ip", "link", "add", first, "type", "veth", "peer", "name", second)
            for space, link, address in zip(self._spaces, self._links, ADDRESSES, strict=True):
                _run("ip", "link", "set", link, "netns", space)
                _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", link)
                for up in ("lo", link):
                    _run("ip", "-n", space, "link", "set", up, "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _make_host(self, host: int, stack: contextlib.ExitStack) -> None:
        space = self._spaces[host]
        files = Path("/etc/netns") / space  # what `ip netns exec` shows as /etc
        files.mkdir(parents=True)
        stack.callback(shutil.rmtree, files)
        names = dict(zip(self._names, ADDRESSES, strict=True))
        if self._loopback_names:
            names[self._names[host]] = "127.0.1.1"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        (files / "hosts").write_text("\n".join(lines) + "\n")
        (files / "resolv.conf").write_text("")  # no server: only the names above
        _run("ip", "netns", "add", space)
        stack.callback(_run, "ip", "netns", "delete", space)

    def start(self, host: int, command: Sequence[str], **options: object) -> subprocess.Popen[str]:
        """Starts a command on a host, with pipes."""
        with_name = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', self._names[host]]
        inside = ["ip", "netns", "exec", self._spaces[host], *with_name, *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(inside, **(pipes | options))  # type: ignore[call-overload]

    def drop(self, host: int, *match: str) -> None:
        """From now on a firewall of the host drops what comes over the link and matches."""
        nft = ("ip", "netns", "exec", self._spaces[host], "nft", "add")
        _run(*nft, "table", "inet", "wall")
        _run(*nft, "chain inet wall input { type filter hook input priority 0 ; }")
        _run(*nft, "rule", "inet", "wall", "input", "iifname", self._links[host], *match, "drop")

    def cut(self) -> None:
        """Takes the link down; neither host is told that the other is gone."""
        _run("ip", "-n", self._spaces[0], "link", "set", self._links[0], "down")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


@contextlib.contextmanager
def _slow_link(names: Sequence[str], delay: float) -> Iterator[None]:
    """Two TAP devices, between which a thread carries each frame ``delay`` seconds later."""
    taps = [os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK) for _ in names]
    for tap, name in zip(taps, names, strict=True):
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    other = dict(zip(taps, reversed(taps), strict=True))
    ended = threading.Event()

    def carry() -> None:
        under_way: list[tuple[float, int, int, bytes]] = []
        number = itertools.count()  # frames of one moment stay in order
        while not ended.is_set():
            patience = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 0.1
            for tap in select.select(taps, [], [], patience)[0]:
                with contextlib.suppress(OSError):  # not up yet, or gone
                    frame = os.read(tap, 65535)
                    due = time.monotonic() + delay
                    heapq.heappush(under_way, (due, next(number), other[tap], frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, to, frame = heapq.heappop(under_way)
                with contextlib.suppress(OSError):
                    os.write(to, frame)

    thread = threading.Thread(target=carry, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for tap in taps:
            os.close(tap)
