"""The programs of ``experiments/peers``: each runs in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from common import console, progress, startup
from common.origin import origin, versions

Round = dict[str, Any]  # the result of each program by its name
BUSY = 0.05  # share of the cores used by other programs above which the times deserve a warning
REFERENCE = "digits-jax"  # the name of this project's program
MATMUL, MATMUL_AFTER = "matmul", "matmul after"  # they measure the machine
_UNSET = ("JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR", "KERAS_BACKEND")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """A program to run, and how."""

    title: str
    program: str  # a file in experiments/peers
    variant: str = ""
    needs: tuple[str, ...] = ()  # modules beside this project's own
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    equal: bool = True  # it trains the same network in as many steps; else it stands for scale


def _keras(backend: str, title: str) -> Peer:
    return Peer(
        title=f"Keras, {title}",
        program="keras_folds.py",
        needs=("keras", backend),
        environment={"KERAS_BACKEND": backend},
    )


def _torch(variant: str, title: str) -> Peer:
    return Peer(
        title=f"PyTorch, {title}", program="torch_folds.py", variant=variant, needs=("torch",)
    )


def _jax(variant: str, title: str, program: str) -> Peer:
    """A program of JAX's, with the setting of XLA that this project's scripts have."""
    return Peer(title=title, program=program, variant=variant, environment=startup.xla_flags())


PEERS: dict[str, Peer] = {
    "digits-jax": _jax("all", "digits_jax, all devices", "digits_jax_folds.py"),
    "digits-jax-1-device": _jax("1", "digits_jax, 1 device", "digits_jax_folds.py"),
    "keras-tensorflow": _keras("tensorflow", "TensorFlow"),
    "keras-jax": _keras("jax", "JAX"),
    "keras-torch": _keras("torch", "PyTorch"),
    "torch-eager": _torch("eager", "eager"),
    "torch-processes": _torch("processes", "processes"),
    "torch-compile": _torch("compile", "torch.compile"),
    "torch-func": Peer(
        title="PyTorch, torch.func", program="torch_func_folds.py", needs=("torch",)
    ),
    "flax-conv": _jax("one-by-one", "Flax nn.Conv, by fold", "flax_conv_folds.py"),
    "flax-conv-vmapped": _jax("vmapped", "Flax nn.Conv, vmapped", "flax_conv_folds.py"),
    "sklearn": Peer(title="scikit-learn, dense", program="sklearn_folds.py", equal=False),
    "realmlp": Peer(
        title="RealMLP, dense", program="realmlp_folds.py", needs=("pytabkit",), equal=False
    ),
}
MATMUL_PROGRAM = Peer(title="float32 matrix product", program="matmul_rate.py")


def installed(wanted: Iterable[str], peers: Mapping[str, Peer]) -> tuple[list[str], dict[str, str]]:
    """The programs to run, this project's first, and why others of them are left out."""
    found, left_out = [REFERENCE], {}
    for name in dict.fromkeys(wanted):
        missing = [m for m in peers[name].needs if importlib.util.find_spec(m) is None]
        if missing:
            left_out[name] = f"not installed: {', '.join(missing)}"
        elif name != REFERENCE:
            found.append(name)
    return found, left_out


def run_round(
    number: int,
    programs: Mapping[str, Peer],
    task: Path,
    failed: dict[str, str],
    *,
    timeout: float,
    of: str = "",
    ends: float = math.inf,
) -> Round | None:
    """Runs each program once, and shows what it took.

    Args:
        number: of the round, from 0. Another program begins in each.
        programs: to run. What measures the machine runs before all others, and after them.
        task: what they train.
        failed: why programs failed, by name. These are left out, and those that fail now come to
            them.
        timeout: seconds of a program.
        of: what is trained, in words.
        ends: when there is no time left for another program, in ``time.perf_counter``.

    Returns:
        The results; None where the time was over before the last program.

    Raises:
        SystemExit: a program does other work than this project's, or what all others are compared
            with has failed.
    """
    peers = [name for name in programs if name not in (MATMUL, MATMUL_AFTER)]
    start = number % len(peers)
    turns = [MATMUL, *peers[start:], *peers[:start], MATMUL_AFTER]
    where, behind = f"round {number + 1}", f" ({of})" * bool(of)
    results: Round = {}
    for name in turns:
        if name in failed or name not in programs:
            continue
        if time.perf_counter() > ends:
            return None
        peer = programs[name]
        with progress.waiting(f"{where}{behind}: {peer.title}"):
            try:
                results[name] = run_program(peer, task, timeout)
            except RuntimeError as error:
                if name in (MATMUL, MATMUL_AFTER, REFERENCE):
                    raise SystemExit(f"{peer.title} failed{behind}: {error}") from error
                failed[name] = f"failed: {error}"
                text = f"[yellow]{peer.title} failed{behind}:[/] {escape(str(error))}"
                console.say(text, console.errors)
                continue
        place = f"{of:32} " if of else ""
        console.say(f"{where}  {place}{peer.title:25}{_in_words(results[name])}", console.notes)
    for name, result in results.items():
        if name in peers and programs[name].equal:
            check_equal_work(f"{programs[name].title}{behind}", results[REFERENCE], result)
    return results


