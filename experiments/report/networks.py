"""The table, the figure and the report of ``benchmark_networks.py``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from programs import BUSY
from report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from common.drawing import Drawing

Results = Mapping[str, Any]

REFERENCE = "digits-jax"
COLOURS = {
    "digits-jax-none": "#56B4E9",
    "flax": "#0072B2",
    "flax-scan": "#D55E00",
    "torch": "#009E73",
    "keras": "#CC79A7",
}


def page(results: Results, *, lines: Iterable[str], figure: Drawing) -> Report:
    """The report; ``lines`` are the table's footnotes."""
    config, machine = results["config"], results["machine"]
    report = Report(
        "An epoch of somebody's own network",
        f"Networks in plain Flax, unchanged, beside other programs; medians over at most "
        f"{config['rounds']} rounds. {machine['processor']}, {machine['cores']} cores.",
    )
    for each in results["overall"].values():
        median, least, greatest = each["ratio"]
        report.headline(
            each["title"],
            f"{median:.1f} ×",
            f"as long as digits_jax, the median over {each['cases']} cases; {least:.2f} to "
            f"{greatest:.2f}",
        )
    report.figure(
        "Beside digits_jax",
        figure,
        "For each case, how many times as long an epoch of each program takes.",
        "A line is the range over the rounds.",
    )
    cells = []
    for case in results["cases"]:
        for program in case["programs"].values():
            peak = program["peak_bytes"]
            cells.append(
                (
                    case["name"],
                    program["title"],
                    f"{program['epoch_seconds'][0]:.3f}",
                    "{1:.3f} to {2:.3f}".format(*program["epoch_seconds"]),
                    f"{program['ratio'][0]:.2f}",
                    f"{program['flop_per_second'][0] / 1e9:.1f}",
                    f"{100 * program['share_of_rate'][0]:.0f} %",
                    f"{program['compile_seconds'][0]:.1f}",
                    "" if peak is None else f"{peak / 1e6:.0f}",
                )
            )
    columns = (
        *("case", "program", "seconds", "range", "ratio", "GFLOP/s"),
        *("of the matrix product's rate", "compile (s)", "MB"),
    )
    report.table("Programs", columns, cells, " ".join(lines))
    report.table(
        "Cases",
        ("case", "rounds", "rows of a run", "steps of an epoch", "parameters", "GFLOP an epoch"),
        [
            (
                case["name"],
                case["rounds"],
                case["train_rows"],
                case["steps"],
                f"{case['parameters']:,}",
                f"{case['flop_per_epoch'] / 1e9:.2f}",
            )
            for case in results["cases"]
        ],
        "The same for all programs of a case.",
    )
    return report


def make_table(report: Results) -> Any:
    """Ours in seconds, the others as ratios to it."""
    from rich.table import Table

    names = list(report["overall"])
    table = Table(
        title="An epoch of all runs: seconds here, and how many times as long others take",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("network, pixels, images", no_wrap=True)
    for column in ("seconds", "of rate", "compile", "MB", *names):
        table.add_column(column, justify="right")
    for case in report["cases"]:
        own = case["programs"][REFERENCE]
        ratios = [case["programs"].get(name) for name in names]
        table.add_row(
            case["name"],
            f"{own['epoch_seconds'][0]:.3f}",
            f"{own['share_of_rate'][0]:.0%}",
            f"{own['compile_seconds'][0]:.1f}",
            _megabytes(own),
            *("" if each is None else f"{each['ratio'][0]:.1f}" for each in ratios),
        )
    return table


def _megabytes(program: Mapping[str, Any]) -> str:
    return "" if program["peak_bytes"] is None else f"{program['peak_bytes'] / 1e6:.0f}"


def footnotes(report: Results) -> list[str]:
    """What a reader of the table must know."""
    lines = []
    for each in report["overall"].values():
        median, least, greatest = each["ratio"]
        lines.append(
            f"{each['title']}: {median:.2f} times as long, the median over {each['cases']} "
            f"case(s); {least:.2f} to {greatest:.2f}."
        )
    rate = statistics.median(case["flop_per_second"][0] for case in report["cases"])
    lines.append(
        "of rate: share of the machine's rate of float32 matrix products, measured in the same "
        f"round ({rate / 1e9:.0f} GFLOP/s). compile: seconds. MB: most memory of the processes. "
        "Images are synthetic."
    )
    shares = [case["others_share"][2] for case in report["cases"] if case["others_share"]]
    if shares and max(shares) >= BUSY:
        lines.append(
            f"Other programs used up to {max(shares):.0%} of the cores: don't trust these times, "
            "repeat them on a quiet machine."
        )
    return [*lines, *(f"Left out: {name} ({why})." for name, why in report["left_out"].items())]


def make_figure(report: Results) -> Figure:
    """How many times as long each program takes as this project does, case by case."""
    from digits_jax import plots

    with_style = plots.styled(_figure)
    figure: Figure = with_style(report)
    return figure


def _figure(report: Results) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    cases = report["cases"]
    titles = {name: each["title"] for name, each in report["overall"].items()}
    figure = Figure(figsize=(8, 1.8 + 0.3 * len(cases)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for name, colour in COLOURS.items():
        places = [i for i, case in enumerate(cases) if name in case["programs"]]
        if not places:
            continue
        spreads = [cases[i]["programs"][name]["ratio"] for i in places]
        medians = [spread[0] for spread in spreads]
        ends = [[m - low for m, low, _ in spreads], [high - m for m, _, high in spreads]]
        axes.errorbar(
            medians, places, xerr=ends, fmt="o", color=colour, label=titles[name], markersize=5
        )
    axes.axvline(1, color="0.35", linestyle="--", linewidth=1.2)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.minorticks_off()
    axes.set_yticks(range(len(cases)), [case["name"] for case in cases], fontsize=8)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.set_xlabel("time of an epoch beside digits_jax (right of the line: slower)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return figure
