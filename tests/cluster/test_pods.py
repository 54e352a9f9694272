"""The Kubernetes Job: by the API's own types, and what it starts, in the straits of a pod."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster_network
import pytest
import yaml
from cluster_jobs import EPOCHS, HANGS, OPTIONS, ROOT, Jobs, assert_same_results
from cluster_network import Network

pytestmark = pytest.mark.slow  # processes of a job

SERVICE, JOB = yaml.safe_load_all((ROOT / "experiments/cross_validate.yaml").read_text())
NOBODY = 54321  # a user that no file knows
QUOTA = Path("/sys/fs/cgroup/cpu")
IN_POD = Path("/mnt")  # where it has the jobs' folder: who made that may keep other users out
# All is read-only, but for the volume; then the user, and an environment of a pod's own.
POD = f"""
mount --bind . {IN_POD} && mount --bind {IN_POD}/volume {IN_POD}/volume || exit 1
mount -o remount,ro,bind {IN_POD} && mount -o remount,ro,bind / || exit 1
cd {IN_POD} || exit 1
exec setpriv --reuid=$USER_ID --regid=$USER_ID --clear-groups $CAPABILITIES --no-new-privs "$@"
"""

reason = cluster_network.missing()
if reason is None and shutil.which("setpriv") is None:
    reason = "no setpriv: apt install util-linux"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
@pytest.mark.parametrize(
    ("given", "command"),
    [(SERVICE, ["set", "selector", "job-name=digits"]), (JOB, ["set", "env", "ADDED=1"])],
    ids=["service", "job"],
)
def test_the_types_of_the_api_hold_every_field(
    tmp_path: Path, given: dict[str, Any], command: list[str]
) -> None:
    """Kubectl reads the file into its structs, which refuse wrong types and drop unknown names."""

    def typed(content: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        (tmp_path / "given.json").write_text(json.dumps(content))
        words = ["kubectl", *command[:2], "--local", "-f", "given.json", command[2], "-o", "json"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    done = typed(given)
    assert done.returncode == 0, done.stderr
    assert _lost(given, json.loads(done.stdout)) == []
    # The check can fail: an unknown name is dropped, and a wrong type is refused.
    misspelt = {**given, "spec": {**given["spec"], "completionMod": "Indexed"}}
    assert _lost(misspelt, json.loads(typed(misspelt).stdout)) == ["spec.completionMod"]
    assert typed({**given, "spec": {**given["spec"], "selector": 3}}).returncode != 0


def _lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """The fields of what was given that are not in what was kept."""
    if isinstance(given, dict):
        here = kept if isinstance(kept, dict) else {}
        return [
            lost
            for name, value in given.items()
            for lost in (
                _lost(value, here[name], f"{path}.{name}".lstrip("."))
                if name in here
                else [f"{path}.{name}".lstrip(".")]
            )
        ]
    if isinstance(given, list) and isinstance(kept, list) and len(given) <= len(kept):
        return [
            lost for i, each in enumerate(given) for lost in _lost(each, kept[i], f"{path}[{i}]")
        ]
    return [] if str(given) == str(kept) else [path]


@contextlib.contextmanager
def quota(cores: float) -> Iterator[Path]:
    """A control group that gives what is in it so much CPU; its file of process ids."""
    group = QUOTA / f"digits-{os.getpid()}"
    if not (QUOTA / "cpu.cfs_quota_us").exists():
        pytest.skip(f"no control groups (version 1) at {QUOTA}")
    group.mkdir()
    try:
        period = int((group / "cpu.cfs_period_us").read_text())
        (group / "cpu.cfs_quota_us").write_text(str(int(cores * period)))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


@pytest.mark.skipif(reason is not None, reason=reason or "")
def test_pods_without_home_user_or_writable_root_give_what_one_process_gives(
    jobs: Jobs, alone: Path
) -> None:
    """Two hosts with the pods' names, half a core each."""
    (container,) = JOB["spec"]["template"]["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    volume = jobs.folder / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    programs = jobs.folder / "image"  # what the image has in its PATH
    programs.mkdir()
    small = f"{' '.join(OPTIONS)} --folds 2 --epochs {EPOCHS} --repeats 1"
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@" {small}\n')
    (programs / "python").chmod(0o755)
    in_pod = {each["name"]: each["value"] for each in container["env"]}
    in_pod |= {"OUTPUT_DIR": f"{mount['mountPath']}/digits"}
    in_pod = {
        name: value.replace(mount["mountPath"], f"{IN_POD}/volume")
        for name, value in in_pod.items()
    }
    in_pod |= {"PATH": f"{IN_POD}/image:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    same = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")
    in_pod |= {name: jobs.environment[name] for name in same}
    # An interpreter in root's home is not for others to read, as an image's would be.
    readable = all(path.stat().st_mode & 0o005 for path in Path(sys.executable).resolve().parents)
    may = "" if readable else ",+dac_read_search --ambient-caps=+dac_read_search"
    names = [f"{JOB['metadata']['name']}-{i}.{SERVICE['metadata']['name']}" for i in range(2)]
    with Network(names) as network, quota(1.0) as members:
        pods = []
        for index in range(2):
            inside = ["env", "-i", *(f"{name}={value}" for name, value in in_pod.items())]
            inside += [f"JOB_COMPLETION_INDEX={index}", *container["command"], *container["args"]]
            pod = network.start(
                index,
                ["unshare", "--mount", "sh", "-c", POD, "sh", *inside],
                env={
                    "PATH": os.environ["PATH"],
                    "USER_ID": str(NOBODY),
                    "CAPABILITIES": f"--inh-caps=-all{may}",
                },
                cwd=jobs.folder,
            )
            members.write_text(str(pod.pid))  # at once, so that all that it starts is in it
            pods.append(pod)
        ended = []
        try:
            for pod in pods:
                ended.append(pod.communicate(timeout=HANGS))
        finally:
            for pod in pods:
                with pod:
                    pod.kill()
    assert [pod.returncode for pod in pods] == [0, 0], ended
    assert_same_results(volume / "digits", alone)
    assert (volume / "digits/results.json").stat().st_uid == NOBODY
    assert list((volume / "cache").rglob("*-cache")), "no compiled program was kept"
