"""``benchmark.py --against REV``: the working tree beside another git revision.

Two questions. Are weights, histories and predictions bitwise the same? Is importing, compiling or
training slower? Both trees train the recipes ``notebook`` and ``strong`` for three epochs, on five
folds and on all rows, on 2 CPU devices. ``notebook`` trains the five folds in one call, round robin
on the devices, and the refit in another; ``strong`` trains all six runs in one call, side by side.
So both ways of advancing runs are compared.

REV is checked out as a git worktree in a temporary folder, which is removed afterwards. For each
tree, ``peers/revision_folds.py`` runs in a process of its own, with nothing compiled beforehand. A
round runs both; the side that goes first alternates. A ratio is taken within a round. Its mean over
the rounds is geometric, with a 95 % interval by Student's t on the logarithms.

Bits depend on the machine and on the version of XLA: both sides must run on the same. A part that
only one side has is named and not compared; the bits then don't count as the same.
"""

from __future__ import annotations

import compileall
import contextlib
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy import stats

import digits_jax as dj
from bits import Difference, Leaves, compare_bits
from checkouts import find_commit, worktree
from common import console, options, progress, startup, tasks
from common.origin import git
from common.output import Output
from programs import Peer, Round, about, disturbance, others_share, run_program

ROOT = Path(__file__).parents[1]
SIDES = ("here", "there")  # the working tree, the other revision
DEVICES = 2
FOLDS = 5
EPOCHS = 3  # of what is compared, and of strong's schedule

# Recipe, rows, and the epochs of a second call: those before the timed ones, those that are timed.
PLAN = (
    ("notebook", "folds", 4, 12),
    ("notebook", "refit", 0, 0),
    ("strong", "folds+refit", 1, 3),
)
SLOWER = 1.05  # a ratio that is significantly above it fails the comparison


Config = Any  # that of benchmark.py, which calls this


class Ratio(NamedTuple):
    """How long something takes here, relative to there.

    Attributes:
        mean: geometric, over the rounds.
        low: end of the 95 % interval; NaN for a single round.
        high: its other end.
    """

    mean: float
    low: float
    high: float


def main(config: Config, output: Output) -> None:
    """Compares, shows and saves; ends with status 1 if bits differ or something is slower."""
    for name in ("peers", "epochs", "quick"):
        default = getattr(type(config), name) == getattr(config, name)
        options.require(default, f"--against runs no peers: leave out --{name}")
    revision = str(config.against)
    commit = find_commit(ROOT, revision)
    console.say_in_plain_words()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="digits_jax_")))
        of_task = write_tasks(config, folder)
        tree = stack.enter_context(worktree(ROOT, commit, folder / "tree"))
        options.require(
            (tree / "digits_jax" / "__init__.py").is_file(),
            f"--against {revision}: that revision has no package digits_jax",
        )
        output.claim()
        console.say(options.ALL_OR_NOTHING, console.notes)
        rounds, differences = run_rounds(config, {"here": ROOT, "there": tree}, folder)
    taken = {} if config.bits_only else seconds(rounds)
    times = {name: compare_seconds(each["here"], each["there"]) for name, each in taken.items()}
    failed = bool(differences) or any(ratio.low > SLOWER for ratio in times.values())
    report = {
        "experiment": "against",
        **about(config),
        "versions": {side: rounds[0][side]["versions"] for side in SIDES},
        **of_task,
        "commits": {
            "here": find_commit(ROOT, "HEAD"),
            "changed": bool(git(ROOT, "status", "--porcelain", "--", "digits_jax")),
            "there": commit,
        },
        "same_bits": not differences,
        "differences": [difference._asdict() for difference in differences],
        "ratios": {name: ratio._asdict() for name, ratio in times.items()},
        "passed": not failed,
        "rounds": rounds,
    }
    table = make_table(f"{revision} ({commit[:8]})", len(rounds), differences, taken, times)
    console.results.print(table)
    for line in footnotes(rounds, differences):
        console.say(line)
    output.json("against.json", report)
    console.say(escape(f"Written to {output.folder}/: against.json"))
    if failed:
        sys.exit(1)


