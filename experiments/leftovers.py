"""What is left: the rows that nearly every model gets wrong, beside the training rows most alike.

    python experiments/leftovers.py --run RUN
    python experiments/leftovers.py --run RUN --methods strong svm knn1

RUN is the folder of a complete ``compare.py``. Its out-of-fold predictions are counted: a row has
one of each method and repeat, by a model that never saw it. It writes a sheet of these rows,
``leftovers.png``, from which you can tell whether the label is wrong or the digit unreadable; and
``rows.csv``, ``report.html`` and ``results.json``.

Rows that every method misses in most repeats are out of these methods' reach: what is left without
them is no ceiling of any method. It is too harsh where all share a weakness, and too kind where a
wrong label is met by chance, or no one model gets what each of the others does.

Confident learning (Northcutt et al. 2021) finds the labels that a method's out-of-fold
probabilities contradict; ``suspects.csv`` ranks them by how many methods do, then by the margin.
``--predictions`` also writes every out-of-fold prediction, to ``predictions.csv``.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

import digits_jax as dj
import methods
from common import command_line, console, options, startup, tasks
from common.drawing import plots
from common.output import Output
from common.scores import ACCURACY, counted
from digits_jax.label_errors import find_label_issues
from methods import Predictions
from report import Report, pages

NEIGHBOURS = 4
SUSPECTS = 40  # in the report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Figures):
    """The options of the command line."""

    run: Path
    """Folder that compare.py wrote."""
    methods: tuple[str, ...] = ()
    """Methods whose predictions to count. Default: all methods in the folder."""
    share: float = 0.9
    """Fraction of a row's predictions that must be wrong, each method counting the same."""
    data: str = "auto"
    """Rows: those that compare.py took. Options as there."""
    predictions: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A file predictions.csv, too: a line for each row, method and repeat."""
    shown: int = 28
    """Rows on the sheet, at most; those missed by most come first."""


def main(config: Config) -> None:
    """Counts, shows and writes."""
    options.require(0 < config.share <= 1, f"--share must be above 0, to 1, not {config.share}")
    options.positive(shown=config.shown)
    output = Output(config, script="leftovers")
    known = run_results(config.run)
    names = config.methods or tuple(known["methods"])
    for name in names:
        options.require(name in known["methods"], f"--methods: {config.run} has no {name}")
    startup.start_jax(compilation_cache=False)
    dataset = tasks.load_digits(config.data)
    options.require(
        dataset.provenance.sha256 == known["data"]["sha256"],
        f"{config.run} is of other rows ({known['data']['note']}); give the same --data",
    )
    files = [f"predictions_{methods.file_name(name)}.npz" for name in names]
    done = [methods.load(config.run / file)[0] for file in files]
    rows, repeats = len(dataset.labels), known["config"]["repeats"]
    answers = np.stack([methods.by_row(each, repeats, rows) for each in done])
    by_method = (answers != dataset.labels).mean(axis=1)  # [methods, N], fraction of the repeats
    wrong = by_method.mean(axis=0)
    left = np.flatnonzero(wrong >= config.share)
    left = left[np.argsort(-wrong[left], kind="stable")]
    output.claim()

    lost = int((by_method.min(axis=0) > 0.5).sum())
    ceiling = dj.wilson_interval(rows - lost, rows)
    counts = {f"{least:.0%}": int((wrong >= least).sum()) for least in (0.5, 0.9, 1.0)}
    found = [
        {
            "row": row,
            "label": int(dataset.labels[row]),
            "read_as": int(np.bincount(answers[:, :, row].ravel(), minlength=10).argmax()),
            "wrong_share": wrong[row],
        }
        for row in left.tolist()
    ]
    reached = f"{100 * (1 - lost / rows):.2f} %"
    console.say(
        f"{counted(len(names), 'method')}, {counted(repeats, 'repeat')}: of {rows} rows, "
        f"{counts['50%']} are wrong in half of their predictions or more, {counts['90%']} in "
        f"90 %, {counts['100%']} in all.\n"
        f"{lost} are wrong for every method in most repeats; all others are {reached} "
        f"({ACCURACY.ends(ceiling)})"
    )
    shown = found[: config.shown]
    figure = plots.digit_sheet(
        *sheet(dataset.images, dataset.labels, shown),
        columns=2 * (NEIGHBOURS + 1),
        title=f"{len(shown)} of {len(left)} rows that {100 * config.share:g} % of predictions get "
        f"wrong (framed), each before the {NEIGHBOURS} other rows nearest to it: label, distance",
        framed=range(0, (NEIGHBOURS + 1) * len(shown), NEIGHBOURS + 1),
    )
    suspects = label_suspects(tuple(names), done, dataset.labels, wrong)
    if suspects:
        output.table("suspects.csv", suspects)
        first = ", ".join(f"{s['row']} ({s['label']}, {s['likely']})" for s in suspects[:12])
        console.say(
            f"{len(suspects)} labels that probabilities of a method contradict, those of most "
            f"methods first (label, likely): {first}"
        )
    if config.predictions:
        output.text("predictions.csv", predictions_csv(names, done, dataset.labels, repeats))
    results = {
        "methods": list(names),
        "repeats": repeats,
        "rows_wrong_in": counts,
        "left": found,
        "suspects": suspects,
        "lost": lost,
        "ceiling": {"share": 1 - lost / rows, "wilson95": ceiling},
    }

    page = Report(
        "What is left",
        f"Rows that at least {100 * config.share:g} % of the predictions get wrong; "
        f"{counted(len(names), 'method')} ({', '.join(names)}), {counted(repeats, 'repeat')}, each "
        "method counting the same.",
    )
    page.headline("Rows left", str(len(left)), f"of {rows}")
    page.headline(
        "Rows that some method gets",
        reached,
        f"95 % interval (Wilson) {ACCURACY.ends(ceiling)} %; lost are the {lost} rows that every "
        "method misses in most repeats",
    )
    by_fraction = [
        (f"{least.replace('%', ' %')} of the predictions", count) for least, count in counts.items()
    ]
    page.table("Rows by how often they are wrong", ("wrong in at least", "rows"), by_fraction)
    if found:
        output.table("rows.csv", found)
        page.figure(
            "Each beside the rows nearest to it",
            figure,
            "Each row that is left (framed), and the four other rows nearest to it.",
            "Below each neighbour: its label, and its distance in ink counts.",
        )
        of_left = dict(zip(names, answers[..., left], strict=True))
        pages.mistakes_of_methods(page, dataset, left, of_left)
    rows_of_suspects = [
        (
            *(each[key] for key in ("rank", "row", "label", "likely", "methods")),
            f"{each['margin']:.3f}",
        )
        for each in suspects[:SUSPECTS]
    ]
    page.table(
        "Labels that probabilities contradict",
        ("rank", "row", "label", "likely", "methods", "margin"),
        rows_of_suspects,
        "Confident learning (Northcutt et al. 2021) on each method's out-of-fold probabilities, "
        f"the first {SUSPECTS} ranks.",
    )
    also = ["rows.csv"] * bool(found) + ["suspects.csv"] * bool(suspects)
    also += ["predictions.csv"] * config.predictions
    output.finish(results, {"leftovers": figure}, page, data=dataset.provenance, also=also)


def label_suspects(
    names: tuple[str, ...],
    done: list[Predictions],
    labels: npt.NDArray[Any],
    wrong: npt.NDArray[Any],
) -> list[dict[str, Any]]:
    """Labels that out-of-fold probabilities contradict, those of most methods first.

    Each method is asked alone, since what counts as confident depends on how sure it usually is. A
    row's probabilities are means over the repeats. Methods without probabilities have no part.
    """
    shares, margins = [], []
    suspected: dict[int, list[str]] = {}
    for name, each in zip(names, done, strict=True):
        if each.logits.shape[-1]:
            _, values = dj.metrics.pooled_predictions(each.rows, each.logits)
            shares.append(values.reshape(len(labels), -1, values.shape[1]).mean(axis=1))
            issues = find_label_issues(labels, shares[-1])
            margins.append(issues.margin)
            for row in issues.suspects.tolist():
                suspected.setdefault(row, []).append(name)
    if not shares:
        return []
    mean, margin = np.mean(shares, axis=0), np.mean(margins, axis=0)
    ranked = sorted(suspected, key=lambda row: (-len(suspected[row]), margin[row]))
    return [
        {
            "rank": i + 1,
            "row": row,
            "label": int(labels[row]),
            "likely": int(mean[row].argmax()),
            "methods": " ".join(suspected[row]),
            "margin": float(margin[row]),
            "wrong_share": float(wrong[row]),
        }
        for i, row in enumerate(ranked)
    ]


def predictions_csv(
    names: tuple[str, ...], done: list[Predictions], labels: npt.NDArray[Any], repeats: int
) -> str:
    """A line for each row, method and repeat: its class, the answer, the label's probability."""
    lines = ["method,repeat,fold,row,label,predicted,probability_of_label"]
    for name, each in zip(names, done, strict=True):
        folds = len(each.rows) // repeats
        shares = dj.metrics.probabilities(each.logits) if each.logits.shape[-1] else None
        for run, tested in enumerate(each.rows):
            for place, row in enumerate(tested[tested >= 0].tolist()):
                share = "" if shares is None else f"{shares[run, place, labels[row]]:.6g}"
                lines.append(
                    f"{name},{run // folds + 1},{run % folds + 1},{row},{labels[row]},"
                    f"{each.predicted[run, place]},{share}"
                )
    return "\n".join(lines) + "\n"


