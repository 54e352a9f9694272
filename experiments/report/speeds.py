"""The report of ``benchmark.py``: its table, its footnotes and its figure, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from common.tables import Table
from programs import PEERS, disturbance
from report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.drawing import Drawing
Results = Mapping[str, Any]


def table(results: Results) -> Table:
    """The comparison, the fastest first."""
    config = results["config"]
    rows = []
    for peer in _by_speed(results):
        peak = peer["peak_bytes"]
        rows.append(
            (
                peer["title"],
                _range(peer["epoch_seconds"], config["rounds"]),
                f"{peer['ratio'][0]:.2f}",
                f"{peer['share_of_floor'][0]:.0%}",
                f"{peer['first_epoch_seconds'][0]:.1f}",
                f"{peer['import_seconds'][0]:.1f}",
                "" if peak is None else f"{peak / 1e6:.0f}",
                f"{peer['train_accuracy'][0]:.1%}",
            )
        )
    title = (
        f"An epoch of all {results['folds']} folds, {results['fold_rows']} rows; medians over "
        f"{config['rounds']} round(s) of {config['epochs']}"
    )
    columns = ("program", "seconds", "ratio", "floor", "first", "import", "MB", "acc.")
    note = " ".join(Text.from_markup(line).plain for line in footnotes(results))
    return Table(title, columns, rows, note)


def _by_speed(results: Results) -> list[dict[str, Any]]:
    peers: list[dict[str, Any]] = list(results["peers"].values())
    return sorted(peers, key=lambda peer: peer["epoch_seconds"][0])


def _range(spread: Sequence[float], rounds: int) -> str:
    median, least, greatest = (f"{value:.3f}" for value in spread)
    return median if rounds == 1 else f"{median} ({least}–{greatest})"


def footnotes(results: Results) -> list[str]:
    """What a reader of the table must know."""
    rate, floor = results["flop_per_second"][0], results["floor_seconds"][0]
    lines = [
        "ratio: to digits_jax on all devices. floor: share of the floor's speed reached; it is "
        f"{results['flop_per_epoch'] / 1e9:.2f} GFLOP at {rate / 1e9:.0f} GFLOP/s, the measured "
        f"rate of float32 matrix products: {floor:.3f} s.",
        "first: seconds of the first epoch, with building and compiling, nothing cached. import: "
        "seconds from the process's start. acc.: in training, last epoch.",
    ]
    if results["disturbed"]:
        numbers = ", ".join(map(str, results["disturbed"]))
        lines.append(
            f"[yellow]Disturbed: round {numbers} of {results['config']['rounds']} (the rate of "
            "matrix products drifted by a tenth, or other programs ran).[/]"
        )
    if busy := disturbance(results["others_share"]):
        lines.append(f"[yellow]{busy}[/]")
    for name, why in results["left_out"].items():
        lines.append(f"Left out: {PEERS[name].title} ({escape(why)}).")
    return lines


def page(results: Results, table: Table, figure: Drawing) -> Report:
    """The report."""
    machine = results["machine"]
    report = Report(
        "Seconds for an epoch of all folds",
        f"{table.title}. {machine['processor']}, {machine['cores']} cores.",
    )
    own, floor = results["peers"]["digits-jax"]["epoch_seconds"][0], results["floor_seconds"][0]
    report.headline("digits_jax", f"{own:.3f} s", "an epoch, all devices")
    rate = "the arithmetic at the machine's rate of matrix products"
    report.headline("The floor", f"{floor:.3f} s", rate)
    seconds = (f"{peer['title']} {peer['epoch_seconds'][0]:.3f}" for peer in _by_speed(results))
    report.figure("Beside its peers", figure, f"Seconds of each program: {', '.join(seconds)}")
    report.table(*table._replace(title="Programs"))
    return report


def figure(results: Results) -> Figure:
    """Seconds of an epoch as bars, the fastest on top, with the floor as a line."""
    from matplotlib.figure import Figure

    peers = _by_speed(results)
    floor = results["floor_seconds"][0]
    figure = Figure(figsize=(8, 1.6 + 0.42 * len(peers)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    most = max(floor, *(peer["epoch_seconds"][2] for peer in peers))
    for i, peer in enumerate(peers):
        median, least, greatest = peer["epoch_seconds"]
        own = peer["title"].startswith("digits_jax")
        axes.barh(i, median, height=0.7, color="#0072B2" if own else "#B0B0B0")
        if results["config"]["rounds"] > 1:
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
    axes.set_xlabel(f"seconds for one epoch of all {results['folds']} folds (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    machine, (busy, *_) = results["machine"], disturbance(results["others_share"]).split(":")
    title = f"{results['fold_rows']} rows an epoch; × is the ratio to digits_jax on all devices\n"
    title += f"{machine['processor']}, {machine['cores']} cores" + (f"; {busy}" if busy else "")
    axes.set_title(title, fontsize=9, loc="left")
    return figure
