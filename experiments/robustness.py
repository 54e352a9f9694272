"""How much data does a method need, and how much harm can a digit take?

    python experiments/robustness.py
    python experiments/robustness.py --methods notebook svm knn1 --seeds 1

For each seed a stratified fifth of the rows tests. Each method is trained on more and more of the
other rows, the smaller sets within the larger ones and classes in proportion, all sizes and seeds
at once; networks take as many epochs of a small set as of a large one. Those that were trained on
all of them also read the test rows shifted, turned, with noise, and with a square left out. It
writes ``report.html``, ``results.json`` (whole), ``scores.csv``, two figures, and the
predictions of each method: ``--resume`` takes these and adds the others.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

import digits_jax as dj
import methods
from common import command_line, options
from common.drawing import plots
from common.output import Output
from common.tables import Table
from common.tasks import Task
from methods import Predictions, title
from report import Report

HARMS: dict[str, tuple[float, ...]] = {
    "Shift (pixels)": (0, 0.5, 1, 1.5, 2),
    "Rotation (degrees)": (0, 10, 20, 30, 40),
    "Noise (sd, ink counts)": (0, 1, 2, 3, 4),
    "Square left out (pixels)": (0, 1, 2, 3, 4),
}
ROWS = "Training rows"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(methods.Options):
    """The options of the command line."""

    seeds: int = 3
    """Splits into training and test rows, each with draws of its own."""
    rows: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000)
    """Training rows, beside all of them."""


def main(config: Config) -> None:
    """Trains, tests, shows and writes."""
    options.positive(seeds=config.seeds, rows=min(config.rows, default=1))
    output, task = methods.begin(config, "robustness", digits_for="others are harmed otherwise")
    import predicting  # which imports JAX and scikit-learn

    with options.usage_errors():
        inputs, labels, splits, sizes = design(config, *task.data)
    digest = hashlib.sha256(inputs.tobytes()).hexdigest()
    provenance = dataclasses.replace(task.provenance, sha256=digest)
    harmed = dataclasses.replace(task, data=(inputs, labels), provenance=provenance)
    names = [f"{size} rows, seed {seed}" for seed in range(config.seeds) for size in sizes]
    done = predicting.predict_all(config, harmed, splits, names, output)
    report(config, task, labels, sizes, done, output)


def design(
    config: Config, clean: npt.NDArray[np.uint8], classes: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any], dj.Split, list[int]]:
    """Rows and harmed rows [N + harmed], their labels, and splits, seed by seed, small ones first.

    The harmed rows of a seed are copies of its test rows, one block for each level of each harm;
    they test the last split of the seed alone.
    """
    rows, count = len(classes), 0
    images, labels, made = [clean], [classes], []
    for seed in range(config.seed, config.seed + config.seeds):
        split = dj.holdout_split(classes, test_size=0.2, seed=seed, stratified=True)
        test, order = split.test_rows[0], _in_proportion(classes, split.train_rows[0], seed)
        for size in sorted(set(config.rows)):
            options.require(size < len(order), f"--rows {size}: there are {len(order)} to train on")
            made.append((order[:size], test))
        chance = np.random.default_rng(seed)
        blocks = [
            harm(clean[test], name, level, chance)
            for name, levels in HARMS.items()
            for level in levels[1:]
        ]
        new = rows + count + np.arange(len(blocks) * len(test))
        count += len(new)
        images += blocks
        labels += [classes[test]] * len(blocks)
        made.append((order, np.concatenate([test, new])))
    sizes = [*sorted(set(config.rows)), len(made[-1][0])]
    splits = dj.index_splits(made, kind=dj.SplitKind.RANDOM)
    return np.concatenate(images), np.concatenate(labels), splits, sizes


def _in_proportion(
    labels: npt.NDArray[Any], rows: npt.NDArray[Any], seed: int
) -> npt.NDArray[np.int64]:
    """The rows in an order of which every beginning has the classes in proportion, to a row."""
    chance = np.random.default_rng([seed, 1])
    place = np.zeros(len(rows))
    for k in np.unique(labels[rows]):
        of_class = np.flatnonzero(labels[rows] == k)
        place[chance.permutation(of_class)] = (np.arange(len(of_class)) + chance.random()) / len(
            of_class
        )
    return rows[np.argsort(place, kind="stable")].astype(np.int64)


def harm(
    images: npt.NDArray[np.uint8], name: str, level: float, chance: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Images [S, 8, 8] with one kind of harm, of which each draws its direction, sign or place."""
    from scipy import ndimage

    out = np.empty(images.shape, np.float64)
    for i, image in enumerate(images.astype(np.float64)):
        if name.startswith("Shift"):
            angle = chance.uniform(0, 2 * np.pi)
            shift = (level * np.sin(angle), level * np.cos(angle))
            out[i] = ndimage.shift(image, shift, order=1)
        elif name.startswith("Rotation"):
            out[i] = ndimage.rotate(image, level * chance.choice((-1, 1)), reshape=False, order=1)
        elif name.startswith("Noise"):
            out[i] = image + chance.normal(0, level, image.shape)
        else:
            y, x = chance.integers(0, 9 - int(level), 2)
            out[i] = image
            out[i, y : y + int(level), x : x + int(level)] = 0
    return np.clip(np.rint(out), 0, 16).astype(np.uint8)


