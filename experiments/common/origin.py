"""What ``results.json`` says of its origin: when, where, and by which revision it was made."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import digits_jax as dj

SCHEMA = 1  # of results.json: grows where a name goes, or means something else
# Packages whose versions results.json names.
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")
STARTED = datetime.datetime.now(datetime.UTC)  # the script, which imports this first


def origin() -> dict[str, Any]:
    """What the results of every script begin with.

    ``date`` is the start of the script, in UTC; ``commit`` that of the project's checkout, with
    "-dirty" where its files differ from it, and None for a copy that is not in git.
    """
    return {
        "schema": SCHEMA,
        "date": STARTED.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": commit(Path(dj.__file__).resolve().parents[1]),
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(),
    }


def measured_by() -> dict[str, Any]:
    """What times must share to stand beside each other: revision, machine and versions."""
    root = Path(dj.__file__).resolve().parents[1]
    return {"commit": commit(root), "machine": machine(), "versions": versions()}


@functools.cache
def commit(root: Path) -> str | None:
    """The commit of the checkout whose top is ``root``; None where that is no checkout."""
    if not (root / ".git").exists():  # installed, maybe below the checkout of something else
        return None
    try:
        return git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except RuntimeError:  # no git, or no commit yet
        return None


def machine() -> dict[str, Any]:
    """The host: its name, processor, cores, system, and what XLA was asked for there."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # /proc is Linux's
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return {
        "host": platform.node(),
        "processor": processor,
        "cores": os.cpu_count() or 1,
        "system": platform.platform(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def versions() -> dict[str, str | None]:
    """Of this project, Python, and the packages that numbers depend on."""
    ours = {"digits_jax": dj.__version__, "python": sys.version.split()[0]}
    return {**ours, **{name: version(name) for name in PACKAGES}}


def version(package: str) -> str | None:
    """Of an installed package; None where its metadata are missing, as in a copied clone."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git(root: Path, *arguments: str) -> str:
    """What a git command says.

    Raises:
        RuntimeError: it failed; has the last line of its errors.
    """
    ours = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # are set where a git hook calls us
    settings = {name: value for name, value in os.environ.items() if name not in ours}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=settings, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise RuntimeError("git is not installed") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
    return done.stdout.strip()
