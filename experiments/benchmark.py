"""How long one epoch of five-fold cross-validation takes: this project beside its peers.

    python experiments/benchmark.py --data optdigits.csv
    python experiments/benchmark.py --quick

Every program trains the notebook's network on the same rows of the same five folds: batches of 128
(the last of an epoch is partial), reshuffled each epoch, Adam, dropout, float32. Each runs in a
process of its own with nothing compiled beforehand. A round runs each once. The next round starts
with another one, so that a slow minute of the machine does not hit one program alone. The time of a
run is the mean of its epochs; that of a program is the median over the rounds, with its range. A
ratio is taken within a round, then its median over the rounds. The floor is the network's
arithmetic at the rate of float32 matrix products, measured before and after the programs of each
round. Where the two rates differ by a tenth, or other programs used the cores, the round is named
as disturbed. Programs must agree in the number of their parameters and of their optimizers' steps,
or nothing is reported; scikit-learn's perceptron and pytabkit's RealMLP, which have no
convolutions, stand for scale.

Peers that are not installed are left out, by name; ``pip install '.[peers]'`` brings them.
Writes ``report.html``, ``benchmark.json`` and ``benchmark.png``, and each round as soon as it is
whole: ``--resume`` takes these and runs the others.

With ``--against REV`` it compares the working tree with another git revision instead: are the
trained numbers bitwise the same, and is it slower? See ``revisions.py``; writes ``against.json``.

    python experiments/benchmark.py --against HEAD --data optdigits.csv
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import digits_jax as dj
from common import command_line, console, options, origin, tasks
from common.drawing import styled
from common.output import Output
from common.parts import Parts
from programs import (
    BUSY,
    MATMUL,
    MATMUL_AFTER,
    MATMUL_PROGRAM,
    PEERS,
    Round,
    about,
    all_versions,
    compare,
    installed,
    others_share,
    run_round,
    spread,
    without,
)
from report import speeds

ON_REQUEST = ("keras-jax", "keras-torch")
SLOW = ("torch-compile", "realmlp")
DRIFT = 0.1  # of the rate of matrix products, from which on a round is disturbed
SPLIT_FIELDS = ("train_rows", "train_weights", "test_rows", "test_weights")
FOLDS = 5  # the notebook's
WARM_UP = 8  # epochs before those that are timed; the evaluation compiles beside the first ones
QUICK_ROWS = 1500  # rows of the data set: ten steps an epoch instead of 36

# Of the notebook's network: (output pixels, input channels, output channels), (inputs, outputs).
CONVOLUTIONS = ((8 * 8, 1, 16), (4 * 4, 16, 32), (2 * 2, 32, 64))
DENSE_LAYERS = ((64, 128), (128, 512), (512, 10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Resumable, options.Digits):
    """Compares this project's speed with that of the usual programs."""

    rounds: int = 5
    """Runs of every program, interleaved."""
    against: str | None = None
    """Git revision to compare the working tree with, instead of the peers. Ends with status 0
    if all bits are the same and nothing is significantly more than 5 % slower, else 1."""
    bits_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One round of --against, which compares bits and times nothing."""
    epochs: int = 10
    """Timed epochs in each run, after eight that compile and warm up."""
    peers: tuple[str, ...] = ()
    """Programs to run beside this project: digits-jax-1-device, keras-tensorflow, keras-jax,
    keras-torch, torch-eager, torch-processes, torch-compile, torch-func, flax-conv,
    flax-conv-vmapped, sklearn, realmlp. Default: all but Keras on JAX and on PyTorch."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A look within two minutes: a round of three epochs on 1500 rows without the slowest peers."""
    timeout: float = 900.0
    """Seconds after which a program is stopped, and left out."""


def main(config: Config) -> None:
    """Runs everything, shows and saves it; ends with status 1 if a program failed."""
    options.positive(rounds=config.rounds, epochs=config.epochs, timeout=config.timeout)
    for name in config.peers:
        options.require(name in PEERS, f"--peers {name}: there are {', '.join(PEERS)}")
    output = Output(config, script="benchmark")
    alone = config.bits_only and config.against is None
    options.require(not alone, "--bits-only needs --against")
    if config.against is not None:
        import revisions

        options.require(not config.resume, "--against can't resume: leave out --resume")
        return revisions.main(config, output)
    if config.quick:
        config = dataclasses.replace(config, rounds=1, epochs=3)
    peers, left_out = choose_peers(config)
    with tempfile.TemporaryDirectory(prefix="digits_jax_benchmark_") as folder:
        task, of_task = write_task(config, Path(folder))
        output.claim()  # now, so that it fails now and not after an hour
        identity = {
            "data": of_task["data"]["sha256"],
            "rows": of_task["rows"],
            "--epochs": config.epochs,
            "--peers": peers,
            **origin.measured_by(),
        }
        results, failed = run_rounds(config, peers, task, Parts(output, identity))
    found = about(config)
    found["machine"] |= {"device": results[0][MATMUL]["device"]}
    found |= {
        "versions": all_versions(results[0]),
        **of_task,
        "left_out": left_out | failed,
        **summarize(results, of_task["flop_per_epoch"]),
        "rounds": results,
    }
    table = speeds.table(found)
    table.show(narrow=True)  # 80 columns are just enough
    for line in speeds.footnotes(found):
        console.say(line)
    figure = styled(speeds.figure, found)
    page = speeds.page(found, table, figure)
    output.finish(found, {"benchmark": figure}, page, name="benchmark.json")
    if failed:
        sys.exit(1)


