"""How long an epoch of somebody's own network takes: this project beside plain Flax and others.

    python experiments/benchmark_networks.py
    python experiments/benchmark_networks.py --networks lenet vgg --sizes 8 --runs 5 --rounds 1

Six networks as users write them in plain Flax (``peers/own_networks_flax.py``), with the same
layers in PyTorch and Keras: LeNet, VGG-like, a ResNet with batch normalisation, a depthwise-
separable one, U-Net-like with transposed convolutions, WaveNet-like with dilated ones in one
dimension. They train on synthetic images (a pattern for each of ten classes, and noise), which
take as long as others would. A run has four fifths of the rows, cut to full batches of 128;
several runs are the folds of a cross-validation. Adam, float32.

This project trains all runs in one call of ``cross_validate`` on all cores. Plain Flax trains run
after run, with a jitted step in a Python loop or with a jitted scan over an epoch; PyTorch a
process on each core, eager (a run alone has all cores); Keras ``fit`` after ``fit``.

Each program runs in a process of its own with nothing compiled beforehand. A round runs each
program once, beginning with another one each time, and the machine's float32 matrix product; a
ratio is taken within a round, then its median over the rounds. Programs of a case must agree in
the number of their parameters and of their optimizers' steps, or nothing is reported.

Peers that are not installed are left out, by name; ``pip install '.[peers]'`` brings them.
Writes ``report.html``, ``results.json`` and ``networks.png``.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import itertools
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from common import command_line, console, options, progress, startup
from common.drawing import Drawing
from common.origin import machine, versions
from common.output import Output
from programs import Peer, check_equal_work, mean_epoch, run_program, spread

NetworkName = Literal["lenet", "vgg", "resnet", "separable", "unet", "wavenet"]
PeerName = Literal["digits-jax", "digits-jax-none", "flax", "flax-scan", "torch", "keras"]
PEERS: dict[str, Peer] = {  # a variant stands behind a network's name
    "digits-jax": Peer(title="digits_jax", program="own_networks_digits_jax.py"),
    "digits-jax-none": Peer(
        title="digits_jax, lowering none", program="own_networks_digits_jax.py", variant="none"
    ),
    "flax": Peer(title="Flax, jitted step", program="own_networks_flax.py", variant="step"),
    "flax-scan": Peer(title="Flax, scan", program="own_networks_flax.py", variant="scan"),
    "torch": Peer(title="PyTorch", program="own_networks_torch.py", needs=("torch",)),
    "keras": Peer(
        title="Keras",
        program="own_networks_keras.py",
        needs=("keras", "tensorflow"),
        environment={"KERAS_BACKEND": "tensorflow"},
    ),
}
REFERENCE = "digits-jax"
MATMUL = "matmul"
MATMUL_PROGRAM = Peer(title="float32 matrix product", program="matmul_rate.py")
BATCH = 128  # rows of a step, as in peers/protocol.py
LONG_FLOP = 5e10  # an epoch of less arithmetic is repeated, up to MOST_REPEATS times
MOST_REPEATS = 4
WARM_FLOP = 1e12  # epochs before those that are timed: here the evaluation compiles beside them
MOST_WARM_UP = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folder):
    """Compares the speed of users' own networks, here and elsewhere."""

    networks: tuple[NetworkName, ...] = (
        "lenet", "vgg", "resnet", "separable", "unet", "wavenet",
    )  # fmt: skip
    """Networks to train."""
    sizes: tuple[Literal[8, 28, 32], ...] = (8, 28, 32)
    """Pixels along a side of the images; those of 32 have three channels."""
    rows: tuple[int, ...] = (5000,)
    """Images of the data set, of which a run trains on four fifths."""
    runs: tuple[Literal[1, 5], ...] = (1, 5)
    """Runs at once: one, or the five folds of a cross-validation."""
    peers: tuple[PeerName, ...] = ("flax", "flax-scan", "torch", "keras")
    """Programs to run beside this project."""
    rounds: int = 3
    """Runs of every program, interleaved."""
    epochs: int = 2
    """Timed epochs of each program, after those that compile and warm up; up to four times as many
    where an epoch is short. An even number is best: five folds take long and short epochs in turn
    on two cores."""
    max_seconds: float | None = None
    """Seconds after which no more programs begin, and what has a whole round is reported."""
    timeout: float = 600.0
    """Seconds after which a program is stopped, and left out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained."""

    network: NetworkName
    size: int
    rows: int
    runs: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        return self.size, self.size, 3 if self.size == 32 else 1

    @property
    def train_rows(self) -> int:
        """Of a run: four fifths of the rows, in full batches."""
        return (self.rows - self.rows // 5) // BATCH * BATCH

    def __str__(self) -> str:
        pixels = f"{self.size}×{self.size}" + ("×3" if self.size == 32 else "")
        return f"{self.network} {pixels}, {self.rows}, {self.runs} run{'s' * (self.runs > 1)}"


def main(config: Config) -> None:
    """Runs everything, shows and saves it; ends with status 1 if a program failed."""
    options.positive(
        rounds=config.rounds,
        epochs=config.epochs,
        max_seconds=config.max_seconds,
        timeout=config.timeout,
    )
    inside = all(5 * BATCH <= rows <= 10**6 for rows in config.rows)
    options.require(inside, f"--rows must be {5 * BATCH} to a million, not {config.rows}")
    for name in ("networks", "sizes", "rows", "runs"):
        options.require(bool(getattr(config, name)), f"--{name} must name at least one")
    output = Output(config, script="benchmark_networks")
    peers, left_out = choose_peers(config)
    output.claim()  # now, so that it fails now and not after an hour
    console.say(options.ALL_OR_NOTHING, console.notes)
    cases = [
        Case(network=network, size=size, rows=rows, runs=runs)
        for size in dict.fromkeys(config.sizes)
        for rows in dict.fromkeys(config.rows)
        for runs in dict.fromkeys(config.runs)
        for network in dict.fromkeys(config.networks)
    ]
    measured, failed, ended = run_rounds(config, peers, cases)
    options.require(bool(measured), "--max-seconds ended it before any case had a whole round")
    summaries = [summarize(case, flop_per_epoch(case), rounds) for case, rounds in measured.items()]
    first = next(iter(measured.values()))[0]
    report = {
        "experiment": "benchmark_networks",
        "config": dataclasses.asdict(config),
        "machine": machine() | {"device": first[MATMUL]["device"]},
        "versions": versions()
        | {k: v for run in first.values() for k, v in run["versions"].items()},
        "left_out": left_out
        | {f"{PEERS[name].title} ({case})": why for (case, name), why in failed.items()}
        | {str(case): "--max-seconds was over" for case in cases if case not in measured},
        "ended": ended,
        "cases": summaries,
        "overall": overall(summaries),
        "rounds": {str(case): rounds for case, rounds in measured.items()},
    }
    from report import networks

    console.results.print(networks.make_table(report))
    lines = networks.footnotes(report)
    for line in lines:
        console.results.print(line, markup=False, highlight=False, soft_wrap=True)
    figure = Drawing(lambda: networks.make_figure(report))
    page = networks.page(report, lines=lines, figure=figure)
    output.finish(report, {"networks": figure}, page)
    if failed:
        sys.exit(1)


def choose_peers(config: Config) -> tuple[list[str], dict[str, str]]:
    """The programs to run, this project first, and why others are left out."""
    peers, left_out = [REFERENCE], {}
    for name in dict.fromkeys(config.peers):
        missing = [m for m in PEERS[name].needs if importlib.util.find_spec(m) is None]
        if missing:
            left_out[PEERS[name].title] = f"not installed: {', '.join(missing)}"
        elif name != REFERENCE:
            peers.append(name)
    return peers, left_out


def flop_per_epoch(case: Case) -> int:
    """The arithmetic of an epoch of all runs; backward takes twice as much as forward.

    As usual, this counts the gradient of the images, which no program needs, and leaves out all
    that is no product. A program that gets by with fewer taps can do better.
    """
    sys.path.append(str(Path(__file__).parent / "peers"))
    try:
        own_networks: Any = importlib.import_module("own_networks_flax")
    finally:
        sys.path.pop()
    network = own_networks.NETWORKS[case.network]()
    forward: int = own_networks.forward_flop(network, case.shape)
    return 3 * forward * case.train_rows * case.runs


def write_task(config: Config, case: Case, folder: Path) -> Path:
    """Writes what the programs train; the same for each round."""
    import numpy as np

    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(case.rows) % 10).astype(np.int32)
    patterns = random.integers(0, 128, (10, *case.shape), dtype=np.uint8)
    images = patterns[labels] + random.integers(0, 128, (case.rows, *case.shape), dtype=np.uint8)
    folds = np.array_split(random.permutation(case.rows), 5)
    tested = case.rows // 5
    train = [np.concatenate(folds[:i] + folds[i + 1 :]) for i in range(case.runs)]
    train_rows = np.stack([rows[: case.train_rows] for rows in train]).astype(np.int32)
    test_rows = np.stack([fold[:tested] for fold in folds[: case.runs]]).astype(np.int32)
    flop = flop_per_epoch(case)
    repeats = min(max(math.ceil(LONG_FLOP / flop), 1), MOST_REPEATS)
    warm_up = min(max(math.ceil(WARM_FLOP / flop), 1), MOST_WARM_UP)
    path = folder / "task.npz"
    np.savez(
        path,
        images=images,
        labels=labels,
        train_rows=train_rows,
        train_weights=np.ones(train_rows.shape, np.float32),
        test_rows=test_rows,
        test_weights=np.ones(test_rows.shape, np.float32),
        epochs=warm_up + repeats * config.epochs,
        warm_up=warm_up,
    )
    return path


