"""Every figure is drawn: it says what it shows, truthfully, and no text hides another."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from digits_jax import metrics, plots

RANDOM = np.random.default_rng(0)
CLASSES = tuple("0123456789")
LABELS = np.repeat(np.arange(10), 20)
SHARES = metrics.probabilities(RANDOM.normal(size=(200, 10)) + 3 * np.eye(10)[LABELS])
IMAGES = RANDOM.integers(0, 17, (200, 8, 8))
POINTS = RANDOM.normal(size=(200, 2)) + 9 * np.stack([LABELS % 5, LABELS // 5], axis=1)
LAYERS = {"conv1": (8, 8, 16), "pool1": (4, 4, 16), "conv2": (4, 4, 32), "pool3": (1, 1, 64)}
METHODS = [f"method number {i}" for i in range(8)]
NO_ENDS = [np.nan, np.nan]
COMMON = 5.5 + np.diag(np.arange(8) * 20.0)
FOLDS = {
    "Loss (nats)": [0.031, 0.040, 0.071, 0.043, 0.035],
    "Accuracy (%)": [99.29, 99.02, 98.31, 98.93, 99.20],
}


EFFECTS = {
    "notebook: 99.09 %": {
        f"+ choice {i} of the strong recipe": (i / 1e3, i / 2e3, i / 5e2) for i in range(11)
    },
    "strong: 99.68 %": {f"- choice {i} of the strong recipe": (-0.1, -0.2, 0.0) for i in range(11)},
}


def _curves(runs: int, epochs: int = 100) -> dict[str, npt.NDArray[np.float64]]:
    loss = 2.3 * np.exp(-np.arange(epochs) / 12) + RANDOM.uniform(0.03, 0.06, (runs, epochs))
    return {"Loss (nats)": loss, "Accuracy (%)": 100 - 25 * loss}


def _scores(
    methods: int, series: dict[str, int]
) -> tuple[dict[str, npt.NDArray[np.float64]], dict[str, npt.NDArray[np.float64]]]:
    scores = {name: RANDOM.uniform(0.97, 0.99, (methods, runs)) for name, runs in series.items()}
    ends = {name: np.stack([v.min(axis=1), v.max(axis=1)], axis=1) for name, v in scores.items()}
    return scores, ends


def _activations(values: float | None = None) -> dict[str, npt.NDArray[np.float64]]:
    fill = RANDOM.exponential if values is None else lambda size: np.full(size, values)
    return {name: fill(size=shape) for name, shape in LAYERS.items()}


def _swept() -> tuple[dict[str, npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """A grid of 5 by 3 by 1, on 4 runs each."""
    rates, dropout = np.meshgrid(np.geomspace(1e-4, 1e-2, 5), [0.0, 0.25, 0.5], indexing="ij")
    values = {"learning_rate": rates.ravel(), "dropout_rate": dropout.ravel()}
    return values, 90 + 0.1 * np.arange(60.0).reshape(15, 4)


def _swept_pair() -> Figure:
    values, scores = _swept()
    return plots.pair(*values.values(), scores.mean(axis=1), [*values])


def _of(places: int) -> npt.NDArray[np.float64]:
    """Scores of three runs that rise."""
    return np.arange(3.0 * places).reshape(places, 3)


FIGURES: dict[str, Callable[[], Figure]] = {
    "fold scores": lambda: plots.fold_scores(FOLDS),
    "scores of 50 seeds": lambda: plots.fold_scores({"R2": np.full(50, 0.5)}, name="Seed"),
    "scores of one run": lambda: plots.fold_scores({"Loss": [0.1], "Accuracy (%)": [100]}),
    "scores with a diverged run": lambda: plots.fold_scores({"Loss": [0.1, np.nan]}),
    "learning curves": lambda: plots.learning_curves(_curves(6), [*"12345", "refit"]),
    "learning curves of 12": lambda: plots.learning_curves(_curves(12), validation=_curves(12)),
    "learning curves of 50": lambda: plots.learning_curves(_curves(50), validation=_curves(50)),
    "learning curves of one epoch": lambda: plots.learning_curves(_curves(2, 1)),
    "a loss alone": lambda: plots.learning_curves({"Loss": _curves(2)["Loss (nats)"]}),
    "learning curves that diverge": lambda: plots.learning_curves({"a": np.full((3, 9), np.nan)}),
    "method scores": lambda: plots.method_scores(METHODS, *_scores(8, {"folds": 50})),
    "method scores of two kinds": lambda: plots.method_scores(
        METHODS, *_scores(8, {"new writers: mean": 10, "random splits: mean": 3})
    ),
    "method scores of one run": lambda: plots.method_scores(["a"], {"b": [[1]]}, {"b": [NO_ENDS]}),
    "estimates": lambda: plots.estimates(
        ["split", "initial weights", "split x initial weights x order"],
        {"variance": [60, 30, 10.0]},
        {"variance": [[20, 90.0], [10, 50.0], NO_ENDS]},
        label="Fraction of the variance (%)",
        line=50,
    ),
    "estimates of two series": lambda: plots.estimates(
        METHODS,
        {"one": np.arange(8.0), "other": np.ones(8)},
        {name: np.tile([0.0, 9.0], (8, 1)) for name in ("one", "other")},
        label="Coverage (%)",
    ),
    "estimates on a log axis": lambda: plots.estimates(
        METHODS,
        {name: np.where(np.arange(8) == i, np.nan, 2.0**i) for i, name in enumerate("abcde")},
        {name: np.tile([0.9 * 2.0**i, 1.1 * 2.0**i], (8, 1)) for i, name in enumerate("abcde")},
        label="Times as long",
        log=True,
    ),
    "series": lambda: plots.series(
        {
            "Training rows": ([100, 1000, 4496], {"CNN": 90 + _of(3), "SVM": 80 + _of(3)}),
            "Shift (pixels)": (np.arange(4.0), {"CNN": 90 - _of(4)}),
        },
        label="Accuracy (%)",
        log=["Training rows"],
    ),
    "series of eight methods": lambda: plots.series(
        {"Training rows": ([50, 100], {f"method number {i}, long": _of(2) for i in range(8)})},
        label="Accuracy (%)",
    ),
    "series of one": lambda: plots.series({"Noise": ([0.0, 1.0], {"a": _of(2)})}, label="R2"),
    "common errors": lambda: plots.common_errors(COMMON, METHODS),
    "common errors of two": lambda: plots.common_errors([[1401.5, 0], [0, 0]], ["one", "other"]),
    "confusion": lambda: plots.confusion_matrix(metrics.confusion(LABELS, SHARES.argmax(axis=1))),
    "confusion of many": lambda: plots.confusion_matrix(np.full((10, 10), 28_100)),
    "confusion of names": lambda: plots.confusion_matrix(np.eye(3), ["cat", "a long name", "dog"]),
    "roc": lambda: plots.roc_curves(metrics.roc_curves(LABELS, SHARES), CLASSES),
    "roc, perfect": lambda: plots.roc_curves(metrics.roc_curves([0, 1], np.eye(2))),
    "roc, no positive": lambda: plots.roc_curves(metrics.roc_curves([0, 0], np.eye(2))),
    "reliability": lambda: plots.reliability_diagram(metrics.reliability(LABELS, SHARES)),
    "reliability, perfect": lambda: plots.reliability_diagram(metrics.reliability([0], [[1, 0]])),
    "misclassified": lambda: plots.digit_sheet(
        IMAGES[:19], [f"row {5000 + i}\n8 → 9 (0.98)" for i in range(19)], title="true → predicted"
    ),
    "framed": lambda: plots.digit_sheet(
        IMAGES[:40], ["row 1234\n1, read as 7", *["3\n12.5"] * 4] * 8, columns=10, framed=[0, 5]
    ),
    "samples": lambda: plots.digit_sheet(IMAGES[:10], CLASSES, columns=5),
    "long titles": lambda: plots.digit_sheet(IMAGES[:20], ["a title too long"] * 20, columns=10),
    "class means": lambda: plots.class_means(IMAGES, LABELS),
    "pixel statistics": lambda: plots.pixel_statistics(IMAGES),
    "pixel statistics of one row": lambda: plots.pixel_statistics(IMAGES[:1]),
    "embedding": lambda: plots.embedding(POINTS, LABELS, name="Principal component"),
    "feature maps": lambda: plots.feature_maps(IMAGES[0], _activations()),
    "dead feature maps": lambda: plots.feature_maps(IMAGES[0], _activations(0.0)),
    "constant feature maps": lambda: plots.feature_maps(IMAGES[0], _activations(1.5)),
    "filters": lambda: plots.filters(RANDOM.normal(size=(3, 3, 1, 16))),
    "filters of zeros": lambda: plots.filters(np.zeros((3, 3, 1, 16))),
    "saliency": lambda: plots.saliency(IMAGES[0], RANDOM.normal(size=(8, 8)), name="logit of 5"),
    "differences": lambda: plots.differences(EFFECTS),
    "one difference": lambda: plots.differences({"base": {"method": (0.0, 0.0, 0.0)}}),
    "saliency of nothing": lambda: plots.saliency(IMAGES[0], np.zeros((8, 8))),
    "effects of a grid": lambda: plots.effects(*_swept(), log=["learning_rate"]),
    "effects of random search": lambda: plots.effects(
        {
            "learning_rate": np.geomspace(1e-4, 1e-1, 40),
            "dropout_rate": RANDOM.uniform(size=40),
            "weight_decay": np.geomspace(1e-6, 1e-2, 40),
            "width": RANDOM.permutation(40),
        },
        RANDOM.uniform(0.9, 1, (40, 5)),
        log=["learning_rate", "weight_decay"],
    ),
    "effects of one": lambda: plots.effects({"width": [1, 2]}, [[0.9, 0.8], [np.nan, np.nan]]),
    "effects of words": lambda: plots.effects(
        {"dense_activation": ["relu", "sigmoid", "gelu"] * 2}, RANDOM.uniform(size=(6, 3))
    ),
    "pair of a grid": lambda: _swept_pair(),
    "pair, much of it": lambda: plots.pair(
        np.repeat(np.geomspace(1e-4, 1e-1, 12), 12),
        np.tile(np.linspace(0, 0.9, 12), 12),
        RANDOM.uniform(size=144),
        ["learning_rate", "dropout_rate"],
    ),
    "pair, little of it": lambda: plots.pair([1, 2], [1, 1], [0.9, np.nan], ["width", "epsilon"]),
    "pair of random search": lambda: plots.pair(
        np.geomspace(1e-4, 1e-1, 40),
        RANDOM.uniform(size=40),
        RANDOM.uniform(0.9, 1, 40),
        ["learning_rate", "dropout_rate"],
        label="Inner validation accuracy",
        log=["learning_rate"],
    ),
}


def _draw(figure: Figure) -> tuple[npt.NDArray[np.uint8], dict[Text, Bbox]]:
    """The pixels, and each text that was drawn with the box that it fills."""
    texts: dict[Text, Bbox] = {}
    original = Text.draw

    def draw(self: Text, renderer: object) -> None:
        original(self, renderer)
        if self.get_text().strip() and self.get_visible():
            texts[self] = Text.get_window_extent(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw)
        figure.set_dpi(200)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy(), texts


def _collisions(figure: Figure, texts: dict[Text, Bbox]) -> list[tuple[str, ...]]:
    """Pairs of texts of which one hides a part of the other, and texts that are cut off."""
    width, height = figure.bbox.size
    cut = [
        (text.get_text(),)
        for text, box in texts.items()
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]
    pairs = itertools.combinations(texts.items(), 2)
    hidden = [
        (one.get_text(), other.get_text())
        for (one, box), (other, second) in pairs
        if min(box.x1, second.x1) - max(box.x0, second.x0) > 1
        and min(box.y1, second.y1) - max(box.y0, second.y0) > 1
    ]
    return cut + hidden


def _labels(panel: Axes) -> tuple[str, str]:
    return panel.get_xlabel(), panel.get_ylabel()


def _legend(owner: Axes | Figure) -> list[str]:
    legend = owner.get_legend() if isinstance(owner, Axes) else owner.legends[0]
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_legible(name: str) -> None:
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name]()
    pixels, texts = _draw(figure)
    assert dict(matplotlib.rcParams) == before
    assert texts and pixels.std() > 2, "blank"
    assert _collisions(figure, texts) == []
    assert _collisions(figure, _draw(figure)[1]) == []  # the layout may move when drawn again
    sizes = {text.get_text(): text.get_fontsize() for text in texts}
    assert min(sizes.values()) >= 4 and max(sizes.values()) <= 8, sizes
    assert figure.get_figwidth() in (3.5, 4.375, 7)


def test_the_check_for_collisions_can_fail() -> None:
    figure = Figure(figsize=(2, 2))
    figure.text(0.4, 0.5, "one")
    assert _collisions(figure, _draw(figure)[1]) == []
    figure.text(0.42, 0.5, "other")
    figure.text(0.95, 0.1, "outside")
    assert _collisions(figure, _draw(figure)[1]) == [("outside",), ("one", "other")]


def test_fold_scores_have_the_right_labels_mean_and_ticks() -> None:
    figure = plots.fold_scores(FOLDS)
    _draw(figure)
    loss, accuracy = figure.axes
    assert loss.get_ylabel() == "Loss (nats)"
    assert _labels(accuracy) == ("Fold", "Accuracy (%)")
    assert _legend(loss) == ["mean 0.0440 ± 0.0141 nats (sd)"]
    assert _legend(accuracy) == ["mean 98.95 ± 0.34 % (sd)"]  # the notebook's
    for panel, scores in zip((loss, accuracy), map(np.array, FOLDS.values()), strict=True):
        mean, points = panel.lines
        assert mean.get_linestyle() == "--"
        np.testing.assert_allclose(mean.get_ydata(), scores.mean())
        np.testing.assert_allclose(points.get_xydata(), np.stack([range(1, 6), scores], axis=1))
    assert [tick.get_text() for tick in accuracy.get_xticklabels()] == [*"12345"]


def test_method_scores_have_a_dot_a_run_a_mean_and_an_interval() -> None:
    scores, ends = _scores(3, {"new": 4, "random": 2})
    figure = plots.method_scores(names := ["a", "b", "c"], scores, ends)
    _draw(figure)
    (panel,) = figure.axes
    assert panel.get_xlabel() == "Accuracy (%)" and _legend(panel) == ["new", "random"]
    assert [tick.get_text() for tick in panel.get_yticklabels()] == names
    assert panel.yaxis_inverted(), "the first method is on top"
    texts = {text.get_text() for text in panel.texts}
    for i, (name, values) in enumerate(scores.items()):
        bars, dots = panel.collections[i], panel.collections[len(scores) + i]
        np.testing.assert_allclose(np.asarray(dots.get_offsets())[:, 0], 100 * values.ravel())
        bar_ends = [segment[:, 0] for segment in bars.get_segments()]  # type: ignore[attr-defined]
        np.testing.assert_allclose(bar_ends, 100 * ends[name])
        means = panel.lines[i].get_xdata()
        np.testing.assert_allclose(means, 100 * values.mean(axis=1))
        height = np.asarray(panel.lines[i].get_ydata())
        assert list(np.round(height)) == [0, 1, 2]
        under = np.asarray(dots.get_offsets())[:, 1] - np.repeat(height, values.shape[1])
        assert (0.05 < under).all() and (under < 0.3).all()  # the axis points down
        for mean, (low, high) in zip(np.asarray(means), 100 * ends[name], strict=True):
            assert f"{mean:.2f} ({low:.2f} to {high:.2f})" in texts


def test_method_scores_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="^scores and intervals differ"):
        plots.method_scores(["a"], {"x": [[1]]}, {"y": [[0, 1]]})
    with pytest.raises(ValueError, match="must be .2, R.*, got shape .1, 1."):
        plots.method_scores(["a", "b"], {"x": [[1]]}, {"x": [[0, 1]]})


def test_common_errors_are_shares_of_the_lines_method() -> None:
    figure = plots.common_errors([[4, 3], [3, 120]], ["few", "many"])
    _draw(figure)
    panel, bar = figure.axes
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["4.0\n100 %", "3.0\n75 %", "3.0\n2 %", "120\n100 %"]
    colors = panel.images[0].get_array()
    np.testing.assert_allclose(np.asarray(colors), [[100, 75], [2.5, 100]])
    assert _labels(panel) == ("… that this method makes, too", "Of this method's errors …")
    assert bar.get_ylabel() == "Share of the line's errors (%)"


def test_framed_digits_stand_out() -> None:
    panel = plots.digit_sheet(IMAGES[:3], list("abc"), framed=[1]).axes[0]
    widths = [patch.get_linewidth() for patch in panel.patches]
    assert widths[1] > 2 * widths[0] and widths[0] == widths[2]


def test_learning_curves_draw_each_run_from_epoch_1() -> None:
    curves = _curves(6)
    loss, accuracy = curves.values()
    figure = plots.learning_curves(curves, names := [*"abcde", "refit"])
    left, right = figure.axes
    assert _labels(left) == ("Epoch", "Training loss (nats)")
    assert _labels(right) == ("Epoch", "Training accuracy (%)")
    assert _legend(figure) == names
    for r in range(6):
        np.testing.assert_array_equal(left.lines[r].get_xdata(), np.arange(1, 101))
        np.testing.assert_array_equal(left.lines[r].get_ydata(), loss[r])
        np.testing.assert_array_equal(right.lines[r].get_ydata(), accuracy[r])
    colors = {str(line.get_color()) for line in left.lines}
    assert len(colors) == 6 and left.get_xlim() == (1, 100)
    assert len({str(line.get_marker()) for line in left.lines}) == 6  # not by colour alone
    assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")


def test_a_narrow_or_vanishing_loss_has_a_linear_axis() -> None:
    for loss in ([[2.0, 1.0]], [[2.0, 0.0]], [[2.0, np.nan]]):
        assert plots.learning_curves({"a": loss}).axes[0].get_yscale() == "linear"


def test_percent_has_a_linear_axis() -> None:
    curves = [[3.0, 50.0, 99.0]]
    figure = plots.learning_curves({"a": curves, "Accuracy (%)": curves})
    assert [panel.get_yscale() for panel in figure.axes] == ["log", "linear"]


def test_many_learning_curves_are_a_band_with_a_mean() -> None:
    curves = _curves(13)
    curves["Loss (nats)"][3, 50:] = np.nan  # a run that stopped
    figure = plots.learning_curves(curves)
    assert _legend(figure) == ["range", "mean of 13"]
    for panel, values in zip(figure.axes, curves.values(), strict=True):
        (line,), (band,) = panel.lines, panel.collections
        np.testing.assert_allclose(line.get_ydata(), np.nanmean(values, axis=0))
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (np.nanmin(values), np.nanmax(values))


def test_validation_curves_are_dotted_in_their_runs_colour() -> None:
    training, validation = _curves(2), {"Loss (nats)": _curves(2)["Loss (nats)"] + 1}
    figure = plots.learning_curves(training, validation=validation)
    assert _legend(figure) == ["run 1", "run 2", "training", "validation"]
    left, right = figure.axes
    assert left.get_ylabel() == "Loss (nats)"  # of both
    assert [line.get_linestyle() for line in left.lines] == ["-", "-", ":", ":"]
    assert [line.get_linestyle() for line in right.lines] == ["-", "-"]
    assert left.lines[2].get_color() == left.lines[0].get_color()
    np.testing.assert_array_equal(left.lines[3].get_ydata(), validation["Loss (nats)"][1])


def test_a_logarithmic_axis_has_each_number_once() -> None:
    for low, high in ((0.03, 2.3), (1e-6, 3.0)):
        figure = plots.learning_curves({"Loss": [np.geomspace(high, low, 9)]})
        _draw(figure)
        (panel,) = [axes for axes in figure.axes if axes.axison]
        low_end, high_end = panel.get_ylim()
        ticks = [
            float(tick.get_text())
            for tick, at in zip(panel.get_yticklabels(), panel.get_yticks(), strict=True)
            if low_end <= at <= high_end
        ]
        assert len(ticks) >= 3 and ticks == sorted(set(ticks))


def test_an_svg_is_text_in_the_pages_colours() -> None:
    figure = plots.learning_curves(_curves(2))
    text = plots.svg(figure)
    assert text.startswith("<svg") and "Training loss (nats)" in text
    assert "var(--ink)" in text and "#000001" not in text and "#000000" not in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    again = plots.svg(plots.fold_scores(FOLDS))
    assert "Fold" in again and "#fffffe" not in again


def test_places_are_where_the_points_are_drawn() -> None:
    figure = plots.embedding(POINTS, LABELS)
    places = plots.places(figure, POINTS)
    assert places.shape == POINTS.shape and ((places > 0) & (places < 1)).all()
    left, lowest = POINTS[:, 0].argmin(), POINTS[:, 1].argmin()
    assert places[:, 0].argmin() == left and places[:, 1].argmax() == lowest  # from the top


def test_confusion_labels_are_in_the_order_of_the_rows() -> None:
    matrix = metrics.confusion([7, 0, 4, 7, 7], [1, 0, 4, 7, 1])
    figure = plots.confusion_matrix(matrix)
    _draw(figure)
    panel, bar = figure.axes
    assert _labels(panel) == ("Predicted class", "True class")
    assert bar.get_ylabel() == "Share of the true class (%)"
    assert [tick.get_text() for tick in panel.get_xticklabels()] == [*CLASSES]
    assert [tick.get_text() for tick in panel.get_yticklabels()] == [*CLASSES]
    assert panel.get_ylim() == (9.5, -0.5)  # row 0 on top
    cells = {(text.get_position()[1], text.get_position()[0]): text for text in panel.texts}
    counts = {cell: text.get_text() for cell, text in cells.items()}
    assert counts == {(7, 1): "2", (7, 7): "1", (0, 0): "1", (4, 4): "1"}  # (true, predicted)
    shares = panel.images[0].get_array()
    assert shares is not None and shares[7, 1] == pytest.approx(200 / 3)
    assert shares.sum() == pytest.approx(300)  # an absent class has no share


def test_confusion_counts_fit_their_cells() -> None:
    figure = FIGURES["confusion of many"]()
    _, texts = _draw(figure)
    panel = figure.axes[0]
    cell = panel.bbox.width / 10
    assert len(panel.texts) == 100
    assert all(texts[text].width < cell for text in panel.texts)


def test_roc_curves_are_the_steps_that_were_computed() -> None:
    curves = metrics.roc_curves(LABELS, SHARES)
    figure = plots.roc_curves(curves, CLASSES)
    (panel,) = figure.axes
    *lines, chance = panel.lines
    lowest, highest = panel.get_xlim()
    assert panel.get_xscale() == "log" and highest == 1 and lowest == pytest.approx(1 / 180)
    for line, curve in zip(lines, curves, strict=True):
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        np.testing.assert_array_equal(x, np.maximum(curve.false_positive_rate, lowest))
        np.testing.assert_array_equal(y, curve.true_positive_rate)
        assert line.get_drawstyle() == "steps-post"
        assert y[x == lowest].max() > panel.get_ylim()[0]  # the curve is in sight
    np.testing.assert_array_equal(chance.get_xdata(), chance.get_ydata())
    assert _legend(figure) == [*(f"{k}: AUC {c.auc:.5f}" for k, c in enumerate(curves)), "chance"]
    assert panel.get_xlabel().startswith("False positive rate")
    assert panel.get_ylabel() == "True positive rate"
    assert len({(str(line.get_color()), line.get_linestyle()) for line in lines}) == 10


def test_reliability_diagram_shows_the_bins_and_their_error() -> None:
    # Two of three bins: 10 rows of confidence 0.6, 9 right; 10 of confidence 0.9, 5 right.
    shares = np.repeat([[0.6, 0.4], [0.9, 0.1]], 10, axis=0)
    labels = [0] * 9 + [1] + [0] * 5 + [1] * 5
    found = metrics.reliability(labels, shares, bins=3)
    figure = plots.reliability_diagram(found)
    above, below = figure.axes
    assert above.get_ylabel() == "Accuracy"
    assert _labels(below) == ("Confidence (probability of the predicted class)", "Rows")
    assert _legend(above) == ["perfect calibration", "bin, 95 % interval (ECE 35.00 %)"]
    np.testing.assert_allclose(above.lines[1].get_xydata(), [[0.6, 0.9], [0.9, 0.5]])
    ends = np.array(above.collections[0].get_segments())[:, :, 1]  # type: ignore[attr-defined]
    # Wilson's interval of 9 and of 5 of 10, from the textbook formula's published values.
    np.testing.assert_allclose(ends, [[0.5958, 0.9821], [0.2366, 0.7634]], atol=1e-4)
    counts = below.patches[0].get_data()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(counts.values, found.count)
    np.testing.assert_allclose(counts.edges, [0, 1 / 3, 2 / 3, 1])


def test_a_sheet_shows_dark_ink_on_light_paper_under_its_own_title() -> None:
    ink, paper = np.full((8, 8), 16), np.zeros((8, 8))
    figure = plots.digit_sheet([ink, paper, ink], ["a", "b", "c"], columns=2, title="sheet")
    pixels, texts = _draw(figure)
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.texts] == ["a", "b", "c"]
    for image, text, shade in zip(panel.images, panel.texts, (0, 255, 0), strict=True):
        box, title = image.get_window_extent(), texts[text]
        middle = pixels[round(len(pixels) - (box.y0 + box.y1) / 2), round((box.x0 + box.x1) / 2)]
        assert middle.tolist() == [shade] * 3
        assert box.width == pytest.approx(box.height)  # not distorted
        assert (title.x0 + title.x1) / 2 == pytest.approx((box.x0 + box.x1) / 2, abs=2)
        assert 0 < title.y0 - box.y1 < 20
    assert panel.images[1].get_window_extent().x0 > panel.images[0].get_window_extent().x1
    assert panel.images[2].get_window_extent().y1 < panel.images[0].get_window_extent().y0


def test_a_sheet_may_be_empty() -> None:
    figure = plots.digit_sheet(np.empty((0, 8, 8)), [], title="misclassified: none")
    _, texts = _draw(figure)
    assert [text.get_text() for text in texts] == ["misclassified: none"]


def _arrays(panel: Axes) -> list[npt.NDArray[np.float64]]:
    return [np.asarray(image.get_array()) for image in panel.images]


def test_class_means_and_pixel_statistics_are_means_and_spreads() -> None:
    means, spreads, *bars = plots.class_means(IMAGES, LABELS).axes
    np.testing.assert_allclose(_arrays(means)[3], IMAGES[LABELS == 3].mean(axis=0))
    np.testing.assert_allclose(_arrays(spreads)[3], IMAGES[LABELS == 3].std(axis=0))
    assert [text.get_text() for text in means.texts] == [*CLASSES]
    assert [bar.get_ylabel() for bar in bars] == ["Mean\n(ink count)", "Sd\n(ink count)"]
    mean, variance, *bars = plots.pixel_statistics(IMAGES).axes
    np.testing.assert_allclose(_arrays(mean)[0], IMAGES.mean(axis=0))
    np.testing.assert_allclose(_arrays(variance)[0], IMAGES.var(axis=0))
    assert [bar.get_xlabel() for bar in bars] == ["Mean (ink count)", "Variance (count²)"]
    assert _labels(mean) == ("Column", "Row")


def test_an_embedding_names_each_class_where_it_is() -> None:
    figure = plots.embedding(POINTS, LABELS, name="t-SNE dimension")
    (panel,) = figure.axes
    assert _labels(panel) == ("t-SNE dimension 1", "t-SNE dimension 2")
    assert _legend(figure) == [*CLASSES]
    for k, (points, text) in enumerate(zip(panel.collections, panel.texts, strict=True)):
        np.testing.assert_array_equal(points.get_offsets(), POINTS[LABELS == k])
        assert text.get_text() == str(k)
        assert text.get_position() == tuple(np.median(POINTS[LABELS == k], axis=0))


def test_feature_maps_of_a_layer_share_one_scale() -> None:
    layers = _activations()
    figure = plots.feature_maps(IMAGES[0], layers)
    _draw(figure)
    image, *panels = figure.axes[:5]
    np.testing.assert_array_equal(_arrays(image)[0], IMAGES[0])
    for panel, (name, maps) in zip(panels, layers.items(), strict=True):
        height, width, count = maps.shape
        assert panel.get_title(loc="left") == f"{name}: {count} maps, {height}×{width}"
        np.testing.assert_array_equal(np.stack(_arrays(panel), axis=-1), maps)
        assert {each.get_clim() for each in panel.images} == {(maps.min(), maps.max())}
        boxes = [each.get_window_extent() for each in panel.images]
        assert all(box.width == pytest.approx(box.height) for box in boxes)
        assert boxes[0].x0 == pytest.approx(image.images[0].get_window_extent().x0, abs=1)
    assert [bar.get_ylabel() for bar in figure.axes[5:]] == ["Ink count"] + ["Activation"] * 4


def test_differences_are_drawn_in_points_with_their_intervals() -> None:
    figure = plots.differences(
        {"a": {"x": (0.01, -0.01, 0.03), "y": (0.0, 0.0, 0.0)}, "b": {"z": (1, 1, 1)}},
        label="Points, 90 % interval",
    )
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("a", "b")
    assert left.get_xlabel() == right.get_xlabel() == "Points, 90 % interval"
    assert [label.get_text() for label in left.get_yticklabels()] == ["x", "y"]
    (points,) = [line for line in left.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points.get_xydata(), [[1, 0], [0, 1]])
    np.testing.assert_allclose(left.collections[0].get_segments()[0], [[-1, 0], [3, 0]])
    assert left.get_ylim() == right.get_ylim() == (1.5, -0.5)  # the first on top
    with pytest.raises(ValueError, match="at least one panel"):
        plots.differences({})


def test_filters_and_saliency_are_white_at_zero() -> None:
    kernel, gradient = RANDOM.normal(size=(3, 3, 1, 16)), RANDOM.normal(size=(8, 8))
    filters = plots.filters(kernel).axes[0]
    np.testing.assert_array_equal(np.stack(_arrays(filters), axis=-1), kernel[:, :, 0])
    image, slopes, _, bar = plots.saliency(IMAGES[0], gradient, name="logit of 5").axes
    np.testing.assert_array_equal(_arrays(image)[0], IMAGES[0])
    np.testing.assert_array_equal(_arrays(slopes)[0], gradient)
    assert bar.get_xlabel() == "d logit of 5 / d ink count"
    for panel in (filters, slopes):
        assert min(panel.images[0].to_rgba(0.0, bytes=True)) > 240  # type: ignore[arg-type]
        low, high = panel.images[0].get_clim()
        assert -low == high == max(np.abs(array).max() for array in _arrays(panel))


def test_effects_are_medians_and_quartiles_over_a_value() -> None:
    values, scores = _swept()
    scores[4, 1] = np.nan
    rates, dropout = plots.effects(values, scores, log=["learning_rate"]).axes
    assert (rates.get_xscale(), dropout.get_xscale()) == ("log", "linear")
    assert rates.get_ylabel() == "Accuracy (%)" and _labels(dropout)[0] == "Dropout rate"
    means = np.nanmean(scores, axis=1)
    np.testing.assert_allclose(rates.lines[0].get_ydata(), means)
    for panel, x in zip((rates, dropout), values.values(), strict=True):
        groups = [scores[x == value].ravel() for value in np.unique(x)]
        np.testing.assert_allclose(panel.lines[1].get_ydata(), [np.nanmedian(g) for g in groups])
        ends = np.array(panel.collections[0].get_segments())[:, :, 1]  # type: ignore[attr-defined]
        quartiles = [np.nanquantile(group, [0.25, 0.75]) for group in groups]
        np.testing.assert_allclose(ends, quartiles)


def test_effects_of_configurations_that_share_no_value_have_their_own_spreads() -> None:
    scores = np.array([[90, 80], [70, 90], [50, 50]])
    panel = plots.effects({"width": [1, 2, 3]}, scores).axes[0]
    np.testing.assert_allclose(panel.lines[0].get_ydata(), [85, 80, 50])
    ends = np.array(panel.collections[0].get_segments())[:, :, 1]  # type: ignore[attr-defined]
    np.testing.assert_allclose(ends, [[82.5, 87.5], [75, 85], [50, 50]])


def test_a_pair_of_more_values_than_a_page_holds_is_points() -> None:
    values = np.linspace(0.0, 1.0, 500)
    figure = plots.pair(values, np.ones(500), 90 + values, ["dropout_rate", "width"])
    panel, _ = figure.axes
    assert not panel.texts and len(panel.collections[0].get_offsets()) == 500  # type: ignore[arg-type]


def test_a_pair_shows_the_mean_of_each_cell_and_frames_the_best() -> None:
    x, y = [1e-3, 1e-2, 1e-3, 1e-2, 1e-2], [0.0, 0.0, 0.5, 0.5, 0.5]
    figure = plots.pair(x, y, [90, 80, 70, 96, 98], ["learning_rate", "dropout_rate"])
    panel, bar = figure.axes
    np.testing.assert_allclose(_arrays(panel)[0], [[90, 80], [70, 97]])
    assert panel.get_ylim() == (-0.5, 1.5)  # the least value at the bottom
    assert [text.get_text() for text in panel.texts] == ["90.00", "80.00", "70.00", "97.00"]
    (frame,) = panel.patches
    assert frame.get_xy() == (0.5, 0.5)  # type: ignore[attr-defined]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["0.001", "0.01"]
    assert _labels(panel) == ("Learning rate", "Dropout rate")
    assert bar.get_ylabel() == "Accuracy (%)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.effects({"a": [1]}, [0.1]), r"scores must be \[C, R\]"),
        (lambda: plots.effects({"a": [1]}, [[0.1], [0.2]]), r"a must be \[2\]"),
        (lambda: plots.pair([1], [1], [0.1], ["a"]), "2 names are needed, got 1"),
        (lambda: plots.fold_scores({"a": []}), r"a must be \[R\]"),
        (lambda: plots.fold_scores({}), "scores must have at least one label"),
        (lambda: plots.fold_scores({"a": [1], "b": [1, 2]}), r"b must be \[1\], got shape \(2,\)"),
        (lambda: plots.learning_curves({"a": [1]}), r"a must be \[R, E\], got shape \(1,\)"),
        (lambda: plots.learning_curves({"a": [[1]]}, ["a", "b"]), "1 names are needed, got 2"),
        (lambda: plots.learning_curves({}), "curves must have at least one label"),
        (lambda: plots.confusion_matrix(np.ones((3, 2))), r"matrix must be \[K, 3\]"),
        (lambda: plots.confusion_matrix(np.eye(3), ["a"]), "3 names are needed, got 1"),
        (lambda: plots.digit_sheet(IMAGES, ["a"]), "200 names are needed, got 1"),
        (lambda: plots.digit_sheet(IMAGES[0], ["a"] * 8), r"images must be \[N, H, W\]"),
        (lambda: plots.class_means(IMAGES, [0]), r"labels must be \[200\]"),
        (lambda: plots.embedding(np.ones((4, 3)), np.ones(4)), r"points must be \[N, 2\]"),
        (lambda: plots.feature_maps(IMAGES[0], {"conv1": IMAGES[0]}), r"conv1 must be \[H, W, F\]"),
        (lambda: plots.filters(np.ones((3, 3, 16, 32))), r"kernel must be \[h, w, 1, F\]"),
        (lambda: plots.saliency(IMAGES[0], np.ones((4, 4))), r"gradient must be \[8, 8\]"),
    ],
)
def test_bad_shapes_are_named(call: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_save_writes_whole_files_of_the_size_asked_for(tmp_path: Path) -> None:
    figure = plots.fold_scores(FOLDS)
    png, svg = plots.save(figure, tmp_path / "new/fold.1", ("png", "svg"), dpi=100)
    assert (png, svg) == (tmp_path / "new/fold.1.png", tmp_path / "new/fold.1.svg")
    with Image.open(png) as image:
        image.load()
        assert image.size == (350, 320) and len(set(image.convert("L").tobytes())) > 10
    assert ElementTree.parse(svg).getroot().get("width") == "252pt"  # 3.5 in
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "fold.1.png",
        "fold.1.svg",
    ]
    (plain := tmp_path / "plain").touch()
    assert png.stat().st_mode == plain.stat().st_mode  # as readable as any other file


def test_a_failed_save_leaves_the_old_file_alone(tmp_path: Path) -> None:
    (old := tmp_path / "figure.png").write_text("old")
    with pytest.raises(ValueError, match="nonsense"):
        plots.save(plots.fold_scores(FOLDS), tmp_path / "figure", ("png", "nonsense"))
    assert old.read_text() == "old" and [*tmp_path.iterdir()] == [old]


def test_nothing_imports_pyplot() -> None:
    code = (
        "import sys, digits_jax; assert 'matplotlib' not in sys.modules;"
        "from digits_jax import plots; [getattr(plots, name) for name in plots.__all__];"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_sheet_of_other_data_has_its_own_black() -> None:
    (panel,) = plots.digit_sheet(IMAGES[:2] / 16, ["a", "b"], black=1).axes
    assert [image.get_clim() for image in panel.images] == [(0, 1), (0, 1)]
    (panel,) = plots.digit_sheet(IMAGES[:2], ["a", "b"]).axes
    assert [image.get_clim() for image in panel.images] == [(0, 16), (0, 16)]