def choose_peers(config: Config) -> tuple[list[str], dict[str, str]]:
    """The programs to run, this project first, and why others are left out."""
    left_out: dict[str, str] = {}
    wanted = list(config.peers)
    if not wanted:
        wanted = [name for name in PEERS if name not in ON_REQUEST]
        if config.quick:
            for name in SLOW:
                wanted.remove(name)
                left_out[name] = "takes half a minute and more; not part of --quick"
    peers, missing = installed(wanted, PEERS)
    return peers, left_out | missing


def write_task(config: Config, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Writes what the peers train, and describes it."""
    console.say_in_plain_words()
    digits = tasks.load_digits(config.data)
    rows = slice(QUICK_ROWS if config.quick else None)
    images, labels = digits.images[rows], digits.labels[rows]
    with options.usage_errors():
        splits = dj.kfold_splits(labels, FOLDS)
    task = folder / "task.npz"
    np.savez(
        task,
        images=images,
        labels=labels,
        **{field: getattr(splits, field) for field in SPLIT_FIELDS},
        epochs=WARM_UP + config.epochs,
        warm_up=WARM_UP,
    )
    fold_rows = int(splits.train_weights.sum())
    return task, {
        "data": dataclasses.asdict(digits.provenance),
        "rows": len(labels),
        "folds": FOLDS,
        "fold_rows": fold_rows,  # training rows of all folds together
        "flop_per_epoch": fold_rows * flop_per_image(),
    }


def flop_per_image() -> int:
    """Floating-point operations of one image, forward and backward.

    Forward, a 3x3 convolution takes 2 * 9 * C * F for each output pixel (taps on the padding
    included), a dense layer 2 * C * F: 0.471 MFLOP in all. Backward takes twice as much, one
    product for the gradient of the weights and one for that of the inputs: 1.413 MFLOP in all. As
    usual, this counts the gradient of the images (0.018), which no program needs, and leaves out
    all that is no product. A program that gets by with fewer taps can do better than this floor.
    """
    forward = sum(2 * 9 * pixels * c * f for pixels, c, f in CONVOLUTIONS)
    forward += sum(2 * c * f for c, f in DENSE_LAYERS)
    return 3 * forward


def run_rounds(
    config: Config, peers: Sequence[str], task: Path, parts: Parts
) -> tuple[list[Round], dict[str, str]]:
    """A result for each program in each round, and why programs failed, which are then dropped.

    Rounds are kept whole, for programs of one round are set beside each other.
    """
    failed: dict[str, str] = {}
    rounds: list[Round] = []
    programs = dict.fromkeys((MATMUL, MATMUL_AFTER), MATMUL_PROGRAM)
    programs |= {name: PEERS[name] for name in peers}

    def make(number: int) -> dict[str, Any]:
        results = run_round(number, programs, task, failed, timeout=config.timeout)
        return {"results": results, "failed": failed}

    for number in range(config.rounds):
        found = parts.get(f"round {number + 1}", functools.partial(make, number))
        rounds.append(found["results"])
        failed |= found["failed"]
    without(failed, rounds)
    return rounds, failed


def summarize(rounds: Sequence[Round], flop_per_epoch: float) -> dict[str, Any]:
    """Medians and ranges over the rounds.

    Args:
        rounds: for each round, the result of each program by its name; see ``run_rounds``.
        flop_per_epoch: the arithmetic of one epoch of all folds.

    Returns:
        ``flop_per_second`` (the mean of before and after), ``floor_seconds`` (the arithmetic at
        that rate), the numbers of ``disturbed`` rounds from 1 on, and for each peer what the table
        shows. A spread is [median, least, greatest].
    """
    ends = [[r[name]["flop_per_second"] for name in (MATMUL, MATMUL_AFTER)] for r in rounds]
    rates = [statistics.mean(pair) for pair in ends]
    disturbed = [
        number
        for number, (pair, results) in enumerate(zip(ends, rounds, strict=True), 1)
        if max(pair) > (1 + DRIFT) * min(pair)
        or any((run["others_share"] or 0) >= BUSY for run in results.values())
    ]
    peers = compare(PEERS, rounds, flop_per_epoch, rates)
    return {
        "flop_per_second": spread(rates),
        "floor_seconds": spread([flop_per_epoch / rate for rate in rates]),
        "disturbed": disturbed,
        "others_share": others_share(rounds),  # of all cores, of each program's time
        "peers": {
            name: each | {"share_of_floor": each.pop("share_of_rate")}
            for name, each in peers.items()
        },
    }


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
