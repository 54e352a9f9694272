"""The reports of training: ``cross_validate.py`` and ``train.py``, each from results to a page.

``results`` is what goes to ``results.json``; beside it come the arrays and figures that are shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from report import SHEET, Report, Table, misclassified

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from common.scores import Score
    from digits_jax import CrossValidation

Results = Mapping[str, Any]
MANY = 12  # runs; of more, the table of curves has means


def cross_validation(
    results: Results,
    *,
    result: CrossValidation,
    scores: Sequence[Score],
    names: Sequence[str],
    figures: Mapping[str, Figure],
    classes: Sequence[str] | None,
    labels: npt.NDArray[Any] | None,
    images: npt.NDArray[Any] | None,
    pooled: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None,
) -> Report:
    """The report of ``cross_validate.py``.

    Args:
        results: of ``results.json``.
        result: of ``cross_validate``.
        scores: their wording, the most important first.
        names: of the runs [R]; those with test rows come first.
        figures: "folds" and "learning_curves".
        classes: their names [K]; None, as the next three, where it is no classification.
        labels: the classes [N].
        images: of the rows [N, H, W], where they are images.
        pooled: row numbers [M] and probabilities [M, K] of all runs' predictions.
    """
    config, folds = results["config"], results["folds"]
    repeats = f", {config['repeats']} times" if config["repeats"] > 1 else ""
    page = Report(f"{config['folds']}-fold cross-validation{repeats}", _how(results))
    members = config["members"]
    lost = sum(name in results["diverged"] for name in names[: len(folds)])
    size = f"{len(folds) - lost} of {len(folds)}" if lost else f"{len(folds) // members}"
    size += " folds" + f" of {members} networks" * (members > 1)
    _headlines(page, results, scores, size)
    for score in scores if "votes" in results else []:
        vote = results["votes"][score.name]
        page.headline(
            f"Test {score.name} of the vote of {members}",
            f"{score.spread(vote['mean'], vote['std'])} {score.unit}".strip(),
            f"95 % interval of the mean: {interval(vote, score)} {score.unit}".strip(),
        )
    columns = ("run", *(f"test {score.title.lower()}" for score in scores))
    cells = [
        (name, *(score.text(fold[score.name]) for score in scores))
        for name, fold in zip(names, folds, strict=False)
    ]
    summary = [
        ("mean ± sd", *(spread(results[score.name], score) for score in scores)),
        ("95 % interval", *(interval(results[score.name], score) for score in scores)),
    ]
    page.table("Scores of each fold", columns, [*cells, *summary], _summary_note(results))
    page.figure(
        "Scores by fold",
        figures["folds"],
        f"Test scores of each of the {size}, with their mean and standard deviation.",
    )
    learning_curves(page, result, scores, names, figures["learning_curves"])
    if pooled is not None and classes is not None and labels is not None:
        mistakes(page, images, labels, classes, *pooled)
    return page


def train(
    results: Results,
    *,
    result: CrossValidation,
    scores: Sequence[Score],
    figures: Mapping[str, Figure],
    classes: Sequence[str] | None,
    labels: npt.NDArray[Any] | None,
    images: npt.NDArray[Any] | None,
    rows: npt.NDArray[Any],
    probabilities: npt.NDArray[Any] | None,
    by_class: Mapping[str, Any] | None,
) -> Report:
    """The report of ``train.py``.

    Args:
        results: of ``results.json``.
        result: of ``cross_validate``.
        scores: their wording, the most important first.
        figures: "training_curves" and, of the first run of a classification, "roc" and
            "reliability".
        classes: their names [K]; None, as all of the next but ``rows``, where there are none.
        labels: the classes [N].
        images: of the rows [N, H, W], where they are images.
        rows: row numbers [S] of the test rows.
        probabilities: of the predictions [R, S, K], of the runs that did not diverge.
        by_class: scikit-learn's classification report of the first run, as a dictionary.
    """
    import numpy as np

    count = len(results["runs"])
    page = Report("Training and test on held-out rows", _how(results))
    names = [f"run {run['run']}" for run in results["runs"]]
    first = names[0]  # of those that did not diverge
    if count > 1:
        runs = results["trained"]["runs"]
        size = f"{count} of {runs} runs" if count < runs else f"{count} runs"
        _headlines(page, results, scores, f"{size} on one split", over=" over seeds only")
    else:
        for score in scores:
            value = score.text(results[score.name]["mean"])
            page.headline(f"Test {score.name}", f"{value} {score.unit}".strip())
    if "accuracy_wilson95" in results:
        low, high = results["accuracy_wilson95"]
        page.headline(
            "95 % interval (Wilson)" + (f" of {first}" if count > 1 else ""),
            f"{100 * low:.2f} to {100 * high:.2f} %",
            f"chance in the {results['test_rows']} test rows, not in training",
        )
    cells = [
        (name, *(score.text(run[score.name]) for score in scores))
        for name, run in zip(names, results["runs"], strict=True)
    ]
    if count > 1:
        cells.append(("mean ± sd", *(spread(results[score.name], score) for score in scores)))
    note = ""
    if "expected_calibration_error" in results:
        note = f"calibration error of {first}: {100 * results['expected_calibration_error']:.2f} %"
    page.table("Test scores", ("run", *(score.title for score in scores)), cells, note)
    if by_class is not None and classes is not None:
        page.table(
            f"Scores by class, {first}",
            ("class", "precision (%)", "recall (%)", "F1 (%)", "rows"),
            [
                (
                    name,
                    *(f"{100 * by_class[name][score]:.2f}" for score in ("precision", "recall")),
                    f"{100 * by_class[name]['f1-score']:.2f}",
                    f"{by_class[name]['support']:.0f}",
                )
                for name in by_class
                if name in classes
            ],
        )
    runs = [f"run {i + 1}" for i in range(len(result.epochs))]
    measured = [score for score in scores if score.name in result.history]
    learning_curves(page, result, measured, runs, figures["training_curves"])
    if probabilities is not None and classes is not None and labels is not None:
        pooled = probabilities.reshape(-1, probabilities.shape[-1])
        mistakes(page, images, labels, classes, np.tile(rows, count), pooled, runs=count)
    if "roc" in figures:
        page.figure(
            f"ROC curves, {first}",
            figures["roc"],
            "True by false positive rate of each class against the rest.",
        )
        page.figure(
            f"Calibration, {first}",
            figures["reliability"],
            "Accuracy by confidence, and the rows of each bin; the expected calibration error is "
            f"{100 * results['expected_calibration_error']:.2f} %.",
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
    runs, epochs = trained["runs"], trained["epochs"]
    devices, seconds = results["devices"], results["seconds"]
    return (
        f"{runs} run{'s' * (runs > 1)} of {epochs} epochs, trained at once on {devices['count']} "
        f"device{'s' * (devices['count'] > 1)} ({devices['kind']}) in {seconds['train']:.1f} s, "
        f"after {seconds['compile']:.1f} s of compiling."
    )


def _headlines(
    page: Report, results: Results, scores: Sequence[Score], size: str, *, over: str = ""
) -> None:
    """The scores with their intervals; ``over`` says what an interval leaves out."""
    for score in scores:
        found = results[score.name]
        page.headline(
            f"Test {score.name}, mean ± sd of {size}",
            f"{spread(found, score)} {score.unit}".strip(),
            f"95 % interval of the mean{over}: {interval(found, score)} {score.unit}".strip(),
        )


def interval(summary: Mapping[str, Any], score: Score) -> str:
    """Its ends, or a dash where a single score has none."""
    ends = summary["ci95"]
    if any(end is None or math.isnan(end) for end in ends):
        return "–"
    return " to ".join(map(score.text, ends))


def spread(summary: Mapping[str, Any], score: Score) -> str:
    """Mean ± sd."""
    return score.spread(summary["mean"], summary["std"])


def learning_curves(
    page: Report,
    result: CrossValidation,
    scores: Sequence[Score],
    names: Sequence[str],
    figure: Figure,
) -> None:
    """The curves of the history, with their values to unfold."""
    runs, epochs = result.history["loss"].shape
    words = [
        f"the mean {score.name} of training ends at "
        f"{score.text(float(_mean(result.history[score.name][:, -1])))} {score.unit}".strip()
        for score in scores
    ]
    dotted = any(name.startswith("validation_") for name in result.history)
    page.figure(
        "Learning curves",
        figure,
        f"Curves of {runs} runs over {epochs} epochs; {', '.join(words)}.",
        "Measured on the training rows, while they train, with dropout"
        + ("; dotted, on the validation rows after each epoch." if dotted else "."),
        values=_curve_values(result, scores, names),
    )


def _curve_values(result: CrossValidation, scores: Sequence[Score], names: Sequence[str]) -> Table:
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
                lines = {"mean": history.mean(0), "lowest": history.min(0)}
                lines["highest"] = history.max(0)
            for name, values in lines.items():
                columns.append(f"{name}: {kind}")
                series.append([score.text(value) for value in values.tolist()])
    epochs = result.history["loss"].shape[1]
    return columns, [(e + 1, *(each[e] for each in series)) for e in range(epochs)]


def _mean(values: Any) -> float:
    import numpy as np

    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def mistakes(
    page: Report,
    images: npt.NDArray[Any] | None,
    labels: npt.NDArray[Any],
    classes: Sequence[str],
    rows: npt.NDArray[np.integer],
    probabilities: npt.NDArray[Any],
    *,
    whose: str = "",
    runs: int = 1,
    methods: npt.NDArray[Any] | None = None,
) -> None:
    """The confusion matrix, and the sheet of digits behind it.

    Args:
        page: what they go to.
        images: of the rows [N, H, W]; None: there is no sheet.
        labels: the classes [N].
        classes: their names [K].
        rows: row numbers [M] of predictions; a row may have several.
        probabilities: of the predictions [M, K], or 1 for the class predicted.
        whose: predictions, where they are not of one network.
        runs: of one network, whose predictions of the same rows these are.
        methods: the name of the method of each prediction [M], where there are several.
    """
    from digits_jax import metrics

    matrix = metrics.confusion(labels[rows], probabilities.argmax(1), len(classes))
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
