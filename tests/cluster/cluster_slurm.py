"""A Slurm cluster of two nodes on one machine: munge, slurmctld, two slurmd, on free ports."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
NODES = ("digits0", "digits1")  # names that no resolver knows
CPUS, GPUS = 16, 4  # of a node, as it says: what the shipped job asks for
START_SECONDS = 60
CRED_SECONDS = 30  # for which a credential holds: SLURM starts a requeued job once it is over

CONFIGURATION = """\
ClusterName=digits
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={cred_seconds}
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=5
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=15
InactiveLimit=0
KillWait=30
MinJobAge=3600
JobRequeue=1
BatchStartTimeout=10
RebootProgram=/bin/true
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
GresTypes=gpu
NodeName=DEFAULT CPUs={cpus} Gres=gpu:{gpus}
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> str | None:
    """Why there can be no cluster here, if so."""
    if os.geteuid() != 0:
        return "slurmd starts the steps of a job as root"
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {', '.join(programs)}: apt install slurm-wlm munge" if programs else None


def free_ports(count: int) -> list[int]:
    """Ports of which none is in use."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Slurm:
    """A cluster in a folder of its own; used in a ``with`` block, which ends it by its ids."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        self.environment = {**inherited, "SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> Slurm:
        self.folder.mkdir(mode=0o755)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        text = CONFIGURATION.format(
            folder=self.folder,
            host=socket.gethostname().partition(".")[0],
            ports=free_ports(3),
            user=getpass.getuser(),
            nodes=NODES,
            cpus=CPUS,
            gpus=GPUS,
            cred_seconds=CRED_SECONDS,
        )
        (self.folder / "slurm.conf").write_text(text)
        for gpu in range(GPUS):  # Slurm counts the files; JAX is told to use CPUs
            (self.folder / f"gpu{gpu}").touch()
        gres = f"NodeName={','.join(NODES)} Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(gres)
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            files = {
                "socket": "munge.socket",
                "pid-file": "munge.pid",
                "log-file": "munge.log",
                "key-file": "munge.key",
                "seed-file": "munge.seed",
            }
            options = [f"--{name}={self.folder / file}" for name, file in files.items()]
            self._start("munged", "--foreground", "--force", *options)
            self._until("munge", (self.folder / "munge.socket").exists)
            self._start("slurmctld", "-D")
            for node in NODES:
                self.start_node(node)
            self._until("nodes", lambda: self.call("sinfo", "-h", "-o", "%T").split() == ["idle"])
            stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def start_node(self, node: str) -> None:
        """Starts the daemon of a node."""
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        self._start("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """Kills the daemon of a node and all that runs on it, as a power cut would."""
        daemon = self._daemons[node]
        tasks = _processes(self.environment["SLURM_CONF"], f"SLURMD_NODENAME={node}")
        steps = {each.parent() for each in tasks}
        steps = {each for each in steps if each is not None and each.name() == "slurmstepd"}
        for each in [psutil.Process(daemon.pid), *steps, *tasks]:  # who would report it, first
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        daemon.wait()

    def call(self, *command: str, **more: str) -> str:
        """What one of Slurm's commands prints."""
        environment = {**self.environment, **more}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def state(self, job: str) -> str:
        """Of a job, as ``squeue`` has it."""
        return self.call("squeue", "-h", "-t", "all", "-o", "%T", "-j", job).strip()

    def show(self, job: str, field: str) -> str:
        """A field of ``scontrol show job``."""
        shown = self.call("scontrol", "show", "job", job)
        return re.search(rf"\b{field}=(\S*)", shown)[1]  # type: ignore[index]

    def _start(self, program: str, *options: str, name: str = "") -> None:
        path = shutil.which(program)
        with (self.folder / f"{name or program}.out").open("ab") as out:
            self._daemons[name or program] = subprocess.Popen(
                [str(path), *options], env=self.environment, stdout=out, stderr=out
            )

    def _until(self, what: str, so: Callable[[], bool]) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and all(d.poll() is None for d in self._daemons.values()):
            with contextlib.suppress(AssertionError):  # slurmctld does not answer yet
                if so():
                    return
            time.sleep(0.2)
        logs = {path.name: path.read_text()[-2000:] for path in self.folder.glob("*.[lo][ou][gt]")}
        raise AssertionError(f"{what} did not come up: {logs}")

    def _end(self) -> None:
        with contextlib.suppress(AssertionError):
            self.call("scancel", "--signal=KILL", "--user", getpass.getuser())
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for each in _processes(self.environment["SLURM_CONF"]):  # steps outlive their daemon
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


def _processes(configuration: str, *more: str) -> list[psutil.Process]:
    """What runs with a Slurm configuration in its environment, and all of ``more``."""
    wanted = {f"SLURM_CONF={configuration}", *more}
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            variables = Path(f"/proc/{each.pid}/environ").read_bytes().decode(errors="replace")
            if wanted <= {part.strip() for part in variables.split("\0")}:
                found.append(each)
    return found
