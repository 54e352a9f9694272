"""The reports of training: ``cross_validate.py`` and ``train.py``, each from results to HTML.

``results`` is what goes to ``results.json``; beside it come the arrays that are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from report import SHEET, Report, figures, misclassified

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from digits_jax import Dataset
    from digits_jax.metrics import Reliability, RocCurve
    from digits_jax.runs.results import History

Results = Mapping[str, Any]


def cross_validation(
    results: Results,
    *,
    dataset: Dataset,
    history: History,
    names: Sequence[str],
    rows: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
) -> str:
    """The report of ``cross_validate.py``.

    Args:
        results: of ``results.json``.
        dataset: the rows.
        history: of training [R, E].
        names: of the runs [R]; those with test rows come first.
        rows: row numbers [M] of the pooled predictions.
        probabilities: of the predictions [M, K].
    """
    config, folds = results["config"], results["folds"]
    repeats = f", {config['repeats']} times" if config["repeats"] > 1 else ""
    page = Report(f"{config['folds']}-fold cross-validation{repeats}", _how(results, history))
    size = f"{len(folds)} folds"
    _headlines(page, results, size)
    columns = ("run", "test loss (nats)", "test accuracy (%)")
    cells = [
        (name, f"{fold['loss']:.4f}", f"{100 * fold['accuracy']:.2f}")
        for name, fold in zip(names, folds, strict=False)
    ]
    page.table("Scores of each fold", columns, [*cells, *_summary_rows(results)], _SUMMARY)
    scored = {
        "Accuracy (%)": [100 * fold["accuracy"] for fold in folds],
        "Loss (nats)": [fold["loss"] for fold in folds],
    }
    page.figure(
        "Scores by fold",
        figures.scores(scored, names[: len(folds)], "Run"),
        f"Test accuracy and loss of each of the {size}, with their mean and standard deviation.",
    )
    _curves(page, history, names)
    mistakes(page, dataset, rows, probabilities)
    return page.html(results)


def train(
    results: Results,
    *,
    dataset: Dataset,
    history: History,
    rows: npt.NDArray[Any],
    probabilities: npt.NDArray[Any],
    curves: Sequence[RocCurve],
    reliability: Reliability,
    classes: Mapping[str, Any],
) -> str:
    """The report of ``train.py``.

    Args:
        results: of ``results.json``.
        dataset: the rows.
        history: of training [R, E].
        rows: row numbers [S] of the test rows.
        probabilities: of the predictions [R, S, K].
        curves: ROC curves [K] of the first run.
        reliability: of the first run.
        classes: scikit-learn's classification report of the first run, as a dictionary.
    """
    import numpy as np

    count = len(results["runs"])
    page = Report("Training and test on held-out rows", _how(results, history))
    names = [f"run {run['run']}" for run in results["runs"]]
    first = names[0]  # of those that did not diverge
    low, high = results["accuracy_wilson95"]
    if count > 1:
        _headlines(page, results, f"{count} runs on one split")
    else:
        page.headline("Test accuracy", f"{100 * results['accuracy']['mean']:.2f} %")
        page.headline("Test loss", f"{results['loss']['mean']:.4f} nats")
    page.headline(
        "95 % interval (Wilson)" + (f" of {first}" if count > 1 else ""),
        f"{100 * low:.2f} to {100 * high:.2f} %",
        f"chance in the {results['test_rows']} test rows, not in training",
    )
    scores = ("loss", "accuracy", "precision", "recall", "f1")
    columns = ("run", "loss (nats)", "accuracy (%)", *(f"macro {s} (%)" for s in scores[2:]))
    cells = [
        (name, f"{run['loss']:.4f}", *(f"{100 * run[score]:.2f}" for score in scores[1:]))
        for name, run in zip(names, results["runs"], strict=True)
    ]
    if count > 1:
        means = [spread(results[score], 100, 2) for score in scores[1:]]
        cells.append(("mean ± sd", spread(results["loss"], 1, 4), *means))
    note = f"calibration error of {first}: {100 * results['expected_calibration_error']:.2f} %"
    page.table("Test scores", columns, cells, note)
    each = [name for name in classes if name in dataset.class_names]
    page.table(
        f"Scores by class, {first}",
        ("class", "precision (%)", "recall (%)", "F1 (%)", "rows"),
        [
            (
                name,
                *(f"{100 * classes[name][score]:.2f}" for score in scores[2:4]),
                f"{100 * classes[name]['f1-score']:.2f}",
                f"{classes[name]['support']:.0f}",
            )
            for name in each
        ],
    )
    _curves(page, history, names)
    pooled = probabilities.reshape(-1, probabilities.shape[-1])
    mistakes(page, dataset, np.tile(rows, count), pooled, runs=count)
    page.figure(
        f"ROC curves, {first}",
        figures.roc(curves, dataset.class_names),
        "True by false positive rate of each class against the rest: "
        + ", ".join(
            f"class {name}: area {curve.auc:.5f}"
            for name, curve in zip(dataset.class_names, curves, strict=True)
        ),
    )
    page.figure(
        f"Calibration, {first}",
        figures.reliability(reliability),
        "Accuracy by confidence, and the rows of each bin; the expected calibration error is "
        f"{100 * reliability.expected_calibration_error:.2f} %.",
    )
    return page.html(results)


_SUMMARY = (
    "± is the standard deviation between runs (ddof 0). The interval of the mean is Student's t "
    "with the corrected variance of Nadeau and Bengio (2003): folds share training rows."
)


def _how(results: Results, history: History) -> str:
    """A sentence: how much was trained where, and how long it took."""
    runs, epochs = history["loss"].shape
    devices, seconds = results["devices"], results["seconds"]
    return (
        f"{runs} run{'s' * (runs > 1)} of {epochs} epochs, trained at once on {devices['count']} "
        f"device{'s' * (devices['count'] > 1)} ({devices['kind']}) in {seconds['train']:.1f} s, "
        f"after {seconds['compile']:.1f} s of compiling."
    )


def _headlines(page: Report, results: Results, size: str) -> None:
    """Accuracy and loss with their intervals."""
    for name, scale, unit, digits in (("accuracy", 100, "%", 2), ("loss", 1, "nats", 4)):
        mean, sd = scale * results[name]["mean"], scale * results[name]["std"]
        page.headline(
            f"Test {name}, mean ± sd of {size}",
            f"{mean:.{digits}f} ± {sd:.{digits}f} {unit}",
            f"95 % interval of the mean: {interval(results[name], scale, digits)} {unit}",
        )


def interval(summary: Mapping[str, Any], scale: float, digits: int) -> str:
    """Its ends, or a dash where a single score has none."""
    ends = summary["ci95"]
    if any(end is None or math.isnan(end) for end in ends):
        return "–"
    return " to ".join(f"{scale * end:.{digits}f}" for end in ends)


def spread(summary: Mapping[str, Any], scale: float, digits: int) -> str:
    """Mean ± sd."""
    return f"{scale * summary['mean']:.{digits}f} ± {scale * summary['std']:.{digits}f}"


def _summary_rows(results: Results) -> list[tuple[str, str, str]]:
    loss, accuracy = results["loss"], results["accuracy"]
    return [
        ("mean ± sd", spread(loss, 1, 4), spread(accuracy, 100, 2)),
        ("95 % interval", interval(loss, 1, 4), interval(accuracy, 100, 2)),
    ]


def _curves(page: Report, history: History, names: Sequence[str]) -> None:
    runs, epochs = history["loss"].shape
    ends = 100 * float(history["accuracy"][:, -1].mean())
    page.figure(
        "Learning curves",
        figures.learning_curves(history["loss"], history["accuracy"], names),
        f"Training loss and accuracy of {runs} runs over {epochs} epochs; the mean accuracy ends "
        f"at {ends:.2f} %.",
        "Measured on the training rows, while they train, with dropout.",
    )


def mistakes(
    page: Report,
    dataset: Dataset,
    rows: npt.NDArray[np.integer],
    probabilities: npt.NDArray[Any],
    *,
    whose: str = "",
    runs: int = 1,
) -> None:
    """The confusion matrix, and the sheet of digits behind it.

    Args:
        page: what they go to.
        dataset: the rows.
        rows: row numbers [M] of predictions; a row may have several.
        probabilities: of the predictions [M, K], or 1 for the class predicted.
        whose: predictions, where they are not of one network.
        runs: of one network, whose predictions of the same rows these are.
    """
    from digits_jax import metrics

    matrix = metrics.confusion(dataset.labels[rows], probabilities.argmax(1))
    wrong = int(matrix.sum() - matrix.trace())
    of = whose or (f"sum of {runs} runs" if runs > 1 else "")
    page.figure(
        f"Confusion matrix, {of}" if of else "Confusion matrix",
        figures.confusion(matrix, dataset.class_names),
        f"How often each class is predicted as each; {wrong} of {matrix.sum()} predictions are "
        "wrong.",
        "A click on a cell shows its digits below.",
    )
    bars = f"shares of the answers of {whose}" if whose else "probabilities"
    digits = misclassified(dataset.images, dataset.labels, rows, probabilities, dataset.class_names)
    shown = digits[:SHEET]
    cut = f", of which {len(shown)} are shown" if len(shown) < len(digits) else ""
    page.sheet(
        "Misclassified digits",
        shown,
        dataset.class_names,
        f"{len(digits)} of {len(set(rows.tolist()))} test rows are wrong at least once{cut}; those "
        f"that are wrong most often, and most surely, come first. Bars are {bars}, means over the "
        "predictions of a row.",
        bars,
    )
