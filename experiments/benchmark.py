"""How long one epoch of five-fold cross-validation takes: this project beside its peers.

    python experiments/benchmark.py --data optdigits.csv
    python experiments/benchmark.py --quick

Every program trains the notebook's network on the same rows of the same five folds: batches of 128
(the last of an epoch is partial), reshuffled each epoch, Adam, dropout, float32. Each runs in a
process of its own with nothing compiled beforehand; a round runs each once, and the next round
starts with another one, so that a slow minute of the machine does not hit one program alone. A time
is the mean of a run's epochs, and of the rounds the median with its range; a ratio is taken within
a round, then its median over the rounds. The floor is the network's arithmetic at the rate of
float32 matrix products that the same round measured.

Peers that are not installed are left out, by name; ``pip install '.[peers]'`` brings them.
Writes ``report.html``, ``benchmark.json`` and ``benchmark.png``.

With ``--against REV`` it compares the working tree with another git revision instead: are the
trained numbers bitwise the same, and is it slower? See ``revisions.py``; writes ``against.json``.

    python experiments/benchmark.py --against HEAD --data optdigits.csv
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from common import command_line, console, options, startup
from common.output import Output
from programs import BUSY, Peer, machine, mean_epoch, run_program, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PeerName = Literal[
    "digits-jax",
    "digits-jax-1-device",
    "keras-tensorflow",
    "keras-jax",
    "keras-torch",
    "torch-eager",
    "torch-processes",
    "torch-compile",
    "torch-func",
    "flax-conv",
    "flax-conv-vmapped",
]


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


PEERS: dict[PeerName, Peer] = {
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
}
REFERENCE: PeerName = "digits-jax"
ON_REQUEST: tuple[PeerName, ...] = ("keras-jax", "keras-torch")
MATMUL = "matmul"
MATMUL_PROGRAM = Peer(title="float32 matrix product", program="matmul_rate.py")
FOLDS = 5  # the notebook's
WARM_UP = 8  # epochs before those that are timed; the evaluation compiles beside the first ones
QUICK_ROWS = 1500  # rows of the data set: ten steps an epoch instead of 36

# Of the notebook's network: (output pixels, input channels, output channels), (inputs, outputs).
CONVOLUTIONS = ((8 * 8, 1, 16), (4 * 4, 16, 32), (2 * 2, 32, 64))
DENSE_LAYERS = ((64, 128), (128, 512), (512, 10))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Digits):
    """Compares this project's speed with that of the usual programs."""

    rounds: int = 5
    """Runs of every program, interleaved."""
    against: str | None = None
    """Compare the working tree with this git revision, and not with the peers. Ends with status 0
    if all bits are the same and nothing is significantly more than 5 % slower, else 1."""
    bits_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """With --against: one round, which compares bits and times nothing."""
    epochs: int = 10
    """Timed epochs in each run, after eight that compile and warm up."""
    peers: tuple[PeerName, ...] = ()
    """Programs to run beside this project; default: all but Keras on JAX and on PyTorch."""
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/benchmark/<date>-<time>."""
    quick: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A look within two minutes: one round of three epochs on 1500 rows, no torch.compile."""
    timeout: float = 900.0
    """Seconds after which a program is stopped, and left out."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but the result."""


def main(config: Config) -> None:
    """Runs everything, shows and saves it; ends with status 1 if a program failed."""
    options.positive(rounds=config.rounds, epochs=config.epochs, timeout=config.timeout)
    output = Output(config.output_dir, script="benchmark")
    options.require(
        config.against is not None or not config.bits_only, "--bits-only needs --against"
    )
    if config.against is not None:
        import revisions

        return revisions.main(config, output)
    if config.quick:
        config = dataclasses.replace(config, rounds=1, epochs=3)
    peers, left_out = choose_peers(config)
    with tempfile.TemporaryDirectory(prefix="digits_jax_benchmark_") as folder:
        task, about = write_task(config, Path(folder))
        output.claim()  # now, so that it fails now and not after an hour
        results, failed = run_rounds(config, peers, task)
    report = {
        "experiment": "benchmark",
        "command": shlex.join(["python", *sys.argv]),
        "config": dataclasses.asdict(config),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"device": results[0][MATMUL]["device"]},
        "versions": {k: v for run in results[0].values() for k, v in run["versions"].items()},
        **about,
        "left_out": left_out | failed,
        **summarize(results, about["flop_per_epoch"]),
        "rounds": results,
    }
    from rich.text import Text

    console.results.print(make_table(report))
    for line in footnotes(report):
        console.results.print(line, highlight=False, soft_wrap=True)

    from report import overviews

    figure = make_figure(report)
    lines = [Text.from_markup(line).plain for line in footnotes(report)]
    page = overviews.benchmark(report, lines=lines, figure=figure)
    output.finish(report, {"benchmark": figure}, page, name="benchmark.json")
    if failed:
        sys.exit(1)


