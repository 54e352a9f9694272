"""New writers: rows of 30 writers train, rows of 13 others test, beside random splits as large.

    python experiments/writers.py
    python experiments/writers.py --methods svm knn1 --seeds 3

UCI's two files are of different writers, and the data's authors call this test the actual quality
measure. A random split mixes the writers; one of the same sizes is the control, so that the
difference is not one of training rows. The second file's rows are easier than the first's, so the
control counts those of its test rows that are of the second file alone. Every seed trains on both,
all at once; the control is also split anew for each. The networks vote besides: the mean of five
seeds' probabilities. It writes ``report.html``, ``results.json`` (last, and whole), ``scores.csv``,
a figure, and the predictions of each method as soon as they are whole: ``--resume`` takes these and
adds the others.

No choice may be made on these test rows: a recipe that was tuned on them has no figure here. They
have been looked at several times as recipes grew (docs/results.md counts them): reused adaptively.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import methods
from common import command_line, console, options, startup, tasks
from common.output import Output, describe

if TYPE_CHECKING:
    import numpy as np

    from digits_jax import Dataset, Split

VOTERS = 5
FIRST = 3823  # row of the second file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(methods.Options):
    """The options of the command line."""

    seeds: int = 10
    """Trainings on each kind of split, each with draws of its own."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    config.check()
    options.positive(seeds=config.seeds)
    options.few_enough(config.seeds, "--seeds")
    output = Output(config.output_dir, script="writers", resume=config.resume)
    startup.start_jax(compilation_cache=config.compilation_cache)
    task = tasks.load_task(config.data)
    dataset = task.dataset
    only = "--data must be the digits: of other data it isn't known who wrote what"
    options.require(dataset is not None, only)
    assert dataset is not None
    console.show_data(dataset.provenance)
    try:
        splits = make_splits(dataset.labels, seeds=config.seeds, seed=config.seed)
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    names = [f"{kind}, seed {i}" for kind in ("new writers", "random") for i in range(config.seeds)]
    done = methods.predict_all(config, task, splits, names, output)
    report(config, dataset, done, output)


def make_splits(labels: np.ndarray, *, seeds: int, seed: int) -> Split:
    """The writer-disjoint split so many times, then as many random ones of its sizes."""
    import digits_jax as dj

    disjoint = dj.writer_disjoint_split(labels)
    fraction = disjoint.test_rows.shape[1] / len(labels)
    random = [
        dj.holdout_split(labels, test_size=fraction, seed=seed + i, stratified=True)
        for i in range(seeds)
    ]
    return dj.stack_splits(*[disjoint] * seeds, *random)


def votes(done: methods.Predictions, labels: np.ndarray, seeds: int) -> list[float]:
    """Accuracy of each five seeds' mean probabilities on the new writers; none without logits."""
    from digits_jax import metrics

    if not done.logits.shape[-1]:
        return []
    probabilities = metrics.probabilities(done.logits[:seeds])
    return [
        float(
            (
                probabilities[i : i + VOTERS].mean(axis=0).argmax(axis=1) == labels[done.rows[0]]
            ).mean()
        )
        for i in range(0, seeds - VOTERS + 1, VOTERS)
    ]


def score(
    done: methods.Predictions, labels: np.ndarray, seeds: int, *, vote: bool = True
) -> dict[str, Any]:
    """One method's figures on both kinds of splits."""
    from digits_jax import wilson_interval
    from digits_jax.statistics import prediction_interval

    new = done.accuracies(labels)[:seeds]
    random = second_file(done, labels)[seeds:]
    tested = done.rows.shape[1]
    low, high = prediction_interval(random)
    return {
        "new_writers": {
            "mean": new.mean(),
            "std": new.std(),
            "wilson95": wilson_interval(round(tested * new.mean()), tested),
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


def second_file(done: methods.Predictions, labels: np.ndarray) -> np.ndarray:
    """Accuracy of each split on those of its test rows that are of the second file, float64 [R]."""
    import numpy as np

    real = done.rows >= FIRST
    right = (done.predicted == labels[done.rows]) & real
    return np.asarray(right.sum(axis=1) / np.maximum(real.sum(axis=1), 1))


def report(
    config: Config,
    dataset: Dataset,
    done: dict[str, methods.Predictions],
    output: Output,
) -> None:
    """The table, the figure, the files; ``results.json`` last."""
    import numpy as np
    from rich.table import Table

    from digits_jax import plots
    from report import comparisons

    scores = {
        name: score(each, dataset.labels, config.seeds, vote=methods.is_network(name))
        for name, each in done.items()
    }
    order = sorted(done, key=lambda name: -scores[name]["new_writers"]["mean"])
    table = Table(
        title=f"Accuracy (%) of {config.seeds} seeds on rows of the second file: new writers, and "
        "random splits of the same sizes"
    )
    for column in ("method", "new writers", "Wilson 95 %", "vote", "random", "points"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name in order:
        new, random = scores[name]["new_writers"], scores[name]["random"]
        low, high = (100 * bound for bound in new["wilson95"])
        vote = new["votes_of_five"]
        table.add_row(
            name,
            f"{100 * new['mean']:.2f} ± {100 * new['std']:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{100 * np.mean(vote):.2f}" if vote else "",
            f"{100 * random['mean']:.2f} ± {100 * random['std']:.2f}",
            f"{100 * scores[name]['difference']:+.2f}",
        )
    console.results.print(table)

    kinds = {
        "new_writers": (
            f"new writers: {config.seeds} seeds, mean, Wilson 95 % interval",
            "wilson95",
        ),
        "random": (
            f"random splits, rows of the same file: {config.seeds}, mean, 95 % range of one more",
            "prediction95",
        ),
    }
    accuracies = {
        label: [scores[name][kind]["accuracies"] for name in order]
        for kind, (label, _) in kinds.items()
    }
    intervals = {
        label: [scores[name][kind][interval] for name in order]
        for kind, (label, interval) in kinds.items()
    }
    figure = plots.method_scores([methods.title(name) for name in order], accuracies, intervals)
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
        "experiment": "writers",
        **describe(config, dataset.provenance),
        "methods": {
            name: {
                "title": methods.title(name),
                **scores[name],
                "chosen": done[name].chosen if any(done[name].chosen) else None,
            }
            for name in order
        },
    }
    page = comparisons.writers(
        results,
        dataset=dataset,
        rows=done[order[0]].rows[0],
        answers={name: done[name].predicted[: config.seeds] for name in order},
        figure=figure,
    )
    output.finish(
        results,
        {"writers": figure},
        page,
        svg=config.svg,
        also=["scores.csv", "predictions"],
    )


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