def write_tasks(config: Config, folder: Path) -> dict[str, Any]:
    """Writes what both sides train, ``here.npz`` and ``there.npz``, and describes the data."""
    digits = tasks.load_digits(config.data)
    with options.usage_errors():
        folds = dj.kfold_splits(digits.labels, FOLDS)
    refit = dj.refit_split(digits.labels)
    splits = {"folds": folds, "refit": refit, "folds+refit": dj.stack_splits(folds, refit)}
    timed = [(*call[:2], 0, 0) if config.bits_only else call for call in PLAN]
    for side, tree in {"here": ROOT, "there": folder / "tree"}.items():
        np.savez(
            folder / f"{side}.npz",
            allow_pickle=False,
            images=digits.images,
            labels=digits.labels,
            **{
                f"{rows}.{field}": getattr(split, field)
                for rows, split in splits.items()
                for field in ("train_rows", "train_weights", "test_rows", "test_weights")
            },
            epochs=EPOCHS,
            plan=json.dumps(timed),
            devices=DEVICES,
            tree=str(tree),
            trained=str(folder / f"trained_{side}.npz"),
        )
    return {"data": dataclasses.asdict(digits.provenance), "rows": len(digits.labels)}


def run_rounds(
    config: Config, trees: Mapping[str, Path], folder: Path
) -> tuple[list[dict[str, Any]], list[Difference]]:
    """The result of each side in each round, and what differs in the first round that differs."""
    rounds: list[dict[str, Any]] = []
    differences: list[Difference] = []
    titles = {"here": "the working tree", "there": str(config.against)}
    for tree in trees.values():  # the first to import it would take longer
        compileall.compile_dir(tree / "digits_jax", quiet=2)
    count = 1 if config.bits_only else config.rounds
    for number in range(count):
        results: dict[str, Any] = {}
        trained: dict[str, dict[str, Leaves]] = {}
        for side in SIDES if number % 2 else SIDES[::-1]:
            with progress.waiting(f"round {number + 1} of {count}: {titles[side]}"):
                try:
                    program = child_program(titles[side], trees[side])
                    results[side] = run_program(program, folder / f"{side}.npz", config.timeout)
                except RuntimeError as error:
                    raise SystemExit(f"{titles[side]} failed: {error}") from error
            trained[side] = _trained(folder / f"trained_{side}.npz", results[side].pop("leaves"))
            results[side]["values"] = {
                part: sum(leaf.size for leaf in leaves.values())
                for part, leaves in trained[side].items()
            }
        differences = differences or compare_bits(trained["here"], trained["there"])
        bits = f"{len(differences)} parts differ" if differences else "same bits"
        console.say(f"round {number + 1}  {bits}", console.notes)
        rounds.append(results)
    return rounds, differences


def child_program(title: str, tree: Path) -> Peer:
    """The program that trains with the package of a tree: the same file for each."""
    before = os.environ.get("PYTHONPATH")
    return Peer(
        title=title,
        program="revision_folds.py",
        environment={
            **startup.xla_flags(),
            "PYTHONPATH": os.pathsep.join([str(tree), *([before] if before else [])]),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(DEVICES),
        },
    )


def _trained(path: Path, leaves: Mapping[str, Sequence[str]]) -> dict[str, Leaves]:
    with np.load(path, allow_pickle=False) as arrays:
        return {
            part: {name: arrays[f"{part}/{i}"] for i, name in enumerate(names)}
            for part, names in leaves.items()
        }