Rounds = list[dict[str, Any]]  # for each round, the result of each program by its name


def run_rounds(
    config: Config, peers: Sequence[str], cases: Sequence[Case]
) -> tuple[dict[Case, Rounds], dict[tuple[Case, str], str], bool]:
    """Whole rounds of each case; why programs failed, which are then dropped; was there no time?"""
    from rich.markup import escape

    ends = math.inf if config.max_seconds is None else time.perf_counter() + config.max_seconds
    measured: dict[Case, Rounds] = {}
    failed: dict[tuple[Case, str], str] = {}

    def run_round(number: int, case: Case, task: Path) -> dict[str, Any] | None:
        results: dict[str, Any] = {}
        start = number % len(peers)
        for name in (MATMUL, *peers[start:], *peers[:start]):
            peer = MATMUL_PROGRAM if name == MATMUL else _of(PEERS[name], case)
            if (case, name) in failed:
                continue
            if time.perf_counter() > ends:
                return None
            with progress.waiting(f"round {number + 1}, {case}: {peer.title}"):
                try:
                    results[name] = run_program(peer, task, config.timeout)
                except RuntimeError as error:
                    if name in (MATMUL, REFERENCE):
                        raise SystemExit(f"{peer.title} failed ({case}): {error}") from error
                    failed[case, name] = f"failed: {error}"
                    text = f"[yellow]{peer.title} failed ({case}):[/] {escape(str(error))}"
                    console.errors.print(text, soft_wrap=True)
                    continue
            if name != MATMUL:
                seconds = f"{mean_epoch(results[name]):8.3f} s an epoch"
                console.notes.print(
                    f"round {number + 1}  {case!s:32} {peer.title:20}{seconds}",
                    highlight=False,
                    soft_wrap=True,
                )
        for name in results:
            if name != MATMUL:
                check_equal_work(f"{name} ({case})", results[REFERENCE], results[name])
        return results

    ended = False
    with tempfile.TemporaryDirectory(prefix="digits_jax_benchmark_") as folder:
        for number, case in itertools.product(range(config.rounds), cases):
            results = run_round(number, case, write_task(config, case, Path(folder)))
            if results is None:
                ended = True
                break
            measured.setdefault(case, []).append(results)
    for case, name in failed:  # without all of its rounds it would have another median
        for results in measured.get(case, []):
            results.pop(name, None)
    return measured, failed, ended