def run_results(folder: Path) -> dict[str, Any]:
    """The ``results.json`` of ``compare.py``."""
    path = folder / "results.json"
    try:
        known: dict[str, Any] = json.loads(path.read_text("utf-8"))
        options.require(known["experiment"] == "compare", f"{folder} is not a run of compare.py")
        return known
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise options.UsageError(
            f"{path} can't be read ({error}): --run is the folder of a complete compare.py"
        ) from error


def sheet(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], shown: list[dict[str, Any]]
) -> tuple[npt.NDArray[Any], list[str]]:
    """Each row's image and then its nearest others', [shown * (1 + NEIGHBOURS), H, W], and titles.

    Distances are Euclidean, in ink counts. All other rows count: a row is tested by models that
    train on the other folds, and over several repeats these are all others.
    """
    pixels = images.reshape(len(images), -1).astype(np.float64)
    order, titles = [], []
    for each in shown:
        distances = np.linalg.norm(pixels - pixels[each["row"]], axis=1)
        distances[each["row"]] = np.inf
        nearest = np.argsort(distances, kind="stable")[:NEIGHBOURS]
        order += [each["row"], *nearest.tolist()]
        titles.append(f"row {each['row']}\n{each['label']}, read as {each['read_as']}")
        titles += [f"{labels[row]}\n{distances[row]:.1f}" for row in nearest]
    return images[order], titles


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
