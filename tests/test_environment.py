"""What the system leaves to this process: cores, memory, a folder for caches."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from digits_jax import environment


def _write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("memory_", "memory.").replace("cpu_", "cpu.")).write_text(content)


def test_control_groups_limit_the_hosts_memory(tmp_path: Path) -> None:
    process, root = tmp_path / "proc", tmp_path / "cgroup"
    _write(process, cgroup="0::/slurm/job\n")
    stat = "anon 5\ninactive_file 30\n"
    _write(root / "slurm", memory_max="1000\n", memory_current="900\n", memory_stat=stat)
    _write(root / "slurm/job", memory_max="max\n", memory_current="10\n", memory_stat=stat)
    assert environment.free_memory(process, root) == 130

    _write(process, cgroup="4:cpu,memory:/docker\n1:name=systemd:/\n")
    stat = "inactive_file 7\ntotal_inactive_file 40\n"
    for group, limit in {"docker": "900\n", ".": "800\n"}.items():
        _write(
            root / "memory" / group,
            memory_limit_in_bytes=limit,
            memory_usage_in_bytes="600\n",
            memory_stat=stat,
        )
    assert environment.free_memory(process, root) == 240
    assert environment.free_memory(tmp_path / "none", root) > 1e6


def test_a_quota_counts_like_a_core_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    process, root = tmp_path / "proc", tmp_path / "cgroup"
    assert environment.cpu_cores(process, root) == 8
    _write(process, cgroup="0::/pod/container\n")
    _write(root / "pod", cpu_max="150000 100000\n")  # 1.5 cores: two, which rest for a quarter
    _write(root / "pod/container", cpu_max="max 100000\n")
    assert environment.cpu_cores(process, root) == 2
    _write(root / "pod", cpu_max="1600000 100000\n")
    assert environment.cpu_cores(process, root) == 8

    # Version 1, in a container that sees its own group at the root.
    _write(process, cgroup="3:cpu,cpuacct:/docker/0123\n0::/\n")
    _write(root / "cpu", cpu_cfs_quota_us="20000\n", cpu_cfs_period_us="100000\n")
    assert environment.cpu_cores(process, root) == 1
    _write(root / "cpu", cpu_cfs_quota_us="-1\n")
    assert environment.cpu_cores(process, root) == 8


def test_without_a_home_there_is_no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.cache_folder() is not None

    def homeless(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    assert environment.cache_folder() is None
