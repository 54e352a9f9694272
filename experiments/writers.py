"""New writers: rows of 30 writers train, rows of 13 others test, beside random splits as large.

    python experiments/writers.py
    python experiments/writers.py --methods svm knn1 --seeds 3

UCI's two files are of different writers, and the data's authors call this test the actual quality
measure. A random split mixes the writers; one of the same sizes is the control, so that the
difference is not one of training rows. The second file's rows are easier than the first's, so the
control counts those of its test rows that are of the second file alone. Every seed trains on both,
all at once; the control is also split anew for each. The networks vote besides: the mean of five
seeds' probabilities. It writes ``report.html``, ``results.json`` (whole), ``scores.csv``, a figure,
and the predictions of each method as soon as they are whole. ``--resume`` takes these and adds the
others.

No choice may be made on these test rows: a recipe that was tuned on them has no figure here. They
have been looked at several times as recipes grew (docs/results.md counts them): reused adaptively.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
import methods
from common import command_line, options
from common.drawing import plots
from common.output import Output
from common.scores import ACCURACY, counted
from common.tables import Table
from common.tasks import Task
from methods import Predictions, title
from report import Report, pages

VOTERS = 5
FIRST = 3823  # row of the second file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(methods.Options):
    """The options of the command line."""

    seeds: int = 10
    """Trainings on each kind of split, each with draws of its own."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    options.positive(seeds=config.seeds)
    options.few_enough(config.seeds, "--seeds")
    unknown = "of other data it isn't known who wrote what"
    output, task = methods.begin(config, "writers", digits_for=unknown)
    import predicting  # which imports JAX and scikit-learn

    with options.usage_errors():
        splits = make_splits(task.targets, seeds=config.seeds, seed=config.seed)
    names = [f"{kind}, seed {i}" for kind in ("new writers", "random") for i in range(config.seeds)]
    done = predicting.predict_all(config, task, splits, names, output)
    report(config, task, done, output)


def make_splits(labels: npt.NDArray[Any], *, seeds: int, seed: int) -> dj.Split:
    """The writer-disjoint split so many times, then as many random ones of its sizes."""
    disjoint = dj.writer_disjoint_split(labels)
    fraction = disjoint.test_rows.shape[1] / len(labels)
    random = [
        dj.holdout_split(labels, test_size=fraction, seed=seed + i, stratified=True)
        for i in range(seeds)
    ]
    return dj.stack_splits(*[disjoint] * seeds, *random)


def votes(done: Predictions, labels: npt.NDArray[Any], seeds: int) -> list[float]:
    """Accuracy of each five seeds' mean probabilities on the new writers; none without logits."""
    if not done.logits.shape[-1]:
        return []
    shares = dj.metrics.probabilities(done.logits[:seeds])
    voted = [shares[i : i + VOTERS].mean(axis=0) for i in range(0, seeds - VOTERS + 1, VOTERS)]
    return [float((vote.argmax(axis=1) == labels[done.rows[0]]).mean()) for vote in voted]


def score(
    done: Predictions, labels: npt.NDArray[Any], seeds: int, *, vote: bool = True
) -> dict[str, Any]:
    """One method's figures on both kinds of splits."""
    new = done.accuracies(labels)[:seeds]
    random = second_file(done, labels)[seeds:]
    tested = done.rows.shape[1]
    low, high = dj.statistics.prediction_interval(random)
    return {
        "new_writers": {
            "mean": new.mean(),
            "std": new.std(),
            "wilson95": dj.wilson_interval(round(tested * new.mean()), tested),
            "accuracies": new,
            "votes_of_five": votes(done, labels, seeds) if vote else [],
        },
        "random": {
            "mean": random.mean(),
            "std": random.std(),
            "prediction95": (low, min(high, 1.0)),
            "accuracies": random,
        },
        "difference": new.mean() - random.mean(),
        "seconds": done.seconds,
    }


def second_file(done: Predictions, labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Accuracy of each split on those of its test rows that are of the second file, float64 [R]."""
    real = done.rows >= FIRST
    right = (done.predicted == labels[done.rows]) & real
    return np.asarray(right.sum(axis=1) / np.maximum(real.sum(axis=1), 1))


def report(config: Config, task: Task, done: dict[str, Predictions], output: Output) -> None:
    """The table, the figure, the files."""
    scores = {
        name: score(each, task.targets, config.seeds, vote=methods.is_network(name))
        for name, each in done.items()
    }
    order = sorted(done, key=lambda name: -scores[name]["new_writers"]["mean"])
    rows = []
    for name in order:
        new, random = scores[name]["new_writers"], scores[name]["random"]
        vote = new["votes_of_five"]
        rows.append(
            (
                title(name),
                ACCURACY.mean(new),
                ACCURACY.ends(new["wilson95"]),
                ACCURACY.text(float(np.mean(vote))) if vote else "–",
                ACCURACY.mean(random),
                f"{100 * scores[name]['difference']:+.2f}",
            )
        )
    table = Table(
        f"Accuracy of {counted(config.seeds, 'seed')} on rows of the second file: new writers, and "
        "random splits of the same sizes",
        ("method", "new writers (%)", "Wilson 95 %", "vote of five (%)", "random (%)", "points"),
        rows,
        "± is the standard deviation between trainings (ddof 0). The vote is the mean of five "
        "networks' probabilities.",
    )
    table.show()
    new_writers = f"new writers: {counted(config.seeds, 'seed')}, mean, Wilson 95 % interval"
    random = f"random splits, rows of the same file: {config.seeds}, mean, 95 % range of one more"
    kinds = {"new_writers": (new_writers, "wilson95"), "random": (random, "prediction95")}
    figure = plots.method_scores(
        [title(name) for name in order],
        {
            label: [scores[n][kind]["accuracies"] for n in order]
            for kind, (label, _) in kinds.items()
        },
        {label: [scores[n][kind][ends] for n in order] for kind, (label, ends) in kinds.items()},
    )
    output.table(
        "scores.csv",
        [
            {"method": name, "split": kind, "seed": config.seed + i, "accuracy": accuracy}
            for name in order
            for kind in kinds
            for i, accuracy in enumerate(scores[name][kind]["accuracies"].tolist())
        ],
    )
    results = {
        "methods": {
            name: {
                "title": title(name),
                **scores[name],
                "chosen": done[name].chosen if any(done[name].chosen) else None,
            }
            for name in order
        },
    }

    tested = done[order[0]].rows[0]
    page = Report(
        "Digits of new writers",
        f"{counted(config.seeds, 'training')} of each method on the rows of 30 writers, tested on "
        f"the {len(tested)} rows of 13 others; and as many on random splits of the same sizes.",
    )
    best = scores[order[0]]
    page.headline(
        f"Best on new writers: {title(order[0])}",
        f"{ACCURACY.mean(best['new_writers'])} %",
        f"mean ± sd of {config.seeds} trainings; chance in the test rows: {rows[0][2]} % (95 %, "
        "Wilson)",
    )
    page.headline(
        "Against random splits", pages.points(best["difference"]), f"random: {rows[0][4]} %"
    )
    page.table(*table)
    page.figure(
        "Each training",
        figure,
        "Accuracies of each training of each method on new writers and on random splits.",
    )
    answers = {title(name): done[name].predicted[: config.seeds] for name in order}
    pages.mistakes_of_methods(page, task, tested, answers)
    figures, also = {"writers": figure}, ["scores.csv", "predictions"]
    output.finish(results, figures, page, data=task.provenance, also=also)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