def seconds(rounds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Of each quantity and side, the seconds in each round."""
    taken = {"import": {side: [each[side]["import_seconds"] for each in rounds] for side in SIDES}}
    for recipe in rounds[0]["here"]["times"]:
        for what in ("compile", "epoch"):
            taken[f"{recipe}, {what}"] = {
                side: [each[side]["times"][recipe][f"{what}_seconds"] for each in rounds]
                for side in SIDES
            }
    return taken


def compare_seconds(here: Sequence[float], there: Sequence[float]) -> Ratio:
    """The geometric mean of the rounds' ratios, and its 95 % interval.

    With l_i the logarithms of the n ratios, m their mean and s their sample standard deviation:

        exp(m ± t(0.975, n - 1) s / sqrt(n)).

    Args:
        here: [n], seconds in each round.
        there: [n], seconds of the other revision in the same rounds.
    """
    ratios = np.log(np.divide(here, there))
    mean, count = float(ratios.mean()), len(ratios)
    half = math.nan
    if count > 1:  # also of equal ratios, which say that there is no noise
        half = float(stats.t.ppf(0.975, count - 1) * ratios.std(ddof=1) / math.sqrt(count))
    return Ratio(*(math.exp(value) for value in (mean, mean - half, mean + half)))


def verdict(ratio: Ratio) -> str:
    """In words; slower only if the whole interval is above 1."""
    if math.isnan(ratio.low):
        return "one round: no interval"
    if ratio.low > 1:
        return f"slower by {100 * (ratio.low - 1):.1f} to {100 * (ratio.high - 1):.1f} %"
    return "not slower"


def make_table(
    revision: str,
    rounds: int,
    differences: Sequence[Difference],
    taken: Mapping[str, Mapping[str, list[float]]],
    times: Mapping[str, Ratio],
) -> Table:
    """Bits of each recipe, then times: medians of the rounds, and their ratio."""
    table = Table(title=f"Against {escape(revision)}, {rounds} round(s)")
    table.add_column("", no_wrap=True)
    for column in ("here", "there", "ratio (95 % interval)") if times else ():
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True, min_width=22)  # whole, also in a narrow terminal
    blank = ("", "", "") if times else ()
    for recipe in dict.fromkeys(name for name, *_ in PLAN):
        found = [each for each in differences if each.part.startswith(f"{recipe},")]
        table.add_row(f"{recipe}, bits", *blank, _bits(found))
    for name, ratio in times.items():
        medians = [f"{statistics.median(taken[name][side]):.3f} s" for side in SIDES]
        interval = "" if math.isnan(ratio.low) else f" ({ratio.low:.3f}–{ratio.high:.3f})"
        color = "red" if ratio.low > SLOWER else "yellow" if ratio.low > 1 else "green"
        said = f"[{color}]{verdict(ratio)}[/]"
        table.add_row(name, *medians, f"{ratio.mean:.3f}{interval}", said)
    return table


def _bits(differences: Sequence[Difference]) -> str:
    if any(each.values for each in differences):
        return "[red]DIFFERENT[/]"
    return "[yellow]not all compared[/]" if differences else "[green]same bits[/]"


def footnotes(rounds: Sequence[Round], differences: Sequence[Difference]) -> list[str]:
    """What differs, and what a reader of the table must know."""
    differing = [each for each in differences if each.values]
    others = [each for each in differences if not each.values]
    lines = []
    if differing:
        first, *more = differing
        lines.append(f"[red]DIFFERENT:[/] {escape(f'{first.part}: {first.text}')}.")
        if more:
            lines.append(f"Different, too: {escape('; '.join(each.part for each in more))}.")
    lines += [f"[yellow]{escape(f'{each.part}: {each.text}')}.[/]" for each in others]
    absent = [set(rounds[0][side]["absent"]) for side in SIDES]
    if neither := sorted(absent[0] & absent[1]):
        lines.append(f"[yellow]Not compared, as neither side has them: {', '.join(neither)}.[/]")
    here, there = (rounds[0][side]["versions"] for side in SIDES)
    if here != there:
        unequal = ", ".join(
            f"{name} {here.get(name)} here and {there.get(name)} there"
            for name in {**here, **there}
            if here.get(name) != there.get(name)
        )
        lines.append(f"[yellow]Versions differ ({unequal}): bits may differ for that alone.[/]")
    else:
        lines.append(f"Bits are compared on this machine and jaxlib {here['jaxlib']} alone.")
    if rounds[0]["here"]["times"] and (busy := disturbance(others_share(rounds))):
        lines.append(f"[yellow]{busy}[/]")
    return lines
