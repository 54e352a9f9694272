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
import functools
import importlib
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.markup import escape

from common import command_line, console, options, startup
from common.origin import machine
from common.output import Output
from programs import (
    MATMUL,
    MATMUL_PROGRAM,
    REFERENCE,
    Peer,
    Round,
    all_versions,
    compare,
    installed,
    mean_epoch,
    others_share,
    run_round,
    spread,
    without,
)
from report import networks

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
    peers, left_out = installed(config.peers, PEERS)
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
        "machine": machine() | {"device": first[MATMUL]["device"]},
        "versions": all_versions(first),
        "left_out": {PEERS[name].title: why for name, why in left_out.items()}
        | {
            f"{PEERS[name].title} ({case})": why
            for case, of_case in failed.items()
            for name, why in of_case.items()
        }
        | {str(case): "--max-seconds was over" for case in cases if case not in measured},
        "ended": ended,
        "cases": summaries,
        "overall": overall(summaries),
        "rounds": {str(case): rounds for case, rounds in measured.items()},
    }
    networks.table(report).show(narrow=True)
    for line in networks.footnotes(report):
        console.say(escape(line))
    figure = networks.figure(report)
    output.finish(report, {"networks": figure}, functools.partial(networks.page, figure=figure))
    if any(failed.values()):
        sys.exit(1)


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


def run_rounds(
    config: Config, peers: Sequence[str], cases: Sequence[Case]
) -> tuple[dict[Case, list[Round]], dict[Case, dict[str, str]], bool]:
    """Whole rounds of each case; why programs failed, which are then dropped; was there no time?"""
    ends = math.inf if config.max_seconds is None else time.perf_counter() + config.max_seconds
    measured: dict[Case, list[Round]] = {}
    failed: dict[Case, dict[str, str]] = {case: {} for case in cases}
    ended = False
    with tempfile.TemporaryDirectory(prefix="digits_jax_benchmark_") as folder:
        for number, case in itertools.product(range(config.rounds), cases):
            programs = {MATMUL: MATMUL_PROGRAM}
            programs |= {name: _of(PEERS[name], case) for name in peers}
            task = write_task(config, case, Path(folder))
            limits: Any = {"timeout": config.timeout, "ends": ends}
            results = run_round(number, programs, task, failed[case], of=str(case), **limits)
            if results is None:
                ended = True
                break
            measured.setdefault(case, []).append(results)
    for case, rounds in measured.items():
        without(failed[case], rounds)
    return measured, failed, ended


def _of(peer: Peer, case: Case) -> Peer:
    """The program, told which network; JAX's have the setting of XLA that our scripts have."""
    environment = dict(peer.environment)
    if not peer.needs:
        environment |= startup.xla_flags()
    variant = f"{case.network} {peer.variant}".strip()
    return dataclasses.replace(peer, variant=variant, environment=environment)


def summarize(case: Case, flop: int, rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians and ranges over the rounds of a case; a spread is [median, least, greatest]."""
    rates = [results[MATMUL]["flop_per_second"] for results in rounds]
    programs = compare(PEERS, rounds, flop, rates)
    for name, program in programs.items():
        runs = [results[name] for results in rounds if name in results]
        program["flop_per_second"] = spread([flop / mean_epoch(run) for run in runs])
        program["compile_seconds"] = spread([_compile(run) for run in runs])
    return {
        **dataclasses.asdict(case),
        "name": str(case),
        "rounds": len(rounds),
        "train_rows": case.train_rows,
        "steps": case.train_rows // BATCH,
        "parameters": programs[REFERENCE]["parameters"],
        "flop_per_epoch": flop,
        "flop_per_second": spread(rates),
        "others_share": others_share(rounds),
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
