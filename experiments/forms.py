"""Errors by form: the second file is 14 sheets, each in one hand, and hands differ.

    python experiments/forms.py
    python experiments/forms.py --methods svm knn1

Each method is tested on each form twice: trained on the first file alone (30 other writers), and on
all rows but the form's. Beside Wilson's interval, which takes rows as independent, stands one that
resamples forms. It writes ``report.html``, ``results.json`` (whole), ``forms.csv``, a
figure, and the predictions of each method: ``--resume`` takes these and adds the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
import methods
from common import command_line, options
from common.drawing import plots
from common.output import Output
from common.scores import ACCURACY
from common.tables import Table
from common.tasks import Task
from digits_jax.forms import form_of_rows, leave_one_form_out
from methods import Predictions, title
from report import Report

TRAINED = {"new_writers": "the first file", "one_form_left_out": "all but the form"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(methods.Options):
    """The options of the command line."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    output, task = methods.begin(config, "forms", digits_for="of others no form is known")
    import predicting  # which imports JAX and scikit-learn

    with options.usage_errors():
        disjoint = dj.writer_disjoint_split(task.targets)
        splits = dj.stack_splits(disjoint, leave_one_form_out(task.targets))
    names = ["first file", *(f"all but form {i + 1}" for i in range(14))]
    done = predicting.predict_all(config, task, splits, names, output)
    found = {name: scores(each, task.targets) for name, each in done.items()}
    report(config, task, found, output)


def scores(done: Predictions, labels: npt.NDArray[Any]) -> dict[str, Any]:
    """Errors by form, in all, and both intervals of the accuracy, of both trainings."""
    form = form_of_rows(labels)
    found = {}
    for kind, runs in zip(TRAINED, (slice(0, 1), slice(1, None)), strict=True):
        rows, predicted = (each[runs].ravel() for each in (done.rows, done.predicted))
        real = rows >= 0
        right = predicted[real] == labels[rows[real]]
        forms = form[rows[real]]
        found[kind] = {
            "accuracy": right.mean(),
            "errors": int((~right).sum()),
            "errors_by_form": np.bincount(forms[~right], minlength=14),
            "rows_by_form": np.bincount(forms, minlength=14),
            "wilson95": dj.wilson_interval(int(right.sum()), len(right)),
            "forms95": dj.statistics.cluster_interval(right, forms),
        }
    return found


def report(config: Config, task: Task, found: dict[str, Any], output: Output) -> None:
    """The table, the figure, the files."""
    order = sorted(found, key=lambda name: -found[name]["new_writers"]["accuracy"])
    lines = [
        (
            title(name),
            trained,
            ACCURACY.text(each["accuracy"]),
            *(ACCURACY.ends(each[which]) for which in ("wilson95", "forms95")),
            " ".join(map(str, each["errors_by_form"])),
        )
        for name in order
        for each, trained in zip(found[name].values(), TRAINED.values(), strict=True)
    ]
    table = Table(
        "Accuracy on the second file's forms",
        ("method", "trained on", "accuracy (%)", "Wilson 95 %", "forms 95 %", "errors by form"),
        lines,
        "The bootstrap draws whole forms: errors of one hand come together.",
    )
    table.show()
    intervals = {"Wilson's, rows": "wilson95", "bootstrap, forms": "forms95"}
    new = [found[name]["new_writers"] for name in order]
    figure = plots.estimates(
        [title(name) for name in order],
        {label: [100 * each["accuracy"] for each in new] for label in intervals},
        {
            label: [[100 * end for end in each[which]] for each in new]
            for label, which in intervals.items()
        },
        label="Accuracy on new writers (%), 95 % intervals",
    )

    def by_form(each: dict[str, Any]) -> Iterator[tuple[int, int]]:
        return zip(each["rows_by_form"].tolist(), each["errors_by_form"].tolist(), strict=True)

    output.table(
        "forms.csv",
        [
            {"method": name, "trained_on": kind, "form": i + 1, "rows": rows, "errors": errors}
            for name in order
            for kind in TRAINED
            for i, (rows, errors) in enumerate(by_form(found[name][kind]))
        ],
    )
    page = Report("Errors by form", "The 14 forms of the second file, each in one writer's hand.")
    page.table(*table)
    page.figure("Two intervals", figure, "Accuracy of each method with both intervals.")
    results = {"methods": {name: {"title": title(name), **found[name]} for name in order}}
    also = ["forms.csv", "predictions"]
    output.finish(results, {"forms": figure}, page, data=task.provenance, also=also)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
