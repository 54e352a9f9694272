"""The data before any training: what they are, how they look, and how the classes lie.

    python experiments/explore.py

It prints UCI's description (where the source has one), shapes, rows of each class and the range of
the pixels. It writes ``report.html``, ``results.json`` (last, and whole), ``embedding.npz`` and the
figures ``samples``, ``class_means``, ``pixel_statistics`` and ``embedding`` to the output folder.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from common import command_line, console, options, startup
from common.output import Output, describe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from digits_jax import Dataset

SHOWN = 5  # variables printed from either end of the table, as pandas does; all are in the results
TSNE_STEPS = 500  # scikit-learn's 1000 take twice as long and part the classes no better


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Digits):
    """The options of the command line."""

    embedding: Literal["tsne", "pca"] = "tsne"
    """Of the rows in two dimensions: t-SNE, or the first two principal components (at once)."""
    seed: int = 0
    """Of the sampled rows and of t-SNE."""
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/explore/<date>-<time>."""
    svg: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write the figures as SVG."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but the result."""


def main(config: Config) -> None:
    """Counts, embeds, shows and writes."""
    options.seed(seed=config.seed)
    output = Output(config.output_dir, script="explore")
    # OpenMP's threads wait for each other a lot in t-SNE; so, they leave their cores to others.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    startup.start_jax(compilation_cache=False)
    import numpy as np

    import digits_jax as dj
    from digits_jax import plots
    from report import overviews

    dataset = dj.load_digits(config.data)
    console.show_data(dataset.provenance)
    images, labels = dataset.images, dataset.labels
    pixels = images.reshape(len(images), -1).astype(np.float32)
    distinct = len(np.unique(pixels, axis=0))
    options.require(distinct >= 4, f"--data has {distinct} distinct images; 4 are the least to map")
    output.claim()
    show_description(dataset)
    split = dj.holdout_split(labels)  # the one that train.py makes
    train, test = split.train_rows[0], split.test_rows[0]
    show_rows(dataset, train, test, distinct)

    rows = sample_rows(labels, config.seed)
    began = time.perf_counter()
    points, name, how = embed(pixels, config.embedding, config.seed)
    seconds = time.perf_counter() - began
    console.notes.print(
        f"[bold]embedding[/] {how}, {seconds:.1f} s", highlight=False, soft_wrap=True
    )

    titles = [f"class {labels[row]}\nrow {row}" for row in rows]
    figures = {
        "samples": plots.digit_sheet(images[rows], titles, columns=5),
        "class_means": plots.class_means(images, labels),
        "pixel_statistics": plots.pixel_statistics(images),
        "embedding": plots.embedding(points, labels, name=name),
    }
    output.arrays("embedding.npz", points=points, labels=labels)
    results = {
        "experiment": "explore",
        **describe(config, dataset.provenance),
        "metadata": dataset.metadata,
        "variables": dataset.variables,
        "shapes": {
            "images": images.shape,
            "labels": labels.shape,
            "train": images[train].shape,
            "test": images[test].shape,
        },
        "rows_per_class": dict(zip(dataset.class_names, counts(labels), strict=True)),
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
    page = overviews.explore(results, dataset=dataset, points=points, figures=figures)
    output.finish(results, figures, page, svg=config.svg, also=["embedding.npz"])


def counts(labels: npt.NDArray[np.int32]) -> list[int]:
    """Rows of each of the ten classes."""
    import numpy as np

    return [int(count) for count in np.bincount(labels, minlength=10)]


def sample_rows(labels: npt.NDArray[np.int32], seed: int) -> list[int]:
    """One random row of each class that has any, in the order of the classes."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return [int(rng.choice(np.flatnonzero(labels == k))) for k in np.unique(labels)]


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


def show_description(dataset: Dataset) -> None:
    """UCI's metadata and table of variables, or a line that says that there are none."""
    from rich.table import Table
    from rich.text import Text

    if dataset.metadata is None or not dataset.variables:
        console.results.print(
            "no UCI metadata or variables: only rows from UCI, or from its cache, have them",
            highlight=False,
        )
        return
    table = Table(title="UCI metadata", show_header=False)
    for name, value in flat(dataset.metadata):
        table.add_row(name, Text(value))
    console.results.print(table)
    columns = list(dataset.variables[0])
    table = Table(*columns, title=f"UCI variables, {len(dataset.variables)} rows")
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


def show_rows(
    dataset: Dataset, train: npt.NDArray[np.int32], test: npt.NDArray[np.int32], distinct: int
) -> None:
    """Shapes, the rows of each class in all and in both parts, and the range of the pixels."""
    from rich.table import Table

    images, labels = dataset.images, dataset.labels
    console.results.print(
        f"[bold]images[/] {images.shape} {images.dtype}, [bold]labels[/] {labels.shape} "
        f"{labels.dtype}; split 80/20: training {images[train].shape}, test {images[test].shape}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(title="rows of each class")
    for column in ("class", "rows", "training", "test"):
        table.add_column(column, justify="right")
    columns = [counts(part) for part in (labels, labels[train], labels[test])]
    for name, *cells in zip(dataset.class_names, *columns, strict=True):
        table.add_row(name, *map(str, cells))
    table.add_section()
    table.add_row("all", *(str(sum(column)) for column in columns))
    console.results.print(table)
    blank = int((images.max(axis=0) == 0).sum())
    console.results.print(
        f"[bold]pixels[/] {images.min()} to {images.max()} (ink counts), mean {images.mean():.3f}, "
        f"variance {images.var():.3f}; {blank} of {images[0].size} never have ink; "
        f"{distinct} of {len(images)} images are distinct",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
