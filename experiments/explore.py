"""The data before any training: what they are, how they look, and how the classes lie.

    python experiments/explore.py

It prints UCI's description (where the source has one), shapes, rows of each class and the range of
the pixels. It writes ``report.html``, ``results.json`` (whole), ``embedding.npz`` and the
figures ``samples``, ``class_means``, ``pixel_statistics`` and ``embedding`` to the output folder.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rich.table import Table as Grid
from rich.text import Text

import digits_jax as dj
from common import command_line, console, options, progress, startup, tasks
from common.drawing import plots
from common.output import Output
from common.tables import Table
from report import Report

SHOWN = 5  # variables printed from either end of the table, as pandas does; all are in the results
TSNE_STEPS = 500  # scikit-learn's 1000 take twice as long and part the classes no better


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Figures, options.Digits):
    """The options of the command line."""

    embedding: Literal["tsne", "pca"] = "tsne"
    """Map of the rows in two dimensions: t-SNE, or the first two principal components (at once)."""
    seed: int = 0
    """Seed of the sampled rows and of t-SNE."""


def main(config: Config) -> None:
    """Counts, embeds, shows and writes."""
    options.seed(seed=config.seed)
    output = Output(config, script="explore")
    # OpenMP's threads wait for each other a lot in t-SNE; so, they leave their cores to others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    startup.start_jax(compilation_cache=False)
    dataset = tasks.load_digits(config.data)
    images, labels = dataset.images, dataset.labels
    pixels = images.reshape(len(images), -1).astype(np.float32)
    distinct = len(np.unique(pixels, axis=0))
    options.require(distinct >= 4, f"--data has {distinct} distinct images; 4 are the least to map")
    output.claim()
    show_description(dataset)
    split = dj.holdout_split(labels)  # the one that train.py makes
    train, test = split.train_rows[0], split.test_rows[0]
    console.say(
        f"[bold]images[/] {images.shape} {images.dtype}, [bold]labels[/] {labels.shape} "
        f"{labels.dtype}; split 80/20: training {images[train].shape}, test {images[test].shape}"
    )
    counts = [np.bincount(part, minlength=10) for part in (labels, labels[train], labels[test])]
    table = Table(
        "Rows of each class",
        ("class", "rows", "training", "test"),
        list(zip(dataset.class_names, *counts, strict=True)),
        totals=[("all", *(sum(each) for each in counts))],
    )
    table.show()
    blank = int((images.max(axis=0) == 0).sum())
    console.say(
        f"[bold]pixels[/] {images.min()} to {images.max()} (ink counts), mean {images.mean():.3f}, "
        f"variance {images.var():.3f}; {blank} of {images[0].size} never have ink; "
        f"{distinct} of {len(images)} images are distinct"
    )
    began = time.perf_counter()
    method = {"tsne": "t-SNE", "pca": "PCA"}[config.embedding]
    with progress.waiting(f"{method} of {len(pixels)} rows"):
        points, name, how = embed(pixels, config.embedding, config.seed)
    seconds = time.perf_counter() - began
    console.say(f"[bold]embedding[/] {how}, {seconds:.1f} s", console.notes)

    rng = np.random.default_rng(config.seed)  # a row of each class that has any
    rows = [int(rng.choice(np.flatnonzero(labels == k))) for k in np.unique(labels)]
    titles = [f"class {labels[row]}\nrow {row}" for row in rows]
    figures = {
        "samples": plots.digit_sheet(images[rows], titles, columns=5),
        "class_means": plots.class_means(images, labels),
        "pixel_statistics": plots.pixel_statistics(images),
        "embedding": plots.embedding(points, labels, name=name),
    }
    output.arrays("embedding.npz", points=points, labels=labels)
    results = {
        "metadata": dataset.metadata,
        "variables": dataset.variables,
        "shapes": {
            "images": images.shape,
            "labels": labels.shape,
            "train": images[train].shape,
            "test": images[test].shape,
        },
        "rows_per_class": dict(zip(dataset.class_names, counts[0].tolist(), strict=True)),
        "distinct_images": distinct,
        "pixels": {
            "min": images.min(),
            "max": images.max(),
            "mean": images.mean(axis=0),
            "variance": images.var(axis=0),
        },
        "samples": rows,
        "embedding": {"method": config.embedding, "how": how, "seconds": seconds},
    }
    page = Report(
        "The data before any training",
        f"Images {images.shape}, pixels {images.min()} to {images.max()} (ink counts); {distinct} "
        "distinct.",
    )
    page.headline("Rows", f"{len(labels)}", f"of {len(dataset.class_names)} classes")
    page.table(*table)
    page.figure("A random row of each class", figures["samples"], "One image of each class.")
    page.figure(
        "Mean and spread of each class",
        figures["class_means"],
        "For each class, the mean of each pixel, and below it the standard deviation.",
    )
    page.figure(
        "Mean and variance of each pixel",
        figures["pixel_statistics"],
        "Mean and variance of each pixel over all rows.",
    )
    places = [f"row {row}, class {label}" for row, label in enumerate(labels.tolist())]
    page.figure(
        "All rows in two dimensions",
        figures["embedding"],
        "A point for each row, coloured by its class.",
        f"{how}. Point at one to see its row.",
        points=(points, places),
    )
    output.finish(results, figures, page, data=dataset.provenance, also=["embedding.npz"])


def embed(
    pixels: npt.NDArray[np.float32], method: str, seed: int
) -> tuple[npt.NDArray[np.float32], str, str]:
    """Places [N, 2] of the rows [N, D], the name of their axes, and how they were found.

    t-SNE: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 9 (2008), in Barnes and
    Hut's approximation. It keeps neighbours; its distances and axes have no meaning of their own.
    """
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, svd_solver="full")
        points = pca.fit_transform(pixels)
        percent = 100 * pca.explained_variance_ratio_.sum()
        return points, "Principal component", f"PCA, {percent:.1f} % of the variance"
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(pixels) - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, max_iter=TSNE_STEPS, init="pca", random_state=seed)
    points = tsne.fit_transform(pixels)
    how = f"t-SNE, perplexity {perplexity:g}, {TSNE_STEPS} steps, Kullback-Leibler divergence"
    return points, "t-SNE dimension", f"{how} {tsne.kl_divergence_:.3f} nats"


def show_description(dataset: dj.Dataset) -> None:
    """UCI's metadata and table of variables, or a line that says that there are none."""
    if dataset.metadata is None or not dataset.variables:
        console.say(
            "no UCI metadata or variables: only rows from UCI, or from its cache, have them"
        )
        return
    table = Grid(title="UCI metadata", show_header=False)
    for name, value in flat(dataset.metadata):
        table.add_row(name, Text(value))
    console.results.print(table)
    columns = list(dataset.variables[0])
    table = Grid(*columns, title=f"UCI variables, {len(dataset.variables)} rows")
    lines = [[Text(str(each.get(name))) for name in columns] for each in dataset.variables]
    hidden = [[Text("…")] * len(columns)]
    cut = len(lines) > 2 * SHOWN
    for line in [*lines[:SHOWN], *hidden, *lines[-SHOWN:]] if cut else lines:
        table.add_row(*line)
    console.results.print(table)


def flat(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values as text; what UCI left empty is left out."""
    for name, value in metadata.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield prefix + name, "\n".join(text.splitlines())


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
