"""The reports of training: ``cross_validate.py`` and ``train.py``, each from results to a page.

``results`` is what goes to ``results.json``; beside it come the arrays and figures that are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
from common import tables
from common.scores import ACCURACY, Score, counted
from digits_jax.runs.progress import latest
from report import SHEET, Report, Values, misclassified

if TYPE_CHECKING:
    from common.drawing import Drawing
    from common.tasks import Task

Results = Mapping[str, Any]
MANY = 12  # runs; of more, the table of curves has means


def cross_validation(
    results: Results,
    *,
    task: Task,
    result: dj.CrossValidation,
    table: tables.Table,
    scores: Sequence[Score],
    names: Sequence[str],
    figures: Mapping[str, Drawing],
    pooled: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None,
) -> Report:
    """The report of ``cross_validate.py``.

    Args:
        results: of ``results.json``.
        task: the rows.
        result: of ``cross_validate``.
        table: the scores of each fold.
        scores: their wording, the most important first.
        names: of the runs [R].
        figures: "folds" and "learning_curves".
        pooled: row numbers [M] and probabilities [M, K] of all runs' predictions; None where it is
            no classification.
    """
    config, folds = results["config"], results["folds"]
    repeats = f", {config['repeats']} times" if config["repeats"] > 1 else ""
    page = Report(f"{config['folds']}-fold cross-validation{repeats}", _how(results))
    members = config["members"]
    lost = sum(not name.startswith("refit") for name in results["diverged"])
    size = f"{len(folds) - lost} of {len(folds)}" if lost else f"{len(folds) // members}"
    size += " folds" + f" of {members} networks" * (members > 1)
    for score in scores:
        page.score(f"Test {score.name}, mean ± sd of {size}", score, results[score.name])
    for score in scores if "votes" in results else []:
        label = f"Test {score.name} of the vote of {members}"
        page.score(label, score, results["votes"][score.name])
    scored = table._replace(title="Scores of each fold", note=_summary_note(results))
    page.table(*scored)
    page.figure(
        "Scores by fold",
        figures["folds"],
        f"Test scores of each of the {size}, with their mean and standard deviation.",
    )
    learning_curves(page, result, scores, names, figures["learning_curves"])
    if pooled is not None:
        mistakes(page, task, *pooled)
    return page


def train(
    results: Results,
    *,
    task: Task,
    result: dj.CrossValidation,
    scores: Sequence[Score],
    figures: Mapping[str, Drawing],
    probabilities: npt.NDArray[Any] | None,
    by_class: tables.Table | None,
) -> Report:
    """The report of ``train.py``.

    Args:
        results: of ``results.json``.
        task: the rows.
        result: of ``cross_validate``.
        scores: their wording, the most important first.
        figures: "training_curves" and, of the first run of a classification, "roc" and
            "reliability".
        probabilities: of the predictions [R, S, K], of the runs that did not diverge; None, as the
            next, where there are no classes.
        by_class: the scores of each class, of the first run.
    """
    runs = results["runs"]
    several = len(runs) > 1
    page = Report("Training and test on held-out rows", _how(results))
    names = [f"run {run['run']}" for run in runs]
    first = names[0]  # of those that did not diverge
    count = results["trained"]["runs"]
    size = f"{len(runs)} of {count} runs" if len(runs) < count else counted(count, "run")
    for score in scores:
        if several:
            label = f"Test {score.name}, mean ± sd of {size} on one split"
            page.score(label, score, results[score.name], "; over seeds only")
        else:
            value = score.text(results[score.name]["mean"])
            page.headline(f"Test {score.name}", score.with_unit(value), whole=True)
    note = ""
    if by_class is not None:
        page.headline(
            "95 % interval (Wilson)" + f" of {first}" * several,
            f"{ACCURACY.ends(results['accuracy_wilson95'])} %",
            f"chance in the {results['test_rows']} test rows, not in training",
            whole=True,
        )
        error = f"{100 * results['expected_calibration_error']:.2f} %"
        note = f"calibration error of {first}: {error}"
    rows = [
        (name, *(s.text(run[s.name]) for s in scores))
        for name, run in zip(names, runs, strict=True)
    ]
    totals = [("mean ± sd", *(s.mean(results[s.name]) for s in scores))] if several else []
    page.table("Test scores", ("run", *(s.title for s in scores)), rows, note, totals)
    if by_class is not None:
        page.table(*by_class)
    of_all = [f"run {i + 1}" for i in range(len(result.epochs))]
    measured = [score for score in scores if score.name in result.history]
    learning_curves(page, result, measured, of_all, figures["training_curves"])
    if probabilities is not None:
        pooled = probabilities.reshape(-1, probabilities.shape[-1])
        mistakes(page, task, np.tile(result.test_rows[0], len(runs)), pooled, runs=len(runs))
        page.figure(
            f"ROC curves, {first}",
            figures["roc"],
            "True by false positive rate of each class against the rest.",
        )
        page.figure(
            f"Calibration, {first}",
            figures["reliability"],
            "Accuracy by confidence, and the rows of each bin; the expected calibration error is "
            f"{error}.",
        )
    return page


def _summary_note(results: Results) -> str:
    """What the summary rests on."""
    note = results.get("summary_note") or (
        "The interval of the mean is Student's t with the corrected variance of Nadeau and Bengio "
        "(2003): folds share training rows."
    )
    members = results["config"]["members"]
    first = f"Each fold counts by the mean of its {members} networks. " if members > 1 else ""
    return f"{first}± is the standard deviation between folds (ddof 0). {note}"


def _how(results: Results) -> str:
    """A sentence: how much was trained where, and how long it took."""
    trained = results["trained"]
    runs, epochs = trained["runs"], results["epochs_of_runs"]
    first, last = min(epochs), max(epochs)
    span = counted(last, "epoch") if first == last else f"{first} to {last} epochs"
    devices, seconds = results["devices"], results["seconds"]
    return (
        f"{counted(runs, 'run')} of {span}, trained at once on "
        f"{counted(devices['count'], 'device')} ({devices['kind']}) in {seconds['train']:.1f} s, "
        f"after {seconds['compile']:.1f} s of compiling."
    )


def learning_curves(
    page: Report,
    result: dj.CrossValidation,
    scores: Sequence[Score],
    names: Sequence[str],
    figure: Drawing,
) -> None:
    """The curves of the history, with their values to unfold."""
    runs, epochs = result.history["loss"].shape
    words, ends = [], latest(result.history)
    for score in scores:
        last = ends[score.name][result.diverged == 0]
        known = last[np.isfinite(last)]
        end = score.text(float(known.mean())) if known.size else "nan"
        words.append(f"the mean {score.name} of training ends at {score.with_unit(end)}")
    dotted = any(name.startswith("validation_") for name in result.history)
    page.figure(
        "Learning curves",
        figure,
        f"Curves of {counted(runs, 'run')} over {counted(epochs, 'epoch')}; {', '.join(words)}.",
        "Measured on the training rows, while they train, with dropout"
        + ("; dotted, on the validation rows after each epoch." if dotted else "."),
        values=_curve_values(result, scores, names),
    )


def _curve_values(
    result: dj.CrossValidation, scores: Sequence[Score], names: Sequence[str]
) -> Values:
    """An epoch a line; for many runs their mean, lowest and highest."""
    columns, series = ["epoch"], []
    for score in scores:
        for prefix in ("", "validation_"):
            history = result.history.get(f"{prefix}{score.name}")
            if history is None:
                continue
            kind = f"{prefix.replace('_', ' ')}{score.title.lower()}"
            lines = dict(zip(names, history, strict=True))
            if len(names) > MANY:
                known = np.ma.masked_invalid(history)  # NaN: of runs that have stopped
                lines = {"mean": known.mean(0), "lowest": known.min(0), "highest": known.max(0)}
                lines = {name: each.filled(np.nan) for name, each in lines.items()}
            for name, values in lines.items():
                columns.append(f"{name}: {kind}")
                series.append([score.text(value) for value in values.tolist()])
    epochs = result.history["loss"].shape[1]
    return columns, [(e + 1, *(each[e] for each in series)) for e in range(epochs)]


def mistakes(
    page: Report,
    task: Task | dj.Dataset,
    rows: npt.NDArray[np.integer],
    probabilities: npt.NDArray[Any],
    *,
    whose: str = "",
    runs: int = 1,
    methods: npt.NDArray[Any] | None = None,
) -> None:
    """The confusion matrix, and the sheet of digits behind it, where the rows are images.

    Args:
        page: what they go to.
        task: the rows, with classes.
        rows: row numbers [M] of predictions; a row may have several.
        probabilities: of the predictions [M, K], or 1 for the class predicted.
        whose: predictions, where they are not of one network.
        runs: of one network, whose predictions of the same rows these are.
        methods: the name of the method of each prediction [M], where there are several.
    """
    images, labels, classes = task.images, task.labels, task.class_names
    assert labels is not None and classes is not None
    matrix = dj.metrics.confusion(labels[rows], probabilities.argmax(1), len(classes))
    wrong = int(matrix.sum() - matrix.trace())
    of = whose or (f"sum of {runs} runs" if runs > 1 else "")
    page.confusion(
        f"Confusion matrix, {of}" if of else "Confusion matrix",
        matrix,
        classes,
        f"How often each class (line) is predicted as each (column): {wrong} of {matrix.sum()} "
        "predictions are wrong. The colour is the root of a line's fraction."
        + " A click on a cell shows its digits below."
        * (images is not None),
    )
    if images is None:
        return
    bars = f"shares of the answers of {whose}" if whose else "probabilities"
    digits = misclassified(images, labels, rows, probabilities, classes, methods=methods)
    shown = digits[:SHEET]
    cut = f", of which {len(shown)} are here" if len(shown) < len(digits) else ""
    page.sheet(
        "Misclassified digits",
        shown,
        classes,
        f"{len(digits)} of {len(set(rows.tolist()))} test rows are wrong at least once{cut}; those "
        f"that are wrong most often, and most surely, come first. Bars are {bars}, means over the "
        "predictions of a row.",
        bars,
    )


def mistakes_of_methods(
    page: Report,
    task: Task | dj.Dataset,
    rows: npt.NDArray[np.integer],
    answers: Mapping[str, npt.NDArray[np.integer]],
) -> None:
    """``mistakes`` of several methods: the classes predicted [R, S] of rows [S], by title."""
    together = np.concatenate([*answers.values()])
    votes = np.eye(len(task.class_names or ()), dtype=np.int8)[together.ravel()]
    names = np.repeat([*answers], [each.size for each in answers.values()])
    tested = np.tile(rows, len(together))
    mistakes(page, task, tested, votes, whose="all methods", methods=names)


def points(fraction: float) -> str:
    """A difference of accuracies in percentage points; one that rounds to nothing is a tie."""
    text = f"{100 * fraction:+.2f}"
    return "tied" if float(text) == 0 else f"{text} points"