def scores(
    done: Predictions, labels: npt.NDArray[Any], sizes: list[int], seeds: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Accuracies [places, seeds] by what was varied."""
    last = len(sizes) - 1
    right = (done.predicted == labels[done.rows]) & (done.rows >= 0)  # [R, S]
    right = right.reshape(seeds, len(sizes), -1)
    tested = (done.rows >= 0).reshape(seeds, len(sizes), -1)
    levels = sum(len(each) - 1 for each in HARMS.values())
    clean = tested[0, last].sum() // (1 + levels)  # test rows come first
    found = {ROWS: right[..., :clean].mean(axis=-1).T}
    blocks = right[:, last].reshape(seeds, 1 + levels, clean).mean(axis=-1)
    start = 1
    for name, each in HARMS.items():
        stop = start + len(each) - 1
        found[name] = np.concatenate([blocks[:, :1], blocks[:, start:stop]], axis=1).T
        start = stop
    return found


def report(
    config: Config,
    task: Task,
    labels: npt.NDArray[Any],
    sizes: list[int],
    done: dict[str, Predictions],
    output: Output,
) -> None:
    """The tables, the figures, the files."""
    found = {name: scores(each, labels, sizes, config.seeds) for name, each in done.items()}
    places: dict[str, Any] = {ROWS: sizes, **HARMS}
    page = Report(
        "How much data, and how robust",
        f"Mean accuracy (%) of {config.seeds} splits with a fifth of the rows to test.",
    )
    panels = {
        varied: (x, {title(name): 100 * each[varied] for name, each in found.items()})
        for varied, x in places.items()
    }
    figures = {
        "training_rows": plots.series({ROWS: panels[ROWS]}, label="Accuracy (%)", log=[ROWS]),
        "robustness": plots.series({name: panels[name] for name in HARMS}, label="Accuracy (%)"),
    }
    for varied, x in places.items():
        rows = [
            (title(name), *(f"{100 * value:.2f}" for value in each[varied].mean(axis=1)))
            for name, each in found.items()
        ]
        table = Table(varied, ("method", *(f"{place:g}" for place in x)), rows)
        table.show()
        page.table(*table)
    band = "the mean of the splits, and their range as a band."
    page.figure("Data", figures["training_rows"], f"Accuracy by training rows: {band}")
    page.figure("Harm", figures["robustness"], f"Accuracy by harm to the test rows: {band}")
    output.table(
        "scores.csv",
        [
            {"method": name, "varied": varied, "place": place, "seed": config.seed + seed}
            | {"accuracy": float(each[varied][i, seed])}
            for name, each in found.items()
            for varied, x in places.items()
            for i, place in enumerate(x)
            for seed in range(config.seeds)
        ],
    )
    results = {
        "places": places,
        "methods": {name: {"title": title(name), **each} for name, each in found.items()},
    }
    output.finish(results, figures, page, data=task.provenance, also=["scores.csv", "predictions"])


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