def _of(peer: Peer, case: Case) -> Peer:
    """The program, told which network; JAX's have the setting of XLA that our scripts have."""
    environment = dict(peer.environment)
    if not peer.needs:
        environment |= startup.xla_flags()
    variant = f"{case.network} {peer.variant}".strip()
    return dataclasses.replace(peer, variant=variant, environment=environment)


def summarize(case: Case, flop: int, rounds: Rounds) -> dict[str, Any]:
    """Medians and ranges over the rounds of a case; a spread is [median, least, greatest]."""
    own = [mean_epoch(results[REFERENCE]) for results in rounds]
    rates = [results[MATMUL]["flop_per_second"] for results in rounds]
    programs = {}
    for name, peer in PEERS.items():
        runs = [results[name] for results in rounds if name in results]
        if not runs:
            continue
        seconds = [mean_epoch(run) for run in runs]
        peaks = [run["peak_bytes"] for run in runs if run["peak_bytes"] is not None]
        programs[name] = {
            "title": peer.title,
            "epoch_seconds": spread(seconds),  # of all runs
            "ratio": spread([s / o for s, o in zip(seconds, own, strict=True)]),
            "flop_per_second": spread([flop / s for s in seconds]),
            "share_of_rate": spread([flop / s / r for s, r in zip(seconds, rates, strict=True)]),
            "compile_seconds": spread([_compile(run) for run in runs]),
            "first_epoch_seconds": spread([run["first_epoch_seconds"] for run in runs]),
            "import_seconds": spread([run["import_seconds"] for run in runs]),
            "peak_bytes": statistics.median(peaks) if peaks else None,
            "train_accuracy": spread([run["train_accuracy"] for run in runs]),
        }
    fractions = [run["others_share"] for results in rounds for run in results.values()]
    known = [each for each in fractions if each is not None]
    return {
        **dataclasses.asdict(case),
        "name": str(case),
        "rounds": len(rounds),
        "train_rows": case.train_rows,
        "steps": case.train_rows // BATCH,
        "parameters": rounds[0][REFERENCE]["parameters"],
        "flop_per_epoch": flop,
        "flop_per_second": spread(rates),
        "others_share": spread(known) if known else None,
        "programs": programs,
    }


def overall(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For each program, how many times as long it takes: the median over the cases, and ends."""
    ratios: dict[str, list[float]] = {}
    for case in cases:
        for name, program in case["programs"].items():
            ratios.setdefault(name, []).append(program["ratio"][0])
    return {
        name: {"title": PEERS[name].title, "ratio": spread(values), "cases": len(values)}
        for name, values in ratios.items()
        if name != REFERENCE
    }


def _compile(result: Mapping[str, Any]) -> float:
    """Where a program doesn't measure it: what its first epoch takes beyond a later one."""
    more = result["first_epoch_seconds"] - mean_epoch(result)
    return float(result.get("compile_seconds", more))


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
