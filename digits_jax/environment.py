"""What the system leaves to this process: CPU cores, memory, a folder to keep things in."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from pathlib import Path

PROCESS, GROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")


def cpu_cores(process: Path = PROCESS, root: Path = GROUPS) -> int:
    """The cores that this process may use: of its mask, or fewer where a quota leaves it fewer.

    On Linux a quota is that of its control groups, as of a container with ``--cpus=1``.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # what taskset leaves us
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *_cpu_quotas(process, root)]))


def free_memory(process: Path = PROCESS, root: Path = GROUPS) -> int:
    """Bytes that this process may still take of the host's memory.

    On Linux that is what its control groups (a container's, or a batch system's limits) leave it.
    """
    import psutil  # slow to import, and seldom needed

    return min([int(psutil.virtual_memory().available), *_left_by_control_groups(process, root)])


def give_back_memory() -> None:
    """Gives freed memory back to the system, of which glibc keeps more and more otherwise."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def cache_folder() -> Path | None:
    """``digits_jax`` in the user's cache folder; None where the user has no home folder."""
    import platformdirs  # as psutil

    try:
        return platformdirs.user_cache_path("digits_jax", appauthor=False)
    except RuntimeError:  # a container's user: neither HOME nor an entry in passwd
        return None


def _control_groups(controller: str, process: Path, root: Path) -> list[tuple[Path, int]]:
    """The control groups above a process for a controller, each with its version, 1 or 2."""
    found = []
    with contextlib.suppress(OSError):
        for line in (process / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                version, top = 1, root / controller
            elif not controllers:
                version, top = 2, root
            else:
                continue
            group = top / path.strip("/")
            above = (each for each in (group, *group.parents) if each.is_relative_to(top))
            found += [(each, version) for each in above]
    return found


def _cpu_quotas(process: Path, root: Path) -> list[int]:
    """The cores that each control group gives, rounded up; none where there is no quota."""
    quotas = []
    for group, version in _control_groups("cpu", process, root):
        with contextlib.suppress(OSError, ValueError):  # no such group; "max"
            if version == 2:
                quota, period = map(int, (group / "cpu.max").read_text().split())
            else:
                quota = int((group / "cpu.cfs_quota_us").read_text())
                period = int((group / "cpu.cfs_period_us").read_text())
            if quota > 0:
                quotas.append(math.ceil(quota / period))
    return quotas


def _left_by_control_groups(process: Path, root: Path) -> list[int]:
    """What each control group above a process leaves it; none where the system has none."""
    left = []
    for group, version in _control_groups("memory", process, root):
        limit, usage, prefix = ("max", "current", "")
        if version == 1:
            limit, usage, prefix = ("limit_in_bytes", "usage_in_bytes", "total_")
        with contextlib.suppress(OSError, ValueError):  # no such group; no limit ("max")
            most = int((group / f"memory.{limit}").read_text())
            used = int((group / f"memory.{usage}").read_text())
            lines = (group / "memory.stat").read_text().splitlines()
            stat = dict(line.split() for line in lines)
            # Cached files count as used, and make way.
            left.append(max(most - used + int(stat.get(f"{prefix}inactive_file", 0)), 0))
    return left