def choose_peers(config: Config) -> tuple[list[PeerName], dict[str, str]]:
    """The programs to run, this project first, and why others are left out."""
    left_out: dict[str, str] = {}
    wanted = list(config.peers)
    if not wanted:
        wanted = [name for name in PEERS if name not in ON_REQUEST]
        if config.quick:
            wanted.remove("torch-compile")
            left_out["torch-compile"] = "compiles for half a minute; not part of --quick"
    peers = [REFERENCE]
    for name in dict.fromkeys(wanted):
        missing = [m for m in PEERS[name].needs if importlib.util.find_spec(m) is None]
        if missing:
            left_out[name] = f"not installed: {', '.join(missing)}"
        elif name != REFERENCE:
            peers.append(name)
    return peers, left_out


def write_task(config: Config, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Writes what the peers train, and describes it."""
    import numpy as np

    from digits_jax import kfold_splits, load_digits

    console.say_in_plain_words()
    digits = load_digits(config.data)
    console.show_data(digits.provenance)
    rows = slice(QUICK_ROWS if config.quick else None)
    images, labels = digits.images[rows], digits.labels[rows]
    try:
        splits = kfold_splits(labels, FOLDS)
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    task = folder / "task.npz"
    np.savez(
        task,
        images=images,
        labels=labels,
        train_rows=splits.train_rows,
        train_weights=splits.train_weights,
        test_rows=splits.test_rows,
        test_weights=splits.test_weights,
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
    config: Config, peers: Sequence[PeerName], task: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A result for each program in each round, and why programs failed, which are then dropped."""
    from rich.markup import escape

    failed: dict[str, str] = {}
    rounds: list[dict[str, Any]] = []
    programs = {MATMUL: MATMUL_PROGRAM} | {str(name): PEERS[name] for name in peers}
    for number in range(config.rounds):
        results: dict[str, Any] = {}
        names = list(programs)
        start = number % len(names)
        for name in names[start:] + names[:start]:
            if name in failed:
                continue
            title = programs[name].title
            with console.notes.status(f"round {number + 1} of {config.rounds}: {title}"):
                try:
                    results[name] = run_program(programs[name], task, config.timeout)
                except RuntimeError as error:
                    if name in (MATMUL, REFERENCE):
                        raise SystemExit(f"{title} failed: {error}") from error
                    failed[name] = f"failed: {error}"
                    console.errors.print(f"[yellow]{title} failed:[/] {escape(str(error))}")
                    continue
            line = f"round {number + 1}  {title:25}{_in_words(results[name])}"
            console.notes.print(line, highlight=False)
        rounds.append(results)
    for results in rounds:  # a program without all of its rounds would have another median
        for name in failed:
            results.pop(name, None)
    return rounds, failed


def _in_words(result: dict[str, Any]) -> str:
    if "flop_per_second" in result:
        return f"{result['flop_per_second'] / 1e9:.0f} GFLOP/s"
    return f"{mean_epoch(result):.3f} s an epoch"


def summarize(rounds: Sequence[dict[str, Any]], flop_per_epoch: float) -> dict[str, Any]:
    """Medians and ranges over the rounds.

    Args:
        rounds: for each round, the result of each program by its name; see ``run_rounds``.
        flop_per_epoch: the arithmetic of one epoch of all folds.

    Returns:
        ``flop_per_second`` and ``floor_seconds`` (the arithmetic at that rate), and for each peer
        what the table shows. A spread is [median, least, greatest].
    """
    rates = [results[MATMUL]["flop_per_second"] for results in rounds]
    floors = [flop_per_epoch / rate for rate in rates]
    own = [mean_epoch(results[REFERENCE]) for results in rounds]
    peers = {}
    for name, peer in PEERS.items():
        runs = [results[name] for results in rounds if name in results]
        if not runs:
            continue
        seconds = [mean_epoch(run) for run in runs]
        peaks = [run["peak_bytes"] for run in runs if run["peak_bytes"] is not None]
        peers[name] = {
            "title": peer.title,
            "epoch_seconds": spread(seconds),  # of all folds
            "ratio": spread([s / o for s, o in zip(seconds, own, strict=True)]),
            "share_of_floor": spread([f / s for f, s in zip(floors, seconds, strict=True)]),
            "first_epoch_seconds": spread([run["first_epoch_seconds"] for run in runs]),
            "import_seconds": spread([run["import_seconds"] for run in runs]),
            "peak_bytes": statistics.median(peaks) if peaks else None,
            "train_accuracy": spread([run["train_accuracy"] for run in runs]),
            "parameters": runs[0]["parameters"],
        }
    fractions = [run["others_share"] for results in rounds for run in results.values()]
    known = [each for each in fractions if each is not None]
    return {
        "flop_per_second": spread(rates),
        "floor_seconds": spread(floors),
        "others_share": spread(known) if known else None,  # of all cores, of each program's time
        "peers": peers,
    }


def make_table(report: dict[str, Any]) -> Any:
    """The comparison as a rich table, the fastest first."""
    from rich.table import Table

    config = report["config"]
    table = Table(
        title=f"An epoch of all {report['folds']} folds, {report['fold_rows']} rows; medians over "
        f"{config['rounds']} round(s) of {config['epochs']}",
        box=None,  # 80 columns are just enough
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    columns = ("seconds", "ratio", "floor", "first", "import", "MB", "acc.")
    table.add_column("program", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for peer in _by_speed(report):
        peak = peer["peak_bytes"]
        table.add_row(
            peer["title"],
            _range(peer["epoch_seconds"], config["rounds"]),
            f"{peer['ratio'][0]:.2f}",
            f"{peer['share_of_floor'][0]:.0%}",
            f"{peer['first_epoch_seconds'][0]:.1f}",
            f"{peer['import_seconds'][0]:.1f}",
            "" if peak is None else f"{peak / 1e6:.0f}",
            f"{peer['train_accuracy'][0]:.1%}",
        )
    return table


def _by_speed(report: dict[str, Any]) -> list[dict[str, Any]]:
    peers: list[dict[str, Any]] = list(report["peers"].values())
    return sorted(peers, key=lambda peer: peer["epoch_seconds"][0])


def _range(spread: Sequence[float], rounds: int) -> str:
    median, least, greatest = (f"{value:.3f}" for value in spread)
    return median if rounds == 1 else f"{median} ({least}–{greatest})"


def footnotes(report: dict[str, Any]) -> list[str]:
    """What a reader of the table must know."""
    from rich.markup import escape

    rate, floor = report["flop_per_second"][0], report["floor_seconds"][0]
    lines = [
        "ratio: to digits_jax on all devices. floor: share of the floor's speed reached; it is "
        f"{report['flop_per_epoch'] / 1e9:.2f} GFLOP at {rate / 1e9:.0f} GFLOP/s, the measured "
        f"rate of float32 matrix products: {floor:.3f} s.",
        "first: seconds of the first epoch, with building and compiling, nothing cached. import: "
        "seconds from the process's start. acc.: in training, last epoch.",
    ]
    if busy := _busy(report):
        lines.append(f"[yellow]{busy}: don't trust these times, repeat them on a quiet machine.[/]")
    titles = {str(name): peer.title for name, peer in PEERS.items()}
    for name, why in report["left_out"].items():
        lines.append(f"Left out: {titles[name]} ({escape(why)}).")
    return lines


def _busy(report: dict[str, Any]) -> str:
    """A warning, where other programs took part of the machine; else nothing."""
    others = report["others_share"]
    if others is None or others[2] < BUSY:
        return ""
    return f"other programs used {others[0]:.0%} of the cores, up to {others[2]:.0%}"


def make_figure(report: dict[str, Any]) -> Figure:
    """Seconds of an epoch as bars, the fastest on top, with the floor as a line."""
    from digits_jax import plots

    with_style = plots.styled(_figure)
    figure: Figure = with_style(report)
    return figure


def _figure(report: dict[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    peers = _by_speed(report)
    floor = report["floor_seconds"][0]
    figure = Figure(figsize=(8, 1.6 + 0.42 * len(peers)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    most = max(floor, *(peer["epoch_seconds"][2] for peer in peers))
    for i, peer in enumerate(peers):
        median, least, greatest = peer["epoch_seconds"]
        own = peer["title"].startswith("digits_jax")
        axes.barh(i, median, height=0.7, color="#0072B2" if own else "#B0B0B0")
        if report["config"]["rounds"] > 1:
            error = [[median - least], [greatest - median]]
            axes.errorbar(median, i, xerr=error, color="0.35", capsize=3, linewidth=1)
        axes.annotate(
            f"{median:.2f} s   {peer['ratio'][0]:.1f}×",
            (greatest, i),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.axvline(floor, color="#D55E00", linestyle="--", linewidth=1.5)
    axes.annotate(
        f"floor: the arithmetic at this machine's\nmatrix-product rate, {floor:.2f} s",
        (floor, len(peers) - 0.4),
        xytext=(4, 0),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="#A04600",
    )
    axes.set_yticks(range(len(peers)), [peer["title"] for peer in peers])
    axes.set_ylim(len(peers) + 0.4, -0.6)
    axes.set_xlim(0, most * 1.22)
    axes.set_xlabel(f"seconds for one epoch of all {report['folds']} folds (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    machine, busy = report["machine"], _busy(report)
    title = f"{report['fold_rows']} rows an epoch; × is the ratio to digits_jax on all devices\n"
    title += f"{machine['processor']}, {machine['cores']} cores" + (f"; {busy}" if busy else "")
    axes.set_title(title, fontsize=9, loc="left")
    return figure


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
