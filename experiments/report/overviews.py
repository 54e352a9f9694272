"""The reports of the experiments around training: data, network, feature maps, speed.

``results`` is what goes to the results file; beside it come the arrays that are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from report import Report

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from common.scores import Score
    from digits_jax import Dataset

Results = Mapping[str, Any]


def explore(
    results: Results,
    *,
    dataset: Dataset,
    points: npt.NDArray[Any],
    figures: Mapping[str, Figure],
) -> Report:
    """The report of ``explore.py``, with its figures; ``points`` [N, 2] are the embedding's."""
    pixels = results["pixels"]
    page = Report(
        "The data before any training",
        f"Images {results['shapes']['images']}, pixels {pixels['min']} to {pixels['max']} (ink "
        f"counts); {results['distinct_images']} distinct.",
    )
    page.headline("Rows", f"{results['data']['rows']}", f"of {len(dataset.class_names)} classes")
    page.table("Rows of each class", ("class", "rows"), results["rows_per_class"].items())
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
    page.figure(
        "All rows in two dimensions",
        figures["embedding"],
        "A point for each row, coloured by its class.",
        f"{results['embedding']['how']}. Point at one to see its row.",
        points=(
            points,
            [f"row {row}, class {label}" for row, label in enumerate(dataset.labels.tolist())],
        ),
    )
    return page


def architecture(results: Results) -> Report:
    """The report of ``architecture.py``."""
    page = Report("The network, layer by layer")
    parameters = results["parameters"]
    page.headline(
        "Parameters", f"{parameters['total']:,}", f"{parameters['trainable']:,} are trainable"
    )
    page.headline("FLOPs of an image", f"{results['flops']:,}", "forward; of kernels alone")
    page.headline("Memory", f"{results['bytes'] / 1024:.2f} KiB", "of the parameters")
    page.table(
        "Layers",
        ("layer", "kind", "output shape", "parameters", "FLOPs", "initial sd"),
        [
            (
                layer["name"],
                layer["kind"],
                (None, *layer["output_shape"]),
                f"{layer['parameters']:,}",
                f"{layer['flops']:,}",
                "" if layer["initial_sd"] is None else f"{layer['initial_sd']:.3f}",
            )
            for layer in results["layers"]
        ],
        "None in a shape is the batch, as in Keras.",
    )
    return page


def feature_maps(results: Results, *, figures: Mapping[str, Figure]) -> Report:
    """The report of ``feature_maps.py``, with its figures."""
    page = Report(f"Row {results['index']} inside the network", results["network"]["note"])
    page.headline("Class", str(results["class"]))
    page.headline("Predicted", str(results["predicted"]), f"with {results['probability']:.4f}")
    alts = {
        "feature_maps": "Each map of each layer for this image.",
        "filters": "The first layer's filters.",
        "saliency": "The image, and the gradient of the predicted class's logit by its pixels.",
        "feature_maps_untrained": "Each map of each layer, of the untrained network.",
        "feature_maps_compared": "The first maps of each layer, trained above untrained.",
    }
    for name, figure in figures.items():
        page.figure(name.replace("_", " ").capitalize(), figure, alts[name])
    page.table(
        "Probabilities",
        ("class", "probability"),
        [(k, f"{share:.6f}") for k, share in enumerate(results["probabilities"])],
    )
    return page


def ablation(results: Results, *, score: Score, figure: Figure) -> Report:
    """The report of ``ablate.py``; ``score`` is what the variants are compared by."""
    config = results["config"]
    times = f", {config['repeats']} times" if config["repeats"] > 1 else ""
    page = Report(
        "One change at a time", f"All variants on the same {config['folds']} folds{times}."
    )
    cells = []
    for row in results["recipes"]:
        summary, against = row[score.name], row.get("against")
        mean = score.text(summary["mean"])
        if against is None:
            page.headline(row["recipe"], f"{mean} {score.unit}".strip(), f"{score.title}, mean")
        cell = [row["recipe"], mean, " to ".join(map(score.text, summary["ci95"]))]
        if against is not None:
            ends = " to ".join(map(score.difference, against["ci95"]))
            cell += [score.difference(against["difference"]), ends, f"{against['p_value']:.3f}"]
        cells.append(cell + [""] * (6 - len(cell)))
    unit = " (points)" if score.unit == "%" else ""
    columns = ("recipe", score.title, "95 % interval", f"difference{unit}", "its interval", "p")
    note = "Intervals and p by the corrected resampled t-test (Nadeau and Bengio, 2003)."
    page.table("Recipes", columns, cells, note)
    alt = "The difference of each change from its base, with its 95 % interval."
    page.figure("Differences", figure, alt)
    return page


def speedrun(results: Results, *, target: float, figure: Figure) -> Report:
    """The report of ``speedrun.py``; ``target`` is the accuracy to reach, a fraction."""
    seconds, config = results["seconds"], results["config"]
    page = Report(
        f"Five-fold cross-validation to {100 * target:.2f} %",
        f"{config['repeats']} repeats of {config['epochs']} epochs, each with folds and weights "
        "of its own.",
    )
    low, high = results["accuracy"]["ci95"]
    page.headline(
        "Mean accuracy",
        f"{100 * results['accuracy']['mean']:.2f} %",
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} %; the goal is "
        + ("reached" if results["reached"] else "not reached")
        + f"; of {config['repeats']} repeats {config['repeats'] - len(results['accuracies'])} "
        "diverged",
    )
    page.headline(
        "Seconds of a cross-validation",
        f"{seconds['median_without_compilation']:.2f}",
        f"median; the first, with compiling: {seconds['with_compilation']:.2f}",
    )
    page.figure(
        "Each repeat",
        figure,
        "Accuracy and seconds of each repeat, with mean and standard deviation.",
        "The seconds of the first repeat, which compiles, are left out.",
    )
    return page


def benchmark(results: Results, *, lines: Iterable[str], figure: Figure) -> Report:
    """The report of ``benchmark.py``; ``lines`` are its table's footnotes."""
    peers = sorted(results["peers"].values(), key=lambda peer: peer["epoch_seconds"][0])
    config, machine = results["config"], results["machine"]
    page = Report(
        "Seconds for an epoch of all folds",
        f"{results['folds']} folds, {results['fold_rows']} rows an epoch; medians (and ranges) over"
        f" {config['rounds']} rounds of {config['epochs']} epochs. {machine['processor']}, "
        f"{machine['cores']} cores.",
    )
    own = results["peers"]["digits-jax"]
    page.headline("digits_jax", f"{own['epoch_seconds'][0]:.3f} s", "an epoch, all devices")
    floor = results["floor_seconds"][0]
    page.headline(
        "The floor", f"{floor:.3f} s", "the arithmetic at the machine's rate of matrix products"
    )
    page.figure(
        "Beside its peers",
        figure,
        "Seconds of each program: "
        + ", ".join(f"{peer['title']} {peer['epoch_seconds'][0]:.3f}" for peer in peers),
    )
    columns = ("program", "seconds", "range", "ratio", "share of the floor", "first epoch (s)")
    page.table(
        "Programs",
        columns,
        [
            (
                peer["title"],
                f"{peer['epoch_seconds'][0]:.3f}",
                "{1:.3f} to {2:.3f}".format(*peer["epoch_seconds"]),
                f"{peer['ratio'][0]:.2f}",
                f"{100 * peer['share_of_floor'][0]:.0f} %",
                f"{peer['first_epoch_seconds'][0]:.1f}",
            )
            for peer in peers
        ],
        " ".join(lines),
    )
    return page
