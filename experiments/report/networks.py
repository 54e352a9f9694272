"""The table, the figure and the report of ``benchmark_networks.py``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from common.drawing import plots
from common.tables import Table
from programs import REFERENCE, disturbance
from report import Report

if TYPE_CHECKING:
    from common.drawing import Drawing

Results = Mapping[str, Any]


def page(results: Results, figure: Drawing) -> Report:
    """The report."""
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
    cells = [
        (
            case["name"],
            program["title"],
            f"{program['epoch_seconds'][0]:.3f}",
            "{1:.3f} to {2:.3f}".format(*program["epoch_seconds"]),
            f"{program['ratio'][0]:.2f}",
            f"{program['flop_per_second'][0] / 1e9:.1f}",
            f"{100 * program['share_of_rate'][0]:.0f} %",
            f"{program['compile_seconds'][0]:.1f}",
            _megabytes(program),
        )
        for case in results["cases"]
        for program in case["programs"].values()
    ]
    columns = (
        *("case", "program", "seconds", "range", "ratio", "GFLOP/s"),
        *("of the matrix product's rate", "compile (s)", "MB"),
    )
    report.table("Programs", columns, cells, " ".join(footnotes(results)))
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


def table(results: Results) -> Table:
    """Ours in seconds, the others as ratios to it."""
    names = list(results["overall"])
    rows = []
    for case in results["cases"]:
        own = case["programs"][REFERENCE]
        ratios = [case["programs"].get(name) for name in names]
        rows.append(
            (
                case["name"],
                f"{own['epoch_seconds'][0]:.3f}",
                f"{own['share_of_rate'][0]:.0%}",
                f"{own['compile_seconds'][0]:.1f}",
                _megabytes(own),
                *("" if each is None else f"{each['ratio'][0]:.1f}" for each in ratios),
            )
        )
    title = "An epoch of all runs: seconds here, and how many times as long others take"
    columns = ("network, pixels, images", "seconds", "of rate", "compile", "MB", *names)
    return Table(title, columns, rows)


def _megabytes(program: Mapping[str, Any]) -> str:
    return "" if program["peak_bytes"] is None else f"{program['peak_bytes'] / 1e6:.0f}"


def footnotes(results: Results) -> list[str]:
    """What a reader of the table must know."""
    lines = []
    for each in results["overall"].values():
        median, least, greatest = each["ratio"]
        lines.append(
            f"{each['title']}: {median:.2f} times as long, the median over {each['cases']} "
            f"case(s); {least:.2f} to {greatest:.2f}."
        )
    rate = statistics.median(case["flop_per_second"][0] for case in results["cases"])
    lines.append(
        "of rate: share of the machine's rate of float32 matrix products, measured in the same "
        f"round ({rate / 1e9:.0f} GFLOP/s). compile: seconds. MB: most memory of the processes. "
        "Images are synthetic."
    )
    known = [case["others_share"] for case in results["cases"] if case["others_share"]]
    busy = disturbance(max(known, key=lambda share: share[2], default=None))
    return [
        *lines,
        *[f"In the most disturbed case, {busy}"] * bool(busy),
        *(f"Left out: {name} ({why})." for name, why in results["left_out"].items()),
    ]


def figure(results: Results) -> Drawing:
    """How many times as long each program takes as this project does, case by case."""
    blank = [math.nan] * 3
    ratios = {
        each["title"]: np.array(
            [case["programs"].get(name, {"ratio": blank})["ratio"] for case in results["cases"]]
        )
        for name, each in results["overall"].items()
    }
    return plots.estimates(
        [case["name"] for case in results["cases"]],
        {title: each[:, 0] for title, each in ratios.items()},
        {title: each[:, 1:] for title, each in ratios.items()},
        label="time of an epoch beside digits_jax (right of the line: slower)",
        line=1,
        log=True,
    )