def _in_words(result: Mapping[str, Any]) -> str:
    if "flop_per_second" in result:
        return f"{result['flop_per_second'] / 1e9:.0f} GFLOP/s"
    return f"{mean_epoch(result):.3f} s an epoch"


def without(failed: Iterable[str], rounds: Iterable[Round]) -> None:
    """Drops programs that failed once: without all of its rounds, one has another median."""
    for results in rounds:
        for name in failed:
            results.pop(name, None)


def compare(
    peers: Mapping[str, Peer], rounds: Sequence[Round], flop: float, rates: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """Medians and ranges over the rounds, of each program that ran, by its name.

    Args:
        peers: all programs.
        rounds: their results.
        flop: the arithmetic of an epoch of all runs.
        rates: of the machine's matrix products in each round, FLOP/s.

    Returns:
        Of each program what the tables show. A spread is [median, least, greatest];
        ``share_of_rate`` is that of ``rates`` which the program's arithmetic reaches.
    """
    own = [mean_epoch(results[REFERENCE]) for results in rounds]
    found = {}
    for name, peer in peers.items():
        runs = [results[name] for results in rounds if name in results]
        if not runs:
            continue
        seconds = [mean_epoch(run) for run in runs]
        peaks = [run["peak_bytes"] for run in runs if run["peak_bytes"] is not None]
        found[name] = {
            "title": peer.title,
            "epoch_seconds": spread(seconds),  # of all runs
            "ratio": spread([s / o for s, o in zip(seconds, own, strict=True)]),
            "share_of_rate": spread([flop / s / r for s, r in zip(seconds, rates, strict=True)]),
            "first_epoch_seconds": spread([run["first_epoch_seconds"] for run in runs]),
            "import_seconds": spread([run["import_seconds"] for run in runs]),
            "peak_bytes": statistics.median(peaks) if peaks else None,
            "train_accuracy": spread([run["train_accuracy"] for run in runs]),
            "parameters": runs[0]["parameters"],
        }
    return found


def others_share(rounds: Iterable[Round]) -> list[float] | None:
    """The spread of what other programs used of all cores; None where that is not known."""
    shares = [run["others_share"] for results in rounds for run in results.values()]
    known = [each for each in shares if each is not None]
    return spread(known) if known else None


def disturbance(share: Sequence[float] | None) -> str:
    """A warning, where other programs took such a spread of the cores; else nothing."""
    if share is None or share[2] < BUSY:
        return ""
    return (
        f"other programs used {share[0]:.0%} of the cores, up to {share[2]:.0%}: don't trust these "
        "times, repeat them on a quiet machine."
    )


def all_versions(results: Round) -> dict[str, str | None]:
    """Versions of the packages of all programs, on top of this process's."""
    return versions() | {k: v for run in results.values() for k, v in run["versions"].items()}


def run_program(peer: Peer, task: Path, timeout: float) -> dict[str, Any]:
    """Runs a program once, in a process and with cache folders of its own.

    Raises:
        RuntimeError: it failed; says how.
    """
    with tempfile.TemporaryDirectory(dir=task.parent) as folder:
        result = Path(folder) / "result.json"
        program = Path(__file__).parent / "peers" / peer.program
        options = ["--variant", peer.variant, "--started", repr(time.time())]
        busy = _busy_seconds()
        started = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, str(program), str(task), str(result), *options],
                env=environment(Path(folder)) | dict(peer.environment),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it took more than {timeout:.0f} s") from None
        if done.returncode or not result.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise RuntimeError(lines[-1] if lines else f"exit status {done.returncode}")
        seconds = time.perf_counter() - started
        outcome: dict[str, Any] = json.loads(result.read_text())
    others = None if busy is None else (_busy_seconds() or 0.0) - busy
    return outcome | {
        "others_share": None if others is None else max(0.0, others / seconds / _cores())
    }


def check_equal_work(what: str, expected: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Ends the script where two programs differ in their parameters or in an epoch's steps.

    Args:
        what: names the other program.
        expected: the result of this project's program.
        result: the other's.
    """
    for quantity in ("parameters", "steps"):
        if result[quantity] != expected[quantity]:
            raise SystemExit(
                f"{what} does other work than digits_jax: {result[quantity]} {quantity}, not "
                f"{expected[quantity]}"
            )


def mean_epoch(result: Mapping[str, Any]) -> float:
    """Seconds of an epoch of all runs, of what a program reported.

    The mean: where runs go round robin over the devices, long epochs alternate with short ones.
    """
    return float(statistics.mean(result["epoch_seconds"]))


def spread(values: Sequence[float]) -> list[float]:
    """Median, least and greatest."""
    return [statistics.median(values), min(values), max(values)]


def environment(folder: Path) -> dict[str, str]:
    """What a program sees: nothing compiled beforehand, none of the user's settings of these."""
    settings = {name: value for name, value in os.environ.items() if name not in _UNSET}
    return settings | {
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "KERAS_HOME": str(folder / "keras"),  # the user's keras.json may change dtype and layout
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def about(config: Any) -> dict[str, Any]:
    """What the results of a benchmark begin with."""
    return {**origin(), "config": dataclasses.asdict(config)}


def _busy_seconds() -> float | None:
    """CPU seconds that programs other than ours have used on this machine; Linux only."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
    total = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return total - own.user - own.system - own.children_user - own.children_system


def _cores() -> int:
    return os.cpu_count() or 1
